//! Storage for the page records of split chunks.
//!
//! A [`Split`] holds 512 records. They come in *slabs*, slices that live for ever: during boot from region memory, later from blocks of
//! the heap. A chunk entry names its split by number, so that no pointer has to be made out of an entry. Splits in nobody's use
//! are all zero but for their place in the pool's chain, the number of the next one plus 1. A chunk is whole again only when
//! all its pages are nobody's, whose records are zero: so no record is ever written to take a split or to give it back, and
//! a reader with an old reference to such a record is refused.

use super::chunk::SplitId;
use super::vacant::{Vacancy, Vacant};
use crate::frame::{CHUNK_FRAMES, DomId};
use crate::mm::page_info::{CountFlags, PageInfo};
use core::fmt;

/// Page records of one chunk, and which of its pages are nobody's.
#[repr(C, align(64))]
pub struct Split {
    pages: [PageInfo; CHUNK_FRAMES as usize],
    vacant: Vacant,
}

const _: () = assert!(size_of::<Split>() == CHUNK_FRAMES as usize * size_of::<PageInfo>() + 256);

/// Bytes that a page of a split chunk takes, its record and its bits: what a build says of itself, so that the one before it can tell how much of the
/// region it needs. Rounded up, which makes room for slabs of whole pages too.
pub const BYTES_PER_PAGE: u32 = size_of::<Split>().div_ceil(CHUNK_FRAMES as usize) as u32;

impl Split {
    /// 512 records of all zeros.
    pub const fn new() -> Self {
        Self { pages: [const { PageInfo::uninitialised() }; CHUNK_FRAMES as usize], vacant: Vacant::new() }
    }

    /// The records, in the order of their frames.
    pub fn pages(&self) -> &[PageInfo; CHUNK_FRAMES as usize] {
        &self.pages
    }

    /// Which pages are nobody's.
    pub(in crate::mm) fn vacant(&self) -> &Vacant {
        &self.vacant
    }

    /// Gives pages `[first, end)` to `owner` if all are unclaimed; they are to be counted by the caller.
    #[inline(always)]
    pub(super) fn claim_pages(&self, first: usize, end: usize, owner: DomId) -> bool {
        if !self.vacant.has_all(Vacancy::Unclaimed, first, end) {
            return false;
        }
        for page in &self.pages[first..end] {
            page.assign(owner, CountFlags::empty());
        }
        self.vacant.clear(Vacancy::Unclaimed, first, end);
        true
    }
}

impl Default for Split {
    fn default() -> Self {
        Self::new()
    }
}

/// Place for a reference to one slab.
pub struct SplitSlab(spin::Once<&'static [Split]>);

impl SplitSlab {
    /// An empty place.
    pub const fn new() -> Self {
        Self(spin::Once::new())
    }
}

impl Default for SplitSlab {
    fn default() -> Self {
        Self::new()
    }
}

/// Places for slabs that serve any machine. Slabs grow with their number: those of boot as [`boot_slab_splits`] says, and of those taken from the heap
/// the first [`SLABS_PER_ORDER`] are 2 MiB, the next 4 MiB, and so on.
pub const NR_SLABS: usize = 1024;
/// Slabs before the next larger order is asked for.
pub const SLABS_PER_ORDER: usize = 64;
/// Most splits in a slab.
pub const SLAB_SPLITS: usize = 1 << 16;

/// Splits in the first slabs of boot, and slabs of boot before the next ones are twice as long.
const BOOT_SLAB_SPLITS: u64 = 8;
const BOOT_SLABS_PER_SIZE: usize = 8;

/// How long a slab should be that boot feeds to a pool with so many: a quarter of what the pool has at most, in the long run an eighth, so that
/// little stays unused; and so long that a region full of page records has its place.
pub const fn boot_slab_splits(nr_slabs: usize) -> u64 {
    let doublings = nr_slabs / BOOT_SLABS_PER_SIZE;
    let most = SLAB_SPLITS as u64;
    if doublings >= 13 { most } else { BOOT_SLAB_SPLITS << doublings }
}

const _: () = assert!(boot_slab_splits(usize::MAX) == BOOT_SLAB_SPLITS << 13);

/// Splits that boot has places for: as many as the largest region, all that lies below 4 GiB, could hold.
pub const BOOT_SPLITS_MAX: u32 = ((4 << 30) / size_of::<Split>()) as u32;

/// A slab was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedError {
    /// All places for slabs are used.
    NoPlace {
        /// Places there are.
        places: usize,
    },
    /// It has more splits than a number can name.
    TooLong {
        /// Splits in it.
        found: usize,
    },
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlace { places } => write!(f, "all {places} places for slabs of page records are used"),
            Self::TooLong { found } => {
                write!(f, "a slab of {found} splits is too long, the limit is {SLAB_SPLITS}")
            }
        }
    }
}

/// What an unused split has for the previous of a list, if its records hold whatever their memory held.
const UNWRITTEN: u32 = u32::MAX;

/// Finds a split by its number.
pub(super) fn split_at(slabs: &'static [SplitSlab], id: SplitId) -> &'static Split {
    let slab = slabs[(id.0 >> 16) as usize].0.get().expect("a split in use is in a slab that was fed");
    &slab[(id.0 & 0xffff) as usize]
}

/// The splits in nobody's use.
pub struct SplitPool {
    slabs: &'static [SplitSlab],
    nr_slabs: usize,
    /// Number of the first unused split plus 1; 0 for none.
    first: u32,
    nr_unused: u64,
    nr_total: u64,
}

impl SplitPool {
    /// A pool without splits that will keep its slabs in `slabs`, all empty; [`NR_SLABS`] of them are enough.
    pub const fn new(slabs: &'static [SplitSlab]) -> Self {
        Self { slabs, nr_slabs: 0, first: 0, nr_unused: 0, nr_total: 0 }
    }

    /// Adds splits, as [`Split::new`] made them, never given to a pool before.
    pub fn feed(&mut self, slab: &'static [Split]) -> Result<(), FeedError> {
        self.add(slab, true)
    }

    /// Adds splits that hold whatever their memory held, never given to a pool before: each is written when it is used first.
    pub fn feed_unwritten(&mut self, slab: &'static [Split]) -> Result<(), FeedError> {
        self.add(slab, false)
    }

    fn add(&mut self, slab: &'static [Split], is_zero: bool) -> Result<(), FeedError> {
        if slab.len() > SLAB_SPLITS {
            return Err(FeedError::TooLong { found: slab.len() });
        }
        if slab.is_empty() {
            return Ok(());
        }
        // One number is kept back so that a number plus 1 never overflows.
        let place = match self.slabs.get(self.nr_slabs) {
            Some(place) if self.has_place() => place,
            _ => return Err(FeedError::NoPlace { places: self.slabs.len() }),
        };
        place.0.call_once(|| slab);
        let base = (self.nr_slabs as u32) << 16;
        self.nr_slabs += 1;
        for index in (0..slab.len()).rev() {
            let vacant = &slab[index].vacant;
            if !is_zero {
                vacant.reset();
                vacant.set_prev(UNWRITTEN);
            }
            vacant.set_next(self.first);
            self.first = (base | index as u32) + 1;
        }
        self.nr_unused += slab.len() as u64;
        self.nr_total += slab.len() as u64;
        Ok(())
    }

    /// True if one more slab can be taken.
    pub(in crate::mm) fn has_place(&self) -> bool {
        self.nr_slabs < self.slabs.len() && self.nr_slabs < usize::from(u16::MAX)
    }

    /// Takes an unused split out. Its records are those of pages that `owner` has just been given, or all zero.
    pub(super) fn take(&mut self, owner: Option<DomId>) -> Option<(SplitId, &'static Split)> {
        let id = SplitId(self.first.checked_sub(1)?);
        let split = split_at(self.slabs, id);
        let (next, mark) = split.vacant.links();
        self.first = next;
        split.vacant.set_next(0);
        if mark == UNWRITTEN {
            split.vacant.set_prev(0);
        }
        match owner {
            // All that an unwritten record may hold is written by this too.
            Some(owner) => split.pages.iter().for_each(|page| page.assign_first(owner)),
            None if mark == UNWRITTEN => split.pages.iter().for_each(PageInfo::clear),
            None => {}
        }
        self.nr_unused -= 1;
        Some((id, split))
    }

    /// Puts a split back whose chunk is whole again: none of its pages has an owner.
    pub(in crate::mm) fn give_back(&mut self, id: SplitId) {
        let vacant = &split_at(self.slabs, id).vacant;
        vacant.reset();
        vacant.set_next(self.first);
        self.first = id.0 + 1;
        self.nr_unused += 1;
    }

    /// Splits that can be taken.
    pub fn nr_unused(&self) -> u64 {
        self.nr_unused
    }

    /// Splits there are.
    pub fn nr_total(&self) -> u64 {
        self.nr_total
    }

    /// Slabs there are.
    pub fn nr_slabs(&self) -> usize {
        self.nr_slabs
    }

    /// Length of the chain of unused splits, walked; nothing if it is longer than there are splits.
    pub(in crate::mm) fn walk(&self) -> Option<u64> {
        let mut at = self.first;
        let mut n = 0;
        while at != 0 {
            n += 1;
            if n > self.nr_total {
                return None;
            }
            at = split_at(self.slabs, SplitId(at - 1)).vacant.links().0;
        }
        Some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PAGE_SIZE;

    /// Slabs that boot makes of `room` splits' memory when each of them is needed: as long as they should be, or half as long again and again until
    /// there is room.
    fn nr_slabs_in(room: u64) -> usize {
        let (mut left, mut nr_slabs) = (room, 0);
        while left > 0 {
            let mut splits = boot_slab_splits(nr_slabs);
            while splits > left {
                splits /= 2;
            }
            left -= splits;
            nr_slabs += 1;
        }
        nr_slabs
    }

    #[test]
    fn the_largest_region_has_a_place_for_all_its_records() {
        // The region lies below 4 GiB; the smallest split that there can be has records of 32 bytes.
        let most = (4 << 30) / (CHUNK_FRAMES * 32);
        assert!(u64::from(BOOT_SPLITS_MAX) <= most);
        for room in [1, 7, 8, 63, 64, 8191, 8192, 100_000, most] {
            let nr_slabs = nr_slabs_in(room);
            assert!(nr_slabs <= NR_SLABS / 4, "{room} splits take {nr_slabs} places");
            // The heap's own slabs begin small nevertheless.
            assert!(nr_slabs / SLABS_PER_ORDER <= 2, "{room} splits take {nr_slabs} places");
        }
    }

    #[test]
    fn slabs_of_whole_pages_fit_into_what_is_said_of_their_pages() {
        let said = |splits: u64| splits * CHUNK_FRAMES * u64::from(BYTES_PER_PAGE);
        let taken = |splits: u64| (splits * size_of::<Split>() as u64).next_multiple_of(PAGE_SIZE);
        for nr_slabs in 0..200 {
            let splits = boot_slab_splits(nr_slabs);
            assert!(taken(splits) <= said(splits), "slab {nr_slabs} of {splits}");
        }
        // Where no more than the rest of the region is left, slabs are shorter: those find room in the splits that are planned to spare.
        let short: u64 = [1, 2, 4].into_iter().map(|splits| taken(splits) - said(splits)).sum();
        assert!(short < said(1), "{short} bytes");
    }

    #[test]
    fn slabs_of_one_length_would_not_have_a_place_for_all() {
        let of_eight = |room: u64| room.div_ceil(BOOT_SLAB_SPLITS) as usize;
        assert!(of_eight(8200) > NR_SLABS && nr_slabs_in(8200) < 100);
    }

    #[test]
    fn slabs_grow_no_faster_than_the_pool() {
        let mut total = 0;
        for nr_slabs in 0..200 {
            let splits = boot_slab_splits(nr_slabs);
            assert!(splits <= SLAB_SPLITS as u64);
            assert!(nr_slabs < BOOT_SLABS_PER_SIZE || splits * 4 <= total, "slab {nr_slabs} of {splits} after {total}");
            total += splits;
        }
    }
}
