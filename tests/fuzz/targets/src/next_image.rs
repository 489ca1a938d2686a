//! The next image, as a privileged domain may load it: what is accepted can be placed, staged and obeyed, and then lies in its slot as the file says.

use crate::check_message;
use luxen::frame::{Maddr, Mfn, MfnRange, PAGE_SIZE};
use luxen::kexec::image::{DIGEST_LEN, ImageError, MachineFeatures, NextImage, PlacedImage};
use luxen::kexec::{kimage, simulate};
use luxen::mm::physmem::PhysMem;
use luxen::mm::physmem::sparse::SparseMem;

/// First frame of the slot: 2 MiB, where luxen is linked to.
const SLOT: u64 = 0x200;
/// The most of an image that is staged: the simulation copies every page.
const MAX_STAGED: u64 = 256 << 10;
/// Where the file lies, the region, and where frames for the list come from.
const FILE: Maddr = Maddr::new(0x4000_0000);
const REGION: u64 = 0x2_0000;
const SUPPLY: u64 = 0x5_0000;

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let image = match NextImage::parse(bytes) {
        Ok(image) => image,
        Err(error) => return check_message(&error),
    };
    check_shape(&image, bytes);
    let Some(sealed) = sealed(&image, bytes) else { return };
    let image = NextImage::parse(&sealed).expect("only the digest was changed");
    assert_eq!(image.verify_digest(), Ok(()));
    // In pieces it comes to the same.
    let mut check = image.digest_check();
    let steps = (0..).find_map(|n| check.step(97).map(|verdict| (n, verdict)));
    assert!(matches!(steps, Some((n, Ok(()))) if n <= sealed.len() / 97 + 1));

    for nr_chunks in [1, 2, 16] {
        let slot = MfnRange::new(Mfn::new(SLOT), nr_chunks * 512);
        match image.place(slot) {
            Ok(placed) => stage(&placed, &sealed),
            Err(error) => check_message(&error),
        }
    }
    let _ = image.stream_version(1..=2).inspect_err(check_message);
    let _ = image.check_features(MachineFeatures::NX | MachineFeatures::GIB_PAGES).inspect_err(check_message);
}

fn check_shape(image: &NextImage<'_>, file: &[u8]) {
    let mut end = 0;
    for segment in image.segments() {
        assert!(segment.slot_offset.is_multiple_of(PAGE_SIZE) && segment.slot_offset >= end, "{segment:?}");
        assert!(segment.file_len <= segment.memory_len);
        assert!(segment.file_offset.checked_add(segment.file_len).is_some_and(|end| end <= file.len() as u64));
        end = segment.slot_offset.checked_add(segment.memory_len).expect("inside the slot");
        assert!(end <= image.extent_bytes());
    }
    assert!(image.holes().iter().all(|hole| hole.start <= hole.end && hole.end <= file.len()));
    assert!(image.version().bytes().all(|byte| (0x20..0x7f).contains(&byte)), "it goes to the console");
}

/// The file with the digest that it has.
fn sealed(image: &NextImage<'_>, file: &[u8]) -> Option<Vec<u8>> {
    let mut file = file.to_vec();
    if let Err(error) = image.verify_digest() {
        check_message(&error);
        let ImageError::DigestMismatch { found, .. } = error else { panic!("{error}") };
        // The other one is the signature's.
        let hole = image.holes().into_iter().find(|hole| hole.len() == DIGEST_LEN).expect("a digest has its place");
        file[hole].copy_from_slice(&found.0);
    }
    Some(file)
}

fn stage(placed: &PlacedImage<'_>, file: &[u8]) {
    let image = placed.image();
    let entry = u64::from(placed.entry()) / PAGE_SIZE;
    assert!(placed.slot().contains(Mfn::new(entry)), "entered outside of its slot");
    if image.segments().iter().map(|s| s.memory_len).sum::<u64>() > MAX_STAGED {
        return;
    }
    let mem = SparseMem::new();
    mem.write(FILE, file);
    let region = MfnRange::new(Mfn::new(REGION), 0x2000);
    let mut next = SUPPLY;
    let supply = || {
        next += 1;
        Some(Mfn::new(next))
    };
    let mut list = match kimage::stage(&mem, placed, FILE, region, &[0; 64], supply) {
        Ok(list) => list,
        Err(error) => return check_message(&error.cause),
    };
    list.append_breadcrumb(&mem, Mfn::new(0x1234));
    simulate::run(&mem, list.first(), 1 << 20).expect("a list of the builder's own");
    let start = placed.slot().first().expect("a slot").maddr();
    for segment in image.segments() {
        let mut found = vec![0; segment.memory_len as usize];
        mem.read(start.offset(segment.slot_offset), &mut found);
        let (from_file, zeros) = found.split_at(segment.file_len as usize);
        assert_eq!(from_file, &file[segment.file_offset as usize..][..from_file.len()], "{segment:?}");
        assert!(zeros.iter().all(|byte| *byte == 0), "{segment:?}");
    }
    assert_eq!(mem.read_u64(list.breadcrumb_page().maddr()), Mfn::new(0x1234).maddr().get());
}
