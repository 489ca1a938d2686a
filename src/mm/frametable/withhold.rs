//! Frames that nobody is to have: taken from who has them, or from nobody, and given to [`DomId::IO`] as reserved memory is.

use super::chunk::{Class, packed};
use super::split::SplitPool;
use super::table::{Fill, FrameTable, parts};
use super::{ClaimError, FrameState};
use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::page_info::CountFlags;

impl FrameTable {
    /// The first frames of `range` that are in one state, and the state. Never reaches over the end of a chunk, unless the rest of the
    /// range lies behind the table; nothing for an empty range.
    pub fn run_of(&self, range: MfnRange) -> Option<(MfnRange, FrameState)> {
        let first = range.first()?;
        let state = self.state_of(first);
        if first.get() >= self.nr_frames() {
            return Some((range, state));
        }
        let part = parts(range).next()?;
        let entry = self.entries().get(part.chunk)?;
        let nr_frames = match entry.split_id() {
            None => part.len(),
            Some(_) => part.frames().take_while(|&mfn| self.state_of(mfn) == state).count() as u64,
        };
        Some((MfnRange::new(first, nr_frames), state))
    }

    /// Takes frames from `owner` for good, or frames that are unclaimed for `None`: they become [`DomId::IO`]'s, as memory that is not there.
    /// Only while nobody but the owner refers to them: before types are replayed. Costs a split for each chunk that was owned whole.
    /// Nothing has changed on an error.
    pub fn withhold(&self, pool: &mut SplitPool, range: MfnRange, owner: Option<DomId>) -> Result<(), ClaimError> {
        let Some(owner) = owner else { return self.claim(pool, range, DomId::IO) };
        let mut at = range;
        while let Some((run, found)) = self.run_of(at) {
            if found != (FrameState::Owned { owner }) {
                return Err(ClaimError::Conflict { mfn: run.first().unwrap_or(Mfn::ZERO), wanted: DomId::IO, found });
            }
            at = MfnRange::between(run.end(), range.end()).unwrap_or(MfnRange::EMPTY);
        }
        let is_whole = |chunk: usize| self.entries().at(chunk).word() == packed::owned(owner);
        let needed = parts(range).filter(|part| is_whole(part.chunk)).count() as u64;
        if needed > pool.nr_unused() {
            return Err(ClaimError::NoRecords { range, needed, found: pool.nr_unused() });
        }
        for part in parts(range) {
            let entry = self.entries().written(part.chunk);
            if entry.split_id().is_none() && self.split(pool, part.chunk, Fill::Owned(owner)).is_none() {
                return Err(ClaimError::NoRecords { range, needed: 1, found: 0 });
            }
            let Some(id) = entry.split_id() else { continue };
            for page in &self.split_at(id).pages()[part.first..part.end] {
                page.assign(DomId::IO, CountFlags::empty());
            }
            entry.set_counts(entry.counts().moved(part.len(), Class::of_owner(owner), Class::Hole));
        }
        Ok(())
    }
}
