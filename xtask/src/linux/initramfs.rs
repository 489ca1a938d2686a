//! The guest's first file system: busybox, the scripts of tests/linux/root, the programs of tests/linux, some kernel modules.
//!
//! An archive in cpio's `newc` form, as it is, which saves the kernel work, and packed, which saves it memory. busybox makes the links for its
//! applets by itself, in the guest.

use super::packages::Debian;
use crate::{build, paths};
use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Scripts, with the modes they have there.
const ROOT: &str = "tests/linux/root";
/// Directories that /init mounts on or writes to.
const DIRECTORIES: [&str; 10] = ["bin", "dev", "jobs", "modules", "proc", "run", "sys", "tmp", "tree", "work"];
/// What the kernel needs before /init has mounted a devtmpfs: name, permissions, major, minor.
const DEVICES: [(&str, u32, u32, u32); 2] = [("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3)];

/// Writes the archive, as it is and packed.
pub fn write(debian: &Debian, to: &Path, packed: &Path) -> Result<()> {
    let mut archive = Archive::new(Vec::new());
    for name in DIRECTORIES {
        archive.directory(name)?;
    }
    for (name, permissions, major, minor) in DEVICES {
        archive.device(name, permissions, major, minor)?;
    }
    let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    archive.file("bin/busybox", 0o755, &read(&debian.busybox()?)?)?;
    for name in build::LINUX_PROGRAMS {
        archive.file(&format!("bin/{name}"), 0o755, &read(&paths::out(&format!("linux/{name}")))?)?;
    }
    for module in debian.modules()? {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &read(&module)?)?;
    }
    for dir in ["", "bin", "jobs"] {
        let mut scripts: Vec<_> = fs::read_dir(Path::new(ROOT).join(dir))
            .context("cannot read tests/linux/root")?
            .collect::<Result<_, _>>()?;
        scripts.sort_by_key(fs::DirEntry::file_name);
        for script in scripts.iter().map(fs::DirEntry::path).filter(|script| script.is_file()) {
            let mode = fs::metadata(&script)?.permissions().mode() & 0o777;
            let name = script.strip_prefix(ROOT).unwrap_or(&script).to_string_lossy().into_owned();
            archive.file(&name, mode, &read(&script)?)?;
        }
    }
    let archive = archive.finish()?;
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(&archive).context("cannot pack the archive")?;
    let gz = gz.finish().context("cannot pack the archive")?;
    let write =
        |to: &Path, bytes: &[u8]| fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()));
    write(to, &archive)?;
    write(packed, &gz)
}

/// An archive that grows.
struct Archive<W> {
    to: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    fn new(to: W) -> Self {
        Self { to, entries: 0 }
    }

    fn builder(&mut self, name: &str) -> Builder {
        self.entries += 1;
        Builder::new(name).ino(self.entries).nlink(1)
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let entry = self.builder(name).mode(0o755).set_mode_file_type(ModeFileType::Directory);
        entry.write(&mut self.to, 0).finish().map(drop).context("cannot write the archive")
    }

    fn device(&mut self, name: &str, permissions: u32, major: u32, minor: u32) -> Result<()> {
        let entry = self.builder(name).mode(permissions).set_mode_file_type(ModeFileType::Char);
        let entry = entry.rdev_major(major).rdev_minor(minor);
        entry.write(&mut self.to, 0).finish().map(drop).context("cannot write the archive")
    }

    fn file(&mut self, name: &str, permissions: u32, bytes: &[u8]) -> Result<()> {
        let length = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large for the archive"))?;
        let entry = self.builder(name).mode(permissions).set_mode_file_type(ModeFileType::Regular);
        let mut writer = entry.write(&mut self.to, length);
        writer.write_all(bytes).context("cannot write the archive")?;
        writer.finish().map(drop).context("cannot write the archive")
    }

    fn finish(self) -> Result<W> {
        trailer(self.to).context("cannot write the archive")
    }
}
