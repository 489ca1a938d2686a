//! The record of a domain that the outgoing side had refused itself, and kept. Optional: a build that passes over it finds a domain like any other, and
//! judges it by its other records.

use super::super::stream::{Body, ByteSource, Dest, RecordError, Sink, WriteError, Writer};
use super::LU_REFUSED;
use super::text::is_printable;
use alloc::string::String;
use core::fmt::Write;

/// Bytes of a reason.
pub const REASON_LEN_MAX: usize = 512;

const _: () = assert!(REASON_LEN_MAX == 0x200);

/// What of a refused domain goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RefusedCause {
    /// All of its records are as they came: a build that finds nothing wrong with them runs it.
    Whole = 1,
    /// Its state or its memory is not complete: what is left of its memory goes on, and it never runs again.
    Lost = 2,
}

impl RefusedCause {
    /// Takes a number.
    pub const fn try_new(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Whole),
            2 => Some(Self::Lost),
            _ => None,
        }
    }
}

/// A refused domain.
pub struct LuRefused<'a, S: ?Sized> {
    /// What goes on of it.
    pub cause: RefusedCause,
    /// vCPUs that it had. Those of a domain that is lost are not in the stream.
    pub nr_vcpus: u32,
    /// Why, up to 512 bytes of text.
    pub why: Body<'a, S>,
}

impl<'a, S: ByteSource + ?Sized> LuRefused<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let (cause, nr_vcpus) = body.fields(8, |from| Ok((from.checked_u32(RefusedCause::try_new)?, from.u32()?)))?;
        match body.remaining() {
            found if found > REASON_LEN_MAX as u64 => {
                Err(RecordError::Long { known: body.offset() + REASON_LEN_MAX as u64, found: body.offset() + found })
            }
            _ => Ok(Self { cause, nr_vcpus, why: body }),
        }
    }

    /// The reason as it may go to the console: printable ASCII as it is, every other byte as `\xNN`, 512 bytes at most. A stream that was damaged or made to
    /// deceive has no say over the operator's terminal. A text that was made so stays as it is from update to update.
    pub fn reason(&self) -> Result<String, RecordError> {
        let (mut rest, mut piece) = (self.why, [0; 64]);
        let mut shown = String::new();
        while rest.remaining() != 0 {
            let piece = &mut piece[..rest.remaining().min(64) as usize];
            rest.read_into(piece)?;
            for &byte in &*piece {
                let len = if is_printable(byte) { 1 } else { ESCAPE_LEN };
                if shown.len() + len > REASON_LEN_MAX {
                    return Ok(shown);
                }
                // Writing to a string does not fail.
                let _ = if is_printable(byte) { shown.write_char(byte.into()) } else { write!(shown, "\\x{byte:02x}") };
            }
        }
        Ok(shown)
    }
}

/// Bytes of `\xNN`.
const ESCAPE_LEN: usize = 4;

/// Writes LU_REFUSED; a reason that is too long is cut.
pub fn write_refused<D: Dest>(
    out: &mut Writer<D>,
    cause: RefusedCause,
    nr_vcpus: u32,
    why: &str,
) -> Result<(), WriteError> {
    let mut len = why.len().min(REASON_LEN_MAX);
    while !why.is_char_boundary(len) {
        len -= 1;
    }
    out.open_record(LU_REFUSED)?;
    out.put_u32(cause as u32);
    out.put_u32(nr_vcpus);
    out.put(&why.as_bytes()[..len]);
    out.close_record()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn written(why: &str) -> Vec<u8> {
        let mut out = Writer::new(Vec::new());
        write_refused(&mut out, RefusedCause::Lost, 3, why).unwrap();
        out.finish().unwrap();
        let mut bytes = out.into_dest();
        bytes.truncate(bytes.len() - 8);
        bytes
    }

    #[test]
    fn the_layout_is_that_of_the_page() {
        let bytes = written("so");
        assert_eq!(&bytes[..8], [0x10, 0, 0, 0xc0, 10, 0, 0, 0]);
        assert_eq!(&bytes[8..], [2, 0, 0, 0, 3, 0, 0, 0, b's', b'o', 0, 0, 0, 0, 0, 0]);
        let body = &bytes[8..18];
        let read = LuRefused::decode(Body::whole(body)).unwrap();
        assert_eq!((read.cause, read.nr_vcpus, read.why.to_vec().unwrap()), (RefusedCause::Lost, 3, b"so".to_vec()));
    }

    fn shown(why: &[u8]) -> String {
        let body = [&[2, 0, 0, 0, 3, 0, 0, 0], why].concat();
        LuRefused::decode(Body::whole(&*body)).unwrap().reason().unwrap()
    }

    #[test]
    fn nothing_but_printable_ascii_reaches_the_console() {
        assert_eq!(shown(br"its memory cannot be: ~ \ 'so'"), r"its memory cannot be: ~ \ 'so'");
        assert_eq!(shown(b"\x1b[2J\x07\r\n\0\x7f\x9b\xff"), r"\x1b[2J\x07\x0d\x0a\x00\x7f\x9b\xff");
        // The override of the writing direction, and a line separator.
        assert_eq!(shown("\u{202e}\u{2028}é".as_bytes()), r"\xe2\x80\xae\xe2\x80\xa8\xc3\xa9");
        for byte in 0..=255u8 {
            let text = shown(&[b'a', byte, b'z']);
            assert!(text.bytes().all(is_printable), "{byte:#x}");
            assert_eq!(shown(text.as_bytes()), text, "a text that was shown is shown as it is");
        }
    }

    #[test]
    fn what_is_shown_is_no_longer_than_a_reason_may_be() {
        assert_eq!(shown(&[b'x'; REASON_LEN_MAX]).len(), REASON_LEN_MAX);
        let escaped = shown(&[0x1b; REASON_LEN_MAX]);
        assert_eq!(escaped, r"\x1b".repeat(REASON_LEN_MAX / ESCAPE_LEN));
        // No escape is cut in two.
        let escaped = shown(&[b"xx", &[7; REASON_LEN_MAX - 2][..]].concat());
        assert_eq!(escaped.len(), 2 + (REASON_LEN_MAX - 2) / ESCAPE_LEN * ESCAPE_LEN);
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn what_it_cannot_be_is_refused_and_a_long_reason_is_cut() {
        let decode = |bytes: &[u8]| LuRefused::decode(Body::whole(bytes)).err();
        assert!(matches!(decode(&[0, 0, 0, 0, 0, 0, 0, 0]), Some(RecordError::BadValue { offset: 0, found: 0 })));
        assert!(matches!(decode(&[3, 0, 0, 0, 0, 0, 0, 0]), Some(RecordError::BadValue { offset: 0, found: 3 })));
        assert!(matches!(decode(&[1, 0, 0, 0, 0, 0, 0]), Some(RecordError::Short { .. })));
        assert!(matches!(
            decode(&[1; 4].iter().copied().chain([0; 600]).collect::<Vec<_>>()),
            Some(RecordError::BadValue { .. })
        ));
        let long = [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[b'x'; 513]].concat();
        assert!(matches!(decode(&long), Some(RecordError::Long { .. })));
        // A character of two bytes over the limit goes as a whole.
        let text = [&"x".repeat(REASON_LEN_MAX - 1), "é"].concat();
        assert_eq!(written(&text).len(), 8 + 8 + REASON_LEN_MAX);
        let kept = u32::from_le_bytes(written(&text)[4..8].try_into().unwrap());
        assert_eq!(kept as usize, 8 + REASON_LEN_MAX - 1);
    }
}
