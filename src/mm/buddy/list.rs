//! The free lists: putting blocks in, taking them out, cutting and merging them.
//!
//! Below order 9 a block is named by its frame and linked through that frame's record, from order 9 on by its chunk and
//! linked through the chunk's entry. Neither number is ever 0, which means "none".

use super::Heap;
use crate::frame::{CHUNK_FRAMES, Mfn, Order};
use crate::mm::frametable::{Class, FREE_TAIL, Fill, FrameTable, chunks_in, packed};
use crate::mm::page_info::PageInfo;
use core::ops::Range;
use core::sync::atomic::Ordering;

impl Heap {
    /// The smallest order, `order` or more, that has a block.
    pub(super) fn smallest_from(&self, order: Order) -> Option<Order> {
        let orders = self.nonempty >> order.get();
        (orders != 0).then(|| Order::new(order.get() + orders.trailing_zeros() as u8))
    }

    /// First frame of the newest block of an order that has one.
    pub(super) fn first_of(&self, order: Order) -> Mfn {
        let head = u64::from(self.heads[order.get() as usize]);
        Mfn::new(if order >= Order::CHUNK { head * CHUNK_FRAMES } else { head })
    }

    /// Puts a block at the head of its list, marking its first chunk or record.
    pub(super) fn push(&mut self, table: &FrameTable, mfn: Mfn, order: Order) {
        if order >= Order::CHUNK {
            self.push_chunks(table, mfn.chunk() as u32, order);
        } else {
            self.push_pages(table, &self.pages_of(table, mfn)[mfn.index_in_chunk()], mfn, order);
        }
    }

    /// Takes a block out of its list; its first chunk or record becomes a tail.
    pub(super) fn unlink(&mut self, table: &FrameTable, mfn: Mfn, order: Order) {
        if order >= Order::CHUNK {
            self.unlink_chunks(table, mfn.chunk() as usize, order);
        } else {
            self.unlink_pages(table, &self.pages_of(table, mfn)[mfn.index_in_chunk()], order);
        }
    }

    fn push_chunks(&mut self, table: &FrameTable, chunk: u32, order: Order) {
        let next = self.heads[order.get() as usize];
        let entry = &table.entries()[chunk as usize];
        entry.set_links(next, 0);
        entry.set_word(packed::free(order));
        if next != 0 {
            let other = &table.entries()[next as usize];
            other.set_links(other.links().0, chunk);
        }
        self.set_head(order, chunk);
        self.nr_blocks[order.get() as usize] += 1;
    }

    fn push_pages(&mut self, table: &FrameTable, page: &PageInfo, mfn: Mfn, order: Order) {
        let next = self.heads[order.get() as usize];
        page.link_next.store(next, Ordering::Relaxed);
        page.link_prev.store(0, Ordering::Relaxed);
        page.free_order.store(order.get().into(), Ordering::Relaxed);
        if next != 0 {
            self.linked_page(table, next).link_prev.store(mfn.get() as u32, Ordering::Relaxed);
        }
        self.set_head(order, mfn.get() as u32);
        self.nr_blocks[order.get() as usize] += 1;
    }

    fn unlink_chunks(&mut self, table: &FrameTable, chunk: usize, order: Order) {
        let entry = &table.entries()[chunk];
        let (next, prev) = entry.links();
        entry.set_word(packed::FREE_TAIL);
        if next != 0 {
            let other = &table.entries()[next as usize];
            other.set_links(other.links().0, prev);
        }
        if prev != 0 {
            let other = &table.entries()[prev as usize];
            other.set_links(next, other.links().1);
        } else {
            self.set_head(order, next);
        }
        self.nr_blocks[order.get() as usize] -= 1;
    }

    fn unlink_pages(&mut self, table: &FrameTable, page: &PageInfo, order: Order) {
        let next = page.link_next.load(Ordering::Relaxed);
        let prev = page.link_prev.load(Ordering::Relaxed);
        page.free_order.store(FREE_TAIL, Ordering::Relaxed);
        if next != 0 {
            self.linked_page(table, next).link_prev.store(prev, Ordering::Relaxed);
        }
        if prev != 0 {
            self.linked_page(table, prev).link_next.store(next, Ordering::Relaxed);
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

    fn linked_page(&self, table: &FrameTable, link: u32) -> &'static PageInfo {
        let mfn = Mfn::new(u64::from(link));
        &self.pages_of(table, mfn)[mfn.index_in_chunk()]
    }

    /// Takes the block at `first` out of its list and gives back all of it but the block of `wanted` at `target`. A chunk that
    /// has to be split takes its records from the pool, which has been seen to.
    pub(super) fn carve(&mut self, table: &FrameTable, first: Mfn, order: Order, target: Mfn, wanted: Order) {
        self.unlink(table, first, order);
        let (mut first, mut order) = (first, order);
        while order > wanted {
            let half = order.smaller().unwrap_or(Order::PAGE);
            if order == Order::CHUNK {
                let records = table.split(&mut self.pool, first.chunk() as usize, Fill::Free);
                assert!(records.is_some(), "page records are seen to before a chunk is cut");
            }
            let upper = first.offset(half.nr_frames());
            if target.get() >= upper.get() {
                self.push(table, first, half);
                first = upper;
            } else {
                self.push(table, upper, half);
            }
            order = half;
        }
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

    /// Merges a block of free pages with its free buddies, and lists what came of it; a whole chunk goes on merging with others.
    pub(super) fn merge_pages(&mut self, table: &FrameTable, mfn: Mfn, order: Order) {
        let chunk = mfn.chunk() as usize;
        let pages = self.pages_of(table, mfn);
        let base = mfn.get() - mfn.index_in_chunk() as u64;
        let (mut index, mut order) = (mfn.index_in_chunk(), order);
        pages[index].free_order.store(FREE_TAIL, Ordering::Relaxed);
        while order < Order::CHUNK {
            let buddy = index ^ order.nr_frames() as usize;
            let page = &pages[buddy];
            if !page.is_free() || page.free_order.load(Ordering::Relaxed) != u32::from(order.get()) {
                break;
            }
            self.unlink_pages(table, page, order);
            index = index.min(buddy);
            order = order.larger().unwrap_or(Order::MAX);
        }
        if order == Order::CHUNK {
            self.unsplit(table, chunk);
            self.merge_chunks(table, chunk, Order::CHUNK);
        } else {
            self.push_pages(table, &pages[index], Mfn::new(base + index as u64), order);
        }
    }

    /// Moves the blocks of 2 MiB or more that begin in `chunks` to the heads of their lists, the last one to the very front.
    pub(super) fn list_first(&mut self, table: &FrameTable, chunks: Range<usize>) {
        for chunk in chunks {
            if let Some(order) = table.entries()[chunk].free_order() {
                self.unlink_chunks(table, chunk, order);
                self.push_chunks(table, chunk as u32, order);
            }
        }
    }

    /// The highest free block of `order` that ends at or below `limit`: the listed block that holds it, that block's order, and its place.
    pub(super) fn find_below(&self, table: &FrameTable, order: Order, limit: u64) -> Option<(Mfn, Order, Mfn)> {
        let last = |first: u64, end: u64| {
            let start = end.min(limit).checked_sub(order.nr_frames())? & !(order.nr_frames() - 1);
            (start >= first).then(|| Mfn::new(start))
        };
        let mut chunk = usize::try_from(limit.div_ceil(CHUNK_FRAMES)).ok()?.min(table.entries().len());
        while chunk > 0 {
            chunk -= 1;
            let entry = &table.entries()[chunk];
            match entry.word() & packed::KIND {
                packed::FREE | packed::FREE_TAIL => {
                    let (first, found) = table.free_block_around(chunk)?;
                    let start = first as u64 * CHUNK_FRAMES;
                    if let Some(target) = last(start, start + found.nr_frames()) {
                        return Some((Mfn::new(start), found, target));
                    }
                    chunk = first;
                }
                packed::SPLIT if entry.counts().get(Class::Free) >= order.nr_frames() => {
                    let base = chunk as u64 * CHUNK_FRAMES;
                    let pages = table.pages(entry.split_id()?);
                    for (index, page) in pages.iter().enumerate().rev() {
                        let found = page.free_order.load(Ordering::Relaxed);
                        if !page.is_free() || found < order.get().into() || found >= Order::CHUNK.get().into() {
                            continue;
                        }
                        let found = Order::new(found as u8);
                        let start = base + index as u64;
                        if let Some(target) = last(start, start + found.nr_frames()) {
                            return Some((Mfn::new(start), found, target));
                        }
                    }
                }
                _ => {}
            }
        }
        None
    }
}
