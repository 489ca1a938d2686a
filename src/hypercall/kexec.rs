//! `kexec_op`: a privileged domain loads the next build and asks for the update (public/kexec.h; type 2 is the live update of the unmerged series).

use super::Caller;
use crate::frame::{Order, PAGE_SIZE};
use crate::log;
use crate::lu::update::{self, Refusal};
use crate::mm::physmem::PhysMem;
use crate::run::guest_mem::{GuestMem, field_u32, field_u64};
use crate::run::host::host;
use crate::x86::directmap::DirectMap;
use crate::xen::Errno;
use crate::xen::hypercall::kexec as op;

/// Largest image file.
const MAX_IMAGE_BYTES: u64 = 16 << 20;

/// `kexec_op(cmd, arg)`.
pub fn kexec_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    if !c.vcpu.domain.privileged {
        return Err(Errno::EPERM);
    }
    let memory = c.memory()?;
    let host = host();
    let is_update = |kind: u64| if kind == op::TYPE_LIVE_UPDATE { Ok(()) } else { Err(Errno::EINVAL) };
    match cmd {
        op::GET_RANGE => {
            // {int range; int nr; ulong size; ulong start}
            let b = memory.read_array::<24>(arg)?;
            let range = match u64::from(field_u32(&b, 0)) {
                op::RANGE_MA_XEN => host.slot,
                op::RANGE_MA_LIVEUPDATE => host.region.range(),
                _ => return Err(Errno::EINVAL),
            };
            memory.write_u64(arg.wrapping_add(8), range.len_bytes())?;
            memory.write_u64(arg.wrapping_add(16), range.start() * PAGE_SIZE)?;
            Ok(0)
        }
        op::LOAD => {
            // {u8 type; u8 pad; u16 arch; u32 nr_segments; u64 segments; u64 entry_maddr}
            let b = memory.read_array::<24>(arg)?;
            is_update(u64::from(b[0]))?;
            // One segment: the image's file, whole. Where its parts go is the image's business.
            if field_u32(&b, 4) != 1 {
                return Err(Errno::EINVAL);
            }
            load(&memory, field_u64(&b, 8))
        }
        op::UNLOAD => {
            is_update(u64::from(memory.read_array::<1>(arg)?[0]))?;
            update::unload(host);
            Ok(0)
        }
        op::STATUS => {
            is_update(u64::from(memory.read_array::<1>(arg)?[0]))?;
            Ok(u64::from(update::is_loaded(host)))
        }
        op::EXEC => {
            is_update(u64::from(memory.read_u32(arg)?))?;
            if !update::has_next(host) {
                return Err(Errno::ENOENT);
            }
            // Asynchronous, as Xen's: 0 says that the update was asked for.
            update::request(host);
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// Takes the image file of a segment {u64 buf, u64 buf_size, u64 dest_maddr, u64 dest_size}.
fn load(memory: &GuestMem<'_, DirectMap>, segment: u64) -> Result<u64, Errno> {
    let b = memory.read_array::<32>(segment)?;
    let (buffer, len, dest_len) = (field_u64(&b, 0), field_u64(&b, 8), field_u64(&b, 24));
    if len == 0 || len > MAX_IMAGE_BYTES || len > dest_len {
        return Err(Errno::EINVAL);
    }
    let host = host();
    let order = Order::holding(len.div_ceil(PAGE_SIZE)).ok_or(Errno::EINVAL)?;
    let block = host.alloc_private(order).ok_or(Errno::ENOMEM)?;
    let mut done = 0;
    let mut piece = [0; 4096];
    while done < len {
        let n = ((len - done) as usize).min(piece.len());
        if memory.read(buffer.wrapping_add(done), &mut piece[..n]).is_err() {
            host.frames.free(block);
            return Err(Errno::EFAULT);
        }
        DirectMap.write(block.mfn().maddr().offset(done), &piece[..n]);
        done += n as u64;
    }
    match update::load(host, block, len) {
        Ok(()) => Ok(0),
        Err((block, refusal)) => {
            host.frames.free(block);
            log!("lu", "kexec_op load: refused: {refusal}");
            Err(match refusal {
                Refusal::RegionTooSmall { .. } | Refusal::NoMemory => Errno::ENOMEM,
                Refusal::Image { error, .. } if error.is_of_trust() => Errno::EACCES,
                _ => Errno::EINVAL,
            })
        }
    }
}
