//! The incoming side takes up what the outgoing one left: checks all of it, then claims, then restores.
//!
//! 1. [`Incoming::open`]: breadcrumb, MFN list, checksum, structure. Nothing has been applied yet.
//! 2. [`Incoming::claim_all`]: pass 1, who owns which frame, one claim an extent (I7). Out of the region alone (I2), and the last of the checks: up to here
//!    nothing that a guest has was written to, and nothing became free.
//! 3. Free memory is plugged in by `start`.
//! 4. [`Incoming::restore_domains`]: domains with their vCPUs and event channels, then page types, replayed from pins and base pointers.
//!    A domain that does not fit is refused alone ([`refused`]).
//! 5. [`Incoming::free_stream`], [`Incoming::finish`]: the stream's frames are free, and the report follows when guests run.

mod domain;
mod grants;
mod refused;

use super::breadcrumb::{self, BreadcrumbError};
use super::claims::{Claims, Disputes, HostClaim, NoRoom};
use super::damage::{Damage, FIRST_DOMAIN};
use super::history::History;
use super::mfn_list::{self, MfnList, MfnListError};
use super::records::{
    self, AnyRecord, DOMAIN_BEGIN, DomainFault, HostFlags, LU_EXTENTS, LU_GRANTS, LU_LINGERING, LuHost, LuTime, Summary,
};
use super::report::{self, Report};
use super::stream::{PagedSource, StreamError};
use super::update::UpdateState;
use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::frametable::{ClaimError, Frames};
use crate::mm::m2p::{FRAMES_PER_BLOCK, M2p};
use crate::run::bad;
use crate::run::host::{Host, Module};
use crate::run::teardown;
use crate::start::Fatal;
use crate::time::Clock;
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::x86::{apic, tsc};
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use domain::{SavedDomain, Stream, complete, create, give_up_again};

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
    /// A frame that the hypervisor needs for itself is not to be had.
    Claim {
        /// Whose it is instead.
        error: ClaimError,
        /// Type and offset of the record that names the frame, if one does.
        record: Option<(u32, u64)>,
    },
    /// Memory for what the check has to remember ran out.
    NoMemory,
    /// The stream's own frames cannot be freed.
    Release {
        /// The first of them.
        mfn: Mfn,
    },
}

impl From<NoRoom> for RestoreError {
    fn from(_: NoRoom) -> Self {
        Self::NoMemory
    }
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
            Self::Claim { error, record: Some((kind, at)) } => {
                let name = records::kind_name(*kind).unwrap_or("?");
                write!(f, "record {name} at {at:#x}: {error}")
            }
            Self::Claim { error, record: None } => write!(f, "{error}"),
            Self::NoMemory => f.write_str("no memory to check the stream: boot with a larger liveupdate="),
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

/// A stream that checked out.
pub struct Incoming {
    list: MfnList,
    summary: Summary,
    time: LuTime,
    host: LuHost,
    modules: Vec<Module>,
    m2p: M2p,
    saved_log: Option<SavedLog>,
    xen_pages: Vec<MfnRange>,
    bad_frames: Vec<MfnRange>,
    faults: Vec<DomainFault>,
    disputes: Disputes,
    history: History,
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
        let mut faults: Vec<DomainFault> = Vec::new();
        let mut no_room = false;
        let summary = records::validate_with(records::reader(&list.open(&DirectMap)?), &mut |fault| {
            // One is enough to refuse a domain.
            if faults.last().is_none_or(|last| last.domid != fault.domid) {
                no_room |= faults.try_reserve(1).map(|()| faults.push(fault)).is_err();
            }
            if no_room { Err(fault.into()) } else { Ok(()) }
        })?;
        list.check_version(summary.version.stream_version).map_err(RestoreError::List)?;
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
            m2p: M2p::new(Vec::new()),
            saved_log: None,
            xen_pages: Vec::new(),
            bad_frames: Vec::new(),
            faults,
            disputes: Disputes::default(),
            history: History::default(),
            report: Report::new(summary, region),
            list,
        };
        incoming.read_all()?;
        Ok(Some(incoming))
    }

    /// Decodes what concerns the host as a whole: little, whatever the guests are, as all memory for it comes out of the region.
    fn read_all(&mut self) -> Result<(), RestoreError> {
        let source = stream(&self.list);
        let mut reader = records::reader(&source);
        while let Some(record) = reader.next_record()? {
            // Domains are read when there is memory for them.
            if records::is_of_domain(record.kind) {
                continue;
            }
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
                        self.m2p.place(index, block.frames().first());
                    }
                }
                AnyRecord::Log(log) => {
                    self.saved_log = Some(SavedLog { range: log.frames, head: log.head, printed: log.tail });
                }
                AnyRecord::BadFrames(list) => {
                    for extent in list.iter() {
                        self.bad_frames.try_reserve(1).map_err(|_| RestoreError::NoMemory)?;
                        self.bad_frames.push(extent.map_err(wrong)?.mfns());
                    }
                }
                AnyRecord::XenPages(pages) => {
                    for extent in pages.extents.iter() {
                        self.xen_pages.try_reserve(1).map_err(|_| RestoreError::NoMemory)?;
                        self.xen_pages.push(extent.map_err(wrong)?.mfns());
                    }
                }
                AnyRecord::History(history) => {
                    self.history.resume(history.entry, &text(&history.reason.to_vec().map_err(wrong)?));
                }
                AnyRecord::Stages(stages) => {
                    for stage in stages.iter() {
                        self.report.stamp_outgoing(stage.map_err(wrong)?);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Decodes the records of the types that are wanted again and hands them to `each`. The stream was checked by `open`, so order and
    /// presence are right.
    fn for_each_record<'s, E: From<RestoreError>>(
        source: &'s Stream<'s>,
        is_wanted: fn(u32) -> bool,
        mut each: impl FnMut(u64, &AnyRecord<'s, Stream<'s>>) -> Result<(), RecordProblem<E>>,
    ) -> Result<(), E> {
        let mut reader = records::reader(source);
        while let Some(record) = reader.next_record().map_err(RestoreError::Stream)? {
            if !is_wanted(record.kind) {
                continue;
            }
            let decoded = AnyRecord::decode(&record).map_err(RestoreError::Stream)?;
            each(record.at, &decoded).map_err(|problem| match problem {
                RecordProblem::Record(e) => E::from(RestoreError::Stream(record.error(e))),
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

    /// Pass 1: all claims. `feed` provides for page records.
    /// Then what nobody has of the frames called `faulty`, here or by the outgoing side, is taken out of use.
    pub fn claim_all(
        &mut self,
        frames: &Frames,
        faulty: &[MfnRange],
        feed: impl FnMut(u64) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        let mut claims = Claims::new(frames, feed);
        let host = |claimed: Result<(), HostClaim<Fatal>>| {
            claimed.map_err(|e| match e {
                HostClaim::Conflict(error) => Fatal::from(self.of_record(error)),
                HostClaim::NoRoom(fatal) => fatal,
            })
        };
        for frames in runs(self.list.frames()) {
            host(claims.host(frames, DomId::STREAM))?;
        }
        for module in &self.modules {
            host(claims.host(module.frames(), DomId::XEN))?;
        }
        for (_, blocks) in self.m2p.runs() {
            host(claims.host(blocks, DomId::XEN))?;
        }
        if let Some(log) = &self.saved_log {
            host(claims.host(log.range, DomId::XEN))?;
        }
        for range in &self.xen_pages {
            host(claims.host(*range, DomId::IO))?;
        }
        let mut owner = DomId::INVALID;
        let names_frames = |kind| matches!(kind, DOMAIN_BEGIN | LU_GRANTS | LU_EXTENTS | LU_LINGERING);
        Self::for_each_record(&stream(&self.list), names_frames, |_, record| {
            match record {
                AnyRecord::DomainBegin(begin) => {
                    owner = begin.domid;
                    if let Some(shared) = begin.shared_info {
                        claims.domain(MfnRange::new(shared, 1), owner).map_err(RecordProblem::Other)?;
                    }
                }
                AnyRecord::Grants(grants) => {
                    let ranges = grants.frames.iter().map(|mfn| mfn.map(|mfn| MfnRange::new(mfn, 1)));
                    claims.domain_all(ranges, owner).map_err(RecordProblem::Other)??;
                }
                AnyRecord::Extents(extents) => {
                    let ranges = extents.iter().map(|extent| extent.map(|extent| extent.mfns()));
                    claims.domain_all(ranges, owner).map_err(RecordProblem::Other)??;
                }
                AnyRecord::Lingering(frames) => {
                    let ranges = frames.iter().map(|mfn| mfn.map(|mfn| MfnRange::new(mfn, 1)));
                    claims.domain_all(ranges, owner).map_err(RecordProblem::Other)??;
                }
                _ => {}
            }
            Ok(())
        })?;
        for range in self.bad_frames.iter().chain(faulty) {
            claims.set_aside(*range)?;
        }
        self.disputes = claims.finish();
        Ok(())
    }

    /// Says which of the host's records names the frame that a claim failed on. Slow, and only then.
    fn of_record(&self, error: ClaimError) -> RestoreError {
        let ClaimError::Conflict { mfn, .. } = error else { return RestoreError::Claim { error, record: None } };
        let source = stream(&self.list);
        let mut reader = records::reader(&source);
        let mut named = None;
        while let (None, Ok(Some(record))) = (named, reader.next_record()) {
            let is_named = match AnyRecord::decode(&record) {
                Ok(AnyRecord::Module(m)) => MfnRange::frames_touched(m.mfn.maddr().get(), m.len_bytes).contains(mfn),
                Ok(AnyRecord::M2p(blocks)) => blocks.iter().flatten().any(|block| block.frames().contains(mfn)),
                Ok(AnyRecord::Log(log)) => log.frames.contains(mfn),
                Ok(AnyRecord::XenPages(pages)) => pages.extents.iter().flatten().any(|e| e.mfns().contains(mfn)),
                _ => false,
            };
            named = is_named.then_some((record.kind, record.at));
        }
        RestoreError::Claim { error, record: named }
    }

    /// Free memory is plugged in.
    pub fn note_plugged(&mut self) {
        self.report.plugged();
    }

    /// The M2P, in place.
    pub fn take_m2p(&mut self) -> M2p {
        core::mem::take(&mut self.m2p)
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
            update: UpdateState::resumed(
                self.summary.version.update_sequence,
                &self.host,
                core::mem::take(&mut self.history),
            ),
        }
    }

    /// Passes 0 and 2. A domain that does not fit is left paused, with its memory, and reported; the others go on.
    pub fn restore_domains(&mut self, host: &Host) -> Result<(), RestoreError> {
        *host.next_domid.lock() = self.host.next_domid.max(1);
        host.console.lock().focus = self.host.console_focus.map(DomId::new);
        bad::retire(host, &self.bad_frames);
        bad::retire(host, host.options.badpage.ranges());
        host.withheld.lock().extend(self.xen_pages.iter().chain(self.disputes.withheld()));
        let source = stream(&self.list);
        let mut domains = self.read_domains(&source)?;
        for saved in &mut domains {
            let id = saved.begin.domid;
            if let Some(fault) = self.faults.iter().find(|fault| fault.domid == id) {
                saved.lose(&format_args!("its records do not fit, at {:#x} of the stream: {}", fault.at, fault.rule));
            }
            if let Some(dispute) = self.disputes.of(id) {
                saved.keep_own_memory(host);
                saved.lose(dispute);
            }
            if id == FIRST_DOMAIN && self.sequence() == 1 && Damage::asked(&host.options) == Some(Damage::Refuse) {
                saved.refuse("test=lu-refuse says so");
            }
        }
        grants::restore(host, &mut domains);
        let mut pairs = Vec::new();
        for mut saved in domains {
            if let Some(domain) = create(host, &mut saved) {
                pairs.push((domain, saved));
            }
        }
        refused::unfit_channels(host, &mut pairs);
        let mut lingering = Vec::new();
        for (domain, mut saved) in pairs {
            let frames = core::mem::take(&mut saved.lingering);
            let extract = saved.extract.clone();
            let refusal = complete(host, &domain, saved);
            lingering.push((domain.clone(), frames, refusal.is_none()));
            if let Some(unfit) = refusal {
                refused::keep(&domain, unfit, &extract, &source);
                verdict::note(Verdict::Failure);
            }
        }
        for (domain, frames, is_restored) in lingering {
            give_up_again(host, &domain, &frames, is_restored);
        }
        teardown::give_up_zombies(host);
        self.report.restored();
        Ok(())
    }

    fn read_domains<'s>(&self, source: &'s Stream<'s>) -> Result<Vec<SavedDomain<'s>>, RestoreError> {
        let mut domains: Vec<SavedDomain<'s>> = Vec::with_capacity(self.summary.nr_domains as usize);
        Self::for_each_record::<RestoreError>(source, records::is_of_domain, |at, record| {
            match record {
                AnyRecord::DomainBegin(begin) => domains.push(SavedDomain::new(*begin, at)),
                other => {
                    if let Some(domain) = domains.last_mut() {
                        domain.take(at, other)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(domains)
    }

    /// The stream has been read: its frames are free.
    pub fn free_stream(&self, host: &Host) -> Result<(), RestoreError> {
        // What a domain claims as well is withheld, and never free.
        let is_ours = |mfn: &Mfn| self.disputes.is_empty() || host.frames.owner_of(*mfn) == Some(DomId::STREAM);
        for frames in runs(self.list.frames().filter(is_ours)) {
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

/// The stream, which stays where it is until [`Incoming::free_stream`].
fn stream(list: &MfnList) -> Stream<'_> {
    PagedSource::new(&DirectMap, list.pages(), list.stream_len_bytes())
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
    Other(E),
}

impl<E> From<super::stream::RecordError> for RecordProblem<E> {
    fn from(e: super::stream::RecordError) -> Self {
        Self::Record(e)
    }
}
