//! Hypercalls' arguments, and what their pointers point at.

use super::fields_follow_each_other;

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
