//! NMIs: each vCPU counts its own. In every other one it sends itself the next, which must not come before the handler's end, but then at once: outside the
//! handler the count is even.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use luxen_guests::abi::op;
use luxen_guests::machine::cpu::{self, MAX};
use luxen_guests::machine::traps::{self, Frame, TrapOutcome};
use luxen_guests::machine::{events, hypercall, time};

use super::{deadline, granted, has_stopped, serve_hotplug};

static COUNTS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static IS_INSIDE: [AtomicBool; MAX] = [const { AtomicBool::new(false) }; MAX];
static SEEN: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static LENGTH: AtomicU64 = AtomicU64::new(0);

/// How long the handler takes, ns.
pub fn set_length(ns: u64) {
    LENGTH.store(ns, Ordering::Relaxed);
}

/// NMIs of a vCPU.
pub fn count(vcpu: usize) -> u64 {
    COUNTS[vcpu].load(Ordering::SeqCst)
}

/// Whether one came since this was asked last.
pub fn was_disturbed(vcpu: usize) -> bool {
    let count = count(vcpu);
    SEEN[vcpu].swap(count, Ordering::SeqCst) != count
}

/// The handler is vector 2 of the trap table, however it is registered. Without one an NMI is lost.
pub fn register_both_ways() {
    let handler =
        traps::table().iter().find(|trap| u64::from(trap.vector) == traps::NMI).map_or(0, |trap| trap.address);
    assert!(handler != 0, "no entry for NMIs");
    let arrives = |what: &str, expected: u64| {
        let before = count(0);
        granted(hypercall::vcpu_op_alone(op::VCPU_SEND_NMI, 0), "send_nmi");
        let came = count(0) - before;
        assert!(came == expected, "{what}: {came} NMIs came, {expected} are due");
    };
    granted(hypercall::nmi_op(op::NMI_UNREGISTER, 0), "nmi_op unregister");
    arrives("without a handler", 0);
    granted(hypercall::nmi_op(op::NMI_REGISTER, handler), "nmi_op register");
    // In the first of them the handler sends another.
    arrives("registered by nmi_op", 2);
    granted(hypercall::register_callback(op::CALLBACK_NMI, 0, handler), "callback_op register of NMIs");
    arrives("registered by callback_op", 2);
}

/// None was lost that a handler sent to its own vCPU.
pub fn check(me: usize) {
    let count = count(me);
    assert!(count.is_multiple_of(2), "vCPU {me}: after NMI {count} the one that its handler sent is missing");
}

/// Sends one and waits until the other vCPU has had it, or has come to its end: then it stays pending.
pub fn send(to: usize) {
    let before = count(to);
    granted(hypercall::vcpu_op_alone(op::VCPU_SEND_NMI, to), "send_nmi");
    if to == cpu::id() {
        assert!(count(to) != before, "an NMI to oneself does not come at once");
    }
    let end = deadline();
    while count(to) == before && !has_stopped(to) {
        assert!(time::now() < end, "an NMI from vCPU {} to {to} is lost", cpu::id());
        serve_hotplug();
        hypercall::sched_yield();
    }
}

/// The trap hook.
pub fn trap(frame: &mut Frame) -> TrapOutcome {
    if frame.vector != traps::NMI {
        return TrapOutcome::Unhandled;
    }
    let me = cpu::id();
    assert!(!IS_INSIDE[me].swap(true, Ordering::SeqCst), "vCPU {me}: an NMI in the handler of an NMI");
    let mask = events::vcpu_info().upcall_mask.load(Ordering::SeqCst);
    assert!(mask == 1, "vCPU {me}: events are not masked in the handler of an NMI");
    let nr = COUNTS[me].fetch_add(1, Ordering::SeqCst) + 1;
    if nr % 2 == 1 {
        granted(hypercall::vcpu_op_alone(op::VCPU_SEND_NMI, me), "send_nmi to oneself");
    }
    let end = time::now() + LENGTH.load(Ordering::Relaxed);
    while time::now() < end {
        assert!(count(me) == nr, "vCPU {me}: NMI {nr} was interrupted by the next");
    }
    IS_INSIDE[me].store(false, Ordering::SeqCst);
    TrapOutcome::Handled
}
