//! CRC-32C: by the CPU's own instruction where there is one, which is what makes checksums cheap enough for the pause; by tables elsewhere.
//!
//! Source: SDM vol. 2A, CRC32.

use crc::{CRC_32_ISCSI, Crc, Table};

/// For CPUs older than SSE4.2: sixteen tables (16 KiB), which take sixteen bytes a step. A static, because a const would be copied.
static TABLES: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A CRC-32C of several pieces in a row.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c {
    /// Without the final inversion.
    remainder: u32,
}

impl Crc32c {
    /// Of nothing yet.
    pub const fn new() -> Self {
        Self::continuing(0)
    }

    /// Of bytes whose CRC-32C is `crc`.
    pub const fn continuing(crc: u32) -> Self {
        Self { remainder: !crc }
    }

    /// Takes bytes in.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.remainder = match instruction::update(self.remainder, bytes) {
            Some(remainder) => remainder,
            None => by_tables(self.remainder, bytes),
        }
    }

    /// The CRC.
    pub const fn finish(self) -> u32 {
        !self.remainder
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

/// The CRC-32C of bytes.
pub fn of(bytes: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(bytes);
    crc.finish()
}

#[cold]
fn by_tables(remainder: u32, bytes: &[u8]) -> u32 {
    // A digest takes what it begins with in the other order of bits.
    let mut digest = TABLES.digest_with_initial(remainder.reverse_bits());
    digest.update(bytes);
    !digest.finalize()
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "an instruction")]
mod instruction {
    use core::arch::asm;
    use core::arch::x86_64::__cpuid;
    use core::sync::atomic::{AtomicU8, Ordering};

    /// CPUID leaf 1, ECX: SSE4.2, to which the instruction belongs.
    const SSE4_2: u32 = 1 << 20;

    const UNKNOWN: u8 = 0;
    const ABSENT: u8 = 1;
    const PRESENT: u8 = 2;
    /// Whether the CPU has the instruction: CPUID is asked once, because under another hypervisor it costs an exit.
    static HAS: AtomicU8 = AtomicU8::new(UNKNOWN);

    #[inline]
    fn has() -> bool {
        match HAS.load(Ordering::Relaxed) {
            UNKNOWN => ask(),
            known => known == PRESENT,
        }
    }

    #[cold]
    fn ask() -> bool {
        let has = __cpuid(1).ecx & SSE4_2 != 0;
        HAS.store(if has { PRESENT } else { ABSENT }, Ordering::Relaxed);
        has
    }

    /// The remainder with bytes taken in; none if the CPU does not have the instruction.
    #[inline]
    pub(super) fn update(remainder: u32, bytes: &[u8]) -> Option<u32> {
        if !has() {
            return None;
        }
        let (lines, rest) = bytes.as_chunks::<LINE>();
        let (words, rest) = rest.as_chunks::<8>();
        let sum = lines.iter().fold(u64::from(remainder), of_line);
        let sum = words.iter().fold(sum, |sum, word| of_word(sum, u64::from_le_bytes(*word)));
        Some(rest.iter().fold(sum as u32, |sum, byte| of_byte(sum, *byte)))
    }

    /// Bytes that [`of_line`] takes.
    const LINE: usize = 64;

    #[inline]
    fn of_line(mut sum: u64, line: &[u8; LINE]) -> u64 {
        // SAFETY: `update` has seen that the CPU has the instruction; it reads the 64 bytes and changes `sum` alone.
        unsafe {
            asm!(
                "crc32 {sum}, qword ptr [{line}]",
                "crc32 {sum}, qword ptr [{line} + 8]",
                "crc32 {sum}, qword ptr [{line} + 16]",
                "crc32 {sum}, qword ptr [{line} + 24]",
                "crc32 {sum}, qword ptr [{line} + 32]",
                "crc32 {sum}, qword ptr [{line} + 40]",
                "crc32 {sum}, qword ptr [{line} + 48]",
                "crc32 {sum}, qword ptr [{line} + 56]",
                sum = inout(reg) sum,
                line = in(reg) line.as_ptr(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        sum
    }

    #[inline]
    fn of_word(mut sum: u64, word: u64) -> u64 {
        // SAFETY: as above; it changes `sum` alone.
        unsafe {
            asm!("crc32 {sum}, {word}", sum = inout(reg) sum, word = in(reg) word, options(pure, nomem, nostack, preserves_flags))
        };
        sum
    }

    #[inline]
    fn of_byte(mut sum: u32, byte: u8) -> u32 {
        // SAFETY: as above; it changes `sum` alone.
        unsafe {
            asm!("crc32 {sum:e}, {byte}", sum = inout(reg) sum, byte = in(reg_byte) byte, options(pure, nomem, nostack, preserves_flags))
        };
        sum
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod instruction {
    /// Tools on other machines have the tables.
    pub(super) fn update(_: u32, _: &[u8]) -> Option<u32> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn the_known_value_comes_out() {
        assert_eq!((of(b"123456789"), of(b"")), (0xe306_9283, 0));
        assert_eq!(!by_tables(!0, b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn instruction_and_tables_agree_in_pieces_of_any_length(bytes: Vec<u8>, seed: u32, cut in 0usize..200) {
            let bytes = bytes.repeat(3);
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let mut crc = Crc32c::continuing(seed);
            crc.update(a);
            crc.update(b);
            prop_assert_eq!(crc.finish(), !by_tables(!seed, &bytes));
            if let Some(remainder) = instruction::update(!seed, &bytes) {
                prop_assert_eq!(!remainder, crc.finish());
            }
        }
    }
}
