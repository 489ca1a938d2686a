//! `mmuext_op`: pins, base pointers, TLB, LDT, whole pages.

use super::mmu::{check_frames_owner, check_vcpu_mask, errno, report_done, resume};
use super::tables::is_guest_address;
use super::{Caller, Outcome};
use crate::frame::{Mfn, PAGE_SIZE};
use crate::mm::page_info::PageType;
use crate::mm::physmem::PhysMem;
use crate::mm::types::walk;
use crate::run::context;
use crate::run::domain::Domain;
use crate::run::guest_mem::{field_u32, field_u64};
use crate::run::host::host;
use crate::run::vcpu::{Vcpu, VcpuState};
use crate::x86::directmap::DirectMap;
use crate::x86::percpu::this_cpu;
use crate::x86::{desc, paging};
use crate::xen::Errno;
use crate::xen::hypercall::{mmu_update, mmuext as op};
use crate::xen::layout::mmuext_op as layout;

/// Most entries of an LDT.
const MAX_LDT_ENTRIES: u64 = 8192;

/// `mmuext_op(ops, count, done, domid)`.
pub fn mmuext_op(c: &mut Caller<'_>, list: u64, count: u64, done_at: u64, domid: u64) -> Outcome {
    let start = check_frames_owner(c, domid).and_then(|()| Ok(resume(&c.memory()?, count, done_at)));
    let (count, before) = match start {
        Ok(x) => x,
        Err(e) => return Err::<u64, _>(e).into(),
    };
    const SIZE: u64 = layout::SIZE as u64;
    let mut result = Ok(0);
    let mut i = 0;
    while i < count {
        if i > 0 && c.should_give_way() {
            break;
        }
        // The memory anew each time: an operation may have changed the page tables.
        let step = c.memory().and_then(|m| Ok(m.read_array::<{ layout::SIZE }>(list.wrapping_add(i * SIZE))?));
        let done = step
            .and_then(|b| one(c, field_u32(&b, layout::CMD), field_u64(&b, layout::ARG1), field_u64(&b, layout::ARG2)));
        if let Err(e) = done {
            result = Err(e);
            break;
        }
        i += 1;
    }
    if let Ok(memory) = c.memory() {
        report_done(&memory, done_at, before + i);
    }
    if result.is_ok() && i < count {
        let rest = (count - i) | mmu_update::PREEMPTED;
        return Outcome::Again([list.wrapping_add(i * SIZE), rest, done_at, domid, 0]);
    }
    result.into()
}

fn frame(raw: u64) -> Result<Mfn, Errno> {
    Mfn::try_new(raw).map_err(|_| Errno::EINVAL)
}

fn one(c: &mut Caller<'_>, cmd: u32, arg1: u64, arg2: u64) -> Result<(), Errno> {
    let domain = c.vcpu.domain.clone();
    let host = host();
    let types = host.types(&domain);
    let result = match cmd {
        op::PIN_L1_TABLE..=op::PIN_L4_TABLE => {
            let level = (cmd - op::PIN_L1_TABLE + 1) as u8;
            frame(arg1).and_then(|mfn| types.pin(mfn, level).map_err(errno))
        }
        op::UNPIN_TABLE => frame(arg1).and_then(|mfn| types.unpin(mfn).map_err(errno)),
        op::NEW_BASEPTR => frame(arg1).and_then(|l4| new_base(c.vcpu, l4)),
        op::NEW_USER_BASEPTR => new_user_base(c, &types, arg1),
        // One CPU runs: what it flushes is flushed for all vCPUs. A mask that cannot be read flushes nothing.
        op::TLB_FLUSH_MULTI | op::INVLPG_MULTI if check_vcpu_mask(c, arg2).is_err() => Err(Errno::EINVAL),
        op::TLB_FLUSH_LOCAL | op::TLB_FLUSH_MULTI | op::TLB_FLUSH_ALL => {
            paging::flush_all();
            Ok(())
        }
        op::INVLPG_LOCAL | op::INVLPG_MULTI | op::INVLPG_ALL => {
            // Nothing is mapped at an address that is not a guest's, and the hypervisor's own stay.
            if is_guest_address(arg1) {
                paging::flush_page(arg1);
            }
            Ok(())
        }
        // A domain without hardware has no reason to, as Xen has it.
        op::FLUSH_CACHE | op::FLUSH_CACHE_GLOBAL => Err(Errno::EACCES),
        // The number of entries is 32 bits wide; what lies above is whatever the guest's memory held before.
        op::SET_LDT => set_ldt(c, &domain, arg1, u64::from(arg2 as u32)),
        op::CLEAR_PAGE => frame(arg1).and_then(|mfn| {
            types.get_page_and_type(mfn, PageType::Writable).map_err(errno)?;
            DirectMap.zero(mfn.maddr(), PAGE_SIZE);
            types.put_page_and_type(mfn);
            Ok(())
        }),
        op::COPY_PAGE => frame(arg1).and_then(|to| {
            let from = frame(arg2)?;
            if host.frames.owner_of(from) != Some(domain.id) {
                return Err(Errno::EINVAL);
            }
            types.get_page_and_type(to, PageType::Writable).map_err(errno)?;
            DirectMap.copy_frame(from, to);
            types.put_page_and_type(to);
            Ok(())
        }),
        op::MARK_SUPER | op::UNMARK_SUPER => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    };
    host.settle(&types, &domain);
    result
}

/// Other page tables for the kernel of the running vCPU, which is in it.
pub fn new_base(vcpu: &Vcpu, l4: Mfn) -> Result<(), Errno> {
    let host = host();
    let types = host.types(&vcpu.domain);
    let result = types.get_base(l4).map_err(errno);
    if result.is_ok() {
        let old = vcpu.state.lock().kernel_l4.replace(l4);
        // The new tables before the reference on the old ones goes.
        context::load_l4(this_cpu(), l4);
        paging::flush_all();
        if let Some(old) = old {
            types.put_base(old);
        }
    }
    host.settle(&types, &vcpu.domain);
    result
}

fn new_user_base(
    c: &Caller<'_>,
    types: &crate::mm::types::PageTypes<'_, crate::mm::frametable::Frames, DirectMap>,
    raw: u64,
) -> Result<(), Errno> {
    let new = if raw == 0 { None } else { Some(frame(raw)?) };
    if let Some(l4) = new {
        types.get_base(l4).map_err(errno)?;
    }
    if c.vcpu.domain.hides_m2p()
        && let Some(l4) = new
    {
        types.hide_m2p(l4).map_err(errno).inspect_err(|_| types.put_base(l4))?;
    }
    let old = core::mem::replace(&mut c.vcpu.state.lock().user_l4, new);
    if let Some(old) = old {
        types.put_base(old);
    }
    Ok(())
}

/// Takes note of a vCPU's LDT and maps it, as far as the guest has it: each page is taken as a page of segment descriptors.
fn set_ldt(c: &Caller<'_>, domain: &Domain, base: u64, entries: u64) -> Result<(), Errno> {
    let base = if entries == 0 { 0 } else { base };
    check_ldt(base, entries)?;
    {
        let v = c.vcpu.state.lock();
        if (v.ldt_base, u64::from(v.ldt_entries)) == (base, entries) {
            return Ok(());
        }
    }
    unmap_ldt(domain, c.vcpu);
    {
        let mut v = c.vcpu.state.lock();
        (v.ldt_base, v.ldt_entries) = (base, entries as u32);
    }
    map_ldt(c.vcpu);
    desc::load_ldt(context::ldt_va(c.vcpu.id), entries as u32);
    Ok(())
}

/// An LDT that a guest may have.
pub fn check_ldt(base: u64, entries: u64) -> Result<(), Errno> {
    if entries > MAX_LDT_ENTRIES || !base.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    // At most 16 pages: both ends are the guest's, so is what lies between.
    let last = base.checked_add((entries * 8).saturating_sub(1)).ok_or(Errno::EINVAL)?;
    if is_guest_address(base) && is_guest_address(last) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Pages of an LDT.
const fn ldt_pages(entries: u32) -> usize {
    (entries as usize * 8).div_ceil(PAGE_SIZE as usize)
}

/// Maps those pages of a vCPU's LDT that are not mapped, as far as the guest has them.
///
/// They go when the guest takes away its own mapping of any descriptor page ([`drop_ldt`]), and come back here when they are needed: before the
/// vCPU's selectors are loaded, or when the CPU faults on a descriptor.
pub fn map_ldt(vcpu: &Vcpu) {
    let (l4, base, nr, held) = {
        let v = vcpu.state.lock();
        (v.kernel_l4, v.ldt_base, ldt_pages(v.ldt_entries), v.ldt_frames)
    };
    let Some(l4) = l4 else { return };
    let mut frames = held;
    let host = host();
    let types = host.types(&vcpu.domain);
    for (i, slot) in frames.iter_mut().take(nr).enumerate().filter(|(_, slot)| slot.is_none()) {
        let at = base.wrapping_add(i as u64 * PAGE_SIZE);
        *slot = walk(&DirectMap, l4, at)
            .ok()
            .map(|leaf| leaf.mfn)
            .filter(|&mfn| types.get_page_and_type(mfn, PageType::SegDesc).is_ok());
    }
    host.settle_without_ldt(&types);
    if frames != held {
        host.map_descriptor_frames(&vcpu.domain, vcpu.id, 1, &frames);
        vcpu.state.lock().ldt_frames = frames;
    }
}

/// The CPU faulted at an address: true if it was in the vCPU's LDT, and the page is there now. Otherwise the offset in the LDT, if it was there.
pub fn ldt_fault(vcpu: &Vcpu, cr2: u64) -> Result<(), Option<u64>> {
    let offset = cr2.checked_sub(context::ldt_va(vcpu.id)).ok_or(None)?;
    let page = (offset / PAGE_SIZE) as usize;
    let is_mapped = |v: &VcpuState| v.ldt_frames.get(page).is_some_and(Option::is_some);
    {
        let v = vcpu.state.lock();
        if offset >= u64::from(v.ldt_entries) * 8 {
            return Err(None);
        }
        if is_mapped(&v) {
            return Err(Some(offset));
        }
    }
    map_ldt(vcpu);
    if is_mapped(&vcpu.state.lock()) { Ok(()) } else { Err(Some(offset)) }
}

fn unmap_ldt(domain: &Domain, vcpu: &Vcpu) {
    let frames = core::mem::take(&mut vcpu.state.lock().ldt_frames);
    if frames.iter().all(Option::is_none) {
        return;
    }
    let host = host();
    host.map_descriptor_frames(domain, vcpu.id, 1, &[None; 16]);
    let types = host.types(domain);
    for mfn in frames.into_iter().flatten() {
        types.put_page_and_type(mfn);
    }
    host.settle_without_ldt(&types);
}

/// Drops the LDT mappings of all vCPUs of a domain: the guest took away its own mapping of a descriptor page, and may want it for something else.
pub fn drop_ldt(domain: &Domain) {
    let vcpus = domain.vcpus.lock().clone();
    for vcpu in vcpus {
        unmap_ldt(domain, &vcpu);
    }
}
