//! A Linux guest: Debian's kernel and busybox, brought to where a machine can boot them, and what the guest does.
//!
//! ```text
//! linux-image-*.deb ─► vmlinuz ─► vmlinux ─► what the loader needs of it ─► target/luxen/linux/vmlinux
//! busybox-static.deb, tests/linux/root, tests/linux/src/bin ────────────────► target/luxen/linux/initramfs
//! ```

mod initramfs;
mod kernel;
mod packages;
mod slim;

use crate::{build, paths, setup};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The kernel that guests boot.
pub const KERNEL: &str = "linux/vmlinux";
/// Their first file system.
pub const INITRAMFS: &str = "linux/initramfs";

/// Makes [`KERNEL`] and [`INITRAMFS`] in target/luxen/, unless what is there is to be used as it is.
pub fn ensure(no_build: bool) -> Result<()> {
    if no_build && paths::out(KERNEL).exists() && paths::out(INITRAMFS).exists() {
        return Ok(());
    }
    setup::ensure(setup::LINUX)?;
    build::linux_programs()?;
    let debian = packages::ensure()?;
    fs::create_dir_all(paths::out("linux")).context("cannot make target/luxen/linux")?;
    let vmlinuz = debian.vmlinuz()?;
    let vmlinux = paths::out(KERNEL);
    // Unpacking takes seconds; a newer package or another xtask makes it necessary.
    let is_current = is_newer(&vmlinux, &vmlinuz) && std::env::current_exe().is_ok_and(|exe| is_newer(&vmlinux, &exe));
    if !is_current {
        unpack(&vmlinuz, &vmlinux)?;
    }
    initramfs::write(&debian, &paths::out(INITRAMFS))
}

/// The kernel `file` as a file that the boot loader can be given: as it is if it is an ELF file, otherwise unpacked into
/// target/luxen/linux/.
pub fn kernel_of_caller(file: &Path) -> Result<PathBuf> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if kernel::is_elf(&bytes) {
        return Ok(file.to_owned());
    }
    fs::create_dir_all(paths::out("linux")).context("cannot make target/luxen/linux")?;
    let vmlinux = paths::out("linux/vmlinux-given");
    unpack(file, &vmlinux)?;
    Ok(vmlinux)
}

/// Unpacks the bzImage `from` into the small ELF file `to`.
fn unpack(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let whole = kernel::unpack(&bytes).with_context(|| format!("{} is no kernel to boot", from.display()))?;
    let small = slim::slim(&whole).with_context(|| format!("{} holds a strange kernel", from.display()))?;
    fs::write(to, &small).with_context(|| format!("cannot write {}", to.display()))?;
    let mib = |bytes: &[u8]| bytes.len() as f64 / f64::from(1 << 20);
    eprintln!(
        "{}: {:.1} MiB packed, {:.1} MiB unpacked, {:.1} MiB of it are for the loader",
        from.display(),
        mib(&bytes),
        mib(&whole),
        mib(&small)
    );
    Ok(())
}

/// True if both exist and the first is not the older.
fn is_newer(first: &Path, second: &Path) -> bool {
    let time = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    time(first).is_some_and(|first| time(second).is_some_and(|second| first >= second))
}
