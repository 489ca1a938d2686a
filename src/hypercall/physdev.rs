//! `physdev_op`: what is left of it for a domain without hardware (public/physdev.h).

use super::Caller;
use crate::run::guest_mem::{field_u32, field_u64};
use crate::xen::Errno;
use crate::xen::hypercall::physdev_op as op;

/// Ports that there are.
const NR_PORTS: u32 = 0x1_0000;

/// `physdev_op(cmd, arg)`.
pub fn physdev_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    let memory = c.memory()?;
    match cmd {
        op::SET_IOPL => {
            let iopl = memory.read_u32(arg)?;
            if iopl > 3 {
                return Err(Errno::EINVAL);
            }
            c.vcpu.state.lock().iopl = iopl as u8;
            Ok(0)
        }
        op::SET_IOBITMAP => {
            // {bitmap pointer, u32 nr_ports}
            let b = memory.read_array::<16>(arg)?;
            let (bitmap, nr_ports) = (field_u64(&b, 0), field_u32(&b, 8));
            if nr_ports > NR_PORTS || !super::tables::is_guest_address(bitmap) {
                return Err(Errno::EINVAL);
            }
            let mut v = c.vcpu.state.lock();
            (v.iobmp, v.iobmp_nr_ports) = (bitmap, nr_ports);
            Ok(0)
        }
        // The I/O APIC is for the hardware domain.
        op::APIC_READ | op::APIC_WRITE => Err(Errno::EPERM),
        // A domain without devices has no such interrupt.
        op::IRQ_STATUS_QUERY | op::EOI | op::UNMAP_PIRQ => Err(Errno::EINVAL),
        op::MAP_PIRQ | op::GET_FREE_PIRQ => Err(Errno::EPERM),
        _ => Err(Errno::ENOSYS),
    }
}
