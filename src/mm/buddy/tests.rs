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

mod model;
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
