//! Reading records, and the fields of a body.

use super::{
    ByteSource, REC_ALIGN, REC_HEADER_LEN, REC_LENGTH_MAX, REC_TYPE_END, REC_TYPE_OPTIONAL, RecordError, StreamError,
    array_at, padded,
};
use crate::frame::PAGE_SIZE;
use alloc::vec::Vec;

/// Walks the records of a stream.
///
/// It holds nothing but its place and the frame at hand, so every pass of the restore starts one of its own.
pub struct Reader<'a, S: ?Sized> {
    source: &'a S,
    /// What the source shows around the place, and where in the stream that begins: a frame is looked up once for all headers in it.
    shown: &'a [u8],
    shown_at: u64,
    is_known: fn(u32) -> bool,
    at: u64,
    is_over: bool,
    nr_skipped: u64,
}

/// One record: its type, where it is, and its body.
pub struct Record<'a, S: ?Sized> {
    /// The type, with all of its flag bits.
    pub kind: u32,
    /// Offset of the header in the stream.
    pub at: u64,
    /// The body, without padding.
    pub body: Body<'a, S>,
}

impl<S: ?Sized> Record<'_, S> {
    /// Says of which record a body's error is.
    pub fn error(&self, error: RecordError) -> StreamError {
        StreamError::Record { kind: self.kind, at: self.at, error }
    }
}

impl<'a, S: ByteSource + ?Sized> Record<'a, S> {
    /// The stream that it is in.
    pub(in crate::lu) fn source(&self) -> &'a S {
        self.body.source
    }

    /// Offset of the next record's header.
    pub(in crate::lu) fn next(&self) -> u64 {
        self.body.start + padded(self.body.end - self.body.start)
    }
}

impl<S: ?Sized> Clone for Record<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: ?Sized> Copy for Record<'_, S> {}

impl<'a, S: ByteSource + ?Sized> Reader<'a, S> {
    /// A reader at the first record. `is_known` says which types the caller understands; all others are refused or,
    /// if optional, skipped.
    pub fn new(source: &'a S, is_known: fn(u32) -> bool) -> Self {
        Self { source, shown: &[], shown_at: 0, is_known, at: 0, is_over: false, nr_skipped: 0 }
    }

    /// The next record; none when END was read and was the end. After an error the reader stays where it is and returns
    /// the same error again.
    pub fn next_record(&mut self) -> Result<Option<Record<'a, S>>, StreamError> {
        loop {
            if self.is_over {
                return Ok(None);
            }
            let at = self.at;
            let len_bytes = self.source.len_bytes();
            let left = len_bytes.saturating_sub(at);
            let header = if left < REC_HEADER_LEN { None } else { self.eight_at(at) };
            let Some(header) = header else { return Err(StreamError::MissingEnd { at, left }) };
            let [t0, t1, t2, t3, l0, l1, l2, l3] = header;
            let kind = u32::from_le_bytes([t0, t1, t2, t3]);
            let length = u32::from_le_bytes([l0, l1, l2, l3]);
            let left = left - REC_HEADER_LEN;
            if length > REC_LENGTH_MAX {
                return Err(StreamError::TooLong { kind, at, length });
            }
            if padded(length.into()) > left {
                return Err(StreamError::PastEnd { kind, at, length, left });
            }
            let start = at + REC_HEADER_LEN;
            let end = start + u64::from(length);
            let next = start + padded(length.into());
            if next != end && !self.is_padded(end, next) {
                return Err(StreamError::Padding { kind, at });
            }
            if kind == REC_TYPE_END {
                if length != 0 {
                    return Err(StreamError::EndNotEmpty { at, length });
                }
                if next != len_bytes {
                    return Err(StreamError::AfterEnd { at: next, extra: len_bytes - next });
                }
                self.is_over = true;
                self.at = next;
                continue;
            }
            if (self.is_known)(kind) {
                self.at = next;
                return Ok(Some(Record { kind, at, body: Body { source: self.source, start, at: start, end } }));
            }
            if kind & REC_TYPE_OPTIONAL == 0 {
                return Err(StreamError::Unknown { kind, at });
            }
            self.at = next;
            self.nr_skipped += 1;
        }
    }

    /// The eight bytes at `at`, a multiple of 8.
    #[inline]
    fn eight_at(&mut self, at: u64) -> Option<[u8; 8]> {
        let offset = at.wrapping_sub(self.shown_at) as usize;
        match self.shown.get(offset..).and_then(|rest| rest.first_chunk()) {
            Some(eight) => Some(*eight),
            None => self.eight_elsewhere(at),
        }
    }

    /// As [`Self::eight_at`], where the frame at hand has them not: the frame that has is then at hand.
    #[cold]
    fn eight_elsewhere(&mut self, at: u64) -> Option<[u8; 8]> {
        let start = at - at % PAGE_SIZE;
        let len = PAGE_SIZE.min(self.source.len_bytes().saturating_sub(start));
        self.shown = self.source.bytes_at(start, len as usize).unwrap_or_default();
        self.shown_at = start;
        let shown = self.shown.get((at - start) as usize..).and_then(|rest| rest.first_chunk());
        shown.copied().or_else(|| array_at(self.source, at))
    }

    /// Looks at a record's padding, which ends where the next multiple of eight is.
    fn is_padded(&mut self, start: u64, end: u64) -> bool {
        let Some(last) = self.eight_at(end - REC_ALIGN) else { return false };
        u64::from_le_bytes(last) >> (8 * (REC_ALIGN - (end - start))) == 0
    }

    /// Offset of the next header; of the stream's end when END was read.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Optional records skipped so far because their type is unknown.
    pub fn nr_skipped(&self) -> u64 {
        self.nr_skipped
    }
}

/// Whether all bytes are zero, a word at a time.
#[inline]
pub(in crate::lu) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().fold(0, |bits, word| bits | u64::from_ne_bytes(*word)) == 0 && rest.iter().all(|&byte| byte == 0)
}

/// A place in a record's body, from which its fields are read one after the other, across frames if need be.
///
/// A copy is a second place in the same body.
pub struct Body<'a, S: ?Sized> {
    source: &'a S,
    start: u64,
    at: u64,
    end: u64,
}

impl<S: ?Sized> Clone for Body<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: ?Sized> Copy for Body<'_, S> {}

impl<'a, S: ByteSource + ?Sized> Body<'a, S> {
    /// All bytes of a source as one body.
    pub fn whole(source: &'a S) -> Self {
        Self { source, start: 0, at: 0, end: source.len_bytes() }
    }

    /// The bytes from `start` to `end` as one body.
    #[cfg(test)]
    pub(super) fn of(source: &'a S, start: u64, end: u64) -> Self {
        Self { source, start, at: start, end }
    }

    /// Bytes from the beginning of the body to this place.
    pub fn offset(&self) -> u64 {
        self.at - self.start
    }

    /// Bytes left.
    pub fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// Fills `into` with the next bytes.
    pub fn read_into(&mut self, into: &mut [u8]) -> Result<(), RecordError> {
        let len = into.len() as u64;
        if len > self.remaining() || !self.source.read_at(self.at, into) {
            return Err(self.short(len));
        }
        self.at += len;
        Ok(())
    }

    /// Passes over the next bytes.
    pub fn skip(&mut self, nr_bytes: u64) -> Result<(), RecordError> {
        if nr_bytes > self.remaining() {
            return Err(self.short(nr_bytes));
        }
        self.at += nr_bytes;
        Ok(())
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        match array_at(self.source, self.at) {
            Some(bytes) if N as u64 <= self.remaining() => {
                self.at += N as u64;
                Ok(bytes)
            }
            _ => Err(self.short(N as u64)),
        }
    }

    /// The next bytes where they lie, if the source can show them, and passes over them.
    pub(in crate::lu) fn lend(&mut self, nr_bytes: u64) -> Option<&'a [u8]> {
        if nr_bytes > self.remaining() {
            return None;
        }
        let bytes = self.source.bytes_at(self.at, usize::try_from(nr_bytes).ok()?)?;
        self.at += nr_bytes;
        Some(bytes)
    }

    /// As many of the next items of `item_len` bytes as the source can show in one piece, and passes over them.
    pub(in crate::lu) fn lend_whole(&mut self, item_len: u64) -> Option<&'a [u8]> {
        let piece = self.remaining().min(PAGE_SIZE - self.at % PAGE_SIZE);
        let whole = piece - piece % item_len;
        if whole == 0 { None } else { self.lend(whole) }
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(u8::from_le_bytes(self.bytes()?))
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_le_bytes(self.bytes()?))
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// The next byte through `f`, which says what it cannot be.
    pub fn checked_u8<T>(&mut self, f: impl FnOnce(u8) -> Option<T>) -> Result<T, RecordError> {
        let offset = self.offset();
        let found = self.u8()?;
        f(found).ok_or(RecordError::BadValue { offset, found: found.into() })
    }

    /// Says that all fields were read: an error if there is more.
    pub fn finish(self) -> Result<(), RecordError> {
        if self.remaining() == 0 {
            Ok(())
        } else {
            Err(RecordError::Long { known: self.offset(), found: self.end - self.start })
        }
    }

    /// A copy of the bytes that are left: strings and other small things.
    pub fn to_vec(&self) -> Result<Vec<u8>, RecordError> {
        let len_bytes = self.remaining();
        let mut bytes = Vec::new();
        let len = usize::try_from(len_bytes).map_err(|_| RecordError::NoMemory { len_bytes })?;
        bytes.try_reserve_exact(len).map_err(|_| RecordError::NoMemory { len_bytes })?;
        let mut place = *self;
        while place.remaining() != 0 {
            // What is shown is shown frame by frame.
            let piece = place.remaining().min(PAGE_SIZE - place.at % PAGE_SIZE);
            if let Some(shown) = place.lend(piece) {
                bytes.extend_from_slice(shown);
            } else {
                let read = bytes.len();
                bytes.resize(len, 0);
                place.read_into(&mut bytes[read..])?;
            }
        }
        Ok(bytes)
    }

    fn short(&self, more: u64) -> RecordError {
        RecordError::Short { needed: self.offset().saturating_add(more), found: self.end - self.start }
    }
}
