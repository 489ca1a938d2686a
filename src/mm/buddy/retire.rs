//! Frames found to be faulty while the machine runs (XEN.md §1.10): what is free leaves the heap for good, what somebody has leaves it when it is given back.
//!
//! A frame that a domain has stays the domain's: a hypervisor cannot take a page away that a guest's tables name, nor put another in its place without the guest's
//! knowing. It is marked ([`CountFlags::BROKEN`]), and every way back into the heap asks for the mark, so that it is never given to anybody again. As long as
//! no frame is marked, that costs a comparison.

use super::Heap;
use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, Order};
use crate::mm::frametable::{Class, Fill, FrameState, FrameTable, Part, Vacancy};
use crate::mm::page_info::{CountFlags, PageInfo};
use core::sync::atomic::Ordering;

/// What became of a frame that is faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// Nobody has it, and nobody will.
    Gone,
    /// A domain has it and goes on with it; when it gives the frame up, it is gone.
    WhenFreed {
        /// Who.
        owner: DomId,
    },
    /// The hypervisor has it in use, or it is not RAM; it stays what it is.
    Stays {
        /// What it is.
        found: FrameState,
    },
    /// There was no memory for a record of the frame's own.
    NoMemory,
}

impl Heap {
    /// Sees to it that a frame is never given to anybody again.
    pub fn retire(&mut self, table: &FrameTable, mfn: Mfn) -> Retired {
        // A chunk of which one page goes its own way needs records. They are memory too, perhaps this very frame.
        if table.record(mfn).is_none() && !self.reserve_splits(table, 1) {
            return Retired::NoMemory;
        }
        match table.state_of(mfn) {
            FrameState::Unclaimed => match table.withhold(&mut self.pool, MfnRange::new(mfn, 1), None) {
                Ok(()) => Retired::Gone,
                Err(_) => Retired::NoMemory,
            },
            FrameState::Free => {
                let chunk = mfn.chunk() as usize;
                // The block that it is in, unless its chunk is split: then its page is taken alone.
                let around = if table.record(mfn).is_some() { None } else { table.free_block_around(chunk) };
                let within = around.map(|(first, order)| (Mfn::new(first as u64 * CHUNK_FRAMES), order));
                let (mfn, _) = self.take(table, within, mfn, Order::PAGE).into_parts();
                self.make_hole(table, mfn, Class::Private);
                Retired::Gone
            }
            FrameState::Owned { owner: DomId::IO } => Retired::Gone,
            FrameState::Owned { owner } => {
                let chunk = mfn.chunk() as usize;
                if table.record(mfn).is_none() && table.split(&mut self.pool, chunk, Fill::Owned(owner)).is_none() {
                    return Retired::NoMemory;
                }
                let bit = CountFlags::BROKEN.bits();
                let before = table.record(mfn).map_or(bit, |page| page.count_info.fetch_or(bit, Ordering::AcqRel));
                self.nr_broken += u64::from(before & bit == 0);
                Retired::WhenFreed { owner }
            }
            found => Retired::Stays { found },
        }
    }

    /// Takes back that a frame is faulty: what was taken out of use is free again, what somebody has loses its mark. Frames of which [`Heap::retire`]
    /// has changed nothing stay what they are. False if there was no memory for the records of a chunk; nothing has changed then.
    ///
    /// [`DomId::IO`] owns withheld frames, too: those are for the caller to keep away.
    pub fn reinstate(&mut self, table: &FrameTable, mfn: Mfn) -> bool {
        let FrameState::Owned { owner } = table.state_of(mfn) else { return true };
        if mfn == Mfn::ZERO {
            return true;
        }
        if owner == DomId::IO && table.record(mfn).is_none() {
            // All of the chunk is out of use.
            let chunk = mfn.chunk() as usize;
            if !self.reserve_splits(table, 1) || table.split(&mut self.pool, chunk, Fill::Owned(owner)).is_none() {
                return false;
            }
        }
        let Some(page) = table.record(mfn) else { return true };
        if owner == DomId::IO {
            self.free_page(table, mfn, page, Class::Hole);
            return true;
        }
        let bit = CountFlags::BROKEN.bits();
        let before = page.count_info.fetch_and(!bit, Ordering::AcqRel);
        self.nr_broken -= u64::from(before & bit != 0);
        true
    }

    /// Frames that are marked and still in use.
    pub fn nr_broken(&self) -> u64 {
        self.nr_broken
    }

    /// True if a page must not become free.
    pub(super) fn is_broken(&self, page: &PageInfo) -> bool {
        self.nr_broken != 0 && page.count_info.load(Ordering::Relaxed) & CountFlags::BROKEN.bits() != 0
    }

    /// Takes a marked page, which nobody refers to any more, out of use.
    pub(super) fn retire_freed(&mut self, table: &FrameTable, mfn: Mfn, class: Class) {
        self.nr_broken -= 1;
        self.make_hole(table, mfn, class);
    }

    /// Frees the pages of a part of which some are marked.
    pub(super) fn free_pages_but_broken(&mut self, table: &FrameTable, part: Part, class: Class) {
        for mfn in part.frames() {
            // Looked up for each page: with the last one the chunk may be whole, and its records somebody else's.
            let Some(page) = table.record(mfn) else { continue };
            if self.is_broken(page) {
                self.retire_freed(table, mfn, class);
            } else {
                self.free_page(table, mfn, page, class);
            }
        }
    }

    fn make_hole(&mut self, table: &FrameTable, mfn: Mfn, class: Class) {
        let (entry, split) = self.split_of(table, mfn.chunk() as usize);
        let index = mfn.index_in_chunk();
        let page = &split.pages()[index];
        page.clear();
        page.assign(DomId::IO, CountFlags::empty());
        split.vacant().clear(Vacancy::Private, index, index + 1);
        entry.set_counts(entry.counts().moved(1, class, Class::Hole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::frametable::tests::{d, machine, map, range};
    use crate::mm::frametable::{Frames, GetPageError};
    use crate::mm::page_info::PageLookup;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn plugged(nr_chunks: usize) -> Frames {
        let frames = machine(nr_chunks, 1);
        frames.lock().init_ram(range(0, nr_chunks as u64 * CHUNK_FRAMES)).unwrap();
        frames
    }

    #[test]
    fn a_free_frame_leaves_the_heap() {
        let frames = plugged(4);
        frames.plug_in(map);
        let before = frames.ledger();
        for mfn in [1, 0x300, 0x301, 0x7ff] {
            assert_eq!(frames.retire(Mfn::new(mfn)), Retired::Gone);
            assert_eq!(frames.owner_of(Mfn::new(mfn)), Some(DomId::IO));
            assert_eq!(frames.retire(Mfn::new(mfn)), Retired::Gone, "again");
            assert!(frames.get_page(Mfn::new(mfn), DomId::IO).is_err());
        }
        let after = frames.ledger();
        assert_eq!((before.free - after.free, after.holes - before.holes), (4 + (after.heap - before.heap), 4));
        frames.validate().unwrap();
        let mut given = BTreeSet::new();
        while let Some(block) = frames.alloc(Order::PAGE) {
            given.insert(block.mfn().get());
        }
        assert!([1, 0x300, 0x301, 0x7ff].iter().all(|mfn| !given.contains(mfn)));
    }

    #[test]
    fn a_domains_frame_stays_its_own_until_it_is_given_up() {
        let frames = plugged(4);
        frames.claim(range(512, 1024), d(1)).unwrap();
        frames.claim(range(1100, 1110), d(1)).unwrap();
        frames.plug_in(map);
        for mfn in [600, 1105] {
            assert_eq!(frames.retire(Mfn::new(mfn)), Retired::WhenFreed { owner: d(1) });
            assert_eq!(frames.owner_of(Mfn::new(mfn)), Some(d(1)));
            assert_eq!(frames.retire(Mfn::new(mfn)), Retired::WhenFreed { owner: d(1) }, "again");
        }
        // One by its last reference, one by a release.
        let page = frames.page(Mfn::new(600)).unwrap();
        page.get_page(d(1)).unwrap();
        assert!(page.clear_allocated() && !page.put_page() && page.put_page());
        frames.free_page(Mfn::new(600));
        assert_eq!(frames.owner_of(Mfn::new(600)), Some(DomId::IO));
        frames.release(range(1100, 1110), d(1)).unwrap();
        assert_eq!(frames.owner_of(Mfn::new(1105)), Some(DomId::IO));
        assert_eq!(frames.state_of(Mfn::new(1104)), FrameState::Free);
        assert_eq!(frames.relinquish(range(512, 1024), d(1)).unwrap(), 511);
        frames.validate().unwrap();
        assert!(matches!(frames.get_page(Mfn::new(600), d(1)), Err(GetPageError::NoPage(_))));
    }

    #[test]
    fn what_the_hypervisor_has_stays() {
        let frames = plugged(8);
        frames.lock().init_region(range(512, 1536)).unwrap();
        frames.lock().init_image(range(1536, 2048)).unwrap();
        frames.plug_in(map);
        let block = frames.alloc(Order::new(2)).unwrap();
        for (mfn, found) in [
            (Mfn::new(600), FrameState::Region),
            (Mfn::new(1600), FrameState::Image),
            (Mfn::new(8 * 512), FrameState::NotRam),
            (block.mfn(), FrameState::Private),
        ] {
            assert_eq!(frames.retire(mfn), Retired::Stays { found });
        }
        frames.free(block);
        frames.validate().unwrap();
    }

    #[test]
    fn what_was_retired_can_be_put_back() {
        let frames = plugged(4);
        frames.claim(range(512, 1024), d(1)).unwrap();
        frames.claim(range(1024, 1536), DomId::IO).unwrap();
        frames.plug_in(map);
        let before = frames.ledger();
        for mfn in [3, 600, 601] {
            frames.retire(Mfn::new(mfn));
        }
        assert_eq!(frames.lock().nr_broken(), 2);
        for mfn in [3, 601, 1030] {
            assert!(frames.reinstate(Mfn::new(mfn)));
            assert!(mfn == 1030 || frames.reinstate(Mfn::new(mfn)), "again, which changes nothing");
        }
        assert_eq!(frames.lock().nr_broken(), 1);
        assert_eq!(frames.owner_of(Mfn::new(601)), Some(d(1)));
        for mfn in [3, 1030] {
            assert_eq!(frames.state_of(Mfn::new(mfn)), FrameState::Free);
        }
        frames.validate().unwrap();
        assert_eq!(frames.relinquish(range(512, 1024), d(1)).unwrap(), 511);
        assert_eq!(frames.owner_of(Mfn::new(600)), Some(DomId::IO));
        assert!(frames.reinstate(Mfn::new(600)));
        let after = frames.ledger();
        assert_eq!(before.holes - after.holes, 1, "1030, which was one before");
        frames.validate().unwrap();
        assert!((0..).map_while(|_| frames.alloc(Order::PAGE)).any(|block| block.mfn() == Mfn::new(600)));
    }

    #[test]
    fn what_was_not_retired_stays_as_it_is() {
        let frames = plugged(4);
        frames.lock().init_region(range(512, 1024)).unwrap();
        frames.claim(range(1024, 1536), d(1)).unwrap();
        frames.plug_in(map);
        let block = frames.alloc(Order::PAGE).unwrap();
        let before = frames.ledger();
        for mfn in [0, 5, 600, 1030, block.mfn().get(), 4 * 512] {
            let state = frames.state_of(Mfn::new(mfn));
            assert!(frames.reinstate(Mfn::new(mfn)));
            assert_eq!(frames.state_of(Mfn::new(mfn)), state);
        }
        assert_eq!(frames.ledger(), before);
        frames.free(block);
        frames.validate().unwrap();
    }

    proptest! {
        // Reports come and are taken back while memory is still being plugged in, as behind an update.
        #[test]
        fn reports_and_plugging_in_do_not_get_in_each_others_way(
            steps in proptest::collection::vec((1u64..3072, any::<bool>(), 0usize..3), 1..60),
        ) {
            let frames = plugged(6);
            frames.claim(range(700, 1700), d(1)).unwrap();
            frames.claim(range(2060, 2070), d(1)).unwrap();
            frames.lock().plug_in_later(map);
            let mut listed = BTreeSet::new();
            for (mfn, is_report, then) in steps {
                if is_report {
                    match frames.retire(Mfn::new(mfn)) {
                        Retired::Gone | Retired::WhenFreed { .. } => {
                            listed.insert(mfn);
                        }
                        // Page records are memory, too.
                        found => prop_assert_eq!(found, Retired::Stays { found: FrameState::Private }),
                    }
                } else if let Some(mfn) = listed.range(mfn..).next().copied() {
                    listed.remove(&mfn);
                    prop_assert!(frames.reinstate(Mfn::new(mfn)));
                }
                match then {
                    0 => {
                        frames.lock().plug_in_more();
                    }
                    1 => frames.alloc(Order::PAGE).into_iter().for_each(|block| frames.free(block)),
                    _ => {}
                }
                // Of the frames as they are: `Frames::validate` plugs all in first.
                frames.lock().validate().unwrap();
            }
            while frames.plug_in_more() {}
            frames.relinquish(range(700, 1700), d(1)).unwrap();
            frames.relinquish(range(2060, 2070), d(1)).unwrap();
            frames.validate().unwrap();
            let mut given = BTreeSet::new();
            while let Some(block) = frames.alloc(Order::PAGE) {
                prop_assert!(given.insert(block.mfn().get()));
            }
            prop_assert!(listed.is_disjoint(&given));
            // Frame 0 is a hole, too.
            let ledger = frames.ledger();
            prop_assert_eq!((ledger.free, ledger.holes), (0, listed.len() as u64 + 1));
        }

        #[test]
        fn nobody_is_ever_given_a_retired_frame(bad in proptest::collection::btree_set(1u64..2048, 1..12), keep in 0usize..40) {
            let frames = plugged(4);
            frames.claim(range(700, 1700), d(1)).unwrap();
            frames.plug_in(map);
            let mut held: Vec<_> = (0..keep).filter_map(|_| frames.alloc(Order::PAGE)).collect();
            let mut gone = BTreeSet::new();
            for &mfn in &bad {
                match frames.retire(Mfn::new(mfn)) {
                    Retired::Gone | Retired::WhenFreed { .. } => {
                        gone.insert(mfn);
                    }
                    Retired::Stays { found } => prop_assert_eq!(found, FrameState::Private),
                    Retired::NoMemory => prop_assert!(false, "no memory"),
                }
            }
            held.drain(..).for_each(|block| frames.free(block));
            frames.relinquish(range(700, 1700), d(1)).unwrap();
            frames.validate().unwrap();
            prop_assert_eq!(frames.lock().nr_broken(), 0);
            prop_assert!(gone.iter().all(|&mfn| frames.owner_of(Mfn::new(mfn)) == Some(DomId::IO)));
            while let Some(block) = frames.alloc(Order::PAGE) {
                prop_assert!(!gone.contains(&block.mfn().get()));
            }
        }
    }
}
