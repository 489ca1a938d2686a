//! A kernel without what no loader reads.
//!
//! The boot loader reads the file slowly, and the hypervisor reads only the segments that are loaded and the notes. Left out are
//! symbols, sections, gaps between segments, and the zeros at a segment's end, which the loader makes by itself: `p_memsz` stays. What
//! the guest finds in its memory is the same to the byte.

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::abi::{PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// Segments start at multiples of this, which are what `p_align` then says.
const ALIGN: usize = 4096;

/// The same kernel, only what is loaded and the notes.
pub fn slim(file: &[u8]) -> Result<Vec<u8>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("not a whole ELF file")?;
    ensure!(elf.ehdr.class == Class::ELF64, "not an ELF64 file");
    let segments = elf.segments().context("an ELF file without program headers")?;
    let kept: Vec<ProgramHeader> = segments.iter().filter(|s| matches!(s.p_type, PT_LOAD | PT_NOTE)).collect();
    ensure!(kept.iter().any(|s| s.p_type == PT_LOAD), "an ELF file in which nothing is to be loaded");

    let mut out = vec![0; HEADER_BYTES + kept.len() * PROGRAM_HEADER_BYTES];
    let mut headers = kept.clone();
    for (old, new) in kept.iter().zip(&mut headers).filter(|(old, _)| old.p_type == PT_LOAD) {
        let bytes = elf.segment_data(old).context("a segment lies outside the file")?;
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // Offset and address have to agree in their last bits.
        out.resize(out.len().next_multiple_of(ALIGN) + old.p_vaddr as usize % ALIGN, 0);
        new.p_offset = out.len() as u64;
        new.p_filesz = used as u64;
        new.p_align = ALIGN as u64;
        out.extend_from_slice(&bytes[..used]);
    }
    for index in (0..kept.len()).filter(|&index| kept[index].p_type == PT_NOTE) {
        let note = &kept[index];
        let bytes = elf.segment_data(note).context("a segment of notes lies outside the file")?;
        // Notes are part of a loaded segment as a rule, and then they are in the new file already.
        let inside = kept.iter().zip(&headers).find_map(|(old, new)| {
            let from = note.p_offset.checked_sub(old.p_offset)?;
            (old.p_type == PT_LOAD && from + note.p_filesz <= new.p_filesz).then(|| new.p_offset + from)
        });
        headers[index].p_offset = match inside {
            Some(offset) => offset,
            None => {
                out.resize(out.len().next_multiple_of(8), 0);
                let offset = out.len() as u64;
                out.extend_from_slice(bytes);
                offset
            }
        };
    }

    out[..HEADER_BYTES].copy_from_slice(file.get(..HEADER_BYTES).context("the file is cut off")?);
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(32, &(HEADER_BYTES as u64).to_le_bytes());
    put(40, &0u64.to_le_bytes());
    put(54, &(PROGRAM_HEADER_BYTES as u16).to_le_bytes());
    put(56, &(headers.len() as u16).to_le_bytes());
    // Size, number and names of sections.
    put(58, &[0; 6]);
    for (index, h) in headers.iter().enumerate() {
        let at = HEADER_BYTES + index * PROGRAM_HEADER_BYTES;
        put(at, &h.p_type.to_le_bytes());
        put(at + 4, &h.p_flags.to_le_bytes());
        let fields = [h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz, h.p_align];
        fields.iter().enumerate().for_each(|(n, field)| put(at + 8 + 8 * n, &field.to_le_bytes()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// (type, offset, address, bytes in the file, bytes in memory)
    type Segment = (u32, u64, u64, u64, u64);

    fn file(segments: &[Segment], len: usize) -> Vec<u8> {
        let mut file: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        file[..64].fill(0);
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16] = 2;
        file[18] = 62;
        file[20] = 1;
        file[24..32].copy_from_slice(&0x1000u64.to_le_bytes());
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = segments.len() as u8;
        for (index, (kind, offset, address, in_file, in_memory)) in segments.iter().enumerate() {
            let at = 64 + index * 56;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            file[at + 4..at + 8].copy_from_slice(&7u32.to_le_bytes());
            let fields = [*offset, *address, *address, *in_file, *in_memory, 0x1000];
            for (n, field) in fields.iter().enumerate() {
                file[at + 8 + 8 * n..at + 16 + 8 * n].copy_from_slice(&field.to_le_bytes());
            }
        }
        file
    }

    /// What a loader puts into memory, byte for byte, and every note segment's bytes.
    fn loaded(file: &[u8]) -> (BTreeMap<u64, u8>, Vec<Vec<u8>>) {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).unwrap();
        let mut memory = BTreeMap::new();
        let mut notes = Vec::new();
        for segment in elf.segments().unwrap().iter() {
            let bytes = elf.segment_data(&segment).unwrap();
            if segment.p_type == PT_NOTE {
                notes.push(bytes.to_vec());
            }
            if segment.p_type == PT_LOAD {
                assert_eq!(segment.p_offset % segment.p_align, segment.p_vaddr % segment.p_align);
                for n in 0..segment.p_memsz {
                    memory.insert(segment.p_paddr + n, bytes.get(n as usize).copied().unwrap_or(0));
                }
            }
        }
        (memory, notes)
    }

    #[test]
    fn memory_and_notes_stay_the_same() {
        let segments = [
            (PT_LOAD, 0x8000, 0x10_0000, 0x3000, 0x3000),
            (PT_LOAD, 0x1_0123, 0x20_0123, 0x2000, 0x4000),
            // Notes within the first segment, behind a segment of another kind.
            (0x6474_e551, 0, 0, 0, 0),
            (PT_NOTE, 0x8100, 0x10_0100, 0x40, 0x40),
            // Notes outside.
            (PT_NOTE, 0x1_f001, 0, 0x31, 0x31),
        ];
        let mut whole = file(&segments, 0x2_0000);
        whole[0x1_1000..0x1_2123].fill(0);
        let small = slim(&whole).unwrap();
        assert_eq!(loaded(&whole), loaded(&small));
        // Two segments of 3 and 1 pages, each at most a page behind where it could be, a page of headers, and the notes.
        assert!(small.len() < 7 * 4096 + 0x40, "{} bytes", small.len());
        assert_eq!(small[..32], whole[..32]);
        // Once small, it stays what it is.
        assert_eq!(slim(&small).unwrap(), small);
    }

    #[test]
    fn a_segment_of_zeros_has_no_bytes_and_keeps_its_memory() {
        let mut whole = file(&[(PT_LOAD, 0x1000, 0x1000, 0x1000, 0x3000), (PT_LOAD, 0x2000, 0x8000, 16, 16)], 0x3000);
        whole[0x1000..0x2000].fill(0);
        let small = slim(&whole).unwrap();
        assert_eq!(loaded(&whole), loaded(&small));
    }

    #[test]
    fn notes_among_the_zeros_that_go_are_kept() {
        let mut whole = file(&[(PT_LOAD, 0x1000, 0x1000, 0x1000, 0x1000), (PT_NOTE, 0x1f00, 0x1f00, 16, 16)], 0x2000);
        whole[0x1800..0x2000].fill(0);
        assert_eq!(loaded(&whole), loaded(&slim(&whole).unwrap()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |bytes: &[u8], reason: &str| {
            let error = format!("{:#}", slim(bytes).unwrap_err());
            assert!(error.contains(reason), "{error}");
        };
        refused(b"\x7fELF", "not a whole ELF file");
        refused(&file(&[(PT_NOTE, 0x100, 0, 4, 4)], 0x200), "nothing is to be loaded");
        refused(&file(&[(PT_LOAD, 0x100, 0, 0x1000, 0x1000)], 0x200), "outside the file");
        refused(&file(&[(PT_LOAD, u64::MAX - 8, 0, 0x1000, 0x1000)], 0x200), "outside the file");
    }
}
