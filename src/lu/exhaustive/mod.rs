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
use crate::mm::guest_mem::{field_u32, field_u64};
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

    /// One that a machine made: what luxen left for its next build under five busy guests, taken out of QEMU's memory. Its list is made anew here.
    fn captured_v1() -> Self {
        let bytes = include_bytes!("../../../tests/golden/captured-v1-stream.bin");
        let mem = SparseMem::new();
        let pages: Vec<Mfn> = (0..bytes.chunks(PAGE_SIZE as usize).len() as u64).map(state::stream_frame).collect();
        for (page, part) in pages.iter().zip(bytes.chunks(PAGE_SIZE as usize)) {
            mem.write(page.maddr(), part);
        }
        let finished = Finished { len_bytes: bytes.len() as u64, crc: checksum(&bytes[..]) };
        // Version 1 has no place for them.
        let page_crcs = vec![0; pages.len()];
        let stream = Written { version: StreamVersion::V1, finished, pages, page_crcs, said: Vec::new() };
        let list = list_frames(StreamVersion::V1, stream.pages.len() as u64);
        mfn_list::write(&mem, &list, &stream.as_list_has_it()).unwrap();
        Self { mem, stream, list }
    }

    /// The same in version 2, at the second update and with a faulty frame. Its list is the machine's, too: the stream's frames lie where it says.
    fn captured_v2() -> Self {
        let bytes = include_bytes!("../../../tests/golden/captured-v2-stream.bin");
        let root = include_bytes!("../../../tests/golden/captured-v2-list.bin");
        let mem = SparseMem::new();
        let list = vec![list_frame(0)];
        mem.write(list[0].maddr(), root);
        let parts = bytes.chunks(PAGE_SIZE as usize);
        // docs/handover.md §3: behind a header of 64 bytes an entry of 16 for each frame, its mfn and its checksum.
        let entries = root[64..].chunks(16).take(parts.len());
        let pages: Vec<_> = entries.clone().map(|entry| Mfn::new(field_u64(entry, 0))).collect();
        let page_crcs = entries.map(|entry| field_u32(entry, 8)).collect();
        pages.iter().zip(parts).for_each(|(page, part)| mem.write(page.maddr(), part));
        let finished = Finished { len_bytes: field_u64(root, 16), crc: field_u32(root, 32) };
        assert_eq!(finished.len_bytes, bytes.len() as u64);
        let stream = Written { version: StreamVersion::V2, finished, pages, page_crcs, said: Vec::new() };
        Self { mem, stream, list }
    }

    /// One of each version with everything in it, and the captured ones.
    fn all() -> [Self; 4] {
        [Self::new(StreamVersion::V1), Self::new(StreamVersion::V2), Self::captured_v1(), Self::captured_v2()]
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
    for (handover, update, nr_bad) in [(Handover::captured_v1(), 1, 0), (Handover::captured_v2(), 2, 1)] {
        let list = handover.open().unwrap();
        assert_eq!((list.version(), list.pages()), (handover.stream.version, handover.stream.pages.as_slice()));
        let source = list.open(&handover.mem).unwrap();
        let summary = validate(records::reader(&source)).unwrap();
        assert_eq!((summary.version.update_sequence, summary.nr_domains, summary.nr_skipped), (update, 5, 0));
        // 16, 64, 32, 16 and 16 MiB, a frame of which tables has given up.
        assert_eq!(summary.nr_pages, (16 + 64 + 32 + 16 + 16) * 256);
        let (mut names, mut nr_faulty, mut nr_history) = (Vec::new(), 0, 0);
        let mut reader = records::reader(&source);
        while let Some(record) = reader.next_record().unwrap() {
            match AnyRecord::decode(&record).unwrap() {
                AnyRecord::DomainBegin(begin) => names.push(std::string::String::from(begin.name.as_str())),
                AnyRecord::BadFrames(list) => nr_faulty += list.iter().count(),
                AnyRecord::History(_) => nr_history += 1,
                _ => {}
            }
        }
        assert_eq!(names, ["pulse", "memory", "tables", "events-a", "events-b"]);
        assert_eq!((nr_faulty, nr_history), (nr_bad, update - 1));
    }
}
