//! The relocation code in Rust: obeys an entry list as the assembly in `boot/reloc.S` does, and says what is wrong with
//! a list that the assembly would obey blindly.
//!
//! Where [`run`] returns an outcome, the assembly leaves the same bytes in memory and counts the same entries; the
//! machine tests compare the two. Where it returns an error, nothing is promised about the assembly. On the outgoing
//! side it is not run: a list made by [`super::kimage::KimageBuilder`] is one that it accepts.

use core::fmt;

use super::kimage::{ENTRY_LEN, Entry};
use crate::frame::{Maddr, Mfn, PAGE_SIZE};
use crate::mm::physmem::PhysMem;

/// What a list has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Entries read, the DONE included; the assembly returns the same number.
    pub entries: u64,
    /// Pages copied.
    pub copied_pages: u64,
    /// Pages cleared.
    pub zeroed_pages: u64,
    /// Words stored.
    pub words: u64,
}

/// Why a list cannot be obeyed. `at` is the entry's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulateError {
    /// An entry with no flag, several, an unknown one, or an address that no machine has.
    BadEntry {
        /// Where.
        at: Maddr,
        /// The entry.
        raw: u64,
    },
    /// SOURCE, ZERO or WRITE64 before any DESTINATION.
    NoDestination {
        /// Where.
        at: Maddr,
    },
    /// SOURCE or ZERO while the destination is not page aligned, after WRITE64.
    Unaligned {
        /// Where.
        at: Maddr,
        /// The destination.
        destination: Maddr,
    },
    /// The list or the destination runs over the end of machine addresses.
    OutOfRange {
        /// Where.
        at: Maddr,
    },
    /// No DONE among so many entries: it runs in a circle, or has no end.
    Endless {
        /// Entries read.
        entries: u64,
    },
}

impl fmt::Display for SimulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadEntry { at, raw } => write!(f, "the entry {raw:#x} at {at} has no meaning"),
            Self::NoDestination { at } => write!(f, "the entry at {at} has no destination before it"),
            Self::Unaligned { at, destination } => {
                write!(f, "the entry at {at} puts a page at {destination}, which is not page aligned")
            }
            Self::OutOfRange { at } => write!(f, "the entry at {at} leads beyond all addresses"),
            Self::Endless { entries } => write!(f, "the list does not end within {entries} entries"),
        }
    }
}

impl core::error::Error for SimulateError {}

/// Obeys the list whose first page is `first`, at most `limit` entries of it.
pub fn run<M: PhysMem>(mem: &M, first: Mfn, limit: u64) -> Result<Outcome, SimulateError> {
    let mut out = Outcome::default();
    let mut next = Some(first.maddr());
    let mut last = first.maddr();
    let mut destination = None;
    while out.entries < limit {
        // Behind the last entry of a page comes the page behind it, as for the assembly.
        let at = next.ok_or(SimulateError::OutOfRange { at: last })?;
        let raw = mem.read_u64(at);
        (last, next) = (at, at.checked_add(ENTRY_LEN));
        out.entries += 1;
        let len = match Entry::decode(raw).ok_or(SimulateError::BadEntry { at, raw })? {
            Entry::Destination(mfn) => {
                destination = Some(mfn.maddr());
                continue;
            }
            Entry::Indirection(mfn) => {
                next = Some(mfn.maddr());
                continue;
            }
            Entry::Done => return Ok(out),
            Entry::Source(mfn) => {
                mem.copy_frame(mfn, page(at, destination)?);
                out.copied_pages += 1;
                PAGE_SIZE
            }
            Entry::Zero => {
                mem.zero(page(at, destination)?.maddr(), PAGE_SIZE);
                out.zeroed_pages += 1;
                PAGE_SIZE
            }
            Entry::Write64(value) => {
                mem.write_u64(destination.ok_or(SimulateError::NoDestination { at })?, value);
                out.words += 1;
                ENTRY_LEN
            }
        };
        // `len` was set by what had a destination.
        let moved = destination.and_then(|d| d.checked_add(len));
        destination = Some(moved.ok_or(SimulateError::OutOfRange { at })?);
    }
    Err(SimulateError::Endless { entries: out.entries })
}

/// The destination, for an entry that fills a whole page.
fn page(at: Maddr, destination: Option<Maddr>) -> Result<Mfn, SimulateError> {
    let destination = destination.ok_or(SimulateError::NoDestination { at })?;
    if destination.page_offset() != 0 {
        return Err(SimulateError::Unaligned { at, destination });
    }
    Ok(destination.mfn_containing())
}

#[cfg(test)]
mod tests;
