//! The time stamp counter and the system clock made of it.

use crate::time::Clock;
use spin::Once;

static CLOCK: Once<Clock> = Once::new();

/// The time stamp counter now.
#[expect(unsafe_code, reason = "intrinsic")]
pub fn rdtsc() -> u64 {
    // SAFETY: every 64-bit CPU has it, and CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Sets the system clock, once a boot.
pub fn set_clock(clock: Clock) {
    CLOCK.call_once(|| clock);
}

/// The system clock; before it is set, one that stands at zero.
pub fn clock() -> Clock {
    CLOCK.get().copied().unwrap_or_else(|| Clock::new(u64::MAX, 0, 1_000_000_000))
}

/// System time now, in nanoseconds.
pub fn now_ns() -> u64 {
    clock().ns_at(rdtsc())
}
