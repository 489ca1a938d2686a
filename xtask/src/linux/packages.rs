//! Debian's packages: downloaded once, unpacked below target/luxen/, never installed.
//!
//! `linux-image-amd64` only names the package with the current kernel, so what is downloaded is its dependency. A stamp beside the
//! files says which packages are unpacked; as long as it is there, nothing is asked and nothing is downloaded. `rm -r
//! target/luxen/debian*` makes the next run look for newer ones.

use crate::{paths, setup, step};
use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kernel that Debian has, and what is wanted beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Names the current kernel's package.
    kernel_meta: &'static str,
    /// Further packages.
    beside: &'static [&'static str],
    /// Where all of it goes.
    dir: &'static str,
}

/// The kernel of an ordinary system, and busybox.
pub const STOCK: Source = Source { kernel_meta: "linux-image-amd64", beside: &[BUSYBOX], dir: paths::DEBIAN };
/// The kernel of cloud images, which has fewer drivers and takes less memory.
pub const CLOUD: Source = Source { kernel_meta: "linux-image-cloud-amd64", beside: &[], dir: paths::DEBIAN_CLOUD };

/// Has busybox without libraries.
const BUSYBOX: &str = "busybox-static";
/// Files unpacked, as tar's patterns: the archive has thousands more.
const WANTED: [&str; 5] = [
    "./boot/vmlinuz-*",
    "*/kernel/drivers/xen/xen-gntdev.ko*",
    "*/kernel/drivers/xen/xen-gntalloc.ko*",
    "*/kernel/drivers/xen/xen-evtchn.ko*",
    "*/bin/busybox",
];

/// The packages' files.
pub struct Debian {
    root: PathBuf,
}

impl Debian {
    /// The packed kernel.
    pub fn vmlinuz(&self) -> Result<PathBuf> {
        let mut found = files_below(&self.root.join("boot"))?;
        found.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")));
        found.into_iter().next().with_context(|| format!("there is no vmlinuz below {}", self.root.display()))
    }

    /// busybox.
    pub fn busybox(&self) -> Result<PathBuf> {
        ["bin/busybox", "usr/bin/busybox"]
            .map(|file| self.root.join(file))
            .into_iter()
            .find(|file| file.is_file())
            .with_context(|| format!("there is no busybox below {}", self.root.display()))
    }

    /// The kernel modules that were unpacked, whether they are packed themselves or not.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for place in ["lib/modules", "usr/lib/modules"] {
            let place = self.root.join(place);
            if place.is_dir() {
                found.extend(files_below(&place)?);
            }
        }
        Ok(found)
    }
}

/// All files below a directory, in an order that does not change.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// The packages' files, downloaded if they are not there yet.
pub fn ensure(source: Source) -> Result<Debian> {
    let dir = Path::new(source.dir);
    let stamp = dir.join("stamp");
    let debian = Debian { root: dir.join("root") };
    if stamp.exists() {
        return Ok(debian);
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let packages = download(source)?;
    let unfinished = dir.join("root.unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    for package in &packages {
        unpack(package, &unfinished)?;
    }
    if debian.root.exists() {
        fs::remove_dir_all(&debian.root).with_context(|| format!("cannot remove {}", debian.root.display()))?;
    }
    fs::rename(&unfinished, &debian.root).context("cannot rename the unpacked packages")?;
    debian.vmlinuz()?;
    if source.beside.contains(&BUSYBOX) {
        debian.busybox()?;
    }
    let names: Vec<String> = packages.iter().filter_map(|file| Some(file.file_name()?.to_str()?.to_owned())).collect();
    fs::write(&stamp, names.join("\n") + "\n").with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(debian)
}

/// Downloads a source's packages, unless they are there.
fn download(source: Source) -> Result<Vec<PathBuf>> {
    // The lists may be missing, or so old that the files they name are gone: either way new ones help, once.
    match try_download(source) {
        Ok(files) => Ok(files),
        Err(first) => {
            eprintln!("set-up: {first:#}: fetching the package lists");
            step::run("set-up: apt-get update", setup::apt_get()?.arg("update"))?;
            try_download(source)
        }
    }
}

fn try_download(source: Source) -> Result<Vec<PathBuf>> {
    let Source { kernel_meta, beside, dir } = source;
    let output = Command::new("apt-cache")
        .args(["depends", "--no-recommends", "--no-suggests", kernel_meta])
        .output()
        .context("cannot run apt-cache")?;
    let kernel = dependency(&String::from_utf8_lossy(&output.stdout)).with_context(|| {
        format!("apt knows no package {kernel_meta} (Debian's; on another system give a kernel with --kernel)")
    })?;
    let mut command = Command::new("apt-get");
    command.current_dir(dir).args(["download", &kernel]).args(beside);
    step::run("set-up: apt-get download", &mut command)?;
    let names = [kernel.as_str()].into_iter().chain(beside.iter().copied());
    names.map(|package| newest(Path::new(dir), package)).collect()
}

/// The package with the kernel, by what `apt-cache depends linux-image-amd64` says.
fn dependency(text: &str) -> Option<String> {
    let pattern = Regex::new(r"(?m)^\s*Depends: (linux-image-[0-9]\S*)\s*$").ok()?;
    Some(pattern.captures(text)?[1].to_owned())
}

/// The file of a package in `dir`: `NAME_VERSION_ARCHITECTURE.deb`.
pub fn newest(dir: &Path, package: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
            found.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    found.sort();
    found.pop().map(|(_, path)| path).with_context(|| format!("{package} was not downloaded to {}", dir.display()))
}

/// Unpacks what is wanted of a package.
fn unpack(package: &Path, into: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb (Debian package dpkg)")?;
    let stream = archive.stdout.take().context("dpkg-deb was started without a pipe")?;
    let output = Command::new("tar")
        .args(["--extract", "--no-same-owner", "--wildcards", "--directory"])
        .arg(into)
        .args(WANTED)
        .stdin(stream)
        .output()
        .context("cannot run tar")?;
    let status = archive.wait().context("cannot wait for dpkg-deb")?;
    ensure!(status.success(), "dpkg-deb cannot unpack {}", package.display());
    // No package has all of the patterns: tar complains of those, and only of those.
    let complaints = String::from_utf8_lossy(&output.stderr);
    let serious: Vec<&str> = complaints
        .lines()
        .filter(|line| !line.ends_with("Not found in archive") && !line.contains("Exiting with failure status"))
        .collect();
    if !serious.is_empty() {
        bail!("tar cannot unpack {}: {}", package.display(), serious.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_dependency_with_a_number() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(dependency(text).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        let text = "linux-image-amd64\n  Depends: linux-base\n  Depends: linux-image-6.12.9+deb13-amd64\n";
        assert_eq!(dependency(text).as_deref(), Some("linux-image-6.12.9+deb13-amd64"));
        assert_eq!(dependency("linux-image-amd64\n  Depends: <linux-image-generic>\n"), None);
        assert_eq!(dependency(""), None);
    }

    #[test]
    fn the_newest_file_of_a_package_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert!(newest(dir.path(), "busybox-static").is_err());
        for (name, age) in [("busybox-static_1_amd64.deb", 2), ("busybox-static_2_amd64.deb", 1), ("busybox_3.deb", 0)]
        {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age * 60)).unwrap();
        }
        let found = newest(dir.path(), "busybox-static").unwrap();
        assert_eq!(found.file_name().unwrap(), "busybox-static_2_amd64.deb");
    }
}
