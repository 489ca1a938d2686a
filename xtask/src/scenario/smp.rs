//! Guests with several vCPUs on the one processor.

use super::Scenario;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        smp("smp-1", "the guest for several vCPUs with one of them, through six updates", 1),
        smp("smp-2", "two vCPUs that wait for each other, through six updates", 2),
        smp("smp-4", "four vCPUs that wait for each other, through six updates", 4)
            .says(r"\(d1\) smp: vCPU 3: \d+ rounds"),
        smp("smp-4-among-others", "four vCPUs beside busy guests with one", 4)
            .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")]),
        Scenario::new("smp-nmi", "updates while most vCPUs are in the handler of an NMI, with the next one pending")
            .options("liveupdate=32M lu-first=100 lu-updates=20 lu-every=13 finish=300")
            .modules(job::images())
            .guests([guest(4).line("nmi-us=3000 late-ms=4000 yields=3000")])
            .updates(20)
            .limit(300),
        Scenario::new("smp-broken-lock", "vCPUs without a lock between them are noticed by the guest")
            .options("liveupdate=32M finish=300")
            .guests([guest(4).line("broken-lock"), Guest::new("pulse", "16M")])
            .loses(1)
            .verdict(Verdict::Failure)
            .says(r"\(d1\) smp: verdict FAILURE: the lock does not lock"),
        Scenario::new("smp-watchdog", "a watchdog that nobody winds up any more runs out after the updates")
            .options("liveupdate=32M lu-first=100 lu-updates=3 lu-every=50 finish=1500")
            .modules(job::images())
            .guests([guest(2).line("watchdog=lose"), Guest::new("pulse", "16M")])
            .updates(3)
            .loses(1)
            .verdict(Verdict::Failure)
            .says("domain: d1 smp: a watchdog ran out")
            .says("domain: d1 smp shut down: watchdog"),
    ]
}

fn guest(vcpus: u32) -> Guest {
    Guest::new("smp", "16M").with(&format!("vcpus={vcpus}"))
}

/// The guest with so many vCPUs as domain 1, and six updates.
fn smp(name: &'static str, purpose: &'static str, vcpus: u32) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M lu-first=100 lu-updates=6 lu-every=40 finish=150")
        .modules(job::images())
        .guests([guest(vcpus)])
        .updates(6)
        .limit(240)
}
