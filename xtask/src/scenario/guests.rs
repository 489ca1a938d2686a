//! Guests that misbehave in an update's second: each is reported and harms nobody.
//!
//! The guests under tests/guests do what is typed on their console: `hang`, `fault`, `crash` and so on.

use super::Scenario;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// All of them.
pub fn all() -> Vec<Scenario> {
    let ends = |reason: &str| format!("domain: d1 bad shut down: {reason}");
    vec![
        misbehaves(
            "guest-hangs",
            "a guest that only loops is still there after the updates",
            "hang",
            &ends("watchdog"),
        ),
        misbehaves("guest-faults-for-ever", "a guest takes the same fault again and again", "fault", &ends("watchdog")),
        misbehaves("guest-faults-bare", "a guest without a fault handler is ended", "fault-bare", &ends("crash")),
        misbehaves("guest-crashes", "a guest crashes in the update's second", "crash", &ends("crash")),
        misbehaves("guest-reboots", "a guest asks for a reboot in the update's second", "reboot", &ends("reboot")),
        told(
            "guest-spins-in-hypercalls",
            "a guest in one long multicall after the other: updates find it there",
            "spin-hypercall",
        ),
        Scenario::new("guest-crash-alone", "a crash without any update leaves the other guest alone")
            .options("liveupdate=32M finish=1000")
            .guests([Guest::new("pulse", "8M").named("bad"), Guest::new("memory", "32M")])
            .when(r"\(d2\) ", &tell(1, "crash"))
            .loses(1)
            .verdict(Verdict::Failure)
            .says(&ends("crash")),
    ]
}

/// The first guest comes to a bad end, which is said: that makes a machine's verdict FAILURE. All else goes on.
fn misbehaves(name: &'static str, purpose: &'static str, line: &str, end: &str) -> Scenario {
    told(name, purpose, line).loses(1).verdict(Verdict::Failure).says(end)
}

/// The first guest is told something as soon as the second, which is good and busy, has said something; updates follow.
fn told(name: &'static str, purpose: &'static str, line: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M lu-first=600 lu-every=100 lu-updates=3 finish=100")
        .modules(job::images())
        .guests([Guest::new("pulse", "8M").named("bad"), Guest::new("memory", "32M")])
        .when(r"\(d2\) ", &tell(1, line))
        .updates(3)
        .limit(120)
}

/// The keys that type a line on one guest's console: the hypervisor gives its input to the guest whose number follows Ctrl-A.
fn tell(domain: u32, line: &str) -> String {
    format!("\x01{domain}{line}\n")
}
