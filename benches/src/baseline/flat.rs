//! A flat frametable: a record of 32 bytes for every frame of the host, as most hypervisors have it.
//!
//! It does what the frametable of two levels does and no more: a claim that finds a frame taken changes nothing and says which one it was. Checking and
//! writing go in pieces that stay in the nearest cache.

use crate::memory::{Huge, ZeroValid};
use std::cell::Cell;

/// One frame's record: as long as a `PageInfo`.
#[repr(C)]
#[derive(Default)]
pub struct Record {
    count: Cell<u64>,
    type_info: Cell<u64>,
    owner: Cell<u32>,
    order: Cell<u32>,
    next: Cell<u32>,
    prev: Cell<u32>,
}

const _: () = assert!(size_of::<Record>() == 32);

#[expect(unsafe_code, reason = "zeros are valid")]
// SAFETY: all fields are numbers.
unsafe impl ZeroValid for Record {}

const ALLOCATED: u64 = 1 << 63;
const FREE: u64 = 3 << 58;
/// Frames that are checked before they are written: 16 KiB of records.
const PIECE: usize = 512;
/// The largest block.
const MAX_ORDER: u32 = 18;

/// The records of a range of frames that begins at frame 0.
pub struct Flat<'m> {
    records: &'m [Record],
    heads: [u32; MAX_ORDER as usize + 1],
    nr_free: u64,
    nr_blocks: u64,
}

/// Frames by what they are.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct FlatLedger {
    /// Somebody's.
    pub claims: u64,
    /// In the heap.
    pub free: u64,
    /// Neither.
    pub rest: u64,
}

impl<'m> Flat<'m> {
    /// A table in `memory`, cleared.
    pub fn new(memory: &'m mut Huge, nr_frames: u64) -> Self {
        Self { records: memory.fresh(nr_frames as usize), heads: [0; MAX_ORDER as usize + 1], nr_free: 0, nr_blocks: 0 }
    }

    /// Bytes of a table.
    pub const fn len_bytes(nr_frames: u64) -> usize {
        nr_frames as usize * size_of::<Record>()
    }

    /// Gives frames to `owner`; the first one that is taken otherwise.
    #[inline]
    pub fn claim(&self, start: u64, nr_frames: u64, owner: u16) -> Result<(), u64> {
        let records = &self.records[start as usize..(start + nr_frames) as usize];
        for (nth, piece) in records.chunks(PIECE).enumerate() {
            let taken = piece.iter().fold(0, |taken, r| taken | r.count.get() | u64::from(r.owner.get()));
            if taken != 0 {
                let before = nth * PIECE;
                records[..before].iter().for_each(|r| {
                    r.count.set(0);
                    r.owner.set(0);
                });
                let found = piece.iter().position(|r| r.count.get() != 0 || r.owner.get() != 0).unwrap_or(0);
                return Err(start + (before + found) as u64);
            }
            for record in piece {
                record.owner.set(u32::from(owner) + 1);
                record.count.set(ALLOCATED | 1);
            }
        }
        Ok(())
    }

    /// Makes all frames free that nobody has, in aligned blocks in lists. Frame 0 stays out.
    pub fn plug_in(&mut self) -> u64 {
        let is_fresh = |r: &Record| r.count.get() == 0 && r.owner.get() == 0;
        let mut at = 1;
        while at < self.records.len() {
            let run = self.records[at..].iter().take_while(|r| is_fresh(r)).count();
            let end = at + run;
            while at < end {
                let largest = (end - at).ilog2().min(at.trailing_zeros()).min(MAX_ORDER);
                let block = &self.records[at..at + (1 << largest)];
                block.iter().for_each(|r| r.count.set(FREE));
                let next = self.heads[largest as usize];
                block[0].order.set(largest + 1);
                block[0].next.set(next);
                if next != 0 {
                    self.records[next as usize].prev.set(at as u32);
                }
                self.heads[largest as usize] = at as u32;
                self.nr_free += 1 << largest;
                self.nr_blocks += 1;
                at += 1 << largest;
            }
            at = end.max(at) + 1;
        }
        self.nr_free
    }

    /// Counts every frame.
    pub fn ledger(&self) -> FlatLedger {
        let mut ledger = FlatLedger::default();
        for record in self.records {
            let is_claimed = u64::from(record.owner.get() != 0);
            let is_free = u64::from(record.count.get() == FREE);
            ledger.claims += is_claimed;
            ledger.free += is_free;
        }
        ledger.rest = self.records.len() as u64 - ledger.claims - ledger.free;
        ledger
    }

    /// One reference more on a frame of the owner, and one as a writable page: what a leaf takes at the very least.
    #[inline(always)]
    pub fn refer(&self, mfn: usize, owner: u16) -> bool {
        let record = &self.records[mfn];
        if record.owner.get() != u32::from(owner) + 1 {
            return false;
        }
        record.count.set(record.count.get() + 1);
        record.type_info.set(record.type_info.get() + 1);
        true
    }

    /// References on a frame.
    pub fn references(&self, mfn: usize) -> u64 {
        self.records[mfn].count.get() & !ALLOCATED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(nr_frames: u64) -> Huge {
        Huge::new(Flat::len_bytes(nr_frames))
    }

    #[test]
    fn a_claim_is_all_or_nothing() {
        let mut memory = memory(4096);
        let table = Flat::new(&mut memory, 4096);
        table.claim(100, 50, 1).unwrap();
        assert_eq!(table.claim(149, 1, 2), Err(149));
        assert_eq!(table.claim(10, 3000, 2), Err(100));
        table.claim(3000, 10, 3).unwrap();
        // The conflict is behind the first pieces, which are given back.
        assert_eq!(table.claim(150, 2900, 2), Err(3000));
        assert_eq!(table.ledger(), FlatLedger { claims: 60, free: 0, rest: 4036 });
    }

    #[test]
    fn what_nobody_has_is_free_in_aligned_blocks() {
        let mut memory = memory(64);
        let mut table = Flat::new(&mut memory, 64);
        table.claim(8, 3, 1).unwrap();
        assert_eq!(table.plug_in(), 64 - 1 - 3);
        assert_eq!(table.ledger(), FlatLedger { claims: 3, free: 60, rest: 1 });
        // 1, 2, 4 | 11, 12, 16, 32.
        assert_eq!(table.nr_blocks, 7);
        assert_eq!(table.records[32].order.get(), 6);
        assert_eq!((table.heads[0], table.records[11].next.get(), table.records[1].prev.get()), (11, 1, 11));
        assert_eq!(table.claim(20, 1, 2), Err(20));
    }

    #[test]
    fn references_are_the_owners_to_take() {
        let mut memory = memory(16);
        let table = Flat::new(&mut memory, 16);
        table.claim(3, 1, 1).unwrap();
        assert!(table.refer(3, 1) && !table.refer(3, 2) && !table.refer(4, 1));
        assert_eq!((table.references(3), table.records[3].type_info.get()), (2, 1));
    }
}
