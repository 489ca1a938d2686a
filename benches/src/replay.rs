//! Page types replayed: guests with real page tables, in frames that are there, over the hypervisor's own frametable.
//!
//! ```text
//!  the guest's frames  ├ memory, mapped writable ──────────────┼ L1 tables, mapped read-only ┼ L2 ┼ L3 ┼ L4 ┤
//! ```
//!
//! Every frame is mapped once, as Linux's direct map does it: in order, or (scattered) each leaf another frame at random. The guest's memory was claimed whole, so the
//! replay also makes a record for each frame.

use crate::Bench;
use crate::baseline::flat::Flat;
use crate::host::{FIRST_GUEST, GIB, HostMemory};
use crate::measure::{Clock, Contender, interleave};
use crate::memory::{Backing, Huge};
use luxen::frame::{DomId, Mfn, MfnRange};
use luxen::mm::page_info::{PageLookup, PageType};
use luxen::mm::physmem::PhysMem;
use luxen::mm::types::{DomainView, PageTypes};
use luxen_figures::{Curve, Row, Spread, Target};
use std::cell::RefCell;

const OURS: &str = "luxen";
const SPLIT: &str = "luxen, records there before";
const FLOOR: &str = "entries read, two counts a flat record (floor)";
const GUEST: DomId = DomId::new(1);
const PRESENT: u64 = 1;
const RW: u64 = 2;
const USER: u64 = 4;
const ACCESSED_DIRTY: u64 = 0x60;

/// A guest: where its tables are.
struct Guest {
    memory: Backing,
    nr_frames: u64,
    /// First frame of the tables of levels 1 to 4, and the first behind them.
    levels: [u64; 5],
}

impl Guest {
    /// A guest of so many frames, which it maps in order or at random.
    fn new(nr_frames: u64, is_scattered: bool) -> Self {
        let end = FIRST_GUEST + nr_frames;
        let [nr_l1, nr_l2, nr_l3] = [1u32, 2, 3].map(|level| nr_frames.div_ceil(512u64.pow(level)));
        let l4 = end - 1;
        let levels = [l4 - nr_l3 - nr_l2 - nr_l1, l4 - nr_l3 - nr_l2, l4 - nr_l3, l4, end];
        let guest = Self { memory: Backing::new(levels[0], end - levels[0]), nr_frames, levels };
        let mut order: Vec<u32> = Vec::new();
        if is_scattered {
            order = (0..nr_frames as u32).collect();
            fastrand::Rng::with_seed(3).shuffle(&mut order);
        }
        let write = |table: u64, slot: u64, entry: u64| {
            guest.memory.write_u64(Mfn::new(table).maddr().offset(slot * 8), entry);
        };
        for i in 0..nr_frames {
            let mfn = FIRST_GUEST + order.get(i as usize).map_or(i, |&nth| nth.into());
            let rw = if mfn < levels[0] { RW } else { 0 };
            write(levels[0] + i / 512, i % 512, mfn << 12 | PRESENT | USER | ACCESSED_DIRTY | rw);
        }
        for level in 1..4 {
            for i in 0..levels[level] - levels[level - 1] {
                let entry = (levels[level - 1] + i) << 12 | PRESENT | RW | USER | ACCESSED_DIRTY;
                write(levels[level] + i / 512, i % 512, entry);
            }
        }
        guest
    }

    fn l4(&self) -> Mfn {
        Mfn::new(self.levels[3])
    }

    fn range(&self) -> MfnRange {
        MfnRange::new(Mfn::new(FIRST_GUEST), self.nr_frames)
    }
}

/// Nanoseconds a leaf entry.
fn ours(clock: Clock, memory: &RefCell<HostMemory>, guest: &Guest, is_split_before: bool) -> Vec<f64> {
    let mut memory = memory.borrow_mut();
    let host = memory.host(2 * guest.nr_frames + 2 * GIB);
    host.claim(guest.range(), GUEST);
    host.plug_in();
    if is_split_before {
        for chunk in guest.range().iter().step_by(512) {
            host.frames.page(chunk).expect("there is memory for a record");
        }
    }
    let slots = [0; 16];
    let view = DomainView { id: GUEST, hypervisor_slots: &slots, may_map: &|_, _, _| false, has_hardware: false };
    let types = PageTypes::new(&host.frames, &guest.memory, view);
    let (ns, result) = clock.time(|| types.replay_pin(guest.l4(), 4));
    let stats = result.expect("the tables are right");
    assert_eq!((stats.leaves, stats.tables), (guest.nr_frames, guest.levels[4] - guest.levels[0]), "all is looked at");
    let check = |mfn: u64, ty: PageType| {
        let page = host.frames.page(Mfn::new(mfn)).expect("the frame has a record");
        // Its owner's reference, its mapping's, and a table's own.
        let is_table = ty != PageType::Writable;
        assert_eq!((page.page_type(), page.count()), (ty, 2 + u64::from(is_table)), "frame {mfn:#x}");
    };
    check(FIRST_GUEST, PageType::Writable);
    check(guest.levels[0] - 1, PageType::Writable);
    check(guest.levels[0], PageType::L1);
    check(guest.levels[1], PageType::L2);
    assert!(host.frames.ledger().is_balanced(), "no frame is lost");
    vec![ns / guest.nr_frames as f64]
}

/// What has to be done at the very least: all entries are read and each frame's flat record counts two references. Nothing is checked but the owner.
fn floor(clock: Clock, memory: &mut Huge, guest: &Guest) -> Vec<f64> {
    let end = guest.range().end();
    let table = Flat::new(memory, end);
    table.claim(FIRST_GUEST, guest.nr_frames, GUEST.get()).expect("nobody has the frames");
    let (ns, nr) = clock.time(|| {
        let mut nr = 0u64;
        let mut bytes = [0; 4096];
        for l1 in guest.levels[0]..guest.levels[1] {
            guest.memory.read(Mfn::new(l1).maddr(), &mut bytes);
            for entry in bytes.as_chunks::<8>().0 {
                let entry = u64::from_le_bytes(*entry);
                if entry & PRESENT != 0 {
                    nr += u64::from(table.refer((entry << 12 >> 24) as usize, GUEST.get()));
                }
            }
        }
        nr
    });
    assert_eq!(nr, guest.nr_frames, "every frame is the guest's");
    assert_eq!(table.references(FIRST_GUEST as usize), 2);
    vec![ns / guest.nr_frames as f64]
}

/// All of it.
pub fn run(bench: &mut Bench) {
    let sizes: &[u64] = if bench.is_quick { &[256, 4096] } else { &[256, 1024, 4096, 16384, 65536] };
    let largest = sizes.last().copied().unwrap_or(256) * 256;
    let memory = RefCell::new(HostMemory::new(2 * largest + 2 * GIB, largest));
    let mut flat = Huge::new(Flat::len_bytes(FIRST_GUEST + largest));
    for (is_scattered, name, file) in [(false, "in order", "replay"), (true, "scattered", "replay-scattered")] {
        let title = format!("Page types replayed, the guest's memory mapped {name}");
        let mut curve = Curve::new(file, title, "guest, MiB", "ns a leaf entry");
        for &mib in sizes {
            bench.progress(&format!("replay: {mib} MiB, {name}"));
            let guest = Guest::new(mib * 256, is_scattered);
            let clock = bench.clock;
            let mut contenders = [
                Contender::new(OURS, || ours(clock, &memory, &guest, false)),
                Contender::new(SPLIT, || ours(clock, &memory, &guest, true)),
                Contender::new(FLOOR, || floor(clock, &mut flat, &guest)),
            ];
            let rounds = bench.rounds(if mib > 16384 { 4 } else { 8 });
            let spreads: Vec<Spread> = interleave(rounds, &mut contenders).into_iter().map(|s| s[0]).collect();
            let size = if mib >= 1024 { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") };
            let row = Row::new(format!("type replay of {size}, {name}"), "ns/leaf", spreads[0]);
            bench.report.add(row.beside(SPLIT, spreads[1]).beside(FLOOR, spreads[2]).target(Target::AtMost(8.0)));
            for (contender, spread) in contenders.iter().zip(&spreads) {
                curve.add(contender.name, mib as f64, *spread);
            }
        }
        bench.report.curves.push(curve);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_guests_are_replayed_and_add_up() {
        let memory = RefCell::new(HostMemory::new(2 * GIB + 2 * 65536, 65536));
        let mut flat = Huge::new(Flat::len_bytes(FIRST_GUEST + 65536));
        for is_scattered in [false, true] {
            let guest = Guest::new(65536, is_scattered);
            // The functions check all counts.
            for is_split in [false, true] {
                assert!(ours(Clock::new(), &memory, &guest, is_split)[0] > 0.0);
            }
            assert!(floor(Clock::new(), &mut flat, &guest)[0] > 0.0);
        }
    }
}
