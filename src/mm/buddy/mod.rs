//! The buddy heap: all RAM that nobody has claimed, in naturally aligned blocks of order 0 to 18.
//!
//! Blocks of 2 MiB and more live in the chunk entries of the frametable, smaller ones in the bits of split chunks (`Vacant`). The lists, of blocks and of
//! split chunks, are chained through both (the newest first), so the heap itself is a few heads and counters. No page's record is looked at or written
//! unless the page comes from an owner or goes to one.
//!
//! # Rules
//!
//! 1. A free block is aligned to its size, and its buddy is not a free block of the same size: those are merged at once. Below 2 MiB that is in
//!    the nature of bits.
//! 2. The first chunk of a free block carries its order and its links, all others say *tail*.
//! 3. Pages are taken from the chunk that has the least to offer, so that others become whole.
//! 4. A chunk whose 512 pages are free is whole again, and its records go back to the pool, except for one: it is kept split, so that a page that is taken and
//!    given back does not split a chunk each time. It is made whole when a larger block cannot be had otherwise.
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
mod plug_in;
mod retire;
#[cfg(test)]
mod tests;
mod validate;

pub use block::{Block, DomBlock, Scrubbed};
pub use error::{HeapStats, InsertError, IntoDomainError, IntoDomainRefused, ValidateError};
pub use retire::Retired;

use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, Order};
use crate::mm::frametable::{
    ChunkEntry, Class, Fill, FrameState, FrameTable, Near, Part, ReleaseError, SLABS_PER_ORDER, Split, SplitPool,
    SplitSlab, Vacancy, Vacant, chunks_in, packed, parts,
};
use crate::mm::page_info::{COUNT_MASK, CountFlags, PageInfo};
use core::ops::Range;
use core::sync::atomic::Ordering;

const NR_ORDERS: usize = Order::MAX.get() as usize + 1;

/// Makes page records of a block that the heap gives away for ever, whatever is written there. It is called with the heap locked, so it must not
/// come back to the heap. An empty slice means that it could not.
pub type MapSplits = fn(Mfn, u64) -> &'static [Split];

/// The buddy heap. See the [module](self).
pub struct Heap {
    /// First of each list: below order 9 of split chunks, by their number plus 1, from there on of blocks, by their chunk's number; 0 for none.
    heads: [u32; NR_ORDERS],
    /// Bit n set: the list of order n has something in it.
    nonempty: u32,
    /// Blocks of each order from 9 on.
    nr_blocks: [u64; NR_ORDERS],
    nr_free: u64,
    /// The split that was used last.
    near: Near,
    /// Number plus 1 of the chunk that may be kept split though all its pages are free; 0 for none.
    kept: u32,
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
            near: Near::new(),
            kept: 0,
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
            let entry = table.entries().own(part.chunk);
            if entry.split_id().is_none() {
                if part.is_whole() {
                    self.free_chunks(table, part.chunk, 1);
                    continue;
                }
                table.split(&mut self.pool, part.chunk, Fill::Unclaimed).expect("splits were reserved above");
            }
            self.free_vacant(table, part, Vacancy::Unclaimed);
        }
        Ok(())
    }

    /// Takes a block; nothing if no memory is left for it.
    pub fn alloc(&mut self, table: &FrameTable, order: Order) -> Option<Block> {
        if order < Order::CHUNK {
            return self.alloc_pages(table, order);
        }
        let found = self.find(table, order)?;
        let first = self.first_of(found);
        self.carve(table, first, found, first, order);
        Some(self.hand_out_chunks(table, first, order))
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

    #[inline(always)]
    fn alloc_pages(&mut self, table: &FrameTable, order: Order) -> Option<Block> {
        loop {
            let found = match self.smallest_from(order) {
                Some(found) => found,
                None => self.find(table, order)?,
            };
            if found >= Order::CHUNK {
                return self.alloc_from_whole(table, order);
            }
            let chunk = self.first_split_of(found);
            let (entry, split) = self.split_near(table, chunk);
            let index = if order == Order::PAGE { split.vacant().find_page() } else { split.vacant().find(order) };
            match index {
                Some(index) => {
                    return Some(self.hand_out(table, Part::block(chunk, index, order), order, entry, split));
                }
                None => self.list_less(table, chunk, split.vacant(), true),
            }
        }
    }

    #[cold]
    fn alloc_from_whole(&mut self, table: &FrameTable, order: Order) -> Option<Block> {
        self.reserve_splits(table, 1).then_some(())?;
        // Page records may just have taken the block that was found.
        let found = self.find(table, Order::CHUNK)?;
        let first = self.first_of(found);
        let split = self.break_up(table, first, found, first);
        let chunk = first.chunk() as usize;
        Some(self.hand_out(table, Part::block(chunk, 0, order), order, table.entries().written(chunk), split))
    }

    /// Takes a block that ends at or below the frame number `limit`, the highest one there is.
    pub fn alloc_below(&mut self, table: &FrameTable, order: Order, limit: u64) -> Option<Block> {
        if limit >= table.nr_frames() {
            return self.alloc(table, order);
        }
        self.plug_in_rest(table);
        if order >= Order::CHUNK {
            self.drain(table);
        }
        let mut found = self.find_below(table, order, limit)?;
        if order < Order::CHUNK && found.0.is_some() && self.pool.nr_unused() == 0 {
            self.reserve_splits(table, 1).then_some(())?;
            // Page records may just have taken the block that was found.
            found = self.find_below(table, order, limit)?;
        }
        Some(self.take(table, found.0, found.1, order))
    }

    /// Takes the free block of `order` at `target`, which is in the given block of chunks, or else in a split chunk. Page records have been seen to.
    fn take(&mut self, table: &FrameTable, within: Option<(Mfn, Order)>, target: Mfn, order: Order) -> Block {
        let chunk = target.chunk() as usize;
        let split = match within {
            Some((first, found)) if order >= Order::CHUNK => {
                self.carve(table, first, found, target, order);
                return self.hand_out_chunks(table, target, order);
            }
            Some((first, found)) => self.break_up(table, first, found, target),
            None => self.split_of(table, chunk).1,
        };
        let part = Part::block(chunk, target.index_in_chunk(), order);
        self.hand_out(table, part, order, table.entries().written(chunk), split)
    }

    /// Gives a block back.
    ///
    /// # Panics
    /// If the block is not the hypervisor's own, which a block always is (rule 7).
    pub fn free(&mut self, table: &FrameTable, block: Block) {
        let (mfn, order) = block.into_parts();
        if order >= Order::CHUNK {
            let chunk = mfn.chunk() as usize;
            for entry in table.entries().all_written(chunk..chunk + chunks_in(order)) {
                assert!(entry.word() == packed::PRIVATE, "a block of chunks is private (I6)");
            }
            self.free_block_of_chunks(table, chunk, order);
            return;
        }
        self.free_vacant(table, Part::block(mfn.chunk() as usize, mfn.index_in_chunk(), order), Vacancy::Private);
    }

    /// Cuts a block into its lower and upper half. Below 2 MiB the two live in page records from now on; the block comes back if there is
    /// no memory for them, or if it is a single page.
    pub fn split(&mut self, table: &FrameTable, block: Block) -> Result<(Block, Block), Block> {
        if block.order() == Order::CHUNK {
            if !self.reserve_splits(table, 1) {
                return Err(block);
            }
            let chunk = block.mfn().chunk() as usize;
            assert!(table.entries().at(chunk).word() == packed::PRIVATE, "a block of a chunk is private (I6)");
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
            let part = Part::block(chunk, block.mfn().index_in_chunk(), block.order());
            let split = table.entries().get(chunk).and_then(|e| e.split_id()).map(|id| table.split_at(id));
            let Some(split) = split.filter(|s| s.vacant().has_all(Vacancy::Private, part.first, part.end)) else {
                let mfn = part.frames().find(|&mfn| table.state_of(mfn) != FrameState::Private);
                let mfn = mfn.unwrap_or(block.mfn());
                return Err(refused(block, IntoDomainError::NotPrivate { mfn, found: table.state_of(mfn) }));
            };
            for page in &split.pages()[part.first..part.end] {
                page.assign(owner, flags);
            }
            split.vacant().clear(Vacancy::Private, part.first, part.end);
            let entry = table.entries().written(chunk);
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
            for entry in table.entries().all_written(chunk..chunk + nr_chunks) {
                entry.set_word(packed::owned(owner));
            }
            return Ok(DomBlock::new(block, owner));
        }
        if !self.reserve_splits(table, nr_chunks as u64) {
            return Err(refused(block, IntoDomainError::NoMemory));
        }
        for chunk in chunk..chunk + nr_chunks {
            let split = table.split(&mut self.pool, chunk, Fill::Owned(owner)).expect("splits were reserved above");
            for page in split.pages() {
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
            for (index, page) in (part.first..).zip(&table.split_at(id).pages()[part.first..part.end]) {
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
            let entry = table.entries().written(part.chunk);
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
                    self.free_page(table, mfn, page, class);
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
                self.free_page(table, mfn, page, Class::of_owner(owner));
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
                    None if self.kept != 0 => self.drain(table),
                    None => return false,
                }
            };
            if !self.pool.has_place() {
                return false;
            }
            let first = self.first_of(found);
            self.carve(table, first, found, first, wanted);
            let block = self.hand_out_chunks(table, first, wanted);
            let slab = map(block.mfn(), block.order().nr_frames());
            if slab.is_empty() || self.pool.feed_unwritten(slab).is_err() {
                self.free(table, block);
                return false;
            }
        }
        true
    }

    /// Marks a block of whole chunks that is in no list as the hypervisor's own.
    fn hand_out_chunks(&mut self, table: &FrameTable, mfn: Mfn, order: Order) -> Block {
        let chunk = mfn.chunk() as usize;
        for entry in table.entries().all_written(chunk..chunk + chunks_in(order)) {
            entry.set_word(packed::PRIVATE);
        }
        self.nr_free -= order.nr_frames();
        Block::new(mfn, order)
    }

    /// Makes a free block in a split chunk the hypervisor's own.
    #[inline(always)]
    fn hand_out(&mut self, table: &FrameTable, part: Part, order: Order, entry: &ChunkEntry, split: &Split) -> Block {
        let vacant = split.vacant();
        let is_changed = vacant.change(Vacancy::Free, Vacancy::Private, part.first, part.end);
        assert!(is_changed, "a free block was found by its bits");
        entry.set_counts(entry.counts().moved(part.len(), Class::Free, Class::Private));
        self.nr_free -= part.len();
        self.list_less(table, part.chunk, vacant, order > Order::PAGE || vacant.is_used_up(part.first));
        Block::new(part.mfn(part.first), order)
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
        for entry in table.entries().all_written(chunk..chunk + chunks_in(order)) {
            entry.set_word(packed::FREE_TAIL);
        }
        self.nr_free += order.nr_frames();
        self.merge_chunks(table, chunk, order);
    }

    /// Makes pages of a split chunk free that were somebody's, all of one class.
    fn free_pages(&mut self, table: &FrameTable, part: Part, class: Class) {
        if self.nr_broken != 0 {
            return self.free_pages_but_broken(table, part, class);
        }
        let (entry, split) = self.split_of(table, part.chunk);
        split.pages()[part.first..part.end].iter().for_each(PageInfo::clear);
        split.vacant().set(Vacancy::Free, part.first, part.end);
        self.add_free(table, part, class, entry, split.vacant());
    }

    /// Makes a single page free that was somebody's.
    fn free_page(&mut self, table: &FrameTable, mfn: Mfn, page: &PageInfo, class: Class) {
        if self.is_broken(page) {
            return self.retire_freed(table, mfn, class);
        }
        page.clear();
        let part = Part::block(mfn.chunk() as usize, mfn.index_in_chunk(), Order::PAGE);
        let (entry, split) = self.split_of(table, part.chunk);
        split.vacant().set(Vacancy::Free, part.first, part.end);
        self.add_free(table, part, class, entry, split.vacant());
    }

    /// Makes pages of a split chunk free that are nobody's.
    ///
    /// # Panics
    /// If they are not all so.
    fn free_vacant(&mut self, table: &FrameTable, part: Part, was: Vacancy) {
        let (entry, split) = self.split_near(table, part.chunk);
        let is_changed = split.vacant().change(was, Vacancy::Free, part.first, part.end);
        assert!(is_changed, "pages that become free are private or unclaimed (I6)");
        self.add_free(table, part, was.class(), entry, split.vacant());
    }

    /// Counts and lists pages that have become free. With the last pages of a chunk its records may be gone.
    #[inline(always)]
    fn add_free(&mut self, table: &FrameTable, part: Part, was: Class, entry: &ChunkEntry, vacant: &Vacant) {
        let counts = entry.counts().moved(part.len(), was, Class::Free);
        entry.set_counts(counts);
        self.nr_free += part.len();
        self.list_more(table, part, vacant, counts);
    }

    /// Entry and split of a chunk that is split.
    #[inline(always)]
    fn split_of<'t>(&self, table: &'t FrameTable, chunk: usize) -> (&'t ChunkEntry, &'t Split) {
        let entry = table.entries().written(chunk);
        let id = entry.split_id().expect("a block of less than 2 MiB is in a split chunk");
        (entry, table.split_at(id))
    }

    /// The same, likely the one that was used last.
    #[inline(always)]
    fn split_near<'t>(&mut self, table: &'t FrameTable, chunk: usize) -> (&'t ChunkEntry, &'t Split) {
        let entry = table.entries().written(chunk);
        let id = entry.split_id().expect("a block of less than 2 MiB is in a split chunk");
        (entry, self.near.split(table, id))
    }
}

fn refused(block: Block, why: IntoDomainError) -> IntoDomainRefused {
    IntoDomainRefused { block, why }
}
