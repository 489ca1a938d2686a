//! Debian's kernel as a guest: it boots, works, and does not notice updates.
//!
//! What the guest does stands in tests/linux/root: its jobs check themselves all the time, and on the line `finish` it looks at their results
//! and at its kernel's messages, and gives a verdict. Nothing here waits for a time: the script goes on when a line says that
//! the guest has come so far.

use super::Scenario;
use crate::digest;
use crate::job::{self, Guest};
use crate::report::Verdict;

/// The guest's first process has a shell ready on the console.
const SHELL: &str = r"\) linux: shell at ";
/// The guest's heart beats.
const BEAT: &str = r"\) linux: beat ";
/// The key that types `finish` to every guest.
const FINISH: &str = "f";

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("linux-boot-64m", "Debian's kernel for cloud images boots in 64 MiB, and is updated")
            .memory("512M")
            .options("liveupdate=32M")
            .modules(job::images())
            .modules([job::small_linux_ramdisk()])
            .guests([Guest::small_linux("64M", "shell")])
            .update_each(SHELL, 1)
            .when("lu: report", FINISH)
            .limit(300)
            .extended(),
        linux(
            "linux-boot-too-small",
            "64 MiB are less than the ordinary kernel alone: refused, with the figure",
            Guest::linux("64M", "shell"),
        )
        .loses(1)
        .says("linux cannot be created: 65536 KiB of memory are too little, the kernel needs [0-9]+ KiB"),
        boots("linux-boot-128m", "Linux boots to its shell in 128 MiB", "128M").extended(),
        boots("linux-boot-256m", "Linux boots to its shell in 256 MiB", "256M").extended(),
        boots("linux-boot-1g", "Linux boots to its shell in 1 GiB", "1G").memory("2G").extended(),
        boots("linux-boot-above-4g", "Linux boots with all of its memory above the hole", "256M")
            .memory("6G")
            // The region takes nearly all of the memory below the hole.
            .options("liveupdate=2816M")
            .says(r"domain: d1 linux created: .*\[0x1[0-9a-f]{8}, "),
        linux("linux-boot-2vcpus", "Linux boots on two vCPUs", Guest::linux("256M", "shell").with("vcpus=2"))
            .when(SHELL, FINISH)
            .says("smp: Brought up 1 node, 2 CPUs")
            .extended(),
        linux("linux-update-busy", "three updates under a busy Linux, by GRUB", Guest::linux("256M", "steady"))
            .grub()
            .update_each(BEAT, 3)
            .when(BEAT, FINISH),
        linux(
            "linux-update-2vcpus",
            "three updates under a busy Linux on two vCPUs",
            Guest::linux("256M", "steady").with("vcpus=2"),
        )
        .update_each(BEAT, 3)
        .when(BEAT, FINISH)
        .limit(600)
        .extended(),
        linux(
            "linux-update-storm",
            "twenty updates while processes come and go as in a build",
            Guest::linux("256M", "files,storm,clock,beat"),
        )
        .update_each(BEAT, 20)
        .when(BEAT, FINISH)
        .limit(600)
        .extended(),
        shell(),
        linux("linux-update-in-boot", "ten updates spread over Linux's boot", Guest::linux("256M", "shell"))
            // What is typed waits until someone reads it.
            .options("lu-first=150 lu-every=400 lu-updates=10 finish=500")
            .updates(10)
            .says(SHELL)
            .limit(400),
        linux(
            "linux-balloon",
            "memory is given back and taken again around updates",
            Guest::linux("256M", "beat,balloon"),
        )
        .update_each("linux: balloon at", 1)
        .update_each(BEAT, 4)
        .when(BEAT, FINISH)
        .extended(),
        linux("linux-grant", "two Linux guests share a granted page through updates", grant("share", 2))
            .guests([grant("map", 1).named("other")])
            .update_each(r"\(d2\) linux: beat ", 3)
            .when(r"\(d2\) linux: beat ", FINISH)
            .extended(),
        linux(
            "linux-panic",
            "a kernel that panics after an update is its own domain's end only",
            Guest::linux("256M", "shell"),
        )
        .guests([Guest::new("memory", "32M")])
        .update_each(SHELL, 1)
        .types(tell("echo c > /proc/sysrq-trigger", 2))
        .when("domain: d1 linux is gone", FINISH)
        .loses(1)
        .verdict(Verdict::Failure)
        .says("domain: d1 linux shut down: crash")
        .extended(),
        linux("linux-poweroff", "Linux powers off after an update", Guest::linux("256M", "shell"))
            .update_each(SHELL, 1)
            .types(tell("finish stay; poweroff -f", 1))
            .says("domain: d1 linux shut down: poweroff")
            .extended(),
        linux("linux-reboot", "Linux reboots after an update, and is updated again", Guest::linux("256M", "shell"))
            .update_each(SHELL, 1)
            .types(tell("finish stay; reboot -f", 1))
            .update_each(SHELL, 1)
            .types(FINISH)
            .says("domain: d1 linux shut down: reboot")
            .says(r"\(d2\) linux: verdict SUCCESS")
            .extended(),
    ]
}

/// Someone works in the guest's shell and updates the hypervisor in the middle of it: first while typing into a file, then under a running `top`.
fn shell() -> Scenario {
    let text: String = (0..300).map(|number| format!("{number:03} ")).collect();
    let sum = digest::sha256(text.as_bytes());
    linux("linux-shell", "two updates by key while someone types in Linux's shell", Guest::linux("256M", "shell"))
        .when(SHELL, "\x01")
        .at("input goes to d1 linux(?s:.)*luxen# $", "echo ready; cat > /tmp/typed\r")
        // The key that updates, the key that goes back to the guest, and the text, in one go: most of it arrives while the update is prepared and done.
        // Until it runs the line, the shell has the terminal echo nothing.
        .at("\nready\n$", &format!("\x01u1{text}"))
        .hears(text)
        // Twice the end of the file, as there is no end of a line before it.
        .types("\x04\x04")
        .at("luxen# $", "sha256sum /tmp/typed\r")
        .at(&format!("{sum}  /tmp/typed\n(?s:.)*luxen# $"), "top\r")
        .at("Load average", "\x01u1")
        .when("lu: report", "")
        .at("Load average", "q")
        .at("luxen# $", "echo back $((6 * 7))\r")
        .at("\nback 42\n(?s:.)*luxen# $", "finish\r")
        .updates(2)
        .limit(240)
}

/// A machine of 1 GiB with one Linux guest and both builds.
fn linux(name: &'static str, purpose: &'static str, guest: Guest) -> Scenario {
    Scenario::new(name, purpose)
        .memory("1G")
        .options("liveupdate=32M")
        .modules(job::images())
        .modules([job::linux_ramdisk()])
        .guests([guest])
        .limit(300)
}

/// Linux boots, its shell is there, and it finds nothing to complain of.
fn boots(name: &'static str, purpose: &'static str, memory: &str) -> Scenario {
    linux(name, purpose, Guest::linux(memory, "shell")).when(SHELL, FINISH)
}

/// A guest that shares a page with the domain `peer`.
fn grant(role: &str, peer: u32) -> Guest {
    Guest::linux("128M", "beat,clock,grant").line(format!("luxen.grant={role} luxen.peer={peer}"))
}

/// The keys that type a line on the first guest's console, and give the hypervisor the keys again: there are so many guests.
fn tell(line: &str, guests: usize) -> String {
    format!("\x01{line}\n{}", "\x01".repeat(guests))
}
