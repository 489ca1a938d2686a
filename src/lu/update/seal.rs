//! What was staged is looked at again before the jump: nothing may have altered what will be copied, or what copies it.
//!
//! ```text
//! sum of the file ─ digest ─ staging ─ sum of the file ┐                  ┌ sum of the file, sum of the parts
//!                    (guests run in between)           ├ seal ─ guests ─ ─┤ pause ─ quiesce ─ save
//!                                       sum of the parts ┘                └ sum of the parts ─ jump
//! ```
//!
//! - The *file* is the image where it lies: most of its pages are copied from there. Its sum is taken before the digest is computed, and has
//!   to be the same when it is staged, so what was found right is what was staged.
//! - The *parts* are all frames taken for staging: entry list, pages that were prepared, relocation tables, relocation code. They are some twenty
//!   frames, so that they are looked at once more in the pause.
//!
//! CRC-32C finds every single flipped bit and every burst of up to 32 bits; it is against faults and stray writes, while digest and signature are
//! against people. What writes into the hypervisor's own memory on purpose could as well jump.

use super::Staged;
use super::refusal::Refusal;
use crate::crc32c::{self, Crc32c};
use crate::frame::{Maddr, MfnRange};
use crate::mm::buddy::Block;
use crate::mm::physmem::PhysMem;
use crate::run::host::Host;
use crate::x86::directmap::{self, DirectMap};
use alloc::vec::Vec;

/// Sums of what was staged, and where it lies.
pub(super) struct Seal {
    file: &'static [u8],
    file_sum: u32,
    parts: Vec<MfnRange>,
    parts_sum: u32,
}

impl Seal {
    /// Seals an image's file, whose sum was `file_sum` before it was looked at, and what was made of it in `blocks`.
    pub(super) fn new(file: &'static [u8], file_sum: u32, blocks: &[Block]) -> Result<Self, Refusal> {
        let parts: Vec<MfnRange> = blocks.iter().map(Block::range).collect();
        let parts_sum = sum_of_parts(&parts);
        let seal = Self { file, file_sum, parts, parts_sum };
        seal.check_file().map(|()| seal)
    }

    /// The image's file is what it was.
    pub(super) fn check_file(&self) -> Result<(), Refusal> {
        same("the image", self.file_sum, crc32c::of(self.file))
    }

    /// What was made of it is what it was. Without the breadcrumb, which is appended after this.
    pub(super) fn check_parts(&self) -> Result<(), Refusal> {
        same("the entry list, its pages or what obeys it", self.parts_sum, sum_of_parts(&self.parts))
    }
}

fn same(what: &'static str, sealed: u32, found: u32) -> Result<(), Refusal> {
    if sealed == found { Ok(()) } else { Err(Refusal::Altered { what, sealed, found }) }
}

#[expect(unsafe_code, reason = "owned blocks as bytes")]
fn sum_of_parts(parts: &[MfnRange]) -> u32 {
    let mut sum = Crc32c::new();
    for (at, len_bytes) in parts.iter().filter_map(|part| Some((part.first()?.maddr(), part.len_bytes()))) {
        // SAFETY: the blocks are owned by what is staged, and nothing is written to them while this runs.
        sum.update(unsafe { directmap::bytes(at, len_bytes) });
    }
    sum.finish()
}

/// Built-in tests (`test=<name>`) that flip one bit of what was staged, and one that flips none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flip {
    /// In the image's file.
    File,
    /// In the entry list.
    List,
    /// In the relocation tables.
    Tables,
    /// In the copy of the relocation code.
    Code,
    /// In the entry list, when everything has been looked at for the last time before the pause.
    Late,
    /// Nowhere.
    Nothing,
}

impl Flip {
    /// What the command line asks for.
    pub(super) fn asked(host: &Host) -> Option<Self> {
        Self::named(host.options.test.as_ref()?.as_str())
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "flip-file" => Self::File,
            "flip-list" => Self::List,
            "flip-tables" => Self::Tables,
            "flip-code" => Self::Code,
            "flip-late" => Self::Late,
            "flip-nothing" => Self::Nothing,
            _ => return None,
        })
    }

    /// Flips it.
    pub(super) fn carry_out(self, staged: &Staged) {
        let word: Maddr = match self {
            Self::Nothing => return,
            Self::File => staged.at.offset(staged.seal.file.len() as u64 / 16 * 8),
            Self::List | Self::Late => staged.kimage.first().maddr().offset(8),
            Self::Tables => staged.tables.l4().maddr().offset(511 * 8),
            Self::Code => staged.copy.maddr().offset(128),
        };
        DirectMap.write_u64(word, DirectMap.read_u64(word) ^ 1 << 13);
    }
}

/// True for the built-in tests that an update carries out.
pub fn is_test(name: &str) -> bool {
    Flip::named(name).is_some()
}
