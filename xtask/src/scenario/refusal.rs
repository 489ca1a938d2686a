//! Updates that must not happen: each is refused before the jump with its reason on the console, and the guests go on.

use super::Scenario;
use crate::damage::Damage;
use crate::image::Module;
use crate::job::{self, Guest};
use crate::{paths, sign};

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
        damaged(
            "refuse-unsigned",
            "nobody has signed the next image",
            Damage::Unsigned,
            "not signed, and only what key ",
        ),
        damaged(
            "refuse-stranger",
            "the next image is signed by a key that is not trusted",
            Damage::Stranger,
            &format!("signed by key {}, and only what key ", sign::id(&sign::stranger())),
        ),
        damaged(
            "refuse-signature",
            "one bit of the signature is another",
            Damage::Signature,
            "signature is not one of key ",
        ),
        damaged(
            "refuse-altered",
            "the next image was altered, and its digest with it, after it was signed",
            Damage::Altered,
            "altered after it was signed",
        ),
        // The same files are taken where they are trusted: it is the policy that refuses them above.
        Scenario::new(
            "sign-travels",
            "the key on the command line is trusted, and in the next build still that one and not the built-in one",
        )
        .options(&format!(
            "liveupdate=32M lu-first=100 lu-updates=2 lu-every=100 expect=refuse finish=200 {}",
            stranger_key()
        ))
        .modules([Module::image(Damage::Stranger.file(), "luxen-next"), Module::image(paths::out("luxen"), "luxen")])
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .says(&format!("lu: next images have to be signed by key {}$", sign::id(&sign::stranger())))
        .says(&format!("lu: staged .*-b from module luxen-next, signed by key {}: ", sign::id(&sign::stranger())))
        .says("start: luxen .*-b took over from luxen .*-a, update 1")
        .says(&format!(
            "lu: refused: image luxen: the image is signed by key [0-9a-f]{{16}}, and only what key {} has",
            sign::id(&sign::stranger())
        ))
        .updates(1),
        rotated("sign-rotated", "a build signed with the old key brings the new one: what that has signed is taken")
            .modules([
                Module::image(Damage::Rotated.file(), "luxen-next"),
                Module::image(Damage::Successor.file(), "luxen"),
            ])
            .says(&format!("lu: staged .*-a from module luxen, signed by key {}: ", sign::id(&sign::stranger())))
            .says("start: luxen .*-a took over from luxen .*-b, update 2")
            .updates(2),
        rotated("sign-revoked", "behind that build, what the old key has signed is not taken any more")
            .options("expect=refuse")
            .modules([Module::image(Damage::Rotated.file(), "luxen-next"), Module::image(paths::out("luxen"), "luxen")])
            .says(&format!(
                "lu: refused: image luxen: the image is signed by key [0-9a-f]{{16}}, and only what key {} has",
                sign::id(&sign::stranger())
            ))
            .never("took over from luxen .*-b")
            .updates(1),
        trusting("sign-none", "unsigned images are taken if that was asked for", "lu-key=none")
            .modules([
                Module::image(Damage::Unsigned.file(), "luxen-next"),
                Module::image(paths::out("luxen"), "luxen"),
            ])
            .says("lu: next images are taken unsigned: lu-key=none")
            .says("lu: staged .*-b from module luxen-next, unsigned: "),
        trusting(
            "sign-built-in",
            "beside another key on the command line the built-in one is trusted if it is named",
            &format!("{},built-in", stranger_key()),
        )
        .modules(job::images())
        .says("lu: next images have to be signed by key [0-9a-f]{16} or key [0-9a-f]{16}$"),
        refused(
            "refuse-replaced",
            "a key on the command line takes the place of the built-in one",
            "lu: refused: .*signed by key .*, and only what key ",
        )
        .options(&stranger_key())
        .modules(job::images()),
        refused(
            "refuse-bad-key",
            "with a key that cannot be read nothing is taken",
            "lu: refused: .*and only what no key at all has signed",
        )
        .options("lu-key=0123")
        .says("cmdline: lu-key=: the value `0123` is ignored; expected `none`, or 1 to 4 keys")
        .says("lu: no next image is taken")
        .modules(job::images()),
        flipped("flip-file", "a bit of the image's file flips after it was staged", "the image is"),
        flipped("flip-list", "a bit of the entry list flips", "the entry list"),
        flipped("flip-tables", "a bit of the relocation tables flips", "the entry list, its pages or what obeys it is"),
        flipped("flip-code", "a bit of the relocation code flips", "the entry list, its pages or what obeys it is"),
        flipped("flip-late", "a bit of the entry list flips when the pause begins", "the entry list"),
        Scenario::new("flip-nothing", "the same with no bit flipped is an update")
            .options("liveupdate=32M lu-first=100 lu-updates=1 finish=200 test=flip-nothing")
            .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
            .modules(job::images())
            .updates(1),
        Scenario::new("kexec-relocation", "the relocation code obeys random lists as its simulator does")
            .options("liveupdate=32M test=reloc")
            .says("test: reloc: 300 lists"),
        // A domain is taken apart step by step, and an update waits for that: the larger the domain, the longer.
        Scenario::new("refuse-deadline", "a domain that is being taken apart is not done by the deadline")
            .options("liveupdate=32M lu-deadline=100 expect=refuse")
            .memory("1G")
            .modules(job::images())
            .guests([Guest::new("updater", "600M").named("large").line("run=700"), Guest::new("memory", "32M")])
            // The dry run has looked at the image, so that the update comes at once: the domain is being taken apart for the next 140 ms.
            .when(r"\(d2\) ", "y")
            .when("domain: d1 large shut down", "u")
            .when("lu: (aborted|refused): ", "f")
            .says("lu: dry run: .* is possible")
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

/// What makes a hypervisor trust the scenarios' own key alone.
fn stranger_key() -> String {
    format!("lu-key={}", sign::public(&sign::stranger()))
}

/// Two updates by the keys that are built in, if they are taken.
fn rotated(name: &'static str, purpose: &'static str) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M lu-first=100 lu-updates=2 lu-every=100 finish=200")
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
}

/// Two updates under a policy.
fn trusting(name: &'static str, purpose: &'static str, policy: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options(&format!("liveupdate=32M lu-first=100 lu-updates=2 lu-every=100 finish=200 {policy}"))
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .updates(2)
}

/// One update that is refused, since a bit of what was staged is another before the jump.
fn flipped(name: &'static str, purpose: &'static str, what: &str) -> Scenario {
    refused(name, purpose, &format!("lu: refused: what was staged was altered in memory: the checksum of {what}"))
        .options(&format!("test={name}"))
        .modules(job::images())
}

/// One update into a damaged image.
fn damaged(name: &'static str, purpose: &'static str, damage: Damage, reason: &str) -> Scenario {
    refused(name, purpose, &format!("lu: refused: .*{reason}")).modules([Module::image(damage.file(), "luxen-next")])
}
