//! Which record may stand where, docs/handover.md §6, and what the records of a domain sum up to.

use super::body;
use super::layout::{Count, HISTORY_MAX, LAYOUTS, OPTIONAL, Place, kind};
use super::rule::{OrderRule, Rule, StreamRule, Violations};
use super::stream::Record;
use super::value::Value;
use std::collections::BTreeSet;

/// What the records so far were.
pub struct Order<'a> {
    version: u32,
    bytes: &'a [u8],
    is_first: bool,
    has_end: bool,
    seen: BTreeSet<u32>,
    domids: BTreeSet<u64>,
    domain: Option<Domain>,
    /// Entries of the history so far, and the last one's number.
    history: (usize, u64),
}

/// The domain whose records are being read.
#[derive(Default)]
struct Domain {
    domid: u64,
    begin: u64,
    is_dying: bool,
    nr_vcpus: u64,
    seen: BTreeSet<u32>,
    vcpus: u64,
    vcpu: Option<Vcpu>,
    last_port: Option<u64>,
    last_entry: Option<u64>,
    last_handle: Option<u64>,
    sums: Sums,
    is_summed: bool,
}

/// A vCPU, from its LU_VCPU on.
struct Vcpu {
    number: u64,
    has_context: bool,
    has_basic: bool,
    has_xsave: bool,
}

/// What LU_DOMAIN_SUM notes.
#[derive(Clone, Copy, Default)]
struct Sums {
    frames: u64,
    extents: u64,
    records: u64,
}

impl<'a> Order<'a> {
    /// Before the first record of the stream `bytes`.
    pub fn new(version: u32, bytes: &'a [u8]) -> Self {
        Self {
            version,
            bytes,
            is_first: true,
            has_end: false,
            seen: BTreeSet::new(),
            domids: BTreeSet::new(),
            domain: None,
            history: (0, 0),
        }
    }

    /// Takes the next record, and tells it whose it is.
    pub fn take(&mut self, mut record: Record, found: &mut Violations) -> Record {
        let mut wrong = |rule, detail: String| found.add(record.offset, Rule::Order(rule), detail);
        let is_skipped = record.layout.is_none() && record.kind & OPTIONAL != 0;
        if !is_skipped && std::mem::take(&mut self.is_first) && record.kind != kind::LU_VERSION {
            wrong(OrderRule::VersionFirst, format!("the first record is {}", record.name()));
        }
        if record.kind == kind::DOMAIN_BEGIN {
            if let Some(open) = &self.domain {
                wrong(OrderRule::InsideDomain, format!("DOMAIN_BEGIN inside domain {}", open.domid));
            }
            let domid = record.number("domain");
            if !self.domids.insert(domid) {
                wrong(OrderRule::DomidTaken, format!("domain {domid} was there before"));
            }
            let flags = matches!(record.fields.get("flags"), Some(Value::Flags(f)) if f.iter().any(|f| f == "dying"));
            self.domain = Some(Domain {
                domid,
                begin: record.offset,
                is_dying: flags,
                nr_vcpus: record.number("nr_vcpus"),
                sums: Sums { records: 1, ..Sums::default() },
                ..Domain::default()
            });
            record.domain = Some(domid);
            return record;
        }
        record.domain = self.domain.as_ref().map(|domain| domain.domid);
        match (record.layout.map(|layout| layout.place), &mut self.domain) {
            (Some(Place::Host), Some(domain)) => {
                wrong(OrderRule::InsideDomain, format!("{} inside domain {}", record.name(), domain.domid));
            }
            (Some(Place::Domain), None) => {
                wrong(OrderRule::OutsideDomain, format!("{} outside of a domain", record.name()));
            }
            (None, Some(domain)) if record.kind == kind::END => {
                wrong(OrderRule::InsideDomain, format!("END inside domain {}", domain.domid));
            }
            (Some(Place::Domain), Some(domain)) => domain.take(&record, self.version, self.bytes, found),
            (None, Some(domain)) => domain.count(&record, found),
            (Some(Place::Host) | None, None) => {}
        }
        if let Some(layout) = record.layout
            && layout.place == Place::Host
            && !self.seen.insert(record.kind)
            && layout.count != Count::Any
        {
            found.add(record.offset, Rule::Order(OrderRule::Twice), record.name());
        }
        match record.kind {
            kind::DOMAIN_END => self.domain = None,
            kind::LU_M2P => ascend(&record, "blocks", "first", &mut None, OrderRule::M2pOrder, found),
            kind::LU_HISTORY => self.take_history(&record, found),
            kind::END => {
                self.has_end = true;
                if !self.seen.contains(&kind::LU_TIME) {
                    found.add(record.offset, Rule::Order(OrderRule::Missing), "LU_TIME by END");
                }
            }
            _ => {}
        }
        record
    }

    fn take_history(&mut self, record: &Record, found: &mut Violations) {
        let ((nr_entries, last), entry) = (self.history, record.number("entry"));
        if entry <= last {
            let detail = format!("entry {entry} of the history behind {last}");
            found.add(record.offset, Rule::Order(OrderRule::HistoryOrder), detail);
        } else if nr_entries == HISTORY_MAX {
            let detail = format!("more than {HISTORY_MAX} entries of the history");
            found.add(record.offset, Rule::Order(OrderRule::TooMany), detail);
        }
        self.history = (nr_entries + 1, entry);
    }

    /// Behind the last record. A stream that breaks off has said so already.
    pub fn finish(&self, found: &mut Violations) {
        if let Some(domain) = &self.domain
            && self.has_end
        {
            found.add(domain.begin, Rule::Order(OrderRule::Missing), format!("DOMAIN_END of domain {}", domain.domid));
        }
    }
}

impl Domain {
    fn wrong(&self, record: &Record, rule: OrderRule, detail: impl Into<String>, found: &mut Violations) {
        let detail = format!("domain {}: {}", self.domid, detail.into());
        found.add(record.offset, Rule::Order(rule), detail);
    }

    /// Counts a record of any type, and sees to it that nothing stands behind the sum.
    fn count(&mut self, record: &Record, found: &mut Violations) {
        if self.is_summed && record.kind != kind::DOMAIN_END {
            self.wrong(record, OrderRule::AfterSum, format!("{} behind LU_DOMAIN_SUM", record.name()), found);
        }
        if record.kind != kind::LU_DOMAIN_SUM {
            self.sums.records += 1;
        }
    }

    fn take(&mut self, record: &Record, version: u32, bytes: &[u8], found: &mut Violations) {
        self.count(record, found);
        let count = record.layout.map_or(Count::Any, |layout| layout.count);
        if !self.seen.insert(record.kind) && count != Count::Any {
            self.wrong(record, OrderRule::Twice, record.name(), found);
        }
        match record.kind {
            kind::STATIC_DATA_END => self.needs(record, kind::X86_PV_INFO, found),
            kind::X86_PV_P2M_FRAMES => {
                self.needs(record, kind::X86_PV_INFO, found);
                self.needs(record, kind::STATIC_DATA_END, found);
            }
            kind::LU_EXTENTS => {
                for extent in record.list("extents") {
                    if let Value::Extent(extent) = extent {
                        self.sums.extents += 1;
                        self.sums.frames += extent.count;
                    }
                }
            }
            kind::LU_EVTCHN => {
                ascend(record, "channels", "port", &mut self.last_port, OrderRule::PortOrder, found);
            }
            kind::LU_GRANTS_IN_USE => {
                self.needs(record, kind::LU_GRANTS, found);
                ascend(record, "grants", "entry", &mut self.last_entry, OrderRule::GrantOrder, found);
            }
            kind::LU_GRANT_MAPS => {
                self.needs(record, kind::LU_GRANTS, found);
                ascend(record, "maps", "handle", &mut self.last_handle, OrderRule::GrantOrder, found);
            }
            kind::LU_VCPU => self.take_vcpu(record, found),
            kind::X86_PV_VCPU_BASIC | kind::X86_PV_VCPU_XSAVE => self.take_context(record, found),
            kind::LU_DOMAIN_SUM => {
                self.is_summed = true;
                self.compare_sums(record, bytes, found);
            }
            kind::DOMAIN_END => self.end(record, version, found),
            _ => {}
        }
    }

    fn needs(&self, record: &Record, before: u32, found: &mut Violations) {
        if !self.seen.contains(&before) {
            self.wrong(record, OrderRule::Before, format!("{} without {}", record.name(), name_of(before)), found);
        }
    }

    fn take_vcpu(&mut self, record: &Record, found: &mut Violations) {
        self.end_vcpu(record, found);
        let number = record.number("vcpu");
        if number != self.vcpus || number >= self.nr_vcpus {
            let due = format!("vCPU {number}, {} of {} is due", self.vcpus, self.nr_vcpus);
            self.wrong(record, OrderRule::VcpuNumber, due, found);
        }
        self.vcpus += 1;
        let has_context =
            matches!(record.fields.get("flags"), Some(Value::Flags(f)) if f.iter().any(|f| f == "context"));
        self.vcpu = Some(Vcpu { number, has_context, has_basic: false, has_xsave: false });
    }

    fn take_context(&mut self, record: &Record, found: &mut Violations) {
        let number = record.number("vcpu");
        let is_basic = record.kind == kind::X86_PV_VCPU_BASIC;
        match &mut self.vcpu {
            Some(vcpu) if vcpu.number == number => {
                let (had_basic, seen) =
                    (vcpu.has_basic, if is_basic { &mut vcpu.has_basic } else { &mut vcpu.has_xsave });
                let is_twice = std::mem::replace(seen, true);
                if is_twice {
                    self.wrong(record, OrderRule::Twice, format!("{} of vCPU {number}", record.name()), found);
                }
                if !is_basic && !had_basic {
                    self.wrong(record, OrderRule::Before, format!("XSAVE of vCPU {number} without BASIC"), found);
                }
            }
            _ => {
                self.wrong(record, OrderRule::VcpuForeign, format!("{} of vCPU {number}", record.name()), found);
            }
        }
    }

    /// No more records of the last vCPU.
    fn end_vcpu(&mut self, record: &Record, found: &mut Violations) {
        if let Some(vcpu) = self.vcpu.take()
            && vcpu.has_context
            && !vcpu.has_basic
        {
            self.wrong(record, OrderRule::Missing, format!("X86_PV_VCPU_BASIC of vCPU {}", vcpu.number), found);
        }
    }

    fn end(&mut self, record: &Record, version: u32, found: &mut Violations) {
        self.end_vcpu(record, found);
        let musts = LAYOUTS.iter().filter(|l| l.place == Place::Domain && l.count == Count::Must && l.since <= version);
        for missing in musts.filter(|layout| !self.seen.contains(&layout.kind)) {
            self.wrong(record, OrderRule::Missing, missing.name, found);
        }
        if self.vcpus != self.nr_vcpus && !self.is_dying {
            let detail = format!("{} vCPUs of {}", self.vcpus, self.nr_vcpus);
            self.wrong(record, OrderRule::VcpusMissing, detail, found);
        }
    }

    fn compare_sums(&self, record: &Record, bytes: &[u8], found: &mut Violations) {
        let crc = super::crc32c(&bytes[self.begin as usize..record.offset as usize]);
        let Sums { frames, extents, records } = self.sums;
        let sums = [("frames", frames), ("extents", extents), ("records", records), ("crc32c", u64::from(crc))];
        for (name, counted) in sums {
            let noted = record.number(name);
            if noted != counted {
                let detail = format!("domain {}: {name}: {noted:#x} is noted, {counted:#x} was found", self.domid);
                found.add(record.offset, Rule::Stream(StreamRule::Sum), detail);
            }
        }
    }
}

/// Items ascend strictly by the field `key`, through all records that share `last`.
fn ascend(record: &Record, list: &str, key: &str, last: &mut Option<u64>, rule: OrderRule, found: &mut Violations) {
    for (index, item) in record.list(list).iter().enumerate() {
        let Value::Map(item) = item else { continue };
        let number = body::number(item, key);
        if let Some(last) = last.filter(|last| *last >= number) {
            found.add(record.offset, Rule::Order(rule), format!("{list}[{index}]: {key} {number} behind {last}"));
        }
        *last = Some(number);
    }
}

fn name_of(kind: u32) -> &'static str {
    LAYOUTS.iter().find(|layout| layout.kind == kind).map_or("unknown", |layout| layout.name)
}
