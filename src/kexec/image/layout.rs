//! The program headers: what goes where.

use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;

use super::{ImageError, MAX_SEGMENTS, Segment};
use crate::frame::PAGE_SIZE;

/// What the program headers say.
pub(super) struct Layout {
    pub(super) segments: [Segment; MAX_SEGMENTS],
    pub(super) nr_segments: usize,
    pub(super) extent: u64,
    pub(super) entry_offset: u64,
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
    pub(super) fn read(elf: &ElfBytes<'_, LittleEndian>, file_len: u64) -> Result<Self, ImageError> {
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
