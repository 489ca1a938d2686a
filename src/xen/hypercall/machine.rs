//! Numbers of the PV machine: what a guest starts with, its descriptors and address space, its devices.

/// What `set_segment_base` sets.
pub mod segment_base {
    /// The FS base.
    pub const FS: u64 = 0;
    /// The GS base of user mode.
    pub const GS_USER: u64 = 1;
    /// The GS base of kernel mode.
    pub const GS_KERNEL: u64 = 2;
    /// The GS selector of user mode.
    pub const GS_USER_SEL: u64 = 3;
}

/// Sub-operations of `physdev_op`.
pub mod physdev_op {
    /// `irq_status_query`.
    pub const IRQ_STATUS_QUERY: u64 = 5;
    /// `set_iopl`.
    pub const SET_IOPL: u64 = 6;
    /// `set_iobitmap`.
    pub const SET_IOBITMAP: u64 = 7;
    /// `apic_read`.
    pub const APIC_READ: u64 = 8;
    /// `apic_write`.
    pub const APIC_WRITE: u64 = 9;
    /// `eoi`.
    pub const EOI: u64 = 12;
    /// `map_pirq`.
    pub const MAP_PIRQ: u64 = 13;
    /// `unmap_pirq`.
    pub const UNMAP_PIRQ: u64 = 14;
    /// `pirq_eoi_gmfn_v1`.
    pub const PIRQ_EOI_GMFN_V1: u64 = 17;
    /// `get_free_pirq`.
    pub const GET_FREE_PIRQ: u64 = 23;
    /// `pirq_eoi_gmfn_v2`.
    pub const PIRQ_EOI_GMFN_V2: u64 = 28;
}

/// Flags in start_info.
pub mod sif {
    /// The domain may manage others.
    pub const PRIVILEGED: u32 = 1 << 0;
    /// It is the first domain.
    pub const INITDOMAIN: u32 = 1 << 1;
    /// The ramdisk is a list of modules.
    pub const MULTIBOOT_MOD: u32 = 1 << 2;
    /// The ramdisk is named by its pfn and not mapped.
    pub const MOD_START_PFN: u32 = 1 << 3;
    /// Whoever saves the domain reads the p2m as one linear list.
    pub const VIRT_P2M_4TOOLS: u32 = 1 << 4;
}

/// Flags in vcpu_guest_context, and in the frame of the iret hypercall.
pub mod vgcf {
    /// The FPU context is valid.
    pub const I387_VALID: u64 = 1 << 0;
    /// The vCPU is in kernel mode.
    pub const IN_KERNEL: u64 = 1 << 2;
    /// The failsafe callback masks upcalls.
    pub const FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3;
    /// The syscall callback masks upcalls.
    pub const SYSCALL_DISABLES_EVENTS: u64 = 1 << 4;
    /// The vCPU is up.
    pub const ONLINE: u64 = 1 << 5;
    /// In an iret frame: rcx and r11 need not be restored.
    pub const IN_SYSCALL: u64 = 1 << 8;
}

/// Numbers of the 64-bit PV machine (public/arch-x86/xen-x86_64.h).
pub mod pv {
    /// Code selector of kernel and user mode.
    pub const FLAT_KERNEL_CS: u64 = 0xe033;
    /// Stack selector of both.
    pub const FLAT_KERNEL_SS: u64 = 0xe02b;
    /// 32-bit code selector of user mode.
    pub const FLAT_USER_CS32: u64 = 0xe023;
    /// GDT entries from here on are the hypervisor's (14 pages belong to the guest).
    pub const FIRST_RESERVED_GDT_ENTRY: u64 = 7168;
    /// First virtual address that is the hypervisor's.
    pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
    /// First behind them.
    pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
    /// vCPUs that have a vcpu_info in the shared_info page.
    pub const LEGACY_MAX_VCPUS: u64 = 32;
}
