//! Exceptions, events and system calls put onto a guest's stack (XEN.md §5.4: the frame of `create_bounce_frame`).
//!
//! The frame, lowest address first: rcx, r11, the error code if there is one, rip, cs with the saved event mask in bits 39:32, rflags with IF = events
//! were not masked, rsp, ss. From guest kernel mode the stack goes on and cs has RPL 0; from guest user mode the stack is the one of
//! `stack_switch`, and the guest changes to its kernel's page tables and GS base.

use crate::hypercall::vcpu::IOPL_SHIFT;
use crate::mm::physmem::PhysMem;
use crate::run::context;
use crate::run::domain::Domain;
use crate::run::guest_mem::{Fault, GuestMem};
use crate::run::vcpu::{Callback, NMI_VECTOR, Vcpu, VcpuState};
use crate::x86::directmap::DirectMap;
use crate::x86::traps::Frame;
use crate::xen::hypercall::{pv, vm_assist};
use crate::xen::layout::vcpu_info;
use crate::xen::vcpu::TrapInfo;
use core::fmt;
use x86_64::instructions::segmentation::{DS, ES, FS, GS, Segment};

const IF: u64 = 1 << 9;
/// TF, IOPL, NT, RF, VM, AC: cleared on entry to a handler.
const CLEARED: u64 = 1 << 8 | 3 << 12 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 18;

/// A guest cannot be told: it has no handler, or no stack for it. Its domain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undeliverable {
    /// No handler is registered for the vector.
    NoHandler {
        /// The vector.
        vector: u64,
    },
    /// No failsafe callback is registered.
    NoFailsafe,
    /// The frame cannot be written.
    Stack {
        /// Where it should have gone.
        sp: u64,
        /// Why not.
        fault: Fault,
    },
    /// There is no kernel to go to.
    NoKernel,
}

impl fmt::Display for Undeliverable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHandler { vector } => write!(f, "no handler for vector {vector}"),
            Self::Stack { sp, fault } => write!(f, "bad stack at {sp:#x} ({fault:?})"),
            Self::NoFailsafe => f.write_str("no failsafe callback"),
            Self::NoKernel => f.write_str("no page tables for its kernel"),
        }
    }
}

/// A byte of the vCPU's vcpu_info.
pub fn info_byte(v: &VcpuState, offset: usize) -> u8 {
    let mut b = [0];
    DirectMap.read(v.info.offset(offset as u64), &mut b);
    b[0]
}

/// Writes a byte of the vCPU's vcpu_info.
pub fn set_info_byte(v: &VcpuState, offset: usize, value: u8) {
    DirectMap.write(v.info.offset(offset as u64), &[value]);
}

/// Sets up the guest to continue at `to`, with the frame described above.
pub fn enter(
    domain: &Domain,
    v: &mut VcpuState,
    frame: &mut Frame,
    to: Callback,
    error: Option<u64>,
) -> Result<(), Undeliverable> {
    push_frame(domain, v, frame, to, error.as_slice())
}

/// Tells the guest's kernel that what it asked to return to cannot be loaded. The data segment selectors stand in the frame where an error code
/// would, lowest first: ds, es, fs, gs.
pub fn failsafe(domain: &Domain, v: &mut VcpuState, frame: &mut Frame) -> Result<(), Undeliverable> {
    let to = v.callbacks.failsafe;
    if to.rip == 0 {
        return Err(Undeliverable::NoFailsafe);
    }
    let selectors = [DS::get_reg(), ES::get_reg(), FS::get_reg(), GS::get_reg()].map(|s| u64::from(s.0));
    push_frame(domain, v, frame, to, &selectors)
}

/// The frame, with `extra` words between r11 and rip.
fn push_frame(
    domain: &Domain,
    v: &mut VcpuState,
    frame: &mut Frame,
    to: Callback,
    extra: &[u64],
) -> Result<(), Undeliverable> {
    let (sp, cs) = if v.kernel_mode {
        (frame.rsp, frame.cs & !3)
    } else {
        if !context::toggle_mode(v) {
            return Err(Undeliverable::NoKernel);
        }
        (v.kernel_sp, frame.cs)
    };
    let l4 = v.kernel_l4.ok_or(Undeliverable::NoKernel)?;
    let mask = info_byte(v, vcpu_info::EVTCHN_UPCALL_MASK);
    // Its I/O privilege level is in its flags only if it asked for that.
    let iopl = if domain.has_assist(vm_assist::TYPE_ARCHITECTURAL_IOPL) { u64::from(v.iopl) << IOPL_SHIFT } else { 0 };
    let rflags = frame.rflags & !(IF | 3 << IOPL_SHIFT) | iopl | if mask & 1 == 0 { IF } else { 0 };
    let cs = (cs & 0xffff) | u64::from(mask) << 32;
    let mut words = [0u64; 11];
    let mut n = 0;
    for w in [frame.rcx, frame.r11]
        .into_iter()
        .chain(extra.iter().copied())
        .chain([frame.rip, cs, rflags, frame.rsp, frame.ss])
    {
        words[n] = w;
        n += 1;
    }
    let mut bytes = [0u8; 88];
    for (i, w) in words[..n].iter().enumerate() {
        bytes[i * 8..i * 8 + 8].copy_from_slice(&w.to_le_bytes());
    }
    let at = (sp & !0xf).wrapping_sub(n as u64 * 8);
    GuestMem::new(&DirectMap, l4).write(at, &bytes[..n * 8]).map_err(|fault| Undeliverable::Stack { sp: at, fault })?;
    if to.masks_events {
        set_info_byte(v, vcpu_info::EVTCHN_UPCALL_MASK, 1);
    }
    frame.rip = to.rip;
    frame.cs = pv::FLAT_KERNEL_CS;
    frame.ss = pv::FLAT_KERNEL_SS;
    frame.rsp = at;
    frame.rflags = frame.rflags & !CLEARED | IF;
    Ok(())
}

/// Delivers an exception.
pub fn exception(
    domain: &Domain,
    v: &mut VcpuState,
    frame: &mut Frame,
    vector: u8,
    error: Option<u64>,
) -> Result<(), Undeliverable> {
    let trap = v.traps.get(vector);
    if trap.address == 0 {
        return Err(Undeliverable::NoHandler { vector: u64::from(vector) });
    }
    enter(
        domain,
        v,
        frame,
        Callback { rip: trap.address, masks_events: trap.flags & TrapInfo::MASKS_EVENTS != 0 },
        error,
    )
}

/// Delivers a page fault: CR2 goes to the vcpu_info, and the error code says "user" as the guest sees it.
pub fn page_fault(
    domain: &Domain,
    v: &mut VcpuState,
    frame: &mut Frame,
    cr2: u64,
    error: u64,
) -> Result<(), Undeliverable> {
    DirectMap.write_u64(v.info.offset(vcpu_info::ARCH_CR2 as u64), cr2);
    let error = error & !4 | if v.kernel_mode { 0 } else { 4 };
    exception(domain, v, frame, 14, Some(error))
}

/// True if an event is pending and the guest takes events.
pub fn event_due(v: &VcpuState) -> bool {
    info_byte(v, vcpu_info::EVTCHN_UPCALL_PENDING) != 0 && info_byte(v, vcpu_info::EVTCHN_UPCALL_MASK) & 1 == 0
}

/// Delivers what waits for the vCPU and may be delivered now: an NMI, then events, whose handler may interrupt that of the NMI unless that masks them.
pub fn event(vcpu: &Vcpu, frame: &mut Frame) -> Result<(), Undeliverable> {
    let mut v = vcpu.state.lock();
    if v.nmi_due() {
        v.nmi_pending = false;
        // Without a handler it is lost, as in Xen.
        if v.traps.get(NMI_VECTOR).address != 0 {
            exception(&vcpu.domain, &mut v, frame, NMI_VECTOR, None)?;
            v.nmi_masked = true;
        }
    }
    if !event_due(&v) {
        return Ok(());
    }
    let to = v.callbacks.event;
    if to.rip == 0 {
        // A guest that has registered no entry yet finds its events when it looks for them.
        return Ok(());
    }
    enter(&vcpu.domain, &mut v, frame, Callback { rip: to.rip, masks_events: true }, None)
}
