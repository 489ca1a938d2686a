//! Why a file is no next image, in sentences.

use core::fmt;

use super::Digest;
use super::features::MachineFeatures;
use super::multiboot2::SEARCH_LEN;
use super::notes::NOTE_OWNER;
use crate::trust::{KeyId, KeyIds};

/// Why a file is no next image for this machine. All sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the numbers of the sentence that Display makes of them")]
pub enum ImageError {
    /// The file does not begin with the ELF magic.
    NotElf,
    /// A 32-bit file, or one of the other byte order.
    NotElf64 { class: u8, byte_order: u8 },
    /// Another architecture's file.
    WrongMachine { found: u16 },
    /// Not an executable.
    NotExecutable { found_type: u16 },
    /// Headers with sizes or versions that do not exist, or sums that overflow.
    BadHeaders,
    /// Something that the headers name lies behind the end of the file.
    Truncated { need: u64, found: u64 },
    /// No Multiboot2 header with a right checksum in the first 32 KiB.
    NotMultiboot2,
    /// The Multiboot2 header has no relocatable tag: the image would run at one address only.
    NotRelocatable,
    /// Nothing to load.
    NoSegments,
    /// More `PT_LOAD`s than [`super::MAX_SEGMENTS`].
    TooManySegments { found: usize, limit: usize },
    /// More file bytes than memory bytes.
    SegmentSizes { index: usize, file: u64, memory: u64 },
    /// Address and size overflow.
    SegmentRange { index: usize, address: u64, memory: u64 },
    /// The distance from the image's start is not a multiple of 4096.
    SegmentUnaligned { index: usize, distance: u64 },
    /// Virtual and physical distance from the image's start differ.
    SegmentSkewed { index: usize, virtual_distance: u64, physical_distance: u64 },
    /// Two segments share a byte.
    SegmentsOverlap { first: usize, second: usize },
    /// The entry point is not in the file bytes of an executable segment.
    EntryOutside { entry: u64 },
    /// The note is missing.
    NoNote { kind: u32 },
    /// The note is there more than once.
    NoteTwice { kind: u32 },
    /// The note's body has the wrong size or cannot be read.
    BadNote { kind: u32, found: usize },
    /// The needs are of a version that this hypervisor does not know.
    NeedsVersion { found: u32, known: u32 },
    /// The file is not what its digest says.
    DigestMismatch { expected: Digest, found: Digest },
    /// Nobody has signed it.
    Unsigned { trusted: KeyIds },
    /// Somebody who is not trusted has signed it.
    SignerUnknown { signer: KeyId, trusted: KeyIds },
    /// A signature of a kind that this hypervisor does not know.
    SignatureScheme { found: u32 },
    /// The signature is not that key's, or is one for something else.
    BadSignature { key: KeyId },
    /// What is trusted under that name is no public key.
    BadKey { key: KeyId },
    /// The slot is too small.
    TooLarge { need: u64, slot: u64 },
    /// The slot ends above 4 GiB, or outside of what the image's relocatable tag allows, or is not aligned as it asks.
    SlotUnusable { start: u64, end: u64, min: u64, limit: u64, align: u64 },
    /// The image reads none of the stream versions that this hypervisor can write.
    StreamVersion { reads_min: u32, reads_max: u32, writes_min: u32, writes_max: u32 },
    /// The image needs features that this machine does not have.
    FeaturesMissing { missing: MachineFeatures, offered: MachineFeatures },
}

impl ImageError {
    /// True if the image is refused for who has signed it, or has not.
    pub const fn is_of_trust(&self) -> bool {
        matches!(
            self,
            Self::Unsigned { .. } | Self::SignerUnknown { .. } | Self::BadSignature { .. } | Self::BadKey { .. }
        )
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotElf => write!(f, "the image is not an ELF file"),
            Self::NotElf64 { class, byte_order } => {
                write!(f, "the image is not a 64-bit little-endian ELF file (class {class}, byte order {byte_order})")
            }
            Self::WrongMachine { found } => write!(f, "the image is for ELF machine {found}, not for x86-64"),
            Self::NotExecutable { found_type } => write!(f, "the image is of ELF type {found_type}, not an executable"),
            Self::BadHeaders => write!(f, "the image's ELF headers contradict themselves"),
            Self::Truncated { need, found } => {
                write!(f, "the image is truncated: its headers name {need} bytes, the file has {found}")
            }
            Self::NotMultiboot2 => {
                write!(f, "the image has no valid Multiboot2 header in its first {SEARCH_LEN} bytes")
            }
            Self::NotRelocatable => write!(f, "the image's Multiboot2 header has no relocatable tag"),
            Self::NoSegments => write!(f, "the image has nothing to load"),
            Self::TooManySegments { found, limit } => {
                write!(f, "the image has {found} loadable segments, the limit is {limit}")
            }
            Self::SegmentSizes { index, file, memory } => {
                write!(f, "segment {index} of the image has {file:#x} bytes in the file but {memory:#x} in memory")
            }
            Self::SegmentRange { index, address, memory } => {
                write!(f, "segment {index} of the image, {memory:#x} bytes at {address:#x}, ends beyond all addresses")
            }
            Self::SegmentUnaligned { index, distance } => {
                write!(f, "segment {index} of the image starts {distance:#x} behind its start, not on a page")
            }
            Self::SegmentSkewed { index, virtual_distance, physical_distance } => write!(
                f,
                "segment {index} of the image starts {virtual_distance:#x} behind its start in virtual addresses but \
                 {physical_distance:#x} in physical ones"
            ),
            Self::SegmentsOverlap { first, second } => {
                write!(f, "segments {first} and {second} of the image overlap")
            }
            Self::EntryOutside { entry } => {
                write!(f, "the image's entry point {entry:#x} is not in its executable bytes")
            }
            Self::NoNote { kind } => write!(f, "the image has no note of owner {NOTE_OWNER} and type {kind}"),
            Self::NoteTwice { kind } => {
                write!(f, "the image has more than one note of owner {NOTE_OWNER} and type {kind}")
            }
            Self::BadNote { kind, found } => {
                write!(f, "the image's note of owner {NOTE_OWNER} and type {kind} ({found} bytes) cannot be read")
            }
            Self::NeedsVersion { found, known } => {
                write!(f, "the image states its needs in version {found}, only version {known} is known")
            }
            Self::DigestMismatch { expected, found } => {
                write!(f, "the image is damaged: its digest is {found}, its note says {expected}")
            }
            Self::Unsigned { trusted } => write!(
                f,
                "the image is not signed, and only what {trusted} has signed is taken; sign it with `cargo xtask sign`, \
                 or boot with lu-key=none"
            ),
            Self::SignerUnknown { signer, trusted } => write!(
                f,
                "the image is signed by key {signer}, and only what {trusted} has signed is taken; sign it with a \
                 trusted key, or boot with that key's 64 digits in lu-key=<key>"
            ),
            Self::SignatureScheme { found } => {
                write!(f, "the image's signature is of scheme {found}, only scheme 1 (Ed25519) is known")
            }
            Self::BadSignature { key } => write!(
                f,
                "the image's signature is not one of key {key} for this image: it was altered after it was signed; \
                 take it from its source again, or sign it again"
            ),
            Self::BadKey { key } => {
                write!(f, "the trusted key {key} is not an Ed25519 public key; correct lu-key=<key>")
            }
            Self::TooLarge { need, slot } => {
                write!(f, "the image is too large for its slot: it needs {need:#x} bytes, the slot has {slot:#x}")
            }
            Self::SlotUnusable { start, end, min, limit, align } => write!(
                f,
                "the image cannot be put into its slot [{start:#x}, {end:#x}): it wants a place in [{min:#x}, \
                 {limit:#x}) aligned to {align:#x}"
            ),
            Self::StreamVersion { reads_min, reads_max, writes_min, writes_max } => write!(
                f,
                "the image reads stream versions {reads_min} to {reads_max}, this hypervisor writes {writes_min} to \
                 {writes_max}"
            ),
            Self::FeaturesMissing { missing, offered } => {
                write!(f, "the image needs {missing}, which this machine does not have; it has {offered}")
            }
        }
    }
}

impl core::error::Error for ImageError {}
