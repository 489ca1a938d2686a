//! Debian's GRUB as a guest's kernel: an unmodified PV kernel that is not Linux, reads its console's ring by looking at it, and answers what is typed.

use crate::{paths, setup, step};
use anyhow::Result;
use std::process::Command;

/// The kernel in target/luxen/.
pub const PROGRAM: &str = "grub-pv";
/// Commands that it knows beyond its shell's own.
const MODULES: [&str; 6] = ["normal", "echo", "ls", "help", "minicmd", "halt"];

/// Puts the kernel together from the package's modules.
pub fn make() -> Result<()> {
    setup::ensure(setup::GRUB_PV)?;
    let mut command = Command::new("grub-mkimage");
    command
        .args(["-O", "x86_64-xen", "-d", setup::GRUB_PV_DIR, "-p", "/", "-o"])
        .arg(paths::out(PROGRAM))
        .args(MODULES);
    step::run("make grub-pv", &mut command).map(drop)
}
