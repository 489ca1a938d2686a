//! Who owns which frame, from a stream to frametable and heap: extents that may not be, and as many as there may ever be.

use super::VERSIONS;
use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, Order, Pfn};
use crate::lu::records::{
    self, AnyRecord, DomainBegin, DomainFlags, ListWriter, LuTime, LuVersion, Name, OpenDomain, PvInfo,
    STATIC_DATA_END, SavedExtent, StreamVersion, Summary, validate,
};
use crate::lu::stream::{StreamError, Writer};
use crate::mm::frametable::tests::untold;
use crate::mm::frametable::{ClaimError, FrameState, Frames, Split, SplitSlab};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec::Vec;

const REGION: u64 = 8 * CHUNK_FRAMES;
const REGION_FRAMES: u64 = 4 * CHUNK_FRAMES;
const IMAGE: u64 = 16 * CHUNK_FRAMES;
const IMAGE_FRAMES: u64 = 2 * CHUNK_FRAMES;
/// What is not RAM, as the hole below 4 GiB is not.
const HOLE: u64 = 24 * CHUNK_FRAMES;
const HOLE_FRAMES: u64 = 8 * CHUNK_FRAMES;
/// Where the tests' memory begins.
const MEMORY: u64 = 40 * CHUNK_FRAMES;
/// Splits in the slabs that boot would feed.
const SLAB: u64 = 64;

fn range(start: u64, nr_frames: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), nr_frames)
}

fn splits(nr: u64) -> &'static [Split] {
    Box::leak((0..nr).map(|_| Split::new()).collect())
}

/// A machine whose memory ends behind so many frames, with a region, an image, and a hole.
fn machine(nr_frames: u64) -> Frames {
    let nr_chunks = nr_frames.div_ceil(CHUNK_FRAMES);
    let (entries, blocks) = untold(nr_chunks as usize);
    let slabs = Box::leak((0..1024).map(|_| SplitSlab::new()).collect::<Box<[SplitSlab]>>());
    let frames = Frames::new(entries, blocks, slabs);
    let mut locked = frames.lock();
    locked.pool().feed(splits(SLAB)).unwrap();
    locked.init_ram(range(0, HOLE)).unwrap();
    locked.init_ram(MfnRange::between(HOLE + HOLE_FRAMES, nr_frames).unwrap()).unwrap();
    locked.init_region(range(REGION, REGION_FRAMES)).unwrap();
    locked.init_image(range(IMAGE, IMAGE_FRAMES)).unwrap();
    drop(locked);
    frames
}

/// Claims as boot does: records are fed when they run out, here as many as boot has put aside.
fn claim(frames: &Frames, range: MfnRange, owner: DomId) -> Result<(), ClaimError> {
    loop {
        match frames.claim(range, owner) {
            Err(ClaimError::NoRecords { needed, .. }) => {
                frames.lock().pool().feed(splits(needed.max(SLAB))).unwrap();
            }
            done => return done,
        }
    }
}

fn extent(start: u64, nr_frames: u64) -> SavedExtent {
    SavedExtent::try_new(range(start, nr_frames), None).unwrap()
}

/// A stream of domains that have nothing but memory.
fn stream(version: StreamVersion, domains: &[(u16, Vec<SavedExtent>)]) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    let build = Name::try_new("luxen").unwrap();
    out.save(&LuVersion { stream_version: version, update_sequence: 1, build }).unwrap();
    let time = LuTime { tsc: 0, system_time_ns: 0, tsc_hz: 1, apic_hz: 0, wallclock_sec: 0, wallclock_nsec: 0 };
    out.save(&time).unwrap();
    for (domid, extents) in domains {
        let begin = DomainBegin {
            domid: DomId::new(*domid),
            flags: DomainFlags::DYING,
            shutdown_reason: 0,
            max_pages: u64::MAX,
            shared_info: None,
            console: None,
            console_evtchn: 0,
            store_evtchn: 0,
            store: None,
            nr_vcpus: 0,
            pause_count: 0,
            handle: [0; 16],
            name: Name::EMPTY,
            time_offset_sec: 0,
            vm_assist: 0,
        };
        let mut open = OpenDomain::begin(&mut out, version, &begin).unwrap();
        out.save(&PvInfo).unwrap();
        out.record(STATIC_DATA_END, &[]).unwrap();
        let mut list = ListWriter::extents(&mut out);
        for extent in extents {
            list.push(extent);
            open.count(extent);
        }
        list.finish().unwrap();
        open.end(&mut out).unwrap();
    }
    out.finish().unwrap();
    out.into_dest()
}

/// Reads a stream, then claims what its domains own, as the restore does.
fn take_up(frames: &Frames, bytes: &Vec<u8>) -> Result<Summary, Failure> {
    let summary = validate(records::reader(bytes)).map_err(Failure::Stream)?;
    let mut reader = records::reader(bytes);
    let mut owner = DomId::INVALID;
    while let Some(record) = reader.next_record().unwrap() {
        match AnyRecord::decode(&record).unwrap() {
            AnyRecord::DomainBegin(begin) => owner = begin.domid,
            AnyRecord::Extents(extents) => {
                for extent in extents.iter() {
                    claim(frames, extent.unwrap().mfns(), owner).map_err(Failure::Claim)?;
                }
            }
            _ => {}
        }
    }
    Ok(summary)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Failure {
    Stream(StreamError),
    Claim(ClaimError),
}

/// All that is left becomes free, every frame is accounted for, and the heap gives out nothing that is claimed.
fn plug_in_and_check(frames: &Frames, claimed: u64) {
    let before = frames.ledger();
    assert_eq!(before.claims, claimed);
    assert_eq!(frames.plug_in(|_, _| splits(SLAB)), before.unclaimed);
    let ledger = frames.ledger();
    assert!(ledger.is_balanced(), "{ledger}");
    assert_eq!((ledger.claims, ledger.free), (claimed, before.unclaimed));
    frames.validate().unwrap();
}

#[test]
fn an_extent_that_cannot_be_is_refused_by_name_and_changes_nothing() {
    const END: u64 = MEMORY + 64 * CHUNK_FRAMES;
    let own = MEMORY + 10;
    let region = FrameState::Region;
    let image = FrameState::Image;
    let cases = [
        // What it would overlap, the extent, the first frame in dispute, and what that is.
        ("the region, whole", extent(REGION, REGION_FRAMES), REGION, region),
        ("the region's first frame", extent(REGION - 3, 4), REGION, region),
        ("the region's last frame", extent(REGION + REGION_FRAMES - 1, 9), REGION + REGION_FRAMES - 1, region),
        ("the region in the middle", extent(REGION - 1, REGION_FRAMES + 2), REGION, region),
        ("the image", extent(IMAGE + 5, 1), IMAGE + 5, image),
        ("the hole", extent(HOLE - 1, 2), HOLE, FrameState::NotRam),
        ("the hole, whole", extent(HOLE, HOLE_FRAMES), HOLE, FrameState::NotRam),
        ("the end of RAM", extent(END - 1, 2), END, FrameState::NotRam),
        ("what is far behind RAM", extent((1 << 40) - 1, 1), (1 << 40) - 1, FrameState::NotRam),
        ("all there is", extent(1, (1 << 40) - 1), REGION, region),
        ("the stream", extent(MEMORY, 6), MEMORY + 5, FrameState::Owned { owner: DomId::STREAM }),
        ("a domain's extent", extent(own + 99, 512), own + 99, FrameState::Owned { owner: DomId::new(1) }),
        ("a domain's extent from before", extent(own - 1, 2), own, FrameState::Owned { owner: DomId::new(1) }),
        ("frame 0", extent(0, 1), 0, FrameState::Owned { owner: DomId::IO }),
    ];
    for version in VERSIONS {
        for (what, bad, mfn, found) in cases {
            for wanted in [1, 2] {
                let frames = machine(END);
                claim(&frames, range(MEMORY + 5, 1), DomId::STREAM).unwrap();
                let mut domains = Vec::from([(1, Vec::from([extent(own, 1024), extent(MEMORY + 40 * 512, 77)]))]);
                match wanted {
                    1 => domains[0].1.push(bad),
                    _ => domains.push((wanted, Vec::from([bad]))),
                }
                let refused = take_up(&frames, &stream(version, &domains));
                let error = ClaimError::Conflict { mfn: Mfn::new(mfn), wanted: DomId::new(wanted), found };
                assert_eq!(refused.map(|_| ()), Err(Failure::Claim(error)), "{what}");
                // The extents before it are claimed, of this one nothing is.
                let ledger = frames.ledger();
                assert_eq!((ledger.claims, ledger.stream), (1024 + 77, 1), "{what}");
            }
        }
    }
}

#[test]
fn runs_of_gibibytes_are_one_claim_each() {
    const GIB: u64 = 1 << 18;
    for version in VERSIONS {
        let frames = machine(MEMORY + 16 * GIB);
        let runs = [extent(MEMORY, 2 * GIB), extent(MEMORY + 3 * GIB, 4 * GIB), extent(MEMORY + 8 * GIB + 1, 4 * GIB)];
        let bytes = stream(version, &[(1, runs.to_vec())]);
        assert!(bytes.len() < 500);
        let summary = take_up(&frames, &bytes).unwrap();
        assert_eq!((summary.nr_extents, summary.nr_pages), (3, 10 * GIB));
        plug_in_and_check(&frames, 10 * GIB);
        for run in runs.map(|run| run.mfns()) {
            assert_eq!(frames.owner_of(run.first().unwrap()), Some(DomId::new(1)));
            assert_eq!(frames.owner_of(Mfn::new(run.end() - 1)), Some(DomId::new(1)));
            assert_eq!(frames.state_of(Mfn::new(run.end())), FrameState::Free);
        }
        let block = frames.alloc(Order::MAX).unwrap();
        assert!(runs.iter().all(|run| !run.mfns().overlaps(block.range())));
        assert_eq!(frames.relinquish(runs[1].mfns(), DomId::new(1)), Ok(4 * GIB));
        frames.validate().unwrap();
    }
}

#[test]
fn a_million_extents_of_single_frames_are_taken_up() {
    const NR_EXTENTS: u64 = 1_300_000;
    // Every second frame: the worst that there is for the table, which splits every chunk.
    let extents: Vec<SavedExtent> =
        (0..NR_EXTENTS).map(|i| SavedExtent::try_new(range(MEMORY + 2 * i, 1), Some(Pfn::new(i))).unwrap()).collect();
    let bytes = stream(StreamVersion::V2, &[(1, extents)]);
    assert!(bytes.len() as u64 > NR_EXTENTS * 16);
    let frames = machine(MEMORY + 2 * NR_EXTENTS);
    let summary = take_up(&frames, &bytes).unwrap();
    assert_eq!((summary.nr_extents, summary.nr_pages), (NR_EXTENTS, NR_EXTENTS));
    plug_in_and_check(&frames, NR_EXTENTS);
    let (first, last) = (Mfn::new(MEMORY), Mfn::new(MEMORY + 2 * NR_EXTENTS - 1));
    assert_eq!((frames.owner_of(first), frames.state_of(last)), (Some(DomId::new(1)), FrameState::Free));
}

#[test]
fn two_thousand_domains_are_taken_up_and_each_number_once() {
    const NR_DOMAINS: u16 = 2000;
    // Three extents each, between those of the next, and none in whole chunks.
    let start = |domid: u16, nth: u64| MEMORY + (nth * u64::from(NR_DOMAINS) + u64::from(domid)) * 20;
    let memory = |domid| (0..3).map(|nth| extent(start(domid, nth), 17)).collect::<Vec<_>>();
    let mut domains: Vec<(u16, Vec<SavedExtent>)> = (1..=NR_DOMAINS).map(|domid| (domid, memory(domid))).collect();
    let end = MEMORY + u64::from(NR_DOMAINS) * 3 * 20 + 100;
    for version in VERSIONS {
        let frames = machine(end);
        let summary = take_up(&frames, &stream(version, &domains)).unwrap();
        assert_eq!((summary.nr_domains, summary.nr_extents), (NR_DOMAINS.into(), u64::from(NR_DOMAINS) * 3));
        plug_in_and_check(&frames, u64::from(NR_DOMAINS) * 3 * 17);
        for domid in 1..=NR_DOMAINS {
            let owners: BTreeSet<_> =
                (0..3).flat_map(|nth| range(start(domid, nth), 17).iter()).map(|mfn| frames.owner_of(mfn)).collect();
            assert_eq!(owners, BTreeSet::from([Some(DomId::new(domid))]));
        }
    }
    domains.push((1234, Vec::new()));
    for version in VERSIONS {
        let refused = take_up(&machine(end), &stream(version, &domains));
        assert!(matches!(refused, Err(Failure::Stream(StreamError::Order { .. }))), "{refused:?}");
    }
}
