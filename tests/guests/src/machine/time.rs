//! System time, wall clock, and the timer.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::events;
use crate::clock::{ClockParameters, SECOND, Seconds};

static LAST: AtomicU64 = AtomicU64::new(0);
static LAST_WALL: AtomicU64 = AtomicU64::new(0);

/// System time, ns. Fails if it runs back, on whichever vCPU it was read before; so every reading anywhere in a guest is a test.
pub fn now() -> u64 {
    // Looked at first: another vCPU may read a later time while this one is off the CPU between its reading and the check.
    let last = LAST.load(Ordering::Acquire);
    let time = &events::vcpu_info().time;
    let now = loop {
        let version = time.version.load(Ordering::Acquire);
        let parameters = ClockParameters {
            tsc_timestamp: time.tsc_timestamp.load(Ordering::Relaxed),
            system_time: time.system_time.load(Ordering::Relaxed),
            mul: time.tsc_to_system_mul.load(Ordering::Relaxed),
            shift: time.tsc_shift.load(Ordering::Relaxed) as i8,
        };
        let tsc = read_tsc();
        fence(Ordering::Acquire);
        if version & 1 == 0 && version == time.version.load(Ordering::Relaxed) {
            break parameters.system_time_at(tsc);
        }
        core::hint::spin_loop();
    };
    assert!(now >= last, "system time runs back by {} ns, from {} to {}", last - now, Seconds(last), Seconds(now));
    LAST.fetch_max(now, Ordering::AcqRel);
    now
}

fn read_tsc() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: a PV guest may read the TSC (CR4.TSD is clear, or the hypervisor emulates it). The fence keeps the reading
    // between the two looks at the version.
    unsafe { asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nostack, preserves_flags)) };
    high << 32 | low
}

/// Wall clock, ns since 1970. Fails if it runs back.
pub fn wall_clock() -> u64 {
    let shared = events::shared_info();
    let base = loop {
        let version = shared.wc_version.load(Ordering::Acquire);
        let low = u64::from(shared.wc_sec.load(Ordering::Relaxed));
        let high = u64::from(shared.wc_sec_hi.load(Ordering::Relaxed));
        let ns = u64::from(shared.wc_nsec.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if version & 1 == 0 && version == shared.wc_version.load(Ordering::Relaxed) {
            break (high << 32 | low).saturating_mul(SECOND).saturating_add(ns);
        }
        core::hint::spin_loop();
    };
    let wall = base.saturating_add(now());
    let last = LAST_WALL.load(Ordering::Relaxed);
    assert!(wall >= last, "wall clock runs back by {} ns, from {} to {}", last - wall, Seconds(last), Seconds(wall));
    LAST_WALL.store(wall, Ordering::Relaxed);
    wall
}
