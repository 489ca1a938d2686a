//! Writing records.

use super::crc::{behind, continued, with_zeros};
use super::{ByteSource, PagedSource, REC_HEADER_LEN, REC_LENGTH_MAX, REC_TYPE_END, Sink, each_part, padded, shown};
use crate::frame::{Mfn, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use alloc::vec::Vec;
use core::fmt;

/// Why a stream could not be written. The first cause is kept, and everything after it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// No further frame was to be had.
    NoPage {
        /// Bytes that were written.
        at: u64,
    },
    /// No memory to note which frames the stream lies in.
    NoMemory {
        /// Bytes that were written.
        at: u64,
    },
    /// A body grew over the limit of a record.
    TooLong {
        /// The record's type.
        kind: u32,
        /// Bytes that its body has.
        found: u64,
    },
    /// A record was begun inside another, or the stream ended inside one.
    StillOpen {
        /// The type of the record that is open.
        kind: u32,
    },
    /// Bytes were written, or a record closed, while none was open.
    NotOpen {
        /// Bytes that were written.
        at: u64,
    },
    /// A list was given that has not as many items as it should.
    Count {
        /// The record's type.
        kind: u32,
        /// Items that are due.
        due: u64,
        /// Items given.
        found: u64,
    },
    /// A record of type END was begun, or anything written after the end: only [`Writer::finish`] ends a stream.
    End {
        /// Bytes that were written.
        at: u64,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoPage { at } => write!(f, "no frame for the stream after {at} bytes"),
            Self::NoMemory { at } => write!(f, "no memory for the list of frames after {at} bytes of stream"),
            Self::TooLong { kind, found } => {
                write!(f, "record {kind:#x} grew to {found} bytes, the limit is {REC_LENGTH_MAX}")
            }
            Self::StillOpen { kind } => write!(f, "record {kind:#x} is still open"),
            Self::NotOpen { at } => write!(f, "no record is open at {at:#x}"),
            Self::Count { kind, due, found } => write!(f, "record {kind:#x} was given {found} items, {due} are due"),
            Self::End { at } => write!(f, "the stream ends at {at:#x}"),
        }
    }
}

/// Where a [`Writer`]'s bytes end up.
pub trait Dest: ByteSource {
    /// Appends the bytes, or none of them.
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError>;

    /// Replaces bytes that were appended before.
    fn patch(&mut self, at: u64, bytes: &[u8]);

    /// CRC-32C of all bytes, none of which is replaced any more. `crc` is that of the first `len`, which this has returned before.
    fn crc_on(&mut self, crc: u32, len: u64) -> u32 {
        continued(crc, self, len, self.len_bytes())
    }

    /// Says that nothing more comes. `crc` is that of all bytes.
    fn seal(&mut self, _crc: u32) {}
}

impl Dest for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.try_reserve(bytes.len()).map_err(|_| WriteError::NoMemory { at: self.len_bytes() })?;
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn patch(&mut self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Frames that are asked for one by one as the stream grows.
pub struct PagedDest<'a, M: ?Sized, F> {
    mem: &'a M,
    supply: F,
    pages: Vec<Mfn>,
    /// CRC-32C of each whole frame that was asked for, and of all their bytes.
    page_crcs: Vec<u32>,
    crc_of_pages: u32,
    len_bytes: u64,
}

impl<'a, M: PhysMem + ?Sized, F: FnMut() -> Option<Mfn>> PagedDest<'a, M, F> {
    /// An empty stream that takes its frames from `supply`. They must be frames that survive: outside the region and
    /// outside every destination of the next image.
    pub fn new(mem: &'a M, supply: F) -> Self {
        let (pages, page_crcs) = (Vec::new(), Vec::new());
        Self { mem, supply, pages, page_crcs, crc_of_pages: 0, len_bytes: 0 }
    }

    /// The frames taken so far, in the order of the stream.
    pub fn pages(&self) -> &[Mfn] {
        &self.pages
    }

    /// The frames taken, for the MFN list, or to be given back when the writing failed.
    pub fn into_pages(self) -> Vec<Mfn> {
        self.pages
    }

    /// The frames, and the CRC-32C of each: whole, zeros behind the stream's end. Of all of them, if [`Writer::finish`] succeeded.
    pub fn into_parts(self) -> (Vec<Mfn>, Vec<u32>) {
        (self.pages, self.page_crcs)
    }

    fn place(&self, at: u64, bytes: &[u8]) -> bool {
        each_part(&self.pages, at, bytes.len(), |mfn, offset, part| {
            self.mem.write(mfn.maddr().offset(offset), &bytes[part]);
        })
    }
}

impl<M: PhysMem + ?Sized, F: FnMut() -> Option<Mfn>> ByteSource for PagedDest<'_, M, F> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> bool {
        PagedSource::new(self.mem, &self.pages, self.len_bytes).read_at(at, into)
    }

    fn bytes_at(&self, at: u64, len: usize) -> Option<&[u8]> {
        if at.checked_add(len as u64)? > self.len_bytes {
            return None;
        }
        shown(self.mem, &self.pages, at, len)
    }
}

impl<M: PhysMem + ?Sized, F: FnMut() -> Option<Mfn>> Dest for PagedDest<'_, M, F> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let at = self.len_bytes;
        // Nearly all of what is short goes into the frame that was begun.
        let offset = at % PAGE_SIZE;
        if offset != 0
            && bytes.len() as u64 <= PAGE_SIZE - offset
            && let Some(mfn) = self.pages.get((at / PAGE_SIZE) as usize)
        {
            self.mem.write(mfn.maddr().offset(offset), bytes);
            self.len_bytes += bytes.len() as u64;
            return Ok(());
        }
        let end = at.checked_add(bytes.len() as u64).ok_or(WriteError::NoPage { at })?;
        while (self.pages.len() as u64) < end.div_ceil(PAGE_SIZE) {
            self.pages.try_reserve(1).map_err(|_| WriteError::NoMemory { at })?;
            self.page_crcs
                .try_reserve(self.pages.len() + 1 - self.page_crcs.len())
                .map_err(|_| WriteError::NoMemory { at })?;
            let mfn = (self.supply)().ok_or(WriteError::NoPage { at })?;
            self.pages.push(mfn);
        }
        let placed = self.place(at, bytes);
        assert!(placed, "frames were taken for all bytes");
        self.len_bytes = end;
        Ok(())
    }

    fn crc_on(&mut self, crc: u32, len: u64) -> u32 {
        let (mut crc, mut at) = (crc, len);
        while at < self.len_bytes {
            let page_end = (at / PAGE_SIZE + 1) * PAGE_SIZE;
            let end = page_end.min(self.len_bytes);
            crc = continued(crc, self, at, end);
            at = end;
            if end == page_end {
                // There is room since the frame was taken.
                self.page_crcs.push(behind(self.crc_of_pages, crc, PAGE_SIZE));
                self.crc_of_pages = crc;
            }
        }
        crc
    }

    /// The last frame comes with whatever its last owner left in it. What is behind the stream's end is not read, but it
    /// would be kept over the update, and two runs would differ.
    fn seal(&mut self, crc: u32) {
        let used = self.len_bytes % PAGE_SIZE;
        if let Some(last) = self.pages.last().filter(|_| used != 0) {
            self.mem.zero(last.maddr().offset(used), PAGE_SIZE - used);
            self.page_crcs.push(with_zeros(behind(self.crc_of_pages, crc, used), PAGE_SIZE - used));
        }
    }

    fn patch(&mut self, at: u64, bytes: &[u8]) {
        assert!(at + bytes.len() as u64 <= self.len_bytes, "only what was written is replaced");
        assert!(at / PAGE_SIZE >= self.page_crcs.len() as u64, "what has a checksum is final");
        let placed = self.place(at, bytes);
        assert!(placed, "a byte that was written has a frame");
    }
}

/// Bytes gathered before they go to the destination, so that small fields cost no more than a copy.
const BUF_LEN: usize = 512;

/// The longest record that is written in place.
pub(in crate::lu) const IN_PLACE_MAX: usize = BUF_LEN - REC_HEADER_LEN as usize;

/// A record's header.
fn header(kind: u32, length: u32) -> [u8; REC_HEADER_LEN as usize] {
    (u64::from(kind) | u64::from(length) << 32).to_le_bytes()
}

/// Where the body of a record is put whose length is known: what is left of it.
pub struct InPlace<'a> {
    left: &'a mut [u8],
}

impl Sink for InPlace<'_> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        let (place, left) = core::mem::take(&mut self.left).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        self.left = left;
    }
}

struct Open {
    kind: u32,
    header_at: u64,
}

/// Writes records one after the other.
///
/// The first failure is kept: everything written after it is dropped, and every later call that returns a result
/// returns it, [`Writer::finish`] at the latest.
pub struct Writer<D> {
    dest: D,
    buf: [u8; BUF_LEN],
    buf_len: usize,
    open: Option<Open>,
    error: Option<WriteError>,
    is_finished: bool,
    nr_records: u64,
    /// CRC-32C of the first `crc_len` bytes: every byte is read once for it, however often it is asked for.
    crc: u32,
    crc_len: u64,
}

/// What the MFN list has to know of a finished stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Bytes of the stream, END included.
    pub len_bytes: u64,
    /// CRC-32C of them.
    pub crc: u32,
}

impl<D: Dest> Writer<D> {
    /// A writer that appends to `dest`.
    pub fn new(dest: D) -> Self {
        Self {
            dest,
            buf: [0; BUF_LEN],
            buf_len: 0,
            open: None,
            error: None,
            is_finished: false,
            nr_records: 0,
            crc: 0,
            crc_len: 0,
        }
    }

    /// Bytes written so far.
    pub fn len_bytes(&self) -> u64 {
        self.dest.len_bytes() + self.buf_len as u64
    }

    /// Records closed so far.
    pub fn nr_records(&self) -> u64 {
        self.nr_records
    }

    /// The first failure, if there was one.
    pub fn check(&self) -> Result<(), WriteError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Begins a record, whose body is then [put](Sink::put).
    pub fn open_record(&mut self, kind: u32) -> Result<(), WriteError> {
        self.check_begin(kind)?;
        self.begin(kind);
        self.check()
    }

    /// Whether a record may begin.
    #[inline]
    fn check_begin(&mut self, kind: u32) -> Result<(), WriteError> {
        self.check()?;
        if let Some(open) = &self.open {
            let kind = open.kind;
            return self.fail(WriteError::StillOpen { kind });
        }
        if self.is_finished || kind == REC_TYPE_END {
            let at = self.len_bytes();
            return self.fail(WriteError::End { at });
        }
        Ok(())
    }

    /// Ends the open record: notes its length, and pads it.
    pub fn close_record(&mut self) -> Result<(), WriteError> {
        self.check()?;
        let Some(Open { kind, header_at }) = self.open.take() else {
            let at = self.len_bytes();
            return self.fail(WriteError::NotOpen { at });
        };
        let length = self.len_bytes() - header_at - REC_HEADER_LEN;
        if length > REC_LENGTH_MAX.into() {
            return self.fail(WriteError::TooLong { kind, found: length });
        }
        self.append(&[0; 8][..(padded(length) - length) as usize]);
        self.check()?;
        let bytes = (length as u32).to_le_bytes();
        let length_at = header_at + 4;
        // A short record is still in the buffer; a longer one's header has gone to its frame.
        match length_at.checked_sub(self.dest.len_bytes()) {
            Some(in_buf) => self.buf[in_buf as usize..in_buf as usize + 4].copy_from_slice(&bytes),
            None => self.dest.patch(length_at, &bytes),
        }
        self.nr_records += 1;
        Ok(())
    }

    /// Writes a whole record.
    pub fn record(&mut self, kind: u32, body: &[u8]) -> Result<(), WriteError> {
        self.record_of(kind, [body])
    }

    /// Writes a whole record, whose body is in pieces.
    pub fn record_of<const N: usize>(&mut self, kind: u32, pieces: [&[u8]; N]) -> Result<(), WriteError> {
        self.check_begin(kind)?;
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        if length > REC_LENGTH_MAX.into() {
            return self.fail(WriteError::TooLong { kind, found: length });
        }
        self.append(&header(kind, length as u32));
        for piece in pieces {
            self.append(piece);
        }
        self.append(&[0; 8][..(padded(length) - length) as usize]);
        self.check()?;
        self.nr_records += 1;
        Ok(())
    }

    /// Writes a whole record of at most [`IN_PLACE_MAX`] bytes, a multiple of 8, all of which `encode` puts.
    ///
    /// # Panics
    /// If it puts more or less.
    #[inline]
    pub(in crate::lu) fn record_in_place(
        &mut self,
        kind: u32,
        len_bytes: usize,
        encode: impl FnOnce(&mut InPlace<'_>),
    ) -> Result<(), WriteError> {
        self.check_begin(kind)?;
        let total = REC_HEADER_LEN as usize + len_bytes;
        if BUF_LEN - self.buf_len < total {
            self.flush();
            self.check()?;
        }
        let place = &mut self.buf[self.buf_len..][..total];
        let (head, body) = place.split_at_mut(REC_HEADER_LEN as usize);
        head.copy_from_slice(&header(kind, len_bytes as u32));
        let mut body = InPlace { left: body };
        encode(&mut body);
        assert!(body.left.is_empty(), "a record has the length that its type says");
        self.buf_len += total;
        self.nr_records += 1;
        Ok(())
    }

    /// Writes END and closes the stream. The frames are then in [`Writer::into_dest`], after a failure too.
    pub fn finish(&mut self) -> Result<Finished, WriteError> {
        self.check()?;
        let at = self.len_bytes();
        if let Some(open) = &self.open {
            let kind = open.kind;
            return self.fail(WriteError::StillOpen { kind });
        }
        if self.is_finished {
            return self.fail(WriteError::End { at });
        }
        self.begin(REC_TYPE_END);
        self.close_record()?;
        let crc = self.crc_so_far()?;
        self.dest.seal(crc);
        self.is_finished = true;
        Ok(Finished { crc, len_bytes: self.dest.len_bytes() })
    }

    /// CRC-32C of all bytes so far. No record is open.
    pub(in crate::lu) fn crc_so_far(&mut self) -> Result<u32, WriteError> {
        self.check()?;
        if let Some(open) = &self.open {
            let kind = open.kind;
            return self.fail(WriteError::StillOpen { kind });
        }
        self.flush();
        self.check()?;
        self.crc = self.dest.crc_on(self.crc, self.crc_len);
        self.crc_len = self.dest.len_bytes();
        Ok(self.crc)
    }

    /// Gives the destination back. What was not flushed by [`Writer::finish`] is lost.
    pub fn into_dest(self) -> D {
        self.dest
    }

    fn begin(&mut self, kind: u32) {
        self.open = Some(Open { kind, header_at: self.len_bytes() });
        self.append(&header(kind, 0));
    }

    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        let end = self.buf_len.wrapping_add(bytes.len());
        match self.buf.get_mut(self.buf_len..end) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.buf_len = end;
            }
            None => self.append_through(bytes),
        }
    }

    /// Empties the buffer first; what would fill it again goes past it.
    #[cold]
    fn append_through(&mut self, bytes: &[u8]) {
        self.flush();
        if self.error.is_some() {
            return;
        }
        if let Some(Open { kind, header_at }) = self.open {
            let found = (self.dest.len_bytes() + bytes.len() as u64).saturating_sub(header_at + REC_HEADER_LEN);
            if found > padded(REC_LENGTH_MAX.into()) {
                self.error = Some(WriteError::TooLong { kind, found });
                return;
            }
        }
        match self.buf.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.buf_len = bytes.len();
            }
            None => {
                if let Err(error) = self.dest.append(bytes) {
                    self.error = Some(error);
                }
            }
        }
    }

    fn flush(&mut self) {
        if self.error.is_none()
            && let Err(error) = self.dest.append(&self.buf[..self.buf_len])
        {
            self.error = Some(error);
        }
        self.buf_len = 0;
    }

    /// Keeps a failure, unless there was one before, and returns it.
    pub(in crate::lu) fn fail<T>(&mut self, error: WriteError) -> Result<T, WriteError> {
        Err(*self.error.get_or_insert(error))
    }
}

impl<D: Dest> Sink for Writer<D> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        if self.open.is_none() {
            self.error = Some(WriteError::NotOpen { at: self.len_bytes() });
            return;
        }
        self.append(bytes);
    }

    /// Long lists are written by this: one look at the state of things for all words.
    #[inline]
    fn put_words(&mut self, words: &[u64]) {
        let end = self.buf_len.wrapping_add(size_of_val(words));
        match self.buf.get_mut(self.buf_len..end) {
            Some(place) if self.error.is_none() && self.open.is_some() => {
                for (place, word) in place.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                    *place = word.to_le_bytes();
                }
                self.buf_len = end;
            }
            _ => words.iter().for_each(|word| self.put_u64(*word)),
        }
    }
}
