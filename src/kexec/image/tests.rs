use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::frame::Mfn;
use crate::kexec::testing::{Load, NEEDS, R, RW, RX, TestImage, VADDR};

const SLOT: MfnRange = MfnRange::new(Mfn::new(0x1000), 1024);

/// What a test image with one thing changed is refused for.
fn refused(change: impl FnOnce(&mut TestImage)) -> ImageError {
    let mut image = TestImage::default();
    change(&mut image);
    NextImage::parse(&image.file()).unwrap_err()
}

/// What a right file with some of its bytes changed afterwards is refused for.
fn refused_bytes(at: usize, bytes: &[u8]) -> ImageError {
    let mut file = TestImage::default().file();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    NextImage::parse(&file).unwrap_err()
}

#[test]
fn a_right_image_is_read_and_placed() {
    let file = TestImage::default().file();
    let image = NextImage::parse(&file).unwrap();
    image.verify_digest().unwrap();
    assert_eq!(image.version(), "luxen 0.1.0-b");
    assert_eq!(*image.needs(), NEEDS);
    assert_eq!(image.extent_bytes(), 0x40_0000);
    let parts: Vec<_> = image.segments().iter().map(|s| (s.slot_offset, s.file_len, s.memory_len)).collect();
    assert_eq!(parts, [(0, 0x2345, 0x2345), (0x3000, 0x1800, 0x5010)]);
    assert_eq!(image.place(SLOT).unwrap().entry(), 0x100_0040);
}

#[test]
fn notes_are_found_by_section_headers_alone() {
    let file = TestImage { notes_in_segment: false, ..TestImage::default() }.file();
    NextImage::parse(&file).unwrap().verify_digest().unwrap();
}

#[test]
fn what_is_no_image_is_refused_by_its_cause() {
    assert_eq!(NextImage::parse(&[]).unwrap_err(), ImageError::NotElf);
    assert_eq!(NextImage::parse(b"\x7fEL").unwrap_err(), ImageError::NotElf);
    assert_eq!(NextImage::parse(&[0; 9000]).unwrap_err(), ImageError::NotElf);
    assert_eq!(NextImage::parse(b"\x7fELF").unwrap_err(), ImageError::Truncated { need: 16, found: 4 });
    assert_eq!(refused_bytes(4, &[1]), ImageError::NotElf64 { class: 1, byte_order: 1 });
    assert_eq!(refused_bytes(4, &[9]), ImageError::NotElf64 { class: 9, byte_order: 1 });
    assert_eq!(refused_bytes(5, &[2]), ImageError::NotElf64 { class: 2, byte_order: 2 });
    assert_eq!(refused_bytes(6, &[7]), ImageError::BadHeaders);
    assert_eq!(refused_bytes(16, &[1]), ImageError::NotExecutable { found_type: 1 });
    assert_eq!(refused_bytes(18, &[183]), ImageError::WrongMachine { found: 183 });
    assert_eq!(refused_bytes(54, &[57]), ImageError::BadHeaders);
    assert_eq!(refused_bytes(32, &[0xff; 8]), ImageError::BadHeaders);
}

#[test]
fn every_truncated_file_is_refused() {
    let file = TestImage::default().file();
    for len in (4..file.len()).step_by(61).chain([file.len() - 1]) {
        let error = NextImage::parse(&file[..len]).unwrap_err();
        let is_right = matches!(error, ImageError::Truncated { need, found } if found == len as u64 && need > found);
        assert!(is_right, "{len}: {error}");
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let file = TestImage::default().file();
    for at in (0..file.len()).step_by(37).chain(0..256) {
        let mut damaged = file.clone();
        damaged[at] ^= 0x10;
        let verdict = NextImage::parse(&damaged).and_then(|image| image.verify_digest());
        assert!(verdict.is_err(), "byte {at:#x}");
    }
}

#[test]
fn the_digest_tells_what_it_found() {
    let mut file = TestImage::default().file();
    let expected = NextImage::parse(&file).unwrap().claimed_digest();
    file[0x1800] ^= 1;
    let image = NextImage::parse(&file).unwrap();
    match image.verify_digest() {
        Err(ImageError::DigestMismatch { expected: e, found }) => assert!(e == expected && found != expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_digest_in_pieces_is_the_digest() {
    let file = TestImage::default().file();
    let image = NextImage::parse(&file).unwrap();
    for step in [1, 13, 4096, 100_000] {
        let mut check = image.digest_check();
        let mut steps = 1;
        let verdict = loop {
            match check.step(step) {
                Some(verdict) => break verdict,
                None => steps += 1,
            }
        };
        assert_eq!((verdict, steps), (Ok(()), file.len().div_ceil(step)));
    }
}

#[test]
fn segments_that_cannot_be_loaded_are_refused() {
    assert_eq!(refused(|i| i.loads.clear()), ImageError::NoSegments);
    let slack_only = refused(|i| {
        i.loads.drain(..2);
    });
    assert_eq!(slack_only, ImageError::NoSegments);
    assert_eq!(
        refused(|i| i.loads[0].memory_len = 0x2344),
        ImageError::SegmentSizes { index: 0, file: 0x2345, memory: 0x2344 }
    );
    assert_eq!(refused(|i| i.loads[1].at = 0x3010), ImageError::SegmentUnaligned { index: 1, distance: 0x3010 });
    assert_eq!(refused(|i| i.loads[1].at = 0x2000), ImageError::SegmentsOverlap { first: 0, second: 1 });
    assert_eq!(refused(|i| i.loads[0].memory_len = 0x3001), ImageError::SegmentsOverlap { first: 0, second: 1 });
    assert_eq!(refused(|i| i.loads[2].at = 0x8000), ImageError::SegmentsOverlap { first: 1, second: 2 });
    assert_eq!(
        refused(|i| i.loads[2].memory_len = u64::MAX),
        ImageError::SegmentRange { index: 2, address: 0x20_9000, memory: u64::MAX }
    );
    let many = refused(|i| {
        let one = Load { flags: RW, at: 0, file_align: 1, bytes: vec![], memory_len: 4096 };
        i.loads.extend((0..14).map(|n| Load { at: 0x80_0000 + n * 4096, ..one.clone() }));
    });
    assert_eq!(many, ImageError::TooManySegments { found: 17, limit: 16 });
    // The second program header's virtual address.
    assert_eq!(
        refused_bytes(64 + 56 + 16, &(VADDR + 0x4000).to_le_bytes()),
        ImageError::SegmentSkewed { index: 1, virtual_distance: 0x4000, physical_distance: 0x3000 }
    );
}

#[test]
fn slack_is_told_from_bss_by_its_flags() {
    let mut image = TestImage::default();
    image.loads[2].flags = RW;
    let file = image.file();
    assert_eq!(NextImage::parse(&file).unwrap().segments().len(), 3);
}

#[test]
fn the_entry_must_be_in_executable_bytes_of_the_file() {
    for entry in [VADDR - 1, VADDR + 0x2345, VADDR + 0x3000, 0] {
        assert_eq!(refused(|i| i.entry = entry), ImageError::EntryOutside { entry });
    }
    let in_second = TestImage { entry: VADDR + 0x3010, ..TestImage::default() };
    let mut in_second = in_second;
    in_second.loads[1].flags = RX;
    let file = in_second.file();
    assert_eq!(NextImage::parse(&file).unwrap().place(SLOT).unwrap().entry(), 0x100_3010);
}

#[test]
fn a_header_that_no_boot_loader_finds_is_refused() {
    assert_eq!(refused(|i| i.relocatable = None), ImageError::NotMultiboot2);
    // Not aligned to eight; checksum; end behind the first 32 KiB.
    assert_eq!(refused(|i| i.header_at = 0x1004), ImageError::NotMultiboot2);
    assert_eq!(refused_bytes(0x100c, &[0]), ImageError::NotMultiboot2);
    let far = |at| {
        move |i: &mut TestImage| {
            i.loads[0] = Load { bytes: vec![0; 0x9000], memory_len: 0x9000, ..i.loads[0].clone() };
            i.loads.truncate(1);
            i.header_at = at;
        }
    };
    assert_eq!(refused(far(32768 - 40)), ImageError::NotMultiboot2);
    let mut last = TestImage::default();
    far(32768 - 48)(&mut last);
    assert!(NextImage::parse(&last.file()).is_ok());
    // Another tag in place of the relocatable one; a tag that does not end.
    assert_eq!(refused_bytes(0x1010, &[6]), ImageError::NotRelocatable);
    assert_eq!(refused_bytes(0x1014, &[4]), ImageError::NotMultiboot2);
    assert_eq!(refused_bytes(0x1014, &[0xff, 0xff]), ImageError::NotMultiboot2);
}

#[test]
fn notes_that_are_missing_doubled_or_odd_are_refused() {
    for kind in 1..=3 {
        assert_eq!(refused(|i| i.notes.retain(|n| n.0 != kind)), ImageError::NoNote { kind });
        assert_eq!(refused(|i| i.notes.push(i.notes[kind as usize - 1].clone())), ImageError::NoteTwice { kind });
    }
    assert_eq!(refused(|i| i.notes[0].1.truncate(31)), ImageError::BadNote { kind: 1, found: 31 });
    assert_eq!(refused(|i| i.notes[1].1.truncate(44)), ImageError::BadNote { kind: 2, found: 44 });
    assert_eq!(refused(|i| i.notes[1].1[0] = 2), ImageError::NeedsVersion { found: 2, known: 1 });
    assert_eq!(refused(|i| i.notes[1].1[12] = 3), ImageError::BadNote { kind: 2, found: 56 });
    for text in [&b"\0"[..], b"a\"b", b"a\nb", b"\xff"] {
        assert_eq!(refused(|i| i.notes[2].1 = text.to_vec()), ImageError::BadNote { kind: 3, found: text.len() });
    }
}

#[test]
fn a_slot_must_be_large_low_and_aligned_enough() {
    let file = TestImage::default().file();
    let image = NextImage::parse(&file).unwrap();
    let slot = |mfn, nr| MfnRange::new(Mfn::new(mfn), nr);
    assert_eq!(image.place(slot(0x1000, 1023)).unwrap_err(), ImageError::TooLarge { need: 0x40_0000, slot: 0x3f_f000 });
    assert!(image.place(slot(0xf_fc00, 1024)).is_ok());
    for (mfn, nr) in [(0xf_fe00, 1024), (0x1001, 1024), (0, 1024), (0x10_0000, 1024)] {
        let error = image.place(slot(mfn, nr)).unwrap_err();
        assert!(matches!(error, ImageError::SlotUnusable { start, .. } if start == mfn * 4096), "{mfn:#x}: {error}");
    }
    // Slack counts, and so does what the needs say.
    let mut large = TestImage::default();
    large.loads[2].memory_len += 0x1000;
    let file = large.file();
    assert_eq!(
        NextImage::parse(&file).unwrap().place(SLOT).unwrap_err(),
        ImageError::TooLarge { need: 0x40_1000, slot: 0x40_0000 }
    );
    let mut claims = TestImage::default();
    claims.notes[1].1 = Needs { slot_bytes: 0x80_0000, ..NEEDS }.encode().to_vec();
    let file = claims.file();
    assert_eq!(
        NextImage::parse(&file).unwrap().place(SLOT).unwrap_err(),
        ImageError::TooLarge { need: 0x80_0000, slot: 0x40_0000 }
    );
}

#[test]
fn the_newest_common_stream_version_is_chosen() {
    let file = TestImage::default().file();
    let image = NextImage::parse(&file).unwrap();
    // The image reads 1 and 2.
    for (writes, chosen) in [(1..=1, 1), (1..=2, 2), (2..=3, 2), (0..=1, 1), (2..=2, 2)] {
        assert_eq!(image.stream_version(writes), Ok(chosen));
    }
    for writes in [3..=4, 0..=0] {
        let (writes_min, writes_max) = (*writes.start(), *writes.end());
        assert_eq!(
            image.stream_version(writes),
            Err(ImageError::StreamVersion { reads_min: 1, reads_max: 2, writes_min, writes_max })
        );
    }
    // It needs bits 0 and 2.
    assert_eq!(image.check_features(MachineFeatures::of_note(0b111)), Ok(()));
    let (offered, missing) = (MachineFeatures::of_note(0b110), MachineFeatures::of_note(1));
    assert_eq!(image.check_features(offered), Err(ImageError::FeaturesMissing { missing, offered }));
}

#[test]
fn errors_are_sentences_with_their_numbers() {
    let text = ImageError::TooLarge { need: 0x500000, slot: 0x400000 }.to_string();
    assert_eq!(text, "the image is too large for its slot: it needs 0x500000 bytes, the slot has 0x400000");
    let text = ImageError::DigestMismatch { expected: Digest([0xab; 32]), found: Digest([1; 32]) }.to_string();
    assert_eq!(text, "the image is damaged: its digest is 0101010101010101, its note says abababababababab");
}

#[test]
fn flags_of_the_slack_are_exactly_read() {
    for flags in [0, R | 2, R | 1] {
        let mut image = TestImage::default();
        image.loads[2].flags = flags;
        let file = image.file();
        assert_eq!(NextImage::parse(&file).unwrap().segments().len(), 3, "flags {flags}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.extend(bytes);
        let _ = NextImage::parse(&file);
    }

    #[test]
    fn no_damage_to_an_image_makes_it_panic(damage in proptest::collection::vec((0usize..0x6000, any::<u8>()), 1..8)) {
        let mut file = TestImage::default().file();
        // Mostly where the structures are: headers, Multiboot2 header, notes and section headers.
        let len = file.len();
        for (at, value) in damage {
            let at = match at % 4 {
                0 => at / 4 % 0x200,
                1 => 0x1000 + at / 4 % 64,
                2 => len - 1 - at / 4 % 400,
                _ => at % len,
            };
            file[at] = value;
        }
        if let Ok(image) = NextImage::parse(&file) {
            let _ = image.verify_digest();
            let _ = image.place(SLOT);
        }
    }
}
