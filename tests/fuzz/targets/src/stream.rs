//! The stream: whatever it holds, `validate` comes to an end with an answer, and what it has accepted can be read and written again.
//!
//! The first byte says what the others are: bit 0 clear is a stream as it is, bit 0 set records without their framing, which the real writer frames.
//! With bit 1 set the sums of version 2 are made right for what the domains hold.
//!
//! ```text
//!  kind    length           given              bytes of the body; zeros follow up to its length
//!  u8      u16              u16                ...
//! ```
//!
//! The upper two bits of `kind` are bits 31 and 30 of the type, the lower six are its number.

use crate::check_message;
use luxen::frame::Mfn;
use luxen::lu::records::{self, AnyRecord, Item, Items, SavedRecord, Summary, validate};
use luxen::lu::stream::{ByteSource, PagedDest, PagedSource, REC_HEADER_LEN, Writer, checksum};
use luxen::mm::physmem::sparse::SparseMem;
use std::cell::Cell;
use std::collections::BTreeSet;

/// The type that a byte stands for: its upper two bits are the type's, its lower six those of its number.
const fn kind_of(byte: u8) -> u32 {
    (byte as u32 & 0xc0) << 24 | byte as u32 & 0x3f
}

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    let mut stream = if mode & 1 == 0 { rest.to_vec() } else { framed(rest) };
    if mode & 2 != 0 {
        seal(&mut stream);
    }
    check(&stream);
}

/// Frames the records.
fn framed(mut rest: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    while let Some((&[kind, l0, l1, g0, g1], behind)) = rest.split_first_chunk::<5>() {
        let kind = kind_of(kind);
        let given = usize::from(u16::from_le_bytes([g0, g1])).min(behind.len());
        let (given, behind) = behind.split_at(given);
        let mut body = given.to_vec();
        body.resize(usize::from(u16::from_le_bytes([l0, l1])).max(given.len()), 0);
        // END in the middle is for the raw streams.
        if kind == 0 || writer.record(kind, &body).is_err() {
            break;
        }
        rest = behind;
    }
    writer.finish().expect("a vector takes everything");
    writer.into_dest()
}

/// Makes each LU_DOMAIN_SUM what docs/handover.md says, as far as the stream is framed.
pub fn seal(stream: &mut [u8]) {
    const BEGIN: u32 = 0x4000_0010;
    const EXTENTS: u32 = 0x4000_0011;
    const SUM: u32 = 0x4000_001e;
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (mut at, mut start) = (0, 0);
    let [mut nr_frames, mut nr_extents, mut nr_records] = [0u64; 3];
    while at + 8 <= stream.len() {
        let header = word(stream, at);
        let (kind, len) = (header as u32, (header >> 32) as usize);
        let end = at + 8 + len.next_multiple_of(8);
        if end > stream.len() {
            break;
        }
        match kind {
            BEGIN => {
                start = at;
                [nr_frames, nr_extents, nr_records] = [0; 3];
            }
            EXTENTS => {
                for extent in stream[at + 8..at + 8 + len].as_chunks::<16>().0 {
                    let count = word(extent, 0) >> 40 | word(extent, 8) >> 40 << 24;
                    nr_frames = nr_frames.saturating_add(count);
                    nr_extents += 1;
                }
            }
            SUM if len == 32 => {
                let crc = checksum(&stream[start..at]);
                for (i, value) in [nr_frames, nr_extents, nr_records, crc.into()].into_iter().enumerate() {
                    stream[at + 8 + i * 8..][..8].copy_from_slice(&value.to_le_bytes());
                }
            }
            _ => {}
        }
        nr_records += 1;
        at = end;
    }
}

/// The records of a stream without their framing, as [`run`] takes them, for seeds.
pub fn unframed(stream: &[u8]) -> Vec<u8> {
    let mut out = vec![1];
    let source = stream.to_vec();
    let mut reader = records::reader(&source);
    while let Ok(Some(record)) = reader.next_record() {
        let Ok(body) = record.body.to_vec() else { break };
        let kind = (record.kind >> 24 & 0xc0 | record.kind & 0x3f) as u8;
        let Ok(len) = u16::try_from(body.len()) else { continue };
        let given = body.len() - body.iter().rev().take_while(|byte| **byte == 0).count();
        out.push(kind);
        out.extend(len.to_le_bytes());
        out.extend((given as u16).to_le_bytes());
        out.extend(&body[..given]);
    }
    out
}

/// Checks a stream, as slice and as pages.
fn check(stream: &Vec<u8>) {
    let found = validate(records::reader(stream));
    match &found {
        Ok(summary) => {
            let known = summary.nr_records + summary.nr_skipped;
            assert!(known.saturating_mul(REC_HEADER_LEN) <= stream.len() as u64);
            let counted = walk(stream);
            let said = [summary.nr_domains, summary.nr_vcpus, summary.nr_extents, summary.nr_pages];
            assert_eq!(counted, said.map(u128::from), "{summary:?}");
        }
        Err(error) => check_message(error),
    }
    let (mem, pages) = paged(stream);
    let source = PagedSource::new(&mem, &pages, stream.len() as u64);
    assert_eq!(validate(records::reader(&source)), found, "the same in pages");
}

/// The bytes in frames that do not follow each other, written by the real writer's destination.
fn paged(stream: &[u8]) -> (SparseMem, Vec<Mfn>) {
    use luxen::lu::stream::Dest;
    let mem = SparseMem::new();
    let next = Cell::new(0x100);
    let supply = || {
        next.set(next.get() + 3);
        Some(Mfn::new(next.get() ^ 1))
    };
    let mut dest = PagedDest::new(&mem, supply);
    dest.append(stream).expect("there are frames without end");
    let pages = dest.into_pages();
    (mem, pages)
}

/// Reads what was validated, writes it again and compares. Returns domains, vCPUs, extents and pages.
fn walk(stream: &Vec<u8>) -> [u128; 4] {
    let mut reader = records::reader(stream);
    let mut counts = [0u128; 4];
    let mut domids = BTreeSet::new();
    while let Some(record) = reader.next_record().expect("it was validated") {
        let body = record.body.to_vec().expect("bodies are short here");
        match AnyRecord::decode(&record).expect("it was validated") {
            AnyRecord::Version(saved) => same(&saved, &body),
            AnyRecord::Time(saved) => same(&saved, &body),
            AnyRecord::Log(saved) => same(&saved, &body),
            AnyRecord::Host(saved) => same(&saved, &body),
            AnyRecord::TscInfo(saved) => same(&saved, &body),
            AnyRecord::PvInfo(saved) => same(&saved, &body),
            AnyRecord::Watchdogs(saved) => same(&saved, &body),
            AnyRecord::DomainSum(saved) => same(&saved, &body),
            AnyRecord::DomainBegin(begin) => {
                same(&begin, &body);
                assert!(begin.domid.is_domain() && domids.insert(begin.domid.get()));
                counts[0] += 1;
            }
            AnyRecord::Vcpu(vcpu) => {
                same(&vcpu, &body);
                counts[1] += 1;
            }
            AnyRecord::Extents(extents) => {
                same_items(extents, &body, |extent| {
                    assert!(extent.nr_frames() != 0);
                    counts[2] += 1;
                    counts[3] += u128::from(extent.nr_frames());
                });
            }
            AnyRecord::XenPages(pages) => same_items(pages.extents, &body[8..], |extent| {
                assert!(extent.pfn().is_none());
            }),
            AnyRecord::BadFrames(items) => same_items(items, &body, |extent| assert!(extent.pfn().is_none())),
            AnyRecord::Stages(items) => same_items(items, &body, |_| {}),
            AnyRecord::M2p(items) => same_items(items, &body, |_| {}),
            AnyRecord::Pinned(items) | AnyRecord::Linear(items) => same_items(items, &body, |pin| {
                assert!((1..=4).contains(&pin.level()));
            }),
            AnyRecord::Channels(items) => same_items(items, &body, |_| {}),
            AnyRecord::Lingering(items) => same_items(items, &body, |_| counts[3] += 1),
            AnyRecord::GrantsInUse(items) => same_items(items, &body, |_| {}),
            AnyRecord::GrantMaps(items) => same_items(items, &body, |_| {}),
            AnyRecord::Grants(grants) => {
                let due = u64::from(grants.head.nr_shared) + u64::from(grants.head.nr_status());
                assert_eq!(grants.frames.nr_items(), due);
                same_items(grants.frames, &body[24..], |_| {});
            }
            // Bytes that are handed on as they are.
            _ => {}
        }
    }
    counts
}

fn same<R: SavedRecord>(saved: &R, body: &[u8]) {
    let mut again = Vec::new();
    saved.encode(&mut again);
    assert_eq!(again, body, "record {:#x}", R::KIND);
}

fn same_items<S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize>(
    items: Items<'_, S, T, WORDS>,
    body: &[u8],
    mut each: impl FnMut(&T),
) {
    let mut nr_items = 0;
    let mut again = Vec::new();
    for item in items.iter() {
        let item = item.expect("it was validated");
        each(&item);
        again.extend(item.encode().iter().flat_map(|word| word.to_le_bytes()));
        nr_items += 1;
    }
    assert_eq!(nr_items, items.nr_items());
    assert_eq!(again, body);
}

/// What a summary says of a stream that is good, for other targets.
pub(crate) fn summary_of<S: ByteSource + ?Sized>(source: &S) -> Option<Summary> {
    validate(records::reader(source)).inspect_err(check_message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_framing_come_to_the_same_stream() {
        for version in ["v1", "v2"] {
            let path = format!("{}/../../golden/{version}-stream.bin", env!("CARGO_MANIFEST_DIR"));
            let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let (mut again, mut sealed) = (framed(&unframed(&golden)[1..]), golden.clone());
            seal(&mut sealed);
            assert_eq!(sealed, golden, "the sums of a good stream are right");
            seal(&mut again);
            assert_eq!(walk(&again), walk(&golden));
        }
    }
}
