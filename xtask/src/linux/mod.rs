//! A Linux guest: Debian's kernel and busybox, brought to where a machine can boot them, and what the guest does.
//!
//! ```text
//! linux-image-*.deb ─► vmlinuz ─► vmlinux ─► what the loader needs of it ─► target/luxen/linux/vmlinux
//! busybox-static.deb, tests/linux/root, tests/linux/src/bin ────────────────► target/luxen/linux/initramfs
//! ```

mod initramfs;
mod kernel;
pub mod packages;
mod slim;

use crate::{build, paths, setup};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The kernel that guests boot.
pub const KERNEL: &str = "linux/vmlinux";
/// A kernel for guests that have hardly any memory.
pub const SMALL_KERNEL: &str = "linux/vmlinux-cloud";
/// Their first file system.
pub const INITRAMFS: &str = "linux/initramfs";
/// The same, packed: less memory has to be there when it is unpacked.
pub const PACKED_INITRAMFS: &str = "linux/initramfs.gz";

/// Makes [`KERNEL`], [`INITRAMFS`] and [`PACKED_INITRAMFS`] in target/luxen/, unless what is there is to be used as it is.
pub fn ensure(no_build: bool) -> Result<()> {
    if no_build && [KERNEL, INITRAMFS, PACKED_INITRAMFS].iter().all(|file| paths::out(file).exists()) {
        return Ok(());
    }
    setup::ensure(setup::LINUX)?;
    build::linux_programs()?;
    let debian = packages::ensure(packages::STOCK)?;
    fs::create_dir_all(paths::out("linux")).context("cannot make target/luxen/linux")?;
    unpack_if_older(&debian.vmlinuz()?, &paths::out(KERNEL))?;
    initramfs::write(&debian, &paths::out(INITRAMFS), &paths::out(PACKED_INITRAMFS))
}

/// Makes [`SMALL_KERNEL`] in target/luxen/, unless what is there is to be used as it is.
pub fn ensure_small(no_build: bool) -> Result<()> {
    if no_build && paths::out(SMALL_KERNEL).exists() {
        return Ok(());
    }
    let debian = packages::ensure(packages::CLOUD)?;
    unpack_if_older(&debian.vmlinuz()?, &paths::out(SMALL_KERNEL))
}

/// Unpacking takes seconds; a newer package or another xtask makes it necessary.
fn unpack_if_older(vmlinuz: &Path, vmlinux: &Path) -> Result<()> {
    let is_current = is_newer(vmlinux, vmlinuz) && std::env::current_exe().is_ok_and(|exe| is_newer(vmlinux, &exe));
    if is_current { Ok(()) } else { unpack(vmlinuz, vmlinux) }
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
