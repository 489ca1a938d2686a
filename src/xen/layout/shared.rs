//! What a guest finds when it starts, and what it shares with the hypervisor from then on.

use super::fields_follow_each_other;

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
