//! The incoming side takes up what the outgoing one left: checks all of it, then claims, then restores.
//!
//! 1. [`Incoming::open`]: breadcrumb, MFN list, checksum, structure. Nothing has been applied yet.
//! 2. [`Incoming::claim_all`]: pass 1, who owns which frame, one claim an extent (I7). Out of the region alone (I2).
//! 3. Free memory is plugged in by `start`.
//! 4. [`Incoming::restore_domains`]: domains with their vCPUs and event channels, then page types, replayed from pins and base pointers.
//! 5. [`Incoming::free_stream`], [`Incoming::finish`]: the stream's frames are free, and the report follows when guests run.

mod grants;

use super::breadcrumb::{self, BreadcrumbError};
use super::mfn_list::{self, MfnList, MfnListError};
use super::records::{
    self, AnyRecord, CallbackMasks, Channel, ChannelState, DomainBegin, HostFlags, LuHost, LuTime, LuVcpu, Pin,
    Summary, VCPU_CONTEXT_LEN, VcpuFlags, VcpuPending,
};
use super::report::{self, Report};
use super::stream::{PagedSource, StreamError};
use super::update::UpdateState;
use crate::domain::console::Console;
use crate::domain::evtchn::{DomainConfig, PortRecord, PortState, Service};
use crate::domain::grant::{Inconsistent, SavedTable};
use crate::domain::sched::WATCHDOGS;
use crate::domain::watchdog::Watchdogs;
use crate::frame::{DomId, Maddr, Mfn, MfnRange};
use crate::hypercall;
use crate::log;
use crate::mm::extents::ExtentMap;
use crate::mm::lingering::Lingering;
use crate::mm::m2p::{FRAMES_PER_BLOCK, M2p};
use crate::mm::page_info::{CountFlags, PageLookup};
use crate::run::domain::{Domain, DomainMemory, DomainParts, Rings, Shutdown};
use crate::run::host::{Host, Module};
use crate::run::vcpu::{Callback, GDT_FRAMES, RunState, Vcpu, VcpuState};
use crate::run::{create, grants as run_grants, teardown, work};
use crate::start::Fatal;
use crate::time::Clock;
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::x86::{apic, cpu, tsc};
use crate::xen::hypercall::runstate;
use crate::xen::vcpu::VcpuGuestContext;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;

/// What the outgoing side left cannot be taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The breadcrumb leads nowhere.
    Breadcrumb(BreadcrumbError),
    /// The MFN list is damaged.
    List(MfnListError),
    /// The stream is damaged.
    Stream(StreamError),
    /// A stream that checked out lacks what every stream has.
    Missing {
        /// What.
        what: &'static str,
    },
    /// The stream's own frames cannot be freed.
    Release {
        /// The first of them.
        mfn: Mfn,
    },
}

impl From<StreamError> for RestoreError {
    fn from(e: StreamError) -> Self {
        Self::Stream(e)
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Breadcrumb(e) => write!(f, "breadcrumb: {e}"),
            Self::List(e) => write!(f, "MFN list: {e}"),
            Self::Stream(e) => write!(f, "stream: {e}"),
            Self::Missing { what } => write!(f, "the stream has no {what}"),
            Self::Release { mfn } => write!(f, "frame {mfn} of the stream cannot be freed"),
        }
    }
}

/// Where the log of the outgoing build is.
pub struct SavedLog {
    /// Its frames.
    pub range: MfnRange,
    /// Bytes ever written.
    pub head: u64,
    /// Bytes ever printed.
    pub printed: u64,
}

/// What `start` needs to make the host's state.
pub struct HostParts {
    /// Wall-clock time at system time 0.
    pub wallclock: (u64, u32),
    /// Boot modules.
    pub modules: Vec<Module>,
    /// Live update.
    pub update: UpdateState,
}

/// A domain as the stream describes it.
struct SavedDomain {
    begin: DomainBegin,
    module_string: String,
    extents: ExtentMap,
    lingering: Vec<Mfn>,
    pins: Vec<Pin>,
    linear: Vec<Pin>,
    partial_line: Vec<u8>,
    watchdogs: Watchdogs,
    typed: Vec<u8>,
    channels: Vec<Channel>,
    grants: Option<SavedTable>,
    vcpus: Vec<SavedVcpu>,
}

struct SavedVcpu {
    saved: LuVcpu,
    context: Option<Box<VcpuGuestContext>>,
    xsave: Option<SavedXsave>,
}

/// Extended state: the components in use, those that the area has, the area.
struct SavedXsave {
    xcr0: u64,
    components: u64,
    area: Vec<u8>,
}

/// A stream that checked out.
pub struct Incoming {
    list: MfnList,
    summary: Summary,
    time: LuTime,
    host: LuHost,
    modules: Vec<Module>,
    m2p: Vec<Option<Mfn>>,
    saved_log: Option<SavedLog>,
    report: Report,
}

impl Incoming {
    /// Follows the breadcrumb. `None` is a cold boot; anything that does not check out is an error, and nothing has been changed.
    pub fn open(
        region: MfnRange,
        slot: MfnRange,
        is_ram: impl Fn(MfnRange) -> bool + Copy,
    ) -> Result<Option<Self>, RestoreError> {
        let usable = |range: MfnRange| is_ram(range) && !range.overlaps(slot);
        let root = breadcrumb::take(&DirectMap, region, usable).map_err(RestoreError::Breadcrumb)?;
        let Some(root) = root else { return Ok(None) };
        let list = mfn_list::read(&DirectMap, root, region, usable).map_err(RestoreError::List)?;
        let summary = records::validate(records::reader(&list.open(&DirectMap)?))?;
        let mut incoming = Self {
            summary,
            time: LuTime { tsc: 0, system_time_ns: 0, tsc_hz: 1, apic_hz: 0, wallclock_sec: 0, wallclock_nsec: 0 },
            host: LuHost {
                updates_done: 0,
                next_trigger_ns: 0,
                flags: HostFlags::empty(),
                refusals: 0,
                console_focus: None,
                next_domid: 1,
                finish_ns: 0,
                domains_ended: 0,
            },
            modules: Vec::new(),
            m2p: Vec::new(),
            saved_log: None,
            report: Report::new(summary, region),
            list,
        };
        incoming.read_all()?;
        Ok(Some(incoming))
    }

    /// Decodes what concerns the host as a whole: little, whatever the guests are, as all memory for it comes out of the region.
    fn read_all(&mut self) -> Result<(), RestoreError> {
        let source = PagedSource::new(&DirectMap, self.list.pages(), self.list.stream_len_bytes());
        let mut reader = records::reader(&source);
        while let Some(record) = reader.next_record()? {
            let wrong = |e| RestoreError::Stream(record.error(e));
            match AnyRecord::decode(&record)? {
                AnyRecord::Time(time) => self.time = time,
                AnyRecord::Host(host) => self.host = host,
                AnyRecord::Module(m) => self.modules.push(Module {
                    start: m.mfn.maddr(),
                    len_bytes: m.len_bytes,
                    string: text(&m.string.to_vec().map_err(wrong)?),
                }),
                AnyRecord::M2p(blocks) => {
                    for block in blocks.iter() {
                        let block = block.map_err(wrong)?;
                        let index = (block.first().get() / FRAMES_PER_BLOCK) as usize;
                        self.m2p.resize(index, None);
                        self.m2p.push(block.frames().first());
                    }
                }
                AnyRecord::Log(log) => {
                    self.saved_log = Some(SavedLog { range: log.frames, head: log.head, printed: log.tail });
                }
                AnyRecord::Stages(stages) => {
                    for stage in stages.iter() {
                        self.report.stamp_outgoing(stage.map_err(wrong)?);
                    }
                }
                // Domains are read when there is memory for them.
                _ => {}
            }
        }
        Ok(())
    }

    /// Decodes every record again and hands it to `each`. The stream was checked by `open`, so order and presence are right.
    fn for_each_record<E: From<RestoreError>>(
        &self,
        mut each: impl FnMut(AnyRecord<'_, PagedSource<'_, DirectMap>>) -> Result<(), RecordProblem<E>>,
    ) -> Result<(), E> {
        let source = PagedSource::new(&DirectMap, self.list.pages(), self.list.stream_len_bytes());
        let mut reader = records::reader(&source);
        while let Some(record) = reader.next_record().map_err(RestoreError::Stream)? {
            let decoded = AnyRecord::decode(&record).map_err(RestoreError::Stream)?;
            each(decoded).map_err(|problem| match problem {
                RecordProblem::Record(e) => E::from(RestoreError::Stream(record.error(e))),
                RecordProblem::Extents(what) => E::from(RestoreError::Missing { what }),
                RecordProblem::Other(e) => e,
            })?;
        }
        Ok(())
    }

    /// System time goes on from the outgoing build's anchor.
    pub fn start_clock(&self) {
        let t = &self.time;
        tsc::set_clock(Clock::new(t.tsc, t.system_time_ns, t.tsc_hz));
        apic::set_hz(if t.apic_hz != 0 { t.apic_hz } else { apic::measure_hz(t.tsc_hz) });
    }

    /// Notes when this image was entered.
    pub fn note_boot(&mut self, entry_tsc: u64) {
        self.report.entered(entry_tsc);
    }

    /// Pass 1: all claims, through `claim`, which provides for page records.
    pub fn claim_all(&mut self, mut claim: impl FnMut(MfnRange, DomId) -> Result<(), Fatal>) -> Result<(), Fatal> {
        for frames in runs(self.list.frames()) {
            claim(frames, DomId::STREAM)?;
        }
        for module in &self.modules {
            claim(module.frames(), DomId::XEN)?;
        }
        for block in self.m2p.iter().flatten() {
            claim(MfnRange::new(*block, crate::frame::CHUNK_FRAMES), DomId::XEN)?;
        }
        if let Some(log) = &self.saved_log {
            claim(log.range, DomId::XEN)?;
        }
        let mut owner = DomId::INVALID;
        self.for_each_record(|record| {
            match record {
                AnyRecord::DomainBegin(begin) => {
                    owner = begin.domid;
                    if let Some(shared) = begin.shared_info {
                        claim(MfnRange::new(shared, 1), owner).map_err(RecordProblem::Other)?;
                    }
                }
                AnyRecord::Grants(grants) => {
                    for mfn in grants.frames.iter() {
                        claim(MfnRange::new(mfn?, 1), owner).map_err(RecordProblem::Other)?;
                    }
                }
                AnyRecord::Extents(extents) => {
                    for extent in extents.iter() {
                        claim(extent?.mfns(), owner).map_err(RecordProblem::Other)?;
                    }
                }
                AnyRecord::Lingering(frames) => {
                    for mfn in frames.iter() {
                        claim(MfnRange::new(mfn?, 1), owner).map_err(RecordProblem::Other)?;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Free memory is plugged in.
    pub fn note_plugged(&mut self) {
        self.report.plugged();
    }

    /// The M2P, in place.
    pub fn take_m2p(&mut self) -> M2p {
        M2p::new(core::mem::take(&mut self.m2p))
    }

    /// The outgoing build's log.
    pub fn log(&self) -> Option<&SavedLog> {
        self.saved_log.as_ref()
    }

    /// The outgoing build's name.
    pub fn from(&self) -> &str {
        self.summary.version.build.as_str()
    }

    /// Number of this update since the cold boot.
    pub fn sequence(&self) -> u64 {
        self.summary.version.update_sequence
    }

    /// What the host's state is made of.
    pub fn host_parts(&mut self) -> HostParts {
        if self.host.flags.contains(HostFlags::LEDGER_MISMATCH) {
            verdict::note(Verdict::Error);
        }
        if self.host.flags.contains(HostFlags::DOMAIN_FAILED) {
            verdict::note(Verdict::Failure);
        }
        HostParts {
            wallclock: (self.time.wallclock_sec, self.time.wallclock_nsec),
            modules: core::mem::take(&mut self.modules),
            update: UpdateState::resumed(self.summary.version.update_sequence, &self.host),
        }
    }

    /// Passes 0 and 2. A domain that does not replay is left paused, with its memory, and reported; the others go on.
    pub fn restore_domains(&mut self, host: &Host) -> Result<(), RestoreError> {
        *host.next_domid.lock() = self.host.next_domid.max(1);
        host.console.lock().focus = self.host.console_focus.map(DomId::new);
        let mut domains: Vec<SavedDomain> = Vec::new();
        self.for_each_record::<RestoreError>(|record| {
            match record {
                AnyRecord::DomainBegin(begin) => domains.push(SavedDomain::new(begin)),
                other => {
                    if let Some(domain) = domains.last_mut() {
                        domain.take(other)?;
                    }
                }
            }
            Ok(())
        })?;
        let bad_grants = grants::restore(host, domains.iter_mut().map(|d| (d.begin.domid, d.grants.take())));
        let mut lingering = Vec::new();
        for mut saved in domains {
            let id = saved.begin.domid;
            let name = saved.begin.name;
            let frames = core::mem::take(&mut saved.lingering);
            let restored = restore_domain(host, saved, bad_grants.get(&id));
            lingering.extend(host.domain(id).map(|domain| (domain, frames, restored.is_ok())));
            if let Err(why) = restored {
                log!("lu", "{id} {name} is refused: {why}; it stays paused, its memory is kept");
                verdict::note(Verdict::Failure);
            }
        }
        for (domain, frames, is_restored) in lingering {
            give_up_again(host, &domain, &frames, is_restored);
        }
        teardown::give_up_zombies(host);
        let mismatch = host.evtchn.lock().mismatches().next();
        if let Some(mismatch) = mismatch {
            log!("lu", "event channels do not fit: {mismatch}");
            verdict::note(Verdict::Failure);
        }
        self.report.restored();
        Ok(())
    }

    /// The stream has been read: its frames are free.
    pub fn free_stream(&self, host: &Host) -> Result<(), RestoreError> {
        for frames in runs(self.list.frames()) {
            let first = frames.first().unwrap_or(Mfn::ZERO);
            host.frames.release(frames, DomId::STREAM).map_err(|_| RestoreError::Release { mfn: first })?;
        }
        Ok(())
    }

    /// Hands the report over, to be completed when the first guest runs.
    pub fn finish(self, host: &Host) {
        let from = self.from().to_owned();
        report::expect_resume(host, self.report, from);
    }
}

/// Consecutive frames joined to ranges.
fn runs(frames: impl Iterator<Item = Mfn>) -> Vec<MfnRange> {
    let mut sorted: Vec<u64> = frames.map(Mfn::get).collect();
    sorted.sort_unstable();
    let mut out: Vec<MfnRange> = Vec::new();
    for mfn in sorted {
        match out.last_mut() {
            Some(last) if last.end() == mfn => {
                if let Some(longer) = MfnRange::between(last.start(), mfn + 1) {
                    *last = longer;
                }
            }
            _ => out.extend(MfnRange::between(mfn, mfn + 1)),
        }
    }
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_string()
}

/// What is wrong with a record, or what its taker has to say.
enum RecordProblem<E> {
    Record(super::stream::RecordError),
    Extents(&'static str),
    Other(E),
}

impl<E> From<super::stream::RecordError> for RecordProblem<E> {
    fn from(e: super::stream::RecordError) -> Self {
        Self::Record(e)
    }
}

impl SavedDomain {
    fn new(begin: DomainBegin) -> Self {
        Self {
            begin,
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

    fn take<S: super::stream::ByteSource + ?Sized, E>(
        &mut self,
        record: AnyRecord<'_, S>,
    ) -> Result<(), RecordProblem<E>> {
        match record {
            AnyRecord::CmdlineModule(body) => self.module_string = text(&body.to_vec()?),
            AnyRecord::Extents(extents) => {
                for extent in extents.iter() {
                    let e = extent?;
                    let first = e.mfns().first().unwrap_or(Mfn::ZERO);
                    let inserted = self.extents.insert(e.pfn(), first, e.nr_frames());
                    inserted.map_err(|_| RecordProblem::Extents("extents without overlap (I6)"))?;
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
            AnyRecord::Grants(saved) => self.grants = Some(grants::table_of(&saved)?),
            AnyRecord::GrantsInUse(list) => grants::take_in_use(&mut self.grants, &list)?,
            AnyRecord::GrantMaps(list) => grants::take_maps(&mut self.grants, &list)?,
            AnyRecord::Vcpu(saved) => self.vcpus.push(SavedVcpu { saved, context: None, xsave: None }),
            AnyRecord::VcpuBasic(basic) => {
                let mut bytes = Box::new([0; VCPU_CONTEXT_LEN]);
                let mut body = basic.context;
                body.read_into(&mut bytes[..])?;
                if let Some(vcpu) = self.vcpus.last_mut() {
                    vcpu.context = Some(Box::new(VcpuGuestContext::decode(&bytes)));
                }
            }
            AnyRecord::VcpuXsave(xsave) => {
                let area = xsave.area.to_vec()?;
                if let Some(vcpu) = self.vcpus.last_mut() {
                    vcpu.xsave = Some(SavedXsave { xcr0: xsave.xcr0, components: xsave.xcr0_accum, area });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ports(&self) -> Vec<PortRecord> {
        let record = |c: &Channel| {
            let state = match c.state {
                ChannelState::Interdomain { port, .. } if c.is_xen_consumer => PortState::Hypervisor {
                    service: if port == Service::Store as u32 { Service::Store } else { Service::Console },
                },
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

/// Why one domain cannot be restored.
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn refused(why: impl fmt::Display) -> Refused {
    Refused(why.to_string())
}

fn restore_domain(host: &Host, mut saved: SavedDomain, bad_grants: Option<&Inconsistent>) -> Result<(), Refused> {
    let begin = saved.begin;
    let id = begin.domid;
    let ports = saved.ports();
    let is_zombie = begin.flags.contains(records::DomainFlags::DYING);
    let console = begin.console.or(is_zombie.then_some(Mfn::ZERO));
    let (Some(shared), Some(console)) = (begin.shared_info, console) else {
        return Err(refused("it has no shared_info or no console"));
    };
    for mfn in run_grants::frames(host, id).into_iter().chain([shared]) {
        if let Ok(page) = host.frames.page(mfn) {
            page.count_info.fetch_or(CountFlags::XEN_HEAP.bits(), Ordering::AcqRel);
        }
    }
    let (perdomain, l4_slots) =
        create::hypervisor_area(host, begin.nr_vcpus).ok_or_else(|| refused("no memory for its tables"))?;
    let domain = Arc::new(Domain::new(DomainParts {
        id,
        name: begin.name.as_str().to_owned(),
        privileged: begin.flags.contains(records::DomainFlags::PRIVILEGED),
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
    let watchdogs = saved.watchdogs;
    *domain.watchdogs.lock() = watchdogs;
    // Paused until everything of it is back.
    domain.set_paused(true);
    host.domains.lock().insert(id, domain.clone());
    if begin.flags.contains(records::DomainFlags::SHUT_DOWN) {
        domain.set_shutdown(Shutdown(begin.shutdown_reason));
    }
    if let Some(why) = bad_grants {
        return Err(refused(why));
    }
    if is_zombie {
        host.zombies.lock().push(domain);
        return Ok(());
    }
    let config = DomainConfig { shared_info: shared, nr_vcpus: begin.nr_vcpus, is_privileged: domain.privileged };
    host.evtchn.lock().restore_domain(id, config, ports).map_err(refused)?;

    // Each mapping of another's grant may be found in one leaf.
    let mapped = host.grants.lock().mapped(id);
    let may_map = |mfn, owner, access| mapped.take(mfn, owner, access);
    let types = host.types_with(&domain, &may_map);
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
    host.hold_shared(&domain).map_err(refused)?;

    let mut vcpus = Vec::new();
    for v in saved.vcpus {
        vcpus.push(restore_vcpu(host, &domain, v)?);
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
fn give_up_again(host: &Host, domain: &Domain, frames: &[Mfn], is_restored: bool) {
    let types = host.types(domain);
    let mut memory = domain.memory.lock();
    for &mfn in frames {
        if !is_restored {
            let kept = memory.extents.insert(None, mfn, 1);
            assert!(kept.is_ok(), "a frame has one claimant (I6)");
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

fn restore_vcpu(host: &Host, domain: &Arc<Domain>, from: SavedVcpu) -> Result<Arc<Vcpu>, Refused> {
    let s = from.saved;
    let fpu = create::fpu_area(host).ok_or_else(|| refused("no memory for its FPU state"))?;
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
    let mut v = VcpuState::new(info, fpu);
    v.info_registered = s.vcpu_info.is_some();
    let mut gdt = ([None; GDT_FRAMES], 0);
    if let Some(c) = &from.context {
        hypercall::vcpu::load_context(&mut v, c);
        let nr = (c.gdt_ents as usize).div_ceil(512).min(GDT_FRAMES);
        for (to, raw) in gdt.0[..nr].iter_mut().zip(c.gdt_frames) {
            *to = Some(Mfn::try_new(raw).map_err(refused)?);
        }
        gdt.1 = c.gdt_ents as u32;
    }
    if let Some(SavedXsave { xcr0, components, area }) = from.xsave {
        if components != v.fpu.xcr0() || area.len() != v.fpu.bytes().len() {
            let has = v.fpu.xcr0();
            return Err(refused(format_args!("its FPU state has components {components:#x}, this CPU {has:#x}")));
        }
        if !cpu::is_valid_xcr0(&host.features, xcr0) {
            return Err(refused(format_args!("its XCR0 is {xcr0:#x}, this CPU has {components:#x}")));
        }
        v.xcr0 = xcr0;
        v.fpu.bytes_mut().copy_from_slice(&area);
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
