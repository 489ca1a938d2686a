//! Damage and size without samples: a handover that the real writer made, and every way to harm it a little, or what is left of the rules when there
//! is very much of everything. Both versions go through the same tests.

mod claims;
mod flips;
mod order;

use super::golden::state::{self, Written, list_frame};
use super::mfn_list::{self, MfnList, MfnListError};
use super::records::{self, AnyRecord, StreamVersion, validate};
use super::stream::{ByteSource, Finished, PagedSource, StreamError, checksum};
use crate::frame::{Mfn, MfnRange, PAGE_SIZE};
use crate::mm::physmem::{PhysMem, sparse::SparseMem};
use std::vec;
use std::vec::Vec;

const VERSIONS: [StreamVersion; 2] = [StreamVersion::V1, StreamVersion::V2];

/// A handover in memory: a stream with every kind of record, and its list.
struct Handover {
    mem: SparseMem,
    stream: Written,
    list: Vec<Mfn>,
}

/// What keeps a handover from being taken up.
#[derive(Debug)]
enum Refusal {
    List(MfnListError),
    Stream(StreamError),
}

impl Handover {
    fn new(version: StreamVersion) -> Self {
        let mem = SparseMem::new();
        let stream = state::write(&mem, version);
        let list = list_frames(version, stream.pages.len() as u64);
        mfn_list::write(&mem, &list, &stream.as_list_has_it()).unwrap();
        Self { mem, stream, list }
    }

    /// One that a machine made: what luxen left for its next build under busy guests, taken out of QEMU's memory. Its list is made anew here.
    fn captured(version: StreamVersion) -> Self {
        let bytes: &[u8] = if version == StreamVersion::V1 {
            include_bytes!("../../../tests/golden/captured-v1-stream.bin")
        } else {
            include_bytes!("../../../tests/golden/captured-v2-stream.bin")
        };
        let mem = SparseMem::new();
        let pages: Vec<Mfn> = (0..bytes.chunks(PAGE_SIZE as usize).len() as u64).map(state::stream_frame).collect();
        for (page, part) in pages.iter().zip(bytes.chunks(PAGE_SIZE as usize)) {
            mem.write(page.maddr(), part);
        }
        let finished = Finished { len_bytes: bytes.len() as u64, crc: checksum(bytes) };
        // Version 1 has no place for them.
        let page_crcs = pages.iter().map(|page| checksum(&PagedSource::new(&mem, &[*page], PAGE_SIZE))).collect();
        let stream = Written { version, finished, pages, page_crcs, said: Vec::new() };
        let list = list_frames(version, stream.pages.len() as u64);
        mfn_list::write(&mem, &list, &stream.as_list_has_it()).unwrap();
        Self { mem, stream, list }
    }

    /// One of each version with everything in it, and one of each that was captured.
    fn all() -> [Self; 4] {
        let [v1, v2] = VERSIONS;
        [Self::new(v1), Self::new(v2), Self::captured(v1), Self::captured(v2)]
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.stream.finished.len_bytes as usize];
        let source = PagedSource::new(&self.mem, &self.stream.pages, self.stream.finished.len_bytes);
        assert!(source.read_at(0, &mut bytes));
        bytes
    }

    /// What the incoming side does before it looks at a record.
    fn open(&self) -> Result<MfnList, Refusal> {
        let list = mfn_list::read(&self.mem, self.list[0], region(), is_ram).map_err(Refusal::List)?;
        list.open(&self.mem).map_err(Refusal::Stream)?;
        Ok(list)
    }
}

fn list_frames(version: StreamVersion, nr_pages: u64) -> Vec<Mfn> {
    (0..mfn_list::nr_list_pages(version, nr_pages)).map(list_frame).collect()
}

fn region() -> MfnRange {
    MfnRange::new(Mfn::new(0x8000), 0x1000)
}

fn is_ram(range: MfnRange) -> bool {
    MfnRange::new(Mfn::new(0x10), 0x100_0000).contains_range(range)
}

/// What the machines of the captured handovers were, and what was wrong with them: nothing.
#[test]
fn a_machines_handover_is_read_whole() {
    let five = ["pulse", "memory", "tables", "events-a", "events-b"];
    let nine = [&five[..], &["grants-a", "grants-b", "smp", "balloon"]].concat();
    for (version, guests) in [(StreamVersion::V1, &five[..]), (StreamVersion::V2, &nine)] {
        let handover = Handover::captured(version);
        let list = handover.open().unwrap();
        assert_eq!((list.version(), list.pages()), (version, handover.stream.pages.as_slice()));
        let source = list.open(&handover.mem).unwrap();
        let summary = validate(records::reader(&source)).unwrap();
        assert_eq!(
            (summary.version.update_sequence, summary.nr_domains, summary.nr_skipped),
            (1, guests.len() as u64, 0)
        );
        let (mut names, mut nr_vcpus) = (Vec::new(), 0);
        let mut reader = records::reader(&source);
        while let Some(record) = reader.next_record().unwrap() {
            match AnyRecord::decode(&record).unwrap() {
                AnyRecord::DomainBegin(begin) => names.push(std::string::String::from(begin.name.as_str())),
                AnyRecord::VcpuBasic(_) => nr_vcpus += 1,
                _ => {}
            }
        }
        assert_eq!(names, guests);
        assert_eq!(nr_vcpus, if version == StreamVersion::V1 { 5 } else { 12 });
    }
}
