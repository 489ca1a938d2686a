//! The relocation tables: page tables under which an entry list can be obeyed.
//!
//! They map what the list touches to its machine address, and the relocation code a second time at the alias under which
//! it is called, so that the instruction behind the change of tables is there. Nothing else is mapped: a bad entry is a
//! fault and so a reset, not a write to a device.
//!
//! ```text
//! L4[0 ..= 255]    every range given, at its machine address, in the largest pages that fit: of 1 GiB, if the CPU has them, 2 MiB and 4 KiB
//! L4[256 ..= 511]  one 4 KiB page: the copy of the relocation code at its alias
//! ```
//!
//! The tables are made while guests run, in ordinary frames outside of slot and region, and serve every update until the
//! ranges change. Sources: SDM vol. 3A §4.5, 4-level paging.

use alloc::vec::Vec;
use core::fmt;

use crate::frame::{Maddr, Mfn, MfnRange, Order, PAGE_SHIFT, PAGE_SIZE};
use crate::mm::physmem::PhysMem;

/// Present, writable, accessed: the CPU has nothing to note in it.
const TABLE: u64 = 0x23;
/// Present, writable, accessed, dirty: the CPU has nothing to note in it.
const LEAF: u64 = 0x63;
/// Frames of a page of 1 GiB.
const GIB: Order = Order::new(18);
/// A 1 GiB page in an L3, a 2 MiB page in an L2.
const LARGE: u64 = 0x80;
const PRESENT: u64 = 0x1;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: u64 = 512;
/// The first address that the lower half of the address space does not have.
const LOWER_HALF_LIMIT: u64 = 1 << 47;
/// The first address of the upper half.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// Why the tables cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdmapError {
    /// There is no free frame for a table.
    NoFrame {
        /// Frames that there were.
        taken: usize,
    },
    /// The hypervisor's own heap is exhausted.
    NoMemory,
    /// A frame that was supplied would be overwritten by the list.
    SuppliedInside {
        /// Which.
        mfn: Mfn,
    },
    /// A range has frames whose machine address is no virtual address.
    OutOfReach {
        /// The range.
        range: MfnRange,
    },
    /// The alias is not a page of the upper half.
    BadAlias {
        /// The virtual address.
        address: u64,
    },
}

impl fmt::Display for IdmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoFrame { taken } => write!(f, "no free frame is left for the relocation tables, after {taken}"),
            Self::NoMemory => write!(f, "no memory is left to account for the relocation tables"),
            Self::SuppliedInside { mfn } => write!(f, "frame {mfn} for a relocation table would be overwritten"),
            Self::OutOfReach { range } => write!(f, "{range} is too high to be mapped to itself"),
            Self::BadAlias { address } => write!(f, "the relocation code cannot be called at {address:#x}"),
        }
    }
}

impl core::error::Error for IdmapError {}

/// Tables could not be made, and these frames are the caller's again.
#[derive(Debug)]
#[must_use = "the frames in it want to be freed"]
pub struct BuildError {
    /// Why.
    pub cause: IdmapError,
    /// What the supply had given.
    pub frames: Vec<Mfn>,
}

/// Finished tables.
#[derive(Debug)]
pub struct RelocTables {
    l4: Mfn,
    frames: Vec<Mfn>,
}

impl RelocTables {
    /// Maps all of `ranges` to themselves and the frame `copy` at `alias` too. `largest` is the order of the largest pages that the CPU has:
    /// that of 1 GiB, or of 2 MiB.
    ///
    /// `supply` gives frames outside of `overwritten`, which are slot and region; on failure they come back in the error.
    pub fn build<M: PhysMem>(
        mem: &M,
        ranges: impl IntoIterator<Item = MfnRange>,
        (alias, copy): (u64, Mfn),
        largest: Order,
        overwritten: [MfnRange; 2],
        supply: impl FnMut() -> Option<Mfn>,
    ) -> Result<Self, BuildError> {
        let mut builder = Builder { mem, supply, overwritten, frames: Vec::new() };
        match builder.build(ranges, alias, copy, largest) {
            Ok(l4) => Ok(Self { l4, frames: builder.frames }),
            Err(cause) => Err(BuildError { cause, frames: builder.frames }),
        }
    }

    /// The top table.
    pub fn l4(&self) -> Mfn {
        self.l4
    }

    /// The frames that they occupy.
    pub fn frames(&self) -> &[Mfn] {
        &self.frames
    }

    /// Gives the tables up; the frames are the caller's again.
    #[must_use = "the frames want to be freed"]
    pub fn into_frames(self) -> Vec<Mfn> {
        self.frames
    }
}

struct Builder<'m, M, S> {
    mem: &'m M,
    supply: S,
    overwritten: [MfnRange; 2],
    frames: Vec<Mfn>,
}

impl<M: PhysMem, S: FnMut() -> Option<Mfn>> Builder<'_, M, S> {
    fn build(
        &mut self,
        ranges: impl IntoIterator<Item = MfnRange>,
        alias: u64,
        copy: Mfn,
        largest: Order,
    ) -> Result<Mfn, IdmapError> {
        if alias < UPPER_HALF || !alias.is_multiple_of(PAGE_SIZE) {
            return Err(IdmapError::BadAlias { address: alias });
        }
        let l4 = self.table()?;
        self.map_page(l4, alias, copy)?;
        for range in ranges.into_iter().chain(MfnRange::try_new(copy, 1)) {
            if range.end() > LOWER_HALF_LIMIT >> PAGE_SHIFT {
                return Err(IdmapError::OutOfReach { range });
            }
            for (mfn, order) in range.blocks(largest) {
                let frames =
                    |step: Order| (0..order.nr_frames()).step_by(step.nr_frames() as usize).map(|i| mfn.offset(i));
                if order == GIB {
                    self.map_gib(l4, mfn)?;
                } else if order >= Order::CHUNK {
                    frames(Order::CHUNK).try_for_each(|mfn| self.map_chunk(l4, mfn))?;
                } else {
                    frames(Order::PAGE).try_for_each(|mfn| self.map_page(l4, mfn.maddr().get(), mfn))?;
                }
            }
        }
        Ok(l4)
    }

    /// Maps 1 GiB to itself.
    fn map_gib(&mut self, l4: Mfn, mfn: Mfn) -> Result<(), IdmapError> {
        let address = mfn.maddr().get();
        let l3 = self.descend(l4, index(address, 4))?;
        // Tables from an earlier, smaller range are given up; their frames stay accounted for.
        self.mem.write_u64(entry_at(l3, index(address, 3)), address | LEAF | LARGE);
        Ok(())
    }

    /// Maps 2 MiB to themselves. Ranges may overlap: what lies in a page of 1 GiB is mapped already.
    fn map_chunk(&mut self, l4: Mfn, mfn: Mfn) -> Result<(), IdmapError> {
        let address = mfn.maddr().get();
        let l3 = self.descend(l4, index(address, 4))?;
        if self.is_large(l3, index(address, 3)) {
            return Ok(());
        }
        let l2 = self.descend(l3, index(address, 3))?;
        // An L1 from an earlier, smaller range is given up; its frame stays accounted for.
        self.mem.write_u64(entry_at(l2, index(address, 2)), address | LEAF | LARGE);
        Ok(())
    }

    /// Maps a frame, unless it lies in a larger page.
    fn map_page(&mut self, l4: Mfn, address: u64, mfn: Mfn) -> Result<(), IdmapError> {
        let l3 = self.descend(l4, index(address, 4))?;
        if self.is_large(l3, index(address, 3)) {
            return Ok(());
        }
        let l2 = self.descend(l3, index(address, 3))?;
        let at = index(address, 2);
        if self.is_large(l2, at) {
            return Ok(());
        }
        let l1 = self.descend(l2, at)?;
        self.mem.write_u64(entry_at(l1, index(address, 1)), mfn.maddr().get() | LEAF);
        Ok(())
    }

    fn is_large(&self, table: Mfn, index: u64) -> bool {
        self.mem.read_u64(entry_at(table, index)) & LARGE != 0
    }

    /// The table that an entry of `table` names, a new one if it names none.
    fn descend(&mut self, table: Mfn, index: u64) -> Result<Mfn, IdmapError> {
        let at = entry_at(table, index);
        let entry = self.mem.read_u64(at);
        if entry & PRESENT != 0 {
            // Cut down to 40 bits by the mask, so that it is a frame number.
            return Ok(Mfn::new((entry & ADDRESS) >> PAGE_SHIFT));
        }
        let lower = self.table()?;
        self.mem.write_u64(at, lower.maddr().get() | TABLE);
        Ok(lower)
    }

    fn table(&mut self) -> Result<Mfn, IdmapError> {
        // Room first, so that a frame that was given is always accounted for.
        self.frames.try_reserve(1).map_err(|_| IdmapError::NoMemory)?;
        let mfn = (self.supply)().ok_or(IdmapError::NoFrame { taken: self.frames.len() })?;
        self.frames.push(mfn);
        if self.overwritten.iter().any(|range| range.contains(mfn)) {
            return Err(IdmapError::SuppliedInside { mfn });
        }
        self.mem.zero(mfn.maddr(), PAGE_SIZE);
        Ok(mfn)
    }
}

/// The entry's number in a table of that level.
const fn index(address: u64, level: u32) -> u64 {
    address >> (PAGE_SHIFT + 9 * (level - 1)) & (ENTRIES - 1)
}

const fn entry_at(table: Mfn, index: u64) -> Maddr {
    table.maddr().offset(index * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::physmem::sparse::SparseMem;
    use proptest::prelude::*;
    use std::vec::Vec;

    const SLOT: MfnRange = MfnRange::new(Mfn::new(0x1000), 1024);
    const REGION: MfnRange = MfnRange::new(Mfn::new(0x2000), 512);
    const COPY: Mfn = Mfn::new(0x3_4567);
    const ALIAS: u64 = 0xffff_8300_3456_7000;
    const SUPPLY: u64 = 0x10_0000;

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::between(start, end).unwrap()
    }

    fn build(mem: &SparseMem, ranges: &[MfnRange], nr_frames: u64) -> Result<RelocTables, BuildError> {
        build_with(mem, ranges, nr_frames, Order::CHUNK)
    }

    fn build_with(
        mem: &SparseMem,
        ranges: &[MfnRange],
        nr_frames: u64,
        largest: Order,
    ) -> Result<RelocTables, BuildError> {
        // Free frames hold what their last owner left in them.
        mem.write(Mfn::new(SUPPLY).maddr(), &std::vec![0xff; (nr_frames * PAGE_SIZE) as usize]);
        let mut frames = SUPPLY..SUPPLY + nr_frames;
        let supply = || frames.next().map(Mfn::new);
        RelocTables::build(mem, ranges.iter().copied(), (ALIAS, COPY), largest, [SLOT, REGION], supply)
    }

    /// What the CPU makes of an address: machine address, unless not present; asserts that it may be written and executed.
    fn translate(mem: &SparseMem, tables: &RelocTables, address: u64) -> Option<u64> {
        let mut table = tables.l4().maddr().get();
        for shift in [39, 30, 21, 12] {
            let entry = mem.read_u64(Maddr::new(table + (address >> shift & 0x1ff) * 8));
            if entry & 1 == 0 {
                return None;
            }
            assert_eq!((entry >> 63, entry & 2), (0, 2), "executable and writable at all levels");
            table = entry & 0x000f_ffff_ffff_f000;
            if shift == 12 || entry & 0x80 != 0 {
                assert_eq!(table % (1 << shift), 0, "a large page is aligned");
                return Some(table + address % (1 << shift));
            }
        }
        None
    }

    #[test]
    fn what_is_given_is_mapped_to_itself_and_the_code_twice() {
        let mem = SparseMem::new();
        let tables =
            build(&mem, &[range(0x1, 0x9f), range(0x100, 0x2_0000), range(0x10_0000, 0x14_0000)], 100).unwrap();
        for address in [0x1000, 0x9_efff, 0x10_0000, 0x1fff_ffff, 0x1_0000_0000, 0x1_3fff_fff8, COPY.maddr().get()] {
            assert_eq!(translate(&mem, &tables, address), Some(address));
        }
        for address in [0, 0x9_f000, 0xf_ffff, 0x2000_0000, 0xffff_ffff, 0x1_4000_0000, ALIAS - 1, ALIAS + 0x1000] {
            assert_eq!(translate(&mem, &tables, address), None, "{address:#x}");
        }
        assert_eq!(translate(&mem, &tables, ALIAS + 0x123), Some(0x3456_7123));
        // L4; L3, L2 and L1 of the alias; one L3, two L2 (0 to 1 GiB, 4 to 5 GiB), L1s of the first 2 MiB and of the copy.
        assert_eq!(tables.frames().len(), 9);
        assert_eq!(tables.into_frames().len(), 9);
    }

    #[test]
    fn frames_come_back_wherever_they_run_out() {
        for nr in 0..7 {
            let mem = SparseMem::new();
            let error = build(&mem, &[range(0x100, 0x1000)], nr).unwrap_err();
            assert_eq!(error.cause, IdmapError::NoFrame { taken: nr as usize });
            assert_eq!(error.frames, (SUPPLY..SUPPLY + nr).map(Mfn::new).collect::<Vec<_>>());
        }
        let mem = SparseMem::new();
        for mfn in [Mfn::new(0x13ff), Mfn::new(0x2000)] {
            let error =
                RelocTables::build(&mem, [], (ALIAS, COPY), Order::MAX, [SLOT, REGION], || Some(mfn)).unwrap_err();
            assert_eq!((error.cause, error.frames), (IdmapError::SuppliedInside { mfn }, std::vec![mfn]));
        }
        assert_eq!(mem.nr_written(), 0);
    }

    #[test]
    fn what_has_no_address_is_refused() {
        let mem = SparseMem::new();
        assert!(build(&mem, &[range((1 << 35) - 512, 1 << 35)], 100).is_ok());
        let high = range((1 << 35) - 512, (1 << 35) + 1);
        assert_eq!(build(&mem, &[high], 100).unwrap_err().cause, IdmapError::OutOfReach { range: high });
        for alias in [0x1000, ALIAS + 8, UPPER_HALF - PAGE_SIZE] {
            let error = RelocTables::build(&mem, [], (alias, COPY), Order::MAX, [SLOT, REGION], || None).unwrap_err();
            assert_eq!(error.cause, IdmapError::BadAlias { address: alias });
        }
    }

    #[test]
    fn a_gibibyte_takes_an_entry_where_the_cpu_has_such_pages() {
        // 2.5 GiB that begin in the middle of one; then single frames and chunks of what is mapped, and the other way round.
        let all = range(0x2_0000, 0xc_0000);
        let some = [range(0x4_0200, 0x4_0400), range(0x8_0001, 0x8_0003)];
        let orders = [[all, some[0], some[1]], [some[0], some[1], all]];
        for ranges in orders {
            let mem = SparseMem::new();
            let tables = build_with(&mem, &ranges, 20, Order::MAX).unwrap();
            for address in [0x2000_0000, 0x4000_0000, 0x4020_1008, 0x8000_1000, 0xbfff_f000] {
                assert_eq!(translate(&mem, &tables, address), Some(address));
            }
            for address in [0x1fff_f000, 0xc000_0000] {
                assert_eq!(translate(&mem, &tables, address), None);
            }
            let l3 = mem.read_u64(tables.l4().maddr()) & ADDRESS;
            let entry = |i: u64| mem.read_u64(Maddr::new(l3 + i * 8));
            assert_eq!([entry(1), entry(2)], [0x4000_00e3, 0x8000_00e3]);
            assert_eq!(entry(0) & LARGE, 0);
        }
    }

    proptest! {
        #[test]
        fn exactly_the_given_frames_are_mapped(spans in prop::collection::vec((0u64..0x1800, 0u64..0x700), 0..6)) {
            let mem = SparseMem::new();
            let ranges: Vec<_> = spans.iter().map(|(start, nr)| range(*start, start + nr)).collect();
            let tables = build(&mem, &ranges, 200).unwrap();
            for mfn in (0..0x2000).map(Mfn::new) {
                let is_given = ranges.iter().any(|range| range.contains(mfn));
                let address = mfn.maddr().get() + 8;
                prop_assert_eq!(translate(&mem, &tables, address), is_given.then_some(address));
            }
        }
    }
}
