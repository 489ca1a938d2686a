//! What the loader and the firmware say: boot information of both Multiboot protocols, the memory map in it, and the region's place in that.
//!
//! The first byte says what the rest is: 0 a Multiboot2 structure behind its total size, 1 memory at 0x1000 with a Multiboot1 structure at its
//! beginning, anything else entries of the map: a kind, and start and length as frames with a few bytes more or less.

use crate::check_message;
use luxen::bootinfo::BootInfo;
use luxen::cmdline::RegionSpec;
use luxen::frame::{CHUNK_FRAMES, CHUNK_SIZE, Maddr, Mfn, MfnRange};
use luxen::memmap::{FirmwareEntry, Kind, MAX_ENTRIES, MemMap};
use luxen::mm::physmem::PhysMem;
use luxen::mm::physmem::sparse::SparseMem;
use luxen::ranges::RangeSet;
use luxen::region::{LIMIT, LuRegion, MIN_LEN};
use multiboot2::{BootInformation, BootInformationHeader};

/// Where a Multiboot1 structure lies.
const MB1_AT: u32 = 0x1000;

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    // Large, and not for the stack.
    let mut info = Box::new(BootInfo::EMPTY);
    let read = match mode {
        0 => multiboot2(&mut info, rest),
        1 => {
            let mem = SparseMem::new();
            mem.write(Maddr::new(MB1_AT.into()), rest);
            info.read_multiboot1(&mem, MB1_AT)
        }
        _ => {
            let entries = rest.as_chunks::<11>().0.iter().take(MAX_ENTRIES + 1).map(entry);
            return check_map(entries.collect());
        }
    };
    match read {
        Ok(()) => check_map(info.entries().to_vec()),
        Err(error) => check_message(&error),
    }
    assert!(info.modules().iter().all(|module| module.string.as_str() == module.string.as_str().trim_ascii()));
}

/// Reads the structure as the boot code does. Its header gets the size that it has, as that is the loader's to know.
#[expect(unsafe_code, reason = "the interface of the crate that reads it")]
fn multiboot2(info: &mut BootInfo, tags: &[u8]) -> Result<(), luxen::bootinfo::BootInfoError> {
    let len = (8 + tags.len() + 8).next_multiple_of(8);
    let mut words = vec![0u64; len / 8];
    words[0] = len as u64;
    let mut bytes = tags.to_vec();
    bytes.resize(len - 16, 0);
    for (word, bytes) in words[1..].iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    // The tag that ends it.
    words[len / 8 - 1] = 8 << 32;
    let header = words.as_ptr().cast::<BootInformationHeader>();
    // SAFETY: the words are aligned, as many as the header says, and outlive the structure.
    let Ok(loaded) = (unsafe { BootInformation::load(header) }) else {
        return Err(luxen::bootinfo::BootInfoError::Structure);
    };
    info.read_multiboot2(&loaded)
}

fn entry(bytes: &[u8; 11]) -> FirmwareEntry {
    let [number, s0, s1, s2, s3, off, l0, l1, l2, l3, more] = *bytes;
    let at = |frame: [u8; 4], by: u8| {
        (u64::from(u32::from_le_bytes(frame)) << 12).wrapping_add_signed(i64::from(by as i8) << (by & 7))
    };
    FirmwareEntry {
        start: at([s0, s1, s2, s3], off),
        len_bytes: at([l0, l1, l2, l3], more),
        number: u32::from(number % 16),
    }
}

fn check_map(entries: Vec<FirmwareEntry>) {
    let map = match MemMap::from_firmware(entries.iter().copied()) {
        Ok(map) => map,
        Err(error) => {
            assert!(entries.len() > MAX_ENTRIES);
            return check_message(&error);
        }
    };
    assert_eq!(map.firmware_entries(), entries);
    let ranges: Vec<(MfnRange, Kind)> = map.iter().collect();
    for two in ranges.windows(2) {
        assert!(two[0].0.end() <= two[1].0.start(), "{map:?}");
    }
    // The naive model, wherever something can change.
    for range in entries.iter().map(FirmwareEntry::frames).filter(|range| !range.is_empty()) {
        for frame in [range.start().wrapping_sub(1), range.start(), range.end() - 1, range.end(), 0] {
            let Ok(mfn) = Mfn::try_new(frame) else { continue };
            let said = entries.iter().filter(|entry| entry.frames().contains(mfn)).map(FirmwareEntry::kind).max();
            let said = if frame == 0 && said == Some(Kind::Ram) { Some(Kind::Reserved) } else { said };
            assert_eq!(map.kind_at(mfn), said, "frame {mfn}");
            assert_eq!(map.is_ram(MfnRange::new(mfn, 1)), said == Some(Kind::Ram));
        }
    }
    place_regions(&map, &ranges);
}

fn place_regions(map: &MemMap, ranges: &[(MfnRange, Kind)]) {
    let mut busy = RangeSet::<4>::new();
    busy.insert(MfnRange::new(Mfn::new(CHUNK_FRAMES), 2 * CHUNK_FRAMES)).expect("there is room");
    let mut movable = RangeSet::<4>::new();
    movable.insert(MfnRange::new(Mfn::new(5 * CHUNK_FRAMES + 7), 3)).expect("there is room");
    let starts = ranges.iter().map(|(range, _)| Some(range.start() << 12)).take(4);
    for start in starts.chain([None, Some(CHUNK_SIZE), Some(u64::MAX)]) {
        for len_bytes in [MIN_LEN, 16 * CHUNK_SIZE, MIN_LEN + 1, 1 << 40] {
            let spec = RegionSpec { len_bytes, start };
            match LuRegion::place(Some(spec), map, &busy, &movable, MIN_LEN) {
                Ok(region) => {
                    let range = region.range();
                    assert_eq!(region.len_bytes(), len_bytes);
                    assert!(start.is_none_or(|start| region.start().get() == start));
                    assert!(range.start().is_multiple_of(CHUNK_FRAMES) && range.end() << 12 <= LIMIT);
                    assert!(map.is_ram(range) && !busy.overlaps(range));
                }
                Err(error) => check_message(&error),
            }
        }
    }
}
