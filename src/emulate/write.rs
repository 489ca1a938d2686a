//! An instruction that writes to memory which the guest has mapped read-only: an entry of a live page table.
//!
//! Guests change page tables by hypercall, but not always: `xchg` and `lock btr` on an entry are what a kernel's generic code does to take an entry out or to make it
//! read-only, and the accessed and dirty bits that the CPU sets meanwhile must not be lost.

use super::{AF, CF, OF, PF, Registers, SF, ZF, decode, mask};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// A decoded write to memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryWrite {
    instruction: Instruction,
    /// First byte written.
    pub address: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: usize,
}

/// What a write comes to, given what memory held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The value to store, or nothing for a comparison that failed.
    pub value: Option<u64>,
    /// The registers afterwards, `rip` among them.
    pub registers: Registers,
}

impl MemoryWrite {
    /// Decodes the instruction at `registers.rip`; `None` if it is none of those that are carried out here.
    pub fn decode(bytes: &[u8], registers: &Registers) -> Option<Self> {
        let instruction = decode(bytes, registers.rip)?;
        let is_memory = instruction.op_count() >= 1 && instruction.op0_kind() == OpKind::Memory;
        if !is_memory || instruction.has_rep_prefix() || instruction.has_repne_prefix() {
            return None;
        }
        let size = instruction.memory_size().size();
        if !matches!(size, 1 | 2 | 4 | 8) {
            return None;
        }
        let mut address = registers.address_of(&instruction, 0)?;
        if is_bit_operation(&instruction) && instruction.op1_kind() == OpKind::Register {
            // The bit's number is signed and may lie outside the operand.
            let bits = size as i64 * 8;
            let index = sign_extend(registers.get(instruction.op1_register())?, size);
            address = address.wrapping_add_signed(index.div_euclid(bits) * size as i64);
        }
        Some(Self { instruction, address, size })
    }

    /// Computes the effect on memory that holds `old`; `None` if the instruction is not one of those carried out here.
    pub fn apply(&self, old: u64, registers: &Registers) -> Option<Written> {
        let (i, size) = (&self.instruction, self.size);
        let old = old & mask(size);
        let mut r = *registers;
        r.rip = i.next_ip();
        let source = || operand(i, size, registers);
        let value = match i.mnemonic() {
            Mnemonic::Mov => source()?,
            Mnemonic::Xchg => {
                r.set(i.op1_register(), old)?;
                registers.get(i.op1_register())?
            }
            Mnemonic::Xadd => {
                let sum = add(old, registers.get(i.op1_register())?, 0, size, &mut r);
                r.set(i.op1_register(), old)?;
                sum
            }
            Mnemonic::Cmpxchg => {
                let expected = registers.gprs[super::RAX] & mask(size);
                sub(expected, old, 0, size, &mut r);
                if expected != old {
                    let accumulator =
                        [(1, iced_x86::Register::AL), (2, iced_x86::Register::AX), (4, iced_x86::Register::EAX)];
                    let register = accumulator.iter().find(|a| a.0 == size).map_or(iced_x86::Register::RAX, |a| a.1);
                    r.set(register, old)?;
                    return Some(Written { value: None, registers: r });
                }
                registers.get(i.op1_register())?
            }
            Mnemonic::Add => add(old, source()?, 0, size, &mut r),
            Mnemonic::Adc => add(old, source()?, registers.rflags & CF, size, &mut r),
            Mnemonic::Sub => sub(old, source()?, 0, size, &mut r),
            Mnemonic::Sbb => sub(old, source()?, registers.rflags & CF, size, &mut r),
            Mnemonic::And => logic(old & source()?, size, &mut r),
            Mnemonic::Or => logic(old | source()?, size, &mut r),
            Mnemonic::Xor => logic(old ^ source()?, size, &mut r),
            Mnemonic::Inc => keeping_carry(&mut r, |r| add(old, 1, 0, size, r)),
            Mnemonic::Dec => keeping_carry(&mut r, |r| sub(old, 1, 0, size, r)),
            Mnemonic::Not => !old & mask(size),
            Mnemonic::Neg => sub(0, old, 0, size, &mut r),
            _ if is_bit_operation(i) => {
                let bit = 1 << (source()? % (size as u64 * 8));
                // The other flags are undefined, and stay.
                r.rflags = r.rflags & !CF | if old & bit != 0 { CF } else { 0 };
                match i.mnemonic() {
                    Mnemonic::Bts => old | bit,
                    Mnemonic::Btr => old & !bit,
                    _ => old ^ bit,
                }
            }
            _ => return None,
        };
        Some(Written { value: Some(value & mask(size)), registers: r })
    }
}

fn is_bit_operation(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
}

/// The second operand, as wide as the first.
fn operand(i: &Instruction, size: usize, registers: &Registers) -> Option<u64> {
    let value = match i.op1_kind() {
        OpKind::Register => registers.get(i.op1_register())?,
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => i.immediate(1),
        _ => return None,
    };
    Some(value & mask(size))
}

fn sign_extend(value: u64, size: usize) -> i64 {
    let unused = 64 - size as u32 * 8;
    (value << unused) as i64 >> unused
}

const fn sign(size: usize) -> u64 {
    1 << (size * 8 - 1)
}

/// Sets PF, ZF and SF by a result and clears CF, AF and OF for the caller to set.
fn set_result_flags(result: u64, size: usize, r: &mut Registers) {
    r.rflags &= !(CF | PF | AF | ZF | SF | OF);
    if (result as u8).count_ones().is_multiple_of(2) {
        r.rflags |= PF;
    }
    if result == 0 {
        r.rflags |= ZF;
    }
    if result & sign(size) != 0 {
        r.rflags |= SF;
    }
}

fn set_flags_if(r: &mut Registers, flags: [(bool, u64); 3]) {
    for (is_set, flag) in flags {
        if is_set {
            r.rflags |= flag;
        }
    }
}

fn add(a: u64, b: u64, carry: u64, size: usize, r: &mut Registers) -> u64 {
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = wide as u64 & mask(size);
    set_result_flags(result, size, r);
    let overflows = (a ^ result) & (b ^ result) & sign(size) != 0;
    set_flags_if(r, [(wide > u128::from(mask(size)), CF), ((a ^ b ^ result) & 0x10 != 0, AF), (overflows, OF)]);
    result
}

fn sub(a: u64, b: u64, borrow: u64, size: usize, r: &mut Registers) -> u64 {
    let result = a.wrapping_sub(b).wrapping_sub(borrow) & mask(size);
    set_result_flags(result, size, r);
    let borrows = u128::from(a) < u128::from(b) + u128::from(borrow);
    let overflows = (a ^ b) & (a ^ result) & sign(size) != 0;
    set_flags_if(r, [(borrows, CF), ((a ^ b ^ result) & 0x10 != 0, AF), (overflows, OF)]);
    result
}

fn logic(result: u64, size: usize, r: &mut Registers) -> u64 {
    set_result_flags(result, size, r);
    result
}

fn keeping_carry(r: &mut Registers, operation: impl FnOnce(&mut Registers) -> u64) -> u64 {
    let carry = r.rflags & CF;
    let result = operation(r);
    r.rflags = r.rflags & !CF | carry;
    result
}

#[cfg(test)]
mod tests;
