//! The free lists: putting blocks in, taking them out, cutting and merging them.
//!
//! From order 9 on a block is named by its chunk and linked through the chunk's entry. Below, the list of an order is one of split chunks: of those whose
//! largest free block is of that order, or was. A split chunk with free pages is in one list, never in a lower one than it should be; in a higher one it is found
//! out when its turn comes. It is named by its number plus 1 and linked through its [`Vacant`]. No name is ever 0, which means "none".

use super::Heap;
use crate::frame::{CHUNK_FRAMES, Mfn, Order};
use crate::mm::frametable::{Class, Counts, Fill, FrameTable, Part, Split, Vacant, chunks_in, packed};
use core::ops::Range;

/// The order of the list that chunks come into whose pages are all free.
const HIGHEST: Order = Order::new(Order::CHUNK.get() - 1);

impl Heap {
    /// The smallest order, `order` or more, that has a block, or had one.
    #[inline(always)]
    pub(super) fn smallest_from(&self, order: Order) -> Option<Order> {
        let orders = self.nonempty >> order.get();
        (orders != 0).then(|| Order::new(order.get() + orders.trailing_zeros() as u8))
    }

    /// First frame of the newest block of an order of 9 or more that has one.
    pub(super) fn first_of(&self, order: Order) -> Mfn {
        Mfn::new(u64::from(self.heads[order.get() as usize]) * CHUNK_FRAMES)
    }

    /// The newest chunk in the list of an order below 9 that has one.
    #[inline(always)]
    pub(super) fn first_split_of(&self, order: Order) -> usize {
        self.heads[order.get() as usize] as usize - 1
    }

    fn push_chunks(&mut self, table: &FrameTable, chunk: u32, order: Order) {
        let next = self.heads[order.get() as usize];
        let entry = table.entries().written(chunk as usize);
        entry.set_links(next, 0);
        entry.set_word(packed::free(order));
        if next != 0 {
            let other = table.entries().written(next as usize);
            other.set_links(other.links().0, chunk);
        }
        self.set_head(order, chunk);
        self.nr_blocks[order.get() as usize] += 1;
    }

    fn unlink_chunks(&mut self, table: &FrameTable, chunk: usize, order: Order) {
        let entry = table.entries().written(chunk);
        let (next, prev) = entry.links();
        entry.set_word(packed::FREE_TAIL);
        if next != 0 {
            let other = table.entries().written(next as usize);
            other.set_links(other.links().0, prev);
        }
        if prev != 0 {
            let other = table.entries().written(prev as usize);
            other.set_links(next, other.links().1);
        } else {
            self.set_head(order, next);
        }
        self.nr_blocks[order.get() as usize] -= 1;
    }

    fn set_head(&mut self, order: Order, head: u32) {
        self.heads[order.get() as usize] = head;
        let bit = 1 << order.get();
        self.nonempty = if head == 0 { self.nonempty & !bit } else { self.nonempty | bit };
    }

    fn linked<'t>(&self, table: &'t FrameTable, link: u32) -> &'t Vacant {
        self.split_of(table, link as usize - 1).1.vacant()
    }

    /// Puts a split chunk into the list of an order, or in none, out of the one that it is in.
    pub(super) fn list(&mut self, table: &FrameTable, chunk: usize, vacant: &Vacant, order: Option<Order>) {
        if let Some(old) = vacant.level() {
            let (next, prev) = vacant.links();
            if next != 0 {
                self.linked(table, next).set_prev(prev);
            }
            if prev != 0 {
                self.linked(table, prev).set_next(next);
            } else {
                self.set_head(old, next);
            }
        }
        vacant.set_level(order);
        let Some(order) = order else { return };
        let (name, next) = (chunk as u32 + 1, self.heads[order.get() as usize]);
        vacant.set_next(next);
        vacant.set_prev(0);
        if next != 0 {
            self.linked(table, next).set_prev(name);
        }
        self.set_head(order, name);
    }

    /// Lists a chunk some of whose pages were taken. Looks at all of it only if it is told to.
    #[inline(always)]
    pub(super) fn list_less(&mut self, table: &FrameTable, chunk: usize, vacant: &Vacant, looks: bool) {
        if looks {
            let largest = vacant.largest().map(|order| order.min(HIGHEST));
            if largest != vacant.level() {
                self.list(table, chunk, vacant, largest);
            }
        }
    }

    /// Lists a chunk some of whose pages became free; makes it whole if all of it is free, and another such is kept split.
    #[inline(always)]
    pub(super) fn list_more(&mut self, table: &FrameTable, part: Part, vacant: &Vacant, counts: Counts) {
        if counts.get(Class::Free) == CHUNK_FRAMES {
            return self.list_whole(table, part.chunk, vacant);
        }
        let Some(level) = vacant.level() else { return self.list_anew(table, part.chunk, vacant) };
        // Nearly always nothing has come about that is larger than what the list promises. If it has, an end of what became free is in it.
        let is_larger = |index| vacant.is_free_around(index, level);
        if level < HIGHEST
            && (part.len() > level.nr_frames() || is_larger(part.first) || (part.len() > 1 && is_larger(part.end - 1)))
        {
            self.list_anew(table, part.chunk, vacant);
        }
    }

    fn list_anew(&mut self, table: &FrameTable, chunk: usize, vacant: &Vacant) {
        let largest = vacant.largest();
        // Not lower: that waits until somebody asks the chunk for a block.
        if largest > vacant.level() {
            self.list(table, chunk, vacant, largest);
        }
    }

    fn list_whole(&mut self, table: &FrameTable, chunk: usize, vacant: &Vacant) {
        match self.kept(table) {
            Some(kept) if kept != chunk => {
                self.list(table, chunk, vacant, None);
                self.make_whole(table, chunk);
            }
            _ => {
                self.kept = chunk as u32 + 1;
                if vacant.level() != Some(HIGHEST) {
                    self.list(table, chunk, vacant, Some(HIGHEST));
                }
            }
        }
    }

    /// The chunk that is kept split though all its pages are free.
    pub(super) fn kept(&self, table: &FrameTable) -> Option<usize> {
        let chunk = self.kept.checked_sub(1)? as usize;
        let entry = table.entries().at(chunk);
        (entry.split_id().is_some() && entry.counts() == Counts::all(Class::Free)).then_some(chunk)
    }

    /// Makes the chunk whole that is kept split: all free memory is in blocks as large as can be.
    pub fn drain(&mut self, table: &FrameTable) {
        if let Some(chunk) = self.kept(table) {
            self.list(table, chunk, self.split_of(table, chunk).1.vacant(), None);
            self.make_whole(table, chunk);
        }
        self.kept = 0;
    }

    fn make_whole(&mut self, table: &FrameTable, chunk: usize) {
        table.unsplit(&mut self.pool, chunk, packed::FREE_TAIL);
        self.merge_chunks(table, chunk, Order::CHUNK);
    }

    /// Takes the block of chunks at `first` out of its list and gives back all of it but the block of `wanted`, 9 or more, at `target`.
    pub(super) fn carve(&mut self, table: &FrameTable, first: Mfn, order: Order, target: Mfn, wanted: Order) {
        self.unlink_chunks(table, first.chunk() as usize, order);
        let (mut first, mut order) = (first, order);
        while order > wanted {
            let half = order.smaller().unwrap_or(Order::CHUNK);
            let upper = first.offset(half.nr_frames());
            if target.get() >= upper.get() {
                self.push_chunks(table, first.chunk() as u32, half);
                first = upper;
            } else {
                self.push_chunks(table, upper.chunk() as u32, half);
            }
            order = half;
        }
    }

    /// Splits the chunk at `target`, which is in the free block at `first`, and lists its pages. Its records come from the pool, which has been seen to.
    pub(super) fn break_up<'t>(&mut self, table: &'t FrameTable, first: Mfn, order: Order, target: Mfn) -> &'t Split {
        self.carve(table, first, order, target, Order::CHUNK);
        let chunk = target.chunk() as usize;
        let split = table.split(&mut self.pool, chunk, Fill::Free);
        let split = split.expect("page records are seen to before a chunk is cut");
        self.list(table, chunk, split.vacant(), Some(HIGHEST));
        split
    }

    /// Merges a block of tails with its free buddies, and lists what came of it.
    pub(super) fn merge_chunks(&mut self, table: &FrameTable, chunk: usize, order: Order) {
        let (mut chunk, mut order) = (chunk, order);
        while let Some(larger) = order.larger() {
            let buddy = chunk ^ chunks_in(order);
            if table.entries().get(buddy).and_then(|e| e.free_order()) != Some(order) {
                break;
            }
            self.unlink_chunks(table, buddy, order);
            chunk = chunk.min(buddy);
            order = larger;
        }
        self.push_chunks(table, chunk as u32, order);
    }

    /// Moves the blocks of 2 MiB or more that begin in `chunks` to the heads of their lists, the last one to the very front.
    pub(super) fn list_first(&mut self, table: &FrameTable, chunks: Range<usize>) {
        for chunk in chunks {
            if let Some(order) = table.entries().at(chunk).free_order() {
                self.unlink_chunks(table, chunk, order);
                self.push_chunks(table, chunk as u32, order);
            }
        }
    }

    /// The highest free block of `order` that ends at or below `limit`: the block of chunks that holds it, that block's order, and its place. Without a block
    /// of chunks it is in a split chunk.
    pub(super) fn find_below(
        &self,
        table: &FrameTable,
        order: Order,
        limit: u64,
    ) -> Option<(Option<(Mfn, Order)>, Mfn)> {
        let last = |first: u64, end: u64| {
            let start = end.min(limit).checked_sub(order.nr_frames())? & !(order.nr_frames() - 1);
            (start >= first).then(|| Mfn::new(start))
        };
        let mut chunk = usize::try_from(limit.div_ceil(CHUNK_FRAMES)).ok()?.min(table.entries().len());
        while chunk > 0 {
            chunk -= 1;
            let entry = table.entries().at(chunk);
            match entry.word() & packed::KIND {
                packed::FREE | packed::FREE_TAIL => {
                    let (first, found) = table.free_block_around(chunk)?;
                    let start = first as u64 * CHUNK_FRAMES;
                    if let Some(target) = last(start, start + found.nr_frames()) {
                        return Some((Some((Mfn::new(start), found)), target));
                    }
                    chunk = first;
                }
                packed::SPLIT if order < Order::CHUNK && entry.counts().get(Class::Free) >= order.nr_frames() => {
                    let part = Part { chunk, first: 0, end: CHUNK_FRAMES as usize };
                    let end = limit.saturating_sub(part.mfn(0).get()).min(CHUNK_FRAMES) as usize;
                    if let Some(index) = table.split_at(entry.split_id()?).vacant().find_below(order, end) {
                        return Some((None, part.mfn(index)));
                    }
                }
                _ => {}
            }
        }
        None
    }
}
