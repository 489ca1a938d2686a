//! A new domain's memory: which machine frame each of its frames is, and writing through that.

use super::BuildError;
use crate::frame::{Maddr, Mfn, MfnRange, PAGE_SIZE, Pfn};
use crate::mm::physmem::PhysMem;

/// Memory as extents that follow each other from pfn 0 without a gap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory<'a> {
    extents: &'a [(Pfn, Mfn, u64)],
    nr_pages: u64,
}

impl<'a> Memory<'a> {
    pub(super) fn try_new(extents: &'a [(Pfn, Mfn, u64)]) -> Result<Self, BuildError> {
        let mut nr_pages = 0;
        for &(pfn, mfn, count) in extents {
            if pfn.get() != nr_pages || count == 0 {
                return Err(BuildError::ExtentOrder { found: pfn, count, expected: nr_pages });
            }
            let fits = MfnRange::try_new(mfn, count).is_ok() && nr_pages + count <= Pfn::LIMIT;
            if !fits {
                return Err(BuildError::ExtentTooLong { pfn, mfn, count });
            }
            nr_pages += count;
        }
        Ok(Self { extents, nr_pages })
    }

    pub(super) fn nr_pages(&self) -> u64 {
        self.nr_pages
    }

    /// The frame of a page, and how many pages from there on are in frames that follow each other.
    ///
    /// # Panics
    /// If the page is not there: the layout places nothing beyond the memory that it was planned for.
    pub(super) fn run(&self, pfn: u64) -> (Mfn, u64) {
        let behind = self.extents.partition_point(|(start, _, _)| start.get() <= pfn);
        let (start, mfn, count) = self.extents[behind - 1];
        let skip = pfn - start.get();
        assert!(skip < count, "the layout stays inside the memory");
        (mfn.offset(skip), count - skip)
    }

    pub(super) fn mfn(&self, pfn: u64) -> Mfn {
        self.run(pfn).0
    }

    /// Splits `len_bytes` at a pseudo-physical address into pieces that are contiguous in the machine: address, offset
    /// from the start, length.
    fn pieces(self, start: u64, len_bytes: u64) -> impl Iterator<Item = (Maddr, u64, u64)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            if done == len_bytes {
                return None;
            }
            let (pfn, in_page) = ((start + done) / PAGE_SIZE, (start + done) % PAGE_SIZE);
            let (mfn, nr_frames) = self.run(pfn);
            let len = (nr_frames * PAGE_SIZE - in_page).min(len_bytes - done);
            let piece = (mfn.maddr().offset(in_page), done, len);
            done += len;
            Some(piece)
        })
    }

    /// Writes bytes at a pseudo-physical address.
    pub(super) fn write(&self, mem: &impl PhysMem, start: u64, bytes: &[u8]) {
        for (at, offset, len) in self.pieces(start, bytes.len() as u64) {
            mem.write(at, &bytes[offset as usize..(offset + len) as usize]);
        }
    }

    /// Writes zeros at a pseudo-physical address.
    pub(super) fn zero(&self, mem: &impl PhysMem, start: u64, len_bytes: u64) {
        for (at, _, len) in self.pieces(start, len_bytes) {
            mem.zero(at, len);
        }
    }

    /// Copies machine memory to a pseudo-physical address, whole frames as such, the rest through `scratch`.
    pub(super) fn copy(&self, mem: &impl PhysMem, start: u64, from: Maddr, len_bytes: u64, scratch: &mut [u8]) {
        for (to, offset, len) in self.pieces(start, len_bytes) {
            let mut done = 0;
            while done < len {
                let (from, to) = (from.offset(offset + done), to.offset(done));
                if from.page_offset() == 0 && to.page_offset() == 0 && len - done >= PAGE_SIZE {
                    mem.copy_frame(from.mfn_containing(), to.mfn_containing());
                    done += PAGE_SIZE;
                } else {
                    // Up to the end of a frame, so that what follows may be whole ones.
                    let room = PAGE_SIZE - to.page_offset();
                    let part = &mut scratch[..(len - done).min(room) as usize];
                    mem.read(from, part);
                    mem.write(to, part);
                    done += part.len() as u64;
                }
            }
        }
    }
}
