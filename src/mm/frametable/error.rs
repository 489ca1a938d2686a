//! What a frame is, and why something was not done with it.

use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::page_info::{NoPage, RefError};
use core::fmt;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// Not RAM, or behind the table's end.
    NotRam,
    /// RAM of which it is not known yet whether somebody owns it.
    Unclaimed,
    /// In the live-update region.
    Region,
    /// In the slot of the running image.
    Image,
    /// Somebody's.
    Owned {
        /// Whose.
        owner: DomId,
    },
    /// The hypervisor's own, taken from the heap.
    Private,
    /// In the heap.
    Free,
}

impl fmt::Display for FrameState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRam => f.write_str("is not RAM"),
            Self::Unclaimed => f.write_str("is unclaimed"),
            Self::Region => f.write_str("is in the region"),
            Self::Image => f.write_str("is in the image slot"),
            Self::Owned { owner } => write!(f, "belongs to {owner}"),
            Self::Private => f.write_str("is private to the hypervisor"),
            Self::Free => f.write_str("is free"),
        }
    }
}

/// Why the table did not take what the memory map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitError {
    /// The range ends behind the table.
    BehindTable {
        /// The range.
        range: MfnRange,
        /// Frames that the table describes.
        nr_frames: u64,
    },
    /// Region and image are whole chunks.
    NotChunks {
        /// The range.
        range: MfnRange,
    },
    /// A frame is already something else.
    Conflict {
        /// The first such frame.
        mfn: Mfn,
        /// What it is.
        found: FrameState,
    },
    /// A chunk has to be split and the pool has no page records for it.
    NoRecords {
        /// Splits that it takes.
        needed: u64,
        /// Splits that the pool has.
        found: u64,
    },
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BehindTable { range, nr_frames } => {
                write!(f, "{range} ends behind the frametable, which has {nr_frames} frames")
            }
            Self::NotChunks { range } => write!(f, "{range} is not a multiple of 2 MiB"),
            Self::Conflict { mfn, found } => write!(f, "frame {mfn} {found}"),
            Self::NoRecords { needed, found } => {
                write!(f, "{needed} chunks have to be split, there are page records for {found}")
            }
        }
    }
}

/// Why a claim was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// A frame is not there to be claimed (I1, I6).
    Conflict {
        /// The first such frame.
        mfn: Mfn,
        /// Who wanted it.
        wanted: DomId,
        /// What it is.
        found: FrameState,
    },
    /// A chunk has to be split and the pool has no page records for it. Feed the pool and try again.
    NoRecords {
        /// The range.
        range: MfnRange,
        /// Splits that it takes.
        needed: u64,
        /// Splits that the pool has.
        found: u64,
    },
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { mfn, wanted, found } => write!(f, "frame {mfn}, claimed by {wanted}, {found}"),
            Self::NoRecords { range, needed, found } => {
                write!(f, "claiming {range} splits {needed} chunks, there are page records for {found}")
            }
        }
    }
}

/// Why frames were not released. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseError {
    /// A frame is not the owner's.
    NotOwned {
        /// The first such frame.
        mfn: Mfn,
        /// Who wanted to release it.
        owner: DomId,
        /// What it is.
        found: FrameState,
    },
    /// Somebody besides the owner holds a reference.
    InUse {
        /// The first such frame.
        mfn: Mfn,
        /// References to it.
        count: u64,
        /// Type references to it.
        type_count: u64,
    },
    /// A chunk has to be split and there is no memory for page records.
    NoMemory,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOwned { mfn, owner, found } => write!(f, "frame {mfn}, released by {owner}, {found}"),
            Self::InUse { mfn, count, type_count } => {
                write!(f, "frame {mfn} has {count} references and {type_count} type references")
            }
            Self::NoMemory => f.write_str("no memory for page records"),
        }
    }
}

/// Why a reference on a frame was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetPageError {
    /// The frame has no record to count on.
    NoPage(NoPage),
    /// It has, but no reference can be had.
    Ref(RefError),
}
