//! The virtual machine: how QEMU is called.

use crate::image::Boot;
use crate::{paths, step, stop};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// The emulator.
const QEMU: &str = "qemu-system-x86_64";
/// The key behind which QEMU listens to the terminal itself: Ctrl-].
const QEMU_ESCAPE: &str = "0x1d";

/// Who executes the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// QEMU itself: works everywhere, and time can be counted in instructions
    Tcg,
    /// The processor, through /dev/kvm: time is the host's
    Kvm,
}

/// What the machine's clocks follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// One nanosecond is one instruction, and random numbers are the same each time: two runs agree, and a busy host changes nothing.
    Instructions,
    /// The host's clock.
    Host,
}

/// Where COM1 goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// To xtask, through pipes.
    Pipes,
    /// To the terminal, together with QEMU's monitor (Ctrl-] c), and to a log.
    Terminal {
        /// The log.
        log: PathBuf,
    },
}

/// How the kernel gets into memory.
#[derive(Clone, Debug)]
pub enum Loader {
    /// GRUB, from this ISO image.
    Grub(PathBuf),
    /// QEMU's own Multiboot1 loader, which reads no module through an emulated disk.
    Qemu(Boot),
}

/// How xtask looks into a machine, see [`crate::stop`].
#[derive(Clone, Debug)]
pub struct Inspect {
    /// The directory of its sockets.
    pub sockets: PathBuf,
    /// It does not go away by itself, neither with a verdict nor by a reset: its memory can be looked at when it has come to rest.
    pub stays: bool,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `-m`: a number of MiB, or with a suffix.
    pub memory: String,
    /// How the kernel gets into memory.
    pub loader: Loader,
    /// Who executes.
    pub accel: Accel,
    /// What time is.
    pub clock: Clock,
    /// Where the console goes.
    pub serial: Serial,
    /// It boots again after a reset; otherwise that ends it.
    pub reboots: bool,
    /// If somebody looks into it: then it stands still until it is told to run.
    pub inspect: Option<Inspect>,
}

impl Machine {
    /// QEMU's arguments.
    pub fn args(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
        add(&["-nodefaults", "-no-user-config"]);
        match self.accel {
            // QEMU 7.2 faults on IRETQ in ring 3 with CR4.SMAP set, and x2APIC is missing there.
            Accel::Tcg => {
                add(&["-accel", "tcg,thread=single", "-cpu", "max,-smap"]);
                if self.clock == Clock::Instructions {
                    add(&["-icount", "shift=0,sleep=off"]);
                    add(&["-rtc", "clock=vm,base=2026-01-01T00:00:00"]);
                    // What RDRAND gives decides where Linux lays its things, and so what is in its page tables.
                    add(&["-seed", "1"]);
                }
            }
            Accel::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        }
        add(&["-m", &self.memory, "-display", "none"]);
        if !self.reboots {
            add(&["-no-reboot"]);
        }
        match &self.serial {
            Serial::Pipes => add(&["-chardev", "stdio,id=com1,signal=off"]),
            Serial::Terminal { log } => {
                let log = log.to_string_lossy().replace(',', ",,");
                add(&["-chardev", &format!("stdio,id=com1,mux=on,signal=off,logfile={log}")]);
                // Ctrl-A, which QEMU would take for itself, belongs to the hypervisor.
                add(&["-mon", "chardev=com1,mode=readline", "-echr", QEMU_ESCAPE]);
            }
        }
        add(&["-serial", "chardev:com1"]);
        if !self.stays() {
            add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        }
        if let Some(inspect) = &self.inspect {
            for (name, option) in [(stop::GDB_SOCKET, "-gdb"), (stop::QMP_SOCKET, "-qmp")] {
                let socket = inspect.sockets.join(name).to_string_lossy().replace(',', ",,");
                add(&["-chardev", &format!("socket,id={name},path={socket},server=on,wait=off")]);
                add(&[option, &format!("chardev:{name}")]);
            }
            add(&["-S"]);
            if self.stays() {
                add(&["-no-shutdown"]);
            }
        }
        match &self.loader {
            Loader::Grub(iso) => {
                // The image boots from a disk as well. GRUB reads 40 MB from this one in 5 s of the host's processor, from an
                // emulated CD-ROM in 7 s, from an IDE disk in 13 s.
                let iso = iso.to_string_lossy().replace(',', ",,");
                add(&["-drive", &format!("if=virtio,format=raw,readonly=on,file={iso}")]);
            }
            Loader::Qemu(boot) => {
                add(&["-kernel", &boot.kernel.to_string_lossy(), "-append", &boot.options]);
                // The loader splits the list at commas, so those inside a string are doubled.
                let modules: Vec<String> = boot
                    .modules
                    .iter()
                    .map(|m| format!("{} {}", m.file.display(), m.string).replace(',', ",,"))
                    .collect();
                if !modules.is_empty() {
                    add(&["-initrd", &modules.join(",")]);
                }
            }
        }
        args
    }

    /// True if it does not go away by itself.
    pub fn stays(&self) -> bool {
        self.inspect.as_ref().is_some_and(|inspect| inspect.stays)
    }

    /// The call, ready to be started from the repository's root.
    pub fn command(&self) -> Command {
        let mut command = Command::new(QEMU);
        command.args(self.args());
        command
    }

    /// The call as it can be pasted into a shell anywhere.
    pub fn pasteable(&self) -> String {
        let root = std::env::current_dir().map_or_else(|_| ".".to_owned(), |dir| dir.to_string_lossy().into_owned());
        format!("cd {} && {}", step::quote(&root), step::shell(&self.command()))
    }
}

/// What it says that it is, `QEMU emulator version 7.2.22 (...)`.
pub fn version() -> Result<String> {
    let output = Command::new(QEMU).arg("--version").output().with_context(|| format!("cannot run {QEMU}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned).with_context(|| format!("{QEMU} --version says nothing"))
}

/// The ISO image of a machine called `name`.
pub fn iso_path(name: &str) -> PathBuf {
    PathBuf::from(paths::ISO).join(format!("{name}.iso"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Module;

    #[test]
    fn commas_in_a_module_string_are_doubled() {
        let mut boot = Boot::new("a=b,c");
        boot.modules.push(Module { file: "x".into(), string: "guest name=x -- 1,2".into() });
        boot.modules.push(Module::image("y", "y"));
        let machine = Machine {
            memory: "256".into(),
            loader: Loader::Qemu(boot),
            accel: Accel::Tcg,
            clock: Clock::Instructions,
            serial: Serial::Pipes,
            reboots: false,
            inspect: None,
        };
        let args = machine.args();
        assert_eq!(args.last().unwrap(), "x guest name=x -- 1,,2,y image name=y");
        assert!(args.contains(&"a=b,c".to_owned()));
        assert!(machine.pasteable().contains("-initrd 'x guest name=x -- 1,,2,y image name=y'"));
    }
}
