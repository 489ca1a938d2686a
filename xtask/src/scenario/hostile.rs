//! A guest that forges whatever it hands to the hypervisor (tests/guests/src/bin/hostile): refused as Xen refuses, by hypervisors that are replaced meanwhile,
//! and noticed by nobody else.

use super::Scenario;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// Attempts that end the domain which makes them.
const FATAL: [&str; 17] = [
    "iret-unmapped",
    "iret-hypervisor",
    "iret-user",
    "iret-stack",
    "no-failsafe",
    "no-handlers",
    "stack-unmapped",
    "stack-hypervisor",
    "stack-linear",
    "stack-wraps",
    "stack-read-only",
    "handler-unmapped",
    "handler-hypervisor",
    "kernel-stack",
    "no-code",
    "no-stack",
    "no-tables",
];

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("hostile-alone", "all that can be forged is refused as Xen refuses it, without any update")
            .options("liveupdate=32M finish=300")
            .guests([hostile()])
            .says("hostile: [0-9]+ rounds, [0-9]{4} attempts in each, 0 updates seen"),
        Scenario::new("hostile-updates", "the same through three updates, beside guests that must not notice")
            .options("liveupdate=32M lu-first=300 lu-updates=3 lu-every=100 finish=150")
            .modules(job::images())
            .guests([hostile(), Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
            .updates(3)
            .says("hostile: [0-9]+ rounds, [0-9]{4} attempts in each, 3 updates seen")
            .limit(240),
        Scenario::new(
            "hostile-ledger",
            "no attempt gains or loses a frame: the ledger is the same at each of six updates",
        )
        .options("liveupdate=32M lu-first=300 lu-updates=6 lu-every=70 finish=150")
        .modules(job::images())
        .guests([hostile(), hostile().named("hostile-b"), Guest::new("pulse", "16M")])
        .updates(6)
        .steady_memory()
        .says("hostile: [0-9]+ rounds, [0-9]{4} attempts in each, 6 updates seen")
        .limit(240),
        fatal(),
        Scenario::new(
            "hostile-held-back",
            "a breakpoint that comes in the hypervisor, where there is no stack yet, does no harm",
        )
        .options("liveupdate=32M test=debug"),
        // The twins: an attempt that is refused as it should be, of which the guest is told that it must not be.
        inverted(
            "hostile-inverted-frame",
            "a-frame-of-the-M2P--mapped-to-be-written",
            "a frame of the M2P, mapped to be written: came to -EBUSY",
        ),
        inverted("hostile-inverted-pointer", "multicall--the-direct-map", "multicall, the direct map: came to -EFAULT"),
        inverted("hostile-inverted-trap", "hlt", "hlt: came to exception 13 with error 0x0"),
    ]
}

fn hostile() -> Guest {
    Guest::new("hostile", "16M").with("vcpus=2 store=empty")
}

/// One domain for each attempt that is fatal; each ends alone, in the midst of updates.
fn fatal() -> Scenario {
    let fatal = FATAL.map(|name| Guest::new("hostile", "8M").named(name).line(format!("fatal={name}")));
    let mut scenario =
        Scenario::new("hostile-fatal", "what no domain can live through ends that domain alone, between updates")
            .memory("1G")
            .options("liveupdate=32M lu-first=10 lu-updates=3 lu-every=100 finish=150")
            .modules(job::images())
            .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
            .guests(fatal)
            .updates(3)
            .verdict(Verdict::Failure)
            .limit(240);
    for (domain, name) in (3..).zip(FATAL) {
        scenario = scenario
            .loses(domain)
            .says(&format!("domain: d{domain} {name} crashed: "))
            .says(&format!("domain: d{domain} {name} is gone, its memory is free"));
    }
    scenario
}

fn inverted(name: &'static str, attempt: &str, says: &str) -> Scenario {
    Scenario::new(name, "an attempt that must not be refused, but is, is noticed by the guest")
        .options("liveupdate=32M finish=300")
        .guests([hostile().line(format!("invert={attempt}")), Guest::new("pulse", "16M")])
        .loses(1)
        .verdict(Verdict::Failure)
        .says(&format!(r"\(d1\) hostile: verdict FAILURE: {says}, which must not be"))
}
