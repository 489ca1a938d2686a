//! The state that the goldens hold: fixed, and with every record kind at least once; version 1 is from before there were optional ones.
//!
//! It is written by the writer that the machine uses. Beside each record goes a sentence of what it says, from the values
//! themselves; a reader's sentences have to be the same.

use super::super::mfn_list;
use super::super::records::*;
use super::super::stream::{ByteSource, Dest, Finished, PagedDest, PagedSource, RecordError, Writer, checksum};
use crate::frame::{DomId, Mfn, MfnRange, Pfn};
use crate::mm::physmem::sparse::SparseMem;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Debug;
use std::{format, vec};

/// An optional record that no build knows.
pub const NOBODYS: u32 = 0xc000_ffff;

/// Frames of the stream, in its order: scattered, and not ascending.
pub fn stream_frame(index: u64) -> Mfn {
    Mfn::new(0x10_0000 + (index ^ 1) * 3)
}

/// Frames of the list, the root first.
pub fn list_frame(index: u64) -> Mfn {
    Mfn::new(0x20 + index * 5)
}

fn name<const N: usize>(text: &str) -> Name<N> {
    Name::try_new(text).unwrap()
}

fn blob(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256 + seed) as u8).collect()
}

/// What a record says, as text.
fn sentence(kind: u32, what: &impl Debug) -> String {
    format!("{} {what:?}", kind_name(kind).unwrap())
}

/// Writes a record and keeps what it says.
struct Scribe<D> {
    version: StreamVersion,
    out: Writer<D>,
    said: Vec<String>,
    /// Sums whose checksum is not known yet: first byte, end, place in `said`, and the rest of the sum.
    sums: Vec<(u64, u64, usize, LuDomainSum)>,
}

impl<D: Dest> Scribe<D> {
    fn save<R: SavedRecord + Debug>(&mut self, record: &R) {
        self.out.save(record).unwrap();
        self.said.push(sentence(R::KIND, record));
    }

    /// Writes a domain that begins and ends as all do. `extents` are those that `rest` writes.
    fn domain(&mut self, begin: &DomainBegin, extents: &[SavedExtent], rest: impl FnOnce(&mut Self)) {
        let (start, first) = (self.out.len_bytes(), self.said.len());
        let mut open = OpenDomain::begin(&mut self.out, self.version, begin).unwrap();
        self.said.push(sentence(DOMAIN_BEGIN, begin));
        self.save(&PvInfo);
        self.bytes(STATIC_DATA_END, b"");
        extents.iter().for_each(|extent| open.count(extent));
        rest(self);
        let (end, last) = (self.out.len_bytes(), self.said.len());
        open.end(&mut self.out).unwrap();
        if self.version != StreamVersion::V1 {
            let nr_frames = extents.iter().map(SavedExtent::nr_frames).sum();
            let (nr_extents, nr_records) = (extents.len() as u64, (last - first) as u64);
            self.sums.push((start, end, last, LuDomainSum { nr_frames, nr_extents, nr_records, crc: 0 }));
            self.said.push(String::new());
        }
        self.said.push(sentence(DOMAIN_END, &b"".as_slice()));
    }

    fn bytes(&mut self, kind: u32, body: &[u8]) {
        self.out.record(kind, body).unwrap();
        self.said.push(sentence(kind, &body));
    }
}

/// Writes a list and returns what it says.
fn fill<D: Dest, T: Item<W> + Debug, const W: usize>(
    mut list: ListWriter<'_, D, T, W>,
    kind: u32,
    items: &[T],
) -> String {
    items.iter().for_each(|item| list.push(item));
    assert_eq!(list.finish(), Ok(items.len() as u64));
    sentence(kind, &items)
}

fn extent(start: u64, nr_frames: u64, pfn: Option<u64>) -> SavedExtent {
    SavedExtent::try_new(MfnRange::new(Mfn::new(start), nr_frames), pfn.map(Pfn::new)).unwrap()
}

fn pin(mfn: u64, level: u8) -> Pin {
    Pin::try_new(Mfn::new(mfn), level).unwrap()
}

fn host<D: Dest>(s: &mut Scribe<D>) {
    s.save(&LuVersion { stream_version: s.version, update_sequence: 7, build: name("luxen 0.1.0-a") });
    s.save(&LuTime {
        tsc: 0x1122_3344_5566_7788,
        system_time_ns: 99,
        tsc_hz: 1_000_000_000,
        apic_hz: 62_500_000,
        wallclock_sec: 1_767_225_600,
        wallclock_nsec: 999_999_999,
    });
    s.save(&LuHost {
        updates_done: 6,
        next_trigger_ns: 0x2_0000_0000,
        flags: HostFlags::FINISH_TYPED | HostFlags::REFUSED,
        refusals: 3,
        console_focus: Some(1),
        next_domid: 3,
        finish_ns: 0x3_0000_0000,
        domains_ended: 4,
    });
    s.bytes(LU_CMDLINE, b"liveupdate=32M lu-updates=7");
    s.out.save_module(Mfn::new(0x5000), 0x1_2345, b"image name=luxen-next").unwrap();
    s.said.push(sentence(LU_MODULE, &(Mfn::new(0x5000), 0x1_2345u64, b"image name=luxen-next".as_slice())));
    let kept = [extent(0x6000, 0x200, None), extent(0x6400, 1, None)];
    s.said.push(fill(ListWriter::xen_pages(&mut s.out, XenPagesKind::Other), LU_XEN_PAGES, &kept));
    if s.version >= StreamVersion::V2 {
        let faulty = [extent(0x6500, 1, None), extent(0x6600, 3, None)];
        s.said.push(fill(ListWriter::bad_frames(&mut s.out), LU_BAD_FRAMES, &faulty));
    }
    let block = |first, block| M2pBlock::try_new(Mfn::new(first), Mfn::new(block)).unwrap();
    s.said.push(fill(ListWriter::m2p(&mut s.out), LU_M2P, &[block(0, 0x7000), block(0x8_0000, 0x7400)]));
    s.save(&LuLog { frames: MfnRange::new(Mfn::new(0x7800), 16), head: 0x1_0002, tail: 0x1_0001 });
    if s.version >= StreamVersion::V2 {
        history(s);
    }
    s.out.record(NOBODYS, b"not for this build").unwrap();
}

/// An update of each outcome.
fn history<D: Dest>(s: &mut Scribe<D>) {
    let done = HistoryEntry {
        number: 5,
        sequence: 6,
        outcome: Outcome::Done,
        nr_domains: 2,
        at_ns: 0x1_0000_0001,
        pause_ns: 15,
        stages_ns: [1, 2, 3, 4, 5],
        nr_extents: 0xe0,
        nr_frames: 0xe1,
        stream_bytes: 0xe2,
        from: name("luxen 0.1.0-b"),
        to: name("luxen 0.1.0-a"),
    };
    let nothing =
        HistoryEntry { nr_domains: 0, stages_ns: [0; 5], nr_extents: 0, nr_frames: 0, stream_bytes: 0, ..done };
    let refused = HistoryEntry { number: 6, sequence: 7, outcome: Outcome::Refused, to: Name::EMPTY, ..nothing };
    let aborted = HistoryEntry { number: 9, sequence: 7, outcome: Outcome::Aborted, ..nothing };
    for (entry, reason) in [(done, ""), (refused, "no module is a next image"), (aborted, "a vCPU did not stop")] {
        s.out.save_history(&entry, reason).unwrap();
        s.said.push(sentence(LU_HISTORY, &(entry, reason.as_bytes())));
    }
}

fn vcpu(vcpu: u32, flags: VcpuFlags) -> LuVcpu {
    LuVcpu {
        vcpu,
        flags,
        user_cr3: None,
        kernel_cr3: Some(Mfn::new(0xa_0030)),
        vcpu_info: Some(Mfn::new(0xa_0001)),
        vcpu_info_offset: 64,
        poll_port: 5,
        runstate: Runstate { area: 0xa1, state: 3, entry_ns: 0xa2, times_ns: [0xb0, 0xb1, 0xb2, 0xb3] },
        time_area: 0xa3,
        singleshot_ns: 0xa4,
        period_ns: 0xa5,
        periodic_next_ns: 0xa6,
        callbacks: Callbacks {
            event: 0xc0,
            failsafe: 0xc1,
            syscall: 0xc2,
            syscall32: 0xc3,
            sysenter: 0xc4,
            nmi: 0xc5,
            masks: CallbackMasks::SYSCALL | CallbackMasks::NMI,
        },
        iopl: 1,
        pending: VcpuPending::NMI | VcpuPending::NMI_MASKED,
        poll_until_ns: 0xd0,
        iobmp: 0xd1,
        iobmp_nr_ports: 0x1_0000,
    }
}

/// A domain with two vCPUs and all that a domain can have.
fn busy_domain<D: Dest>(s: &mut Scribe<D>) {
    let begin = DomainBegin {
        domid: DomId::new(1),
        flags: DomainFlags::PRIVILEGED,
        shutdown_reason: 0,
        max_pages: 0x1000,
        shared_info: Some(Mfn::new(0xa_0000)),
        console: Some(Mfn::new(0xa_0002)),
        console_evtchn: 2,
        store_evtchn: 3,
        store: Some(Mfn::new(0xa_0003)),
        nr_vcpus: 2,
        pause_count: 1,
        handle: *b"0123456789abcdef",
        name: name("busy"),
        time_offset_sec: -1,
        vm_assist: 1 << 32,
    };
    let extents = [
        extent(0xa_0001, 0xfff, Some(0)),
        extent(0xff_0000_0000, 1 << 25, Some(0x1000)),
        extent(9, 1, None),
        extent(0xb_0000, 2, Some(0x300_0000)),
    ];
    s.domain(&begin, &extents, |s| busy_records(s, &extents));
}

fn busy_records<D: Dest>(s: &mut Scribe<D>, extents: &[SavedExtent]) {
    s.bytes(LU_CMDLINE_MODULE, b"guest name=busy memory=16M vcpus=2");
    let frames = [Pfn::new(8), Pfn::new(9)];
    write_p2m_frames(&mut s.out, 0, 1000, &frames).unwrap();
    s.said.push(sentence(X86_PV_P2M_FRAMES, &(0u32, 1000u32, frames.as_slice())));
    for extents in [&extents[..3], &extents[3..]] {
        s.said.push(fill(ListWriter::extents(&mut s.out), LU_EXTENTS, extents));
    }
    s.said.push(fill(ListWriter::lingering(&mut s.out), LU_LINGERING, &[Mfn::new(0xb_0010), Mfn::new(0xb_0012)]));
    s.said.push(fill(ListWriter::pinned(&mut s.out), LU_PINNED, &[pin(0xa_0030, 4), pin(0xa_0031, 1)]));
    s.said.push(fill(ListWriter::linear(&mut s.out), LU_LINEAR, &[pin(0xa_0032, 3)]));
    s.bytes(LU_CONSOLE, b"half a line");
    s.bytes(LU_TYPED, b"ls\r");
    s.save(&LuWatchdogs { ends_ns: [0, 0x4_0000_0000] });
    let channel = |port, state| Channel { port, state, is_xen_consumer: port == 2, notify_vcpu: port % 2 };
    let channels = [
        channel(1, ChannelState::Unbound { remote: DomId::new(2) }),
        channel(2, ChannelState::Interdomain { remote: DomId::XEN, port: 1 }),
        channel(4, ChannelState::Interdomain { remote: DomId::new(2), port: 9 }),
        channel(5, ChannelState::Pirq { pirq: 16 }),
        channel(6, ChannelState::Virq { virq: 1 }),
        channel(0x1_ffff, ChannelState::Ipi),
    ];
    s.said.push(fill(ListWriter::channels(&mut s.out), LU_EVTCHN, &channels));
    let head = GrantsHead { version: 2, max_frames: 64, max_maps: 512, nr_shared: 2 };
    let frames = [0xb_0020, 0xb_0021, 0xb_0022].map(Mfn::new);
    write_grants(&mut s.out, head, [&frames[..2], &frames[2..]]).unwrap();
    s.said.push(sentence(LU_GRANTS, &(head, frames.as_slice())));
    let used = GrantInUse { reference: 8, to: DomId::new(2), readers: 1, writers: 2, frame: Mfn::new(0xa_0040) };
    s.said.push(fill(
        ListWriter::grants_in_use(&mut s.out),
        LU_GRANTS_IN_USE,
        &[used, GrantInUse { reference: 9, ..used }],
    ));
    let map = GrantMap { handle: 0, granter: DomId::new(2), reference: 11, flags: 6 };
    s.said.push(fill(
        ListWriter::grant_maps(&mut s.out),
        LU_GRANT_MAPS,
        &[map, GrantMap { handle: 7, flags: 2, ..map }],
    ));
    s.save(&TscInfo { mode: 0, khz: 1_000_000, nsec: 0x5_0000_0000, incarnation: 1 });
    s.bytes(SHARED_INFO, &blob(SHARED_INFO_LEN, 1));
    s.save(&vcpu(0, VcpuFlags::KERNEL_MODE | VcpuFlags::INITIALISED | VcpuFlags::UP));
    let context = blob(VCPU_CONTEXT_LEN, 2);
    write_vcpu_basic(&mut s.out, 0, context.as_slice().try_into().unwrap()).unwrap();
    s.said.push(sentence(X86_PV_VCPU_BASIC, &(0u32, context)));
    let area = blob(579, 3);
    write_vcpu_xsave(&mut s.out, 0, 3, 7, &area).unwrap();
    s.said.push(sentence(X86_PV_VCPU_XSAVE, &(0u32, 3u64, 7u64, area)));
    s.save(&vcpu(1, VcpuFlags::BLOCKED));
    if s.version >= StreamVersion::V2 {
        let (kept, why) = (RefusedCause::Whole, "its page types do not replay");
        write_refused(&mut s.out, kept, 2, why).unwrap();
        s.said.push(sentence(LU_REFUSED, &(kept, 2u32, why.as_bytes())));
    }
}

/// What is left of a domain whose frames others map.
fn dying_domain<D: Dest>(s: &mut Scribe<D>) {
    let begin = DomainBegin {
        domid: DomId::new(2),
        flags: DomainFlags::DYING | DomainFlags::SHUT_DOWN,
        shutdown_reason: 3,
        max_pages: 0x100,
        shared_info: None,
        console: None,
        console_evtchn: 0,
        store_evtchn: 0,
        store: None,
        nr_vcpus: 1,
        pause_count: 0,
        handle: [0; 16],
        name: name("dying"),
        time_offset_sec: 3600,
        vm_assist: 0,
    };
    s.domain(&begin, &[], |s| {
        s.said.push(fill(ListWriter::lingering(&mut s.out), LU_LINGERING, &[Mfn::new(0xb_0030)]));
    });
}

/// A stream that was written.
pub struct Written {
    pub version: StreamVersion,
    pub finished: Finished,
    pub pages: Vec<Mfn>,
    pub page_crcs: Vec<u32>,
    pub said: Vec<String>,
}

impl Written {
    pub fn as_list_has_it(&self) -> mfn_list::Written<'_> {
        let Self { version, finished, pages, page_crcs, .. } = self;
        mfn_list::Written { version: *version, pages, page_crcs, finished: *finished }
    }
}

/// Writes the stream to frames of `mem`.
pub fn write(mem: &SparseMem, version: StreamVersion) -> Written {
    let mut next = 0;
    let take = || {
        next += 1;
        Some(stream_frame(next - 1))
    };
    let out = Writer::new(PagedDest::new(mem, take));
    let mut s = Scribe { version, out, said: Vec::new(), sums: Vec::new() };
    host(&mut s);
    busy_domain(&mut s);
    dying_domain(&mut s);
    let stages = [Stage { stage: stage::PAUSED, tsc: 0x1000 }, Stage { stage: stage::SAVED, tsc: 0x2000 }];
    write_stages(&mut s.out, &stages).unwrap();
    s.said.push(sentence(LU_STAGES, &stages.as_slice()));
    let finished = s.out.finish().unwrap();
    let (pages, page_crcs) = s.out.into_dest().into_parts();
    let mut bytes = vec![0; finished.len_bytes as usize];
    assert!(PagedSource::new(mem, &pages, finished.len_bytes).read_at(0, &mut bytes));
    for (start, end, place, sum) in s.sums {
        let crc = checksum(&bytes[start as usize..end as usize]);
        s.said[place] = sentence(LU_DOMAIN_SUM, &LuDomainSum { crc, ..sum });
    }
    Written { version, finished, pages, page_crcs, said: s.said }
}

fn all<S: ByteSource, T: Item<W>, const W: usize>(items: &Items<'_, S, T, W>) -> Vec<T> {
    items.iter().collect::<Result<Vec<T>, RecordError>>().unwrap()
}

/// What a record says, as a reader understands it.
pub fn read_out<S: ByteSource>(kind: u32, record: &AnyRecord<'_, S>) -> String {
    let bytes = |body: &super::super::stream::Body<'_, S>| sentence(kind, &body.to_vec().unwrap());
    let nothing: &[u8] = &[];
    match record {
        AnyRecord::Version(r) => sentence(kind, r),
        AnyRecord::Time(r) => sentence(kind, r),
        AnyRecord::Host(r) => sentence(kind, r),
        AnyRecord::Log(r) => sentence(kind, r),
        AnyRecord::DomainBegin(r) => sentence(kind, r),
        AnyRecord::PvInfo(r) => sentence(kind, r),
        AnyRecord::TscInfo(r) => sentence(kind, r),
        AnyRecord::Vcpu(r) => sentence(kind, r),
        AnyRecord::Watchdogs(r) => sentence(kind, r),
        AnyRecord::DomainSum(r) => sentence(kind, r),
        AnyRecord::StaticDataEnd | AnyRecord::DomainEnd => sentence(kind, &nothing),
        AnyRecord::Cmdline(body) | AnyRecord::CmdlineModule(body) | AnyRecord::SharedInfo(body) => bytes(body),
        AnyRecord::Console(body) | AnyRecord::Typed(body) => bytes(body),
        AnyRecord::Stages(items) => sentence(kind, &all(items)),
        AnyRecord::M2p(items) => sentence(kind, &all(items)),
        AnyRecord::BadFrames(items) => sentence(kind, &all(items)),
        AnyRecord::Refused(r) => sentence(kind, &(r.cause, r.nr_vcpus, r.why.to_vec().unwrap())),
        AnyRecord::Extents(items) => sentence(kind, &all(items)),
        AnyRecord::Pinned(items) | AnyRecord::Linear(items) => sentence(kind, &all(items)),
        AnyRecord::Lingering(items) => sentence(kind, &all(items)),
        AnyRecord::Channels(items) => sentence(kind, &all(items)),
        AnyRecord::GrantsInUse(items) => sentence(kind, &all(items)),
        AnyRecord::GrantMaps(items) => sentence(kind, &all(items)),
        AnyRecord::XenPages(pages) => {
            assert_eq!(pages.kind, XenPagesKind::Other);
            sentence(kind, &all(&pages.extents))
        }
        AnyRecord::Module(r) => sentence(kind, &(r.mfn, r.len_bytes, r.string.to_vec().unwrap())),
        AnyRecord::History(r) => sentence(kind, &(r.entry, r.reason.to_vec().unwrap())),
        AnyRecord::Grants(r) => sentence(kind, &(r.head, all(&r.frames))),
        AnyRecord::P2mFrames(r) => sentence(kind, &(r.start_pfn, r.end_pfn, all(&r.frames))),
        AnyRecord::VcpuBasic(r) => sentence(kind, &(r.vcpu, r.context.to_vec().unwrap())),
        AnyRecord::VcpuXsave(r) => sentence(kind, &(r.vcpu, r.xcr0, r.xcr0_accum, r.area.to_vec().unwrap())),
    }
}

/// A stream that is only a list: of 505 frames, with checksums that are made up.
pub fn long_stream(version: StreamVersion) -> Written {
    Written {
        version,
        finished: Finished { len_bytes: 505 * 4096 - 1, crc: 0x0123_4567 },
        pages: (0..505).map(stream_frame).collect(),
        page_crcs: (0..505).map(|i| 0x8000_0001 + i * 0x1_0001).collect(),
        said: Vec::new(),
    }
}
