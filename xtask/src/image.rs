//! What is booted: the hypervisor's command line and its modules, and the ISO image that GRUB boots them from.

use crate::{build, job, paths, setup, step};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// GRUB's modules for a BIOS.
const GRUB_PLATFORM: &str = "/usr/lib/grub/i386-pc";

/// Options of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Args {
    /// Where the image goes
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Updates that the hypervisor starts by itself
    #[arg(long, value_name = "N", default_value_t = job::DEFAULT_UPDATES)]
    updates: u32,
    #[command(flatten)]
    job: job::Args,
}

/// `cargo xtask image`.
pub fn verb(args: Args) -> Result<ExitCode> {
    let output = paths::from_caller(args.output)?;
    let job = args.job.with_absolute_paths()?;
    paths::enter_root()?;
    setup::ensure(setup::IMAGE)?;
    build::all()?;
    let boot = job.boot(args.updates, true, false)?;
    let output = output.unwrap_or_else(|| Path::new(paths::ISO).join("luxen.iso"));
    make_iso(&boot, &output)?;
    println!("image: {}", output.display());
    Ok(ExitCode::SUCCESS)
}

/// A Multiboot module: a file and the string that says what it is.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file.
    pub file: PathBuf,
    /// Class word and options, `guest name=pulse memory=16M -- ticks=10`.
    pub string: String,
}

impl Module {
    /// A next build of the hypervisor.
    pub fn image(file: impl Into<PathBuf>, name: &str) -> Self {
        Self { file: file.into(), string: format!("image name={name}") }
    }
}

/// All that the boot loader is given.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The kernel to start.
    pub kernel: PathBuf,
    /// Its command line.
    pub options: String,
    /// The modules, in order: the guests among them get the domain numbers 1, 2, 3...
    pub modules: Vec<Module>,
}

impl Boot {
    /// A cold boot of the first build.
    pub fn new(options: &str) -> Self {
        Self { kernel: paths::out("luxen"), options: options.to_owned(), modules: Vec::new() }
    }

    /// The string of every guest module, in order.
    pub fn guest_strings(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(|module| module.string.as_str()).filter(|string| string.starts_with("guest "))
    }
}

/// Writes an ISO image that boots `boot` under GRUB on a BIOS.
pub fn make_iso(boot: &Boot, iso: &Path) -> Result<()> {
    let tree = tempfile::tempdir().context("cannot make a temporary directory")?;
    let boot_dir = tree.path().join("boot");
    fs::create_dir_all(boot_dir.join("grub"))?;
    let copy = |file: &Path| -> Result<String> {
        let name = file.file_name().context("a module without a file name")?.to_string_lossy().into_owned();
        fs::copy(file, boot_dir.join(&name)).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(name)
    };
    let kernel = copy(&boot.kernel)?;
    let mut modules = Vec::new();
    for module in &boot.modules {
        modules.push((copy(&module.file)?, module.string.as_str()));
    }
    fs::write(boot_dir.join("grub/grub.cfg"), grub_cfg(&kernel, &boot.options, &modules))?;

    let mut command = Command::new("grub-mkrescue");
    command.args(["-d", GRUB_PLATFORM, "--fonts=", "--locales=", "--themes="]);
    command.arg("--install-modules=normal iso9660 multiboot2 serial terminal echo halt");
    command.arg("-o").args([iso, tree.path()]);
    let output = command.output().context("cannot run grub-mkrescue (Debian package grub-common)")?;
    ensure!(
        output.status.success(),
        "{} failed:\n{}",
        step::shell(&command),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// No menu: the commands run at once, and what comes after `boot` runs only if it failed.
fn grub_cfg(kernel: &str, options: &str, modules: &[(String, &str)]) -> String {
    let mut text = String::from("serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n");
    text.push_str(&format!("multiboot2 /boot/{kernel}{}\n", grub_words(options)));
    for (file, string) in modules {
        text.push_str(&format!("module2 /boot/{file}{}\n", grub_words(string)));
    }
    text.push_str("boot\necho \"grub: cannot boot luxen\"\nhalt\n");
    text
}

/// Each word behind a space, quoted so that GRUB's shell leaves it alone.
fn grub_words(text: &str) -> String {
    let plain = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"=-_.,:@/+".contains(&b));
    text.split_ascii_whitespace()
        .map(|word| if plain(word) { format!(" {word}") } else { format!(" '{}'", word.replace('\'', r"'\''")) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_gets_each_word_as_it_is() {
        let text = grub_cfg("luxen", "liveupdate=32M@0x10000000", &[("pulse".into(), "guest name=p -- a;b 'c' $d")]);
        assert!(text.contains("multiboot2 /boot/luxen liveupdate=32M@0x10000000\n"));
        assert!(text.contains(r"module2 /boot/pulse guest name=p -- 'a;b' ''\''c'\''' '$d'"));
    }

    #[test]
    fn only_guests_count_as_guests() {
        let mut boot = Boot::new("");
        boot.modules.push(Module::image("luxen-next", "guest-like"));
        boot.modules.push(Module { file: "pulse".into(), string: "guest name=pulse".into() });
        assert_eq!(boot.guest_strings().collect::<Vec<_>>(), ["guest name=pulse"]);
    }
}
