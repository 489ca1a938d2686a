//! Operations on a guest's physical address space, which a PV domain does not have: each checks what Xen checks before it finds that out.

use super::{Caller, is_own};
use crate::frame::DomId;
use crate::run::guest_mem::{GuestMem, field_u16, field_u32, field_u64};
use crate::x86::directmap::DirectMap;
use crate::xen::Errno;
use crate::xen::layout::add_to_physmap as layout;

/// XENMAPSPACE_gmfn_range and XENMAPSPACE_gmfn_foreign.
const SPACE_RANGE: u32 = 3;
const SPACE_FOREIGN: u32 = 4;
/// The most that either argument can count, 16 bits of it.
const MAX_PAGES: u64 = u16::MAX as u64;

/// `XENMEM_add_to_physmap`.
pub fn add(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, start: u64, arg: u64) -> Result<u64, Errno> {
    if start > MAX_PAGES {
        return Err(Errno::EDOM);
    }
    let b = memory.read_array::<{ layout::SIZE }>(arg)?;
    if field_u32(&b, layout::SPACE) == SPACE_FOREIGN {
        return Err(Errno::ENOSYS);
    }
    is_own(c, DomId::new(field_u16(&b, layout::DOMID)))?;
    Err(Errno::EACCES)
}

/// `XENMEM_add_to_physmap_batch`: {u16 domid, u16 space, u16 size, u16 extra, three pointers}.
pub fn add_batch(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, start: u64, arg: u64) -> Result<u64, Errno> {
    const LEN: usize = 32;
    if start > MAX_PAGES {
        return Err(Errno::EDOM);
    }
    let b = memory.read_array::<LEN>(arg)?;
    if u32::from(field_u16(&b, 2)) == SPACE_RANGE {
        return Err(Errno::EOPNOTSUPP);
    }
    is_own(c, DomId::new(field_u16(&b, 0)))?;
    Err(Errno::EACCES)
}

/// `XENMEM_remove_from_physmap`: {u16 domid, u64 gpfn}.
pub fn remove(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    let b = memory.read_array::<16>(arg)?;
    is_own(c, DomId::new(field_u16(&b, 0)))?;
    Err(Errno::EACCES)
}

/// `XENMEM_acquire_resource`: {u16 domid, u16 type, u32 id, u32 nr_frames, u32 padding, u64 frame, pointer}. Resources are other domains', for those
/// who build them.
pub fn acquire_resource(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    const LEN: usize = 32;
    let b = memory.read_array::<LEN>(arg)?;
    let (nr, padding, frame) = (u64::from(field_u32(&b, 8)), field_u32(&b, 12), field_u64(&b, 16));
    let ends_in_range = frame.checked_add(nr).is_some_and(|end| end <= u64::from(u32::MAX));
    if padding != 0 || !ends_in_range {
        return Err(Errno::EINVAL);
    }
    is_own(c, DomId::new(field_u16(&b, 0)))?;
    Err(Errno::EPERM)
}
