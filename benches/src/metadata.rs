//! What bookkeeping takes, counted in bytes: entries, page records, and what a boot allocates in the region.

use crate::Bench;
use crate::host::{GIB, HostMemory, Layout, TIB};
use luxen::build;
use luxen::cmdline::RegionSpec;
use luxen::frame::{CHUNK_FRAMES, CHUNK_SIZE, Order, PAGE_SIZE};
use luxen::lu::needs::{Load, RegionNeeds};
use luxen::memmap::{FirmwareEntry, MemMap};
use luxen::mm::bootmem::BootAlloc;
use luxen::mm::frametable::{ChunkEntry, Split};
use luxen::ranges::RangeSet;
use luxen::region::LuRegion;
use luxen_figures::{Curve, Row, Spread, Target};

/// Per cent of the RAM that the entries take, and of what is split that the records take.
fn shares(memory: &mut HostMemory, layout: Layout, nr_frames: u64) -> (f64, f64) {
    let host = memory.host(nr_frames);
    host.claim_all(&layout.extents(nr_frames));
    let (entries, records) = host.metadata_bytes();
    let ram = (nr_frames * PAGE_SIZE) as f64;
    // The slabs that are not used up are of the size that boot takes next; what is asked for is what splits take.
    let used = records - host.frames.stats().nr_unused_splits * size_of::<Split>() as u64;
    let nr_split = used / size_of::<Split>() as u64 * CHUNK_FRAMES;
    let share = if nr_split == 0 { 0.0 } else { 100.0 * used as f64 / (nr_split * PAGE_SIZE) as f64 };
    (100.0 * entries as f64 / ram, share)
}

/// Bytes of the region that a boot of a host takes until memory is plugged in, and how much `RegionNeeds` said it would be. The allocator is the hypervisor's, and
/// so is the order of what it is asked for: page tables, small objects, entries, page records.
pub fn region_bytes(nr_frames: u64, nr_splits: u64) -> (u64, u64) {
    let ram = FirmwareEntry { start: 0, len_bytes: nr_frames * PAGE_SIZE, number: 1 };
    let map = MemMap::from_firmware([ram]).expect("one entry is a map");
    let spec = RegionSpec { len_bytes: 512 << 20, start: None };
    let none = RangeSet::<1>::new();
    let region = LuRegion::place(Some(spec), &map, &none, &none, 0).expect("512 MiB are free below 4 GiB");
    let mut boot = BootAlloc::new(&region, &[]).expect("nothing is reserved");
    let mut take = |bytes: u64| {
        boot.alloc(bytes.div_ceil(PAGE_SIZE), Order::PAGE).expect("512 MiB are enough").range().len_bytes()
    };
    let load = Load { ram_end: map.end(), gib_pages: true, partial_chunks: nr_splits, stream_frames: 0 };
    let needs = RegionNeeds::of(&build::NEEDS, &load);
    let tables = needs.page_tables / PAGE_SIZE;
    let mut taken = PAGE_SIZE;
    for _ in 0..tables {
        taken += take(PAGE_SIZE);
    }
    taken += take(build::EARLY_HEAP_BYTES);
    taken += take(map.end().div_ceil(CHUNK_FRAMES) * size_of::<ChunkEntry>() as u64);
    // Frame 0 is not RAM: the first chunk is split, in a slab of eight.
    let mut nr_slabs = 0;
    let mut left = nr_splits + 1;
    while left > 0 {
        let slab = luxen::mm::frametable::boot_slab_splits(nr_slabs);
        taken += take(slab * size_of::<Split>() as u64);
        left = left.saturating_sub(slab);
        nr_slabs += 1;
    }
    assert_eq!(boot.stats().given + 1, taken / PAGE_SIZE, "the allocator gave what was taken");
    (taken, needs.total())
}

/// All of it.
pub fn run(bench: &mut Bench) {
    bench.progress("metadata");
    let host = 16 * GIB;
    let mut memory = HostMemory::new(TIB, host);
    let exact = Spread::exact;
    let (entries, _) = shares(&mut memory, Layout::Blocks(512), TIB);
    let row = Row::new("entries of 1 TiB", "% of RAM", exact(entries));
    bench.report.add(row.beside("flat records", exact(100.0 * 32.0 / 4096.0)).target(Target::AtMost(0.001)));
    for (layout, name) in
        [(Layout::Alternating, "4 KiB"), (Layout::Blocks(16), "64 KiB"), (Layout::Blocks(512), "2 MiB")]
    {
        let (_, records) = shares(&mut memory, layout, host);
        let row = Row::new(format!("page records, 16 GiB in {name} extents"), "% of what is split", exact(records));
        bench.report.add(row.target(Target::AtMost(0.8)));
    }
    let mut curve = Curve::new("region", "What a boot takes of the region, guests unsplit", "host, GiB", "MiB");
    for gib in [1u64, 16, 64, 256, 1024, 4096, 16384] {
        let (taken, _) = region_bytes(gib * GIB, 0);
        curve.add("luxen", gib as f64, exact(taken as f64 / (1 << 20) as f64));
        curve.add("flat records", gib as f64, exact((gib << 30) as f64 / 128.0 / (1 << 20) as f64));
    }
    bench.report.curves.push(curve);
    let (taken, needs) = region_bytes(TIB, 0);
    let mib = |bytes: u64| exact(bytes as f64 / (1 << 20) as f64);
    let row = Row::new("region of a 1 TiB host, guests unsplit", "MiB", mib(taken.next_multiple_of(CHUNK_SIZE)));
    let row = row.beside("said before the jump", mib(needs)).beside("flat records", mib(TIB * 32));
    bench.report.add(row.target(Target::AtMost(64.0)));
    // The image says what the fixed part is at the most, so it says more than is taken.
    let row = Row::new("region of a 1 TiB host: taken / said", "times", exact(taken as f64 / needs as f64));
    bench.report.add(row.target(Target::AtMost(1.0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_takes_no_more_than_was_said() {
        for gib in [1, 64, 1024] {
            for nr_splits in [0, 5, 100] {
                let (taken, needs) = region_bytes(gib * GIB, nr_splits);
                // Slabs are taken ahead of need, by no more than the pool has.
                let ahead = (nr_splits + 8) * size_of::<Split>() as u64;
                assert!(taken <= needs + ahead, "{gib} GiB, {nr_splits} splits: {taken} of {needs}");
            }
        }
    }

    #[test]
    fn entries_are_16_bytes_for_2_mib() {
        let mut memory = HostMemory::new(GIB, GIB);
        let (entries, records) = shares(&mut memory, Layout::Alternating, GIB);
        assert!((entries - 100.0 * 16.0 / 2_097_152.0).abs() < 1e-9);
        assert!((records - 100.0 * size_of::<Split>() as f64 / 2_097_152.0).abs() < 1e-9);
        assert!(records < 0.8);
    }
}
