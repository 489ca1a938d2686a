//! It grows to what it may have, and gives pages up while something still refers to them: mappings, a pin, a table above, the hypervisor. Such
//! a page counts as the domain's, works as before, and has no pfn; through any number of updates. After each update one of
//! them is let go, must be gone from the reservation at once, comes back as an ordinary page and is given up again.
//!
//! Options: `holes=<n>` (0; otherwise every n-th free page is given back at the start, so that memory is in many pieces), `keeps=<n>` (16: pages
//! that are given up and kept, at most 64), `rest-ms=<n>` (10), `miscount` (expects a page to be gone while it is still mapped, which
//! is wrong: the guest has to fail), `looks=<n>` (0; otherwise it leaves n pages out when it grows, at most 256, and takes them at the start and
//! after each update, see `clean`), `soiled` (it writes to them before it looks whether they are zero, which is wrong, too).

#![expect(unsafe_code, reason = "kept pages are reached by raw addresses")]

mod answers;
mod clean;

use core::ops::Range;
use core::sync::atomic::Ordering;

use luxen_guests::abi::{FIRST_GUEST_HIGH_SLOT, INVALID_FRAME, PAGE_SIZE, Reservation, op};
use luxen_guests::clock::MS;
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::hypercall::{self, mmuext, write_entry};
use luxen_guests::machine::memory::{self, fill, m2p, mfn, p2m};
use luxen_guests::machine::traps::{CallbackInterface, not_mine};
use luxen_guests::machine::{events, time};
use luxen_guests::{kernel, pte, say};

use clean::Look;

kernel!(
    name: "balloon",
    run: run,
    traps: not_mine,
    setup: Setup { callbacks: CallbackInterface::SetCallbacks, moves_vcpu_info: true },
    calls: syscall
);

/// Most pages that are kept.
const MAX_KEPT: usize = 64;
/// Frames in one hypercall's list.
const BATCH: usize = 64;
/// Words of a page that are looked at.
const WORDS: [usize; 3] = [0, 200, 511];

/// What still refers to a page that was given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Writable,
    ReadOnly,
    /// Two writable mappings.
    Twice,
    /// It is a pinned page table.
    Pin,
}

impl Holder {
    fn of(index: usize) -> Holder {
        [Holder::Writable, Holder::ReadOnly, Holder::Twice, Holder::Pin][index % 4]
    }
}

/// Pages that are mapped at the first slot behind the hypervisor's, each at its own place and, `MAX_KEPT` places on, a second time.
struct Area {
    l2: u64,
    l1: u64,
}

impl Area {
    fn build(pfns: &mut Range<u64>) -> Area {
        let mut table = || mfn(pfns.next().unwrap_or_else(|| panic!("the domain is too small")));
        let (l3, l2, l1) = (table(), table(), table());
        fill(l2, |index| if index == 0 { pte::entry(l1, pte::TABLE) } else { 0 });
        fill(l3, |index| if index == 0 { pte::entry(l2, pte::TABLE) } else { 0 });
        write_entry(memory::boot_l4_entry(FIRST_GUEST_HIGH_SLOT), pte::entry(l3, pte::TABLE))
            .unwrap_or_else(|e| panic!("new L3 in slot {FIRST_GUEST_HIGH_SLOT}: {e}"));
        Area { l2, l1 }
    }

    fn set(&self, place: usize, entry: u64) {
        write_entry(self.l1 * PAGE_SIZE + place as u64 * 8, entry)
            .unwrap_or_else(|e| panic!("entry {entry:#x} at place {place}: {e}"));
        hypercall::mmuext(op::MMUEXT_TLB_FLUSH_LOCAL, 0).unwrap_or_else(|e| panic!("TLB flush: {e}"));
    }

    fn word(place: usize, index: usize) -> *mut u64 {
        (pte::slot_start(FIRST_GUEST_HIGH_SLOT) + place as u64 * PAGE_SIZE + index as u64 * 8) as *mut u64
    }

    fn read(place: usize, index: usize) -> u64 {
        // SAFETY: only called for places that are mapped; no Rust object is there.
        unsafe { Self::word(place, index).read_volatile() }
    }

    fn write(place: usize, value: u64) {
        for index in WORDS {
            Self::put(place, index, value ^ index as u64);
        }
    }

    fn put(place: usize, index: usize, value: u64) {
        // SAFETY: only called for places that are mapped to be written; no Rust object is there.
        unsafe { Self::word(place, index).write_volatile(value) }
    }
}

/// A page that was given up and is kept.
#[derive(Clone, Copy)]
struct Kept {
    pfn: u64,
    mfn: u64,
    written: u64,
}

struct Balloon {
    area: Area,
    kept: [Option<Kept>; MAX_KEPT],
    /// Pages that the domain has, kept ones among them.
    owned: u64,
    generation: u64,
}

fn run(guest: &mut Guest) {
    let given = memory::start_info().nr_pages;
    let most = memory::maximum_reservation();
    let rest = guest.number("rest-ms", 10).max(1).saturating_mul(MS);
    let keeps = guest.number("keeps", 16).clamp(4, MAX_KEPT as u64) as usize;
    check_reservation(given);
    answers::check(given, most);

    let mut pfns = memory::free_pfns();
    let area = Area::build(&mut pfns);
    let mut balloon = Balloon { area, kept: [None; MAX_KEPT], owned: given, generation: 0 };
    let looks = guest.number("looks", 0).min(clean::MAX_LOOKED_AT as u64);
    let look = if guest.options().has("soiled") { Look::Soiled } else { Look::Fresh };
    let grown = balloon.grow(given, most - looks);
    if looks == 0 {
        check_limit(most);
    }
    clean::look(&balloon.area, most - looks, looks as usize, look);
    for index in 0..keeps {
        let pfn = pfns.next().unwrap_or_else(|| panic!("the domain is too small"));
        balloon.give_up(index, pfn);
    }
    if guest.options().has("miscount") {
        check_reservation(balloon.owned - keeps as u64);
    }
    let holes = match guest.number("holes", 0) {
        0 => 0,
        every => balloon.make_holes(pfns, every),
    };
    balloon.give_up_for_good();
    say!("may have {most} pages, has {}, keeps {keeps} that it gave up, left {holes} holes", balloon.owned);

    let mut seen_build = build();
    let mut updates = 0usize;
    loop {
        let seen = events::total();
        balloon.check(&grown, given);
        let now_build = build();
        if now_build != seen_build {
            seen_build = now_build;
            clean::look(&balloon.area, most - looks, looks as usize, look);
            balloon.let_go_and_take_back(updates % keeps);
            updates += 1;
        }
        if guest.poll() {
            break;
        }
        guest.sleep(seen, time::now().saturating_add(rest));
    }
    balloon.check(&grown, given);
    balloon.let_all_go();
    say!("checked {keeps} kept pages, {updates} let go after an update, {holes} holes");
    if looks != 0 {
        say!("looked at {} new pages, all of them zero", looks * (updates as u64 + 1));
    }
}

fn build() -> [u8; 64] {
    hypercall::xen_changeset().unwrap_or_else(|e| panic!("xen_version changeset: {e}"))
}

fn check_reservation(expected: u64) {
    let reservation = memory::current_reservation();
    assert!(reservation == expected, "the domain has {reservation} pages, not {expected}");
}

/// The domain has what it may have, and gets no more.
fn check_limit(most: u64) {
    let done = reserve(op::XENMEM_POPULATE_PHYSMAP, &mut [most], 0);
    assert!(done == 0, "there is a page more than the domain may have");
    let done = reserve(op::XENMEM_INCREASE_RESERVATION, &mut [0], 0);
    assert!(done == 0, "there is a page more than the domain may have, without a pfn");
    check_reservation(most);
}

/// Extents that an operation did of some frames of one page each.
fn reserve(operation: u64, frames: &mut [u64], mem_flags: u32) -> u64 {
    let mut argument = Reservation {
        extent_start: frames.as_mut_ptr() as u64,
        nr_extents: frames.len() as u64,
        extent_order: 0,
        mem_flags,
        domid: op::DOMID_SELF,
    };
    hypercall::memory_op(operation, &mut argument).unwrap_or_else(|e| panic!("memory_op {operation}: {e}"))
}

fn decrease(frames: &mut [u64]) {
    let done = reserve(op::XENMEM_DECREASE_RESERVATION, frames, 0);
    assert!(done == frames.len() as u64, "decrease_reservation took {done} of {} pages", frames.len());
}

/// Gets a page for a pfn.
fn populate(pfn: u64) -> u64 {
    let mut frames = [pfn];
    let done = reserve(op::XENMEM_POPULATE_PHYSMAP, &mut frames, 0);
    assert!(done == 1, "populate_physmap gave no page for pfn {pfn:#x}");
    let back = m2p(frames[0]);
    assert!(back == pfn, "new frame {:#x} for pfn {pfn:#x}, but the M2P says {back:#x}", frames[0]);
    frames[0]
}

impl Balloon {
    /// Fills the domain up. Gives the first frames that it got.
    fn grow(&mut self, given: u64, most: u64) -> [u64; BATCH] {
        let mut first = [INVALID_FRAME; BATCH];
        while self.owned < most {
            let n = (most - self.owned).min(BATCH as u64) as usize;
            let mut frames = [0; BATCH];
            for (frame, pfn) in frames.iter_mut().zip(self.owned..).take(n) {
                *frame = pfn;
            }
            let done = reserve(op::XENMEM_POPULATE_PHYSMAP, &mut frames[..n], 0);
            assert!(done == n as u64, "populate_physmap gave {done} of {n} pages");
            if self.owned == given {
                first[..n].copy_from_slice(&frames[..n]);
            }
            self.owned += n as u64;
        }
        check_reservation(most);
        first
    }

    /// Gives back every `every`-th page, unmapped as they all are.
    fn make_holes(&mut self, pfns: Range<u64>, every: u64) -> u64 {
        let mut holes = 0;
        let mut frames = [0; BATCH];
        let mut filled = 0;
        for pfn in pfns.step_by(every as usize) {
            frames[filled] = p2m()[pfn as usize].swap(INVALID_FRAME, Ordering::Relaxed);
            filled += 1;
            holes += 1;
            if filled == BATCH {
                decrease(&mut frames);
                filled = 0;
            }
        }
        decrease(&mut frames[..filled]);
        self.owned -= holes;
        check_reservation(self.owned);
        holes
    }

    /// Gives a page up that something refers to.
    fn give_up(&mut self, index: usize, pfn: u64) {
        let mfn = mfn(pfn);
        self.generation += 1;
        let written = mfn << 20 ^ self.generation;
        match Holder::of(index) {
            Holder::Pin => {
                mmuext(op::MMUEXT_PIN_L1, mfn).unwrap_or_else(|e| panic!("pin of {mfn:#x}: {e}"));
            }
            holder => {
                self.area.set(index, pte::entry(mfn, pte::DATA));
                Area::write(index, written);
                if holder == Holder::ReadOnly {
                    self.area.set(index, pte::entry(mfn, pte::READ_ONLY));
                } else if holder == Holder::Twice {
                    self.area.set(index + MAX_KEPT, pte::entry(mfn, pte::DATA));
                }
            }
        }
        decrease(&mut [mfn]);
        p2m()[pfn as usize].store(INVALID_FRAME, Ordering::Relaxed);
        // To say so again is no mistake, and changes nothing.
        decrease(&mut [mfn]);
        check_reservation(self.owned);
        self.kept[index] = Some(Kept { pfn, mfn, written });
    }

    /// The table that maps the kept pages, the console ring and vcpu_info are kept by their use.
    fn give_up_for_good(&mut self) {
        let mut frames = [self.area.l1, memory::start_info().console_mfn, memory::mfn_of(events::vcpu_info_address())];
        decrease(&mut frames);
        check_reservation(self.owned);
    }

    fn check(&mut self, grown: &[u64; BATCH], given: u64) {
        check_reservation(self.owned);
        for (frame, pfn) in grown.iter().zip(given..).filter(|(frame, _)| **frame != INVALID_FRAME) {
            let back = m2p(*frame);
            assert!(back == pfn, "frame {frame:#x} of pfn {pfn:#x}, but the M2P says {back:#x}");
        }
        for index in 0..MAX_KEPT {
            let Some(Kept { pfn, mfn, written }) = self.kept[index] else { continue };
            let back = m2p(mfn);
            assert!(back == INVALID_FRAME, "frame {mfn:#x} was given up, but the M2P says {back:#x}");
            if Holder::of(index) == Holder::Pin {
                let pinned = mmuext(op::MMUEXT_PIN_L1, mfn);
                assert!(pinned.is_err(), "frame {mfn:#x} has lost its pin");
                continue;
            }
            for word in WORDS {
                let (found, expected) = (Area::read(index, word), written ^ word as u64);
                assert!(
                    found == expected,
                    "frame {mfn:#x}, once pfn {pfn:#x}: word {word} is {found:#x}, not {expected:#x}"
                );
            }
            if Holder::of(index) != Holder::ReadOnly {
                self.generation += 1;
                let written = mfn << 20 ^ self.generation;
                Area::write(index, written);
                self.kept[index] = Some(Kept { pfn, mfn, written });
            }
        }
    }

    /// Takes away what refers to a page: it is gone with that.
    fn let_go(&mut self, index: usize) -> u64 {
        let Some(Kept { pfn, mfn, .. }) = self.kept[index].take() else { panic!("nothing is kept at {index}") };
        match Holder::of(index) {
            Holder::Pin => {
                mmuext(op::MMUEXT_UNPIN, mfn).unwrap_or_else(|e| panic!("unpin of {mfn:#x}: {e}"));
            }
            holder => {
                if holder == Holder::Twice {
                    self.area.set(index, 0);
                    check_reservation(self.owned);
                }
                self.area.set(if holder == Holder::Twice { index + MAX_KEPT } else { index }, 0);
            }
        }
        self.owned -= 1;
        check_reservation(self.owned);
        let back = reserve(op::XENMEM_DECREASE_RESERVATION, &mut [mfn], 0);
        assert!(back == 0, "frame {mfn:#x} can be given up though it is gone");
        pfn
    }

    fn take_back(&mut self, pfn: u64) {
        p2m()[pfn as usize].store(populate(pfn), Ordering::Relaxed);
        self.owned += 1;
        check_reservation(self.owned);
    }

    fn let_go_and_take_back(&mut self, index: usize) {
        let pfn = self.let_go(index);
        self.take_back(pfn);
        self.give_up(index, pfn);
    }

    fn let_all_go(&mut self) {
        for index in 0..MAX_KEPT {
            if self.kept[index].is_some() {
                let pfn = self.let_go(index);
                self.take_back(pfn);
            }
        }
        // The table goes with the entry above it.
        write_entry(self.area.l2 * PAGE_SIZE, 0).unwrap_or_else(|e| panic!("clearing an L2 entry: {e}"));
        self.owned -= 1;
        check_reservation(self.owned);
    }
}
