//! Segment descriptors that a guest may have in a GDT or LDT (XEN.md §4.4, SDM vol. 3A §3.4.5 and §5.8.3).

/// Present.
const P: u64 = 1 << 47;
/// Privilege level, two bits.
const DPL: u64 = 3 << 45;
/// Code or data, as opposed to system.
const S: u64 = 1 << 44;
/// The type.
const TYPE: u64 = 0xf << 40;
/// The type of a call gate.
const CALL_GATE: u64 = 0xc << 40;
/// Bits 0 to 7 of the upper half, which a 64-bit call gate must have zero.
const GATE_RESERVED: u64 = 0xff << 32;
/// Selector of a gate's target.
const GATE_SELECTOR_SHIFT: u32 = 16;
/// The guest's kernel runs in ring 3.
const KERNEL_RING: u64 = 3;
/// Pages of a GDT that are the guest's own.
pub const GUEST_GDT_PAGES: u64 = 14;
/// GDT entries from here on are the hypervisor's (Xen's `FIRST_RESERVED_GDT_ENTRY`).
pub const FIRST_RESERVED_GDT_ENTRY: u64 = GUEST_GDT_PAGES * 512;
/// The hypervisor's flat 64-bit code segment of ring 3, which a gate may lead to.
const FLAT_RING3_CS64: u64 = 0xe033;

/// The descriptor as the guest may have it, or nothing if it may not.
///
/// What is not present cannot hurt. Privilege levels below the guest's kernel are raised to it; code and data may have any base and
/// limit. Of system descriptors only type 0 (the second half of a gate) and call gates are allowed: the gate's own level is made 0, so that its use
/// faults and can be emulated, and the level that it had is kept in the target selector.
pub const fn check_descriptor(descriptor: u64) -> Option<u64> {
    if descriptor & P == 0 {
        return Some(descriptor);
    }
    let fixed = descriptor | DPL;
    if fixed & S != 0 || fixed & TYPE == 0 {
        return Some(fixed);
    }
    if fixed & TYPE != CALL_GATE || fixed & GATE_RESERVED != 0 {
        return None;
    }
    let selector = (fixed >> GATE_SELECTOR_SHIFT) & 0xffff;
    let is_guests = selector >> 3 < FIRST_RESERVED_GDT_ENTRY || selector == FLAT_RING3_CS64 || selector & 4 != 0;
    if !is_guests {
        return None;
    }
    Some((fixed & !DPL) | KERNEL_RING << GATE_SELECTOR_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(ty: u64, s: bool, dpl: u64, p: bool, low: u64) -> u64 {
        ty << 40 | (s as u64) << 44 | dpl << 45 | (p as u64) << 47 | low
    }

    #[test]
    fn what_is_absent_passes_unchanged() {
        for ty in 0..16 {
            let d = descriptor(ty, false, 0, false, 0xffff_ffff);
            assert_eq!(check_descriptor(d), Some(d));
        }
    }

    #[test]
    fn code_and_data_come_to_ring_3() {
        for ty in 0..16 {
            for dpl in 0..4 {
                let d = descriptor(ty, true, dpl, true, 0x00af_0000_0000_ffff & !(0xff << 40));
                assert_eq!(check_descriptor(d), Some(d | 3 << 45));
            }
        }
    }

    #[test]
    fn of_system_descriptors_only_type_0_and_call_gates_pass() {
        for ty in 0..16 {
            let d = descriptor(ty, false, 3, true, 0x33 << 16);
            assert_eq!(check_descriptor(d).is_some(), ty == 0 || ty == 12, "type {ty}");
        }
    }

    #[test]
    fn a_gate_loses_its_level_and_leads_to_the_guests_own_code() {
        let gate = |selector: u64, reserved: u64| descriptor(12, false, 3, true, selector << 16 | reserved << 32);
        assert_eq!(check_descriptor(gate(0x10, 0)), Some(descriptor(12, false, 0, true, 0x13 << 16)));
        assert!(check_descriptor(gate(0xe033, 0)).is_some());
        assert!(check_descriptor(gate(7167 << 3, 0)).is_some());
        assert!(check_descriptor(gate(7168 << 3, 0)).is_none());
        assert!(check_descriptor(gate(0xe008, 0)).is_none());
        assert!(check_descriptor(gate(7168 << 3 | 4, 0)).is_some(), "the LDT is the guest's");
        assert!(check_descriptor(gate(0x10, 1)).is_none());
    }

    #[test]
    fn what_passed_passes_again_unchanged() {
        for ty in [0, 2, 12] {
            for s in [false, true] {
                for dpl in 0..4 {
                    if let Some(d) = check_descriptor(descriptor(ty, s, dpl, true, 0x21_0055)) {
                        assert_eq!(check_descriptor(d), Some(d));
                    }
                }
            }
        }
    }
}
