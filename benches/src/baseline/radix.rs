//! What is kept as bits, in bitmaps under a radix tree, one tree for each size of block: the way in which Linux's KHO hands over what it preserved.
//!
//! The receiving side walks the trees and marks what it finds as in use, here in a bitmap of all frames, the cheapest form there is. That says
//! *that* a frame is in use and not by whom, and nothing that is marked twice is noticed, so it does less than a claim.

/// Bits of a leaf: one page of them.
const LEAF_BITS: u64 = 32768;
const LEAF_WORDS: usize = (LEAF_BITS / 64) as usize;
/// Entries of an inner node.
const FANOUT: u64 = 512;
/// Sizes of blocks: 1 to 2^18 frames.
const NR_ORDERS: usize = 19;

type Leaf = Box<[u64; LEAF_WORDS]>;

/// Two levels of nodes over leaves: enough for 2^18 leaves, that is 32 TiB in single frames.
#[derive(Default)]
struct Tree {
    nodes: Vec<Option<Box<[Option<Leaf>]>>>,
}

impl Tree {
    fn set(&mut self, number: u64) {
        let leaf = number / LEAF_BITS;
        let (node, slot) = ((leaf / FANOUT) as usize, (leaf % FANOUT) as usize);
        if self.nodes.len() <= node {
            self.nodes.resize_with(node + 1, || None);
        }
        let node = self.nodes[node].get_or_insert_with(|| (0..FANOUT).map(|_| None).collect());
        let leaf = node[slot].get_or_insert_with(|| Box::new([0; LEAF_WORDS]));
        let bit = number % LEAF_BITS;
        leaf[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    /// The words that are not zero, and the number of their first bit.
    #[inline]
    fn walk(&self, mut f: impl FnMut(u64, u64)) {
        for (i, node) in self.nodes.iter().enumerate().filter_map(|(i, node)| Some((i as u64, node.as_ref()?))) {
            for (j, leaf) in node.iter().enumerate().filter_map(|(j, leaf)| Some((j as u64, leaf.as_ref()?))) {
                let base = (i * FANOUT + j) * LEAF_BITS;
                for (k, &word) in leaf.iter().enumerate().filter(|(_, word)| **word != 0) {
                    f(base + k as u64 * 64, word);
                }
            }
        }
    }
}

/// What is handed over.
pub struct Radix {
    trees: [Tree; NR_ORDERS],
}

impl Radix {
    /// Nothing.
    pub fn new() -> Self {
        Self { trees: Default::default() }
    }

    /// Adds a range, as the largest aligned blocks that it is made of.
    pub fn preserve(&mut self, start: u64, nr_frames: u64) {
        let (mut at, end) = (start, start + nr_frames);
        while at < end {
            let order = (end - at).ilog2().min(at.trailing_zeros()).min(NR_ORDERS as u32 - 1);
            self.trees[order as usize].set(at >> order);
            at += 1 << order;
        }
    }

    /// Marks all of it in use; how many frames that is.
    pub fn walk(&self, used: &mut [u64]) -> u64 {
        let mut nr_frames = 0;
        for (order, tree) in self.trees.iter().enumerate() {
            tree.walk(|first, word| {
                nr_frames += u64::from(word.count_ones()) << order;
                match order {
                    0 => used[(first / 64) as usize] |= word,
                    // A block is part of a word.
                    1..=5 => {
                        let mut left = word;
                        while left != 0 {
                            let frame = (first + u64::from(left.trailing_zeros())) << order;
                            used[(frame / 64) as usize] |= ((1 << (1 << order)) - 1) << (frame % 64);
                            left &= left - 1;
                        }
                    }
                    _ => {
                        let words = 1usize << (order - 6);
                        let mut left = word;
                        while left != 0 {
                            // A run of blocks at a time.
                            let from = left.trailing_zeros();
                            let run = (left >> from).trailing_ones();
                            let at = (first + u64::from(from)) as usize * words;
                            used[at..at + run as usize * words].fill(u64::MAX);
                            let behind = from + run;
                            left = if behind == 64 { 0 } else { left >> behind << behind };
                        }
                    }
                }
            });
        }
        nr_frames
    }
}

/// Runs of frames that are not in use, and the frames in them: what a boot allocator would give to its heap.
pub fn free_runs(used: &[u64]) -> (u64, u64) {
    let (mut runs, mut frames, mut last) = (0u64, 0u64, 1u64);
    for &word in used {
        let free = !word;
        frames += u64::from(free.count_ones());
        // A run begins where a frame is free and the one before it is not.
        let begins = free & !(free << 1 | (1 ^ last));
        runs += u64::from(begins.count_ones());
        last = word >> 63;
    }
    (runs, frames)
}

/// Frames in use.
pub fn nr_used(used: &[u64]) -> u64 {
    used.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(ranges: &[(u64, u64)], nr_frames: usize) {
        let mut radix = Radix::new();
        let mut naive = vec![false; nr_frames];
        for &(start, len) in ranges {
            radix.preserve(start, len);
            naive[start as usize..(start + len) as usize].fill(true);
        }
        let mut used = vec![0; nr_frames / 64];
        let count = naive.iter().filter(|b| **b).count() as u64;
        assert_eq!(radix.walk(&mut used), count);
        let found: Vec<bool> = (0..nr_frames).map(|i| used[i / 64] >> (i % 64) & 1 != 0).collect();
        assert_eq!(found, naive);
        assert_eq!(nr_used(&used), count);
        let begins = |i: usize| !naive[i] && (i == 0 || naive[i - 1]);
        let runs = (0..nr_frames).filter(|&i| begins(i)).count() as u64;
        assert_eq!(free_runs(&used), (runs, nr_frames as u64 - count));
    }

    #[test]
    fn what_is_walked_is_what_was_preserved() {
        expect(&[], 128);
        expect(&[(0, 1), (3, 2), (8, 8), (63, 1)], 256);
        expect(&[(1, 126)], 256);
        expect(&[(64, 64), (192, 64), (256, 512), (1024, 1024)], 4096);
        expect(&[(0, 1 << 19), ((1 << 19) + 5, 40_000)], 1 << 20);
    }

    #[test]
    fn random_ranges_are_walked() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let mut at = random.u64(0..100);
            let mut ranges = Vec::new();
            while at < 60_000 {
                let (large, far) = (random.u64(0..14), random.u64(0..10));
                let len = random.u64(1..=1 << large);
                ranges.push((at, len.min(65_536 - at)));
                at += len + random.u64(1..=1 << far);
            }
            expect(&ranges, 65_536);
        }
    }
}
