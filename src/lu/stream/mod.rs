//! Record framing: a sequence of {type, length, body, padding}, as in Xen's migration stream.
//!
//! ```text
//!  0        4        8                     8 + length     rounded up to 8
//!  +--------+--------+---------------------+--------------+
//!  | type   | length | body                | zero padding |  next record ...
//!  +--------+--------+---------------------+--------------+
//! ```
//!
//! All numbers are little-endian. The outgoing side writes with a [`Writer`] to frames that it is given one by one, the
//! incoming side reads the same frames with a [`Reader`] through [`PhysMem`], wherever they lie.
//! Tools on a host use the same code over plain bytes. What the bodies hold is told in [`records`](super::records).
//!
//! Rules (docs/handover.md gives them in full):
//! 1. A body is at most [`REC_LENGTH_MAX`] long, and padding is zero.
//! 2. The stream ends with an empty END record and nothing behind it.
//! 3. A record of an unknown type is refused, unless bit 31 of its type says that it is optional: then it is skipped.
//! 4. A reader never reads outside the stream's length, and an error names the offset of the record that caused it.
//!
//! Sources: Xen's docs/specs/libxc-migration-stream.pandoc; DESIGN §3.5.

mod reader;
mod writer;

pub use reader::{Body, Reader, Record};
pub use writer::{Dest, Finished, PagedDest, WriteError, Writer};

use crate::frame::{Mfn, PAGE_SHIFT, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use alloc::vec::Vec;
use core::fmt;
use crc::{CRC_32_ISCSI, Crc, Table};

/// Bytes of a record's header: u32 type, u32 length.
pub const REC_HEADER_LEN: u64 = 8;
/// Bodies are padded to a multiple of this.
pub const REC_ALIGN: u64 = 8;
/// The longest body, as in libxc.
pub const REC_LENGTH_MAX: u32 = 128 << 20;
/// Set in a type whose records a reader may skip.
pub const REC_TYPE_OPTIONAL: u32 = 1 << 31;
/// Set in the types that exist only in live-update streams.
pub const REC_TYPE_LIVE_UPDATE: u32 = 1 << 30;
/// The type of the record that ends a stream.
pub const REC_TYPE_END: u32 = 0;

const _: () = assert!(REC_HEADER_LEN == 8 && REC_ALIGN == 8);
const _: () = assert!(REC_LENGTH_MAX == 0x0800_0000);
const _: () = assert!(REC_TYPE_OPTIONAL == 0x8000_0000 && REC_TYPE_LIVE_UPDATE == 0x4000_0000);

/// CRC-32C with sixteen tables (16 KiB), which takes sixteen bytes a step. A static, because a const would be copied.
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A CRC-32C in progress.
pub(super) fn digest() -> crc::Digest<'static, u32, Table<16>> {
    CRC32C.digest()
}

/// Bytes that are copied at a time where a buffer on the stack is needed.
pub(super) const COPY_LEN: usize = 1024;

/// The body's length with its padding.
pub(super) const fn padded(length: u64) -> u64 {
    length.next_multiple_of(REC_ALIGN)
}

/// Bytes that a reader takes its records from: frames, or a slice.
pub trait ByteSource {
    /// Bytes in it.
    fn len_bytes(&self) -> u64;

    /// Fills `into` with the bytes at `at`, or returns false, with `into` unspecified, if they do not all exist.
    #[must_use]
    fn read_at(&self, at: u64, into: &mut [u8]) -> bool;
}

impl ByteSource for [u8] {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> bool {
        let found = usize::try_from(at)
            .ok()
            .and_then(|start| Some(start..start.checked_add(into.len())?))
            .and_then(|range| self.get(range));
        match found {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

impl ByteSource for Vec<u8> {
    fn len_bytes(&self) -> u64 {
        self.as_slice().len_bytes()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> bool {
        self.as_slice().read_at(at, into)
    }
}

/// The bytes of a stream that lies in frames all over memory.
pub struct PagedSource<'a, M: ?Sized> {
    mem: &'a M,
    pages: &'a [Mfn],
    len_bytes: u64,
}

impl<'a, M: PhysMem + ?Sized> PagedSource<'a, M> {
    /// The first `len_bytes` bytes of the frames, or all that they hold if that is less.
    pub fn new(mem: &'a M, pages: &'a [Mfn], len_bytes: u64) -> Self {
        let held = (pages.len() as u64).saturating_mul(PAGE_SIZE);
        Self { mem, pages, len_bytes: len_bytes.min(held) }
    }
}

impl<M: PhysMem + ?Sized> ByteSource for PagedSource<'_, M> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> bool {
        match at.checked_add(into.len() as u64) {
            Some(end) if end <= self.len_bytes => each_part(self.pages, at, into.len(), |mfn, offset, part| {
                self.mem.read(mfn.maddr().offset(offset), &mut into[part]);
            }),
            _ => false,
        }
    }
}

/// Calls `f` with frame, offset in it and the part of `0..len` for each frame that the `len` bytes at `at` touch. False
/// if there are not enough frames.
fn each_part(pages: &[Mfn], at: u64, len: usize, mut f: impl FnMut(Mfn, u64, core::ops::Range<usize>)) -> bool {
    let mut done = 0;
    while done < len {
        let here = at + done as u64;
        let offset = here % PAGE_SIZE;
        let Some(&mfn) = usize::try_from(here >> PAGE_SHIFT).ok().and_then(|index| pages.get(index)) else {
            return false;
        };
        let n = ((PAGE_SIZE - offset) as usize).min(len - done);
        f(mfn, offset, done..done + n);
        done += n;
    }
    true
}

/// CRC-32C of all bytes of a source.
pub fn checksum<S: ByteSource + ?Sized>(source: &S) -> u32 {
    let mut digest = digest();
    let mut buf = [0; COPY_LEN];
    let mut at = 0;
    let len_bytes = source.len_bytes();
    while at < len_bytes {
        let n = (len_bytes - at).min(COPY_LEN as u64) as usize;
        let inside = source.read_at(at, &mut buf[..n]);
        assert!(inside, "a byte source is as long as it says");
        digest.update(&buf[..n]);
        at += n as u64;
    }
    digest.finalize()
}

/// Something that bytes are appended to: a [`Writer`], or a plain vector for tools and tests.
pub trait Sink {
    /// Appends the bytes.
    fn put(&mut self, bytes: &[u8]);

    /// Appends a byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Appends two bytes.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Appends four bytes.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Appends eight bytes.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Appends eight bytes for each word.
    fn put_words(&mut self, words: &[u64]) {
        for word in words {
            self.put_u64(*word);
        }
    }

    /// Appends zeros: reserved fields.
    fn put_zeros(&mut self, nr_bytes: usize) {
        for _ in 0..nr_bytes {
            self.put(&[0]);
        }
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

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

/// A rule about which records follow which. Checked by [`validate`](super::records::validate).
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
            Self::Record { kind, at, error } => write!(f, "record {kind:#x} at {at:#x}: {error}"),
            Self::Order { at, rule } => write!(f, "at {at:#x}: {rule}"),
        }
    }
}

#[cfg(test)]
mod tests;
