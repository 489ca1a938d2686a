//! The next image: what a file must be before this hypervisor gives the machine to it.
//!
//! A next image is a luxen ELF64 file that lies in memory as it came: a module of the boot loader, or the bytes that a
//! privileged domain has loaded. Everything that can be known about it is known here, long before a guest is paused
//! (invariant I11): that it is whole and authentic, that it can be started by the Multiboot2 protocol wherever the slot
//! is, that it fits, what it needs, and which stream versions it reads.
//!
//! ```text
//! file                          slot (at run time anywhere below 4 GiB, chunk aligned)
//! ┌──────────────┐              ┌──────────────┐ slot start = lowest p_paddr
//! │ headers      │              │ text, rodata │ p_paddr - lowest
//! │ PT_LOAD ─────┼─────────────>│ data         │
//! │ PT_LOAD ─────┼─────────────>│ bss (zeros)  │ p_filesz < p_memsz
//! │ notes: luxen │              │ slack        │ PT_LOAD, no file bytes, flags R: never written
//! └──────────────┘              └──────────────┘ slot end
//! ```
//!
//! The physical addresses in the file are only distances from the lowest one, and virtual addresses keep the same
//! distances, so the physical entry is the slot's start plus the entry's distance from the lowest virtual address.
//!
//! The *slack* is a `PT_LOAD` without file bytes whose flags are exactly R. It stretches the image to the whole slot so
//! that a boot loader puts nothing behind the bss; it counts for the size, and nothing is ever written to it.
//!
//! Notes of owner `luxen` (names and sizes as in the ELF specification, all numbers little-endian):
//!
//! | type | body |
//! |---|---|
//! | 1 | SHA-256 of the whole file with these 32 bytes taken as zero |
//! | 2 | [`Needs`], 48 bytes, see [`Needs::encode`] |
//! | 3 | the version string, as the banner prints it: `luxen 0.1.0-b` |
//!
//! Sources: ELF-64 object file format 1.5; Multiboot2 specification 2.0 §3.1.

use core::fmt;
use core::ops::{Range, RangeInclusive};

use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};
use elf::parse::ParseError;
use sha2::{Digest as _, Sha256};

use crate::frame::{MfnRange, PAGE_SIZE};

/// The owner's name in the notes.
pub const NOTE_OWNER: &str = "luxen";
/// Note type of the digest.
pub const NOTE_DIGEST: u32 = 1;
/// Note type of the needs.
pub const NOTE_NEEDS: u32 = 2;
/// Note type of the version string.
pub const NOTE_VERSION: u32 = 3;

/// Bytes of a digest.
pub const DIGEST_LEN: usize = 32;
/// The most `PT_LOAD`s that an image may have; luxen's linker script makes five or six.
pub const MAX_SEGMENTS: usize = 16;

/// Bytes at the start of a file in which the Multiboot2 header must lie whole (Multiboot2 §3.1).
const MULTIBOOT2_SEARCH: usize = 32768;
/// Multiboot2 §3.1.2.
const MULTIBOOT2_HEADER_MAGIC: u32 = 0xe852_50d6;
/// Multiboot2 §3.1.2: 32-bit protected mode of i386.
const MULTIBOOT2_ARCH_I386: u32 = 0;
/// Multiboot2 §3.1.12: the header tag that says that the image may be put elsewhere.
const MULTIBOOT2_TAG_RELOCATABLE: u16 = 10;
/// A 32-bit entry cannot reach further.
const LIMIT_32BIT: u64 = 1 << 32;

/// A SHA-256 digest; prints as its first eight bytes, which tell two builds apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; DIGEST_LEN]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

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
    /// More `PT_LOAD`s than [`MAX_SEGMENTS`].
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
    /// The slot is too small.
    TooLarge { need: u64, slot: u64 },
    /// The slot ends above 4 GiB, or outside of what the image's relocatable tag allows, or is not aligned as it asks.
    SlotUnusable { start: u64, end: u64, min: u64, limit: u64, align: u64 },
    /// The image reads none of the stream versions that this hypervisor can write.
    StreamVersion { reads_min: u32, reads_max: u32, writes_min: u32, writes_max: u32 },
    /// The image needs features that this hypervisor does not offer.
    FeaturesMissing { missing: u64 },
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
                write!(f, "the image has no valid Multiboot2 header in its first {MULTIBOOT2_SEARCH} bytes")
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
            Self::FeaturesMissing { missing } => {
                write!(f, "the image needs features {missing:#x} that this hypervisor does not have")
            }
        }
    }
}

impl core::error::Error for ImageError {}

/// What an image tells its predecessor about itself; the body of the note of type 2.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | u32 | [`Needs::VERSION`] |
/// | 4 | u32 | `page_info_bytes` |
/// | 8 | u32 | `chunk_entry_bytes` |
/// | 12 | u32 | `stream_min` |
/// | 16 | u32 | `stream_max` |
/// | 20 | u32 | `stream_writes` |
/// | 24 | u64 | `boot_footprint_bytes` |
/// | 32 | u64 | `features` |
/// | 40 | u64 | `slot_bytes` |
///
/// A body may be longer: what follows is for readers that know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of a `page_info`.
    pub page_info_bytes: u32,
    /// Bytes of an entry of the frametable's upper level.
    pub chunk_entry_bytes: u32,
    /// The oldest stream version that it reads.
    pub stream_min: u32,
    /// The newest stream version that it reads.
    pub stream_max: u32,
    /// The stream version that it writes by itself.
    pub stream_writes: u32,
    /// What it allocates from the region however small the machine is.
    pub boot_footprint_bytes: u64,
    /// Features that the outgoing side must have, a bit each.
    pub features: u64,
    /// Size of the slot that it expects to own.
    pub slot_bytes: u64,
}

impl Needs {
    /// The version of the layout.
    pub const VERSION: u32 = 1;
    /// Bytes of the layout.
    pub const LEN: usize = 48;

    /// The note's body.
    pub const fn encode(&self) -> [u8; Self::LEN] {
        const fn put<const N: usize>(body: &mut [u8; Needs::LEN], at: usize, bytes: [u8; N]) {
            let mut i = 0;
            while i < N {
                body[at + i] = bytes[i];
                i += 1;
            }
        }
        let mut body = [0; Self::LEN];
        put(&mut body, 0, Self::VERSION.to_le_bytes());
        put(&mut body, 4, self.page_info_bytes.to_le_bytes());
        put(&mut body, 8, self.chunk_entry_bytes.to_le_bytes());
        put(&mut body, 12, self.stream_min.to_le_bytes());
        put(&mut body, 16, self.stream_max.to_le_bytes());
        put(&mut body, 20, self.stream_writes.to_le_bytes());
        put(&mut body, 24, self.boot_footprint_bytes.to_le_bytes());
        put(&mut body, 32, self.features.to_le_bytes());
        put(&mut body, 40, self.slot_bytes.to_le_bytes());
        body
    }

    fn decode(body: &[u8]) -> Result<Self, ImageError> {
        let bad = ImageError::BadNote { kind: NOTE_NEEDS, found: body.len() };
        let u32_at = |at| u32_at(body, at).ok_or(bad);
        let u64_at = |at: usize| -> Result<u64, ImageError> {
            let bytes = body.get(at..).and_then(|rest| rest.first_chunk()).ok_or(bad)?;
            Ok(u64::from_le_bytes(*bytes))
        };
        let version = u32_at(0)?;
        if version != Self::VERSION {
            return Err(ImageError::NeedsVersion { found: version, known: Self::VERSION });
        }
        let needs = Self {
            page_info_bytes: u32_at(4)?,
            chunk_entry_bytes: u32_at(8)?,
            stream_min: u32_at(12)?,
            stream_max: u32_at(16)?,
            stream_writes: u32_at(20)?,
            boot_footprint_bytes: u64_at(24)?,
            features: u64_at(32)?,
            slot_bytes: u64_at(40)?,
        };
        if needs.stream_min > needs.stream_max { Err(bad) } else { Ok(needs) }
    }
}

/// A note as a build carries it: a static of this type in a section `.note.luxen` is an ELF note of owner `luxen`.
#[derive(Debug)]
#[repr(C, align(4))]
pub struct ElfNote<const N: usize> {
    name_len: u32,
    body_len: u32,
    kind: u32,
    /// The name and its NUL are six bytes; notes are padded to four.
    name: [u8; 8],
    body: [u8; N],
}

const _: () = assert!(core::mem::offset_of!(ElfNote<32>, body) == 20);
const _: () = assert!(core::mem::align_of::<ElfNote<32>>() == 4);

impl<const N: usize> ElfNote<N> {
    /// A note with that type and body.
    pub const fn new(kind: u32, body: [u8; N]) -> Self {
        Self { name_len: NOTE_OWNER.len() as u32 + 1, body_len: N as u32, kind, name: *b"luxen\0\0\0", body }
    }
}

/// What is to be put at one place of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// Distance from the slot's start, a multiple of 4096.
    pub slot_offset: u64,
    /// Where its bytes start in the file.
    pub file_offset: u64,
    /// Bytes that the file has of it.
    pub file_len: u64,
    /// Bytes that it has in memory; what the file does not have is zero.
    pub memory_len: u64,
}

/// A file that is a luxen image, with all that it says about itself. Its digest is checked by
/// [`NextImage::verify_digest`].
#[derive(Clone, Debug)]
pub struct NextImage<'a> {
    file: &'a [u8],
    segments: [Segment; MAX_SEGMENTS],
    nr_segments: usize,
    extent: u64,
    entry_offset: u64,
    relocatable: Relocatable,
    digest_at: usize,
    digest: Digest,
    needs: Needs,
    version: &'a str,
}

/// The relocatable tag of the Multiboot2 header (§3.1.12).
#[derive(Clone, Copy, Debug)]
struct Relocatable {
    min: u64,
    limit: u64,
    align: u64,
}

impl<'a> NextImage<'a> {
    /// Reads a file. What is not checked here is its digest, and whether it fits this machine: [`Self::verify_digest`],
    /// [`Self::place`], [`Self::stream_version`], [`Self::check_features`].
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        if !file.starts_with(&abi::ELFMAGIC) {
            return Err(ImageError::NotElf);
        }
        // Before the headers are read, since those of another class have another shape.
        let ident = file.get(abi::EI_CLASS).zip(file.get(abi::EI_DATA));
        if let Some((&class, &byte_order)) = ident
            && (class, byte_order) != (abi::ELFCLASS64, abi::ELFDATA2LSB)
        {
            return Err(ImageError::NotElf64 { class, byte_order });
        }
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|e| from_elf(e, file))?;
        let header = &elf.ehdr;
        if header.e_machine != abi::EM_X86_64 {
            return Err(ImageError::WrongMachine { found: header.e_machine });
        }
        if header.e_type != abi::ET_EXEC && header.e_type != abi::ET_DYN {
            return Err(ImageError::NotExecutable { found_type: header.e_type });
        }
        let layout = Layout::read(&elf, file.len() as u64)?;
        let relocatable = multiboot2_header(file)?;
        let notes = Notes::read(&elf, file)?;
        Ok(Self {
            file,
            segments: layout.segments,
            nr_segments: layout.nr_segments,
            extent: layout.extent.max(notes.needs.slot_bytes),
            entry_offset: layout.entry_offset,
            relocatable,
            digest_at: notes.digest_at,
            digest: notes.digest,
            needs: notes.needs,
            version: notes.version,
        })
    }

    /// The file that it is in.
    pub fn file(&self) -> &'a [u8] {
        self.file
    }

    /// What is to be loaded, in ascending order; the slack is not among it.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.nr_segments]
    }

    /// Bytes that the image takes from its slot's start on, the slack included.
    pub fn extent_bytes(&self) -> u64 {
        self.extent
    }

    /// What it says that it needs.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Its version string.
    pub fn version(&self) -> &'a str {
        self.version
    }

    /// The digest that its note claims.
    pub fn claimed_digest(&self) -> Digest {
        self.digest
    }

    /// Where in the file the digest lies: these bytes count as zero in it.
    pub fn digest_range(&self) -> Range<usize> {
        self.digest_at..self.digest_at + DIGEST_LEN
    }

    /// Computes the digest in one go; see [`Self::digest_check`] for the way in pieces.
    pub fn verify_digest(&self) -> Result<(), ImageError> {
        self.digest_check().step(usize::MAX).unwrap_or(Ok(()))
    }

    /// The digest's check in pieces, so that guests can run in between.
    pub fn digest_check(&self) -> DigestCheck<'a> {
        DigestCheck {
            file: self.file,
            hole: self.digest_range(),
            expected: self.digest,
            done: 0,
            hasher: Sha256::new(),
        }
    }

    /// The newest stream version that this hypervisor writes (a range, since it can write older ones) and the image reads.
    pub fn stream_version(&self, writes: RangeInclusive<u32>) -> Result<u32, ImageError> {
        let version = self.needs.stream_max.min(*writes.end());
        if version >= self.needs.stream_min && writes.contains(&version) {
            return Ok(version);
        }
        Err(ImageError::StreamVersion {
            reads_min: self.needs.stream_min,
            reads_max: self.needs.stream_max,
            writes_min: *writes.start(),
            writes_max: *writes.end(),
        })
    }

    /// Checks that all features that the image needs are among those `offered`.
    pub fn check_features(&self, offered: u64) -> Result<(), ImageError> {
        match self.needs.features & !offered {
            0 => Ok(()),
            missing => Err(ImageError::FeaturesMissing { missing }),
        }
    }

    /// Puts the image, in thought, into a slot.
    pub fn place(&self, slot: MfnRange) -> Result<PlacedImage<'_>, ImageError> {
        if self.extent > slot.len_bytes() {
            return Err(ImageError::TooLarge { need: self.extent, slot: slot.len_bytes() });
        }
        let (start, end) = (slot.start() * PAGE_SIZE, slot.end() * PAGE_SIZE);
        let Relocatable { min, limit, align } = self.relocatable;
        let unusable = ImageError::SlotUnusable { start, end, min, limit, align };
        if start < min || start + self.extent > limit || !start.is_multiple_of(align) {
            return Err(unusable);
        }
        let entry = u32::try_from(start + self.entry_offset).map_err(|_| unusable)?;
        Ok(PlacedImage { image: self, slot, entry })
    }
}

/// An image that fits the slot it is meant for.
#[derive(Clone, Copy, Debug)]
pub struct PlacedImage<'a> {
    image: &'a NextImage<'a>,
    slot: MfnRange,
    entry: u32,
}

impl<'a> PlacedImage<'a> {
    /// The image.
    pub fn image(&self) -> &'a NextImage<'a> {
        self.image
    }

    /// The slot.
    pub fn slot(&self) -> MfnRange {
        self.slot
    }

    /// The physical address of the entry point.
    pub fn entry(&self) -> u32 {
        self.entry
    }
}

/// A digest that is being computed.
#[derive(Clone)]
pub struct DigestCheck<'a> {
    file: &'a [u8],
    hole: Range<usize>,
    expected: Digest,
    done: usize,
    hasher: Sha256,
}

impl DigestCheck<'_> {
    /// Takes up to `max_bytes` more of the file in; the verdict when there is no more.
    pub fn step(&mut self, max_bytes: usize) -> Option<Result<(), ImageError>> {
        let end = self.done.saturating_add(max_bytes).min(self.file.len());
        while self.done < end {
            let in_hole = self.hole.contains(&self.done);
            let next = if in_hole {
                self.hole.end
            } else if self.done < self.hole.start {
                self.hole.start
            } else {
                end
            };
            let part = &self.file[self.done..next.min(end)];
            if in_hole {
                self.hasher.update(&[0; DIGEST_LEN][..part.len()]);
            } else {
                self.hasher.update(part);
            }
            self.done += part.len();
        }
        if self.done < self.file.len() {
            return None;
        }
        let found = Digest(self.hasher.clone().finalize().into());
        if found == self.expected {
            Some(Ok(()))
        } else {
            Some(Err(ImageError::DigestMismatch { expected: self.expected, found }))
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// Says in our words what the ELF reader found wrong.
fn from_elf(error: ParseError, file: &[u8]) -> ImageError {
    match error {
        ParseError::SliceReadError((_, end)) if end > file.len() => {
            ImageError::Truncated { need: end as u64, found: file.len() as u64 }
        }
        _ => ImageError::BadHeaders,
    }
}

/// What the program headers say.
struct Layout {
    segments: [Segment; MAX_SEGMENTS],
    nr_segments: usize,
    extent: u64,
    entry_offset: u64,
}

/// A `PT_LOAD` that has passed the checks which need no other.
#[derive(Clone, Copy)]
struct Load {
    index: usize,
    vaddr: u64,
    paddr: u64,
    segment: Segment,
    is_executable: bool,
    is_slack: bool,
}

impl Layout {
    fn read(elf: &ElfBytes<'_, LittleEndian>, file_len: u64) -> Result<Self, ImageError> {
        let mut loads: [Option<Load>; MAX_SEGMENTS] = [None; MAX_SEGMENTS];
        let mut nr_loads = 0;
        for (index, header) in elf.segments().into_iter().flatten().enumerate() {
            if header.p_type != abi::PT_LOAD || header.p_memsz == 0 {
                continue;
            }
            let (file, memory, address) = (header.p_filesz, header.p_memsz, header.p_paddr);
            if file > memory {
                return Err(ImageError::SegmentSizes { index, file, memory });
            }
            let file_end = header.p_offset.saturating_add(file);
            if file_end > file_len {
                return Err(ImageError::Truncated { need: file_end, found: file_len });
            }
            if address.checked_add(memory).is_none() {
                return Err(ImageError::SegmentRange { index, address, memory });
            }
            let flags = header.p_flags & (abi::PF_R | abi::PF_W | abi::PF_X);
            if let Some(place) = loads.get_mut(nr_loads) {
                *place = Some(Load {
                    index,
                    vaddr: header.p_vaddr,
                    paddr: address,
                    segment: Segment {
                        slot_offset: 0,
                        file_offset: header.p_offset,
                        file_len: file,
                        memory_len: memory,
                    },
                    is_executable: flags & abi::PF_X != 0,
                    is_slack: file == 0 && flags == abi::PF_R,
                });
            }
            nr_loads += 1;
        }
        if nr_loads > MAX_SEGMENTS {
            return Err(ImageError::TooManySegments { found: nr_loads, limit: MAX_SEGMENTS });
        }
        Self::arrange(&mut loads[..nr_loads], elf.ehdr.e_entry)
    }

    /// Relates the segments to the lowest of them and to each other.
    fn arrange(loads: &mut [Option<Load>], entry: u64) -> Result<Self, ImageError> {
        loads.sort_unstable_by_key(|load| load.map(|l| l.paddr));
        let mut lowest: Option<Load> = None;
        let mut before: Option<(usize, u64)> = None;
        let mut entry_offset = None;
        let mut out = Self { segments: Default::default(), nr_segments: 0, extent: 0, entry_offset: 0 };
        for load in loads.iter().flatten().copied() {
            let Load { index, .. } = load;
            // The first in ascending order is the lowest; boot loaders count a slack down there too.
            let first = *lowest.get_or_insert(load);
            let distance = load.paddr - first.paddr;
            let virtual_distance = load.vaddr.wrapping_sub(first.vaddr);
            if !load.is_slack && !distance.is_multiple_of(PAGE_SIZE) {
                return Err(ImageError::SegmentUnaligned { index, distance });
            }
            if !load.is_slack && virtual_distance != distance {
                return Err(ImageError::SegmentSkewed { index, virtual_distance, physical_distance: distance });
            }
            // No overflow: address + size fit, and the distance is no larger than the address.
            let end = distance + load.segment.memory_len;
            if let Some((other, other_end)) = before
                && distance < other_end
            {
                return Err(ImageError::SegmentsOverlap { first: other, second: index });
            }
            before = Some((index, end));
            out.extent = end;
            if load.is_slack {
                continue;
            }
            if load.is_executable && entry.wrapping_sub(load.vaddr) < load.segment.file_len {
                entry_offset = Some(distance + (entry - load.vaddr));
            }
            out.segments[out.nr_segments] = Segment { slot_offset: distance, ..load.segment };
            out.nr_segments += 1;
        }
        if out.nr_segments == 0 {
            return Err(ImageError::NoSegments);
        }
        out.entry_offset = entry_offset.ok_or(ImageError::EntryOutside { entry })?;
        Ok(out)
    }
}

/// Finds the Multiboot2 header and in it the relocatable tag.
fn multiboot2_header(file: &[u8]) -> Result<Relocatable, ImageError> {
    let window = &file[..file.len().min(MULTIBOOT2_SEARCH)];
    let header = window
        .chunks_exact(8)
        .enumerate()
        .find_map(|(i, _)| {
            let header = &window[i * 8..];
            let field = |at| u32_at(header, at);
            let (magic, arch, len, checksum) = (field(0)?, field(4)?, field(8)?, field(12)?);
            let sum = magic.wrapping_add(arch).wrapping_add(len).wrapping_add(checksum);
            if magic != MULTIBOOT2_HEADER_MAGIC || arch != MULTIBOOT2_ARCH_I386 || sum != 0 {
                return None;
            }
            header.get(16..usize::try_from(len).ok()?)
        })
        .ok_or(ImageError::NotMultiboot2)?;
    let mut tags = header;
    while tags.len() >= 8 {
        let size = u32_at(tags, 4).unwrap_or(0) as usize;
        let kind = u16::from_le_bytes([tags[0], tags[1]]);
        if size < 8 || size > tags.len() {
            return Err(ImageError::NotMultiboot2);
        }
        if kind == MULTIBOOT2_TAG_RELOCATABLE {
            let field = |at| u32_at(&tags[..size], at).map(u64::from).ok_or(ImageError::NotMultiboot2);
            return Ok(Relocatable {
                min: field(8)?,
                limit: (field(12)? + 1).min(LIMIT_32BIT),
                // Zero and one both mean anywhere; a slot is page aligned in any case.
                align: field(16)?.max(1),
            });
        }
        tags = tags.get(size.next_multiple_of(8)..).unwrap_or(&[]);
    }
    Err(ImageError::NotRelocatable)
}

/// What the notes say.
struct Notes<'a> {
    digest_at: usize,
    digest: Digest,
    needs: Needs,
    version: &'a str,
}

impl<'a> Notes<'a> {
    fn read(elf: &ElfBytes<'a, LittleEndian>, file: &'a [u8]) -> Result<Self, ImageError> {
        let mut found = FoundNotes::default();
        for header in elf.segments().into_iter().flatten() {
            if header.p_type == abi::PT_NOTE {
                let data = elf.segment_data(&header).map_err(|e| from_elf(e, file))?;
                found.collect(data, header.p_align)?;
            }
        }
        // A linker script may leave the notes to the section headers only.
        if found.is_empty() {
            for header in elf.section_headers().into_iter().flatten() {
                if header.sh_type == abi::SHT_NOTE {
                    let (data, _) = elf.section_data(&header).map_err(|e| from_elf(e, file))?;
                    found.collect(data, header.sh_addralign)?;
                }
            }
        }
        let digest = found.digest.ok_or(ImageError::NoNote { kind: NOTE_DIGEST })?;
        let needs = found.needs.ok_or(ImageError::NoNote { kind: NOTE_NEEDS })?;
        let version = found.version.ok_or(ImageError::NoNote { kind: NOTE_VERSION })?;
        let bad = |kind, body: &[u8]| ImageError::BadNote { kind, found: body.len() };
        Ok(Self {
            // The body is a part of the file, so that the difference of their addresses is its offset.
            digest_at: digest.as_ptr().addr() - file.as_ptr().addr(),
            digest: Digest(<[u8; DIGEST_LEN]>::try_from(digest).map_err(|_| bad(NOTE_DIGEST, digest))?),
            needs: Needs::decode(needs)?,
            version: version_str(version).ok_or_else(|| bad(NOTE_VERSION, version))?,
        })
    }
}

/// The version goes into log lines and JSON as it is, so that only plain characters may be in it.
fn version_str(body: &[u8]) -> Option<&str> {
    let text = core::str::from_utf8(body).ok()?.trim_end_matches('\0');
    let is_plain = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '"' && c != '\\';
    (!text.is_empty() && text.chars().all(is_plain)).then_some(text)
}

/// Bodies of luxen's notes.
#[derive(Default)]
struct FoundNotes<'a> {
    digest: Option<&'a [u8]>,
    needs: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
}

impl<'a> FoundNotes<'a> {
    fn is_empty(&self) -> bool {
        self.digest.is_none() && self.needs.is_none() && self.version.is_none()
    }

    fn collect(&mut self, data: &'a [u8], align: u64) -> Result<(), ImageError> {
        // Notes are padded to four bytes unless their segment is aligned to eight; smaller alignments mean four.
        let align = if align == 8 { 8 } else { 4 };
        for note in NoteIterator::new(LittleEndian, Class::ELF64, align, data) {
            let Note::Unknown(note) = note else { continue };
            if !matches!(note.name_str(), Ok(NOTE_OWNER)) {
                continue;
            }
            let (place, kind) = match u32::try_from(note.n_type) {
                Ok(kind @ NOTE_DIGEST) => (&mut self.digest, kind),
                Ok(kind @ NOTE_NEEDS) => (&mut self.needs, kind),
                Ok(kind @ NOTE_VERSION) => (&mut self.version, kind),
                _ => continue,
            };
            if place.replace(note.desc).is_some() {
                return Err(ImageError::NoteTwice { kind });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
