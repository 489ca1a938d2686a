//! Which pages of a split chunk are nobody's, in bits: unclaimed, free, or the hypervisor's own.
//!
//! ```text
//!  word i (of 8)   bit n: page 64 i + n
//!  ┌──────────────┬──────────────┐      ┌──────────────┐      ┌──────┬──────┬───────┬───────┐
//!  │ free         │ private      │ × 8  │ unclaimed    │ × 8  │ next │ prev │ level │ marks │
//!  └──────────────┴──────────────┘      └──────────────┘      └──────┴──────┴───────┴───────┘
//! ```
//!
//! A page that has its bit in one of the three maps has a record of zeros, one that has none has an owner. So making pages free, or taking them, does not
//! touch their records: it costs one or two lines of the cache, wherever the pages are. Free blocks are found by folding: a word and itself shifted by
//! 1, 2, 4, … has a bit where a run of 2, 4, 8, … begins.

use super::chunk::Class;
use crate::frame::{CHUNK_FRAMES, Order};
use crate::mm::marks::Marks;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const NR_WORDS: usize = CHUNK_FRAMES as usize / 64;

/// In what way a page is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mm) enum Vacancy {
    Unclaimed,
    Free,
    Private,
}

impl Vacancy {
    pub const ALL: [Self; 3] = [Self::Unclaimed, Self::Free, Self::Private];

    /// How the ledger counts it.
    pub const fn class(self) -> Class {
        match self {
            Self::Unclaimed => Class::Unclaimed,
            Self::Free => Class::Free,
            Self::Private => Class::Private,
        }
    }
}

#[repr(C)]
struct Pair {
    free: AtomicU64,
    private: AtomicU64,
}

/// The bits of a split chunk, and its place in the heap's lists. All zero is what an unused split has.
#[repr(C, align(64))]
pub(in crate::mm) struct Vacant {
    pairs: [Pair; NR_WORDS],
    unclaimed: [AtomicU64; NR_WORDS],
    /// Next and previous of a list, in the owner's encoding.
    next: AtomicU32,
    prev: AtomicU32,
    level: AtomicU32,
    /// Of pages that somebody owns.
    marks: Marks,
}

const _: () = assert!(size_of::<Vacant>() == 256);

/// Bits where a block of each order may begin, within a word.
const ALIGNED: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];
/// Order of a word.
const WORD: usize = 6;

/// Where in a word aligned runs of `2^order` set bits begin, `order` up to 6.
const fn runs(word: u64, order: usize) -> u64 {
    let (mut word, mut n) = (word, 0);
    while n < order {
        word &= word >> (1 << n);
        n += 1;
    }
    word & ALIGNED[order]
}

/// The words that pages `[first, end)` lie in, and their bits there.
fn words(first: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    debug_assert!(end <= CHUNK_FRAMES as usize, "a chunk has 512 pages");
    let mut at = first;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let word = at / 64;
        let stop = end.min((word + 1) * 64);
        let mask = (u64::MAX >> (64 - (stop - at))) << (at % 64);
        at = stop;
        Some((word, mask))
    })
}

impl Vacant {
    /// No bit set, in no list.
    pub const fn new() -> Self {
        Self {
            pairs: [const { Pair { free: AtomicU64::new(0), private: AtomicU64::new(0) } }; NR_WORDS],
            unclaimed: [const { AtomicU64::new(0) }; NR_WORDS],
            next: AtomicU32::new(0),
            prev: AtomicU32::new(0),
            level: AtomicU32::new(0),
            marks: Marks::new(),
        }
    }

    #[inline(always)]
    fn word(&self, of: Vacancy, word: usize) -> &AtomicU64 {
        match of {
            Vacancy::Unclaimed => &self.unclaimed[word],
            Vacancy::Free => &self.pairs[word].free,
            Vacancy::Private => &self.pairs[word].private,
        }
    }

    #[inline(always)]
    fn free(&self, word: usize) -> u64 {
        self.word(Vacancy::Free, word).load(Ordering::Relaxed)
    }

    /// In what way a page is nobody's; nothing if it is somebody's.
    pub fn of(&self, index: usize) -> Option<Vacancy> {
        Vacancy::ALL.into_iter().find(|&v| self.has_all(v, index, index + 1))
    }

    /// True if all pages `[first, end)` are so.
    #[inline(always)]
    pub fn has_all(&self, of: Vacancy, first: usize, end: usize) -> bool {
        words(first, end).all(|(word, mask)| self.word(of, word).load(Ordering::Acquire) & mask == mask)
    }

    /// Clears the bit of a page if it is set, and says whether it was; what is to be done `first` is done before.
    #[inline(always)]
    pub fn take_one(&self, of: Vacancy, index: usize, first: impl FnOnce()) -> bool {
        let (word, mask) = (self.word(of, index / 64), 1 << (index % 64));
        let before = word.load(Ordering::Relaxed);
        let is_set = before & mask != 0;
        if is_set {
            first();
            word.store(before & !mask, Ordering::Release);
        }
        is_set
    }

    /// Pages `[first, end)` that are all nobody's in one way become so in another. False, and nothing has changed, if they are not.
    #[inline(always)]
    pub fn change(&self, from: Vacancy, to: Vacancy, first: usize, end: usize) -> bool {
        if end - first == 1 {
            return self.take_one(from, first, || {
                let word = self.word(to, first / 64);
                word.store(word.load(Ordering::Relaxed) | 1 << (first % 64), Ordering::Release);
            });
        }
        let are_all = self.has_all(from, first, end);
        if are_all {
            self.set(to, first, end);
            self.clear(from, first, end);
        }
        are_all
    }

    /// Sets the bits of pages `[first, end)`.
    #[inline(always)]
    pub fn set(&self, of: Vacancy, first: usize, end: usize) {
        for (word, mask) in words(first, end) {
            let word = self.word(of, word);
            word.store(word.load(Ordering::Relaxed) | mask, Ordering::Release);
        }
    }

    /// Clears the bits of pages `[first, end)`.
    #[inline(always)]
    pub fn clear(&self, of: Vacancy, first: usize, end: usize) {
        for (word, mask) in words(first, end) {
            let word = self.word(of, word);
            word.store(word.load(Ordering::Relaxed) & !mask, Ordering::Release);
        }
    }

    /// Makes all unclaimed pages free.
    pub fn free_unclaimed(&self) {
        for word in 0..NR_WORDS {
            let unclaimed = self.unclaimed[word].load(Ordering::Relaxed);
            self.pairs[word].free.store(self.free(word) | unclaimed, Ordering::Release);
            self.unclaimed[word].store(0, Ordering::Release);
        }
    }

    /// The lowest free page.
    #[inline(always)]
    pub fn find_page(&self) -> Option<usize> {
        (0..NR_WORDS).find_map(|word| {
            let free = self.free(word);
            (free != 0).then(|| word * 64 + free.trailing_zeros() as usize)
        })
    }

    /// Where the lowest free block of an order below 9 begins.
    pub fn find(&self, order: Order) -> Option<usize> {
        let order = usize::from(order.get());
        if order <= WORD {
            return (0..NR_WORDS).find_map(|word| {
                let found = runs(self.free(word), order);
                (found != 0).then(|| word * 64 + found.trailing_zeros() as usize)
            });
        }
        let n = 1 << (order - WORD);
        (0..NR_WORDS).step_by(n).find(|&word| self.are_full(word, n)).map(|word| word * 64)
    }

    /// Where the highest free block of an order below 9 begins that ends at or below the page `end`.
    pub fn find_below(&self, order: Order, end: usize) -> Option<usize> {
        let (order, len) = (usize::from(order.get()), order.nr_frames() as usize);
        let last = end.min(CHUNK_FRAMES as usize).checked_sub(len)?;
        if order <= WORD {
            return (0..=last / 64).rev().find_map(|word| {
                let most = if word == last / 64 { last % 64 } else { 63 };
                let found = runs(self.free(word), order) & (u64::MAX >> (63 - most));
                (found != 0).then(|| word * 64 + 63 - found.leading_zeros() as usize)
            });
        }
        let n = 1 << (order - WORD);
        (0..=last / 64).rev().filter(|word| word.is_multiple_of(n)).find(|&word| self.are_full(word, n)).map(|w| w * 64)
    }

    fn are_full(&self, first: usize, n: usize) -> bool {
        (first..first + n).all(|word| self.free(word) == u64::MAX)
    }

    /// Order of the largest free block, 9 for the whole chunk; nothing if no page is free.
    pub fn largest(&self) -> Option<Order> {
        let mut words: [u64; NR_WORDS] = core::array::from_fn(|word| self.free(word));
        let any = |words: &[u64; NR_WORDS]| words.iter().fold(0, |any, word| any | word) != 0;
        if !any(&words) {
            return None;
        }
        for (smaller, aligned) in ALIGNED[1..].iter().enumerate() {
            words.iter_mut().for_each(|word| *word = *word & (*word >> (1 << smaller)) & aligned);
            if !any(&words) {
                return Some(Order::new(smaller as u8));
            }
        }
        let sizes = [(8, 9), (4, 8), (2, 7)];
        let found = sizes.into_iter().find(|&(n, _)| words.chunks(n).any(|c| c.iter().all(|&word| word != 0)));
        Some(Order::new(found.map_or(WORD as u8, |(_, order)| order)))
    }

    /// True if all of the block of twice the size of `order`, which is below 8, is free that the page `index` is in.
    #[inline(always)]
    pub fn is_free_around(&self, index: usize, order: Order) -> bool {
        let order = usize::from(order.get());
        if order < WORD {
            let first = (index % 64) & !((2 << order) - 1);
            let mask = (u64::MAX >> (64 - (2 << order))) << first;
            return self.free(index / 64) & mask == mask;
        }
        let n = 2 << (order - WORD);
        self.are_full((index / 64) & !(n - 1), n)
    }

    /// True if the word that a page's bit is in has no free page.
    #[inline(always)]
    pub fn is_used_up(&self, index: usize) -> bool {
        self.free(index / 64) == 0
    }

    /// Free blocks of each order below 9, as large as they can be.
    pub fn nr_blocks(&self) -> [u64; 9] {
        let words: [u64; NR_WORDS] = core::array::from_fn(|word| self.free(word));
        let nr_runs = |order: usize| match order {
            0..=WORD => words.iter().map(|&word| u64::from(runs(word, order).count_ones())).sum(),
            9.. => 0,
            _ => words.chunks(1 << (order - WORD)).filter(|c| c.iter().all(|&w| w == u64::MAX)).count() as u64,
        };
        core::array::from_fn(|order| nr_runs(order) - 2 * nr_runs(order + 1))
    }

    /// Next and previous of the list it is in.
    pub fn links(&self) -> (u32, u32) {
        (self.next.load(Ordering::Relaxed), self.prev.load(Ordering::Relaxed))
    }

    pub fn set_next(&self, next: u32) {
        self.next.store(next, Ordering::Relaxed);
    }

    pub fn set_prev(&self, prev: u32) {
        self.prev.store(prev, Ordering::Relaxed);
    }

    /// In which of the heap's lists it is.
    #[inline(always)]
    pub fn level(&self) -> Option<Order> {
        let level = self.level.load(Ordering::Relaxed);
        (level != 0).then(|| Order::new(level as u8 - 1))
    }

    pub fn set_level(&self, level: Option<Order>) {
        self.level.store(level.map_or(0, |order| u32::from(order.get()) + 1), Ordering::Relaxed);
    }

    /// The marks of pages that somebody owns.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// As [`Vacant::new`].
    pub fn reset(&self) {
        self.marks.clear();
        for word in 0..NR_WORDS {
            for of in Vacancy::ALL {
                self.word(of, word).store(0, Ordering::Relaxed);
            }
        }
        self.set_next(0);
        self.set_prev(0);
        self.set_level(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// Free blocks of an order, one by one.
    fn blocks(free: &[bool], order: u8) -> Vec<usize> {
        let len = 1 << order;
        (0..512).step_by(len).filter(|&first| free[first..first + len].iter().all(|&is_free| is_free)).collect()
    }

    proptest! {
        #[test]
        fn blocks_are_found_as_by_looking_at_each_page(
            pieces in proptest::collection::vec((0usize..512, 0u32..10, any::<bool>()), 0..40),
            limit in 0usize..600,
        ) {
            let vacant = Vacant::new();
            let mut free = vec![false; 512];
            for (at, order, is_set) in pieces {
                let first = at & !((1 << order) - 1);
                let end = first + (1 << order);
                free[first..end].fill(is_set);
                if is_set {
                    vacant.set(Vacancy::Free, first, end);
                } else {
                    vacant.clear(Vacancy::Free, first, end);
                }
            }
            prop_assert!((0..512).all(|index| vacant.of(index).is_some() == free[index]));
            let largest = (0..=9).rev().find(|&order| !blocks(&free, order).is_empty());
            prop_assert_eq!(vacant.largest().map(Order::get), largest);
            let nr_blocks = vacant.nr_blocks();
            for order in 0..9 {
                let all = blocks(&free, order);
                prop_assert_eq!(vacant.find(Order::new(order)), all.first().copied());
                prop_assert_eq!(vacant.find_page(), vacant.find(Order::PAGE));
                let below = all.iter().rev().find(|&&first| first + (1 << order) <= limit);
                prop_assert_eq!(vacant.find_below(Order::new(order), limit), below.copied());
                let larger = if order < 8 { blocks(&free, order + 1).len() } else { 0 };
                prop_assert_eq!(nr_blocks[usize::from(order)], (all.len() - 2 * larger) as u64);
                for index in (0..512).filter(|_| order < 8) {
                    let around = blocks(&free, order + 1).contains(&(index & !((2 << order) - 1)));
                    prop_assert_eq!(vacant.is_free_around(index, Order::new(order)), around);
                }
            }
        }

        #[test]
        fn maps_do_not_disturb_each_other(first in 0usize..512, len in 0usize..512) {
            let end = (first + len).min(512);
            for of in Vacancy::ALL {
                let vacant = Vacant::new();
                vacant.set(of, first, end);
                prop_assert!(vacant.has_all(of, first, end));
                for index in 0..512 {
                    prop_assert_eq!(vacant.of(index), (first..end).contains(&index).then_some(of));
                }
                let other = if of == Vacancy::Free { Vacancy::Private } else { Vacancy::Free };
                prop_assert_eq!(vacant.change(other, of, first, end), first == end);
                prop_assert!(vacant.change(of, other, first, end));
                prop_assert!((0..512).all(|index| vacant.of(index) == (first..end).contains(&index).then_some(other)));
                vacant.clear(other, first, end);
                prop_assert!((0..512).all(|index| vacant.of(index).is_none()));
            }
        }
    }

    #[test]
    fn unclaimed_pages_become_free_beside_those_that_are() {
        let vacant = Vacant::new();
        vacant.set(Vacancy::Free, 0, 3);
        vacant.set(Vacancy::Unclaimed, 3, 100);
        vacant.set(Vacancy::Private, 100, 101);
        vacant.free_unclaimed();
        assert!(vacant.has_all(Vacancy::Free, 0, 100) && vacant.of(100) == Some(Vacancy::Private));
        assert!((0..512).all(|index| vacant.of(index) != Some(Vacancy::Unclaimed)));
        vacant.reset();
        assert!((0..512).all(|index| vacant.of(index).is_none()));
    }
}
