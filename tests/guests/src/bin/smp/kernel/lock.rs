//! A ticket lock of all vCPUs, and what it guards: a counter that is read, held back for a while, and written.
//!
//! A waiter yields, as a spinlock of a PV guest may, or polls its own port, to which the holder before it sends, as Linux does it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use luxen_guests::machine::cpu::{self, MAX};
use luxen_guests::machine::events::{self, Port};
use luxen_guests::machine::{hypercall, time};

use super::{deadline, granted};

static IS_BROKEN: AtomicBool = AtomicBool::new(false);
static MAX_YIELDS: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);
static SERVED: AtomicU64 = AtomicU64::new(0);
/// The ticket that a vCPU polls for, and one more; 0 if it does not.
static POLLED: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static PORTS: [AtomicU32; MAX] = [const { AtomicU32::new(0) }; MAX];
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// How it is to be.
pub fn init(is_broken: bool, max_yields: u64) {
    IS_BROKEN.store(is_broken, Ordering::Relaxed);
    MAX_YIELDS.store(max_yields, Ordering::Relaxed);
}

/// Binds the port that a vCPU polls; it stays masked.
pub fn bind(vcpu: usize) {
    let port = events::bind_ipi(vcpu).unwrap_or_else(|e| panic!("bind_ipi of vCPU {vcpu}: {e}"));
    PORTS[vcpu].store(port.0, Ordering::Relaxed);
}

/// The port that a vCPU polls.
pub fn port(vcpu: usize) -> Port {
    Port(PORTS[vcpu].load(Ordering::Relaxed))
}

/// Calls `f` with the lock held.
pub fn hold(f: impl FnOnce()) {
    let ticket = take();
    f();
    give(ticket);
}

/// Counts one up, in a way that needs the lock.
pub fn count(me: usize) {
    hold(|| {
        let before = COUNTER.load(Ordering::SeqCst);
        if (before as usize).is_multiple_of(me + 2) {
            hypercall::sched_yield();
        }
        COUNTER.store(before + 1, Ordering::SeqCst);
    });
}

/// What was counted.
pub fn counted() -> u64 {
    COUNTER.load(Ordering::SeqCst)
}

/// At the end nothing must be missing.
pub fn check(expected: u64) {
    let counted = counted();
    assert!(counted == expected, "the lock does not lock: {counted} counted of {expected}");
}

fn take() -> u64 {
    let ticket = NEXT.fetch_add(1, Ordering::SeqCst);
    if IS_BROKEN.load(Ordering::Relaxed) {
        return ticket;
    }
    let end = deadline();
    let mut yields = 0;
    while SERVED.load(Ordering::SeqCst) != ticket {
        assert!(time::now() < end, "vCPU {} waits for the lock, ticket {ticket}", cpu::id());
        if ticket % 3 == 2 {
            poll_for(ticket);
        } else {
            yields += 1;
            assert!(
                yields <= MAX_YIELDS.load(Ordering::Relaxed),
                "vCPU {} has yielded {yields} times, and still others have not got on",
                cpu::id()
            );
            hypercall::sched_yield();
        }
    }
    ticket
}

fn poll_for(ticket: u64) {
    let me = cpu::id();
    port(me).clear_pending();
    POLLED[me].store(ticket + 1, Ordering::SeqCst);
    if SERVED.load(Ordering::SeqCst) != ticket {
        granted(hypercall::sched_poll(&[port(me).0], 0), "poll");
    }
    POLLED[me].store(0, Ordering::SeqCst);
}

fn give(ticket: u64) {
    SERVED.store(ticket + 1, Ordering::SeqCst);
    for (vcpu, polled) in POLLED.iter().enumerate() {
        if polled.load(Ordering::SeqCst) == ticket + 2 {
            port(vcpu).send().unwrap_or_else(|e| panic!("send to vCPU {vcpu}, which polls: {e}"));
        }
    }
}
