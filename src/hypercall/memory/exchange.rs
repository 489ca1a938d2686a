//! `XENMEM_exchange`: single pages for memory that lies together, or low, and back.

use super::reserve::{alloc_zeroed, assign, check_pfn};
use super::{Caller, Outcome, check_own};
use crate::domain::exchange::{Chunks, Extents};
use crate::domain::reservation::Reservation;
use crate::frame::{Mfn, MfnRange, Pfn};
use crate::mm::extents::{ExtentError, ExtentMap};
use crate::mm::m2p;
use crate::mm::page_info::{CountFlags, NoPage, PageLookup};
use crate::run::domain::Domain;
use crate::run::guest_mem::{GuestMem, field_u64};
use crate::run::host::{Host, host};
use crate::x86::directmap::DirectMap;
use crate::xen::Errno;
use crate::xen::layout::memory_exchange;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// `XENMEM_exchange`: blocks of one order for as much memory in blocks of another, chunk by chunk.
pub fn exchange(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, cmd: u64, arg: u64) -> Result<Outcome, Errno> {
    let b = memory.read_array::<{ memory_exchange::SIZE }>(arg)?;
    let give_up = Reservation::decode(&b[memory_exchange::IN..])?;
    let get = Reservation::decode(&b[memory_exchange::OUT..])?;
    let done = field_u64(&b, memory_exchange::NR_EXCHANGED);
    if get.domid != give_up.domid || done > give_up.nr {
        return Err(Errno::EINVAL);
    }
    let side = |r: &Reservation| Extents { nr: r.nr, order: r.order };
    let chunks = Chunks::of(side(&give_up), side(&get)).ok_or(Errno::EINVAL)?;
    check_own(c, give_up.domid)?;
    let limit = get.flags.exchange_limit()?;
    let domain = c.vcpu.domain.clone();
    // As in Xen, an incomplete chunk is begun anew.
    let first = done / chunks.give;
    let mut chunk = first;
    let mut result = Ok(());
    while chunk < chunks.nr && result.is_ok() {
        if chunk > first && c.should_give_way() {
            break;
        }
        result = exchange_chunk(&domain, memory, &give_up, (&get, limit), chunks, chunk);
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
    (get, limit): (&Reservation, Option<u64>),
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
        match alloc_zeroed(host, get.order, limit) {
            Some(block) => blocks.push(block),
            None => {
                blocks.into_iter().for_each(|block| host.frames.free(block.into_block()));
                return Err(Errno::ENOMEM);
            }
        }
    }
    if let Err(e) = give_up_ranges(domain, &ranges, chunks.give * give_up.order.nr_frames()) {
        blocks.into_iter().for_each(|block| host.frames.free(block.into_block()));
        return Err(e);
    }
    let mut m = domain.memory.lock();
    let mut result = Ok(());
    for ((block, pfn), n) in blocks.into_iter().zip(pfns).zip(first_got..) {
        // Each block finds its way, into the domain or back, whatever became of those before it.
        let assigned = assign(host, domain, &mut m, block, Some(pfn));
        result = result.and(assigned.and_then(|mfn| Ok(memory.write_u64(element(get.list, n), mfn.get())?)));
    }
    result
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
            let errno = |e| if e == ExtentError::NoMemory { Errno::ENOMEM } else { Errno::EINVAL };
            m.extents.remove(mfn, 1).map_err(errno)?;
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
