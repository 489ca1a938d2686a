//! A domain gets memory and gives memory up, extent by extent.

use super::{Caller, Outcome, START_EXTENT_SHIFT, check_own};
use crate::domain::reservation::Reservation;
use crate::frame::{Mfn, MfnRange, Order, Pfn};
use crate::mm::buddy::Scrubbed;
use crate::mm::extents::has_numbers;
use crate::mm::m2p;
use crate::mm::page_info::{NoPage, PageLookup};
use crate::run::domain::{Domain, DomainMemory};
use crate::run::guest_mem::GuestMem;
use crate::run::host::{Host, host};
use crate::x86::directmap::DirectMap;
use crate::xen::Errno;
use crate::xen::hypercall::memory_op as op;
use crate::xen::layout::memory_reservation as res;

/// Extents between two looks at the clock.
const BATCH: u64 = 16;
/// The most extents of a call: what the command has bits for when it is continued.
const MAX_EXTENTS: u64 = (u32::MAX >> START_EXTENT_SHIFT) as u64;

/// `XENMEM_increase_reservation`, `XENMEM_decrease_reservation` and `XENMEM_populate_physmap`.
///
/// As in Xen, the answer is how many extents are done, and all that can be wrong shows in that.
pub fn reserve(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, kind: u64, start: u64, arg: u64) -> Outcome {
    let checked = memory.read_array::<{ res::SIZE }>(arg).map_err(Errno::from).and_then(|bytes| {
        let r = Reservation::decode(&bytes)?;
        check_own(c, r.domid)?;
        let limit = r.flags.reservation_limit(host().memmap.end())?;
        Ok((r, limit))
    });
    let Ok((r, limit)) = checked else { return Outcome::Done(start) };
    // Memory that comes when it is used first is for guests that others build, and have hardware for it.
    let is_on_demand = kind == op::POPULATE_PHYSMAP && r.flags.is_populate_on_demand();
    if r.nr > MAX_EXTENTS || is_on_demand {
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
                let mfn = take(&domain, r.order, limit, Some(pfn))?;
                Ok(memory.write_u64(at, mfn.get())?)
            }),
            _ => take(&domain, r.order, limit, None).and_then(|mfn| {
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

/// A zeroed block that may become a guest's, all of it below the frame number `limit` if there is one.
pub fn alloc_zeroed(host: &Host, order: Order, limit: Option<u64>) -> Option<Scrubbed> {
    host.frames.alloc_below(order, limit.unwrap_or(u64::MAX)).map(|block| block.scrub(&DirectMap))
}

/// Gives a domain a zeroed block.
fn take(domain: &Domain, order: Order, limit: Option<u64>, pfn: Option<Pfn>) -> Result<Mfn, Errno> {
    let host = host();
    check_pfn(pfn, order)?;
    let mut m = domain.memory.lock();
    let wanted = m.nr_frames(host.frames, domain.id).saturating_add(order.nr_frames());
    if wanted > m.max_frames {
        return Err(Errno::ENOMEM);
    }
    let block = alloc_zeroed(host, order, limit).ok_or(Errno::ENOMEM)?;
    assign(host, domain, &mut m, block, pfn)
}

/// A block cannot begin so high that its last page has no number.
pub fn check_pfn(pfn: Option<Pfn>, order: Order) -> Result<(), Errno> {
    match pfn {
        Some(pfn) if !has_numbers(pfn, order.nr_frames()) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// Makes a zeroed block a domain's. Its page numbers have been checked.
pub fn assign(
    host: &Host,
    domain: &Domain,
    m: &mut DomainMemory,
    block: Scrubbed,
    pfn: Option<Pfn>,
) -> Result<Mfn, Errno> {
    if m.extents.make_room().is_err() {
        host.frames.free(block.into_block());
        return Err(Errno::ENOMEM);
    }
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

/// Takes a block from a domain: what something still refers to goes with its last reference.
fn give(domain: &Domain, mfn: u64, order: Order) -> Result<(), Errno> {
    let host = host();
    let first = Mfn::try_new(mfn).map_err(|_| Errno::EINVAL)?;
    let range = MfnRange::try_new(first, order.nr_frames()).map_err(|_| Errno::EINVAL)?;
    let types = host.types(domain);
    let result = range.iter().try_for_each(|mfn| {
        let mut m = domain.memory.lock();
        let Some(pfn) = m.extents.lookup(mfn) else {
            // It has been given up before; to say so once more changes nothing, in Xen too. shared_info is in neither list.
            let lingers = m.lingering.contains(mfn) && host.frames.is_lingering(mfn, domain.id);
            return if lingers { Ok(()) } else { Err(Errno::ENXIO) };
        };
        let page =
            host.frames.page(mfn).map_err(|e| if e == NoPage::NoMemory { Errno::ENOMEM } else { Errno::ENXIO })?;
        if page.count() > 1 && !m.has_room_for_lingering(host.frames, domain.id) {
            return Err(Errno::EBUSY);
        }
        // The frame was just looked up: what can be lacking is memory for the pieces that are left.
        m.extents.remove(mfn, 1).map_err(|_| Errno::ENOMEM)?;
        match types.release_page(mfn) {
            Ok(true) => {}
            Ok(false) => m.lingering.insert(mfn),
            // The count is at its limit: nothing has changed.
            Err(_) => {
                let back = m.extents.insert(pfn, mfn, 1);
                assert!(back.is_ok(), "a frame just taken out has its place (I6)");
                return Err(Errno::ENXIO);
            }
        }
        host.m2p.set(&DirectMap, mfn, m2p::INVALID);
        Ok(())
    });
    host.settle(&types, domain);
    result
}
