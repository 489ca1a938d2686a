//! What it watches, at every tick or all the time:
//!
//! - system time and wall clock never run back (every reading is checked, also in bursts of readings between ticks);
//! - a timer fires, not before its time, and at most `late-ms` after it; both timer interfaces take turns;
//! - upcalls come only when allowed (checked in the upcall itself);
//! - all 16 general registers, fs and gs bases survive stretches of computing in which anything may happen;
//! - the runstate area says "running", its times only grow, and no state is entered in the future.
//!
//! Options: `quiet` (print every 10th tick), `late-ms=<n>` (1000), `early-us=<n>` (100: how far the hypervisor's clock may
//! be ahead of the guest's), `busy-ms=<n>` (20: length of the stretches), `period-ms=<n>` (100).

#![expect(unsafe_code, reason = "registers and segment bases are looked at in assembly")]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use luxen_guests::abi::{Errno, RunstateInfo, op};
use luxen_guests::clock::{MS, Seconds};
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::traps::{CallbackInterface, not_mine};
use luxen_guests::machine::{events, hypercall, time};
use luxen_guests::{kernel, say};

kernel!(
    name: "pulse",
    run: run,
    traps: not_mine,
    setup: Setup { callbacks: CallbackInterface::SetCallbacks, moves_vcpu_info: true },
    calls: hypercall_page
);

// Loads rax rbx rcx rdx rsi rdi rbp r8-r15 from pulse_given, counts pulse_count down in memory, stores them all, with rsp
// before and after, to pulse_found. Only memory operands: no register is free to be used otherwise.
global_asm!(
    r#"
    .pushsection .text.pulse, "ax", @progbits
    .globl pulse_hold_registers
pulse_hold_registers:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + pulse_found + 15 * 8], rsp
    mov rax, [rip + pulse_given]
    mov rbx, [rip + pulse_given + 1 * 8]
    mov rcx, [rip + pulse_given + 2 * 8]
    mov rdx, [rip + pulse_given + 3 * 8]
    mov rsi, [rip + pulse_given + 4 * 8]
    mov rdi, [rip + pulse_given + 5 * 8]
    mov rbp, [rip + pulse_given + 6 * 8]
    mov r8, [rip + pulse_given + 7 * 8]
    mov r9, [rip + pulse_given + 8 * 8]
    mov r10, [rip + pulse_given + 9 * 8]
    mov r11, [rip + pulse_given + 10 * 8]
    mov r12, [rip + pulse_given + 11 * 8]
    mov r13, [rip + pulse_given + 12 * 8]
    mov r14, [rip + pulse_given + 13 * 8]
    mov r15, [rip + pulse_given + 14 * 8]
1:  dec qword ptr [rip + pulse_count]
    jnz 1b
    mov [rip + pulse_found], rax
    mov [rip + pulse_found + 1 * 8], rbx
    mov [rip + pulse_found + 2 * 8], rcx
    mov [rip + pulse_found + 3 * 8], rdx
    mov [rip + pulse_found + 4 * 8], rsi
    mov [rip + pulse_found + 5 * 8], rdi
    mov [rip + pulse_found + 6 * 8], rbp
    mov [rip + pulse_found + 7 * 8], r8
    mov [rip + pulse_found + 8 * 8], r9
    mov [rip + pulse_found + 9 * 8], r10
    mov [rip + pulse_found + 10 * 8], r11
    mov [rip + pulse_found + 11 * 8], r12
    mov [rip + pulse_found + 12 * 8], r13
    mov [rip + pulse_found + 13 * 8], r14
    mov [rip + pulse_found + 14 * 8], r15
    mov [rip + pulse_found + 16 * 8], rsp
    mov rsp, [rip + pulse_found + 15 * 8]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .popsection
    "#
);

unsafe extern "C" {
    fn pulse_hold_registers();
}

const NAMES: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

#[unsafe(no_mangle)]
static pulse_given: [AtomicU64; 15] = [const { AtomicU64::new(0) }; 15];
#[unsafe(no_mangle)]
static pulse_found: [AtomicU64; 17] = [const { AtomicU64::new(0) }; 17];
#[unsafe(no_mangle)]
static pulse_count: AtomicU64 = AtomicU64::new(0);

/// What fs:0 and gs:0 must read.
static FS_WORD: AtomicU64 = AtomicU64::new(0x0f50_0f50_1234_5678);
static GS_WORD: AtomicU64 = AtomicU64::new(0x0650_0650_8765_4321);
static RUNSTATE: RunstateArea = RunstateArea([const { AtomicU64::new(0) }; 6]);

/// Memory that the hypervisor writes; looked at as a [`RunstateInfo`].
#[repr(C, align(64))]
struct RunstateArea([AtomicU64; 6]);

fn runstate() -> &'static RunstateInfo {
    // SAFETY: same size, both made of atomics.
    unsafe { &*(&raw const RUNSTATE).cast::<RunstateInfo>() }
}

fn run(guest: &mut Guest) {
    let late = guest.number("late-ms", 1000).saturating_mul(MS);
    let early = guest.number("early-us", 100).saturating_mul(1000);
    let busy = guest.number("busy-ms", 20).saturating_mul(MS);
    let period = guest.number("period-ms", 100).clamp(1, 10_000) * MS;
    let print_every = if guest.options().has("quiet") { 10 } else { 1 };

    set_segment_base(op::SEGBASE_FS, &FS_WORD);
    set_segment_base(op::SEGBASE_GS_KERNEL, &GS_WORD);
    hypercall::register_runstate(runstate()).unwrap_or_else(|e| panic!("register_runstate_memory_area: {e}"));

    let loops_per_ms = calibrate();
    let mut spent = [0u64; 4];
    let mut due = time::now() + period;
    let mut tick = 0u64;
    loop {
        if !wait(guest, tick, due, early, late) {
            break;
        }
        tick += 1;
        let now = time::now();
        time::wall_clock();
        check_segments();
        check_runstate(&mut spent);
        if tick.is_multiple_of(print_every) {
            say!("{tick} {}", Seconds(now));
        }
        match tick % 5 {
            1 => hold_registers(tick, loops_per_ms.saturating_mul(busy) / MS),
            3 => sample_clock(now.saturating_add(busy)),
            _ => {}
        }
        // Ticks keep to their grid. A pause longer than a period swallows ticks, but it must not go by unnoticed: the
        // lateness check has seen it.
        due += period;
        let now = time::now();
        if due <= now {
            due += (now - due) / period * period + period;
        }
    }
    say!("{tick} ticks, wall clock {}", Seconds(time::wall_clock()));
}

/// Sleeps until the timer for `due` has fired; `false` when it is time to finish.
fn wait(guest: &mut Guest, tick: u64, due: u64, early: u64, late: u64) -> bool {
    let fired_before = guest.timer().count();
    let is_over = if tick.is_multiple_of(2) {
        match hypercall::set_singleshot_timer(due) {
            Ok(_) => false,
            // Preempted for so long that the time is over.
            Err(Errno::ETIME) => {
                assert!(time::now() + early >= due, "timer refused with -ETIME, but {due} ns is not over");
                true
            }
            Err(e) => panic!("set_singleshot_timer: {e}"),
        }
    } else {
        hypercall::set_timer_op(due).unwrap_or_else(|e| panic!("set_timer_op: {e}"));
        false
    };
    loop {
        let seen = events::total();
        let is_finishing = guest.poll();
        let now = time::now();
        let has_fired = guest.timer().count() != fired_before || is_over;
        if has_fired {
            assert!(now.saturating_add(early) >= due, "timer fired {} us early", (due - now) / 1000);
        }
        assert!(
            now <= due.saturating_add(late),
            "timer for {} {} at {}, {} ms late",
            Seconds(due),
            if has_fired { "fired" } else { "has not fired" },
            Seconds(now),
            (now - due) / MS
        );
        if is_finishing {
            return false;
        }
        if has_fired {
            return true;
        }
        events::block_unless_after(seen);
    }
}

fn set_segment_base(which: u64, word: &'static AtomicU64) {
    let base = core::ptr::from_ref(word) as u64;
    hypercall::set_segment_base(which, base).unwrap_or_else(|e| panic!("set_segment_base {which}: {e}"));
}

fn check_segments() {
    let (fs, gs): (u64, u64);
    // SAFETY: the base of fs is the address of FS_WORD; if it is not, this is what the guest is here to find.
    unsafe { asm!("mov {}, fs:[0]", out(reg) fs, options(nostack, readonly, preserves_flags)) };
    // SAFETY: likewise gs and GS_WORD.
    unsafe { asm!("mov {}, gs:[0]", out(reg) gs, options(nostack, readonly, preserves_flags)) };
    let expected = FS_WORD.load(Ordering::Relaxed);
    assert!(fs == expected, "fs base is lost: fs:0 is {fs:#x}, not {expected:#x}");
    let expected = GS_WORD.load(Ordering::Relaxed);
    assert!(gs == expected, "gs base is lost: gs:0 is {gs:#x}, not {expected:#x}");
}

fn check_runstate(spent: &mut [u64; 4]) {
    const IS_BEING_UPDATED: u64 = 1 << 63;
    let area = runstate();
    // The hypervisor writes when the vCPU is switched, so a reading between two equal entry times is whole.
    let (entry, state, times) = loop {
        let entry = area.state_entry_time.load(Ordering::SeqCst);
        let state = area.state.load(Ordering::SeqCst);
        let times = [0, 1, 2, 3].map(|i: usize| area.time[i].load(Ordering::SeqCst));
        if entry & IS_BEING_UPDATED == 0 && entry == area.state_entry_time.load(Ordering::SeqCst) {
            break (entry, state, times);
        }
    };
    let now = time::now();
    assert!(state == op::RUNSTATE_RUNNING, "runstate is {state} while running");
    assert!(entry <= now, "runstate entered at {entry}, in the future of {now}");
    for (index, (old, new)) in spent.iter().zip(times).enumerate() {
        assert!(new >= *old, "runstate time {index} runs back from {old} to {new}");
    }
    *spent = times;
}

/// How many rounds of the register loop are a millisecond, roughly.
fn calibrate() -> u64 {
    const LOOPS: u64 = 1_000_000;
    let start = time::now();
    hold_registers(0, LOOPS);
    let took = (time::now() - start).max(1);
    (LOOPS * MS / took).max(1)
}

/// Computes for a while with a known value in every register.
fn hold_registers(tick: u64, loops: u64) {
    for (index, given) in pulse_given.iter().enumerate() {
        given.store(((tick << 32) | (index as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
    }
    pulse_count.store(loops.max(1), Ordering::Relaxed);
    // SAFETY: keeps to the C calling convention, uses nothing but the three statics (see above).
    unsafe { pulse_hold_registers() };
    for ((given, found), name) in pulse_given.iter().zip(&pulse_found).zip(NAMES) {
        let (given, found) = (given.load(Ordering::Relaxed), found.load(Ordering::Relaxed));
        assert!(given == found, "register {name} is {found:#x}, not {given:#x}");
    }
    let (before, after) = (pulse_found[15].load(Ordering::Relaxed), pulse_found[16].load(Ordering::Relaxed));
    assert!(before == after, "register rsp is {after:#x}, not {before:#x}");
}

/// Reads the clock again and again; each reading is checked against the one before.
fn sample_clock(until: u64) {
    while time::now() < until {
        time::wall_clock();
    }
}
