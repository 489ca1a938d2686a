//! Allocators of pages, ours and others', behind one interface. All are given the same frames, and all but the floor are called under the same lock,
//! as a kernel calls them: an uncontended [`spin::Mutex`].

use crate::host::{FIRST_GUEST, FREE_BELOW, Host};
use bitmap_allocator::{BitAlloc, BitAlloc1M};
use buddy_system_allocator::FrameAllocator;
use luxen::frame::Order;
use luxen::mm::buddy::Block;
use spin::Mutex;

/// Allocates and takes back.
pub trait Pages {
    /// What was allocated.
    type Held;

    /// Takes a naturally aligned block of `2^order` pages.
    fn get(&mut self, order: u8) -> Option<Self::Held>;

    /// Gives it back.
    fn put(&mut self, held: Self::Held);

    /// The number of the first page.
    fn first(held: &Self::Held) -> u64;
}

/// The hypervisor's heap, its lock taken for each call.
pub struct Ours<'h, 'm>(pub &'h Host<'m>);

impl Pages for Ours<'_, '_> {
    type Held = Block;

    #[inline]
    fn get(&mut self, order: u8) -> Option<Block> {
        self.0.frames.alloc(Order::new(order))
    }

    #[inline]
    fn put(&mut self, held: Block) {
        self.0.frames.free(held);
    }

    fn first(held: &Block) -> u64 {
        held.mfn().get()
    }
}

/// The frames that a host of `nr_frames` has free when nobody owns any, as half-open ranges.
fn free_ranges(nr_frames: u64) -> impl Iterator<Item = (usize, usize)> {
    FREE_BELOW.into_iter().chain([(FIRST_GUEST, nr_frames)]).map(|(start, end)| (start as usize, end as usize))
}

/// `buddy_system_allocator`: a buddy system over ordered sets, up to the order of our largest block.
pub struct BuddySystem(Mutex<FrameAllocator<19>>);

impl BuddySystem {
    /// With the frames of a host.
    pub fn new(nr_frames: u64) -> Self {
        let mut frames = FrameAllocator::new();
        free_ranges(nr_frames).for_each(|(start, end)| frames.add_frame(start, end));
        Self(Mutex::new(frames))
    }
}

impl Pages for BuddySystem {
    type Held = (u32, u8);

    #[inline]
    fn get(&mut self, order: u8) -> Option<(u32, u8)> {
        Some((self.0.lock().alloc(1 << order)? as u32, order))
    }

    #[inline]
    fn put(&mut self, (first, order): (u32, u8)) {
        self.0.lock().dealloc(first as usize, 1 << order);
    }

    fn first(held: &(u32, u8)) -> u64 {
        held.0.into()
    }
}

/// `bitmap-allocator`: a tree of bitmaps over a mebi-page.
pub struct Bitmap(Mutex<Box<BitAlloc1M>>);

impl Bitmap {
    /// With the frames of a host of at most 4 GiB.
    pub fn new(nr_frames: u64) -> Self {
        let mut frames = Box::<BitAlloc1M>::default();
        free_ranges(nr_frames).for_each(|(start, end)| frames.insert(start..end));
        Self(Mutex::new(frames))
    }
}

impl Pages for Bitmap {
    type Held = (u32, u8);

    #[inline]
    fn get(&mut self, order: u8) -> Option<(u32, u8)> {
        let mut frames = self.0.lock();
        let first = match order {
            0 => frames.alloc(),
            _ => frames.alloc_contiguous(None, 1 << order, order.into()),
        };
        Some((first? as u32, order))
    }

    #[inline]
    fn put(&mut self, (first, order): (u32, u8)) {
        let mut frames = self.0.lock();
        let was_held = match order {
            0 => frames.dealloc(first as usize),
            _ => frames.dealloc_contiguous(first as usize, 1 << order),
        };
        assert!(was_held, "what is given back was taken");
    }

    fn first(held: &(u32, u8)) -> u64 {
        held.0.into()
    }
}

/// The floor: a stack of blocks of one order, without a lock, without records, without merging.
pub struct Lifo(Vec<u32>);

impl Lifo {
    /// With the blocks of one order that lie in the guests' part of a host; the lowest is on top.
    pub fn new(nr_frames: u64, order: u8) -> Self {
        Self((FIRST_GUEST as u32..nr_frames as u32).step_by(1 << order).rev().collect())
    }
}

impl Pages for Lifo {
    type Held = u32;

    #[inline]
    fn get(&mut self, _order: u8) -> Option<u32> {
        self.0.pop()
    }

    #[inline]
    fn put(&mut self, held: u32) {
        self.0.push(held);
    }

    fn first(held: &u32) -> u64 {
        (*held).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{GIB, HostMemory, NR_KEPT};

    /// Takes all pages there are, in blocks of all orders, and then gives them back: none is taken twice, none is lost.
    fn exhaust<P: Pages>(mut pages: P, orders: &[u8]) {
        for _ in 0..2 {
            let mut seen = vec![false; GIB as usize];
            let mut held = Vec::new();
            let mut turn = 0;
            let mut failed = 0;
            while failed < orders.len() {
                let order = orders[turn % orders.len()];
                turn += 1;
                let Some(block) = pages.get(order) else {
                    failed += 1;
                    continue;
                };
                failed = 0;
                let first = P::first(&block) as usize;
                assert!(first.is_multiple_of(1 << order), "block at {first:#x} of order {order}");
                for page in &mut seen[first..first + (1 << order)] {
                    assert!(!*page, "taken twice");
                    *page = true;
                }
                held.push(block);
            }
            let free = GIB - NR_KEPT - 1;
            let taken = seen.iter().filter(|page| **page).count() as u64;
            assert!(taken == free || taken == GIB - FIRST_GUEST, "{taken} of {free} pages");
            fastrand::Rng::with_seed(1).shuffle(&mut held);
            held.into_iter().for_each(|block| pages.put(block));
        }
    }

    #[test]
    fn every_allocator_gives_all_pages_and_takes_them_back() {
        exhaust(BuddySystem::new(GIB), &[0, 3, 9]);
        exhaust(BuddySystem::new(GIB), &[0]);
        exhaust(Bitmap::new(GIB), &[0]);
        exhaust(Lifo::new(GIB, 0), &[0]);
        exhaust(Lifo::new(GIB, 9), &[9]);
    }

    #[test]
    fn so_does_ours_but_for_what_its_records_take() {
        let mut memory = HostMemory::new(GIB, GIB);
        let host = memory.host(GIB);
        let free = host.plug_in();
        let mut ours = Ours(&host);
        let mut held = Vec::new();
        while let Some(block) = ours.get(0) {
            held.push(block);
        }
        let (_, records) = host.metadata_bytes();
        assert!(held.len() as u64 >= free - records / 4096, "{} of {free}", held.len());
        fastrand::Rng::with_seed(1).shuffle(&mut held);
        held.into_iter().for_each(|block| ours.put(block));
        host.frames.lock().drain();
        assert!(host.frames.ledger().is_balanced());
        host.frames.validate().expect("the heap is sound");
    }
}
