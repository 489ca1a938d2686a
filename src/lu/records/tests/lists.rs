//! Lists: items, each as the document says, and refused with their place if they cannot be.

use super::*;

fn words_of<T: Item<W>, const W: usize>(item: T) -> [u64; W] {
    item.encode()
}

#[test]
fn items_are_as_the_document_says() {
    let extent = |mfn, count, pfn: Option<u64>| {
        SavedExtent::try_new(MfnRange::new(Mfn::new(mfn), count), pfn.map(Pfn::new)).map(words_of)
    };
    let top = (1 << 40) - 1;
    assert_eq!(extent(0x1234, 5, Some(6)), Ok([5 << 40 | 0x1234, 6]));
    assert_eq!(extent(0, 1 << 24, None), Ok([0, 1 << 40 | top]));
    assert_eq!(extent(1, top, Some(0)), Ok([0xff_ffff << 40 | 1, 0xffff << 40]));
    assert_eq!(extent(1, 0, None), Err(ExtentError::Empty));
    assert_eq!(extent(1, 1, Some(top)), Err(ExtentError::PfnLimit { pfn: Pfn::new(top), nr_frames: 1 }));
    assert_eq!(extent(1, 1, Some(top - 1)), Ok([1 << 40 | 1, top - 1]));

    assert_eq!(Pin::try_new(Mfn::new(0x77), 4).map(words_of), Some([4 << 60 | 0x77]));
    assert_eq!((Pin::try_new(Mfn::new(1), 0), Pin::try_new(Mfn::new(1), 5)), (None, None));

    let channel = |state, is_xen_consumer| words_of(Channel { port: 3, state, is_xen_consumer, notify_vcpu: 9 });
    let remote = DomId::new(0x102);
    let second = 9 << 32;
    let head = |number: u64, domid: u64| 3 | number << 32 | domid << 48;
    assert_eq!(channel(ChannelState::Unbound { remote }, true), [head(0x101, 0x102), second]);
    assert_eq!(channel(ChannelState::Interdomain { remote, port: 7 }, false), [head(2, 0x102), second | 7]);
    assert_eq!(channel(ChannelState::Pirq { pirq: 16 }, false), [head(3, 0), second | 16]);
    assert_eq!(channel(ChannelState::Virq { virq: 1 }, false), [head(4, 0), second | 1]);
    assert_eq!(channel(ChannelState::Ipi, false), [head(5, 0), second]);

    assert_eq!(M2pBlock::try_new(Mfn::new(0x8_0000), Mfn::new(0x600)).map(words_of), Some([0x8_0000, 0x600]));
    assert_eq!(M2pBlock::try_new(Mfn::new(0x200), Mfn::new(0x600)), None);
    assert_eq!(M2pBlock::try_new(Mfn::new(0), Mfn::new(0x601)), None);
    assert_eq!(words_of(Stage { stage: 2, tsc: 5 }), [2, 5]);
}

#[test]
fn items_that_cannot_be_are_refused_with_their_place() {
    let top = (1 << 40) - 1;
    let channel = |port: u64, state: u64, flags: u64, domid: u64| port | state << 32 | flags << 40 | domid << 48;
    // Type, the words of the second item, the field's offset in it, what is found there.
    let cases: [(u32, [u64; 2], u64, u64); 22] = [
        (LU_EXTENTS, [5, 0], 0, 5),
        (LU_EXTENTS, [2 << 40 | top, 0], 0, 2 << 40 | top),
        (LU_EXTENTS, [u64::MAX, u64::MAX], 0, u64::MAX),
        (LU_EXTENTS, [2 << 40, top - 1], 8, top - 1),
        (LU_EVTCHN, [channel(0, 5, 0, 0), 0], 0, 0),
        (LU_EVTCHN, [channel(1 << 17, 5, 0, 0), 0], 0, 1 << 17),
        (LU_EVTCHN, [channel(1, 0, 0, 0), 0], 4, 0),
        (LU_EVTCHN, [channel(1, 6, 0, 0), 0], 4, 6),
        (LU_EVTCHN, [channel(1, 5, 2, 0), 0], 5, 2),
        (LU_EVTCHN, [channel(1, 5, 0, 1), 0], 6, 1),
        (LU_EVTCHN, [channel(1, 4, 0, 1), 0], 6, 1),
        (LU_EVTCHN, [channel(1, 3, 0, 1), 0], 6, 1),
        (LU_EVTCHN, [channel(1, 5, 0, 0), 1], 8, 1),
        (LU_EVTCHN, [channel(1, 1, 0, 0), 1], 8, 1),
        (LU_EVTCHN, [channel(1, 2, 0, 0), 0], 8, 0),
        (LU_EVTCHN, [channel(1, 2, 0, 0), 1 << 17], 8, 1 << 17),
        (LU_M2P, [0x200, 0x200], 0, 0x200),
        (LU_M2P, [1 << 40, 0x200], 0, 1 << 40),
        (LU_M2P, [0, 0x201], 8, 0x201),
        (LU_M2P, [0, 1 << 40], 8, 1 << 40),
        (LU_STAGES, [1 << 32, 0], 4, 1),
        (LU_XEN_PAGES, [0, 0], 0, 0),
    ];
    let good = |kind| match kind {
        LU_EVTCHN => [channel(1, 5, 0, 0), 0],
        LU_M2P | LU_STAGES => [0, 0],
        _ => [1 << 40, 0],
    };
    for (kind, words, offset, found) in cases {
        let prefix = if kind == LU_XEN_PAGES { vec![5] } else { vec![] };
        let body: Vec<u64> = prefix.iter().copied().chain(good(kind)).chain(words).chain(good(kind)).collect();
        let body: Vec<u8> = body.iter().flat_map(|word| word.to_le_bytes()).collect();
        let offset = offset + 16 + 8 * prefix.len() as u64;
        let mut results = only(&one(kind, &body), |record| match record {
            AnyRecord::Extents(items) => items.iter().map(|item| item.err()).collect::<Vec<_>>(),
            AnyRecord::XenPages(pages) => pages.extents.iter().map(|item| item.err()).collect(),
            AnyRecord::Channels(items) => items.iter().map(|item| item.err()).collect(),
            AnyRecord::M2p(items) => items.iter().map(|item| item.err()).collect(),
            AnyRecord::Stages(items) => items.iter().map(|item| item.err()).collect(),
            _ => panic!("not a list"),
        })
        .unwrap();
        assert_eq!(results.pop(), Some(Some(RecordError::BadValue { offset, found })), "{kind:#x} {words:x?}");
        assert_eq!(results, [None], "what comes before is good, and nothing comes behind");
    }
    for found in [0x77, 5 << 60 | 1, 1 << 60 | 1 << 40, u64::MAX] {
        let body = [(1 << 60 | 1u64).to_le_bytes(), found.to_le_bytes()].concat();
        let expected = Some(RecordError::BadValue { offset: 8, found });
        only(&one(LU_PINNED, &body), |record| {
            let AnyRecord::Pinned(pins) = record else { panic!("not a list") };
            assert_eq!(pins.iter().last().unwrap().err(), expected);
        })
        .unwrap();
    }
}

#[test]
fn long_lists_are_split_and_empty_ones_not_written() {
    for (count, records) in [(0u64, 0), (1, 1), (65536, 1), (65537, 2), (131_073, 3)] {
        let bytes = stream(|w| {
            let mut list = ListWriter::extents(w);
            for i in 0..count {
                list.push(&SavedExtent::try_new(MfnRange::new(Mfn::new(i * 2), 1), None).unwrap());
            }
            assert_eq!(list.finish(), Ok(count));
        });
        let mut reader = reader(&bytes);
        let mut found = (0, 0);
        while let Some(record) = reader.next_record().unwrap() {
            let AnyRecord::Extents(extents) = AnyRecord::decode(&record).unwrap() else { panic!("not extents") };
            found.0 += 1;
            for extent in extents {
                assert_eq!(extent.unwrap().mfns().start(), found.1 * 2);
                found.1 += 1;
            }
        }
        assert_eq!(found, (records, count));
    }
}

#[test]
fn a_list_left_open_is_noticed() {
    let mut writer = Writer::new(Vec::new());
    ListWriter::pinned(&mut writer).push(&Pin::try_new(Mfn::new(1), 1).unwrap());
    assert_eq!(writer.save(&time()), Err(WriteError::StillOpen { kind: LU_PINNED }));
    let mut list = ListWriter::pinned(&mut writer);
    list.push(&Pin::try_new(Mfn::new(1), 1).unwrap());
    assert_eq!(list.finish(), Err(WriteError::StillOpen { kind: LU_PINNED }));
}

#[test]
fn tables_named_by_their_own_level_are_listed_as_pins_are_and_an_unfinished_line_is_any_bytes() {
    let pins = [Pin::try_new(Mfn::new(0x11), 3).unwrap(), Pin::try_new(Mfn::new(0x12), 4).unwrap()];
    let mut out = Writer::new(Vec::new());
    let mut list = ListWriter::linear(&mut out);
    pins.iter().for_each(|pin| list.push(pin));
    assert_eq!(list.finish(), Ok(2));
    out.record(LU_CONSOLE, b"half a \0line").unwrap();
    out.record(LU_TYPED, b"ls\r\x1b[A").unwrap();
    out.finish().unwrap();
    let bytes = out.into_dest();
    assert_eq!(
        bytes[..24],
        layout(24, &[(0, 4, 0x4000_0017), (4, 4, 16), (8, 8, 3 << 60 | 0x11), (16, 8, 4 << 60 | 0x12)])
    );
    let mut records = reader(&bytes);
    let first = records.next_record().unwrap().unwrap();
    let Ok(AnyRecord::Linear(found)) = AnyRecord::decode(&first) else { panic!("not the list that was written") };
    assert_eq!(found.iter().collect::<Result<Vec<_>, _>>(), Ok(pins.to_vec()));
    let second = records.next_record().unwrap().unwrap();
    let Ok(AnyRecord::Console(line)) = AnyRecord::decode(&second) else { panic!("not the line that was written") };
    assert_eq!(line.to_vec(), Ok(b"half a \0line".to_vec()));
    let third = records.next_record().unwrap().unwrap();
    let Ok(AnyRecord::Typed(keys)) = AnyRecord::decode(&third) else { panic!("not what was typed") };
    assert_eq!((third.kind, keys.to_vec()), (0x4000_001c, Ok(b"ls\r\x1b[A".to_vec())));
}

#[test]
fn lingering_frames_are_listed_one_by_one() {
    let frames = [Mfn::new(0x11), Mfn::new((1 << 40) - 1)];
    let mut out = Writer::new(Vec::new());
    assert_eq!(ListWriter::lingering(&mut out).finish(), Ok(0), "no frames, no record");
    let mut list = ListWriter::lingering(&mut out);
    frames.iter().for_each(|mfn| list.push(mfn));
    assert_eq!(list.finish(), Ok(2));
    out.finish().unwrap();
    let mut bytes = out.into_dest();
    assert_eq!(bytes[..24], layout(24, &[(0, 4, 0x4000_0019), (4, 4, 16), (8, 8, 0x11), (16, 8, 0xff_ffff_ffff)]));
    let found = |bytes: &Vec<u8>| {
        let record = reader(bytes).next_record().unwrap().unwrap();
        let Ok(AnyRecord::Lingering(found)) = AnyRecord::decode(&record) else { panic!("not what was written") };
        found.iter().collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(found(&bytes), Ok(frames.to_vec()));
    bytes[8 + 5] = 1;
    assert_eq!(found(&bytes), Err(RecordError::BadValue { offset: 0, found: 1 << 40 | 0x11 }));
}
