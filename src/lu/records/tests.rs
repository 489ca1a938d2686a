//! Saved types: their bytes against layouts built by hand from docs/handover.md, and what a reader refuses.

mod lists;

use super::*;
use crate::frame::{DomId, Mfn, MfnRange, Pfn};
use crate::lu::stream::REC_TYPE_OPTIONAL;
use alloc::vec::Vec;
use core::fmt::Debug;
use proptest::prelude::*;
use std::{format, vec};

fn name<const N: usize>(text: &str) -> Name<N> {
    Name::try_new(text).unwrap()
}

fn encoded<R: SavedRecord>(saved: &R) -> Vec<u8> {
    let mut bytes = Vec::new();
    saved.encode(&mut bytes);
    bytes
}

fn decoded<R: SavedRecord>(bytes: &[u8]) -> Result<R, RecordError> {
    R::decode(Body::whole(bytes))
}

/// A body given as (offset, bytes of a field, value): what is named nowhere is zero.
fn layout(len_bytes: usize, fields: &[(usize, usize, u64)]) -> Vec<u8> {
    let mut bytes = vec![0; len_bytes];
    for &(offset, len, value) in fields {
        bytes[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
    bytes
}

/// The bytes are those; they are read back; one byte more or fewer is refused; so is any reserved byte that is not zero.
fn check<R: SavedRecord + Debug + PartialEq>(saved: &R, expected: &[u8], reserved: &[(usize, usize)]) {
    assert_eq!(encoded(saved), expected, "{saved:?}");
    assert_eq!(expected.len() as u64, R::LEN_BYTES);
    assert_eq!(&decoded::<R>(expected).unwrap(), saved);
    for len in 0..expected.len() {
        let found = decoded::<R>(&expected[..len]);
        assert!(matches!(found, Err(RecordError::Short { .. })), "{len} bytes give {found:?}");
    }
    let longer = [expected, &[0]].concat();
    let known = R::LEN_BYTES;
    assert_eq!(decoded::<R>(&longer), Err(RecordError::Long { known, found: known + 1 }));
    for offset in reserved.iter().flat_map(|&(start, end)| start..end) {
        let mut bytes = expected.to_vec();
        bytes[offset] = 0x80;
        assert_eq!(decoded::<R>(&bytes), Err(RecordError::Reserved { offset: offset as u64, found: 0x80 }));
    }
}

/// Each (offset, bytes of the field, value) makes the body one that is refused for that field.
fn refuse<R: SavedRecord + Debug + PartialEq>(good: &[u8], cases: &[(usize, usize, u64)]) {
    for &(offset, len, found) in cases {
        let mut bytes = good.to_vec();
        bytes[offset..offset + len].copy_from_slice(&found.to_le_bytes()[..len]);
        let expected = RecordError::BadValue { offset: offset as u64, found };
        assert_eq!(decoded::<R>(&bytes), Err(expected), "{found:#x} at {offset}");
    }
}

fn version() -> LuVersion {
    LuVersion { stream_version: StreamVersion::V1, update_sequence: 7, build: name("luxen 0.1.0-a") }
}

fn time() -> LuTime {
    LuTime {
        tsc: 0x1122_3344_5566_7788,
        system_time_ns: 99,
        tsc_hz: 1_000_000_000,
        apic_hz: 62_500_000,
        wallclock_sec: 1_767_225_600,
        wallclock_nsec: 999_999_999,
    }
}

fn domain() -> DomainBegin {
    DomainBegin {
        domid: DomId::new(0x7fef),
        flags: DomainFlags::PRIVILEGED | DomainFlags::IN_BUILDER,
        shutdown_reason: 3,
        max_pages: 0x1000,
        shared_info: Some(Mfn::new(0x1111)),
        console: Some(Mfn::new(0x2222)),
        console_evtchn: 1,
        store_evtchn: 2,
        store: None,
        nr_vcpus: 1,
        pause_count: 4,
        handle: *b"0123456789abcdef",
        name: name("pulse"),
        time_offset_sec: -1,
        vm_assist: 1 << 32,
    }
}

fn vcpu() -> LuVcpu {
    LuVcpu {
        vcpu: 0,
        flags: VcpuFlags::KERNEL_MODE | VcpuFlags::INITIALISED | VcpuFlags::UP,
        user_cr3: None,
        kernel_cr3: Some(Mfn::new(0x3333)),
        vcpu_info: Some(Mfn::new(0x1111)),
        vcpu_info_offset: 64,
        poll_port: 5,
        runstate: Runstate { area: 0xa1, state: 3, entry_ns: 0xa2, times_ns: [0xb0, 0xb1, 0xb2, 0xb3] },
        time_area: 0xa3,
        singleshot_ns: 0xa4,
        period_ns: 0xa5,
        periodic_next_ns: 0xa6,
        callbacks: Callbacks {
            event: 0xc0,
            failsafe: 0xc1,
            syscall: 0xc2,
            syscall32: 0xc3,
            sysenter: 0xc4,
            nmi: 0xc5,
            masks: CallbackMasks::SYSCALL | CallbackMasks::NMI,
        },
        iopl: 1,
        pending: VcpuPending::NMI | VcpuPending::NMI_MASKED,
        poll_until_ns: 0xd0,
        iobmp: 0xd1,
        iobmp_nr_ports: 0x1_0000,
    }
}

#[test]
fn version_and_time_are_as_the_document_says() {
    let mut bytes = layout(64, &[(0, 4, 1), (8, 8, 7)]);
    bytes[16..29].copy_from_slice(b"luxen 0.1.0-a");
    check(&version(), &bytes, &[(4, 8)]);
    refuse::<LuVersion>(&bytes, &[(0, 4, 0), (0, 4, 3), (0, 4, 0xffff_ffff), (8, 8, 0), (16, 1, 0x1b), (30, 1, 0x41)]);

    let bytes = layout(
        48,
        &[(0, 8, 0x1122_3344_5566_7788), (8, 8, 99), (16, 8, 1_000_000_000), (24, 8, 62_500_000)]
            .into_iter()
            .chain([(32, 8, 1_767_225_600), (40, 4, 999_999_999)])
            .collect::<Vec<_>>(),
    );
    check(&time(), &bytes, &[(44, 48)]);
    refuse::<LuTime>(&bytes, &[(16, 8, 0), (40, 4, 1_000_000_000)]);
}

#[test]
fn log_and_host_are_as_the_document_says() {
    let log = LuLog { frames: MfnRange::new(Mfn::new(0x500), 16), head: 1, tail: 2 };
    let bytes = layout(32, &[(0, 8, 0x500), (8, 8, 16), (16, 8, 1), (24, 8, 2)]);
    check(&log, &bytes, &[]);
    refuse::<LuLog>(&bytes, &[(0, 8, 1 << 40), (8, 8, 0), (8, 8, 1 << 40), (8, 8, u64::MAX)]);

    let host = LuHost {
        updates_done: 1,
        next_trigger_ns: 2,
        flags: HostFlags::FINISH_TYPED | HostFlags::REFUSED,
        refusals: 3,
        console_focus: Some(4),
        next_domid: 5,
        finish_ns: 6,
        domains_ended: 7,
    };
    let fields = [(0, 8, 1), (8, 8, 2), (16, 8, 9), (24, 8, 3), (32, 2, 4), (34, 2, 5), (40, 8, 6), (48, 8, 7)];
    let bytes = layout(80, &fields);
    check(&host, &bytes, &[(36, 40), (56, 80)]);
    refuse::<LuHost>(&bytes, &[(16, 8, 16), (16, 8, u64::MAX)]);
    let none = LuHost { console_focus: None, ..host };
    let mut bytes = bytes;
    bytes[32..34].fill(0xff);
    check(&none, &bytes, &[]);
}

#[test]
fn a_domains_sum_is_as_the_document_says() {
    let sum = LuDomainSum { nr_frames: 0x1122_3344_5566, nr_extents: 2, nr_records: 3, crc: 0xdead_beef };
    let bytes = layout(32, &[(0, 8, 0x1122_3344_5566), (8, 8, 2), (16, 8, 3), (24, 4, 0xdead_beef)]);
    check(&sum, &bytes, &[(28, 32)]);
}

#[test]
fn a_domain_is_as_the_document_says() {
    let none = u64::MAX;
    let fields = [
        [(0, 2, 0x7fef), (2, 2, 17), (4, 4, 3), (8, 8, 0x1000)],
        [(16, 8, 0x1111), (24, 8, 0x2222), (32, 4, 1), (36, 4, 2)],
        [(40, 8, none), (48, 4, 1), (52, 4, 4), (104, 8, u64::MAX)],
    ];
    let mut bytes = layout(144, fields.as_flattened());
    bytes[56..72].copy_from_slice(b"0123456789abcdef");
    bytes[72..77].copy_from_slice(b"pulse");
    bytes[116] = 1;
    check(&domain(), &bytes, &[(120, 144)]);
    refuse::<DomainBegin>(
        &bytes,
        &[
            (0, 2, 0x7ff0),
            (0, 2, 0xffff),
            (2, 2, 32),
            (16, 8, 1 << 40),
            (40, 8, u64::MAX - 1),
            (72, 1, 7),
            (80, 1, 0x41),
        ],
    );
}

#[test]
fn a_vcpu_is_as_the_document_says() {
    let fields = [
        [(0, 4, 0), (4, 4, 7), (8, 8, u64::MAX), (16, 8, 0x3333)],
        [(24, 8, 0x1111), (32, 4, 64), (36, 4, 5), (40, 8, 0xa1)],
        [(48, 4, 3), (56, 8, 0xa2), (64, 8, 0xb0), (72, 8, 0xb1)],
        [(80, 8, 0xb2), (88, 8, 0xb3), (96, 8, 0xa3), (104, 8, 0xa4)],
        [(112, 8, 0xa5), (120, 8, 0xa6), (128, 8, 0xc0), (136, 8, 0xc1)],
        [(144, 8, 0xc2), (152, 8, 0xc3), (160, 8, 0xc4), (168, 8, 0xc5)],
        [(176, 4, 36), (180, 4, 1), (184, 4, 5), (192, 8, 0xd0)],
        [(200, 8, 0xd1), (208, 4, 0x1_0000), (212, 4, 0), (216, 8, 0)],
    ];
    let bytes = layout(256, fields.as_flattened());
    check(&vcpu(), &bytes, &[(52, 56), (188, 192), (212, 256)]);
    refuse::<LuVcpu>(
        &bytes,
        &[(4, 4, 64), (16, 8, 1 << 40), (32, 4, 4), (32, 4, 4040), (32, 4, 4096), (48, 4, 4), (176, 4, 64)],
    );
    refuse::<LuVcpu>(&bytes, &[(180, 4, 4), (184, 4, 8), (208, 4, 0x1_0001)]);
}

#[test]
fn libxc_records_are_as_libxc_says() {
    check(&PvInfo, &[8, 4, 0, 0, 0, 0, 0, 0], &[(2, 8)]);
    refuse::<PvInfo>(&[8, 4, 0, 0, 0, 0, 0, 0], &[(0, 1, 4), (1, 1, 3)]);
    let tsc = TscInfo { mode: 1, khz: 2, nsec: 3, incarnation: 4 };
    check(&tsc, &layout(24, &[(0, 4, 1), (4, 4, 2), (8, 8, 3), (16, 4, 4)]), &[(20, 24)]);
}

/// The one record of a stream, decoded, with what `f` makes of it.
fn only<T>(bytes: &Vec<u8>, f: impl FnOnce(AnyRecord<'_, Vec<u8>>) -> T) -> Result<T, StreamError> {
    let record = reader(bytes).next_record()?.unwrap();
    AnyRecord::decode(&record).map(f)
}

/// A stream of one record with this body.
fn one(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.record(kind, body).unwrap();
    writer.finish().unwrap();
    writer.into_dest()
}

fn stream(f: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    f(&mut writer);
    writer.finish().unwrap();
    writer.into_dest()
}

#[test]
fn blobs_are_whole() {
    let mut context = [0; VCPU_CONTEXT_LEN];
    context[5167] = 9;
    let bytes = stream(|w| write_vcpu_basic(w, 3, &context).unwrap());
    assert_eq!(bytes[..16], layout(16, &[(0, 4, 4), (4, 4, 5176), (8, 4, 3)]));
    only(&bytes, |record| {
        let AnyRecord::VcpuBasic(saved) = record else { panic!("another record") };
        assert_eq!((saved.vcpu, saved.context.to_vec().unwrap()), (3, context.to_vec()));
    })
    .unwrap();

    let bytes = stream(|w| write_vcpu_xsave(w, 1, 7, 0xff, &[5; 576]).unwrap());
    assert_eq!(bytes[..32], layout(32, &[(0, 4, 6), (4, 4, 600), (8, 4, 1), (16, 8, 7), (24, 8, 0xff)]));
    only(&bytes, |record| {
        let AnyRecord::VcpuXsave(saved) = record else { panic!("another record") };
        assert_eq!((saved.vcpu, saved.xcr0, saved.xcr0_accum), (1, 7, 0xff));
        assert_eq!(saved.area.to_vec().unwrap(), [5; 576]);
    })
    .unwrap();

    let bytes = stream(|w| w.save_module(Mfn::new(0x40), 4097, b"guest name=pulse").unwrap());
    only(&bytes, |record| {
        let AnyRecord::Module(saved) = record else { panic!("another record") };
        assert_eq!((saved.len_bytes, saved.frames()), (4097, MfnRange::new(Mfn::new(0x40), 2)));
        assert_eq!(saved.string.to_vec().unwrap(), b"guest name=pulse");
    })
    .unwrap();

    let frames = [Pfn::new(8), Pfn::new(9)];
    let bytes = stream(|w| write_p2m_frames(w, 511, 512, &frames).unwrap());
    assert_eq!(bytes[..32], layout(32, &[(0, 4, 3), (4, 4, 24), (8, 4, 511), (12, 4, 512), (16, 8, 8), (24, 8, 9)]));
    only(&bytes, |record| {
        let AnyRecord::P2mFrames(saved) = record else { panic!("another record") };
        assert_eq!((saved.start_pfn, saved.end_pfn), (511, 512));
        assert!(saved.frames.iter().map(Result::unwrap).eq(frames));
    })
    .unwrap();
    let mut writer = Writer::new(Vec::new());
    let expected = WriteError::Count { kind: X86_PV_P2M_FRAMES, due: 1, found: 2 };
    assert_eq!(write_p2m_frames(&mut writer, 0, 511, &frames), Err(expected));
    assert_eq!(writer.finish(), Err(expected));

    let frames = [Mfn::new(8), Mfn::new(9), Mfn::new(10)];
    let head = GrantsHead { version: 2, max_frames: 64, max_maps: 512, nr_shared: 2 };
    let bytes = stream(|w| write_grants(w, head, [&frames[..2], &frames[2..]]).unwrap());
    let fields = [(0, 4, 2), (4, 4, 64), (8, 4, 512), (12, 4, 2), (16, 4, 1), (24, 8, 8), (32, 8, 9), (40, 8, 10)];
    assert_eq!(bytes[8..56], layout(48, &fields));
    only(&bytes, |record| {
        let AnyRecord::Grants(saved) = record else { panic!("another record") };
        assert!(saved.head == head && saved.frames.iter().map(Result::unwrap).eq(frames));
    })
    .unwrap();
    let mut writer = Writer::new(Vec::new());
    let expected = WriteError::Count { kind: LU_GRANTS, due: 3, found: 2 };
    assert_eq!(write_grants(&mut writer, head, [&frames[..2], &[]]), Err(expected));
}

#[test]
fn grants_in_use_and_mappings_of_grants() {
    let used = GrantInUse {
        reference: 0x1234_5678,
        to: DomId::new(0x7fef),
        readers: 0x80,
        writers: 3,
        frame: Mfn::new(0xff_1234_5678),
    };
    let bytes = stream(|w| {
        let mut list = ListWriter::grants_in_use(w);
        list.push(&used);
        assert_eq!(list.finish(), Ok(1));
    });
    let fields = [(0, 4, 0x1234_5678), (4, 2, 0x7fef), (6, 1, 0x80), (7, 1, 3), (8, 8, 0xff_1234_5678)];
    assert_eq!(bytes[8..24], layout(16, &fields));
    only(&bytes, |record| {
        let AnyRecord::GrantsInUse(list) = record else { panic!("another record") };
        assert!(list.iter().eq([Ok(used)]));
    })
    .unwrap();

    let map = GrantMap { handle: 7, granter: DomId::new(3), reference: 9, flags: 0x8000_001e };
    let bytes = stream(|w| {
        let mut list = ListWriter::grant_maps(w);
        list.push(&map);
        assert_eq!(list.finish(), Ok(1));
    });
    assert_eq!(bytes[8..24], layout(16, &[(0, 4, 7), (4, 4, 9), (8, 2, 3), (12, 4, 0x8000_001e)]));
    only(&bytes, |record| {
        let AnyRecord::GrantMaps(list) = record else { panic!("another record") };
        assert!(list.iter().eq([Ok(map)]));
    })
    .unwrap();

    // Each of them wrong in one field.
    let bad = |offset, found| Err(RecordError::BadValue { offset, found });
    let one = 1 << 48;
    for (words, expected) in [
        ([one | 0x7ff0 << 32, 0], bad(4, 0x7ff0)),
        ([0, 0], bad(6, 0)),
        ([0x81 << 48, 0], bad(6, 0x81)),
        ([0x81 << 56, 0], bad(6, 0x8100)),
        ([one, 1 << 40], bad(8, 1 << 40)),
    ] {
        assert_eq!(<GrantInUse as Item<2>>::decode(words).map(|_| ()), expected);
    }
    for (words, expected) in [
        ([0, 0x7ff0 | 2 << 32], bad(8, 0x7ff0)),
        ([0, 5 << 16 | 2 << 32], bad(10, 5)),
        ([0, 4 << 32], bad(12, 4)),
        ([0, 3 << 32], bad(12, 3)),
        ([0, 0x22 << 32], bad(12, 0x22)),
    ] {
        assert_eq!(<GrantMap as Item<2>>::decode(words).map(|_| ()), expected);
    }
}

#[test]
fn bodies_of_another_length_are_refused() {
    use RecordError::*;
    let text = vec![0x41; TEXT_LEN_MAX as usize + 1];
    let xsave = vec![0; 24 + XSAVE_AREA_LEN_MAX as usize + 1];
    let none = vec![];
    let cases: [(u32, &[u8], RecordError); 36] = [
        (LU_CMDLINE, &text, Long { known: 0x1_0000, found: 0x1_0001 }),
        (LU_CMDLINE_MODULE, &text, Long { known: 0x1_0000, found: 0x1_0001 }),
        (LU_CMDLINE, b"a\0", BadValue { offset: 1, found: 0 }),
        (LU_CMDLINE, &[&text[..64], b"\0a"].concat(), BadValue { offset: 64, found: 0 }),
        (LU_CMDLINE_MODULE, b"\0", BadValue { offset: 0, found: 0 }),
        (LU_MODULE, &layout(17, &[]), BadValue { offset: 16, found: 0 }),
        (LU_MODULE, &[0; 15], Short { needed: 16, found: 15 }),
        (LU_MODULE, &[0xff; 16], BadValue { offset: 0, found: u64::MAX }),
        (LU_MODULE, &layout(16, &[(8, 8, u64::MAX)]), BadValue { offset: 8, found: u64::MAX }),
        (LU_MODULE, &[&[0; 16], &text[..]].concat(), Long { known: 0x1_0010, found: 0x1_0011 }),
        (LU_STAGES, &[0; 17], NotWhole { item: 16, found: 17 }),
        (LU_XEN_PAGES, &layout(24, &[(0, 4, 6)]), BadValue { offset: 0, found: 6 }),
        (LU_XEN_PAGES, &layout(24, &[(0, 4, 0)]), BadValue { offset: 0, found: 0 }),
        (LU_XEN_PAGES, &layout(24, &[(0, 4, 5), (4, 1, 1)]), Reserved { offset: 4, found: 1 }),
        (LU_XEN_PAGES, &layout(8, &[(0, 4, 5)]), NotWhole { item: 16, found: 0 }),
        (LU_M2P, &none, NotWhole { item: 16, found: 0 }),
        (LU_EXTENTS, &none, NotWhole { item: 16, found: 0 }),
        (LU_EXTENTS, &[0; 24], NotWhole { item: 16, found: 24 }),
        (LU_PINNED, &[0; 12], NotWhole { item: 8, found: 12 }),
        (LU_EVTCHN, &[0; 8], NotWhole { item: 16, found: 8 }),
        (LU_GRANTS, &layout(24, &[(0, 4, 3)]), BadValue { offset: 0, found: 3 }),
        (LU_GRANTS, &layout(24, &[]), BadValue { offset: 0, found: 0 }),
        (LU_GRANTS, &layout(24, &[(0, 4, 1), (4, 4, 0x1001)]), BadValue { offset: 4, found: 0x1001 }),
        (LU_GRANTS, &layout(24, &[(0, 4, 1), (8, 4, 0x10_0001)]), BadValue { offset: 8, found: 0x10_0001 }),
        (LU_GRANTS, &layout(24, &[(0, 4, 1), (4, 4, 1), (12, 4, 2)]), BadValue { offset: 12, found: 2 }),
        (LU_GRANTS, &layout(24, &[(0, 4, 2), (4, 4, 9), (12, 4, 9), (16, 4, 1)]), BadValue { offset: 16, found: 1 }),
        (LU_GRANTS, &layout(24, &[(0, 4, 1), (20, 4, 1)]), Reserved { offset: 20, found: 1 }),
        (LU_GRANTS, &layout(24, &[(0, 4, 1), (4, 4, 1), (12, 4, 1)]), Short { needed: 32, found: 24 }),
        (LU_GRANTS, &layout(32, &[(0, 4, 1)]), Long { known: 24, found: 32 }),
        (DOMAIN_END, &[0], Long { known: 0, found: 1 }),
        (STATIC_DATA_END, &[0], Long { known: 0, found: 1 }),
        (SHARED_INFO, &[0; 4095], Short { needed: 4096, found: 4095 }),
        (X86_PV_VCPU_BASIC, &[0; 5175], Short { needed: 5176, found: 5175 }),
        (X86_PV_VCPU_XSAVE, &[0; 23], Short { needed: 24, found: 23 }),
        (X86_PV_VCPU_XSAVE, &xsave, Long { known: 0x1_0018, found: 0x1_0019 }),
        (X86_PV_P2M_FRAMES, &layout(16, &[(0, 4, 9), (4, 4, 8)]), BadValue { offset: 4, found: 8 }),
    ];
    for (kind, body, error) in cases {
        let found = only(&one(kind, body), |_| ()).err();
        assert_eq!(found, Some(StreamError::Record { kind, at: 0, error }));
        assert!(!format!("{}", found.unwrap()).is_empty());
    }
}

#[test]
fn names_are_printable_and_padded() {
    assert_eq!(name::<4>("abcd").as_str(), "abcd");
    assert_eq!(name::<4>("").as_str(), "");
    assert_eq!(Name::<4>::try_new("abcde"), Err(NameError::TooLong { found: 5, limit: 4 }));
    assert_eq!(Name::<4>::try_new("a\nb"), Err(NameError::NotPrintable { index: 1, found: 10 }));
    assert_eq!(Name::<4>::try_new("a\0"), Err(NameError::NotPrintable { index: 1, found: 0 }));
    assert_eq!(Name::<4>::try_new("é"), Err(NameError::NotPrintable { index: 0, found: 0xc3 }));
}

#[test]
fn watchdogs_are_as_the_document_says() {
    let bytes = layout(16, &[(8, 8, 0x1122_3344_5566_7788)]);
    check(&LuWatchdogs { ends_ns: [0, 0x1122_3344_5566_7788] }, &bytes, &[]);
}

#[test]
fn types_have_numbers_and_names_of_their_own() {
    for (index, &kind) in KINDS.iter().enumerate() {
        assert!(is_known(kind) && kind_name(kind).is_some());
        assert!(!KINDS[index + 1..].contains(&kind), "{kind:#x} twice");
    }
    assert!(!is_known(0) && !is_known(1) && !is_known(0x4000_0009) && !is_known(0x8000_0002));
    assert_eq!((kind_name(0), kind_name(7), kind_name(1)), (Some("END"), Some("SHARED_INFO"), None));
    for kind in (0..32).chain(0x4000_0000..0x4000_0020) {
        assert_eq!(is_known(kind), KINDS.contains(&kind));
    }
}

#[test]
fn stream_versions_are_this_one_and_the_one_before() {
    assert_eq!([1, 2].map(StreamVersion::try_new), [Some(StreamVersion::V1), Some(StreamVersion::V2)]);
    assert_eq!((StreamVersion::OLDEST, StreamVersion::CURRENT), (StreamVersion::V1, StreamVersion::V2));
    assert_eq!([0, 3, u32::MAX].map(StreamVersion::try_new), [None; 3]);
}

#[test]
fn the_types_of_version_1_are_frozen() {
    // Optional ones may be added: older builds pass over them.
    let newer: Vec<u32> = KINDS
        .iter()
        .copied()
        .filter(|&kind| kind < REC_TYPE_OPTIONAL && since(kind) != Some(StreamVersion::V1))
        .collect();
    let older = KINDS.iter().filter(|&&kind| kind < REC_TYPE_OPTIONAL && !newer.contains(&kind)).count();
    assert_eq!(older, 31);
    assert!(newer.contains(&LU_DOMAIN_SUM));
    for kind in newer {
        assert!(is_known(kind) && !is_known_in_1(kind));
    }
}

fn there_and_back<T: Item<W> + Debug + PartialEq, const W: usize>(item: T) {
    assert_eq!(T::decode(item.encode()), Ok(item));
}

proptest! {
    #[test]
    fn extents_go_there_and_back(mfn in 0u64..1 << 40, count: u64, pfn in proptest::option::of(0u64..(1 << 40) - 1)) {
        let room = (1 << 40) - mfn;
        let room = pfn.map_or(room, |pfn| room.min((1 << 40) - 1 - pfn));
        let extent = SavedExtent::try_new(MfnRange::new(Mfn::new(mfn), 1 + count % room), pfn.map(Pfn::new)).unwrap();
        there_and_back(extent);
    }

    /// Whatever is read is what would have been written: no two forms of one thing, nothing lost.
    #[test]
    fn words_that_are_read_are_those_that_are_written(first: u64, second: u64, shift in 0u32..48) {
        let words = [first >> shift, second >> shift];
        if let Ok(extent) = SavedExtent::decode(words) {
            prop_assert_eq!(extent.encode(), words);
            prop_assert_eq!(SavedExtent::try_new(extent.mfns(), extent.pfn()), Ok(extent));
        }
        if let Ok(channel) = Channel::decode([words[0] & 0xffff_0107_0001_ffff, words[1]]) {
            prop_assert_eq!(channel.encode(), [words[0] & 0xffff_0107_0001_ffff, words[1]]);
        }
        let word = [first & 0xf000_00ff_ffff_ffff];
        if let Ok(pin) = Pin::decode(word) {
            prop_assert_eq!(pin.encode(), word);
        }
    }

    #[test]
    fn bodies_that_are_read_are_those_that_are_written(
        offset in 0usize..256, value: [u8; 8], kind in 0usize..7,
    ) {
        fn check<R: SavedRecord>(saved: &R, offset: usize, value: [u8; 8]) {
            let mut bytes = encoded(saved);
            for (byte, value) in bytes.iter_mut().skip(offset).zip(value) {
                *byte = value;
            }
            if let Ok(read) = decoded::<R>(&bytes) {
                assert_eq!(encoded(&read), bytes);
            }
        }
        match kind {
            0 => check(&version(), offset, value),
            1 => check(&time(), offset, value),
            2 => check(&domain(), offset, value),
            3 => check(&vcpu(), offset, value),
            4 => check(&LuLog { frames: MfnRange::new(Mfn::new(9), 3), head: 0, tail: 0 }, offset, value),
            5 => check(&TscInfo { mode: 0, khz: 1, nsec: 2, incarnation: 3 }, offset, value),
            _ => check(&PvInfo, offset, value),
        }
    }
}
