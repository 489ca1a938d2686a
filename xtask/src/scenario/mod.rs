//! QEMU scenarios: each boots a machine, does something at its console, and says what has to come of it.
//!
//! A scenario is data; the files beside this one hold them by theme. [`runner`] makes machines of them.

pub mod at_jump;
mod boot;
mod console;
mod failure;
mod grants;
mod guests;
mod handover;
mod hostile;
mod kexec;
mod linux;
mod memory;
mod pause;
mod plan;
mod refusal;
mod region;
pub mod runner;
mod smp;
mod stream;
mod update;

use crate::console::Act;
use crate::image::{Boot, Module};
use crate::job::Guest;
use crate::linux as linux_guest;
use crate::lu::xen;
use crate::report::Verdict;
use crate::{build, damage, grub_pv, paths, setup};
use anyhow::{Result, ensure};
use at_jump::AtJump;
use regex::Regex;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Options of `cargo xtask qemu-test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only scenarios whose name contains this
    filter: Option<String>,
    /// The long ones, too; without it they run only if FILTER names them
    #[arg(long)]
    all: bool,
    /// Print the scenarios and what each is for, and run none
    #[arg(long)]
    list: bool,
    /// Write each scenario's name, verdict, seconds and log to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Machines at a time
    #[arg(long, value_name = "N", default_value_t = runner::DEFAULT_JOBS)]
    jobs: usize,
    /// Boot what target/luxen/ has, without compiling
    #[arg(long)]
    no_build: bool,
    /// Take the pauses that are found as the ones that tests/pause.json holds
    #[arg(long)]
    accept: bool,
}

/// `cargo xtask qemu-test`.
pub fn verb(args: Args) -> Result<ExitCode> {
    let json = paths::from_caller(args.json)?;
    paths::enter_root()?;
    let mut chosen = chosen(args.filter.as_deref(), args.all || args.list);
    if args.list {
        for Scenario { name, purpose, is_extended, .. } in &chosen {
            println!("{name:<28} {purpose}{}", if *is_extended { " (--all)" } else { "" });
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        !chosen.is_empty(),
        "no scenario's name contains {:?}; --list prints them",
        args.filter.unwrap_or_default()
    );
    setup::ensure(setup::BOOT)?;
    build::all_unless(args.no_build)?;
    prepare(&chosen, args.no_build)?;
    let held: Vec<&str> = chosen.iter().filter(|s| s.expect.pauses.is_some()).map(|s| s.name).collect();
    if args.accept {
        chosen.iter_mut().for_each(|scenario| scenario.expect.pauses = None);
    }
    let results = runner::run_all(&chosen, args.jobs)?;
    if args.accept {
        let good = results.iter().filter(|r| r.verdict == Verdict::Success && held.contains(&r.name.as_str()));
        pause::accept(good.map(|result| (result.name.clone(), result.pauses_ns.clone())).collect())?;
    }
    if let Some(json) = json {
        paths::write_json(&json, &results)?;
    }
    let tally = runner::Tally::of(&results);
    println!("{tally}");
    Ok(ExitCode::from(u8::from(tally.failed != 0)))
}

/// Makes what the scenarios take beside the two builds and the small guests.
pub fn prepare(scenarios: &[Scenario], no_build: bool) -> Result<()> {
    damage::make_all()?;
    let has = |name: &str| scenarios.iter().any(|scenario| scenario.has_module(name));
    if has(linux_guest::KERNEL) || has(linux_guest::SMALL_KERNEL) {
        linux_guest::ensure(no_build)?;
    }
    let (first_stream, _) = build::FIRST_STREAM;
    let from_first = scenarios.iter().any(|scenario| scenario.boot.kernel == paths::out(first_stream));
    if !no_build && (from_first || has(first_stream)) {
        build::kernel(build::FIRST_STREAM)?;
    }
    if has(linux_guest::SMALL_KERNEL) {
        linux_guest::ensure_small(no_build)?;
    }
    if scenarios.iter().any(|scenario| scenario.at_jump == Some(AtJump::Capture)) {
        xen::Checker::ensure()?;
    }
    if has(grub_pv::PROGRAM) {
        grub_pv::make()?;
    }
    Ok(())
}

/// The scenarios whose name contains the filter, in their order. Without a filter the long ones are left out, unless all are wanted.
pub fn chosen(filter: Option<&str>, with_extended: bool) -> Vec<Scenario> {
    let mut all = all();
    all.retain(|scenario| match filter {
        Some(filter) => scenario.name.contains(filter),
        None => with_extended || !scenario.is_extended,
    });
    all
}

/// All scenarios, theme by theme.
fn all() -> Vec<Scenario> {
    let themes = [
        boot::all(),
        region::all(),
        update::all(),
        stream::all(),
        guests::all(),
        grants::all(),
        memory::all(),
        pause::all(),
        smp::all(),
        console::all(),
        refusal::all(),
        plan::all(),
        failure::all(),
        hostile::all(),
        kexec::all(),
        handover::all(),
        linux::all(),
    ];
    themes.into_iter().flatten().collect()
}

/// How the kernel gets into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By GRUB and Multiboot2, as on a real machine.
    Grub,
    /// By QEMU's own Multiboot1 loader, which is faster.
    Qemu,
}

/// One scenario. The functions that change it are chained.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What it shows, in a line.
    pub purpose: &'static str,
    /// The machine's memory, as QEMU takes it.
    pub memory: &'static str,
    /// How the kernel gets into memory.
    pub way: Way,
    /// Kernel, command line and modules.
    pub boot: Boot,
    /// What is typed.
    pub script: Vec<Act>,
    /// What has to come of it.
    pub expect: Expect,
    /// The machine boots again after a reset; otherwise that ends it.
    pub reboots: bool,
    /// What is done when the machine stands at the jump; nobody stops it there if it is none.
    pub at_jump: Option<AtJump>,
    /// Seconds of the host after which it is an ERROR.
    pub limit: Duration,
    /// Left out unless all are wanted, or this one.
    pub is_extended: bool,
}

/// What has to come of a scenario.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The machine's own verdict.
    pub verdict: Verdict,
    /// Updates reported.
    pub updates: u32,
    /// There are more than two builds: an update need not go back to where the one before came from.
    pub is_onward: bool,
    /// Patterns that some line has to match.
    pub says: Vec<Regex>,
    /// Patterns that no line may match.
    pub never: Vec<Regex>,
    /// Patterns with a group: what it matches is the same in all lines that match, of which there are two or more.
    pub same: Vec<Regex>,
    /// Every update finds as much memory claimed as the one before, and as much free as the last one of the same build.
    pub is_steady: bool,
    /// The last update takes as long as the second one did, and stops the guests as long.
    pub is_even: bool,
    /// Nanoseconds of each update's pause, from which it may differ by a twentieth.
    pub pauses: Option<Vec<u64>>,
    /// Domain numbers of guests that need not give a verdict of success: they are the ones that misbehave.
    pub lost: Vec<u32>,
}

impl Scenario {
    /// A machine of 512 MiB with a chosen region, booted by QEMU, that has to end with SUCCESS and without an update.
    pub fn new(name: &'static str, purpose: &'static str) -> Self {
        Self {
            name,
            purpose,
            memory: "512M",
            way: Way::Qemu,
            boot: Boot::new("exit=qemu"),
            script: Vec::new(),
            reboots: false,
            expect: Expect {
                verdict: Verdict::Success,
                updates: 0,
                is_onward: false,
                says: Vec::new(),
                never: Vec::new(),
                same: Vec::new(),
                is_steady: false,
                is_even: false,
                pauses: None,
                lost: Vec::new(),
            },
            at_jump: None,
            limit: Duration::from_secs(180),
            is_extended: false,
        }
    }

    /// Sets the machine's memory.
    pub fn memory(mut self, memory: &'static str) -> Self {
        self.memory = memory;
        self
    }

    /// Boots by GRUB, which takes its time.
    pub fn grub(mut self) -> Self {
        self.way = Way::Grub;
        self.limit += Duration::from_secs(60);
        self
    }

    /// Boots another build than `luxen`.
    pub fn kernel(mut self, name: &str) -> Self {
        self.boot.kernel = paths::out(name);
        self
    }

    /// Adds options to the hypervisor's command line.
    pub fn options(mut self, options: &str) -> Self {
        self.boot.options = format!("{} {options}", self.boot.options);
        self
    }

    /// Adds guests; the first guest of all is domain 1.
    pub fn guests(mut self, guests: impl IntoIterator<Item = Guest>) -> Self {
        self.boot.modules.extend(guests.into_iter().map(|guest| guest.module()));
        self
    }

    /// Adds modules as they are.
    pub fn modules(mut self, modules: impl IntoIterator<Item = Module>) -> Self {
        self.boot.modules.extend(modules);
        self
    }

    /// Waits for a line that matches, then types the keys.
    pub fn when(mut self, pattern: &str, keys: &str) -> Self {
        self.script.push(Act::Wait(regex(pattern)));
        self.types(keys)
    }

    /// This many times: waits for a line that matches, asks for an update, and waits until it is over.
    pub fn update_each(mut self, pattern: &str, count: u32) -> Self {
        for _ in 0..count {
            self = self.when(pattern, "u");
            self.script.push(Act::Wait(regex("lu: report ")));
        }
        self.expect.updates += count;
        self
    }

    /// Waits for text that matches, a prompt, and then types the keys.
    pub fn at(mut self, pattern: &str, keys: &str) -> Self {
        self.script.push(Act::See(regex(pattern)));
        self.script.push(Act::Type(keys.to_owned()));
        self
    }

    /// Waits until the guest in focus has said exactly this.
    pub fn hears(mut self, text: String) -> Self {
        self.script.push(Act::Hear(text));
        self
    }

    /// Types the keys.
    pub fn types(mut self, keys: impl Into<String>) -> Self {
        self.script.push(Act::Type(keys.into()));
        self
    }

    /// Leaves the console unread for some seconds.
    pub fn rests(mut self, seconds: u64) -> Self {
        self.script.push(Act::Rest(Duration::from_secs(seconds)));
        self
    }

    /// Has to report this many updates.
    pub fn updates(mut self, updates: u32) -> Self {
        self.expect.updates = updates;
        self
    }

    /// The updates go through more than two builds.
    pub fn onward(mut self) -> Self {
        self.expect.is_onward = true;
        self
    }

    /// Some line has to match.
    pub fn says(mut self, pattern: &str) -> Self {
        self.expect.says.push(regex(pattern));
        self
    }

    /// No line may match.
    pub fn never(mut self, pattern: &str) -> Self {
        self.expect.never.push(regex(pattern));
        self
    }

    /// All lines that match say the same in the pattern's group, and there are two or more.
    pub fn same(mut self, pattern: &str) -> Self {
        self.expect.same.push(regex(pattern));
        self
    }

    /// The machine boots again after a reset.
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// Nobody gains or loses memory from one update to the next.
    pub fn steady_memory(mut self) -> Self {
        self.expect.is_steady = true;
        self
    }

    /// The last of many updates takes no longer than the second, which goes the same way.
    pub fn even_pauses(mut self) -> Self {
        self.expect.is_even = true;
        self
    }

    /// The pauses have to be what they were.
    pub fn holds_pauses(mut self, figures_ns: Vec<u64>) -> Self {
        self.expect.pauses = Some(figures_ns);
        self
    }

    /// The guest with this domain number need not succeed.
    pub fn loses(mut self, domain: u32) -> Self {
        self.expect.lost.push(domain);
        self
    }

    /// Stops the machine at its jumps.
    pub fn at_jump(mut self, what: AtJump) -> Self {
        self.at_jump = Some(what);
        self
    }

    /// The machine's verdict has to be this one.
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.expect.verdict = verdict;
        self
    }

    /// Takes too long to be run each time: only with `--all`, or if it is asked for by name.
    pub fn extended(mut self) -> Self {
        self.is_extended = true;
        self
    }

    /// True if a file of target/luxen/ is among the modules.
    fn has_module(&self, name: &str) -> bool {
        let file = paths::out(name);
        self.boot.modules.iter().any(|module| module.file == file)
    }

    /// May take this many seconds.
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }
}

/// A pattern of a scenario.
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|error| panic!("a scenario's pattern is not well-formed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_file_names_and_each_is_there_once() {
        let mut seen = BTreeSet::new();
        for scenario in all() {
            assert!(scenario.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(!scenario.purpose.is_empty() && !scenario.purpose.ends_with('.'), "{}", scenario.name);
            assert!(seen.insert(scenario.name), "{} is there twice", scenario.name);
        }
    }

    #[test]
    fn lost_guests_exist() {
        for scenario in all() {
            let guests = scenario.boot.guest_strings().count() as u32;
            assert!(scenario.expect.lost.iter().all(|d| (1..=guests).contains(d)), "{}", scenario.name);
        }
    }

    #[test]
    fn the_filter_takes_part_of_a_name() {
        assert_eq!(chosen(None, true).len(), all().len());
        assert!(chosen(Some("no such name"), true).is_empty());
        assert!(chosen(Some("boot"), false).iter().all(|scenario| scenario.name.contains("boot")));
    }

    #[test]
    fn long_scenarios_run_when_they_are_asked_for() {
        let long = all().into_iter().find(|scenario| scenario.is_extended).unwrap().name;
        let has = |chosen: Vec<Scenario>| chosen.iter().any(|scenario| scenario.name == long);
        assert!(!has(chosen(None, false)));
        assert!(has(chosen(None, true)));
        assert!(has(chosen(Some(long), false)));
    }
}
