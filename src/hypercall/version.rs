//! `xen_version`: what a guest may know of the hypervisor.

use super::Caller;
use crate::frame::PAGE_SIZE;
use crate::xen::errno::Errno;
use crate::xen::hypercall::{feature, pv, xen_version as op};

/// The interface version reported: Xen 4.17's.
pub const MAJOR: u64 = 4;
/// Minor part.
pub const MINOR: u64 = 17;
const EXTRAVERSION: &[u8] = b".0-luxen";
const CAPABILITIES: &[u8] = b"xen-3.0-x86_64 ";

/// Feature bits of submap 0 for PV guests.
const FEATURES: u32 =
    1 << feature::PAE_PGDIR_ABOVE_4GB | 1 << feature::MMU_PT_UPDATE_PRESERVE_AD | 1 << feature::GNTTAB_MAP_AVAIL_BITS;

fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let n = text.len().min(N - 1);
    out[..n].copy_from_slice(&text[..n]);
    out
}

/// `xen_version(cmd, arg)`.
pub fn xen_version(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    match cmd {
        op::VERSION => Ok(MAJOR << 16 | MINOR),
        op::EXTRAVERSION => {
            c.memory()?.write(arg, &padded::<16>(EXTRAVERSION))?;
            Ok(0)
        }
        op::COMPILE_INFO => {
            // compiler[64], compile_by[16], compile_domain[32], compile_date[32]: as Xen's for guests without privilege.
            let mut info = [0u8; 144];
            info[..64].copy_from_slice(&padded::<64>(b"rustc"));
            for (at, len) in [(64, 16), (80, 32), (112, 32)] {
                let denied = b"<denied>";
                info[at..at + denied.len().min(len)].copy_from_slice(denied);
            }
            c.memory()?.write(arg, &info)?;
            Ok(0)
        }
        op::CAPABILITIES => {
            c.memory()?.write(arg, &padded::<1024>(CAPABILITIES))?;
            Ok(0)
        }
        op::CHANGESET => {
            c.memory()?.write(arg, &padded::<64>(crate::build::VERSION.as_bytes()))?;
            Ok(0)
        }
        op::PLATFORM_PARAMETERS => {
            c.memory()?.write_u64(arg, pv::HYPERVISOR_VIRT_START)?;
            Ok(0)
        }
        op::GET_FEATURES => {
            let memory = c.memory()?;
            let submap = match memory.read_u32(arg)? {
                0 => FEATURES,
                _ => return Err(Errno::EINVAL),
            };
            memory.write_u32(arg.wrapping_add(4), submap)?;
            Ok(0)
        }
        op::PAGESIZE => Ok(PAGE_SIZE),
        op::GUEST_HANDLE => {
            c.memory()?.write(arg, &c.vcpu.domain.handle)?;
            Ok(0)
        }
        op::COMMANDLINE => {
            // Not a guest's business; Xen gives "<denied>" too.
            c.memory()?.write(arg, &padded::<1024>(b"<denied>"))?;
            Ok(0)
        }
        op::BUILD_ID => Err(Errno::ENODATA),
        _ => Err(Errno::ENOSYS),
    }
}
