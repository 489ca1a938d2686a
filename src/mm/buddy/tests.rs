//! The heap's own tests, and table and heap together against a model that is an array with a state for each frame.

use super::*;
use crate::frame::Maddr;
use crate::mm::frametable::tests::{d, machine, map, range, take_mapped};
use crate::mm::frametable::{Chunk, Frames};
use crate::mm::page_info::{CountFlags, NoPage, PageLookup};
use crate::mm::physmem::PhysMem;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

mod scrub;

/// A machine of so many chunks of RAM from chunk 1 on, all of it free.
fn plugged(nr_chunks: u64) -> Frames {
    let frames = machine(nr_chunks as usize + 1, 1);
    frames.lock().init_ram(range(512, (nr_chunks + 1) * 512)).unwrap();
    frames.plug_in(map);
    frames
}

/// Memory that nobody looks at.
struct Unseen;

impl PhysMem for Unseen {
    fn read_u64(&self, at: Maddr) -> u64 {
        panic!("{at} is read")
    }
    fn write_u64(&self, at: Maddr, _: u64) {
        panic!("{at} is written")
    }
    fn compare_exchange_u64(&self, at: Maddr, _: u64, _: u64) -> Result<(), u64> {
        panic!("{at} is written")
    }
    fn read(&self, at: Maddr, _: &mut [u8]) {
        panic!("{at} is read")
    }
    fn write(&self, at: Maddr, _: &[u8]) {
        panic!("{at} is written")
    }
    fn zero(&self, _: Maddr, _: u64) {}
}

/// Scrubbed, where content is of no interest.
fn clean(block: Block) -> Scrubbed {
    block.scrub(&Unseen)
}

#[test]
fn memory_is_free_in_the_largest_blocks_there_can_be() {
    let frames = machine(2048, 1);
    frames.lock().init_ram(range(0, 2048 * 512)).unwrap();
    assert_eq!(frames.plug_in(map), 2048 * 512 - 1);
    let mut expected = [1; 19];
    expected[18] = 3;
    assert_eq!(frames.stats().nr_blocks, expected);
    frames.validate().unwrap();
    let block = frames.alloc(Order::MAX).unwrap();
    assert!(block.mfn().is_aligned(Order::MAX) && block.mfn() != Mfn::ZERO);
    frames.free(block);
    assert_eq!(frames.stats().nr_blocks, expected);
}

#[test]
fn all_memory_can_be_taken_page_by_page_and_merges_again() {
    let frames = plugged(16);
    let before = frames.stats();
    let mut blocks = Vec::new();
    while let Some(block) = frames.alloc(Order::PAGE) {
        blocks.push(block);
    }
    let slabs: u64 = take_mapped().iter().map(|&(_, n)| n).sum();
    assert_eq!(blocks.len() as u64 + slabs, before.nr_free);
    let distinct: BTreeSet<u64> = blocks.iter().map(|b| b.mfn().get()).collect();
    assert_eq!(distinct.len(), blocks.len());
    frames.validate().unwrap();
    // Even ones first, so that nothing merges until the odd ones come.
    let (even, odd): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|b| b.mfn().get() % 2 == 0);
    even.into_iter().chain(odd).for_each(|b| frames.free(b));
    frames.lock().drain();
    frames.validate().unwrap();
    let stats = frames.stats();
    assert_eq!(stats.nr_free, before.nr_free - slabs);
    assert_eq!(stats.nr_unused_splits, stats.nr_splits);
    assert_eq!(stats.nr_blocks[..9], [0; 9]);
}

#[test]
fn a_page_taken_and_given_back_splits_no_chunk_anew() {
    let frames = plugged(4);
    let whole = frames.stats().nr_blocks[9..].to_vec();
    let first = frames.alloc(Order::PAGE).unwrap();
    let (mfn, cut) = (first.mfn(), frames.stats());
    frames.free(first);
    for _ in 0..3 {
        assert_eq!(frames.stats().nr_unused_splits, cut.nr_unused_splits, "it is kept");
        frames.validate().unwrap();
        let again = frames.alloc(Order::PAGE).unwrap();
        assert_eq!((again.mfn(), frames.stats()), (mfn, cut));
        frames.free(again);
    }
    // A larger block than there is otherwise takes it too.
    frames.lock().drain();
    frames.validate().unwrap();
    assert_eq!(frames.stats().nr_blocks[..9], [0; 9]);
    assert_eq!(frames.stats().nr_unused_splits, cut.nr_unused_splits + 1);
    assert!(frames.stats().nr_blocks[9..].iter().sum::<u64>() >= whole.iter().sum());
}

#[test]
fn one_chunk_at_most_is_kept_split() {
    let frames = plugged(8);
    let blocks: Vec<_> = (0..2 * 512 + 10).map_while(|_| frames.alloc(Order::PAGE)).collect();
    let used = |frames: &Frames| frames.stats().nr_splits - frames.stats().nr_unused_splits;
    assert_eq!(used(&frames), 3);
    blocks.into_iter().for_each(|block| frames.free(block));
    assert_eq!(used(&frames), 1);
    frames.validate().unwrap();
    let all = frames.stats().nr_free / 512;
    let chunks: Vec<_> = core::iter::from_fn(|| frames.alloc(Order::CHUNK)).collect();
    assert_eq!(chunks.len() as u64, all);
    chunks.into_iter().for_each(|block| frames.free(block));
    frames.validate().unwrap();
}

#[test]
fn pages_come_from_the_chunk_that_has_the_least_to_offer() {
    let frames = plugged(8);
    let mut blocks: Vec<_> = (0..512).map_while(|_| frames.alloc(Order::PAGE)).collect();
    let full = blocks[0].mfn().chunk();
    // Another chunk has large blocks, this one has two single pages.
    blocks.push(frames.alloc(Order::new(3)).unwrap());
    frames.free(blocks.swap_remove(100));
    frames.free(blocks.swap_remove(300));
    for _ in 0..2 {
        let block = frames.alloc(Order::PAGE).unwrap();
        assert_eq!(block.mfn().chunk(), full);
        blocks.push(block);
    }
    let block = frames.alloc(Order::PAGE).unwrap();
    assert_ne!(block.mfn().chunk(), full);
    blocks.push(block);
    frames.validate().unwrap();
    blocks.into_iter().for_each(|block| frames.free(block));
    frames.validate().unwrap();
}

#[test]
fn a_block_is_cut_in_two_and_both_come_back() {
    let frames = plugged(8);
    let mut blocks = vec![frames.alloc(Order::new(11)).unwrap()];
    while let Some(i) = blocks.iter().position(|b| b.order() > Order::new(7)) {
        let (low, high) = frames.split(blocks.swap_remove(i)).unwrap();
        assert_eq!(low.range().end(), high.range().start());
        blocks.extend([low, high]);
        frames.validate().unwrap();
    }
    assert_eq!(blocks.len(), 16);
    blocks.into_iter().for_each(|b| frames.free(b));
    frames.validate().unwrap();
    let page = frames.alloc(Order::PAGE).unwrap();
    assert!(frames.split(page).is_err());
}

#[test]
fn without_page_records_a_block_is_not_cut() {
    let frames = machine(3, 0);
    frames.lock().init_ram(range(512, 1536)).unwrap();
    frames.lock().insert(range(512, 1536)).unwrap();
    assert!(frames.alloc(Order::PAGE).is_none());
    assert!(frames.alloc(Order::new(8)).is_none());
    let block = frames.alloc(Order::CHUNK).unwrap();
    let block = frames.split(block).unwrap_err();
    frames.free(block);
    frames.validate().unwrap();
    assert_eq!(frames.stats().nr_free, 1024);
}

#[test]
fn a_hook_without_memory_is_no_memory() {
    let frames = machine(4, 0);
    frames.lock().init_ram(range(512, 2048)).unwrap();
    frames.plug_in(|_, _| &[]);
    assert!(frames.alloc(Order::PAGE).is_none());
    frames.validate().unwrap();
    assert_eq!(frames.stats().nr_free, 1536);
}

#[test]
fn memory_below_a_bound_is_below_it_and_as_high_as_can_be() {
    let frames = plugged(16);
    for (order, limit) in [(0, 513), (0, 5000), (3, 4099), (9, 4095), (9, 4096), (10, 8000), (0, u64::MAX)] {
        let order = Order::new(order);
        let block = frames.alloc_below(order, limit).unwrap();
        assert!(block.range().end() <= limit);
        if limit < 17 * 512 {
            assert!(block.range().end() + order.nr_frames() > limit, "{block:?} for {limit}");
        }
        frames.validate().unwrap();
        frames.free(block);
        frames.validate().unwrap();
    }
    assert!(frames.alloc_below(Order::PAGE, 512).is_none());
    assert!(frames.alloc_below(Order::CHUNK, 1023).is_none());
    // All that is below, one by one, and then no more.
    let blocks: Vec<_> = core::iter::from_fn(|| frames.alloc_below(Order::PAGE, 600)).collect();
    assert_eq!(blocks.len(), 88);
    blocks.into_iter().for_each(|b| frames.free(b));
    frames.lock().drain();
    frames.validate().unwrap();
}

#[test]
fn only_the_heaps_own_blocks_become_a_domains() {
    let frames = machine(8, 1);
    frames.lock().init_ram(range(512, 8 * 512)).unwrap();
    frames.lock().init_region(range(512, 1024)).unwrap();
    frames.lock().init_image(range(1024, 1536)).unwrap();
    frames.plug_in(map);
    // No code outside this module can make such blocks up (I1).
    for (mfn, order, found) in [
        (512, 9, FrameState::Region),
        (700, 0, FrameState::Region),
        (1024, 9, FrameState::Image),
        (2048, 9, FrameState::Free),
        (0, 0, FrameState::NotRam),
        (8 * 512, 9, FrameState::NotRam),
    ] {
        let forged = Block::new(Mfn::new(mfn), Order::new(order));
        let refused = frames.into_domain(clean(forged), d(1)).unwrap_err();
        assert_eq!(refused.why, IntoDomainError::NotPrivate { mfn: Mfn::new(mfn), found });
        let _ = refused.block.into_parts();
    }
    for order in [0, 3, 9, 10] {
        let block = frames.alloc(Order::new(order)).unwrap();
        let given = frames.into_domain(clean(block), d(1)).unwrap();
        assert_eq!(given.owner(), d(1));
        assert_eq!(frames.owner_of(given.mfn()), Some(d(1)));
        assert_eq!(frames.page(given.mfn()).unwrap().count(), 1);
        frames.release(given.range(), d(1)).unwrap();
        frames.validate().unwrap();
    }
    assert!(frames.ledger().is_balanced());
}

#[test]
fn flags_go_to_every_page_of_a_block() {
    let frames = plugged(8);
    for order in [0, 9] {
        let block = frames.alloc(Order::new(order)).unwrap();
        let given = frames.into_domain_with(clean(block), d(3), CountFlags::XEN_HEAP).unwrap();
        for mfn in given.range().iter() {
            let count_info = frames.page(mfn).unwrap().count_info.load(Ordering::Relaxed);
            assert_eq!(count_info, (CountFlags::XEN_HEAP | CountFlags::ALLOCATED).bits() | 1);
        }
        frames.validate().unwrap();
        frames.release(given.range(), d(3)).unwrap();
    }
}

#[test]
fn validate_finds_what_was_broken() {
    let frames = plugged(8);
    let block = frames.alloc(Order::new(3)).unwrap();
    let mfn = block.mfn();
    frames.validate().unwrap();
    let page = frames.table().record(mfn).unwrap();
    page.set_owner(Some(d(1)));
    assert_eq!(frames.validate(), Err(ValidateError::Bits { mfn }), "private and owned");
    let Chunk::Split { id, .. } = frames.table().chunk(mfn.chunk()) else { panic!("the chunk is split") };
    let vacant = frames.table().split_at(id).vacant();
    let first = mfn.index_in_chunk();
    vacant.clear(Vacancy::Private, first, first + 1);
    assert!(matches!(frames.validate(), Err(ValidateError::Count { entry: 8, records: 7, .. })));
    page.set_owner(None);
    assert_eq!(frames.validate(), Err(ValidateError::Bits { mfn }), "nobody's, and in no way");
    vacant.set(Vacancy::Private, first, first + 1);
    frames.validate().unwrap();
    vacant.set(Vacancy::Free, first, first + 1);
    assert_eq!(frames.validate(), Err(ValidateError::Bits { mfn }), "private and free");
    vacant.clear(Vacancy::Free, first, first + 1);
    page.type_info.store(1, Ordering::Relaxed);
    assert_eq!(frames.validate(), Err(ValidateError::Record { mfn }));
    page.type_info.store(0, Ordering::Relaxed);
    let level = vacant.level();
    assert_eq!(level, Some(Order::new(8)));
    for wrong in [None, Some(Order::new(3))] {
        vacant.set_level(wrong);
        assert!(matches!(frames.validate(), Err(ValidateError::Level { found, .. }) if found == wrong));
    }
    vacant.set_level(level);
    vacant.set_prev(7);
    assert!(matches!(frames.validate(), Err(ValidateError::Link { .. })));
    vacant.set_prev(0);
    frames.validate().unwrap();
    frames.free(block);
}

const NR_CHUNKS: u64 = 12;
const NR_FRAMES: u64 = NR_CHUNKS * 512;

#[derive(Clone, Debug)]
enum Action {
    PlugIn,
    Insert(u64, u64),
    Claim(u64, u64, u16),
    Alloc(u8),
    AllocBelow(u8, u64),
    Free(usize),
    Split(usize),
    IntoDomain(usize, u16, bool),
    Release(u64, u64),
    Relinquish(u64, u64),
    Page(u64),
    PutPage(u64),
}

/// Starts and lengths that often are whole chunks.
fn some_range() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (0..NR_FRAMES, 0u64..40).prop_map(|(at, n)| (at, (at + n).min(NR_FRAMES))),
        (0..NR_FRAMES, 0u64..1500).prop_map(|(at, n)| (at, (at + n).min(NR_FRAMES))),
        (0..NR_CHUNKS, 1u64..4).prop_map(|(at, n)| (at * 512, ((at + n) * 512).min(NR_FRAMES))),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        1 => Just(Action::PlugIn),
        1 => some_range().prop_map(|(a, b)| Action::Insert(a, b)),
        4 => (some_range(), 1u16..4).prop_map(|((a, b), d)| Action::Claim(a, b, d)),
        4 => (0u8..12).prop_map(Action::Alloc),
        4 => Just(Action::Alloc(0)),
        2 => (0u8..11, 0..NR_FRAMES + 9).prop_map(|(o, l)| Action::AllocBelow(o, l)),
        5 => any::<usize>().prop_map(Action::Free),
        2 => any::<usize>().prop_map(Action::Split),
        3 => (any::<usize>(), 1u16..4, proptest::bool::weighted(0.1)).prop_map(|(i, d, f)| Action::IntoDomain(i, d, f)),
        3 => some_range().prop_map(|(a, b)| Action::Release(a, b)),
        1 => some_range().prop_map(|(a, b)| Action::Relinquish(a, b)),
        2 => (0..NR_FRAMES).prop_map(Action::Page),
        2 => (0..NR_FRAMES).prop_map(Action::PutPage),
    ]
}

/// A state for each frame, and the blocks that were taken.
struct Model {
    frames: Frames,
    states: Vec<FrameState>,
    blocks: Vec<Block>,
    /// Frames that page records were made of.
    nr_mapped: u64,
}

impl Model {
    fn new(pieces: &[(u64, u64)], nr_slabs: usize) -> Self {
        let frames = machine(NR_CHUNKS as usize, nr_slabs);
        let mut states = vec![FrameState::NotRam; NR_FRAMES as usize];
        let mut ram = pieces.to_vec();
        ram.push((2 * 512, 4 * 512));
        for &(start, end) in &ram {
            frames.lock().init_ram(range(start, end)).unwrap();
            states[start.max(1) as usize..end.max(1) as usize].fill(FrameState::Unclaimed);
        }
        frames.lock().init_region(range(2 * 512, 3 * 512)).unwrap();
        states[2 * 512..3 * 512].fill(FrameState::Region);
        frames.lock().init_image(range(3 * 512, 4 * 512)).unwrap();
        states[3 * 512..4 * 512].fill(FrameState::Image);
        for chunk in states.chunks_mut(512) {
            if chunk.iter().any(|&s| s != FrameState::NotRam) {
                let holes = chunk.iter_mut().filter(|s| **s == FrameState::NotRam);
                holes.for_each(|s| *s = FrameState::Owned { owner: DomId::IO });
            }
        }
        Self { frames, states, blocks: Vec::new(), nr_mapped: 0 }
    }

    fn fill(&mut self, range: MfnRange, state: FrameState) {
        self.states[range.start() as usize..range.end() as usize].fill(state);
    }

    /// The heap may have made page records of its own memory.
    fn see_mapped(&mut self) {
        for (mfn, n) in take_mapped() {
            let range = MfnRange::new(mfn, n);
            assert!(range.iter().all(|mfn| self.states[mfn.get() as usize] == FrameState::Free));
            self.fill(range, FrameState::Private);
            self.nr_mapped += n;
        }
    }

    /// The highest aligned run of free frames that ends at or below `limit`.
    fn has_free(&self, order: Order, limit: u64) -> bool {
        let n = order.nr_frames() as usize;
        let whole = self.states.chunks_exact(n).take(usize::try_from(limit).unwrap_or(usize::MAX) / n);
        whole.into_iter().any(|block| block.iter().all(|&s| s == FrameState::Free))
    }

    fn took(&mut self, block: Option<Block>, order: Order, limit: u64) {
        self.see_mapped();
        match block {
            Some(block) => {
                assert_eq!(block.order(), order);
                assert!(block.mfn().is_aligned(order) && block.range().end() <= limit);
                for mfn in block.range().iter() {
                    assert_eq!(self.states[mfn.get() as usize], FrameState::Free, "{mfn} in {block:?}");
                }
                self.fill(block.range(), FrameState::Private);
                self.blocks.push(block);
            }
            None => assert!(
                !self.has_free(order, limit) || (order < Order::CHUNK && self.out_of_records()),
                "order {order} below {limit:#x} is there"
            ),
        }
    }

    /// True if no chunk can be split any more.
    fn out_of_records(&self) -> bool {
        self.frames.stats().nr_unused_splits == 0
    }

    fn pick(&mut self, i: usize) -> Option<Block> {
        (!self.blocks.is_empty()).then(|| self.blocks.swap_remove(i % self.blocks.len()))
    }

    fn owner(&self, mfn: u64) -> Option<DomId> {
        match self.states.get(mfn as usize) {
            Some(&FrameState::Owned { owner }) => Some(owner),
            _ => None,
        }
    }

    fn step(&mut self, action: Action) {
        use crate::mm::frametable::{ClaimError, ReleaseError};
        match action {
            Action::PlugIn => {
                let unclaimed = self.states.iter_mut().filter(|s| **s == FrameState::Unclaimed);
                let n = unclaimed.map(|s| *s = FrameState::Free).count() as u64;
                assert_eq!(self.frames.plug_in(map), n);
            }
            Action::Insert(a, b) => {
                let result = self.frames.lock().insert(range(a, b));
                let bad = (a..b).find(|&i| self.states[i as usize] != FrameState::Unclaimed);
                match (result, bad) {
                    (Ok(()), None) => self.fill(range(a, b), FrameState::Free),
                    (Err(InsertError::Conflict { mfn, found }), Some(bad)) => {
                        assert_eq!((mfn.get(), found), (bad, self.states[bad as usize]));
                    }
                    (Err(InsertError::NoMemory), None) => {}
                    other => panic!("{other:?}"),
                }
            }
            Action::Claim(a, b, owner) => {
                let result = self.frames.claim(range(a, b), d(owner));
                let bad = (a..b).find(|&i| self.states[i as usize] != FrameState::Unclaimed);
                match (result, bad) {
                    (Ok(()), None) => self.fill(range(a, b), FrameState::Owned { owner: d(owner) }),
                    (Err(ClaimError::Conflict { mfn, wanted, found }), Some(bad)) => {
                        assert_eq!((mfn.get(), wanted, found), (bad, d(owner), self.states[bad as usize]));
                    }
                    (Err(ClaimError::NoRecords { .. }), None) => assert!(self.frames.stats().nr_unused_splits < 2),
                    other => panic!("{other:?}"),
                }
            }
            Action::Alloc(order) => {
                let block = self.frames.alloc(Order::new(order));
                self.took(block, Order::new(order), u64::MAX);
            }
            Action::AllocBelow(order, limit) => {
                let block = self.frames.alloc_below(Order::new(order), limit);
                self.took(block, Order::new(order), limit);
            }
            Action::Free(i) => {
                let Some(block) = self.pick(i) else { return };
                self.fill(block.range(), FrameState::Free);
                self.frames.free(block);
            }
            Action::Split(i) => {
                let Some(block) = self.pick(i) else { return };
                let order = block.order();
                match self.frames.split(block) {
                    Ok((low, high)) => self.blocks.extend([low, high]),
                    Err(block) => {
                        assert!(order == Order::PAGE || (order == Order::CHUNK && self.out_of_records()));
                        self.blocks.push(block);
                    }
                }
            }
            Action::IntoDomain(i, owner, has_flags) => {
                let Some(block) = self.pick(i) else { return };
                let range = block.range();
                let flags = if has_flags { CountFlags::EXTRA } else { CountFlags::empty() };
                match self.frames.into_domain_with(clean(block), d(owner), flags) {
                    Ok(given) => {
                        assert_eq!((given.range(), given.owner()), (range, d(owner)));
                        self.see_mapped();
                        self.fill(range, FrameState::Owned { owner: d(owner) });
                    }
                    Err(refused) => {
                        assert_eq!(refused.why, IntoDomainError::NoMemory);
                        self.blocks.push(refused.block);
                    }
                }
            }
            Action::Release(a, b) => {
                let Some(owner) = self.owner(a) else { return };
                if owner == DomId::IO {
                    return;
                }
                let result = self.frames.release(range(a, b), owner);
                self.see_mapped();
                let bad = (a..b).find(|&i| self.owner(i) != Some(owner));
                match (result, bad) {
                    (Ok(()), None) => self.fill(range(a, b), FrameState::Free),
                    (Err(ReleaseError::NotOwned { mfn, owner: o, found }), Some(bad)) => {
                        assert_eq!((mfn.get(), o, found), (bad, owner, self.states[bad as usize]));
                    }
                    (Err(ReleaseError::NoMemory), None) => assert!(self.frames.stats().nr_unused_splits < 2),
                    other => panic!("{other:?}"),
                }
            }
            Action::Relinquish(a, b) => {
                let result = self.frames.relinquish(range(a, b), d(1));
                self.see_mapped();
                let Ok(n) = result else {
                    assert!(self.frames.stats().nr_unused_splits < 2);
                    return;
                };
                let mut expected = 0;
                for i in a..b {
                    if self.owner(i) == Some(d(1)) {
                        self.states[i as usize] = FrameState::Free;
                        expected += 1;
                    }
                }
                assert_eq!(n, expected);
            }
            Action::Page(i) => {
                let result = self.frames.page(Mfn::new(i)).map(|page| (page.owner(), page.count()));
                self.see_mapped();
                let expected = match self.states[i as usize] {
                    FrameState::Owned { owner } if owner != DomId::IO => Ok((Some(owner), 1)),
                    FrameState::Owned { .. } | FrameState::NotRam => Err(NoPage::NotRam),
                    _ => Err(NoPage::NotOwned),
                };
                if result != Err(NoPage::NoMemory) {
                    assert_eq!(result, expected);
                } else {
                    assert!(expected.is_ok() && self.out_of_records());
                }
            }
            Action::PutPage(i) => {
                let Some(owner) = self.owner(i).filter(|&o| o != DomId::IO) else { return };
                let result = self.frames.get_page(Mfn::new(i), owner).map(|page| {
                    assert!(!page.put_page() && page.clear_allocated() && page.put_page());
                });
                self.see_mapped();
                if result.is_ok() {
                    self.frames.free_page(Mfn::new(i));
                    self.states[i as usize] = FrameState::Free;
                }
            }
        }
        self.see_mapped();
    }

    fn check(&self) {
        if let Err(error) = self.frames.validate() {
            panic!("{error:?}");
        }
        for (i, &state) in self.states.iter().enumerate() {
            let found = self.frames.state_of(Mfn::new(i as u64));
            assert_eq!(found, state, "frame {i:#x}");
        }
        let count = |wanted: fn(FrameState) -> bool| self.states.iter().filter(|&&s| wanted(s)).count() as u64;
        let ledger = self.frames.ledger();
        let is_hole =
            |s| matches!(s, FrameState::NotRam) || matches!(s, FrameState::Owned { owner } if owner == DomId::IO);
        assert_eq!(ledger.total, NR_FRAMES);
        assert_eq!(ledger.sum() + ledger.unclaimed, ledger.total);
        assert_eq!(ledger.free, count(|s| s == FrameState::Free));
        assert_eq!(ledger.free, self.frames.stats().nr_free);
        assert_eq!(ledger.heap, count(|s| s == FrameState::Private));
        assert_eq!(ledger.region, 512);
        assert_eq!(ledger.image, 512);
        assert_eq!(ledger.holes, count(is_hole));
        assert_eq!(ledger.unclaimed, count(|s| s == FrameState::Unclaimed));
    }

    /// Everything is given back: all splits but those of chunks with holes are unused.
    fn end(mut self) {
        self.step(Action::PlugIn);
        while !self.blocks.is_empty() {
            self.step(Action::Free(0));
        }
        for owner in 1..4 {
            self.frames.relinquish(range(0, NR_FRAMES), d(owner)).unwrap();
        }
        for state in &mut self.states {
            if matches!(*state, FrameState::Owned { owner } if owner != DomId::IO) {
                *state = FrameState::Free;
            }
        }
        self.frames.lock().drain();
        self.check();
        let is_split = |&c: &u64| matches!(self.frames.table().chunk(c), Chunk::Split { .. });
        let nr_split = (0..NR_CHUNKS).filter(is_split).count() as u64;
        let io = FrameState::Owned { owner: DomId::IO };
        let nr_holed = self.states.chunks(512).filter(|c| c.contains(&io)).count() as u64;
        assert_eq!(nr_split, nr_holed);
        let stats = self.frames.stats();
        assert_eq!(stats.nr_splits - stats.nr_unused_splits, nr_split);
        let private = self.states.iter().filter(|&&s| s == FrameState::Private).count() as u64;
        assert_eq!(private, self.nr_mapped);
    }
}

fn pieces() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let piece = |from: u64, to: u64| {
        prop_oneof![
            1 => Just((from, to)),
            2 => (from..to, from..to).prop_map(|(a, b)| (a.min(b), a.max(b))),
            1 => Just((from, from)),
        ]
    };
    (piece(0, 700), piece(700, 1024), piece(4 * 512, 7 * 512), piece(7 * 512, NR_FRAMES))
        .prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn table_and_heap_are_their_model(
        pieces in pieces(),
        early in proptest::collection::vec(action(), 0..12),
        late in proptest::collection::vec(action(), 1..90),
    ) {
        let mut model = Model::new(&pieces, 2);
        for action in early {
            model.step(action);
        }
        model.check();
        model.step(Action::PlugIn);
        for action in late {
            model.step(action);
            model.check();
        }
        model.end();
    }

    /// Blocks of all orders on a machine of 4 GiB, taken and given back in any order.
    #[test]
    fn blocks_never_overlap_and_always_merge(
        actions in proptest::collection::vec((0u8..19, any::<usize>(), any::<bool>()), 1..300)
    ) {
        let frames = plugged(2048);
        let before = frames.stats();
        let mut held = Vec::<Block>::new();
        let mut taken = std::collections::BTreeMap::<u64, u64>::new();
        for (order, pick, is_alloc) in actions {
            if is_alloc {
                let order = Order::new(order);
                let Some(block) = frames.alloc(order) else { continue };
                let (start, end) = (block.range().start(), block.range().end());
                prop_assert!(block.mfn().is_aligned(order));
                prop_assert!(taken.range(..end).next_back().is_none_or(|(_, &e)| e <= start));
                taken.insert(start, end);
                held.push(block);
            } else if !held.is_empty() {
                let block = held.swap_remove(pick % held.len());
                taken.remove(&block.mfn().get());
                frames.free(block);
            }
            let nr_taken: u64 = held.iter().map(|b| b.order().nr_frames()).sum();
            let nr_mapped = before.nr_free - frames.stats().nr_free - nr_taken;
            prop_assert_eq!(nr_mapped % 512, 0);
            prop_assert_eq!(frames.ledger().heap, nr_taken + nr_mapped);
        }
        if let Err(error) = frames.validate() {
            panic!("{error:?}");
        }
        held.into_iter().for_each(|b| frames.free(b));
        frames.lock().drain();
        if let Err(error) = frames.validate() {
            panic!("{error:?}");
        }
        let stats = frames.stats();
        prop_assert_eq!(&stats.nr_blocks[..9], &[0; 9]);
        if stats.nr_slabs == before.nr_slabs {
            prop_assert_eq!(stats, before);
        }
    }
}

/// Pages that come back need not be a block: here they complete one with their end alone.
#[test]
fn what_comes_back_is_offered_whichever_end_of_it_completes_a_block() {
    let frames = machine(4, 4);
    frames.lock().init_ram(range(0, 2048)).unwrap();
    frames.claim(range(512, 522), d(1)).unwrap();
    frames.claim(range(528, 1024), d(1)).unwrap();
    frames.plug_in(map);
    frames.validate().unwrap();
    assert_eq!(frames.relinquish(range(518, 522), d(1)).unwrap(), 4);
    frames.validate().unwrap();
}
