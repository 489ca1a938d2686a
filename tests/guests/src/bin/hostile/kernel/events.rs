//! Event channels: ports that are not there, not the guest's, not of the right kind; rings with indices that cannot be.

use core::sync::atomic::Ordering;

use luxen_guests::abi::{ConsoleRing, Errno, hypercall as nr, op};
use luxen_guests::machine::events::{self, Port};
use luxen_guests::machine::{console, hypercall, memory};

use super::answer::{Answer, FINE, Judge};
use super::ground::{Ground, READ_ONLY};
use super::{Attempt, attempt, call};

const INVALID: Answer = Answer::No(Errno::EINVAL);
const ABSENT: Answer = Answer::No(Errno::ENOENT);
const NOBODY: Answer = Answer::No(Errno::ESRCH);

fn evtchn<const N: usize>(operation: u64, words: [u32; N]) -> Answer {
    let mut argument = words;
    hypercall::event_channel_op(operation, &mut argument).into()
}

/// Binds a port; a success is taken back.
fn bind<const N: usize>(operation: u64, words: [u32; N]) -> Answer {
    let mut argument = words;
    match hypercall::event_channel_op(operation, &mut argument) {
        Ok(_) => Port(argument[N - 1]).close().map(|()| 0).into(),
        Err(errno) => Answer::No(errno),
    }
}

const fn domains(dom: u16, remote: u16) -> u32 {
    dom as u32 | (remote as u32) << 16
}

const ATTEMPTS: &[Attempt] = &[
    attempt("virtual interrupt bound twice", Answer::No(Errno::EEXIST), |_| {
        bind(op::EVTCHN_BIND_VIRQ, [op::VIRQ_TIMER, 0, 0])
    }),
    attempt("virtual interrupt that is not there", INVALID, |_| bind(op::EVTCHN_BIND_VIRQ, [op::NR_VIRQS, 0, 0])),
    attempt("virtual interrupt -1", INVALID, |_| bind(op::EVTCHN_BIND_VIRQ, [u32::MAX, 0, 0])),
    attempt("virtual interrupt of a vCPU that is not there", ABSENT, |_| {
        bind(op::EVTCHN_BIND_VIRQ, [op::VIRQ_DEBUG, 2, 0])
    }),
    attempt("virtual interrupt of vCPU -1", ABSENT, |_| bind(op::EVTCHN_BIND_VIRQ, [op::VIRQ_DEBUG, u32::MAX, 0])),
    attempt("global virtual interrupt elsewhere", INVALID, |_| bind(op::EVTCHN_BIND_VIRQ, [op::VIRQ_CONSOLE, 1, 0])),
    attempt("IPI of a vCPU that is not there", ABSENT, |_| bind(op::EVTCHN_BIND_IPI, [2, 0])),
    attempt("IPI of vCPU -1", ABSENT, |_| bind(op::EVTCHN_BIND_IPI, [u32::MAX, 0])),
    attempt("physical interrupt", Answer::No(Errno::ENOSYS), |_| bind(op::EVTCHN_BIND_PIRQ, [1, 0, 0])),
    attempt("port for nobody's use", NOBODY, |_| bind(op::EVTCHN_ALLOC_UNBOUND, [domains(op::DOMID_NOBODY, 0), 0])),
    attempt("port of domain 0's", NOBODY, |_| bind(op::EVTCHN_ALLOC_UNBOUND, [domains(0, 0), 0])),
    attempt("channel to nobody", NOBODY, |_| bind(op::EVTCHN_BIND_INTERDOMAIN, [op::DOMID_NOBODY.into(), 1, 0])),
    attempt("channel to the hypervisor", NOBODY, |_| bind(op::EVTCHN_BIND_INTERDOMAIN, [op::DOMID_XEN.into(), 1, 0])),
    attempt("channel to an own port that waits for nobody", INVALID, |_| {
        bind(op::EVTCHN_BIND_INTERDOMAIN, [op::DOMID_SELF.into(), 1, 0])
    }),
    attempt("channel to port -1", INVALID, |_| bind(op::EVTCHN_BIND_INTERDOMAIN, [op::DOMID_SELF.into(), u32::MAX, 0])),
    attempt("status of nobody's port", NOBODY, |_| evtchn(op::EVTCHN_STATUS, [op::DOMID_NOBODY.into(), 1, 0, 0, 0, 0])),
    attempt("status of a port that is not there", INVALID, |_| {
        evtchn(op::EVTCHN_STATUS, [op::DOMID_SELF.into(), 4096, 0, 0, 0, 0])
    }),
    attempt("status to a read-only page", Answer::No(Errno::EFAULT), |_| {
        call(nr::EVENT_CHANNEL_OP, [op::EVTCHN_STATUS, READ_ONLY])
    }),
    attempt("reset of nobody", NOBODY, |_| evtchn(op::EVTCHN_RESET, [op::DOMID_NOBODY.into()])),
    attempt("IPI bound to a vCPU", INVALID, |_| {
        let port = events::bind_ipi(0).unwrap_or_else(|e| panic!("bind_ipi: {e}"));
        let found = evtchn(op::EVTCHN_BIND_VCPU, [port.0, 0]);
        assert!(port.close() == Ok(()), "an IPI cannot be closed");
        found
    }),
    attempt("timer bound to a vCPU that is not there", ABSENT, |_| evtchn(op::EVTCHN_BIND_VCPU, [1, 2])),
    attempt("send to a virtual interrupt", INVALID, |_| {
        let mut port = [op::VIRQ_DEBUG, 0, 0];
        hypercall::event_channel_op(op::EVTCHN_BIND_VIRQ, &mut port).unwrap_or_else(|e| panic!("bind_virq: {e}"));
        let found = evtchn(op::EVTCHN_SEND, [port[2]]);
        assert!(Port(port[2]).close() == Ok(()), "a virtual interrupt cannot be closed");
        found
    }),
    attempt("operation that is not there", Answer::No(Errno::ENOSYS), |_| evtchn(77, [0; 6])),
    attempt("operation -1", Answer::No(Errno::ENOSYS), |_| evtchn(u64::MAX, [0; 6])),
    attempt("port that is told of to a read-only page", Answer::No(Errno::EFAULT), |_| {
        // As with Xen the port is bound all the same: it is the one that the next attempt would get.
        let next = events::alloc_unbound(op::DOMID_SELF).unwrap_or_else(|e| panic!("alloc_unbound: {e}"));
        assert!(next.close() == Ok(()), "a port cannot be closed");
        // Zeros are there: vCPU 0.
        let found = call(nr::EVENT_CHANNEL_OP, [op::EVTCHN_BIND_IPI, READ_ONLY + 64]);
        assert!(next.close() == Ok(()), "port {} was not bound", next.0);
        found
    }),
    attempt("console ring with indices that cannot be", FINE, console_ring),
    attempt("store ring with indices that cannot be", FINE, store_ring),
];

/// Ports that are not in use, or none at all.
const PORTS: [u32; 6] = [0, 1023, 4095, 4096, 0x8000_0000, u32::MAX];

/// Tries everything.
pub fn try_all(g: &Ground, judge: &mut Judge) {
    super::try_all(g, judge, ATTEMPTS);
    for port in PORTS {
        for (name, operation) in [("close", op::EVTCHN_CLOSE), ("send", op::EVTCHN_SEND)] {
            judge.check(format_args!("{name} of port {port:#x}"), evtchn(operation, [port]), INVALID);
        }
        judge.check(format_args!("bind_vcpu of port {port:#x}"), evtchn(op::EVTCHN_BIND_VCPU, [port, 0]), INVALID);
        // A mask has every port that there is, in use or not.
        let due = if port < 4096 { FINE } else { INVALID };
        judge.check(format_args!("unmask of port {port:#x}"), evtchn(op::EVTCHN_UNMASK, [port]), due);
        if port >= 4096 {
            let ports = [port];
            let found = hypercall::sched_poll(&ports, 1).into();
            judge.check(format_args!("poll of port {port:#x}"), found, INVALID);
        }
    }
    let found = hypercall::sched_poll(&[1; 129], 1).into();
    judge.check(format_args!("poll of 129 ports"), found, INVALID);
}

/// The guest writes both indices of both directions; what the other side makes of that is a ring's worth of its own memory at most.
fn console_ring(_: &Ground) -> Answer {
    let address = console::ring_address();
    if address == 0 {
        return FINE;
    }
    console::drain();
    // SAFETY: the ring page, which is made of atomics.
    let ring = unsafe { &*(address as *const ConsoleRing) };
    // Nothing is printed for these.
    ring.output.iter().for_each(|byte| byte.store(b'\r', Ordering::Relaxed));
    let port = Port(memory::start_info().console_evtchn);
    let mut answer = FINE;
    for ahead in [2049, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let taken = ring.out_cons.load(Ordering::Acquire);
        ring.out_prod.store(taken.wrapping_add(ahead), Ordering::Release);
        for _ in 0..2 {
            if let Err(errno) = port.send() {
                answer = Answer::No(errno);
            }
            hypercall::sched_yield();
        }
        let taken = ring.out_cons.load(Ordering::Acquire);
        ring.out_prod.store(taken, Ordering::Release);
    }
    // Only as long as nothing has been typed: it would be lost.
    let read = ring.in_cons.load(Ordering::Acquire);
    if ring.in_prod.load(Ordering::Acquire) == read {
        ring.in_cons.store(read.wrapping_add(5), Ordering::Release);
        if let Err(errno) = port.send() {
            answer = Answer::No(errno);
        }
        ring.in_cons.store(read, Ordering::Release);
    }
    answer
}

/// Words of the store ring: requests taken, requests made, error.
const REQ_CONS: usize = 2048 / 4;
const REQ_PROD: usize = 2052 / 4;
const ERROR: usize = 2072 / 4;

fn store_ring(_: &Ground) -> Answer {
    let info = memory::start_info();
    if info.store_evtchn == 0 {
        return FINE;
    }
    let ring = memory::boot_va(info.store_mfn) as *mut u32;
    // SAFETY: the ring's page, which nothing else uses; the index is inside.
    let put = |word: usize, value: u32| unsafe { ring.wrapping_add(word).write_volatile(value) };
    // SAFETY: as above.
    let get = |word: usize| unsafe { ring.wrapping_add(word).read_volatile() };
    let port = Port(info.store_evtchn);
    let before = get(REQ_CONS);
    let mut answer = FINE;
    // A message of 4 GiB; more than a ring of them; fewer than none.
    for (first, ahead) in [(u32::MAX, 16), (0, 1025), (0, 0x8000_0000), (0, u32::MAX)] {
        for word in 0..4 {
            put((before as usize / 4 + word) % 256, first);
        }
        put(REQ_PROD, before.wrapping_add(ahead));
        if let Err(errno) = port.send() {
            answer = Answer::No(errno);
        }
        put(REQ_PROD, before);
        put(REQ_CONS, before);
        put(ERROR, 0);
    }
    answer
}
