//! Single bits. As they are, the checksums catch every one of them. With the checksums made right again, whatever the reader then says is an answer,
//! and what it lets through keeps the rules that the restore builds on.

use super::*;
use crate::lu::records::{self, AnyRecord, validate};
use std::collections::BTreeSet;
use std::string::ToString;

/// Bits of a frame.
const FRAME_BITS: u64 = PAGE_SIZE * 8;
/// Where the root has both checksums, the list's own in the upper half.
const CRCS: u64 = 32;

/// Turns a bit of a frame over.
fn flip(mem: &SparseMem, page: Mfn, bit: u64) {
    let at = page.maddr().offset(bit / 64 * 8);
    mem.write_u64(at, mem.read_u64(at) ^ 1 << (bit % 64));
}

/// Makes the list's own checksum right for what its pages hold.
fn seal(mem: &SparseMem, list: &[Mfn]) {
    let at = list[0].maddr().offset(CRCS);
    let stream_crc = mem.read_u64(at) & u64::from(u32::MAX);
    mem.write_u64(at, stream_crc);
    let own = checksum(&PagedSource::new(mem, list, list.len() as u64 * PAGE_SIZE));
    mem.write_u64(at, stream_crc | u64::from(own) << 32);
}

/// `n` of the numbers below `limit`, all different, spread over all of them in no order that a format would have.
fn scattered(n: u64, limit: u64) -> impl Iterator<Item = u64> {
    // A prime beyond every limit here, so that no number comes twice.
    const STEP: u64 = 1_000_003;
    assert!(limit < STEP && n <= limit);
    (0..n).map(move |i| i * STEP % limit)
}

#[test]
fn no_bit_of_the_list_changes_unnoticed() {
    for version in VERSIONS {
        let handover = Handover::new(version);
        assert!(handover.open().is_ok());
        assert_eq!(handover.list.len(), 1);
        for bit in 0..FRAME_BITS {
            flip(&handover.mem, handover.list[0], bit);
            match handover.open() {
                Err(Refusal::List(error)) => assert!(!error.to_string().is_empty()),
                other => panic!("bit {bit}: {other:?}"),
            }
            flip(&handover.mem, handover.list[0], bit);
        }
        assert!(handover.open().is_ok());
    }
}

#[test]
fn no_bit_of_a_further_list_page_changes_unnoticed() {
    for version in VERSIONS {
        let mem = SparseMem::new();
        let stream = state::long_stream(version);
        let list = list_frames(version, stream.pages.len() as u64);
        mfn_list::write(&mem, &list, &stream.as_list_has_it()).unwrap();
        let read = || mfn_list::read(&mem, list[0], region(), is_ram);
        assert!(read().is_ok() && list.len() > 1);
        // All bits of the header and of the first entries, and one of every further word.
        let bits = (0..1024).chain((16..512).map(|word| word * 64 + word * 7 % 64));
        for bit in bits {
            for &page in &list[1..] {
                flip(&mem, page, bit);
                assert!(read().is_err(), "bit {bit} of {page}");
                flip(&mem, page, bit);
            }
        }
        assert!(read().is_ok());
    }
}

#[test]
fn no_bit_of_the_stream_changes_unnoticed() {
    for handover in Handover::all() {
        let version = handover.stream.version;
        for bit in scattered(4096, handover.stream.finished.len_bytes * 8) {
            let (index, in_page) = ((bit / FRAME_BITS) as usize, bit % FRAME_BITS);
            let page = handover.stream.pages[index];
            flip(&handover.mem, page, in_page);
            match handover.open() {
                // Version 2 says which frame it is.
                Err(Refusal::Stream(StreamError::Page { index: found, mfn, nr_damaged, .. })) => {
                    assert_eq!((version, found, mfn, nr_damaged), (StreamVersion::V2, index as u64, page, 1));
                }
                Err(Refusal::Stream(StreamError::Checksum { .. })) => assert_eq!(version, StreamVersion::V1),
                other => panic!("bit {bit}: {other:?}"),
            }
            flip(&handover.mem, page, in_page);
        }
        assert!(handover.open().is_ok());
    }
}

#[test]
fn a_list_that_is_changed_and_sealed_again_is_refused_or_keeps_the_rules() {
    for version in VERSIONS {
        let handover = Handover::new(version);
        let (mut nr_read, mut nr_refused) = (0, 0);
        // The header, the entries in use, and some of those that are not.
        for bit in (0..1024).chain(scattered(512, FRAME_BITS)) {
            flip(&handover.mem, handover.list[0], bit);
            let was = handover.mem.read_u64(handover.list[0].maddr().offset(CRCS));
            seal(&handover.mem, &handover.list);
            match mfn_list::read(&handover.mem, handover.list[0], region(), is_ram) {
                Ok(list) => {
                    nr_read += 1;
                    let frames: BTreeSet<Mfn> = list.frames().collect();
                    assert_eq!(frames.len(), list.pages().len() + list.list_pages().len(), "bit {bit}");
                    assert!(frames.iter().all(|&mfn| is_ram(MfnRange::new(mfn, 1)) && !region().contains(mfn)));
                    assert_eq!(list.pages().len() as u64, list.stream_len_bytes().div_ceil(PAGE_SIZE));
                }
                Err(_) => nr_refused += 1,
            }
            handover.mem.write_u64(handover.list[0].maddr().offset(CRCS), was);
            flip(&handover.mem, handover.list[0], bit);
        }
        assert!(handover.open().is_ok());
        assert!(nr_read > 50 && nr_refused > 500, "{nr_read} were read, {nr_refused} were refused");
    }
}

#[test]
fn a_stream_that_is_changed_and_sealed_again_is_refused_or_can_be_read() {
    for handover in Handover::all() {
        let (version, mut bytes) = (handover.stream.version, handover.bytes());
        let (mut nr_read, mut nr_refused) = (0, 0);
        for bit in scattered(4096, bytes.len() as u64 * 8) {
            bytes[bit as usize / 8] ^= 1 << (bit % 8);
            match validate(records::reader(&bytes)) {
                Ok(summary) => {
                    nr_read += 1;
                    assert_eq!(read_all(&bytes), summary.nr_records, "bit {bit}");
                }
                Err(_) => nr_refused += 1,
            }
            bytes[bit as usize / 8] ^= 1 << (bit % 8);
        }
        assert!(validate(records::reader(&bytes)).is_ok());
        // Most of the bytes are blobs, which version 1 cannot check: a guest's registers and a copy of shared_info. The sums of version 2 are
        // over all that is of a domain, so little is left there.
        let (least_read, least_refused) = if version == StreamVersion::V1 { (3000, 100) } else { (20, 3000) };
        assert!(nr_read >= least_read && nr_refused >= least_refused, "{nr_read} read, {nr_refused} refused");
    }
}

/// Reads every record and every item of a stream that was found to be good. How many records there are.
fn read_all(bytes: &Vec<u8>) -> u64 {
    let mut reader = records::reader(bytes);
    let mut nr_records = 0;
    while let Some(record) = reader.next_record().unwrap() {
        nr_records += 1;
        match AnyRecord::decode(&record).unwrap() {
            AnyRecord::Extents(items) => assert!(items.iter().all(|item| item.is_ok())),
            AnyRecord::Channels(items) => assert!(items.iter().all(|item| item.is_ok())),
            AnyRecord::GrantMaps(items) => assert!(items.iter().all(|item| item.is_ok())),
            AnyRecord::GrantsInUse(items) => assert!(items.iter().all(|item| item.is_ok())),
            AnyRecord::Pinned(items) | AnyRecord::Linear(items) => assert!(items.iter().all(|item| item.is_ok())),
            AnyRecord::Lingering(items) => assert!(items.iter().all(|item| item.is_ok())),
            AnyRecord::M2p(items) => assert!(items.iter().all(|item| item.is_ok())),
            _ => {}
        }
    }
    nr_records
}
