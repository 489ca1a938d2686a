//! Handovers as they lie in memory at the jump: what is in them is what docs/handover.md says, what the incoming build says, and what Xen takes; and a flipped
//! bit in them is found before anything of a guest is touched.

use super::Scenario;
use super::at_jump::{AtJump, Flip, Part};
use crate::job::{self, Guest};

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut all = vec![
        captured("handover-small", "small guests in four streams: decoded, as reported, taken by Xen's own check", 4)
            .guests(job::guests())
            .guests(job::grants_pair(6, 1))
            .guests([Guest::new("smp", "16M").with("vcpus=4"), Guest::new("balloon", "16M").with("maxmem=32M")]),
        captured("handover-linux", "Linux, busy, and small guests in three streams: the same", 0)
            .memory("1G")
            .modules([job::linux_ramdisk()])
            .guests([Guest::linux("256M", "steady")])
            .guests(job::guests().into_iter().take(3))
            .update_each(r"\) linux: beat ", 3)
            .when(r"\) linux: beat ", "f")
            .limit(900)
            .extended(),
        flipped("flip-none", "no bit is flipped: the update is taken up, and guests' memory changes", None),
    ];
    all.extend(FLIPS.iter().zip(1..).map(|((name, part), seed)| {
        let flip = Flip { part: *part, seed };
        flipped(name, "a bit flipped at the jump: refused with a reason, no guest's memory is touched", Some(flip))
    }));
    all
}

/// Bits to flip: the place of each in the table is its seed.
const FLIPS: [(&str, Part); 20] = [
    ("flip-header-1", Part::Header),
    ("flip-header-2", Part::Header),
    ("flip-header-3", Part::Header),
    ("flip-header-4", Part::Header),
    ("flip-entries-1", Part::Entries),
    ("flip-entries-2", Part::Entries),
    ("flip-entries-3", Part::Entries),
    ("flip-entries-4", Part::Entries),
    ("flip-stream-1", Part::Stream),
    ("flip-stream-2", Part::Stream),
    ("flip-stream-3", Part::Stream),
    ("flip-stream-4", Part::Stream),
    ("flip-stream-5", Part::Stream),
    ("flip-stream-6", Part::Stream),
    ("flip-stream-7", Part::Stream),
    ("flip-stream-8", Part::Stream),
    ("flip-stream-9", Part::Stream),
    ("flip-stream-10", Part::Stream),
    ("flip-stream-11", Part::Stream),
    ("flip-stream-12", Part::Stream),
];

/// Updates whose streams are captured.
fn captured(name: &'static str, purpose: &'static str, updates: u32) -> Scenario {
    let automatic = format!("lu-first=150 lu-updates={updates} lu-every=60 finish=150");
    Scenario::new(name, purpose)
        .options("liveupdate=32M")
        .options(if updates == 0 { "" } else { &automatic })
        .modules(job::images())
        .updates(updates)
        .at_jump(AtJump::Capture)
        .limit(300)
}

/// One update with a flipped bit.
fn flipped(name: &'static str, purpose: &'static str, flip: Option<Flip>) -> Scenario {
    Scenario::new(name, purpose)
        .memory("256M")
        .options("liveupdate=32M lu-first=60 lu-updates=1 finish=60")
        .modules(job::images())
        .guests([Guest::new("pulse", "8M"), Guest::new("memory", "16M"), Guest::new("tables", "16M")])
        .at_jump(AtJump::Flip(flip))
}
