//! Brings a machine that has rustup and a Debian family system to where luxen can be built and booted.
//!
//! Where xtask may install (root, or sudo without a password) it does, and says so; elsewhere it prints the one command that
//! does.

use crate::step;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The toolchain that rust-toolchain.toml pins.
const TOOLCHAIN: &str = "1.95.0";

/// Something a verb needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// How to tell that it is there.
    has: Has,
    /// What brings it.
    from: From,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Has {
    /// A program on the search path.
    Program(&'static str),
    /// A path of the machine.
    Path(&'static str),
    /// A path inside the toolchain.
    InToolchain(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// A component of the toolchain.
    Component(&'static str),
    /// A Debian package.
    Package(&'static str),
}

const fn program(name: &'static str, package: &'static str) -> Need {
    Need { has: Has::Program(name), from: From::Package(package) }
}

const fn component(name: &'static str, path: &'static str) -> Need {
    Need { has: Has::InToolchain(path), from: From::Component(name) }
}

const RUST_SRC: Need = component("rust-src", "lib/rustlib/src/rust/library/core/Cargo.toml");
const OBJCOPY: Need = program("objcopy", "binutils");

/// What compiling takes.
pub const BUILD: &[Need] = &[RUST_SRC, OBJCOPY];
/// What making an ISO image takes on top.
pub const IMAGE: &[Need] = &[
    RUST_SRC,
    OBJCOPY,
    program("grub-mkrescue", "grub-common"),
    Need { has: Has::Path("/usr/lib/grub/i386-pc/multiboot2.mod"), from: From::Package("grub-pc-bin") },
    program("xorriso", "xorriso"),
    program("mformat", "mtools"),
];
/// What booting one takes on top.
pub const BOOT: &[Need] =
    &[RUST_SRC, OBJCOPY, IMAGE[2], IMAGE[3], IMAGE[4], IMAGE[5], program("qemu-system-x86_64", "qemu-system-x86")];
/// Where GRUB's modules for a PV guest are.
pub const GRUB_PV_DIR: &str = "/usr/lib/grub/x86_64-xen";
/// What making GRUB a guest takes.
pub const GRUB_PV: &[Need] = &[
    Need { has: Has::Path("/usr/lib/grub/x86_64-xen/kernel.img"), from: From::Package("grub-xen-bin") },
    program("grub-mkimage", "grub-common"),
];
/// What the whole check takes.
pub const CHECK: &[Need] = &[
    RUST_SRC,
    OBJCOPY,
    IMAGE[2],
    IMAGE[3],
    IMAGE[4],
    IMAGE[5],
    BOOT[6],
    component("rustfmt", "bin/cargo-fmt"),
    component("clippy", "bin/cargo-clippy"),
];

/// What a Linux guest takes on top: programs without shared libraries, and Debian's packages to take apart.
pub const LINUX: &[Need] = &[
    RUST_SRC,
    Need { has: Has::Path("/usr/lib/x86_64-linux-gnu/libc.a"), from: From::Package("libc6-dev") },
    program("dpkg-deb", "dpkg"),
    program("tar", "tar"),
    program("apt-get", "apt"),
];

/// What Xen's check of migration streams takes.
pub const XEN: &[Need] =
    &[program("python3", "python3-minimal"), program("dpkg-deb", "dpkg"), program("apt-get", "apt")];

/// Installs what is missing, or tells how.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let sysroot = sysroot()?;
    let missing: Vec<Need> = needs.iter().copied().filter(|need| !is_there(need.has, &sysroot)).collect();
    let mut components = Vec::new();
    let mut packages = Vec::new();
    for need in missing {
        match need.from {
            From::Component(name) => components.push(name),
            From::Package(name) => packages.push(name),
        }
    }
    if !components.is_empty() {
        add_components(&components)?;
    }
    if !packages.is_empty() {
        add_packages(&packages)?;
    }
    // A second look: an installer that did nothing must not show up later as a strange build failure.
    for need in needs {
        if !is_there(need.has, &sysroot) {
            let what = match need.has {
                Has::Program(path) | Has::Path(path) | Has::InToolchain(path) => path,
            };
            let from = match need.from {
                From::Component(name) => format!("component {name} of toolchain {TOOLCHAIN}"),
                From::Package(name) => format!("Debian package {name}"),
            };
            bail!("{what} is still missing after installing the {from}");
        }
    }
    Ok(())
}

fn sysroot() -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    if !output.status.success() {
        bail!("rustc --print sysroot failed; is toolchain {TOOLCHAIN} there? `rustup toolchain install {TOOLCHAIN}`");
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn is_there(has: Has, sysroot: &Path) -> bool {
    match has {
        Has::Program(name) => find_program(name).is_some(),
        Has::Path(path) => Path::new(path).exists(),
        Has::InToolchain(path) => sysroot.join(path).exists(),
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn add_components(components: &[&str]) -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(["component", "add", "--toolchain", TOOLCHAIN]).args(components);
    if find_program("rustup").is_none() {
        bail!(
            "toolchain {TOOLCHAIN} lacks {}, and there is no rustup to run: {}",
            components.join(", "),
            step::shell(&command)
        );
    }
    eprintln!("set-up: toolchain {TOOLCHAIN} lacks {}: adding it with rustup", components.join(", "));
    step::run("set-up: rustup component add", &mut command).map(drop)
}

fn add_packages(packages: &[&str]) -> Result<()> {
    let by_hand = |prefix: &str| {
        let packages = packages.join(" ");
        format!("{prefix}apt-get update && {prefix}apt-get install -y --no-install-recommends {packages}")
    };
    if find_program("apt-get").is_none() {
        bail!("missing: {}. These are Debian's package names, and this system has no apt-get", packages.join(" "));
    }
    let is_root = rustix::process::geteuid().is_root();
    let Ok(mut update) = apt_get() else {
        bail!("missing Debian packages, and no right to install them; run:\n    {}", by_hand("sudo "));
    };
    eprintln!("set-up: installing Debian packages: {}", packages.join(" "));
    step::run("set-up: apt-get update", update.arg("update"))?;
    let prefix = if is_root { "" } else { "sudo " };
    step::run("set-up: apt-get install", apt_get()?.args(["install", "-y", "--no-install-recommends"]).args(packages))
        .with_context(|| format!("by hand it is: {}", by_hand(prefix)))
        .map(drop)
}

/// apt-get with the right to change the system; an error where there is none.
pub fn apt_get() -> Result<Command> {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && !sudo_needs_no_password() {
        bail!("no right to run apt-get update; run:\n    sudo apt-get update");
    }
    let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root {
        command.args(["-n", "apt-get"]);
    }
    // Another installer may be at work: wait for it instead of failing.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=180"]);
    Ok(command)
}

fn sudo_needs_no_password() -> bool {
    find_program("sudo").is_some()
        && Command::new("sudo")
            .args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}
