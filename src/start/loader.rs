//! The loader's structure, wherever it lies: `boot/head.S` maps the low 4 GiB, and nothing is written before it has been read.

use crate::bootinfo::{BootInfo, BootInfoError, MB1_MAGIC, MB2_MAGIC};
use crate::x86::directmap::{DIRECTMAP_VA, DirectMap};
use multiboot2::{BootInformation, BootInformationHeader};

/// Reads the structure at machine address `at`, of the kind that the magic number in eax says.
#[expect(unsafe_code, reason = "the loader's memory")]
pub fn read(info: &mut BootInfo, magic: u32, at: u32) -> Result<(), BootInfoError> {
    match magic {
        MB2_MAGIC => {
            let header = (DIRECTMAP_VA + u64::from(at)) as *const BootInformationHeader;
            // SAFETY: eax said Multiboot2, so ebx points at such a structure; boot/head.S maps it, and nothing has been written yet.
            let loaded = unsafe { BootInformation::load(header) }.map_err(|_| BootInfoError::Structure)?;
            info.read_multiboot2(&loaded)
        }
        MB1_MAGIC => info.read_multiboot1(&DirectMap, at),
        found => Err(BootInfoError::Magic { found }),
    }
}
