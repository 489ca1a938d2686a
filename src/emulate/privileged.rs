//! What a #GP of a guest's kernel, or of a program with I/O rights, turns out to have been.

use super::{DF, RCX, RDI, RDX, RSI, Registers, decode};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// An instruction that the hypervisor carries out. The registers named are indices into [`Registers::gprs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileged {
    /// `in`: `size` bytes from a port into al, ax or eax.
    In {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
    },
    /// `out`: `size` bytes to a port.
    Out {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
    },
    /// `ins` or `outs`, with or without `rep`.
    String(StringIo),
    /// `cli` or `sti`.
    InterruptFlag,
    /// `mov` from a control register.
    ReadCr {
        /// The control register's number.
        cr: u8,
        /// Where it goes.
        to: u8,
    },
    /// `mov` to a control register.
    WriteCr {
        /// The control register's number.
        cr: u8,
        /// The value.
        value: u64,
    },
    /// `mov` from a debug register.
    ReadDr {
        /// The debug register's number.
        dr: u8,
        /// Where it goes.
        to: u8,
    },
    /// `mov` to a debug register.
    WriteDr {
        /// The debug register's number.
        dr: u8,
        /// The value.
        value: u64,
    },
    /// `clts`.
    ClearTs,
    /// `rdmsr`.
    Rdmsr {
        /// The register's number.
        msr: u32,
    },
    /// `wrmsr`.
    Wrmsr {
        /// The register's number.
        msr: u32,
        /// The value.
        value: u64,
    },
    /// `xsetbv`.
    Xsetbv {
        /// The register's number.
        index: u32,
        /// The value.
        value: u64,
    },
    /// `rdtsc`, which faults if CR4.TSD is set.
    Rdtsc,
    /// `wbinvd` or `invd`.
    CacheFlush,
}

/// A string instruction on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// From the port into memory.
    pub is_input: bool,
    /// The port.
    pub port: u16,
    /// Bytes of an element: 1, 2 or 4.
    pub size: u8,
    /// Elements asked for.
    pub count: u64,
    /// It has a `rep` prefix.
    pub is_repeated: bool,
    /// Address of the first element.
    pub address: u64,
    /// Elements follow each other downwards.
    pub is_downward: bool,
}

impl StringIo {
    /// The registers after `done` elements; true if that is the whole instruction.
    pub fn advance(&self, registers: &mut Registers, done: u64) -> bool {
        let bytes = done.wrapping_mul(self.size.into());
        let index = &mut registers.gprs[if self.is_input { RDI } else { RSI }];
        *index = if self.is_downward { index.wrapping_sub(bytes) } else { index.wrapping_add(bytes) };
        if self.is_repeated {
            registers.gprs[RCX] = self.count - done.min(self.count);
        }
        done >= self.count
    }
}

/// An instruction and where the next one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What it is.
    pub what: Privileged,
    /// Address of the next instruction.
    pub next_rip: u64,
}

/// Decodes the instruction at `registers.rip`; `None` if it is none that is carried out here.
pub fn decode_privileged(bytes: &[u8], registers: &Registers) -> Option<Decoded> {
    let instruction = decode(bytes, registers.rip)?;
    let what = classify(&instruction, registers)?;
    Some(Decoded { what, next_rip: instruction.next_ip() })
}

fn classify(i: &Instruction, r: &Registers) -> Option<Privileged> {
    let edx_eax = || r.gprs[RDX] << 32 | r.gprs[super::RAX] & 0xffff_ffff;
    let ecx = r.gprs[RCX] as u32;
    Some(match i.mnemonic() {
        Mnemonic::In => Privileged::In { port: port(i, 1, r)?, size: i.op0_register().size() as u8 },
        Mnemonic::Out => Privileged::Out { port: port(i, 0, r)?, size: i.op1_register().size() as u8 },
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Privileged::String(string(i, r, true)?),
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => Privileged::String(string(i, r, false)?),
        Mnemonic::Cli | Mnemonic::Sti => Privileged::InterruptFlag,
        Mnemonic::Clts => Privileged::ClearTs,
        Mnemonic::Rdmsr => Privileged::Rdmsr { msr: ecx },
        Mnemonic::Wrmsr => Privileged::Wrmsr { msr: ecx, value: edx_eax() },
        Mnemonic::Xsetbv => Privileged::Xsetbv { index: ecx, value: edx_eax() },
        Mnemonic::Rdtsc => Privileged::Rdtsc,
        Mnemonic::Wbinvd | Mnemonic::Invd => Privileged::CacheFlush,
        Mnemonic::Mov => {
            let (to, from) = (i.op0_register(), i.op1_register());
            if from.is_cr() {
                Privileged::ReadCr { cr: from.number() as u8, to: to.number() as u8 }
            } else if to.is_cr() {
                Privileged::WriteCr { cr: to.number() as u8, value: r.get(from)? }
            } else if from.is_dr() {
                Privileged::ReadDr { dr: from.number() as u8, to: to.number() as u8 }
            } else if to.is_dr() {
                Privileged::WriteDr { dr: to.number() as u8, value: r.get(from)? }
            } else {
                return None;
            }
        }
        _ => return None,
    })
}

fn port(i: &Instruction, operand: u32, r: &Registers) -> Option<u16> {
    match i.op_kind(operand) {
        OpKind::Immediate8 => Some(i.immediate8().into()),
        OpKind::Register => Some(r.get(i.op_register(operand))? as u16),
        _ => None,
    }
}

fn string(i: &Instruction, r: &Registers, is_input: bool) -> Option<StringIo> {
    let memory = u32::from(!is_input);
    let kind = i.op_kind(memory);
    // 32-bit addresses in 64-bit code would need counters of 32 bits too.
    if !matches!(kind, OpKind::MemoryESRDI | OpKind::MemorySegRSI) {
        return None;
    }
    let is_repeated = i.has_rep_prefix() || i.has_repne_prefix();
    let segment = match i.segment_prefix() {
        Register::FS if !is_input => r.fs_base,
        Register::GS if !is_input => r.gs_base,
        _ => 0,
    };
    Some(StringIo {
        is_input,
        port: r.gprs[RDX] as u16,
        size: i.memory_size().size() as u8,
        count: if is_repeated { r.gprs[RCX] } else { 1 },
        is_repeated,
        address: segment.wrapping_add(r.gprs[if is_input { RDI } else { RSI }]),
        is_downward: r.rflags & DF != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        let mut r = Registers { rip: 0x1000, rflags: 2, gs_base: 0x7000, ..Registers::default() };
        for (i, gpr) in r.gprs.iter_mut().enumerate() {
            *gpr = 0x1111_0000_0000_0000 * (i as u64 % 8) + 0x100 * i as u64 + 1;
        }
        r
    }

    #[track_caller]
    fn check(bytes: &[u8], wanted: Option<Privileged>) {
        let found = decode_privileged(bytes, &registers());
        assert_eq!(found.map(|d| d.what), wanted, "{bytes:02x?}");
        if let Some(d) = found {
            assert_eq!(d.next_rip, 0x1000 + bytes.len() as u64);
            // One byte less is no instruction.
            assert_eq!(decode_privileged(&bytes[..bytes.len() - 1], &registers()), None);
        }
    }

    #[test]
    fn every_instruction_is_known_by_its_bytes() {
        let r = registers();
        let dx = r.gprs[RDX] as u16;
        let ecx = r.gprs[RCX] as u32;
        let edx_eax = r.gprs[RDX] << 32 | r.gprs[0] & 0xffff_ffff;
        check(&[0xe4, 0x71], Some(Privileged::In { port: 0x71, size: 1 }));
        check(&[0xec], Some(Privileged::In { port: dx, size: 1 }));
        check(&[0x66, 0xed], Some(Privileged::In { port: dx, size: 2 }));
        check(&[0xed], Some(Privileged::In { port: dx, size: 4 }));
        check(&[0xe6, 0x80], Some(Privileged::Out { port: 0x80, size: 1 }));
        check(&[0xef], Some(Privileged::Out { port: dx, size: 4 }));
        check(&[0xfa], Some(Privileged::InterruptFlag));
        check(&[0xfb], Some(Privileged::InterruptFlag));
        check(&[0x0f, 0x20, 0xe3], Some(Privileged::ReadCr { cr: 4, to: 3 }));
        check(&[0x41, 0x0f, 0x22, 0xd8], Some(Privileged::WriteCr { cr: 3, value: r.gprs[8] }));
        check(&[0x0f, 0x21, 0xf8], Some(Privileged::ReadDr { dr: 7, to: 0 }));
        check(&[0x0f, 0x23, 0xf2], Some(Privileged::WriteDr { dr: 6, value: r.gprs[2] }));
        check(&[0x0f, 0x06], Some(Privileged::ClearTs));
        check(&[0x0f, 0x32], Some(Privileged::Rdmsr { msr: ecx }));
        check(&[0x0f, 0x30], Some(Privileged::Wrmsr { msr: ecx, value: edx_eax }));
        check(&[0x0f, 0x01, 0xd1], Some(Privileged::Xsetbv { index: ecx, value: edx_eax }));
        check(&[0x0f, 0x31], Some(Privileged::Rdtsc));
        check(&[0x0f, 0x09], Some(Privileged::CacheFlush));
        check(&[0x0f, 0x08], Some(Privileged::CacheFlush));
    }

    #[test]
    fn what_a_guest_has_no_business_with_is_nothing() {
        // hlt, lgdt [rax], swapgs, ltr ax, mov rax, rbx, nop, vmcall
        for bytes in [
            &[0xf4][..],
            &[0x0f, 0x01, 0x10],
            &[0x0f, 0x01, 0xf8],
            &[0x0f, 0x00, 0xd8],
            &[0x48, 0x89, 0xd8],
            &[0x90],
            &[0x0f, 0x01, 0xc1],
        ] {
            check(bytes, None);
        }
        assert_eq!(decode_privileged(&[], &registers()), None);
    }

    #[test]
    fn strings_count_with_their_registers() {
        let mut r = registers();
        r.gprs[RCX] = 10;
        // rep outsw with a GS prefix
        let d = decode_privileged(&[0x65, 0xf3, 0x66, 0x6f], &r).unwrap();
        let Privileged::String(s) = d.what else { panic!("{d:?}") };
        assert_eq!((s.is_input, s.size, s.count), (false, 2, 10));
        assert_eq!(s.address, 0x7000 + r.gprs[RSI]);
        let before = r;
        assert!(!s.advance(&mut r, 4));
        assert_eq!((r.gprs[RCX], r.gprs[RSI]), (6, before.gprs[RSI] + 8));
        // insb downwards, once
        r.rflags |= DF;
        let d = decode_privileged(&[0x6c], &r).unwrap();
        let Privileged::String(s) = d.what else { panic!("{d:?}") };
        let before = r;
        assert!(s.is_input && s.advance(&mut r, 1));
        assert_eq!((r.gprs[RCX], r.gprs[RDI]), (before.gprs[RCX], before.gprs[RDI] - 1));
    }
}
