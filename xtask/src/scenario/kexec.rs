//! The next build loaded by a privileged domain with `kexec_op`, and the update asked for by it.

use super::Scenario;
use crate::damage::Damage;
use crate::image::Module;
use crate::job::{self, Guest};
use crate::report::Verdict;
use crate::{paths, sign};
use std::path::PathBuf;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        kexec("kexec-update", "a privileged domain loads the next build and asks for the update", "expect=-b")
            .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M"), Guest::new("tables", "16M")])
            .guests(job::events_pair(5))
            .says(r"\(d1\) updater: runs under luxen .*-b after update 1")
            .says(r"\(d1\) updater: ends under luxen .*-b$")
            .options("finish=1500")
            .updates(1),
        kexec("kexec-update-grub", "the same, by GRUB, in a machine with RAM above the hole", "expect=-b")
            .memory("6G")
            .grub()
            .options("finish=1500")
            .guests([Guest::new("pulse", "16M")])
            .says(r"\(d1\) updater: runs under luxen .*-b after update 1")
            .updates(1),
        kexec(
            "kexec-alternate",
            "the loaded build and a module take turns: what was loaded is gone after its update",
            "expect=-b updates=4 every-ms=150 alternate",
        )
        .options("finish=2000")
        .modules([Module::image(paths::out("luxen"), "luxen")])
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .says(r"\(d1\) updater: runs under luxen .*-a after update 4")
        .updates(4),
        kexec("kexec-load-only", "what is loaded and refused changes nothing as long as nobody asks", "updates=0")
            .options("finish=300")
            .guests([Guest::new("memory", "32M")])
            .says(r"lu: kexec_op load: refused: .*damaged: its digest")
            .says(r"\(d1\) updater: ends under luxen .*-a$"),
        untrusted("kexec-unsigned", "what nobody has signed is not loaded", Damage::Unsigned)
            .says("lu: kexec_op load: refused: image loaded: the image is not signed"),
        untrusted("kexec-stranger", "what somebody has signed who is not trusted is not loaded", Damage::Stranger)
            .says("lu: kexec_op load: refused: image loaded: the image is signed by key [0-9a-f]{16}, and only"),
        Scenario::new("kexec-lu-key", "what the key on the command line has signed is loaded and updated to")
            .options(&format!("liveupdate=32M finish=1500 lu-key={}", sign::public(&sign::stranger())))
            .modules([next_of(Damage::Stranger.file())])
            .guests([updater().with("privileged").line("expect=-b"), Guest::new("pulse", "16M")])
            .says(r"\(d1\) updater: runs under luxen .*-b after update 1")
            .updates(1),
        Scenario::new("kexec-unprivileged", "to a domain without privilege kexec_op is refused, whatever it asks")
            .options("liveupdate=32M finish=300")
            .modules([next()])
            .guests([updater().line("updates=1"), Guest::new("pulse", "16M")])
            .says(r"\(d1\) updater: kexec_op is refused with -EPERM")
            .never("lu: (kexec_op|staged|refused|report)"),
        kexec(
            "report-updates",
            "a privileged domain reports faulty frames: nobody gets one, over updates, until it takes that back",
            "expect=-b updates=3 every-ms=100 alternate reports",
        )
        .options("finish=1500")
        .modules([Module::image(paths::out("luxen"), "luxen")])
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .says("memory: d1 reports faulty frames .*: 0 out of use, 1 still in use")
        .says(r"\(d1\) updater: frame 0x[0-9a-f]+ is back in use, 0x[0-9a-f]+ out of use")
        .says(r"\(d1\) updater: runs under luxen .*-b after update 3")
        .updates(3),
        kexec(
            "report-forgotten",
            "a domain that forgets to report a frame gets it again, and says so",
            "reports forgets",
        )
        .options("finish=300")
        .guests([Guest::new("pulse", "16M")])
        .loses(1)
        .verdict(Verdict::Failure)
        .says("updater: verdict FAILURE: query of a frame in use, frame 0x[0-9a-f]+: the word is 0x0, not 0x8"),
        kexec(
            "report-sweep",
            "frames of all memory, whosever, are reported and taken back under busy guests, and an update carries all",
            "expect=-b sweeps",
        )
        .options("finish=3000")
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M"), Guest::new("tables", "16M")])
        .says(r"\(d1\) updater: swept [0-9]{4,} free frames and [0-9]{3,} in use, [0-9]+ calls ended early")
        .updates(1),
        Scenario::new("report-unprivileged", "a domain without privilege reports nothing")
            .options("liveupdate=32M finish=300")
            .modules([next()])
            .guests([updater().line("updates=1"), Guest::new("pulse", "16M")])
            .says(r"\(d1\) updater: page_offline_op is refused with -EPERM")
            .never("memory: d1 reports"),
        Scenario::new("kexec-nothing-to-do", "exec with nothing loaded and no image among the modules is refused")
            .options("liveupdate=32M finish=300")
            .modules([next()])
            .guests([updater().with("privileged").line("updates=0 exec-nothing"), Guest::new("pulse", "16M")])
            .says(r"\(d1\) updater: exec of nothing is refused with -ENOENT")
            .never("lu: refused"),
    ]
}

/// The next build as a ramdisk: nothing that the hypervisor would go to by itself.
fn next() -> Module {
    next_of(paths::out("luxen-next"))
}

fn next_of(file: PathBuf) -> Module {
    Module { file, string: "ramdisk name=next".to_owned() }
}

/// A machine in which the updater may not load what it has.
fn untrusted(name: &'static str, purpose: &'static str, damage: Damage) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M finish=300")
        .modules([next_of(damage.file())])
        .guests([updater().with("privileged").line("untrusted updates=0"), Guest::new("pulse", "16M")])
        .says(r"\(d1\) updater: load is refused with -EACCES")
        .says(r"\(d1\) updater: ends under luxen .*-a$")
        .never("took over")
}

/// The guest that does it, as domain 1.
fn updater() -> Guest {
    Guest::new("updater", "16M").with("ramdisk=next")
}

/// A machine in which the updater, domain 1, has its way.
fn kexec(name: &'static str, purpose: &'static str, line: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M")
        .modules([next()])
        .guests([updater().with("privileged").line(line)])
}
