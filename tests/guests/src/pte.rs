//! Page-table entries of four-level paging (Intel SDM vol. 3, 4.5).

/// The mapping exists.
pub const PRESENT: u64 = 1;
/// It may be written through.
pub const WRITABLE: u64 = 1 << 1;
/// User mode may use it; the hypervisor sets it everywhere, as a 64-bit PV kernel runs in ring 3 too.
pub const USER: u64 = 1 << 2;
/// Has been used.
pub const ACCESSED: u64 = 1 << 5;
/// Has been written.
pub const DIRTY: u64 = 1 << 6;
/// In an L2 or L3 entry: a large page.
pub const LARGE: u64 = 1 << 7;

/// An ordinary data mapping.
pub const DATA: u64 = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;
/// A mapping that must not be written.
pub const READ_ONLY: u64 = PRESENT | USER | ACCESSED;
/// An entry that leads to the next table.
pub const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;

const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// What the guest decides and nobody else: frame, present, writable, cache bits, the guest's own bits 11:9, no-execute.
/// User, global, accessed, dirty and bits 62:52 may be changed by processor or hypervisor.
const OWN: u64 = FRAME | PRESENT | WRITABLE | 0b11 << 3 | LARGE | 0b111 << 9 | 1 << 63;

/// An entry for a frame.
pub const fn entry(mfn: u64, flags: u64) -> u64 {
    (mfn << 12) & FRAME | flags
}

/// The frame that an entry names.
pub const fn frame(entry: u64) -> u64 {
    (entry & FRAME) >> 12
}

/// Whether two entries say the same in all that is the guest's to decide. Of an absent entry everything is.
pub const fn is_same(found: u64, written: u64) -> bool {
    if written & PRESENT == 0 { found == written } else { found & OWN == written & OWN }
}

/// The index into a table of the given level (1 to 4) for an address.
pub const fn index(va: u64, level: u32) -> usize {
    ((va >> (12 + 9 * (level - 1))) & 511) as usize
}

/// The address that a slot of an L4 begins at, in canonical form.
pub const fn slot_start(slot: usize) -> u64 {
    let va = (slot as u64) << 39;
    if slot >= 256 { va | 0xffff_0000_0000_0000 } else { va }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_addresses() {
        let va = 0xffff_ffff_8010_3456;
        assert_eq!((index(va, 4), index(va, 3), index(va, 2), index(va, 1)), (511, 510, 0, 0x103));
        assert_eq!(slot_start(272), 0xffff_8800_0000_0000);
        assert_eq!(slot_start(1), 1 << 39);
    }

    #[test]
    fn entries_keep_frame_and_flags_apart() {
        let value = entry(0x12345, DATA);
        assert_eq!(value, 0x1234_5067);
        assert_eq!(frame(value | 1 << 63 | 1 << 52), 0x12345);
    }

    #[test]
    fn what_others_may_change_is_not_a_difference() {
        let written = entry(7, PRESENT | WRITABLE);
        assert!(is_same(written | ACCESSED | DIRTY | USER | 1 << 8 | 1 << 52, written));
        assert!(!is_same(written & !WRITABLE, written));
        assert!(!is_same(entry(8, PRESENT | WRITABLE), written));
        assert!(!is_same(0, written));
        assert!(is_same(0, 0));
        assert!(!is_same(1 << 12, 0), "an absent entry is not touched by anybody");
    }
}
