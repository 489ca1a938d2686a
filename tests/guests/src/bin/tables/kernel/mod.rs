//! Several address spaces that live as long as the guest, each with a user mode of its own, and in every round one more
//! that is built, pinned, used, unpinned and taken apart. In every round also all that is forbidden ([`refusals`]).
//!
//! Options: `round-ms=<n>` (200: a round begins so often), `spaces=<n>` (4, at most 8), `busy=<n>` (200000: loops of a user
//! program), `report-ms=<n>` (2000), `region=<mfn>` (a frame of the hypervisor's region, which must not be mappable).

#![expect(unsafe_code, reason = "user mode and segment registers need assembly")]

mod descriptors;
mod refusals;
mod space;
mod user;

use luxen_guests::abi::{Errno, op};
use luxen_guests::clock::{MS, Seconds};
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::hypercall::{self, Outcome};
use luxen_guests::machine::memory::{self, FramePool};
use luxen_guests::machine::traps::{CallbackInterface, ProbeFault, probe_read, probe_write};
use luxen_guests::machine::{events, time};
use luxen_guests::{kernel, say};

use descriptors::Descriptors;
use space::{Frames, Space};

kernel!(
    name: "tables",
    run: run,
    traps: user::trap,
    setup: Setup { callbacks: CallbackInterface::CallbackOp, moves_vcpu_info: false },
    calls: hypercall_page
);

const MAX_SPACES: usize = 8;

/// Fails unless the hypervisor agreed.
fn granted(outcome: Outcome, what: &str) {
    if let Err(errno) = outcome {
        panic!("{what} was refused with {errno}");
    }
}

/// Fails unless the hypervisor refused for the right reason.
fn refused(outcome: Outcome, expected: Errno, what: &str) {
    match outcome {
        Err(errno) if errno == expected => {}
        Err(errno) => panic!("{what} was refused with {errno}, not {expected}"),
        Ok(value) => panic!("{what} was allowed (result {value}), {expected} is due"),
    }
}

fn run(guest: &mut Guest) {
    let interval = guest.number("round-ms", 200).clamp(1, 60_000) * MS;
    let nr_spaces = guest.number("spaces", 4).clamp(1, MAX_SPACES as u64) as usize;
    let loops = guest.number("busy", 200_000);
    let report = guest.number("report-ms", 2000).saturating_mul(MS);
    let region = guest.options().number("region").unwrap_or_else(|e| panic!("{e}"));

    user::init();
    let mut pool = FramePool::new();
    let code = user::load_program(pool.take());
    let boot = memory::mfn_of(memory::start_info().pt_base);
    let mut spaces: [Option<Space>; MAX_SPACES] = [const { None }; MAX_SPACES];
    for (number, slot) in spaces.iter_mut().take(nr_spaces).enumerate() {
        *slot = Some(Space::build(Frames::take(&mut pool), code, number as u64 + 1));
    }
    let spare = Frames::take(&mut pool);
    let loose = pool.take();
    let descriptors = Descriptors::install(pool.take());

    let mut rounds = 0u64;
    let mut next_report = time::now().saturating_add(report);
    loop {
        let begin = time::now();
        for space in spaces.iter_mut().flatten() {
            live_in(space, rounds, loops);
        }
        live_and_die(&spare, code, rounds, loops, boot);
        for space in spaces.iter().flatten() {
            space.check();
        }
        if let Some(space) = &spaces[rounds as usize % nr_spaces] {
            // It stays here until the next round, asleep too.
            space.enter();
            refusals::try_all(space, loose, descriptors.mfn(), region);
            space.check();
            check_faults();
        }
        descriptors.check();
        rounds += 1;

        let now = time::now();
        if now >= next_report {
            say!("round {rounds} at {}", Seconds(now));
            next_report = now.saturating_add(report);
        }
        if wait_until(guest, begin.saturating_add(interval)) {
            break;
        }
    }

    // The end is a test too: with all pins gone, every frame must be an ordinary one again.
    granted(hypercall::mmuext(op::MMUEXT_NEW_USER_BASEPTR, 0), "leaving the user tables");
    granted(hypercall::mmuext(op::MMUEXT_NEW_BASEPTR, boot), "going back to the boot tables");
    for slot in &mut spaces {
        if let Some(space) = slot.take() {
            space.check();
            space.take_apart();
        }
    }
    say!("{rounds} rounds, {nr_spaces} spaces");
}

/// Waits; true when it is time to finish.
fn wait_until(guest: &mut Guest, at: u64) -> bool {
    loop {
        let seen = events::total();
        if guest.poll() {
            return true;
        }
        if time::now() >= at {
            return false;
        }
        guest.sleep(seen, at);
    }
}

/// Goes into a space, looks around in kernel mode, runs its user program.
fn live_in(space: &mut Space, round: u64, loops: u64) {
    space.enter();
    space.check_view();
    user::run(space, round, loops);
    space.check_view();
}

/// A space for one round only.
fn live_and_die(frames: &Frames, code: u64, round: u64, loops: u64, boot: u64) {
    let mut space = Space::build(frames.clone(), code, round | 1 << 32);
    refused(hypercall::mmuext(op::MMUEXT_PIN_L4, space.kernel_root()), Errno::EINVAL, "second pin of an L4");
    live_in(&mut space, round, loops / 4);
    space.check();
    granted(hypercall::mmuext(op::MMUEXT_NEW_USER_BASEPTR, 0), "leaving the user tables");
    granted(hypercall::mmuext(op::MMUEXT_NEW_BASEPTR, boot), "going back to the boot tables");
    space.take_apart();
}

/// Faults of the kernel's own come with the right error code and address.
fn check_faults() {
    let nowhere = 0x0000_7abc_def0_1238;
    let found = probe_read(nowhere);
    let expected = Err(ProbeFault { error: 0, address: nowhere });
    assert!(found == expected, "kernel read of {nowhere:#x}: {found:x?}, not {expected:x?}");
    let read_only = user::program_va();
    // SAFETY: the word is in a read-only mapping of a code page that nothing runs from while this runs.
    let found = unsafe { probe_write(read_only, 0) };
    let expected = Err(ProbeFault { error: 0b11, address: read_only });
    assert!(found == expected, "kernel write to read-only {read_only:#x}: {found:x?}, not {expected:x?}");
}
