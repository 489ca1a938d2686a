//! Calls for which a PV domain has no right, no hardware or no counterpart: the answers that Xen gives it.
//!
//! Guests probe with these, and what they do next depends on the errno. Control interfaces look at the interface version first, so that a toolstack
//! of another Xen learns that it does not fit, before they say that the caller may not use them.

use super::Caller;
use crate::frame::DomId;
use crate::run::host::host;
use crate::xen::Errno;
use crate::xen::hypercall::{evtchn_op, hvm_op, interface_version as version};

/// `platform_op`: for the hardware domain.
pub fn platform_op(c: &Caller<'_>, arg: u64) -> Result<u64, Errno> {
    control_op(c, arg, version::PLATFORM)
}

/// `domctl`: for the control domain.
pub fn domctl(c: &Caller<'_>, arg: u64) -> Result<u64, Errno> {
    control_op(c, arg, version::DOMCTL)
}

/// {u32 cmd, u32 interface_version, ...}.
fn control_op(c: &Caller<'_>, arg: u64, wanted: u32) -> Result<u64, Errno> {
    check_version(c.memory()?.read_u32(arg.wrapping_add(4))?, wanted)?;
    Err(Errno::EPERM)
}

/// EACCES for another version of a control interface than there is.
pub fn check_version(found: u32, wanted: u32) -> Result<(), Errno> {
    if found == wanted { Ok(()) } else { Err(Errno::EACCES) }
}

/// `hvm_op`: a PV domain has no parameters of an HVM domain.
pub fn hvm_op(c: &Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    match cmd {
        hvm_op::SET_PARAM | hvm_op::GET_PARAM | hvm_op::SET_EVTCHN_UPCALL_VECTOR => {
            c.memory()?.read_u32(arg)?;
            Err(Errno::EINVAL)
        }
        // Of domains, only HVM ones are in question; the caller alone is meant by these.
        hvm_op::FLUSH_TLBS | hvm_op::PAGETABLE_DYING | hvm_op::GET_TIME | hvm_op::GET_MEM_TYPE => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

/// `dm_op(domid, ...)`: for the device model of an HVM domain.
pub fn dm_op(c: &Caller<'_>, domid: u64) -> Result<u64, Errno> {
    let id = DomId::new(domid as u16);
    if id == DomId::SELF || id == c.vcpu.domain.id {
        return Err(Errno::EPERM);
    }
    Err(if host().domain(id).is_some() { Errno::EINVAL } else { Errno::ESRCH })
}

/// `event_channel_op` as it was first: {u32 cmd, arguments}, without what came later.
pub fn event_channel_op_compat(c: &mut Caller<'_>, arg: u64) -> Result<u64, Errno> {
    let cmd = u64::from(c.memory()?.read_u32(arg)?);
    if cmd > evtchn_op::UNMASK {
        return Err(Errno::ENOSYS);
    }
    super::evtchn::event_channel_op(c, cmd, arg.wrapping_add(4))
}

/// `physdev_op` as it was first: {u32 cmd, arguments from byte 8 on}.
pub fn physdev_op_compat(c: &mut Caller<'_>, arg: u64) -> Result<u64, Errno> {
    let cmd = u64::from(c.memory()?.read_u32(arg)?);
    super::physdev::physdev_op(c, cmd, arg.wrapping_add(8))
}
