//! The fields of fixed size at the beginning of a body, in one piece: a look into the stream for all of them instead of one for each.

use super::reader::is_zero;
use super::{Body, ByteSource, RecordError};
use crate::frame::Mfn;

/// Fields that are read together have at most so many bytes.
pub(in crate::lu) const FIELDS_LEN_MAX: usize = 256;

/// A place among fields, which are read one after the other.
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a, S: ByteSource + ?Sized> Body<'a, S> {
    /// Passes over the `len_bytes` bytes of fields that a body begins with, and reads them with `decode`. If there are not that many, `decode` is
    /// given what there is, and runs into the end.
    ///
    /// # Panics
    /// If the fields have more than 256 bytes.
    #[inline]
    pub fn fields<T>(
        &mut self,
        len_bytes: u64,
        decode: impl FnOnce(&mut Fields<'_>) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let mut buf;
        let bytes = match self.lend(len_bytes) {
            Some(shown) => shown,
            None => {
                buf = [0; FIELDS_LEN_MAX];
                let buf = &mut buf[..len_bytes.min(self.remaining()) as usize];
                self.read_into(buf)?;
                buf
            }
        };
        decode(&mut Fields { bytes, at: 0 })
    }
}

#[expect(
    clippy::inline_always,
    reason = "places are constants, and most of the checks nothing, only where all of it is in one function"
)]
impl Fields<'_> {
    /// Bytes from the beginning of the body to this place.
    #[inline(always)]
    pub fn offset(&self) -> u64 {
        self.at as u64
    }

    /// The next `N` bytes.
    #[inline(always)]
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let rest = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        let Some(found) = rest else { return Err(self.short(N)) };
        self.at += N;
        Ok(*found)
    }

    #[cold]
    fn short(&self, more: usize) -> RecordError {
        RecordError::Short { needed: (self.at + more) as u64, found: self.bytes.len() as u64 }
    }

    /// The next byte.
    #[inline(always)]
    pub fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(u8::from_le_bytes(self.bytes()?))
    }

    /// The next two bytes.
    #[inline(always)]
    pub fn u16(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_le_bytes(self.bytes()?))
    }

    /// The next four bytes.
    #[inline(always)]
    pub fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    /// The next eight bytes.
    #[inline(always)]
    pub fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// The next eight bytes as a frame number.
    #[inline(always)]
    pub fn mfn(&mut self) -> Result<Mfn, RecordError> {
        self.checked_u64(|value| Mfn::try_new(value).ok())
    }

    /// The next eight bytes as a frame number, all ones for none.
    #[inline(always)]
    pub fn optional_mfn(&mut self) -> Result<Option<Mfn>, RecordError> {
        self.checked_u64(|value| if value == u64::MAX { Some(None) } else { Mfn::try_new(value).ok().map(Some) })
    }

    /// The next eight bytes through `f`, which says what they cannot be.
    #[inline(always)]
    pub fn checked_u64<T>(&mut self, f: impl FnOnce(u64) -> Option<T>) -> Result<T, RecordError> {
        let offset = self.offset();
        let found = self.u64()?;
        f(found).ok_or(RecordError::BadValue { offset, found })
    }

    /// The next four bytes through `f`, which says what they cannot be.
    #[inline(always)]
    pub fn checked_u32<T>(&mut self, f: impl FnOnce(u32) -> Option<T>) -> Result<T, RecordError> {
        let offset = self.offset();
        let found = self.u32()?;
        f(found).ok_or(RecordError::BadValue { offset, found: found.into() })
    }

    /// The next two bytes through `f`, which says what they cannot be.
    #[inline(always)]
    pub fn checked_u16<T>(&mut self, f: impl FnOnce(u16) -> Option<T>) -> Result<T, RecordError> {
        let offset = self.offset();
        let found = self.u16()?;
        f(found).ok_or(RecordError::BadValue { offset, found: found.into() })
    }

    /// The next byte through `f`, which says what it cannot be.
    #[inline(always)]
    pub fn checked_u8<T>(&mut self, f: impl FnOnce(u8) -> Option<T>) -> Result<T, RecordError> {
        let offset = self.offset();
        let found = self.u8()?;
        f(found).ok_or(RecordError::BadValue { offset, found: found.into() })
    }

    /// Passes over reserved bytes, which must be zero. One that is not counts before an end that comes too early.
    #[inline(always)]
    pub fn reserved(&mut self, nr_bytes: usize) -> Result<(), RecordError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..nr_bytes)) {
            Some(reserved) if is_zero(reserved) => {
                self.at += nr_bytes;
                Ok(())
            }
            _ => Err(self.not_reserved(nr_bytes)),
        }
    }

    /// What is wrong with reserved bytes. As they may be read in pieces of eight, what the pieces before the end hold counts before it.
    #[cold]
    fn not_reserved(&self, nr_bytes: usize) -> RecordError {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let there = if rest.len() >= nr_bytes { nr_bytes } else { rest.len() - rest.len() % 8 };
        match rest[..there].iter().position(|&byte| byte != 0) {
            Some(index) => RecordError::Reserved { offset: (self.at + index) as u64, found: rest[index] },
            None => self.short(there + (nr_bytes - there).min(8)),
        }
    }
}
