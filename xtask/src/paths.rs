//! Where things lie. All paths are relative to the repository's root, in which every verb works.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What xtask makes.
pub const OUT: &str = "target/luxen";
/// Logs of builds and of QEMU's consoles.
pub const LOGS: &str = "target/luxen/logs";
/// ISO images.
pub const ISO: &str = "target/luxen/iso";
/// Images damaged on purpose.
pub const DAMAGED: &str = "target/luxen/damaged";
/// Keys that images are signed with here.
pub const KEYS: &str = "target/luxen/keys";
/// Debian's packages, and what was unpacked of them.
pub const DEBIAN: &str = "target/luxen/debian";
/// The same of the kernel for cloud images.
pub const DEBIAN_CLOUD: &str = "target/luxen/debian-cloud";
/// Xen's own check of migration streams, unpacked.
pub const DEBIAN_XEN: &str = "target/luxen/debian-xen";
/// Streams that scenarios capture.
pub const STREAMS: &str = "target/luxen/streams";
/// Cargo's directory for programs without shared libraries: other flags would make host builds stale.
pub const STATIC_TARGET: &str = "target/static";
/// Cargo's directory for the bare targets: RUSTC_BOOTSTRAP would otherwise make host builds stale.
pub const BARE_TARGET: &str = "target/bare";

/// Makes the repository's root the current directory and makes the directories above.
pub fn enter_root() -> Result<()> {
    // Cargo sets the variable for what it runs; the constant serves a binary started by hand.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let root = manifest.parent().context("xtask's directory has no parent")?;
    std::env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))?;
    for dir in [OUT, LOGS, ISO, DAMAGED, KEYS, STREAMS] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    Ok(())
}

/// A file that xtask makes.
pub fn out(name: &str) -> PathBuf {
    Path::new(OUT).join(name)
}

/// A log file.
pub fn log(name: &str) -> PathBuf {
    Path::new(LOGS).join(format!("{name}.log"))
}

/// The caller's path, made absolute before [`enter_root`] changes what it is relative to.
pub fn from_caller(path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    path.map(|p| std::path::absolute(&p).with_context(|| format!("cannot make sense of {}", p.display()))).transpose()
}

/// Writes `value` as readable JSON.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
