//! Debug registers of guests.

use x86_64::registers::debug::Dr7;

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
