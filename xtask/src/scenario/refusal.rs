//! Updates that must not happen: each is refused before the jump with its reason on the console, and the guests go on.

use super::Scenario;
use crate::damage::Damage;
use crate::image::Module;
use crate::job::{self, Guest};

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        refused("refuse-absent", "there is no next image", "lu: refused: "),
        damaged("refuse-truncated", "the next image is cut off", Damage::Truncated, "truncated"),
        damaged("refuse-flipped", "one bit of the next image is another", Damage::Flipped, "damaged: its digest"),
        damaged(
            "refuse-not-multiboot2",
            "the next image has no Multiboot2 header",
            Damage::NotMultiboot2,
            "no valid Multiboot2 header",
        ),
        damaged("refuse-too-large", "the next image does not fit its slot", Damage::TooLarge, "too large for its slot"),
        damaged(
            "refuse-undigested",
            "the next image does not carry its digest",
            Damage::Undigested,
            "no note of owner luxen",
        ),
        damaged("refuse-garbage", "the next image is no ELF file", Damage::Garbage, "not an ELF file"),
        // A domain is taken apart step by step, and an update waits for that: the larger the domain, the longer.
        Scenario::new("refuse-deadline", "a domain that is being taken apart is not done by the deadline")
            .options("liveupdate=32M lu-first=300 lu-updates=1 lu-deadline=100 expect=refuse finish=200")
            .modules(job::images())
            .guests([Guest::new("pulse", "300M").named("large").line("run=220"), Guest::new("memory", "32M")])
            .says("lu: (aborted|refused): .*still being taken apart")
            .never("took over"),
    ]
}

/// One update that is asked for and refused.
fn refused(name: &'static str, purpose: &'static str, reason: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M lu-first=100 lu-updates=1 expect=refuse finish=200")
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .says(reason)
        .never("took over")
}

/// One update into a damaged image.
fn damaged(name: &'static str, purpose: &'static str, damage: Damage, reason: &str) -> Scenario {
    refused(name, purpose, &format!("lu: refused: .*{reason}")).modules([Module::image(damage.file(), "luxen-next")])
}
