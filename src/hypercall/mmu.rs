//! Changes of page tables and descriptors: `mmu_update`, `update_va_mapping`, `update_descriptor`. The rules are in [`crate::mm::types`].

use super::{Caller, Outcome};
use crate::frame::{DomId, Maddr, Pfn};
use crate::mm::extents::{ExtentError, has_numbers};
use crate::mm::m2p;
use crate::mm::types::TypeError;
use crate::run::domain::Domain;
use crate::run::guest_mem::{GuestMem, field_u64};
use crate::run::host::host;
use crate::x86::directmap::DirectMap;
use crate::x86::paging;
use crate::xen::Errno;
use crate::xen::hypercall::{mmu_update as op, uvmf};
use crate::xen::layout;

/// Requests between two looks at the clock.
const BATCH: u64 = 64;

/// Xen's errno of a refusal of the page-type engine.
pub fn errno(e: TypeError) -> Errno {
    Errno::from_rax(e.errno() as u64).unwrap_or(Errno::EINVAL)
}

/// Bits 15:0 of a call's domain name whose frames it is about: the caller's, which has to call itself DOMID_SELF, as Xen's
/// `get_pg_owner` will have it.
pub fn check_frames_owner(c: &Caller<'_>, domid: u64) -> Result<(), Errno> {
    match DomId::new(domid as u16) {
        DomId::SELF => Ok(()),
        // Domains without privilege have no frames of the machine's, or of the hypervisor's.
        DomId::IO | DomId::XEN => Err(Errno::EPERM),
        me if me == c.vcpu.domain.id => Err(Errno::ESRCH),
        other => foreign(other),
    }
}

/// Bits 31:16 of `mmu_update`'s domain name whose tables are changed, as number + 1; 0 is the caller.
fn check_tables_owner(c: &Caller<'_>, domid: u64) -> Result<(), Errno> {
    match ((domid >> 16) as u16).checked_sub(1).map(DomId::new) {
        None => Ok(()),
        Some(id) if id == c.vcpu.domain.id => Ok(()),
        Some(id) => foreign(id),
    }
}

/// The refusal for a domain that is not the caller, or is not there at all.
fn foreign(id: DomId) -> Result<(), Errno> {
    Err(if host().domain(id).is_some() { Errno::EPERM } else { Errno::ESRCH })
}

/// Writes the number of requests done to where the guest wants it. That it cannot be written changes nothing, as in Xen.
pub fn report_done(memory: &GuestMem<'_, DirectMap>, at: u64, done: u64) {
    if at != 0 {
        let _ = memory.write_u32(at, done as u32);
    }
}

/// Where a continued call left off: the count without the flag, and what was done before.
pub fn resume(memory: &GuestMem<'_, DirectMap>, count: u64, done_at: u64) -> (u64, u64) {
    let is_rest = count & op::PREEMPTED != 0;
    let before = if is_rest && done_at != 0 { memory.read_u32(done_at).map_or(0, u64::from) } else { 0 };
    // The count is 32 bits wide, with the flag on top.
    (count & (op::PREEMPTED - 1), before)
}

/// `mmu_update(requests, count, done, domid)`.
pub fn mmu_update(c: &mut Caller<'_>, list: u64, count: u64, done_at: u64, domid: u64) -> Outcome {
    let start = check_tables_owner(c, domid).and_then(|()| check_frames_owner(c, domid)).and_then(|()| c.memory());
    let memory = match start {
        Ok(memory) => memory,
        Err(e) => return Err::<u64, _>(e).into(),
    };
    let (count, before) = resume(&memory, count, done_at);
    const SIZE: u64 = layout::mmu_update::SIZE as u64;
    let domain = c.vcpu.domain.clone();
    let host = host();
    let types = host.types(&domain);
    let mut stale = false;
    let mut result = Ok(0);
    let mut i = 0;
    while i < count {
        if i > 0 && i.is_multiple_of(BATCH) && c.should_give_way() {
            break;
        }
        let step = memory.read_array::<{ layout::mmu_update::SIZE }>(list.wrapping_add(i * SIZE));
        let done = step.map_err(Errno::from).and_then(|b| {
            let (ptr, val) = (field_u64(&b, layout::mmu_update::PTR), field_u64(&b, layout::mmu_update::VAL));
            if ptr & op::CMD_MASK == op::MACHPHYS {
                return set_machphys(&domain, ptr & !op::CMD_MASK, val).map(|()| false);
            }
            types.mmu_update(ptr, val).map_err(errno)
        });
        match done {
            Ok(changed) => stale |= changed,
            Err(e) => {
                result = Err(e);
                break;
            }
        }
        i += 1;
    }
    host.settle(&types, &domain);
    if stale {
        paging::flush_all();
    }
    report_done(&memory, done_at, before + i);
    if result.is_ok() && i < count {
        return Outcome::Again([list.wrapping_add(i * SIZE), (count - i) | op::PREEMPTED, done_at, domid, 0]);
    }
    result.into()
}

/// MMU_MACHPHYS_UPDATE: the guest says which of its pages a frame of its own is.
fn set_machphys(domain: &Domain, maddr: u64, pfn: u64) -> Result<(), Errno> {
    let mfn = Maddr::try_new(maddr).map_err(|_| Errno::EINVAL)?.mfn_containing();
    let host = host();
    // What is no number is none: Xen would keep it in its table, and nowhere else.
    let pfn = Pfn::try_new(pfn).ok().filter(|&pfn| has_numbers(pfn, 1));
    // Only frames of the domain are in its extents.
    let errno = |e| if e == ExtentError::NoMemory { Errno::ENOMEM } else { Errno::EINVAL };
    domain.memory.lock().extents.set_pfn(mfn, pfn).map_err(errno)?;
    host.m2p.set(&DirectMap, mfn, pfn.map_or(m2p::INVALID, Pfn::get));
    Ok(())
}

/// `update_va_mapping(va, entry, flags)`.
pub fn update_va_mapping(c: &mut Caller<'_>, va: u64, entry: u64, flags: u64) -> Result<u64, Errno> {
    let l4 = c.vcpu.state.lock().kernel_l4.ok_or(Errno::EINVAL)?;
    let domain = c.vcpu.domain.clone();
    let host = host();
    let types = host.types(&domain);
    let result = types.update_va_mapping(l4, va, entry).map_err(errno);
    host.settle(&types, &domain);
    let changed = result?;
    let whom = flags & !uvmf::FLUSHTYPE_MASK;
    let is_flush = matches!(flags & uvmf::FLUSHTYPE_MASK, uvmf::TLB_FLUSH | uvmf::INVLPG);
    // The entry is changed and, on one CPU, flushed for all vCPUs, whoever they are said to be.
    let named = if is_flush && whom != 0 && whom != uvmf::ALL { check_vcpu_mask(c, whom) } else { Ok(0) };
    match flags & uvmf::FLUSHTYPE_MASK {
        uvmf::TLB_FLUSH => paging::flush_all(),
        uvmf::INVLPG => paging::flush_page(va),
        // A translation that went away must not be used again by anybody, whatever the guest asks for.
        _ if changed => paging::flush_page(va),
        _ => {}
    }
    named
}

/// `update_va_mapping_otherdomain(va, entry, flags, domid)`.
pub fn update_va_mapping_otherdomain(
    c: &mut Caller<'_>,
    va: u64,
    entry: u64,
    flags: u64,
    domid: u64,
) -> Result<u64, Errno> {
    check_frames_owner(c, domid)?;
    update_va_mapping(c, va, entry, flags)
}

/// Reads a mask of vCPUs, a bit each in 64-bit words, as far as the domain has vCPUs.
pub fn check_vcpu_mask(c: &Caller<'_>, at: u64) -> Result<u64, Errno> {
    let memory = c.memory()?;
    let nr_words = c.vcpu.domain.vcpus.lock().len().div_ceil(64) as u64;
    for i in 0..nr_words {
        memory.read_u64(at.wrapping_add(i * 8))?;
    }
    Ok(0)
}

/// `update_descriptor(maddr, descriptor)`.
pub fn update_descriptor(c: &mut Caller<'_>, maddr: u64, descriptor: u64) -> Result<u64, Errno> {
    let domain = c.vcpu.domain.clone();
    let host = host();
    let types = host.types(&domain);
    let result = types.update_descriptor(maddr, descriptor).map_err(errno);
    host.settle(&types, &domain);
    result.map(|()| 0)
}
