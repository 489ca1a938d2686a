//! The machine-to-physical table: for every machine frame the pseudo-physical frame that its owner has for it.
//!
//! Guests read it at 0xffff8000_00000000, so it lies outside the region, in blocks of 2 MiB of which each covers 1 GiB of frames, and stays in
//! place across updates (I1). Entries of frames that nobody owns read all ones.

use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, Mfn, MfnRange, Pfn};
use crate::mm::physmem::PhysMem;
use alloc::vec::Vec;

/// Frames whose entries fill one block.
pub const FRAMES_PER_BLOCK: u64 = CHUNK_SIZE / 8;
/// Entry of a frame that has no pseudo-physical frame.
pub const INVALID: u64 = u64::MAX;
/// Entry of a frame that the hypervisor shares with a domain (Xen's SHARED_M2P_ENTRY is as good as no frame for guests).
pub const SHARED: u64 = u64::MAX >> 1;

/// The table.
#[derive(Default)]
pub struct M2p {
    blocks: Vec<Option<Mfn>>,
}

impl M2p {
    /// Blocks that a machine whose RAM ends at frame `end` needs.
    pub const fn blocks_for(end: u64) -> u64 {
        end.div_ceil(FRAMES_PER_BLOCK)
    }

    /// A table made of blocks, `None` where no RAM is.
    pub const fn new(blocks: Vec<Option<Mfn>>) -> Self {
        Self { blocks }
    }

    /// Adds the block of an index behind all others.
    pub fn place(&mut self, index: usize, block: Option<Mfn>) {
        self.blocks.resize(index, None);
        self.blocks.push(block);
    }

    /// The blocks, by index.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, Mfn)> + '_ {
        self.blocks.iter().enumerate().filter_map(|(i, b)| b.map(|b| (i as u64, b)))
    }

    /// The blocks by index, those in one run that follow each other in the table and in memory: nearly always all of them.
    pub fn runs(&self) -> impl Iterator<Item = (u64, MfnRange)> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            at += self.blocks.get(at..)?.iter().position(Option::is_some)?;
            let (index, first) = (at, self.blocks[at]?);
            let places = (first.get()..).step_by(CHUNK_FRAMES as usize);
            let follow = |(block, place): &(&Option<Mfn>, u64)| block.is_some_and(|block| block.get() == *place);
            let nr_blocks = self.blocks[at..].iter().zip(places).take_while(follow).count();
            at += nr_blocks;
            Some((index as u64, MfnRange::new(first, nr_blocks as u64 * CHUNK_FRAMES)))
        })
    }

    /// Fills a fresh block.
    pub fn clear_block(mem: &impl PhysMem, block: Mfn) {
        let ones = [0xff; 4096];
        for i in 0..CHUNK_SIZE / 4096 {
            mem.write(block.offset(i).maddr(), &ones);
        }
    }

    fn slot(&self, mfn: Mfn) -> Option<crate::frame::Maddr> {
        let block = *self.blocks.get((mfn.get() / FRAMES_PER_BLOCK) as usize)?;
        Some(block?.maddr().offset(mfn.get() % FRAMES_PER_BLOCK * 8))
    }

    /// The entry of a frame.
    pub fn get(&self, mem: &impl PhysMem, mfn: Mfn) -> Option<Pfn> {
        Pfn::try_new(mem.read_u64(self.slot(mfn)?)).ok()
    }

    /// Sets the entry of a frame, raw.
    pub fn set(&self, mem: &impl PhysMem, mfn: Mfn, entry: u64) {
        if let Some(at) = self.slot(mfn) {
            mem.write_u64(at, entry);
        }
    }

    /// Sets the entries of a run of frames to consecutive pseudo-physical frames.
    pub fn set_run(&self, mem: &impl PhysMem, mfns: MfnRange, pfn: Pfn) {
        let mut buf = [0u8; 4096];
        let mut done = 0;
        while done < mfns.nr_frames() {
            let first = mfns.start() + done;
            let n = (mfns.nr_frames() - done).min(512).min(FRAMES_PER_BLOCK - first % FRAMES_PER_BLOCK);
            for i in 0..n {
                let at = (i * 8) as usize;
                buf[at..at + 8].copy_from_slice(&(pfn.get() + done + i).to_le_bytes());
            }
            if let Some(at) = Mfn::try_new(first).ok().and_then(|m| self.slot(m)) {
                mem.write(at, &buf[..(n * 8) as usize]);
            }
            done += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::physmem::sparse::SparseMem;
    use std::vec;

    #[test]
    fn blocks_that_follow_each_other_are_one_run() {
        let at = |chunk: u64| Some(Mfn::new(chunk * CHUNK_FRAMES));
        let m2p = M2p::new(vec![None, at(9), at(10), None, at(11), at(7), at(8), at(9), at(10)]);
        let run = |chunk: u64, nr: u64| MfnRange::new(Mfn::new(chunk * CHUNK_FRAMES), nr * CHUNK_FRAMES);
        assert_eq!(m2p.runs().collect::<Vec<_>>(), [(1, run(9, 2)), (4, run(11, 1)), (5, run(7, 4))]);
        assert_eq!(M2p::new(vec![None; 3]).runs().count(), 0);
        assert_eq!(M2p::new(vec![]).runs().count(), 0);
    }

    #[test]
    fn runs_cross_blocks_and_holes_are_silent() {
        let mem = SparseMem::new();
        let m2p = M2p::new(vec![Some(Mfn::new(0x1000)), Some(Mfn::new(0x9000)), None]);
        let range = MfnRange::between(FRAMES_PER_BLOCK - 700, FRAMES_PER_BLOCK + 900).unwrap();
        m2p.set_run(&mem, range, Pfn::new(5));
        for (i, mfn) in range.iter().enumerate() {
            assert_eq!(m2p.get(&mem, mfn), Some(Pfn::new(5 + i as u64)));
        }
        m2p.set(&mem, Mfn::new(7), INVALID);
        assert_eq!(m2p.get(&mem, Mfn::new(7)), None);
        let hole = Mfn::new(2 * FRAMES_PER_BLOCK + 1);
        m2p.set(&mem, hole, 1);
        assert_eq!(m2p.get(&mem, hole), None);
        assert_eq!(M2p::blocks_for(FRAMES_PER_BLOCK + 1), 2);
    }
}
