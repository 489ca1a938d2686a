//! What the heap says about itself, and why it refused.

use super::Block;
use crate::frame::{Mfn, Order};
use crate::mm::frametable::{Class, FrameState};
use core::fmt;

/// The heap in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapStats {
    /// Frames in the heap.
    pub nr_free: u64,
    /// Free blocks by order.
    pub nr_blocks: [u64; Order::MAX.get() as usize + 1],
    /// Splits there are.
    pub nr_splits: u64,
    /// Splits in nobody's use.
    pub nr_unused_splits: u64,
    /// Slabs that the splits are in.
    pub nr_slabs: u64,
}

/// Why frames did not go into the heap. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// A frame is not unclaimed.
    Conflict {
        /// The first such frame.
        mfn: Mfn,
        /// What it is.
        found: FrameState,
    },
    /// A chunk has to be split and there is no memory for page records.
    NoMemory,
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { mfn, found } => write!(f, "frame {mfn} cannot become free, it {found}"),
            Self::NoMemory => f.write_str("no memory for page records"),
        }
    }
}

/// Why a block did not become a domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntoDomainError {
    /// A frame of it is not the hypervisor's own, from the heap (I1).
    NotPrivate {
        /// The first such frame.
        mfn: Mfn,
        /// What it is.
        found: FrameState,
    },
    /// Its pages need records of their own and there is no memory for those.
    NoMemory,
}

impl fmt::Display for IntoDomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivate { mfn, found } => write!(f, "frame {mfn} cannot be given to a domain, it {found}"),
            Self::NoMemory => f.write_str("no memory for page records"),
        }
    }
}

/// A block that did not become a domain's, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct IntoDomainRefused {
    /// The block, unchanged.
    pub block: Block,
    /// Why.
    pub why: IntoDomainError,
}

/// What is wrong in table or heap; found by a walk over everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidateError {
    /// A split chunk's count of a class is not what its records and bits say.
    Count {
        /// First frame of the chunk.
        mfn: Mfn,
        /// The class.
        class: Class,
        /// What the chunk's entry says.
        entry: u64,
        /// What records and bits say.
        records: u64,
    },
    /// A free block is not aligned to its size, or too large for where it is.
    Misplaced {
        /// First frame of the block.
        mfn: Mfn,
        /// Its order.
        order: u32,
    },
    /// A chunk inside a free block is not its tail.
    NotTail {
        /// The frame.
        mfn: Mfn,
    },
    /// A tail without a block around it.
    StrayTail {
        /// The frame.
        mfn: Mfn,
    },
    /// Two free buddies that should be one block.
    Unmerged {
        /// First frame of the lower block.
        mfn: Mfn,
        /// Order of both.
        order: Order,
    },
    /// A chunk is split though all its pages are unclaimed, or free, and it is not the one that is kept so.
    NotWhole {
        /// First frame of the chunk.
        mfn: Mfn,
    },
    /// A block or a split chunk is in a list that it does not belong to, or its link backwards is wrong.
    Link {
        /// First frame of the block.
        mfn: Mfn,
        /// Order of the list.
        order: Order,
    },
    /// A list has another number of blocks than are counted, or than the table has; below order 9 it has split chunks, and nobody counts them.
    ListLength {
        /// Order of the list.
        order: Order,
        /// Blocks that the heap counted.
        counted: u64,
        /// Blocks in the list.
        listed: u64,
        /// Free blocks in the table.
        in_table: u64,
    },
    /// The bitmap of orders that have blocks is wrong.
    Bitmap {
        /// The bitmap.
        found: u32,
        /// What it should be.
        expected: u32,
    },
    /// A page of a split chunk has an owner and is nobody's, or neither, or is nobody's in two ways.
    Bits {
        /// The page.
        mfn: Mfn,
    },
    /// A split chunk is in the list of an order that it has more than, or in none though it has free pages, or in one though it has none.
    Level {
        /// First frame of the chunk.
        mfn: Mfn,
        /// Order of the list.
        found: Option<Order>,
        /// Order of the chunk's largest free block.
        largest: Option<Order>,
    },
    /// The number of free frames is wrong.
    NrFree {
        /// What the heap counted.
        counted: u64,
        /// What the table says.
        found: u64,
    },
    /// The record of a page that is nobody's is not all zero.
    Record {
        /// The page.
        mfn: Mfn,
    },
    /// Splits got lost, or are used twice.
    Splits {
        /// Splits there are.
        total: u64,
        /// Splits that chunks refer to.
        used: u64,
        /// Splits that the pool counts as unused.
        unused: u64,
        /// Unused splits in the pool's chain; nothing if it is a circle.
        chained: Option<u64>,
    },
}
