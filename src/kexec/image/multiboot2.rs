//! The Multiboot2 header, by which a boot loader would know the image.

use super::{ImageError, u32_at};

/// Bytes at the start of a file in which the Multiboot2 header must lie whole (Multiboot2 §3.1).
pub(super) const SEARCH_LEN: usize = 32768;
/// Multiboot2 §3.1.2.
const HEADER_MAGIC: u32 = 0xe852_50d6;
/// Multiboot2 §3.1.2: 32-bit protected mode of i386.
const ARCH_I386: u32 = 0;
/// Multiboot2 §3.1.12: the header tag that says that the image may be put elsewhere.
const TAG_RELOCATABLE: u16 = 10;
/// A 32-bit entry cannot reach further.
const LIMIT_32BIT: u64 = 1 << 32;

/// The relocatable tag of the Multiboot2 header (§3.1.12).
#[derive(Clone, Copy, Debug)]
pub(super) struct Relocatable {
    pub(super) min: u64,
    pub(super) limit: u64,
    pub(super) align: u64,
}

/// Finds the Multiboot2 header and in it the relocatable tag.
pub(super) fn relocatable(file: &[u8]) -> Result<Relocatable, ImageError> {
    let window = &file[..file.len().min(SEARCH_LEN)];
    let header = window
        .chunks_exact(8)
        .enumerate()
        .find_map(|(i, _)| {
            let header = &window[i * 8..];
            let field = |at| u32_at(header, at);
            let (magic, arch, len, checksum) = (field(0)?, field(4)?, field(8)?, field(12)?);
            let sum = magic.wrapping_add(arch).wrapping_add(len).wrapping_add(checksum);
            if magic != HEADER_MAGIC || arch != ARCH_I386 || sum != 0 {
                return None;
            }
            header.get(16..usize::try_from(len).ok()?)
        })
        .ok_or(ImageError::NotMultiboot2)?;
    let mut tags = header;
    while tags.len() >= 8 {
        let size = u32_at(tags, 4).unwrap_or(0) as usize;
        let kind = u16::from_le_bytes([tags[0], tags[1]]);
        if size < 8 || size > tags.len() {
            return Err(ImageError::NotMultiboot2);
        }
        if kind == TAG_RELOCATABLE {
            let field = |at| u32_at(&tags[..size], at).map(u64::from).ok_or(ImageError::NotMultiboot2);
            return Ok(Relocatable {
                min: field(8)?,
                limit: (field(12)? + 1).min(LIMIT_32BIT),
                // Zero and one both mean anywhere; a slot is page aligned in any case.
                align: field(16)?.max(1),
            });
        }
        tags = tags.get(size.next_multiple_of(8)..).unwrap_or(&[]);
    }
    Err(ImageError::NotRelocatable)
}
