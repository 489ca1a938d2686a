//! Entries from guests and the way back.

use crate::hypercall;
use crate::log;
use crate::run::bounce::{self, Undeliverable};
use crate::run::domain::Shutdown;
use crate::run::emulate;
use crate::run::guest_mem::GuestMem;
use crate::run::vcpu::{Vcpu, VcpuState};
use crate::run::{context, teardown, work};
use crate::x86::desc::GDT_LIMIT;
use crate::x86::directmap::DirectMap;
use crate::x86::percpu::this_cpu;
use crate::x86::traps::{Dump, Frame, VECTOR_SYSCALL, VECTOR_SYSCALL32};
use crate::x86::{apic, debug, fpu, tsc};
use crate::xen::hypercall::shutdown;
use alloc::sync::Arc;
use x86_64::registers::control::Cr2;

/// An entry from ring 3.
pub fn from_guest(frame: &mut Frame) {
    let cr2 = Cr2::read_raw();
    let Some(vcpu) = this_cpu().current() else {
        // Only a vCPU's registers are ever put into a frame that returns to ring 3 (to_guest).
        panic!("entry from a guest while none runs");
    };
    let is_syscall = matches!(frame.vector, VECTOR_SYSCALL | VECTOR_SYSCALL32);
    let vector = if is_syscall { frame.vector } else { frame.vector & 0xff };
    let result = match vector {
        VECTOR_SYSCALL => syscall(&vcpu, frame),
        VECTOR_SYSCALL32 => syscall32(&vcpu, frame),
        v if v == u64::from(apic::TIMER_VECTOR) => {
            apic::eoi();
            Ok(())
        }
        0..32 => exception(&vcpu, frame, vector as u8, cr2),
        v if v == u64::from(apic::SPURIOUS_VECTOR) => Ok(()),
        _ => software_interrupt(&vcpu, frame, vector as u8),
    };
    if let Err(why) = result {
        crash(&vcpu, frame, format_args!("{why}"));
    }
}

fn syscall(vcpu: &Arc<Vcpu>, frame: &mut Frame) -> Result<(), Undeliverable> {
    let kernel_mode = vcpu.state.lock().kernel_mode;
    if kernel_mode {
        hypercall::dispatch(vcpu, frame);
        return Ok(());
    }
    let mut v = vcpu.state.lock();
    let to = v.callbacks.syscall;
    if to.rip == 0 {
        // As Xen: no system call entry means an invalid opcode, at the instruction.
        frame.rip = frame.rip.wrapping_sub(2);
        return bounce::exception(&vcpu.domain, &mut v, frame, 6, None);
    }
    bounce::enter(&vcpu.domain, &mut v, frame, to, None)
}

/// `syscall` from a 32-bit program. A guest's kernel is 64-bit code.
fn syscall32(vcpu: &Arc<Vcpu>, frame: &mut Frame) -> Result<(), Undeliverable> {
    let mut v = vcpu.state.lock();
    let to = v.callbacks.syscall32;
    if v.kernel_mode || to.rip == 0 {
        frame.rip = frame.rip.wrapping_sub(2);
        return bounce::exception(&vcpu.domain, &mut v, frame, 6, None);
    }
    bounce::enter(&vcpu.domain, &mut v, frame, to, None)
}

/// Vectors that push an error code.
const WITH_ERROR: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

fn exception(vcpu: &Arc<Vcpu>, frame: &mut Frame, vector: u8, cr2: u64) -> Result<(), Undeliverable> {
    // The CPU reads descriptors as ring 0 does, whoever names them.
    let reads_descriptor = vector == 14 && frame.error & (PF_USER | PF_RESERVED) == 0;
    let cr2 = if reads_descriptor {
        if let Some(offset) = cr2.checked_sub(context::gdt_va(vcpu.id)).filter(|&offset| offset <= GDT_LIMIT.into()) {
            // A page of the GDT that the guest does not have: to it, a selector beyond the table, as Xen has it.
            return bounce::exception(&vcpu.domain, &mut vcpu.state.lock(), frame, 13, Some(offset & !7));
        }
        match hypercall::mmuext::ldt_fault(vcpu, cr2) {
            Ok(()) => return Ok(()),
            // The guest knows its LDT by the address that it gave.
            Err(Some(offset)) => vcpu.state.lock().ldt_base.wrapping_add(offset),
            Err(None) => cr2,
        }
    } else {
        cr2
    };
    match vector {
        13 if frame.error == 0 && emulate::privileged(vcpu, frame) => return Ok(()),
        14 if emulate::table_write(vcpu, frame, cr2) => return Ok(()),
        _ => {}
    }
    let mut v = vcpu.state.lock();
    match vector {
        1 => {
            v.debugreg[6] |= debug::take_status();
            bounce::exception(&vcpu.domain, &mut v, frame, 1, None)
        }
        7 if v.task_switched => {
            // The guest asked for this fault by fpu_taskswitch; Xen clears its CR0.TS as it delivers it.
            v.task_switched = false;
            fpu::set_ts(false);
            bounce::exception(&vcpu.domain, &mut v, frame, 7, None)
        }
        7 => {
            fpu::set_ts(false);
            Ok(())
        }
        6 if forced_cpuid(&v, frame) => Ok(()),
        13 if frame.error & 2 != 0 => {
            // `int n` of an exception's vector, whose gate is for ring 0 alone.
            frame.rip = frame.rip.wrapping_add(INT_LEN);
            drop(v);
            software_interrupt(vcpu, frame, (frame.error >> 3) as u8)
        }
        14 => bounce::page_fault(&vcpu.domain, &mut v, frame, cr2, frame.error),
        _ => {
            let error = (WITH_ERROR & 1 << vector != 0).then_some(frame.error);
            bounce::exception(&vcpu.domain, &mut v, frame, vector, error)
        }
    }
}

/// Error-code bits of a page fault: an access of ring 3, a reserved bit in an entry.
const PF_USER: u64 = 1 << 2;
const PF_RESERVED: u64 = 1 << 3;
/// Bytes of `int n`.
const INT_LEN: u64 = 2;

/// `int n` by a guest, with rip behind it: its own trap table says who may.
fn software_interrupt(vcpu: &Vcpu, frame: &mut Frame, vector: u8) -> Result<(), Undeliverable> {
    let mut v = vcpu.state.lock();
    let ring = if v.kernel_mode { 1 } else { 3 };
    let trap = v.traps.get(vector);
    if trap.address == 0 || trap.flags & 3 < ring {
        frame.rip = frame.rip.wrapping_sub(INT_LEN);
        return bounce::exception(&vcpu.domain, &mut v, frame, 13, Some(u64::from(vector) << 3 | 2));
    }
    bounce::exception(&vcpu.domain, &mut v, frame, vector, None)
}

/// The forced-emulation prefix `ud2; "xen"` before `cpuid`: the way for a PV guest to see the hypervisor's leaves.
fn forced_cpuid(v: &VcpuState, frame: &mut Frame) -> bool {
    const CODE: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];
    let Some(l4) = v.active_l4() else { return false };
    let mut code = [0; CODE.len()];
    if GuestMem::new(&DirectMap, l4).read(frame.rip, &mut code).is_err() || code != CODE {
        return false;
    }
    let [a, b, c, d] = hypercall::cpuid::leaf(frame.rax as u32, frame.rcx as u32);
    (frame.rax, frame.rbx, frame.rcx, frame.rdx) = (a.into(), b.into(), c.into(), d.into());
    frame.rip = frame.rip.wrapping_add(CODE.len() as u64);
    true
}

/// Ends a domain that cannot go on, with its registers in the log.
pub fn crash(vcpu: &Arc<Vcpu>, frame: &Frame, why: core::fmt::Arguments<'_>) {
    log!("domain", "{} {} crashed: {why}; vCPU {} at {}", vcpu.domain.id, vcpu.domain.name, vcpu.id, Dump(frame));
    teardown::shut_down(&vcpu.domain, Shutdown(shutdown::CRASH));
}

/// `iretq` into the guest faulted: the frame that it asked for cannot be loaded. Its kernel is told by the failsafe callback.
pub fn return_failed(frame: &mut Frame) {
    let Some(vcpu) = this_cpu().current() else { return };
    let delivered = bounce::failsafe(&vcpu.domain, &mut vcpu.state.lock(), frame);
    if let Err(why) = delivered {
        crash(&vcpu, frame, format_args!("its return frame cannot be loaded, and {why}"));
    }
}

/// The way back to a guest: everything due is done, somebody is chosen, events are delivered.
pub fn to_guest(frame: &mut Frame) {
    let cpu = this_cpu();
    loop {
        work::run(frame);
        let current = cpu.current();
        let goes_on = current.as_ref().is_some_and(|v| v.domain.may_run() && v.state.lock().is_runnable());
        drop(current);
        if !goes_on || cpu.reschedule.replace(false) {
            work::switch(frame, goes_on);
        }
        let Some(vcpu) = cpu.current() else {
            work::idle();
            continue;
        };
        match bounce::event(&vcpu, frame) {
            Ok(()) => {
                // `iretq` must find the descriptors of a guest that runs on segments of its LDT (selectors with bit 2 set).
                if (frame.cs | frame.ss) & 4 != 0 {
                    hypercall::mmuext::map_ldt(&vcpu);
                }
                break;
            }
            Err(why) => crash(&vcpu, frame, format_args!("{why}")),
        }
    }
    work::arm_timer(tsc::now_ns());
    crate::lu::report::note_resume(crate::run::host::host());
}
