//! Extents in order, in leaves of a fixed size, so that a lack of memory is an answer and no panic.
//!
//! 1. No leaf is empty, and the extents ascend through all leaves.
//! 2. A leaf has room for [`LEAF_LEN`] from its first day, so only a new leaf takes memory. [`Sorted::reserve`] sees to it before anything is changed.

use super::Extent;
use crate::frame::Mfn;
use alloc::vec::Vec;

/// Extents in a leaf: 2 KiB.
const LEAF_LEN: usize = 64;

/// No memory for a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The extents, by machine frame.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    leaves: Vec<Vec<Extent>>,
    /// Empty leaves at hand.
    spare: Vec<Vec<Extent>>,
    len: usize,
}

impl Sorted {
    pub const fn new() -> Self {
        Self { leaves: Vec::new(), spare: Vec::new(), len: 0 }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + '_ {
        self.leaves.iter().flatten().copied()
    }

    pub fn last(&self) -> Option<Extent> {
        self.leaves.last()?.last().copied()
    }

    /// The last one that begins at or before a frame.
    pub fn last_at_or_before(&self, mfn: Mfn) -> Option<Extent> {
        let leaf = self.leaf_of(mfn)?;
        let behind = leaf.partition_point(|extent| extent.mfn <= mfn);
        leaf.get(behind.checked_sub(1)?).copied()
    }

    /// The first one that begins at or behind a frame.
    pub fn first_from(&self, mfn: Mfn) -> Option<Extent> {
        let index = self.leaves.partition_point(|leaf| leaf.last().is_some_and(|last| last.mfn < mfn));
        let leaf = self.leaves.get(index)?;
        leaf.get(leaf.partition_point(|extent| extent.mfn < mfn)).copied()
    }

    /// Makes sure that `nr` more can be put in.
    pub fn reserve(&mut self, nr: usize) -> Result<(), NoRoom> {
        self.leaves.try_reserve(nr).map_err(|_| NoRoom)?;
        self.spare.try_reserve(nr.saturating_sub(self.spare.len())).map_err(|_| NoRoom)?;
        while self.spare.len() < nr {
            let mut leaf = Vec::new();
            leaf.try_reserve_exact(LEAF_LEN).map_err(|_| NoRoom)?;
            self.spare.push(leaf);
        }
        Ok(())
    }

    /// Puts one in, for which room is reserved, or replaces the one that begins at the same frame.
    pub fn put(&mut self, extent: Extent) {
        let mut index = self.index_of(extent.mfn).unwrap_or(0);
        let Some(leaf) = self.leaves.get_mut(index) else {
            let mut leaf = self.take_spare();
            leaf.push(extent);
            self.leaves.push(leaf);
            self.len = 1;
            return;
        };
        let mut at = leaf.partition_point(|other| other.mfn < extent.mfn);
        if let Some(same) = leaf.get_mut(at).filter(|other| other.mfn == extent.mfn) {
            *same = extent;
            return;
        }
        if leaf.len() == LEAF_LEN {
            // What comes in order fills its leaves.
            let keep = if at == LEAF_LEN { LEAF_LEN } else { LEAF_LEN / 2 };
            let mut upper = self.take_spare();
            upper.extend(self.leaves[index].drain(keep..));
            if at > keep || keep == LEAF_LEN {
                at -= keep;
                index += 1;
                upper.insert(at, extent);
                self.leaves.insert(index, upper);
            } else {
                self.leaves.insert(index + 1, upper);
                self.leaves[index].insert(at, extent);
            }
        } else {
            leaf.insert(at, extent);
        }
        self.len += 1;
    }

    /// Takes the one that begins at a frame out.
    pub fn remove(&mut self, mfn: Mfn) {
        let Some(index) = self.index_of(mfn) else { return };
        let leaf = &mut self.leaves[index];
        let Ok(at) = leaf.binary_search_by_key(&mfn, |extent| extent.mfn) else { return };
        leaf.remove(at);
        self.len -= 1;
        if leaf.is_empty() {
            let leaf = self.leaves.remove(index);
            if self.spare.len() < self.spare.capacity() {
                self.spare.push(leaf);
            }
        }
    }

    fn take_spare(&mut self) -> Vec<Extent> {
        self.spare.pop().expect("room is reserved before anything is put in")
    }

    /// The leaf that a frame's extent is in, if it is in one; the first if it lies before all.
    fn index_of(&self, mfn: Mfn) -> Option<usize> {
        let behind = self.leaves.partition_point(|leaf| leaf.first().is_some_and(|first| first.mfn <= mfn));
        if self.leaves.is_empty() { None } else { Some(behind.saturating_sub(1)) }
    }

    fn leaf_of(&self, mfn: Mfn) -> Option<&[Extent]> {
        self.leaves.get(self.index_of(mfn)?).map(Vec::as_slice)
    }
}

impl Clone for Sorted {
    fn clone(&self) -> Self {
        let leaf = |from: &Vec<Extent>| {
            let mut leaf = Vec::with_capacity(LEAF_LEN);
            leaf.extend_from_slice(from);
            leaf
        };
        Self { leaves: self.leaves.iter().map(leaf).collect(), spare: Vec::new(), len: self.len }
    }
}

impl PartialEq for Sorted {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Sorted {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn extent(mfn: u64, nr_frames: u64) -> Extent {
        Extent { mfn: Mfn::new(mfn), pfn: None, nr_frames }
    }

    #[test]
    fn what_comes_in_order_fills_its_leaves() {
        let mut sorted = Sorted::new();
        for mfn in 0..10 * LEAF_LEN as u64 {
            sorted.reserve(1).unwrap();
            sorted.put(extent(mfn * 2, 1));
        }
        assert_eq!((sorted.leaves.len(), sorted.len()), (10, 10 * LEAF_LEN));
    }

    proptest! {
        #[test]
        fn it_is_a_map(actions in proptest::collection::vec((0u64..600, 0u64..3), 0..1500)) {
            let mut sorted = Sorted::new();
            let mut model = BTreeMap::new();
            for (mfn, what) in actions {
                if what == 0 {
                    sorted.remove(Mfn::new(mfn));
                    model.remove(&mfn);
                } else {
                    sorted.reserve(1).unwrap();
                    sorted.put(extent(mfn, what));
                    model.insert(mfn, what);
                }
                prop_assert!(sorted.leaves.iter().all(|leaf| !leaf.is_empty() && leaf.capacity() >= LEAF_LEN));
                let found = sorted.last_at_or_before(Mfn::new(mfn)).map(|e| (e.mfn.get(), e.nr_frames));
                prop_assert_eq!(found, model.range(..=mfn).next_back().map(|(&m, &n)| (m, n)));
                let found = sorted.first_from(Mfn::new(mfn)).map(|e| (e.mfn.get(), e.nr_frames));
                prop_assert_eq!(found, model.range(mfn..).next().map(|(&m, &n)| (m, n)));
            }
            prop_assert_eq!(sorted.len(), model.len());
            prop_assert!(sorted.iter().map(|e| (e.mfn.get(), e.nr_frames)).eq(model.iter().map(|(&m, &n)| (m, n))));
            prop_assert_eq!(&sorted.clone(), &sorted);
        }
    }
}
