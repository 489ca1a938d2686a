//! Updates that happen: one, many, back to back, in every state that a guest can be in.

use super::Scenario;
use crate::job::{self, Guest};

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        update("update-one", "one update with all guests busy, by GRUB", 1, 0).grub().guests(job::guests()),
        update(
            "soak-sixty",
            "sixty updates in a row with all guests busy: memory and pauses stay what they were",
            60,
            10,
        )
        .guests(job::guests())
        .says("update 60$")
        .steady_memory()
        .even_pauses()
        .limit(600),
        update(
            "soak-thousand",
            "a thousand updates in a row with all guests busy: memory and pauses stay what they were",
            1000,
            10,
        )
        .guests(job::guests())
        .says("update 1000$")
        .steady_memory()
        .even_pauses()
        .extended()
        .limit(7200),
        update("update-back-to-back", "the second update starts as soon as the first is over", 2, 0)
            .guests(job::guests()),
        update("update-256m", "three updates in 256 MiB", 3, 50).memory("256M").guests(job::guests()),
        update("update-3g", "three updates in 3 GiB", 3, 50).memory("3G").guests(job::guests()),
        update("update-6g", "three updates in 6 GiB, with a guest above the hole", 3, 50)
            .memory("6G")
            // The region takes nearly all of the memory below the hole.
            .options("liveupdate=2816M")
            .guests(job::guests())
            .guests([Guest::new("pulse", "512M").named("large")])
            .says(r"domain: d6 large created: .*\[0x1[0-9a-f]{8}, "),
        update("update-mid-hypercall", "updates all the time while page tables are pinned and switched", 20, 7)
            .guests([Guest::new("tables", "32M"), Guest::new("tables", "32M").named("tables-2")]),
        update("update-mid-fault", "updates all the time while guests take faults and bounce them", 20, 3)
            .guests([Guest::new("tables", "16M"), Guest::new("memory", "32M")]),
        update(
            "update-blocked",
            "the only guest sleeps between its ticks, so it is blocked when the update comes",
            5,
            33,
        )
        .guests([Guest::new("pulse", "16M")]),
        update("update-events-in-flight", "events and console rings go on, none lost, none doubled", 20, 11)
            .guests(job::events_pair(1)),
        update("update-while-shutting-down", "guests that end by themselves in the middle of ten updates", 10, 10)
            .guests(
                [105, 125, 145, 165, 185]
                    .map(|ms| Guest::new("pulse", "4M").named(format!("p{ms}")).line(format!("run={ms}"))),
            )
            .guests([Guest::new("memory", "16M")]),
        // It ends after 20 ms, long before the first update.
        update("update-after-end", "a domain that ended before the update stays ended and its memory is free", 2, 50)
            .options("lu-first=300")
            .guests([Guest::new("pulse", "16M").line("run=20"), Guest::new("memory", "32M")])
            .says("domain: d1 pulse is gone, its memory is free")
            .says(r#""sequence":1,.*"domains":1,"#),
        update("update-created-later", "a domain created after the first update lives through the second", 3, 200)
            .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M").named("late").with("create=later")]),
        update("update-thousand-extents", "a guest of more than a thousand separate extents", 3, 50)
            .guests([Guest::new("memory", "64M").line("extents=1200"), Guest::new("pulse", "16M")])
            .says(r#""extents":(1[2-9]|[2-9]\d|\d{3})\d\d"#),
        update("update-sixteen-guests", "sixteen domains on one processor", 3, 100)
            .memory("1G")
            .guests((1..=16).map(|n| Guest::new("pulse", "8M").named(format!("pulse-{n}"))))
            .limit(300),
        Scenario::new("update-by-key", "an update asked for on the console, by GRUB")
            .grub()
            .options("liveupdate=32M finish=1000")
            .modules(job::images())
            .guests([Guest::new("memory", "32M")])
            .when(r"\(d1\) ", "u")
            .updates(1),
    ]
}

/// `count` updates, `every` milliseconds apart, the first after 100 ms.
fn update(name: &'static str, purpose: &'static str, count: u32, every: u32) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate=32M lu-first=100 lu-updates={count} lu-every={every} finish=150"))
        .modules(job::images())
        .updates(count)
        .limit(240)
}
