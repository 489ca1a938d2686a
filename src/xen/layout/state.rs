//! A virtual CPU's state: its registers, and the frames that exceptions push.

use super::fields_follow_each_other;

/// The frame on the guest's stack at the iret hypercall (public/arch-x86/xen-x86_64.h).
pub mod iret_context {
    /// u64.
    pub const RAX: usize = 0;
    /// u64.
    pub const R11: usize = 8;
    /// u64.
    pub const RCX: usize = 16;
    /// u64: VGCF_IN_SYSCALL or 0.
    pub const FLAGS: usize = 24;
    /// u64.
    pub const RIP: usize = 32;
    /// u64: ring 3 means user mode, 0 to 2 kernel mode.
    pub const CS: usize = 40;
    /// u64: IF becomes the inverse of the upcall mask.
    pub const RFLAGS: usize = 48;
    /// u64.
    pub const RSP: usize = 56;
    /// u64.
    pub const SS: usize = 64;
    /// Bytes in the structure.
    pub const SIZE: usize = 72;

    const _: () = super::fields_follow_each_other(
        &[(RAX, 8), (R11, 8), (RCX, 8), (FLAGS, 8), (RIP, 8), (CS, 8), (RFLAGS, 8), (RSP, 8), (SS, 8)],
        SIZE,
    );
}

/// One entry of the guest's trap table (public/arch-x86/xen.h); a table ends where `ADDRESS` is 0.
pub mod trap_info {
    /// u8: exception vector.
    pub const VECTOR: usize = 0;
    /// u8: bits 1:0 the least privileged ring that may raise it by `int`, bit 2 masks upcalls on entry.
    pub const FLAGS: usize = 1;
    /// u16: code selector of the handler.
    pub const CS: usize = 2;
    /// u64: the handler.
    pub const ADDRESS: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(VECTOR, 1), (FLAGS, 1), (CS, 2), (ADDRESS, 8)], SIZE);
}

/// Registers of a vCPU (public/arch-x86/xen-x86_64.h).
pub mod cpu_user_regs {
    /// u64.
    pub const R15: usize = 0;
    /// u64.
    pub const R14: usize = 8;
    /// u64.
    pub const R13: usize = 16;
    /// u64.
    pub const R12: usize = 24;
    /// u64.
    pub const RBP: usize = 32;
    /// u64.
    pub const RBX: usize = 40;
    /// u64.
    pub const R11: usize = 48;
    /// u64.
    pub const R10: usize = 56;
    /// u64.
    pub const R9: usize = 64;
    /// u64.
    pub const R8: usize = 72;
    /// u64.
    pub const RAX: usize = 80;
    /// u64.
    pub const RCX: usize = 88;
    /// u64.
    pub const RDX: usize = 96;
    /// u64.
    pub const RSI: usize = 104;
    /// u64.
    pub const RDI: usize = 112;
    /// u32: the hypervisor's own.
    pub const ERROR_CODE: usize = 120;
    /// u32: the hypervisor's own.
    pub const ENTRY_VECTOR: usize = 124;
    /// u64.
    pub const RIP: usize = 128;
    /// u16.
    pub const CS: usize = 136;
    /// u8: the upcall mask before the upcall.
    pub const SAVED_UPCALL_MASK: usize = 140;
    /// u64.
    pub const RFLAGS: usize = 144;
    /// u64.
    pub const RSP: usize = 152;
    /// u16.
    pub const SS: usize = 160;
    /// u16.
    pub const ES: usize = 168;
    /// u16.
    pub const DS: usize = 176;
    /// u16.
    pub const FS: usize = 184;
    /// u16.
    pub const GS: usize = 192;
    /// Bytes in the structure.
    pub const SIZE: usize = 200;

    const _: () = super::fields_follow_each_other(
        &[
            (R15, 8),
            (R14, 8),
            (R13, 8),
            (R12, 8),
            (RBP, 8),
            (RBX, 8),
            (R11, 8),
            (R10, 8),
            (R9, 8),
            (R8, 8),
            (RAX, 8),
            (RCX, 8),
            (RDX, 8),
            (RSI, 8),
            (RDI, 8),
            (ERROR_CODE, 4),
            (ENTRY_VECTOR, 4),
            (RIP, 8),
            (CS, 2),
            (SAVED_UPCALL_MASK, 1),
            (RFLAGS, 8),
            (RSP, 8),
            (SS, 2),
            (ES, 2),
            (DS, 2),
            (FS, 2),
            (GS, 2),
        ],
        SIZE,
    );
}

/// All registers and tables of a PV vCPU (public/arch-x86/xen.h). [`crate::xen::vcpu::VcpuGuestContext`] reads and
/// writes it whole.
pub mod vcpu_guest_context {
    /// 512 bytes as FXSAVE writes them.
    pub const FPU_CTXT: usize = 0;
    /// u64: VGCF_* flags.
    pub const FLAGS: usize = 512;
    /// The [`cpu_user_regs`](super::cpu_user_regs).
    pub const USER_REGS: usize = 520;
    /// 256 [`trap_info`](super::trap_info)s.
    pub const TRAP_CTXT: usize = 720;
    /// u64: linear address of the LDT.
    pub const LDT_BASE: usize = 4816;
    /// u64: its entries.
    pub const LDT_ENTS: usize = 4824;
    /// 16 u64: machine frames of the GDT.
    pub const GDT_FRAMES: usize = 4832;
    /// u64: its entries.
    pub const GDT_ENTS: usize = 4960;
    /// u64: stack selector for entries from user mode.
    pub const KERNEL_SS: usize = 4968;
    /// u64: stack pointer for entries from user mode.
    pub const KERNEL_SP: usize = 4976;
    /// 8 u64: CR0 to CR7; CR1 is the user mode page table.
    pub const CTRLREG: usize = 4984;
    /// 8 u64: DR0 to DR7.
    pub const DEBUGREG: usize = 5048;
    /// u64: event upcall.
    pub const EVENT_CALLBACK_EIP: usize = 5112;
    /// u64: entry when a return to the guest fails.
    pub const FAILSAFE_CALLBACK_EIP: usize = 5120;
    /// u64: entry of `syscall` from user mode.
    pub const SYSCALL_CALLBACK_EIP: usize = 5128;
    /// u64: VMASST_TYPE_* bits.
    pub const VM_ASSIST: usize = 5136;
    /// u64.
    pub const FS_BASE: usize = 5144;
    /// u64.
    pub const GS_BASE_KERNEL: usize = 5152;
    /// u64.
    pub const GS_BASE_USER: usize = 5160;
    /// Bytes in the structure.
    pub const SIZE: usize = 5168;

    const _: () = super::fields_follow_each_other(
        &[
            (FPU_CTXT, 512),
            (FLAGS, 8),
            (USER_REGS, 200),
            (TRAP_CTXT, 4096),
            (LDT_BASE, 8),
            (LDT_ENTS, 8),
            (GDT_FRAMES, 128),
            (GDT_ENTS, 8),
            (KERNEL_SS, 8),
            (KERNEL_SP, 8),
            (CTRLREG, 64),
            (DEBUGREG, 64),
            (EVENT_CALLBACK_EIP, 8),
            (FAILSAFE_CALLBACK_EIP, 8),
            (SYSCALL_CALLBACK_EIP, 8),
            (VM_ASSIST, 8),
            (FS_BASE, 8),
            (GS_BASE_KERNEL, 8),
            (GS_BASE_USER, 8),
        ],
        SIZE,
    );
}
