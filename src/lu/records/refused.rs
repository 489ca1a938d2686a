//! The record of a domain that the outgoing side had refused itself, and kept. Optional: a build that passes over it finds a domain like any other, and
//! judges it by its other records.

use super::super::stream::{Body, ByteSource, Dest, RecordError, Sink, WriteError, Writer};
use super::LU_REFUSED;

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
        let cause = body.checked_u32(RefusedCause::try_new)?;
        let nr_vcpus = body.u32()?;
        match body.remaining() {
            found if found > REASON_LEN_MAX as u64 => {
                Err(RecordError::Long { known: body.offset() + REASON_LEN_MAX as u64, found: body.offset() + found })
            }
            _ => Ok(Self { cause, nr_vcpus, why: body }),
        }
    }
}

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
