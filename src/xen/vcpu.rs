//! A PV vCPU's registers and tables as plain data, and their one layout: Xen's `vcpu_guest_context`.
//!
//! The same 5168 bytes start a vCPU (`vcpu_op` initialise) and carry it through a save (record X86_PV_VCPU_BASIC). Both
//! directions go through [`VcpuGuestContext`], field by field, so that padding never carries anything: it is written as
//! zero and not looked at. Decoding takes any bytes; whether the values make sense is for whoever runs the vCPU to say.

use super::layout::{cpu_user_regs as regs, trap_info, vcpu_guest_context as ctx};
use crate::frame::PAGE_SIZE;
use alloc::boxed::Box;

/// Bytes in the encoded context.
pub const CONTEXT_SIZE: usize = ctx::SIZE;
/// Entries in a trap table.
pub const NR_TRAPS: usize = 256;
/// Frames that a GDT may be named by; a guest's own entries fill 14 of them.
pub const NR_GDT_FRAMES: usize = 16;

const _: () = {
    assert!(CONTEXT_SIZE == 5168);
    assert!(ctx::USER_REGS + regs::SIZE == ctx::TRAP_CTXT);
    assert!(ctx::TRAP_CTXT + NR_TRAPS * trap_info::SIZE == ctx::LDT_BASE);
    assert!(ctx::GDT_FRAMES + NR_GDT_FRAMES * 8 == ctx::GDT_ENTS);
    assert!(NR_GDT_FRAMES as u64 * PAGE_SIZE == 1 << 16);
};

/// The registers of a vCPU (`cpu_user_regs`, 200 bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The hypervisor's own; guests leave it alone.
    pub error_code: u32,
    /// The hypervisor's own; guests leave it alone.
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u16,
    /// The upcall mask that an upcall found.
    pub saved_upcall_mask: u8,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    pub es: u16,
    pub ds: u16,
    pub fs: u16,
    pub gs: u16,
}

/// One entry of a trap table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapInfo {
    /// Exception vector.
    pub vector: u8,
    /// Bits 1:0 the least privileged ring that may raise it by `int`, bit 2 masks upcalls on entry.
    pub flags: u8,
    /// Code selector of the handler.
    pub cs: u16,
    /// The handler; 0 is none.
    pub address: u64,
}

impl TrapInfo {
    /// Bit of `flags`: the handler starts with upcalls masked.
    pub const MASKS_EVENTS: u8 = 1 << 2;

    /// Bytes of the encoded entry.
    pub const SIZE: usize = trap_info::SIZE;

    /// Reads an entry.
    pub fn decode(from: &[u8; Self::SIZE]) -> Self {
        // The three short fields share one aligned word.
        let word = get_u64(from, trap_info::VECTOR);
        Self {
            vector: word as u8,
            flags: (word >> (8 * trap_info::FLAGS)) as u8,
            cs: (word >> (8 * trap_info::CS)) as u16,
            address: get_u64(from, trap_info::ADDRESS),
        }
    }

    /// An entry without a handler.
    pub const EMPTY: Self = Self { vector: 0, flags: 0, cs: 0, address: 0 };

    /// Writes an entry, padding as zero.
    pub fn encode(&self, into: &mut [u8; Self::SIZE]) {
        into.fill(0);
        into[trap_info::VECTOR] = self.vector;
        into[trap_info::FLAGS] = self.flags;
        put(into, trap_info::CS, &self.cs.to_le_bytes());
        put(into, trap_info::ADDRESS, &self.address.to_le_bytes());
    }

    /// The least privileged ring that may raise this trap by `int`.
    pub fn dpl(&self) -> u8 {
        self.flags & 3
    }
}

/// A vCPU's trap table. It is kept as it is encoded, padding as zero: an entry is taken in and taken out rarely, and a save copies all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrapTable([[u8; TrapInfo::SIZE]; NR_TRAPS]);

impl TrapTable {
    /// The entry of a vector.
    pub fn get(&self, vector: u8) -> TrapInfo {
        TrapInfo::decode(&self.0[usize::from(vector)])
    }

    /// Replaces the entry of a vector.
    pub fn set(&mut self, vector: u8, trap: &TrapInfo) {
        trap.encode(&mut self.0[usize::from(vector)]);
    }

    /// Takes all entries out.
    pub fn clear(&mut self) {
        self.0.as_flattened_mut().fill(0);
    }

    /// The entries, in the order of their vectors.
    pub fn iter(&self) -> impl Iterator<Item = TrapInfo> + '_ {
        self.0.iter().map(TrapInfo::decode)
    }
}

/// A trap table without any entry.
pub fn empty_traps() -> Box<TrapTable> {
    Box::new(TrapTable([[0; TrapInfo::SIZE]; NR_TRAPS]))
}

/// Entries of a trap table that are looked at together: most of them are empty.
const TRAPS_AT_ONCE: usize = 4;

/// All of a PV vCPU's registers and tables (`vcpu_guest_context`, 5168 bytes) but its trap table, which is the most of it and stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuGuestContext {
    /// FPU and SSE state as FXSAVE writes it.
    pub fpu: [u8; 512],
    /// VGCF_* flags, [`super::hypercall::vgcf`].
    pub flags: u64,
    /// Registers.
    pub user_regs: UserRegs,
    /// Linear address of the LDT.
    pub ldt_base: u64,
    /// Entries in it.
    pub ldt_ents: u64,
    /// Machine frames of the GDT.
    pub gdt_frames: [u64; NR_GDT_FRAMES],
    /// Entries in it.
    pub gdt_ents: u64,
    /// Stack selector for entries from user mode.
    pub kernel_ss: u64,
    /// Stack pointer for entries from user mode.
    pub kernel_sp: u64,
    /// CR0 to CR7. `[1]` is the user mode page table and `[3]` the kernel's, both as frame << 12.
    pub ctrlreg: [u64; 8],
    /// DR0 to DR7.
    pub debugreg: [u64; 8],
    /// Event upcall.
    pub event_callback: u64,
    /// Entry when a return to the guest fails.
    pub failsafe_callback: u64,
    /// Entry of `syscall` from user mode.
    pub syscall_callback: u64,
    /// VMASST_TYPE_* bits.
    pub vm_assist: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base of kernel mode.
    pub gs_base_kernel: u64,
    /// GS base of user mode.
    pub gs_base_user: u64,
}

impl Default for VcpuGuestContext {
    fn default() -> Self {
        Self::ZERO
    }
}

impl VcpuGuestContext {
    /// Everything zero.
    pub const ZERO: Self = Self {
        fpu: [0; 512],
        flags: 0,
        user_regs: UserRegs {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            error_code: 0,
            entry_vector: 0,
            rip: 0,
            cs: 0,
            saved_upcall_mask: 0,
            rflags: 0,
            rsp: 0,
            ss: 0,
            es: 0,
            ds: 0,
            fs: 0,
            gs: 0,
        },
        ldt_base: 0,
        ldt_ents: 0,
        gdt_frames: [0; NR_GDT_FRAMES],
        gdt_ents: 0,
        kernel_ss: 0,
        kernel_sp: 0,
        ctrlreg: [0; 8],
        debugreg: [0; 8],
        event_callback: 0,
        failsafe_callback: 0,
        syscall_callback: 0,
        vm_assist: 0,
        fs_base: 0,
        gs_base_kernel: 0,
        gs_base_user: 0,
    };

    /// Writes the context with a trap table as bytes. Padding is left alone: it is zero in an array of zeros, and in what this has written into one.
    pub fn encode(&self, traps: &TrapTable, into: &mut [u8; CONTEXT_SIZE]) {
        put(into, ctx::FPU_CTXT, &self.fpu);
        self.user_regs.encode_at(into, ctx::USER_REGS);
        put(into, ctx::TRAP_CTXT, traps.0.as_flattened());
        for (offset, word) in [
            (ctx::FLAGS, self.flags),
            (ctx::LDT_BASE, self.ldt_base),
            (ctx::LDT_ENTS, self.ldt_ents),
            (ctx::GDT_ENTS, self.gdt_ents),
            (ctx::KERNEL_SS, self.kernel_ss),
            (ctx::KERNEL_SP, self.kernel_sp),
            (ctx::EVENT_CALLBACK_EIP, self.event_callback),
            (ctx::FAILSAFE_CALLBACK_EIP, self.failsafe_callback),
            (ctx::SYSCALL_CALLBACK_EIP, self.syscall_callback),
            (ctx::VM_ASSIST, self.vm_assist),
            (ctx::FS_BASE, self.fs_base),
            (ctx::GS_BASE_KERNEL, self.gs_base_kernel),
            (ctx::GS_BASE_USER, self.gs_base_user),
        ] {
            put(into, offset, &word.to_le_bytes());
        }
        put_words(into, ctx::GDT_FRAMES, &self.gdt_frames);
        put_words(into, ctx::CTRLREG, &self.ctrlreg);
        put_words(into, ctx::DEBUGREG, &self.debugreg);
    }

    /// Reads a trap table out of a context.
    pub fn decode_traps(from: &[u8; CONTEXT_SIZE]) -> Box<TrapTable> {
        let mut traps = empty_traps();
        let bytes = from[ctx::TRAP_CTXT..ctx::LDT_BASE].as_chunks::<{ TrapInfo::SIZE }>().0;
        let bytes = bytes.as_chunks::<TRAPS_AT_ONCE>().0;
        for (traps, bytes) in traps.0.as_chunks_mut::<TRAPS_AT_ONCE>().0.iter_mut().zip(bytes) {
            if bytes.iter().fold(0, |bits, bytes| bits | u128::from_le_bytes(*bytes)) != 0 {
                traps.iter_mut().zip(bytes).for_each(|(trap, bytes)| TrapInfo::decode(bytes).encode(trap));
            }
        }
        traps
    }

    /// Reads a context but for its trap table.
    pub fn decode(from: &[u8; CONTEXT_SIZE]) -> Self {
        let mut context = Self::ZERO;
        let c = &mut context;
        c.fpu.copy_from_slice(&from[ctx::FPU_CTXT..][..512]);
        c.flags = get_u64(from, ctx::FLAGS);
        c.user_regs = UserRegs::decode_at(from, ctx::USER_REGS);
        c.ldt_base = get_u64(from, ctx::LDT_BASE);
        c.ldt_ents = get_u64(from, ctx::LDT_ENTS);
        c.gdt_frames = get_words(from, ctx::GDT_FRAMES);
        c.gdt_ents = get_u64(from, ctx::GDT_ENTS);
        c.kernel_ss = get_u64(from, ctx::KERNEL_SS);
        c.kernel_sp = get_u64(from, ctx::KERNEL_SP);
        c.ctrlreg = get_words(from, ctx::CTRLREG);
        c.debugreg = get_words(from, ctx::DEBUGREG);
        c.event_callback = get_u64(from, ctx::EVENT_CALLBACK_EIP);
        c.failsafe_callback = get_u64(from, ctx::FAILSAFE_CALLBACK_EIP);
        c.syscall_callback = get_u64(from, ctx::SYSCALL_CALLBACK_EIP);
        c.vm_assist = get_u64(from, ctx::VM_ASSIST);
        c.fs_base = get_u64(from, ctx::FS_BASE);
        c.gs_base_kernel = get_u64(from, ctx::GS_BASE_KERNEL);
        c.gs_base_user = get_u64(from, ctx::GS_BASE_USER);
        context
    }
}

impl UserRegs {
    fn encode_at(&self, into: &mut [u8], at: usize) {
        for (offset, value) in [
            (regs::R15, self.r15),
            (regs::R14, self.r14),
            (regs::R13, self.r13),
            (regs::R12, self.r12),
            (regs::RBP, self.rbp),
            (regs::RBX, self.rbx),
            (regs::R11, self.r11),
            (regs::R10, self.r10),
            (regs::R9, self.r9),
            (regs::R8, self.r8),
            (regs::RAX, self.rax),
            (regs::RCX, self.rcx),
            (regs::RDX, self.rdx),
            (regs::RSI, self.rsi),
            (regs::RDI, self.rdi),
            (regs::RIP, self.rip),
            (regs::RFLAGS, self.rflags),
            (regs::RSP, self.rsp),
        ] {
            put(into, at + offset, &value.to_le_bytes());
        }
        for (offset, value) in [
            (regs::CS, self.cs),
            (regs::SS, self.ss),
            (regs::ES, self.es),
            (regs::DS, self.ds),
            (regs::FS, self.fs),
            (regs::GS, self.gs),
        ] {
            put(into, at + offset, &value.to_le_bytes());
        }
        put(into, at + regs::ERROR_CODE, &self.error_code.to_le_bytes());
        put(into, at + regs::ENTRY_VECTOR, &self.entry_vector.to_le_bytes());
        into[at + regs::SAVED_UPCALL_MASK] = self.saved_upcall_mask;
    }

    fn decode_at(from: &[u8], at: usize) -> Self {
        let word = |offset| get_u64(from, at + offset);
        let half = |offset| get_u16(from, at + offset);
        // The two 32-bit fields share one aligned word.
        let private = word(regs::ERROR_CODE);
        Self {
            r15: word(regs::R15),
            r14: word(regs::R14),
            r13: word(regs::R13),
            r12: word(regs::R12),
            rbp: word(regs::RBP),
            rbx: word(regs::RBX),
            r11: word(regs::R11),
            r10: word(regs::R10),
            r9: word(regs::R9),
            r8: word(regs::R8),
            rax: word(regs::RAX),
            rcx: word(regs::RCX),
            rdx: word(regs::RDX),
            rsi: word(regs::RSI),
            rdi: word(regs::RDI),
            error_code: private as u32,
            entry_vector: (private >> 32) as u32,
            rip: word(regs::RIP),
            cs: half(regs::CS),
            saved_upcall_mask: from[at + regs::SAVED_UPCALL_MASK],
            rflags: word(regs::RFLAGS),
            rsp: word(regs::RSP),
            ss: half(regs::SS),
            es: half(regs::ES),
            ds: half(regs::DS),
            fs: half(regs::FS),
            gs: half(regs::GS),
        }
    }
}

fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    into[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_words(into: &mut [u8], at: usize, words: &[u64]) {
    for (i, word) in words.iter().enumerate() {
        put(into, at + i * 8, &word.to_le_bytes());
    }
}

fn get_u16(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([from[at], from[at + 1]])
}

fn get_u64(from: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&from[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn get_words<const N: usize>(from: &[u8], at: usize) -> [u64; N] {
    core::array::from_fn(|i| get_u64(from, at + i * 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn encoded(c: &VcpuGuestContext, traps: &TrapTable) -> Box<[u8; CONTEXT_SIZE]> {
        let mut bytes = Box::new([0; CONTEXT_SIZE]);
        c.encode(traps, &mut bytes);
        bytes
    }

    #[test]
    fn nothing_is_left_of_a_context_that_was_written_before() {
        let original = Box::new([0xff; CONTEXT_SIZE]);
        let mut bytes = encoded(&VcpuGuestContext::decode(&original), &VcpuGuestContext::decode_traps(&original));
        VcpuGuestContext::ZERO.encode(&empty_traps(), &mut bytes);
        assert_eq!(*bytes, [0; CONTEXT_SIZE]);
    }

    /// Every byte that the structure has a field for, from the header's field list and not from the code above.
    fn is_field(at: usize) -> bool {
        let padding = [
            // cpu_user_regs at 520: behind cs, behind saved_upcall_mask, behind the five selectors.
            520 + 138..520 + 140,
            520 + 141..520 + 144,
            520 + 162..520 + 168,
            520 + 170..520 + 176,
            520 + 178..520 + 184,
            520 + 186..520 + 192,
            520 + 194..520 + 200,
        ];
        let in_trap_padding = (720..4816).contains(&at) && matches!((at - 720) % 16, 4..8);
        !in_trap_padding && !padding.iter().any(|p| p.contains(&at))
    }

    #[test]
    fn every_byte_of_every_field_survives_and_padding_does_not() {
        let mut original = Box::new([0u8; CONTEXT_SIZE]);
        for (i, b) in original.iter_mut().enumerate() {
            *b = (i * 7 + i / 251) as u8 | 1;
        }
        let again = encoded(&VcpuGuestContext::decode(&original), &VcpuGuestContext::decode_traps(&original));
        for at in 0..CONTEXT_SIZE {
            let expected = if is_field(at) { original[at] } else { 0 };
            assert_eq!(again[at], expected, "byte {at}");
        }
    }

    #[test]
    fn fields_lie_where_the_header_says() {
        let (mut c, mut traps) = (VcpuGuestContext::ZERO, empty_traps());
        c.user_regs.rip = 1;
        c.user_regs.cs = 2;
        c.user_regs.saved_upcall_mask = 3;
        c.user_regs.gs = 4;
        traps.set(255, &TrapInfo { vector: 5, flags: 6, cs: 7, address: 8 });
        c.gdt_frames[15] = 9;
        c.ctrlreg[3] = 10;
        c.debugreg[7] = 11;
        c.gs_base_user = 12;
        c.user_regs.entry_vector = 13;
        let bytes = encoded(&c, &traps);
        let mut set: vec::Vec<(usize, u8)> = vec![
            (520 + 124, 13),
            (520 + 128, 1),
            (520 + 136, 2),
            (520 + 140, 3),
            (520 + 192, 4),
            (720 + 255 * 16, 5),
            (720 + 255 * 16 + 1, 6),
            (720 + 255 * 16 + 2, 7),
            (720 + 255 * 16 + 8, 8),
            (4832 + 15 * 8, 9),
            (4984 + 24, 10),
            (5048 + 56, 11),
            (5160, 12),
        ];
        for (at, &b) in bytes.iter().enumerate().filter(|(_, b)| **b != 0) {
            assert_eq!(set.remove(0), (at, b));
        }
        assert!(set.is_empty());
        assert_eq!((VcpuGuestContext::decode(&bytes), VcpuGuestContext::decode_traps(&bytes)), (c, traps));
    }

    #[test]
    fn a_trap_of_any_field_alone_is_not_lost() {
        for (index, trap) in [
            TrapInfo { vector: 1, ..TrapInfo::EMPTY },
            TrapInfo { flags: 4, ..TrapInfo::EMPTY },
            TrapInfo { cs: 0x100, ..TrapInfo::EMPTY },
            TrapInfo { address: 1 << 63, ..TrapInfo::EMPTY },
        ]
        .into_iter()
        .enumerate()
        {
            for at in [index, 128 + index, NR_TRAPS - 1 - index] {
                let mut traps = empty_traps();
                traps.set(at as u8, &trap);
                assert_eq!((traps.get(at as u8), traps.iter().nth(at)), (trap, Some(trap)));
                assert_eq!(VcpuGuestContext::decode_traps(&encoded(&VcpuGuestContext::ZERO, &traps)), traps);
                traps.clear();
                assert_eq!(traps, empty_traps());
            }
        }
    }
}
