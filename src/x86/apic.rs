//! The local APIC: one-shot timer and end of interrupt, in xAPIC mode.
//!
//! The registers are mapped uncached at a fixed place of L4 slot 261. The timer runs from its own clock, measured once against the TSC at the cold boot;
//! the frequency travels in the stream.

use crate::x86::tsc::rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::registers::model_specific::Msr;

/// Where the registers are mapped.
pub const APIC_VA: u64 = 0xffff_82d0_8000_0000;
/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// Vector of spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const APIC_BASE_MSR: u32 = 0x1b;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const TPR: u64 = 0x80;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const LVT_ERROR: u64 = 0x370;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;

static HZ: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "memory-mapped registers")]
fn write(register: u64, value: u32) {
    // SAFETY: `APIC_VA` is mapped to the local APIC by the stage `paging`, which runs before `init`.
    unsafe { ((APIC_VA + register) as *mut u32).write_volatile(value) }
}

#[expect(unsafe_code, reason = "memory-mapped registers")]
fn read(register: u64) -> u32 {
    // SAFETY: as for `write`.
    unsafe { ((APIC_VA + register) as *const u32).read_volatile() }
}

/// Machine address of the registers.
#[expect(unsafe_code, reason = "model-specific register")]
pub fn base_maddr() -> u64 {
    let msr = Msr::new(APIC_BASE_MSR);
    // SAFETY: every 64-bit CPU has it.
    (unsafe { msr.read() }) & 0x000f_ffff_ffff_f000
}

/// Enables the APIC with everything but the timer masked.
#[expect(unsafe_code, reason = "model-specific register")]
pub fn init() {
    let mut msr = Msr::new(APIC_BASE_MSR);
    // SAFETY: every 64-bit CPU has it.
    let found = unsafe { msr.read() };
    // SAFETY: sets the global enable bit and leaves address and mode.
    unsafe { msr.write(found | 1 << 11) };
    write(TPR, 0);
    write(LVT_TIMER, MASKED);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(LVT_ERROR, MASKED);
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER_INITIAL, 0);
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    // An interrupt that was in service when another build jumped here is over.
    eoi();
}

/// Measures the timer against the TSC over about a millisecond.
pub fn measure_hz(tsc_hz: u64) -> u64 {
    write(LVT_TIMER, MASKED);
    write(TIMER_INITIAL, u32::MAX);
    let start = rdtsc();
    while rdtsc() - start < tsc_hz / 1000 {
        core::hint::spin_loop();
    }
    let gone = u64::from(u32::MAX - read(TIMER_CURRENT));
    let ticks = rdtsc() - start;
    write(TIMER_INITIAL, 0);
    (u128::from(gone) * u128::from(tsc_hz) / u128::from(ticks.max(1))) as u64
}

/// Tells how fast the timer counts: measured now, or by the build before.
pub fn set_hz(hz: u64) {
    HZ.store(hz, Ordering::Relaxed);
}

/// Ticks per second of the timer.
pub fn hz() -> u64 {
    HZ.load(Ordering::Relaxed)
}

/// One interrupt `ns` from now, at the latest the longest time that the counter holds.
pub fn one_shot(ns: u64) {
    let ticks = (u128::from(ns) * u128::from(hz()) / 1_000_000_000).clamp(1, u128::from(u32::MAX)) as u32;
    write(LVT_TIMER, u32::from(TIMER_VECTOR));
    write(TIMER_INITIAL, ticks);
}

/// No interrupt.
pub fn stop_timer() {
    write(TIMER_INITIAL, 0);
}

/// Leaves the APIC as a boot expects it: timer stopped, everything masked.
pub fn quiesce() {
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, MASKED);
}

/// The interrupt in service is over.
pub fn eoi() {
    write(EOI, 0);
}
