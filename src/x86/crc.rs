//! CRC-32C by the CPU's own instruction: eight bytes at a time, cheap enough for the pause (SDM vol. 2A, CRC32).

#![expect(unsafe_code, reason = "an instruction")]

use crate::x86::cpu::Features;
use crc::{CRC_32_ISCSI, Crc, Digest};

static LIBRARY: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A CRC-32C of several pieces in a row.
pub enum Crc32c {
    /// The sum so far, without the final xor.
    Instruction(u32),
    /// For CPUs older than SSE4.2.
    Library(Digest<'static, u32>),
}

impl Crc32c {
    /// Of nothing yet.
    pub fn new(features: &Features) -> Self {
        if features.crc32 { Self::Instruction(u32::MAX) } else { Self::Library(LIBRARY.digest()) }
    }

    /// Takes bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Library(digest) => digest.update(bytes),
            Self::Instruction(sum) => {
                let lines = bytes.chunks_exact(LINE);
                let rest = lines.remainder();
                let lines = lines.fold(u64::from(*sum), |sum, line| line_of(sum, line.as_ptr()));
                *sum = rest.iter().fold(lines as u32, |sum, &byte| byte_of(sum, byte));
            }
        }
    }

    /// The sum.
    pub fn finish(self) -> u32 {
        match self {
            Self::Library(digest) => digest.finalize(),
            Self::Instruction(sum) => sum ^ u32::MAX,
        }
    }
}

/// Bytes that [`line_of`] takes.
const LINE: usize = 64;

/// The sum with [`LINE`] more bytes.
fn line_of(mut sum: u64, line: *const u8) -> u64 {
    // SAFETY: `update` has seen that the CPU has the instruction and that 64 bytes are there; it reads them and changes `sum` alone.
    unsafe {
        core::arch::asm!(
            "crc32 {sum}, qword ptr [{line}]",
            "crc32 {sum}, qword ptr [{line} + 8]",
            "crc32 {sum}, qword ptr [{line} + 16]",
            "crc32 {sum}, qword ptr [{line} + 24]",
            "crc32 {sum}, qword ptr [{line} + 32]",
            "crc32 {sum}, qword ptr [{line} + 40]",
            "crc32 {sum}, qword ptr [{line} + 48]",
            "crc32 {sum}, qword ptr [{line} + 56]",
            sum = inout(reg) sum,
            line = in(reg) line,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    sum
}

fn byte_of(mut sum: u32, byte: u8) -> u32 {
    // SAFETY: as above; it changes `sum` alone.
    unsafe {
        core::arch::asm!("crc32 {sum:e}, {byte}", sum = inout(reg) sum, byte = in(reg_byte) byte, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
