//! The guest's own translation of a virtual address, read from its page tables.
//!
//! Used to copy from and to guest memory, to map an LDT page that a guest touches, and to find the entry that update_va_mapping
//! changes. The caller holds a level-4 type reference on the root: everything below is validated then, so every table read is the domain's own RAM.

use super::entry::{self, NX, PRESENT, PSE, RW, USER};
use crate::frame::{Maddr, Mfn, PAGE_SHIFT};
use crate::mm::physmem::PhysMem;
use core::fmt;

/// Where a translation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The frame.
    pub mfn: Mfn,
    /// The leaf's flags, with `RW` and `USER` only if every level allows it, and `NX` if any level forbids execution.
    pub flags: u64,
    /// Where the leaf entry is.
    pub pte_maddr: Maddr,
}

impl Leaf {
    /// True if every level allows writes.
    pub const fn is_writable(&self) -> bool {
        self.flags & RW != 0
    }

    /// True if the guest meant its user programs to have it too.
    pub const fn is_for_user(&self) -> bool {
        self.flags & USER != 0 && self.flags & entry::GUEST_KERNEL == 0
    }
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkFault {
    /// Bits 63 to 47 are not all alike.
    NotCanonical {
        /// The address.
        va: u64,
    },
    /// The address is in the hypervisor's slots.
    Hypervisor {
        /// The address.
        va: u64,
    },
    /// The entry at this level does not translate.
    NotPresent {
        /// The address.
        va: u64,
        /// The level, 1 to 4.
        level: u8,
    },
}

impl fmt::Display for WalkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotCanonical { va } => write!(f, "{va:#x} is not canonical"),
            Self::Hypervisor { va } => write!(f, "{va:#x} is the hypervisor's"),
            Self::NotPresent { va, level } => write!(f, "{va:#x} is not mapped at level {level}"),
        }
    }
}

/// Index into the table of a level.
const fn slot(va: u64, level: u8) -> u64 {
    (va >> (PAGE_SHIFT + 9 * (level as u32 - 1))) & (entry::ENTRIES - 1)
}

/// True for an entry that translates for a guest. Ring 3 may use all that a guest maps; what it may not use is the hypervisor's, whose slots a level-4
/// table that names itself shows once more, as tables of the level below.
const fn is_guests(entry: u64) -> bool {
    entry & (PRESENT | USER) == PRESENT | USER
}

/// Translates `va` below the level-4 table `l4`.
pub fn walk(mem: &impl PhysMem, l4: Mfn, va: u64) -> Result<Leaf, WalkFault> {
    let (pte_maddr, above) = leaf_entry(mem, l4, va)?;
    let entry = mem.read_u64(pte_maddr);
    if !is_guests(entry) {
        return Err(WalkFault::NotPresent { va, level: 1 });
    }
    let flags = entry & !((Mfn::LIMIT - 1) << PAGE_SHIFT);
    let flags = (flags & !(RW | USER)) | (flags & above & (RW | USER)) | (above & NX);
    Ok(Leaf { mfn: entry::frame_of(entry), flags, pte_maddr })
}

/// Where the leaf entry of `va` is, present or not, and the flags that the levels above allow: `RW` and `USER` if all do, `NX` if any does.
pub(super) fn leaf_entry(mem: &impl PhysMem, l4: Mfn, va: u64) -> Result<(Maddr, u64), WalkFault> {
    let sign = (va as i64) >> 47;
    if sign != 0 && sign != -1 {
        return Err(WalkFault::NotCanonical { va });
    }
    if entry::is_hypervisor_slot(slot(va, 4)) {
        return Err(WalkFault::Hypervisor { va });
    }
    let mut table = l4;
    let mut allowed = RW | USER;
    for level in (2..=4u8).rev() {
        let entry = mem.read_u64(table.maddr().offset(slot(va, level) * 8));
        // A guest has no large pages; an entry that says otherwise translates nothing for it.
        if !is_guests(entry) || entry & PSE != 0 {
            return Err(WalkFault::NotPresent { va, level });
        }
        allowed = (allowed & entry & (RW | USER)) | (allowed & NX) | (entry & NX);
        table = entry::frame_of(entry);
    }
    Ok((table.maddr().offset(slot(va, 1) * 8), allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::physmem::sparse::SparseMem;

    /// Tables 4, 3, 2, 1 translate `va` to frame 9 with the flags given for each level, top first.
    fn tree(va: u64, flags: [u64; 4]) -> SparseMem {
        let mem = SparseMem::new();
        for (i, flags) in flags.into_iter().enumerate() {
            let level = 4 - i as u8;
            let next = if level == 1 { 9 } else { level as u64 - 1 };
            mem.write_u64(Mfn::new(level as u64).maddr().offset(slot(va, level) * 8), next << 12 | flags);
        }
        mem
    }

    #[test]
    fn permissions_are_those_of_all_levels() {
        let va = 0xffff_8800_1234_5678;
        let all = PRESENT | RW | USER;
        let leaf = walk(&tree(va, [all; 4]), Mfn::new(4), va).unwrap();
        assert_eq!((leaf.mfn, leaf.flags), (Mfn::new(9), all));
        assert_eq!(leaf.pte_maddr, Mfn::new(1).maddr().offset(0x345 % 512 * 8));
        for level in 0..4 {
            let mut flags = [all; 4];
            flags[level] = PRESENT | USER | NX;
            let leaf = walk(&tree(va, flags), Mfn::new(4), va).unwrap();
            assert_eq!(leaf.flags, PRESENT | USER | NX, "level {}", 4 - level);
            assert!(!leaf.is_writable());
            flags[level] = RW | USER;
            assert_eq!(
                walk(&tree(va, flags), Mfn::new(4), va),
                Err(WalkFault::NotPresent { va, level: 4 - level as u8 })
            );
        }
    }

    #[test]
    fn addresses_that_are_not_the_guests_are_refused() {
        let mem = SparseMem::new();
        let l4 = Mfn::new(4);
        for va in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert_eq!(walk(&mem, l4, va), Err(WalkFault::NotCanonical { va }));
        }
        for va in [0xffff_8000_0000_0000, 0xffff_87ff_ffff_ffff] {
            assert_eq!(walk(&mem, l4, va), Err(WalkFault::Hypervisor { va }));
        }
        for va in [0, 0x7fff_ffff_ffff, 0xffff_8800_0000_0000, u64::MAX] {
            assert_eq!(walk(&mem, l4, va), Err(WalkFault::NotPresent { va, level: 4 }));
        }
    }

    #[test]
    fn the_hypervisors_slots_are_not_reached_through_a_table_that_names_itself() {
        let mem = SparseMem::new();
        let (l4, linear, hypervisor, all) = (Mfn::new(4), 6u64, 261u64, PRESENT | RW | USER);
        let at = |table: u64, slot: u64| Mfn::new(table).maddr().offset(slot * 8);
        mem.write_u64(at(4, linear), 4 << 12 | PRESENT | USER);
        // Frames 3, 2 and 1 are the hypervisor's tables.
        mem.write_u64(at(4, hypervisor), 3 << 12 | PRESENT | RW);
        mem.write_u64(at(3, 5), 2 << 12 | PRESENT | RW);
        mem.write_u64(at(2, 7), 1 << 12 | PRESENT | RW);
        let va = linear << 39 | hypervisor << 30 | 5 << 21 | 7 << 12;
        assert_eq!(walk(&mem, l4, va), Err(WalkFault::NotPresent { va, level: 3 }));
        // Nor is a leaf among tables that are the guest's own.
        for (table, slot) in [(4, hypervisor), (3, 5)] {
            mem.write_u64(at(table, slot), (table - 1) << 12 | all);
        }
        assert_eq!(walk(&mem, l4, va), Err(WalkFault::NotPresent { va, level: 1 }));
        mem.write_u64(at(2, 7), 1 << 12 | all);
        assert_eq!(walk(&mem, l4, va).unwrap().mfn, Mfn::new(1));
    }

    #[test]
    fn a_large_page_translates_nothing() {
        let all = PRESENT | RW | USER;
        assert_eq!(
            walk(&tree(0, [all, all, all | PSE, all]), Mfn::new(4), 0),
            Err(WalkFault::NotPresent { va: 0, level: 2 })
        );
    }
}
