//! Which vCPU runs this code.
//!
//! A vCPU is known by its stack: vCPU 0 is on the stack of the entry code, and every further one on a stack of its own out of an array that the
//! guest names ([`set_stacks`]). Unlike a segment base, a stack cannot be lost without notice.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Most vCPUs of a guest.
pub const MAX: usize = 8;

static STACKS: AtomicU64 = AtomicU64::new(0);
static STACK_LEN: AtomicU64 = AtomicU64::new(0);

/// The stacks of vCPUs 1, 2, ...: `MAX - 1` of them, one behind the other.
pub fn set_stacks(start: u64, len: u64) {
    STACK_LEN.store(len, Ordering::SeqCst);
    STACKS.store(start, Ordering::SeqCst);
}

/// The number of the vCPU that asks.
pub fn id() -> usize {
    let len = STACK_LEN.load(Ordering::Relaxed);
    if len == 0 {
        return 0;
    }
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nostack, nomem, preserves_flags)) };
    match rsp.checked_sub(STACKS.load(Ordering::Relaxed)) {
        Some(offset) if offset < len * (MAX as u64 - 1) => (offset / len) as usize + 1,
        _ => 0,
    }
}
