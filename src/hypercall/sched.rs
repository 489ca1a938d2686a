//! `sched_op`: yielding, waiting, ending.

use super::Caller;
use crate::domain::evtchn::NR_PORTS;
use crate::domain::sched::WATCHDOGS;
use crate::run::bounce::{self, info_byte};
use crate::run::domain::Shutdown;
use crate::run::guest_mem::{field_u32, field_u64};
use crate::run::host::host;
use crate::run::{console, teardown};
use crate::x86::directmap::DirectMap;
use crate::x86::percpu::this_cpu;
use crate::x86::tsc;
use crate::xen::Errno;
use crate::xen::hypercall::{sched_op as op, shutdown};
use crate::xen::layout::{sched_watchdog, vcpu_info};

/// Most ports that one poll may name, as in Xen.
const MAX_POLL_PORTS: u32 = 128;

/// `sched_op_compat(cmd, arg)`: the first interface, of which yield and block are left.
pub fn sched_op_compat(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    match cmd {
        op::YIELD | op::BLOCK => sched_op(c, cmd, 0),
        op::SHUTDOWN => shut_down(c, arg as u32),
        _ => Err(Errno::ENOSYS),
    }
}

/// `sched_op(cmd, arg)`.
pub fn sched_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    match cmd {
        op::YIELD => {
            // Guests yield when their console ring is full.
            console::serve(host(), &c.vcpu.domain);
            c.vcpu.state.lock().yielded = true;
            this_cpu().reschedule.set(true);
            Ok(0)
        }
        op::BLOCK => {
            let mut v = c.vcpu.state.lock();
            bounce::set_info_byte(&v, vcpu_info::EVTCHN_UPCALL_MASK, 0);
            v.blocked = info_byte(&v, vcpu_info::EVTCHN_UPCALL_PENDING) == 0 && !v.nmi_due();
            Ok(0)
        }
        op::SHUTDOWN => {
            let reason = c.memory()?.read_u32(arg)?;
            shut_down(c, reason)
        }
        op::POLL => poll(c, arg),
        op::REMOTE_SHUTDOWN => remote_shutdown(c, arg),
        op::SHUTDOWN_CODE => {
            c.memory()?.read_u32(arg)?;
            Ok(0)
        }
        op::WATCHDOG => watchdog(c, arg),
        // For the hardware domain alone.
        op::PIN_OVERRIDE => Err(Errno::EPERM),
        _ => Err(Errno::ENOSYS),
    }
}

/// The result of a suspend that was cancelled: the guest goes on as it is.
const CANCELLED: u64 = 1;

fn shut_down(c: &Caller<'_>, reason: u32) -> Result<u64, Errno> {
    if reason > shutdown::SOFT_RESET {
        return Err(Errno::EINVAL);
    }
    if reason == shutdown::SUSPEND {
        // There is no toolstack that would save the domain, so what a toolstack does whose save failed is done at once.
        return Ok(CANCELLED);
    }
    teardown::shut_down(&c.vcpu.domain, Shutdown(reason));
    Ok(0)
}

fn remote_shutdown(c: &mut Caller<'_>, arg: u64) -> Result<u64, Errno> {
    let b = c.memory()?.read_array::<8>(arg)?;
    let (id, reason) = (u16::from_le_bytes([b[0], b[1]]), field_u32(&b, 4));
    let domain = host().domain(crate::frame::DomId::new(id)).ok_or(Errno::ESRCH)?;
    if !c.vcpu.domain.privileged {
        return Err(Errno::EPERM);
    }
    if reason > shutdown::SOFT_RESET {
        return Err(Errno::EINVAL);
    }
    if reason == shutdown::SUSPEND {
        // As for a domain that asks for it itself; and this one would not be asked.
        return Err(Errno::EOPNOTSUPP);
    }
    teardown::shut_down(&domain, Shutdown(reason));
    Ok(0)
}

fn watchdog(c: &mut Caller<'_>, arg: u64) -> Result<u64, Errno> {
    let b = c.memory()?.read_array::<{ sched_watchdog::SIZE }>(arg)?;
    let (id, seconds) = (field_u32(&b, sched_watchdog::ID), field_u32(&b, sched_watchdog::TIMEOUT));
    let domain = &c.vcpu.domain;
    let mut watchdogs = domain.watchdogs.lock();
    let result = watchdogs.set(id, seconds, tsc::now_ns());
    host().sched.lock().set_timer((domain.id, WATCHDOGS), watchdogs.next());
    result
}

/// {ports pointer, nr_ports u32, timeout u64 in ns of system time, 0 for none}.
fn poll(c: &mut Caller<'_>, arg: u64) -> Result<u64, Errno> {
    let memory = c.memory()?;
    let b = memory.read_array::<24>(arg)?;
    let (ports, nr, timeout) = (field_u64(&b, 0), field_u32(&b, 8), field_u64(&b, 16));
    if nr > MAX_POLL_PORTS {
        return Err(Errno::EINVAL);
    }
    let id = c.vcpu.domain.id;
    let mut last = 0;
    for i in 0..u64::from(nr) {
        let port = memory.read_u32(ports.wrapping_add(i * 4))?;
        if port >= NR_PORTS {
            return Err(Errno::EINVAL);
        }
        if host().evtchn.lock().is_pending(&DirectMap, id, port)? {
            return Ok(0);
        }
        last = port;
    }
    let mut v = c.vcpu.state.lock();
    // What can be delivered ends a poll, whatever it polls.
    if bounce::event_due(&v) || v.nmi_due() {
        return Ok(0);
    }
    if timeout != 0 && timeout <= tsc::now_ns() {
        return Ok(0);
    }
    v.polling_until = Some(if timeout == 0 { u64::MAX } else { timeout });
    v.poll_port = if nr == 1 { last } else { 0 };
    host().sched.lock().set_timer(c.vcpu.key(), v.next_timer());
    Ok(0)
}
