//! Whole records: cut off, exchanged, doubled, left out. The checksums of the list are taken to be right, as if the writer had made the mistake.

use super::*;
use crate::lu::records::{self, DOMAIN_BEGIN, DOMAIN_END, validate};
use crate::lu::stream::REC_TYPE_OPTIONAL;

/// A record's place in the stream, header and padding included, and whether it is a domain's. END is not among them.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
    kind: u32,
    /// The domain's place in the stream, from DOMAIN_BEGIN to DOMAIN_END.
    domain: Option<usize>,
}

fn places(bytes: &[u8]) -> Vec<Place> {
    let mut all = Vec::new();
    let (mut start, mut nr_domains, mut is_inside) = (0, 0, false);
    // By hand, as optional records of unknown types have places, too.
    while start + 8 < bytes.len() {
        let word = u64::from_le_bytes(bytes[start..start + 8].try_into().unwrap());
        let (kind, len) = (word as u32, (word >> 32) as usize);
        let end = start + 8 + len.next_multiple_of(8);
        is_inside |= kind == DOMAIN_BEGIN;
        all.push(Place { start, end, kind, domain: is_inside.then_some(nr_domains) });
        if kind == DOMAIN_END {
            (nr_domains, is_inside) = (nr_domains + 1, false);
        }
        start = end;
    }
    assert_eq!(start + 8, bytes.len(), "END is the last");
    all
}

/// The stream of these places.
fn joined(bytes: &[u8], places: &[Place]) -> Vec<u8> {
    let mut out: Vec<u8> = places.iter().flat_map(|place| &bytes[place.start..place.end]).copied().collect();
    out.extend([0; 8]);
    out
}

fn check(bytes: &Vec<u8>) -> Result<(), StreamError> {
    validate(records::reader(bytes)).map(|_| ())
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_refused() {
    for version in VERSIONS {
        let whole = Handover::new(version).bytes();
        assert_eq!(check(&whole), Ok(()));
        for len in 0..whole.len() {
            let cut = whole[..len].to_vec();
            assert!(check(&cut).is_err(), "{len} bytes");
        }
    }
}

#[test]
fn a_stream_that_ends_early_is_refused_unless_it_ends_between_domains() {
    for handover in Handover::all() {
        let bytes = handover.bytes();
        let places = places(&bytes);
        assert!(places.len() > 30);
        for nr_records in 0..=places.len() {
            let is_whole = match places[..nr_records].last() {
                None => false,
                Some(last) => last.domain.is_none() || last.kind == DOMAIN_END,
            };
            // Version and time have to be there.
            let expected = is_whole && nr_records >= 2;
            assert_eq!(check(&joined(&bytes, &places[..nr_records])).is_ok(), expected, "{nr_records} records");
        }
    }
}

#[test]
fn a_record_left_out_or_doubled_is_refused_where_a_domain_has_a_sum() {
    for handover in Handover::all() {
        let (version, bytes) = (handover.stream.version, handover.bytes());
        let places = places(&bytes);
        for index in 0..places.len() {
            let mut fewer = places.clone();
            fewer.remove(index);
            let mut more = places.clone();
            more.insert(index, places[index]);
            for changed in [fewer, more] {
                let found = check(&joined(&bytes, &changed));
                if version != StreamVersion::V1 && places[index].domain.is_some() {
                    assert!(found.is_err(), "record {index}, {:#x}", places[index].kind);
                }
            }
        }
        // Frames twice are for the claims to find, so version 1 lets extents through.
        let is_extents = |place: &&Place| place.kind == records::LU_EXTENTS;
        let twice = places.iter().position(|place| is_extents(&place)).unwrap();
        let mut changed = places.clone();
        changed.insert(twice, places[twice]);
        assert_eq!(check(&joined(&bytes, &changed)).is_ok(), version == StreamVersion::V1);
    }
}

#[test]
fn any_two_records_exchanged_are_refused_or_change_nothing() {
    for version in VERSIONS {
        let bytes = Handover::new(version).bytes();
        let places = places(&bytes);
        let (mut nr_read, mut nr_refused) = (0, 0);
        let content = |place: &Place| &bytes[place.start..place.end];
        for a in 0..places.len() {
            for b in a + 1..places.len() {
                if content(&places[a]) == content(&places[b]) {
                    continue;
                }
                let mut changed = places.clone();
                changed.swap(a, b);
                let found = check(&joined(&bytes, &changed));
                let domains = (places[a].domain, places[b].domain);
                match found {
                    Ok(()) => {
                        nr_read += 1;
                        // The order is free for the host's records. That a record is another domain's is seen by the sum alone.
                        // What is optional is skipped wherever it stands.
                        let is_skipped = (places[a].kind | places[b].kind) & REC_TYPE_OPTIONAL != 0;
                        let is_free =
                            version == StreamVersion::V1 && (domains.0.is_some() == domains.1.is_some() || is_skipped);
                        assert!(is_free || domains == (None, None), "records {a} and {b}");
                    }
                    Err(_) => nr_refused += 1,
                }
            }
        }
        assert!(nr_read > 10 && nr_refused > 500, "{nr_read} read, {nr_refused} refused");
    }
}
