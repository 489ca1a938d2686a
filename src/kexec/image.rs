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
//! | 1 | SHA-256 of the whole file with these 32 bytes, and the body of the note of type 4, taken as zero |
//! | 2 | [`Needs`], 56 bytes, see [`Needs::encode`] |
//! | 3 | the version string, as the banner prints it: `luxen 0.1.0-b` |
//! | 4 | the signature, 80 bytes, see `image/signature.rs`; an image without this note is not signed |
//!
//! Sources: ELF-64 object file format 1.5; Multiboot2 specification 2.0 §3.1.

mod error;
mod features;
mod layout;
mod multiboot2;
mod notes;
mod signature;

use core::fmt;
use core::ops::{Range, RangeInclusive};

use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use elf::parse::ParseError;
use sha2::{Digest as _, Sha256};

use crate::frame::{MfnRange, PAGE_SIZE};

pub use error::ImageError;
pub use features::MachineFeatures;
use layout::Layout;
use multiboot2::Relocatable;
use notes::Notes;
pub use notes::{ElfNote, NOTE_DIGEST, NOTE_NEEDS, NOTE_OWNER, NOTE_SIGNATURE, NOTE_VERSION, Needs};
pub use signature::{DOMAIN, ImageSignature, MESSAGE_LEN, SIGNATURE_NOTE_LEN, message};

/// Bytes of a digest.
pub const DIGEST_LEN: usize = 32;
/// The most `PT_LOAD`s that an image may have; luxen's linker script makes five or six.
pub const MAX_SEGMENTS: usize = 16;

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
/// [`NextImage::verify_digest`], its signature by [`NextImage::verify_signature`].
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
    signature_at: Option<usize>,
    signature: Option<ImageSignature>,
    needs: Needs,
    version: &'a str,
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
        let relocatable = multiboot2::relocatable(file)?;
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
            signature_at: notes.signature_at,
            signature: notes.signature,
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

    /// Where in the file digest and signature lie, in ascending order and apart: these bytes count as zero in the digest.
    pub fn holes(&self) -> [Range<usize>; 2] {
        let digest = self.digest_at..self.digest_at + DIGEST_LEN;
        match self.signature_at.map(|at| at..at + SIGNATURE_NOTE_LEN) {
            None => [digest, 0..0],
            Some(signature) if signature.start < digest.start => [signature, digest],
            Some(signature) => [digest, signature],
        }
    }

    /// Computes the digest in one go; see [`Self::digest_check`] for the way in pieces.
    pub fn verify_digest(&self) -> Result<(), ImageError> {
        self.digest_check().step(usize::MAX).unwrap_or(Ok(()))
    }

    /// The digest's check in pieces, so that guests can run in between.
    pub fn digest_check(&self) -> DigestCheck<'a> {
        DigestCheck { file: self.file, holes: self.holes(), expected: self.digest, done: 0, hasher: Sha256::new() }
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

    /// Checks that all features that the image needs are among those that the machine has.
    pub fn check_features(&self, offered: MachineFeatures) -> Result<(), ImageError> {
        match MachineFeatures::of_note(self.needs.features & !offered.bits()) {
            missing if missing.is_empty() => Ok(()),
            missing => Err(ImageError::FeaturesMissing { missing, offered }),
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
    holes: [Range<usize>; 2],
    expected: Digest,
    done: usize,
    hasher: Sha256,
}

impl DigestCheck<'_> {
    /// Takes up to `max_bytes` more of the file in; the verdict when there is no more.
    pub fn step(&mut self, max_bytes: usize) -> Option<Result<(), ImageError>> {
        let end = self.done.saturating_add(max_bytes).min(self.file.len());
        while self.done < end {
            let hole = self.holes.iter().find(|hole| self.done < hole.end).filter(|hole| hole.start < end);
            let (is_hole, next) = match hole {
                Some(hole) if self.done < hole.start => (false, hole.start),
                Some(hole) => (true, hole.end.min(end)),
                None => (false, end),
            };
            let part = &self.file[self.done..next];
            if is_hole {
                self.hasher.update(&[0; SIGNATURE_NOTE_LEN][..part.len()]);
            } else {
                self.hasher.update(part);
            }
            self.done = next;
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

/// Says in our words what the ELF reader found wrong.
fn from_elf(error: ParseError, file: &[u8]) -> ImageError {
    match error {
        ParseError::SliceReadError((_, end)) if end > file.len() => {
            ImageError::Truncated { need: end as u64, found: file.len() as u64 }
        }
        _ => ImageError::BadHeaders,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

#[cfg(test)]
mod tests;
