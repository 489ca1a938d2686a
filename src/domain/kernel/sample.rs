//! Writes small ELF64 kernels for tests, from the ELF specification and public/elfnote.h.

use std::vec;
use std::vec::Vec;

/// A loadable segment to be written.
#[derive(Clone, Debug)]
pub struct Load {
    pub vaddr: u64,
    pub paddr: u64,
    pub bytes: Vec<u8>,
    pub memory_bytes: u64,
}

/// A kernel to be written.
#[derive(Clone, Debug)]
pub struct Sample {
    pub loads: Vec<Load>,
    pub notes: Vec<(u32, Vec<u8>)>,
    pub where_notes: WhereNotes,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WhereNotes {
    Segment,
    Section,
}

pub fn u64_note(kind: u32, value: u64) -> (u32, Vec<u8>) {
    (kind, value.to_le_bytes().to_vec())
}

pub fn u32_note(kind: u32, value: u32) -> (u32, Vec<u8>) {
    (kind, value.to_le_bytes().to_vec())
}

pub fn text_note(kind: u32, value: &str) -> (u32, Vec<u8>) {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    (kind, bytes)
}

pub const BASE: u64 = 0xffff_ffff_8000_0000;

impl Sample {
    /// A kernel like Linux: at 16 MiB behind VIRT_BASE, with a per-CPU segment at virtual address 0.
    pub fn like_linux() -> Self {
        let text: Vec<u8> = (0..0x2345u32).map(|i| (i * 31 + 7) as u8).collect();
        Self {
            loads: vec![
                Load { vaddr: BASE + 0x100_0000, paddr: 0x100_0000, bytes: text, memory_bytes: 0x3000 },
                Load { vaddr: 0, paddr: 0x100_4000, bytes: vec![0xab; 0x80], memory_bytes: 0x80 },
                Load { vaddr: BASE + 0x100_5000, paddr: 0x100_5000, bytes: vec![0xcd; 0x10], memory_bytes: 0x4_3210 },
            ],
            notes: vec![
                text_note(6, "linux"),
                text_note(7, "2.6"),
                text_note(5, "xen-3.0"),
                u64_note(3, BASE),
                u64_note(15, 0x80_0000_0000),
                u64_note(1, BASE + 0x100_01c0),
                text_note(10, "!writable_page_tables|pae_pgdir_above_4gb"),
                u32_note(17, 0x8801),
                text_note(9, "yes"),
                text_note(8, "generic"),
                (13, [1u64.to_le_bytes(), 1u64.to_le_bytes()].concat()),
                u32_note(14, 1),
                u64_note(16, 1),
                u64_note(12, 0xffff_8000_0000_0000),
                u64_note(4, 0),
            ],
            where_notes: WhereNotes::Segment,
        }
    }

    /// The smallest kernel: one page at pseudo-physical 0, mapped at 1 MiB, with a hypercall page behind it.
    pub fn small() -> Self {
        Self {
            loads: vec![Load { vaddr: 0x10_0000, paddr: 0, bytes: vec![0x90; 100], memory_bytes: 0x2000 }],
            notes: vec![u32_note(1, 0x10_0004), u32_note(3, 0x10_0000), u32_note(2, 0x10_1000)],
            where_notes: WhereNotes::Section,
        }
    }

    /// Without the notes of this type.
    pub fn without(mut self, kind: u32) -> Self {
        self.notes.retain(|(k, _)| *k != kind);
        self
    }

    /// With this note instead of those of its type.
    pub fn with(self, note: (u32, Vec<u8>)) -> Self {
        let mut new = self.without(note.0);
        new.notes.push(note);
        new
    }

    /// The file: header, program headers, contents, notes, section headers.
    pub fn write(&self) -> Vec<u8> {
        let in_segment = self.where_notes == WhereNotes::Segment;
        let phnum = self.loads.len() + usize::from(in_segment);
        let mut contents = vec![];
        let contents_at = 64 + 56 * phnum;
        let mut phdrs: Vec<[u64; 8]> = vec![];
        for load in &self.loads {
            let offset = (contents_at + contents.len()) as u64;
            let len = load.bytes.len() as u64;
            phdrs.push([1, 7, offset, load.vaddr, load.paddr, len, load.memory_bytes, 0x1000]);
            contents.extend(&load.bytes);
        }
        contents.resize(contents.len().next_multiple_of(4), 0);
        let notes_at = (contents_at + contents.len()) as u64;
        let mut notes = vec![];
        // A note of somebody else's comes first.
        notes.extend([4u32, 3, 1].map(u32::to_le_bytes).concat());
        notes.extend(b"GNU\0abc\0");
        for (kind, desc) in &self.notes {
            notes.extend([4, desc.len() as u32, *kind].map(u32::to_le_bytes).concat());
            notes.extend(b"Xen\0");
            notes.extend(desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        if in_segment {
            phdrs.push([4, 4, notes_at, 0, 0, notes.len() as u64, notes.len() as u64, 4]);
        }
        contents.extend(&notes);
        let shdrs_at = (contents_at + contents.len()) as u64;

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(2u16.to_le_bytes());
        file.extend(62u16.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [0, 64, shdrs_at] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64, 56, phnum as u16, 64, 2, 0] {
            file.extend(half.to_le_bytes());
        }
        for [kind, flags, rest @ ..] in phdrs {
            file.extend((kind as u32).to_le_bytes());
            file.extend((flags as u32).to_le_bytes());
            for word in rest {
                file.extend(word.to_le_bytes());
            }
        }
        file.extend(&contents);
        file.extend([0; 64]);
        // The section of the notes: name, type, flags, address, offset, size, link, info, alignment, entry size.
        file.extend(0u32.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for word in [0, 0, notes_at, notes.len() as u64, 0, 4, 0] {
            file.extend(word.to_le_bytes());
        }
        file
    }
}
