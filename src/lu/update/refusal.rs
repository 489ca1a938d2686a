//! Why an update does not come about.

use super::super::needs::{Beyond, RegionNeeds};
use super::super::records::StreamVersion;
use super::super::restore::RestoreError;
use super::super::save::SaveError;
use crate::kexec::idmap::IdmapError;
use crate::kexec::image::ImageError;
use crate::kexec::kimage::KimageError;
use crate::kexec::mbi::MbiError;
use alloc::string::String;
use core::fmt;

/// An update is not possible; nothing has been paused, or everything runs again.
#[derive(Debug)]
#[expect(missing_docs, reason = "said by Display")]
pub enum Refusal {
    NoImage,
    Image { name: String, error: ImageError },
    RegionTooSmall { needs: RegionNeeds, has: u64 },
    Places(Beyond),
    StreamVersion { error: ImageError },
    StreamAsked { asked: u32, reads: (u32, u32) },
    CommandLine,
    Mbi(MbiError),
    Stage(KimageError),
    Tables(IdmapError),
    NoMemory,
    Save(SaveError),
    Altered { what: &'static str, sealed: u32, found: u32 },
    Unreadable(RestoreError),
    Deadline { ns: u64, what: &'static str },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoImage => f.write_str("no next image: give a module `image name=<name>`, or load one with kexec_op"),
            Self::Image { name, error } => write!(f, "image {name}: {error}"),
            Self::RegionTooSmall { needs, has } => {
                let mib = needs.total().div_ceil(2 << 20) * 2;
                write!(
                    f,
                    "the region is too small: the next build needs {mib} MiB ({needs}), it has {} MiB; boot with liveupdate={mib}M",
                    has >> 20
                )
            }
            Self::Places(beyond) => write!(f, "{beyond}"),
            Self::StreamVersion { error } => write!(f, "{error}; update to a build in between first"),
            Self::StreamAsked { asked, reads: (oldest, newest) } => write!(
                f,
                "lu-stream= asks for stream version {asked}, the image reads stream versions {oldest} to {newest}, this hypervisor writes \
                 {} to {}; leave lu-stream= out, and the newest of both is taken",
                StreamVersion::OLDEST,
                StreamVersion::CURRENT
            ),
            Self::CommandLine => f.write_str("the command line of the next build is too long"),
            Self::Mbi(e) => write!(f, "boot information: {e}"),
            Self::Stage(e) => write!(f, "the image cannot be staged: {e}"),
            Self::Tables(e) => write!(f, "relocation tables: {e}"),
            Self::NoMemory => f.write_str("no memory to stage the image"),
            Self::Save(e) => write!(f, "{e}"),
            Self::Altered { what, sealed, found } => write!(
                f,
                "what was staged was altered in memory: the checksum of {what} is {found:#010x}, it was {sealed:#010x}; ask for \
                 the update again, and if that is refused, too, load the image again or test the memory"
            ),
            Self::Unreadable(e) => write!(f, "what was saved cannot be read back: {e}"),
            Self::Deadline { ns, what } => write!(f, "not quiet within {} us: {what}", ns / 1000),
        }
    }
}
