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

mod crc;
mod error;
mod fields;
mod reader;
mod writer;

pub use crc::{behind, joined, with_zeros};
pub use error::{OrderRule, RecordError, StreamError, SumPart};
pub(in crate::lu) use fields::FIELDS_LEN_MAX;
pub use fields::Fields;
pub(in crate::lu) use reader::is_zero;
pub use reader::{Body, Reader, Record};
pub(in crate::lu) use writer::IN_PLACE_MAX;
pub use writer::{Dest, Finished, PagedDest, WriteError, Writer};

use crate::frame::{Mfn, PAGE_SHIFT, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use alloc::vec::Vec;

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

    /// The `len` bytes at `at` where they lie, if they all exist, lie in one piece, and the source can show them. [`Self::read_at`] has them in any case.
    fn bytes_at(&self, _at: u64, _len: usize) -> Option<&[u8]> {
        None
    }

    /// CRC-32C of the bytes from `start` to `end`, all of which exist.
    fn crc(&self, start: u64, end: u64) -> u32 {
        crc::of_bytes(self, start, end)
    }
}

impl ByteSource for [u8] {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> bool {
        match self.bytes_at(at, into.len()) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    fn bytes_at(&self, at: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(at).ok()?;
        self.get(start..start.checked_add(len)?)
    }
}

impl ByteSource for Vec<u8> {
    fn len_bytes(&self) -> u64 {
        self.as_slice().len_bytes()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> bool {
        self.as_slice().read_at(at, into)
    }

    fn bytes_at(&self, at: u64, len: usize) -> Option<&[u8]> {
        self.as_slice().bytes_at(at, len)
    }
}

/// The next `N` bytes of a source, if they all exist.
fn array_at<const N: usize, S: ByteSource + ?Sized>(source: &S, at: u64) -> Option<[u8; N]> {
    if let Some(bytes) = source.bytes_at(at, N) {
        return bytes.try_into().ok();
    }
    let mut bytes = [0; N];
    source.read_at(at, &mut bytes).then_some(bytes)
}

/// The bytes of a stream that lies in frames all over memory.
pub struct PagedSource<'a, M: ?Sized> {
    mem: &'a M,
    pages: &'a [Mfn],
    len_bytes: u64,
    /// CRC-32C of the first frames, as far as it is known.
    page_crcs: &'a [u32],
}

impl<'a, M: PhysMem + ?Sized> PagedSource<'a, M> {
    /// The first `len_bytes` bytes of the frames, or all that they hold if that is less.
    pub fn new(mem: &'a M, pages: &'a [Mfn], len_bytes: u64) -> Self {
        let held = (pages.len() as u64).saturating_mul(PAGE_SIZE);
        Self { mem, pages, len_bytes: len_bytes.min(held), page_crcs: &[] }
    }

    /// The same, with the CRC-32C of its first whole frames, which the caller has found to be right.
    pub fn with_crcs(self, page_crcs: &'a [u32]) -> Self {
        Self { page_crcs, ..self }
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

    fn bytes_at(&self, at: u64, len: usize) -> Option<&[u8]> {
        if at.checked_add(len as u64)? > self.len_bytes {
            return None;
        }
        shown(self.mem, self.pages, at, len)
    }

    fn crc(&self, start: u64, end: u64) -> u32 {
        crc::with_known(self, self.page_crcs, start, end)
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

/// The `len` bytes at `at` of what lies in the frames, if they are in one of them, and the memory can show it.
#[expect(unsafe_code, reason = "bytes of the stream are shown where they lie")]
fn shown<'a, M: PhysMem + ?Sized>(mem: &'a M, pages: &'a [Mfn], at: u64, len: usize) -> Option<&'a [u8]> {
    let mfn = *pages.get(usize::try_from(at >> PAGE_SHIFT).ok()?)?;
    let offset = (at % PAGE_SIZE) as usize;
    let end = offset.checked_add(len)?;
    // SAFETY: a stream's frames are its own. Only `PagedDest` writes to them, and whoever has bytes of it shown has borrowed it.
    unsafe { mem.show(mfn) }?.get(offset..end)
}

/// CRC-32C of all bytes of a source.
pub fn checksum<S: ByteSource + ?Sized>(source: &S) -> u32 {
    source.crc(0, source.len_bytes())
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
        let mut left = nr_bytes;
        while left != 0 {
            let piece = left.min(8);
            self.put(&[0; 8][..piece]);
            left -= piece;
        }
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
