//! What the operator is told: the plan, the dry run, the log of the last builds, the history.

use super::Scenario;
use crate::damage::Damage;
use crate::image::Module;
use crate::job::{self, Guest};

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("plan-by-key", "the plan is shown item by item, and the update is what was planned")
            .options("liveupdate=32M")
            .modules(job::images())
            .guests([Guest::new("memory", "32M"), Guest::new("pulse", "16M")])
            .when(r"\(d2\) ", "p")
            .update_each("lu: plan: an update to luxen .*-b is possible", 1)
            .types("f")
            .says("lu: plan: from luxen .*-a to luxen .*-b, the image luxen-next$")
            .says("lu: plan: to be carried: 2 domains, 12288 frames in [0-9]+ extents$")
            .says("lu: plan: image: [0-9]+ KiB in a slot of 4096 KiB; its digest is checked when")
            .says("lu: plan: features: needed nx; the machine has nx, ")
            .says("lu: plan: stream: version [0-9]+, it reads [0-9]+ to [0-9]+; about [0-9]+ KiB in ")
            .says("lu: plan: page records: [0-9]+ chunks .*, 512 of 65 bytes each; it has places for 130055$")
            .says("lu: plan: region: [0-9]+ KiB fixed, .*: [0-9]+ KiB of 32768$"),
        refused("plan-features", "the next image needs what no machine has", Damage::Features)
            .says("lu: plan: refused: .*the image needs 0x8000000000000000, which this machine does not have; it has nx"),
        refused("plan-places", "the next image has too few places for page records", Damage::Places)
            .says("lu: plan: refused: .*[0-9]+ chunks of 2 MiB need page records, the next build has places for 3;"),
        refused("plan-stream-frames", "the next image takes no stream as long as this", Damage::StreamFrames)
            .says("lu: plan: refused: .*it has [0-9]+ frames, the next build takes 2;"),
        refused("plan-stream-version", "the next image reads no version that is written", Damage::NewerStream)
            .says("lu: plan: refused: the image reads stream versions 3 to 4, this hypervisor writes "),
        Scenario::new("dry-run", "four dry runs under busy guests, then the update itself, then a dry run back")
            .options("liveupdate=32M")
            .modules(job::images())
            .guests(job::guests())
            .guests(job::grants_pair(6, 2))
            .when(r"\(d7\) ", "y")
            .when("lu: dry run: .* free before and after", "y")
            .when("lu: dry run: .* free before and after", "yy")
            .when("lu: dry run: .* free before and after", "y")
            .update_each("lu: dry run: .* free before and after", 1)
            .types("y")
            .when("lu: dry run: .* free before and after", "f")
            .says("lu: dry run: an update to luxen .*-b is possible; pause [1-9][0-9]* us: save [1-9][0-9]*, read back [1-9]")
            .says("lu: dry run: [1-9][0-9]+ bytes in [1-9][0-9]+ records and [1-9][0-9]* frames; 7 domains, [1-9][0-9]+ frames in [1-9]")
            .says("lu: dry run: an update to luxen .*-a is possible")
            .never("MISMATCH|lu: (refused|aborted)"),
        Scenario::new("dry-run-refused", "a dry run into a region that is too small for the next build is refused")
            .options("liveupdate=4M")
            .modules(job::images())
            .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
            .when(r"\(d2\) ", "y")
            .when("lu: dry run: refused", "p")
            .when("lu: plan: refused", "h")
            .when("history: no update so far", "f")
            .says("lu: dry run: refused: the region is too small: the next build needs [0-9]+ MiB .*, it has 4 MiB; boot with liveupdate=")
            .never("took over|is possible"),
        Scenario::new("log-listing", "the lines of three builds are listed by the third, and again")
            .options("liveupdate=32M")
            .modules(job::images())
            .guests([Guest::new("echo", "8M").line("flood=4000"), Guest::new("memory", "32M")])
            .when(r"\(d2\) ", "l")
            .update_each(r"^\| the end of the log", 1)
            .types("u")
            .when("lu: report .*-b\",\"to\":\"luxen .*-a\"", "u")
            .updates(3)
            .when("lu: report .*\"sequence\":3", "l")
            .when(r"^\| the end of the log", "l\x01g")
            .hears(super::console::numbers(0..4000))
            .types("\rfinish\r\x01\x01lf")
            .says(r"^\| the hypervisor's lines since the cold boot$")
            .says(r"^\| \[.*\] log: luxen .*-a writes from here on, since the cold boot$")
            .says(r"^\| \[.*\] log: luxen .*-b writes from here on, since update 1; before it luxen .*-a$")
            .says(r"^\| \[.*\] log: luxen .*-b writes from here on, since update 3; before it luxen .*-a$")
            .says(r#"^\| \[.*\] lu: report \{"sequence":3,"#)
            .never(r"^\| (\||\(d|.*\| \[)"),
        Scenario::new("history-crosses", "an update that was given up and two that came about are in the last build's history")
            .options("liveupdate=32M lu-deadline=100 expect=refuse")
            .memory("1G")
            .modules(job::images())
            .guests([Guest::new("updater", "600M").named("large").line("run=700"), Guest::new("memory", "32M")])
            // As in refuse-deadline.
            .when(r"\(d2\) ", "y")
            .when("domain: d1 large shut down", "u")
            .when("lu: aborted", "h")
            .update_each("domain: d1 large is gone", 1)
            .types("u")
            .when("lu: report .*\"sequence\":2", "h")
            .updates(2)
            .when("history: 3: ", "f")
            .says("history: 1: update 1 aborted at [0-9.]+ s, luxen .*-a to luxen .*-b, .*: not quiet within 100 us: ")
            .says("history: 2: update 1 done at [0-9.]+ s, luxen .*-a to luxen .*-b: pause [1-9][0-9]* us .save [1-9].*, relocate [1-9].*; 1 domains, ")
            .says("history: 3: update 2 done at [0-9.]+ s, luxen .*-b to luxen .*-a: pause "),
    ]
}

/// A plan for a next image that is refused before anything else happens, and so is the dry run.
fn refused(name: &'static str, purpose: &'static str, damage: Damage) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M")
        .modules([Module::image(damage.file(), "luxen-next")])
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .when(r"\(d2\) ", "p")
        .when("lu: plan: refused", "y")
        .when("lu: dry run: refused", "f")
        .never("took over|is possible")
}
