//! The main job: two builds of the hypervisor, five guests, updates from one build to the other and back.

use crate::image::{Boot, Module};
use crate::paths;

/// Updates of the main job.
pub const DEFAULT_UPDATES: u32 = 6;
/// The size of the live-update region.
pub const REGION: &str = "liveupdate=32M";
/// Milliseconds until the first update, from each to the next, and from the last to the line `finish` on every guest's
/// console: the guests are under way when the first comes, and busy again before the next.
pub const TIMING: &str = "lu-first=300 lu-every=200 finish=300";

/// One guest to be.
#[derive(Clone, Debug)]
pub struct Guest {
    /// File in target/luxen/.
    program: &'static str,
    /// Name of the domain.
    name: String,
    /// Size, `16M`.
    memory: &'static str,
    /// Further options of the module string, `privileged`.
    options: String,
    /// Its own command line.
    command_line: String,
}

impl Guest {
    /// A guest that runs `program` and is called after it.
    pub fn new(program: &'static str, memory: &'static str) -> Self {
        Self { program, name: program.to_owned(), memory, options: String::new(), command_line: String::new() }
    }

    /// Calls it something else.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds options to the module string.
    pub fn with(mut self, options: &str) -> Self {
        self.options = format!("{} {options}", self.options);
        self
    }

    /// Adds to the guest's own command line.
    pub fn line(mut self, words: impl AsRef<str>) -> Self {
        self.command_line = format!("{} {}", self.command_line, words.as_ref());
        self
    }

    /// As a module for the boot loader.
    pub fn module(&self) -> Module {
        let Self { program, name, memory, options, command_line } = self;
        let mut string = format!("guest name={name} memory={memory}{options}");
        if !command_line.is_empty() {
            string.push_str(" --");
            string.push_str(command_line);
        }
        Module { file: paths::out(program), string }
    }
}

/// The pair that sends each other numbered events; `first` is the domain number of the first of them.
pub fn events_pair(first: u32) -> [Guest; 2] {
    let second = first + 1;
    [
        Guest::new("events", "16M").named("events-a").with("peer=events-b").line(format!("role=a peer={second}")),
        Guest::new("events", "16M").named("events-b").with("peer=events-a").line(format!("role=b peer={first}")),
    ]
}

/// The pair of which one grants pages to the other; `first` is the domain number of the granter.
pub fn grants_pair(first: u32, version: u32) -> [Guest; 2] {
    let second = first + 1;
    let line = format!("version={version}");
    [
        Guest::new("grants", "16M").named("grants-a").line(format!("role=a peer={second}")).line(&line),
        Guest::new("grants", "16M").named("grants-b").line(format!("role=b peer={first}")).line(&line),
    ]
}

/// The five guests of the main job.
pub fn guests() -> Vec<Guest> {
    let mut all = vec![Guest::new("pulse", "16M"), Guest::new("memory", "64M"), Guest::new("tables", "32M")];
    all.extend(events_pair(4));
    all
}

/// Both builds as next images: the first boot runs `luxen`, so `luxen-next` is the one to go to first.
pub fn images() -> [Module; 2] {
    [Module::image(paths::out("luxen-next"), "luxen-next"), Module::image(paths::out("luxen"), "luxen")]
}

/// The main job. With `finishes`, the updates start by themselves and the machine ends with a verdict.
pub fn boot(updates: u32, finishes: bool, append: &str) -> Boot {
    let mut options = format!("{REGION} exit=qemu");
    if finishes {
        options.push_str(&format!(" {TIMING}"));
    }
    if updates != 0 {
        options.push_str(&format!(" lu-updates={updates}"));
    }
    if !append.is_empty() {
        options.push(' ');
        options.push_str(append);
    }
    let mut boot = Boot::new(&options);
    boot.modules.extend(images());
    boot.modules.extend(guests().iter().map(Guest::module));
    boot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_numbers_follow_the_order_of_the_guests() {
        let boot = boot(6, true, "");
        let strings: Vec<&str> = boot.guest_strings().collect();
        assert_eq!(strings.len(), 5);
        assert_eq!(strings[0], "guest name=pulse memory=16M");
        assert_eq!(strings[3], "guest name=events-a memory=16M peer=events-b -- role=a peer=5");
        assert_eq!(strings[4], "guest name=events-b memory=16M peer=events-a -- role=b peer=4");
        assert_eq!(boot.options, "liveupdate=32M exit=qemu lu-first=300 lu-every=200 finish=300 lu-updates=6");
    }
}
