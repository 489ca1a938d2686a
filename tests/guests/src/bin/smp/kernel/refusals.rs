//! What must be refused, and with what.

use luxen_guests::abi::{Errno, VcpuContext, context, op};
use luxen_guests::machine::hypercall::{self, Outcome};
use luxen_guests::machine::{events, memory, time};

use super::{bring_up, granted};

fn refused(outcome: Outcome, expected: Errno, what: &str) {
    match outcome {
        Err(errno) if errno == expected => {}
        Err(errno) => panic!("{what} was refused with {errno}, not {expected}"),
        Ok(value) => panic!("{what} was allowed (result {value}), {expected} is due"),
    }
}

/// While only vCPU 0 is up.
pub fn check(nr: usize) {
    of_vcpus(nr);
    of_schedulers();
    of_events(nr);
}

fn of_vcpus(nr: usize) {
    for vcpu in [nr, 32, 1 << 20] {
        refused(hypercall::vcpu_op_alone(op::VCPU_IS_UP, vcpu), Errno::ENOENT, "is_up of a vCPU that is not there");
        refused(hypercall::register_vcpu_info(vcpu, 1, 0), Errno::ENOENT, "vcpu_info of a vCPU that is not there");
    }
    refused(hypercall::vcpu_op_alone(op::VCPU_NONE, 0), Errno::ENOSYS, "a vCPU operation that is not there");
    refused(hypercall::vcpu_op_alone(op::VCPU_GET_PHYSID, 0), Errno::EINVAL, "get_physid");
    refused(hypercall::vcpu_op(op::VCPU_SEND_NMI, 0, &mut 0u64), Errno::EINVAL, "send_nmi with an argument");
    refused(hypercall::vcpu_op(op::VCPU_SET_PERIODIC, 0, &mut [999_999u64]), Errno::EINVAL, "a period below 1 ms");
    refused(hypercall::vcpu_op(op::VCPU_SET_PERIODIC, 0, &mut [u64::MAX]), Errno::EINVAL, "a period of centuries");
    refused(hypercall::vcpu_op_alone(op::VCPU_GET_RUNSTATE, 0), Errno::EFAULT, "run state to nowhere");
    let late = time::now() - 1;
    let mut past = [late, u64::from(op::SINGLESHOT_FUTURE)];
    refused(hypercall::vcpu_op(op::VCPU_SET_SINGLESHOT, 0, &mut past), Errno::ETIME, "a timer in the past");
    // Its vcpu_info was moved at start.
    moved(0);
    if nr > 1 {
        refused(hypercall::vcpu_op_alone(op::VCPU_UP, 1), Errno::EINVAL, "up of a vCPU without a context");
        let mut at = [u64::MAX >> 1, 0];
        refused(hypercall::vcpu_op(op::VCPU_SET_SINGLESHOT, 1, &mut at), Errno::EINVAL, "another one's timer");
        refused(hypercall::vcpu_op_alone(op::VCPU_STOP_SINGLESHOT, 1), Errno::EINVAL, "another one's timer stopped");
        granted(hypercall::vcpu_op_alone(op::VCPU_STOP_PERIODIC, 1), "another one's periodic timer stopped");
        let mfn = memory::mfn_of(memory::start_info().pt_base);
        refused(hypercall::register_vcpu_info(1, mfn, 0), Errno::EINVAL, "vcpu_info in a page table");
        refused(hypercall::register_vcpu_info(1, mfn, 4040), Errno::ENXIO, "vcpu_info across a page's end");
    }
}

/// A vcpu_info that was moved stays where it is.
pub fn moved(vcpu: usize) {
    let mfn = memory::mfn_of(memory::start_info().mfn_list);
    refused(hypercall::register_vcpu_info(vcpu, mfn, 0), Errno::EINVAL, "vcpu_info moved twice");
}

fn of_schedulers() {
    refused(hypercall::sched_poll(&[0; 129], 0), Errno::EINVAL, "a poll of 129 ports");
    refused(hypercall::sched_poll(&[4096], 0), Errno::EINVAL, "a poll of a port that is not there");
    refused(hypercall::sched_op(op::SCHED_PIN_OVERRIDE, &0u32), Errno::EPERM, "pin_override");
    refused(
        hypercall::sched_op(op::SCHED_REMOTE_SHUTDOWN, &[op::DOMID_NOBODY, 0, 0, 0]),
        Errno::ESRCH,
        "a shutdown of nobody",
    );
    refused(hypercall::watchdog(1, 1), Errno::EINVAL, "a watchdog that is not in use");
    refused(hypercall::watchdog(3, 1), Errno::EINVAL, "a third watchdog");
    let ids = [0; 2].map(|id: u32| granted(hypercall::watchdog(id, 1000), "a watchdog"));
    assert!(ids == [1, 2], "watchdogs {ids:?}, 1 and 2 are due");
    refused(hypercall::watchdog(0, 1000), Errno::ENOSPC, "one watchdog too many");
    for id in [1, 2] {
        granted(hypercall::watchdog(id, 0), "ending a watchdog");
    }
    // Nobody would save the domain.
    let suspended = granted(hypercall::sched_op(op::SCHED_SHUTDOWN, &op::SHUTDOWN_SUSPEND), "suspend");
    assert!(suspended == 1, "a suspend came back with {suspended}, 1 (cancelled) is due");
    // A poll of no ports is a sleep.
    let until = time::now() + 100_000;
    granted(hypercall::sched_poll(&[], until), "a poll of nothing");
    granted(hypercall::sched_poll(&[], 1), "a poll until a time that is over");
}

fn of_events(nr: usize) {
    refused(events::bind_ipi(nr).map(|port| port.0.into()), Errno::ENOENT, "an IPI to a vCPU that is not there");
    let bind_virq = |virq: u32, vcpu: u32| hypercall::event_channel_op(op::EVTCHN_BIND_VIRQ, &mut [virq, vcpu, 0]);
    refused(bind_virq(op::VIRQ_TIMER, 0), Errno::EEXIST, "the timer's interrupt a second time");
    refused(bind_virq(op::VIRQ_DEBUG, nr as u32), Errno::ENOENT, "an interrupt of a vCPU that is not there");
    refused(bind_virq(op::VIRQ_CONSOLE, 1), Errno::EINVAL, "a global interrupt elsewhere than at vCPU 0");
    refused(bind_virq(op::NR_VIRQS, 0), Errno::EINVAL, "an interrupt that is not there");
    let port = events::bind_ipi(0).unwrap_or_else(|e| panic!("bind_ipi: {e}"));
    let bind_vcpu = |port: u32, vcpu: u32| hypercall::event_channel_op(op::EVTCHN_BIND_VCPU, &mut [port, vcpu]);
    refused(bind_vcpu(port.0, 0), Errno::EINVAL, "an IPI bound to a vCPU once more");
    refused(bind_vcpu(port.0, nr as u32), Errno::ENOENT, "a port bound to a vCPU that is not there");
    refused(bind_vcpu(4095, 0), Errno::EINVAL, "a port that is not in use bound to a vCPU");
    granted(port.close().map(|()| 0), "close");
    for (operation, name) in [
        (op::EVTCHN_INIT_CONTROL, "init_control of the FIFO interface"),
        (op::EVTCHN_EXPAND_ARRAY, "expand_array of the FIFO interface"),
        (op::EVTCHN_SET_PRIORITY, "set_priority"),
    ] {
        refused(hypercall::event_channel_op(operation, &mut [0u64; 4]), Errno::ENOSYS, name);
    }
}

/// Contexts that no vCPU can run with.
pub fn before_initialise(vcpu: usize, good: &VcpuContext) {
    for (word, value, what) in [
        (context::RIP, 0x8000_0000_0000, "rip"),
        (context::GS_BASE_KERNEL, 0x8000_0000_0000, "gs base"),
        (context::EVENT_CALLBACK, 0x8000_0000_0000, "event callback"),
        (context::TRAPS + 1, 0x8000_0000_0000, "trap handler"),
        (context::CR3, 1 << 52, "page table"),
        (context::GDT_ENTS, 7169, "descriptor table"),
        (context::FLAGS, 0, "user mode"),
    ] {
        let mut bad = VcpuContext(good.0);
        bad.0[word] = value;
        refused(bring_up::initialise(vcpu, &bad), Errno::EINVAL, what);
    }
    refused(hypercall::vcpu_op_alone(op::VCPU_INITIALISE, vcpu), Errno::EFAULT, "a context that is nowhere");
}
