//! What can be wrong with a stream, in sentences.

use super::REC_LENGTH_MAX;
use crate::frame::Mfn;
use core::fmt;

/// What is wrong with one body. Offsets count from the body's first byte, so that with the record's type they name the
/// field in docs/handover.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The body ends before the field that should end at `needed`.
    Short {
        /// Bytes that the body would have to have, at least.
        needed: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The body goes on behind its last field.
    Long {
        /// Bytes that the fields take.
        known: u64,
        /// Bytes that the body has.
        found: u64,
    },
    /// The body of a list is not a whole number of items, or is empty where an empty one has no meaning.
    NotWhole {
        /// Bytes of one item.
        item: u64,
        /// Bytes found for the items.
        found: u64,
    },
    /// A reserved byte is not zero: a newer build means something by it that this one does not know.
    Reserved {
        /// Where the byte is.
        offset: u64,
        /// The byte.
        found: u8,
    },
    /// A field holds a value that it cannot have.
    BadValue {
        /// Where the field is.
        offset: u64,
        /// The value.
        found: u64,
    },
    /// A copy of the body does not fit in memory.
    NoMemory {
        /// Bytes asked for.
        len_bytes: u64,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short { needed, found } => write!(f, "the body has {found} bytes, at least {needed} are needed"),
            Self::Long { known, found } => write!(f, "the body has {found} bytes, only {known} have a meaning"),
            Self::NotWhole { item, found } => {
                write!(f, "{found} bytes are not one or more items of {item} bytes")
            }
            Self::Reserved { offset, found } => write!(f, "the reserved byte at {offset} is {found:#x}"),
            Self::BadValue { offset, found } => write!(f, "the field at {offset} cannot be {found:#x}"),
            Self::NoMemory { len_bytes } => write!(f, "no memory for {len_bytes} bytes"),
        }
    }
}

/// What is wrong with a stream. `at` is the offset of the record's header in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The stream ends without an END record.
    MissingEnd {
        /// Where the next record would have to be.
        at: u64,
        /// Bytes left there, fewer than a header has.
        left: u64,
    },
    /// A record is longer than what is left of the stream.
    PastEnd {
        /// The record's type.
        kind: u32,
        /// The record's offset.
        at: u64,
        /// The length of its body.
        length: u32,
        /// Bytes left for body and padding.
        left: u64,
    },
    /// A body is longer than [`REC_LENGTH_MAX`].
    TooLong {
        /// The record's type.
        kind: u32,
        /// The record's offset.
        at: u64,
        /// The length of its body.
        length: u32,
    },
    /// The padding behind a body is not zero.
    Padding {
        /// The record's type.
        kind: u32,
        /// The record's offset.
        at: u64,
    },
    /// The END record has a body.
    EndNotEmpty {
        /// The record's offset.
        at: u64,
        /// The length of its body.
        length: u32,
    },
    /// There are bytes behind the END record.
    AfterEnd {
        /// Where they begin.
        at: u64,
        /// How many there are.
        extra: u64,
    },
    /// A record that may not be skipped has a type that this build does not know.
    Unknown {
        /// The record's type.
        kind: u32,
        /// The record's offset.
        at: u64,
    },
    /// The stream's bytes are not those that were written.
    Checksum {
        /// CRC-32C noted in the MFN list.
        noted: u32,
        /// CRC-32C of the bytes found.
        found: u32,
    },
    /// A frame of the stream is not what was written. The first such frame of several.
    Page {
        /// Its place in the stream, from 0.
        index: u64,
        /// The frame.
        mfn: Mfn,
        /// CRC-32C noted in the MFN list.
        noted: u32,
        /// CRC-32C of the frame found.
        found: u32,
        /// Frames of the stream that are damaged, this one included.
        nr_damaged: u64,
    },
    /// A domain's records are not those that its sum was made of.
    Sum {
        /// The offset of LU_DOMAIN_SUM.
        at: u64,
        /// The domain.
        domid: u16,
        /// What differs.
        part: SumPart,
        /// What the record says.
        noted: u64,
        /// What was found.
        found: u64,
    },
    /// A record's body is wrong.
    Record {
        /// The record's type.
        kind: u32,
        /// The record's offset.
        at: u64,
        /// What is wrong with it.
        error: RecordError,
    },
    /// A record stands where it may not, or one that must be there is missing.
    Order {
        /// The offset of the record at which it was noticed.
        at: u64,
        /// Which rule is broken.
        rule: OrderRule,
    },
}

/// What a domain's sum counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumPart {
    /// Frames that the extents name.
    Frames,
    /// Extents.
    Extents,
    /// Records.
    Records,
    /// CRC-32C of the records.
    Crc,
}

impl fmt::Display for SumPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames in extents",
            Self::Extents => "extents",
            Self::Records => "records",
            Self::Crc => "checksum",
        })
    }
}

/// A rule about which records follow which. Checked by [`validate`](crate::lu::records::validate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderRule {
    /// The first record is not LU_VERSION.
    VersionFirst {
        /// The type found instead.
        kind: u32,
    },
    /// A record that there is one of came a second time: in the stream, in the domain, or for the vCPU.
    Twice {
        /// Its type.
        kind: u32,
    },
    /// A record that must be there is not.
    Missing {
        /// Its type.
        kind: u32,
    },
    /// A domain's record stands outside a domain.
    OutsideDomain {
        /// Its type.
        kind: u32,
    },
    /// A global record, or END, stands inside a domain.
    InsideDomain {
        /// Its type.
        kind: u32,
        /// The domain that is not closed.
        domid: u16,
    },
    /// Two domains have one number.
    DomidTaken {
        /// The number.
        domid: u16,
    },
    /// A record came before one that it needs.
    Before {
        /// Its type.
        kind: u32,
        /// The type that it needs.
        needs: u32,
    },
    /// LU_VCPU records are not numbered 0, 1, 2, ..., or there are more than the domain has vCPUs.
    VcpuNumber {
        /// The number that was due; the domain's number of vCPUs if it has no more.
        due: u32,
        /// The number found.
        found: u32,
    },
    /// A vCPU's further record does not follow the vCPU's LU_VCPU.
    VcpuForeign {
        /// Its type.
        kind: u32,
        /// The vCPU that it names.
        found: u32,
    },
    /// The domain ended before all of its vCPUs were there.
    VcpusMissing {
        /// vCPUs of the domain.
        due: u32,
        /// vCPUs found.
        found: u32,
    },
    /// Something stands between a domain's sum and its end.
    AfterSum {
        /// The offset of what stands there.
        at: u64,
    },
    /// Event channels of a domain do not ascend.
    PortOrder {
        /// The port before.
        last: u32,
        /// The port found.
        found: u32,
    },
    /// Grants in use or handles of mappings do not ascend.
    GrantOrder {
        /// The record's type.
        kind: u32,
        /// The number found.
        found: u32,
    },
    /// Blocks of the M2P do not ascend.
    M2pOrder {
        /// First frame covered by the block before.
        last: u64,
        /// First frame covered by the block found.
        found: u64,
    },
    /// Entries of the history do not ascend.
    HistoryOrder {
        /// The number before.
        last: u64,
        /// The number found.
        found: u64,
    },
    /// More records of a type than there may be.
    TooMany {
        /// Its type.
        kind: u32,
        /// How many there may be.
        limit: usize,
    },
    /// No memory to remember the domains' numbers.
    NoMemory,
}

impl fmt::Display for OrderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::VersionFirst { kind } => write!(f, "the first record is {kind:#x}, not the version"),
            Self::Twice { kind } => write!(f, "a second record {kind:#x}"),
            Self::Missing { kind } => write!(f, "record {kind:#x} is missing"),
            Self::OutsideDomain { kind } => write!(f, "record {kind:#x} stands outside a domain"),
            Self::InsideDomain { kind, domid } => write!(f, "record {kind:#x} stands inside domain {domid}"),
            Self::DomidTaken { domid } => write!(f, "a second domain {domid}"),
            Self::Before { kind, needs } => write!(f, "record {kind:#x} needs a record {needs:#x} before it"),
            Self::VcpuNumber { due, found } => write!(f, "vCPU {found} where vCPU {due} was due"),
            Self::VcpuForeign { kind, found } => {
                write!(f, "record {kind:#x} of vCPU {found} does not follow that vCPU")
            }
            Self::VcpusMissing { due, found } => write!(f, "{found} of {due} vCPUs are there"),
            Self::AfterSum { at } => write!(f, "only the domain's end may follow its sum, not the record at {at:#x}"),
            Self::PortOrder { last, found } => write!(f, "event channel {found} after {last}"),
            Self::GrantOrder { kind, found } => write!(f, "number {found} out of order in record {kind:#x}"),
            Self::M2pOrder { last, found } => write!(f, "M2P block for frame {found:#x} after {last:#x}"),
            Self::HistoryOrder { last, found } => write!(f, "entry {found} of the history after {last}"),
            Self::TooMany { kind, limit } => write!(f, "more than {limit} records {kind:#x}"),
            Self::NoMemory => write!(f, "no memory to check it"),
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MissingEnd { at, left } => write!(f, "no END record: {left} bytes left at {at:#x}"),
            Self::PastEnd { kind, at, length, left } => {
                write!(f, "record {kind:#x} at {at:#x} has {length} bytes, only {left} are left")
            }
            Self::TooLong { kind, at, length } => {
                write!(f, "record {kind:#x} at {at:#x} has {length} bytes, the limit is {REC_LENGTH_MAX}")
            }
            Self::Padding { kind, at } => write!(f, "record {kind:#x} at {at:#x} has padding that is not zero"),
            Self::EndNotEmpty { at, length } => write!(f, "the END record at {at:#x} has {length} bytes"),
            Self::AfterEnd { at, extra } => write!(f, "{extra} bytes behind the END record, at {at:#x}"),
            Self::Unknown { kind, at } => write!(f, "record {kind:#x} at {at:#x} is of an unknown type"),
            Self::Checksum { noted, found } => write!(f, "the checksum is {found:#010x}, noted was {noted:#010x}"),
            Self::Page { index, mfn, noted, found, nr_damaged } => write!(
                f,
                "page {index} in frame {mfn} is damaged, as are {} further ones: its checksum is {found:#010x}, noted was {noted:#010x}",
                nr_damaged - 1
            ),
            Self::Sum { at, domid, part, noted, found } => {
                write!(
                    f,
                    "domain {domid} is not whole: its sum at {at:#x} says {part} {noted:#x}, found were {found:#x}"
                )
            }
            Self::Record { kind, at, error } => write!(f, "record {kind:#x} at {at:#x}: {error}"),
            Self::Order { at, rule } => write!(f, "at {at:#x}: {rule}"),
        }
    }
}
