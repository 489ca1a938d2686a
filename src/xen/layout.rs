//! Byte offsets of the structures that lie in guest memory, as Xen's public headers lay them out for 64-bit x86.
//!
//! They are tables of numbers and not Rust structs, because the bytes belong to a guest: it may change them at any
//! time, so every access is a single read or write through [`PhysMem`](crate::mm::physmem::PhysMem), or goes to a
//! private copy. Each module is one structure: a constant a field, in ascending order, and `SIZE`. The assertions
//! beside them say that fields neither overlap nor stick out. All numbers are little-endian; what the fields are is
//! said beside them.

/// What a PV guest's rsi points at when it starts (public/xen.h).
pub mod start_info {
    /// `xen-3.0-x86_64`, zero-padded to 32 bytes.
    pub const MAGIC: usize = 0;
    /// u64: pages that the domain was given.
    pub const NR_PAGES: usize = 32;
    /// u64: machine address of the shared_info page.
    pub const SHARED_INFO: usize = 40;
    /// u32: SIF_* flags, see [`crate::xen::hypercall::sif`].
    pub const FLAGS: usize = 48;
    /// u64: frame of the xenstore ring.
    pub const STORE_MFN: usize = 56;
    /// u32: its event channel, 0 for none.
    pub const STORE_EVTCHN: usize = 64;
    /// u64: frame of the console ring.
    pub const CONSOLE_MFN: usize = 72;
    /// u32: its event channel, 0 for none.
    pub const CONSOLE_EVTCHN: usize = 80;
    /// u64: virtual address of the boot L4 table.
    pub const PT_BASE: usize = 88;
    /// u64: boot page tables, starting at `PT_BASE`.
    pub const NR_PT_FRAMES: usize = 96;
    /// u64: virtual address of the p2m list.
    pub const MFN_LIST: usize = 104;
    /// u64: virtual address of the ramdisk, or its pfn with SIF_MOD_START_PFN.
    pub const MOD_START: usize = 112;
    /// u64: bytes in the ramdisk, 0 for none.
    pub const MOD_LEN: usize = 120;
    /// The command line, 1024 bytes with the closing zero.
    pub const CMD_LINE: usize = 128;
    /// u64: first pfn of a p2m list outside the boot mapping, its page tables included.
    pub const FIRST_P2M_PFN: usize = 1152;
    /// u64: pages from there on, 0 if the list is inside the boot mapping.
    pub const NR_P2M_FRAMES: usize = 1160;
    /// Bytes in the structure.
    pub const SIZE: usize = 1168;

    const _: () = super::fields_follow_each_other(
        &[
            (MAGIC, 32),
            (NR_PAGES, 8),
            (SHARED_INFO, 8),
            (FLAGS, 4),
            (STORE_MFN, 8),
            (STORE_EVTCHN, 4),
            (CONSOLE_MFN, 8),
            (CONSOLE_EVTCHN, 4),
            (PT_BASE, 8),
            (NR_PT_FRAMES, 8),
            (MFN_LIST, 8),
            (MOD_START, 8),
            (MOD_LEN, 8),
            (CMD_LINE, 1024),
            (FIRST_P2M_PFN, 8),
            (NR_P2M_FRAMES, 8),
        ],
        SIZE,
    );
}

/// The page that a domain shares with the hypervisor (public/xen.h).
pub mod shared_info {
    /// 32 [`vcpu_info`](super::vcpu_info)s, of the vCPUs that have not moved theirs.
    pub const VCPU_INFO: usize = 0;
    /// 64 words of pending bits, by port.
    pub const EVTCHN_PENDING: usize = 2048;
    /// 64 words of mask bits, by port.
    pub const EVTCHN_MASK: usize = 2560;
    /// u32: odd while the wall clock is being written.
    pub const WC_VERSION: usize = 3072;
    /// u32: seconds of the wall clock at system time 0, low half.
    pub const WC_SEC: usize = 3076;
    /// u32: nanoseconds of the same.
    pub const WC_NSEC: usize = 3080;
    /// u32: seconds, high half.
    pub const WC_SEC_HI: usize = 3084;
    /// u64: valid entries in the p2m.
    pub const ARCH_MAX_PFN: usize = 3088;
    /// u64: frame of the p2m's three-level tree, or all ones.
    pub const ARCH_FRAME_LIST_LIST: usize = 3096;
    /// u64: why an NMI was sent.
    pub const ARCH_NMI_REASON: usize = 3104;
    /// u64: root of the address space in which `ARCH_P2M_VADDR` holds, 0 if unset.
    pub const ARCH_P2M_CR3: usize = 3112;
    /// u64: virtual address of the linear p2m list.
    pub const ARCH_P2M_VADDR: usize = 3120;
    /// u64: odd while the guest changes the list's mapping.
    pub const ARCH_P2M_GENERATION: usize = 3128;
    /// Bytes in the structure.
    pub const SIZE: usize = 3136;

    const _: () = super::fields_follow_each_other(
        &[
            (VCPU_INFO, 2048),
            (EVTCHN_PENDING, 512),
            (EVTCHN_MASK, 512),
            (WC_VERSION, 4),
            (WC_SEC, 4),
            (WC_NSEC, 4),
            (WC_SEC_HI, 4),
            (ARCH_MAX_PFN, 8),
            (ARCH_FRAME_LIST_LIST, 8),
            (ARCH_NMI_REASON, 8),
            (ARCH_P2M_CR3, 8),
            (ARCH_P2M_VADDR, 8),
            (ARCH_P2M_GENERATION, 8),
        ],
        SIZE,
    );
}

/// A vCPU's part of the shared data (public/xen.h).
pub mod vcpu_info {
    /// u8: an upcall is wanted.
    pub const EVTCHN_UPCALL_PENDING: usize = 0;
    /// u8: no upcalls, the PV guest's interrupt flag inverted.
    pub const EVTCHN_UPCALL_MASK: usize = 1;
    /// u64: which words of the pending bits to look at.
    pub const EVTCHN_PENDING_SEL: usize = 8;
    /// u64: address of the last page fault.
    pub const ARCH_CR2: usize = 16;
    /// The [`vcpu_time_info`](super::vcpu_time_info).
    pub const TIME: usize = 32;
    /// Bytes in the structure.
    pub const SIZE: usize = 64;

    const _: () = super::fields_follow_each_other(
        &[(EVTCHN_UPCALL_PENDING, 1), (EVTCHN_UPCALL_MASK, 1), (EVTCHN_PENDING_SEL, 8), (ARCH_CR2, 8), (TIME, 32)],
        SIZE,
    );
}

/// The PV clock (public/xen.h): system_time + (((tsc - tsc_timestamp) << shift) * mul >> 32).
pub mod vcpu_time_info {
    /// u32: odd while being written.
    pub const VERSION: usize = 0;
    /// u64: TSC at `SYSTEM_TIME`.
    pub const TSC_TIMESTAMP: usize = 8;
    /// u64: nanoseconds of system time.
    pub const SYSTEM_TIME: usize = 16;
    /// u32: the factor, as a fraction of 2^32.
    pub const TSC_TO_SYSTEM_MUL: usize = 24;
    /// i8: shift before the multiplication, right if negative.
    pub const TSC_SHIFT: usize = 28;
    /// u8: bit 0, the TSC is stable across vCPUs.
    pub const FLAGS: usize = 29;
    /// Bit of `FLAGS`.
    pub const TSC_STABLE: u8 = 1;
    /// Bytes in the structure.
    pub const SIZE: usize = 32;

    const _: () = super::fields_follow_each_other(
        &[(VERSION, 4), (TSC_TIMESTAMP, 8), (SYSTEM_TIME, 8), (TSC_TO_SYSTEM_MUL, 4), (TSC_SHIFT, 1), (FLAGS, 1)],
        SIZE,
    );
}

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

/// How long a vCPU has been in which state (public/vcpu.h).
pub mod vcpu_runstate_info {
    /// i32: RUNSTATE_*.
    pub const STATE: usize = 0;
    /// u64: system time when it was entered; bit 63 while being written.
    pub const STATE_ENTRY_TIME: usize = 8;
    /// 4 u64: nanoseconds spent running, runnable, blocked, offline.
    pub const TIME: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 48;

    const _: () = super::fields_follow_each_other(&[(STATE, 4), (STATE_ENTRY_TIME, 8), (TIME, 32)], SIZE);
}

/// One call of a multicall (public/xen.h).
pub mod multicall_entry {
    /// u64: hypercall number.
    pub const OP: usize = 0;
    /// u64: what it returned.
    pub const RESULT: usize = 8;
    /// 6 u64: its arguments.
    pub const ARGS: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 64;

    const _: () = super::fields_follow_each_other(&[(OP, 8), (RESULT, 8), (ARGS, 48)], SIZE);
}

/// One change of a page-table or M2P entry (public/xen.h).
pub mod mmu_update {
    /// u64: machine address of the entry, command in bits 1:0.
    pub const PTR: usize = 0;
    /// u64: new contents.
    pub const VAL: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(PTR, 8), (VAL, 8)], SIZE);
}

/// One extended page-table operation (public/xen.h).
pub mod mmuext_op {
    /// u32: MMUEXT_*.
    pub const CMD: usize = 0;
    /// u64: frame or linear address.
    pub const ARG1: usize = 8;
    /// u64: entries (u32), pointer to a vCPU mask, or source frame.
    pub const ARG2: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(CMD, 4), (ARG1, 8), (ARG2, 8)], SIZE);
}

/// Argument of `sysctl` page_offline_op (public/sysctl.h).
pub mod sysctl_page_offline {
    /// u32: the sysctl's number, see [`crate::xen::hypercall::sysctl`].
    pub const SYSCTL: usize = 0;
    /// u32: the interface version.
    pub const INTERFACE_VERSION: usize = 4;
    /// u32: what is to be done, see [`crate::xen::hypercall::page_offline`].
    pub const CMD: usize = 8;
    /// u32: first frame.
    pub const START: usize = 12;
    /// u32: last frame.
    pub const END: usize = 16;
    /// u64: pointer to a u32 for each frame.
    pub const STATUS: usize = 24;
    /// Room that other sysctls need.
    pub const PAD: usize = 32;
    /// Bytes in the structure.
    pub const SIZE: usize = 136;

    const _: () = super::fields_follow_each_other(
        &[(SYSCTL, 4), (INTERFACE_VERSION, 4), (CMD, 4), (START, 4), (END, 4), (STATUS, 8), (PAD, 104)],
        SIZE,
    );
}

/// Argument of increase, decrease and populate (public/memory.h).
pub mod memory_reservation {
    /// u64: pointer to the list of frames.
    pub const EXTENT_START: usize = 0;
    /// u64: entries in it.
    pub const NR_EXTENTS: usize = 8;
    /// u32: each is 2^order pages.
    pub const EXTENT_ORDER: usize = 16;
    /// u32: XENMEMF_*.
    pub const MEM_FLAGS: usize = 20;
    /// u16: whose memory.
    pub const DOMID: usize = 24;
    /// Bytes in the structure.
    pub const SIZE: usize = 32;

    const _: () = super::fields_follow_each_other(
        &[(EXTENT_START, 8), (NR_EXTENTS, 8), (EXTENT_ORDER, 4), (MEM_FLAGS, 4), (DOMID, 2)],
        SIZE,
    );
}

/// Argument of exchange (public/memory.h).
pub mod memory_exchange {
    /// The [`memory_reservation`](super::memory_reservation) given up.
    pub const IN: usize = 0;
    /// The [`memory_reservation`](super::memory_reservation) wanted.
    pub const OUT: usize = 32;
    /// u64: extents of `IN` that are done.
    pub const NR_EXCHANGED: usize = 64;
    /// Bytes in the structure.
    pub const SIZE: usize = 72;

    const _: () = super::fields_follow_each_other(&[(IN, 32), (OUT, 32), (NR_EXCHANGED, 8)], SIZE);
}

/// Result of machphys_mapping (public/memory.h).
pub mod machphys_mapping {
    /// u64: first virtual address of the M2P.
    pub const V_START: usize = 0;
    /// u64: first behind it.
    pub const V_END: usize = 8;
    /// u64: last frame that can be looked up.
    pub const MAX_MFN: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(V_START, 8), (V_END, 8), (MAX_MFN, 8)], SIZE);
}

/// Argument of machphys_mfn_list (public/memory.h).
pub mod machphys_mfn_list {
    /// u32: entries that fit.
    pub const MAX_EXTENTS: usize = 0;
    /// u64: pointer to the list, one frame for every 2 MiB of the M2P.
    pub const EXTENT_START: usize = 8;
    /// u32: entries written.
    pub const NR_EXTENTS: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(MAX_EXTENTS, 4), (EXTENT_START, 8), (NR_EXTENTS, 4)], SIZE);
}

/// Argument of add_to_physmap (public/memory.h).
pub mod add_to_physmap {
    /// u16: whose physmap.
    pub const DOMID: usize = 0;
    /// u16: pages for gmfn_range.
    pub const NR_PAGES: usize = 2;
    /// u32: XENMAPSPACE_*.
    pub const SPACE: usize = 4;
    /// u64: index in that space.
    pub const IDX: usize = 8;
    /// u64: where it goes.
    pub const GPFN: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(DOMID, 2), (NR_PAGES, 2), (SPACE, 4), (IDX, 8), (GPFN, 8)], SIZE);
}

/// Argument of memory_map (public/memory.h).
pub mod memory_map {
    /// u32: entries that fit, then entries written.
    pub const NR_ENTRIES: usize = 0;
    /// u64: pointer to E820 entries of 20 bytes.
    pub const BUFFER: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(NR_ENTRIES, 4), (BUFFER, 8)], SIZE);
}

/// The console ring (public/io/console.h); `in` is towards the guest. Indices run freely, modulo the ring's size.
pub mod xencons_interface {
    /// 1024 bytes.
    pub const IN: usize = 0;
    /// 2048 bytes.
    pub const OUT: usize = 1024;
    /// u32: next byte the guest reads.
    pub const IN_CONS: usize = 3072;
    /// u32: next byte the backend writes.
    pub const IN_PROD: usize = 3076;
    /// u32: next byte the backend reads.
    pub const OUT_CONS: usize = 3080;
    /// u32: next byte the guest writes.
    pub const OUT_PROD: usize = 3084;
    /// u32: 0 connected; of interfaces newer than 4.17.
    pub const CONNECTION: usize = 3088;
    /// Bytes in the structure.
    pub const SIZE: usize = 3092;

    const _: () = super::fields_follow_each_other(
        &[(IN, 1024), (OUT, 2048), (IN_CONS, 4), (IN_PROD, 4), (OUT_CONS, 4), (OUT_PROD, 4), (CONNECTION, 4)],
        SIZE,
    );
}

/// The xenstore ring (public/io/xs_wire.h).
pub mod xenstore_interface {
    /// 1024 bytes of requests.
    pub const REQ: usize = 0;
    /// 1024 bytes of replies.
    pub const RSP: usize = 1024;
    /// u32.
    pub const REQ_CONS: usize = 2048;
    /// u32.
    pub const REQ_PROD: usize = 2052;
    /// u32.
    pub const RSP_CONS: usize = 2056;
    /// u32.
    pub const RSP_PROD: usize = 2060;
    /// u32: what the server can do.
    pub const SERVER_FEATURES: usize = 2064;
    /// u32: 0 connected, 1 reconnect asked.
    pub const CONNECTION: usize = 2068;
    /// u32.
    pub const ERROR: usize = 2072;
    /// u32: the backend's port; of interfaces newer than 4.17.
    pub const EVTCHN: usize = 2076;
    /// Bytes in the structure.
    pub const SIZE: usize = 2080;

    const _: () = super::fields_follow_each_other(
        &[
            (REQ, 1024),
            (RSP, 1024),
            (REQ_CONS, 4),
            (REQ_PROD, 4),
            (RSP_CONS, 4),
            (RSP_PROD, 4),
            (SERVER_FEATURES, 4),
            (CONNECTION, 4),
            (ERROR, 4),
            (EVTCHN, 4),
        ],
        SIZE,
    );
}

/// Argument of register_vcpu_info (public/vcpu.h).
pub mod register_vcpu_info {
    /// u64: frame.
    pub const MFN: usize = 0;
    /// u32: byte offset in it.
    pub const OFFSET: usize = 8;
    /// u32.
    pub const RSVD: usize = 12;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(MFN, 8), (OFFSET, 4), (RSVD, 4)], SIZE);
}

/// Argument of set_singleshot_timer (public/vcpu.h).
pub mod set_singleshot_timer {
    /// u64: system time at which VIRQ_TIMER is wanted.
    pub const TIMEOUT_ABS_NS: usize = 0;
    /// u32: bit 0, refuse a time in the past with -ETIME.
    pub const FLAGS: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(TIMEOUT_ABS_NS, 8), (FLAGS, 4)], SIZE);
}

/// Argument of callback_op register (public/callback.h).
pub mod callback_register {
    /// u16: CALLBACKTYPE_*.
    pub const TYPE: usize = 0;
    /// u16: bit 0 masks upcalls on entry.
    pub const FLAGS: usize = 2;
    /// u64: the entry.
    pub const ADDRESS: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(TYPE, 2), (FLAGS, 2), (ADDRESS, 8)], SIZE);
}

/// Argument of sched_op poll (public/sched.h).
pub mod sched_poll {
    /// u64: pointer to u32 ports.
    pub const PORTS: usize = 0;
    /// u32: how many.
    pub const NR_PORTS: usize = 8;
    /// u64: system time at which to give up, 0 never.
    pub const TIMEOUT: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(PORTS, 8), (NR_PORTS, 4), (TIMEOUT, 8)], SIZE);
}

/// Argument of sched_op watchdog (public/sched.h).
pub mod sched_watchdog {
    /// u32: 0 for a new one.
    pub const ID: usize = 0;
    /// u32: seconds, 0 to end it.
    pub const TIMEOUT: usize = 4;
    /// Bytes in the structure.
    pub const SIZE: usize = 8;

    const _: () = super::fields_follow_each_other(&[(ID, 4), (TIMEOUT, 4)], SIZE);
}

/// public/event_channel.h.
pub mod evtchn_bind_interdomain {
    /// u16, in.
    pub const REMOTE_DOM: usize = 0;
    /// u32, in.
    pub const REMOTE_PORT: usize = 4;
    /// u32, out.
    pub const LOCAL_PORT: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 12;

    const _: () = super::fields_follow_each_other(&[(REMOTE_DOM, 2), (REMOTE_PORT, 4), (LOCAL_PORT, 4)], SIZE);
}

/// public/event_channel.h.
pub mod evtchn_bind_virq {
    /// u32, in.
    pub const VIRQ: usize = 0;
    /// u32, in.
    pub const VCPU: usize = 4;
    /// u32, out.
    pub const PORT: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 12;

    const _: () = super::fields_follow_each_other(&[(VIRQ, 4), (VCPU, 4), (PORT, 4)], SIZE);
}

/// public/event_channel.h.
pub mod evtchn_bind_ipi {
    /// u32, in.
    pub const VCPU: usize = 0;
    /// u32, out.
    pub const PORT: usize = 4;
    /// Bytes in the structure.
    pub const SIZE: usize = 8;

    const _: () = super::fields_follow_each_other(&[(VCPU, 4), (PORT, 4)], SIZE);
}

/// public/event_channel.h.
pub mod evtchn_bind_vcpu {
    /// u32, in.
    pub const PORT: usize = 0;
    /// u32, in.
    pub const VCPU: usize = 4;
    /// Bytes in the structure.
    pub const SIZE: usize = 8;

    const _: () = super::fields_follow_each_other(&[(PORT, 4), (VCPU, 4)], SIZE);
}

/// public/event_channel.h.
pub mod evtchn_alloc_unbound {
    /// u16, in.
    pub const DOM: usize = 0;
    /// u16, in.
    pub const REMOTE_DOM: usize = 2;
    /// u32, out.
    pub const PORT: usize = 4;
    /// Bytes in the structure.
    pub const SIZE: usize = 8;

    const _: () = super::fields_follow_each_other(&[(DOM, 2), (REMOTE_DOM, 2), (PORT, 4)], SIZE);
}

/// public/event_channel.h.
pub mod evtchn_status {
    /// u16, in.
    pub const DOM: usize = 0;
    /// u32, in.
    pub const PORT: usize = 4;
    /// u32, out: EVTCHNSTAT_*.
    pub const STATUS: usize = 8;
    /// u32, out: vCPU notified.
    pub const VCPU: usize = 12;
    /// Out, by status: unbound {u16 dom}, interdomain {u16 dom, u32 port}, pirq u32, virq u32.
    pub const U: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(DOM, 2), (PORT, 4), (STATUS, 4), (VCPU, 4), (U, 8)], SIZE);
}

/// Argument of kexec get_range (public/kexec.h).
pub mod kexec_range {
    /// i32, in: KEXEC_RANGE_*.
    pub const RANGE: usize = 0;
    /// i32, in: CPU.
    pub const NR: usize = 4;
    /// u64, out.
    pub const SIZE_BYTES: usize = 8;
    /// u64, out: machine address.
    pub const START: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(RANGE, 4), (NR, 4), (SIZE_BYTES, 8), (START, 8)], SIZE);
}

/// Argument of kexec load (public/kexec.h).
pub mod kexec_load {
    /// u8: KEXEC_TYPE_*.
    pub const TYPE: usize = 0;
    /// u16: ELF machine.
    pub const ARCH: usize = 2;
    /// u32.
    pub const NR_SEGMENTS: usize = 4;
    /// u64: pointer to [`kexec_segment`](super::kexec_segment)s.
    pub const SEGMENTS: usize = 8;
    /// u64.
    pub const ENTRY_MADDR: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(
        &[(TYPE, 1), (ARCH, 2), (NR_SEGMENTS, 4), (SEGMENTS, 8), (ENTRY_MADDR, 8)],
        SIZE,
    );
}

/// One segment of an image (public/kexec.h).
pub mod kexec_segment {
    /// u64: pointer into the caller's memory.
    pub const BUF: usize = 0;
    /// u64: bytes there.
    pub const BUF_SIZE: usize = 8;
    /// u64: where they go.
    pub const DEST_MADDR: usize = 16;
    /// u64: bytes there, the rest zero.
    pub const DEST_SIZE: usize = 24;
    /// Bytes in the structure.
    pub const SIZE: usize = 32;

    const _: () = super::fields_follow_each_other(&[(BUF, 8), (BUF_SIZE, 8), (DEST_MADDR, 8), (DEST_SIZE, 8)], SIZE);
}

/// Argument of xen_version get_features (public/version.h).
pub mod feature_info {
    /// u32, in: which 32 features.
    pub const SUBMAP_IDX: usize = 0;
    /// u32, out: their bits.
    pub const SUBMAP: usize = 4;
    /// Bytes in the structure.
    pub const SIZE: usize = 8;

    const _: () = super::fields_follow_each_other(&[(SUBMAP_IDX, 4), (SUBMAP, 4)], SIZE);
}

/// Argument of physdev_op set_iobitmap (public/physdev.h).
pub mod set_iobitmap {
    /// u64: pointer to the bits, a set one forbids the port.
    pub const BITMAP: usize = 0;
    /// u32: bits in it.
    pub const NR_PORTS: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(BITMAP, 8), (NR_PORTS, 4)], SIZE);
}

/// Stops the build unless fields, as (offset, bytes), are aligned to their size, in order, and inside the structure.
pub(super) const fn fields_follow_each_other(fields: &[(usize, usize)], size: usize) {
    let mut i = 0;
    let mut at = 0;
    while i < fields.len() {
        let (offset, len) = fields[i];
        assert!(offset >= at, "fields overlap");
        assert!(len > 8 || offset % len == 0, "field not aligned");
        at = offset + len;
        i += 1;
    }
    assert!(at <= size && size - at < 32, "fields do not fill the structure");
}
