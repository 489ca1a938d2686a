//! The live-update region: chosen, fixed, and refused. A refused one is explained with the nearest value that works, and the
//! guests run all the same.

use super::Scenario;
use crate::job::{self, Guest};

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        placed("region-chosen", "the first boot chooses the place, every update keeps it", "32M")
            .says(r"region: .*\[0x"),
        Scenario::new("region-default", "without the option there is a region all the same")
            .options("lu-first=100 lu-every=50 lu-updates=2 finish=100")
            .modules(job::images())
            .guests([Guest::new("pulse", "16M")])
            .updates(2)
            .says(r"region: .*\[0x"),
        placed("region-large", "a large region that is chosen", "128M").says(r"region: .*\[0x"),
        // QEMU's RAM ends 128 KiB below the size for the ACPI tables, so the last whole 2 MiB are not there.
        placed("region-fixed-low", "a region at the low end of memory", "32M@0x1000000")
            .says(r"region: .*\[0x1000000, 0x3000000\)"),
        placed("region-fixed-high", "a region at the high end of memory", "32M@0x1de00000")
            .says(r"region: .*\[0x1de00000, 0x1fe00000\)"),
        placed("region-fixed-below-hole", "a region right below the hole of a 6 GiB machine", "32M@0xbde00000")
            .memory("6G")
            .says(r"region: .*\[0xbde00000, 0xbfe00000\)"),
        refused(
            "region-too-small",
            "a region that is too small: the size needed is named",
            "2M",
            "is too small; at least: ",
        ),
        refused(
            "region-misaligned",
            "a start that is no multiple of 2 MiB",
            "32M@0x10001000",
            "not a multiple of 2 MiB; nearest: ",
        ),
        refused("region-odd-size", "a size that is no multiple of 2 MiB", "33M", "not a multiple of 2 MiB; nearest: "),
        refused("region-above-4g", "a region above 4 GiB", "32M@0x100000000", "above 4 GiB; nearest start: ")
            .memory("6G"),
        refused("region-across-4g", "a region that ends above 4 GiB", "64M@0xfe000000", "above 4 GiB; nearest start: ")
            .memory("6G"),
        refused("region-over-hole", "a region that reaches into the hole", "64M@0xbe000000", "not all of it is RAM")
            .memory("6G"),
        refused(
            "region-over-reserved",
            "a region over the firmware's reserved memory",
            "32M@0",
            "not all of it is RAM|is too small",
        ),
        refused("region-behind-ram", "a region behind the end of RAM", "32M@0x40000000", "not all of it is RAM"),
        refused("region-larger-than-ram", "a region larger than RAM", "1G", "larger than any free piece of RAM"),
        refused("region-no-size", "an option without a size", "@0x10000000", "has no size"),
        refused("region-not-a-number", "a size that is no number", "big", "the size `big` is not a number"),
    ]
}

/// Two updates with the region where it was asked for.
fn placed(name: &'static str, purpose: &'static str, region: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate={region} lu-first=100 lu-every=50 lu-updates=2 finish=100"))
        .modules(job::images())
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .updates(2)
}

/// A region that is refused for a reason that is said.
fn refused(name: &'static str, purpose: &'static str, region: &str, reason: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate={region} finish=100"))
        .modules(job::images())
        .guests([Guest::new("pulse", "16M")])
        .says(reason)
}
