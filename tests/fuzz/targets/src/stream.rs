//! The stream: whatever it holds, `validate` comes to an end with an answer, and what it has accepted can be read and written again.
//!
//! The first byte says what the others are: 0 a stream as it is, anything else records without their framing, which the real writer frames:
//!
//! ```text
//!  kind    length           given              bytes of the body; zeros follow up to its length
//!  u8      u16              u16                ...
//! ```
//!
//! `kind` counts through the types that this build knows, and behind them come some that it does not.

use crate::check_message;
use luxen::frame::Mfn;
use luxen::lu::records::{self, AnyRecord, Item, Items, SavedRecord, Summary, validate};
use luxen::lu::stream::{ByteSource, PagedDest, PagedSource, REC_HEADER_LEN, REC_TYPE_OPTIONAL, Writer};
use luxen::mm::physmem::sparse::SparseMem;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The types of records that this build knows, and END, and some that it does not know.
static KINDS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let ranges = (0..0x20).chain(0x4000_0000..0x4000_0040).chain(0xc000_0000..0xc000_0040);
    let known = ranges.filter(|&kind| records::is_known(kind));
    known.chain([0, 0x1f, 0x4000_0fff, REC_TYPE_OPTIONAL | 0x7f, 0xffff_ffff]).collect()
});

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    if mode == 0 { check(&rest.to_vec()) } else { check(&framed(rest)) }
}

/// Frames the records.
fn framed(mut rest: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    while let Some((&[kind, l0, l1, g0, g1], behind)) = rest.split_first_chunk::<5>() {
        let kind = KINDS[usize::from(kind) % KINDS.len()];
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

/// The records of a stream without their framing, as [`run`] takes them, for seeds.
pub fn unframed(stream: &[u8]) -> Vec<u8> {
    let mut out = vec![1];
    let source = stream.to_vec();
    let mut reader = records::reader(&source);
    while let Ok(Some(record)) = reader.next_record() {
        let Ok(body) = record.body.to_vec() else { break };
        let (Some(kind), Ok(len)) = (KINDS.iter().position(|&kind| kind == record.kind), u16::try_from(body.len()))
        else {
            continue;
        };
        let given = body.len() - body.iter().rev().take_while(|byte| **byte == 0).count();
        out.push(kind as u8);
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
    validate(records::reader(source)).inspect_err(|error| check_message(error)).ok()
}
