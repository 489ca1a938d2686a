//! Guests that misbehave around an update: it happens all the same, and the others do not notice.
//!
//! What a guest is to do wrong is typed on its console: Ctrl-A moves the focus from the hypervisor to domain 1, and after
//! the last domain back. A domain that ends gives the focus back to the hypervisor.

use super::Scenario;
use crate::image::Module;
use crate::job::{self, Guest};
use crate::paths;
use crate::report::Verdict;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        ends("guest-crash", "a guest that crashed before the update", "crash", "crash").verdict(Verdict::Failure),
        ends("guest-fault-bare", "a guest that faulted without a handler and was ended for it", "fault-bare", "crash")
            .verdict(Verdict::Failure),
        ends(
            "guest-reboot",
            "a guest that rebooted before the update has a new number and goes on",
            "reboot",
            "reboot",
        )
        .says(r"\(d4\) pulse: verdict SUCCESS")
        .says("domain: d4 pulse shut down: poweroff"),
        goes_on("guest-hang", "a guest that hangs before, in and after the update", "hang"),
        goes_on("guest-fault", "a guest that faults for ever, before, in and after the update", "fault"),
        goes_on(
            "guest-spin-hypercall",
            "a guest that is in long multicalls all the time, so the update finds it there",
            "spin-hypercall",
        ),
        amid("guest-crash-amid", "a guest that crashes amid updates", "crash").verdict(Verdict::Failure),
        amid("guest-fault-bare-amid", "a guest that faults without a handler amid updates", "fault-bare")
            .verdict(Verdict::Failure),
        amid("guest-reboot-amid", "a guest that reboots amid updates comes back and ends properly", "reboot")
            .says(r"\(d4\) pulse: verdict SUCCESS"),
        quiesce_deadline(),
        region_too_small_for_next(),
    ]
}

/// Domain 1 has a flaw, the others do not.
fn three(name: &'static str, purpose: &'static str) -> Scenario {
    Scenario::new(name, purpose).modules(job::images()).loses(1).guests([
        Guest::new("pulse", "16M"),
        Guest::new("memory", "32M").line("report-ms=200 run=1000"),
        Guest::new("pulse", "16M").named("witness").line("run=1400"),
    ])
}

/// Domain 1 ends by what is typed, then the update is asked for by key; the hypervisor has the focus again by itself.
fn ends(name: &'static str, purpose: &'static str, line: &str, reason: &str) -> Scenario {
    three(name, purpose)
        .options("liveupdate=32M finish=1600")
        .when(r"\(d1\) pulse: 2 ", &format!("\x01{line}\r"))
        .when("domain: d1 pulse is gone", "u")
        .says(&format!("domain: d1 pulse shut down: {reason}"))
        .updates(1)
}

/// Domain 1 goes on and on, so the run is ended by key when the others have ended.
fn goes_on(name: &'static str, purpose: &'static str, line: &str) -> Scenario {
    three(name, purpose)
        .options("liveupdate=32M")
        .when(r"\(d1\) pulse: 2 ", &format!("\x01{line}\r\x01\x01\x01"))
        .when("console: input goes to the hypervisor", "")
        .when(r"\(d3\) ", "")
        .when(r"\(d3\) ", "u")
        .when("start: .* took over", "")
        .when("domain: d3 witness is gone", "q")
        .says("domain: d2 memory is gone")
        .updates(1)
}

/// Updates follow each other while domain 1 is told what to do wrong.
fn amid(name: &'static str, purpose: &'static str, line: &str) -> Scenario {
    three(name, purpose)
        .options("liveupdate=32M lu-first=100 lu-updates=20 lu-every=30 finish=500")
        .when("update 5$", &format!("\x01{line}\r"))
        .says("domain: d1 pulse is gone")
        .updates(20)
        .limit(120)
}

/// A domain that takes long to be taken apart keeps the hypervisor from being quiet in time. It is taken apart from about
/// 0.52 s to 0.57 s; the update is asked for at 0.5 s, and after the look at the image the pause begins at about 0.54 s.
fn quiesce_deadline() -> Scenario {
    Scenario::new("guest-quiesce-deadline", "a large domain is being taken apart and the deadline is short")
        .options("liveupdate=32M lu-first=500 lu-updates=1 lu-deadline=1000 expect=refuse finish=500")
        .modules(job::images())
        .guests([
            Guest::new("memory", "256M").line("run=350"),
            Guest::new("pulse", "16M"),
            Guest::new("memory", "16M").named("memory-2"),
        ])
        .says("lu: aborted: not quiet within 1000 us: a domain is still being taken apart")
        .says("domain: d1 memory is gone, its memory is free")
        .never("took over")
}

/// The first build boots in a region that the next one, with its larger records, cannot boot in.
fn region_too_small_for_next() -> Scenario {
    Scenario::new("region-too-small-for-next", "a region in which this build boots and the next one would not")
        .options("liveupdate=4M lu-first=100 lu-updates=1 expect=refuse finish=200")
        .modules([Module::image(paths::out("luxen-next"), "luxen-next")])
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .says("lu: refused: the region is too small: the next build needs [0-9]+ MiB")
        .never("took over")
}
