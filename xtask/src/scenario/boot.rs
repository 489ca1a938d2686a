//! Cold boots: memory sizes, and bad input that must not keep the machine from its work.

use super::Scenario;
use crate::damage::Damage;
use crate::image::Module;
use crate::job::Guest;
use crate::paths;
use crate::report::Verdict;

/// A region and an early end: enough for a cold boot.
const PLAIN: &str = "liveupdate=32M finish=200";

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        cold("boot-256m", "cold boot with 256 MiB: the least that is promised").memory("256M"),
        cold("boot-1g", "cold boot with 1 GiB, by GRUB").memory("1G").grub(),
        cold("boot-3g", "cold boot with 3 GiB: all of it below the hole").memory("3G"),
        cold("boot-6g", "cold boot with 6 GiB, by GRUB: RAM above the hole, and guests that live there")
            .memory("6G")
            .grub()
            // There are 3 GiB below the hole, so a larger guest lives above it too.
            .guests([Guest::new("pulse", "3500M").named("large")]),
        Scenario::new("boot-no-guests", "a machine without a guest boots and ends")
            .options(PLAIN)
            .says("ledger: total "),
        Scenario::new("boot-unknown-option", "an unknown option is named, and ignored")
            .options(PLAIN)
            .options("frobnicate=1")
            .guests([Guest::new("pulse", "16M")])
            .says("there is no option `frobnicate`"),
        Scenario::new("boot-bad-number", "an option whose value is no number is named, and ignored")
            .options(PLAIN)
            .options("lu-every=soon")
            .guests([Guest::new("pulse", "16M")])
            .says("lu-every=: the value `soon`"),
        bad_module(
            "boot-module-no-class",
            "a module that does not say what it is is left alone",
            "gest name=x memory=16M",
        )
        .says("says what the module is"),
        bad_module("boot-module-bad-size", "a guest with a size that is none is not made", "guest name=x memory=lots")
            .says("memory=lots is not a size"),
        bad_module("boot-module-too-large", "a guest larger than the machine is not made", "guest name=x memory=64G")
            .says("domain: x cannot be created: no memory"),
        Scenario::new("boot-kernel-not-elf", "a guest module that is no kernel is refused, the others run")
            .options(PLAIN)
            .guests([Guest::new("pulse", "16M")])
            .modules([Module { file: Damage::Garbage.file(), string: "guest name=x memory=16M".into() }])
            .loses(2)
            .verdict(Verdict::Failure)
            .says("domain: x cannot be created: kernel: not an ELF file"),
        Scenario::new("boot-console-keys", "`?` on the console lists the keys")
            .options("liveupdate=32M finish=2000")
            .guests([Guest::new("memory", "16M")])
            .when("cold boot", "?")
            .says("console: u update"),
    ]
}

/// A cold boot with two guests and nothing else.
fn cold(name: &'static str, purpose: &'static str) -> Scenario {
    Scenario::new(name, purpose)
        .options(PLAIN)
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "64M")])
        .says("start: luxen .*, cold boot")
        .says("ledger: total ")
}

/// A good guest, and behind it a module that is refused: the guest lives, and the verdict says that something asked for is not there.
fn bad_module(name: &'static str, purpose: &'static str, string: &str) -> Scenario {
    let module = Module { file: paths::out("pulse"), string: string.to_owned() };
    let scenario = Scenario::new(name, purpose)
        .options(PLAIN)
        .guests([Guest::new("pulse", "16M")])
        .modules([module])
        .verdict(Verdict::Failure);
    if string.starts_with("guest ") { scenario.loses(2) } else { scenario }
}
