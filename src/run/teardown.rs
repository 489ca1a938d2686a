//! A domain's end: it stops, its references are dropped, its memory becomes free, in steps between which others run.

use crate::domain::sched::WATCHDOGS;
use crate::frame::{Mfn, MfnRange, PAGE_SIZE};
use crate::log;
use crate::mm::frametable::Frames;
use crate::mm::physmem::PhysMem;
use crate::mm::types::PageTypes;
use crate::run::create;
use crate::run::domain::{Domain, Shutdown};
use crate::run::host::Host;
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::x86::percpu::this_cpu;
use crate::xen::hypercall::shutdown;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Frames given back in one step.
const STEP_FRAMES: u64 = 1024;

/// A domain being taken apart.
pub struct Dying {
    domain: Arc<Domain>,
    references_dropped: bool,
}

impl Dying {
    /// The domain.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }
}

/// Stops a domain. Its memory goes back step by step ([`step`]).
pub fn shut_down(domain: &Arc<Domain>, reason: Shutdown) {
    if !domain.set_shutdown(reason) {
        return;
    }
    let host = super::host::host();
    super::console::last_words(host, domain);
    log!("domain", "{} {} shut down: {}", domain.id, domain.name, reason.name());
    if !matches!(reason.0, shutdown::POWEROFF | shutdown::REBOOT) {
        verdict::note(Verdict::Failure);
    }
    for vcpu in domain.vcpus.lock().iter() {
        host.sched.lock().remove(vcpu.key());
    }
    host.sched.lock().remove((domain.id, WATCHDOGS));
    // Peers learn of it as their ports become unbound.
    let _ = host.evtchn.lock().remove_domain(domain.id);
    this_cpu().reschedule.set(true);
    host.dying.lock().push(Dying { domain: domain.clone(), references_dropped: false });
}

/// True if a domain is being taken apart.
pub fn is_busy(host: &Host) -> bool {
    !host.dying.lock().is_empty()
}

/// A step of taking apart the first domain in line; false if there is none.
pub fn step(host: &Host) -> bool {
    let Some(mut dying) = host.dying.lock().pop() else { return false };
    let running = this_cpu().current().is_some_and(|v| v.domain.id == dying.domain.id);
    if running {
        // Its registers are still in the CPU: the next switch takes them out.
        host.dying.lock().push(dying);
        return true;
    }
    if !dying.references_dropped {
        drop_vcpu_references(host, &dying.domain);
        dying.references_dropped = true;
    }
    if free_some(host, &dying.domain) {
        host.dying.lock().insert(0, dying);
    } else {
        end(host, &dying.domain);
    }
    true
}

fn drop_vcpu_references(host: &Host, domain: &Domain) {
    host.release_shared(domain);
    let types = host.types(domain);
    let vcpus = core::mem::take(&mut *domain.vcpus.lock());
    for vcpu in &vcpus {
        let (l4s, descriptors, info) = {
            let mut v = vcpu.state.lock();
            v.online = false;
            let l4s = [v.kernel_l4.take(), v.user_l4.take()];
            let mut descriptors: Vec<_> = v.gdt_frames.iter_mut().filter_map(Option::take).collect();
            descriptors.extend(v.ldt_frames.iter_mut().filter_map(Option::take));
            let info = v.info_registered.then(|| v.info.mfn_containing());
            v.info_registered = false;
            (l4s, descriptors, info)
        };
        for mfn in descriptors {
            types.put_page_and_type(mfn);
        }
        for l4 in l4s.into_iter().flatten() {
            types.put_base(l4);
        }
        if let Some(info) = info {
            types.put_page_and_type(info);
        }
    }
    host.settle(&types, domain);
}

/// Gives back up to [`STEP_FRAMES`]; false if there were none left.
fn free_some(host: &Host, domain: &Domain) -> bool {
    let types = host.types(domain);
    let mut budget = STEP_FRAMES;
    while budget > 0 {
        // A page that was given up is taken apart like any other: it may be a table that others keep.
        let lingering = domain.memory.lock().lingering.take_first();
        if let Some(mfn) = lingering {
            if host.frames.is_lingering(mfn, domain.id) {
                relinquish(domain, &types, mfn);
            }
            budget -= 1;
            continue;
        }
        let next = domain.memory.lock().extents.iter().next();
        let Some(extent) = next else { break };
        let n = extent.range().nr_frames().min(budget);
        let range = MfnRange::new(extent.mfn, n);
        for mfn in range.iter() {
            relinquish(domain, &types, mfn);
            host.m2p.set(&DirectMap, mfn, crate::mm::m2p::INVALID);
        }
        let removed = domain.memory.lock().extents.remove(extent.mfn, n);
        assert!(removed.is_ok(), "an extent just looked at is there");
        budget -= n;
    }
    host.settle(&types, domain);
    budget < STEP_FRAMES
}

/// A page that another still refers to goes when that reference does.
fn relinquish(domain: &Domain, types: &PageTypes<'_, Frames, DirectMap>, mfn: Mfn) {
    if let Err(e) = types.relinquish_page(mfn) {
        log!("domain", "{} frame {mfn}: {e}", domain.id);
        verdict::note(Verdict::Error);
    }
}

fn end(host: &Host, domain: &Arc<Domain>) {
    let types = host.types(domain);
    let shared_info = domain.memory.lock().shared_info;
    DirectMap.zero(shared_info.maddr(), PAGE_SIZE);
    relinquish(domain, &types, shared_info);
    host.settle(&types, domain);
    for block in domain.perdomain.take_blocks() {
        host.frames.free(block);
    }
    host.domains.lock().remove(&domain.id);
    log!("domain", "{} {} is gone, its memory is free", domain.id, domain.name);
    super::console::forget(host, domain.id);
    if domain.shutdown() == Some(Shutdown(shutdown::REBOOT)) {
        create::recreate(host, &domain.module_string, &domain.name);
    }
}
