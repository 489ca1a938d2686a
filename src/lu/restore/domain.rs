//! A domain out of the stream: what its records say, and how it comes back.
//!
//! Its frames are claimed already (pass 1, I7). It comes back in two steps: [`create`] makes the domain and its event channels, [`complete`] page types
//! and vCPUs, when all domains have their event channels. A domain that does not fit is refused alone: it stays paused, with its memory.

use super::{RecordProblem, grants, text};
use crate::domain::console::Console;
use crate::domain::evtchn::{DomainConfig, PortRecord, PortState, Service};
use crate::domain::grant::SavedTable;
use crate::domain::sched::WATCHDOGS;
use crate::domain::watchdog::Watchdogs;
use crate::frame::{Maddr, Mfn, MfnRange};
use crate::hypercall;
use crate::log;
use crate::lu::records::{
    AnyRecord, CallbackMasks, Channel, ChannelState, DomainBegin, DomainFlags, LuVcpu, Pin, RefusedCause, VcpuFlags,
    VcpuPending,
};
use crate::lu::stream::{Body, PagedSource, REC_HEADER_LEN};
use crate::mm::extents::ExtentMap;
use crate::mm::frametable::FrameState;
use crate::mm::lingering::Lingering;
use crate::mm::page_info::{CountFlags, PageLookup};
use crate::run::domain::{Domain, DomainMemory, DomainParts, Rings, Shutdown};
use crate::run::host::Host;
use crate::run::vcpu::{Callback, GDT_FRAMES, RunState, Vcpu, VcpuState};
use crate::run::{create as vcpu_area, grants as run_grants, work};
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::x86::{cpu, tsc};
use crate::xen::hypercall::runstate;
use crate::xen::vcpu::{CONTEXT_SIZE, VcpuGuestContext, empty_traps};
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering;

/// A domain as the stream describes it.
pub(super) struct SavedDomain<'s> {
    pub(super) begin: DomainBegin,
    module_string: String,
    extents: ExtentMap,
    pub(super) lingering: Vec<Mfn>,
    pins: Vec<Pin>,
    linear: Vec<Pin>,
    partial_line: Vec<u8>,
    watchdogs: Watchdogs,
    typed: Vec<u8>,
    channels: Vec<Channel>,
    pub(super) grants: Option<SavedTable>,
    vcpus: Vec<SavedVcpu<'s>>,
    /// What it takes to hand it on if it is refused.
    pub(super) extract: Extract,
    /// Why it cannot be restored, if that is known by now.
    pub(super) unfit: Option<Unfit>,
    /// Why the outgoing side had refused it.
    refused_before: Option<String>,
}

/// What is known of a domain beside what its records say.
#[derive(Clone)]
pub(super) struct Extract {
    /// Where its records are in the stream, from its first to behind its last.
    pub(super) span: Range<u64>,
    /// Its grant table could be taken up.
    pub(super) has_grants: bool,
    /// vCPUs that it was made with; of a domain that was lost before, none are in the stream.
    pub(super) nr_vcpus: u32,
}

/// Why a domain is refused.
pub(super) struct Unfit {
    pub(super) why: String,
    /// Its state or its memory is not complete, so no other build can do better.
    pub(super) is_lost: bool,
}

impl Unfit {
    pub(super) fn new(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), is_lost: false }
    }
}

/// The stream that domains come out of.
pub(super) type Stream<'s> = PagedSource<'s, DirectMap>;

struct SavedVcpu<'s> {
    saved: LuVcpu,
    /// Its `vcpu_guest_context`, where it lies in the stream.
    context: Option<Body<'s, Stream<'s>>>,
    xsave: Option<SavedXsave<'s>>,
}

/// Extended state: the components in use, those that the area has, the area where it lies in the stream.
struct SavedXsave<'s> {
    xcr0: u64,
    components: u64,
    area: Body<'s, Stream<'s>>,
}

impl<'s> SavedDomain<'s> {
    pub(super) fn new(begin: DomainBegin, at: u64) -> Self {
        Self {
            begin,
            extract: Extract { span: at..at, has_grants: true, nr_vcpus: begin.nr_vcpus },
            unfit: None,
            refused_before: None,
            module_string: String::new(),
            extents: ExtentMap::new(),
            lingering: Vec::new(),
            pins: Vec::new(),
            linear: Vec::new(),
            partial_line: Vec::new(),
            watchdogs: Watchdogs::default(),
            typed: Vec::new(),
            channels: Vec::new(),
            grants: None,
            vcpus: Vec::new(),
        }
    }

    /// Notes that the domain can never be restored; the first reason stays.
    pub(super) fn lose(&mut self, why: &dyn fmt::Display) {
        match &mut self.unfit {
            Some(unfit) => unfit.is_lost = true,
            none => *none = Some(Unfit { is_lost: true, ..Unfit::new(why) }),
        }
    }

    /// Notes that this build cannot restore the domain; the first reason stays.
    pub(super) fn refuse(&mut self, why: impl fmt::Display) {
        self.unfit.get_or_insert_with(|| Unfit::new(why));
    }

    /// Keeps a frame that is its own among its memory, without a number.
    pub(super) fn keep_frame(&mut self, mfn: Mfn) {
        if let Err(e) = self.extents.insert(None, mfn, 1) {
            log!("lu", "{}: {e}", self.begin.domid);
        }
    }

    /// Forgets the frames that it claims and does not have.
    pub(super) fn keep_own_memory(&mut self, host: &Host) {
        let own = FrameState::Owned { owner: self.begin.domid };
        let claimed = core::mem::take(&mut self.extents);
        for extent in claimed.iter() {
            let mut left = extent.range();
            while let Some((run, state)) = host.frames.table().run_of(left) {
                left = MfnRange::between(run.end(), left.end()).unwrap_or(MfnRange::EMPTY);
                let skip = run.start() - extent.range().start();
                let pfn = extent.pfn.map(|pfn| pfn.offset(skip));
                if let (true, Some(first)) = (state == own, run.first())
                    && let Err(e) = self.extents.insert(pfn, first, run.nr_frames())
                {
                    log!("lu", "{}: {e}", self.begin.domid);
                }
            }
        }
        self.lingering.retain(|&mfn| host.frames.state_of(mfn) == own);
    }

    pub(super) fn take<E>(&mut self, at: u64, record: &AnyRecord<'s, Stream<'s>>) -> Result<(), RecordProblem<E>> {
        match record {
            AnyRecord::DomainEnd => self.extract.span.end = at + REC_HEADER_LEN,
            AnyRecord::Refused(refused) => {
                let why = refused.reason()?;
                if refused.cause == RefusedCause::Lost {
                    self.extract.nr_vcpus = refused.nr_vcpus;
                    self.lose(&why);
                }
                self.refused_before = Some(why);
            }
            AnyRecord::CmdlineModule(body) => self.module_string = text(&body.to_vec()?),
            AnyRecord::Extents(extents) => {
                for extent in extents.iter() {
                    let e = extent?;
                    let first = e.mfns().first().unwrap_or(Mfn::ZERO);
                    let inserted = self.extents.insert(e.pfn(), first, e.nr_frames());
                    if let Err(e) = inserted {
                        self.refuse(format_args!("its memory cannot be: {e}"));
                    }
                }
            }
            AnyRecord::Lingering(frames) => {
                for mfn in frames.iter() {
                    self.lingering.push(mfn?);
                }
            }
            AnyRecord::Pinned(pins) => {
                for pin in pins.iter() {
                    self.pins.push(pin?);
                }
            }
            AnyRecord::Linear(tables) => {
                for table in tables.iter() {
                    self.linear.push(table?);
                }
            }
            AnyRecord::Watchdogs(saved) => {
                self.watchdogs = Watchdogs(saved.ends_ns.map(|end| (end != 0).then_some(end)));
            }
            AnyRecord::Console(line) => self.partial_line = line.to_vec()?,
            AnyRecord::Typed(bytes) => self.typed = bytes.to_vec()?,
            AnyRecord::Channels(channels) => {
                for channel in channels.iter() {
                    self.channels.push(channel?);
                }
            }
            AnyRecord::Grants(saved) => self.grants = Some(grants::table_of(saved)?),
            AnyRecord::GrantsInUse(list) => grants::take_in_use(&mut self.grants, list)?,
            AnyRecord::GrantMaps(list) => grants::take_maps(&mut self.grants, list)?,
            AnyRecord::Vcpu(saved) => self.vcpus.push(SavedVcpu { saved: *saved, context: None, xsave: None }),
            AnyRecord::VcpuBasic(basic) => {
                if let Some(vcpu) = self.vcpus.last_mut() {
                    vcpu.context = Some(basic.context);
                }
            }
            AnyRecord::VcpuXsave(xsave) => {
                if let Some(vcpu) = self.vcpus.last_mut() {
                    let (xcr0, components, area) = (xsave.xcr0, xsave.xcr0_accum, xsave.area);
                    vcpu.xsave = Some(SavedXsave { xcr0, components, area });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ports(&self) -> Vec<PortRecord> {
        let record = |c: &Channel| {
            let state = match c.state {
                ChannelState::Interdomain { port, .. } if c.is_xen_consumer => {
                    PortState::Hypervisor { service: Service::of(port)? }
                }
                ChannelState::Unbound { remote } => PortState::Unbound { remote },
                ChannelState::Interdomain { remote, port } => PortState::Interdomain { remote, remote_port: port },
                ChannelState::Virq { virq } => PortState::Virq { virq },
                ChannelState::Ipi => PortState::Ipi,
                ChannelState::Pirq { .. } => return None,
            };
            Some(PortRecord { port: c.port, state, notify_vcpu: c.notify_vcpu })
        };
        self.channels.iter().filter_map(record).collect()
    }
}

fn refused(why: impl fmt::Display) -> Unfit {
    Unfit::new(why)
}

/// Makes the domain, paused, and its event channels. Nothing if not even that is possible: its frames stay claimed all the same.
pub(super) fn create(host: &Host, saved: &mut SavedDomain<'_>) -> Option<Arc<Domain>> {
    let begin = saved.begin;
    let id = begin.domid;
    let ports = saved.ports();
    let is_zombie = begin.flags.contains(DomainFlags::DYING);
    let console = begin.console.or(is_zombie.then_some(Mfn::ZERO));
    if begin.shared_info.is_none() || console.is_none() {
        saved.lose(&"it has no shared_info or no console");
    }
    // Of a domain in dispute, what the hypervisor writes to on others' behalf has to be its own.
    let is_own = |mfn: Mfn| host.frames.owner_of(mfn) == Some(id);
    let shared = begin.shared_info.filter(|&mfn| is_own(mfn)).unwrap_or(Mfn::ZERO);
    let console = console.unwrap_or(Mfn::ZERO);
    if saved.unfit.is_none() {
        for mfn in run_grants::frames(host, id).into_iter().chain([shared]) {
            if let Ok(page) = host.frames.page(mfn) {
                page.count_info.fetch_or(CountFlags::XEN_HEAP.bits(), Ordering::AcqRel);
            }
        }
    }
    let mut area = saved.unfit.is_none().then(|| vcpu_area::hypervisor_area(host, begin.nr_vcpus)).flatten();
    if area.is_none() {
        saved.refuse("no memory for its tables");
        area = vcpu_area::hypervisor_area(host, 0);
    }
    let Some((perdomain, l4_slots)) = area else {
        log!("lu", "{id} {}: no memory for its tables; its memory is kept until the next update", begin.name);
        verdict::note(Verdict::Failure);
        return None;
    };
    let domain = Arc::new(Domain::new(DomainParts {
        id,
        name: begin.name.as_str().to_owned(),
        privileged: begin.flags.contains(DomainFlags::PRIVILEGED),
        module_string: core::mem::take(&mut saved.module_string),
        memory: DomainMemory {
            extents: core::mem::take(&mut saved.extents),
            lingering: Lingering::new(),
            max_frames: begin.max_pages,
            shared_info: shared,
        },
        console: Console::new(console),
        l4_slots,
        perdomain,
        handle: begin.handle,
        rings: Rings {
            console,
            console_port: begin.console_evtchn,
            store: begin.store.unwrap_or(Mfn::ZERO),
            store_port: begin.store_evtchn,
        },
    }));
    domain.console.lock().resume(&saved.partial_line, &saved.typed, tsc::now_ns());
    domain.set_vm_assist(begin.vm_assist);
    *domain.watchdogs.lock() = saved.watchdogs;
    // Paused until everything of it is back.
    domain.set_paused(true);
    host.domains.lock().insert(id, domain.clone());
    if begin.flags.contains(DomainFlags::SHUT_DOWN) {
        domain.set_shutdown(Shutdown(begin.shutdown_reason));
    }
    if is_zombie || shared == Mfn::ZERO {
        return Some(domain);
    }
    let config =
        DomainConfig { shared_info: shared, nr_vcpus: saved.extract.nr_vcpus, is_privileged: domain.privileged };
    let restored = host.evtchn.lock().restore_domain(id, config, ports);
    if let Err(e) = restored {
        saved.refuse(e);
    }
    Some(domain)
}

/// Takes page types and makes the vCPUs; why the domain is refused, if it is.
pub(super) fn complete(host: &Host, domain: &Arc<Domain>, saved: SavedDomain<'_>) -> Option<Unfit> {
    if saved.unfit.is_some() {
        return saved.unfit;
    }
    if saved.begin.flags.contains(DomainFlags::DYING) {
        host.zombies.lock().push(domain.clone());
        return None;
    }
    let before = saved.refused_before.clone();
    match run_again(host, domain, saved) {
        Ok(()) => {
            if let Some(why) = before {
                log!("lu", "{} {} runs again; the last build had refused it: {why}", domain.id, domain.name);
            }
            None
        }
        Err(unfit) => Some(unfit),
    }
}

fn run_again(host: &Host, domain: &Arc<Domain>, saved: SavedDomain<'_>) -> Result<(), Unfit> {
    let id = domain.id;
    let watchdogs = saved.watchdogs;
    // Each mapping of another's grant may be found in one leaf.
    let mapped = host.grants.lock().mapped(id);
    let may_map = |mfn, owner, access| mapped.take(mfn, owner, access);
    let types = host.types_with(domain, &may_map);
    let replayed = (|| {
        let bases = || saved.vcpus.iter().flat_map(|v| [v.saved.kernel_cr3, v.saved.user_cr3]).flatten();
        for table in saved.pins.iter().chain(&saved.linear) {
            types.announce(table.mfn(), table.level())?;
        }
        for l4 in bases() {
            types.announce(l4, 4)?;
        }
        for pin in &saved.pins {
            types.replay_pin(pin.mfn(), pin.level())?;
        }
        for l4 in bases() {
            types.replay_base(l4)?;
        }
        Ok(())
    })();
    // Its tables have been filled again, those for its user programs too.
    let replayed = replayed.and_then(|()| {
        let users = saved.vcpus.iter().filter_map(|v| v.saved.user_cr3).filter(|_| domain.hides_m2p());
        users.into_iter().try_for_each(|l4| types.hide_m2p(l4))
    });
    host.settle_without_ldt(&types);
    replayed.map_err(|e: crate::mm::types::TypeError| refused(e))?;
    host.hold_shared(domain).map_err(refused)?;

    let mut vcpus = Vec::new();
    for v in saved.vcpus {
        vcpus.push(restore_vcpu(host, domain, v)?);
    }
    let runnable: Vec<_> = vcpus.iter().filter(|v| v.state.lock().is_runnable()).cloned().collect();
    for vcpu in &vcpus {
        let next = vcpu.state.lock().next_timer();
        host.sched.lock().set_timer(vcpu.key(), next);
    }
    *domain.vcpus.lock() = vcpus;
    domain.set_paused(false);
    // Who gave its turn away stands behind those who did not.
    let (yielded, others): (Vec<_>, Vec<_>) = runnable.into_iter().partition(|v| v.state.lock().yielded);
    for vcpu in others.into_iter().chain(yielded) {
        work::requeue(host, vcpu);
    }
    host.sched.lock().set_timer((id, WATCHDOGS), watchdogs.next());
    Ok(())
}

/// Frames that a domain had given up: claimed with an owner's reference, as all frames are, they lose it when everything that refers to them, in this
/// domain or in another, has its references back. A domain that was refused refers to nothing, and keeps them.
pub(super) fn give_up_again(host: &Host, domain: &Domain, frames: &[Mfn], is_restored: bool) {
    let types = host.types(domain);
    let mut memory = domain.memory.lock();
    for &mfn in frames {
        if !is_restored {
            if let Err(e) = memory.extents.insert(None, mfn, 1) {
                log!("lu", "{}: {e}", domain.id);
            }
            continue;
        }
        match types.release_page(mfn) {
            Ok(true) => {}
            Ok(false) => memory.lingering.insert(mfn),
            Err(e) => {
                log!("lu", "{} cannot give up frame {mfn} again: {e}", domain.id);
                verdict::note(Verdict::Error);
            }
        }
    }
    drop(memory);
    host.settle_without_ldt(&types);
}

fn restore_vcpu(host: &Host, domain: &Arc<Domain>, from: SavedVcpu<'_>) -> Result<Arc<Vcpu>, Unfit> {
    let s = from.saved;
    let fpu = vcpu_area::fpu_area(host).ok_or_else(|| refused("no memory for its FPU state"))?;
    let info = match s.vcpu_info {
        Some(mfn) => {
            hypercall::vcpu::hold_info(domain, mfn).map_err(refused)?;
            host.evtchn.lock().place_vcpu_info(domain.id, s.vcpu, mfn, s.vcpu_info_offset).map_err(refused)?
        }
        None => {
            let place: Option<Maddr> = host.evtchn.lock().vcpu_info(domain.id, s.vcpu);
            place.ok_or_else(|| refused("a vCPU without vcpu_info"))?
        }
    };
    let mut buf;
    let bytes: Option<&[u8; CONTEXT_SIZE]> = match from.context {
        Some(mut context) => {
            buf = [0; CONTEXT_SIZE];
            context.read_into(&mut buf).map_err(refused)?;
            Some(&buf)
        }
        None => None,
    };
    let traps = bytes.map_or_else(empty_traps, VcpuGuestContext::decode_traps);
    let mut v = VcpuState::new(info, fpu, traps);
    v.info_registered = s.vcpu_info.is_some();
    let mut gdt = ([None; GDT_FRAMES], 0);
    if let Some(c) = bytes.map(VcpuGuestContext::decode) {
        hypercall::vcpu::load_context(&mut v, &c);
        let nr = (c.gdt_ents as usize).div_ceil(512).min(GDT_FRAMES);
        for (to, raw) in gdt.0[..nr].iter_mut().zip(c.gdt_frames) {
            *to = Some(Mfn::try_new(raw).map_err(refused)?);
        }
        gdt.1 = c.gdt_ents as u32;
    }
    if let Some(SavedXsave { xcr0, components, mut area }) = from.xsave {
        if components != v.fpu.xcr0() || area.remaining() != v.fpu.bytes().len() as u64 {
            let has = v.fpu.xcr0();
            return Err(refused(format_args!("its FPU state has components {components:#x}, this CPU {has:#x}")));
        }
        if !cpu::is_valid_xcr0(&host.features, xcr0) {
            return Err(refused(format_args!("its XCR0 is {xcr0:#x}, this CPU has {components:#x}")));
        }
        v.xcr0 = xcr0;
        area.read_into(v.fpu.bytes_mut()).map_err(refused)?;
    }
    (v.kernel_l4, v.user_l4) = (s.kernel_cr3, s.user_cr3);
    v.kernel_mode = s.flags.contains(VcpuFlags::KERNEL_MODE);
    v.initialised = s.flags.contains(VcpuFlags::INITIALISED);
    v.online = s.flags.contains(VcpuFlags::UP);
    v.blocked = s.flags.contains(VcpuFlags::BLOCKED);
    let poll_limit = if s.poll_until_ns == 0 { u64::MAX } else { s.poll_until_ns };
    v.polling_until = s.flags.contains(VcpuFlags::POLLING).then_some(poll_limit);
    v.iopl = s.iopl as u8;
    (v.iobmp, v.iobmp_nr_ports) = (s.iobmp, s.iobmp_nr_ports);
    v.runstate = RunState {
        state: if s.runstate.state == runstate::RUNNING { runstate::RUNNABLE } else { s.runstate.state },
        entry_ns: s.runstate.entry_ns,
        times: s.runstate.times_ns,
        area_va: s.runstate.area,
    };
    v.time_area_va = s.time_area;
    v.singleshot = (s.singleshot_ns != 0).then_some(s.singleshot_ns);
    (v.periodic_ns, v.periodic_next) = (s.period_ns, s.periodic_next_ns);
    let c = &s.callbacks;
    let callback = |rip, mask| Callback { rip, masks_events: c.masks.contains(mask) };
    v.callbacks.event = callback(c.event, CallbackMasks::EVENT);
    v.callbacks.failsafe = callback(c.failsafe, CallbackMasks::FAILSAFE);
    v.callbacks.syscall = callback(c.syscall, CallbackMasks::SYSCALL);
    v.callbacks.syscall32 = callback(c.syscall32, CallbackMasks::SYSCALL32);
    v.callbacks.sysenter = callback(c.sysenter, CallbackMasks::SYSENTER);
    if c.nmi != 0 {
        v.set_nmi_handler(c.nmi);
    }
    v.nmi_pending = s.pending.contains(VcpuPending::NMI);
    v.nmi_masked = s.pending.contains(VcpuPending::NMI_MASKED);
    v.yielded = s.flags.contains(VcpuFlags::YIELDED);
    v.poll_port = s.poll_port;
    let vcpu = Arc::new(Vcpu { domain: domain.clone(), id: s.vcpu, state: spin::Mutex::new(v) });
    hypercall::tables::take_gdt(&vcpu, gdt.0, gdt.1).map_err(refused)?;
    hypercall::mmuext::map_ldt(&vcpu);
    Ok(vcpu)
}
