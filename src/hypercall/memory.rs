//! `memory_op`: a domain's memory grows, shrinks and changes.

use super::{Caller, Outcome};
use crate::frame::{CHUNK_SIZE, DomId, Mfn, MfnRange, Order, Pfn};
use crate::mm::m2p;
use crate::run::domain::Domain;
use crate::run::guest_mem::{GuestMem, field_u16, field_u32, field_u64};
use crate::run::host::host;
use crate::x86::directmap::DirectMap;
use crate::x86::paging::M2P_VA;
use crate::xen::Errno;
use crate::xen::hypercall::memory_op as op;
use crate::xen::layout::{memory_exchange, memory_reservation as res};

/// Bits of the command that carry where a continued call goes on.
const START_EXTENT_SHIFT: u32 = 6;
/// Largest block that a guest without hardware may ask for: 2 MiB, as Xen's domU limit.
const MAX_ORDER: u32 = 9;
/// Extents between two looks at the clock.
const BATCH: u64 = 16;

struct Reservation {
    list: u64,
    nr: u64,
    order: Order,
    domid: DomId,
}

fn reservation(bytes: &[u8]) -> Result<Reservation, Errno> {
    let order = field_u32(bytes, res::EXTENT_ORDER);
    if order > MAX_ORDER {
        return Err(Errno::EPERM);
    }
    Ok(Reservation {
        list: field_u64(bytes, res::EXTENT_START),
        nr: field_u64(bytes, res::NR_EXTENTS),
        order: Order::new(order as u8),
        domid: DomId::new(field_u16(bytes, res::DOMID)),
    })
}

fn is_self(c: &Caller<'_>, domid: DomId) -> Result<(), Errno> {
    if domid == DomId::SELF || domid == c.vcpu.domain.id {
        return Ok(());
    }
    Err(if host().domain(domid).is_some() { Errno::EPERM } else { Errno::ESRCH })
}

/// `memory_op(cmd, arg)`.
pub fn memory_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Outcome {
    let (kind, start) = (cmd & op::CMD_MASK, cmd >> START_EXTENT_SHIFT);
    let memory = match c.memory() {
        Ok(memory) => memory,
        Err(e) => return Err::<u64, _>(e).into(),
    };
    let host = host();
    let result = match kind {
        op::INCREASE_RESERVATION | op::DECREASE_RESERVATION | op::POPULATE_PHYSMAP => {
            return reserve(c, &memory, kind, start, arg);
        }
        op::EXCHANGE => exchange(c, &memory, arg),
        op::MAXIMUM_RAM_PAGE => Ok(host.memmap.end().saturating_sub(1)),
        op::CURRENT_RESERVATION | op::MAXIMUM_RESERVATION => (|| {
            is_self(c, DomId::new(u16::from_le_bytes(memory.read_array(arg)?)))?;
            let m = c.vcpu.domain.memory.lock();
            Ok(if kind == op::CURRENT_RESERVATION { m.extents.nr_frames() } else { m.max_frames })
        })(),
        op::MACHPHYS_MAPPING => (|| {
            let blocks = m2p::M2p::blocks_for(host.memmap.end());
            for (i, word) in [M2P_VA, M2P_VA + blocks * CHUNK_SIZE, host.memmap.end()].into_iter().enumerate() {
                memory.write_u64(arg.wrapping_add(i as u64 * 8), word)?;
            }
            Ok(0)
        })(),
        op::MACHPHYS_MFN_LIST => machphys_list(&memory, arg),
        // The guest makes up its own map of nr_pages from 0 on, as for a domain whose toolstack gave none.
        op::MEMORY_MAP => Err(Errno::ENOSYS),
        op::MACHINE_MEMORY_MAP => Err(Errno::EPERM),
        _ => Err(Errno::ENOSYS),
    };
    result.into()
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

fn reserve(c: &mut Caller<'_>, memory: &GuestMem<'_, DirectMap>, kind: u64, start: u64, arg: u64) -> Outcome {
    // As Xen: a reservation that cannot be read or is not allowed does as many extents as were done before.
    let Ok(bytes) = memory.read_array::<{ res::SIZE }>(arg) else { return Outcome::Done(start) };
    let Ok(r) = reservation(&bytes) else { return Outcome::Done(start) };
    if is_self(c, r.domid).is_err() || r.nr > u64::from(u32::MAX) {
        return Outcome::Done(start);
    }
    let domain = c.vcpu.domain.clone();
    let mut i = start;
    while i < r.nr {
        if i > start && i.is_multiple_of(BATCH) && c.should_give_way() {
            return Outcome::Again([kind | i << START_EXTENT_SHIFT, arg, 0, 0, 0]);
        }
        let at = r.list.wrapping_add(i * 8);
        let done = match kind {
            op::DECREASE_RESERVATION => {
                memory.read_u64(at).map_err(Errno::from).and_then(|mfn| give(&domain, mfn, r.order))
            }
            op::POPULATE_PHYSMAP => memory.read_u64(at).map_err(Errno::from).and_then(|pfn| {
                let pfn = Pfn::try_new(pfn).map_err(|_| Errno::EINVAL)?;
                let mfn = take(&domain, r.order, Some(pfn))?;
                Ok(memory.write_u64(at, mfn.get())?)
            }),
            _ => take(&domain, r.order, None).and_then(|mfn| {
                if r.list != 0 {
                    memory.write_u64(at, mfn.get())?;
                }
                Ok(())
            }),
        };
        if done.is_err() {
            break;
        }
        i += 1;
    }
    Outcome::Done(i)
}

/// Gives a domain a zeroed block.
fn take(domain: &Domain, order: Order, pfn: Option<Pfn>) -> Result<Mfn, Errno> {
    let host = host();
    let n = order.nr_frames();
    let mut m = domain.memory.lock();
    if m.extents.nr_frames() + n > m.max_frames {
        return Err(Errno::ENOMEM);
    }
    let block = host.alloc_private(order).ok_or(Errno::ENOMEM)?;
    let block = match host.frames.into_domain(block, domain.id) {
        Ok(block) => block,
        Err(refused) => {
            host.frames.free(refused.block);
            return Err(Errno::ENOMEM);
        }
    };
    m.extents.insert(pfn, block.mfn(), n).map_err(|_| Errno::EINVAL)?;
    match pfn {
        Some(pfn) => host.m2p.set_run(&DirectMap, block.range(), pfn),
        None => block.range().iter().for_each(|mfn| host.m2p.set(&DirectMap, mfn, m2p::INVALID)),
    }
    Ok(block.mfn())
}

/// Takes a block from a domain: what is still mapped goes with its last mapping.
fn give(domain: &Domain, mfn: u64, order: Order) -> Result<(), Errno> {
    let host = host();
    let first = Mfn::try_new(mfn).map_err(|_| Errno::EINVAL)?;
    let range = MfnRange::try_new(first, order.nr_frames()).map_err(|_| Errno::EINVAL)?;
    let types = host.types(domain);
    let mut result = Ok(());
    for mfn in range.iter() {
        // In the extents is what the domain owns and has not given up yet; shared_info is not in them.
        if domain.memory.lock().extents.remove(mfn, 1).is_err() {
            result = Err(Errno::EINVAL);
            break;
        }
        host.m2p.set(&DirectMap, mfn, m2p::INVALID);
        if types.release_page(mfn).is_err() {
            result = Err(Errno::EINVAL);
            break;
        }
    }
    host.settle(&types, domain);
    result
}

/// `XENMEM_exchange`: blocks of one order for as much memory in blocks of another.
fn exchange(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, arg: u64) -> Result<u64, Errno> {
    let b = memory.read_array::<{ memory_exchange::SIZE }>(arg)?;
    let give_up = reservation(&b[memory_exchange::IN..])?;
    let get = reservation(&b[memory_exchange::OUT..])?;
    is_self(c, give_up.domid)?;
    let done = field_u64(&b, memory_exchange::NR_EXCHANGED);
    if get.domid != give_up.domid
        || give_up.nr.checked_shl(u32::from(give_up.order.get())) != get.nr.checked_shl(u32::from(get.order.get()))
        || done > give_up.nr
        || give_up.order > get.order
    {
        return Err(Errno::EINVAL);
    }
    let domain = c.vcpu.domain.clone();
    let host = host();
    let ratio = 1u64 << (get.order.get() - give_up.order.get());
    let types = host.types(&domain);
    let mut exchanged = done - done % ratio;
    let result = (|| {
        while exchanged < give_up.nr {
            // First all that is given up is looked at and taken out, then the new block comes in its place.
            let mut ranges = [MfnRange::EMPTY; 1 << MAX_ORDER];
            for (i, slot) in ranges[..ratio as usize].iter_mut().enumerate() {
                let raw = memory.read_u64(give_up.list.wrapping_add((exchanged + i as u64) * 8))?;
                let mfn = Mfn::try_new(raw).map_err(|_| Errno::EINVAL)?;
                *slot = MfnRange::try_new(mfn, give_up.order.nr_frames()).map_err(|_| Errno::EINVAL)?;
            }
            let at = exchanged / ratio;
            let pfn = memory.read_u64(get.list.wrapping_add(at * 8))?;
            let pfn = Pfn::try_new(pfn).map_err(|_| Errno::EINVAL)?;
            let block = host.alloc_private(get.order).ok_or(Errno::ENOMEM)?;
            if let Err(e) = give_up_ranges(&domain, &types, &ranges[..ratio as usize]) {
                host.frames.free(block);
                return Err(e);
            }
            let block = match host.frames.into_domain(block, domain.id) {
                Ok(block) => block,
                Err(refused) => {
                    host.frames.free(refused.block);
                    return Err(Errno::ENOMEM);
                }
            };
            domain
                .memory
                .lock()
                .extents
                .insert(Some(pfn), block.mfn(), get.order.nr_frames())
                .map_err(|_| Errno::EINVAL)?;
            host.m2p.set_run(&DirectMap, block.range(), pfn);
            memory.write_u64(get.list.wrapping_add(at * 8), block.mfn().get())?;
            exchanged += ratio;
        }
        Ok(0)
    })();
    host.settle(&types, &domain);
    memory.write_u64(arg.wrapping_add(memory_exchange::NR_EXCHANGED as u64), exchanged)?;
    result
}

/// Takes frames out of a domain that nothing refers to but the domain itself; nothing changes if one of them is referred to.
fn give_up_ranges(
    domain: &Domain,
    types: &crate::mm::types::PageTypes<'_, crate::mm::frametable::Frames, DirectMap>,
    ranges: &[MfnRange],
) -> Result<(), Errno> {
    use crate::mm::page_info::{CountFlags, PageLookup};
    let host = host();
    let mut m = domain.memory.lock();
    let frames = || ranges.iter().flat_map(|r| r.iter());
    for mfn in frames() {
        let lone = m.extents.lookup(mfn).is_some()
            && host.frames.page(mfn).is_ok_and(|p| {
                p.count() == 1
                    && p.type_count() == 0
                    && p.count_info.load(core::sync::atomic::Ordering::Acquire) & CountFlags::ALLOCATED.bits() != 0
            });
        if !lone {
            return Err(Errno::EINVAL);
        }
    }
    for mfn in frames() {
        m.extents.remove(mfn, 1).map_err(|_| Errno::EINVAL)?;
        host.m2p.set(&DirectMap, mfn, m2p::INVALID);
        types.release_page(mfn).map_err(super::mmu::errno)?;
    }
    Ok(())
}
