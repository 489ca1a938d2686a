//! The main job: two builds of the hypervisor, Linux and five small guests, updates from one build to the other and back.

use crate::image::{Boot, Module};
use crate::{linux, paths};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// Updates of the main job.
pub const DEFAULT_UPDATES: u32 = 6;
/// The size of the live-update region.
pub const REGION: &str = "liveupdate=32M";
/// Milliseconds until the first update, from each to the next, and from the last to the line `finish` on every guest's
/// console: the guests are under way when the first comes, and busy again before the next.
pub const TIMING: &str = "lu-first=300 lu-every=200 finish=300";
/// The same with Linux among the guests. Beside five others it takes 13 s to its shell, and 15 s more to fill half of its memory: the first
/// update finds it in its boot, three while it fills its memory, the last two with all its jobs at work.
pub const LINUX_TIMING: &str = "lu-first=10000 lu-every=5000 finish=2500";

/// One guest to be.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its kernel.
    file: PathBuf,
    /// Name of the domain.
    name: String,
    /// Size, `16M`.
    memory: String,
    /// Further options of the module string, `privileged`.
    options: String,
    /// Its own command line.
    command_line: String,
}

impl Guest {
    /// A guest that runs `program` from target/luxen/ and is called after it.
    pub fn new(program: &str, memory: &str) -> Self {
        Self::of(paths::out(program), program, memory)
    }

    /// A Linux guest that does the jobs of that name, see tests/linux/root/init. It needs [`linux_ramdisk`].
    pub fn linux(memory: &str, jobs: &str) -> Self {
        Self::of(paths::out(linux::KERNEL), "linux", memory)
            .with(&format!("ramdisk={LINUX_RAMDISK}"))
            .line(format!("console=hvc0 luxen.job={jobs}"))
    }

    /// A Linux guest with the kernel and the packed file system for little memory. It needs [`small_linux_ramdisk`].
    pub fn small_linux(memory: &str, jobs: &str) -> Self {
        Self { file: paths::out(linux::SMALL_KERNEL), ..Self::linux(memory, jobs) }
            // Without them the kernel spends megabytes at boot on what the guest does not use.
            .line("initcall_blacklist=tracer_init_tracefs cgroup_disable=memory")
    }

    fn of(file: PathBuf, name: &str, memory: &str) -> Self {
        let (name, memory) = (name.to_owned(), memory.to_owned());
        Self { file, name, memory, options: String::new(), command_line: String::new() }
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
        let Self { file, name, memory, options, command_line } = self;
        let mut string = format!("guest name={name} memory={memory}{options}");
        if !command_line.is_empty() {
            string.push_str(" --");
            string.push_str(command_line);
        }
        Module { file: file.clone(), string }
    }
}

/// What the ramdisk of Linux guests is called.
const LINUX_RAMDISK: &str = "initramfs";

/// The ramdisk that [`Guest::linux`] refers to.
pub fn linux_ramdisk() -> Module {
    Module { file: paths::out(linux::INITRAMFS), string: format!("ramdisk name={LINUX_RAMDISK}") }
}

/// The ramdisk that [`Guest::small_linux`] refers to.
pub fn small_linux_ramdisk() -> Module {
    Module { file: paths::out(linux::PACKED_INITRAMFS), ..linux_ramdisk() }
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

/// The five small guests of the main job.
pub fn guests() -> Vec<Guest> {
    let mut all = vec![Guest::new("pulse", "16M"), Guest::new("memory", "64M"), Guest::new("tables", "32M")];
    all.extend(events_pair(4));
    all
}

/// Both builds as next images: the first boot runs `luxen`, so `luxen-next` is the one to go to first.
pub fn images() -> [Module; 2] {
    [Module::image(paths::out("luxen-next"), "luxen-next"), Module::image(paths::out("luxen"), "luxen")]
}

/// What the caller may say about the main job.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Args {
    /// The Linux guest's kernel, a bzImage or an ELF file [default: Debian's]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its first file system [default: busybox and tests/linux/root]. Without --interactive the guest is asked to `finish` on
    /// its console, has to print `linux: verdict SUCCESS` then, and to power off
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// More words for its command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, default_value = "")]
    append: String,
    /// Its memory
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    guest_memory: String,
    /// Only the small guests
    #[arg(long, conflicts_with_all = ["kernel", "initrd", "append", "guest_memory"])]
    no_linux: bool,
    /// More options for the hypervisor
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, default_value = "")]
    options: String,
}

impl Args {
    /// The same with paths that do not depend on the current directory.
    pub fn with_absolute_paths(mut self) -> Result<Self> {
        self.kernel = paths::from_caller(self.kernel)?;
        self.initrd = paths::from_caller(self.initrd)?;
        Ok(self)
    }

    /// The Linux guest, its files made or checked; none if it is not wanted.
    fn linux(&self, no_build: bool, jobs: &str) -> Result<Option<[Module; 2]>> {
        if self.no_linux {
            return Ok(None);
        }
        if self.kernel.is_none() || self.initrd.is_none() {
            linux::ensure(no_build)?;
        }
        let mut guest = Guest::linux(&self.guest_memory, jobs);
        let mut ramdisk = linux_ramdisk();
        if let Some(kernel) = &self.kernel {
            guest.file = linux::kernel_of_caller(kernel)?;
        }
        if let Some(initrd) = &self.initrd {
            ensure!(initrd.is_file(), "there is no file {}", initrd.display());
            ramdisk.file.clone_from(initrd);
        }
        if !self.append.is_empty() {
            guest = guest.line(&self.append);
        }
        Ok(Some([guest.module(), ramdisk]))
    }

    /// The main job. With `finishes`, the updates start by themselves and the machine ends with a verdict; otherwise someone is at
    /// the console, and Linux is alone there with a shell.
    pub fn boot(&self, updates: u32, finishes: bool, no_build: bool) -> Result<Boot> {
        let linux = self.linux(no_build, if finishes { "steady" } else { "shell" }).context("no Linux guest")?;
        Ok(boot(updates, finishes, linux, &self.options))
    }
}

fn boot(updates: u32, finishes: bool, linux: Option<[Module; 2]>, more_options: &str) -> Boot {
    let mut options = format!("{REGION} exit=qemu");
    if finishes {
        options.push(' ');
        options.push_str(if linux.is_some() { LINUX_TIMING } else { TIMING });
    }
    if updates != 0 {
        options.push_str(&format!(" lu-updates={updates}"));
    }
    if !more_options.is_empty() {
        options.push(' ');
        options.push_str(more_options);
    }
    let mut boot = Boot::new(&options);
    boot.modules.extend(images());
    if finishes || linux.is_none() {
        boot.modules.extend(guests().iter().map(Guest::module));
    }
    boot.modules.extend(linux.into_iter().flatten());
    boot
}

#[cfg(test)]
pub mod testing {
    //! The main job for tests, without files.
    use super::*;

    /// Six updates, Linux and the small guests.
    pub fn main_job() -> Boot {
        boot(6, true, Some([Guest::linux("256M", "steady").module(), linux_ramdisk()]), "")
    }

    /// What is booted for someone at the console.
    pub fn at_the_console() -> Boot {
        boot(0, false, None, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_numbers_follow_the_order_of_the_guests() {
        let boot = testing::main_job();
        let strings: Vec<&str> = boot.guest_strings().collect();
        assert_eq!(strings.len(), 6);
        assert_eq!(strings[0], "guest name=pulse memory=16M");
        assert_eq!(strings[3], "guest name=events-a memory=16M peer=events-b -- role=a peer=5");
        assert_eq!(strings[4], "guest name=events-b memory=16M peer=events-a -- role=b peer=4");
        assert_eq!(strings[5], "guest name=linux memory=256M ramdisk=initramfs -- console=hvc0 luxen.job=steady");
        assert_eq!(boot.options, format!("liveupdate=32M exit=qemu {LINUX_TIMING} lu-updates=6"));
        assert_eq!(boot.modules.last().unwrap().string, "ramdisk name=initramfs");
    }

    #[test]
    fn the_small_guests_alone_need_less_time() {
        let boot = boot(2, true, None, "more=1");
        assert_eq!(boot.guest_strings().count(), 5);
        assert_eq!(boot.options, format!("liveupdate=32M exit=qemu {TIMING} lu-updates=2 more=1"));
    }

    #[test]
    fn at_the_console_linux_is_alone() {
        let linux = [Guest::linux("64M", "shell").module(), linux_ramdisk()];
        assert_eq!(boot(0, false, Some(linux), "").guest_strings().count(), 1);
        assert_eq!(testing::at_the_console().guest_strings().count(), 5);
    }
}
