//! The entries of all chunks, which are written where there is something to tell apart.
//!
//! 256 of them, for 512 MiB, are a block. As long as all chunks of a block are unclaimed RAM, or none is RAM, one byte says so, and its entries may hold
//! anything. So RAM that nobody owns costs an update a byte for 512 MiB; its entries are written when it is plugged in, behind the pause.

use super::chunk::{ChunkEntry, all_are, packed, set_all};
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

/// Chunks in a block: their entries fill a page. Few in tests, so that small machines have blocks that are not written.
pub const BLOCK_CHUNKS: usize = if cfg!(test) { 4 } else { 256 };

/// What is known of all chunks of a block. All zero means that none is RAM.
#[repr(transparent)]
#[derive(Default)]
pub struct BlockState(AtomicU8);

const WRITTEN: u8 = 2;

/// Stand for the entries of a block that is not written: by its state. Nobody writes them.
static ALIKE: [ChunkEntry; WRITTEN as usize] =
    [ChunkEntry::of_word(packed::NOT_RAM), ChunkEntry::of_word(packed::UNCLAIMED)];

impl BlockState {
    /// No RAM.
    pub const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// What all chunks of the block are, unless its entries say it.
    #[inline(always)]
    fn alike(&self) -> Option<&'static ChunkEntry> {
        ALIKE.get(usize::from(self.0.load(Ordering::Acquire)))
    }
}

/// How many blocks there are for so many chunks.
pub const fn blocks_for(nr_chunks: usize) -> usize {
    nr_chunks.div_ceil(BLOCK_CHUNKS)
}

/// The entries. All that changes them is done under the lock of [`Frames`](super::Frames).
pub(in crate::mm) struct Entries {
    all: &'static [ChunkEntry],
    blocks: &'static [BlockState],
}

impl Entries {
    /// No RAM: `blocks`, all zero, are [`blocks_for`] the entries, in which may be anything. Entries without a block stay unused.
    pub const fn new(all: &'static [ChunkEntry], blocks: &'static [BlockState]) -> Self {
        let described = blocks.len() * BLOCK_CHUNKS;
        let all = if all.len() > described { all.split_at(described).0 } else { all };
        Self { all, blocks }
    }

    /// How many.
    #[inline(always)]
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    /// An entry, to read; nothing behind the end.
    #[inline(always)]
    pub fn get(&self, chunk: usize) -> Option<&'static ChunkEntry> {
        let entry = self.all.get(chunk)?;
        Some(self.blocks.get(chunk / BLOCK_CHUNKS)?.alike().unwrap_or(entry))
    }

    /// An entry, to read.
    #[inline(always)]
    pub fn at(&self, chunk: usize) -> &'static ChunkEntry {
        self.blocks[chunk / BLOCK_CHUNKS].alike().unwrap_or(&self.all[chunk])
    }

    /// An entry that is to change, whatever the chunk is.
    #[inline(always)]
    pub fn own(&self, chunk: usize) -> &'static ChunkEntry {
        if let Some(alike) = self.blocks[chunk / BLOCK_CHUNKS].alike() {
            self.write(chunk / BLOCK_CHUNKS, alike.word());
        }
        &self.all[chunk]
    }

    /// Changes one entry's word, if it is `from`.
    #[inline(always)]
    pub fn change(&self, chunk: usize, from: u64, to: u64) -> bool {
        let (Some(entry), Some(block)) = (self.all.get(chunk), self.blocks.get(chunk / BLOCK_CHUNKS)) else {
            return false;
        };
        if let Some(alike) = block.alike() {
            if alike.word() != from {
                return false;
            }
            self.write(chunk / BLOCK_CHUNKS, from);
        }
        let is_changed = entry.word() == from;
        if is_changed {
            entry.set_word(to);
        }
        is_changed
    }

    /// The entry of a chunk that is split, owned, or the heap's: it is written.
    #[inline(always)]
    pub fn written(&self, chunk: usize) -> &'static ChunkEntry {
        debug_assert!(self.is_written(chunk / BLOCK_CHUNKS), "the entry of chunk {chunk} is not written yet");
        &self.all[chunk]
    }

    /// The same for several.
    pub fn all_written(&self, chunks: Range<usize>) -> &'static [ChunkEntry] {
        debug_assert!(blocks_of(&chunks).all(|block| self.is_written(block)), "entries {chunks:?} are not written yet");
        &self.all[chunks]
    }

    /// The entries of chunks, block by block, with the number of the first one; those of unclaimed RAM are written for it. Blocks without RAM are left out.
    pub fn with_unclaimed(&self, chunks: Range<usize>) -> impl Iterator<Item = (usize, &'static [ChunkEntry])> {
        blocks_of(&chunks).filter_map(move |block| {
            match self.blocks[block].alike() {
                Some(alike) if alike.word() != packed::UNCLAIMED => return None,
                Some(_) => self.write(block, packed::UNCLAIMED),
                None => {}
            }
            let all = self.chunks_of(block);
            let part = all.start.max(chunks.start)..all.end.min(chunks.end);
            Some((part.start, &self.all[part]))
        })
    }

    /// True if all of some chunks have this word. None if there are not so many.
    pub fn all_are(&self, chunks: Range<usize>, word: u64) -> Option<bool> {
        self.all.get(chunks.clone())?;
        let Cut { head, blocks, tail } = self.cut(&chunks);
        let block_is = |(block, state): (usize, &BlockState)| match state.alike() {
            Some(alike) => alike.word() == word,
            None => all_are(&self.all[self.chunks_of(block)], word),
        };
        let are = self.part_is(head, word) && blocks.clone().zip(&self.blocks[blocks]).all(block_is);
        Some(are && self.part_is(tail, word))
    }

    /// Sets the word of all of some chunks.
    pub fn set_all(&self, chunks: Range<usize>, word: u64) {
        let Cut { head, blocks, tail } = self.cut(&chunks);
        self.set_part(head, word);
        for (block, state) in blocks.clone().zip(&self.blocks[blocks]) {
            match state.alike() {
                Some(_) if word == packed::UNCLAIMED => state.0.store(1, Ordering::Release),
                Some(_) => self.write(block, word),
                None => set_all(&self.all[self.chunks_of(block)], word),
            }
        }
        self.set_part(tail, word);
    }

    /// [`Self::all_are`] for chunks of one block.
    fn part_is(&self, part: Range<usize>, word: u64) -> bool {
        part.is_empty()
            || match self.blocks[part.start / BLOCK_CHUNKS].alike() {
                Some(alike) => alike.word() == word,
                None => all_are(&self.all[part], word),
            }
    }

    /// [`Self::set_all`] for some of the chunks of one block.
    fn set_part(&self, part: Range<usize>, word: u64) {
        if !part.is_empty() {
            self.own(part.start);
            set_all(&self.all[part], word);
        }
    }

    /// True if what stands for entries that are not written is as it was.
    pub fn is_sound(&self) -> bool {
        ALIKE.iter().map(ChunkEntry::word).eq([packed::NOT_RAM, packed::UNCLAIMED])
    }

    fn is_written(&self, block: usize) -> bool {
        self.blocks[block].alike().is_none()
    }

    fn chunks_of(&self, block: usize) -> Range<usize> {
        block * BLOCK_CHUNKS..self.all.len().min((block + 1) * BLOCK_CHUNKS)
    }

    fn cut(&self, chunks: &Range<usize>) -> Cut {
        let is_all = chunks.end == self.all.len();
        let end = if is_all { blocks_for(chunks.end) } else { chunks.end / BLOCK_CHUNKS };
        let first = blocks_for(chunks.start);
        let middle = chunks.end.min(first * BLOCK_CHUNKS);
        if first >= end {
            return Cut { head: chunks.start..middle, blocks: 0..0, tail: middle..chunks.end };
        }
        Cut { head: chunks.start..middle, blocks: first..end, tail: chunks.end.min(end * BLOCK_CHUNKS)..chunks.end }
    }

    /// Writes all entries of a block, before a reader can find them.
    #[cold]
    fn write(&self, block: usize, word: u64) {
        set_all(&self.all[self.chunks_of(block)], word);
        self.blocks[block].0.store(WRITTEN, Ordering::Release);
    }
}

fn blocks_of(chunks: &Range<usize>) -> Range<usize> {
    chunks.start / BLOCK_CHUNKS..blocks_for(chunks.end)
}

/// Chunks taken apart into whole blocks and what is left: before and behind them, each in one block.
struct Cut {
    head: Range<usize>,
    blocks: Range<usize>,
    tail: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::untold;
    use super::*;
    use crate::frame::DomId;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Three blocks and a rest.
    const NR: usize = 3 * BLOCK_CHUNKS + 2;

    fn entries() -> Entries {
        let (all, blocks) = untold(NR);
        Entries::new(all, blocks)
    }

    #[test]
    fn memory_that_nobody_owns_is_not_written() {
        let entries = entries();
        entries.set_all(1..NR, packed::UNCLAIMED);
        let is_written = || (0..blocks_for(NR)).map(|block| entries.is_written(block)).collect::<Vec<_>>();
        // The first chunk differs from the others of its block.
        assert_eq!(is_written(), [true, false, false, false]);
        entries.own(2 * BLOCK_CHUNKS + 3).set_word(packed::REGION);
        assert_eq!(is_written(), [true, false, true, false]);
        assert!(entries.all[BLOCK_CHUNKS].word() == u64::MAX, "an entry that nobody asked for was written");
        assert_eq!(entries.all_are(BLOCK_CHUNKS..NR, packed::UNCLAIMED), Some(false));
        assert_eq!(entries.all_are(BLOCK_CHUNKS..2 * BLOCK_CHUNKS + 3, packed::UNCLAIMED), Some(true));
        assert_eq!(entries.all_are(NR - 1..NR + 1, packed::UNCLAIMED), None);
        assert!(entries.get(NR).is_none());
    }

    #[test]
    fn entries_without_a_block_stay_unused() {
        let (all, blocks) = untold(NR);
        assert_eq!(Entries::new(all, &blocks[..3]).len(), 3 * BLOCK_CHUNKS);
    }

    #[derive(Clone, Debug)]
    enum Op {
        SetAll(Range<usize>, u64),
        Own(usize, u64),
        Change(usize, u64, u64),
        WithUnclaimed(Range<usize>),
    }

    fn op() -> impl Strategy<Value = Op> {
        let word = || prop::sample::select(std::vec![packed::UNCLAIMED, packed::owned(DomId::new(7)), packed::PRIVATE]);
        // Many at the borders of blocks.
        let place = || prop_oneof![0..=NR, (0..=blocks_for(NR)).prop_map(|block| (block * BLOCK_CHUNKS).min(NR))];
        let chunks = move || (place(), place()).prop_map(|(a, b)| a.min(b)..a.max(b));
        prop_oneof![
            (chunks(), word()).prop_map(|(chunks, word)| Op::SetAll(chunks, word)),
            (0..NR, word()).prop_map(|(chunk, word)| Op::Own(chunk, word)),
            (0..=NR, word(), word()).prop_map(|(chunk, from, to)| Op::Change(chunk, from, to)),
            chunks().prop_map(Op::WithUnclaimed),
        ]
    }

    proptest! {
        /// Whatever is written and when, the entries say what a plain list of words says.
        #[test]
        fn entries_say_what_was_said_last(ops in prop::collection::vec(op(), 1..30)) {
            let entries = entries();
            let mut words = [packed::NOT_RAM; NR];
            for op in ops {
                match op {
                    Op::SetAll(chunks, word) => {
                        entries.set_all(chunks.clone(), word);
                        words[chunks].fill(word);
                    }
                    Op::Own(chunk, word) => {
                        entries.own(chunk).set_word(word);
                        words[chunk] = word;
                    }
                    Op::Change(chunk, from, to) => {
                        let is_due = words.get(chunk) == Some(&from);
                        prop_assert_eq!(entries.change(chunk, from, to), is_due);
                        if is_due {
                            words[chunk] = to;
                        }
                    }
                    Op::WithUnclaimed(chunks) => {
                        let shown = entries.with_unclaimed(chunks.clone());
                        let shown = shown.flat_map(|(first, part)| (first..).zip(part)).map(|(c, e)| (c, e.word()));
                        let shown = shown.filter(|&(_, word)| word != packed::NOT_RAM).collect::<Vec<_>>();
                        let due = chunks.map(|c| (c, words[c])).filter(|&(_, word)| word != packed::NOT_RAM);
                        prop_assert_eq!(shown, due.collect::<Vec<_>>());
                    }
                }
                for (chunk, word) in words.iter().enumerate() {
                    prop_assert_eq!(entries.at(chunk).word(), *word);
                    prop_assert_eq!(entries.get(chunk).map(ChunkEntry::word), Some(*word));
                }
                let same = words.iter().take_while(|&&word| word == words[0]).count();
                prop_assert_eq!(entries.all_are(0..same, words[0]), Some(true));
                prop_assert!(same == NR || entries.all_are(0..same + 1, words[0]) == Some(false));
                prop_assert!(entries.is_sound());
            }
        }
    }
}
