//! Strings: short names of fixed size, and texts as long as a command line.

use super::super::stream::{Body, ByteSource, Fields, RecordError, Sink, is_zero};
use core::fmt;

/// The longest text that a record may carry.
pub const TEXT_LEN_MAX: u64 = 64 << 10;

const _: () = assert!(TEXT_LEN_MAX == 0x1_0000);

/// Why a string cannot be a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It is too long.
    TooLong {
        /// Bytes that it has.
        found: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// It has a byte that is not printable ASCII.
    NotPrintable {
        /// Which one.
        index: usize,
        /// The byte.
        found: u8,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLong { found, limit } => write!(f, "a name of {found} bytes, {limit} is the limit"),
            Self::NotPrintable { index, found } => write!(f, "byte {index} of a name is {found:#x}, not printable"),
        }
    }
}

/// A name of up to `N` bytes of printable ASCII, padded with NULs. It goes to the console as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name<const N: usize>([u8; N]);

impl<const N: usize> Name<N> {
    /// No name.
    pub const EMPTY: Self = Self([0; N]);

    /// Takes a string.
    pub fn try_new(name: &str) -> Result<Self, NameError> {
        let found = name.len();
        let mut bytes = [0; N];
        let place = bytes.get_mut(..found).ok_or(NameError::TooLong { found, limit: N })?;
        place.copy_from_slice(name.as_bytes());
        match name.bytes().position(|byte| !is_printable(byte)) {
            None => Ok(Self(bytes)),
            Some(index) => Err(NameError::NotPrintable { index, found: bytes[index] }),
        }
    }

    /// The string.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(N);
        core::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }

    /// Appends the `N` bytes.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put(&self.0);
    }

    /// Reads the `N` bytes: printable, then NULs only.
    pub fn decode(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let start = from.offset();
        let bytes: [u8; N] = from.bytes()?;
        let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(N);
        let (name, rest) = bytes.split_at(len);
        // Which byte is wrong is asked only if there is one: what is zero is seen a word at a time.
        let wrong = match name.iter().position(|&byte| !is_printable(byte)) {
            None if !is_zero(rest) => rest.iter().position(|&byte| byte != 0).map(|index| len + index),
            found => found,
        };
        match wrong {
            None => Ok(Self(bytes)),
            Some(index) => Err(RecordError::BadValue { offset: start + index as u64, found: bytes[index].into() }),
        }
    }
}

impl<const N: usize> fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl<const N: usize> fmt::Display for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// True for what may go to the console.
pub(super) const fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e)
}

/// A body that is all text: what goes into strings that end with a NUL has none.
pub(super) fn decode<S: ByteSource + ?Sized>(body: Body<'_, S>) -> Result<Body<'_, S>, RecordError> {
    let text = blob(body)?;
    let (mut rest, mut piece) = (text, [0; 64]);
    while rest.remaining() != 0 {
        let start = rest.offset();
        let piece = match rest.lend(rest.remaining()) {
            Some(shown) => shown,
            None => {
                let piece = &mut piece[..rest.remaining().min(64) as usize];
                rest.read_into(piece)?;
                piece
            }
        };
        // Which of them is asked only if there is one: the search for any takes a word at a time.
        if piece.contains(&0)
            && let Some(index) = piece.iter().position(|&byte| byte == 0)
        {
            return Err(RecordError::BadValue { offset: start + index as u64, found: 0 });
        }
    }
    Ok(text)
}

/// A body that is all bytes.
pub(super) fn blob<S: ByteSource + ?Sized>(body: Body<'_, S>) -> Result<Body<'_, S>, RecordError> {
    let found = body.remaining();
    if found <= TEXT_LEN_MAX {
        Ok(body)
    } else {
        let known = body.offset() + TEXT_LEN_MAX;
        Err(RecordError::Long { known, found: body.offset() + found })
    }
}
