//! Unclaimed memory becomes free: all at once, or little by little when guests run again.

use super::{Heap, MapSplits};
use crate::frame::{CHUNK_FRAMES, Order};
use crate::mm::frametable::{Class, FrameTable, Part, chunks_in, packed};
use core::ops::Range;

/// Chunks that are plugged in at a time: no block reaches over a multiple of the largest.
const PIECE: usize = chunks_in(Order::MAX);

impl Heap {
    /// Makes every unclaimed frame free and returns how many they were. From now on the heap provides page records by itself, through
    /// `map`. Costs a step for each chunk, and some for each split chunk that has unclaimed pages.
    pub fn plug_in(&mut self, table: &FrameTable, map: MapSplits) -> u64 {
        let before = self.nr_free;
        self.map = Some(map);
        self.plug_in_chunks(table, 0..table.entries().len());
        self.nr_free - before
    }

    /// As [`Self::plug_in`], but little by little: with [`Self::plug_in_more`], and when an allocation finds nothing else.
    pub fn plug_in_later(&mut self, table: &FrameTable, map: MapSplits) {
        self.map = Some(map);
        self.unplugged = 0..table.entries().len();
    }

    /// Makes the unclaimed frames of the next block of the largest order free, and of more if there are none; false if everything is plugged in.
    /// The topmost comes first and the others ascend, so that in the end memory from the top is used first in this way, too.
    pub fn plug_in_more(&mut self, table: &FrameTable) -> bool {
        let before = self.nr_free;
        let all = table.entries().len();
        while !self.unplugged.is_empty() && self.nr_free == before {
            let Range { start, end } = self.unplugged;
            let top = (end - 1) / PIECE * PIECE;
            if end == all {
                self.unplugged.end = top;
                self.plug_in_chunks(table, top..end);
            } else {
                self.unplugged.start = start + PIECE;
                self.plug_in_chunks(table, start..start + PIECE);
            }
            if self.unplugged.is_empty() {
                self.list_first(table, (all - 1) / PIECE * PIECE..all);
            }
        }
        self.nr_free != before
    }

    /// Makes all unclaimed frames free that are not yet.
    pub fn plug_in_rest(&mut self, table: &FrameTable) {
        while self.plug_in_more(table) {}
    }

    fn plug_in_chunks(&mut self, table: &FrameTable, chunks: Range<usize>) {
        for (first, entries) in table.entries().with_unclaimed(chunks) {
            let mut index = 0;
            while let Some(entry) = entries.get(index) {
                match entry.word() {
                    packed::UNCLAIMED => {
                        let run = entries[index..].iter().take_while(|e| e.word() == packed::UNCLAIMED).count();
                        self.free_chunks(table, first + index, run);
                        index += run;
                    }
                    word => {
                        if word & packed::KIND == packed::SPLIT {
                            self.plug_in_pages(table, first + index);
                        }
                        index += 1;
                    }
                }
            }
        }
    }

    fn plug_in_pages(&mut self, table: &FrameTable, chunk: usize) {
        let entry = table.entries().written(chunk);
        let nr_new = entry.counts().get(Class::Unclaimed);
        if nr_new == 0 {
            return;
        }
        let Some(id) = entry.split_id() else { return };
        let vacant = table.split_at(id).vacant();
        vacant.free_unclaimed();
        let counts = entry.counts().moved(nr_new, Class::Unclaimed, Class::Free);
        entry.set_counts(counts);
        self.nr_free += nr_new;
        self.list_more(table, Part { chunk, first: 0, end: CHUNK_FRAMES as usize }, vacant, counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Mfn, MfnRange};
    use crate::mm::buddy::HeapStats;
    use crate::mm::frametable::tests::{d, machine, map, range};
    use crate::mm::frametable::{Chunk, Frames};
    use crate::mm::ledger::Ledger;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Three blocks of the largest order and a rest, some of it claimed, nothing plugged in.
    fn claimed(claims: &[(u64, u64)]) -> Frames {
        const NR_CHUNKS: u64 = 3 * 512 + 7;
        let frames = machine(NR_CHUNKS as usize, 40);
        frames.lock().init_ram(range(1, NR_CHUNKS * CHUNK_FRAMES)).unwrap();
        for &(at, nr_frames) in claims {
            // What was claimed before is refused, and stays as it is.
            let _ = frames.claim(MfnRange::new(Mfn::new(at), nr_frames), d(1));
        }
        frames
    }

    fn settled(frames: &Frames) -> (Ledger, HeapStats) {
        frames.lock().drain();
        (frames.ledger(), frames.stats())
    }

    #[test]
    fn memory_from_the_top_is_used_first_in_the_end() {
        let frames = claimed(&[]);
        frames.lock().plug_in_later(map);
        // What an update takes before guests run: the topmost piece has it, and no other is touched.
        let early = frames.alloc(Order::PAGE).unwrap();
        assert!(early.mfn().chunk() >= 3 * 512, "{}", early.mfn());
        assert_eq!(frames.table().chunk(1), Chunk::Unclaimed);
        while frames.plug_in_more() {}
        let blocks: Vec<Mfn> = (0..).map_while(|_| frames.alloc(Order::MAX)).map(|block| block.mfn()).collect();
        assert_eq!(blocks, [2, 1].map(|gib| Mfn::new(gib << 18)), "frame 0 is in no block");
        // Of the two blocks of 4 MiB, one is in the first piece.
        assert!(frames.alloc(Order::new(10)).unwrap().mfn().chunk() >= 3 * 512);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever is taken and given back meanwhile, it comes to the same as all at once.
        #[test]
        fn little_by_little_is_as_all_at_once(
            claims in proptest::collection::vec((1u64..3 * 512 * 512, 1u64..3000), 0..12),
            steps in proptest::collection::vec((0u8..19, any::<bool>(), any::<usize>()), 1..40),
        ) {
            let frames = claimed(&claims);
            frames.plug_in(map);
            let at_once = settled(&frames);

            let frames = claimed(&claims);
            frames.lock().plug_in_later(map);
            let mut held = Vec::new();
            for (order, gives, which) in steps {
                if gives && !held.is_empty() {
                    frames.free(held.swap_remove(which % held.len()));
                } else if which % 5 == 0 {
                    frames.plug_in_more();
                } else {
                    held.extend(frames.alloc(Order::new(order)));
                }
                // Of the frames as they are: `Frames::validate` plugs all in first.
                frames.lock().validate().unwrap();
            }
            held.into_iter().for_each(|block| frames.free(block));
            while frames.plug_in_more() {}
            frames.validate().unwrap();
            let (ledger, stats) = settled(&frames);
            // Page records that were taken for what was split meanwhile are the heap's for good.
            let records = ledger.heap - at_once.0.heap;
            prop_assert_eq!(ledger.free + records, at_once.0.free);
            prop_assert_eq!((ledger.claims, ledger.unclaimed, ledger.holes), (at_once.0.claims, 0, at_once.0.holes));
            prop_assert_eq!(stats.nr_free, ledger.free);
        }
    }
}
