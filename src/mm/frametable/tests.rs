use super::*;
use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, Order};
use crate::mm::buddy::InsertError;
use crate::mm::page_info::{CountFlags, NoPage, PageLookup, RefError};
use std::boxed::Box;
use std::cell::RefCell;
use std::string::ToString;
use std::vec::Vec;

/// Splits in a slab of the tests: few, so that slabs run out.
pub const TEST_SLAB: usize = 4;

std::thread_local! {
    static ARENA: RefCell<(Vec<&'static [Split]>, usize)> = const { RefCell::new((Vec::new(), 0)) };
    /// Blocks that the heap gave for page records since the last look.
    static TAKEN: RefCell<Vec<(Mfn, u64)>> = const { RefCell::new(Vec::new()) };
}

/// A slab that lives for ever, used again by the next test of the thread.
pub fn slab() -> &'static [Split] {
    ARENA.with_borrow_mut(|(slabs, used)| {
        if *used == slabs.len() {
            slabs.push(Box::leak((0..TEST_SLAB).map(|_| Split::new()).collect::<Box<[Split]>>()));
        }
        *used += 1;
        let slab = slabs[*used - 1];
        for split in slab {
            split.pages().iter().for_each(|page| page.clear());
            split.vacant().reset();
        }
        slab
    })
}

/// What the heap makes page records with in the tests.
pub fn map(mfn: Mfn, nr_frames: u64) -> &'static [Split] {
    TAKEN.with_borrow_mut(|taken| taken.push((mfn, nr_frames)));
    slab()
}

pub fn take_mapped() -> Vec<(Mfn, u64)> {
    TAKEN.take()
}

/// Entries of so many chunks, of which nothing is known, in memory that nobody has cleared.
pub fn untold(nr_chunks: usize) -> (&'static [ChunkEntry], &'static [BlockState]) {
    let entries = (0..nr_chunks).map(|_| ChunkEntry::dirty()).collect::<Vec<_>>();
    let blocks = (0..blocks_for(nr_chunks)).map(|_| BlockState::new()).collect::<Vec<_>>();
    (entries.leak(), blocks.leak())
}

/// Frames of a machine with so many chunks, and splits for a few.
pub fn machine(nr_chunks: usize, nr_slabs: usize) -> Frames {
    ARENA.with_borrow_mut(|(_, used)| *used = 0);
    TAKEN.take();
    let (entries, blocks) = untold(nr_chunks);
    let places = Box::leak((0..nr_slabs + nr_chunks).map(|_| SplitSlab::new()).collect::<Box<[SplitSlab]>>());
    let frames = Frames::new(entries, blocks, places);
    for _ in 0..nr_slabs {
        frames.lock().pool().feed(slab()).unwrap();
    }
    frames
}

pub fn range(start: u64, end: u64) -> MfnRange {
    MfnRange::between(start, end).unwrap()
}

pub fn d(n: u16) -> DomId {
    DomId::new(n)
}

fn unused(frames: &Frames) -> u64 {
    frames.stats().nr_unused_splits
}

#[test]
fn ram_in_part_of_a_chunk_splits_it_and_the_rest_is_no_ram() {
    let frames = machine(4, 1);
    frames.lock().init_ram(range(0, 0x9f)).unwrap();
    frames.lock().init_ram(range(0x100, 0x5f0)).unwrap();
    assert_eq!(frames.owner_of(Mfn::new(0)), Some(DomId::IO));
    assert_eq!(frames.state_of(Mfn::new(1)), FrameState::Unclaimed);
    assert_eq!(frames.owner_of(Mfn::new(0x9f)), Some(DomId::IO));
    assert_eq!(frames.table().chunk(1), Chunk::Unclaimed);
    assert_eq!(frames.owner_of(Mfn::new(0x5f0)), Some(DomId::IO));
    assert_eq!(frames.state_of(Mfn::new(3 * 512)), FrameState::NotRam);
    assert_eq!(frames.state_of(Mfn::new(4 * 512)), FrameState::NotRam);
    let ledger = frames.ledger();
    assert_eq!((ledger.unclaimed, ledger.holes), (0x9e + 0x4f0, 2048 - 0x9e - 0x4f0));
    frames.validate().unwrap();
}

#[test]
fn ram_told_of_in_pieces_becomes_a_whole_chunk() {
    let frames = machine(4, 1);
    frames.lock().init_ram(range(512, 700)).unwrap();
    assert_eq!(unused(&frames), 3);
    frames.lock().init_ram(range(700, 1100)).unwrap();
    assert_eq!(frames.table().chunk(1), Chunk::Unclaimed);
    assert_eq!(unused(&frames), 3);
    frames.validate().unwrap();
}

#[test]
fn region_and_image_are_whole_chunks_of_unclaimed_ram() {
    let frames = machine(6, 1);
    frames.lock().init_ram(range(512, 5 * 512 + 1)).unwrap();
    let mut locked = frames.lock();
    assert_eq!(locked.init_region(range(512, 1023)), Err(InitError::NotChunks { range: range(512, 1023) }));
    let beyond = range(5 * 512, 7 * 512);
    assert_eq!(locked.init_region(beyond), Err(InitError::BehindTable { range: beyond, nr_frames: 6 * 512 }));
    let hole = Mfn::new(5 * 512 + 1);
    assert_eq!(
        locked.init_image(range(4 * 512, 6 * 512)),
        Err(InitError::Conflict { mfn: hole, found: FrameState::Owned { owner: DomId::IO } })
    );
    locked.init_region(range(512, 1024)).unwrap();
    locked.init_image(range(1024, 2048)).unwrap();
    assert_eq!(
        locked.init_image(range(512, 1024)),
        Err(InitError::Conflict { mfn: Mfn::new(512), found: FrameState::Region })
    );
    drop(locked);
    let ledger = frames.ledger();
    assert_eq!((ledger.region, ledger.image, ledger.unclaimed), (512, 1024, 512 + 1));
}

#[test]
fn a_claim_is_all_or_nothing_and_its_error_names_both() {
    let frames = machine(8, 1);
    frames.lock().init_ram(range(512, 8 * 512)).unwrap();
    frames.lock().init_region(range(7 * 512, 8 * 512)).unwrap();
    frames.claim(range(2000, 3000), d(1)).unwrap();
    let before = frames.ledger();
    let error = frames.claim(range(1000, 2100), d(2)).unwrap_err();
    let found = FrameState::Owned { owner: d(1) };
    assert_eq!(error, ClaimError::Conflict { mfn: Mfn::new(2000), wanted: d(2), found });
    assert_eq!(error.to_string(), "frame 0x7d0, claimed by d2, belongs to d1");
    let error = frames.claim(range(3000, 4000), d(2)).unwrap_err();
    assert_eq!(error.to_string(), "frame 0xe00, claimed by d2, is in the region");
    let error = frames.claim(range(8 * 512, 8 * 512 + 1), DomId::XEN).unwrap_err();
    assert_eq!(error.to_string(), "frame 0x1000, claimed by xen, is not RAM");
    assert_eq!(frames.ledger(), before);
    frames.claim(range(1000, 2000), d(2)).unwrap();
    assert_eq!(frames.owner_of(Mfn::new(1999)), Some(d(2)));
    frames.validate().unwrap();
}

#[test]
fn without_page_records_a_claim_changes_nothing() {
    let frames = machine(8, 1);
    frames.lock().init_ram(range(512, 8 * 512)).unwrap();
    for i in 1..4 {
        frames.claim(range(i * 512, i * 512 + 1), d(1)).unwrap();
    }
    let whole = range(4 * 512 - 1, 6 * 512 + 1);
    // Chunk 3 is split already, chunk 6 takes the last split.
    frames.claim(whole, d(2)).unwrap();
    let before = frames.ledger();
    let none = range(7 * 512 + 1, 7 * 512 + 2);
    assert_eq!(frames.claim(none, d(1)), Err(ClaimError::NoRecords { range: none, needed: 1, found: 0 }));
    assert_eq!(frames.ledger(), before);
    assert_eq!(frames.page(Mfn::new(5 * 512)).err(), Some(NoPage::NoMemory));
    frames.lock().pool().feed(slab()).unwrap();
    frames.claim(none, d(1)).unwrap();
    frames.validate().unwrap();
}

#[test]
fn a_claim_over_three_chunks_with_records_for_one_changes_nothing() {
    let frames = machine(8, 1);
    frames.lock().init_ram(range(512, 8 * 512)).unwrap();
    for i in 1..4 {
        frames.claim(range(i * 512, i * 512 + 1), d(1)).unwrap();
    }
    let before = frames.ledger();
    let three = range(5 * 512 - 1, 6 * 512 + 1);
    assert_eq!(frames.claim(three, d(2)), Err(ClaimError::NoRecords { range: three, needed: 2, found: 1 }));
    assert_eq!(frames.ledger(), before);
    // That a frame is taken is said before records are asked for.
    frames.claim(range(5 * 512, 6 * 512), d(1)).unwrap();
    let found = FrameState::Owned { owner: d(1) };
    assert_eq!(frames.claim(three, d(2)), Err(ClaimError::Conflict { mfn: Mfn::new(5 * 512), wanted: d(2), found }));
    frames.validate().unwrap();
}

#[test]
fn records_that_were_used_before_are_cleared() {
    let frames = machine(4, 0);
    frames.lock().pool().feed(&slab()[..1]).unwrap();
    frames.lock().init_ram(range(512, 4 * 512)).unwrap();
    frames.claim(range(512, 1024), d(1)).unwrap();
    assert_eq!(frames.relinquish(range(512, 1023), d(1)), Ok(511));
    frames.release(range(1023, 1024), d(1)).unwrap();
    frames.lock().drain();
    assert_eq!(unused(&frames), 1);
    frames.claim(range(1024, 1025), d(2)).unwrap();
    assert_eq!(frames.state_of(Mfn::new(1025)), FrameState::Unclaimed);
    frames.claim(range(1025, 1536), d(2)).unwrap();
    frames.validate().unwrap();
}

#[test]
fn a_page_gets_a_life_of_its_own_when_it_is_looked_up() {
    let frames = machine(4, 1);
    frames.lock().init_ram(range(512, 4 * 512 - 1)).unwrap();
    frames.lock().init_region(range(512, 1024)).unwrap();
    frames.claim(range(1024, 1536), d(1)).unwrap();
    assert_eq!(frames.table().chunk(2), Chunk::Owned { owner: d(1) });
    let page = frames.page(Mfn::new(1030)).unwrap();
    assert_eq!((page.owner(), page.count()), (Some(d(1)), 1));
    assert!(matches!(frames.table().chunk(2), Chunk::Split { .. }));
    assert_eq!(frames.page(Mfn::new(512)).err(), Some(NoPage::NotOwned));
    assert_eq!(frames.page(Mfn::new(1536)).err(), Some(NoPage::NotOwned));
    assert_eq!(frames.page(Mfn::new(4 * 512 - 1)).err(), Some(NoPage::NotRam));
    assert_eq!(frames.page(Mfn::new(5)).err(), Some(NoPage::NotRam));
    assert_eq!(frames.page(Mfn::new(4 * 512)).err(), Some(NoPage::NotRam));
    let refused = GetPageError::Ref(RefError::Owner { found: Some(d(1)) });
    assert_eq!(frames.get_page(Mfn::new(1024), d(2)).err(), Some(refused));
    assert_eq!(frames.get_page(Mfn::new(1024), d(1)).unwrap().count(), 2);
    frames.validate().unwrap();
}

#[test]
fn low_memory_that_is_reserved_is_a_hole() {
    let frames = machine(2, 1);
    frames.lock().init_ram(range(0, 1024)).unwrap();
    frames.claim(range(1, 256), DomId::IO).unwrap();
    frames.claim(range(512, 1024), DomId::IO).unwrap();
    assert_eq!(frames.ledger().holes, 256 + 512);
    assert_eq!(frames.page(Mfn::new(600)).err(), Some(NoPage::NotRam));
    assert_eq!(frames.table().chunk(1), Chunk::Owned { owner: DomId::IO });
    assert_eq!(frames.page(Mfn::new(20)).err(), Some(NoPage::NotRam));
}

#[test]
fn the_last_reference_frees_the_page_and_the_last_page_the_split() {
    let frames = machine(4, 1);
    frames.lock().init_ram(range(512, 3 * 512)).unwrap();
    frames.claim(range(512, 1536), d(1)).unwrap();
    assert_eq!(frames.plug_in(map), 0);
    for mfn in range(512, 1024).iter() {
        let page = frames.page(mfn).unwrap();
        assert!(page.clear_allocated() && page.put_page());
        frames.free_page(mfn);
        assert_eq!(frames.state_of(mfn), FrameState::Free);
    }
    frames.lock().drain();
    assert_eq!(frames.table().chunk(1), Chunk::Free { order: Order::CHUNK, next: 0, prev: 0 });
    assert_eq!(unused(&frames), 4);
    frames.release(range(1024, 1536), d(1)).unwrap();
    assert_eq!(frames.stats().nr_free, 1024);
    frames.validate().unwrap();
}

#[test]
fn what_is_referenced_or_not_ones_own_is_not_released() {
    let frames = machine(6, 1);
    frames.lock().init_ram(range(512, 6 * 512)).unwrap();
    frames.claim(range(512, 3 * 512), d(1)).unwrap();
    frames.plug_in(map);
    let page = frames.get_page(Mfn::new(600), d(1)).unwrap();
    let before = frames.ledger();
    assert_eq!(
        frames.release(range(512, 3 * 512), d(1)),
        Err(ReleaseError::InUse { mfn: Mfn::new(600), count: 2, type_count: 0 })
    );
    let found = FrameState::Owned { owner: d(1) };
    assert_eq!(
        frames.release(range(1024, 1536), d(2)),
        Err(ReleaseError::NotOwned { mfn: Mfn::new(1024), owner: d(2), found })
    );
    assert_eq!(
        frames.release(range(1535, 1537), d(1)),
        Err(ReleaseError::NotOwned { mfn: Mfn::new(1536), owner: d(1), found: FrameState::Free })
    );
    assert_eq!(frames.ledger(), before);
    // The domain's end: all but the referenced page is free, and that one with its last reference.
    assert_eq!(frames.relinquish(range(512, 1536), d(1)), Ok(1023));
    assert_eq!(frames.state_of(Mfn::new(600)), FrameState::Owned { owner: d(1) });
    assert!(page.put_page());
    frames.free_page(Mfn::new(600));
    assert_eq!(frames.ledger().claims, 0);
    frames.lock().drain();
    frames.validate().unwrap();
    assert_eq!(unused(&frames), frames.stats().nr_splits);
}

#[test]
#[should_panic(expected = "(I6)")]
fn a_page_with_references_is_not_freed() {
    let frames = machine(3, 1);
    frames.lock().init_ram(range(512, 1024)).unwrap();
    frames.claim(range(512, 600), d(1)).unwrap();
    frames.free_page(Mfn::new(512));
}

#[test]
fn frames_are_inserted_once() {
    let frames = machine(4, 1);
    frames.lock().init_ram(range(0, 4 * 512)).unwrap();
    frames.lock().insert(range(1000, 1600)).unwrap();
    assert_eq!(frames.stats().nr_free, 600);
    assert_eq!(
        frames.lock().insert(range(900, 1001)),
        Err(InsertError::Conflict { mfn: Mfn::new(1000), found: FrameState::Free })
    );
    let found = FrameState::Owned { owner: DomId::IO };
    assert_eq!(frames.lock().insert(range(0, 1)), Err(InsertError::Conflict { mfn: Mfn::new(0), found }));
    frames.validate().unwrap();
    assert_eq!(frames.plug_in(map), 4 * 512 - 1 - 600);
    frames.validate().unwrap();
    assert!(frames.ledger().is_balanced());
}

#[test]
fn a_tebibyte_is_claimed_and_plugged_in_by_chunks() {
    let chunks = 1 << 19;
    let frames = machine(chunks as usize, 1);
    let mut locked = frames.lock();
    locked.init_ram(range(0, chunks * CHUNK_FRAMES)).unwrap();
    for chunk in (1..chunks).step_by(4096) {
        locked.claim(range(chunk * 512, (chunk + 1) * 512), d(7)).unwrap();
    }
    let nr_claimed = 128 * 512;
    assert_eq!(locked.plug_in(map), chunks * 512 - nr_claimed - 1);
    assert_eq!(locked.stats().nr_blocks[18], 1024 - 128);
    assert_eq!(locked.ledger().claims, nr_claimed);
    assert!(locked.ledger().is_balanced());
    locked.validate().unwrap();
}

#[test]
fn the_ledger_is_one_line() {
    let frames = machine(6, 1);
    frames.lock().init_ram(range(512, 5 * 512 + 100)).unwrap();
    frames.lock().init_region(range(512, 1024)).unwrap();
    frames.lock().init_image(range(1024, 1536)).unwrap();
    frames.claim(range(1536, 1546), DomId::STREAM).unwrap();
    frames.claim(range(2048, 2560), d(1)).unwrap();
    assert_eq!(
        frames.ledger().to_string(),
        "ledger: MISMATCH total 3072, found 2470 = claims 512 + free 0 + heap 0 + region 512 + image 512 + \
         stream 10 + holes 924 (frames), unclaimed 602"
    );
    frames.plug_in(map);
    let block = frames.alloc(Order::new(2)).unwrap();
    assert_eq!(
        frames.ledger().to_string(),
        "ledger: total 3072 = claims 512 + free 598 + heap 4 + region 512 + image 512 + stream 10 + holes 924 (frames)"
    );
    frames.free(block);
    // A part of the last chunk is counted by its pages, and what is behind the table is a hole.
    assert_eq!(crate::mm::ledger::Ledger::count(frames.table(), 5 * 512 + 101).holes, 512 + 1);
    assert_eq!(crate::mm::ledger::Ledger::count(frames.table(), 10_000).holes, 924 + 10_000 - 3072);
    assert_eq!(crate::mm::ledger::Ledger::count(frames.table(), u64::MAX).sum(), u64::MAX);
}

#[test]
fn records_of_a_whole_chunk_carry_the_owner_and_one_reference() {
    let frames = machine(3, 1);
    frames.lock().init_ram(range(512, 1024)).unwrap();
    frames.claim(range(512, 1024), DomId::XEN).unwrap();
    frames.page(Mfn::new(700)).unwrap();
    for mfn in range(512, 1024).iter() {
        let page = frames.page(mfn).unwrap();
        let count_info = page.count_info.load(core::sync::atomic::Ordering::Relaxed);
        assert_eq!((page.owner(), count_info), (Some(DomId::XEN), CountFlags::ALLOCATED.bits() | 1));
    }
}

#[test]
fn marks_go_with_the_last_page_that_has_an_owner() {
    let marked = |frames: &Frames, chunk: u64| {
        let mut marked = Vec::new();
        frames.marks(chunk).unwrap().0.each(0..512, |index| marked.push(index));
        marked
    };
    let frames = machine(4, 1);
    frames.lock().init_ram(range(512, 4 * 512)).unwrap();
    frames.claim(range(512, 1024), d(1)).unwrap();
    assert!(frames.marks(1).is_none());
    frames.page(Mfn::new(521)).unwrap();
    assert!(marked(&frames, 1).is_empty());
    frames.marks(1).unwrap().0.set(9);
    frames.release(range(512, 1000), d(1)).unwrap();
    assert_eq!(marked(&frames, 1), [8, 9]);
    // The chunk is whole again, and other ones have its records next.
    frames.release(range(1000, 1024), d(1)).unwrap();
    frames.lock().drain();
    assert!(frames.marks(1).is_none());
    for chunk in [2, 3] {
        frames.claim(range(chunk * 512 + 8, chunk * 512 + 10), d(2)).unwrap();
        assert!(marked(&frames, chunk).is_empty());
    }
}
