//! Compiles both builds of the hypervisor and the guests, strips them, and signs the hypervisor.

use crate::{paths, sign, step};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The two builds of the hypervisor and the feature that tells them apart.
pub const KERNELS: [(&str, &[&str]); 2] = [("luxen", &[]), ("luxen-next", &["--features", "next"])];
/// A build of before there was a second stream version, for the scenarios that come from it or go back to it.
pub const FIRST_STREAM: (&str, &[&str]) = ("luxen-v1", &["--features", "v1"]);
/// The test guests.
pub const GUESTS: [&str; 10] =
    ["pulse", "memory", "tables", "events", "grants", "updater", "smp", "balloon", "echo", "hostile"];
/// The hypervisor's target.
pub const KERNEL_TARGET: &str = "x86_64-xen.json";
/// The guests' target.
pub const GUEST_TARGET: &str = "tests/guests/x86_64-guest.json";
/// Programs that run inside a Linux guest.
pub const LINUX_PROGRAMS: [&str; 2] = ["clock-watch", "grant-page"];
/// Their target.
pub const LINUX_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The variable that has the key to be built in.
const KEY_VARIABLE: &str = "LUXEN_KEY";

/// Cargo with what the bare targets need: they have no ready-made `core`, and the flags that build one are not stable, so
/// RUSTC_BOOTSTRAP lets them through for this one call. The code itself is stable Rust.
pub fn bare_cargo(verb: &str, target: &str) -> Command {
    let mut command = cargo(verb);
    command.env("RUSTC_BOOTSTRAP", "1").args([
        "--release",
        "--target-dir",
        paths::BARE_TARGET,
        "--target",
        target,
        "-Zbuild-std=core,alloc",
        "-Zbuild-std-features=compiler-builtins-mem",
        "-Zjson-target-spec",
    ]);
    command
}

/// Cargo for the host. The variables that `cargo run` sets for xtask must not reach it: build scripts that ask to be run
/// again when they change would make every build a full one.
pub fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command.arg(verb);
    command
}

/// Builds everything, unless what `target/luxen/` has is to be used as it is.
pub fn all_unless(no_build: bool) -> Result<()> {
    if no_build { Ok(()) } else { all() }
}

/// Builds everything.
pub fn all() -> Result<()> {
    KERNELS.into_iter().try_for_each(kernel)?;
    let mut command = bare_cargo("build", GUEST_TARGET);
    command.args(["-p", "luxen-guests", "--bins"]);
    step::run("build guests", &mut command)?;
    for name in GUESTS {
        split_debug(&Path::new(paths::BARE_TARGET).join("x86_64-guest/release").join(name), name)?;
    }
    Ok(())
}

/// Builds the hypervisor with these features under that name.
pub fn kernel((name, features): (&str, &[&str])) -> Result<()> {
    let key = sign::development()?;
    let trusted = std::env::var(KEY_VARIABLE).unwrap_or_else(|_| sign::public(&key));
    let mut command = bare_cargo("build", KERNEL_TARGET);
    command.args(["-p", "luxen", "--bin", "luxen"]).args(features).env(KEY_VARIABLE, &trusted);
    step::run(&format!("build {name}"), &mut command)?;
    // All builds come out under one name: take each away before the next is made.
    let made = Path::new(paths::BARE_TARGET).join("x86_64-xen/release/luxen");
    let file = split_debug(&made, name)?;
    let mut bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    sign::sign(&mut bytes, &key).with_context(|| format!("cannot sign {}", file.display()))?;
    fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

/// Cargo for programs that need no shared library, because an initramfs has none.
pub fn static_cargo(verb: &str) -> Command {
    let mut command = cargo(verb);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    command.args(["--release", "--target-dir", paths::STATIC_TARGET, "--target", LINUX_TARGET]);
    command
}

/// Builds the programs that run inside a Linux guest.
pub fn linux_programs() -> Result<()> {
    let mut command = static_cargo("build");
    command.args(["-p", "luxen-linux", "--bins"]);
    step::run("build linux programs", &mut command)?;
    fs::create_dir_all(paths::out("linux")).context("cannot make target/luxen/linux")?;
    for name in LINUX_PROGRAMS {
        let linked = Path::new(paths::STATIC_TARGET).join(LINUX_TARGET).join("release").join(name);
        split_debug(&linked, &format!("linux/{name}"))?;
    }
    Ok(())
}

/// Leaves the linked file as `NAME.debug` and what the machine needs of it as `NAME`, which is returned.
fn split_debug(linked: &Path, name: &str) -> Result<std::path::PathBuf> {
    let debug = paths::out(&format!("{name}.debug"));
    let stripped = paths::out(name);
    fs::copy(linked, &debug).with_context(|| format!("cannot copy {} to {}", linked.display(), debug.display()))?;
    let status = Command::new("objcopy")
        .arg("--strip-all")
        .args([&debug, &stripped])
        .status()
        .context("cannot run objcopy (Debian package binutils)")?;
    anyhow::ensure!(status.success(), "objcopy --strip-all {} failed", debug.display());
    Ok(stripped)
}
