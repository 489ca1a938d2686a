//! Numbers of hypercalls and operations, and flags, by the names of the headers.

/// Hypercall numbers.
pub mod hypercall {
    #![allow(missing_docs, reason = "the names are the headers' names")]
    pub const SET_TRAP_TABLE: u64 = 0;
    pub const MMU_UPDATE: u64 = 1;
    pub const SET_GDT: u64 = 2;
    pub const STACK_SWITCH: u64 = 3;
    pub const SET_CALLBACKS: u64 = 4;
    pub const FPU_TASKSWITCH: u64 = 5;
    pub const SCHED_OP_COMPAT: u64 = 6;
    pub const PLATFORM_OP: u64 = 7;
    pub const SET_DEBUGREG: u64 = 8;
    pub const GET_DEBUGREG: u64 = 9;
    pub const UPDATE_DESCRIPTOR: u64 = 10;
    pub const MEMORY_OP: u64 = 12;
    pub const MULTICALL: u64 = 13;
    pub const UPDATE_VA_MAPPING: u64 = 14;
    pub const UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
    pub const SET_TIMER_OP: u64 = 15;
    pub const EVENT_CHANNEL_OP_COMPAT: u64 = 16;
    pub const XEN_VERSION: u64 = 17;
    pub const CONSOLE_IO: u64 = 18;
    pub const PHYSDEV_OP_COMPAT: u64 = 19;
    pub const GRANT_TABLE_OP: u64 = 20;
    pub const VM_ASSIST: u64 = 21;
    pub const IRET: u64 = 23;
    pub const VCPU_OP: u64 = 24;
    pub const SET_SEGMENT_BASE: u64 = 25;
    pub const MMUEXT_OP: u64 = 26;
    pub const XSM_OP: u64 = 27;
    pub const NMI_OP: u64 = 28;
    pub const SCHED_OP: u64 = 29;
    pub const CALLBACK_OP: u64 = 30;
    pub const XENOPROF_OP: u64 = 31;
    pub const EVENT_CHANNEL_OP: u64 = 32;
    pub const PHYSDEV_OP: u64 = 33;
    pub const HVM_OP: u64 = 34;
    pub const SYSCTL: u64 = 35;
    pub const DOMCTL: u64 = 36;
    pub const KEXEC_OP: u64 = 37;
    pub const TMEM_OP: u64 = 38;
    pub const ARGO_OP: u64 = 39;
    pub const XENPMU_OP: u64 = 40;
    pub const DM_OP: u64 = 41;
    pub const HYPFS_OP: u64 = 42;
    /// Not a hypercall: inside the hypercall page, but nothing has this number.
    pub const NONE: u64 = 63;
}

/// Sub-operation numbers and flags.
pub mod op {
    #![allow(missing_docs, reason = "the names are the headers' names")]
    pub const SCHED_YIELD: u64 = 0;
    pub const SCHED_BLOCK: u64 = 1;
    pub const SCHED_SHUTDOWN: u64 = 2;
    pub const SCHED_POLL: u64 = 3;
    pub const SCHED_REMOTE_SHUTDOWN: u64 = 4;
    pub const SCHED_SHUTDOWN_CODE: u64 = 5;
    pub const SCHED_WATCHDOG: u64 = 6;
    pub const SCHED_PIN_OVERRIDE: u64 = 7;
    pub const SHUTDOWN_SUSPEND: u32 = 2;

    pub const VCPU_INITIALISE: u64 = 0;
    pub const VCPU_UP: u64 = 1;
    pub const VCPU_DOWN: u64 = 2;
    pub const VCPU_IS_UP: u64 = 3;
    pub const VCPU_GET_RUNSTATE: u64 = 4;
    pub const VCPU_REGISTER_RUNSTATE: u64 = 5;
    pub const VCPU_SET_PERIODIC: u64 = 6;
    pub const VCPU_STOP_PERIODIC: u64 = 7;
    pub const VCPU_SET_SINGLESHOT: u64 = 8;
    pub const VCPU_STOP_SINGLESHOT: u64 = 9;
    pub const VCPU_REGISTER_INFO: u64 = 10;
    pub const VCPU_SEND_NMI: u64 = 11;
    pub const VCPU_GET_PHYSID: u64 = 12;
    pub const VCPU_REGISTER_TIME: u64 = 13;
    /// Not a vCPU operation.
    pub const VCPU_NONE: u64 = 16;
    pub const SINGLESHOT_FUTURE: u32 = 1;
    pub const RUNSTATE_RUNNING: u32 = 0;
    pub const RUNSTATE_OFFLINE: u32 = 3;
    /// Bit 63 of the entry time.
    pub const RUNSTATE_UPDATE: u64 = 1 << 63;
    pub const TSC_STABLE: u8 = 1;
    pub const NMI_REGISTER: u64 = 0;
    pub const NMI_UNREGISTER: u64 = 1;
    pub const VMASST_ENABLE: u64 = 0;
    pub const VMASST_WRITABLE_PAGETABLES: u64 = 2;
    pub const VMASST_RUNSTATE_UPDATE_FLAG: u64 = 5;

    pub const EVTCHN_BIND_INTERDOMAIN: u64 = 0;
    pub const EVTCHN_BIND_VIRQ: u64 = 1;
    pub const EVTCHN_BIND_PIRQ: u64 = 2;
    pub const EVTCHN_CLOSE: u64 = 3;
    pub const EVTCHN_SEND: u64 = 4;
    pub const EVTCHN_STATUS: u64 = 5;
    pub const EVTCHN_ALLOC_UNBOUND: u64 = 6;
    pub const EVTCHN_BIND_IPI: u64 = 7;
    pub const EVTCHN_BIND_VCPU: u64 = 8;
    pub const EVTCHN_UNMASK: u64 = 9;
    pub const EVTCHN_RESET: u64 = 10;
    pub const EVTCHN_INIT_CONTROL: u64 = 11;
    pub const EVTCHN_EXPAND_ARRAY: u64 = 12;
    pub const EVTCHN_SET_PRIORITY: u64 = 13;
    pub const EVTCHN_STATUS_INTERDOMAIN: u32 = 2;
    pub const VIRQ_TIMER: u32 = 0;
    /// The other one that every vCPU has for itself.
    pub const VIRQ_DEBUG: u32 = 1;
    /// One that a domain has once.
    pub const VIRQ_CONSOLE: u32 = 2;
    /// The first number that no virtual interrupt has.
    pub const NR_VIRQS: u32 = 24;

    pub const XENMEM_INCREASE_RESERVATION: u64 = 0;
    pub const XENMEM_DECREASE_RESERVATION: u64 = 1;
    pub const XENMEM_MAXIMUM_RAM_PAGE: u64 = 2;
    pub const XENMEM_CURRENT_RESERVATION: u64 = 3;
    pub const XENMEM_MAXIMUM_RESERVATION: u64 = 4;
    pub const XENMEM_MACHPHYS_MFN_LIST: u64 = 5;
    pub const XENMEM_POPULATE_PHYSMAP: u64 = 6;
    pub const XENMEM_ADD_TO_PHYSMAP: u64 = 7;
    pub const XENMEM_MEMORY_MAP: u64 = 9;
    pub const XENMEM_MACHINE_MEMORY_MAP: u64 = 10;
    pub const XENMEM_EXCHANGE: u64 = 11;
    pub const XENMEM_MACHPHYS_MAPPING: u64 = 12;
    pub const XENMEM_SET_MEMORY_MAP: u64 = 13;
    pub const XENMEM_MAXIMUM_GPFN: u64 = 14;
    pub const XENMEM_REMOVE_FROM_PHYSMAP: u64 = 15;
    pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u64 = 23;
    pub const XENMEM_CLAIM_PAGES: u64 = 24;
    pub const XENMEM_GET_VNUMAINFO: u64 = 26;
    pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u64 = 27;
    pub const XENMEM_ACQUIRE_RESOURCE: u64 = 28;

    pub const MMUEXT_PIN_L1: u32 = 0;
    pub const MMUEXT_PIN_L2: u32 = 1;
    pub const MMUEXT_PIN_L3: u32 = 2;
    pub const MMUEXT_PIN_L4: u32 = 3;
    pub const MMUEXT_UNPIN: u32 = 4;
    pub const MMUEXT_NEW_BASEPTR: u32 = 5;
    pub const MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;
    pub const MMUEXT_TLB_FLUSH_MULTI: u32 = 8;
    pub const MMUEXT_INVLPG_MULTI: u32 = 9;
    pub const MMUEXT_MARK_SUPER: u32 = 19;
    pub const MMUEXT_FLUSH_CACHE: u32 = 12;
    pub const MMUEXT_SET_LDT: u32 = 13;
    pub const MMUEXT_NEW_USER_BASEPTR: u32 = 15;
    pub const MMUEXT_CLEAR_PAGE: u32 = 16;
    pub const MMUEXT_COPY_PAGE: u32 = 17;
    pub const UVMF_TLB_FLUSH: u64 = 1;
    pub const UVMF_INVLPG: u64 = 2;
    pub const UVMF_ALL: u64 = 4;

    pub const CALLBACKOP_REGISTER: u64 = 0;
    pub const CALLBACKOP_UNREGISTER: u64 = 1;
    pub const CALLBACK_EVENT: u16 = 0;
    pub const CALLBACK_FAILSAFE: u16 = 1;
    pub const CALLBACK_SYSCALL: u16 = 2;
    pub const CALLBACK_NMI: u16 = 4;
    pub const CALLBACK_MASK_EVENTS: u16 = 1;

    pub const CONSOLEIO_WRITE: u64 = 0;
    pub const CONSOLEIO_READ: u64 = 1;
    pub const PHYSDEV_SET_IOPL: u64 = 6;
    pub const PHYSDEV_SET_IOBITMAP: u64 = 7;
    pub const SEGBASE_FS: u64 = 0;
    pub const SEGBASE_GS_KERNEL: u64 = 2;
    pub const XEN_VERSION_VERSION: u64 = 0;
    pub const XEN_VERSION_CHANGESET: u64 = 4;

    pub const KEXEC_EXEC: u64 = 0;
    pub const KEXEC_GET_RANGE: u64 = 3;
    pub const KEXEC_LOAD: u64 = 4;
    pub const KEXEC_UNLOAD: u64 = 5;
    pub const KEXEC_STATUS: u64 = 6;
    /// Not a kexec operation.
    pub const KEXEC_NONE: u64 = 7;
    pub const KEXEC_TYPE_DEFAULT: u8 = 0;
    pub const KEXEC_TYPE_CRASH: u8 = 1;
    pub const KEXEC_TYPE_LIVE_UPDATE: u8 = 2;
    /// Where the hypervisor's image is.
    pub const KEXEC_RANGE_XEN: i32 = 1;
    /// Where the live-update region is.
    pub const KEXEC_RANGE_LIVEUPDATE: i32 = 7;
    pub const EM_X86_64: u16 = 62;

    pub const SYSCTL_VERSION: u32 = 0x15;
    pub const SYSCTL_PAGE_OFFLINE: u32 = 14;
    pub const PAGE_OFFLINE: u32 = 1;
    pub const PAGE_ONLINE: u32 = 2;
    pub const PAGE_QUERY: u32 = 3;
    /// Not looked at.
    pub const PG_INVALID: u32 = 1;
    pub const PG_OFFLINED: u32 = 2;
    pub const PG_PENDING: u32 = 4;
    pub const PG_FAILED: u32 = 8;
    pub const PG_XENPAGE: u32 = 0x100;
    pub const PG_NOT_CONV_RAM: u32 = 0x800;
    pub const PG_OWNED: u32 = 0x1000;
    /// To a query: reported, and still in use.
    pub const PG_STATUS_PENDING: u32 = 8;

    pub const DOMID_SELF: u16 = 0x7ff0;
    pub const DOMID_XEN: u16 = 0x7ff2;
    /// A domain number that no domain can have: above the last, and not one of the reserved ones.
    pub const DOMID_NOBODY: u16 = 0x7fee;
    pub const SIF_PRIVILEGED: u32 = 1;

    /// iret: rcx and r11 need not be restored.
    pub const VGCF_IN_SYSCALL: u64 = 0x100;
    /// trap_info: mask events on entry.
    pub const TI_MASK_EVENTS: u8 = 4;
    /// Code selector of guest kernel and guest user mode.
    pub const CS64: u16 = 0xe033;
    /// Stack selector of guest kernel and guest user mode.
    pub const SS: u16 = 0xe02b;
    pub const RFLAGS_IF: u64 = 0x200;
}
