//! Page-table entries of a 64-bit PV guest: bits, what a guest may set, and what is added to it.
//!
//! The guest's kernel runs in ring 3, as its user programs do, so everything that it maps is mapped for ring 3 (XEN.md §4.4). The
//! fix-ups can be applied to their own result without changing it: after an update the tables still hold adjusted entries (DESIGN §3.7).

use crate::frame::{Maddr, Mfn};

/// The entry translates.
pub const PRESENT: u64 = 1 << 0;
/// Writes are allowed.
pub const RW: u64 = 1 << 1;
/// Ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// Write-through.
pub const PWT: u64 = 1 << 3;
/// Not cached.
pub const PCD: u64 = 1 << 4;
/// Set by the CPU when it used the entry.
pub const ACCESSED: u64 = 1 << 5;
/// Set by the CPU when it wrote through the entry.
pub const DIRTY: u64 = 1 << 6;
/// In a leaf the PAT bit, in level 2 and 3 a large page.
pub const PSE: u64 = 1 << 7;
/// The translation outlives a CR3 load.
pub const GLOBAL: u64 = 1 << 8;
/// Free for the guest.
pub const AVAIL: u64 = 7 << 9;
/// The guest had mapped the page for its kernel only; one of the available high bits, Xen's `_PAGE_GUEST_KERNEL`.
pub const GUEST_KERNEL: u64 = 1 << 52;
/// Free for the guest, but for [`GUEST_KERNEL`].
pub const AVAIL_HIGH: u64 = 0x7ff << 52;
/// No instruction may be fetched.
pub const NX: u64 = 1 << 63;

/// Entries in a table.
pub const ENTRIES: u64 = 512;
/// The first of the hypervisor's slots in a level-4 table.
pub const FIRST_HYPERVISOR_SLOT: u64 = 256;
/// How many slots of a level-4 table are the hypervisor's.
pub const NR_HYPERVISOR_SLOTS: u64 = 16;

/// Cache attributes of a leaf: allowed only on frames that are not RAM, and only to a domain with hardware.
pub const CACHE_ATTRIBUTES: u64 = PWT | PCD | PSE;
/// Bits that no present entry of level 2 to 4 may have (Xen's `base_disallow_mask`): 64-bit PV guests have no large pages.
pub const TABLE_DISALLOW: u64 = PWT | PCD | PSE | GLOBAL;
/// An update that changes nothing but these bits takes and drops no reference (Xen's `FASTPATH_FLAG_WHITELIST`).
pub const FREELY_CHANGED: u64 = NX | AVAIL_HIGH | AVAIL | GLOBAL | DIRTY | ACCESSED | USER;

/// The machine address in an entry.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The frame that an entry names; any 64 bits name one.
#[inline(always)]
pub const fn frame_of(entry: u64) -> Mfn {
    Maddr::new(entry & ADDRESS).mfn_containing()
}

/// True if the slot of a level-4 table is the hypervisor's.
#[inline(always)]
pub const fn is_hypervisor_slot(slot: u64) -> bool {
    slot.wrapping_sub(FIRST_HYPERVISOR_SLOT) < NR_HYPERVISOR_SLOTS
}

/// The leaf as it goes into memory: usable from ring 3, marked if the guest meant its kernel only, never global.
///
/// Xen marks user pages global to keep them over a switch between the guest's kernel and user tables. Here a CR3 load is
/// what separates domains, so nothing may outlive it.
#[inline(always)]
pub const fn adjust_leaf(entry: u64) -> u64 {
    if entry & PRESENT == 0 {
        return entry;
    }
    let entry = if entry & USER == 0 { entry | USER | GUEST_KERNEL } else { entry };
    entry & !GLOBAL
}

/// True if [`adjust_leaf`] changes the present leaf.
#[inline(always)]
pub const fn needs_adjusting(leaf: u64) -> bool {
    leaf & (USER | GLOBAL) != USER
}

/// The entry of a level as it goes into memory.
#[inline(always)]
pub const fn adjust(level: u8, entry: u64) -> u64 {
    match level {
        1 => adjust_leaf(entry),
        _ if entry & PRESENT == 0 => entry,
        4 => entry | USER | ACCESSED,
        _ => entry | USER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fix_ups_repeat_without_change() {
        for level in 1..=4 {
            for bits in 0..0x400u64 {
                let once = adjust(level, bits | 0x1234_5000);
                assert_eq!(adjust(level, once), once, "level {level}, {bits:#x}");
                assert_eq!(frame_of(once), frame_of(bits | 0x1234_5000));
                assert_eq!((once ^ bits) & (RW | PRESENT), 0);
                assert_eq!(bits & PRESENT != 0 && needs_adjusting(bits), adjust_leaf(bits) != bits);
            }
        }
    }

    #[test]
    fn a_kernel_leaf_is_marked_and_a_global_one_is_not_kept() {
        assert_eq!(adjust(1, PRESENT | RW), PRESENT | RW | USER | GUEST_KERNEL);
        assert_eq!(adjust(1, PRESENT | USER | GLOBAL), PRESENT | USER);
        assert_eq!(adjust(1, RW | GLOBAL), RW | GLOBAL);
        assert_eq!(adjust(2, PRESENT), PRESENT | USER);
        assert_eq!(adjust(4, PRESENT), PRESENT | USER | ACCESSED);
    }

    #[test]
    fn the_hypervisors_slots_are_256_to_271() {
        let ours: std::vec::Vec<u64> = (0..ENTRIES).filter(|s| is_hypervisor_slot(*s)).collect();
        assert_eq!(ours, (256..272).collect::<std::vec::Vec<u64>>());
    }
}
