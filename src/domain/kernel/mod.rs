//! Guest kernels: what an ELF64 file with Xen's notes asks for.
//!
//! [`Kernel::parse`] is the only place that believes nothing of the file. Whoever has a [`Kernel`] may rely on:
//!
//! 1. Every segment's bytes lie inside the file, and are no more than its bytes in memory.
//! 2. Segments lie in `[start, end)` of the domain's pseudo-physical memory, which is not empty and below 2^52.
//! 3. `virt_base` is canonical and page-aligned, and `virt_base + end` does not overflow.
//! 4. The entry point lies inside the image; the hypercall page, if there is one, is a page of it.
//!
//! Where a segment goes is Xen's rule (libelf): its *physical* address, less PADDR_OFFSET, is the place in
//! pseudo-physical memory, and that place is mapped at VIRT_BASE and up. Its virtual address has no say; in Linux the
//! per-CPU segment's is 0.

mod notes;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::{ElfBytes, ParseError};

pub use notes::Notes;

use crate::frame::{Maddr, PAGE_SIZE, Pfn};

/// One loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Pseudo-physical address of its first byte.
    pub start: u64,
    /// Its bytes in the file.
    pub bytes: &'a [u8],
    /// Its bytes in memory: what the file does not have is zero.
    pub len_bytes: u64,
}

/// A kernel that can be made a 64-bit PV domain of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel<'a> {
    notes: Notes<'a>,
    entry: u64,
    virt_base: u64,
    start: u64,
    end: u64,
    segments: Vec<Segment<'a>>,
}

/// Which table of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A loadable segment.
    Segment,
    /// A segment or section of notes.
    Notes,
}

/// Why a file is not a kernel that a domain can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError<'a> {
    /// It does not start as an ELF file does.
    NotElf {
        /// Its first bytes.
        magic: [u8; 4],
    },
    /// It is a packed Linux kernel.
    BzImage,
    /// It is shorter than its headers.
    HeadersTruncated {
        /// Its bytes.
        len_bytes: usize,
    },
    /// Its header has entries of a size that they cannot have.
    EntrySize {
        /// The size found.
        found: u64,
        /// The size they have.
        expected: u64,
    },
    /// Its header holds a number that cannot be.
    BadHeader,
    /// It is an ELF file of another kind or for another machine.
    WrongKind {
        /// True if it is ELF64.
        is_64bit: bool,
        /// `e_type`: 2 (EXEC) and 3 (DYN) are accepted.
        kind: u16,
        /// `e_machine`: 62 (x86-64) is accepted.
        machine: u16,
    },
    /// A segment or section reaches beyond the end of the file.
    OutsideFile {
        /// Which.
        part: Part,
        /// Where it starts.
        offset: u64,
        /// Its bytes.
        len_bytes: u64,
        /// The file's bytes.
        file_bytes: usize,
    },
    /// A segment has more bytes in the file than in memory.
    SegmentTooLong {
        /// Its physical address.
        paddr: u64,
        /// Bytes in the file.
        file_bytes: u64,
        /// Bytes in memory.
        memory_bytes: u64,
    },
    /// A segment lies below PADDR_OFFSET, or beyond any memory.
    SegmentPlace {
        /// Its physical address.
        paddr: u64,
        /// Its bytes in memory.
        memory_bytes: u64,
        /// PADDR_OFFSET.
        paddr_offset: u64,
    },
    /// Nothing in it is to be loaded.
    NoSegments,
    /// There is no memory for the list of segments.
    NoMemory,
    /// A note reaches beyond its segment.
    NoteTruncated {
        /// Where it starts in the file.
        offset: u64,
        /// Its name's bytes.
        name_len: u32,
        /// Its description's bytes.
        desc_len: u32,
    },
    /// A note that is a number has another length than 4 or 8 bytes.
    NoteNotANumber {
        /// Its type.
        kind: u32,
        /// Its bytes.
        len_bytes: usize,
    },
    /// A note that is a string is not text.
    NoteNotAString {
        /// Its type.
        kind: u32,
    },
    /// The kernel cannot do without a feature that is not known, or that no 64-bit PV guest has.
    NeedsFeature {
        /// Its name.
        found: &'a str,
    },
    /// It has no notes of Xen's.
    NoXenNotes,
    /// It does not say where a PV guest starts.
    NoEntry {
        /// Where a PVH guest starts, if it says so.
        phys32_entry: Option<u64>,
    },
    /// It wants another loader than `generic`.
    Loader {
        /// The loader.
        found: &'a str,
    },
    /// It was written for another interface than `xen-3.0`.
    XenVersion {
        /// The interface.
        found: &'a str,
    },
    /// PADDR_OFFSET without VIRT_BASE.
    NoVirtBase {
        /// PADDR_OFFSET.
        paddr_offset: u64,
    },
    /// VIRT_BASE is not page-aligned or not canonical, or the image does not fit behind it.
    VirtBase {
        /// VIRT_BASE.
        found: u64,
        /// Pseudo-physical end of the image.
        end: u64,
    },
    /// The entry point is not in the image.
    EntryOutside {
        /// The entry point.
        found: u64,
        /// Virtual start of the image.
        start: u64,
        /// Virtual end of the image.
        end: u64,
    },
    /// The hypercall page is not a page of the image.
    HypercallPage {
        /// Its address.
        found: u64,
        /// Virtual start of the image.
        start: u64,
        /// Virtual end of the image.
        end: u64,
    },
    /// The p2m list is to be mapped over the image.
    P2mOverImage {
        /// Where it is to be.
        found: u64,
        /// Virtual start of the image.
        start: u64,
        /// Virtual end of the image.
        end: u64,
    },
}

impl fmt::Display for KernelError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotElf { magic } => write!(f, "not an ELF file, it starts with {magic:02x?}"),
            Self::BzImage => f.write_str("a packed Linux kernel (bzImage): unpack it to vmlinux first"),
            Self::HeadersTruncated { len_bytes } => write!(f, "its {len_bytes} bytes do not hold the ELF headers"),
            Self::EntrySize { found, expected } => {
                write!(f, "its ELF header has table entries of {found} bytes, {expected} are right")
            }
            Self::BadHeader => f.write_str("its ELF header holds a number that cannot be"),
            Self::WrongKind { is_64bit, kind, machine } => write!(
                f,
                "an ELF{} file of type {kind} for machine {machine}, ELF64 of type 2 or 3 for machine 62 is needed",
                if is_64bit { 64 } else { 32 }
            ),
            Self::OutsideFile { part, offset, len_bytes, file_bytes } => write!(
                f,
                "{} of {len_bytes:#x} bytes at {offset:#x} reaches beyond the file's {file_bytes:#x} bytes",
                match part {
                    Part::Segment => "a segment",
                    Part::Notes => "a segment of notes",
                }
            ),
            Self::SegmentTooLong { paddr, file_bytes, memory_bytes } => write!(
                f,
                "the segment at {paddr:#x} has {file_bytes:#x} bytes in the file but {memory_bytes:#x} in memory"
            ),
            Self::SegmentPlace { paddr, memory_bytes, paddr_offset } => write!(
                f,
                "the segment of {memory_bytes:#x} bytes at {paddr:#x} is not in memory that starts at {paddr_offset:#x}"
            ),
            Self::NoSegments => f.write_str("nothing in it is to be loaded"),
            Self::NoMemory => f.write_str("no memory for its list of segments"),
            Self::NoteTruncated { offset, name_len, desc_len } => {
                write!(f, "the note at {offset:#x} (name {name_len:#x} bytes, description {desc_len:#x}) is cut off")
            }
            Self::NoteNotANumber { kind, len_bytes } => {
                write!(f, "Xen note {kind} should be a number, but has {len_bytes} bytes")
            }
            Self::NoteNotAString { kind } => write!(f, "Xen note {kind} should be a string, but is not text"),
            Self::NeedsFeature { found } => write!(f, "it needs the feature {found}, which a guest cannot have here"),
            Self::NoXenNotes => f.write_str("it has no Xen notes: not a kernel for Xen"),
            Self::NoEntry { phys32_entry: None } => f.write_str("it has no Xen ENTRY note"),
            Self::NoEntry { phys32_entry: Some(_) } => f.write_str("it has no Xen ENTRY note: a PVH kernel, not PV"),
            Self::Loader { found } => write!(f, "it wants the loader \"{found}\", only \"generic\" is known"),
            Self::XenVersion { found } => write!(f, "it was written for \"{found}\", not for xen-3.0"),
            Self::NoVirtBase { paddr_offset } => {
                write!(f, "it has PADDR_OFFSET {paddr_offset:#x} but no VIRT_BASE")
            }
            Self::VirtBase { found, end } => {
                write!(f, "its {end:#x} bytes cannot be mapped at VIRT_BASE {found:#x}")
            }
            Self::EntryOutside { found, start, end } => {
                write!(f, "its entry point {found:#x} is outside the image [{start:#x}, {end:#x})")
            }
            Self::HypercallPage { found, start, end } => {
                write!(f, "its hypercall page {found:#x} is not a page of the image [{start:#x}, {end:#x})")
            }
            Self::P2mOverImage { found, start, end } => {
                write!(f, "it wants the p2m list at {found:#x}, inside the image [{start:#x}, {end:#x})")
            }
        }
    }
}

impl<'a> Kernel<'a> {
    /// Reads a kernel from the file's bytes.
    pub fn parse(file: &'a [u8]) -> Result<Self, KernelError<'a>> {
        let elf = open(file)?;
        let notes = read_notes(&elf, file)?;
        check_notes(&notes)?;
        let entry = notes.entry.ok_or(KernelError::NoEntry { phys32_entry: notes.phys32_entry })?;
        let virt_base = notes.virt_base.unwrap_or(0);
        let segments = read_segments(&elf, file, notes.paddr_offset.unwrap_or(0))?;
        let start = segments.iter().map(|s| s.start).min().ok_or(KernelError::NoSegments)?;
        let end = segments.iter().map(|s| s.start + s.len_bytes).max().ok_or(KernelError::NoSegments)?;

        let virt_end = virt_base.checked_add(end.next_multiple_of(PAGE_SIZE));
        let Some(virt_end) = virt_end.filter(|_| virt_base.is_multiple_of(PAGE_SIZE) && is_canonical(virt_base)) else {
            return Err(KernelError::VirtBase { found: virt_base, end });
        };
        let kernel = Self { notes, entry, virt_base, start, end, segments };
        let (start, end) = (kernel.virt_start(), kernel.virt_end());
        if !(start..end).contains(&entry) {
            return Err(KernelError::EntryOutside { found: entry, start, end });
        }
        if let Some(found) = notes.hypercall_page
            && (!found.is_multiple_of(PAGE_SIZE) || !(start & !(PAGE_SIZE - 1)..virt_end).contains(&found))
        {
            return Err(KernelError::HypercallPage { found, start, end });
        }
        if let Some(found) = notes.init_p2m
            && (start..end).contains(&found)
        {
            return Err(KernelError::P2mOverImage { found, start, end });
        }
        Ok(kernel)
    }

    /// What it says of itself.
    pub const fn notes(&self) -> &Notes<'a> {
        &self.notes
    }

    /// Virtual address of its first instruction.
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// Virtual address at which pseudo-physical address 0 is mapped.
    pub const fn virt_base(&self) -> u64 {
        self.virt_base
    }

    /// Its segments, in the order of the file; a later one may overwrite an earlier.
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// Pseudo-physical address of the image's first byte.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Pseudo-physical address of the first byte behind the image.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Virtual address of the image's first byte.
    pub const fn virt_start(&self) -> u64 {
        self.virt_base + self.start
    }

    /// Virtual address of the first byte behind the image.
    pub const fn virt_end(&self) -> u64 {
        self.virt_base + self.end
    }

    /// The frame that is to hold the hypercall page.
    pub fn hypercall_pfn(&self) -> Option<Pfn> {
        // By `parse` it is a page of the image, so the difference is below 2^52.
        self.notes.hypercall_page.map(|va| Pfn::new((va - self.virt_base) / PAGE_SIZE))
    }
}

/// True if bits 63 to 47 of a virtual address are equal.
pub(super) const fn is_canonical(va: u64) -> bool {
    matches!(va >> 47, 0 | 0x1_ffff)
}

fn open(file: &[u8]) -> Result<ElfBytes<'_, LittleEndian>, KernelError<'_>> {
    // The boot protocol's magic number, at 0x202 of every bzImage.
    if file.get(0x202..0x206) == Some(b"HdrS") {
        return Err(KernelError::BzImage);
    }
    let elf = ElfBytes::minimal_parse(file).map_err(|e| match e {
        ParseError::BadMagic(magic) => KernelError::NotElf { magic },
        ParseError::SliceReadError(_) | ParseError::BadOffset(_) => {
            KernelError::HeadersTruncated { len_bytes: file.len() }
        }
        ParseError::BadEntsize((found, expected)) => KernelError::EntrySize { found, expected },
        _ => KernelError::BadHeader,
    })?;
    let is_64bit = elf.ehdr.class == Class::ELF64;
    let (kind, machine) = (elf.ehdr.e_type, elf.ehdr.e_machine);
    if is_64bit && matches!(kind, ET_EXEC | ET_DYN) && machine == EM_X86_64 {
        Ok(elf)
    } else {
        Err(KernelError::WrongKind { is_64bit, kind, machine })
    }
}

fn part_of_file<'a>(file: &'a [u8], part: Part, offset: u64, len_bytes: u64) -> Result<&'a [u8], KernelError<'a>> {
    let outside = KernelError::OutsideFile { part, offset, len_bytes, file_bytes: file.len() };
    let range = usize::try_from(offset).ok().zip(offset.checked_add(len_bytes).and_then(|e| usize::try_from(e).ok()));
    range.and_then(|(start, end)| file.get(start..end)).ok_or(outside)
}

/// Notes are looked for in segments; if none of Xen's is there, in sections, as Xen does.
fn read_notes<'a>(elf: &ElfBytes<'a, LittleEndian>, file: &'a [u8]) -> Result<Notes<'a>, KernelError<'a>> {
    let mut notes = Notes::default();
    // Some versions of binutils leave the offset 0 in segments of notes.
    for s in elf.segments().into_iter().flatten().filter(|s| s.p_type == PT_NOTE && s.p_offset != 0) {
        notes.read(part_of_file(file, Part::Notes, s.p_offset, s.p_filesz)?, s.p_offset)?;
    }
    if notes.nr_found == 0 {
        for s in elf.section_headers().into_iter().flatten().filter(|s| s.sh_type == SHT_NOTE) {
            notes.read(part_of_file(file, Part::Notes, s.sh_offset, s.sh_size)?, s.sh_offset)?;
        }
    }
    Ok(notes)
}

fn check_notes<'a>(notes: &Notes<'a>) -> Result<(), KernelError<'a>> {
    if notes.nr_found == 0 {
        return Err(KernelError::NoXenNotes);
    }
    if let Some(found) = notes.loader.filter(|loader| *loader != "generic") {
        return Err(KernelError::Loader { found });
    }
    if let Some(found) = notes.xen_version.filter(|version| !version.starts_with("xen-3.0")) {
        return Err(KernelError::XenVersion { found });
    }
    match (notes.paddr_offset, notes.virt_base) {
        (Some(paddr_offset), None) => Err(KernelError::NoVirtBase { paddr_offset }),
        _ => Ok(()),
    }
}

fn read_segments<'a>(
    elf: &ElfBytes<'a, LittleEndian>,
    file: &'a [u8],
    paddr_offset: u64,
) -> Result<Vec<Segment<'a>>, KernelError<'a>> {
    let mut segments = Vec::new();
    let loadable = |s: &elf::segment::ProgramHeader| {
        s.p_type == PT_LOAD && s.p_flags & (PF_R | PF_W | PF_X) != 0 && s.p_memsz != 0
    };
    for s in elf.segments().into_iter().flatten().filter(loadable) {
        if s.p_filesz > s.p_memsz {
            let (paddr, file_bytes, memory_bytes) = (s.p_paddr, s.p_filesz, s.p_memsz);
            return Err(KernelError::SegmentTooLong { paddr, file_bytes, memory_bytes });
        }
        let bytes = part_of_file(file, Part::Segment, s.p_offset, s.p_filesz)?;
        let start = s.p_paddr.checked_sub(paddr_offset);
        let is_memory = |start: &u64| start.checked_add(s.p_memsz).is_some_and(|end| end < Maddr::LIMIT);
        let Some(start) = start.filter(is_memory) else {
            return Err(KernelError::SegmentPlace { paddr: s.p_paddr, memory_bytes: s.p_memsz, paddr_offset });
        };
        segments.try_reserve(1).map_err(|_| KernelError::NoMemory)?;
        segments.push(Segment { start, bytes, len_bytes: s.p_memsz });
    }
    Ok(segments)
}
