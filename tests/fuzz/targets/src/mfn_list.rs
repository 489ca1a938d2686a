//! Breadcrumb and MFN list: damage anything, with the checksum made right again or not, and what is still read keeps the rules that the
//! restore builds on.
//!
//! ```text
//!  u16 frames of stream, u8 flags (bit 0: checksums are made right, bit 1: version 2), u64 breadcrumb's change,
//!  then changes: u8 which frame, u16 offset, u64 exclusive-or
//! ```

use crate::check_message;
use crate::stream::summary_of;
use luxen::frame::{Maddr, Mfn, MfnRange, PAGE_SIZE};
use luxen::lu::mfn_list::{HEADER_LEN, Written};
use luxen::lu::records::StreamVersion;
use luxen::lu::stream::{Finished, PagedSource, checksum};
use luxen::lu::{breadcrumb, mfn_list};
use luxen::mm::physmem::PhysMem;
use luxen::mm::physmem::sparse::SparseMem;
use std::collections::BTreeSet;

const REGION_START: u64 = 0x8000;
/// The most frames of a stream: three list pages of version 1, six of version 2.
const MAX_PAGES: u64 = 504 + 2 * 508;
/// The most frames of a stream that is read: it is all zeros and no stream, and has its own target.
const MAX_OPENED: u64 = 4;
/// Where the root has the stream's checksum, and the list's.
const CRCS: u64 = 32;

fn region() -> MfnRange {
    MfnRange::new(Mfn::new(REGION_START), 0x1000)
}

fn is_ram(range: MfnRange) -> bool {
    MfnRange::new(Mfn::new(0x10), 0x10_0000).contains_range(range)
}

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Some((&[n0, n1, flags, crumb @ ..], mut rest)) = bytes.split_first_chunk::<11>() else { return };
    let nr_pages = u64::from(u16::from_le_bytes([n0, n1])) % MAX_PAGES + 1;
    let version = if flags & 2 == 0 { StreamVersion::V1 } else { StreamVersion::V2 };
    let mem = SparseMem::new();
    let nr_list_pages = mfn_list::nr_list_pages(version, nr_pages);
    let chain: Vec<Mfn> = (0..nr_list_pages).map(|i| Mfn::new(0x20 + i * 5)).collect();
    let pages: Vec<Mfn> = (0..nr_pages).map(|i| Mfn::new(0x1_0000 + (i ^ 1) * 3)).collect();
    let len_bytes = nr_pages * PAGE_SIZE - u64::from(n0);
    let is_opened = nr_pages <= MAX_OPENED;
    let crc = if is_opened { checksum(&PagedSource::new(&mem, &pages, len_bytes)) } else { 0 };
    // What is behind the stream's end counts as zeros, and all of this stream is zeros.
    let page_crcs = vec![checksum(&[0; PAGE_SIZE as usize][..]); pages.len()];
    let finished = Finished { len_bytes, crc };
    let written = Written { version, pages: &pages, page_crcs: &page_crcs, finished };
    let root = mfn_list::write(&mem, &chain, &written).expect("a good list");
    assert_eq!(root, chain[0]);
    mem.write_u64(region().first().expect("a region").maddr(), breadcrumb::value(root) ^ u64::from_le_bytes(crumb));

    let mut is_changed = false;
    while let Some((&[which, o0, o1, value @ ..], behind)) = rest.split_first_chunk::<11>() {
        let which = usize::from(which) % (chain.len() + 1);
        // The one behind the list is the stream's first page.
        let page = chain.get(which).copied().unwrap_or(pages[0]);
        let at = page.maddr().offset((u64::from(u16::from_le_bytes([o0, o1])) % PAGE_SIZE) & !7);
        let value = u64::from_le_bytes(value);
        is_changed |= value != 0;
        mem.write_u64(at, mem.read_u64(at) ^ value);
        rest = behind;
    }
    if flags & 1 != 0 {
        if version != StreamVersion::V1 && is_opened {
            seal_pages(&mem, &chain, &pages);
        }
        seal(&mem, &chain);
    }
    let found = breadcrumb::take(&mem, region(), is_ram);
    assert_eq!(mem.read_u64(region().first().expect("a region").maddr()), breadcrumb::ABSENT);
    let root = match found {
        Ok(Some(root)) => root,
        Ok(None) => return,
        Err(error) => return check_message(&error),
    };
    match mfn_list::read(&mem, root, region(), is_ram) {
        Ok(list) => check(&mem, &list),
        Err(error) => {
            check_message(&error);
            assert!(is_changed || root != chain[0], "a good list is refused: {error}");
        }
    }
}

/// Makes the checksums in version 2's first entries right for what these pages hold now.
fn seal_pages(mem: &SparseMem, chain: &[Mfn], pages: &[Mfn]) {
    let mut at = chain[0].maddr().offset(HEADER_LEN.into());
    for page in pages {
        let crc = checksum(&PagedSource::new(mem, core::slice::from_ref(page), PAGE_SIZE));
        mem.write_u64(at.offset(8), crc.into());
        at = at.offset(16);
    }
}

/// Makes the list's checksum right for what the pages of the chain hold now.
fn seal(mem: &SparseMem, chain: &[Mfn]) {
    let at: Maddr = chain[0].maddr().offset(CRCS);
    let stream_crc = mem.read_u64(at) & u64::from(u32::MAX);
    mem.write_u64(at, stream_crc);
    let list_crc = checksum(&PagedSource::new(mem, chain, chain.len() as u64 * PAGE_SIZE));
    mem.write_u64(at, stream_crc | u64::from(list_crc) << 32);
}

fn check(mem: &SparseMem, list: &mfn_list::MfnList) {
    assert_eq!(list.pages().len() as u64, list.stream_len_bytes().div_ceil(PAGE_SIZE));
    let mut seen = BTreeSet::new();
    for mfn in list.frames() {
        assert!(seen.insert(mfn), "{mfn} twice");
        assert!(mfn != Mfn::ZERO && !region().contains(mfn) && is_ram(MfnRange::new(mfn, 1)), "{mfn}");
    }
    if list.pages().len() as u64 > MAX_OPENED {
        return;
    }
    match list.open(mem) {
        Ok(source) => drop(summary_of(&source)),
        Err(error) => check_message(&error),
    }
}
