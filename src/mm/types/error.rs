//! Why a page-type operation is refused, and the errno that Xen gives for it.

use crate::frame::{DomId, Maddr, Mfn};
use crate::mm::page_info::{NoPage, PageType, RefError};
use core::fmt;

const EPERM: i64 = -1;
const ENOMEM: i64 = -12;
const EBUSY: i64 = -16;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;

/// Why a page-type operation is refused; whatever it had taken is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeError {
    /// The frame has no record.
    NoFrame {
        /// The frame.
        mfn: Mfn,
        /// Why not.
        cause: NoPage,
    },
    /// A reference to the frame cannot be had.
    NoReference {
        /// The frame.
        mfn: Mfn,
        /// Why not.
        cause: RefError,
    },
    /// The frame is in use as something else.
    TypeInUse {
        /// The frame.
        mfn: Mfn,
        /// What it should have become.
        wanted: PageType,
        /// What it is.
        found: PageType,
    },
    /// The frame has as many type references as can be counted.
    TypeOverflow {
        /// The frame.
        mfn: Mfn,
    },
    /// No frame can be given this type by a guest.
    NotAType {
        /// The type asked for.
        wanted: PageType,
    },
    /// A leaf names a frame that is not the domain's.
    LeafForeign {
        /// The frame.
        mfn: Mfn,
        /// Whose it is, if anybody's.
        found: Option<DomId>,
    },
    /// A leaf names a frame that is not RAM.
    LeafNotRam {
        /// The frame.
        mfn: Mfn,
    },
    /// A leaf allows writes to a frame that must not be written.
    LeafNotWritable {
        /// The frame.
        mfn: Mfn,
        /// What it is in use as.
        found: PageType,
    },
    /// A present entry has bits that a guest may not set.
    EntryBits {
        /// The level of its table.
        level: u8,
        /// The entry.
        entry: u64,
        /// The bits at fault.
        refused: u64,
    },
    /// An entry that names a table of its own level allows writes.
    LinearWritable {
        /// The level of its table.
        level: u8,
        /// The entry.
        entry: u64,
    },
    /// The slot of a level-4 table is the hypervisor's.
    HypervisorSlot {
        /// The slot.
        slot: u64,
    },
    /// The entry changed while it was being replaced.
    EntryRaced {
        /// Where it is.
        pte: Maddr,
        /// What was found.
        found: u64,
    },
    /// A segment descriptor that a guest may not have.
    Descriptor {
        /// The descriptor.
        descriptor: u64,
    },
    /// The table is pinned already.
    AlreadyPinned {
        /// The table.
        mfn: Mfn,
    },
    /// The table is not pinned.
    NotPinned {
        /// The table.
        mfn: Mfn,
    },
    /// Entries are not written to frames of this type.
    NotWritten {
        /// The frame.
        mfn: Mfn,
        /// What it is.
        found: PageType,
    },
    /// There are page tables of levels 1 to 4 only.
    Level {
        /// The level asked for.
        level: u8,
    },
    /// The machine address is unaligned or above the limit.
    Address {
        /// The address.
        found: u64,
    },
    /// The low bits of an update's pointer name no command known here.
    Command {
        /// The command.
        found: u64,
    },
    /// No level-1 table translates the virtual address.
    NoL1 {
        /// The address.
        va: u64,
    },
    /// The frame cannot be taken from its domain while it is referenced.
    Referenced {
        /// The frame.
        mfn: Mfn,
        /// General references.
        count: u64,
        /// Type references.
        type_count: u64,
    },
}

impl TypeError {
    /// The errno that Xen returns for it, negative.
    pub const fn errno(&self) -> i64 {
        match self {
            Self::NoFrame { cause: NoPage::NoMemory, .. } => ENOMEM,
            // A leaf that names the last frame of all is a guest's idea of an invalid one.
            Self::LeafNotRam { mfn } if mfn.get() != Mfn::LIMIT - 1 => EPERM,
            Self::LeafForeign { .. } | Self::LeafNotWritable { .. } | Self::EntryRaced { .. } => EBUSY,
            Self::Command { .. } => ENOSYS,
            _ => EINVAL,
        }
    }

    /// True for what Xen calls -EINVAL: the cases in which an entry may still be a linear mapping.
    pub(super) const fn is_invalid(&self) -> bool {
        self.errno() == EINVAL
    }
}

fn name(ty: PageType) -> &'static str {
    match ty {
        PageType::None => "a page without a type",
        PageType::L1 => "a level-1 table",
        PageType::L2 => "a level-2 table",
        PageType::L3 => "a level-3 table",
        PageType::L4 => "a level-4 table",
        PageType::SegDesc => "a descriptor table",
        PageType::Shared => "a shared page",
        PageType::Writable => "a writable page",
    }
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoFrame { mfn, cause: NoPage::NotRam } => write!(f, "mfn {mfn} is not RAM"),
            Self::NoFrame { mfn, cause: NoPage::NotOwned } => write!(f, "mfn {mfn} belongs to no domain"),
            Self::NoFrame { mfn, cause: NoPage::NoMemory } => write!(f, "no memory for the record of mfn {mfn}"),
            Self::NoReference { mfn, cause: RefError::NotInUse } => write!(f, "mfn {mfn} is free or going away"),
            Self::NoReference { mfn, cause: RefError::Overflow } => write!(f, "mfn {mfn} has too many references"),
            Self::NoReference { mfn, cause: RefError::Owner { found: Some(owner) } } => {
                write!(f, "mfn {mfn} belongs to {owner}")
            }
            Self::NoReference { mfn, cause: RefError::Owner { found: None } } => write!(f, "mfn {mfn} has no owner"),
            Self::TypeInUse { mfn, wanted, found } => {
                write!(f, "mfn {mfn} is in use as {} and cannot become {}", name(found), name(wanted))
            }
            Self::TypeOverflow { mfn } => write!(f, "mfn {mfn} has too many type references"),
            Self::NotAType { wanted } => write!(f, "no frame is made {} on a guest's behalf", name(wanted)),
            Self::LeafForeign { mfn, found: Some(owner) } => {
                write!(f, "a leaf maps mfn {mfn}, which belongs to {owner}")
            }
            Self::LeafForeign { mfn, found: None } => write!(f, "a leaf maps mfn {mfn}, which belongs to no domain"),
            Self::LeafNotRam { mfn } => write!(f, "a leaf maps mfn {mfn}, which is not RAM"),
            Self::LeafNotWritable { mfn, found } => {
                write!(f, "a leaf maps mfn {mfn} writable, which is {}", name(found))
            }
            Self::EntryBits { level, entry, refused } => {
                write!(f, "entry {entry:#x} of a level-{level} table has bits {refused:#x} set")
            }
            Self::LinearWritable { level, entry } => {
                write!(f, "entry {entry:#x} maps a level-{level} table into one of its own level with write permission")
            }
            Self::HypervisorSlot { slot } => write!(f, "slot {slot} of a level-4 table is the hypervisor's"),
            Self::EntryRaced { pte, found } => {
                write!(f, "the entry at {pte} changed to {found:#x} while it was updated")
            }
            Self::Descriptor { descriptor } => write!(f, "segment descriptor {descriptor:#018x} is not allowed"),
            Self::AlreadyPinned { mfn } => write!(f, "mfn {mfn} is pinned already"),
            Self::NotPinned { mfn } => write!(f, "mfn {mfn} is not pinned"),
            Self::NotWritten { mfn, found } => {
                write!(f, "mfn {mfn} is {} and takes no page-table entries", name(found))
            }
            Self::Level { level } => write!(f, "there are no page tables of level {level}"),
            Self::Address { found } => write!(f, "machine address {found:#x} is unaligned or out of range"),
            Self::Command { found } => write!(f, "page-table update command {found} is unknown"),
            Self::NoL1 { va } => write!(f, "no level-1 table translates {va:#x}"),
            Self::Referenced { mfn, count, type_count } => {
                write!(f, "mfn {mfn} is still in use: {count} references, {type_count} of its type")
            }
        }
    }
}
