//! `event_channel_op`: the structures of public/event_channel.h around [`crate::domain::evtchn`].

use super::Caller;
use crate::domain::evtchn::{Sent, Service};
use crate::frame::DomId;
use crate::run::guest_mem::{field_u16, field_u32};
use crate::run::host::host;
use crate::run::{console, store};
use crate::x86::directmap::DirectMap;
use crate::xen::Errno;
use crate::xen::hypercall::evtchn_op as op;
use crate::xen::layout::evtchn_status;

/// `event_channel_op(cmd, arg)`.
pub fn event_channel_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    let memory = c.memory()?;
    let host = host();
    let me = c.vcpu.domain.id;
    let evtchn = || host.evtchn.lock();
    match cmd {
        op::ALLOC_UNBOUND => {
            let b = memory.read_array::<8>(arg)?;
            let port = evtchn().alloc_unbound(me, DomId::new(field_u16(&b, 0)), DomId::new(field_u16(&b, 2)))?;
            memory.write_u32(arg.wrapping_add(4), port)?;
        }
        op::BIND_INTERDOMAIN => {
            let b = memory.read_array::<12>(arg)?;
            let remote = DomId::new(field_u16(&b, 0));
            let bound = evtchn().bind_interdomain(&DirectMap, me, remote, field_u32(&b, 4))?;
            host.wake_for(bound.event);
            memory.write_u32(arg.wrapping_add(8), bound.port)?;
        }
        op::BIND_VIRQ => {
            let b = memory.read_array::<12>(arg)?;
            let port = evtchn().bind_virq(me, field_u32(&b, 0), field_u32(&b, 4))?;
            memory.write_u32(arg.wrapping_add(8), port)?;
        }
        op::BIND_IPI => {
            let port = evtchn().bind_ipi(me, memory.read_u32(arg)?)?;
            memory.write_u32(arg.wrapping_add(4), port)?;
        }
        op::BIND_VCPU => {
            let b = memory.read_array::<8>(arg)?;
            evtchn().bind_vcpu(me, field_u32(&b, 0), field_u32(&b, 4))?;
        }
        op::CLOSE => evtchn().close(&DirectMap, me, memory.read_u32(arg)?)?,
        op::SEND => {
            let sent = evtchn().send(&DirectMap, me, memory.read_u32(arg)?)?;
            match sent {
                Sent::Event(event) => host.wake_for(event),
                Sent::Hypervisor(Service::Console) => console::serve(host, &c.vcpu.domain),
                Sent::Hypervisor(Service::Store) => store::serve(host, &c.vcpu.domain),
                Sent::Nowhere => {}
            }
        }
        op::STATUS => {
            let mut b = memory.read_array::<{ evtchn_status::SIZE }>(arg)?;
            let status = evtchn().status(me, DomId::new(field_u16(&b, 0)), field_u32(&b, 4))?;
            status.encode(&mut b);
            memory.write(arg, &b)?;
        }
        op::UNMASK => {
            let vcpu = evtchn().unmask(&DirectMap, me, memory.read_u32(arg)?)?;
            if let Some(vcpu) = vcpu.and_then(|v| c.vcpu.domain.vcpu(v)) {
                host.wake(&vcpu);
            }
        }
        op::RESET | op::RESET_CONT => {
            let dom = DomId::new(u16::from_le_bytes(memory.read_array(arg)?));
            // Another domain has to be paused by its controller for this, of which there is none.
            if dom != DomId::SELF && dom != me {
                return Err(if host.domain(dom).is_none() {
                    Errno::ESRCH
                } else if c.vcpu.domain.privileged {
                    Errno::EINVAL
                } else {
                    Errno::EPERM
                });
            }
            evtchn().reset(&DirectMap, me, dom)?;
        }
        // PIRQs and all three operations of the FIFO interface: as on a host that has neither. Guests take the two-level one then.
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}
