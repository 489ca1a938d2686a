//! A domain's memory as extents: runs of frames whose guest numbers run alongside.
//!
//! The map is kept by machine frame, since that is what the guest names when it changes its M2P entries, and what restore claims. Neighbours
//! that continue each other in both numbers are one extent, always: so what a save writes and a restore claims follows how the
//! domain's memory lies, not how it came about.
//!
//! A guest can cut its memory into as many pieces as it likes. That there is no memory to write them down is an error, which it gets told.

mod sorted;

use crate::frame::{Mfn, MfnRange, Pfn};
use core::fmt;
use sorted::{NoRoom, Sorted};

/// The first number that no page can have: written down for an update, it says "none".
const PFN_END: u64 = Pfn::LIMIT - 1;

/// True if all of `nr_frames` pages from `pfn` on can have their numbers.
pub const fn has_numbers(pfn: Pfn, nr_frames: u64) -> bool {
    nr_frames <= PFN_END && pfn.get() <= PFN_END - nr_frames
}

/// A run of frames of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first frame.
    pub mfn: Mfn,
    /// The guest's number for the first frame, the others follow; nothing if the guest has none for any of them.
    pub pfn: Option<Pfn>,
    /// Frames in it.
    pub nr_frames: u64,
}

impl Extent {
    /// The machine frames.
    pub fn range(&self) -> MfnRange {
        MfnRange::new(self.mfn, self.nr_frames)
    }

    /// The part of it from the frame `at` on, and what is before that.
    fn cut(self, at: Mfn) -> (Option<Self>, Option<Self>) {
        let nr_before = at.get().saturating_sub(self.mfn.get()).min(self.nr_frames);
        let part = |skip: u64, nr_frames: u64| {
            (nr_frames > 0).then(|| Self {
                mfn: self.mfn.offset(skip),
                pfn: self.pfn.map(|pfn| pfn.offset(skip)),
                nr_frames,
            })
        };
        (part(0, nr_before), part(nr_before, self.nr_frames - nr_before))
    }

    /// True if `next` begins where this ends, in both numbers.
    fn continues_in(&self, next: &Self) -> bool {
        let pfn_continues = match (self.pfn, next.pfn) {
            (Some(pfn), Some(next)) => pfn.get() + self.nr_frames == next.get(),
            (None, None) => true,
            _ => false,
        };
        pfn_continues && self.mfn.get() + self.nr_frames == next.mfn.get()
    }
}

/// Why a map of extents was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentError {
    /// The frames, or their guest numbers, end behind the last there can be.
    OutOfRange {
        /// First frame.
        mfn: Mfn,
        /// Frames in the extent.
        nr_frames: u64,
    },
    /// A frame is the domain's already.
    Present {
        /// The first such frame.
        mfn: Mfn,
    },
    /// A frame is not the domain's.
    Absent {
        /// The first such frame.
        mfn: Mfn,
    },
    /// No memory for one more extent.
    NoMemory,
}

impl From<NoRoom> for ExtentError {
    fn from(_: NoRoom) -> Self {
        Self::NoMemory
    }
}

impl fmt::Display for ExtentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { mfn, nr_frames } => write!(f, "{nr_frames} frames from {mfn} on are too many"),
            Self::Present { mfn } => write!(f, "frame {mfn} is the domain's already"),
            Self::Absent { mfn } => write!(f, "frame {mfn} is not the domain's"),
            Self::NoMemory => f.write_str("no memory for one more extent"),
        }
    }
}

/// A domain's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    extents: Sorted,
    nr_frames: u64,
}

impl ExtentMap {
    /// A map of nothing.
    pub const fn new() -> Self {
        Self { extents: Sorted::new(), nr_frames: 0 }
    }

    /// Frames in all extents.
    pub const fn nr_frames(&self) -> u64 {
        self.nr_frames
    }

    /// Extents.
    pub fn nr_extents(&self) -> usize {
        self.extents.len()
    }

    /// The extents, by machine frame.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + '_ {
        self.extents.iter()
    }

    /// The extent that a frame is in.
    pub fn extent_of(&self, mfn: Mfn) -> Option<Extent> {
        self.extents.last_at_or_before(mfn).filter(|extent| extent.range().contains(mfn))
    }

    /// The first extent that does not end before a frame.
    pub fn first_behind(&self, mfn: Mfn) -> Option<Extent> {
        self.extent_of(mfn).or_else(|| self.extents.first_from(mfn))
    }

    /// The guest's number for a frame: outer nothing if the frame is not the domain's, inner nothing if the guest has none for it.
    pub fn lookup(&self, mfn: Mfn) -> Option<Option<Pfn>> {
        let extent = self.extent_of(mfn)?;
        Some(extent.pfn.map(|pfn| pfn.offset(mfn.get() - extent.mfn.get())))
    }

    /// Makes sure that one call to [`ExtentMap::insert`] does not lack memory.
    pub fn make_room(&mut self) -> Result<(), ExtentError> {
        Ok(self.extents.reserve(1)?)
    }

    /// Adds frames that the domain does not have yet. Nothing has changed on an error.
    pub fn insert(&mut self, pfn: Option<Pfn>, mfn: Mfn, nr_frames: u64) -> Result<(), ExtentError> {
        let out_of_range = ExtentError::OutOfRange { mfn, nr_frames };
        let range = MfnRange::try_new(mfn, nr_frames).map_err(|_| out_of_range)?;
        if nr_frames == 0 {
            return Ok(());
        }
        if pfn.is_some_and(|pfn| !has_numbers(pfn, nr_frames)) {
            return Err(out_of_range);
        }
        // What a restore adds comes in order, behind all that is there.
        let is_behind = self.extents.last().is_none_or(|last| last.range().end() < mfn.get());
        if is_behind {
            self.extents.reserve(1)?;
            self.extents.put(Extent { mfn, pfn, nr_frames });
            self.nr_frames += nr_frames;
            return Ok(());
        }
        if self.extent_of(mfn).is_some() {
            return Err(ExtentError::Present { mfn });
        }
        if let Some(next) = self.extents.first_from(mfn).filter(|next| range.contains(next.mfn)) {
            return Err(ExtentError::Present { mfn: next.mfn });
        }
        self.extents.reserve(1)?;
        self.put(Extent { mfn, pfn, nr_frames });
        self.nr_frames += nr_frames;
        Ok(())
    }

    /// Takes frames away, all of which the domain has; they may lie in several extents. Nothing has changed on an error.
    pub fn remove(&mut self, mfn: Mfn, nr_frames: u64) -> Result<(), ExtentError> {
        let range = MfnRange::try_new(mfn, nr_frames).map_err(|_| ExtentError::OutOfRange { mfn, nr_frames })?;
        let mut at = range.start();
        while at < range.end() {
            let absent = ExtentError::Absent { mfn: Mfn::new(at) };
            at = self.extent_of(Mfn::new(at)).ok_or(absent)?.range().end();
        }
        // Something may stay of the extents at both ends.
        self.extents.reserve(2)?;
        let mut at = range.start();
        while let Some(extent) = (at < range.end()).then(|| self.extent_of(Mfn::new(at))).flatten() {
            self.extents.remove(extent.mfn);
            let (before, _) = extent.cut(mfn);
            // A range that ends at the last frame there is has nothing behind it.
            let behind = Mfn::try_new(range.end()).ok().and_then(|end| extent.cut(end).1);
            for rest in [before, behind].into_iter().flatten() {
                self.extents.put(rest);
            }
            at = extent.range().end();
        }
        self.nr_frames -= nr_frames;
        Ok(())
    }

    /// Changes the guest's number for one frame that the domain has.
    pub fn set_pfn(&mut self, mfn: Mfn, pfn: Option<Pfn>) -> Result<(), ExtentError> {
        let extent = self.extent_of(mfn).ok_or(ExtentError::Absent { mfn })?;
        if pfn.is_some_and(|pfn| !has_numbers(pfn, 1)) {
            return Err(ExtentError::OutOfRange { mfn, nr_frames: 1 });
        }
        if extent.pfn.map(|first| first.offset(mfn.get() - extent.mfn.get())) == pfn {
            return Ok(());
        }
        self.extents.reserve(3)?;
        self.extents.remove(extent.mfn);
        let (before, rest) = extent.cut(mfn);
        let behind = rest.and_then(|rest| rest.cut(mfn.checked_add(1)?).1);
        for rest in [before, behind].into_iter().flatten() {
            self.extents.put(rest);
        }
        self.put(Extent { mfn, pfn, nr_frames: 1 });
        Ok(())
    }

    /// Puts an extent where none is and for which room is reserved, together with the neighbours that continue it.
    fn put(&mut self, extent: Extent) {
        let mut extent = extent;
        if let Some(before) = self.extents.last_at_or_before(extent.mfn)
            && before.continues_in(&extent)
        {
            extent = Extent { nr_frames: before.nr_frames + extent.nr_frames, ..before };
        }
        let end = extent.mfn.get() + extent.nr_frames;
        if let Some(next) = Mfn::try_new(end).ok().and_then(|end| self.extents.first_from(end))
            && extent.continues_in(&next)
        {
            self.extents.remove(next.mfn);
            extent.nr_frames += next.nr_frames;
        }
        self.extents.put(extent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    fn mfn(n: u64) -> Mfn {
        Mfn::new(n)
    }

    fn pfn(n: u64) -> Option<Pfn> {
        Some(Pfn::new(n))
    }

    fn all(map: &ExtentMap) -> Vec<(u64, Option<u64>, u64)> {
        map.iter().map(|e| (e.mfn.get(), e.pfn.map(Pfn::get), e.nr_frames)).collect()
    }

    #[test]
    fn the_first_extent_behind_a_frame_may_contain_it() {
        let mut map = ExtentMap::new();
        map.insert(pfn(10), mfn(100), 2).unwrap();
        map.insert(None, mfn(110), 1).unwrap();
        let first = |n| map.first_behind(mfn(n)).map(|e| (e.mfn.get(), e.nr_frames));
        let cases = [(0, Some((100, 2))), (100, Some((100, 2))), (101, Some((100, 2))), (102, Some((110, 1)))];
        for (n, expected) in cases.into_iter().chain([(110, Some((110, 1))), (111, None)]) {
            assert_eq!(first(n), expected, "{n}");
        }
    }

    #[test]
    fn neighbours_are_joined_only_if_both_numbers_continue() {
        let mut map = ExtentMap::new();
        map.insert(pfn(10), mfn(100), 2).unwrap();
        map.insert(pfn(14), mfn(104), 2).unwrap();
        map.insert(pfn(12), mfn(102), 2).unwrap();
        assert_eq!(all(&map), [(100, Some(10), 6)]);
        map.insert(pfn(17), mfn(106), 1).unwrap();
        map.insert(None, mfn(107), 1).unwrap();
        map.insert(None, mfn(108), 1).unwrap();
        assert_eq!(all(&map), [(100, Some(10), 6), (106, Some(17), 1), (107, None, 2)]);
        assert_eq!((map.nr_frames(), map.nr_extents()), (9, 3));
    }

    #[test]
    fn what_is_there_twice_or_not_at_all_is_named() {
        let mut map = ExtentMap::new();
        map.insert(pfn(0), mfn(100), 4).unwrap();
        let before = map.clone();
        assert_eq!(map.insert(None, mfn(98), 4), Err(ExtentError::Present { mfn: mfn(100) }));
        assert_eq!(map.insert(None, mfn(103), 1), Err(ExtentError::Present { mfn: mfn(103) }));
        assert_eq!(map.remove(mfn(102), 4), Err(ExtentError::Absent { mfn: mfn(104) }));
        assert_eq!(map.set_pfn(mfn(99), None), Err(ExtentError::Absent { mfn: mfn(99) }));
        assert_eq!(map, before);
    }

    #[test]
    fn the_last_numbers_there_are_can_be_used_and_no_more() {
        let last = Mfn::LIMIT - 1;
        let mut map = ExtentMap::new();
        assert!(matches!(map.insert(None, mfn(last), 2), Err(ExtentError::OutOfRange { .. })));
        assert!(matches!(map.insert(pfn(last - 1), mfn(0), 2), Err(ExtentError::OutOfRange { .. })));
        assert!(matches!(map.insert(pfn(last), mfn(0), 1), Err(ExtentError::OutOfRange { .. })));
        assert!(matches!(map.insert(None, mfn(1), u64::MAX), Err(ExtentError::OutOfRange { .. })));
        map.insert(pfn(last - 1), mfn(last), 1).unwrap();
        assert_eq!(map.lookup(mfn(last)), Some(pfn(last - 1)));
        assert!(matches!(map.set_pfn(mfn(last), pfn(last)), Err(ExtentError::OutOfRange { .. })));
        assert_eq!(map.lookup(mfn(last)), Some(pfn(last - 1)));
        map.set_pfn(mfn(last), pfn(3)).unwrap();
        map.remove(mfn(last), 1).unwrap();
        assert_eq!(map, ExtentMap::new());
    }

    #[test]
    fn nothing_can_be_added_and_taken() {
        let mut map = ExtentMap::new();
        map.insert(pfn(0), mfn(0), 0).unwrap();
        map.remove(mfn(0), 0).unwrap();
        assert_eq!(map, ExtentMap::new());
    }

    #[derive(Clone, Debug)]
    enum Action {
        Insert(Option<u64>, u64, u64),
        Remove(u64, u64),
        SetPfn(u64, Option<u64>),
    }

    fn action() -> impl Strategy<Value = Action> {
        let pfn = || prop_oneof![3 => (0u64..64).prop_map(Some), 1 => Just(None)];
        prop_oneof![
            (pfn(), 0u64..64, 0u64..8).prop_map(|(p, m, n)| Action::Insert(p, m, n)),
            // Guest numbers that run along, so that neighbours are joined.
            (0u64..64, 0u64..8).prop_map(|(m, n)| Action::Insert(Some(m + 100), m, n)),
            (0u64..64, 0u64..8).prop_map(|(m, n)| Action::Remove(m, n)),
            (0u64..64, pfn()).prop_map(|(m, p)| Action::SetPfn(m, p)),
            (0u64..64).prop_map(|m| Action::SetPfn(m, Some(m + 100))),
        ]
    }

    proptest! {
        #[test]
        fn the_map_is_its_model(actions in proptest::collection::vec(action(), 1..120)) {
            let mut map = ExtentMap::new();
            // Machine frame to guest frame; u64::MAX for none.
            let mut model = BTreeMap::<u64, u64>::new();
            for action in actions {
                let at = |p: Option<u64>, i: u64| p.map_or(u64::MAX, |p| p + i);
                match action {
                    Action::Insert(p, m, n) => {
                        let expected = match (m..m + n).find(|m| model.contains_key(m)) {
                            Some(m) => Err(ExtentError::Present { mfn: mfn(m) }),
                            None => {
                                model.extend((0..n).map(|i| (m + i, at(p, i))));
                                Ok(())
                            }
                        };
                        prop_assert_eq!(map.insert(p.map(Pfn::new), mfn(m), n), expected);
                    }
                    Action::Remove(m, n) => {
                        let expected = match (m..m + n).find(|m| !model.contains_key(m)) {
                            Some(m) => Err(ExtentError::Absent { mfn: mfn(m) }),
                            None => {
                                model.retain(|&at, _| !(m..m + n).contains(&at));
                                Ok(())
                            }
                        };
                        prop_assert_eq!(map.remove(mfn(m), n), expected);
                    }
                    Action::SetPfn(m, p) => {
                        let expected = match model.get_mut(&m) {
                            Some(found) => {
                                *found = at(p, 0);
                                Ok(())
                            }
                            None => Err(ExtentError::Absent { mfn: mfn(m) }),
                        };
                        prop_assert_eq!(map.set_pfn(mfn(m), p.map(Pfn::new)), expected);
                    }
                }
                let flat: BTreeMap<u64, u64> = map
                    .iter()
                    .flat_map(|e| (0..e.nr_frames).map(move |i| (e.mfn.get() + i, at(e.pfn.map(Pfn::get), i))))
                    .collect();
                prop_assert_eq!(&flat, &model);
                prop_assert_eq!(map.nr_frames(), model.len() as u64);
                let continues = |q: u64, p: u64| if q == u64::MAX { p == q } else { q + 1 == p };
                let joined = model
                    .iter()
                    .filter(|&(&m, &p)| m > 0 && model.get(&(m - 1)).is_some_and(|&q| continues(q, p)))
                    .count();
                prop_assert_eq!(map.nr_extents(), model.len() - joined);
                for m in 0..80 {
                    let expected = model.get(&m).map(|&p| (p != u64::MAX).then(|| Pfn::new(p)));
                    prop_assert_eq!(map.lookup(mfn(m)), expected);
                }
            }
        }
    }
}
