//! The bytes of each stream version, held against files that an older writer made: today's writer makes the same, and
//! today's reader finds the same values in them (I5, I10). `tests/golden/README.md` says what is in the files and when they may change.

pub(super) mod state;

use super::mfn_list::{self, MfnList};
use super::records::{self, AnyRecord, KINDS, StreamVersion};
use super::stream::{ByteSource, PagedSource, REC_TYPE_OPTIONAL};
use crate::frame::{Mfn, MfnRange, PAGE_SIZE};
use crate::mm::physmem::{PhysMem, sparse::SparseMem};
use alloc::string::String;
use alloc::vec::Vec;
use state::{Written, list_frame, long_stream, read_out, stream_frame, write};
use std::path::PathBuf;
use std::{format, fs, vec};

/// Set to the number of a version, its files are written anew, and the test that does it fails.
const RENEW: &str = "LUXEN_RENEW_GOLDENS";

const VERSIONS: [StreamVersion; 2] = [StreamVersion::V1, StreamVersion::V2];

fn path(version: StreamVersion, what: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden", &format!("v{}-{what}.bin", version.get())].iter().collect()
}

fn golden(version: StreamVersion, what: &str) -> Vec<u8> {
    let path = path(version, what);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; {RENEW} writes it", path.display()))
}

/// The frames' bytes, one after the other.
fn bytes_of(mem: &SparseMem, frames: &[Mfn], len_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![0; len_bytes as usize];
    assert!(PagedSource::new(mem, frames, len_bytes).read_at(0, &mut bytes));
    bytes
}

fn list_frames(version: StreamVersion, nr_pages: u64) -> Vec<Mfn> {
    (0..mfn_list::nr_list_pages(version, nr_pages)).map(list_frame).collect()
}

/// What today's writer makes: stream, its list, and the list of a stream that takes several list pages.
fn written(version: StreamVersion) -> (Written, [(&'static str, Vec<u8>); 3]) {
    let mem = SparseMem::new();
    let stream = write(&mem, version);
    let list = list_frames(version, stream.pages.len() as u64);
    mfn_list::write(&mem, &list, &stream.as_list_has_it()).unwrap();
    let stream_bytes = bytes_of(&mem, &stream.pages, stream.finished.len_bytes);
    let list_bytes = bytes_of(&mem, &list, list.len() as u64 * PAGE_SIZE);
    let long = long_stream(version);
    let list = list_frames(version, long.pages.len() as u64);
    mfn_list::write(&mem, &list, &long.as_list_has_it()).unwrap();
    let chain_bytes = bytes_of(&mem, &list, list.len() as u64 * PAGE_SIZE);
    (stream, [("stream", stream_bytes), ("list", list_bytes), ("chain", chain_bytes)])
}

/// Puts the golden bytes where they were when they were written, over frames full of something else.
fn placed(version: StreamVersion, list: &str) -> SparseMem {
    let mem = SparseMem::new();
    let put = |bytes: &[u8], frame: fn(u64) -> Mfn| {
        for (page, i) in bytes.chunks(PAGE_SIZE as usize).zip(0..) {
            mem.write(frame(i).maddr(), &[0x5a; PAGE_SIZE as usize]);
            mem.write(frame(i).maddr(), page);
        }
    };
    put(&golden(version, "stream"), stream_frame);
    put(&golden(version, list), list_frame);
    mem
}

fn read_list(mem: &SparseMem) -> MfnList {
    let region = MfnRange::new(Mfn::new(0x8000), 0x1000);
    mfn_list::read(mem, list_frame(0), region, |_| true).unwrap()
}

#[test]
fn the_writer_makes_the_bytes_that_it_always_made() {
    for version in VERSIONS {
        let (_, files) = written(version);
        if std::env::var(RENEW).is_ok_and(|number| number == format!("{}", version.get())) {
            files.iter().for_each(|(what, bytes)| fs::write(path(version, what), bytes).unwrap());
            panic!("the goldens of version {} are renewed; now without {RENEW}", version.get());
        }
        for (what, bytes) in files {
            let golden = golden(version, what);
            let differs = bytes.iter().zip(&golden).position(|(a, b)| a != b);
            assert_eq!((bytes.len(), differs), (golden.len(), None), "version {}, {what}", version.get());
        }
    }
}

#[test]
fn the_reader_finds_the_values_that_were_written() {
    for version in VERSIONS {
        let expected = written(version).0;
        let mem = placed(version, "list");
        let list = read_list(&mem);
        assert_eq!(list.pages(), expected.pages);
        let source = list.open(&mem).unwrap();
        let summary = records::validate(records::reader(&source)).unwrap();
        assert_eq!((summary.version.stream_version, summary.nr_domains, summary.nr_skipped), (version, 2, 1));
        let mut said: Vec<String> = Vec::new();
        let mut kinds: Vec<u32> = Vec::new();
        let mut reader = records::reader(&source);
        while let Some(record) = reader.next_record().unwrap() {
            kinds.push(record.kind);
            said.push(read_out(record.kind, &AnyRecord::decode(&record).unwrap()));
        }
        assert_eq!(said.len(), expected.said.len());
        for (said, expected) in said.iter().zip(&expected.said) {
            assert!(said == expected, "{said:.400} was written as {expected:.400}");
        }
        // Optional records may come to a version that is frozen; the newest one has them, too.
        let is_due = |kind: &u32| {
            records::since(*kind) <= Some(version) && (version > StreamVersion::V1 || *kind < REC_TYPE_OPTIONAL)
        };
        let missing: Vec<_> = KINDS.iter().filter(|kind| is_due(kind) && !kinds.contains(kind)).collect();
        assert_eq!(missing, [&0; 0], "kinds that version {}'s golden does not have", version.get());
    }
}

#[test]
fn a_list_of_several_pages_is_read_too() {
    for version in VERSIONS {
        let mem = placed(version, "chain");
        let list = read_list(&mem);
        let long = long_stream(version);
        assert_eq!((list.stream_len_bytes(), list.pages()), (long.finished.len_bytes, long.pages.as_slice()));
        assert_eq!((list.version(), list.list_pages()), (version, list_frames(version, 505).as_slice()));
    }
}
