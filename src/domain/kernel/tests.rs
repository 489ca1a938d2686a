//! A kernel like Linux read whole, then every way in which one can be wrong.

use super::sample::{BASE, Load, Sample, WhereNotes, text_note, u32_note, u64_note};
use super::*;
use proptest::prelude::*;
use std::format;
use std::vec;

#[test]
fn a_kernel_like_linux_is_read_whole() {
    let file = Sample::like_linux().write();
    let k = Kernel::parse(&file).unwrap();
    assert_eq!(
        *k.notes(),
        Notes {
            nr_found: 15,
            entry: Some(BASE + 0x100_01c0),
            hypercall_page: None,
            virt_base: Some(BASE),
            paddr_offset: Some(0),
            xen_version: Some("xen-3.0"),
            guest_os: Some("linux"),
            guest_version: Some("2.6"),
            loader: Some("generic"),
            pae_mode: Some("yes"),
            required_features: 1,
            supported_features: 0x8801 | 1 << 4,
            hv_start_low: Some(0xffff_8000_0000_0000),
            l1_mfn_valid: Some((1, 1)),
            can_cancel_suspend: true,
            init_p2m: Some(0x80_0000_0000),
            takes_ramdisk_by_pfn: true,
            phys32_entry: None,
        }
    );
    assert_eq!((k.start(), k.end()), (0x100_0000, 0x104_8210));
    assert_eq!((k.virt_start(), k.virt_end()), (BASE + 0x100_0000, BASE + 0x104_8210));
    assert_eq!(k.segments().iter().map(|s| s.start).collect::<vec::Vec<_>>(), [0x100_0000, 0x100_4000, 0x100_5000]);
    assert_eq!((k.segments()[1].bytes, k.segments()[1].len_bytes), (&[0xab; 0x80][..], 0x80));
    assert_eq!(k.hypercall_pfn(), None);
}

#[test]
fn notes_are_found_in_sections_and_with_four_bytes() {
    let file = Sample::small().write();
    let k = Kernel::parse(&file).unwrap();
    assert_eq!((k.entry(), k.virt_base(), k.hypercall_pfn()), (0x10_0004, 0x10_0000, Some(Pfn::new(1))));
}

#[test]
fn paddr_offset_is_subtracted() {
    let mut sample = Sample::like_linux().with(u64_note(4, BASE));
    for load in &mut sample.loads {
        load.paddr += BASE;
    }
    let file = sample.write();
    let k = Kernel::parse(&file).unwrap();
    assert_eq!((k.start(), k.virt_start()), (0x100_0000, BASE + 0x100_0000));
}

#[test]
fn each_wrong_kernel_is_told_with_what_was_found() {
    use KernelError as E;
    let linux = Sample::like_linux;
    let (start, end) = (BASE + 0x100_0000, BASE + 0x104_8210);
    let load = |paddr, memory_bytes| {
        let mut s = linux();
        s.loads[1].paddr = paddr;
        s.loads[1].memory_bytes = memory_bytes;
        s
    };
    let place = |paddr, memory_bytes, paddr_offset| E::SegmentPlace { paddr, memory_bytes, paddr_offset };
    let cases: vec::Vec<(Sample, E<'_>)> = vec![
        (linux().without(1), E::NoEntry { phys32_entry: None }),
        (linux().without(1).with(u32_note(18, 0x100_0000)), E::NoEntry { phys32_entry: Some(0x100_0000) }),
        (linux().with((1, vec![1, 2])), E::NoteNotANumber { kind: 1, len_bytes: 2 }),
        (linux().with((13, vec![0; 8])), E::NoteNotANumber { kind: 13, len_bytes: 8 }),
        (linux().with((13, vec![0; 17])), E::NoteNotANumber { kind: 13, len_bytes: 17 }),
        (linux().with((6, vec![0xff, 0xfe, 0])), E::NoteNotAString { kind: 6 }),
        (linux().with(text_note(10, "!flying|x")), E::NeedsFeature { found: "flying" }),
        (
            linux().with(text_note(10, "dom0|!auto_translated_physmap")),
            E::NeedsFeature { found: "auto_translated_physmap" },
        ),
        (linux().with(text_note(8, "special")), E::Loader { found: "special" }),
        (linux().with(text_note(5, "xen-2.0")), E::XenVersion { found: "xen-2.0" }),
        (linux().without(3).with(u64_note(4, 0x1000)), E::NoVirtBase { paddr_offset: 0x1000 }),
        (linux().with(u64_note(3, BASE + 1)), E::VirtBase { found: BASE + 1, end: 0x104_8210 }),
        (linux().with(u64_note(3, 1 << 47)), E::VirtBase { found: 1 << 47, end: 0x104_8210 }),
        (linux().with(u64_note(3, !0xfff)), E::VirtBase { found: !0xfff, end: 0x104_8210 }),
        (linux().with(u64_note(1, start - 1)), E::EntryOutside { found: start - 1, start, end }),
        (linux().with(u64_note(1, end)), E::EntryOutside { found: end, start, end }),
        (linux().with(u64_note(2, start + 8)), E::HypercallPage { found: start + 8, start, end }),
        (linux().with(u64_note(2, BASE)), E::HypercallPage { found: BASE, start, end }),
        (linux().with(u64_note(2, BASE + 0x104_9000)), E::HypercallPage { found: BASE + 0x104_9000, start, end }),
        (linux().with(u64_note(15, start)), E::P2mOverImage { found: start, start, end }),
        (load(0x100_4000, 0x7f), E::SegmentTooLong { paddr: 0x100_4000, file_bytes: 0x80, memory_bytes: 0x7f }),
        (load(1 << 52, 0x80), place(1 << 52, 0x80, 0)),
        (load(u64::MAX, 0x80), place(u64::MAX, 0x80, 0)),
        (load(0x1000, u64::MAX), place(0x1000, u64::MAX, 0)),
        (linux().with(u64_note(4, 0x100_0001)), place(0x100_0000, 0x3000, 0x100_0001)),
        (Sample { loads: vec![], ..linux() }, E::NoSegments),
        (Sample { notes: vec![], ..linux() }, E::NoXenNotes),
    ];
    for (i, (sample, error)) in cases.into_iter().enumerate() {
        let file = sample.write();
        let found = Kernel::parse(&file).map(|_| ());
        assert_eq!(found, Err(error), "case {i}");
        assert!(!format!("{error}").is_empty());
    }
}

#[test]
fn each_wrong_file_is_told() {
    use KernelError as E;
    let good = Sample::like_linux().write();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let first_phdr = 64;
    let notes_phdr = 64 + 3 * 56;
    let notes_at = u64::from_le_bytes(good[notes_phdr + 8..notes_phdr + 16].try_into().unwrap());
    let notes_len = u64::from_le_bytes(good[notes_phdr + 32..notes_phdr + 40].try_into().unwrap());
    let file_bytes = good.len();
    let kind = |is_64bit, kind, machine| E::WrongKind { is_64bit, kind, machine };
    for (i, (file, error)) in [
        (vec![], E::HeadersTruncated { len_bytes: 0 }),
        (good[..63].to_vec(), E::HeadersTruncated { len_bytes: 63 }),
        (good[..100].to_vec(), E::HeadersTruncated { len_bytes: 100 }),
        (patched(0, b"\x7fEXE"), E::NotElf { magic: *b"\x7fEXE" }),
        (patched(0x202, b"HdrS"), E::BzImage),
        (patched(5, &[2]), E::BadHeader),
        (patched(6, &[9]), E::BadHeader),
        (patched(16, &[1, 0]), kind(true, 1, 62)),
        (patched(18, &[183, 0]), kind(true, 2, 183)),
        (patched(54, &[55, 0]), E::EntrySize { found: 55, expected: 56 }),
        (patched(32, &[0xff; 8]), E::BadHeader),
        (patched(40, &[0xff; 8]), E::BadHeader),
        (
            patched(first_phdr + 8, &(1u64 << 40).to_le_bytes()),
            E::OutsideFile { part: Part::Segment, offset: 1 << 40, len_bytes: 0x2345, file_bytes },
        ),
        (
            patched(notes_phdr + 8, &u64::MAX.to_le_bytes()),
            E::OutsideFile { part: Part::Notes, offset: u64::MAX, len_bytes: notes_len, file_bytes },
        ),
        (
            patched(notes_at as usize, &u32::MAX.to_le_bytes()),
            E::NoteTruncated { offset: notes_at, name_len: u32::MAX, desc_len: 3 },
        ),
        (
            patched(notes_at as usize + 24, &0xffff_u32.to_le_bytes()),
            E::NoteTruncated { offset: notes_at + 20, name_len: 4, desc_len: 0xffff },
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(Kernel::parse(&file).map(|_| ()), Err(error), "case {i}");
        assert!(!format!("{error}").is_empty());
    }
    // Segments of notes without an offset are passed over, as are segments that nobody may touch.
    let file = patched(notes_phdr + 8, &0u64.to_le_bytes());
    assert!(Kernel::parse(&file).is_ok(), "found in the section instead");
    let file = patched(first_phdr + 4, &0u32.to_le_bytes());
    assert_eq!(
        Kernel::parse(&file).map(|_| ()),
        Err(E::EntryOutside { found: BASE + 0x100_01c0, start: BASE + 0x100_4000, end: BASE + 0x104_8210 })
    );
}

fn any_load() -> impl Strategy<Value = Load> {
    let address = prop_oneof![0u64..1 << 30, any::<u64>()];
    (address.clone(), address.clone(), address, 0usize..64).prop_map(|(vaddr, paddr, memory_bytes, len)| Load {
        vaddr,
        paddr,
        bytes: vec![1; len],
        memory_bytes,
    })
}

proptest! {
    #[test]
    fn any_numbers_are_kept_to_the_rules_or_refused(
        loads in proptest::collection::vec(any_load(), 0..4),
        notes in proptest::collection::vec((0u32..20, prop_oneof![
            any::<u64>().prop_map(|v| v.to_le_bytes().to_vec()),
            (0u64..1 << 31).prop_map(|v| v.to_le_bytes().to_vec()),
            "[a-z!|]{0,9}".prop_map(|s| s.into_bytes()),
        ]), 0..12),
        in_segment: bool,
    ) {
        let where_notes = if in_segment { WhereNotes::Segment } else { WhereNotes::Section };
        let file = Sample { loads, notes, where_notes }.write();
        match Kernel::parse(&file) {
            Ok(k) => {
                prop_assert!(k.start() < k.end() && k.end() < 1 << 52);
                prop_assert!((k.virt_start()..k.virt_end()).contains(&k.entry()));
                prop_assert!(k.segments().iter().all(|s| s.bytes.len() as u64 <= s.len_bytes));
                let _ = k.hypercall_pfn();
            }
            Err(e) => prop_assert_ne!(format!("{}", e), ""),
        }
    }

    #[test]
    fn no_damage_panics(
        flips in proptest::collection::vec((0usize..1 << 14, any::<u8>()), 1..24),
        cut in 0usize..1 << 14,
        whole: bool,
        small: bool,
    ) {
        let mut file = if small { Sample::small() } else { Sample::like_linux() }.write();
        // Half of the damage goes to the headers, where the numbers are.
        for (at, byte) in flips {
            let len = if at % 2 == 0 { 300.min(file.len()) } else { file.len() };
            file[at % len] = byte;
        }
        if !whole {
            file.truncate(cut);
        }
        let _ = Kernel::parse(&file).map_err(|e| format!("{e}"));
    }
}
