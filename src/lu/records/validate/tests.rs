//! The rules about which records follow which: a good stream, and every way out of it.

use super::super::*;
use super::*;
use crate::frame::{Mfn, MfnRange};
use crate::lu::mfn_list;
use crate::lu::stream::{PagedDest, Sink, Writer};
use crate::mm::physmem::{PhysMem, sparse::SparseMem};
use alloc::vec::Vec;
use proptest::prelude::*;
use std::vec;

type Saved = (u32, Vec<u8>);

fn name<const N: usize>(text: &str) -> Name<N> {
    Name::try_new(text).unwrap()
}

fn saved<R: SavedRecord>(record: &R) -> Saved {
    let mut body = Vec::new();
    record.encode(&mut body);
    (R::KIND, body)
}

fn words(kind: u32, words: &[u64]) -> Saved {
    (kind, words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn domain(domid: u16, nr_vcpus: u32, flags: DomainFlags) -> Saved {
    saved(&DomainBegin {
        domid: DomId::new(domid),
        flags,
        shutdown_reason: 0,
        max_pages: 100,
        shared_info: Some(Mfn::new(1)),
        console: None,
        console_evtchn: 0,
        store_evtchn: 0,
        store: None,
        nr_vcpus,
        pause_count: 0,
        handle: [0; 16],
        name: name("guest"),
        time_offset_sec: 0,
        vm_assist: 0,
    })
}

fn vcpu(vcpu: u32, flags: VcpuFlags) -> Saved {
    saved(&LuVcpu {
        vcpu,
        flags,
        user_cr3: None,
        kernel_cr3: None,
        vcpu_info: None,
        vcpu_info_offset: 0,
        poll_port: 0,
        runstate: Runstate { area: 0, state: 0, entry_ns: 0, times_ns: [0; 4] },
        time_area: 0,
        singleshot_ns: 0,
        period_ns: 0,
        periodic_next_ns: 0,
        callbacks: Callbacks {
            event: 0,
            failsafe: 0,
            syscall: 0,
            syscall32: 0,
            sysenter: 0,
            nmi: 0,
            masks: CallbackMasks::empty(),
        },
        iopl: 0,
        pending: VcpuPending::empty(),
        poll_until_ns: 0,
        iobmp: 0,
        iobmp_nr_ports: 0,
    })
}

fn blob(kind: u32, vcpu: u32, len: usize) -> Saved {
    let mut body = vec![0; len];
    body[..4].copy_from_slice(&vcpu.to_le_bytes());
    (kind, body)
}

fn version() -> Saved {
    saved(&LuVersion { stream_version: StreamVersion::V1, update_sequence: 1, build: name("luxen") })
}

fn time() -> Saved {
    saved(&LuTime { tsc: 1, system_time_ns: 2, tsc_hz: 3, apic_hz: 4, wallclock_sec: 5, wallclock_nsec: 6 })
}

fn ipi(port: u64) -> [u64; 2] {
    [port | 5 << 32, 0]
}

/// One of everything, and a second domain with less.
fn good() -> Vec<Saved> {
    let host = LuHost {
        updates_done: 0,
        next_trigger_ns: 0,
        flags: HostFlags::empty(),
        refusals: 0,
        console_focus: None,
        next_domid: 3,
        finish_ns: 0,
        domains_ended: 0,
    };
    vec![
        version(),
        time(),
        saved(&host),
        saved(&LuLog { frames: MfnRange::new(Mfn::new(0x700), 4), head: 0, tail: 0 }),
        words(LU_M2P, &[0, 0x200, 0x4_0000, 0x400]),
        (LU_CMDLINE, b"liveupdate=64M".to_vec()),
        words(LU_MODULE, &[0x9000, 0x1234]),
        words(LU_XEN_PAGES, &[1, 0x400 << 40 | 0x200, (1 << 40) - 1]),
        domain(1, 2, DomainFlags::PRIVILEGED),
        saved(&PvInfo),
        (STATIC_DATA_END, vec![]),
        words(X86_PV_P2M_FRAMES, &[511 << 32, 5]),
        saved(&TscInfo { mode: 0, khz: 1, nsec: 2, incarnation: 3 }),
        (SHARED_INFO, vec![0; 4096]),
        (LU_CMDLINE_MODULE, b"guest name=pulse".to_vec()),
        words(LU_EXTENTS, &[5 << 40 | 0x10, 0, 6 << 40 | 0x20, 5]),
        words(LU_EXTENTS, &[1 << 40 | 0x30, (1 << 40) - 1]),
        words(LU_LINGERING, &[0x31, 0x40]),
        words(LU_PINNED, &[4 << 60 | 0x11, 1 << 60 | 0x12]),
        words(LU_EVTCHN, &[ipi(1), ipi(4)].concat()),
        words(LU_EVTCHN, &ipi(5)),
        words(LU_GRANTS, &[1 | 64 << 32, 512 | 1 << 32, 0, 0x13]),
        words(LU_GRANTS_IN_USE, &[8 | 2 << 32 | 1 << 48, 0x11, 9 | 2 << 32 | 1 << 48, 0x12]),
        words(LU_GRANT_MAPS, &[0, 0x7fef | 2 << 32, 3, 0x7fef | 6 << 32]),
        words(LU_WATCHDOGS, &[1, 2]),
        vcpu(0, VcpuFlags::INITIALISED | VcpuFlags::UP),
        blob(X86_PV_VCPU_BASIC, 0, 5176),
        blob(X86_PV_VCPU_XSAVE, 0, 24),
        vcpu(1, VcpuFlags::empty()),
        (DOMAIN_END, vec![]),
        domain(0x7fef, 0, DomainFlags::SHUT_DOWN),
        saved(&PvInfo),
        (STATIC_DATA_END, vec![]),
        (DOMAIN_END, vec![]),
        words(LU_STAGES, &[1, 100, 2, 200]),
    ]
}

fn bytes_of(records: &[Saved]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (kind, body) in records {
        writer.record(*kind, body).unwrap();
    }
    writer.finish().unwrap();
    writer.into_dest()
}

fn check(records: &[Saved]) -> Result<Summary, StreamError> {
    let bytes = bytes_of(records);
    validate(reader(&bytes))
}

fn rule(records: &[Saved]) -> OrderRule {
    match check(records) {
        Err(error @ StreamError::Order { rule, .. }) => {
            assert!(!std::format!("{error}").is_empty());
            rule
        }
        other => panic!("no rule is broken: {other:?}"),
    }
}

#[test]
fn frames_of_the_host_have_no_pfn() {
    let none = (1 << 40) - 1;
    let good = [1 << 40 | 0x200, none];
    let with_pfn = [good, [1 << 40 | 0x201, 7]].concat();
    let second = LuVersion { stream_version: StreamVersion::V2, update_sequence: 1, build: Name::EMPTY };
    for (kind, head, offset) in [(LU_XEN_PAGES, vec![5], 32), (LU_BAD_FRAMES, vec![], 24)] {
        let stream = |extents: &[u64]| [saved(&second), time(), words(kind, &[&head, extents].concat())];
        assert!(check(&stream(&good)).is_ok(), "{kind:#x}");
        let Err(StreamError::Record { kind: found, error, .. }) = check(&stream(&with_pfn)) else {
            panic!("{kind:#x}: a pfn was let through")
        };
        assert_eq!((found, error), (kind, RecordError::BadValue { offset, found: 7 }));
    }
}

#[test]
fn a_good_stream_is_counted() {
    let records = good();
    let summary = check(&records).unwrap();
    let expected = Summary {
        version: summary.version,
        nr_domains: 2,
        nr_vcpus: 2,
        nr_extents: 3,
        nr_pages: 14,
        nr_pinned: 2,
        nr_channels: 3,
        nr_grant_maps: 2,
        nr_xen_extents: 1,
        nr_xen_pages: 0x400,
        nr_modules: 1,
        nr_records: records.len() as u64,
        nr_skipped: 0,
        len_bytes: bytes_of(&records).len() as u64,
    };
    assert_eq!(summary, expected);
    assert_eq!((summary.version.build.as_str(), summary.version.update_sequence), ("luxen", 1));
}

#[test]
fn a_stream_of_nothing_is_a_version_and_the_time() {
    let summary = check(&[version(), time()]).unwrap();
    assert_eq!((summary.nr_records, summary.nr_domains, summary.len_bytes), (2, 0, 72 + 56 + 8));
    assert_eq!(rule(&[version()]), OrderRule::Missing { kind: LU_TIME });
    assert_eq!(rule(&[time(), version()]), OrderRule::VersionFirst { kind: LU_TIME });
    assert_eq!(rule(&[]), OrderRule::VersionFirst { kind: 0 });
}

#[test]
fn every_second_record_is_refused_but_for_those_there_may_be_more_of() {
    let records = good();
    for (index, record) in records.iter().enumerate() {
        let mut twice = records.clone();
        twice.insert(index, record.clone());
        let found = check(&twice);
        match record.0 {
            LU_MODULE | LU_XEN_PAGES | LU_EXTENTS | LU_LINGERING | LU_PINNED => {
                assert!(found.is_ok(), "{:#x}", record.0)
            }
            LU_EVTCHN => assert!(matches!(rule(&twice), OrderRule::PortOrder { .. })),
            LU_GRANTS_IN_USE | LU_GRANT_MAPS => assert!(matches!(rule(&twice), OrderRule::GrantOrder { .. })),
            DOMAIN_BEGIN => assert!(matches!(rule(&twice), OrderRule::InsideDomain { .. })),
            DOMAIN_END => assert!(matches!(rule(&twice), OrderRule::OutsideDomain { kind: DOMAIN_END })),
            // A second record of a vCPU's number is out of turn; after one with a context, the context is missed first.
            LU_VCPU => assert!(matches!(rule(&twice), OrderRule::VcpuNumber { .. } | OrderRule::Missing { .. })),
            kind => assert_eq!(rule(&twice), OrderRule::Twice { kind }),
        }
    }
}

#[test]
fn every_missing_record_is_refused_but_for_those_there_may_be_none_of() {
    let records = good();
    for (index, record) in records.iter().enumerate() {
        let mut fewer = records.clone();
        fewer.remove(index);
        let is_needed = matches!(record.0, LU_VERSION | LU_TIME | DOMAIN_BEGIN | DOMAIN_END | X86_PV_INFO)
            || matches!(record.0, STATIC_DATA_END | LU_VCPU | X86_PV_VCPU_BASIC | LU_GRANTS);
        assert_eq!(check(&fewer).is_err(), is_needed, "{:#x}", record.0);
    }
}

#[test]
fn records_stand_where_they_belong() {
    let records = good();
    for (index, record) in records.iter().enumerate().skip(1) {
        let mut moved = records.clone();
        moved.remove(index);
        let of_domain = is_of_domain(record.0);
        // To the end, outside; or into the second domain, inside.
        let place = if of_domain { moved.len() } else { moved.iter().rposition(|r| r.0 == DOMAIN_END).unwrap() };
        moved.insert(place, record.clone());
        assert!(check(&moved).is_err(), "{:#x}", record.0);
    }
}

/// The good stream with some records replaced by others.
fn with(range: core::ops::Range<usize>, by: &[Saved]) -> Vec<Saved> {
    let mut records = good();
    records.splice(range, by.iter().cloned());
    records
}

#[test]
fn each_rule_has_a_name() {
    use OrderRule::*;
    let first_domain = good().iter().position(|r| r.0 == DOMAIN_BEGIN).unwrap();
    let second = good().iter().rposition(|r| r.0 == DOMAIN_BEGIN).unwrap();
    let at = |kind: u32| good().iter().position(|r| r.0 == kind).unwrap();
    let vcpu0 = at(LU_VCPU);
    let basic = X86_PV_VCPU_BASIC;
    let xsave = X86_PV_VCPU_XSAVE;
    let up = VcpuFlags::INITIALISED;
    let cases = [
        (with(second..second + 1, &[domain(1, 0, DomainFlags::empty())]), DomidTaken { domid: 1 }),
        (with(second + 3..second + 4, &[]), InsideDomain { kind: LU_STAGES, domid: 0x7fef }),
        (with(second + 3..second + 5, &[]), InsideDomain { kind: 0, domid: 0x7fef }),
        (with(first_domain..first_domain, &[saved(&PvInfo)]), OutsideDomain { kind: X86_PV_INFO }),
        (with(vcpu0..vcpu0 + 1, &[vcpu(1, up)]), VcpuNumber { due: 0, found: 1 }),
        (with(vcpu0 + 3..vcpu0 + 4, &[vcpu(0, up)]), VcpuNumber { due: 1, found: 0 }),
        (with(vcpu0 + 4..vcpu0 + 4, &[vcpu(2, up)]), VcpuNumber { due: 2, found: 2 }),
        (with(vcpu0 + 3..vcpu0 + 4, &[]), VcpusMissing { due: 2, found: 1 }),
        (with(vcpu0 + 1..vcpu0 + 3, &[]), Missing { kind: basic }),
        (with(vcpu0 + 3..vcpu0 + 4, &[vcpu(1, up)]), Missing { kind: basic }),
        (with(vcpu0 + 1..vcpu0 + 2, &[]), Before { kind: xsave, needs: basic }),
        (with(vcpu0 + 1..vcpu0 + 2, &[blob(basic, 1, 5176)]), VcpuForeign { kind: basic, found: 1 }),
        (with(vcpu0..vcpu0, &[blob(basic, 0, 5176)]), VcpuForeign { kind: basic, found: 0 }),
        (with(vcpu0 + 4..vcpu0 + 4, &[blob(xsave, 0, 24)]), VcpuForeign { kind: xsave, found: 0 }),
        (with(at(LU_EVTCHN)..at(LU_EVTCHN), &[words(LU_EVTCHN, &ipi(1))]), PortOrder { last: 1, found: 1 }),
        (with(at(LU_EVTCHN)..at(LU_EVTCHN) + 1, &[words(LU_EVTCHN, &ipi(9))]), PortOrder { last: 9, found: 5 }),
        (
            with(
                at(LU_GRANTS_IN_USE)..at(LU_GRANTS_IN_USE) + 1,
                &[words(LU_GRANTS_IN_USE, &[9 | 1 << 48, 1, 9 | 1 << 48, 1])],
            ),
            GrantOrder { kind: LU_GRANTS_IN_USE, found: 9 },
        ),
        (
            with(at(LU_GRANT_MAPS)..at(LU_GRANT_MAPS) + 1, &[words(LU_GRANT_MAPS, &[4, 2 << 32, 3, 2 << 32])]),
            GrantOrder { kind: LU_GRANT_MAPS, found: 3 },
        ),
        (with(at(LU_GRANTS)..at(LU_GRANTS) + 1, &[]), Before { kind: LU_GRANTS_IN_USE, needs: LU_GRANTS }),
        (with(at(LU_GRANTS)..at(LU_GRANTS) + 2, &[]), Before { kind: LU_GRANT_MAPS, needs: LU_GRANTS }),
        (
            with(at(LU_M2P)..at(LU_M2P) + 1, &[words(LU_M2P, &[0x4_0000, 0x200, 0, 0x400])]),
            M2pOrder { last: 0x4_0000, found: 0 },
        ),
        (with(at(X86_PV_INFO)..at(X86_PV_INFO) + 1, &[]), Before { kind: STATIC_DATA_END, needs: X86_PV_INFO }),
        (
            with(at(STATIC_DATA_END)..at(STATIC_DATA_END) + 1, &[]),
            Before { kind: X86_PV_P2M_FRAMES, needs: STATIC_DATA_END },
        ),
    ];
    for (records, expected) in cases {
        assert_eq!(rule(&records), expected);
    }
}

#[test]
fn a_dying_domain_may_have_lost_its_vcpus() {
    let domain = |flags| [version(), time(), domain(5, 2, flags), saved(&PvInfo), (STATIC_DATA_END, vec![])];
    let end = [(DOMAIN_END, vec![])];
    assert!(check(&[&domain(DomainFlags::DYING)[..], &end].concat()).is_ok());
    let found = rule(&[&domain(DomainFlags::SHUT_DOWN)[..], &end].concat());
    assert_eq!(found, OrderRule::VcpusMissing { due: 2, found: 0 });
}

#[test]
fn items_are_read_to_the_last() {
    let at = good().iter().position(|r| r.0 == LU_EXTENTS).unwrap();
    let records = with(at..at + 1, &[words(LU_EXTENTS, &[5 << 40 | 0x10, 0, 0x20, 5])]);
    let place = bytes_of(&records[..at]).len() as u64 - 8;
    let error = RecordError::BadValue { offset: 16, found: 0x20 };
    assert_eq!(check(&records), Err(StreamError::Record { kind: LU_EXTENTS, at: place, error }));
}

#[test]
fn unknown_records_are_refused_or_skipped() {
    let optional = with(12..12, &[(0xc000_0099, vec![1, 2, 3])]);
    assert_eq!(check(&optional).unwrap().nr_skipped, 1);
    let mandatory = with(12..12, &[(0x4000_0099, vec![])]);
    assert!(matches!(check(&mandatory), Err(StreamError::Unknown { kind: 0x4000_0099, .. })));
    // What libxc has beside what is known here would mean memory that is copied: not a live update.
    assert!(matches!(check(&with(12..12, &[(1, vec![0; 8])])), Err(StreamError::Unknown { kind: 1, .. })));
}

/// The whole way: written to scattered frames, named by a list, found by a breadcrumb, read and checked.
#[test]
fn a_stream_is_handed_over() {
    let mem = SparseMem::new();
    let region = MfnRange::new(Mfn::new(0x8000), 0x1000);
    let is_ram = |range: MfnRange| range.start() >= 0x10 && range.end() <= 0x10_0000;
    let mut next = 0x2_0000;
    let supply = || {
        next -= 3;
        Some(Mfn::new(next))
    };
    let mut writer = Writer::new(PagedDest::new(&mem, supply));
    for (kind, body) in good() {
        writer.open_record(kind).unwrap();
        writer.put(&body);
        writer.close_record().unwrap();
    }
    let finished = writer.finish().unwrap();
    let (pages, page_crcs) = writer.into_dest().into_parts();
    let stream = mfn_list::Written { version: StreamVersion::V1, pages: &pages, page_crcs: &page_crcs, finished };
    let root = mfn_list::write(&mem, &[Mfn::new(0x55)], &stream).unwrap();
    mem.write_u64(region.first().unwrap().maddr(), crate::lu::breadcrumb::value(root));

    let root = crate::lu::breadcrumb::take(&mem, region, is_ram).unwrap().unwrap();
    let list = mfn_list::read(&mem, root, region, is_ram).unwrap();
    let source = list.open(&mem).unwrap();
    let summary = validate(reader(&source)).unwrap();
    assert_eq!(list.check_version(summary.version.stream_version), Ok(()));
    assert_eq!(summary, check(&good()).unwrap());
    assert_eq!(list.frames().count(), pages.len() + 1);
}

/// How fast extents go each way. By hand: `cargo test --release --lib extents_a_second -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn extents_a_second() {
    const NR: u64 = 1 << 22;
    let extents = || {
        let mfn = |i: u64| MfnRange::new(Mfn::new(i * 3), 2);
        (0..NR).map(move |i| SavedExtent::try_new(mfn(i), Some(crate::frame::Pfn::new(i * 2))).unwrap())
    };
    let rate = |what: &str, start: std::time::Instant| {
        let seconds = start.elapsed().as_secs_f64();
        let nr = NR as f64;
        std::println!("{what}: {:.2} GB/s, {:.2} ns an extent", nr * 16.0 / seconds / 1e9, seconds * 1e9 / nr);
    };
    let mut bytes = Vec::new();
    for _ in 0..4 {
        // The first round is slower: its memory is not there yet.
        bytes.clear();
        let mut writer = Writer::new(bytes);
        writer.record(version().0, &version().1).unwrap();
        writer.record(time().0, &time().1).unwrap();
        let start = std::time::Instant::now();
        let mut list = ListWriter::extents(&mut writer);
        extents().for_each(|extent| list.push(&extent));
        list.finish().unwrap();
        rate("write", start);
        let start = std::time::Instant::now();
        writer.finish().unwrap();
        rate("checksum", start);
        bytes = writer.into_dest();
        let start = std::time::Instant::now();
        let mut reader = reader(&bytes);
        let mut sum = 0;
        while let Some(record) = reader.next_record().unwrap() {
            if let AnyRecord::Extents(extents) = AnyRecord::decode(&record).unwrap() {
                for extent in extents {
                    let extent = extent.unwrap();
                    sum += extent.mfns().end() ^ extent.pfn().map_or(0, |pfn| pfn.get());
                }
            }
        }
        rate("read", start);
        assert_ne!(sum, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_damage_makes_the_check_panic(
        changes in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..6), cut in any::<u32>(), is_cut: bool,
    ) {
        let mut bytes = bytes_of(&good());
        let len = bytes.len() as u32;
        for (at, value) in changes {
            bytes[(at % len) as usize] = value;
        }
        if is_cut {
            bytes.truncate((cut % len) as usize);
            prop_assert!(validate(reader(&bytes)).is_err());
        }
        let _ = validate(reader(&bytes));
    }

    #[test]
    fn no_order_makes_the_check_panic(order in proptest::collection::vec(0usize..31, 0..40)) {
        let good = good();
        let records: Vec<Saved> = order.iter().map(|&index| good[index % good.len()].clone()).collect();
        let records = [vec![version()], records].concat();
        let _ = check(&records);
    }
}

/// The faults that a check finds which goes on behind them, by domain, and what it says in the end.
fn faults(records: &[Saved]) -> (Vec<(u16, OrderRule)>, Result<Summary, StreamError>) {
    let mut found = Vec::new();
    let bytes = bytes_of(records);
    let result = validate_with(reader(&bytes), &mut |fault| {
        assert!(fault.rule.concerns_one_domain());
        found.push((fault.domid.get(), fault.rule));
        Ok(())
    });
    (found, result)
}

#[test]
fn what_concerns_one_domain_does_not_end_the_check() {
    let at = |kind: u32| good().iter().position(|(k, _)| *k == kind).unwrap();
    let (vcpu_at, basic, end) = (at(LU_VCPU), at(X86_PV_VCPU_BASIC), at(DOMAIN_END));
    let missing = OrderRule::Missing { kind: X86_PV_VCPU_BASIC };
    let cases = [
        (with(vcpu_at..end, &[]), vec![OrderRule::VcpusMissing { due: 2, found: 0 }]),
        (with(end - 1..end, &[]), vec![OrderRule::VcpusMissing { due: 2, found: 1 }]),
        // The first is gone, the second is there: it is numbered 1 where 0 is due.
        (with(vcpu_at..end - 1, &[]), vec![OrderRule::VcpuNumber { due: 0, found: 1 }]),
        (
            with(end - 1..end, &[vcpu(7, VcpuFlags::empty())]),
            vec![OrderRule::VcpuNumber { due: 1, found: 7 }, OrderRule::VcpusMissing { due: 2, found: 8 }],
        ),
        (with(basic..basic + 2, &[]), vec![missing]),
        (with(basic..end, &[]), vec![missing, OrderRule::VcpusMissing { due: 2, found: 1 }]),
        (
            with(at(LU_EVTCHN)..at(LU_EVTCHN) + 1, &[words(LU_EVTCHN, &[ipi(4), ipi(4)].concat())]),
            vec![OrderRule::PortOrder { last: 4, found: 4 }],
        ),
        (
            with(
                at(LU_GRANT_MAPS)..at(LU_GRANT_MAPS) + 1,
                &[words(LU_GRANT_MAPS, &[3, 0x7fef | 2 << 32, 3, 0x7fef | 6 << 32])],
            ),
            vec![OrderRule::GrantOrder { kind: LU_GRANT_MAPS, found: 3 }],
        ),
    ];
    for (records, expected) in cases {
        let (found, result) = faults(&records);
        assert_eq!(found, expected.iter().map(|&rule| (1, rule)).collect::<Vec<_>>());
        assert_eq!(result.unwrap().nr_domains, 2, "{expected:?}");
        assert_eq!(rule(&records), expected[0], "and without a place for them the first ends it");
    }
    assert_eq!(faults(&good()).0, []);
}

#[test]
fn what_concerns_the_stream_ends_the_check() {
    for records in [
        with(9..10, &[]),
        with(28..29, &[blob(X86_PV_VCPU_BASIC, 0, 5176)]),
        with(30..31, &[domain(1, 0, DomainFlags::empty())]),
        with(29..30, &[]),
    ] {
        let (found, result) = faults(&records);
        assert!(matches!(result, Err(StreamError::Order { .. })), "{found:?} {result:?}");
    }
}
