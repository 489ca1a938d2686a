//! Debug registers of guests.

use core::sync::atomic::{AtomicU64, Ordering};
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

/// Debug exceptions that came in the hypervisor.
static HELD_BACK: AtomicU64 = AtomicU64::new(0);

/// A guest's breakpoint that was held back until the hypervisor had been entered: it is over, as what it watched was read before. Nothing here may depend
/// on GS.
pub fn note_held_back() {
    let _ = take_status();
    HELD_BACK.fetch_add(1, Ordering::Relaxed);
}

/// True if a breakpoint in the hypervisor is survived where a guest can make it come: with a stack that is none. For the test of that name.
#[expect(unsafe_code, reason = "debug registers, and the stack pointer")]
pub fn survives_on_a_bad_stack() -> bool {
    static WATCHED: AtomicU64 = AtomicU64::new(0);
    let before = HELD_BACK.load(Ordering::Relaxed);
    // DR0 on writes of eight bytes.
    load(&[WATCHED.as_ptr() as u64, 0, 0, 0, 0, 0, DR6_DEFAULT, 0x9_0401]);
    // SAFETY: the exception has a stack of its own, interrupts are off, and the stack pointer is put back; the word is an atomic's.
    unsafe {
        core::arch::asm!(
            "mov {saved}, rsp",
            "xor esp, esp",
            "mov qword ptr [{at}], 1",
            "nop",
            "mov rsp, {saved}",
            saved = out(reg) _,
            at = in(reg) WATCHED.as_ptr(),
        );
    }
    load(&[0, 0, 0, 0, 0, 0, DR6_DEFAULT, 0x400]);
    HELD_BACK.load(Ordering::Relaxed) == before + 1
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
