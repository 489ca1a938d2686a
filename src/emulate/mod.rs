//! Instructions that a PV guest's kernel executes as if it ran in ring 0, carried out in software.
//!
//! The guest runs in ring 3, so what only ring 0 may do faults, and what writes to a page table faults because the table is mapped read-only. Here such an
//! instruction is decoded and its effect computed; nothing is read or written but the values that the caller gives.
//!
//! | module | fault | instructions |
//! |---|---|---|
//! | [`privileged`] | #GP | in, out, ins, outs, cli, sti, mov to and from CR and DR, clts, rdmsr, wrmsr, xsetbv, rdtsc, wbinvd, invd |
//! | [`mod@write`] | #PF on a page table | mov, xchg, cmpxchg, xadd, and, or, xor, add, sub, adc, sbb, inc, dec, not, neg, bts, btr, btc |
//!
//! Sources: SDM vol. 2; which of them a guest may use: XEN.md §5.4. Decoding is `iced-x86`'s.

pub mod privileged;
pub mod write;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

/// Longest instruction, in bytes (SDM vol. 2 §2.3.11).
pub const MAX_LEN: usize = 15;

/// Carry.
const CF: u64 = 1 << 0;
/// Even parity of the low byte.
const PF: u64 = 1 << 2;
/// Carry out of bit 3.
const AF: u64 = 1 << 4;
/// Zero.
const ZF: u64 = 1 << 6;
/// Sign.
const SF: u64 = 1 << 7;
/// String operations run downwards.
const DF: u64 = 1 << 10;
/// Signed overflow.
const OF: u64 = 1 << 11;

/// The registers that an instruction can name or depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General registers in the order of their encoding: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub gprs: [u64; 16],
    /// Address of the instruction.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
}

/// rax.
pub const RAX: usize = 0;
/// rcx.
pub const RCX: usize = 1;
/// rdx.
pub const RDX: usize = 2;
/// rsi.
pub const RSI: usize = 6;
/// rdi.
pub const RDI: usize = 7;

impl Registers {
    /// A general register's value, zero-extended; `None` for a register of another kind.
    fn get(&self, register: Register) -> Option<u64> {
        let at = place(register)?;
        Some(self.gprs[at.index] >> at.shift & mask(at.size))
    }

    /// Sets a general register as the CPU does: 32 bits clear the upper half, fewer leave the rest.
    fn set(&mut self, register: Register, value: u64) -> Option<()> {
        let at = place(register)?;
        let slot = &mut self.gprs[at.index];
        *slot = match at.size {
            8 => value,
            4 => value & mask(4),
            size => *slot & !(mask(size) << at.shift) | (value & mask(size)) << at.shift,
        };
        Some(())
    }

    /// Address of the memory operand `operand` of an instruction in 64-bit code.
    fn address_of(&self, instruction: &Instruction, operand: u32) -> Option<u64> {
        instruction.virtual_address(operand, 0, |register, _, _| match register {
            Register::FS => Some(self.fs_base),
            Register::GS => Some(self.gs_base),
            Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
            other => self.get(other),
        })
    }
}

/// Where a general register's bits are.
struct Place {
    index: usize,
    shift: u32,
    size: usize,
}

fn place(register: Register) -> Option<Place> {
    if !register.is_gpr() {
        return None;
    }
    let size = register.size();
    let shift = if matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) { 8 } else { 0 };
    Some(Place { index: register.full_register().number(), shift, size })
}

/// The low `size` bytes.
const fn mask(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 }
}

/// The instruction that `bytes` begin with, in 64-bit code at `rip`. `None` if they are no whole instruction.
fn decode(bytes: &[u8], rip: u64) -> Option<Instruction> {
    let bytes = bytes.get(..MAX_LEN).unwrap_or(bytes);
    let instruction = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
    (instruction.code() != Code::INVALID).then_some(instruction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_every_width_are_where_the_cpu_has_them() {
        let mut r = Registers::default();
        r.gprs[RAX] = 0x1122_3344_5566_7788;
        assert_eq!(r.get(Register::AH), Some(0x77));
        assert_eq!(r.get(Register::AL), Some(0x88));
        assert_eq!(r.get(Register::EAX), Some(0x5566_7788));
        r.set(Register::AH, 0xabcd).unwrap();
        assert_eq!(r.gprs[RAX], 0x1122_3344_5566_cd88);
        r.set(Register::AX, 1).unwrap();
        assert_eq!(r.gprs[RAX], 0x1122_3344_5566_0001);
        r.set(Register::EAX, u64::MAX).unwrap();
        assert_eq!(r.gprs[RAX], 0xffff_ffff);
        for (register, index) in [(Register::RBX, 3), (Register::SIL, 6), (Register::R15D, 15), (Register::BPL, 5)] {
            let mut r = Registers::default();
            r.set(register, 0x5a).unwrap();
            assert_eq!(r.gprs[index], 0x5a);
        }
        assert_eq!(r.get(Register::CR0), None);
        assert_eq!(r.set(Register::XMM0, 0), None);
    }
}
