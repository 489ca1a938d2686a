use std::collections::BTreeMap;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::kexec::image::NextImage;
use crate::kexec::simulate;
use crate::kexec::testing::{Load, R, RW, RX, TestImage, VADDR};
use crate::mm::physmem::sparse::SparseMem;

const SLOT: MfnRange = MfnRange::new(Mfn::new(0x1000), 1024);
const REGION: MfnRange = MfnRange::new(Mfn::new(0x2000), 512);
const SUPPLY: u64 = 0x8000;
const ROOT: Mfn = Mfn::new(0x4_5678);

/// Frames from `SUPPLY` on.
fn supply() -> impl FnMut() -> Option<Mfn> {
    let mut next = SUPPLY;
    move || {
        next += 1;
        Some(Mfn::new(next - 1))
    }
}

/// That many frames from `SUPPLY` on.
fn scarce(nr: u64) -> impl FnMut() -> Option<Mfn> {
    let mut frames = SUPPLY..SUPPLY + nr;
    move || frames.next().map(Mfn::new)
}

fn builder<S: FnMut() -> Option<Mfn>>(mem: &SparseMem, supply: S) -> KimageBuilder<'_, SparseMem, S> {
    KimageBuilder::new(mem, SLOT, REGION, supply).unwrap()
}

fn bytes(mem: &SparseMem, at: u64, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    mem.read(Maddr::new(at), &mut out);
    out
}

#[test]
fn entries_are_read_as_they_were_written() {
    let all = [
        (Entry::Destination(Mfn::new(1)), 0x1001),
        (Entry::Indirection(Mfn::new(0xff_ffff_ffff)), 0xf_ffff_ffff_f002),
        (Entry::Done, 4),
        (Entry::Source(Mfn::ZERO), 8),
        (Entry::Zero, 0x10),
        (Entry::Write64(0xffff_ffff_ffff_f000), 0xffff_ffff_ffff_f020),
    ];
    for (entry, raw) in all {
        assert_eq!(entry.encode(), raw);
        assert_eq!(Entry::decode(raw), Some(entry));
    }
    for raw in [0, 0x5, 0x40, 1 << 52 | 1] {
        assert_eq!(Entry::decode(raw), None);
    }
}

#[test]
fn destinations_are_in_slot_or_region_and_once_each() {
    let mem = SparseMem::new();
    let mut b = builder(&mem, supply());
    for mfn in [0xfff, 0x1400, 0x1fff, 0x2200, 0] {
        assert_eq!(b.destination(Mfn::new(mfn)), Err(KimageError::DestinationOutside { mfn }));
    }
    // The breadcrumb page is taken from the start.
    let mfn = Mfn::new(0x2000);
    assert_eq!(b.destination(mfn), Err(KimageError::DestinationTwice { mfn }));
    b.destination(Mfn::new(0x13fe)).unwrap();
    b.zero().unwrap();
    b.zero().unwrap();
    assert_eq!(b.zero(), Err(KimageError::DestinationOutside { mfn: 0x1400 }));
    let mfn = Mfn::new(0x13ff);
    assert_eq!(b.destination(mfn), Err(KimageError::DestinationTwice { mfn }));
    b.destination(Mfn::new(0x13fd)).unwrap();
    b.zero().unwrap();
    assert_eq!(b.zero(), Err(KimageError::DestinationTwice { mfn: Mfn::new(0x13fe) }));
    b.destination(Mfn::new(0x2100)).unwrap();
    b.write64(0).unwrap();
    assert_eq!(b.destination(Mfn::new(0x2100)), Err(KimageError::DestinationTwice { mfn: Mfn::new(0x2100) }));
}

#[test]
fn a_source_is_its_own_destination_or_none() {
    let mem = SparseMem::new();
    let mut b = builder(&mem, supply());
    b.destination(Mfn::new(0x1000)).unwrap();
    b.source(Mfn::new(0x1005)).unwrap();
    b.source(Mfn::new(0x1001)).unwrap();
    assert_eq!(b.source(Mfn::new(0x1000)), Err(KimageError::SourceIsDestination { mfn: Mfn::new(0x1000) }));
    b.source(Mfn::new(0x9000)).unwrap();
    b.source(Mfn::new(0x9000)).unwrap();
    b.source(Mfn::new(0x9000)).unwrap();
    // Next would be 0x1005, which another page is copied from.
    assert_eq!(b.zero(), Err(KimageError::SourceIsDestination { mfn: Mfn::new(0x1005) }));
    assert_eq!(b.destination(Mfn::new(0x1005)), Err(KimageError::SourceIsDestination { mfn: Mfn::new(0x1005) }));
}

#[test]
fn entries_out_of_order_are_refused() {
    let mem = SparseMem::new();
    let mut b = builder(&mem, supply());
    assert_eq!(b.zero(), Err(KimageError::NoDestination));
    assert_eq!(b.source(Mfn::new(1)), Err(KimageError::NoDestination));
    assert_eq!(b.write64(0), Err(KimageError::NoDestination));
    b.destination(Mfn::new(0x1000)).unwrap();
    assert_eq!(b.write64(0x1001), Err(KimageError::WordUnaligned { value: 0x1001 }));
    (0..512).for_each(|i| b.write64(i << 12).unwrap());
    assert_eq!(b.write64(0), Err(KimageError::TooManyWords));
    assert_eq!(b.zero(), Err(KimageError::PageAfterWords));
    assert_eq!(b.source(Mfn::new(1)), Err(KimageError::PageAfterWords));
    b.destination(Mfn::new(0x1001)).unwrap();
    b.zero().unwrap();
    let kimage = b.finish().unwrap();
    assert_eq!(b.zero(), Err(KimageError::NoDestination));
    let out = simulate::run(&mem, kimage.first(), 1000).unwrap();
    assert_eq!((out.words, out.zeroed_pages), (512, 1));
}

#[test]
fn slot_and_region_must_be_two_places() {
    let mem = SparseMem::new();
    let range = |start, nr| MfnRange::new(Mfn::new(start), nr);
    for (slot, region) in
        [(SLOT, range(0x13ff, 512)), (SLOT, MfnRange::EMPTY), (MfnRange::EMPTY, REGION), (REGION, REGION)]
    {
        let error = KimageBuilder::new(&mem, slot, region, supply()).err();
        assert_eq!(error, Some(KimageError::BadPlaces { slot, region }));
    }
}

#[test]
fn supplied_frames_inside_are_refused_and_handed_back() {
    let mem = SparseMem::new();
    for inside in [Mfn::new(0x1000), Mfn::new(0x21ff)] {
        let mut b = builder(&mem, || Some(inside));
        assert_eq!(b.destination(Mfn::new(0x1001)), Err(KimageError::SuppliedInside { mfn: inside }));
        assert_eq!(b.into_frames(), [inside]);
    }
    assert_eq!(mem.nr_written(), 0);
}

/// K5 at every place of a list page that the end may fall on.
#[test]
fn the_breadcrumb_needs_no_page_that_was_not_staged() {
    for nr_pages in 500..530 {
        let mem = SparseMem::new();
        let mut b = builder(&mem, scarce(2));
        b.destination(Mfn::new(0x1000)).unwrap();
        (0..nr_pages).for_each(|_| b.zero().unwrap());
        let mut kimage = b.finish().unwrap();
        let written = mem.nr_written();
        let before = simulate::run(&mem, kimage.first(), 1000).unwrap();
        assert_eq!((before.entries, before.words), (kimage.nr_entries(), 0));
        assert_eq!(mem.read_u64(Maddr::new(0x200_0000)), 0);
        // Twice: an update that was given up in between leaves the list usable.
        for root in [Mfn::new(0x77), ROOT] {
            kimage.append_breadcrumb(&mem, root);
            let out = simulate::run(&mem, kimage.first(), 1000).unwrap();
            assert_eq!((out.entries, out.words, out.zeroed_pages), (kimage.nr_entries(), 1, nr_pages));
            assert_eq!(mem.read_u64(Maddr::new(0x200_0000)), root.maddr().get());
        }
        assert_eq!(kimage.counts().list_pages, if nr_pages + 1 + 3 > 511 { 2 } else { 1 });
        assert_eq!(kimage.frames().len() as u64, kimage.counts().list_pages);
        // The zeroed pages and the breadcrumb's, nothing else.
        assert_eq!(mem.nr_written(), written + nr_pages as usize + 1);
    }
}

#[test]
fn a_list_without_frames_is_refused_wherever_they_run_out() {
    let test = TestImage::default();
    let file = test.file();
    let image = NextImage::parse(&file).unwrap();
    let placed = image.place(SLOT).unwrap();
    let at = Maddr::new(0x1000_0000);
    let mem = SparseMem::new();
    let whole = stage(&mem, &placed, at, REGION, &[1; 5000], supply()).unwrap();
    // One list page, the ends of text and data, two pages of boot information.
    assert_eq!(whole.frames().len(), 5);
    assert_eq!(whole.counts().prepared_pages, 4);
    for nr in 0..5 {
        let error = stage(&mem, &placed, at, REGION, &[1; 5000], scarce(nr)).unwrap_err();
        assert_eq!(error.cause, KimageError::NoFrame { taken: nr as usize });
        assert_eq!(error.frames, (SUPPLY..SUPPLY + nr).map(Mfn::new).collect::<Vec<_>>());
    }
    assert_eq!(whole.into_frames().len(), 5);
}

#[test]
fn boot_information_must_fit_the_region() {
    let mem = SparseMem::new();
    let room = 511 * 4096;
    for len in [0, room + 1] {
        let error = builder(&mem, supply()).load_mbi(&vec![0; len]).unwrap_err();
        assert_eq!(error, KimageError::MbiTooLarge { need: len as u64, room: room as u64 });
    }
    builder(&mem, supply()).load_mbi(&vec![0; room]).unwrap();
    let high = MfnRange::new(Mfn::new(0x10_0000), 512);
    let mut b = KimageBuilder::new(&mem, SLOT, high, supply()).unwrap();
    assert_eq!(b.load_mbi(&[0; 8]), Err(KimageError::DestinationOutside { mfn: 0x10_0001 }));
}

#[test]
fn an_image_in_the_way_of_itself_is_refused() {
    let test = TestImage::default();
    let file = test.file();
    let image = NextImage::parse(&file).unwrap();
    let placed = image.place(SLOT).unwrap();
    let mem = SparseMem::new();
    // The file's text, at offset 0x1000, lies on the slot's second page.
    let error = stage(&mem, &placed, Maddr::new(0x100_0000), REGION, &[1; 8], supply()).unwrap_err();
    assert!(matches!(error.cause, KimageError::SourceIsDestination { .. }), "{}", error.cause);
    let far = stage(&mem, &placed, Maddr::new((1 << 52) - 4096), REGION, &[1; 8], supply()).unwrap_err();
    assert!(matches!(far.cause, KimageError::ImageOutOfReach { .. }), "{}", far.cause);
}

#[test]
fn errors_are_sentences() {
    let text = KimageError::SourceIsDestination { mfn: Mfn::new(0x123) }.to_string();
    assert_eq!(text, "source frame 0x123 would be overwritten");
}

/// Any image that fits the slot.
fn any_image() -> impl Strategy<Value = TestImage> {
    let load = (0u64..3, 0u64..0x4000, 0u64..0x5000, prop::sample::select(vec![1usize, 16, 4096]), any::<u8>());
    prop::collection::vec(load, 1..6).prop_map(|loads| {
        let mut at = 0;
        let mut image = TestImage { loads: Vec::new(), header_at: 0x800, ..TestImage::default() };
        for (gap, file_len, bss_len, file_align, seed) in loads {
            let is_first = image.loads.is_empty();
            at += if is_first { 0 } else { gap * 4096 };
            let file_len = if is_first { file_len.max(0x100) } else { file_len };
            let memory_len = (file_len + bss_len).max(1);
            let bytes = (0..file_len).map(|i| (i as u8).wrapping_mul(seed | 1).wrapping_add((i >> 8) as u8)).collect();
            image.loads.push(Load { flags: if is_first { RX } else { RW }, at, file_align, bytes, memory_len });
            at = (at + memory_len).next_multiple_of(4096);
        }
        image.loads.push(Load { flags: R, at, file_align: 1, bytes: Vec::new(), memory_len: 0x40_0000 - at });
        image.entry = VADDR + 0x20;
        image
    })
}

proptest! {
    /// The list that was built does what a memcpy of the segments does, and touches nothing else.
    #[test]
    fn a_staged_image_arrives(test in any_image(), shift in prop::sample::select(vec![0u64, 0, 8, 4095]), mbi_len in 1usize..20_000) {
        let file = test.file();
        let image = NextImage::parse(&file).unwrap();
        image.verify_digest().unwrap();
        let placed = image.place(SLOT).unwrap();
        let mem = SparseMem::new();
        let image_at = 0x1000_0000 + shift;
        mem.write(Maddr::new(image_at), &file);
        mem.write(Maddr::new(0x100_0000), &vec![0xcc; 0x40_0000]);
        mem.write(Maddr::new(0x200_0000), &vec![0xdd; 0x1_0000]);
        // Free frames hold what their last owner left in them.
        mem.write(Mfn::new(SUPPLY).maddr(), &vec![0xee; 0x4_0000]);
        let mbi: Vec<u8> = (0..mbi_len).map(|i| (i * 5 + 3) as u8).collect();

        let mut kimage = stage(&mem, &placed, Maddr::new(image_at), REGION, &mbi, supply()).unwrap();
        prop_assert_eq!((kimage.entry(), kimage.mbi()), (0x100_0020, 0x200_1000));
        let staged: BTreeMap<u64, Vec<u8>> =
            mem.written().into_iter().map(|mfn| (mfn, bytes(&mem, mfn << 12, 4096))).collect();
        kimage.append_breadcrumb(&mem, ROOT);
        let out = simulate::run(&mem, kimage.first(), 100_000).unwrap();
        let counts = kimage.counts();
        prop_assert_eq!(out.entries, kimage.nr_entries());
        prop_assert_eq!((out.copied_pages, out.zeroed_pages), (counts.copied_pages, counts.zeroed_pages));
        prop_assert_eq!(kimage.frames().len() as u64, counts.list_pages + counts.prepared_pages);

        let slot = test.loaded_over(vec![0xcc; 0x40_0000]);
        prop_assert!(bytes(&mem, 0x100_0000, 0x40_0000) == slot);
        let mut region = vec![0xdd; 0x1_0000];
        region[..8].copy_from_slice(&0x4567_8000u64.to_le_bytes());
        region[4096..][..mbi_len.next_multiple_of(4096)].fill(0);
        region[4096..][..mbi_len].copy_from_slice(&mbi);
        prop_assert!(bytes(&mem, 0x200_0000, 0x1_0000) == region);
        for (mfn, before) in staged {
            let is_list = kimage.frames().contains(&Mfn::new(mfn));
            if !is_list && !SLOT.contains(Mfn::new(mfn)) && !REGION.contains(Mfn::new(mfn)) {
                prop_assert!(bytes(&mem, mfn << 12, 4096) == before, "frame {mfn:#x} has changed");
            }
        }
    }

    /// Whatever is appended in whatever order: what was accepted does what copying from an untouched original does.
    #[test]
    fn accepted_entries_are_a_memcpy(ops in prop::collection::vec((0u8..4, 0u64..24), 1..900)) {
        let mem = SparseMem::new();
        // Twelve frames of slot, twelve of region, twelve elsewhere; sources come from all of them.
        let frame = |i: u64| Mfn::new([0x1000, 0x2000, 0x9000][(i / 12) as usize % 3] + i % 12);
        for i in 0..36 {
            mem.write(frame(i).maddr(), &[i as u8 + 1; 4096]);
        }
        let original = |mfn: Mfn| bytes(&mem, mfn.maddr().get(), 4096);
        let mut model: BTreeMap<Mfn, Vec<u8>> = (0..36).map(|i| (frame(i), original(frame(i)))).collect();
        let start = model.clone();
        let mut b = builder(&mem, supply());
        let mut to = Mfn::ZERO;
        let mut words = 0;
        for (op, n) in ops {
            match op {
                0 if b.destination(frame(n)).is_ok() => (to, words) = (frame(n), 0),
                1 if b.source(frame(n + 12)).is_ok() => {
                    model.insert(to, start[&frame(n + 12)].clone());
                    to = to.offset(1);
                }
                2 if b.zero().is_ok() => {
                    model.insert(to, vec![0; 4096]);
                    to = to.offset(1);
                }
                3 if b.write64(n << 12).is_ok() => {
                    model.entry(to).or_insert_with(|| vec![0; 4096])[words * 8..][..8]
                        .copy_from_slice(&(n << 12).to_le_bytes());
                    words += 1;
                }
                _ => {}
            }
        }
        let kimage = b.finish().unwrap();
        let out = simulate::run(&mem, kimage.first(), 100_000).unwrap();
        prop_assert_eq!(out.entries, kimage.nr_entries());
        for (mfn, want) in model {
            prop_assert!(bytes(&mem, mfn.maddr().get(), 4096) == want, "frame {mfn}");
        }
    }
}
