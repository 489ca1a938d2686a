//! Numbers and layouts of Xen's 64-bit PV interface, as a guest sees them.
//!
//! Sources: Xen's public headers (MIT): `xen.h`, `arch-x86/xen.h`, `arch-x86/xen-x86_64.h`, `event_channel.h`, `sched.h`,
//! `vcpu.h`, `callback.h`, `memory.h`, `errno.h`, `io/console.h`, `kexec.h`, `sysctl.h`. The sizes and offsets are asserted beside each layout.

use core::fmt;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

mod numbers;

pub use numbers::{hypercall, op};

/// Where pfn 0 is mapped at start; the same value as in guest.ld and in the VIRT_BASE note.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// The machine-to-physical table: one `u64` pfn for each mfn.
pub const M2P: u64 = 0xffff_8000_0000_0000;
/// The first slot above the hypervisor's own L4 slots; free for the guest.
pub const FIRST_GUEST_HIGH_SLOT: usize = 272;
/// L4 slots that belong to the hypervisor.
pub const HYPERVISOR_SLOTS: core::ops::Range<usize> = 256..272;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// An mfn or pfn that names nothing.
pub const INVALID_FRAME: u64 = u64::MAX;

/// Why a domain shuts itself down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Shutdown {
    /// It is done.
    Poweroff = 0,
    /// It wants to start again.
    Reboot = 1,
    /// It cannot go on.
    Crash = 3,
}

/// A refusal, as the hypervisor returns it (positive number).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

impl Errno {
    #![allow(missing_docs, reason = "the names are the headers' names")]
    pub const EPERM: Errno = Errno(1);
    pub const ENOENT: Errno = Errno(2);
    pub const ESRCH: Errno = Errno(3);
    pub const ENOMEM: Errno = Errno(12);
    pub const E2BIG: Errno = Errno(7);
    pub const EACCES: Errno = Errno(13);
    pub const EFAULT: Errno = Errno(14);
    pub const ENXIO: Errno = Errno(6);
    pub const EBUSY: Errno = Errno(16);
    pub const EEXIST: Errno = Errno(17);
    pub const ENOSPC: Errno = Errno(28);
    pub const EINVAL: Errno = Errno(22);
    pub const EDOM: Errno = Errno(33);
    pub const ENOSYS: Errno = Errno(38);
    pub const ENODATA: Errno = Errno(61);
    pub const ETIME: Errno = Errno(62);
    pub const EOPNOTSUPP: Errno = Errno(95);

    /// Takes a hypercall's return value apart: from -4095 to -1 it is a refusal.
    pub fn check(value: i64) -> Result<u64, Errno> {
        match value {
            -4095..=-1 => Err(Errno(value.unsigned_abs() as u16)),
            _ => Ok(value as u64),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "EPERM",
            2 => "ENOENT",
            3 => "ESRCH",
            6 => "ENXIO",
            7 => "E2BIG",
            11 => "EAGAIN",
            12 => "ENOMEM",
            13 => "EACCES",
            14 => "EFAULT",
            16 => "EBUSY",
            17 => "EEXIST",
            22 => "EINVAL",
            28 => "ENOSPC",
            33 => "EDOM",
            38 => "ENOSYS",
            61 => "ENODATA",
            62 => "ETIME",
            95 => "EOPNOTSUPP",
            n => return write!(f, "-{n}"),
        };
        write!(f, "-{name}")
    }
}

/// What the domain builder hands over in rsi.
#[repr(C)]
pub struct StartInfo {
    /// `xen-<major>.<minor>-x86_64`.
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Machine address of the shared info page.
    pub shared_info: u64,
    /// SIF flags.
    pub flags: u32,
    /// Xenstore ring frame.
    pub store_mfn: u64,
    /// Xenstore event channel.
    pub store_evtchn: u32,
    /// Console ring frame.
    pub console_mfn: u64,
    /// Console event channel; 0 = none.
    pub console_evtchn: u32,
    /// Virtual address of the L4.
    pub pt_base: u64,
    /// Page-table pages.
    pub nr_pt_frames: u64,
    /// Virtual address of the p2m list.
    pub mfn_list: u64,
    /// Virtual address of the ramdisk.
    pub mod_start: u64,
    /// Its bytes.
    pub mod_len: u64,
    /// Command line, ended by a zero byte.
    pub cmd_line: [u8; 1024],
    /// First pfn of a p2m list placed by INIT_P2M.
    pub first_p2m_pfn: u64,
    /// And how many.
    pub nr_p2m_frames: u64,
}

const _: () = assert!(size_of::<StartInfo>() == 1168);
const _: () = assert!(offset_of!(StartInfo, console_mfn) == 72);
const _: () = assert!(offset_of!(StartInfo, pt_base) == 88);
const _: () = assert!(offset_of!(StartInfo, cmd_line) == 128);
const _: () = assert!(offset_of!(StartInfo, first_p2m_pfn) == 1152);

/// A vCPU's clock, written by the hypervisor under a version.
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while being written.
    pub version: AtomicU32,
    pad0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: AtomicU64,
    /// System time then, ns.
    pub system_time: AtomicU64,
    /// 32.32 multiplier of the shifted TSC difference.
    pub tsc_to_system_mul: AtomicU32,
    /// Shift of the TSC difference, signed.
    pub tsc_shift: AtomicU8,
    /// Bit 0: TSC stable.
    pub flags: AtomicU8,
    pad1: [u8; 2],
}

/// A vCPU's event state and clock.
#[repr(C)]
pub struct VcpuInfo {
    /// Something is to be delivered.
    pub upcall_pending: AtomicU8,
    /// Not now.
    pub upcall_mask: AtomicU8,
    pad: [u8; 6],
    /// Which words of the pending bitmap to look at.
    pub pending_sel: AtomicU64,
    /// Fault address of the last page fault.
    pub cr2: AtomicU64,
    pad2: u64,
    /// The clock.
    pub time: VcpuTimeInfo,
}

const _: () = assert!(size_of::<VcpuInfo>() == 64);
const _: () = assert!(offset_of!(VcpuInfo, cr2) == 16);
const _: () = assert!(offset_of!(VcpuInfo, time) == 32);
const _: () = assert!(offset_of!(VcpuTimeInfo, tsc_shift) == 28);

/// The page shared with the hypervisor.
#[repr(C)]
pub struct SharedInfo {
    /// One for each legacy vCPU.
    pub vcpu_info: [VcpuInfo; 32],
    /// Pending event channels.
    pub evtchn_pending: [AtomicU64; 64],
    /// Masked event channels.
    pub evtchn_mask: [AtomicU64; 64],
    /// Wall clock's version.
    pub wc_version: AtomicU32,
    /// Seconds since 1970 at system time 0.
    pub wc_sec: AtomicU32,
    /// And nanoseconds.
    pub wc_nsec: AtomicU32,
    /// High half of the seconds.
    pub wc_sec_hi: AtomicU32,
    arch: [u64; 6],
}

const _: () = assert!(size_of::<SharedInfo>() == 3136);
const _: () = assert!(offset_of!(SharedInfo, evtchn_pending) == 2048);
const _: () = assert!(offset_of!(SharedInfo, wc_version) == 3072);

/// The console ring.
#[repr(C)]
pub struct ConsoleRing {
    /// To the guest.
    pub input: [AtomicU8; 1024],
    /// From the guest.
    pub output: [AtomicU8; 2048],
    /// Taken by the guest.
    pub in_cons: AtomicU32,
    /// Put by the other side.
    pub in_prod: AtomicU32,
    /// Taken by the other side.
    pub out_cons: AtomicU32,
    /// Put by the guest.
    pub out_prod: AtomicU32,
}

const _: () = assert!(offset_of!(ConsoleRing, in_cons) == 3072);
const _: () = assert!(offset_of!(ConsoleRing, out_prod) == 3084);

/// How much time a vCPU spent in each state.
#[repr(C)]
pub struct RunstateInfo {
    /// RUNSTATE number.
    pub state: AtomicU32,
    pad: u32,
    /// When it was entered, ns; bit 63 may say "being updated".
    pub state_entry_time: AtomicU64,
    /// ns in each: running, runnable, blocked, offline.
    pub time: [AtomicU64; 4],
}

const _: () = assert!(size_of::<RunstateInfo>() == 48);

/// One exception handler of the trap table.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct TrapInfo {
    /// Vector.
    pub vector: u8,
    /// Bits 1:0 who may raise it by software, bit 2 mask events.
    pub flags: u8,
    /// Code selector.
    pub cs: u16,
    /// Handler; 0 ends the table.
    pub address: u64,
}

/// What a vCPU begins with: `struct vcpu_guest_context`, in words.
pub struct VcpuContext(pub [u64; 5168 / 8]);

/// Words of [`VcpuContext`].
pub mod context {
    #![allow(missing_docs, reason = "the names are the header's names")]
    pub const FLAGS: usize = 512 / 8;
    pub const R15: usize = 520 / 8;
    pub const RDI: usize = (520 + 112) / 8;
    pub const RIP: usize = (520 + 128) / 8;
    pub const CS: usize = (520 + 136) / 8;
    pub const RFLAGS: usize = (520 + 144) / 8;
    pub const RSP: usize = (520 + 152) / 8;
    pub const SS: usize = (520 + 160) / 8;
    pub const ES: usize = (520 + 168) / 8;
    pub const DS: usize = (520 + 176) / 8;
    pub const TRAPS: usize = 720 / 8;
    pub const GDT_FRAMES: usize = 4832 / 8;
    pub const GDT_ENTS: usize = 4960 / 8;
    pub const KERNEL_SS: usize = 4968 / 8;
    pub const KERNEL_SP: usize = 4976 / 8;
    pub const CR3: usize = (4984 + 3 * 8) / 8;
    pub const EVENT_CALLBACK: usize = 5112 / 8;
    pub const FAILSAFE_CALLBACK: usize = 5120 / 8;
    pub const SYSCALL_CALLBACK: usize = 5128 / 8;
    pub const FS_BASE: usize = 5144 / 8;
    pub const GS_BASE_KERNEL: usize = 5152 / 8;
    /// In `FLAGS`: the vCPU starts in kernel mode.
    pub const IN_KERNEL: u64 = 4;
}

/// One page-table update: `ptr` is the entry's machine address with the command in bits 1:0.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct MmuUpdate {
    /// Machine address and command.
    pub ptr: u64,
    /// New value.
    pub val: u64,
}

/// One extended operation.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct MmuextOp {
    /// MMUEXT command.
    pub cmd: u32,
    /// mfn or linear address.
    pub arg1: u64,
    /// Second argument.
    pub arg2: u64,
}

/// One call of a multicall.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Its return value.
    pub result: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Pages to give back or to get.
#[repr(C)]
pub struct Reservation {
    /// Address of the list of frames.
    pub extent_start: u64,
    /// Its length.
    pub nr_extents: u64,
    /// log2 of pages in each.
    pub extent_order: u32,
    /// XENMEMF flags.
    pub mem_flags: u32,
    /// Whose.
    pub domid: u16,
}

/// Pages to swap for others.
#[repr(C)]
pub struct Exchange {
    /// mfns to give back.
    pub give: Reservation,
    /// pfns to fill; overwritten with the mfns.
    pub take: Reservation,
    /// Extents done; zero before the call.
    pub nr_exchanged: u64,
}

/// A range of machine memory that a kexec tool asks for.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct KexecRange {
    /// Which.
    pub range: i32,
    /// Which of several.
    pub nr: i32,
    /// Its bytes.
    pub size: u64,
    /// Its machine address.
    pub start: u64,
}

/// An image to be loaded.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct KexecLoad {
    /// KEXEC_TYPE.
    pub kind: u8,
    pad: u8,
    /// ELF machine number of the entry.
    pub arch: u16,
    /// Segments.
    pub nr_segments: u32,
    /// Their address.
    pub segments: u64,
    /// Where it is entered.
    pub entry_maddr: u64,
}

impl KexecLoad {
    /// With these segments.
    pub fn new(kind: u8, segments: &[KexecSegment]) -> Self {
        let nr_segments = segments.len() as u32;
        KexecLoad { kind, pad: 0, arch: op::EM_X86_64, nr_segments, segments: segments.as_ptr() as u64, entry_maddr: 0 }
    }
}

/// A piece of an image.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct KexecSegment {
    /// Address of its bytes.
    pub buf: u64,
    /// Their number.
    pub buf_size: u64,
    /// Machine address where it is to be.
    pub dest_maddr: u64,
    /// Bytes there.
    pub dest_size: u64,
}

/// Argument of `sysctl` page_offline_op.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PageOffline {
    /// The sysctl's number.
    pub sysctl: u32,
    /// The interface's version.
    pub version: u32,
    /// PAGE_*.
    pub cmd: u32,
    /// First frame.
    pub start: u32,
    /// Last frame.
    pub end: u32,
    /// Nothing.
    pub hole: u32,
    /// Address of a word for each frame.
    pub status: u64,
    /// Room that other sysctls need.
    pub pad: [u64; 13],
}

impl PageOffline {
    /// With the numbers that it takes.
    pub fn new(cmd: u32, (start, end): (u32, u32), status: u64) -> Self {
        let (sysctl, version) = (op::SYSCTL_PAGE_OFFLINE, op::SYSCTL_VERSION);
        PageOffline { sysctl, version, cmd, start, end, hole: 0, status, pad: [0; 13] }
    }
}

const _: () = assert!(size_of::<PageOffline>() == 136);
const _: () = assert!(offset_of!(PageOffline, start) == 12);
const _: () = assert!(offset_of!(PageOffline, status) == 24);
const _: () = assert!(size_of::<KexecRange>() == 24);
const _: () = assert!(size_of::<KexecLoad>() == 24);
const _: () = assert!(offset_of!(KexecLoad, segments) == 8);
const _: () = assert!(size_of::<KexecSegment>() == 32);
const _: () = assert!(size_of::<TrapInfo>() == 16);
const _: () = assert!(size_of::<MmuextOp>() == 24);
const _: () = assert!(size_of::<MulticallEntry>() == 64);
const _: () = assert!(size_of::<Reservation>() == 32);
const _: () = assert!(size_of::<Exchange>() == 72);

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn only_small_negative_values_are_refusals() {
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(17), Ok(17));
        assert_eq!(Errno::check(-22), Err(Errno::EINVAL));
        assert_eq!(Errno::check(-4095), Err(Errno(4095)));
        assert_eq!(Errno::check(-4096), Ok(-4096i64 as u64));
    }

    #[test]
    fn refusals_have_names() {
        assert_eq!(Errno::EBUSY.to_string(), "-EBUSY");
        assert_eq!(Errno(77).to_string(), "-77");
    }
}
