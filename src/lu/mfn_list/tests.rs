//! The list: that it gives back what was written, that no bit of it can change unnoticed, and what each fault is called.

use super::*;
use crate::mm::physmem::sparse::SparseMem;
use proptest::prelude::*;
use std::vec;

const V1: StreamVersion = StreamVersion::V1;
const V2: StreamVersion = StreamVersion::V2;

const REGION_START: u64 = 0x8000;

fn region() -> MfnRange {
    MfnRange::new(Mfn::new(REGION_START), 0x1000)
}

fn is_ram(range: MfnRange) -> bool {
    MfnRange::new(Mfn::new(0x10), 0x100_0000).contains_range(range)
}

fn mfns(numbers: impl IntoIterator<Item = u64>) -> Vec<Mfn> {
    numbers.into_iter().map(Mfn::new).collect()
}

const BOTH: [StreamVersion; 2] = [V1, V2];

/// Writes the list of a stream whose frames have checksums that are made up.
fn list(
    mem: &SparseMem,
    version: StreamVersion,
    list_pages: &[Mfn],
    pages: &[Mfn],
    len_bytes: u64,
    crc: u32,
) -> Result<Mfn, MfnListError> {
    let page_crcs: Vec<u32> = (0..pages.len() as u32).map(|i| 0xc0de_0000 + i).collect();
    write(mem, list_pages, &Written { version, pages, page_crcs: &page_crcs, finished: Finished { len_bytes, crc } })
}

/// A list of `nr_pages` frames, scattered; the stream is all zeros and a byte short of its frames.
fn written(version: StreamVersion, nr_pages: u64) -> (SparseMem, Vec<Mfn>, Vec<Mfn>) {
    let mem = SparseMem::new();
    let list_pages = mfns((0..nr_list_pages(version, nr_pages)).map(|i| 0x20 + i * 5));
    let pages = mfns((0..nr_pages).map(|i| 0x10_0000 + (i ^ 1) * 3));
    let len_bytes = nr_pages * PAGE_SIZE - 1;
    let crc = checksum(&PagedSource::new(&mem, &pages, len_bytes));
    let page_crcs = vec![checksum(&[0; 4096][..]); pages.len()];
    let finished = Finished { len_bytes, crc };
    let root = write(&mem, &list_pages, &Written { version, pages: &pages, page_crcs: &page_crcs, finished }).unwrap();
    assert_eq!(root, list_pages[0]);
    (mem, list_pages, pages)
}

fn read_at(mem: &SparseMem, root: Mfn) -> Result<MfnList, MfnListError> {
    read(mem, root, region(), is_ram)
}

/// Writes the checksum anew, so that what else is wrong shows.
fn seal(mem: &SparseMem, list_pages: &[Mfn]) {
    let root = list_pages[0].maddr();
    let crcs = mem.read_u64(root.offset(root::CRCS));
    mem.write_u64(root.offset(root::CRCS), pair(crcs as u32, list_checksum(mem, list_pages)));
}

#[test]
fn the_root_is_as_the_format_says() {
    for version in BOTH {
        root_of(version);
    }
}

fn root_of(version: StreamVersion) {
    let mem = SparseMem::new();
    let pages = mfns([0x1234, 0x77]);
    list(&mem, version, &mfns([0x20]), &pages, 5000, 0xdead_beef).unwrap();
    let mut found = vec![0; 4096];
    mem.read(Mfn::new(0x20).maddr(), &mut found);
    let mut expected = vec![0; 4096];
    expected[0..8].copy_from_slice(b"LuxenMFN");
    expected[8..12].copy_from_slice(&version.get().to_le_bytes());
    expected[12..16].copy_from_slice(&64u32.to_le_bytes());
    expected[16..24].copy_from_slice(&5000u64.to_le_bytes());
    expected[24..32].copy_from_slice(&2u64.to_le_bytes());
    expected[32..36].copy_from_slice(&0xdead_beefu32.to_le_bytes());
    expected[48..56].copy_from_slice(&1u64.to_le_bytes());
    expected[64..72].copy_from_slice(&0x1234u64.to_le_bytes());
    if version == V1 {
        expected[72..80].copy_from_slice(&0x77u64.to_le_bytes());
    } else {
        expected[72..76].copy_from_slice(&0xc0de_0000u32.to_le_bytes());
        expected[80..88].copy_from_slice(&0x77u64.to_le_bytes());
        expected[88..92].copy_from_slice(&0xc0de_0001u32.to_le_bytes());
    }
    let crc = checksum(&expected[..]);
    expected[36..40].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(found, expected);
}

#[test]
fn a_further_page_is_as_the_format_says() {
    let (mem, list_pages, pages) = written(V1, 504 + 508 + 1);
    let word = |page: usize, offset: u64| mem.read_u64(list_pages[page].maddr().offset(offset));
    assert_eq!(list_pages.len(), 3);
    assert_eq!((word(0, 40), word(0, 48)), (list_pages[1].get(), 3));
    assert_eq!(word(0, 4088), pages[503].get());
    assert_eq!(word(1, 0).to_le_bytes(), *b"LuxenLST");
    assert_eq!((word(1, 8), word(1, 16), word(1, 24)), (1, list_pages[2].get(), 0));
    assert_eq!((word(1, 32), word(1, 4088)), (pages[504].get(), pages[1011].get()));
    assert_eq!((word(2, 8), word(2, 16), word(2, 32), word(2, 40)), (2, 0, pages[1012].get(), 0));

    let (mem, list_pages, pages) = written(V2, 252 + 254 + 1);
    let word = |page: usize, offset: u64| mem.read_u64(list_pages[page].maddr().offset(offset));
    // CRC-32C of 4096 zeros.
    let crc = 0x98f9_4189;
    assert_eq!(list_pages.len(), 3);
    assert_eq!((word(0, 4080), word(0, 4088)), (pages[251].get(), crc));
    assert_eq!((word(1, 32), word(1, 40), word(1, 4080)), (pages[252].get(), crc, pages[505].get()));
    assert_eq!((word(2, 32), word(2, 40), word(2, 48), word(2, 56)), (pages[506].get(), crc, 0, 0));
}

#[test]
fn pages_needed_change_where_a_page_is_full() {
    for (nr_pages, needed) in
        [(1, 1), (504, 1), (505, 2), (1012, 2), (1013, 3), (1 << 28, 1 + (((1 << 28) - 504) / 508) + 1)]
    {
        assert_eq!(nr_list_pages(V1, nr_pages), needed, "{nr_pages}");
    }
    for (nr_pages, needed) in [(1, 1), (252, 1), (253, 2), (506, 2), (507, 3)] {
        assert_eq!(nr_list_pages(V2, nr_pages), needed, "{nr_pages}");
    }
}

/// A list of two frames of a stream that really is in them.
fn with_stream(version: StreamVersion, mem: &SparseMem, root: Mfn, pages: &[Mfn], stream: &[u8]) -> Mfn {
    let mut page_crcs = Vec::new();
    for (page, part) in pages.iter().zip(stream.chunks(4096)) {
        mem.write(page.maddr(), part);
        let mut whole = part.to_vec();
        whole.resize(4096, 0);
        page_crcs.push(checksum(&whole));
    }
    let finished = Finished { len_bytes: stream.len() as u64, crc: checksum(stream) };
    write(mem, &[root], &Written { version, pages, page_crcs: &page_crcs, finished }).unwrap()
}

#[test]
fn every_single_bit_is_guarded() {
    for version in BOTH {
        every_bit_of(version);
    }
}

fn every_bit_of(version: StreamVersion) {
    let mem = SparseMem::new();
    let pages = mfns([0x30, 0x40]);
    let stream: Vec<u8> = (0..4104u32).map(|i| (i * i) as u8).collect();
    let root = with_stream(version, &mem, Mfn::new(0x20), &pages, &stream);
    let read_stream = || match read_at(&mem, root) {
        Ok(list) => list.open(&mem).is_ok(),
        Err(_) => false,
    };
    assert!(read_stream());
    let words = (0..4096u64).step_by(8);
    let places = words.clone().map(|offset| root.maddr().offset(offset));
    let places = places.chain(words.map(|offset| pages[0].maddr().offset(offset))).chain([pages[1].maddr()]);
    for place in places {
        for bit in 0..64 {
            let good = mem.read_u64(place);
            mem.write_u64(place, good ^ 1 << bit);
            assert!(!read_stream(), "bit {bit} at {place:#x}");
            mem.write_u64(place, good);
        }
    }
    // Behind the stream's end there is nothing to be read.
    mem.write_u64(pages[1].maddr().offset(8), 1);
    assert!(read_stream());
}

#[test]
fn a_damaged_frame_is_named() {
    let mem = SparseMem::new();
    let pages = mfns([0x30, 0x31, 0x40, 0x50]);
    let stream: Vec<u8> = (0..3 * 4096 + 1000u32).map(|i| (i * i / 7) as u8).collect();
    let root = with_stream(V2, &mem, Mfn::new(0x20), &pages, &stream);
    let list = read_at(&mem, root).unwrap();
    assert!(list.open(&mem).is_ok());
    let flip = |page: Mfn, offset: u64| {
        let at = page.maddr().offset(offset);
        mem.write_u64(at, mem.read_u64(at) ^ 0x100);
    };
    for (damaged, offset) in [(0, 4088), (1, 0), (3, 992)] {
        flip(pages[damaged], offset);
        let mut page = vec![0; 4096];
        mem.read(pages[damaged].maddr(), &mut page);
        let (noted, found) = (list.page_crcs[damaged], checksum(&page));
        let expected = StreamError::Page { index: damaged as u64, mfn: pages[damaged], noted, found, nr_damaged: 1 };
        assert_eq!(list.open(&mem).err(), Some(expected));
        flip(pages[damaged], offset);
    }
    flip(pages[3], 0);
    flip(pages[1], 8);
    let error = list.open(&mem).err().unwrap();
    assert!(matches!(error, StreamError::Page { index: 1, nr_damaged: 2, .. }), "{error}");
    // A list that is whole, and whose two kinds of checksum do not fit each other.
    flip(pages[3], 0);
    flip(pages[1], 8);
    let crcs = root.maddr().offset(root::CRCS);
    mem.write_u64(crcs, mem.read_u64(crcs) ^ 1);
    seal(&mem, &[root]);
    assert!(matches!(read_at(&mem, root).unwrap().open(&mem), Err(StreamError::Checksum { .. })));
}

#[test]
fn a_list_belongs_to_a_stream_of_its_version() {
    for version in BOTH {
        let (mem, chain, _) = written(version, 3);
        let list = read_at(&mem, chain[0]).unwrap();
        for stream in BOTH {
            let expected =
                if stream == version { Ok(()) } else { Err(MfnListError::StreamVersion { list: version, stream }) };
            assert_eq!(list.check_version(stream), expected);
        }
    }
}

#[test]
fn each_fault_has_a_name() {
    use MfnListError::*;
    const NR_PAGES: u64 = 504 + 508 + 3;
    let (_, chain, pages) = written(V1, NR_PAGES);
    let [root, second, third] = chain[..] else { panic!("three list pages") };
    let in_region = REGION_START + 5;
    // Page, offset, what is written there, what is said.
    let cases = [
        (root, 0, MAGIC ^ 1, Magic { root, found: MAGIC ^ 1 }),
        (root, 8, pair(0, 64), Version { found: 0 }),
        (root, 8, pair(3, 64), Version { found: 3 }),
        (root, 8, pair(2, 72), HeaderLen { found: 72 }),
        (root, 8, pair(1, 56), HeaderLen { found: 56 }),
        (root, 8, pair(1, 68), HeaderLen { found: 68 }),
        (root, 8, pair(1, 2056), HeaderLen { found: 2056 }),
        (root, 16, 0, StreamLen { found: 0 }),
        (root, 16, STREAM_LEN_MAX + 1, StreamLen { found: STREAM_LEN_MAX + 1 }),
        (root, 16, u64::MAX, StreamLen { found: u64::MAX }),
        (root, 16, 4096, PageCount { needed: 1, found: NR_PAGES }),
        (root, 24, NR_PAGES + 1, PageCount { needed: NR_PAGES, found: NR_PAGES + 1 }),
        (root, 24, u64::MAX, PageCount { needed: NR_PAGES, found: u64::MAX }),
        (root, 48, 2, ListPageCount { needed: 3, found: 2 }),
        (root, 56, 1, Reserved { page: root, offset: 56, found: 1 }),
        (root, 40, 0, ChainShort { found: 1, needed: 3 }),
        (root, 40, root.get(), NextMagic { page: root, found: MAGIC }),
        (root, 40, third.get(), Index { page: third, due: 1, found: 2 }),
        (root, 40, 1 << 40, Number { page: root, found: 1 << 40 }),
        (root, 40, in_region, InRegion { mfn: Mfn::new(in_region) }),
        (root, 40, 3, NotRam { mfn: Mfn::new(3) }),
        (second, 0, 0, NextMagic { page: second, found: 0 }),
        (second, 8, 7, Index { page: second, due: 1, found: 7 }),
        (second, 16, second.get(), Index { page: second, due: 2, found: 1 }),
        (second, 16, 0, ChainShort { found: 2, needed: 3 }),
        (second, 24, 9, Reserved { page: second, offset: 24, found: 9 }),
        (third, 16, second.get(), ChainLong { page: third, next: second.get() }),
        (root, 64, 0, Number { page: root, found: 0 }),
        (second, 40, u64::MAX, Number { page: second, found: u64::MAX }),
        (third, 32, in_region, InRegion { mfn: Mfn::new(in_region) }),
        (third, 32, 4, NotRam { mfn: Mfn::new(4) }),
        (third, 32, 0x200_0000, NotRam { mfn: Mfn::new(0x200_0000) }),
        (third, 32, pages[5].get(), Twice { mfn: pages[5] }),
        (third, 32, third.get(), Twice { mfn: third }),
        (third, 32 + 3 * 8, 0x99, Reserved { page: third, offset: 56, found: 0x99 }),
    ];
    for (page, offset, value, expected) in cases {
        let (mem, ..) = written(V1, NR_PAGES);
        mem.write_u64(page.maddr().offset(offset), value);
        // What belongs to the chain is noticed while it is followed, without a checksum.
        if !matches!(expected, NextMagic { .. } | Index { .. } | ChainShort { .. } | ChainLong { .. }) {
            seal(&mem, &chain);
        }
        assert_eq!(read_at(&mem, root), Err(expected), "offset {offset} of {page}");
        assert!(!std::format!("{expected}").is_empty());
    }
    let (mem, ..) = written(V1, NR_PAGES);
    mem.write_u64(third.maddr().offset(4000), 1);
    assert!(matches!(read_at(&mem, root), Err(Checksum { .. })));
    // A root that cannot be one.
    assert_eq!(read_at(&mem, Mfn::ZERO), Err(Number { page: Mfn::ZERO, found: 0 }));
    assert_eq!(read_at(&mem, Mfn::new(in_region)), Err(InRegion { mfn: Mfn::new(in_region) }));
    assert_eq!(read_at(&mem, Mfn::new(0x999)), Err(Magic { root: Mfn::new(0x999), found: 0 }));
}

#[test]
fn each_fault_of_an_entry_has_a_name() {
    use MfnListError::*;
    let (_, chain, pages) = written(V2, 252 + 3);
    let [root, second] = chain[..] else { panic!("two list pages") };
    let cases = [
        (root, 64, 0, Number { page: root, found: 0 }),
        (root, 72, 1 << 32, Reserved { page: root, offset: 76, found: 1 }),
        (second, 40, 0x8000_0000_0000_0001, Reserved { page: second, offset: 44, found: 0x8000_0000 }),
        (second, 48, pages[5].get(), Twice { mfn: pages[5] }),
        (second, 80, 1, Reserved { page: second, offset: 80, found: 1 }),
        (second, 88, 1, Reserved { page: second, offset: 88, found: 1 }),
        (second, 4088, 1 << 63, Reserved { page: second, offset: 4088, found: 1 << 63 }),
    ];
    for (page, offset, value, expected) in cases {
        let (mem, ..) = written(V2, 252 + 3);
        mem.write_u64(page.maddr().offset(offset), value);
        seal(&mem, &chain);
        assert_eq!(read_at(&mem, root), Err(expected), "offset {offset} of {page}");
    }
}

#[test]
fn a_longer_header_is_read() {
    let mem = SparseMem::new();
    let chain = mfns([0x20]);
    let root = chain[0].maddr();
    list(&mem, V1, &chain, &mfns([0x30, 0x31]), 8192, 0).unwrap();
    mem.write_u64(root.offset(8), pair(1, 80));
    mem.write_u64(root.offset(64), 0x1111);
    mem.write_u64(root.offset(72), 0x2222);
    mem.write_u64(root.offset(80), 0x40);
    mem.write_u64(root.offset(88), 0x41);
    seal(&mem, &chain);
    assert_eq!(read_at(&mem, chain[0]).unwrap().pages(), mfns([0x40, 0x41]));

    list(&mem, V2, &chain, &mfns([0x30, 0x31]), 8192, 0).unwrap();
    mem.write_u64(root.offset(8), pair(2, 80));
    seal(&mem, &chain);
    // The second entry is the first now, and the second is empty.
    assert_eq!(read_at(&mem, chain[0]), Err(MfnListError::Number { page: chain[0], found: 0 }));
    mem.write_u64(root.offset(96), 0x41);
    seal(&mem, &chain);
    let found = read_at(&mem, chain[0]).unwrap();
    assert_eq!((found.pages(), &found.page_crcs[..]), (&mfns([0x31, 0x41])[..], &[0xc0de_0001, 0][..]));
}

#[test]
fn a_stream_that_was_changed_is_not_opened() {
    let (mem, chain, pages) = written(V1, 3);
    let list = read_at(&mem, chain[0]).unwrap();
    assert!(list.open(&mem).is_ok());
    assert!(list.frames().eq(pages.iter().chain(&chain).copied()));
    mem.write_u64(pages[2].maddr(), 1);
    assert!(matches!(list.open(&mem), Err(StreamError::Checksum { .. })));
}

#[test]
fn a_list_that_could_not_be_read_is_not_written() {
    use MfnListError::*;
    let mem = SparseMem::new();
    let two = mfns([0x30, 0x31]);
    let root = Mfn::new(0x20);
    let cases = [
        (mfns([0x20]), mfns([]), 0, StreamLen { found: 0 }),
        (mfns([0x20]), two.clone(), STREAM_LEN_MAX + 1, StreamLen { found: STREAM_LEN_MAX + 1 }),
        (mfns([0x20]), two.clone(), 4096, PageCount { needed: 1, found: 2 }),
        (mfns([0x20]), two.clone(), 8193, PageCount { needed: 3, found: 2 }),
        (mfns([]), two.clone(), 8192, ListPageCount { needed: 1, found: 0 }),
        (mfns([0x20, 0x21]), two.clone(), 8192, ListPageCount { needed: 1, found: 2 }),
        (mfns([0x30]), two.clone(), 8192, Twice { mfn: Mfn::new(0x30) }),
        (mfns([0x20]), mfns([0x30, 0x30]), 8192, Twice { mfn: Mfn::new(0x30) }),
        (mfns([0x20]), mfns([0x30, 0]), 8192, Number { page: root, found: 0 }),
        (mfns([0]), two, 8192, Number { page: Mfn::ZERO, found: 0 }),
    ];
    for (list_pages, pages, len_bytes, expected) in cases {
        for version in BOTH {
            assert_eq!(list(&mem, version, &list_pages, &pages, len_bytes, 0), Err(expected));
        }
    }
    let finished = Finished { len_bytes: 4096, crc: 0 };
    let short = Written { version: V2, pages: &mfns([0x30]), page_crcs: &[], finished };
    assert_eq!(write(&mem, &[root], &short), Err(CrcCount { found: 0, needed: 1 }));
    assert_eq!(mem.nr_written(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read(
        frames in proptest::collection::hash_set(0x9000u64..0x20_0000, 2..2200),
        less in 0..PAGE_SIZE,
        crc: u32,
        is_second: bool,
    ) {
        let version = if is_second { V2 } else { V1 };
        let frames = mfns(frames);
        let mut nr_pages = frames.len();
        while nr_pages + nr_list_pages(version, nr_pages as u64) as usize > frames.len() {
            nr_pages -= 1;
        }
        prop_assume!(nr_pages != 0);
        let (pages, rest) = frames.split_at(nr_pages);
        let list_pages = &rest[..nr_list_pages(version, nr_pages as u64) as usize];
        let len_bytes = nr_pages as u64 * PAGE_SIZE - less;
        let mem = SparseMem::new();
        let root = list(&mem, version, list_pages, pages, len_bytes, crc).unwrap();
        let list = read_at(&mem, root).unwrap();
        prop_assert_eq!(list.pages(), pages);
        prop_assert_eq!(list.list_pages(), list_pages);
        prop_assert_eq!((list.version(), list.stream_len_bytes(), list.stream_crc), (version, len_bytes, crc));
        let due: Vec<u32> = if is_second { (0..nr_pages as u32).map(|i| 0xc0de_0000 + i).collect() } else { vec![] };
        prop_assert_eq!(list.page_crcs, due);
    }

    #[test]
    fn no_contents_make_the_reader_panic(
        words in proptest::collection::vec((0u64..512, any::<u64>()), 0..8),
        nr_pages in 1u64..1100,
        sealed: bool,
        is_second: bool,
    ) {
        let (mem, chain, _) = written(if is_second { V2 } else { V1 }, nr_pages);
        for (index, value) in words {
            mem.write_u64(chain[(value % chain.len() as u64) as usize].maddr().offset(index * 8), value);
        }
        if sealed {
            seal(&mem, &chain);
        }
        let _ = read_at(&mem, chain[0]);
    }
}
