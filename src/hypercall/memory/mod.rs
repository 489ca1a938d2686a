//! `memory_op`: a domain's memory grows, shrinks and changes, and what can be asked about it.

mod exchange;
mod physmap;
mod reserve;

use super::{Caller, Outcome};
use crate::frame::{CHUNK_SIZE, DomId, PAGE_SIZE};
use crate::mm::m2p;
use crate::mm::physmem::PhysMem;
use crate::run::guest_mem::{GuestMem, field_u16, field_u32, field_u64};
use crate::run::host::host;
use crate::x86::directmap::DirectMap;
use crate::x86::paging::M2P_VA;
use crate::xen::Errno;
use crate::xen::hypercall::memory_op as op;
use crate::xen::layout::{memory_map, memory_reservation as res, shared_info};

/// Bits of the command that carry where a continued call goes on.
const START_EXTENT_SHIFT: u32 = 6;
/// E820's number for RAM.
const E820_RAM: u32 = 1;

/// The number is that of a domain: the caller's own, or another's.
fn is_own(c: &Caller<'_>, domid: DomId) -> Result<bool, Errno> {
    if domid == DomId::SELF || domid == c.vcpu.domain.id {
        return Ok(true);
    }
    if host().domain(domid).is_some() { Ok(false) } else { Err(Errno::ESRCH) }
}

fn check_own(c: &Caller<'_>, domid: DomId) -> Result<(), Errno> {
    if is_own(c, domid)? { Ok(()) } else { Err(Errno::EPERM) }
}

/// `memory_op(cmd, arg)`.
pub fn memory_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Outcome {
    let (kind, start) = (cmd & op::CMD_MASK, cmd >> START_EXTENT_SHIFT);
    let memory = match c.memory() {
        Ok(memory) => memory,
        Err(e) => return Err::<u64, _>(e).into(),
    };
    let result = match kind {
        op::INCREASE_RESERVATION | op::DECREASE_RESERVATION | op::POPULATE_PHYSMAP => {
            return reserve::reserve(c, &memory, kind, start, arg);
        }
        op::ADD_TO_PHYSMAP => physmap::add(c, &memory, start, arg),
        op::ADD_TO_PHYSMAP_BATCH => physmap::add_batch(c, &memory, start, arg),
        op::ACQUIRE_RESOURCE => physmap::acquire_resource(c, &memory, arg),
        // Only operations that give way have a place to go on from. Xen's own for x86 do not look whether there is one.
        op::EXCHANGE
        | op::MAXIMUM_RAM_PAGE
        | op::CURRENT_RESERVATION
        | op::MAXIMUM_RESERVATION
        | op::MAXIMUM_GPFN
        | op::REMOVE_FROM_PHYSMAP
        | op::CLAIM_PAGES
        | op::GET_VNUMAINFO
        | op::RESERVED_DEVICE_MEMORY_MAP
            if start != 0 =>
        {
            Err(Errno::EINVAL)
        }
        op::EXCHANGE => match exchange::exchange(c, &memory, cmd, arg) {
            Ok(outcome) => return outcome,
            Err(e) => Err(e),
        },
        op::MAXIMUM_RAM_PAGE => Ok(host().memmap.end().saturating_sub(1)),
        op::CURRENT_RESERVATION | op::MAXIMUM_RESERVATION | op::MAXIMUM_GPFN => size_of_domain(c, &memory, kind, arg),
        op::REMOVE_FROM_PHYSMAP => physmap::remove(c, &memory, arg),
        op::CLAIM_PAGES => claim(c, &memory, arg),
        op::GET_VNUMAINFO => vnuma(c, &memory, arg),
        op::RESERVED_DEVICE_MEMORY_MAP => reserved_device_memory(&memory, arg),
        op::MACHPHYS_MAPPING => machphys_mapping(&memory, arg),
        op::MACHPHYS_MFN_LIST => machphys_list(&memory, arg),
        op::MEMORY_MAP => map(c, &memory, arg),
        // The machine's map, and a map of the guest's own making, are for those who build guests.
        op::MACHINE_MEMORY_MAP | op::SET_MEMORY_MAP => Err(Errno::EPERM),
        _ => Err(Errno::ENOSYS),
    };
    result.into()
}

/// How much memory a domain has, may have, or numbers.
fn size_of_domain(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, kind: u64, arg: u64) -> Result<u64, Errno> {
    check_own(c, DomId::new(u16::from_le_bytes(memory.read_array(arg)?)))?;
    let domain = &c.vcpu.domain;
    let mut m = domain.memory.lock();
    Ok(match kind {
        op::CURRENT_RESERVATION => m.nr_frames(host().frames, domain.id),
        op::MAXIMUM_RESERVATION => m.max_frames,
        // What the guest says itself, in the shared page.
        _ => DirectMap.read_u64(m.shared_info.maddr().offset(shared_info::ARCH_MAX_PFN as u64)).saturating_sub(1),
    })
}

/// The domain's memory as a toolstack describes it: RAM from 0 to the most that the domain may have. It begins with less if `maxmem=` says so, and what
/// is missing is for its balloon.
fn map(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    let b = memory.read_array::<{ memory_map::SIZE }>(arg)?;
    let nr = field_u32(&b, memory_map::NR_ENTRIES).min(1);
    if nr == 1 {
        let len_bytes = c.vcpu.domain.memory.lock().max_frames.saturating_mul(PAGE_SIZE);
        let mut entry = [0; 20];
        entry[8..16].copy_from_slice(&len_bytes.to_le_bytes());
        entry[16..].copy_from_slice(&E820_RAM.to_le_bytes());
        memory.write(field_u64(&b, memory_map::BUFFER), &entry)?;
    }
    memory.write_u32(arg.wrapping_add(memory_map::NR_ENTRIES as u64), nr)?;
    Ok(0)
}

/// `XENMEM_claim_pages` is a toolstack's; all that an ordinary domain learns is what is wrong with its argument.
fn claim(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    let b = memory.read_array::<{ res::SIZE }>(arg)?;
    let is_plain = field_u64(&b, res::EXTENT_START) == 0
        && field_u32(&b, res::EXTENT_ORDER) == 0
        && field_u32(&b, res::MEM_FLAGS) == 0;
    let domid = DomId::new(field_u16(&b, res::DOMID));
    // A domain has to be named by its number.
    let is_there = domid != DomId::SELF && is_own(c, domid).is_ok();
    Err(if is_plain && is_there { Errno::EPERM } else { Errno::EINVAL })
}

/// {u16 domid, u16 padding, ...}: no domain has nodes of its own.
fn vnuma(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    const LEN: usize = 40;
    let b = memory.read_array::<LEN>(arg)?;
    if field_u16(&b, 2) != 0 {
        return Err(Errno::EINVAL);
    }
    check_own(c, DomId::new(field_u16(&b, 0)))?;
    Err(Errno::EOPNOTSUPP)
}

/// {u32 flags, u32 nr_entries, ...}: without an IOMMU no memory is reserved for devices.
fn reserved_device_memory(memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    const LEN: usize = 24;
    const ALL: u32 = 1;
    let b = memory.read_array::<LEN>(arg)?;
    if field_u32(&b, 0) & !ALL != 0 {
        return Err(Errno::EINVAL);
    }
    memory.write_u32(arg.wrapping_add(4), 0)?;
    Ok(0)
}

/// {u64 first address, u64 first behind it, u64 last frame} of the M2P.
fn machphys_mapping(memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    let end = host().memmap.end();
    let blocks = m2p::M2p::blocks_for(end);
    for (i, word) in [M2P_VA, M2P_VA + blocks * CHUNK_SIZE, end.saturating_sub(1)].into_iter().enumerate() {
        memory.write_u64(arg.wrapping_add(i as u64 * 8), word)?;
    }
    Ok(0)
}

/// {u32 max_extents, u64 list, u32 nr_extents}: the frames that the M2P is made of, 2 MiB each.
fn machphys_list(memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    let b = memory.read_array::<24>(arg)?;
    let (max, list) = (u64::from(field_u32(&b, 0)), field_u64(&b, 8));
    let mut n = 0;
    for (_, block) in host().m2p.blocks().take(max as usize) {
        memory.write_u64(list.wrapping_add(n * 8), block.get())?;
        n += 1;
    }
    memory.write_u32(arg.wrapping_add(16), n as u32)?;
    Ok(0)
}
