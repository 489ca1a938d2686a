//! Sets of frame ranges, of fixed capacity: what early boot has before anything can be allocated.
//!
//! Invariants of a [`RangeSet`], which every function keeps:
//!
//! 1. the ranges are sorted by address;
//! 2. none is empty;
//! 3. between two neighbours lies at least one frame, so that a set has one form only.
//!
//! A change that does not fit returns [`Full`] and leaves the set as it was. All loops are linear in the number of
//! ranges: a set is meant for tens of them, never for one entry a page or a domain (DESIGN §1 says why).

use crate::frame::{Mfn, MfnRange};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;

/// The set has no room for one more range; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Ranges that the set can hold.
    pub capacity: usize,
    /// The range that was to be inserted or removed.
    pub range: MfnRange,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no room for a change at {}: the set is full with {} ranges", self.range, self.capacity)
    }
}

/// Puts ranges in order, without overlaps, and joins what touches.
pub fn merge(ranges: &mut Vec<MfnRange>) {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start());
    ranges.dedup_by(|next, last| {
        let joined = (next.start() <= last.end()).then(|| MfnRange::between(last.start(), last.end().max(next.end())));
        joined.flatten().map(|joined| *last = joined).is_some()
    });
}

/// Adds the frames of `range` to a list in the form that [`merge`] gives it. Nothing has changed on an error: there was no memory for one range more.
pub fn add(list: &mut Vec<MfnRange>, range: MfnRange) -> Result<(), TryReserveError> {
    if range.is_empty() {
        return Ok(());
    }
    let first = list.partition_point(|r| r.end() < range.start());
    let behind = list.partition_point(|r| r.start() <= range.end());
    if first < behind {
        let (start, end) = (list[first].start().min(range.start()), list[behind - 1].end().max(range.end()));
        list[first] = MfnRange::between(start, end).unwrap_or(range);
        list.drain(first + 1..behind);
        return Ok(());
    }
    list.try_reserve(1)?;
    list.insert(first, range);
    Ok(())
}

/// Takes the frames of `range` out of a list in the form that [`merge`] gives it. Nothing has changed on an error: there was no memory for one range more.
pub fn take(list: &mut Vec<MfnRange>, range: MfnRange) -> Result<(), TryReserveError> {
    let first = list.partition_point(|r| r.end() <= range.start());
    let behind = list.partition_point(|r| r.start() < range.end()).max(first);
    if range.is_empty() || first == behind {
        return Ok(());
    }
    list.try_reserve(1)?;
    let left = MfnRange::between(list[first].start(), range.start());
    let right = MfnRange::between(range.end(), list[behind - 1].end());
    list.drain(first..behind);
    for kept in [right, left].into_iter().flatten().filter(|kept| !kept.is_empty()) {
        list.insert(first, kept);
    }
    Ok(())
}

/// A set of frames, kept as at most `N` disjoint ranges.
#[derive(Clone)]
pub struct RangeSet<const N: usize> {
    ranges: [MfnRange; N],
    len: usize,
}

impl<const N: usize> RangeSet<N> {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: [MfnRange::EMPTY; N], len: 0 }
    }

    /// Adds the frames of `range`; those already in the set stay in it.
    pub fn insert(&mut self, range: MfnRange) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        // [first, behind) are the ranges that overlap or touch: they become one with the new one.
        let first = self.ranges().partition_point(|r| r.end() < range.start());
        let behind = self.ranges().partition_point(|r| r.start() <= range.end());
        let mut joined = range;
        if first < behind {
            let start = self.ranges[first].start().min(range.start());
            let end = self.ranges[behind - 1].end().max(range.end());
            joined = MfnRange::between(start, end).expect("ranges of the set are in order and in range");
        }
        self.splice(first, behind, &[joined], range)
    }

    /// Takes the frames of `range` out; those not in the set do not matter. Taking out of the middle of a range needs
    /// room for one more.
    pub fn remove(&mut self, range: MfnRange) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        // [first, behind) are the ranges that lose frames.
        let first = self.ranges().partition_point(|r| r.end() <= range.start());
        let behind = self.ranges().partition_point(|r| r.start() < range.end());
        if first >= behind {
            return Ok(());
        }
        let left = MfnRange::between(self.ranges[first].start(), range.start()).filter(|r| !r.is_empty());
        let right = MfnRange::between(range.end(), self.ranges[behind - 1].end()).filter(|r| !r.is_empty());
        match (left, right) {
            (None, None) => self.splice(first, behind, &[], range),
            (Some(one), None) | (None, Some(one)) => self.splice(first, behind, &[one], range),
            (Some(left), Some(right)) => self.splice(first, behind, &[left, right], range),
        }
    }

    /// Puts `with` in the place of the ranges `[first, behind)`; `cause` is for the error only.
    fn splice(&mut self, first: usize, behind: usize, with: &[MfnRange], cause: MfnRange) -> Result<(), Full> {
        let len = self.len - (behind - first) + with.len();
        if len > N {
            return Err(Full { capacity: N, range: cause });
        }
        self.ranges.copy_within(behind..self.len, first + with.len());
        self.ranges[first..first + with.len()].copy_from_slice(with);
        self.len = len;
        Ok(())
    }

    /// The ranges, ascending, with a gap between any two.
    pub fn ranges(&self) -> &[MfnRange] {
        &self.ranges[..self.len]
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = MfnRange> + ExactSizeIterator + Clone + '_ {
        self.ranges().iter().copied()
    }

    /// How many ranges there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// How many ranges there can be.
    pub const fn capacity(&self) -> usize {
        N
    }

    /// True if no frame is in the set.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Frames in the set.
    pub fn nr_frames(&self) -> u64 {
        self.iter().map(MfnRange::nr_frames).sum()
    }

    /// True if the frame is in the set.
    pub fn contains(&self, mfn: Mfn) -> bool {
        let at = self.ranges().partition_point(|r| r.end() <= mfn.get());
        self.ranges().get(at).is_some_and(|r| r.contains(mfn))
    }

    /// True if all frames of `range` are in the set; an empty range always is.
    pub fn contains_range(&self, range: MfnRange) -> bool {
        let at = self.ranges().partition_point(|r| r.end() <= range.start());
        range.is_empty() || self.ranges().get(at).is_some_and(|r| r.contains_range(range))
    }

    /// True if a frame of `range` is in the set.
    pub fn overlaps(&self, range: MfnRange) -> bool {
        self.first_overlap(range).is_some()
    }

    /// The lowest range of the set that shares a frame with `range`, whole.
    pub fn first_overlap(&self, range: MfnRange) -> Option<MfnRange> {
        let at = self.ranges().partition_point(|r| r.end() <= range.start());
        self.ranges().get(at).copied().filter(|r| r.overlaps(range))
    }

    /// The parts of `within` that are not in the set, ascending, none empty.
    pub fn complement_in(&self, within: MfnRange) -> impl Iterator<Item = MfnRange> + Clone + '_ {
        let first = self.ranges().partition_point(|r| r.end() <= within.start());
        let behind = self.ranges().partition_point(|r| r.start() < within.end()).max(first);
        let inside = &self.ranges()[first..behind];
        (0..=inside.len()).filter_map(move |gap| {
            let start = if gap == 0 { within.start() } else { inside[gap - 1].end() };
            let end = inside.get(gap).map_or(within.end(), |r| r.start());
            MfnRange::between(start, end).filter(|r| !r.is_empty())
        })
    }
}

impl<const N: usize> Default for RangeSet<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize, const M: usize> PartialEq<RangeSet<M>> for RangeSet<N> {
    fn eq(&self, other: &RangeSet<M>) -> bool {
        self.ranges() == other.ranges()
    }
}

impl<const N: usize> Eq for RangeSet<N> {}

impl<const N: usize> fmt::Debug for RangeSet<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::between(start, end).unwrap()
    }

    fn set<const N: usize>(ranges: &[(u64, u64)]) -> RangeSet<N> {
        let mut set = RangeSet::new();
        for &(start, end) in ranges {
            set.insert(range(start, end)).unwrap();
        }
        set
    }

    fn pairs<const N: usize>(set: &RangeSet<N>) -> Vec<(u64, u64)> {
        set.iter().map(|r| (r.start(), r.end())).collect()
    }

    #[test]
    fn merged_ranges_are_in_order_and_joined() {
        let range = |start, end| MfnRange::between(start, end).unwrap();
        let mut ranges =
            vec![range(7, 9), range(1, 3), range(5, 5), range(3, 4), range(2, 3), range(8, 12), range(20, 21)];
        merge(&mut ranges);
        assert_eq!(ranges, [range(1, 4), range(7, 12), range(20, 21)]);
    }

    #[test]
    fn insert_joins_what_overlaps_or_touches() {
        type Case = (&'static [(u64, u64)], &'static [(u64, u64)]);
        let cases: &[Case] = &[
            (&[], &[]),
            (&[(5, 5)], &[]),
            (&[(1, 2), (2, 3)], &[(1, 3)]),
            (&[(2, 3), (1, 2)], &[(1, 3)]),
            (&[(1, 2), (3, 4)], &[(1, 2), (3, 4)]),
            (&[(1, 2), (5, 6), (9, 10), (2, 9)], &[(1, 10)]),
            (&[(1, 10), (3, 4)], &[(1, 10)]),
            (&[(0, 1), (Mfn::LIMIT - 1, Mfn::LIMIT)], &[(0, 1), (Mfn::LIMIT - 1, Mfn::LIMIT)]),
        ];
        for (given, expected) in cases {
            assert_eq!(pairs(&set::<4>(given)), *expected, "{given:?}");
        }
    }

    #[test]
    fn a_full_set_says_so_and_keeps_what_it_had() {
        let mut full = set::<2>(&[(10, 20), (30, 40)]);
        let before = full.clone();
        let refused = Err(Full { capacity: 2, range: range(50, 51) });
        assert_eq!(full.insert(range(50, 51)), refused);
        assert_eq!(full.remove(range(12, 13)), Err(Full { capacity: 2, range: range(12, 13) }));
        assert_eq!(full, before);
        // What needs no further range still works.
        full.insert(range(40, 45)).unwrap();
        full.remove(range(10, 12)).unwrap();
        full.insert(range(15, 33)).unwrap();
        assert_eq!(pairs(&full), [(12, 45)]);
        assert_eq!(RangeSet::<0>::new().insert(range(1, 2)), Err(Full { capacity: 0, range: range(1, 2) }));
    }

    #[test]
    fn remove_splits_trims_and_swallows() {
        let mut set = set::<4>(&[(10, 20), (30, 40)]);
        set.remove(range(14, 16)).unwrap();
        assert_eq!(pairs(&set), [(10, 14), (16, 20), (30, 40)]);
        set.remove(range(18, 35)).unwrap();
        assert_eq!(pairs(&set), [(10, 14), (16, 18), (35, 40)]);
        set.remove(range(14, 16)).unwrap();
        set.remove(range(0, 100)).unwrap();
        assert!(set.is_empty());
    }

    #[test]
    fn complement_in_a_range_at_the_edges() {
        let set = set::<4>(&[(10, 20), (30, 40)]);
        let gaps =
            |start, end| -> Vec<_> { set.complement_in(range(start, end)).map(|r| (r.start(), r.end())).collect() };
        assert_eq!(gaps(0, 50), [(0, 10), (20, 30), (40, 50)]);
        assert_eq!(gaps(10, 40), [(20, 30)]);
        assert_eq!(gaps(12, 18), []);
        assert_eq!(gaps(22, 24), [(22, 24)]);
        assert_eq!(gaps(15, 15), []);
        assert_eq!(gaps(25, 25), []);
        assert_eq!(gaps(50, 60), [(50, 60)]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Action {
        Insert(u64, u64),
        Remove(u64, u64),
    }

    const SPACE: u64 = 96;

    fn action() -> impl Strategy<Value = Action> {
        (any::<bool>(), 0..SPACE, 0..20u64).prop_map(|(insert, start, len)| {
            let end = (start + len).min(SPACE);
            if insert { Action::Insert(start, end) } else { Action::Remove(start, end) }
        })
    }

    fn runs(model: &BTreeSet<u64>) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &frame in model {
            match runs.last_mut() {
                Some(last) if last.1 == frame => last.1 = frame + 1,
                _ => runs.push((frame, frame + 1)),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn a_list_behaves_as_a_set_of_numbers(actions in prop::collection::vec(action(), 0..60)) {
            let (mut list, mut model) = (Vec::new(), BTreeSet::new());
            for action in actions {
                match action {
                    Action::Insert(start, end) => {
                        model.extend(start..end);
                        prop_assert!(add(&mut list, range(start, end)).is_ok());
                    }
                    Action::Remove(start, end) => {
                        model.retain(|f| !(start..end).contains(f));
                        prop_assert!(take(&mut list, range(start, end)).is_ok());
                    }
                }
                let found: Vec<_> = list.iter().map(|r| (r.start(), r.end())).collect();
                prop_assert_eq!(found, runs(&model));
            }
        }

        // Small capacity: being full, and going on after it, is part of the property.
        #[test]
        fn behaves_as_a_set_of_numbers(actions in prop::collection::vec(action(), 0..60), probe in (0..SPACE, 0..SPACE)) {
            let mut set = RangeSet::<6>::new();
            let mut model = BTreeSet::new();
            for action in actions {
                let mut next = model.clone();
                let result = match action {
                    Action::Insert(start, end) => {
                        next.extend(start..end);
                        set.insert(range(start, end))
                    }
                    Action::Remove(start, end) => {
                        next.retain(|f| !(start..end).contains(f));
                        set.remove(range(start, end))
                    }
                };
                prop_assert_eq!(result.is_ok(), runs(&next).len() <= 6, "{:?}", action);
                if result.is_ok() {
                    model = next;
                }
                prop_assert_eq!(pairs(&set), runs(&model));
            }
            prop_assert_eq!(set.nr_frames(), model.len() as u64);
            for frame in 0..SPACE {
                prop_assert_eq!(set.contains(Mfn::new(frame)), model.contains(&frame));
            }
            let (start, end) = (probe.0.min(probe.1), probe.0.max(probe.1));
            let inside: BTreeSet<u64> = (start..end).filter(|f| model.contains(f)).collect();
            let outside: BTreeSet<u64> = (start..end).filter(|f| !model.contains(f)).collect();
            let probe = range(start, end);
            prop_assert_eq!(set.overlaps(probe), !inside.is_empty());
            prop_assert_eq!(set.contains_range(probe), outside.is_empty());
            let gaps: Vec<_> = set.complement_in(probe).map(|r| (r.start(), r.end())).collect();
            prop_assert_eq!(gaps, runs(&outside));
            if let Some(found) = set.first_overlap(probe) {
                prop_assert_eq!(found.intersection(probe).start(), *inside.first().unwrap());
            }
        }
    }
}
