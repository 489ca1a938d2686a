//! The check of a whole stream before anything of it is applied.
//!
//! It reads every record and every item once, and holds only what it needs to notice a second one: a bit for each
//! domain number, and a few words for the domain at hand. What it cannot see is whether the frames named are there and
//! have one claimant; that is for the claims (I6).

use super::super::stream::{ByteSource, OrderRule, REC_TYPE_END, Reader, Record, RecordError, StreamError, SumPart};
use super::{
    AnyRecord, DOMAIN_BEGIN, DOMAIN_END, DomainBegin, DomainFlags, HISTORY_MAX, Item, LU_CMDLINE, LU_CMDLINE_MODULE,
    LU_CONSOLE, LU_DOMAIN_SUM, LU_EVTCHN, LU_EXTENTS, LU_GRANT_MAPS, LU_GRANTS, LU_GRANTS_IN_USE, LU_HISTORY, LU_HOST,
    LU_LINEAR, LU_LINGERING, LU_LOG, LU_M2P, LU_PINNED, LU_REFUSED, LU_STAGES, LU_TIME, LU_TYPED, LU_VCPU, LU_VERSION,
    LU_WATCHDOGS, LuDomainSum, LuVcpu, LuVersion, SHARED_INFO, STATIC_DATA_END, SavedExtent, StreamVersion, VcpuFlags,
    X86_PV_INFO, X86_PV_P2M_FRAMES, X86_PV_VCPU_BASIC, X86_PV_VCPU_XSAVE, X86_TSC_INFO,
};
use crate::frame::DomId;
use alloc::vec::Vec;

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Who wrote it.
    pub version: LuVersion,
    /// Domains.
    pub nr_domains: u64,
    /// vCPUs of all of them.
    pub nr_vcpus: u64,
    /// Extents of all domains.
    pub nr_extents: u64,
    /// Frames of all domains: in them, or lingering.
    pub nr_pages: u64,
    /// Frames pinned as page tables.
    pub nr_pinned: u64,
    /// Event channels.
    pub nr_channels: u64,
    /// Mappings of other domains' grants.
    pub nr_grant_maps: u64,
    /// Extents that the hypervisor itself wants kept.
    pub nr_xen_extents: u64,
    /// Frames in them.
    pub nr_xen_pages: u64,
    /// Boot modules.
    pub nr_modules: u64,
    /// Records, END not counted.
    pub nr_records: u64,
    /// Optional records of unknown types.
    pub nr_skipped: u64,
    /// Bytes of the stream.
    pub len_bytes: u64,
}

/// Checks all of a stream: framing, every body, and the rules about which records follow which.
///
/// The reader must be at the first record.
pub fn validate<S: ByteSource + ?Sized>(reader: Reader<'_, S>) -> Result<Summary, StreamError> {
    validate_with(reader, &mut |fault| Err(fault.into()))
}

/// Something that makes one domain's records incomplete or contradictory, and says nothing about the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainFault {
    /// Whose.
    pub domid: DomId,
    /// Offset of the record's header in the stream.
    pub at: u64,
    /// The rule that is broken: [`OrderRule::concerns_one_domain`].
    pub rule: OrderRule,
}

impl From<DomainFault> for StreamError {
    fn from(fault: DomainFault) -> Self {
        Self::Order { at: fault.at, rule: fault.rule }
    }
}

impl OrderRule {
    /// True if breaking the rule makes one domain unfit to run, while all records are still understood and nothing can be said against
    /// the others.
    pub const fn concerns_one_domain(&self) -> bool {
        matches!(
            self,
            Self::VcpuNumber { .. }
                | Self::VcpusMissing { .. }
                | Self::PortOrder { .. }
                | Self::GrantOrder { .. }
                | Self::Missing { kind: X86_PV_VCPU_BASIC }
        )
    }
}

/// As [`validate`], but what concerns one domain alone goes to `fault`, and the walk goes on if that lets it.
pub fn validate_with<S: ByteSource + ?Sized>(
    mut reader: Reader<'_, S>,
    fault: &mut dyn FnMut(DomainFault) -> Result<(), StreamError>,
) -> Result<Summary, StreamError> {
    let at = reader.offset();
    let order = |at: u64, rule: OrderRule| StreamError::Order { at, rule };
    let Some(first) = reader.next_record()? else {
        return Err(order(at, OrderRule::VersionFirst { kind: REC_TYPE_END }));
    };
    let AnyRecord::Version(version) = AnyRecord::decode(&first)? else {
        return Err(order(first.at, OrderRule::VersionFirst { kind: first.kind }));
    };
    let mut walk = Walk {
        sum: Summary {
            version,
            nr_domains: 0,
            nr_vcpus: 0,
            nr_extents: 0,
            nr_pages: 0,
            nr_pinned: 0,
            nr_channels: 0,
            nr_grant_maps: 0,
            nr_xen_extents: 0,
            nr_xen_pages: 0,
            nr_modules: 0,
            nr_records: 1,
            nr_skipped: 0,
            len_bytes: 0,
        },
        seen: Seen(0),
        domids: DomIds::new().map_err(|rule| order(first.at, rule))?,
        history: (0, 0),
        domain: None,
    };
    loop {
        let at = reader.offset();
        let record = reader.next_record()?;
        walk.sum.nr_skipped = reader.nr_skipped();
        match record {
            Some(record) => walk.record(&record, fault)?,
            None => {
                walk.end().map_err(|rule| order(at, rule))?;
                walk.sum.len_bytes = reader.offset();
                return Ok(walk.sum);
            }
        }
    }
}

/// Singletons that were seen, a bit each.
#[derive(Clone, Copy)]
struct Seen(u32);

impl Seen {
    /// Which types are singletons, in the stream and in a domain; the number is the bit.
    const fn bit(kind: u32) -> u32 {
        match kind {
            LU_TIME => 1 << 0,
            LU_STAGES => 1 << 1,
            LU_CMDLINE => 1 << 2,
            LU_M2P => 1 << 3,
            LU_LOG => 1 << 4,
            LU_HOST => 1 << 5,
            X86_PV_INFO => 1 << 6,
            STATIC_DATA_END => 1 << 7,
            X86_PV_P2M_FRAMES => 1 << 8,
            X86_TSC_INFO => 1 << 9,
            SHARED_INFO => 1 << 10,
            LU_CMDLINE_MODULE => 1 << 11,
            LU_GRANTS => 1 << 12,
            LU_CONSOLE => 1 << 15,
            LU_WATCHDOGS => 1 << 29,
            LU_REFUSED => 1 << 28,
            LU_TYPED => 1 << 16,
            LU_DOMAIN_SUM => 1 << 17,
            X86_PV_VCPU_BASIC => 1 << 13,
            X86_PV_VCPU_XSAVE => 1 << 14,
            _ => 0,
        }
    }

    fn has(self, kind: u32) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    fn once(&mut self, kind: u32) -> Result<(), OrderRule> {
        if self.has(kind) {
            return Err(OrderRule::Twice { kind });
        }
        self.0 |= Self::bit(kind);
        Ok(())
    }

    fn need(self, kind: u32) -> Result<(), OrderRule> {
        if self.has(kind) { Ok(()) } else { Err(OrderRule::Missing { kind }) }
    }

    fn need_before(self, kind: u32, needs: u32) -> Result<(), OrderRule> {
        if self.has(needs) { Ok(()) } else { Err(OrderRule::Before { kind, needs }) }
    }
}

/// The domain numbers in use, a bit each.
struct DomIds(Vec<u64>);

impl DomIds {
    fn new() -> Result<Self, OrderRule> {
        let words = usize::from(DomId::FIRST_RESERVED).div_ceil(64);
        let mut bits = Vec::new();
        bits.try_reserve_exact(words).map_err(|_| OrderRule::NoMemory)?;
        bits.resize(words, 0);
        Ok(Self(bits))
    }

    fn take(&mut self, domid: DomId) -> Result<(), OrderRule> {
        let domid = domid.get();
        match self.0.get_mut(usize::from(domid / 64)) {
            Some(word) if *word & 1 << (domid % 64) == 0 => {
                *word |= 1 << (domid % 64);
                Ok(())
            }
            _ => Err(OrderRule::DomidTaken { domid }),
        }
    }
}

/// The domain at hand.
struct Domain {
    begin: DomainBegin,
    /// What the stream held where the domain begins, and where that is.
    before: Summary,
    at: u64,
    /// Where the domain's sum ends.
    sum_end: Option<u64>,
    /// Frames that its extents name.
    nr_frames: u64,
    seen: Seen,
    /// LU_VCPU records so far; the last one's number is one less.
    nr_vcpus: u32,
    /// What belongs to the last vCPU.
    vcpu_seen: Seen,
    /// The last vCPU has no context, or has had it.
    is_vcpu_complete: bool,
    last_port: u32,
    /// The next grant in use and the next handle are not below these.
    next_grant: u64,
    next_handle: u64,
}

impl Domain {
    fn new(begin: DomainBegin, at: u64, before: Summary) -> Self {
        Self {
            begin,
            before,
            at,
            sum_end: None,
            nr_frames: 0,
            seen: Seen(0),
            nr_vcpus: 0,
            vcpu_seen: Seen(0),
            is_vcpu_complete: true,
            last_port: 0,
            next_grant: 0,
            next_handle: 0,
        }
    }

    fn end_vcpu(&self) -> Result<(), OrderRule> {
        if self.is_vcpu_complete { Ok(()) } else { Err(OrderRule::Missing { kind: X86_PV_VCPU_BASIC }) }
    }

    fn vcpu(&mut self, saved: &LuVcpu) -> Result<(), OrderRule> {
        self.end_vcpu()?;
        if saved.vcpu != self.nr_vcpus || saved.vcpu >= self.begin.nr_vcpus {
            return Err(OrderRule::VcpuNumber { due: self.nr_vcpus, found: saved.vcpu });
        }
        self.nr_vcpus += 1;
        self.vcpu_seen = Seen(0);
        self.is_vcpu_complete = !saved.flags.contains(VcpuFlags::INITIALISED);
        Ok(())
    }

    fn of_vcpu(&mut self, kind: u32, vcpu: u32) -> Result<(), OrderRule> {
        if self.nr_vcpus.checked_sub(1) != Some(vcpu) {
            return Err(OrderRule::VcpuForeign { kind, found: vcpu });
        }
        self.vcpu_seen.once(kind)?;
        if kind == X86_PV_VCPU_BASIC {
            self.is_vcpu_complete = true;
        }
        Ok(())
    }

    /// Goes on behind a fault as if it had not been there; true if the fault was in what came before the record at hand, which is yet to be
    /// looked at.
    fn pass_over(&mut self, rule: OrderRule) -> bool {
        if let OrderRule::VcpuNumber { found, .. } = rule {
            self.nr_vcpus = found.saturating_add(1);
            self.vcpu_seen = Seen(0);
        }
        self.is_vcpu_complete = true;
        matches!(rule, OrderRule::Missing { .. })
    }

    /// Whether the domain's records are those that the sum counts. `now` counts the sum, too.
    fn check_sum<S: ByteSource + ?Sized>(
        &self,
        record: &Record<'_, S>,
        sum: &LuDomainSum,
        now: &Summary,
    ) -> Result<(), StreamError> {
        let before = &self.before;
        let nr_records = now.nr_records - before.nr_records + now.nr_skipped - before.nr_skipped;
        let differs = |part, noted, found| {
            let (at, domid) = (record.at, self.begin.domid.get());
            if noted == found { Ok(()) } else { Err(StreamError::Sum { at, domid, part, noted, found }) }
        };
        differs(SumPart::Frames, sum.nr_frames, self.nr_frames)?;
        differs(SumPart::Extents, sum.nr_extents, now.nr_extents - before.nr_extents)?;
        differs(SumPart::Records, sum.nr_records, nr_records)?;
        differs(SumPart::Crc, sum.crc.into(), record.source().crc(self.at, record.at).into())
    }

    fn end(&self) -> Result<(), OrderRule> {
        self.seen.need(X86_PV_INFO)?;
        self.seen.need(STATIC_DATA_END)?;
        if self.before.version.stream_version >= StreamVersion::V2 {
            self.seen.need(LU_DOMAIN_SUM)?;
        }
        self.end_vcpu()?;
        let due = self.begin.nr_vcpus;
        if self.nr_vcpus != due && !self.begin.flags.contains(DomainFlags::DYING) {
            return Err(OrderRule::VcpusMissing { due, found: self.nr_vcpus });
        }
        Ok(())
    }
}

struct Walk {
    sum: Summary,
    seen: Seen,
    domids: DomIds,
    /// Entries of the history so far, and the last one's number.
    history: (usize, u64),
    domain: Option<Domain>,
}

/// True for a domain's records.
pub fn is_of_domain(kind: u32) -> bool {
    kind == DOMAIN_BEGIN || stands_in_domain(kind)
}

/// True for what stands inside a domain's bracket, behind what opens it.
fn stands_in_domain(kind: u32) -> bool {
    matches!(kind, LU_EXTENTS | LU_PINNED | LU_EVTCHN | LU_VCPU | LU_CMDLINE_MODULE | LU_GRANTS | DOMAIN_END)
        || matches!(
            kind,
            LU_LINEAR
                | LU_CONSOLE
                | LU_TYPED
                | LU_GRANTS_IN_USE
                | LU_GRANT_MAPS
                | LU_LINGERING
                | LU_WATCHDOGS
                | LU_REFUSED
                | LU_DOMAIN_SUM
        )
        || matches!(kind, X86_PV_INFO | X86_PV_P2M_FRAMES | X86_PV_VCPU_BASIC | X86_PV_VCPU_XSAVE)
        || matches!(kind, SHARED_INFO | X86_TSC_INFO | STATIC_DATA_END)
}

impl Walk {
    fn record<S: ByteSource + ?Sized>(
        &mut self,
        record: &Record<'_, S>,
        fault: &mut dyn FnMut(DomainFault) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        let kind = record.kind;
        let order = |rule: OrderRule| StreamError::Order { at: record.at, rule };
        self.sum.nr_records += 1;
        // Place first, body second: a record that may not be here needs no further look.
        match (&self.domain, stands_in_domain(kind)) {
            (None, true) => return Err(order(OrderRule::OutsideDomain { kind })),
            (Some(domain), false) => {
                return Err(order(OrderRule::InsideDomain { kind, domid: domain.begin.domid.get() }));
            }
            _ => (),
        }
        if let Some(at) = self.domain.as_ref().and_then(|domain| domain.sum_end)
            && (record.at, kind) != (at, DOMAIN_END)
        {
            return Err(order(OrderRule::AfterSum { at }));
        }
        let decoded = AnyRecord::decode(record)?;
        match &mut self.domain {
            Some(domain) => {
                let is_end = matches!(decoded, AnyRecord::DomainEnd);
                let mut result = in_domain(domain, &mut self.sum, record, &decoded);
                while let Err(StreamError::Order { at, rule }) = result
                    && rule.concerns_one_domain()
                {
                    fault(DomainFault { domid: domain.begin.domid, at, rule })?;
                    result = match domain.pass_over(rule) {
                        true => in_domain(domain, &mut self.sum, record, &decoded),
                        false => Ok(()),
                    };
                }
                result?;
                if is_end {
                    self.domain = None;
                }
                Ok(())
            }
            None => self.in_stream(record, &decoded),
        }
    }

    fn in_stream<S: ByteSource + ?Sized>(
        &mut self,
        record: &Record<'_, S>,
        decoded: &AnyRecord<'_, S>,
    ) -> Result<(), StreamError> {
        let kind = record.kind;
        let order = |rule: OrderRule| StreamError::Order { at: record.at, rule };
        let item = |error| record.error(error);
        if Seen::bit(kind) != 0 {
            self.seen.once(kind).map_err(order)?;
        }
        match decoded {
            AnyRecord::Version(_) => return Err(order(OrderRule::Twice { kind: LU_VERSION })),
            AnyRecord::DomainBegin(begin) => {
                self.domids.take(begin.domid).map_err(order)?;
                self.sum.nr_domains += 1;
                self.domain = Some(Domain::new(*begin, record.at, self.sum));
            }
            AnyRecord::Module(_) => self.sum.nr_modules += 1,
            AnyRecord::History(history) => {
                let ((nr_entries, last), found) = (self.history, history.entry.number);
                if found <= last {
                    return Err(order(OrderRule::HistoryOrder { last, found }));
                }
                if nr_entries == HISTORY_MAX {
                    return Err(order(OrderRule::TooMany { kind: LU_HISTORY, limit: HISTORY_MAX }));
                }
                self.history = (nr_entries + 1, found);
            }
            AnyRecord::XenPages(pages) => {
                for (index, extent) in (0..).zip(pages.extents.iter()) {
                    let extent = extent.and_then(|extent| without_pfn(extent, 8 + 16 * index)).map_err(item)?;
                    self.sum.nr_xen_extents += 1;
                    self.sum.nr_xen_pages = self.sum.nr_xen_pages.saturating_add(extent.nr_frames());
                }
            }
            AnyRecord::BadFrames(list) => {
                for (index, extent) in (0..).zip(list.iter()) {
                    extent.and_then(|extent| without_pfn(extent, 16 * index)).map_err(item)?;
                }
            }
            AnyRecord::Stages(stages) => {
                for stage in stages.iter() {
                    stage.map_err(item)?;
                }
            }
            AnyRecord::M2p(blocks) => {
                let mut last = None;
                for block in blocks.iter() {
                    let found = block.map_err(item)?.first().get();
                    if let Some(last) = last.filter(|&last| found <= last) {
                        return Err(order(OrderRule::M2pOrder { last, found }));
                    }
                    last = Some(found);
                }
            }
            _ => (),
        }
        Ok(())
    }

    fn end(&self) -> Result<(), OrderRule> {
        if let Some(domain) = &self.domain {
            return Err(OrderRule::InsideDomain { kind: REC_TYPE_END, domid: domain.begin.domid.get() });
        }
        self.seen.need(LU_TIME)
    }
}

/// An extent of the host, which no guest sees; `offset` is its place in the body.
fn without_pfn(extent: SavedExtent, offset: u64) -> Result<SavedExtent, RecordError> {
    let [_, found] = extent.encode();
    if extent.pfn().is_none() { Ok(extent) } else { Err(RecordError::BadValue { offset: offset + 8, found }) }
}

/// What the number after `found` is not below, which itself is not below `due`.
fn ascend(kind: u32, due: u64, found: u32) -> Result<u64, OrderRule> {
    if u64::from(found) < due { Err(OrderRule::GrantOrder { kind, found }) } else { Ok(u64::from(found) + 1) }
}

fn in_domain<S: ByteSource + ?Sized>(
    domain: &mut Domain,
    sum: &mut Summary,
    record: &Record<'_, S>,
    decoded: &AnyRecord<'_, S>,
) -> Result<(), StreamError> {
    let kind = record.kind;
    let order = |rule: OrderRule| StreamError::Order { at: record.at, rule };
    let item = |error| record.error(error);
    match decoded {
        AnyRecord::VcpuBasic(saved) => return domain.of_vcpu(kind, saved.vcpu).map_err(order),
        AnyRecord::VcpuXsave(saved) => {
            domain.of_vcpu(kind, saved.vcpu).map_err(order)?;
            return domain.vcpu_seen.need_before(kind, X86_PV_VCPU_BASIC).map_err(order);
        }
        _ => (),
    }
    if Seen::bit(kind) != 0 {
        domain.seen.once(kind).map_err(order)?;
    }
    match decoded {
        AnyRecord::Extents(extents) => {
            for extent in extents.iter() {
                let extent = extent.map_err(item)?;
                sum.nr_extents += 1;
                sum.nr_pages = sum.nr_pages.saturating_add(extent.nr_frames());
                domain.nr_frames = domain.nr_frames.saturating_add(extent.nr_frames());
            }
        }
        AnyRecord::Pinned(pins) => {
            for pin in pins.iter() {
                pin.map_err(item)?;
                sum.nr_pinned += 1;
            }
        }
        AnyRecord::Linear(tables) => {
            for table in tables.iter() {
                table.map_err(item)?;
            }
        }
        // They are the domain's as much as its extents are.
        AnyRecord::Lingering(frames) => {
            for mfn in frames.iter() {
                mfn.map_err(item)?;
                sum.nr_pages = sum.nr_pages.saturating_add(1);
            }
        }
        AnyRecord::Channels(channels) => {
            for channel in channels.iter() {
                let found = channel.map_err(item)?.port;
                if found <= domain.last_port {
                    return Err(order(OrderRule::PortOrder { last: domain.last_port, found }));
                }
                domain.last_port = found;
                sum.nr_channels += 1;
            }
        }
        AnyRecord::Grants(grants) => {
            for mfn in grants.frames.iter() {
                mfn.map_err(item)?;
            }
        }
        AnyRecord::GrantsInUse(grants) => {
            domain.seen.need_before(kind, LU_GRANTS).map_err(order)?;
            for grant in grants.iter() {
                let found = grant.map_err(item)?.reference;
                domain.next_grant = ascend(kind, domain.next_grant, found).map_err(order)?;
            }
        }
        AnyRecord::GrantMaps(maps) => {
            domain.seen.need_before(kind, LU_GRANTS).map_err(order)?;
            for map in maps.iter() {
                let found = map.map_err(item)?.handle;
                domain.next_handle = ascend(kind, domain.next_handle, found).map_err(order)?;
                sum.nr_grant_maps += 1;
            }
        }
        AnyRecord::P2mFrames(p2m) => {
            domain.seen.need_before(kind, X86_PV_INFO).map_err(order)?;
            domain.seen.need_before(kind, STATIC_DATA_END).map_err(order)?;
            for pfn in p2m.frames.iter() {
                pfn.map_err(item)?;
            }
        }
        AnyRecord::StaticDataEnd => domain.seen.need_before(kind, X86_PV_INFO).map_err(order)?,
        AnyRecord::Vcpu(saved) => {
            domain.vcpu(saved).map_err(order)?;
            sum.nr_vcpus += 1;
        }
        AnyRecord::DomainSum(noted) => {
            domain.check_sum(record, noted, sum)?;
            domain.sum_end = Some(record.next());
        }
        AnyRecord::DomainEnd => domain.end().map_err(order)?,
        _ => (),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
