//! Grants: pages that one domain maps of another, held through updates, and what becomes of them when either ends.
//!
//! The guests are the two roles of tests/guests/src/bin/grants: domain 1 grants, domain 2 maps.

use super::Scenario;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// All of them.
pub fn all() -> Vec<Scenario> {
    let [granter, mapper] = job::grants_pair(1, 1);
    vec![
        updates("grants-v1", "grants of version 1 mapped, copied and refused, with updates all the time", 12, 40)
            .guests([granter.clone(), mapper.clone()]),
        updates("grants-v2", "the same with tables of version 2", 12, 40).guests(job::grants_pair(1, 2)),
        updates(
            "grants-granter-ends",
            "a domain ends while another maps its frames, which stay through updates",
            6,
            60,
        )
        .guests([granter.clone().line("leave-after=40"), mapper.clone()])
        .says("domain: d1 grants-a is gone but for 4 frames that others map")
        .says(r"update 6$")
        .says(r"\(d2\) grants: [0-9]+ rounds asked, [0-9]+ alone")
        .says("domain: d1 grants-a is gone, its memory is free"),
        updates("grants-mapper-crashes", "a domain crashes with frames of another mapped, which get free again", 4, 60)
            .guests([granter.clone(), mapper.clone()])
            .guests([Guest::new("pulse", "8M")])
            .when(r"update 2$", "\x01\x01crash\n")
            .loses(2)
            .verdict(Verdict::Failure)
            .says("domain: d2 grants-b shut down: crash")
            .says("domain: d2 grants-b is gone, its memory is free")
            .says(r"\(d1\) grants: the peer is gone"),
        // The twin: were the mapper not to look at what it reads, it would not notice.
        updates("grants-spoiled", "the granter writes something else than it should, and the mapper fails", 2, 40)
            .guests([granter.line("spoil=10 timeout-ms=1000"), mapper])
            .loses(1)
            .loses(2)
            .verdict(Verdict::Failure)
            .says(r"\(d1\) grants: spoils round 10")
            .says(r"\(d2\) grants: verdict FAILURE: round 10: Read word 300 is"),
    ]
}

/// `count` updates, `every` milliseconds apart.
fn updates(name: &'static str, purpose: &'static str, count: u32, every: u32) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate=32M lu-first=100 lu-updates={count} lu-every={every} finish=150"))
        .modules(job::images())
        .updates(count)
        .limit(240)
}
