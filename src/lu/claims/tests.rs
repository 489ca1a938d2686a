//! Claims over the real memory map, region and frametable.

use super::*;
use crate::cmdline::RegionSpec;
use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE};
use crate::memmap::{FirmwareEntry, MemMap};
use crate::mm::frametable::tests::untold;
use crate::mm::frametable::{InitError, Split, SplitSlab};
use crate::ranges::RangeSet;
use crate::region::LuRegion;
use proptest::prelude::*;
use std::boxed::Box;
use std::string::ToString;
use std::vec;

const RAM: u32 = 1;
const RESERVED: u32 = 2;
const REGION: u64 = 4 * CHUNK_SIZE;
/// First frames of region and image slot in [`map`].
const REGION_AT: u64 = 8 * CHUNK_FRAMES;
const SLOT_AT: u64 = 12 * CHUNK_FRAMES;

#[derive(Debug, PartialEq)]
enum Stop {
    NoRoom,
}

impl From<NoRoom> for Stop {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}

fn map(entries: &[(u64, u64, u32)]) -> MemMap {
    let entries = entries.iter().map(|&(start, end, number)| FirmwareEntry { start, len_bytes: end - start, number });
    MemMap::from_firmware(entries).unwrap()
}

/// 64 MiB with the holes of a PC.
fn pc() -> MemMap {
    map(&[(0, 0x9_fc00, RAM), (0x9_fc00, 0x10_0000, RESERVED), (0x10_0000, 64 << 20, RAM)])
}

/// The frametable as boot makes it, before the first claim.
fn machine(map: &MemMap) -> Frames {
    let nr_chunks = map.end().div_ceil(CHUNK_FRAMES) as usize;
    let (entries, blocks) = untold(nr_chunks);
    let places = Box::leak((0..256).map(|_| SplitSlab::new()).collect::<Box<[SplitSlab]>>());
    let frames = Frames::new(entries, blocks, places);
    for ram in map.ram() {
        while let Err(e) = { frames.lock().init_ram(ram) } {
            assert!(matches!(e, InitError::NoRecords { .. }), "{e}");
            feed(&frames);
        }
    }
    let spec = RegionSpec { len_bytes: REGION, start: Some(REGION_AT << 12) };
    let region = LuRegion::place(Some(spec), map, &RangeSet::<8>::new(), &RangeSet::<8>::new(), REGION).unwrap();
    frames.lock().init_region(region.range()).unwrap();
    frames.lock().init_image(range(SLOT_AT, SLOT_AT + 4 * CHUNK_FRAMES)).unwrap();
    frames
}

fn feed(frames: &Frames) {
    let slab: &'static [Split] = Box::leak((0..2).map(|_| Split::new()).collect::<Box<[Split]>>());
    frames.lock().pool().feed(slab).unwrap();
}

fn range(start: u64, end: u64) -> MfnRange {
    MfnRange::between(start, end).unwrap()
}

fn d(n: u16) -> DomId {
    DomId::new(n)
}

fn owned(owner: DomId) -> FrameState {
    FrameState::Owned { owner }
}

fn claims(frames: &Frames) -> Claims<'_, impl FnMut(u64) -> Result<(), Stop> + '_> {
    Claims::new(frames, |_| {
        feed(frames);
        Ok(())
    })
}

#[test]
fn what_is_not_there_to_be_claimed_costs_the_domain_that_claims_it_and_nobody_else() {
    let cases = [
        ("region", range(REGION_AT - 2, REGION_AT + 1), FrameState::Region, 1),
        ("image", range(SLOT_AT + 511, SLOT_AT + 513), FrameState::Image, 2),
        ("reserved", range(0x9e, 0xa1), owned(DomId::IO), 2),
        ("frame 0", range(0, 2), owned(DomId::IO), 1),
        ("behind RAM", range(0x4000 - 1, 0x4001), FrameState::NotRam, 1),
        ("behind everything", range(Mfn::LIMIT - 5, Mfn::LIMIT), FrameState::NotRam, 5),
        ("the hypervisor's", range(0x3000, 0x3008), owned(DomId::XEN), 4),
    ];
    for (what, claimed, found, nr_frames) in cases {
        let frames = machine(&pc());
        let mut claims = claims(&frames);
        claims.host(range(0x3000, 0x3004), DomId::XEN).unwrap();
        claims.domain(claimed, d(1)).unwrap();
        claims.domain(range(0x2400, 0x2410), d(2)).unwrap();
        let disputes = claims.finish();
        let dispute = disputes.of(d(1)).unwrap_or_else(|| panic!("{what}"));
        assert_eq!((dispute.found, dispute.nr_frames), (found, nr_frames), "{what}");
        assert!(disputes.of(d(2)).is_none() && disputes.withheld().is_empty(), "{what}");
        for mfn in claimed.iter() {
            let is_own = frames.owner_of(mfn) == Some(d(1));
            let was_there = map_is_ram(mfn) && !range(0x3000, 0x3004).contains(mfn);
            assert_eq!(is_own, was_there, "{what}: {mfn}");
        }
    }
}

#[test]
fn what_cannot_be_read_ends_the_claims_before_it() {
    let frames = machine(&pc());
    let mut claims = claims(&frames);
    let ranges = [Ok(range(0x2400, 0x2402)), Err("item 1"), Ok(range(0x2404, 0x2405))];
    assert_eq!(claims.domain_all(ranges.into_iter(), d(1)), Ok(Err("item 1")));
    assert!(claims.finish().is_empty());
    assert_eq!(frames.owner_of(Mfn::new(0x2401)), Some(d(1)));
    assert_eq!(frames.state_of(Mfn::new(0x2404)), FrameState::Unclaimed);
}

/// In [`pc`], outside region and image.
fn map_is_ram(mfn: Mfn) -> bool {
    let is_busy = range(REGION_AT, SLOT_AT + 4 * CHUNK_FRAMES).contains(mfn);
    pc().is_ram(MfnRange::new(mfn, 1)) && !is_busy
}

#[test]
fn a_frame_that_two_claim_is_nobodys_and_both_are_refused() {
    let frames = machine(&pc());
    let mut claims = claims(&frames);
    // One that is owned whole, one in part.
    claims.domain(range(0x2400, 0x2600), d(1)).unwrap();
    claims.domain(range(0x2a10, 0x2a20), d(1)).unwrap();
    claims.domain(range(0x25ff, 0x2602), d(2)).unwrap();
    claims.domain(range(0x2a18, 0x2a19), d(3)).unwrap();
    // A third claimant of the same frame.
    claims.domain(range(0x2a18, 0x2a1a), d(4)).unwrap();
    claims.domain(range(0x3000, 0x3001), d(5)).unwrap();
    let disputes = claims.finish();
    assert_eq!(disputes.of(d(1)).unwrap().to_string(), "it claims frame 0x25ff, and so does d2 (3 frames in all)");
    assert_eq!(disputes.of(d(2)).unwrap().to_string(), "it claims frame 0x25ff, and so does d1");
    assert_eq!(disputes.of(d(3)).unwrap().to_string(), "it claims frame 0x2a18, and so does d1");
    assert!(
        disputes.of(d(4)).unwrap().to_string().starts_with("it claims frame 0x2a18, which is reserved or withheld")
    );
    assert!(disputes.of(d(5)).is_none());
    assert_eq!(disputes.withheld(), [range(0x25ff, 0x2600), range(0x2a18, 0x2a1a)]);
    for mfn in [0x25ff, 0x2a18, 0x2a19] {
        assert_eq!(frames.owner_of(Mfn::new(mfn)), Some(DomId::IO));
    }
    assert_eq!(frames.owner_of(Mfn::new(0x2600)), Some(d(2)));
    assert_eq!(frames.owner_of(Mfn::new(0x25fe)), Some(d(1)));
    frames.validate().unwrap();
}

#[test]
fn a_frame_of_the_stream_that_a_domain_claims_never_becomes_free() {
    let frames = machine(&pc());
    let mut claims = claims(&frames);
    claims.host(range(0x2401, 0x2403), DomId::STREAM).unwrap();
    claims.domain(range(0x2400, 0x2402), d(1)).unwrap();
    let disputes = claims.finish();
    assert_eq!(disputes.withheld(), [range(0x2401, 0x2402)]);
    assert_eq!(disputes.of(d(1)).unwrap().found, owned(DomId::STREAM));
    assert_eq!(frames.owner_of(Mfn::new(0x2402)), Some(DomId::STREAM));
}

#[test]
fn a_domain_that_claims_a_frame_twice_keeps_it_and_is_refused() {
    let frames = machine(&pc());
    let mut claims = claims(&frames);
    claims.domain(range(0x2400, 0x2404), d(1)).unwrap();
    claims.domain(range(0x2403, 0x2405), d(1)).unwrap();
    let disputes = claims.finish();
    assert_eq!(disputes.of(d(1)).unwrap().nr_frames, 1);
    assert!(disputes.withheld().is_empty());
    assert!(range(0x2400, 0x2405).iter().all(|mfn| frames.owner_of(mfn) == Some(d(1))));
}

#[test]
fn faulty_frames_are_set_aside_unless_somebody_has_them() {
    let frames = machine(&pc());
    let mut claims = claims(&frames);
    claims.domain(range(0x2400, 0x2410), d(1)).unwrap();
    claims.set_aside(range(0x2408, 0x2612)).unwrap();
    claims.set_aside(range(REGION_AT - 1, REGION_AT + 1)).unwrap();
    claims.set_aside(range(0x3fff, Mfn::LIMIT)).unwrap();
    assert!(claims.finish().is_empty());
    for (mfn, expected) in [
        (0x2407, owned(d(1))),
        (0x240f, owned(d(1))),
        (0x2410, owned(DomId::IO)),
        (0x2500, owned(DomId::IO)),
        (0x2611, owned(DomId::IO)),
        (0x2612, FrameState::Unclaimed),
        (REGION_AT - 1, owned(DomId::IO)),
        (REGION_AT, FrameState::Region),
        (0x3fff, owned(DomId::IO)),
    ] {
        assert_eq!(frames.state_of(Mfn::new(mfn)), expected, "{mfn:#x}");
    }
    frames.validate().unwrap();
}

#[test]
fn what_the_hypervisor_needs_stops_everything() {
    let frames = machine(&pc());
    let mut claims = claims(&frames);
    let found = claims.host(range(REGION_AT - 1, REGION_AT + 1), DomId::XEN);
    assert!(matches!(found, Err(HostClaim::Conflict(ClaimError::Conflict { found: FrameState::Region, .. }))));
    assert_eq!(frames.state_of(Mfn::new(REGION_AT - 1)), FrameState::Unclaimed);
}

#[test]
fn a_map_with_other_holes_costs_the_domains_that_lie_in_them() {
    // The same machine, but firmware now keeps two pages in the middle of d1, and has given back those below d2.
    let then = map(&[(0, 64 << 20, RAM), (0x2b00 << 12, 0x2b10 << 12, RESERVED)]);
    let now = map(&[(0, 64 << 20, RAM), (0x2500 << 12, 0x2502 << 12, RESERVED)]);
    let of = |map: &MemMap| {
        let frames = machine(map);
        let mut claims = claims(&frames);
        claims.domain(range(0x2400, 0x2600), d(1)).unwrap();
        claims.domain(range(0x2b10, 0x2c00), d(2)).unwrap();
        let disputes = claims.finish();
        let own = range(0x2400, 0x2600).iter().filter(|&mfn| frames.owner_of(mfn) == Some(d(1))).count();
        (disputes.of(d(1)).copied(), disputes.of(d(2)).copied(), own)
    };
    assert_eq!(of(&then), (None, None, 0x200));
    let lost = Dispute { mfn: Mfn::new(0x2500), found: owned(DomId::IO), nr_frames: 2 };
    assert_eq!(of(&now), (Some(lost), None, 0x1fe));
}

#[test]
fn a_region_may_be_split_in_the_map_but_not_have_a_hole() {
    let at = REGION_AT << 12;
    let spec = RegionSpec { len_bytes: REGION, start: Some(at) };
    let place = |map: &MemMap| {
        LuRegion::place(Some(spec), map, &RangeSet::<8>::new(), &RangeSet::<8>::new(), REGION).map(|r| r.range())
    };
    // An odd place for a border between two entries, and entries that overlap.
    let split = map(&[(0, at + 0x1234, RAM), (at + 0x1000, 64 << 20, RAM)]);
    assert_eq!(place(&split), Ok(range(REGION_AT, REGION_AT + 4 * CHUNK_FRAMES)));
    // The border is inside a page: neither entry has all of it.
    let torn = map(&[(0, at + 0x1800, RAM), (at + 0x1800, 64 << 20, RAM)]);
    assert!(place(&torn).is_err());
    let holed = map(&[(0, 64 << 20, RAM), (at + 0x20_0000, at + 0x20_1000, RESERVED)]);
    let error = place(&holed).unwrap_err().to_string();
    assert!(error.contains("reserved memory at [0x1200000, 0x1201000)"), "{error}");
}

#[derive(Clone, Debug)]
struct Wish {
    domain: u16,
    start: u64,
    nr_frames: u64,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish =
        (1u16..4, 0x2300u64..0x2900, 1u64..0x280).prop_map(|(domain, start, n)| Wish { domain, start, nr_frames: n });
    proptest::collection::vec(wish, 0..12)
}

proptest! {
    #[test]
    fn every_frame_has_its_one_claimant_or_none(wishes in wishes(), stream in 0x2300u64..0x2900, is_many in any::<bool>()) {
        let frames = machine(&pc());
        let mut claims = claims(&frames);
        claims.host(range(stream, stream + 3), DomId::STREAM).unwrap();
        let mut wanted: Vec<Vec<u16>> = vec![Vec::new(); 0x4000];
        let range_of = |wish: &Wish| MfnRange::new(Mfn::new(wish.start), wish.nr_frames);
        for of_one in wishes.chunk_by(|a, b| is_many && a.domain == b.domain) {
            match of_one {
                [wish] => claims.domain(range_of(wish), d(wish.domain)).unwrap(),
                many => claims.domain_all(many.iter().map(|w| Ok::<_, ()>(range_of(w))), d(many[0].domain)).unwrap().unwrap(),
            }
        }
        for wish in &wishes {
            for mfn in wish.start..wish.start + wish.nr_frames {
                wanted[mfn as usize].push(wish.domain);
            }
        }
        let disputes = claims.finish();
        for mfn in 0x2300..0x2b80u64 {
            let (of_stream, mut by) = ((stream..stream + 3).contains(&mfn), wanted[mfn as usize].clone());
            let is_double = by.len() > 1;
            by.dedup();
            by.sort_unstable();
            by.dedup();
            let expected = match (&by[..], of_stream) {
                ([], false) => FrameState::Unclaimed,
                ([], true) => owned(DomId::STREAM),
                ([one], false) => owned(d(*one)),
                _ => owned(DomId::IO),
            };
            prop_assert_eq!(frames.state_of(Mfn::new(mfn)), expected, "{:#x} {:?}", mfn, by);
            let is_withheld = disputes.withheld().iter().any(|r| r.contains(Mfn::new(mfn)));
            prop_assert_eq!(is_withheld, expected == owned(DomId::IO));
            if by.len() > 1 || is_double || (of_stream && !by.is_empty()) {
                prop_assert!(by.iter().all(|&domain| disputes.of(d(domain)).is_some()));
            }
        }
        for domain in 1..4 {
            let is_clean = wanted.iter().enumerate().all(|(mfn, by)| {
                !by.contains(&domain) || (by.len() == 1 && !(stream..stream + 3).contains(&(mfn as u64)))
            });
            prop_assert_eq!(disputes.of(d(domain)).is_none(), is_clean);
        }
    }
}
