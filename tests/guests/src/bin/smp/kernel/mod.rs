//! All vCPUs of the domain, brought up by vCPU 0 ([`bring_up`]), do the same in every round, each at its own pace:
//!
//! - gs, fs, the selectors of its own descriptor table, xmm registers and mxcsr are its own ([`registers`]);
//! - one counter of all is counted under a lock whose waiters yield, or poll until they are notified ([`lock`]);
//! - every vCPU notifies every other one, itself included: no event is lost, none comes twice;
//! - its one-shot timer fires in time, now and then its periodic one;
//! - now and then an NMI goes to some vCPU and must arrive; one that is sent in the handler waits for its end ([`nmi`]);
//! - the times in all run states add up to the time since the vCPU was made, to the nanosecond, for each vCPU;
//! - the last vCPU takes itself down and vCPU 0 brings it up again; vCPU 0 takes vCPU 1 down and up in the middle of things.
//!
//! Before that, vCPU 0 asks for what must be refused ([`refusals`]). It keeps a watchdog wound up all the time.
//!
//! Options: `late-ms=<n>` (1000: no event, timer or NMI takes longer), `early-us=<n>` (100), `nmi-us=<n>` (200: what the handler of an NMI takes),
//! `report-ms=<n>` (1000), `yields=<n>` (300: a waiter has the lock after that many), `broken-lock` (there is no lock, which must be noticed),
//! `watchdog=lose` (the watchdog is wound up once only).

#![expect(unsafe_code, reason = "registers and areas that the hypervisor writes")]

mod bring_up;
mod lock;
mod nmi;
mod refusals;
mod registers;
mod times;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use luxen_guests::abi::{Errno, op};
use luxen_guests::clock::{MS, Seconds};
use luxen_guests::machine::cpu::{self, MAX};
use luxen_guests::machine::events::{self, Port};
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::hypercall::{self, Outcome};
use luxen_guests::machine::time;
use luxen_guests::machine::traps::CallbackInterface;
use luxen_guests::{kernel, say};

kernel!(
    name: "smp",
    run: run,
    traps: nmi::trap,
    setup: Setup { callbacks: CallbackInterface::CallbackOp, moves_vcpu_info: true },
    calls: syscall
);

/// How many vCPUs there are.
static NR: AtomicUsize = AtomicUsize::new(1);
static LATE: AtomicU64 = AtomicU64::new(0);
static EARLY: AtomicU64 = AtomicU64::new(0);
/// The port by which one vCPU (first index) notifies another (second).
static IPIS: [[AtomicU32; MAX]; MAX] = [const { [const { AtomicU32::new(0) }; MAX] }; MAX];
static TIMERS: [AtomicU32; MAX] = [const { AtomicU32::new(0) }; MAX];
static ROUNDS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static NOTIFIED: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static MUST_STOP: AtomicBool = AtomicBool::new(false);
static HAS_STOPPED: [AtomicBool; MAX] = [const { AtomicBool::new(false) }; MAX];
static DOWNS: AtomicU64 = AtomicU64::new(0);

/// Fails unless the hypervisor agreed.
fn granted(outcome: Outcome, what: &str) -> u64 {
    outcome.unwrap_or_else(|errno| panic!("{what} was refused with {errno}"))
}

fn nr_vcpus() -> usize {
    NR.load(Ordering::Relaxed)
}

fn is_up(vcpu: usize) -> bool {
    granted(hypercall::vcpu_op_alone(op::VCPU_IS_UP, vcpu), "is_up") != 0
}

/// The moment after which whatever begins now is too late.
fn deadline() -> u64 {
    time::now().saturating_add(LATE.load(Ordering::Relaxed))
}

fn run(guest: &mut Guest) {
    LATE.store(guest.number("late-ms", 1000).saturating_mul(MS), Ordering::Relaxed);
    EARLY.store(guest.number("early-us", 100).saturating_mul(1000), Ordering::Relaxed);
    nmi::set_length(guest.number("nmi-us", 200).saturating_mul(1000));
    lock::init(guest.options().has("broken-lock"), guest.number("yields", 300));
    let report = guest.number("report-ms", 1000).saturating_mul(MS);
    let keeps_watchdog = guest.options().value("watchdog") != Some("lose");

    let nr = count_vcpus();
    NR.store(nr, Ordering::Relaxed);
    refusals::check(nr);
    nmi::register_both_ways();
    times::register(nr);
    for to in 0..nr {
        for row in IPIS.iter().take(nr) {
            let port = events::bind_ipi(to).unwrap_or_else(|e| panic!("bind_ipi of vCPU {to}: {e}"));
            port.unmask();
            row[to].store(port.0, Ordering::Relaxed);
        }
        let timer = if to == 0 { guest.timer() } else { events::bind_virq_of(op::VIRQ_TIMER, to) };
        TIMERS[to].store(timer.0, Ordering::Relaxed);
        lock::bind(to);
    }
    let watchdog = granted(hypercall::watchdog(0, 1), "a watchdog") as u32;
    bring_up::all(nr);
    say!("{nr} vCPUs at {}", Seconds(time::now()));

    let mut vcpu = Vcpu::new();
    let mut next = time::now().saturating_add(report);
    while !guest.poll() {
        if keeps_watchdog {
            // Longer than a wait may take: who waits in vain says so first.
            granted(hypercall::watchdog(watchdog, 2), "winding up the watchdog");
        }
        vcpu.round();
        if vcpu.rounds % 8 == 3 && nr > 2 {
            take_down_and_up(1);
        }
        if time::now() >= next {
            say!("{} rounds, {} counted at {}", vcpu.rounds, lock::counted(), Seconds(time::now()));
            next = time::now().saturating_add(report);
        }
    }
    stop_all(nr);
    granted(hypercall::watchdog(watchdog, 0), "ending the watchdog");
    check_up(nr);
}

/// As Linux counts them: up to the first that does not exist.
fn count_vcpus() -> usize {
    for vcpu in 0..MAX {
        match hypercall::vcpu_op_alone(op::VCPU_IS_UP, vcpu) {
            Ok(up) => assert!(up == u64::from(vcpu == 0), "vCPU {vcpu}: is_up says {up} at start"),
            Err(Errno::ENOENT) => return vcpu,
            Err(e) => panic!("is_up of vCPU {vcpu}: {e}"),
        }
    }
    MAX
}

/// Whether a vCPU has come to its end, or is about to go down for good.
fn has_stopped(vcpu: usize) -> bool {
    HAS_STOPPED[vcpu].load(Ordering::SeqCst)
}

/// Brings the last vCPU up again if it has taken itself down.
fn serve_hotplug() {
    let last = nr_vcpus() - 1;
    if cpu::id() != 0 || last == 0 || is_up(last) {
        return;
    }
    // Looked at after the other: who has come to its end says so before it goes down.
    if has_stopped(last) {
        return;
    }
    times::must_be_offline(last);
    granted(hypercall::vcpu_op_alone(op::VCPU_UP, last), "up");
    assert!(is_up(last) || has_stopped(last), "vCPU {last} is not up after up");
    DOWNS.fetch_add(1, Ordering::Relaxed);
}

/// Takes a vCPU down that knows nothing of it, but for one that holds the lock, and up again after a while.
fn take_down_and_up(vcpu: usize) {
    lock::hold(|| {
        granted(hypercall::vcpu_op_alone(op::VCPU_DOWN, vcpu), "down");
        assert!(!is_up(vcpu), "vCPU {vcpu} is up after down");
        let before = ROUNDS[vcpu].load(Ordering::SeqCst);
        let until = time::now() + 2 * MS;
        while time::now() < until {
            times::must_be_offline(vcpu);
        }
        assert!(ROUNDS[vcpu].load(Ordering::SeqCst) == before, "vCPU {vcpu} runs while it is down");
        granted(hypercall::vcpu_op_alone(op::VCPU_UP, vcpu), "up");
    });
}

fn stop_all(nr: usize) {
    MUST_STOP.store(true, Ordering::SeqCst);
    let end = deadline();
    for vcpu in 1..nr {
        while !has_stopped(vcpu) || is_up(vcpu) {
            assert!(time::now() < end, "vCPU {vcpu} does not come to an end");
            serve_hotplug();
            hypercall::sched_yield();
        }
    }
}

fn check_up(nr: usize) {
    let rounds = || ROUNDS.iter().take(nr).map(|r| r.load(Ordering::SeqCst));
    lock::check(rounds().sum());
    for (vcpu, rounds) in rounds().enumerate() {
        say!("vCPU {vcpu}: {rounds} rounds, {} NMIs", nmi::count(vcpu));
        assert!(rounds >= 3, "vCPU {vcpu} did not get on");
    }
    for to in 0..nr {
        let sent: u64 = (0..nr).map(|from| NOTIFIED[from].load(Ordering::SeqCst)).sum();
        let arrived: u64 = IPIS.iter().take(nr).map(|row| Port(row[to].load(Ordering::Relaxed)).count()).sum();
        // Each vCPU leaves its last event to each other one on the way, at the most.
        assert!(arrived <= sent, "vCPU {to} has {arrived} events out of {sent}");
    }
    let downs = DOWNS.load(Ordering::Relaxed);
    assert!(nr == 1 || downs > 0, "the last vCPU was never down");
    say!("{} counted, the last vCPU was down {downs} times", lock::counted());
}

/// What a vCPU knows of its own doings.
struct Vcpu {
    me: usize,
    rounds: u64,
    sent: [u64; MAX],
    sent_at: [u64; MAX],
    times: times::Watch,
}

impl Vcpu {
    fn new() -> Vcpu {
        Vcpu { me: cpu::id(), rounds: 0, sent: [0; MAX], sent_at: [0; MAX], times: times::Watch::new() }
    }

    fn round(&mut self) {
        let Vcpu { me, rounds, .. } = *self;
        registers::check_identity(me);
        nmi::check(me);
        lock::count(me);
        ROUNDS[me].fetch_add(1, Ordering::SeqCst);
        self.notify_all();
        if rounds % 3 == me as u64 % 3 {
            nmi::send((me + rounds as usize) % nr_vcpus());
        }
        registers::hold(me, rounds);
        self.times.check();
        if rounds % 16 == 5 {
            self.wait_for_periodic_timer();
        }
        self.wait_for_timer();
        if rounds % 5 == 2 {
            self.poll_for_nothing();
        }
        serve_hotplug();
        self.rounds += 1;
    }

    /// Notifies every vCPU whose last event from here has arrived.
    fn notify_all(&mut self) {
        for (to, port) in IPIS[self.me].iter().enumerate().take(nr_vcpus()) {
            let port = Port(port.load(Ordering::Relaxed));
            let (arrived, sent) = (port.count(), self.sent[to]);
            assert!(arrived <= sent, "vCPU {to} has {arrived} events from vCPU {}, which sent {sent}", self.me);
            let now = time::now();
            if arrived < sent {
                let took = now - self.sent_at[to];
                assert!(
                    took < LATE.load(Ordering::Relaxed),
                    "event {sent} from vCPU {} to {to} is lost (pending: {}, masked: {})",
                    self.me,
                    port.is_pending(),
                    events::vcpu_info_of(to).upcall_mask.load(Ordering::SeqCst)
                );
                continue;
            }
            self.sent[to] += 1;
            self.sent_at[to] = now;
            NOTIFIED[self.me].fetch_add(1, Ordering::SeqCst);
            port.send().unwrap_or_else(|e| panic!("send from vCPU {} to {to}: {e}", self.me));
            assert!(to != self.me || port.count() == sent + 1, "an event to oneself does not come at once");
        }
    }

    /// Sleeps until the one-shot timer fires.
    fn wait_for_timer(&self) {
        let timer = Port(TIMERS[self.me].load(Ordering::Relaxed));
        let fired_before = timer.count();
        let due = time::now() + (1 + self.me as u64 + self.rounds % 4) * MS;
        let mut argument = [due, u64::from(op::SINGLESHOT_FUTURE)];
        match hypercall::vcpu_op(op::VCPU_SET_SINGLESHOT, self.me, &mut argument) {
            Ok(_) => self.wait_for(due, || timer.count() != fired_before),
            Err(Errno::ETIME) => assert!(time::now() >= due, "-ETIME before the time"),
            Err(e) => panic!("set_singleshot_timer: {e}"),
        }
    }

    /// Three times.
    fn wait_for_periodic_timer(&self) {
        let timer = Port(TIMERS[self.me].load(Ordering::Relaxed));
        granted(hypercall::vcpu_op(op::VCPU_SET_PERIODIC, self.me, &mut [MS]), "set_periodic_timer");
        for _ in 0..3 {
            let fired_before = timer.count();
            self.wait_for(time::now(), || timer.count() != fired_before);
        }
        granted(hypercall::vcpu_op_alone(op::VCPU_STOP_PERIODIC, self.me), "stop_periodic_timer");
    }

    /// Sleeps until something has come that is due at some time.
    fn wait_for(&self, due: u64, has_come: impl Fn() -> bool) {
        let late = due.saturating_add(LATE.load(Ordering::Relaxed));
        while !has_come() {
            let now = time::now();
            assert!(now <= late, "vCPU {}: a timer for {} has not fired at {}", self.me, Seconds(due), Seconds(now));
            events::block_unless(&has_come);
        }
        let now = time::now().saturating_add(EARLY.load(Ordering::Relaxed));
        assert!(now >= due, "vCPU {}: a timer fired {} us early", self.me, (due - now) / 1000);
    }

    /// A poll of a port that nobody sends to ends at its time, or as something is delivered. One of several ports may end as an event comes to any
    /// other port of the domain.
    fn poll_for_nothing(&self) {
        let own = lock::port(self.me);
        granted(hypercall::sched_poll(&[own.0, lock::port(0).0], time::now() + MS / 2), "poll of two ports");
        nmi::was_disturbed(self.me);
        let seen = events::total();
        let until = time::now() + MS / 2;
        granted(hypercall::sched_poll(&[own.0], until), "poll");
        let now = time::now();
        let was_disturbed = events::total() != seen || own.is_pending() || nmi::was_disturbed(self.me);
        assert!(
            was_disturbed || now.saturating_add(EARLY.load(Ordering::Relaxed)) >= until,
            "vCPU {}: a poll came back {} us early",
            self.me,
            until.saturating_sub(now) / 1000
        );
    }
}

/// What a further vCPU does from its beginning to its end.
fn live() -> ! {
    let me = cpu::id();
    let mut vcpu = Vcpu::new();
    let is_last = me == nr_vcpus() - 1;
    while !MUST_STOP.load(Ordering::SeqCst) {
        vcpu.round();
        if is_last && vcpu.rounds % 8 == 7 {
            granted(hypercall::vcpu_op_alone(op::VCPU_DOWN, me), "down");
            registers::check_identity(me);
        }
    }
    HAS_STOPPED[me].store(true, Ordering::SeqCst);
    loop {
        granted(hypercall::vcpu_op_alone(op::VCPU_DOWN, me), "down");
        assert!(!has_stopped(me), "vCPU {me} runs after its end");
    }
}
