//! What can be wrong with an MFN list, in sentences.

use super::{HEADER_LEN, HEADER_LEN_MAX, STREAM_LEN_MAX};
use crate::frame::Mfn;
use crate::lu::records::StreamVersion;
use core::fmt;

/// What is wrong with an MFN list, found or to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MfnListError {
    /// The root does not begin with [`MAGIC`](super::MAGIC).
    Magic {
        /// The root page.
        root: Mfn,
        /// What it begins with.
        found: u64,
    },
    /// The list is of a version that this build does not read.
    Version {
        /// The version found; those of [`StreamVersion`] are read.
        found: u32,
    },
    /// The list names a stream of another version than its own.
    StreamVersion {
        /// The list's version.
        list: StreamVersion,
        /// The stream's version.
        stream: StreamVersion,
    },
    /// The root's header is too short, too long, or not a whole number of entries.
    HeaderLen {
        /// The length found.
        found: u32,
    },
    /// The stream is empty or too long.
    StreamLen {
        /// The length found.
        found: u64,
    },
    /// The number of frames is not that of the stream's length.
    PageCount {
        /// Frames that the stream's length needs.
        needed: u64,
        /// Frames found, or given.
        found: u64,
    },
    /// The number of list pages is not that of the number of frames.
    ListPageCount {
        /// List pages that the number of frames needs.
        needed: u64,
        /// List pages found, or given.
        found: u64,
    },
    /// A reserved field is not zero, or an unused entry.
    Reserved {
        /// The list page.
        page: Mfn,
        /// Offset in it.
        offset: u64,
        /// What is there.
        found: u64,
    },
    /// A further list page does not begin with [`NEXT_MAGIC`](super::NEXT_MAGIC).
    NextMagic {
        /// The list page.
        page: Mfn,
        /// What it begins with.
        found: u64,
    },
    /// A list page is not the one that is due: the chain loops, or was mixed up.
    Index {
        /// The list page.
        page: Mfn,
        /// Its place in the chain; the root's is 0.
        due: u64,
        /// The place noted in it.
        found: u64,
    },
    /// The chain ends too early.
    ChainShort {
        /// List pages read.
        found: u64,
        /// List pages that there should be.
        needed: u64,
    },
    /// The chain goes on behind its last page.
    ChainLong {
        /// The last page.
        page: Mfn,
        /// The frame number that it gives as the next.
        next: u64,
    },
    /// A frame number is out of range, or 0.
    Number {
        /// Which list page names it.
        page: Mfn,
        /// The number.
        found: u64,
    },
    /// A frame lies in the region, where nothing survives.
    InRegion {
        /// The frame.
        mfn: Mfn,
    },
    /// A frame is not RAM where the outgoing side may have put something.
    NotRam {
        /// The frame, or the first one of a run of which not all are.
        mfn: Mfn,
    },
    /// A frame is named twice.
    Twice {
        /// The frame.
        mfn: Mfn,
    },
    /// The list's bytes are not those that were written.
    Checksum {
        /// CRC-32C noted in the root.
        noted: u32,
        /// CRC-32C of the pages found.
        found: u32,
    },
    /// Not as many checksums of frames were given as there are frames.
    CrcCount {
        /// Checksums given.
        found: u64,
        /// Frames.
        needed: u64,
    },
    /// No memory for the list of frames.
    NoMemory {
        /// Frames to be listed.
        nr_frames: u64,
    },
}

impl fmt::Display for MfnListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic { root, found } => write!(f, "no MFN list in frame {root}: it begins with {found:#x}"),
            Self::Version { found } => {
                let (oldest, newest) = (StreamVersion::OLDEST, StreamVersion::CURRENT);
                write!(f, "the MFN list has version {found}, {oldest} to {newest} can be read")
            }
            Self::StreamVersion { list, stream } => {
                write!(f, "the MFN list has version {list}, the stream that it names has version {stream}")
            }
            Self::HeaderLen { found } => {
                write!(f, "the MFN list's header has {found} bytes, {HEADER_LEN} to {HEADER_LEN_MAX} can be read")
            }
            Self::StreamLen { found } => write!(f, "a stream of {found} bytes, 1 to {STREAM_LEN_MAX} can be read"),
            Self::PageCount { needed, found } => write!(f, "{found} frames of stream, its length needs {needed}"),
            Self::ListPageCount { needed, found } => write!(f, "{found} list pages, the stream needs {needed}"),
            Self::Reserved { page, offset, found } => {
                write!(f, "list page {page}: the reserved field at {offset} is {found:#x}")
            }
            Self::NextMagic { page, found } => write!(f, "no list page in frame {page}: it begins with {found:#x}"),
            Self::Index { page, due, found } => write!(f, "list page {page} is number {found}, {due} was due"),
            Self::ChainShort { found, needed } => write!(f, "the chain has {found} list pages, {needed} are needed"),
            Self::ChainLong { page, next } => write!(f, "list page {page} is the last, but goes on to {next:#x}"),
            Self::Number { page, found } => write!(f, "list page {page} names frame {found:#x}, which cannot be"),
            Self::InRegion { mfn } => write!(f, "frame {mfn} lies in the region"),
            Self::NotRam { mfn } => write!(f, "frame {mfn} is not RAM"),
            Self::Twice { mfn } => write!(f, "frame {mfn} is named twice"),
            Self::Checksum { noted, found } => {
                write!(f, "the MFN list's checksum is {found:#010x}, noted was {noted:#010x}")
            }
            Self::CrcCount { found, needed } => write!(f, "{found} checksums of stream frames, {needed} are needed"),
            Self::NoMemory { nr_frames } => write!(f, "no memory for a list of {nr_frames} frames"),
        }
    }
}
