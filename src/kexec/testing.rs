//! Makes luxen images for tests, right or wrong in one place, from the ELF and Multiboot2 specifications and not from
//! the code that reads them.

use std::vec;
use std::vec::Vec;

use sha2::{Digest as _, Sha256};

use super::image::Needs;

/// `p_flags` of text, data and slack.
pub const RX: u32 = 5;
pub const RW: u32 = 6;
pub const R: u32 = 4;

pub const VADDR: u64 = 0xffff_82d0_4000_0000;
pub const PADDR: u64 = 0x20_0000;

pub const NEEDS: Needs = Needs {
    page_info_bytes: 32,
    chunk_entry_bytes: 16,
    stream_min: 1,
    stream_max: 2,
    stream_writes: 2,
    boot_footprint_bytes: 0x20_0000,
    features: 0b101,
    slot_bytes: 0x40_0000,
    max_splits: 0x1234,
    max_stream_frames: 0x5678,
};

/// A `PT_LOAD`.
#[derive(Clone, Debug)]
pub struct Load {
    pub flags: u32,
    /// Distance from the image's start.
    pub at: u64,
    /// Alignment of the bytes in the file; the start of the image's file is page aligned.
    pub file_align: usize,
    pub bytes: Vec<u8>,
    pub memory_len: u64,
}

/// A file to be.
#[derive(Clone, Debug)]
pub struct TestImage {
    pub loads: Vec<Load>,
    pub entry: u64,
    pub header_at: usize,
    pub relocatable: Option<[u32; 4]>,
    pub notes: Vec<(u32, Vec<u8>)>,
    pub notes_in_segment: bool,
}

impl Default for TestImage {
    fn default() -> Self {
        let text = (0..0x2345u32).map(|i| (i * 7) as u8).collect();
        let data = (0..0x1800u32).map(|i| (i * 13 + 1) as u8).collect();
        Self {
            loads: vec![
                Load { flags: RX, at: 0, file_align: 4096, bytes: text, memory_len: 0x2345 },
                Load { flags: RW, at: 0x3000, file_align: 4096, bytes: data, memory_len: 0x5010 },
                Load { flags: R, at: 0x9000, file_align: 4096, bytes: Vec::new(), memory_len: 0x3f_7000 },
            ],
            entry: VADDR + 0x40,
            header_at: 0x1000,
            relocatable: Some([0x20_0000, 0xffff_ffff, 0x20_0000, 0]),
            notes: vec![(1, vec![0; 32]), (2, NEEDS.encode().to_vec()), (3, b"luxen 0.1.0-b\0".to_vec())],
            notes_in_segment: true,
        }
    }
}

fn u32s(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn program_header(kind: u32, flags: u32, numbers: [u64; 6]) -> Vec<u8> {
    let mut out = u32s(&[kind, flags]);
    out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    out
}

impl TestImage {
    /// The file without a digest in its note.
    pub fn unsigned(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (kind, body) in &self.notes {
            notes.extend(u32s(&[6, body.len() as u32, *kind]));
            notes.extend(b"luxen\0\0\0");
            notes.extend(body);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        // Headers, then the bytes of the segments, then the notes, then two section headers.
        let mut file = vec![0; 4096];
        let mut headers = Vec::new();
        for load in &self.loads {
            file.resize(file.len().next_multiple_of(load.file_align), 0);
            let at = file.len() as u64;
            let (len, memory) = (load.bytes.len() as u64, load.memory_len);
            let (vaddr, paddr) = (VADDR.wrapping_add(load.at), PADDR.wrapping_add(load.at));
            headers.push(program_header(1, load.flags, [at, vaddr, paddr, len, memory, 4096]));
            file.extend(&load.bytes);
        }
        if let Some([min, max, align, preference]) = self.relocatable {
            let mut header = u32s(&[0xe852_50d6, 0, 48, 0u32.wrapping_sub(0xe852_50d6).wrapping_sub(48)]);
            header.extend(u32s(&[10, 24, min, max, align, preference]));
            header.extend(u32s(&[0, 8]));
            file.resize(file.len().max(self.header_at + 48), 0);
            file[self.header_at..][..48].copy_from_slice(&header);
        }
        file.resize(file.len().next_multiple_of(8), 0);
        let notes_at = file.len() as u64;
        let notes_len = notes.len() as u64;
        file.extend(&notes);
        if self.notes_in_segment {
            headers.push(program_header(4, R, [notes_at, 0, 0, notes_len, notes_len, 4]));
        }
        file.resize(file.len().next_multiple_of(8), 0);
        let sections_at = file.len() as u64;
        file.extend([0; 64]);
        file.extend(u32s(&[0, 7]));
        file.extend([2, 0, notes_at, notes_len, 0, 4, 0].iter().flat_map(|n: &u64| n.to_le_bytes()));

        let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header.extend([2u8, 0, 62, 0, 1, 0, 0, 0]);
        header.extend([self.entry, 64, sections_at].iter().flat_map(|n| n.to_le_bytes()));
        header.extend([0; 4]);
        header.extend([64u16, 56, headers.len() as u16, 64, 2, 0].iter().flat_map(|n| n.to_le_bytes()));
        assert_eq!(header.len(), 64);
        header.extend(headers.concat());
        file[..header.len()].copy_from_slice(&header);
        file
    }

    /// The file as a build makes it.
    pub fn file(&self) -> Vec<u8> {
        let mut file = self.unsigned();
        let mark = u32s(&[6, 32, 1]);
        if let Some(at) = file.windows(12).position(|w| w == mark) {
            let digest: [u8; 32] = Sha256::digest(&file).into();
            file[at + 20..][..32].copy_from_slice(&digest);
        }
        file
    }

    /// What the memory of the slot must be afterwards, up to `len` bytes; `before` where nothing is loaded.
    pub fn loaded_over(&self, mut before: Vec<u8>) -> Vec<u8> {
        for load in self.loads.iter().filter(|l| !(l.flags == R && l.bytes.is_empty())) {
            let at = load.at as usize;
            let pages = (load.memory_len as usize).next_multiple_of(4096);
            before[at..at + pages].fill(0);
            before[at..at + load.bytes.len()].copy_from_slice(&load.bytes);
        }
        before
    }
}
