//! It maps all frames that the boot mapping does not have, page tables of its own making included, at L4 slot 272
//! (address = start of the slot + pfn * 4096), and then goes round: verify a page, write it anew with the next
//! generation, on to the next one. A page's words depend on its pfn, mfn and generation (`luxen_guests::pattern`), so a
//! lost write, a swapped or moved page, and a stray write all show. With every page its M2P entry and its L1 entry are
//! checked too. A failure names pfn, word, expected and found value.
//!
//! Options: `extents=<n>` (before the first round: give back every second page of a stretch, get half of them again in
//! another order, exchange some more, so that the domain is made of more than n pieces), `all-words` (all 512 words of a
//! page instead of 8), `rest-ms=<n>` (0: pause after every 64 pages), `report-ms=<n>` (2000).

#![expect(unsafe_code, reason = "pages are reached by raw addresses")]

use core::ops::Range;
use core::sync::atomic::Ordering;

use luxen_guests::abi::{Exchange, FIRST_GUEST_HIGH_SLOT, INVALID_FRAME, MmuUpdate, PAGE_SIZE, Reservation, op};
use luxen_guests::clock::{MS, Seconds};
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::memory::{self, fill, m2p, mfn, p2m};
use luxen_guests::machine::traps::{CallbackInterface, not_mine};
use luxen_guests::machine::{events, hypercall, time};
use luxen_guests::pattern::{ALL_WORDS, PagePattern, SOME_WORDS};
use luxen_guests::{kernel, pte, say};

kernel!(
    name: "memory",
    run: run,
    traps: not_mine,
    setup: Setup { callbacks: CallbackInterface::SetCallbacks, moves_vcpu_info: false },
    calls: syscall
);

/// Pages between two looks at the console, and frames in one hypercall's list.
const BATCH: usize = 64;
/// Pages that are exchanged at once for as many that lie together.
const EXCHANGE_ORDER: u32 = 3;

/// The guest's own mapping of its free frames.
struct DirectMap {
    /// pfns that are mapped to be written.
    data: Range<u64>,
    /// First L1 table, for the pfns from `first_l1_index * 512` on; the others follow it.
    first_l1: u64,
    first_l1_index: u64,
}

fn run(guest: &mut Guest) {
    let extents = guest.number("extents", 0);
    let words = if guest.options().has("all-words") { ALL_WORDS } else { SOME_WORDS };
    let rest = guest.number("rest-ms", 0).saturating_mul(MS);
    let report = guest.number("report-ms", 2000).saturating_mul(MS);

    let given = memory::start_info().nr_pages;
    check_reservation(given);
    let map = DirectMap::build(memory::free_pfns());
    let missing = if extents == 0 { 0 } else { fragment(&map, extents) };
    let owned = given - missing;
    check_reservation(owned);

    let mut generation = 1;
    for pfn in map.pages() {
        map.write(pfn, generation, words);
    }
    let pages = map.pages().count();
    say!(
        "owns {pages} pages from pfn {:#x} on, {} extents, at {}",
        map.data.start,
        map.extents(),
        Seconds(time::now())
    );

    let mut next_report = time::now().saturating_add(report);
    loop {
        let mut in_batch = 0;
        for pfn in map.pages() {
            map.verify(pfn, generation, words);
            map.write(pfn, generation + 1, words);
            in_batch += 1;
            if in_batch < BATCH {
                continue;
            }
            in_batch = 0;
            let seen = events::total();
            if guest.poll() {
                let written = pfn;
                return check_up(&map, words, owned, |pfn| if pfn <= written { generation + 1 } else { generation });
            }
            if rest != 0 {
                guest.sleep(seen, time::now().saturating_add(rest));
            }
        }
        generation += 1;
        let now = time::now();
        if now >= next_report {
            say!("generation {generation} of {pages} pages at {}", Seconds(now));
            next_report = now.saturating_add(report);
        }
        if guest.poll() {
            return check_up(&map, words, owned, |_| generation);
        }
    }
}

/// The last look at every page.
fn check_up(map: &DirectMap, words: usize, owned: u64, generation_of: impl Fn(u64) -> u64) {
    let mut pages = 0u64;
    for pfn in map.pages() {
        map.verify(pfn, generation_of(pfn), words);
        pages += 1;
    }
    check_reservation(owned);
    say!("checked {pages} pages, {} extents", map.extents());
}

fn check_reservation(expected: u64) {
    let reservation = memory::current_reservation();
    assert!(reservation == expected, "the domain has {reservation} pages, not {expected}");
}

impl DirectMap {
    /// Builds the tables for the given pfns out of the first of them.
    fn build(pfns: Range<u64>) -> DirectMap {
        let first_l1_index = pfns.start / 512;
        let nr_l1 = pfns.end.div_ceil(512) - first_l1_index;
        let first_l2_index = first_l1_index / 512;
        let nr_l2 = (first_l1_index + nr_l1).div_ceil(512) - first_l2_index;
        assert!(pfns.end < 512 * 512 * 512, "more memory than one L4 slot can map");

        let l3 = pfns.start;
        let first_l2 = l3 + 1;
        let first_l1 = first_l2 + nr_l2;
        let data = first_l1 + nr_l1..pfns.end;
        assert!(data.start < data.end, "the domain is too small: {} free pages", pfns.end - pfns.start);

        for l1 in 0..nr_l1 {
            let first_pfn = (first_l1_index + l1) * 512;
            fill(mfn(first_l1 + l1), |index| {
                let pfn = first_pfn + index as u64;
                if data.contains(&pfn) {
                    pte::entry(mfn(pfn), pte::DATA)
                } else if pfns.contains(&pfn) {
                    // A page table must not be mapped to be written, by nobody.
                    pte::entry(mfn(pfn), pte::READ_ONLY)
                } else {
                    0
                }
            });
        }
        for l2 in 0..nr_l2 {
            let first_index = (first_l2_index + l2) * 512;
            fill(mfn(first_l2 + l2), |index| {
                match (first_index + index as u64).checked_sub(first_l1_index).filter(|&l1| l1 < nr_l1) {
                    Some(l1) => pte::entry(mfn(first_l1 + l1), pte::TABLE),
                    None => 0,
                }
            });
        }
        fill(mfn(l3), |index| match (index as u64).checked_sub(first_l2_index).filter(|&l2| l2 < nr_l2) {
            Some(l2) => pte::entry(mfn(first_l2 + l2), pte::TABLE),
            None => 0,
        });

        hypercall::write_entry(memory::boot_l4_entry(FIRST_GUEST_HIGH_SLOT), pte::entry(mfn(l3), pte::TABLE))
            .unwrap_or_else(|e| panic!("new L3 in slot {FIRST_GUEST_HIGH_SLOT}: {e}"));
        DirectMap { data, first_l1, first_l1_index }
    }

    /// The pfns that are there, in order.
    fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        self.data.clone().filter(|&pfn| mfn(pfn) != INVALID_FRAME)
    }

    /// Address of a word of a mapped page.
    fn word(pfn: u64, index: usize) -> u64 {
        assert!(index < ALL_WORDS);
        pte::slot_start(FIRST_GUEST_HIGH_SLOT) + pfn * PAGE_SIZE + index as u64 * 8
    }

    /// pfn of the L1 table that maps a pfn, and the index in it.
    fn l1_entry(&self, pfn: u64) -> (u64, u64) {
        (self.first_l1 + pfn / 512 - self.first_l1_index, pfn % 512)
    }

    fn read(pfn: u64, index: usize) -> u64 {
        // SAFETY: only called for pfns in the direct map and indices below 512; no Rust object is there.
        unsafe { (Self::word(pfn, index) as *const u64).read_volatile() }
    }

    fn write(&self, pfn: u64, generation: u64, words: usize) {
        let pattern = PagePattern { pfn, mfn: mfn(pfn), generation };
        for index in pattern.indices(words) {
            // SAFETY: `pfn` is a data page, mapped to be written; no Rust object is there.
            unsafe { (Self::word(pfn, index) as *mut u64).write_volatile(pattern.word(index)) };
        }
    }

    fn verify(&self, pfn: u64, generation: u64, words: usize) {
        let mfn = mfn(pfn);
        let back = m2p(mfn);
        assert!(back == pfn, "pfn {pfn:#x} is mfn {mfn:#x}, but the M2P says {back:#x}");
        let (l1, index) = self.l1_entry(pfn);
        let (found, written) = (Self::read(l1, index as usize), pte::entry(mfn, pte::DATA));
        assert!(pte::is_same(found, written), "pfn {pfn:#x}: L1 entry expected {written:#x}, found {found:#x}");
        let pattern = PagePattern { pfn, mfn, generation };
        for index in pattern.indices(words) {
            let (expected, found) = (pattern.word(index), Self::read(pfn, index));
            assert!(
                expected == found,
                "pfn {pfn:#x} (mfn {mfn:#x}) generation {generation} word {index}: expected {expected:#x}, found {found:#x}"
            );
        }
    }

    /// Pieces that follow one another both in pfns and in mfns.
    fn extents(&self) -> u64 {
        let mut extents = 0;
        let mut previous = None;
        for pfn in self.pages() {
            let mfn = mfn(pfn);
            if previous != pfn.checked_sub(1).zip(mfn.checked_sub(1)) {
                extents += 1;
            }
            previous = Some((pfn, mfn));
        }
        extents
    }

    /// Sets the L1 entries of some pfns, by what the p2m list says of them.
    fn remap(&self, pfns: &[u64]) {
        let mut updates = [MmuUpdate::default(); BATCH];
        for (update, &pfn) in updates.iter_mut().zip(pfns) {
            let (l1, index) = self.l1_entry(pfn);
            let val = match mfn(pfn) {
                INVALID_FRAME => 0,
                mfn => pte::entry(mfn, pte::DATA),
            };
            *update = MmuUpdate { ptr: mfn(l1) * PAGE_SIZE + index * 8, val };
        }
        hypercall::mmu_update(&updates[..pfns.len()], op::DOMID_SELF).unwrap_or_else(|e| panic!("mmu_update: {e}"));
        hypercall::mmuext(op::MMUEXT_TLB_FLUSH_LOCAL, 0).unwrap_or_else(|e| panic!("TLB flush: {e}"));
    }

    /// Unmaps pfns and forgets their frames, which are written to `frames`.
    fn take_out(&self, pfns: &[u64], frames: &mut [u64]) {
        for (frame, &pfn) in frames.iter_mut().zip(pfns) {
            *frame = p2m()[pfn as usize].swap(INVALID_FRAME, Ordering::Relaxed);
        }
        self.remap(pfns);
    }

    /// Puts new frames behind pfns and maps them.
    fn put_in(&self, pfns: &[u64], frames: &[u64]) {
        for (&frame, &pfn) in frames.iter().zip(pfns) {
            let back = m2p(frame);
            assert!(back == pfn, "new frame {frame:#x} for pfn {pfn:#x}, but the M2P says {back:#x}");
            p2m()[pfn as usize].store(frame, Ordering::Relaxed);
        }
        self.remap(pfns);
    }
}

/// Makes the domain's memory consist of more than `wanted` pieces. Gives the number of pages that it has fewer.
///
/// A stretch is cut in groups of four pages a, b, c, d. b and d are given back, and d is got again, from the last group to
/// the first: so every a stands alone, and every c does so or has one neighbour.
fn fragment(map: &DirectMap, wanted: u64) -> u64 {
    let groups = wanted / 2 + 1;
    let stretch = groups.checked_mul(4).filter(|&n| n <= map.data.end - map.data.start);
    let stretch = stretch.unwrap_or_else(|| panic!("option extents={wanted}: the domain is too small"));
    let first = map.data.end - stretch;

    let given_back = (0..groups * 2).map(|i| first + 2 * i + 1);
    in_batches(given_back, |pfns| {
        let mut frames = [0; BATCH];
        map.take_out(pfns, &mut frames);
        let mut reservation = reservation(&mut frames[..pfns.len()], 0);
        let done = hypercall::memory_op(op::XENMEM_DECREASE_RESERVATION, &mut reservation)
            .unwrap_or_else(|e| panic!("decrease_reservation: {e}"));
        assert!(done == pfns.len() as u64, "decrease_reservation took {done} of {} pages", pfns.len());
    });
    check_reservation(memory::start_info().nr_pages - groups * 2);

    let got_again = (0..groups).rev().map(|group| first + 4 * group + 3);
    in_batches(got_again, |pfns| {
        let mut frames = [0; BATCH];
        frames[..pfns.len()].copy_from_slice(pfns);
        let mut reservation = reservation(&mut frames[..pfns.len()], 0);
        let done = hypercall::memory_op(op::XENMEM_POPULATE_PHYSMAP, &mut reservation)
            .unwrap_or_else(|e| panic!("populate_physmap: {e}"));
        assert!(done == pfns.len() as u64, "populate_physmap gave {done} of {} pages", pfns.len());
        map.put_in(pfns, &frames);
    });

    let pages = 1u64 << EXCHANGE_ORDER;
    let mut exchanged = 0;
    for start in (map.data.start..first).step_by(pages as usize).take(16) {
        if start + pages <= first {
            exchange(map, start);
            exchanged += pages;
        }
    }

    let extents = map.extents();
    assert!(extents > wanted, "only {extents} extents after giving back and getting pages, {wanted} wanted");
    say!("gave back {} pages, got {groups} again, exchanged {exchanged}", groups * 2);
    groups
}

/// Exchanges single pages, from `start` on, for as many that lie together.
fn exchange(map: &DirectMap, start: u64) {
    const PAGES: usize = 1 << EXCHANGE_ORDER;
    let mut pfns = [0; PAGES];
    for (pfn, value) in pfns.iter_mut().zip(start..) {
        *pfn = value;
    }
    let mut old = [0; PAGES];
    map.take_out(&pfns, &mut old);
    let mut taken = [start];
    let mut argument =
        Exchange { give: reservation(&mut old, 0), take: reservation(&mut taken, EXCHANGE_ORDER), nr_exchanged: 0 };
    hypercall::memory_op(op::XENMEM_EXCHANGE, &mut argument).unwrap_or_else(|e| panic!("exchange: {e}"));
    let done = argument.nr_exchanged;
    assert!(done == PAGES as u64, "exchange says success, but {done} of {PAGES} pages done");
    let mut frames = [0; PAGES];
    for (frame, value) in frames.iter_mut().zip(taken[0]..) {
        *frame = value;
    }
    assert!(
        taken[0].is_multiple_of(PAGES as u64),
        "exchange gave {PAGES} frames from {:#x} on, which is not aligned",
        taken[0]
    );
    map.put_in(&pfns, &frames);
}

fn reservation(frames: &mut [u64], order: u32) -> Reservation {
    Reservation {
        extent_start: frames.as_mut_ptr() as u64,
        nr_extents: frames.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: op::DOMID_SELF,
    }
}

fn in_batches(pfns: impl Iterator<Item = u64>, mut work: impl FnMut(&[u64])) {
    let mut batch = [0; BATCH];
    let mut filled = 0;
    for pfn in pfns {
        batch[filled] = pfn;
        filled += 1;
        if filled == BATCH {
            work(&batch);
            filled = 0;
        }
    }
    if filled != 0 {
        work(&batch[..filled]);
    }
}
