//! The operator's console: keys and output arrive whole, whatever happens at the same time.
//!
//! The guest `echo` says what it hears.

use super::Scenario;
use crate::grub_pv;
use crate::job::{self, Guest};

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        typing("console-typing", "what is typed while ten updates happen comes back, byte for byte")
            .options("lu-first=50 lu-updates=10 lu-every=20")
            .updates(10),
        typing("console-typing-alone", "what is typed faster than the guest reads waits for it"),
        Scenario::new("console-output-held", "a guest prints faster than the line takes it, through three updates")
            .options("liveupdate=32M lu-first=20 lu-updates=3 lu-every=20")
            .modules(job::images())
            .guests([Guest::new("echo", "8M").line("flood=40000"), Guest::new("memory", "16M")])
            .at("cold boot(?s:.)*\\(d1\\) > $", "\x01g")
            // 200 KB: more than the pipe to QEMU and everything behind it hold.
            .rests(5)
            .hears(numbers(0..40000))
            .types("\rfinish\r\x01\x01f")
            .updates(3)
            .limit(120),
        Scenario::new("console-prompt", "a prompt is seen without a line end, in focus and out of it")
            .options("liveupdate=32M")
            .guests([Guest::new("echo", "8M"), Guest::new("echo", "8M").named("echo-2")])
            .at("\\(d2\\) > $|\\(d2\\) > (?s:.)*\\(d1\\) > $", "\x01")
            .at("input goes to d1 echo (?s:.)*\n> $", "abc")
            .at("abc$", "\x01")
            .at("input goes to d2 echo-2 (?s:.)*\n> $", "finish\r")
            .when("domain: d2 echo-2 is gone", "1")
            .at("input goes to d1 echo (?s:.)*\n> abc$", "\rfinish\r"),
        Scenario::new("console-switch-key", "another key moves the focus, and the first one reaches the guest")
            .options("liveupdate=32M conswitch=b")
            .guests([Guest::new("echo", "8M")])
            .at("\\(d1\\) > $", "\x02\x01x")
            .hears("> x".to_owned())
            .types("\x02a")
            .when("input goes to d1", "\rfinish\r")
            .says("Ctrl-B for the next"),
        grub(),
    ]
}

/// GRUB says the verdict itself, as the last thing that it is asked to say.
fn grub() -> Scenario {
    Scenario::new(
        "grub-pv-prompt",
        "Debian's GRUB, unmodified, as a guest: it answers on its console before and after an update",
    )
    .options("liveupdate=32M")
    .modules(job::images())
    .guests([Guest::new(grub_pv::PROGRAM, "64M").named("grub").with("store=empty")])
    .at("\\(d1\\) grub> $", "\x01")
    .at("input goes to d1 grub .*\ngrub> $", "echo hello\r")
    .at("\nhello\ngrub> $", "half a wo\x01u")
    .when("lu: report", "1")
    .at("input goes to d1", "rd\r")
    // The line was begun before the update and ended after it; there is no such command.
    .at("can't find command `half'.*\n(?s:.)*grub> $", "ls\r")
    .at("grub> $", "set\r")
    .at("grub_platform=xen\n(?s:.)*grub> $", "echo grub: verdict SUCCESS\r")
    .at("\ngrub: verdict SUCCESS\ngrub> $", "halt\r")
    .says("domain: d1 grub shut down: poweroff")
    .updates(1)
}

/// Types more than the ring, the queue and the port hold to a guest that reads slowly.
fn typing(name: &'static str, purpose: &'static str) -> Scenario {
    let text = numbers(0..1500);
    Scenario::new(name, purpose)
        .options("liveupdate=32M")
        .modules(job::images())
        .guests([Guest::new("echo", "8M").line("pace=5"), Guest::new("pulse", "8M")])
        .at("cold boot", &format!("\x01{text}"))
        .hears(text)
        .types("\rfinish\r\x01\x01f")
        .limit(240)
}

/// Numbers of four digits, each with a space behind it; behind 9999 comes 0000.
pub(super) fn numbers(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("{:04} ", number % 10_000)).collect()
}
