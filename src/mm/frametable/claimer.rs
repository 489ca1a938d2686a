//! Claims of one owner that come one after the other: nearly all of an update's.

use super::chunk::{ChunkEntry, Class};
use super::frames::LockedFrames;
use super::split::Split;
use super::table::FrameTable;
use super::vacant::Vacancy;
use crate::frame::{CHUNK_FRAMES, DomId, MfnRange};
use crate::mm::page_info::CountFlags;

/// Claims frames under one lock. A chunk that is split counts what was claimed of it when the next chunk's turn comes, or with the last claim.
pub struct Claimer<'a> {
    table: &'a FrameTable,
    owner: DomId,
    last: Option<Last>,
}

/// The split chunk that was claimed from last.
struct Last {
    chunk: usize,
    entry: &'static ChunkEntry,
    split: &'static Split,
    /// Claimed, and not counted yet.
    nr_claimed: u64,
}

impl<'a> Claimer<'a> {
    /// For a domain, while nobody else changes the table.
    pub(super) fn new(locked: &'a mut LockedFrames<'_>, owner: DomId) -> Self {
        Self { table: locked.table(), owner, last: None }
    }

    /// Claims a range if that is a matter of some whole chunks or of one that is split: nearly always. False if it takes more, or cannot be; nothing
    /// has changed then, and [`FrameTable::claim`] does the rest or says why.
    #[inline(always)]
    pub fn claim(&mut self, range: MfnRange) -> bool {
        let (first, nr_frames) = (range.start(), range.nr_frames());
        let (chunk, index) = ((first / CHUNK_FRAMES) as usize, (first % CHUNK_FRAMES) as usize);
        if (first | nr_frames).is_multiple_of(CHUNK_FRAMES) {
            return self.table.claim_whole(chunk, (nr_frames / CHUNK_FRAMES) as usize, self.owner);
        }
        match &mut self.last {
            Some(last) if last.chunk == chunk => last.claim(index, nr_frames, self.owner),
            _ => self.claim_elsewhere(chunk, index, nr_frames),
        }
    }

    fn claim_elsewhere(&mut self, chunk: usize, index: usize, nr_frames: u64) -> bool {
        self.count();
        let Some(entry) = self.table.entries().get(chunk) else { return false };
        let Some(id) = entry.split_id() else { return false };
        let split = self.table.split_at(id);
        self.last.insert(Last { chunk, entry, split, nr_claimed: 0 }).claim(index, nr_frames, self.owner)
    }

    fn count(&mut self) {
        if let Some(Last { entry, nr_claimed, .. }) = self.last.take() {
            entry.set_counts(entry.counts().moved(nr_claimed, Class::Unclaimed, Class::of_owner(self.owner)));
        }
    }
}

impl Drop for Claimer<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

impl Last {
    /// Claims pages from `index` on, if all are in the chunk and unclaimed.
    #[inline(always)]
    fn claim(&mut self, index: usize, nr_frames: u64, owner: DomId) -> bool {
        let is_claimed = match nr_frames {
            1 => {
                let page = &self.split.pages()[index];
                let assign = || page.assign(owner, CountFlags::empty());
                self.split.vacant().take_one(Vacancy::Unclaimed, index, assign)
            }
            _ => {
                let end = index as u64 + nr_frames;
                end <= CHUNK_FRAMES && self.split.claim_pages(index, end as usize, owner)
            }
        };
        if is_claimed {
            self.nr_claimed += nr_frames;
        }
        is_claimed
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{d, machine, range};
    use crate::frame::{CHUNK_FRAMES, DomId, MfnRange};
    use crate::mm::frametable::{FrameState, Frames};
    use proptest::prelude::*;

    const NR_CHUNKS: u64 = 6;

    fn told() -> Frames {
        let frames = machine(NR_CHUNKS as usize, 4);
        frames.lock().init_ram(range(0, NR_CHUNKS * CHUNK_FRAMES)).unwrap();
        frames
    }

    fn one_by_one(frames: &Frames, ranges: &[MfnRange], owner: DomId) -> usize {
        ranges.iter().filter(|&&range| frames.claim(range, owner).is_ok()).count()
    }

    fn at_a_stroke(frames: &Frames, ranges: &[MfnRange], owner: DomId) -> usize {
        let (mut nr, mut left) = (0, ranges.iter());
        loop {
            let mut locked = frames.lock();
            let mut claimer = locked.claimer(owner);
            let other = left.by_ref().find(|&&range| {
                let is_claimed = claimer.claim(range);
                nr += usize::from(is_claimed);
                !is_claimed
            });
            drop(claimer);
            let Some(&other) = other else { return nr };
            nr += usize::from(locked.claim(other, owner).is_ok());
        }
    }

    proptest! {
        /// Claims that follow each other under one lock come to what the same claims one by one come to, with the same counts.
        #[test]
        fn claims_in_a_row_are_claims(
            of in prop::collection::vec((0..NR_CHUNKS * CHUNK_FRAMES + 9, prop_oneof![Just(1), Just(2), 1u64..CHUNK_FRAMES, Just(CHUNK_FRAMES), Just(1024)], any::<bool>(), 1u16..3), 1..40),
        ) {
            let ranges = of.iter().map(|&(at, len, is_aligned, owner)| {
                let at = if is_aligned { at - at % CHUNK_FRAMES } else { at };
                (range(at, at + len), d(owner))
            });
            let ranges: std::vec::Vec<_> = ranges.collect();
            let mut states = std::vec::Vec::new();
            for claim in [one_by_one, at_a_stroke] {
                let frames = told();
                let mut nr = 0;
                for row in ranges.chunk_by(|a, b| a.1 == b.1) {
                    let of_one: std::vec::Vec<_> = row.iter().map(|(range, _)| *range).collect();
                    nr += claim(&frames, &of_one, row[0].1);
                }
                prop_assert!(frames.lock().validate().is_ok());
                let all: std::vec::Vec<FrameState> = range(0, NR_CHUNKS * CHUNK_FRAMES).iter().map(|mfn| frames.state_of(mfn)).collect();
                let ledger = frames.lock().ledger();
                states.push((nr, all, ledger));
            }
            prop_assert_eq!(&states[0], &states[1]);
        }
    }
}
