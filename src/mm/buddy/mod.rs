//! The buddy heap: all RAM that nobody has claimed, in naturally aligned blocks of order 0 to 18.
//!
//! Blocks of 2 MiB and more live in the chunk entries of the frametable, smaller ones in the page records of split chunks. The lists are
//! chained through entries and records (the newest block first), so the heap itself is a few heads and counters.
//!
//! # Rules
//!
//! 1. A free block is aligned to its size, and its buddy is not a free block of the same size: those are merged at once.
//! 2. The first chunk or record of a free block carries its order and its links, all others say *tail*.
//! 3. Single pages that come back are kept at hand, up to [`NR_AT_HAND`], outside the lists and unmerged. They are free in every count;
//!    they are merged when others push them out, or when a larger block cannot be had otherwise.
//! 4. A chunk whose 512 pages are free (and not at hand) is whole again, and its records go back to the pool.
//! 5. Page records for a chunk to be split come from the pool. It is refilled *before* an operation that may need some, by a block of
//!    2 MiB or more, which takes no split to get: there is no recursion. Freeing never needs records.
//! 6. Frame 0, the region and the image never get in: the heap takes only frames that the table has as unclaimed, or that came from it.
//! 7. A block is an owned value that can be given back once. What domains take is a [`DomBlock`], made from a [`Block`] only (I1).
//! 8. Free memory is of unknown content, all of it and always: other guests', an earlier hypervisor's, the firmware's. A guest gets a block that was
//!    scrubbed after it was taken ([`Scrubbed`]). That is not remembered in the heap: after an update nobody could say which of the free frames
//!    the outgoing hypervisor had written last, and a note that is wrong once shows one guest's memory to another.
//!
//! Later blocks of [`Heap::plug_in`] are used first, that is, memory from the top; low memory is kept for those who need it
//! ([`Heap::alloc_below`]). An update waits for what its restore takes and no more ([`Heap::plug_in_later`]): the rest follows in pieces of the
//! largest order, and until then it is unclaimed, which is as good as free to everybody but an allocation.

mod block;
mod error;
mod list;
mod retire;
#[cfg(test)]
mod tests;
mod validate;

pub use block::{Block, DomBlock, Scrubbed};
pub use error::{HeapStats, InsertError, IntoDomainError, IntoDomainRefused, ValidateError};
pub use retire::Retired;

use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, Order};
use crate::mm::frametable::{
    ChunkEntry, Class, Counts, FREE_AT_HAND, FREE_TAIL, Fill, FrameState, FrameTable, Part, ReleaseError,
    SLABS_PER_ORDER, Split, SplitPool, SplitSlab, chunks_in, packed, parts,
};
use crate::mm::page_info::{COUNT_MASK, CountFlags, PageInfo};
use core::ops::Range;
use core::sync::atomic::Ordering;

/// Chunks that are plugged in at a time: no block reaches over a multiple of the largest.
const PIECE: usize = chunks_in(Order::MAX);
/// Single pages kept at hand.
pub const NR_AT_HAND: usize = 64;
/// Order of the block that is cut into single pages when none is at hand.
const REFILL_ORDER: Order = Order::new(5);
/// The page records of a chunk.
type Records = [PageInfo; CHUNK_FRAMES as usize];
const NR_ORDERS: usize = Order::MAX.get() as usize + 1;

/// Makes page records of a block that the heap gives away for ever, whatever is written there. It is called with the heap locked, so it must not
/// come back to the heap. An empty slice means that it could not.
pub type MapSplits = fn(Mfn, u64) -> &'static [Split];

/// The buddy heap. See the [module](self).
pub struct Heap {
    /// First block of each order: its frame number below order 9, its chunk number from there on; 0 for none.
    heads: [u32; NR_ORDERS],
    /// Bit n set: there is a block of order n.
    nonempty: u32,
    nr_blocks: [u64; NR_ORDERS],
    nr_free: u64,
    at_hand: [u32; NR_AT_HAND],
    nr_at_hand: usize,
    pool: SplitPool,
    map: Option<MapSplits>,
    /// Chunks that have not been plugged in yet.
    unplugged: Range<usize>,
    /// Frames that somebody has and that must not become free.
    nr_broken: u64,
}

impl Heap {
    /// A heap without memory, and a pool without splits that keeps its slabs in `slabs`.
    pub const fn new(slabs: &'static [SplitSlab]) -> Self {
        Self {
            heads: [0; NR_ORDERS],
            nonempty: 0,
            nr_blocks: [0; NR_ORDERS],
            nr_free: 0,
            at_hand: [0; NR_AT_HAND],
            nr_at_hand: 0,
            pool: SplitPool::new(slabs),
            map: None,
            unplugged: 0..0,
            nr_broken: 0,
        }
    }

    /// The pool of page records, to feed it during boot.
    pub fn pool(&mut self) -> &mut SplitPool {
        &mut self.pool
    }

    /// Frames in the heap.
    pub fn nr_free(&self) -> u64 {
        self.nr_free
    }

    /// Makes every unclaimed frame free and returns how many they were. From now on the heap provides page records by itself, through
    /// `map`. Costs a step for each chunk, and one for each page of split chunks that have unclaimed pages.
    pub fn plug_in(&mut self, table: &FrameTable, map: MapSplits) -> u64 {
        let before = self.nr_free;
        self.map = Some(map);
        self.plug_in_chunks(table, 0..table.entries().len());
        self.nr_free - before
    }

    /// As [`Self::plug_in`], but little by little: with [`Self::plug_in_more`], and when an allocation finds nothing else.
    pub fn plug_in_later(&mut self, table: &FrameTable, map: MapSplits) {
        self.map = Some(map);
        self.unplugged = 0..table.entries().len();
    }

    /// Makes the unclaimed frames of the next block of the largest order free, and of more if there are none; false if everything is plugged in.
    /// The topmost comes first and the others ascend, so that in the end memory from the top is used first in this way, too.
    pub fn plug_in_more(&mut self, table: &FrameTable) -> bool {
        let before = self.nr_free;
        let all = table.entries().len();
        while !self.unplugged.is_empty() && self.nr_free == before {
            let Range { start, end } = self.unplugged;
            let top = (end - 1) / PIECE * PIECE;
            if end == all {
                self.unplugged.end = top;
                self.plug_in_chunks(table, top..end);
            } else {
                self.unplugged.start = start + PIECE;
                self.plug_in_chunks(table, start..start + PIECE);
            }
            if self.unplugged.is_empty() {
                self.list_first(table, (all - 1) / PIECE * PIECE..all);
            }
        }
        self.nr_free != before
    }

    /// Makes all unclaimed frames free that are not yet.
    pub fn plug_in_rest(&mut self, table: &FrameTable) {
        while self.plug_in_more(table) {}
    }

    fn plug_in_chunks(&mut self, table: &FrameTable, chunks: Range<usize>) {
        let entries = &table.entries()[..chunks.end];
        let mut chunk = chunks.start;
        while chunk < entries.len() {
            match entries[chunk].word() {
                packed::UNCLAIMED => {
                    // What was just looked at is still in the cache.
                    let stop = ((chunk | (PIECE - 1)) + 1).min(entries.len());
                    let run = entries[chunk..stop].iter().take_while(|e| e.word() == packed::UNCLAIMED).count();
                    self.free_chunks(table, chunk, run);
                    chunk += run;
                }
                word => {
                    if word & packed::KIND == packed::SPLIT {
                        self.plug_in_pages(table, chunk);
                    }
                    chunk += 1;
                }
            }
        }
    }

    fn plug_in_pages(&mut self, table: &FrameTable, chunk: usize) {
        let entry = &table.entries()[chunk];
        if entry.counts().get(Class::Unclaimed) == 0 {
            return;
        }
        let Some(id) = entry.split_id() else { return };
        let pages = table.pages(id);
        let mut index = 0;
        while index < pages.len() {
            let run = pages[index..].iter().take_while(|p| p.is_uninitialised()).count();
            if run > 0 {
                self.free_pages(table, Part { chunk, first: index, end: index + run }, Class::Unclaimed);
            }
            index += run.max(1);
        }
    }

    /// Makes the frames of `range` free, which are all unclaimed. Nothing has changed on an error.
    pub fn insert(&mut self, table: &FrameTable, range: MfnRange) -> Result<(), InsertError> {
        let mut nr_splits = 0;
        for part in parts(range) {
            let state = match table.entries().get(part.chunk).map(|e| e.word()) {
                Some(packed::UNCLAIMED) => {
                    nr_splits += u64::from(!part.is_whole());
                    None
                }
                _ => (part.first..part.end)
                    .map(|i| (part.mfn(i), table.state_of(part.mfn(i))))
                    .find(|&(_, state)| state != FrameState::Unclaimed),
            };
            if let Some((mfn, found)) = state {
                return Err(InsertError::Conflict { mfn, found });
            }
        }
        if !self.reserve_splits(table, nr_splits) {
            return Err(InsertError::NoMemory);
        }
        for part in parts(range) {
            let entry = &table.entries()[part.chunk];
            if entry.split_id().is_none() {
                if part.is_whole() {
                    self.free_chunks(table, part.chunk, 1);
                    continue;
                }
                table.split(&mut self.pool, part.chunk, Fill::Unclaimed).expect("splits were reserved above");
            }
            self.free_pages(table, part, Class::Unclaimed);
        }
        Ok(())
    }

    /// Takes a block; nothing if no memory is left for it.
    pub fn alloc(&mut self, table: &FrameTable, order: Order) -> Option<Block> {
        if order == Order::PAGE {
            return self.alloc_page(table);
        }
        let found = self.find(table, order)?;
        if found >= Order::CHUNK && order < Order::CHUNK && !self.reserve_splits(table, 1) {
            return None;
        }
        // Page records may just have taken the block that was found.
        let found = self.find(table, order)?;
        let first = self.first_of(found);
        self.carve(table, first, found, first, order);
        Some(self.hand_out(table, first, order))
    }

    /// The smallest order from `order` on of which there is a block, with all that can be done to find one.
    fn find(&mut self, table: &FrameTable, order: Order) -> Option<Order> {
        loop {
            match self.smallest_from(order) {
                Some(found) => return Some(found),
                None if self.plug_in_more(table) => {}
                None => break,
            }
        }
        self.drain(table);
        self.smallest_from(order)
    }

    fn alloc_page(&mut self, table: &FrameTable) -> Option<Block> {
        if self.nr_at_hand == 0 {
            self.fetch_pages(table)?;
        }
        self.nr_at_hand -= 1;
        let mfn = Mfn::new(u64::from(self.at_hand[self.nr_at_hand]));
        let (entry, pages) = self.split_of(table, mfn);
        pages[mfn.index_in_chunk()].hand_out();
        entry.set_counts(entry.counts().moved(1, Class::Free, Class::Private));
        self.nr_free -= 1;
        Some(Block::new(mfn, Order::PAGE))
    }

    /// Cuts the smallest block there is into single pages at hand, the lowest on top.
    fn fetch_pages(&mut self, table: &FrameTable) -> Option<()> {
        let found = self.find(table, Order::PAGE)?;
        if found >= Order::CHUNK && !self.reserve_splits(table, 1) {
            return None;
        }
        let found = self.find(table, Order::PAGE)?;
        let order = found.min(REFILL_ORDER);
        let first = self.first_of(found);
        self.carve(table, first, found, first, order);
        let pages = self.pages_of(table, first);
        let index = first.index_in_chunk();
        for i in (0..order.nr_frames() as usize).rev() {
            pages[index + i].free_order.store(FREE_AT_HAND, Ordering::Relaxed);
            self.at_hand[self.nr_at_hand] = first.get() as u32 + i as u32;
            self.nr_at_hand += 1;
        }
        Some(())
    }

    /// Takes a block that ends at or below the frame number `limit`, the highest one there is.
    pub fn alloc_below(&mut self, table: &FrameTable, order: Order, limit: u64) -> Option<Block> {
        if limit >= table.nr_frames() {
            return self.alloc(table, order);
        }
        self.plug_in_rest(table);
        self.drain(table);
        let (first, found, target) = self.find_below(table, order, limit)?;
        if found >= Order::CHUNK && order < Order::CHUNK && self.pool.nr_unused() == 0 {
            self.reserve_splits(table, 1).then_some(())?;
            // Page records may just have taken the block that was found.
            let (first, found, target) = self.find_below(table, order, limit)?;
            self.carve(table, first, found, target, order);
            return Some(self.hand_out(table, target, order));
        }
        self.carve(table, first, found, target, order);
        Some(self.hand_out(table, target, order))
    }

    /// Gives a block back.
    ///
    /// # Panics
    /// If the block is not the hypervisor's own, which a block always is (rule 7).
    pub fn free(&mut self, table: &FrameTable, block: Block) {
        let (mfn, order) = block.into_parts();
        if order >= Order::CHUNK {
            let chunk = mfn.chunk() as usize;
            for entry in &table.entries()[chunk..chunk + chunks_in(order)] {
                assert!(entry.word() == packed::PRIVATE, "a block of chunks is private (I6)");
            }
            self.free_block_of_chunks(table, chunk, order);
            return;
        }
        let (entry, pages) = self.split_of(table, mfn);
        let index = mfn.index_in_chunk();
        for page in &pages[index..index + order.nr_frames() as usize] {
            let is_private = page.count_info.load(Ordering::Relaxed) == 1 && page.owner().is_none();
            assert!(is_private, "a block of pages is private (I6)");
        }
        if order == Order::PAGE {
            self.free_page(table, mfn, entry, &pages[index], Class::Private);
        } else {
            self.free_block_of_pages(table, mfn, order, Class::Private);
        }
    }

    /// Cuts a block into its lower and upper half. Below 2 MiB the two live in page records from now on; the block comes back if there is
    /// no memory for them, or if it is a single page.
    pub fn split(&mut self, table: &FrameTable, block: Block) -> Result<(Block, Block), Block> {
        if block.order() == Order::CHUNK {
            if !self.reserve_splits(table, 1) {
                return Err(block);
            }
            let chunk = block.mfn().chunk() as usize;
            assert!(table.entries()[chunk].word() == packed::PRIVATE, "a block of a chunk is private (I6)");
            table.split(&mut self.pool, chunk, Fill::Private).expect("splits were reserved above");
        }
        block.halves()
    }

    /// Gives a block to a domain, each page with the flags and one reference, the owner's. The block comes back with the reason if
    /// it is not the heap's own (I1), or if there is no memory for the page records that flags need.
    pub fn into_domain(
        &mut self,
        table: &FrameTable,
        block: Scrubbed,
        owner: DomId,
        flags: CountFlags,
    ) -> Result<DomBlock, IntoDomainRefused> {
        self.assign(table, block.into_block(), owner, flags)
    }

    /// As [`Heap::into_domain`], for what the hypervisor keeps through updates: what is in it is its own business.
    pub fn preserve(&mut self, table: &FrameTable, block: Block) -> Result<DomBlock, IntoDomainRefused> {
        self.assign(table, block, DomId::XEN, CountFlags::empty())
    }

    fn assign(
        &mut self,
        table: &FrameTable,
        block: Block,
        owner: DomId,
        flags: CountFlags,
    ) -> Result<DomBlock, IntoDomainRefused> {
        let part_of = |chunk: usize| Part { chunk, first: 0, end: CHUNK_FRAMES as usize };
        let chunk = block.mfn().chunk() as usize;
        if block.order() < Order::CHUNK {
            let first = block.mfn().index_in_chunk();
            let part = Part { chunk, first, end: first + block.order().nr_frames() as usize };
            if let Some(mfn) = (part.first..part.end)
                .map(|i| part.mfn(i))
                .find(|&mfn| table.state_of(mfn) != FrameState::Private || table.record(mfn).is_none())
            {
                return Err(refused(block, IntoDomainError::NotPrivate { mfn, found: table.state_of(mfn) }));
            }
            for page in &self.pages_of(table, block.mfn())[part.first..part.end] {
                page.assign(owner, flags);
            }
            let entry = &table.entries()[chunk];
            entry.set_counts(entry.counts().moved(part.len(), Class::Private, Class::of_owner(owner)));
            return Ok(DomBlock::new(block, owner));
        }
        let nr_chunks = chunks_in(block.order());
        for chunk in chunk..chunk + nr_chunks {
            if table.entries().get(chunk).map(|e| e.word()) != Some(packed::PRIVATE) {
                let mfn = part_of(chunk).mfn(0);
                return Err(refused(block, IntoDomainError::NotPrivate { mfn, found: table.state_of(mfn) }));
            }
        }
        if flags.is_empty() {
            for entry in &table.entries()[chunk..chunk + nr_chunks] {
                entry.set_word(packed::owned(owner));
            }
            return Ok(DomBlock::new(block, owner));
        }
        if !self.reserve_splits(table, nr_chunks as u64) {
            return Err(refused(block, IntoDomainError::NoMemory));
        }
        for chunk in chunk..chunk + nr_chunks {
            let pages = table.split(&mut self.pool, chunk, Fill::Owned(owner)).expect("splits were reserved above");
            for page in pages {
                page.assign(owner, flags);
            }
        }
        Ok(DomBlock::new(block, owner))
    }

    /// Makes frames free that are `owner`'s and that nobody else has a reference to. Chunks owned whole need no page records. Nothing
    /// has changed on an error.
    pub fn release(&mut self, table: &FrameTable, range: MfnRange, owner: DomId) -> Result<(), ReleaseError> {
        let mut nr_splits = 0;
        for part in parts(range) {
            let not_owned = |index: usize| {
                let mfn = part.mfn(index);
                ReleaseError::NotOwned { mfn, owner, found: table.state_of(mfn) }
            };
            let Some(entry) = table.entries().get(part.chunk) else { return Err(not_owned(part.first)) };
            if entry.word() == packed::owned(owner) {
                nr_splits += u64::from(!part.is_whole());
                continue;
            }
            let Some(id) = entry.split_id() else { return Err(not_owned(part.first)) };
            for (index, page) in (part.first..).zip(&table.pages(id)[part.first..part.end]) {
                if page.owner() != Some(owner) || part.mfn(index) == Mfn::ZERO {
                    return Err(not_owned(index));
                }
                let (count, type_count) = (page.count(), page.type_count());
                let is_allocated = page.count_info.load(Ordering::Relaxed) & CountFlags::ALLOCATED.bits() != 0;
                if count != 1 || type_count != 0 || !is_allocated {
                    return Err(ReleaseError::InUse { mfn: part.mfn(index), count, type_count });
                }
            }
        }
        if !self.reserve_splits(table, nr_splits) {
            return Err(ReleaseError::NoMemory);
        }
        let class = Class::of_owner(owner);
        for part in parts(range) {
            let entry = &table.entries()[part.chunk];
            if entry.split_id().is_none() {
                if part.is_whole() {
                    self.free_block_of_chunks(table, part.chunk, Order::CHUNK);
                    continue;
                }
                table.split(&mut self.pool, part.chunk, Fill::Owned(owner)).expect("splits were reserved above");
            }
            self.free_pages(table, part, class);
        }
        Ok(())
    }

    /// Takes the owner's own reference from all frames of `range` that still are `owner`'s: chunks owned whole and pages that nobody else has
    /// a reference to become free, all others with their last reference. Returns how many became free.
    /// Whole chunks that `range` only touches need page records; nothing has changed without them.
    pub fn relinquish(&mut self, table: &FrameTable, range: MfnRange, owner: DomId) -> Result<u64, ReleaseError> {
        let whole = |part: Part| table.entries().get(part.chunk).is_some_and(|e| e.word() == packed::owned(owner));
        let nr_splits = parts(range).filter(|&part| !part.is_whole() && whole(part)).count();
        if !self.reserve_splits(table, nr_splits as u64) {
            return Err(ReleaseError::NoMemory);
        }
        let before = self.nr_free;
        let class = Class::of_owner(owner);
        for part in parts(range) {
            if whole(part) {
                if part.is_whole() {
                    self.free_block_of_chunks(table, part.chunk, Order::CHUNK);
                } else {
                    table.split(&mut self.pool, part.chunk, Fill::Owned(owner)).expect("splits were reserved above");
                    self.free_pages(table, part, class);
                }
                continue;
            }
            // Looked up for each page: with the last one the chunk may be whole, and its records somebody else's.
            for mfn in (part.first..part.end).map(|i| part.mfn(i)) {
                let Some(page) = table.record(mfn) else { continue };
                let is_owners = page.owner() == Some(owner) && mfn != Mfn::ZERO;
                if is_owners && page.clear_allocated() && page.put_page() {
                    let entry = &table.entries()[part.chunk];
                    self.free_page(table, mfn, entry, page, class);
                }
            }
        }
        Ok(self.nr_free - before)
    }

    /// Makes an owned frame free whose last reference is gone; the frame's state if it is not such a frame.
    pub fn free_unreferenced(&mut self, table: &FrameTable, mfn: Mfn) -> Result<(), FrameState> {
        let page = table.record(mfn).ok_or_else(|| table.state_of(mfn))?;
        match page.owner() {
            Some(owner) if page.count_info.load(Ordering::Acquire) & COUNT_MASK == 0 && mfn != Mfn::ZERO => {
                let entry = &table.entries()[mfn.chunk() as usize];
                self.free_page(table, mfn, entry, page, Class::of_owner(owner));
                Ok(())
            }
            _ => Err(table.state_of(mfn)),
        }
    }

    /// Makes sure that `nr` splits can be taken, with memory of the heap if need be.
    pub(in crate::mm) fn reserve_splits(&mut self, table: &FrameTable, nr: u64) -> bool {
        while self.pool.nr_unused() < nr {
            let Some(map) = self.map else { return false };
            let grown = (self.pool.nr_slabs() / SLABS_PER_ORDER) as u8;
            let mut wanted = Order::new(Order::CHUNK.get().saturating_add(grown).min(Order::MAX.get()));
            // A smaller slab is better than none.
            let found = loop {
                match self.smallest_from(wanted) {
                    Some(found) => break found,
                    None if self.plug_in_more(table) => {}
                    None if wanted > Order::CHUNK => wanted = wanted.smaller().unwrap_or(Order::CHUNK),
                    None if self.nr_at_hand > 0 => self.drain(table),
                    None => return false,
                }
            };
            if !self.pool.has_place() {
                return false;
            }
            let first = self.first_of(found);
            self.carve(table, first, found, first, wanted);
            let block = self.hand_out(table, first, wanted);
            let slab = map(block.mfn(), block.order().nr_frames());
            if slab.is_empty() || self.pool.feed_unwritten(slab).is_err() {
                self.free(table, block);
                return false;
            }
        }
        true
    }

    /// Merges all pages at hand.
    pub fn drain(&mut self, table: &FrameTable) {
        self.drain_to(table, 0);
    }

    /// Merges the oldest pages at hand until `keep` are left.
    fn drain_to(&mut self, table: &FrameTable, keep: usize) {
        let nr_out = self.nr_at_hand.saturating_sub(keep);
        for i in 0..nr_out {
            let mfn = Mfn::new(u64::from(self.at_hand[i]));
            self.merge_pages(table, mfn, Order::PAGE);
        }
        self.at_hand.copy_within(nr_out..self.nr_at_hand, 0);
        self.nr_at_hand -= nr_out;
    }

    /// Marks a block that is in no list as the hypervisor's own.
    fn hand_out(&mut self, table: &FrameTable, mfn: Mfn, order: Order) -> Block {
        let chunk = mfn.chunk() as usize;
        if order >= Order::CHUNK {
            for entry in &table.entries()[chunk..chunk + chunks_in(order)] {
                entry.set_word(packed::PRIVATE);
            }
        } else {
            let index = mfn.index_in_chunk();
            for page in &self.pages_of(table, mfn)[index..index + order.nr_frames() as usize] {
                page.hand_out();
            }
            let entry = &table.entries()[chunk];
            entry.set_counts(entry.counts().moved(order.nr_frames(), Class::Free, Class::Private));
        }
        self.nr_free -= order.nr_frames();
        Block::new(mfn, order)
    }

    /// Makes a run of whole chunks free that are in no list: as large blocks as they can be.
    fn free_chunks(&mut self, table: &FrameTable, chunk: usize, nr_chunks: usize) {
        let range = MfnRange::new(Mfn::new(chunk as u64 * CHUNK_FRAMES), nr_chunks as u64 * CHUNK_FRAMES);
        for (mfn, order) in range.blocks(Order::MAX) {
            self.free_block_of_chunks(table, mfn.chunk() as usize, order);
        }
    }

    /// Makes a block of whole chunks free that is in no list, and merges it.
    fn free_block_of_chunks(&mut self, table: &FrameTable, chunk: usize, order: Order) {
        for entry in &table.entries()[chunk..chunk + chunks_in(order)] {
            entry.set_word(packed::FREE_TAIL);
        }
        self.nr_free += order.nr_frames();
        self.merge_chunks(table, chunk, order);
    }

    /// Makes pages of a split chunk free that are in no list, all of one class.
    fn free_pages(&mut self, table: &FrameTable, part: Part, class: Class) {
        if self.nr_broken != 0 {
            return self.free_pages_but_broken(table, part, class);
        }
        let range = MfnRange::new(part.mfn(part.first), part.len());
        for (mfn, order) in range.blocks(Order::new(Order::CHUNK.get() - 1)) {
            self.free_block_of_pages(table, mfn, order, class);
        }
    }

    /// Makes a block of pages free that is in no list, and merges it. With the last pages of a chunk its records are gone.
    fn free_block_of_pages(&mut self, table: &FrameTable, mfn: Mfn, order: Order, class: Class) {
        let index = mfn.index_in_chunk();
        let (entry, pages) = self.split_of(table, mfn);
        for page in &pages[index..index + order.nr_frames() as usize] {
            page.reset(CountFlags::FREE.bits(), None, FREE_TAIL);
        }
        entry.set_counts(entry.counts().moved(order.nr_frames(), class, Class::Free));
        self.nr_free += order.nr_frames();
        self.merge_pages(table, mfn, order);
    }

    /// Makes a single page free that is in no list: it stays at hand.
    fn free_page(&mut self, table: &FrameTable, mfn: Mfn, entry: &ChunkEntry, page: &PageInfo, class: Class) {
        if self.is_broken(page) {
            return self.retire_freed(table, mfn, class);
        }
        page.reset(CountFlags::FREE.bits(), None, FREE_AT_HAND);
        entry.set_counts(entry.counts().moved(1, class, Class::Free));
        self.nr_free += 1;
        if self.nr_at_hand == NR_AT_HAND {
            self.drain_to(table, NR_AT_HAND / 2);
        }
        self.at_hand[self.nr_at_hand] = mfn.get() as u32;
        self.nr_at_hand += 1;
    }

    /// Entry and records of a frame's chunk, which is split.
    fn split_of(&self, table: &FrameTable, mfn: Mfn) -> (&'static ChunkEntry, &'static Records) {
        let entry = &table.entries()[mfn.chunk() as usize];
        let id = entry.split_id().expect("a block of less than 2 MiB is in a split chunk");
        (entry, table.pages(id))
    }

    /// The records of a frame's chunk, which is split.
    fn pages_of(&self, table: &FrameTable, mfn: Mfn) -> &'static Records {
        self.split_of(table, mfn).1
    }

    /// Makes a chunk whole whose pages are all free and in one block.
    fn unsplit(&mut self, table: &FrameTable, chunk: usize) {
        debug_assert!(table.entries()[chunk].counts() == Counts::all(Class::Free));
        table.unsplit(&mut self.pool, chunk, packed::FREE_TAIL);
    }
}

fn refused(block: Block, why: IntoDomainError) -> IntoDomainRefused {
    IntoDomainRefused { block, why }
}
