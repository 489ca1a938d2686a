//! What validation costs a leaf entry: the hot loop of an update's pause. Run by hand, in a release build:
//! `cargo test --release --lib cost -- --ignored --nocapture`; under `valgrind --tool=none` or `perf stat` it counts instructions.

use super::{D1, TEMPLATE, may_map};
use crate::frame::{Maddr, Mfn, PAGE_SIZE};
use crate::mm::page_info::{CountFlags, NoPage, PageInfo, PageLookup};
use crate::mm::physmem::PhysMem;
use crate::mm::types::{DomainView, PageTypes};
use std::cell::Cell;
use std::time::Instant;
use std::vec::Vec;
use std::{println, vec};

/// Memory without gaps, as cheap as a direct map.
struct Flat(Vec<Cell<u64>>);

impl PhysMem for Flat {
    fn read_u64(&self, at: Maddr) -> u64 {
        self.0[at.get() as usize / 8].get()
    }

    fn write_u64(&self, at: Maddr, value: u64) {
        self.0[at.get() as usize / 8].set(value);
    }

    fn compare_exchange_u64(&self, at: Maddr, old: u64, new: u64) -> Result<(), u64> {
        let found = self.read_u64(at);
        if found == old {
            self.write_u64(at, new);
            return Ok(());
        }
        Err(found)
    }

    fn read(&self, at: Maddr, into: &mut [u8]) {
        let first = at.get() as usize / 8;
        for (bytes, word) in into.chunks_exact_mut(8).zip(&self.0[first..]) {
            bytes.copy_from_slice(&word.get().to_le_bytes());
        }
    }

    fn write(&self, at: Maddr, from: &[u8]) {
        for (i, bytes) in from.chunks_exact(8).enumerate() {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            self.write_u64(at.offset(i as u64 * 8), u64::from_le_bytes(word));
        }
    }

    fn zero(&self, at: Maddr, len_bytes: u64) {
        for i in 0..len_bytes / 8 {
            self.write_u64(at.offset(i * 8), 0);
        }
    }
}

/// Records found by one table look-up and one index, as in a frametable of two levels.
struct TwoLevels(Vec<Vec<PageInfo>>);

impl PageLookup for TwoLevels {
    #[inline]
    fn page(&self, mfn: Mfn) -> Result<&PageInfo, NoPage> {
        let chunk = self.0.get(mfn.chunk() as usize).ok_or(NoPage::NotRam)?;
        chunk.get(mfn.index_in_chunk()).ok_or(NoPage::NotOwned)
    }

    fn free_page(&self, mfn: Mfn) {
        panic!("frame {mfn} was freed");
    }
}

#[test]
#[ignore = "a measurement"]
fn a_leaf_entry() {
    // 64 MiB, mapped once, by 32 level-1 tables at the end of it; the tables themselves read-only, as Linux has them.
    const CHUNKS: u64 = 32;
    const FRAMES: u64 = CHUNKS * 512;
    const ROUNDS: u64 = 20;
    let mem = Flat(vec![Cell::new(0); (FRAMES * PAGE_SIZE / 8) as usize]);
    let l1 = FRAMES - CHUNKS;
    let (l2, l3, l4) = (l1 - 1, l1 - 2, l1 - 3);
    for mfn in 0..FRAMES {
        let rw = if mfn < l4 { 2 } else { 0 };
        mem.write_u64(Mfn::new(l1).maddr().offset(mfn * 8), mfn << 12 | 0x65 | rw | 1 << 52);
    }
    for table in 0..CHUNKS {
        mem.write_u64(Mfn::new(l2).maddr().offset(table * 8), (l1 + table) << 12 | 0x67);
    }
    mem.write_u64(Mfn::new(l3).maddr(), l2 << 12 | 0x67);
    mem.write_u64(Mfn::new(l4).maddr(), l3 << 12 | 0x67);
    let view = DomainView { id: D1, hypervisor_slots: &TEMPLATE, may_map: &may_map, has_hardware: false };
    let (mut alone, mut shared, mut down) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let pages = TwoLevels((0..CHUNKS).map(|_| (0..512).map(|_| PageInfo::uninitialised()).collect()).collect());
        pages.0.iter().flatten().for_each(|page| page.assign(D1, CountFlags::empty()));
        let types = PageTypes::new(&pages, &mem, view);
        let start = Instant::now();
        let stats = types.replay_pin(Mfn::new(l4), 4).unwrap();
        alone += start.elapsed().as_nanos();
        assert_eq!(stats.leaves, FRAMES);
        let start = Instant::now();
        types.unpin(Mfn::new(l4)).unwrap();
        down += start.elapsed().as_nanos();
        let start = Instant::now();
        types.pin(Mfn::new(l4), 4).unwrap();
        shared += start.elapsed().as_nanos();
    }
    let entries = (FRAMES * ROUNDS) as f64;
    let each = |ns: u128| ns as f64 / entries;
    println!(
        "a leaf entry: {:.2} ns to replay, {:.2} ns to validate, {:.2} ns to drop",
        each(alone),
        each(shared),
        each(down)
    );
}
