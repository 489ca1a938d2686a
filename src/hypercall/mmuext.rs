//! `mmuext_op`: pins, base pointers, TLB, LDT, whole pages.

use super::mmu::{errno, own_domain, report_done, resume};
use super::{Caller, Outcome};
use crate::frame::{Mfn, PAGE_SIZE};
use crate::mm::page_info::PageType;
use crate::mm::physmem::PhysMem;
use crate::mm::types::{WalkFault, walk};
use crate::run::context;
use crate::run::domain::Domain;
use crate::run::guest_mem::{field_u32, field_u64};
use crate::run::host::host;
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
    let start = own_domain(c, domid).and_then(|()| {
        let memory = c.memory()?;
        let (count, before) = resume(&memory, count, done_at)?;
        Ok((count, before))
    });
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
    let reported = c.memory().and_then(|m| report_done(&m, done_at, before + i));
    if let Err(e) = reported {
        return Err::<u64, _>(e).into();
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
        op::NEW_BASEPTR => frame(arg1).and_then(|l4| {
            types.get_base(l4).map_err(errno)?;
            let old = c.vcpu.state.lock().kernel_l4.replace(l4);
            // The caller is in its kernel: the new tables before the reference on the old ones goes.
            context::load_l4(this_cpu(), l4);
            paging::flush_all();
            if let Some(old) = old {
                types.put_base(old);
            }
            Ok(())
        }),
        op::NEW_USER_BASEPTR => new_user_base(c, &types, arg1),
        op::TLB_FLUSH_LOCAL | op::TLB_FLUSH_MULTI | op::TLB_FLUSH_ALL => {
            paging::flush_all();
            Ok(())
        }
        op::INVLPG_LOCAL | op::INVLPG_MULTI | op::INVLPG_ALL => {
            paging::flush_page(arg1);
            Ok(())
        }
        // A domain without hardware has no reason to, as Xen has it.
        op::FLUSH_CACHE => Err(Errno::EACCES),
        op::FLUSH_CACHE_GLOBAL => Err(Errno::EPERM),
        op::SET_LDT => set_ldt(c, &domain, arg1, arg2),
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

fn new_user_base(
    c: &Caller<'_>,
    types: &crate::mm::types::PageTypes<'_, crate::mm::frametable::Frames, DirectMap>,
    raw: u64,
) -> Result<(), Errno> {
    let new = if raw == 0 { None } else { Some(frame(raw)?) };
    if let Some(l4) = new {
        types.get_base(l4).map_err(errno)?;
    }
    let old = core::mem::replace(&mut c.vcpu.state.lock().user_l4, new);
    if let Some(old) = old {
        types.put_base(old);
    }
    Ok(())
}

/// The LDT is mapped at once, all of it: each page is taken as a page of segment descriptors.
fn set_ldt(c: &Caller<'_>, domain: &Domain, base: u64, entries: u64) -> Result<(), Errno> {
    if entries > MAX_LDT_ENTRIES || (entries != 0 && !base.is_multiple_of(PAGE_SIZE)) {
        return Err(Errno::EINVAL);
    }
    let l4 = c.vcpu.state.lock().kernel_l4.ok_or(Errno::EINVAL)?;
    release_ldt(domain, &c.vcpu.clone());
    let (frames, taken) = take_ldt(domain, l4, base, entries);
    host().map_descriptor_frames(domain, c.vcpu.id, 1, &frames);
    {
        let mut v = c.vcpu.state.lock();
        v.ldt_frames = frames;
        (v.ldt_base, v.ldt_entries) = if taken { (base, entries as u32) } else { (0, 0) };
        desc::load_ldt(context::gdt_va(c.vcpu.id) + 16 * PAGE_SIZE, v.ldt_entries);
    }
    if taken { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Takes the pages of an LDT; nothing is held if one of them cannot be had.
pub fn take_ldt(domain: &Domain, l4: Mfn, base: u64, entries: u64) -> ([Option<Mfn>; 16], bool) {
    let host = host();
    let types = host.types(domain);
    let mut frames = [None; 16];
    let nr = (entries * 8).div_ceil(PAGE_SIZE) as usize;
    let mut good = true;
    for (i, slot) in frames[..nr].iter_mut().enumerate() {
        let at = base.wrapping_add(i as u64 * PAGE_SIZE);
        let found: Result<_, WalkFault> = walk(&DirectMap, l4, at);
        let Some(mfn) = found.ok().map(|leaf| leaf.mfn) else {
            good = false;
            break;
        };
        if types.get_page_and_type(mfn, PageType::SegDesc).is_err() {
            good = false;
            break;
        }
        *slot = Some(mfn);
    }
    if !good {
        for mfn in frames.iter_mut().filter_map(Option::take) {
            types.put_page_and_type(mfn);
        }
    }
    host.settle_without_ldt(&types);
    (frames, good)
}

fn release_ldt(domain: &Domain, vcpu: &crate::run::vcpu::Vcpu) {
    let frames = {
        let mut v = vcpu.state.lock();
        v.ldt_entries = 0;
        core::mem::take(&mut v.ldt_frames)
    };
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

/// Drops the LDT mappings of all vCPUs of a domain: the guest took away its own mapping of a descriptor page.
pub fn drop_ldt(domain: &Domain) {
    let vcpus = domain.vcpus.lock().clone();
    for vcpu in vcpus {
        release_ldt(domain, &vcpu);
    }
}
