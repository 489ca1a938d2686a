//! The entries that a guest fills in and the hypervisor marks: reading one, setting and clearing its marks.
//!
//! An entry lies in memory that the guest may change at any moment. What is believed of it is what a compare-exchange found
//! unchanged (version 1, where grant and marks are one word) or what was still there after the mark was set (version 2,
//! where the marks lie in a frame of their own). A guest that changes an entry under the hypervisor's hands is told so after five attempts.

use super::{Access, GrantError, Use};
use crate::frame::{DomId, Maddr, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use crate::xen::grant::gtf;

/// How often an entry is tried that changes while it is looked at; Xen's number.
const TRIES: usize = 5;

/// What an entry grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// The frame, as the guest wrote it.
    pub(super) frame: u64,
    /// First byte in it that may be accessed.
    pub(super) start: u16,
    /// Bytes that may be accessed.
    pub(super) len: u16,
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Version 1: one word.
    V1 {
        /// The word.
        entry: Maddr,
    },
    /// Version 2: two words, and 16 bits of marks elsewhere.
    V2 {
        /// The first word.
        entry: Maddr,
        /// The marks.
        status: Maddr,
    },
}

const fn flags_of(word: u64) -> u16 {
    word as u16
}

const fn domid_of(word: u64) -> DomId {
    DomId::new((word >> 16) as u16)
}

/// What is wrong with an entry for what it is wanted for, if anything is.
fn check(word: u64, to: DomId, access: Access, usage: Use) -> Result<(), GrantError> {
    let mask = match usage {
        Use::Map => gtf::TYPE_MASK | gtf::SUB_PAGE,
        Use::Copy => gtf::TYPE_MASK,
    };
    let flags = flags_of(word);
    if flags & mask != gtf::PERMIT_ACCESS || domid_of(word) != to {
        return Err(GrantError::General);
    }
    if access == Access::Write && flags & gtf::READONLY != 0 {
        return Err(GrantError::General);
    }
    Ok(())
}

const fn marks(access: Access) -> u16 {
    match access {
        Access::Read => gtf::READING,
        Access::Write => gtf::READING | gtf::WRITING,
    }
}

impl Place {
    /// Marks the entry as in use, if it grants what is wanted; what it grants.
    pub(super) fn mark<M: PhysMem>(
        self,
        mem: &M,
        to: DomId,
        access: Access,
        usage: Use,
    ) -> Result<Granted, GrantError> {
        match self {
            Self::V1 { entry } => {
                let mut word = mem.read_u64(entry);
                for _ in 0..TRIES {
                    check(word, to, access, usage)?;
                    match mem.compare_exchange_u64(entry, word, word | u64::from(marks(access))) {
                        Ok(()) => return Ok(Granted { frame: word >> 32, start: 0, len: PAGE_SIZE as u16 }),
                        Err(found) => word = found,
                    }
                }
                Err(GrantError::General)
            }
            Self::V2 { entry, status } => {
                check(mem.read_u64(entry), to, access, usage)?;
                let before = change_marks(mem, status, |marked| marked | marks(access));
                // The guest may have taken the grant back before it saw the mark.
                let word = mem.read_u64(entry);
                if let Err(e) = check(word, to, access, usage) {
                    change_marks(mem, status, |marked| marked & !marks(access) | before & marks(access));
                    return Err(e);
                }
                let frame = mem.read_u64(entry.offset(8));
                if usage == Use::Copy && flags_of(word) & gtf::SUB_PAGE != 0 {
                    return Ok(Granted { frame, start: (word >> 32) as u16, len: (word >> 48) as u16 });
                }
                Ok(Granted { frame, start: 0, len: PAGE_SIZE as u16 })
            }
        }
    }

    /// Clears marks.
    pub(super) fn clear<M: PhysMem>(self, mem: &M, marks: u16) {
        match self {
            Self::V1 { entry } => {
                let mut word = mem.read_u64(entry);
                while let Err(found) = mem.compare_exchange_u64(entry, word, word & !u64::from(marks)) {
                    word = found;
                }
            }
            Self::V2 { status, .. } => {
                change_marks(mem, status, |marked| marked & !marks);
            }
        }
    }

    /// The entry and its marks in one form: flags with the marks, domain, frame. Of an entry that version 1 cannot express, nothing.
    pub(super) fn read_common<M: PhysMem>(self, mem: &M) -> u64 {
        match self {
            Self::V1 { entry } => mem.read_u64(entry),
            Self::V2 { entry, status } => {
                let word = mem.read_u64(entry);
                let flags = flags_of(word) | read_marks(mem, status);
                let frame = mem.read_u64(entry.offset(8));
                if flags & gtf::TYPE_MASK != gtf::PERMIT_ACCESS || frame > u64::from(u32::MAX) {
                    return 0;
                }
                u64::from(flags) | word & 0xffff_0000 | frame << 32
            }
        }
    }

    /// Writes what [`Place::read_common`] gave.
    pub(super) fn write_common<M: PhysMem>(self, mem: &M, common: u64) {
        const MARKS: u16 = gtf::READING | gtf::WRITING;
        match self {
            Self::V1 { entry } => mem.write_u64(entry, common),
            Self::V2 { entry, status } => {
                change_marks(mem, status, |_| flags_of(common) & MARKS);
                mem.write_u64(entry.offset(8), common >> 32);
                mem.write_u64(entry, common & 0xffff_ffff & !u64::from(MARKS));
            }
        }
    }

    /// Swaps two entries that nobody uses.
    pub(super) fn swap<M: PhysMem>(self, other: Self, mem: &M) {
        let words = |place: Self| match place {
            Self::V1 { entry } => (entry, 1),
            Self::V2 { entry, .. } => (entry, 2),
        };
        let ((a, n), (b, _)) = (words(self), words(other));
        for word in 0..n {
            let (from_a, from_b) = (mem.read_u64(a.offset(word * 8)), mem.read_u64(b.offset(word * 8)));
            mem.write_u64(a.offset(word * 8), from_b);
            mem.write_u64(b.offset(word * 8), from_a);
        }
    }
}

fn read_marks<M: PhysMem>(mem: &M, at: Maddr) -> u16 {
    let mut bytes = [0; 2];
    mem.read(at, &mut bytes);
    u16::from_le_bytes(bytes)
}

/// Changes the 16 bits at `at` atomically; what they were.
fn change_marks<M: PhysMem>(mem: &M, at: Maddr, change: impl Fn(u16) -> u16) -> u16 {
    let shift = at.get() % 8 * 8;
    let word_at = Maddr::new(at.get() & !7);
    let mut word = mem.read_u64(word_at);
    loop {
        let marked = (word >> shift) as u16;
        let new = word & !(0xffff << shift) | u64::from(change(marked)) << shift;
        match mem.compare_exchange_u64(word_at, word, new) {
            Ok(()) => return marked,
            Err(found) => word = found,
        }
    }
}
