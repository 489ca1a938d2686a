//! Numbers of what changes memory, page tables and grants.

/// Sub-operations of `memory_op`, in the low six bits; the rest is where a preempted call goes on.
pub mod memory_op {
    /// `increase_reservation`.
    pub const INCREASE_RESERVATION: u64 = 0;
    /// `decrease_reservation`.
    pub const DECREASE_RESERVATION: u64 = 1;
    /// `maximum_ram_page`.
    pub const MAXIMUM_RAM_PAGE: u64 = 2;
    /// `current_reservation`.
    pub const CURRENT_RESERVATION: u64 = 3;
    /// `maximum_reservation`.
    pub const MAXIMUM_RESERVATION: u64 = 4;
    /// `machphys_mfn_list`.
    pub const MACHPHYS_MFN_LIST: u64 = 5;
    /// `populate_physmap`.
    pub const POPULATE_PHYSMAP: u64 = 6;
    /// `add_to_physmap`.
    pub const ADD_TO_PHYSMAP: u64 = 7;
    /// `memory_map`.
    pub const MEMORY_MAP: u64 = 9;
    /// `machine_memory_map`.
    pub const MACHINE_MEMORY_MAP: u64 = 10;
    /// `exchange`.
    pub const EXCHANGE: u64 = 11;
    /// `machphys_mapping`.
    pub const MACHPHYS_MAPPING: u64 = 12;
    /// `set_memory_map`.
    pub const SET_MEMORY_MAP: u64 = 13;
    /// `maximum_gpfn`.
    pub const MAXIMUM_GPFN: u64 = 14;
    /// `remove_from_physmap`.
    pub const REMOVE_FROM_PHYSMAP: u64 = 15;
    /// `add_to_physmap_batch`.
    pub const ADD_TO_PHYSMAP_BATCH: u64 = 23;
    /// `claim_pages`.
    pub const CLAIM_PAGES: u64 = 24;
    /// `machphys_compat_mfn_list`.
    pub const MACHPHYS_COMPAT_MFN_LIST: u64 = 25;
    /// `get_vnumainfo`.
    pub const GET_VNUMAINFO: u64 = 26;
    /// `reserved_device_memory_map`.
    pub const RESERVED_DEVICE_MEMORY_MAP: u64 = 27;
    /// `acquire_resource`.
    pub const ACQUIRE_RESOURCE: u64 = 28;
    /// The bits that hold the sub-operation.
    pub const CMD_MASK: u64 = 0x3f;
}

/// Commands of `mmuext_op`.
pub mod mmuext {
    /// `pin_l1_table`.
    pub const PIN_L1_TABLE: u32 = 0;
    /// `pin_l2_table`.
    pub const PIN_L2_TABLE: u32 = 1;
    /// `pin_l3_table`.
    pub const PIN_L3_TABLE: u32 = 2;
    /// `pin_l4_table`.
    pub const PIN_L4_TABLE: u32 = 3;
    /// `unpin_table`.
    pub const UNPIN_TABLE: u32 = 4;
    /// `new_baseptr`.
    pub const NEW_BASEPTR: u32 = 5;
    /// `tlb_flush_local`.
    pub const TLB_FLUSH_LOCAL: u32 = 6;
    /// `invlpg_local`.
    pub const INVLPG_LOCAL: u32 = 7;
    /// `tlb_flush_multi`.
    pub const TLB_FLUSH_MULTI: u32 = 8;
    /// `invlpg_multi`.
    pub const INVLPG_MULTI: u32 = 9;
    /// `tlb_flush_all`.
    pub const TLB_FLUSH_ALL: u32 = 10;
    /// `invlpg_all`.
    pub const INVLPG_ALL: u32 = 11;
    /// `flush_cache`.
    pub const FLUSH_CACHE: u32 = 12;
    /// `set_ldt`.
    pub const SET_LDT: u32 = 13;
    /// `new_user_baseptr`.
    pub const NEW_USER_BASEPTR: u32 = 15;
    /// `clear_page`.
    pub const CLEAR_PAGE: u32 = 16;
    /// `copy_page`.
    pub const COPY_PAGE: u32 = 17;
    /// `flush_cache_global`.
    pub const FLUSH_CACHE_GLOBAL: u32 = 18;
    /// `mark_super`.
    pub const MARK_SUPER: u32 = 19;
    /// `unmark_super`.
    pub const UNMARK_SUPER: u32 = 20;
}

/// Commands in bits 1:0 of an `mmu_update`'s pointer, and the flag in its count.
pub mod mmu_update {
    /// Write a page-table entry.
    pub const NORMAL: u64 = 0;
    /// Write an M2P entry.
    pub const MACHPHYS: u64 = 1;
    /// Write a page-table entry, keeping accessed and dirty.
    pub const PRESERVE_AD: u64 = 2;
    /// Write a page-table entry that holds a machine frame.
    pub const NO_TRANSLATE: u64 = 3;
    /// The bits that hold the command.
    pub const CMD_MASK: u64 = 3;
    /// In the count: this is the rest of a preempted call.
    pub const PREEMPTED: u64 = 1 << 31;
}

/// Flags of `update_va_mapping`: what to flush, and in bits above 2 a pointer to a mask of vCPUs.
pub mod uvmf {
    /// Flush nothing.
    pub const NONE: u64 = 0;
    /// Flush the whole TLB.
    pub const TLB_FLUSH: u64 = 1;
    /// Flush the one entry.
    pub const INVLPG: u64 = 2;
    /// The bits that say what.
    pub const FLUSHTYPE_MASK: u64 = 3;
    /// On all vCPUs.
    pub const ALL: u64 = 1 << 2;
}

/// Sub-operations of `grant_table_op`.
pub mod grant_table_op {
    /// `map_grant_ref`.
    pub const MAP_GRANT_REF: u64 = 0;
    /// `unmap_grant_ref`.
    pub const UNMAP_GRANT_REF: u64 = 1;
    /// `setup_table`.
    pub const SETUP_TABLE: u64 = 2;
    /// `dump_table`.
    pub const DUMP_TABLE: u64 = 3;
    /// `transfer`.
    pub const TRANSFER: u64 = 4;
    /// `copy`.
    pub const COPY: u64 = 5;
    /// `query_size`.
    pub const QUERY_SIZE: u64 = 6;
    /// `unmap_and_replace`.
    pub const UNMAP_AND_REPLACE: u64 = 7;
    /// `set_version`.
    pub const SET_VERSION: u64 = 8;
    /// `get_status_frames`.
    pub const GET_STATUS_FRAMES: u64 = 9;
    /// `get_version`.
    pub const GET_VERSION: u64 = 10;
    /// `swap_grant_ref`.
    pub const SWAP_GRANT_REF: u64 = 11;
    /// `cache_flush`.
    pub const CACHE_FLUSH: u64 = 12;
}
