//! Tries all that a guest can get wrong or forge, over and over, and after every update again. Each attempt has a name, and an answer that is due by
//! Xen's rules: the errno of a hypercall, the status of a grant operation, the trap of an instruction. The first answer that is another one ends the
//! guest with FAILURE and the attempt's name.
//!
//! What must end the guest alone is tried with `fatal=<name>` ([`fatal`]).
//!
//! Options: `round-ms=<n>` (20: pause between two rounds), `report-ms=<n>` (2000), `invert=<name>` (the attempt called so, with a dash for all that is
//! neither letter nor digit, must not come to what is due: so the guest has to fail), `fatal=<name>`. With two vCPUs, the second is started on
//! a context of forged values.

#![expect(unsafe_code, reason = "hypercalls with forged addresses, and instructions that a guest must not have")]

mod answer;
mod calls;
mod catch;
mod descriptors;
mod events;
mod fatal;
mod frames;
mod grants;
mod ground;
mod instructions;
mod memory_ops;
mod pointers;
mod second;
mod tables;

use luxen_guests::abi::{Errno, hypercall as nr};
use luxen_guests::clock::{MS, Seconds};
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::traps::CallbackInterface;
use luxen_guests::machine::{events as machine_events, hypercall, memory, time};
use luxen_guests::{kernel, say};

use answer::{Answer, Judge};
use ground::Ground;

kernel!(
    name: "hostile",
    run: run,
    traps: catch::hook,
    setup: Setup { callbacks: CallbackInterface::CallbackOp, moves_vcpu_info: false },
    calls: syscall
);

/// One attempt.
struct Attempt {
    name: &'static str,
    attempt: fn(&Ground) -> Answer,
    due: Answer,
}

/// Short for a table's line.
const fn attempt(name: &'static str, due: Answer, attempt: fn(&Ground) -> Answer) -> Attempt {
    Attempt { name, attempt, due }
}

/// Makes all attempts of a table.
fn try_all(ground: &Ground, judge: &mut Judge, table: &[Attempt]) {
    for Attempt { name, attempt, due } in table {
        judge.check(format_args!("{name}"), attempt(ground), *due);
    }
}

/// Any hypercall with any arguments, as far as they go.
fn call<const N: usize>(number: u64, args: [u64; N]) -> Answer {
    let mut all = [0; 5];
    all[..N].copy_from_slice(&args);
    // SAFETY: the addresses among the arguments are forged, so that nothing is written, or lead to memory of the attempt's own.
    Errno::check(unsafe { hypercall::call(number, all) }).into()
}

fn run(guest: &mut Guest) {
    let interval = guest.number("round-ms", 20).clamp(1, 60_000) * MS;
    let report = guest.number("report-ms", 2000).saturating_mul(MS);
    let ground = Ground::new();
    if let Some(name) = guest.options().value("fatal") {
        fatal::attempt(name, &ground);
    }
    let mut judge = Judge::new(guest.options().value("invert"));
    memory_ops::leave_last_number(ground.odd);
    let mut second = second::Second::start(&ground, &mut judge);
    let grants = grants::Table::set_up();
    let pages = memory::current_reservation();

    let mut build = changeset();
    let (mut rounds, mut updates) = (0u64, 0u64);
    let mut next_report = time::now().saturating_add(report);
    loop {
        let begin = time::now();
        pointers::try_all(&ground, &mut judge);
        frames::try_all(&ground, &grants, &mut judge);
        tables::try_all(&ground, &mut judge);
        descriptors::try_all(&ground, &mut judge);
        events::try_all(&ground, &mut judge);
        memory_ops::try_all(&ground, &mut judge);
        calls::try_all(&ground, &mut judge);
        instructions::try_all(&ground, &mut judge);
        grants.try_all(&ground, &mut judge);
        if let Some(second) = &mut second {
            second.run_again();
        }
        ground.check();
        let now = memory::current_reservation();
        assert!(now == pages, "the domain has {now} pages after a round, {pages} before");
        judge.finish_round();
        rounds += 1;
        let running = changeset();
        if running != build {
            (build, updates) = (running, updates + 1);
        }
        if begin >= next_report {
            say!("round {rounds} at {}, {} attempts", Seconds(begin), judge.nr());
            next_report = begin.saturating_add(report);
        }
        if wait_until(guest, begin.saturating_add(interval)) {
            break;
        }
    }
    say!("{rounds} rounds, {} attempts in each, {updates} updates seen", judge.nr() / rounds);
}

fn changeset() -> [u8; 64] {
    hypercall::xen_changeset().unwrap_or_else(|e| panic!("xen_version changeset: {e}"))
}

/// Waits; true when it is time to finish.
fn wait_until(guest: &mut Guest, at: u64) -> bool {
    loop {
        let seen = machine_events::total();
        if guest.poll() {
            return true;
        }
        if time::now() >= at {
            return false;
        }
        guest.sleep(seen, at);
    }
}

/// A number that no hypercall has.
const NO_CALL: u64 = nr::NONE;
