//! A domain's end: it stops, its references are dropped, its memory becomes free, in steps between which others run.
//!
//! Frames that other domains map by grants stay until the last of those mappings is gone. So long the domain is a *zombie*: it never runs again, owns nothing
//! but these frames, and goes through updates. [`bury`] ends it.

use crate::domain::sched::WATCHDOGS;
use crate::frame::{Mfn, MfnRange, PAGE_SIZE};
use crate::log;
use crate::mm::extents::ExtentError;
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

/// Grant mappings released in one step.
const STEP_MAPS: usize = 1024;

/// How far a domain has been taken apart.
#[derive(Clone, Copy)]
enum Stage {
    /// Its vCPUs still refer to pages.
    References,
    /// It still maps grants of others, as far as they know.
    GrantMaps,
    /// Pages that it gave up while something referred to them are taken apart like any other: they may be tables.
    Lingering,
    /// Pages below this frame have been given up.
    Pages { at: Mfn },
    /// All pages have been given up; below this frame, those that became free are not its any more.
    Freed { at: Mfn },
}

/// A domain being taken apart.
pub struct Dying {
    domain: Arc<Domain>,
    stage: Stage,
}

impl Dying {
    /// The domain.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }
}

/// Stops a domain. Its memory goes back step by step ([`step`]).
pub fn shut_down(domain: &Arc<Domain>, reason: Shutdown) {
    // What a refused domain has is kept, and not all of what it names is its own.
    if domain.refusal().is_some() || !domain.set_shutdown(reason) {
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
    host.dying.lock().push(Dying { domain: domain.clone(), stage: Stage::References });
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
    let domain = dying.domain.clone();
    let next = match dying.stage {
        Stage::References => {
            drop_vcpu_references(host, &domain);
            Some(Stage::GrantMaps)
        }
        Stage::GrantMaps => {
            let has_more = host.grants.lock().end_some_maps(&DirectMap, domain.id, STEP_MAPS);
            Some(if has_more { Stage::GrantMaps } else { Stage::Lingering })
        }
        Stage::Lingering => {
            let has_more = take_back_some(host, &domain);
            Some(if has_more { Stage::Lingering } else { Stage::Pages { at: Mfn::ZERO } })
        }
        Stage::Pages { at } => {
            let next = give_up_some(host, &domain, at);
            Some(next.map_or(Stage::Freed { at: Mfn::ZERO }, |at| Stage::Pages { at }))
        }
        Stage::Freed { at } => forget_some(host, &domain, at).map(|at| Stage::Freed { at }),
    };
    match next {
        Some(stage) => {
            dying.stage = stage;
            host.dying.lock().insert(0, dying);
        }
        None => leave(host, &domain),
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

/// Puts up to [`STEP_FRAMES`] pages that were given up back among the domain's; false if there were no more.
fn take_back_some(host: &Host, domain: &Domain) -> bool {
    let mut memory = domain.memory.lock();
    for _ in 0..STEP_FRAMES {
        if memory.extents.make_room().is_err() {
            // Other domains' ends give memory back: the next step tries again.
            return true;
        }
        let Some(mfn) = memory.lingering.take_first() else { return false };
        if host.frames.is_lingering(mfn, domain.id) {
            let inserted = memory.extents.insert(None, mfn, 1);
            assert!(inserted.is_ok(), "what was given up is in no extent (I6)");
        }
    }
    true
}

/// Gives up to [`STEP_FRAMES`] pages up, from a frame on; the frame to go on from, if there are more.
fn give_up_some(host: &Host, domain: &Domain, at: Mfn) -> Option<Mfn> {
    let types = host.types(domain);
    let next = for_frames(domain, at, |mfn| {
        host.m2p.set(&DirectMap, mfn, crate::mm::m2p::INVALID);
        relinquish(domain, &types, mfn);
    });
    host.settle(&types, domain);
    next
}

/// Takes frames that have become free out of the domain's, up to [`STEP_FRAMES`] of them looked at; the frame to go on from, if there are more.
fn forget_some(host: &Host, domain: &Domain, at: Mfn) -> Option<Mfn> {
    let mut freed: Vec<MfnRange> = Vec::new();
    let next = for_frames(domain, at, |mfn| {
        if host.frames.owner_of(mfn) == Some(domain.id) {
            return;
        }
        match freed.last_mut().and_then(|last| Some((*last, MfnRange::between(last.start(), mfn.get() + 1)?))) {
            Some((last, longer)) if last.end() == mfn.get() => {
                freed.pop();
                freed.push(longer);
            }
            _ => freed.push(MfnRange::new(mfn, 1)),
        }
    });
    let mut memory = domain.memory.lock();
    for range in freed {
        if memory.extents.remove(Mfn::new(range.start()), range.nr_frames()) == Err(ExtentError::NoMemory) {
            // Not even for the pieces that are left: these frames are looked at again.
            return Some(at);
        }
    }
    next
}

/// Calls `each` for up to [`STEP_FRAMES`] frames of the domain, from one on; the frame to go on from, if there are more.
fn for_frames(domain: &Domain, at: Mfn, mut each: impl FnMut(Mfn)) -> Option<Mfn> {
    let mut budget = STEP_FRAMES;
    let mut at = at.get();
    loop {
        let extent = domain.memory.lock().extents.first_behind(Mfn::new(at))?;
        let start = extent.range().start().max(at);
        if budget == 0 {
            return Some(Mfn::new(start));
        }
        let range = MfnRange::between(start, extent.range().end().min(start + budget))?;
        range.iter().for_each(&mut each);
        budget -= range.nr_frames();
        at = range.end();
        if at == Mfn::LIMIT {
            return None;
        }
    }
}

/// All has been given up: the domain is no more, or a zombie.
fn leave(host: &Host, domain: &Arc<Domain>) {
    let nr_frames = domain.memory.lock().extents.nr_frames();
    if nr_frames == 0 && !host.grants.lock().is_in_use(domain.id) {
        end(host, domain);
    } else {
        log!("domain", "{} {} is gone but for {nr_frames} frames that others map", domain.id, domain.name);
        host.zombies.lock().push(domain.clone());
    }
    if domain.shutdown() == Some(Shutdown(shutdown::REBOOT)) {
        create::recreate(host, &domain.module_string, &domain.name);
    }
    bury(host);
}

/// Ends the zombies of which nobody maps anything any more.
pub fn bury(host: &Host) {
    let zombies = core::mem::take(&mut *host.zombies.lock());
    for domain in zombies {
        let mut at = Some(Mfn::ZERO);
        while let Some(from) = at {
            at = forget_some(host, &domain, from).filter(|&next| next > from);
        }
        let is_mapped = domain.memory.lock().extents.nr_frames() != 0 || host.grants.lock().is_in_use(domain.id);
        if is_mapped {
            host.zombies.lock().push(domain);
        } else {
            end(host, &domain);
        }
    }
}

/// After an update, when all domains have taken their references again: the zombies give theirs up again.
pub fn give_up_zombies(host: &Host) {
    for domain in host.zombies.lock().clone() {
        let mut at = Some(Mfn::ZERO);
        while let Some(from) = at {
            at = give_up_some(host, &domain, from);
        }
    }
    bury(host);
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
    let grant_frames = host.grants.lock().remove_domain(domain.id);
    grant_frames.into_iter().for_each(|mfn| relinquish(domain, &types, mfn));
    host.settle(&types, domain);
    for block in domain.perdomain.take_blocks() {
        host.frames.free(block);
    }
    host.domains.lock().remove(&domain.id);
    log!("domain", "{} {} is gone, its memory is free", domain.id, domain.name);
    super::console::forget(host, domain.id);
}
