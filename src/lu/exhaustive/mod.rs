//! Damage and size without samples: a handover that the real writer made, and every way to harm it a little, or what is left of the rules when there
//! is very much of everything. Both versions go through the same tests.

mod claims;
mod flips;
mod order;

use super::golden::state::{self, Written, list_frame};
use super::mfn_list::{self, MfnList, MfnListError};
use super::records::StreamVersion;
use super::stream::{ByteSource, PagedSource, StreamError};
use crate::frame::{Mfn, MfnRange};
use crate::mm::physmem::sparse::SparseMem;
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
