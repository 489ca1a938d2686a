//! The decoder beside the hypervisor's own reader, over the same bytes: the goldens, and the goldens damaged in every byte.

use super::list::{self, Place};
use super::rule::{OrderRule, RecordRule, Rule, StreamRule};
use super::stream::{self, Stream};
use super::summary::Summary;
use super::value::{Extent, Value};
use super::{Handover, crc32c, project};
use luxen::lu::records::{self, AnyRecord, HistoryEntry, LuHistory, Outcome, XenPages};
use luxen::lu::stream::{Body, Record, StreamError};
use std::fs;

/// A golden file of tests/golden/.
fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/golden/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the goldens' README says of the place that they come from.
fn place() -> Place {
    Place { root: Some(0x20), region: Some(0x8000..0x9000), ram: None }
}

/// The record that breaks a rule, and the rule's name, as the hypervisor's reader sees it.
fn first_fault(bytes: &[u8]) -> Option<(u64, String)> {
    let error = records::validate(records::reader(bytes)).err()?;
    let name = |value: String| value.split([' ', '{']).next().unwrap_or_default().to_owned();
    Some(match error {
        StreamError::Record { at, error, .. } => (at, format!("record {}", name(format!("{error:?}")))),
        StreamError::Order { at, rule } => (at, format!("order {}", name(format!("{rule:?}")))),
        StreamError::MissingEnd { at, .. }
        | StreamError::PastEnd { at, .. }
        | StreamError::TooLong { at, .. }
        | StreamError::Padding { at, .. }
        | StreamError::EndNotEmpty { at, .. }
        | StreamError::AfterEnd { at, .. }
        | StreamError::Unknown { at, .. }
        | StreamError::Sum { at, .. } => (at, format!("stream {}", name(format!("{error:?}")))),
        other => panic!("nothing that a stream alone can break: {other:?}"),
    })
}

fn faults(stream: &Stream) -> Vec<(u64, String)> {
    stream.violations.as_slice().iter().map(|v| (v.offset, v.rule.to_string())).collect()
}

#[test]
fn the_checksum_is_the_specification_s() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn goldens_are_good_in_both_versions() {
    for version in [1, 2] {
        let stream = golden(&format!("v{version}-stream"));
        let handover = Handover::of_both(stream, &golden(&format!("v{version}-list")), &place());
        assert_eq!(handover.violations().collect::<Vec<_>>(), Vec::<&super::Violation>::new());
        assert_eq!(handover.stream.version, version);
        let (chain, found) = list::decode(&golden(&format!("v{version}-chain")), &place());
        assert_eq!(found.as_slice(), []);
        let frames: Vec<u64> = chain.unwrap().frames.iter().map(|(mfn, _)| *mfn).collect();
        assert_eq!(frames, (0..505u64).map(|i| 0x10_0000 + 3 * (i ^ 1)).collect::<Vec<_>>());
    }
}

#[test]
fn what_a_machine_left_is_good() {
    for (version, name) in [(1, "captured-v1-stream"), (2, "captured-v2-stream")] {
        let decoded = stream::decode(&golden(name));
        assert_eq!((decoded.version, decoded.violations.as_slice()), (version, &[][..]));
    }
}

#[test]
fn both_see_the_same_records() {
    for name in ["v1-stream", "v2-stream", "captured-v1-stream", "captured-v2-stream"] {
        let bytes = golden(name);
        let decoded = stream::decode(&bytes);
        let mut known = decoded.records.iter().filter(|record| record.layout.is_some());
        let mut reader = records::reader(bytes.as_slice());
        while let Some(record) = reader.next_record().unwrap() {
            let ours = known.next().unwrap();
            assert_eq!((ours.offset, ours.kind), (record.at, record.kind));
            assert_eq!(Some(ours.name()), records::kind_name(record.kind));
            compare_items(ours, &record);
        }
        assert!(known.next().is_none());
        let theirs = records::validate(records::reader(bytes.as_slice())).unwrap();
        let ours = Summary::of(&decoded);
        assert_eq!(ours.update, theirs.version.update_sequence);
        assert_eq!(ours.build, theirs.version.build.as_str());
        assert_eq!(ours.domains.len() as u64, theirs.nr_domains);
        assert_eq!(ours.nr_extents, theirs.nr_extents);
        assert_eq!(ours.nr_frames + ours.nr_lingering, theirs.nr_pages);
        assert_eq!(ours.stream_bytes, theirs.len_bytes);
    }
}

/// Extents and tables are packed in bits, which is where two readers differ first.
fn compare_items(ours: &stream::Record, theirs: &Record<'_, [u8]>) {
    let decoded = AnyRecord::decode(theirs).unwrap();
    let expected: Vec<Value> = match &decoded {
        AnyRecord::Extents(extents) | AnyRecord::BadFrames(extents) | AnyRecord::XenPages(XenPages { extents, .. }) => {
            extents
                .iter()
                .map(|extent| {
                    let extent = extent.unwrap();
                    let mfn = extent.mfns().start();
                    Value::Extent(Extent { mfn, pfn: extent.pfn().map(|pfn| pfn.get()), count: extent.nr_frames() })
                })
                .collect()
        }
        AnyRecord::Pinned(pins) | AnyRecord::Linear(pins) => pins
            .iter()
            .map(|pin| {
                let pin = pin.unwrap();
                Value::Pin { level: pin.level(), mfn: pin.mfn().get() }
            })
            .collect(),
        AnyRecord::History(LuHistory { entry, reason }) => return compare_history(ours, entry, reason),
        AnyRecord::Refused(refused) => {
            assert_eq!(ours.fields["kept"], Value::Text(format!("{:?}", refused.cause).to_lowercase()));
            assert_eq!(ours.number("nr_vcpus"), u64::from(refused.nr_vcpus));
            return assert_eq!(ours.fields["reason"], text_of(&refused.why));
        }
        _ => return,
    };
    let name = if ours.fields.contains_key("extents") { "extents" } else { "tables" };
    assert_eq!(ours.list(name), expected, "at {:#x}", ours.offset);
}

/// An entry has many numbers in a row, of which two are soon confused.
fn compare_history(ours: &stream::Record, entry: &HistoryEntry, reason: &Body<'_, [u8]>) {
    let [save, relocate, boot, restore, resume] = entry.stages_ns;
    let numbers = [
        ("number", entry.number),
        ("update", entry.sequence),
        ("nr_domains", entry.nr_domains.into()),
        ("at_ns", entry.at_ns),
        ("pause_ns", entry.pause_ns),
        ("save_ns", save),
        ("relocate_ns", relocate),
        ("boot_ns", boot),
        ("restore_ns", restore),
        ("resume_ns", resume),
        ("nr_extents", entry.nr_extents),
        ("nr_frames", entry.nr_frames),
        ("stream_bytes", entry.stream_bytes),
    ];
    for (name, expected) in numbers {
        assert_eq!(ours.number(name), expected, "{name} at {:#x}", ours.offset);
    }
    let outcome = if entry.outcome == Outcome::Aborted { "given up" } else { entry.outcome.word() };
    for (name, expected) in [("outcome", outcome), ("from", entry.from.as_str()), ("to", entry.to.as_str())] {
        assert_eq!(ours.fields[name], Value::Text(expected.to_owned()), "at {:#x}", ours.offset);
    }
    assert_eq!(ours.fields["reason"], text_of(reason));
}

fn text_of(body: &Body<'_, [u8]>) -> Value {
    Value::Text(String::from_utf8(body.to_vec().unwrap()).unwrap())
}

/// How many streams were taken and refused by both, and where the two disagree.
#[derive(Debug, Default)]
struct Tally {
    taken: u32,
    refused: u32,
    disagreements: Vec<String>,
}

impl Tally {
    /// The decoder goes on where the hypervisor's reader stops, so the first fault of that one has to be among the decoder's.
    fn compare(&mut self, bytes: &[u8], what: &str) {
        let decoded = stream::decode(bytes);
        let ours = faults(&decoded);
        match first_fault(bytes) {
            None if ours.is_empty() => self.taken += 1,
            None => self.disagreements.push(format!("{what}: the hypervisor takes it, the decoder finds {ours:?}")),
            Some(theirs) if ours.contains(&theirs) => self.refused += 1,
            Some(theirs) => self.disagreements.push(format!("{what}: {theirs:?} is not among {ours:?}")),
        }
    }

    fn assert_agreement(&self) {
        let some = &self.disagreements[..self.disagreements.len().min(20)];
        assert!(some.is_empty(), "{} disagreements: {some:#?}", self.disagreements.len());
    }
}

#[test]
fn both_refuse_the_same_bytes_for_the_same_reason() {
    for version in [1, 2] {
        let good = golden(&format!("v{version}-stream"));
        let mut tally = Tally::default();
        for at in 0..good.len() {
            let mut random = fastrand::Rng::with_seed(at as u64);
            let mut bytes = good.clone();
            bytes[at] ^= 1 << random.u8(..8);
            tally.compare(&bytes, &format!("version {version}, byte {at:#x} is {:#x}", bytes[at]));
        }
        for len in (0..good.len()).step_by(7) {
            tally.compare(&good[..len], &format!("version {version}, cut off at {len:#x}"));
        }
        // In version 2 a flipped bit inside a domain breaks its sum, whatever else it does.
        tally.assert_agreement();
        assert!(tally.refused > 1000 && tally.taken > 50, "version {version}: {tally:?}");
    }
}

#[test]
fn records_in_another_order_are_judged_alike() {
    for version in [1, 2] {
        let good = golden(&format!("v{version}-stream"));
        let mut tally = Tally::default();
        let ranges: Vec<_> = stream::decode(&good).records.iter().map(stream::Record::range).collect();
        for (index, range) in ranges.iter().enumerate() {
            let mut without = good.clone();
            without.drain(range.clone());
            tally.compare(&without, &format!("version {version}, without record {index}"));
            let mut twice = good.clone();
            twice.splice(range.end..range.end, good[range.clone()].iter().copied());
            tally.compare(&twice, &format!("version {version}, record {index} twice"));
            if let Some(next) = ranges.get(index + 1) {
                let swapped = [&good[..range.start], &good[next.clone()], &good[range.clone()], &good[next.end..]];
                tally.compare(&swapped.concat(), &format!("version {version}, record {index} behind the next"));
            }
        }
        tally.assert_agreement();
        assert!(tally.refused > 20 && tally.taken > 5, "version {version}: {tally:?}");
    }
}

#[test]
fn the_history_has_an_end() {
    let good = golden("v2-stream");
    let decoded = stream::decode(&good);
    let entries: Vec<_> = decoded.records.iter().filter(|record| record.name() == "LU_HISTORY").collect();
    let (nr_entries, last) = (entries.len(), *entries.last().unwrap());
    let with = |nr_more: usize| {
        let mut bytes = good.clone();
        let more = (0..nr_more as u64).flat_map(|i| {
            let mut entry = good[last.range()].to_vec();
            entry[8..16].copy_from_slice(&(last.number("number") + 1 + i).to_le_bytes());
            entry
        });
        bytes.splice(last.range().end..last.range().end, more);
        bytes
    };
    let full = with(64 - nr_entries);
    assert_eq!((first_fault(&full), faults(&stream::decode(&full))), (None, vec![]));
    let over = with(65 - nr_entries);
    let at = (last.range().end + (64 - nr_entries) * last.range().len()) as u64;
    let expected = (at, "order TooMany".to_owned());
    assert_eq!((first_fault(&over), faults(&stream::decode(&over))), (Some(expected.clone()), vec![expected]));
}

#[test]
fn rules_have_the_specification_s_names() {
    assert_eq!(Rule::Order(OrderRule::VersionFirst).to_string(), "order VersionFirst");
    assert_eq!(Rule::Record(RecordRule::NotWhole).to_string(), "record NotWhole");
    assert_eq!(Rule::Stream(StreamRule::Sum).to_string(), "stream Sum");
}

#[test]
fn a_projection_has_libxc_s_records_and_no_others() {
    let bytes = golden("v2-stream");
    let decoded = stream::decode(&bytes);
    let projected = project::project(&decoded, &bytes, 1).unwrap();
    let mut at = 40;
    let mut kinds = Vec::new();
    while at < projected.len() {
        let word = |at: usize| u32::from_le_bytes(projected[at..at + 4].try_into().unwrap());
        kinds.push(word(at));
        at += 8 + (word(at + 4) as usize).next_multiple_of(8);
    }
    assert_eq!(at, projected.len());
    assert_eq!(kinds.last(), Some(&0));
    let expected = decoded.records.iter().filter(|r| r.domain == Some(1) && r.kind >> 30 == 0).map(|r| r.kind);
    assert_eq!(kinds[..kinds.len() - 1], expected.collect::<Vec<_>>());
    assert!(project::project(&decoded, &bytes, 77).is_none());
}
