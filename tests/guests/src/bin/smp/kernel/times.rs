//! Run states and clocks of all vCPUs.

use core::sync::atomic::{AtomicU64, Ordering};

use luxen_guests::abi::{RunstateInfo, op};
use luxen_guests::machine::cpu::{self, MAX};
use luxen_guests::machine::{events, hypercall, time};

use super::{granted, nr_vcpus};

/// Memory that the hypervisor writes; looked at as a [`RunstateInfo`].
#[repr(C, align(64))]
struct Area([AtomicU64; 6]);

static AREAS: [Area; MAX] = [const { Area([const { AtomicU64::new(0) }; 6]) }; MAX];
/// When each vCPU was made, and one more; 0 if it is not known yet.
static MADE: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
/// The copy of vCPU 0's clock.
static CLOCK: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn area(vcpu: usize) -> &'static RunstateInfo {
    // SAFETY: same size, both made of atomics.
    unsafe { &*(&raw const AREAS[vcpu]).cast::<RunstateInfo>() }
}

/// Has the run states of all written, and the clock of vCPU 0 a second time.
pub fn register(nr: usize) {
    granted(hypercall::vm_assist(op::VMASST_ENABLE, op::VMASST_RUNSTATE_UPDATE_FLAG), "the flag in run states");
    for vcpu in 0..nr {
        let mut argument = core::ptr::from_ref(area(vcpu)) as u64;
        granted(hypercall::vcpu_op(op::VCPU_REGISTER_RUNSTATE, vcpu, &mut argument), "register_runstate_memory_area");
        if vcpu != 0 {
            must_be_offline(vcpu);
        }
    }
    let mut argument = core::ptr::from_ref(&CLOCK) as u64;
    granted(hypercall::vcpu_op(op::VCPU_REGISTER_TIME, 0, &mut argument), "register_vcpu_time_memory_area");
}

struct Reading {
    state: u32,
    entry: u64,
    times: [u64; 4],
}

fn read(vcpu: usize) -> Reading {
    let area = area(vcpu);
    loop {
        let entry = area.state_entry_time.load(Ordering::SeqCst);
        let state = area.state.load(Ordering::SeqCst);
        let times = [0, 1, 2, 3].map(|i: usize| area.time[i].load(Ordering::SeqCst));
        if entry & op::RUNSTATE_UPDATE == 0 && entry == area.state_entry_time.load(Ordering::SeqCst) {
            return Reading { state, entry, times };
        }
    }
}

/// A vCPU that is down says so.
pub fn must_be_offline(vcpu: usize) {
    let state = read(vcpu).state;
    assert!(state == op::RUNSTATE_OFFLINE, "the run state of vCPU {vcpu}, which is down, is {state}");
}

/// What a vCPU has read before.
pub struct Watch {
    times: [[u64; 4]; MAX],
}

impl Watch {
    /// Nothing yet.
    pub fn new() -> Watch {
        Watch { times: [[0; 4]; MAX] }
    }

    /// Reads the run states of all vCPUs, and the clocks.
    pub fn check(&mut self) {
        let me = cpu::id();
        for (vcpu, before) in self.times.iter_mut().enumerate().take(nr_vcpus()) {
            let Reading { state, entry, times } = read(vcpu);
            assert!(vcpu != me || state == op::RUNSTATE_RUNNING, "vCPU {vcpu} runs, and its run state is {state}");
            let now = time::now();
            assert!(entry <= now, "vCPU {vcpu}: run state entered at {entry}, in the future of {now}");
            for (index, (old, new)) in before.iter().zip(times).enumerate() {
                assert!(new >= *old, "vCPU {vcpu}: time {index} runs back from {old} to {new}");
            }
            *before = times;
            // All time is in one of the states, up to the beginning of the present one.
            let sum: u64 = times.iter().sum();
            let made = entry.checked_sub(sum).unwrap_or_else(|| panic!("vCPU {vcpu}: {sum} ns until {entry}"));
            let known = MADE[vcpu].load(Ordering::SeqCst);
            if known == 0 {
                MADE[vcpu].store(made + 1, Ordering::SeqCst);
            } else {
                let lost = made.abs_diff(known - 1);
                assert!(lost == 0, "vCPU {vcpu}: its run states are {lost} ns off what they were");
            }
        }
        check_clocks();
    }
}

/// All vCPUs have the same clock, on which the TSC can be relied, and the copy is like it.
fn check_clocks() {
    let words = |vcpu: usize| {
        let t = &events::vcpu_info_of(vcpu).time;
        let scale = u64::from(t.tsc_to_system_mul.load(Ordering::Relaxed))
            | u64::from(t.tsc_shift.load(Ordering::Relaxed)) << 32
            | u64::from(t.flags.load(Ordering::Relaxed)) << 40;
        [t.tsc_timestamp.load(Ordering::Relaxed), t.system_time.load(Ordering::Relaxed), scale]
    };
    let first = words(0);
    assert!(first[2] >> 40 & u64::from(op::TSC_STABLE) != 0, "the clock does not say that the TSC is stable");
    for vcpu in 1..nr_vcpus() {
        assert!(words(vcpu) == first, "vCPU {vcpu} has another clock than vCPU 0");
    }
    let copy = [1, 2, 3].map(|i: usize| CLOCK[i].load(Ordering::Relaxed));
    assert!(copy == first, "the copy of the clock is {copy:x?}, not {first:x?}");
}
