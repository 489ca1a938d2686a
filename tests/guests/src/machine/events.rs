//! Event channels.
//!
//! The upcall only counts: every event raises its port's count. Everybody else compares counts, and sleeps when nothing
//! has changed. Every port starts masked and is unmasked when it is bound.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use super::{cpu, hypercall, traps::Frame};
use crate::abi::{Errno, SharedInfo, VcpuInfo, op};
use crate::bits::{self, NR_PORTS};

static SHARED_INFO: AtomicPtr<SharedInfo> = AtomicPtr::new(core::ptr::null_mut());
static VCPU_INFOS: [AtomicPtr<VcpuInfo>; cpu::MAX] = [const { AtomicPtr::new(core::ptr::null_mut()) }; cpu::MAX];
static COUNTS: [AtomicU64; NR_PORTS] = [const { AtomicU64::new(0) }; NR_PORTS];
/// The vCPU that each port notifies.
static OWNERS: [AtomicU8; NR_PORTS] = [const { AtomicU8::new(0) }; NR_PORTS];
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// An event channel's local end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u32);

/// The places where vcpu_infos are moved to.
#[repr(C, align(64))]
struct OwnVcpuInfos(core::cell::UnsafeCell<[[u64; 8]; cpu::MAX]>);

// SAFETY: reached only as a `VcpuInfo`, which is made of atomics.
unsafe impl Sync for OwnVcpuInfos {}

static OWN_VCPU_INFOS: OwnVcpuInfos = OwnVcpuInfos(core::cell::UnsafeCell::new([[0; 8]; cpu::MAX]));

/// The shared page; mapped first thing at start.
pub fn shared_info() -> &'static SharedInfo {
    // SAFETY: set by `init` before anybody asks, to a page that stays mapped for ever and is made of atomics.
    unsafe { &*SHARED_INFO.load(Ordering::Relaxed) }
}

/// The event state of the vCPU that asks, wherever it is now.
pub fn vcpu_info() -> &'static VcpuInfo {
    vcpu_info_of(cpu::id())
}

/// The event state of a vCPU.
pub fn vcpu_info_of(vcpu: usize) -> &'static VcpuInfo {
    // SAFETY: as for `shared_info`.
    unsafe { &*VCPU_INFOS[vcpu].load(Ordering::Relaxed) }
}

/// Takes the mapped shared page into use and masks every port.
pub fn init(shared: *mut SharedInfo) {
    SHARED_INFO.store(shared, Ordering::Relaxed);
    for (vcpu, info) in VCPU_INFOS.iter().enumerate() {
        info.store(shared.cast::<VcpuInfo>().wrapping_add(vcpu), Ordering::Relaxed);
    }
    for word in &shared_info().evtchn_mask {
        word.store(u64::MAX, Ordering::SeqCst);
    }
    assert!(vcpu_info().upcall_mask.load(Ordering::SeqCst) == 1, "events are not masked at start");
}

/// Moves a vCPU's vcpu_info into the guest's own memory. Call with events masked, or for another vCPU that is down.
pub fn move_vcpu_info(vcpu: usize, mfn_of: impl Fn(u64) -> u64) {
    let va = OWN_VCPU_INFOS.0.get() as u64 + vcpu as u64 * 64;
    hypercall::register_vcpu_info(vcpu, mfn_of(va), (va & 0xfff) as u32)
        .unwrap_or_else(|e| panic!("register_vcpu_info of vCPU {vcpu}: {e}"));
    VCPU_INFOS[vcpu].store(va as *mut VcpuInfo, Ordering::Relaxed);
}

/// Where the vcpu_info of the vCPU that asks is.
pub fn vcpu_info_address() -> u64 {
    VCPU_INFOS[cpu::id()].load(Ordering::Relaxed) as u64
}

/// Lets upcalls through, and takes those that are waiting.
pub fn enable() {
    let info = vcpu_info();
    info.upcall_mask.store(0, Ordering::SeqCst);
    if info.upcall_pending.load(Ordering::SeqCst) != 0 {
        // The hypervisor delivers on the way out of any hypercall.
        let _ = hypercall::xen_version();
    }
}

/// Holds upcalls back.
pub fn disable() {
    vcpu_info().upcall_mask.store(1, Ordering::SeqCst);
}

/// The event callback. It must come only when it is allowed to, and mask itself.
pub fn upcall(frame: &Frame) {
    let info = vcpu_info();
    let mask = info.upcall_mask.load(Ordering::SeqCst);
    assert!(mask == 1, "upcall with upcall mask {mask}, 1 is due");
    assert!(frame.saved_mask() == 0, "upcall although events were masked");
    assert!(
        frame.rflags & op::RFLAGS_IF != 0,
        "upcall frame says that interrupts were off: rflags {:#x}",
        frame.rflags
    );
    info.upcall_pending.store(0, Ordering::SeqCst);
    let shared = shared_info();
    let me = cpu::id() as u8;
    let mine = |port: usize| OWNERS[port].load(Ordering::SeqCst) == me;
    bits::take_pending(&info.pending_sel, &shared.evtchn_pending, &shared.evtchn_mask, mine, |port| {
        COUNTS[port].fetch_add(1, Ordering::SeqCst);
        TOTAL.fetch_add(1, Ordering::SeqCst);
    });
}

/// Events seen so far, on all ports.
pub fn total() -> u64 {
    TOTAL.load(Ordering::SeqCst)
}

/// Sleeps, unless an event came since `total()` was `seen`.
pub fn block_unless_after(seen: u64) {
    block_unless(|| total() != seen);
}

/// Sleeps until any event of this vCPU comes, unless what it waits for has come: that is looked at with events masked.
pub fn block_unless(has_come: impl FnOnce() -> bool) {
    disable();
    if !has_come() {
        hypercall::sched_block().unwrap_or_else(|e| panic!("SCHEDOP_block: {e}"));
        let mask = vcpu_info().upcall_mask.load(Ordering::SeqCst);
        assert!(mask == 0, "SCHEDOP_block came back with events masked");
    }
    enable();
}

impl Port {
    /// Events seen on this port.
    pub fn count(self) -> u64 {
        COUNTS[self.0 as usize].load(Ordering::SeqCst)
    }

    /// Lets the port's events through; one that waits is delivered.
    pub fn unmask(self) {
        let mut argument = self.0;
        hypercall::event_channel_op(op::EVTCHN_UNMASK, &mut argument)
            .unwrap_or_else(|e| panic!("unmask of port {}: {e}", self.0));
        let (word, bit) = (self.0 as usize / 64, 1 << (self.0 % 64));
        let mask = shared_info().evtchn_mask[word].load(Ordering::SeqCst);
        assert!(mask & bit == 0, "port {} is still masked after unmask", self.0);
    }

    /// Forgets an event that waits on a masked port.
    pub fn clear_pending(self) {
        shared_info().evtchn_pending[self.0 as usize / 64].fetch_and(!(1 << (self.0 % 64)), Ordering::SeqCst);
    }

    /// Whether an event waits, masked or not.
    pub fn is_pending(self) -> bool {
        shared_info().evtchn_pending[self.0 as usize / 64].load(Ordering::SeqCst) >> (self.0 % 64) & 1 == 1
    }

    /// Notifies the other end.
    pub fn send(self) -> Result<(), Errno> {
        let mut argument = self.0;
        hypercall::event_channel_op(op::EVTCHN_SEND, &mut argument).map(|_| ())
    }

    /// Gives the port back.
    pub fn close(self) -> Result<(), Errno> {
        let mut argument = self.0;
        hypercall::event_channel_op(op::EVTCHN_CLOSE, &mut argument).map(|_| ())
    }

    /// Whether the other end is bound.
    pub fn is_connected(self) -> bool {
        // struct evtchn_status: dom u16, port u32, status u32, vcpu u32, union.
        let mut argument = [u32::from(op::DOMID_SELF), self.0, 0, 0, 0, 0];
        hypercall::event_channel_op(op::EVTCHN_STATUS, &mut argument)
            .unwrap_or_else(|e| panic!("status of port {}: {e}", self.0));
        argument[2] == op::EVTCHN_STATUS_INTERDOMAIN
    }
}

/// Binds a virtual interrupt to a port and unmasks it.
pub fn bind_virq(virq: u32) -> Port {
    bind_virq_of(virq, 0)
}

/// The same for a vCPU.
pub fn bind_virq_of(virq: u32, vcpu: usize) -> Port {
    let mut argument = [virq, vcpu as u32, 0];
    hypercall::event_channel_op(op::EVTCHN_BIND_VIRQ, &mut argument)
        .unwrap_or_else(|e| panic!("bind_virq {virq} of vCPU {vcpu}: {e}"));
    let port = Port(argument[2]);
    OWNERS[port.0 as usize].store(vcpu as u8, Ordering::SeqCst);
    port.unmask();
    port
}

/// A port by which a vCPU is notified by all of the guest's; it stays masked.
pub fn bind_ipi(vcpu: usize) -> Result<Port, Errno> {
    let mut argument = [vcpu as u32, 0];
    hypercall::event_channel_op(op::EVTCHN_BIND_IPI, &mut argument)?;
    let port = Port(argument[1]);
    OWNERS[port.0 as usize].store(vcpu as u8, Ordering::SeqCst);
    Ok(port)
}

/// A port that `remote` may bind to; it stays masked.
pub fn alloc_unbound(remote: u16) -> Result<Port, Errno> {
    let mut argument = [u32::from(op::DOMID_SELF) | u32::from(remote) << 16, 0];
    hypercall::event_channel_op(op::EVTCHN_ALLOC_UNBOUND, &mut argument)?;
    Ok(Port(argument[1]))
}

/// Binds to a port that another domain holds open; the local port stays masked.
pub fn bind_interdomain(remote: u16, port: u32) -> Result<Port, Errno> {
    let mut argument = [u32::from(remote), port, 0];
    hypercall::event_channel_op(op::EVTCHN_BIND_INTERDOMAIN, &mut argument)?;
    Ok(Port(argument[2]))
}
