//! `memory_op`: a domain's memory grows, shrinks and changes.

use super::{Caller, Outcome};
use crate::frame::{CHUNK_SIZE, DomId, Mfn, MfnRange, Order, Pfn};
use crate::mm::buddy::Block;
use crate::mm::extents::ExtentMap;
use crate::mm::m2p;
use crate::mm::page_info::{CountFlags, NoPage, PageLookup};
use crate::run::domain::{Domain, DomainMemory};
use crate::run::guest_mem::{GuestMem, field_u16, field_u32, field_u64};
use crate::run::host::{Host, host};
use crate::x86::directmap::DirectMap;
use crate::x86::paging::M2P_VA;
use crate::xen::Errno;
use crate::xen::hypercall::memory_op as op;
use crate::xen::layout::{memory_exchange, memory_reservation as res};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

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
        // Only operations that give way have a place to go on from.
        op::EXCHANGE | op::MAXIMUM_RAM_PAGE | op::CURRENT_RESERVATION | op::MAXIMUM_RESERVATION if start != 0 => {
            Err(Errno::EINVAL)
        }
        op::INCREASE_RESERVATION | op::DECREASE_RESERVATION | op::POPULATE_PHYSMAP => {
            return reserve(c, &memory, kind, start, arg);
        }
        op::EXCHANGE => match exchange(c, &memory, cmd, arg) {
            Ok(outcome) => return outcome,
            Err(e) => Err(e),
        },
        op::MAXIMUM_RAM_PAGE => Ok(host.memmap.end().saturating_sub(1)),
        op::CURRENT_RESERVATION | op::MAXIMUM_RESERVATION => (|| {
            is_self(c, DomId::new(u16::from_le_bytes(memory.read_array(arg)?)))?;
            let m = c.vcpu.domain.memory.lock();
            Ok(if kind == op::CURRENT_RESERVATION { m.extents.nr_frames() } else { m.max_frames })
        })(),
        op::MACHPHYS_MAPPING => (|| {
            let blocks = m2p::M2p::blocks_for(host.memmap.end());
            let max_mfn = host.memmap.end().saturating_sub(1);
            for (i, word) in [M2P_VA, M2P_VA + blocks * CHUNK_SIZE, max_mfn].into_iter().enumerate() {
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
    check_pfn(pfn, order)?;
    let mut m = domain.memory.lock();
    let wanted = m.extents.nr_frames().saturating_add(order.nr_frames());
    if wanted > m.max_frames {
        return Err(Errno::ENOMEM);
    }
    let block = host.alloc_private(order).ok_or(Errno::ENOMEM)?;
    assign(host, domain, &mut m, block, pfn)
}

/// A block cannot begin so high that its last page has no number.
fn check_pfn(pfn: Option<Pfn>, order: Order) -> Result<(), Errno> {
    match pfn {
        Some(pfn) if pfn.checked_add(order.nr_frames() - 1).is_none() => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// Makes a zeroed block a domain's. Its page numbers have been checked.
fn assign(host: &Host, domain: &Domain, m: &mut DomainMemory, block: Block, pfn: Option<Pfn>) -> Result<Mfn, Errno> {
    let block = match host.frames.into_domain(block, domain.id) {
        Ok(block) => block,
        Err(refused) => {
            host.frames.free(refused.block);
            return Err(Errno::ENOMEM);
        }
    };
    let inserted = m.extents.insert(pfn, block.mfn(), block.order().nr_frames());
    assert!(inserted.is_ok(), "fresh memory is in nobody's extents (I6)");
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
        if is_registered(domain, mfn) || domain.memory.lock().extents.remove(mfn, 1).is_err() {
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

/// True for a frame that the hypervisor writes to for as long as the domain lives. Xen would keep such a page alive without an owner's
/// reference; here all that a domain has is in its extents, or an update could not say whose it is.
fn is_registered(domain: &Domain, mfn: Mfn) -> bool {
    if mfn == domain.rings.console || mfn == domain.rings.store {
        return true;
    }
    domain.vcpus.lock().iter().any(|vcpu| {
        let v = vcpu.state.lock();
        v.info_registered && v.info.mfn_containing() == mfn
    })
}

/// How the extents of the two sides of an exchange fit together: so many of each make a chunk, which is exchanged as a whole.
#[derive(Clone, Copy)]
struct Chunks {
    nr: u64,
    give: u64,
    get: u64,
}

/// `give` and `get` are number and order of extents. Nothing if they are not the same amount of memory.
fn chunks(give: (u64, Order), get: (u64, Order)) -> Option<Chunks> {
    let frames = |(nr, order): (u64, Order)| nr.checked_mul(order.nr_frames());
    if frames(give)? != frames(get)? {
        return None;
    }
    let largest = give.1.max(get.1).nr_frames();
    let per_chunk = |order: Order| largest / order.nr_frames();
    // The side with the larger extents has one of them in each chunk.
    Some(Chunks { nr: give.0.min(get.0), give: per_chunk(give.1), get: per_chunk(get.1) })
}

/// `XENMEM_exchange`: blocks of one order for as much memory in blocks of another, chunk by chunk.
fn exchange(c: &mut Caller<'_>, memory: &GuestMem<'_, DirectMap>, cmd: u64, arg: u64) -> Result<Outcome, Errno> {
    let b = memory.read_array::<{ memory_exchange::SIZE }>(arg)?;
    let give_up = reservation(&b[memory_exchange::IN..])?;
    let get = reservation(&b[memory_exchange::OUT..])?;
    is_self(c, give_up.domid)?;
    let done = field_u64(&b, memory_exchange::NR_EXCHANGED);
    if get.domid != give_up.domid || done > give_up.nr {
        return Err(Errno::EINVAL);
    }
    let chunks = chunks((give_up.nr, give_up.order), (get.nr, get.order)).ok_or(Errno::EINVAL)?;
    let domain = c.vcpu.domain.clone();
    // As in Xen, an incomplete chunk is begun anew.
    let first = done / chunks.give;
    let mut chunk = first;
    let mut result = Ok(());
    while chunk < chunks.nr && result.is_ok() {
        if chunk > first && c.should_give_way() {
            break;
        }
        result = exchange_chunk(&domain, memory, &give_up, &get, chunks, chunk);
        if result.is_ok() {
            chunk += 1;
        }
    }
    memory.write_u64(arg.wrapping_add(memory_exchange::NR_EXCHANGED as u64), chunk * chunks.give)?;
    result?;
    Ok(if chunk < chunks.nr { Outcome::Again([cmd, arg, 0, 0, 0]) } else { Outcome::Done(0) })
}

/// All that is given up is looked at and the new memory is there before anything is changed.
fn exchange_chunk(
    domain: &Domain,
    memory: &GuestMem<'_, DirectMap>,
    give_up: &Reservation,
    get: &Reservation,
    chunks: Chunks,
    chunk: u64,
) -> Result<(), Errno> {
    let host = host();
    let element = |list: u64, n: u64| list.wrapping_add(n.wrapping_mul(8));
    let (first_given, first_got) = (chunk * chunks.give, chunk * chunks.get);

    let mut ranges = room_for(chunks.give)?;
    for n in first_given..first_given + chunks.give {
        let mfn = Mfn::try_new(memory.read_u64(element(give_up.list, n))?).map_err(|_| Errno::EINVAL)?;
        ranges.push(MfnRange::try_new(mfn, give_up.order.nr_frames()).map_err(|_| Errno::EINVAL)?);
    }
    let mut pfns = room_for(chunks.get)?;
    for n in first_got..first_got + chunks.get {
        let pfn = Pfn::try_new(memory.read_u64(element(get.list, n))?).map_err(|_| Errno::EINVAL)?;
        check_pfn(Some(pfn), get.order)?;
        pfns.push(pfn);
    }
    let mut blocks = room_for(chunks.get)?;
    for _ in 0..chunks.get {
        match host.alloc_private(get.order) {
            Some(block) => blocks.push(block),
            None => {
                blocks.into_iter().for_each(|block| host.frames.free(block));
                return Err(Errno::ENOMEM);
            }
        }
    }
    if let Err(e) = give_up_ranges(domain, &ranges, chunks.give * give_up.order.nr_frames()) {
        blocks.into_iter().for_each(|block| host.frames.free(block));
        return Err(e);
    }
    let mut m = domain.memory.lock();
    let mut result = Ok(());
    for ((block, pfn), n) in blocks.into_iter().zip(pfns).zip(first_got..) {
        let mfn = assign(host, domain, &mut m, block, Some(pfn))?;
        result = result.and(memory.write_u64(element(get.list, n), mfn.get()));
    }
    Ok(result?)
}

/// An empty list with room for `nr` items; a guest's demand must not exhaust the hypervisor's own heap.
fn room_for<T>(nr: u64) -> Result<Vec<T>, Errno> {
    let mut list = Vec::new();
    list.try_reserve_exact(nr as usize).map_err(|_| Errno::ENOMEM)?;
    Ok(list)
}

/// Takes frames out of a domain that nothing refers to but the domain itself; nothing changes if one of them is referred to, or is named twice.
fn give_up_ranges(domain: &Domain, ranges: &[MfnRange], nr_frames: u64) -> Result<(), Errno> {
    let host = host();
    let mut m = domain.memory.lock();
    let mut taken: Vec<(Mfn, Option<Pfn>)> = room_for(nr_frames)?;
    let mut result = Ok(());
    for mfn in ranges.iter().flat_map(|range| range.iter()) {
        result = is_lone(host, &m.extents, mfn).and_then(|pfn| {
            m.extents.remove(mfn, 1).map_err(|_| Errno::EINVAL)?;
            taken.push((mfn, pfn));
            Ok(())
        });
        if result.is_err() {
            break;
        }
    }
    if let Err(e) = result {
        for (mfn, pfn) in taken {
            let back = m.extents.insert(pfn, mfn, 1);
            assert!(back.is_ok(), "a frame just taken out has its place (I6)");
        }
        return Err(e);
    }
    drop(m);
    let types = host.types(domain);
    for (mfn, _) in taken {
        host.m2p.set(&DirectMap, mfn, m2p::INVALID);
        let released = types.release_page(mfn);
        assert!(released.is_ok(), "an owner's only reference is there to be dropped (I6)");
    }
    host.settle(&types, domain);
    Ok(())
}

/// The domain's number for a frame that is the domain's and that only its owner's own reference keeps.
fn is_lone(host: &Host, extents: &ExtentMap, mfn: Mfn) -> Result<Option<Pfn>, Errno> {
    let pfn = extents.lookup(mfn).ok_or(Errno::EINVAL)?;
    let page = host.frames.page(mfn).map_err(|e| if e == NoPage::NoMemory { Errno::ENOMEM } else { Errno::EINVAL })?;
    let is_allocated = page.count_info.load(Ordering::Acquire) & CountFlags::ALLOCATED.bits() != 0;
    if is_allocated && page.count() == 1 && page.type_count() == 0 { Ok(pfn) } else { Err(Errno::EINVAL) }
}
