//! The layout against one built by hand from docs/handover.md, and what a reader refuses.

use super::super::super::stream::{OrderRule, StreamError};
use super::super::{AnyRecord, LuTime, LuVersion, StreamVersion, is_known, reader, validate};
use super::*;
use std::vec;
use std::vec::Vec;

const WORDS: [(usize, u64); 13] = [
    (0, 9),
    (8, 4),
    (24, 0xa1),
    (32, 0xa2),
    (40, 0xb0),
    (48, 0xb1),
    (56, 0xb2),
    (64, 0xb3),
    (72, 0xb4),
    (80, 0xc0),
    (88, 0xc1),
    (96, 0xc2),
    (16, 2 | 5 << 32),
];

fn body(reason: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 200];
    for (at, word) in WORDS {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes[104..111].copy_from_slice(b"luxen a");
    bytes[152..159].copy_from_slice(b"luxen b");
    [&bytes, reason].concat()
}

fn entry(number: u64) -> HistoryEntry {
    HistoryEntry {
        number,
        sequence: 4,
        outcome: Outcome::Refused,
        nr_domains: 5,
        at_ns: 0xa1,
        pause_ns: 0xa2,
        stages_ns: [0xb0, 0xb1, 0xb2, 0xb3, 0xb4],
        nr_extents: 0xc0,
        nr_frames: 0xc1,
        stream_bytes: 0xc2,
        from: Name::try_new("luxen a").unwrap(),
        to: Name::try_new("luxen b").unwrap(),
    }
}

fn decode(bytes: &[u8]) -> Result<(HistoryEntry, Vec<u8>), RecordError> {
    LuHistory::decode(Body::whole(bytes)).map(|found| (found.entry, found.reason.to_vec().unwrap()))
}

#[test]
fn an_entry_is_as_the_document_says() {
    let mut writer = Writer::new(Vec::new());
    writer.save_history(&entry(9), "too small").unwrap();
    writer.finish().unwrap();
    let bytes = writer.into_dest();
    assert_eq!(bytes[..8], [[9, 0, 0, 0xc0], [209, 0, 0, 0]].concat());
    assert_eq!(bytes[8..217], body(b"too small"));
    assert_eq!(decode(&body(b"too small")), Ok((entry(9), b"too small".to_vec())));
    assert_eq!(decode(&body(b"")), Ok((entry(9), vec![])));
    for len in 0..200 {
        assert!(matches!(decode(&body(b"")[..len]), Err(RecordError::Short { .. })), "{len}");
    }
}

#[test]
fn what_an_entry_cannot_say_is_refused() {
    for (offset, value, len) in [(0, 0u64, 8), (8, 0, 8), (16, 0, 4), (16, 4, 4), (104, 7, 1), (112, 0x41, 1)] {
        let mut bytes = body(b"no");
        bytes[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
        let expected = RecordError::BadValue { offset: offset as u64, found: value };
        assert_eq!(decode(&bytes), Err(expected), "{value} at {offset}");
    }
    assert_eq!(decode(&body(b"a\x1bc")), Err(RecordError::BadValue { offset: 201, found: 0x1b }));
    assert!(decode(&body(&[b'x'; 256])).is_ok());
    assert_eq!(decode(&body(&[b'x'; 257])), Err(RecordError::Long { known: 456, found: 457 }));
}

/// A stream of nothing but entries of the history.
fn stream(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let build = Name::try_new("luxen").unwrap();
    writer.save(&LuVersion { stream_version: StreamVersion::OLDEST, update_sequence: 1, build }).unwrap();
    for number in numbers {
        writer.save_history(&entry(number), "").unwrap();
    }
    let time = LuTime { tsc: 1, system_time_ns: 2, tsc_hz: 3, apic_hz: 4, wallclock_sec: 5, wallclock_nsec: 6 };
    writer.save(&time).unwrap();
    writer.finish().unwrap();
    writer.into_dest()
}

fn rule(bytes: &Vec<u8>) -> Option<OrderRule> {
    match validate(reader(bytes)) {
        Ok(_) => None,
        Err(StreamError::Order { rule, .. }) => Some(rule),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn entries_ascend_and_there_are_no_more_than_there_may_be() {
    assert_eq!(rule(&stream([3, 4, 900])), None);
    assert_eq!(rule(&stream(1..=64)), None);
    assert_eq!(rule(&stream(1..=65)), Some(OrderRule::TooMany { kind: 0xc000_0009, limit: 64 }));
    assert_eq!(rule(&stream([3, 3])), Some(OrderRule::HistoryOrder { last: 3, found: 3 }));
    assert_eq!(rule(&stream([3, 1])), Some(OrderRule::HistoryOrder { last: 3, found: 1 }));
}

#[test]
fn a_build_without_it_passes_over_it() {
    let bytes = stream([1, 2]);
    let known = |kind| is_known(kind) && kind != LU_HISTORY;
    let mut older = super::super::super::stream::Reader::new(&bytes, known);
    let mut seen = 0;
    while let Some(record) = older.next_record().unwrap() {
        assert!(!matches!(AnyRecord::decode(&record).unwrap(), AnyRecord::History(_)));
        seen += 1;
    }
    assert_eq!((seen, older.nr_skipped()), (2, 2));
}
