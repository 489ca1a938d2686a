//! Updates that go wrong behind the jump: streams that are damaged (`test=lu-<name>`, src/lu/damage.rs), and domains that are refused alone.

use super::Scenario;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// What every sum of memory looks like, before the jump and after the failure.
const SUM: &str = "test: memory sums to (0x[0-9a-f]{16})";

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        stopped(
            "fail-stop-checksum",
            "a stream with a flipped bit: the machine stops, no byte of memory has changed",
            "lu-flip",
        )
        .says("lu: the update cannot be taken up: .*(checksum|CRC)"),
        stopped(
            "fail-stop-host",
            "a stream in which a module lies in the region: the record is named, no byte of memory has changed",
            "lu-module",
        )
        .says("the update cannot be taken up: record LU_MODULE at 0x[0-9a-f]+: frame 0x[0-9a-f]+, .*is in the region"),
        Scenario::new("fail-reset", "with lu-fail=reset the machine boots cold and guests run again")
            .options("liveupdate=32M test=lu-flip lu-fail=reset")
            .modules(job::images())
            .guests([Guest::new("pulse", "16M")])
            .reboots()
            .when("d1 pulse created", "u")
            .when("lu-fail=reset: the machine is reset", "")
            .when("d1 pulse created", "f")
            .never("took over"),
        refused("fail-no-vcpu", "a domain without its vCPUs is lost alone", "lu-vcpu", 2).says(
            "d1 pulse is refused: its records do not fit, at 0x.*; it never runs again, what is its memory is kept",
        ),
        refused("fail-overlap", "two domains that claim a frame are lost, the third goes on", "lu-overlap", 2)
            .loses(2)
            .says("d1 pulse is refused: it claims frame 0x[0-9a-f]+, and so does d2; it never runs again")
            .says("d2 memory is refused: it claims frame 0x[0-9a-f]+, and so does d1; it never runs again"),
        refused("fail-region", "a domain that claims a frame of the region is lost alone", "lu-region", 2)
            .says("d1 pulse is refused: it claims frame 0x[0-9a-f]+, which is in the region; it never runs again"),
        refused(
            "fail-types",
            "a domain whose page types do not replay is refused alone, at each update",
            "lu-types",
            2,
        )
        .says("d1 pulse is refused: .*; it stays paused, its memory and its state are kept"),
        Scenario::new("fail-refused-and-back", "a domain that one build refuses runs again under the next")
            .options("liveupdate=32M lu-first=100 lu-every=100 lu-updates=2 finish=200 test=lu-refuse")
            .modules(job::images())
            .guests(job::events_pair(1))
            .guests([Guest::new("memory", "32M")])
            .updates(2)
            .verdict(Verdict::Failure)
            // What the pair does while one of them stands still is not the matter here.
            .says("d1 events-a is refused: test=lu-refuse says so; it stays paused")
            .says("d1 events-a runs again; the last build had refused it: test=lu-refuse says so"),
        bad(
            "bad-page",
            "frames that badpage= names are never used, on a cold boot and behind updates",
            "badpage=0x4000-0x4003,0x6000",
        )
        .says("memory: 5 faulty frames are out of use, 0 still in use"),
        bad(
            "bad-page-in-v1",
            "version 1 of the stream keeps faulty frames from being used, too",
            "badpage=0x4000 lu-stream=1",
        ),
        bad(
            "bad-frame-reported",
            "a free frame and one of a guest are reported faulty: neither is given to anybody",
            "test=bad-frames",
        )
        .says("memory: faulty frame 0x[0-9a-f]+ is in use by d1: it stays, and nobody else gets it")
        .says("memory: 1 faulty frames are out of use, 1 still in use"),
    ]
}

/// One update, whose stream cannot be taken up: memory is what it was, and the run ends with FAILURE.
fn stopped(name: &'static str, purpose: &'static str, test: &str) -> Scenario {
    Scenario::new(name, purpose)
        .memory("256M")
        .options(&format!("liveupdate=32M lu-first=100 lu-updates=1 test={test}"))
        .modules(job::images())
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .loses(1)
        .loses(2)
        .verdict(Verdict::Failure)
        .same(SUM)
        .says("nothing was restored: guests' memory is as it was")
        .never("took over")
}

/// Updates of which the first costs the first domain, which is still there after the others.
fn refused(name: &'static str, purpose: &'static str, test: &str, updates: u32) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate=32M lu-first=100 lu-every=100 lu-updates={updates} finish=200 test={test}"))
        .modules(job::images())
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M"), Guest::new("tables", "16M")])
        .updates(updates)
        .loses(1)
        .steady_memory()
        .verdict(Verdict::Failure)
}

/// Two updates of a machine with faulty frames.
fn bad(name: &'static str, purpose: &'static str, options: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate=32M lu-first=100 lu-every=50 lu-updates=2 finish=100 {options}"))
        .modules(job::images())
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .updates(2)
        .steady_memory()
}
