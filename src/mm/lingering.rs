//! Frames that a domain has given up and that something still refers to.
//!
//! Such a frame is the domain's until its last reference goes, as in Xen, but it is in no extent any more: it has no number with the guest, and
//! the owner's own reference is gone. Nobody is told when the last reference goes; the set is looked through instead, whenever it
//! matters which of its frames are still there. [`Frames::is_lingering`](super::frametable::Frames::is_lingering) knows of each.
//!
//! 1. Every lingering frame of a domain is in its set; what else is in it has been freed since, or has even come back.
//! 2. A set never has more than [`MAX_LINGERING`] frames, so that looking through it takes about a millisecond.

use crate::frame::{Mfn, MfnRange};
use alloc::collections::BTreeSet;

/// Most frames of a domain that may linger: 256 MiB. A guest that wants to give up more has to take away mappings first.
pub const MAX_LINGERING: usize = 1 << 16;

/// The lingering frames of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lingering {
    frames: BTreeSet<u64>,
}

impl Lingering {
    /// None.
    pub const fn new() -> Self {
        Self { frames: BTreeSet::new() }
    }

    /// Frames in the set.
    pub fn nr_frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// True if there is no room for one more.
    pub fn is_full(&self) -> bool {
        self.frames.len() >= MAX_LINGERING
    }

    /// True if a frame is in the set.
    pub fn contains(&self, mfn: Mfn) -> bool {
        self.frames.contains(&mfn.get())
    }

    /// Adds a frame.
    pub fn insert(&mut self, mfn: Mfn) {
        self.frames.insert(mfn.get());
    }

    /// Takes out the first frame.
    pub fn take_first(&mut self) -> Option<Mfn> {
        self.frames.pop_first().map(Mfn::new)
    }

    /// Forgets the frames that do not linger any more.
    pub fn settle(&mut self, lingers: impl Fn(Mfn) -> bool) {
        self.frames.retain(|&mfn| lingers(Mfn::new(mfn)));
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = Mfn> + '_ {
        self.frames.iter().map(|&mfn| Mfn::new(mfn))
    }

    /// The frames as ranges of one, as other memory is named.
    pub fn ranges(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.iter().map(|mfn| MfnRange::new(mfn, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn what_lingers_no_more_is_forgotten_and_nothing_else() {
        let mut set = Lingering::new();
        for mfn in [9, 3, 7, 3] {
            set.insert(Mfn::new(mfn));
        }
        assert_eq!(set.nr_frames(), 3);
        set.settle(|mfn| mfn.get() != 7);
        assert_eq!(set.iter().map(Mfn::get).collect::<Vec<_>>(), [3, 9]);
        assert!(set.contains(Mfn::new(9)) && !set.contains(Mfn::new(7)));
        assert_eq!(set.ranges().map(|range| range.nr_frames()).sum::<u64>(), 2);
        assert_eq!(set.take_first(), Some(Mfn::new(3)));
        assert_eq!(set.take_first(), Some(Mfn::new(9)));
        assert_eq!(set, Lingering::new());
    }

    #[test]
    fn a_full_set_says_so() {
        let mut set = Lingering::new();
        for mfn in 0..MAX_LINGERING as u64 {
            assert!(!set.is_full());
            set.insert(Mfn::new(mfn));
        }
        assert!(set.is_full());
        set.settle(|mfn| mfn.get() % 2 == 0);
        assert!(!set.is_full());
    }
}
