//! Sums of domains: what they count, and that a domain of which something is missing, changed or added is refused.

use super::super::super::mfn_list::{self, Written};
use super::super::super::stream::{OrderRule, PagedDest, StreamError, SumPart, checksum};
use super::super::*;
use super::*;
use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::physmem::sparse::SparseMem;
use alloc::vec::Vec;
use std::vec;

const V1: StreamVersion = StreamVersion::V1;
const V2: StreamVersion = StreamVersion::V2;
/// An optional record that this build does not know.
const OPTIONAL: u32 = 0xc000_ffff;

fn begin(number: u16) -> DomainBegin {
    DomainBegin {
        domid: DomId::new(number),
        flags: DomainFlags::SHUT_DOWN,
        shutdown_reason: 0,
        max_pages: 100,
        shared_info: None,
        console: None,
        console_evtchn: 0,
        store_evtchn: 0,
        store: None,
        nr_vcpus: 0,
        pause_count: 0,
        handle: [0; 16],
        name: Name::try_new("guest").unwrap(),
        time_offset_sec: 0,
        vm_assist: 0,
    }
}

fn head<D: Dest>(out: &mut Writer<D>, version: StreamVersion) {
    let build = Name::try_new("luxen").unwrap();
    out.save(&LuVersion { stream_version: version, update_sequence: 1, build }).unwrap();
    let time = LuTime { tsc: 1, system_time_ns: 2, tsc_hz: 3, apic_hz: 4, wallclock_sec: 5, wallclock_nsec: 6 };
    out.save(&time).unwrap();
}

/// Seven records up to the sum: one of them unknown, one of 4096 bytes, two of extents.
fn domain<D: Dest>(out: &mut Writer<D>, version: StreamVersion, number: u16) {
    let mut open = OpenDomain::begin(out, version, &begin(number)).unwrap();
    out.save(&PvInfo).unwrap();
    out.record(STATIC_DATA_END, &[]).unwrap();
    out.record(OPTIONAL, b"odd").unwrap();
    out.record(SHARED_INFO, &[number as u8; 4096]).unwrap();
    for nr_frames in [5, 0x1000] {
        let extent = SavedExtent::try_new(MfnRange::new(Mfn::new(0x10), nr_frames), None).unwrap();
        let mut list = ListWriter::extents(out);
        list.push(&extent);
        list.finish().unwrap();
        open.count(&extent);
    }
    open.end(out).unwrap();
}

/// A stream of two domains, and where each record of the first begins, up to that of the second.
fn stream(version: StreamVersion) -> (Vec<u8>, Vec<(u32, usize)>) {
    let mut out = Writer::new(Vec::new());
    head(&mut out, version);
    domain(&mut out, version, 1);
    domain(&mut out, version, 2);
    out.finish().unwrap();
    let bytes = out.into_dest();
    let mut places = Vec::new();
    let mut reader = Reader::new(&bytes, |_| true);
    while let Some(record) = reader.next_record().unwrap() {
        if record.kind == DOMAIN_BEGIN && !places.is_empty() {
            break;
        }
        if record.kind == DOMAIN_BEGIN || !places.is_empty() {
            places.push((record.kind, record.at as usize));
        }
    }
    (bytes, places)
}

fn place(places: &[(u32, usize)], kind: u32) -> usize {
    places.iter().find(|place| place.0 == kind).unwrap().1
}

fn check(bytes: &Vec<u8>) -> Result<Summary, StreamError> {
    validate(reader(bytes))
}

/// A whole record as bytes.
fn record(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    out.record(kind, body).unwrap();
    out.finish().unwrap();
    let mut bytes = out.into_dest();
    bytes.truncate(bytes.len() - 8);
    bytes
}

#[test]
fn a_sum_counts_its_domain() {
    let (bytes, places) = stream(V2);
    let summary = check(&bytes).unwrap();
    assert_eq!((summary.version.stream_version, summary.nr_domains, summary.nr_skipped), (V2, 2, 2));
    let (start, end) = (place(&places, DOMAIN_BEGIN), place(&places, LU_DOMAIN_SUM));
    let sum = LuDomainSum::decode(Body::whole(&bytes[end + 8..end + 40])).unwrap();
    let crc = checksum(&bytes[start..end]);
    assert_eq!(sum, LuDomainSum { nr_frames: 0x1005, nr_extents: 2, nr_records: 7, crc });
    // The end follows at once, and version 1 has the same records without the sum.
    assert_eq!(place(&places, DOMAIN_END), end + 40);
    let (older, older_places) = stream(V1);
    assert!(check(&older).is_ok());
    assert_eq!((older.len() + 2 * 40, older_places.len() + 1), (bytes.len(), places.len()));
}

#[test]
fn each_part_of_a_sum_is_compared() {
    let (good, places) = stream(V2);
    let at = place(&places, LU_DOMAIN_SUM);
    let crc = u64::from(checksum(&good[place(&places, DOMAIN_BEGIN)..at]));
    let cases =
        [(8, SumPart::Frames, 0x1005), (16, SumPart::Extents, 2), (24, SumPart::Records, 7), (32, SumPart::Crc, crc)];
    for (offset, part, found) in cases {
        let mut bytes = good.clone();
        bytes[at + offset] ^= 0x40;
        let expected = StreamError::Sum { at: at as u64, domid: 1, part, noted: found ^ 0x40, found };
        assert_eq!(check(&bytes), Err(expected));
        assert!(std::format!("{expected}").contains("domain 1 is not whole"));
    }
}

#[test]
fn a_domain_of_which_something_is_lost_changed_or_added_is_refused() {
    let (good, places) = stream(V2);
    let at = place(&places, LU_DOMAIN_SUM);
    let lost = |kind: u32| {
        let index = places.iter().position(|place| place.0 == kind).unwrap();
        let mut bytes = good.clone();
        bytes.drain(places[index].1..places[index + 1].1);
        check(&bytes)
    };
    let part_of = |result: Result<Summary, StreamError>| match result {
        Err(StreamError::Sum { domid: 1, part, .. }) => part,
        other => panic!("not the domain's sum: {other:?}"),
    };
    assert_eq!(part_of(lost(LU_EXTENTS)), SumPart::Frames);
    assert_eq!(part_of(lost(SHARED_INFO)), SumPart::Records);
    // Optional ones are its records, too.
    assert_eq!(part_of(lost(OPTIONAL)), SumPart::Records);
    let added = [&good[..at], &record(OPTIONAL, b"new"), &good[at..]].concat();
    assert_eq!(part_of(check(&added)), SumPart::Records);
    // A byte in a place where every byte is fine.
    let mut changed = good.clone();
    changed[place(&places, SHARED_INFO) + 1000] ^= 1;
    assert_eq!(part_of(check(&changed)), SumPart::Crc);
    // Two records that change places.
    let extents = place(&places, LU_EXTENTS);
    let mut swapped = good.clone();
    swapped[extents..extents + 48].rotate_left(24);
    assert_eq!(part_of(check(&swapped)), SumPart::Crc);
}

#[test]
fn a_sum_is_last_and_there_is_one() {
    let order = |bytes: &Vec<u8>| match check(bytes) {
        Err(StreamError::Order { rule, .. }) => rule,
        other => panic!("no rule is broken: {other:?}"),
    };
    let (good, places) = stream(V2);
    let (sum, end) = (place(&places, LU_DOMAIN_SUM), place(&places, DOMAIN_END));
    let without = [&good[..sum], &good[end..]].concat();
    assert_eq!(order(&without), OrderRule::Missing { kind: LU_DOMAIN_SUM });
    for between in [record(OPTIONAL, b"x"), record(LU_CONSOLE, b"x"), good[sum..end].to_vec()] {
        let bytes = [&good[..end], &between, &good[end..]].concat();
        let rule = order(&bytes);
        assert_eq!(rule, OrderRule::AfterSum { at: end as u64 });
        assert!(std::format!("{rule}").contains("sum"));
    }
    let begin = place(&places, DOMAIN_BEGIN);
    let outside = [&good[..begin], &good[sum..end], &good[begin..]].concat();
    assert_eq!(order(&outside), OrderRule::OutsideDomain { kind: LU_DOMAIN_SUM });
}

#[test]
fn version_1_does_not_know_sums() {
    let (mut bytes, places) = stream(V2);
    bytes[8] = 1;
    let at = place(&places, LU_DOMAIN_SUM) as u64;
    assert_eq!(check(&bytes), Err(StreamError::Unknown { kind: LU_DOMAIN_SUM, at }));
    // A version that nobody knows is no reason to know them.
    bytes[8] = 3;
    let error = RecordError::BadValue { offset: 0, found: 3 };
    assert_eq!(check(&bytes), Err(StreamError::Record { kind: LU_VERSION, at: 0, error }));
}

/// From frames whose checksums are known: what is not read again is compared all the same.
#[test]
fn a_sum_across_frames_is_that_of_the_bytes() {
    let mem = SparseMem::new();
    let mut next = 0x100;
    let supply = || {
        next += 2;
        Some(Mfn::new(next))
    };
    let mut out = Writer::new(PagedDest::new(&mem, supply));
    head(&mut out, V2);
    (1..=9).for_each(|number| domain(&mut out, V2, number));
    let finished = out.finish().unwrap();
    let (pages, page_crcs) = out.into_dest().into_parts();
    let stream = Written { version: V2, pages: &pages, page_crcs: &page_crcs, finished };
    let root = mfn_list::write(&mem, &[Mfn::new(0x10)], &stream).unwrap();
    let list = mfn_list::read(&mem, root, MfnRange::new(Mfn::new(0x8000), 0x1000), |_| true).unwrap();
    let source = list.open(&mem).unwrap();
    assert_eq!(validate(reader(&source)).unwrap().nr_domains, 9);
    // The same bytes in one piece, without any checksum known before.
    let mut bytes = vec![0; finished.len_bytes as usize];
    assert!(source.read_at(0, &mut bytes));
    assert_eq!(check(&bytes).unwrap().nr_domains, 9);
    assert_eq!(checksum(&bytes), finished.crc);
    for (page, crc) in bytes.chunks(4096).zip(&page_crcs) {
        let mut page = page.to_vec();
        page.resize(4096, 0);
        assert_eq!(checksum(&page), *crc);
    }
}
