//! The outgoing side writes the stream: all that the incoming side cannot find out by itself.
//!
//! Called in the pause, with every vCPU's state taken out of the CPU. Nothing here changes a guest's memory or the host's state, so
//! a save that fails, or is only a trial, leaves everything as it was. Format: docs/handover.md.

mod refused;

use super::damage::{self, Damage};
use super::mfn_list::{self, MfnListError, Written};
use super::records::{
    CallbackMasks, Callbacks, Channel, ChannelState, DomainBegin, DomainFlags, GrantInUse, GrantMap, GrantsHead,
    HostFlags, LU_CMDLINE, LU_CMDLINE_MODULE, LU_CONSOLE, LU_TYPED, ListWriter, LuHost, LuLog, LuTime, LuVcpu,
    LuVersion, LuWatchdogs, M2pBlock, Name, OpenDomain, Pin, PvInfo, Runstate, SHARED_INFO, STATIC_DATA_END,
    SavedExtent, Stage, StreamVersion, TscInfo, VCPU_CONTEXT_LEN, VcpuFlags, VcpuPending, XenPagesKind, write_grants,
    write_stages, write_vcpu_basic, write_vcpu_xsave,
};
use super::stream::{Dest, PagedDest, WriteError, Writer};
use crate::domain::evtchn::PortState;
use crate::domain::grant::{Active, Mapping, TableToSave};
use crate::frame::{DomId, Mfn, MfnRange, Order, PAGE_SIZE};
use crate::hypercall;
use crate::log;
use crate::mm::buddy::Block;
use crate::mm::types::each_root;
use crate::ranges;
use crate::run::domain::{Domain, DomainMemory};
use crate::run::host::Host;
use crate::run::vcpu::Vcpu;
use crate::verdict::{self, Verdict};
use crate::x86::directmap::{self, DirectMap};
use crate::x86::{apic, tsc};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

/// The stream cannot be written; the frames that it had taken are free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveError {
    /// A record cannot be written.
    Write(WriteError),
    /// The list cannot be written.
    List(MfnListError),
    /// No memory for the list.
    NoMemory,
    /// Something has no place in the format.
    Unrepresentable {
        /// Whose it is.
        domain: DomId,
        /// What it is.
        what: &'static str,
    },
}

impl From<WriteError> for SaveError {
    fn from(e: WriteError) -> Self {
        Self::Write(e)
    }
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(e) => write!(f, "the stream cannot be written: {e}"),
            Self::List(e) => write!(f, "the MFN list cannot be written: {e}"),
            Self::NoMemory => f.write_str("no memory for the stream"),
            Self::Unrepresentable { domain, what } => write!(f, "{domain}: {what} cannot be handed over"),
        }
    }
}

/// A written stream.
pub struct Saved {
    /// First page of the MFN list.
    pub root: Mfn,
    /// The frames of stream and list.
    pub blocks: Vec<Block>,
}

impl Saved {
    /// Gives the frames back: nobody is to read them.
    pub fn free(self, host: &Host) {
        for block in self.blocks {
            host.frames.free(block);
        }
    }
}

/// What the update machinery knows and the incoming side goes on with.
pub struct UpdateFacts {
    /// In which version everything is written.
    pub version: StreamVersion,
    /// Number of this update.
    pub sequence: u64,
    /// What else is handed over of it.
    pub host: LuHost,
    /// TSC when the pause began.
    pub paused_tsc: u64,
}

/// Writes stream and list.
pub fn save(host: &Host, facts: &UpdateFacts) -> Result<Saved, SaveError> {
    let blocks = RefCell::new(Vec::new());
    let take = || {
        let block = host.frames.alloc(Order::PAGE)?;
        let mfn = block.mfn();
        blocks.borrow_mut().push(block);
        Some(mfn)
    };
    let mut out = Writer::new(PagedDest::new(&DirectMap, take));
    let damage = Damage::asked(&host.options).filter(|_| facts.sequence == 1);
    let written = write(host, facts, damage, &mut out).and_then(|()| Ok(out.finish()?));
    let (pages, page_crcs) = out.into_dest().into_parts();
    let result = written.and_then(|finished| {
        let mut list = Vec::new();
        let version = facts.version;
        for _ in 0..mfn_list::nr_list_pages(version, pages.len() as u64) {
            list.push(take().ok_or(SaveError::NoMemory)?);
        }
        let stream = Written { version, pages: &pages, page_crcs: &page_crcs, finished };
        let root = mfn_list::write(&DirectMap, &list, &stream).map_err(SaveError::List);
        if damage == Some(Damage::Flip) {
            damage::flip(&DirectMap, &pages);
        }
        root
    });
    let blocks = blocks.into_inner();
    match result {
        Ok(root) => Ok(Saved { root, blocks }),
        Err(e) => {
            blocks.into_iter().for_each(|block| host.frames.free(block));
            Err(e)
        }
    }
}

/// Writes all records, damaged if a test wants it.
fn write<D: Dest>(
    host: &Host,
    facts: &UpdateFacts,
    damage: Option<Damage>,
    out: &mut Writer<D>,
) -> Result<(), SaveError> {
    let Some(damage) = damage else { return write_all(host, facts, out) };
    let mut plain = Writer::new(Vec::new());
    write_all(host, facts, &mut plain)?;
    plain.finish()?;
    Ok(damage::rewrite(damage, facts.version, host.region.range(), &plain.into_dest(), out)?)
}

fn write_all<D: Dest>(host: &Host, facts: &UpdateFacts, out: &mut Writer<D>) -> Result<(), SaveError> {
    let no_name = SaveError::Unrepresentable { domain: DomId::XEN, what: "the build's name" };
    out.save(&LuVersion {
        stream_version: facts.version,
        update_sequence: facts.sequence,
        build: Name::try_new(crate::build::VERSION).map_err(|_| no_name)?,
    })?;
    let clock = tsc::clock();
    out.save(&LuTime {
        tsc: clock.anchor_tsc,
        system_time_ns: clock.anchor_ns,
        tsc_hz: clock.tsc_hz,
        apic_hz: apic::hz(),
        wallclock_sec: host.wallclock.0,
        wallclock_nsec: host.wallclock.1,
    })?;
    out.save(&facts.host)?;
    for past in host.update.lock().history.iter() {
        out.save_history(&past.entry, &past.reason)?;
    }
    out.record(LU_CMDLINE, host.command_line.as_bytes())?;
    for module in host.modules.lock().iter() {
        out.save_module(module.start.mfn_containing(), module.len_bytes, module.string.as_bytes())?;
    }
    let mut m2p = ListWriter::m2p(out);
    for (i, block) in host.m2p.blocks() {
        let first = Mfn::new(i * crate::mm::m2p::FRAMES_PER_BLOCK);
        let what = SaveError::Unrepresentable { domain: DomId::XEN, what: "a block of the M2P" };
        m2p.push(&M2pBlock::try_new(first, block).ok_or(what)?);
    }
    m2p.finish()?;
    if let Some(frames) = log::place() {
        let (head, tail) = log::positions();
        out.save(&LuLog { frames, head, tail })?;
    }
    write_kept(host, facts.version, out)?;
    let domains: Vec<_> = host.domains.lock().values().cloned().collect();
    let mut context = Box::new([0; VCPU_CONTEXT_LEN]);
    for domain in &domains {
        write_domain(host, facts.version, domain, &mut context, out)?;
    }
    let stages = [
        Stage { stage: super::records::stage::PAUSED, tsc: facts.paused_tsc },
        Stage { stage: super::records::stage::SAVED, tsc: tsc::rdtsc() },
    ];
    write_stages(out, &stages)?;
    Ok(())
}

/// Writes the frames that nobody is to have. Version 1 has no word for faulty ones: those that nobody has are kept as what has to stay, and of those in use it
/// is forgotten that they are faulty.
fn write_kept<D: Dest>(host: &Host, version: StreamVersion, out: &mut Writer<D>) -> Result<(), SaveError> {
    let what = SaveError::Unrepresentable { domain: DomId::XEN, what: "a withheld frame" };
    let extent = |range: MfnRange| SavedExtent::try_new(range, None).map_err(|_| what);
    let bad = host.bad_frames.lock().clone();
    let has_word = version >= StreamVersion::V2;
    let mut kept = host.withheld.lock().clone();
    for range in bad.iter().filter(|_| !has_word) {
        let is_unused = |mfn: &Mfn| host.frames.owner_of(*mfn) == Some(DomId::IO);
        kept.extend(range.iter().filter(is_unused).map(|mfn| MfnRange::new(mfn, 1)));
    }
    // An update before may have handed a faulty frame over as a withheld one: it is listed once.
    ranges::merge(&mut kept);
    let mut pages = ListWriter::xen_pages(out, XenPagesKind::Other);
    for range in kept {
        pages.push(&extent(range)?);
    }
    pages.finish()?;
    if has_word {
        let mut list = ListWriter::bad_frames(out);
        for range in bad {
            list.push(&extent(range)?);
        }
        list.finish()?;
    }
    Ok(())
}

/// Begins a domain with what all of them have: DOMAIN_BEGIN, module string, extents. `shared` are the frames of its shared_info, console and store,
/// as far as they are still its own.
fn open_domain<D: Dest>(
    version: StreamVersion,
    domain: &Domain,
    memory: &DomainMemory,
    is_dying: bool,
    [shared_info, console, store]: [Option<Mfn>; 3],
    nr_vcpus: u32,
    out: &mut Writer<D>,
) -> Result<OpenDomain, SaveError> {
    let unrepresentable = |what| SaveError::Unrepresentable { domain: domain.id, what };
    let mut flags = DomainFlags::empty();
    flags.set(DomainFlags::PRIVILEGED, domain.privileged);
    flags.set(DomainFlags::SHUT_DOWN, domain.shutdown().is_some());
    flags.set(DomainFlags::DYING, is_dying);
    let begin = DomainBegin {
        domid: domain.id,
        flags,
        shutdown_reason: domain.shutdown().map_or(0, |s| s.0),
        max_pages: memory.max_frames,
        shared_info,
        console,
        console_evtchn: domain.rings.console_port,
        store_evtchn: domain.rings.store_port,
        store,
        nr_vcpus,
        pause_count: 0,
        handle: domain.handle,
        name: Name::try_new(&domain.name).map_err(|_| unrepresentable("its name"))?,
        time_offset_sec: 0,
        vm_assist: domain.vm_assist(),
    };
    let mut open = OpenDomain::begin(out, version, &begin)?;
    out.save(&PvInfo)?;
    out.record(STATIC_DATA_END, &[])?;
    out.record(LU_CMDLINE_MODULE, domain.module_string.as_bytes())?;
    let mut extents = ListWriter::extents(out);
    for e in memory.extents.iter() {
        let extent = SavedExtent::try_new(e.range(), e.pfn).map_err(|_| unrepresentable("an extent"))?;
        open.count(&extent);
        extents.push(&extent);
    }
    extents.finish()?;
    Ok(open)
}

/// Writes a domain. `context` is where its vCPUs' contexts are put together: zeros at first, and nobody else writes to it.
fn write_domain<D: Dest>(
    host: &Host,
    version: StreamVersion,
    domain: &Domain,
    context: &mut [u8; VCPU_CONTEXT_LEN],
    out: &mut Writer<D>,
) -> Result<(), SaveError> {
    if let Some(refusal) = domain.refusal() {
        return refused::write(host, version, domain, refusal, out);
    }
    let mut memory = domain.memory.lock();
    let vcpus = domain.vcpus.lock().clone();
    // What is left of a domain that has stopped, once everything is quiet, are frames that others map; its rings are not among them for sure.
    let is_zombie = domain.shutdown().is_some();
    let ring = |mfn: Mfn| (!is_zombie).then_some(mfn);
    let shared = [Some(memory.shared_info), ring(domain.rings.console), ring(domain.rings.store)];
    let open = open_domain(version, domain, &memory, is_zombie, shared, vcpus.len() as u32, out)?;
    let mut list = ListWriter::lingering(out);
    memory.settle(host.frames, domain.id);
    memory.lingering.iter().for_each(|mfn| list.push(&mfn));
    list.finish()?;
    save_roots(host, domain, memory.ranges(), out)?;
    let console = domain.console.lock();
    if !console.line.unseen().is_empty() {
        out.record(LU_CONSOLE, console.line.unseen())?;
    }
    let typed = console.typed();
    if !typed.is_empty() {
        out.record(LU_TYPED, &typed)?;
    }
    drop(console);
    let watchdogs = *domain.watchdogs.lock();
    if watchdogs.next().is_some() {
        // 0 says that one is not in use.
        out.save(&LuWatchdogs { ends_ns: watchdogs.0.map(|end| end.map_or(0, |at| at.max(1))) })?;
    }
    save_channels(host, domain, out)?;
    save_grants(host, domain, out)?;
    let clock = tsc::clock();
    out.save(&TscInfo { mode: 0, khz: (clock.tsc_hz / 1000) as u32, nsec: clock.ns_at(tsc::rdtsc()), incarnation: 0 })?;
    save_shared_info(memory.shared_info, out)?;
    drop(memory);
    for vcpu in &vcpus {
        write_vcpu(domain, vcpu, context, out)?;
    }
    open.end(out)?;
    Ok(())
}

/// The page tables among a domain's frames from which a replay starts: pinned ones, and ones that tables of their own level name, which are few.
fn save_roots<D: Dest>(
    host: &Host,
    domain: &Domain,
    ranges: impl Iterator<Item = MfnRange>,
    out: &mut Writer<D>,
) -> Result<(), SaveError> {
    let what = SaveError::Unrepresentable { domain: domain.id, what: "a page table" };
    let (mut linear, mut fits) = (Vec::new(), true);
    let mut list = ListWriter::pinned(out);
    for range in ranges {
        each_root(host.frames, range, |mfn, root| match Pin::try_new(mfn, root.level) {
            Some(pin) if root.is_pinned => list.push(&pin),
            Some(table) => linear.push(table),
            None => fits = false,
        });
    }
    list.finish()?;
    let mut list = ListWriter::linear(out);
    linear.iter().for_each(|table| list.push(table));
    list.finish()?;
    if fits { Ok(()) } else { Err(what) }
}

#[expect(unsafe_code, reason = "a frame is written from where it lies")]
fn save_shared_info<D: Dest>(shared_info: Mfn, out: &mut Writer<D>) -> Result<(), SaveError> {
    // SAFETY: no guest runs, and nothing is raised for one.
    let shared = unsafe { directmap::bytes(shared_info.maddr(), PAGE_SIZE) };
    out.record(SHARED_INFO, shared)?;
    Ok(())
}

fn save_channels<D: Dest>(host: &Host, domain: &Domain, out: &mut Writer<D>) -> Result<(), SaveError> {
    let mut channels = ListWriter::channels(out);
    for port in host.evtchn.lock().ports(domain.id) {
        let (state, is_xen_consumer) = match port.state {
            PortState::Unbound { remote } => (ChannelState::Unbound { remote }, false),
            PortState::Interdomain { remote, remote_port } => {
                (ChannelState::Interdomain { remote, port: remote_port }, false)
            }
            PortState::Virq { virq } => (ChannelState::Virq { virq }, false),
            PortState::Ipi => (ChannelState::Ipi, false),
            // The hypervisor's services are numbered as ports of its own.
            PortState::Hypervisor { service } => {
                (ChannelState::Interdomain { remote: DomId::XEN, port: service as u32 }, true)
            }
        };
        channels.push(&Channel { port: port.port, state, is_xen_consumer, notify_vcpu: port.notify_vcpu });
    }
    channels.finish()?;
    Ok(())
}

fn save_grants<D: Dest>(host: &Host, domain: &Domain, out: &mut Writer<D>) -> Result<(), SaveError> {
    let tables = host.grants.lock();
    let Some(table) = tables.to_save(domain.id) else { return Ok(()) };
    let limits = table.limits();
    let head = GrantsHead {
        version: table.version() as u32,
        max_frames: limits.max_frames,
        max_maps: limits.max_maps,
        nr_shared: table.shared().len() as u32,
    };
    write_grants(out, head, [table.shared(), table.status()])?;
    save_uses(table, out)
}

/// The part of a domain's grants that others change too.
fn save_grant_uses<D: Dest>(host: &Host, domain: &Domain, out: &mut Writer<D>) -> Result<(), SaveError> {
    host.grants.lock().to_save(domain.id).map_or(Ok(()), |table| save_uses(table, out))
}

fn save_uses<D: Dest>(table: TableToSave<'_>, out: &mut Writer<D>) -> Result<(), SaveError> {
    let mut list = ListWriter::grants_in_use(out);
    for (reference, active) in table.active() {
        let Active { to, frame, readers, writers } = active;
        list.push(&GrantInUse { reference, to, readers, writers, frame });
    }
    list.finish()?;
    let mut list = ListWriter::grant_maps(out);
    for (handle, mapping) in table.maps() {
        let Mapping { granter, reference, flags } = mapping;
        list.push(&GrantMap { handle, granter, reference, flags });
    }
    list.finish()?;
    Ok(())
}

fn write_vcpu<D: Dest>(
    domain: &Domain,
    vcpu: &Vcpu,
    context: &mut [u8; VCPU_CONTEXT_LEN],
    out: &mut Writer<D>,
) -> Result<(), SaveError> {
    let v = vcpu.state.lock();
    let mut flags = VcpuFlags::empty();
    flags.set(VcpuFlags::KERNEL_MODE, v.kernel_mode);
    flags.set(VcpuFlags::INITIALISED, v.initialised);
    flags.set(VcpuFlags::UP, v.online);
    flags.set(VcpuFlags::BLOCKED, v.blocked);
    flags.set(VcpuFlags::POLLING, v.polling_until.is_some());
    flags.set(VcpuFlags::YIELDED, v.yielded);
    let mut pending = VcpuPending::empty();
    pending.set(VcpuPending::NMI, v.nmi_pending);
    pending.set(VcpuPending::NMI_MASKED, v.nmi_masked);
    let c = &v.callbacks;
    let mut masks = CallbackMasks::empty();
    masks.set(CallbackMasks::EVENT, c.event.masks_events);
    masks.set(CallbackMasks::FAILSAFE, c.failsafe.masks_events);
    masks.set(CallbackMasks::SYSCALL, c.syscall.masks_events);
    masks.set(CallbackMasks::SYSCALL32, c.syscall32.masks_events);
    masks.set(CallbackMasks::SYSENTER, c.sysenter.masks_events);
    out.save(&LuVcpu {
        vcpu: vcpu.id,
        flags,
        user_cr3: v.user_l4,
        kernel_cr3: v.kernel_l4,
        vcpu_info: v.info_registered.then(|| v.info.mfn_containing()),
        vcpu_info_offset: if v.info_registered { v.info.page_offset() as u32 } else { 0 },
        poll_port: v.poll_port,
        runstate: Runstate {
            area: v.runstate.area_va,
            state: v.runstate.state,
            entry_ns: v.runstate.entry_ns,
            times_ns: v.runstate.times,
        },
        time_area: v.time_area_va,
        // 0 says that it is not set; a time at 0 is as much over at 1.
        singleshot_ns: v.singleshot.map_or(0, |at| at.max(1)),
        period_ns: v.periodic_ns,
        periodic_next_ns: v.periodic_next,
        callbacks: Callbacks {
            event: c.event.rip,
            failsafe: c.failsafe.rip,
            syscall: c.syscall.rip,
            syscall32: c.syscall32.rip,
            sysenter: c.sysenter.rip,
            // Vector 2 of the trap table.
            nmi: 0,
            masks,
        },
        iopl: v.iopl.into(),
        pending,
        // 0 says that there is no limit.
        poll_until_ns: v.polling_until.filter(|&t| t != u64::MAX).unwrap_or(0),
        iobmp: v.iobmp,
        iobmp_nr_ports: v.iobmp_nr_ports,
    })?;
    if !v.initialised {
        return Ok(());
    }
    hypercall::vcpu::context_of(&v, domain.vm_assist()).encode(&v.traps, context);
    write_vcpu_basic(out, vcpu.id, context)?;
    if v.fpu.xcr0() != 0 {
        write_vcpu_xsave(out, vcpu.id, v.xcr0, v.fpu.xcr0(), v.fpu.bytes())?;
    }
    Ok(())
}

/// The flags that a test run's verdict leaves behind.
pub fn verdict_flags() -> HostFlags {
    match verdict::worst() {
        Verdict::Success | Verdict::Skip => HostFlags::empty(),
        Verdict::Error => HostFlags::LEDGER_MISMATCH,
        Verdict::Failure => HostFlags::DOMAIN_FAILED,
    }
}
