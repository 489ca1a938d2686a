//! The heap looked at as a whole: numbers, and a walk that checks everything.

use super::{Heap, HeapStats, NR_ORDERS, ValidateError};
use crate::frame::{CHUNK_FRAMES, Mfn, Order};
use crate::mm::frametable::{
    Chunk, Class, Counts, FREE_AT_HAND, FREE_TAIL, FrameTable, chunks_in, class_of_record, packed,
};
use crate::mm::page_info::PageInfo;
use core::sync::atomic::Ordering;

/// What the walk over the table has seen.
#[derive(Default)]
struct Seen {
    nr_blocks: [u64; NR_ORDERS],
    nr_free: u64,
    nr_at_hand: u64,
    nr_splits: u64,
}

impl Heap {
    /// The heap in numbers.
    pub fn stats(&self) -> HeapStats {
        HeapStats {
            nr_free: self.nr_free,
            nr_blocks: self.nr_blocks,
            nr_at_hand: self.nr_at_hand as u64,
            nr_splits: self.pool.nr_total(),
            nr_unused_splits: self.pool.nr_unused(),
            nr_slabs: self.pool.nr_slabs() as u64,
        }
    }

    /// Checks all rules of the module over the whole table: costs a step for each chunk and each page of split ones.
    pub fn validate(&self, table: &FrameTable) -> Result<(), ValidateError> {
        let seen = self.validate_table(table)?;
        let listed = self.validate_lists(table)?;
        for (o, (&counted, &listed)) in self.nr_blocks.iter().zip(&listed).enumerate() {
            let in_table = seen.nr_blocks[o];
            if counted != listed || listed != in_table {
                let order = Order::new(o as u8);
                return Err(ValidateError::ListLength { order, counted, listed, in_table });
            }
        }
        let is_marked = |&mfn: &u32| {
            let record = table.record(Mfn::new(u64::from(mfn)));
            record.is_some_and(|p| p.is_free() && p.free_order.load(Ordering::Relaxed) == FREE_AT_HAND)
        };
        let marked = self.at_hand[..self.nr_at_hand].iter().filter(|&mfn| is_marked(mfn)).count() as u64;
        let counted = self.nr_at_hand as u64;
        if marked != counted || seen.nr_at_hand != counted {
            return Err(ValidateError::AtHand { counted, marked: marked.min(seen.nr_at_hand) });
        }
        if seen.nr_free != self.nr_free {
            return Err(ValidateError::NrFree { counted: self.nr_free, found: seen.nr_free });
        }
        let (total, unused, chained) = (self.pool.nr_total(), self.pool.nr_unused(), self.pool.walk());
        if chained != Some(unused) || seen.nr_splits + unused != total {
            return Err(ValidateError::Splits { total, used: seen.nr_splits, unused, chained });
        }
        Ok(())
    }

    fn validate_table(&self, table: &FrameTable) -> Result<Seen, ValidateError> {
        let mut seen = Seen::default();
        let entries = table.entries();
        let mut chunk = 0;
        while chunk < entries.len() {
            let mfn = Mfn::new(chunk as u64 * CHUNK_FRAMES);
            match entries[chunk].get() {
                Chunk::Free { order, .. } => {
                    let nr_chunks = chunks_in(order);
                    if !mfn.is_aligned(order) || chunk == 0 || chunk + nr_chunks > entries.len() {
                        return Err(ValidateError::Misplaced { mfn, order: order.get().into() });
                    }
                    let tails = &entries[chunk + 1..chunk + nr_chunks];
                    if let Some(bad) = tails.iter().position(|e| e.word() != packed::FREE_TAIL) {
                        let mfn = Mfn::new((chunk + 1 + bad) as u64 * CHUNK_FRAMES);
                        return Err(ValidateError::NotTail { mfn });
                    }
                    let buddy = entries.get(chunk ^ nr_chunks).and_then(|e| e.free_order());
                    if order < Order::MAX && buddy == Some(order) {
                        let mfn = Mfn::new((chunk & !nr_chunks) as u64 * CHUNK_FRAMES);
                        return Err(ValidateError::Unmerged { mfn, order });
                    }
                    seen.nr_blocks[order.get() as usize] += 1;
                    seen.nr_free += order.nr_frames();
                    chunk += nr_chunks;
                    continue;
                }
                Chunk::FreeTail => return Err(ValidateError::StrayTail { mfn }),
                Chunk::Split { id, counts } => {
                    if counts == Counts::all(Class::Unclaimed) {
                        return Err(ValidateError::NotWhole { mfn });
                    }
                    seen.nr_splits += 1;
                    validate_split(mfn, table.pages(id), counts, &mut seen)?;
                }
                _ => {}
            }
            chunk += 1;
        }
        Ok(seen)
    }

    fn validate_lists(&self, table: &FrameTable) -> Result<[u64; NR_ORDERS], ValidateError> {
        let mut listed = [0; NR_ORDERS];
        let mut expected = 0;
        for (o, listed) in listed.iter_mut().enumerate() {
            let order = Order::new(o as u8);
            let (mut at, mut before) = (self.heads[o], 0);
            expected |= u32::from(at != 0) << o;
            // A circle is longer than the count.
            while at != 0 && *listed <= self.nr_blocks[o] {
                let scale = if order >= Order::CHUNK { CHUNK_FRAMES } else { 1 };
                let mfn = Mfn::new(u64::from(at) * scale);
                let links = free_links(table, mfn, order).ok_or(ValidateError::Link { mfn, order })?;
                if links.1 != before {
                    return Err(ValidateError::Link { mfn, order });
                }
                *listed += 1;
                before = at;
                at = links.0;
            }
        }
        if expected != self.nonempty {
            return Err(ValidateError::Bitmap { found: self.nonempty, expected });
        }
        Ok(listed)
    }
}

/// Next and previous of the free block of that order at that frame, if one starts there.
fn free_links(table: &FrameTable, mfn: Mfn, order: Order) -> Option<(u32, u32)> {
    if order >= Order::CHUNK {
        let entry = table.entries().get(mfn.chunk() as usize)?;
        return (entry.free_order() == Some(order)).then(|| entry.links());
    }
    let page = table.record(mfn)?;
    let is_first = page.is_free() && page.free_order.load(Ordering::Relaxed) == u32::from(order.get());
    is_first.then(|| (page.link_next.load(Ordering::Relaxed), page.link_prev.load(Ordering::Relaxed)))
}

fn validate_split(
    base: Mfn,
    pages: &[PageInfo; CHUNK_FRAMES as usize],
    counts: Counts,
    seen: &mut Seen,
) -> Result<(), ValidateError> {
    let mut records = Counts::NONE;
    let mut index = 0;
    while index < pages.len() {
        let page = &pages[index];
        let class = class_of_record(page);
        if class != Class::Free {
            records = records.plus(class, 1);
            index += 1;
            continue;
        }
        let mfn = base.offset(index as u64);
        let nr_frames = match page.free_order.load(Ordering::Relaxed) {
            FREE_AT_HAND => {
                seen.nr_at_hand += 1;
                1
            }
            FREE_TAIL => return Err(ValidateError::StrayTail { mfn }),
            found => {
                let order = match Order::try_new(found.into()) {
                    Ok(order) if order < Order::CHUNK && mfn.is_aligned(order) => order,
                    _ => return Err(ValidateError::Misplaced { mfn, order: found }),
                };
                let buddy = &pages[index ^ order.nr_frames() as usize];
                if buddy.is_free() && buddy.free_order.load(Ordering::Relaxed) == found {
                    let mfn = base.offset((index & !(order.nr_frames() as usize)) as u64);
                    return Err(ValidateError::Unmerged { mfn, order });
                }
                seen.nr_blocks[order.get() as usize] += 1;
                order.nr_frames() as usize
            }
        };
        for (i, page) in pages[index..index + nr_frames].iter().enumerate() {
            let mfn = mfn.offset(i as u64);
            if !page.is_free() || page.owner().is_some() || page.type_info.load(Ordering::Relaxed) != 0 {
                return Err(ValidateError::Record { mfn });
            }
            if i > 0 && page.free_order.load(Ordering::Relaxed) != FREE_TAIL {
                return Err(ValidateError::NotTail { mfn });
            }
        }
        records = records.plus(Class::Free, nr_frames as u64);
        index += nr_frames;
    }
    for class in Class::ALL {
        let (entry, records) = (counts.get(class), records.get(class));
        if entry != records {
            return Err(ValidateError::Count { mfn: base, class, entry, records });
        }
    }
    seen.nr_free += counts.get(Class::Free);
    Ok(())
}
