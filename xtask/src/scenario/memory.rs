//! Memory that changes hands: guests that grow, shrink and keep what they gave up, and memory in many pieces.

use super::Scenario;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("balloon-alone", "a guest grows, shrinks and keeps what it gave up, without any update")
            .options("liveupdate=32M finish=300")
            .guests([balloon("64M"), Guest::new("pulse", "8M")])
            .says("balloon: may have 16384 pages, has 16384, keeps 16 that it gave up")
            .says("balloon: checked 16 kept pages, 0 let go"),
        updates(
            "balloon-updates",
            "pages that were given up and are still used live through updates and go after them",
            6,
        )
        .guests([balloon("64M"), Guest::new("tables", "32M"), Guest::new("memory", "32M")])
        .says("balloon: checked 16 kept pages, 6 let go after an update")
        .says(r"domain: d1 balloon is gone, its memory is free"),
        updates("balloon-many", "two guests keep 64 pages each, back to back updates", 10)
            .options("lu-every=40")
            .guests([balloon("32M").line("keeps=64"), balloon("32M").named("balloon-b").line("keeps=64 rest-ms=3")])
            .says(r"\(d2\) balloon: checked 64 kept pages, 10 let go after an update"),
        // Three take pages that the others, a domain that has ended, and the outgoing hypervisors with their streams have used.
        updates("scrub-updates", "what a guest gets is zero, whoever had it before, after every update", 4)
            .guests([
                balloon("32M").line("looks=256"),
                balloon("32M").named("balloon-b").line("looks=256 rest-ms=3"),
                balloon("32M").named("balloon-c").line("looks=200 keeps=64 rest-ms=7"),
                Guest::new("memory", "16M"),
                Guest::new("pulse", "8M").line("run=20"),
            ])
            .says(r"\(d1\) balloon: looked at 1280 new pages, all of them zero")
            .says(r"\(d2\) balloon: looked at 1280 new pages, all of them zero")
            .says(r"\(d3\) balloon: looked at 1000 new pages, all of them zero"),
        Scenario::new("scrub-soiled", "a guest that writes to a new page before it looks whether it is zero fails")
            .options("liveupdate=32M finish=300")
            .guests([balloon("32M").line("looks=16 soiled"), Guest::new("pulse", "8M")])
            .loses(1)
            .verdict(Verdict::Failure)
            .says("balloon: verdict FAILURE: a new page, frame 0x[0-9a-f]+: word 511 is 0x5ec2e7ba11000000"),
        // The guest takes a page for gone that it still maps: its checks have to see that it is not.
        Scenario::new("balloon-miscounts", "a guest that expects a page to be gone while it maps it fails")
            .options("liveupdate=32M finish=300")
            .guests([balloon("64M").line("miscount"), Guest::new("pulse", "8M")])
            .loses(1)
            .verdict(Verdict::Failure)
            .says("balloon: verdict FAILURE: the domain has 16384 pages, not 16368"),
        updates("memory-8000-extents", "a guest of more than eight thousand separate pieces", 3)
            .guests([Guest::new("memory", "128M").line("extents=8000"), Guest::new("pulse", "8M")])
            .says(r#""extents":1\d{4}"#),
        holes("memory-2g-holes", "a guest of 2 GiB with a hole in every 2 MiB", "liveupdate=64M")
            .updates(2)
            .says("left 10[0-9][0-9] holes")
            .says("balloon: checked 16 kept pages, 2 let go after an update, 10[0-9][0-9] holes"),
        // The same in a region that has no room for the next build's page records.
        holes(
            "memory-2g-holes-refused",
            "the same with a region that is too small for it",
            "liveupdate=32M expect=refuse",
        )
        .says("lu: refused: the region is too small: the next build needs [0-9]+ MiB")
        .says("balloon: checked 16 kept pages, 0 let go")
        .never("took over"),
    ]
}

/// A guest that has half of the memory at the start.
fn balloon(most: &str) -> Guest {
    let half = match most {
        "64M" => "32M",
        _ => "16M",
    };
    Guest::new("balloon", half).with(&format!("maxmem={most}"))
}

/// `count` updates, far enough apart for a guest to look at what each has left.
fn updates(name: &'static str, purpose: &'static str, count: u32) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate=32M lu-first=300 lu-updates={count} lu-every=100 finish=150"))
        .modules(job::images())
        .updates(count)
        .limit(240)
}

/// Two updates of a machine with one large guest.
fn holes(name: &'static str, purpose: &'static str, options: &str) -> Scenario {
    Scenario::new(name, purpose)
        .memory("3G")
        .options(&format!("{options} lu-first=1500 lu-updates=2 lu-every=200 finish=300"))
        .modules(job::images())
        .guests([Guest::new("balloon", "2G").line("holes=512")])
        .limit(300)
}
