//! Hypercall numbers, sub-operations and the constants they take (public/xen.h and the headers beside it).

mod machine;
mod memory;

pub use machine::*;
pub use memory::*;

/// The first number that cannot name a domain: from here on they have meanings of their own, see
/// [`crate::frame::DomId`].
pub const DOMID_FIRST_RESERVED: u16 = crate::frame::DomId::FIRST_RESERVED;

/// Bit 63 of a runstate's entry time: the area is being written.
pub const RUNSTATE_UPDATE: u64 = 1 << 63;

/// Hypercall numbers, in rax.
pub mod nr {
    /// `set_trap_table`.
    pub const SET_TRAP_TABLE: u64 = 0;
    /// `mmu_update`.
    pub const MMU_UPDATE: u64 = 1;
    /// `set_gdt`.
    pub const SET_GDT: u64 = 2;
    /// `stack_switch`.
    pub const STACK_SWITCH: u64 = 3;
    /// `set_callbacks`.
    pub const SET_CALLBACKS: u64 = 4;
    /// `fpu_taskswitch`.
    pub const FPU_TASKSWITCH: u64 = 5;
    /// `sched_op_compat`.
    pub const SCHED_OP_COMPAT: u64 = 6;
    /// `platform_op`.
    pub const PLATFORM_OP: u64 = 7;
    /// `set_debugreg`.
    pub const SET_DEBUGREG: u64 = 8;
    /// `get_debugreg`.
    pub const GET_DEBUGREG: u64 = 9;
    /// `update_descriptor`.
    pub const UPDATE_DESCRIPTOR: u64 = 10;
    /// `memory_op`.
    pub const MEMORY_OP: u64 = 12;
    /// `multicall`.
    pub const MULTICALL: u64 = 13;
    /// `update_va_mapping`.
    pub const UPDATE_VA_MAPPING: u64 = 14;
    /// `set_timer_op`.
    pub const SET_TIMER_OP: u64 = 15;
    /// `event_channel_op_compat`.
    pub const EVENT_CHANNEL_OP_COMPAT: u64 = 16;
    /// `xen_version`.
    pub const XEN_VERSION: u64 = 17;
    /// `console_io`.
    pub const CONSOLE_IO: u64 = 18;
    /// `physdev_op_compat`.
    pub const PHYSDEV_OP_COMPAT: u64 = 19;
    /// `grant_table_op`.
    pub const GRANT_TABLE_OP: u64 = 20;
    /// `vm_assist`.
    pub const VM_ASSIST: u64 = 21;
    /// `update_va_mapping_otherdomain`.
    pub const UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
    /// `iret`.
    pub const IRET: u64 = 23;
    /// `vcpu_op`.
    pub const VCPU_OP: u64 = 24;
    /// `set_segment_base`.
    pub const SET_SEGMENT_BASE: u64 = 25;
    /// `mmuext_op`.
    pub const MMUEXT_OP: u64 = 26;
    /// `xsm_op`.
    pub const XSM_OP: u64 = 27;
    /// `nmi_op`.
    pub const NMI_OP: u64 = 28;
    /// `sched_op`.
    pub const SCHED_OP: u64 = 29;
    /// `callback_op`.
    pub const CALLBACK_OP: u64 = 30;
    /// `xenoprof_op`.
    pub const XENOPROF_OP: u64 = 31;
    /// `event_channel_op`.
    pub const EVENT_CHANNEL_OP: u64 = 32;
    /// `physdev_op`.
    pub const PHYSDEV_OP: u64 = 33;
    /// `hvm_op`.
    pub const HVM_OP: u64 = 34;
    /// `sysctl`.
    pub const SYSCTL: u64 = 35;
    /// `domctl`.
    pub const DOMCTL: u64 = 36;
    /// `kexec_op`.
    pub const KEXEC_OP: u64 = 37;
    /// `tmem_op`.
    pub const TMEM_OP: u64 = 38;
    /// `argo_op`.
    pub const ARGO_OP: u64 = 39;
    /// `xenpmu_op`.
    pub const XENPMU_OP: u64 = 40;
    /// `dm_op`.
    pub const DM_OP: u64 = 41;
    /// `hypfs_op`.
    pub const HYPFS_OP: u64 = 42;
    /// Hypercalls that a hypercall page of 4096 bytes has room for, 32 bytes each.
    pub const SLOTS: u64 = 128;
}

/// Sub-operations of `xen_version`.
pub mod xen_version {
    /// `version`.
    pub const VERSION: u64 = 0;
    /// `extraversion`.
    pub const EXTRAVERSION: u64 = 1;
    /// `compile_info`.
    pub const COMPILE_INFO: u64 = 2;
    /// `capabilities`.
    pub const CAPABILITIES: u64 = 3;
    /// `changeset`.
    pub const CHANGESET: u64 = 4;
    /// `platform_parameters`.
    pub const PLATFORM_PARAMETERS: u64 = 5;
    /// `get_features`.
    pub const GET_FEATURES: u64 = 6;
    /// `pagesize`.
    pub const PAGESIZE: u64 = 7;
    /// `guest_handle`.
    pub const GUEST_HANDLE: u64 = 8;
    /// `commandline`.
    pub const COMMANDLINE: u64 = 9;
    /// `build_id`.
    pub const BUILD_ID: u64 = 10;
}

/// Bits of `xen_version` get_features, submap 0 (public/features.h).
pub mod feature {
    /// `writable_page_tables`.
    pub const WRITABLE_PAGE_TABLES: u32 = 0;
    /// `writable_descriptor_tables`.
    pub const WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
    /// `auto_translated_physmap`.
    pub const AUTO_TRANSLATED_PHYSMAP: u32 = 2;
    /// `supervisor_mode_kernel`.
    pub const SUPERVISOR_MODE_KERNEL: u32 = 3;
    /// `pae_pgdir_above_4gb`.
    pub const PAE_PGDIR_ABOVE_4GB: u32 = 4;
    /// `mmu_pt_update_preserve_ad`.
    pub const MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
    /// `highmem_assist`.
    pub const HIGHMEM_ASSIST: u32 = 6;
    /// `gnttab_map_avail_bits`.
    pub const GNTTAB_MAP_AVAIL_BITS: u32 = 7;
    /// `hvm_callback_vector`.
    pub const HVM_CALLBACK_VECTOR: u32 = 8;
    /// `hvm_safe_pvclock`.
    pub const HVM_SAFE_PVCLOCK: u32 = 9;
    /// `hvm_pirqs`.
    pub const HVM_PIRQS: u32 = 10;
    /// `dom0`.
    pub const DOM0: u32 = 11;
    /// `grant_map_identity`.
    pub const GRANT_MAP_IDENTITY: u32 = 12;
    /// `memory_op_vnode_supported`.
    pub const MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
    /// `arm_smccc_supported`.
    pub const ARM_SMCCC_SUPPORTED: u32 = 14;
    /// `linux_rsdp_unrestricted`.
    pub const LINUX_RSDP_UNRESTRICTED: u32 = 15;
    /// `not_direct_mapped`.
    pub const NOT_DIRECT_MAPPED: u32 = 16;
    /// `direct_mapped`.
    pub const DIRECT_MAPPED: u32 = 17;
    /// `runstate_phys_area`.
    pub const RUNSTATE_PHYS_AREA: u32 = 18;
    /// `vcpu_time_phys_area`.
    pub const VCPU_TIME_PHYS_AREA: u32 = 19;
}

/// Sub-operations of `nmi_op`.
pub mod nmi_op {
    /// `register_callback`.
    pub const REGISTER_CALLBACK: u64 = 0;
    /// `unregister_callback`.
    pub const UNREGISTER_CALLBACK: u64 = 1;
}

/// Sub-operations of `sched_op`.
pub mod sched_op {
    /// `yield`.
    pub const YIELD: u64 = 0;
    /// `block`.
    pub const BLOCK: u64 = 1;
    /// `shutdown`.
    pub const SHUTDOWN: u64 = 2;
    /// `poll`.
    pub const POLL: u64 = 3;
    /// `remote_shutdown`.
    pub const REMOTE_SHUTDOWN: u64 = 4;
    /// `shutdown_code`.
    pub const SHUTDOWN_CODE: u64 = 5;
    /// `watchdog`.
    pub const WATCHDOG: u64 = 6;
    /// `pin_override`.
    pub const PIN_OVERRIDE: u64 = 7;
}

/// Reasons of `sched_op` shutdown.
pub mod shutdown {
    /// `poweroff`.
    pub const POWEROFF: u32 = 0;
    /// `reboot`.
    pub const REBOOT: u32 = 1;
    /// `suspend`.
    pub const SUSPEND: u32 = 2;
    /// `crash`.
    pub const CRASH: u32 = 3;
    /// `watchdog`.
    pub const WATCHDOG: u32 = 4;
    /// `soft_reset`.
    pub const SOFT_RESET: u32 = 5;
}

/// Sub-operations of `vcpu_op`.
pub mod vcpu_op {
    /// `initialise`.
    pub const INITIALISE: u64 = 0;
    /// `up`.
    pub const UP: u64 = 1;
    /// `down`.
    pub const DOWN: u64 = 2;
    /// `is_up`.
    pub const IS_UP: u64 = 3;
    /// `get_runstate_info`.
    pub const GET_RUNSTATE_INFO: u64 = 4;
    /// `register_runstate_memory_area`.
    pub const REGISTER_RUNSTATE_MEMORY_AREA: u64 = 5;
    /// `set_periodic_timer`.
    pub const SET_PERIODIC_TIMER: u64 = 6;
    /// `stop_periodic_timer`.
    pub const STOP_PERIODIC_TIMER: u64 = 7;
    /// `set_singleshot_timer`.
    pub const SET_SINGLESHOT_TIMER: u64 = 8;
    /// `stop_singleshot_timer`.
    pub const STOP_SINGLESHOT_TIMER: u64 = 9;
    /// `register_vcpu_info`.
    pub const REGISTER_VCPU_INFO: u64 = 10;
    /// `send_nmi`.
    pub const SEND_NMI: u64 = 11;
    /// `get_physid`.
    pub const GET_PHYSID: u64 = 12;
    /// `register_vcpu_time_memory_area`.
    pub const REGISTER_VCPU_TIME_MEMORY_AREA: u64 = 13;
    /// `register_runstate_phys_area`.
    pub const REGISTER_RUNSTATE_PHYS_AREA: u64 = 14;
    /// `register_vcpu_time_phys_area`.
    pub const REGISTER_VCPU_TIME_PHYS_AREA: u64 = 15;
    /// Flag of set_singleshot_timer: refuse a time in the past with -ETIME.
    pub const SSHOTTMR_FUTURE: u64 = 1 << 0;
}

/// States of a vCPU in its runstate area.
pub mod runstate {
    /// On a CPU.
    pub const RUNNING: u32 = 0;
    /// Waiting for a CPU.
    pub const RUNNABLE: u32 = 1;
    /// Waiting for an event.
    pub const BLOCKED: u32 = 2;
    /// Down or paused.
    pub const OFFLINE: u32 = 3;
}

/// Sub-operations of `event_channel_op`.
pub mod evtchn_op {
    /// `bind_interdomain`.
    pub const BIND_INTERDOMAIN: u64 = 0;
    /// `bind_virq`.
    pub const BIND_VIRQ: u64 = 1;
    /// `bind_pirq`.
    pub const BIND_PIRQ: u64 = 2;
    /// `close`.
    pub const CLOSE: u64 = 3;
    /// `send`.
    pub const SEND: u64 = 4;
    /// `status`.
    pub const STATUS: u64 = 5;
    /// `alloc_unbound`.
    pub const ALLOC_UNBOUND: u64 = 6;
    /// `bind_ipi`.
    pub const BIND_IPI: u64 = 7;
    /// `bind_vcpu`.
    pub const BIND_VCPU: u64 = 8;
    /// `unmask`.
    pub const UNMASK: u64 = 9;
    /// `reset`.
    pub const RESET: u64 = 10;
    /// `init_control`.
    pub const INIT_CONTROL: u64 = 11;
    /// `expand_array`.
    pub const EXPAND_ARRAY: u64 = 12;
    /// `set_priority`.
    pub const SET_PRIORITY: u64 = 13;
    /// `reset_cont`: how Xen calls itself to go on with `reset`.
    pub const RESET_CONT: u64 = 14;
}

/// What `event_channel_op` status says of a port.
pub mod evtchn_status {
    /// Not in use.
    pub const CLOSED: u32 = 0;
    /// Waiting for the other end.
    pub const UNBOUND: u32 = 1;
    /// Bound to a port of a domain.
    pub const INTERDOMAIN: u32 = 2;
    /// Bound to an interrupt of the machine.
    pub const PIRQ: u32 = 3;
    /// Bound to a virtual interrupt.
    pub const VIRQ: u32 = 4;
    /// For the vCPUs of the domain itself.
    pub const IPI: u32 = 5;
}

/// Virtual interrupts (public/xen.h).
pub mod virq {
    /// Per vCPU: a time asked for has come.
    pub const TIMER: u32 = 0;
    /// Per vCPU: the guest is asked to print its state.
    pub const DEBUG: u32 = 1;
    /// Global: input on the hypervisor's console.
    pub const CONSOLE: u32 = 2;
    /// Global: something happened to a domain.
    pub const DOM_EXC: u32 = 3;
    /// Global: trace records.
    pub const TBUF: u32 = 4;
    /// Global: a domain stopped for its debugger.
    pub const DEBUGGER: u32 = 6;
    /// Per vCPU: profile samples.
    pub const XENOPROF: u32 = 7;
    /// Global: output on the hypervisor's console.
    pub const CON_RING: u32 = 8;
    /// Global: a CPU came or went.
    pub const PCPU_STATE: u32 = 9;
    /// Global: a memory event.
    pub const MEM_EVENT: u32 = 10;
    /// Global: an Argo message.
    pub const ARGO: u32 = 11;
    /// Global: little memory left.
    pub const ENOMEM: u32 = 12;
    /// Per vCPU: performance counters.
    pub const XENPMU: u32 = 13;
    /// First of eight that belong to the architecture; global on x86.
    pub const ARCH_0: u32 = 16;
    /// Numbers from here on are no VIRQs.
    pub const COUNT: u32 = 24;
}

/// Sub-operations, types and flags of `callback_op`.
pub mod callback {
    /// Sub-operation: set an entry.
    pub const REGISTER: u64 = 0;
    /// Sub-operation: forget an entry.
    pub const UNREGISTER: u64 = 1;
    /// Event upcall.
    pub const TYPE_EVENT: u64 = 0;
    /// A return to the guest failed.
    pub const TYPE_FAILSAFE: u64 = 1;
    /// `syscall` from user mode.
    pub const TYPE_SYSCALL: u64 = 2;
    /// `sysenter` of 32-bit guests before 3.2.
    pub const TYPE_SYSENTER_DEPRECATED: u64 = 3;
    /// NMI.
    pub const TYPE_NMI: u64 = 4;
    /// `sysenter` from user mode.
    pub const TYPE_SYSENTER: u64 = 5;
    /// `syscall` from 32-bit user mode.
    pub const TYPE_SYSCALL32: u64 = 7;
    /// Mask upcalls on entry.
    pub const FLAG_MASK_EVENTS: u64 = 1;
}

/// Sub-operations of `vm_assist`, and the numbers of the bits they set.
pub mod vm_assist {
    /// Sub-operation: set a bit.
    pub const ENABLE: u64 = 0;
    /// Sub-operation: clear a bit.
    pub const DISABLE: u64 = 1;
    /// Of 32-bit guests.
    pub const TYPE_4GB_SEGMENTS: u64 = 0;
    /// Of 32-bit guests.
    pub const TYPE_4GB_SEGMENTS_NOTIFY: u64 = 1;
    /// Writes to L1 entries are emulated.
    pub const TYPE_WRITABLE_PAGETABLES: u64 = 2;
    /// Of 32-bit guests.
    pub const TYPE_PAE_EXTENDED_CR3: u64 = 3;
    /// The frames pushed for the guest hold its IOPL.
    pub const TYPE_ARCHITECTURAL_IOPL: u64 = 4;
    /// Bit 63 of the runstate's entry time tells of an update under way.
    pub const TYPE_RUNSTATE_UPDATE_FLAG: u64 = 5;
    /// User mode does not see the M2P.
    pub const TYPE_M2P_STRICT: u64 = 32;
}

/// Sub-operations of `console_io`.
pub mod console_io {
    /// Write to the hypervisor's console.
    pub const WRITE: u64 = 0;
    /// Read from it.
    pub const READ: u64 = 1;
}

/// Sub-operations, types and ranges of `kexec_op` (public/kexec.h, with the numbers of the live-update series).
pub mod kexec {
    /// Sub-operation: jump into the image.
    pub const EXEC: u64 = 0;
    /// Sub-operation, removed.
    pub const LOAD_V1: u64 = 1;
    /// Sub-operation, removed.
    pub const UNLOAD_V1: u64 = 2;
    /// Sub-operation: say where something lies.
    pub const GET_RANGE: u64 = 3;
    /// Sub-operation: load an image.
    pub const LOAD: u64 = 4;
    /// Sub-operation: forget it.
    pub const UNLOAD: u64 = 5;
    /// Sub-operation: 1 if one is loaded.
    pub const STATUS: u64 = 6;
    /// An image to boot on request.
    pub const TYPE_DEFAULT: u64 = 0;
    /// An image to boot after a crash.
    pub const TYPE_CRASH: u64 = 1;
    /// An image to hand the guests over to.
    pub const TYPE_LIVE_UPDATE: u64 = 2;
    /// The crash area.
    pub const RANGE_MA_CRASH: u64 = 0;
    /// The hypervisor itself.
    pub const RANGE_MA_XEN: u64 = 1;
    /// The crash note of a CPU.
    pub const RANGE_MA_CPU: u64 = 2;
    /// The hypervisor's heap.
    pub const RANGE_MA_XENHEAP: u64 = 3;
    /// Boot parameters.
    pub const RANGE_MA_BOOT_PARAM: u64 = 4;
    /// The EFI memory map.
    pub const RANGE_MA_EFI_MEMMAP: u64 = 5;
    /// The vmcoreinfo.
    pub const RANGE_MA_VMCOREINFO: u64 = 6;
    /// The live-update region.
    pub const RANGE_MA_LIVEUPDATE: u64 = 7;
    /// An image has fewer segments than this.
    pub const SEGMENT_MAX: u64 = 16;
}

const _: () = {
    assert!(nr::SLOTS * 32 == crate::frame::PAGE_SIZE);
    assert!(pv::FIRST_RESERVED_GDT_ENTRY * 8 == 14 * crate::frame::PAGE_SIZE);
    // L4 slots 256 to 271.
    assert!((pv::HYPERVISOR_VIRT_START >> 39) & 511 == 256 && (pv::HYPERVISOR_VIRT_END >> 39) & 511 == 272);
    assert!(crate::frame::DomId::SELF.get() == DOMID_FIRST_RESERVED);
};

/// Sub-operations of `hvm_op` that a PV guest may come upon.
pub mod hvm_op {
    /// `set_param`.
    pub const SET_PARAM: u64 = 0;
    /// `get_param`.
    pub const GET_PARAM: u64 = 1;
    /// `flush_tlbs`.
    pub const FLUSH_TLBS: u64 = 5;
    /// `pagetable_dying`.
    pub const PAGETABLE_DYING: u64 = 9;
    /// `get_time`.
    pub const GET_TIME: u64 = 10;
    /// `get_mem_type`.
    pub const GET_MEM_TYPE: u64 = 15;
    /// `set_evtchn_upcall_vector`.
    pub const SET_EVTCHN_UPCALL_VECTOR: u64 = 23;
}

/// Versions of the control interfaces (public/platform.h, sysctl.h, domctl.h of Xen 4.17).
pub mod interface_version {
    /// `platform_op`.
    pub const PLATFORM: u32 = 0x0300_0001;
    /// `sysctl`.
    pub const SYSCTL: u32 = 0x15;
    /// `domctl`.
    pub const DOMCTL: u32 = 0x15;
}

/// Numbers of `sysctl` (public/sysctl.h).
pub mod sysctl {
    /// `page_offline_op`.
    pub const PAGE_OFFLINE_OP: u32 = 14;
}

/// Commands of `sysctl` page_offline_op, and the words that it answers with: what became of a frame in bits 15:0, whose it is in bits 31:16.
pub mod page_offline {
    /// Command: `page_offline`, take out of use.
    pub const PAGE_OFFLINE: u32 = 1;
    /// Command: `page_online`, put back.
    pub const PAGE_ONLINE: u32 = 2;
    /// Command: `query_page_offline`, say how it is.
    pub const QUERY_PAGE_OFFLINE: u32 = 3;

    /// Not looked at.
    pub const STATUS_INVALID: u32 = 1 << 0;
    /// To offline: out of use. To online: back in use.
    pub const STATUS_DONE: u32 = 1 << 1;
    /// To offline: somebody has it, and it is out of use when he gives it up.
    pub const STATUS_PENDING: u32 = 1 << 2;
    /// To offline and online: it stays as it is.
    pub const STATUS_FAILED: u32 = 1 << 3;
    /// With `STATUS_FAILED`: at another time it may be different.
    pub const STATUS_AGAIN: u32 = 1 << 4;
    /// It is the hypervisor's.
    pub const STATUS_XENPAGE: u32 = 1 << 8;
    /// It is not ordinary memory.
    pub const STATUS_NOT_CONV_RAM: u32 = 1 << 11;
    /// It is the domain's in bits 31:16.
    pub const STATUS_OWNED: u32 = 1 << 12;
    /// It is known to be faulty for good.
    pub const STATUS_BROKEN: u32 = 1 << 13;
    /// Where the owner's number begins.
    pub const STATUS_OWNER_SHIFT: u32 = 16;

    /// To a query: out of use.
    pub const QUERY_STATUS_OFFLINED: u32 = 1 << 1;
    /// To a query: to be taken out of use when it is given up.
    pub const QUERY_STATUS_PENDING: u32 = 1 << 3;
    /// To a query: known to be faulty for good.
    pub const QUERY_STATUS_BROKEN: u32 = 1 << 4;
}
