//! CRC-32C of bytes, and of bytes that are never looked at again: the CRC of a whole follows from those of its parts.
//!
//! A CRC is a remainder of polynomials over GF(2), so that of A followed by B is crc(A) · x^(8·|B|) + crc(B), all modulo the
//! polynomial; what the CRC begins with and is inverted by at the end cancels out. A frame's CRC, once known, therefore serves
//! the MFN list, the sum of a domain that lies across it, and the stream's own checksum.

use super::{ByteSource, COPY_LEN};
use crate::crc32c::Crc32c;
use crate::frame::PAGE_SIZE;

/// The polynomial, without its highest power; bit 31 is the coefficient of x^0, as in the CRC itself.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;

const _: () = assert!(POLYNOMIAL == crc::CRC_32_ISCSI.poly.reverse_bits());

/// `a` · `b`.
const fn product(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut sum) = (a, b, 0);
    while a != 0 {
        if a & ONE != 0 {
            sum ^= b;
        }
        a <<= 1;
        b = if b & 1 == 0 { b >> 1 } else { b >> 1 ^ POLYNOMIAL };
    }
    sum
}

/// x^8, x^16, x^32, ...: what zeros of 1, 2, 4, ... bytes behind it make of a remainder.
const SHIFTS: [u32; 64] = {
    let mut shifts = [0; 64];
    shifts[0] = ONE >> 8;
    let mut i = 1;
    while i < shifts.len() {
        shifts[i] = product(shifts[i - 1], shifts[i - 1]);
        i += 1;
    }
    shifts
};

/// Bits of a frame's length: a frame's shift is a single product.
const PAGE_BIT: usize = PAGE_SIZE.trailing_zeros() as usize;
const _: () = assert!(PAGE_SIZE == 1 << PAGE_BIT);

/// Shifts that have tables: those of a domain's length, unless it is long.
const NR_TABLES: usize = 16;

const _: () = assert!(PAGE_BIT < NR_TABLES);

/// What each of the first shifts makes of every value of each four bits of a remainder: eight steps instead of some thirty.
static TABLES: [[[u32; 16]; 8]; NR_TABLES] = {
    let mut tables = [[[0; 16]; 8]; NR_TABLES];
    let mut bit = 0;
    while bit < NR_TABLES {
        let mut place = 0;
        while place < 8 {
            let mut value = 0;
            while value < 16 {
                tables[bit][place][value] = product(SHIFTS[bit], (value as u32) << (4 * place));
                value += 1;
            }
            place += 1;
        }
        bit += 1;
    }
    tables
};

/// `remainder` · x^(8 · 2^`bit`).
fn shift_once(bit: usize, remainder: u32) -> u32 {
    let Some(table) = TABLES.get(bit) else { return product(SHIFTS[bit], remainder) };
    let mut left = remainder;
    table.iter().fold(0, |sum, values| {
        let value = values[(left & 15) as usize];
        left >>= 4;
        sum ^ value
    })
}

/// `remainder` · x^(8 · `len_bytes`).
fn shift(remainder: u32, len_bytes: u64) -> u32 {
    let mut left = len_bytes;
    let mut shifted = remainder;
    while left != 0 {
        shifted = shift_once(left.trailing_zeros() as usize, shifted);
        left &= left - 1;
    }
    shifted
}

/// The CRC-32C of A followed by B, of which `b` is the CRC-32C and `b_len` the length in bytes.
pub fn joined(a: u32, b: u32, b_len: u64) -> u32 {
    shift(a, b_len) ^ b
}

/// The CRC-32C of B, where `a` is that of A, `both` that of A followed by B, and `b_len` the length of B in bytes.
pub fn behind(a: u32, both: u32, b_len: u64) -> u32 {
    both ^ shift(a, b_len)
}

/// The CRC-32C of A followed by `nr_zeros` bytes of zeros.
pub fn with_zeros(a: u32, nr_zeros: u64) -> u32 {
    !shift(!a, nr_zeros)
}

/// CRC-32C of the bytes of a source from `start` to `end`, read one after the other.
///
/// # Panics
/// If they do not all exist.
pub(super) fn of_bytes<S: ByteSource + ?Sized>(source: &S, start: u64, end: u64) -> u32 {
    continued(0, source, start, end)
}

/// The CRC-32C of A, of which `crc` is that, followed by the bytes of a source from `start` to `end`.
///
/// # Panics
/// If they do not all exist.
pub(super) fn continued<S: ByteSource + ?Sized>(crc: u32, source: &S, start: u64, end: u64) -> u32 {
    let mut sum = Crc32c::continuing(crc);
    let mut at = start;
    while at < end {
        // Where it is shown, it is shown frame by frame.
        let piece = (PAGE_SIZE - at % PAGE_SIZE).min(end - at);
        match source.bytes_at(at, piece as usize) {
            Some(bytes) => sum.update(bytes),
            None => copied(&mut sum, source, at, at + piece),
        }
        at += piece;
    }
    sum.finish()
}

/// Takes in bytes that the source cannot show.
fn copied<S: ByteSource + ?Sized>(sum: &mut Crc32c, source: &S, start: u64, end: u64) {
    let mut buf = [0; COPY_LEN];
    let mut at = start;
    while at < end {
        let n = (end - at).min(COPY_LEN as u64) as usize;
        let inside = source.read_at(at, &mut buf[..n]);
        assert!(inside, "a byte source is as long as it says");
        sum.update(&buf[..n]);
        at += n as u64;
    }
}

/// CRC-32C of the bytes of a source from `start` to `end`, where the CRC-32C of its first whole frames is known: only what is
/// not a whole frame, or none of these, is read.
pub(super) fn with_known<S: ByteSource + ?Sized>(source: &S, known: &[u32], start: u64, end: u64) -> u32 {
    let first = start.div_ceil(PAGE_SIZE);
    let last = (end / PAGE_SIZE).min(known.len() as u64);
    if first >= last {
        return of_bytes(source, start, end);
    }
    let mut crc = of_bytes(source, start, first * PAGE_SIZE);
    for &frame in &known[first as usize..last as usize] {
        crc = shift_once(PAGE_BIT, crc) ^ frame;
    }
    continued(crc, source, last * PAGE_SIZE, end)
}

#[cfg(test)]
mod tests {
    use super::super::checksum;
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use std::vec;

    /// Bit by bit, from the definition.
    fn naive(bytes: &[u8]) -> u32 {
        let mut remainder = u32::MAX;
        for byte in bytes {
            remainder ^= u32::from(*byte);
            for _ in 0..8 {
                remainder = if remainder & 1 == 0 { remainder >> 1 } else { remainder >> 1 ^ 0x82f6_3b78 };
            }
        }
        !remainder
    }

    #[test]
    fn the_definition_gives_the_known_value() {
        assert_eq!((naive(b"123456789"), checksum(&b"123456789"[..])), (0xe306_9283, 0xe306_9283));
        assert_eq!((naive(b""), joined(0, 0, 0), with_zeros(0, 0)), (0, 0, 0));
        for (bit, &by) in SHIFTS.iter().enumerate() {
            for value in [1, 0x8000_0001, 0x1234_5678, 0xfedc_ba98, u32::MAX] {
                assert_eq!(shift_once(bit, value), product(by, value));
            }
        }
        assert_eq!(with_zeros(naive(b"x"), 1 << 20), checksum(&[b"x", &vec![0; 1 << 20][..]].concat()));
    }

    proptest! {
        #[test]
        fn a_whole_follows_from_its_parts(a: Vec<u8>, b: Vec<u8>, zeros in 0usize..5000) {
            let both = [a.as_slice(), &b].concat();
            let b_len = b.len() as u64;
            prop_assert_eq!(joined(naive(&a), naive(&b), b_len), naive(&both));
            prop_assert_eq!(behind(naive(&a), naive(&both), b_len), naive(&b));
            prop_assert_eq!(continued(naive(&a), &b, 0, b_len), naive(&both));
            let padded = [a.as_slice(), &vec![0; zeros]].concat();
            prop_assert_eq!(with_zeros(naive(&a), zeros as u64), naive(&padded));
        }

        /// Whatever is known, the CRC is that of the bytes; and what is known is used, so a wrong one shows.
        #[test]
        fn known_frames_stand_for_their_bytes(
            seed: u32, len in 0u64..20_000, cuts in (0u64..20_000, 0u64..20_000), nr_known in 0usize..6,
        ) {
            let bytes: Vec<u8> = (0..len as u32).map(|i| (i.wrapping_mul(seed | 1) >> 11) as u8).collect();
            let (start, end) = (cuts.0.min(cuts.1).min(len), cuts.0.max(cuts.1).min(len));
            let mut known: Vec<u32> = bytes.chunks_exact(PAGE_SIZE as usize).map(naive).take(nr_known).collect();
            let expected = naive(&bytes[start as usize..end as usize]);
            prop_assert_eq!(with_known(&bytes, &known, start, end), expected);
            let is_used = |i: u64| start <= i * PAGE_SIZE && (i + 1) * PAGE_SIZE <= end;
            for i in 0..known.len() {
                known[i] ^= 0x10;
                prop_assert_eq!(with_known(&bytes, &known, start, end) != expected, is_used(i as u64));
                known[i] ^= 0x10;
            }
        }
    }
}
