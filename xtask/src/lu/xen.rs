//! Xen's own check of migration streams, `verify-stream-v2`: Debian's package, downloaded once, unpacked, never installed.

use crate::linux::packages::newest;
use crate::{paths, setup, step};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program and the Python modules that it takes.
#[derive(Clone, Debug)]
pub struct Checker {
    program: PathBuf,
    modules: PathBuf,
}

impl Checker {
    /// The program, downloaded if it is not there yet.
    pub fn ensure() -> Result<Self> {
        setup::ensure(setup::XEN)?;
        let dir = Path::new(paths::DEBIAN_XEN);
        if let Ok(there) = Self::below(&dir.join("root")) {
            return Ok(there);
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // The lists may be missing, or so old that the file they name is gone: either way new ones help, once.
        let package = download(dir).or_else(|first| {
            eprintln!("set-up: {first:#}: fetching the package lists");
            step::run("set-up: apt-get update", setup::apt_get()?.arg("update"))?;
            download(dir)
        })?;
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&package).arg(dir.join("root"));
        step::run("set-up: unpack xen-utils", &mut unpack)?;
        Self::below(&dir.join("root"))
    }

    /// Looks for `usr/lib/xen-VERSION`.
    fn below(root: &Path) -> Result<Self> {
        let lib = root.join("usr/lib");
        for entry in fs::read_dir(&lib).with_context(|| format!("cannot read {}", lib.display()))? {
            let xen = entry?.path();
            let there = Self { program: xen.join("bin/verify-stream-v2"), modules: xen.join("lib/python") };
            if there.program.is_file() && there.modules.is_dir() {
                return Ok(there);
            }
        }
        bail!("there is no verify-stream-v2 below {}", root.display())
    }

    /// None if Xen takes the stream, and otherwise what it says against it.
    pub fn objection(&self, stream: &Path) -> Result<Option<String>> {
        let output = Command::new("python3")
            .arg("-B")
            .arg(&self.program)
            .arg("-i")
            .arg(stream)
            .env("PYTHONPATH", &self.modules)
            .output()
            .context("cannot run python3")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(None);
        }
        // A program that does not run at all must not pass for one that refuses.
        ensure!(!said.contains("ModuleNotFoundError") && !said.contains("SyntaxError"), "verify-stream-v2: {said}");
        Ok(Some(said.trim().to_owned()))
    }
}

/// Downloads the newest xen-utils that apt knows.
fn download(dir: &Path) -> Result<PathBuf> {
    let output = Command::new("apt-cache")
        .args(["search", "--names-only", r"^xen-utils-[0-9.]+$"])
        .output()
        .context("cannot run apt-cache")?;
    let package = newest_name(&String::from_utf8_lossy(&output.stdout)).context("apt knows no package xen-utils-*")?;
    let mut command = Command::new("apt-get");
    command.current_dir(dir).args(["download", &package]);
    step::run("set-up: apt-get download", &mut command)?;
    newest(dir, &package)
}

/// The package with the highest version in the lines that `apt-cache search` prints.
fn newest_name(found: &str) -> Option<String> {
    let names = found.lines().filter_map(|line| line.split_ascii_whitespace().next());
    let version = |name: &str| -> Vec<u32> {
        name.trim_start_matches("xen-utils-").split('.').filter_map(|part| part.parse().ok()).collect()
    };
    names.max_by_key(|name| version(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let found = "xen-utils-4.9 - Xen administrative tools\nxen-utils-4.17 - Xen administrative tools\n";
        assert_eq!(newest_name(found).as_deref(), Some("xen-utils-4.17"));
        assert_eq!(newest_name(""), None);
    }
}
