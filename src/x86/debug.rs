//! Debug registers of guests.

use x86_64::registers::debug::{Dr6, Dr7};

/// True if a breakpoint is enabled in the CPU.
pub fn is_armed() -> bool {
    Dr7::read_raw() & 0xff != 0
}

macro_rules! load_one {
    ($register:literal, $value:expr) => {
        // SAFETY: addresses and conditions were checked when the guest set them: no breakpoint is in the hypervisor's range.
        unsafe { core::arch::asm!(concat!("mov ", $register, ", {}"), in(reg) $value, options(nomem, nostack)) }
    };
}

/// DR6 without an event.
const DR6_DEFAULT: u64 = 0xffff_0ff0;
/// Bits of DR6 that an event sets: B0 to B3, BD, BS, BT.
const DR6_SET_BY_EVENT: u64 = 0xe00f;

/// What the CPU noted in DR6 of a debug exception, which it adds to but never clears.
#[expect(unsafe_code, reason = "debug registers")]
pub fn take_status() -> u64 {
    let status = Dr6::read_raw() & DR6_SET_BY_EVENT;
    load_one!("dr6", DR6_DEFAULT);
    status
}

/// Loads DR0 to DR3, DR6 and DR7; nothing is armed in between.
#[expect(unsafe_code, reason = "debug registers")]
pub fn load(registers: &[u64; 8]) {
    let [d0, d1, d2, d3, _, _, d6, d7] = *registers;
    load_one!("dr7", 0x400_u64);
    load_one!("dr0", d0);
    load_one!("dr1", d1);
    load_one!("dr2", d2);
    load_one!("dr3", d3);
    load_one!("dr6", d6);
    load_one!("dr7", d7);
}
