//! Guests that misbehave in an update's second: each is reported and harms nobody.
//!
//! The guests under tests/guests do what is typed on their console: `hang`, `fault`, `crash` and so on.

use super::Scenario;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        stuck("guest-hangs", "a guest that only loops is still there after the updates, and listed", "hang"),
        stuck("guest-faults-for-ever", "a guest takes the same fault again and again, and is listed", "fault"),
        crashes("guest-faults-bare", "a guest without a fault handler is ended", "fault-bare"),
        crashes("guest-crashes", "a guest crashes in the update's second", "crash"),
        told("guest-reboots", "a guest asks for a reboot in the update's second", "reboot")
            .loses(1)
            .says("domain: d1 bad shut down: reboot"),
        told(
            "guest-spins-in-hypercalls",
            "a guest in one long multicall after the other: updates find it there",
            "spin-hypercall",
        ),
        Scenario::new("guest-crash-alone", "a crash without any update leaves the other guest alone")
            .options("liveupdate=32M finish=500")
            .guests([Guest::new("pulse", "8M").named("bad"), Guest::new("memory", "32M")])
            .when(SECOND_SPEAKS, &tell_first("crash"))
            .loses(1)
            .verdict(Verdict::Failure)
            .says("domain: d1 bad shut down: crash"),
    ]
}

/// The second guest, which is good and busy, has said something: the machine is well under way.
const SECOND_SPEAKS: &str = r"\(d2\) ";

/// The first guest crashes, which is said: that makes a machine's verdict FAILURE. All else goes on.
fn crashes(name: &'static str, purpose: &'static str, line: &str) -> Scenario {
    told(name, purpose, line).loses(1).verdict(Verdict::Failure).says("domain: d1 bad shut down: crash")
}

/// The first guest does not listen any more. Once the second has ended well, the operator goes on from the first guest to the
/// hypervisor with Ctrl-A, has the domains listed, and ends the run.
fn stuck(name: &'static str, purpose: &'static str, line: &str) -> Scenario {
    told(name, purpose, line)
        .loses(1)
        .when("domain: d2 memory is gone", "\x01dq")
        .says(r"domain: d1 bad: ")
        .never("d1 bad shut down")
}

/// The first guest is told something before the updates begin.
fn told(name: &'static str, purpose: &'static str, line: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M lu-first=300 lu-every=100 lu-updates=3 finish=100")
        .modules(job::images())
        .guests([Guest::new("pulse", "8M").named("bad"), Guest::new("memory", "32M")])
        .when(SECOND_SPEAKS, &tell_first(line))
        .updates(3)
        .limit(120)
}

/// The keys that type a line on the first guest's console: Ctrl-A goes there from the hypervisor.
fn tell_first(line: &str) -> String {
    format!("\x01{line}\n")
}
