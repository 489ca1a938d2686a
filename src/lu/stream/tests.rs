//! Framing: what the bytes are, that a reader gives back what a writer took, and what each kind of damage is called.

use super::*;
use crate::frame::Maddr;
use crate::mm::physmem::sparse::SparseMem;
use proptest::prelude::*;
use std::boxed::Box;
use std::vec;

fn all(_: u32) -> bool {
    true
}

fn small(kind: u32) -> bool {
    kind < 16
}

/// Frames in an order that nobody would choose.
fn frames(seed: u64) -> impl FnMut() -> Option<Mfn> {
    let mut n = seed;
    move || {
        n += 1;
        Some(Mfn::new((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 25) | 1))
    }
}

/// A copy of memory that shows its frames, as the direct map does, and cannot be written.
struct Still(std::collections::BTreeMap<Mfn, Box<[u8; PAGE_SIZE as usize]>>);

impl Still {
    fn of(mem: &SparseMem) -> Self {
        let copy = |number: u64| {
            let mut frame = Box::new([0; PAGE_SIZE as usize]);
            mem.read(Mfn::new(number).maddr(), &mut frame[..]);
            (Mfn::new(number), frame)
        };
        Self(mem.written().into_iter().map(copy).collect())
    }
}

#[expect(unsafe_code, reason = "frames are shown")]
impl PhysMem for Still {
    fn read_u64(&self, _at: Maddr) -> u64 {
        unreachable!("a stream is read in bytes")
    }

    fn write_u64(&self, _at: Maddr, _value: u64) {
        unreachable!("nothing is written")
    }

    fn compare_exchange_u64(&self, _at: Maddr, _old: u64, _new: u64) -> Result<(), u64> {
        unreachable!("nothing is written")
    }

    fn read(&self, at: Maddr, into: &mut [u8]) {
        let offset = at.page_offset() as usize;
        into.copy_from_slice(&self.0[&at.mfn_containing()][offset..offset + into.len()]);
    }

    fn write(&self, _at: Maddr, _from: &[u8]) {
        unreachable!("nothing is written")
    }

    fn zero(&self, _at: Maddr, _len_bytes: u64) {
        unreachable!("nothing is written")
    }

    unsafe fn show(&self, mfn: Mfn) -> Option<&[u8; PAGE_SIZE as usize]> {
        self.0.get(&mfn).map(|frame| &**frame)
    }
}

fn write_vec(records: &[(u32, Vec<u8>)]) -> (Vec<u8>, Finished) {
    let mut writer = Writer::new(Vec::new());
    for (kind, body) in records {
        writer.record(*kind, body).unwrap();
    }
    let finished = writer.finish().unwrap();
    (writer.into_dest(), finished)
}

fn read_all<S: ByteSource + ?Sized>(source: &S) -> Result<Vec<(u32, Vec<u8>)>, StreamError> {
    let mut reader = Reader::new(source, all);
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        records.push((record.kind, record.body.to_vec().map_err(|error| record.error(error))?));
    }
    assert!(reader.next_record().unwrap().is_none(), "the end stays the end");
    Ok(records)
}

/// Expected bytes from the format's definition.
fn frame(kind: u32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn the_checksum_is_crc_32c() {
    // Check value of CRC-32/ISCSI in the catalogue of CRC algorithms, and RFC 3720's example of 32 zeros.
    assert_eq!(checksum(&b"123456789"[..]), 0xe306_9283);
    assert_eq!(checksum(&[0u8; 32][..]), 0x8a91_36aa);
}

#[test]
fn bytes_are_as_the_format_says() {
    let (bytes, finished) = write_vec(&[(0x4000_0003, b"abcde".to_vec()), (7, vec![]), (1, vec![9; 8])]);
    let mut expected = frame(0x4000_0003, 5, b"abcde\0\0\0");
    expected.extend(frame(7, 0, &[]));
    expected.extend(frame(1, 8, &[9; 8]));
    expected.extend(frame(0, 0, &[]));
    assert_eq!(bytes, expected);
    assert_eq!(finished, Finished { len_bytes: 48, crc: checksum(&expected) });
}

#[test]
fn every_truncation_is_refused() {
    let (bytes, _) = write_vec(&[(2, vec![1; 20]), (3, vec![]), (4, vec![7; 1])]);
    assert!(read_all(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(read_all(&bytes[..len]).is_err(), "the first {len} bytes");
    }
}

#[test]
fn damage_has_a_name_and_a_place() {
    use StreamError::*;
    let end = frame(0, 0, &[]);
    let one = frame(2, 3, &[1, 2, 3, 0, 0, 0, 0, 0]);
    let join = |parts: &[&[u8]]| parts.concat();
    let limit = REC_LENGTH_MAX;
    let cases = [
        (vec![], MissingEnd { at: 0, left: 0 }),
        (one.clone(), MissingEnd { at: 16, left: 0 }),
        (join(&[&one, &end[..7]]), MissingEnd { at: 16, left: 7 }),
        (frame(2, 9, &[0; 8]), PastEnd { kind: 2, at: 0, length: 9, left: 8 }),
        (frame(2, 3, &[1, 2, 3]), PastEnd { kind: 2, at: 0, length: 3, left: 3 }),
        (join(&[&one, &frame(5, limit, &[0; 8])]), PastEnd { kind: 5, at: 16, length: limit, left: 8 }),
        (frame(2, limit + 1, &[]), TooLong { kind: 2, at: 0, length: limit + 1 }),
        (frame(2, u32::MAX, &[]), TooLong { kind: 2, at: 0, length: u32::MAX }),
        (join(&[&one, &frame(3, 7, &[0, 0, 0, 0, 0, 0, 0, 1]), &end]), Padding { kind: 3, at: 16 }),
        (join(&[&frame(2, 1, &[0, 1, 0, 0, 0, 0, 0, 0]), &end]), Padding { kind: 2, at: 0 }),
        (join(&[&one, &frame(0, 1, &[0; 8])]), EndNotEmpty { at: 16, length: 1 }),
        (join(&[&one, &end, &[0]]), AfterEnd { at: 24, extra: 1 }),
        (join(&[&end, &one, &end]), AfterEnd { at: 8, extra: 24 }),
        (join(&[&one, &frame(16, 0, &[]), &end]), Unknown { kind: 16, at: 16 }),
        (join(&[&frame(0x4000_0001, 0, &[]), &end]), Unknown { kind: 0x4000_0001, at: 0 }),
    ];
    for (bytes, expected) in cases {
        let mut reader = Reader::new(&bytes[..], small);
        let found = loop {
            match reader.next_record() {
                Ok(Some(_)) => (),
                Ok(None) => panic!("{expected:?} was not noticed"),
                Err(error) => break error,
            }
        };
        assert_eq!(found, expected);
        assert_eq!(reader.next_record().err(), Some(expected), "an error stays");
        assert!(!std::format!("{found}").is_empty());
    }
}

#[test]
fn unknown_optional_records_are_skipped_and_counted() {
    let (bytes, _) = write_vec(&[(0x8000_0020, vec![1; 9]), (1, vec![2]), (0xffff_ffff, vec![])]);
    let mut reader = Reader::new(&bytes, small);
    assert_eq!(reader.next_record().unwrap().unwrap().kind, 1);
    assert!(reader.next_record().unwrap().is_none());
    assert_eq!((reader.nr_skipped(), reader.offset()), (2, bytes.len() as u64));
    // A reader that knows the type gets it, with its flag.
    let mut reader = Reader::new(&bytes, all);
    assert_eq!(reader.next_record().unwrap().unwrap().kind, 0x8000_0020);
}

#[test]
fn fields_are_read_across_frames() {
    let mem = SparseMem::new();
    let pages = [Mfn::new(7), Mfn::new(3)];
    let bytes: Vec<u8> = (0..8192u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
    for (page, part) in pages.iter().zip(bytes.chunks(4096)) {
        mem.write(page.maddr(), part);
    }
    let source = PagedSource::new(&mem, &pages, 8192);
    for start in 4080..4100u64 {
        let mut body = Body::whole(&source);
        body.skip(start).unwrap();
        let at = start as usize;
        assert_eq!(body.u64().unwrap(), u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
        assert_eq!(body.u32().unwrap(), u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()));
        assert_eq!(body.u16().unwrap(), u16::from_le_bytes(bytes[at + 12..at + 14].try_into().unwrap()));
        assert_eq!(body.u8().unwrap(), bytes[at + 14]);
        assert_eq!(body.offset(), start + 15);
    }
}

/// Wherever a frame ends, and wherever the body does, fields are the same and so is what is wrong with them.
#[test]
fn fields_are_the_same_in_one_piece_and_in_two() {
    let mut bytes: Vec<u8> = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let read = |body: &mut Body<'_, PagedSource<'_, SparseMem>>| {
        body.fields(24, |from| {
            let read = (from.u64()?, from.checked_u32(|n| (n != 0).then_some(n))?);
            from.reserved(12)?;
            Ok(read)
        })
    };
    let (first, second) = (0x0807_0605_0403_0201, 0x0c0b_0a09);
    let short = |needed, found| Err(RecordError::Short { needed, found });
    for start in 4096 - 26..4096 + 2 {
        let check = |bytes: &[u8], due: Result<(u64, u32), RecordError>| {
            let mem = SparseMem::new();
            let pages = [Mfn::new(7), Mfn::new(3)];
            let all = [vec![0xee; start], bytes.to_vec()].concat();
            for (page, part) in pages.iter().zip(all.chunks(4096)) {
                mem.write(page.maddr(), part);
            }
            let source = PagedSource::new(&mem, &pages, all.len() as u64);
            let mut body = Body::of(&source, start as u64, all.len() as u64);
            assert_eq!(read(&mut body), due, "{} bytes at {start}", bytes.len());
            assert_eq!(body.remaining(), 0);
        };
        check(&bytes, Ok((first, second)));
        check(&bytes[..7], short(8, 7));
        check(&bytes[..11], short(12, 11));
        check(&bytes[..15], short(20, 15));
        check(&bytes[..21], short(24, 21));
        bytes[17] = 3;
        check(&bytes, Err(RecordError::Reserved { offset: 17, found: 3 }));
        check(&bytes[..20], Err(RecordError::Reserved { offset: 17, found: 3 }));
        check(&bytes[..19], short(20, 19));
        bytes[17] = 0;
        bytes[8..12].fill(0);
        check(&bytes, Err(RecordError::BadValue { offset: 8, found: 0 }));
        bytes[8..12].copy_from_slice(&[9, 10, 11, 12]);
    }
}

#[test]
fn a_body_does_not_give_what_it_does_not_have() {
    let bytes = vec![0u8, 0, 5, 0, 0];
    let mut body = Body::whole(&bytes);
    assert_eq!(body.u64(), Err(RecordError::Short { needed: 8, found: 5 }));
    assert_eq!(body.skip(6), Err(RecordError::Short { needed: 6, found: 5 }));
    assert_eq!(body.skip(u64::MAX), Err(RecordError::Short { needed: u64::MAX, found: 5 }));
    assert_eq!(body.u16(), Ok(0));
    assert_eq!(body.finish(), Err(RecordError::Long { known: 2, found: 5 }));
    assert_eq!(body.u32(), Err(RecordError::Short { needed: 6, found: 5 }));
    assert_eq!(body.to_vec().unwrap(), [5, 0, 0]);
    assert_eq!(body.skip(3), Ok(()));
    assert_eq!(body.finish(), Ok(()));
    assert_eq!(body.u8(), Err(RecordError::Short { needed: 6, found: 5 }));
}

#[test]
fn a_source_is_no_longer_than_its_frames() {
    let mem = SparseMem::new();
    let pages = [Mfn::new(7)];
    let source = PagedSource::new(&mem, &pages, 5000);
    assert_eq!(source.len_bytes(), 4096);
    assert!(source.read_at(4090, &mut [0; 6]));
    assert!(!source.read_at(4090, &mut [0; 7]));
    assert!(!source.read_at(u64::MAX, &mut [0; 7]));
    assert!(!PagedSource::new(&mem, &pages, 10).read_at(4, &mut [0; 7]));
    assert!(![0u8; 4][..].read_at(u64::MAX, &mut [0; 7]));
}

#[test]
fn frames_that_run_out_are_an_error_that_stays() {
    let records: Vec<(u32, Vec<u8>)> = (1..40).map(|i| (i, vec![i as u8; 700])).collect();
    let (bytes, _) = write_vec(&records);
    let needed = bytes.len().div_ceil(4096);
    for nr_frames in 0..=needed {
        let mem = SparseMem::new();
        let mut left = nr_frames as u64;
        let supply = || {
            left = left.checked_sub(1)?;
            Some(Mfn::new(100 + left))
        };
        let mut writer = Writer::new(PagedDest::new(&mem, supply));
        let mut first = None;
        for (kind, body) in &records {
            let done = writer.record(*kind, body);
            match first {
                None => first = done.err(),
                Some(error) => assert_eq!(done, Err(error), "the first failure is the one that is told"),
            }
        }
        let finished = writer.finish();
        assert_eq!(finished.is_ok(), nr_frames == needed, "{nr_frames} of {needed} frames");
        if let Err(error) = finished {
            assert!(matches!(error, WriteError::NoPage { .. }) && first.is_none_or(|first| first == error));
            assert_eq!(writer.check(), Err(error));
        }
        // All frames that were taken come back.
        assert_eq!(writer.into_dest().into_pages().len(), nr_frames);
    }
}

#[test]
fn misuse_is_an_error_that_stays() {
    type Step = fn(&mut Writer<Vec<u8>>);
    let cases: [(Step, WriteError); 6] = [
        (|w| w.put(&[1]), WriteError::NotOpen { at: 0 }),
        (|w| _ = w.close_record(), WriteError::NotOpen { at: 0 }),
        (|w| _ = w.open_record(0), WriteError::End { at: 0 }),
        (|w| _ = (w.open_record(1), w.open_record(2)), WriteError::StillOpen { kind: 1 }),
        (|w| _ = w.open_record(1), WriteError::StillOpen { kind: 1 }),
        (|w| _ = (w.finish(), w.record(1, &[])), WriteError::End { at: 8 }),
    ];
    for (step, expected) in cases {
        let mut writer = Writer::new(Vec::new());
        step(&mut writer);
        assert_eq!(writer.finish(), Err(expected));
        assert_eq!(writer.record(1, &[]), Err(expected));
        assert_eq!(writer.check(), Err(expected));
        assert!(!std::format!("{expected}").is_empty());
    }
}

/// Takes bytes without keeping them.
struct Nowhere(u64);

impl ByteSource for Nowhere {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, into: &mut [u8]) -> bool {
        into.fill(0);
        true
    }
}

impl Dest for Nowhere {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.0 += bytes.len() as u64;
        Ok(())
    }

    fn patch(&mut self, at: u64, bytes: &[u8]) {
        assert!(at + bytes.len() as u64 <= self.0);
    }
}

#[test]
fn a_body_may_have_its_limit_and_not_a_byte_more() {
    let part = vec![0; 1 << 20];
    for (more, is_good) in [(0, true), (1, false), (8, false), (4096, false)] {
        let mut writer = Writer::new(Nowhere(0));
        writer.open_record(3).unwrap();
        for _ in 0..REC_LENGTH_MAX >> 20 {
            writer.put(&part);
        }
        writer.put(&part[..more]);
        let closed = writer.close_record();
        assert_eq!(closed.is_ok(), is_good, "{more} bytes over the limit");
        if !is_good {
            assert_eq!(closed, Err(WriteError::TooLong { kind: 3, found: u64::from(REC_LENGTH_MAX) + more as u64 }));
        }
    }
}

#[test]
fn the_rest_of_the_last_frame_is_zero() {
    let mem = SparseMem::new();
    let mfn = Mfn::new(5);
    mem.write(mfn.maddr(), &[0xaa; 4096]);
    let mut writer = Writer::new(PagedDest::new(&mem, || Some(mfn)));
    writer.record(1, &[1]).unwrap();
    writer.finish().unwrap();
    let mut page = [0; 4096];
    mem.read(mfn.maddr(), &mut page);
    assert!(page[24..].iter().all(|&byte| byte == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        records in proptest::collection::vec((1u32.., proptest::collection::vec(any::<u8>(), 0..3000)), 0..12),
        seed: u32,
    ) {
        let (bytes, finished) = write_vec(&records);
        prop_assert_eq!(read_all(&bytes).unwrap(), records.clone());

        // The same through frames, with the bodies put in pieces.
        let mem = SparseMem::new();
        let mut writer = Writer::new(PagedDest::new(&mem, frames(seed.into())));
        for (kind, body) in &records {
            writer.open_record(*kind).unwrap();
            for piece in body.chunks(1 + (seed % 700) as usize) {
                writer.put(piece);
            }
            writer.close_record().unwrap();
        }
        prop_assert_eq!(writer.finish().unwrap(), finished);
        prop_assert_eq!(writer.nr_records(), records.len() as u64 + 1);
        let pages = writer.into_dest().into_pages();
        let source = PagedSource::new(&mem, &pages, finished.len_bytes);
        prop_assert_eq!(checksum(&source), finished.crc);
        prop_assert_eq!(Body::whole(&source).to_vec().unwrap(), bytes);
        prop_assert_eq!(read_all(&source).unwrap(), records);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_all(&bytes);
    }
}

proptest! {
    /// Records read where they lie are those that are copied out, whatever lies across frames; and a flipped byte is noticed alike.
    #[test]
    fn bytes_that_are_shown_are_the_bytes(
        lens in proptest::collection::vec(0usize..9000, 1..12), seed: u64, cuts in (0u64..70_000, 0u64..70_000), flip in 0u64..70_000,
    ) {
        let mem = SparseMem::new();
        let mut writer = Writer::new(PagedDest::new(&mem, frames(seed % 1000)));
        for (i, len) in lens.iter().enumerate() {
            let body: Vec<u8> = (0..*len).map(|at| (at * (i + 3)) as u8).collect();
            writer.record(1 + i as u32, &body).unwrap();
        }
        let finished = writer.finish().unwrap();
        let pages = writer.into_dest().into_pages();
        let copied = PagedSource::new(&mem, &pages, finished.len_bytes);
        let still = Still::of(&mem);
        let shown = PagedSource::new(&still, &pages, finished.len_bytes);
        prop_assert!(shown.bytes_at(0, 8).is_some() && copied.bytes_at(0, 8).is_none());
        prop_assert_eq!(read_all(&shown), read_all(&copied));
        prop_assert_eq!((checksum(&shown), checksum(&copied)), (finished.crc, finished.crc));
        let end = finished.len_bytes;
        let (from, to) = (cuts.0.min(cuts.1).min(end), cuts.0.max(cuts.1).min(end));
        prop_assert_eq!(shown.crc(from, to), copied.crc(from, to));
        prop_assert!(shown.bytes_at(end, 1).is_none() && shown.bytes_at(end - 1, 2).is_none() && shown.bytes_at(u64::MAX, 2).is_none());

        let at = flip % end;
        let place = pages[(at / PAGE_SIZE) as usize].maddr().offset(at % PAGE_SIZE);
        let mut byte = [0];
        mem.read(place, &mut byte);
        mem.write(place, &[byte[0] ^ 0x40]);
        let still = Still::of(&mem);
        let shown = PagedSource::new(&still, &pages, end);
        let copied = PagedSource::new(&mem, &pages, end);
        prop_assert_eq!(read_all(&shown), read_all(&copied));
        prop_assert!(checksum(&shown) != finished.crc);
    }
}
