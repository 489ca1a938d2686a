//! The heap looked at as a whole: numbers, and a walk that checks everything.

use super::{Heap, HeapStats, NR_ORDERS, ValidateError};
use crate::frame::{CHUNK_FRAMES, Mfn, Order};
use crate::mm::frametable::{Chunk, Class, Counts, FrameTable, Split, Vacancy, chunks_in, packed};

/// What the walk over the table has seen.
#[derive(Default)]
struct Seen {
    /// Blocks of each order, below 9 split chunks in the list of the order.
    nr_listed: [u64; NR_ORDERS],
    nr_free: u64,
    nr_splits: u64,
}

impl Heap {
    /// The heap in numbers. Costs a step for each split chunk that has free pages.
    pub fn stats(&self, table: &FrameTable) -> HeapStats {
        let mut nr_blocks = self.nr_blocks;
        for mut at in self.heads[..Order::CHUNK.get() as usize].iter().copied() {
            while at != 0 {
                let vacant = self.split_of(table, at as usize - 1).1.vacant();
                nr_blocks.iter_mut().zip(vacant.nr_blocks()).for_each(|(all, n)| *all += n);
                at = vacant.links().0;
            }
        }
        HeapStats {
            nr_free: self.nr_free,
            nr_blocks,
            nr_splits: self.pool.nr_total(),
            nr_unused_splits: self.pool.nr_unused(),
            nr_slabs: self.pool.nr_slabs() as u64,
        }
    }

    /// Checks all rules of the module over the whole table: costs a step for each chunk and each page of split ones.
    pub fn validate(&self, table: &FrameTable) -> Result<(), ValidateError> {
        assert!(table.entries().is_sound(), "nobody writes what stands for entries that are not written (I3)");
        let seen = self.validate_table(table)?;
        let listed = self.validate_lists(table)?;
        for (o, &listed) in listed.iter().enumerate() {
            let order = Order::new(o as u8);
            let in_table = seen.nr_listed[o];
            let counted = if order < Order::CHUNK { in_table } else { self.nr_blocks[o] };
            if counted != listed || listed != in_table {
                return Err(ValidateError::ListLength { order, counted, listed, in_table });
            }
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
            match entries.at(chunk).get() {
                Chunk::Free { order, .. } => {
                    let nr_chunks = chunks_in(order);
                    if !mfn.is_aligned(order) || chunk == 0 || chunk + nr_chunks > entries.len() {
                        return Err(ValidateError::Misplaced { mfn, order: order.get().into() });
                    }
                    let mut tails = chunk + 1..chunk + nr_chunks;
                    if let Some(bad) = tails.find(|&tail| entries.at(tail).word() != packed::FREE_TAIL) {
                        let mfn = Mfn::new(bad as u64 * CHUNK_FRAMES);
                        return Err(ValidateError::NotTail { mfn });
                    }
                    let buddy = entries.get(chunk ^ nr_chunks).and_then(|e| e.free_order());
                    if order < Order::MAX && buddy == Some(order) {
                        let mfn = Mfn::new((chunk & !nr_chunks) as u64 * CHUNK_FRAMES);
                        return Err(ValidateError::Unmerged { mfn, order });
                    }
                    seen.nr_listed[order.get() as usize] += 1;
                    seen.nr_free += order.nr_frames();
                    chunk += nr_chunks;
                    continue;
                }
                Chunk::FreeTail => return Err(ValidateError::StrayTail { mfn }),
                Chunk::Split { id, counts } => {
                    let is_kept = self.kept(table) == Some(chunk);
                    if counts == Counts::all(Class::Unclaimed) || (counts == Counts::all(Class::Free) && !is_kept) {
                        return Err(ValidateError::NotWhole { mfn });
                    }
                    seen.nr_splits += 1;
                    validate_split(mfn, table.split_at(id), counts, &mut seen)?;
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
            while at != 0 && *listed <= table.entries().len() as u64 {
                let chunk = u64::from(if order >= Order::CHUNK { at } else { at - 1 });
                let mfn = Mfn::new(chunk * CHUNK_FRAMES);
                let links = links_of(table, chunk as usize, order).ok_or(ValidateError::Link { mfn, order })?;
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

/// Next and previous of what is in the list of an order, if it belongs there.
fn links_of(table: &FrameTable, chunk: usize, order: Order) -> Option<(u32, u32)> {
    let entry = table.entries().get(chunk)?;
    if order >= Order::CHUNK {
        return (entry.free_order() == Some(order)).then(|| entry.links());
    }
    let vacant = table.split_at(entry.split_id()?).vacant();
    (vacant.level() == Some(order)).then(|| vacant.links())
}

fn validate_split(base: Mfn, split: &Split, counts: Counts, seen: &mut Seen) -> Result<(), ValidateError> {
    let vacant = split.vacant();
    let mut found = Counts::NONE;
    for (index, page) in split.pages().iter().enumerate() {
        let mfn = base.offset(index as u64);
        let mut ways = Vacancy::ALL.into_iter().filter(|&way| vacant.has_all(way, index, index + 1));
        let class = match (page.owner(), ways.next(), ways.next()) {
            (Some(owner), None, None) => Class::of_owner(owner),
            (None, Some(way), None) if page.is_clear() => way.class(),
            (None, Some(_), None) => return Err(ValidateError::Record { mfn }),
            _ => return Err(ValidateError::Bits { mfn }),
        };
        found = found.plus(class, 1);
    }
    for class in Class::ALL {
        let (entry, records) = (counts.get(class), found.get(class));
        if entry != records {
            return Err(ValidateError::Count { mfn: base, class, entry, records });
        }
    }
    let (level, largest) = (vacant.level(), vacant.largest());
    // No list has whole chunks that are split: one is in the list of halves.
    let is_listed = match (level, largest) {
        (None, None) => true,
        (Some(level), Some(largest)) => level >= largest.min(Order::new(Order::CHUNK.get() - 1)),
        _ => false,
    };
    if !is_listed {
        return Err(ValidateError::Level { mfn: base, found: level, largest });
    }
    if let Some(level) = level {
        seen.nr_listed[level.get() as usize] += 1;
    }
    seen.nr_free += counts.get(Class::Free);
    Ok(())
}
