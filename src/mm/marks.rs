//! One bit for every two pages of a chunk: where to look for what few pages are.
//!
//! A mark is set and stays, until nobody can have set it for a page as it is now. So there may be marks too many, each of which costs a look at two
//! pages, and never one too few. Two pages share a mark because so the bits fit where a split chunk has room anyway.

use crate::frame::CHUNK_FRAMES;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Pages that share a mark.
const PAGES: usize = 2;
const NR_WORDS: usize = CHUNK_FRAMES as usize / PAGES / 64;

/// The marks of a chunk's pages.
#[repr(C)]
pub struct Marks([AtomicU64; NR_WORDS]);

const _: () = assert!(size_of::<Marks>() == 32);

impl Marks {
    /// No page is marked.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; NR_WORDS])
    }

    /// Marks a page, by its number in the chunk.
    pub fn set(&self, index: usize) {
        let (word, mask) = (&self.0[index / PAGES / 64], 1 << (index / PAGES % 64));
        // Nearly always it is set for as long as the page is used so: other CPUs keep the line then.
        if word.load(Ordering::Acquire) & mask == 0 {
            word.fetch_or(mask, Ordering::AcqRel);
        }
    }

    /// Takes all marks away. Only while nobody can reach the pages.
    pub fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Calls `f` with each page of a range that may have been marked, in order.
    #[inline]
    pub fn each(&self, of: Range<usize>, mut f: impl FnMut(usize)) {
        let words = self.0.each_ref().map(|word| word.load(Ordering::Acquire));
        // Most chunks have no marked page.
        if words.iter().fold(0, |any, word| any | word) == 0 {
            return;
        }
        for (at, mut left) in (0..).step_by(64 * PAGES).zip(words) {
            while left != 0 {
                let first = at + left.trailing_zeros() as usize * PAGES;
                (first..first + PAGES).filter(|index| of.contains(index)).for_each(&mut f);
                left &= left - 1;
            }
        }
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn every_marked_page_is_found_and_none_far_from_it(
            marked in proptest::collection::vec(0usize..512, 0..40), (start, len) in (0usize..512, 0usize..513),
        ) {
            let marks = Marks::new();
            marked.iter().for_each(|&index| marks.set(index));
            let of = start..(start + len).min(512);
            let mut found = Vec::new();
            marks.each(of.clone(), |index| found.push(index));
            let expected: Vec<usize> =
                of.filter(|index| marked.contains(&(index & !1)) || marked.contains(&(index | 1))).collect();
            prop_assert_eq!(found, expected);
            marks.clear();
            marks.each(0..512, |index| panic!("page {index} is marked"));
        }
    }
}
