//! The live-update region: the one piece of memory that never holds a page that must survive (I1).
//!
//! A [`LuRegion`] exists only if it is possible:
//!
//! 1. start and length are multiples of 2 MiB, and it has at least [`MIN_LEN`];
//! 2. it ends at or below 4 GiB: the next build is entered in 32-bit mode;
//! 3. all of it is RAM, so it never has frame 0;
//! 4. when it was placed, no frame of it was *busy* (the running image's slot).
//!
//! ```text
//! start                                                                   start + len_bytes
//! ├ breadcrumb page ┼ what the outgoing side puts there ┼ boot allocator, later small objects ┤
//! ```
//!
//! Placed once, after the memory map and before the boot allocator. On a cold boot the place is chosen or fixed by the command line; after an
//! update the command line always has the exact range. [`MIN_LEN`] is a floor for the option's form only: what the boot
//! really needs depends on the machine and is computed by the plan (I11).
//!
//! Two kinds of ranges are in the way: *busy* ones stay where they are, *movable* ones (boot modules) can be copied out of the region by
//! the caller. A chosen place avoids both and takes a movable one only if there is no other; a fixed place may lie over movable ones.

use crate::cmdline::{RegionSpec, Size};
use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, Maddr, Mfn, MfnRange, Order, PAGE_SHIFT, PAGE_SIZE};
use crate::memmap::{MemMap, NotRam};
use crate::ranges::RangeSet;
use core::fmt;

/// The smallest length that is looked at.
pub const MIN_LEN: u64 = 2 * CHUNK_SIZE;
/// The region ends at or below this address.
pub const LIMIT: u64 = 1 << 32;

const LIMIT_FRAME: u64 = LIMIT >> PAGE_SHIFT;

/// The region. The value is proof of the rules above; it can be had only from [`LuRegion::place`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LuRegion {
    range: MfnRange,
}

impl LuRegion {
    /// Finds the place for what was asked; `default_len` is taken if nothing was.
    pub fn place<const B: usize, const M: usize>(
        spec: Option<RegionSpec>,
        map: &MemMap,
        busy: &RangeSet<B>,
        movable: &RangeSet<M>,
        default_len: u64,
    ) -> Result<Self, RegionError> {
        let asked = spec.unwrap_or(RegionSpec { len_bytes: default_len, start: None });
        let room = Room { map, busy };
        let largest = room.windows().map(MfnRange::len_bytes).max().unwrap_or(0);
        if largest < MIN_LEN {
            return Err(RegionError::NoPlace { asked, largest });
        }
        let start = check_form(asked, largest, &room)?;
        let range = match start {
            Some(start) => check_place(asked, start, &room)?,
            None => room.choose(asked.len_bytes, movable).ok_or(RegionError::TooLarge { asked, largest })?,
        };
        Ok(Self { range })
    }

    /// The frames.
    pub const fn range(&self) -> MfnRange {
        self.range
    }

    /// The first byte.
    pub const fn start(&self) -> Maddr {
        self.breadcrumb_page().maddr()
    }

    /// Length.
    pub const fn len_bytes(&self) -> u64 {
        self.range.len_bytes()
    }

    /// The first frame, whose first eight bytes are the breadcrumb.
    pub const fn breadcrumb_page(&self) -> Mfn {
        match self.range.first() {
            Some(mfn) => mfn,
            None => panic!("rule 1: a region has at least MIN_LEN"),
        }
    }

    /// True if the frame lies in it.
    pub const fn contains(&self, mfn: Mfn) -> bool {
        self.range.contains(mfn)
    }

    /// True if a frame of `range` lies in it.
    pub const fn overlaps(&self, range: MfnRange) -> bool {
        self.range.overlaps(range)
    }

    /// What names exactly this region on a command line.
    pub const fn spec(&self) -> RegionSpec {
        RegionSpec::exactly(self.range)
    }
}

impl fmt::Display for LuRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.range)
    }
}

/// Why there is no region where it was asked for. `nearest` values are accepted if they are typed instead, as far as the other half
/// of the option is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    /// The start is not a multiple of 2 MiB.
    MisalignedStart {
        /// What was asked.
        asked: RegionSpec,
        /// The start found.
        start: u64,
        /// The nearest start that works.
        nearest: u64,
    },
    /// The length is not a multiple of 2 MiB.
    MisalignedLen {
        /// What was asked.
        asked: RegionSpec,
        /// The length rounded up, at least [`MIN_LEN`].
        nearest: u64,
    },
    /// The length is below [`MIN_LEN`].
    TooSmall {
        /// What was asked.
        asked: RegionSpec,
        /// The least length.
        nearest: u64,
    },
    /// There is nowhere so much RAM in one piece.
    TooLarge {
        /// What was asked.
        asked: RegionSpec,
        /// The largest length for which there is a place.
        largest: u64,
    },
    /// It would end above 4 GiB.
    Above4G {
        /// What was asked.
        asked: RegionSpec,
        /// The first address behind it, or the largest number if it ends behind all addresses.
        end: u64,
        /// The nearest start that works.
        nearest: u64,
    },
    /// It would lie over a hole or over memory that is not RAM.
    NotRam {
        /// What was asked.
        asked: RegionSpec,
        /// The first thing that lies there.
        lies_there: NotRam,
        /// The nearest start that works.
        nearest: u64,
    },
    /// It would lie over something that cannot be moved.
    Busy {
        /// What was asked.
        asked: RegionSpec,
        /// The first range that is in the way.
        lies_there: MfnRange,
        /// The nearest start that works.
        nearest: u64,
    },
    /// This machine has no place for a region of any length.
    NoPlace {
        /// What was asked.
        asked: RegionSpec,
        /// The length of the largest piece, less than [`MIN_LEN`].
        largest: u64,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MisalignedStart { asked, start, nearest } => {
                write!(f, "{asked}: start {start:#x} is not a multiple of 2 MiB; nearest: {nearest:#x}")
            }
            Self::MisalignedLen { asked, nearest } => {
                write!(
                    f,
                    "{asked}: size {} is not a multiple of 2 MiB; nearest: {}",
                    Size(asked.len_bytes),
                    Size(*nearest)
                )
            }
            Self::TooSmall { asked, nearest } => {
                write!(f, "{asked}: size {} is too small; at least: {}", Size(asked.len_bytes), Size(*nearest))
            }
            Self::TooLarge { asked, largest } => write!(
                f,
                "{asked}: size {} is larger than any free piece of RAM below 4 GiB; at most: {}",
                Size(asked.len_bytes),
                Size(*largest)
            ),
            Self::Above4G { asked, end, nearest } => {
                write!(f, "{asked}: the end {end:#x} is above 4 GiB; nearest start: {nearest:#x}")
            }
            Self::NotRam { asked, lies_there, nearest } => {
                write!(f, "{asked}: not all of it is RAM, there is {lies_there}; nearest start: {nearest:#x}")
            }
            Self::Busy { asked, lies_there, nearest } => {
                write!(f, "{asked}: the running image lies at {lies_there}; nearest start: {nearest:#x}")
            }
            Self::NoPlace { asked, largest } => write!(
                f,
                "{asked}: there is no place for a region on this machine, it needs {} of aligned RAM in one piece below 4 GiB \
                 and the largest piece has {}; give the machine more memory",
                Size(MIN_LEN),
                Size(*largest)
            ),
        }
    }
}

/// Where a region can be.
struct Room<'a, const B: usize> {
    map: &'a MemMap,
    busy: &'a RangeSet<B>,
}

/// The whole 2 MiB chunks inside a range.
fn chunks_inside(range: MfnRange) -> MfnRange {
    let start = range.start().next_multiple_of(CHUNK_FRAMES);
    let end = range.end() - range.end() % CHUNK_FRAMES;
    MfnRange::between(start, end).unwrap_or(MfnRange::EMPTY)
}

impl<const B: usize> Room<'_, B> {
    /// The pieces of RAM below 4 GiB that are not busy, before any rounding, ascending.
    fn pieces(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.map.ram_below(LIMIT_FRAME).flat_map(|ram| self.busy.complement_in(ram))
    }

    /// The pieces as far as a region can use them, ascending, none empty.
    fn windows(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.pieces().map(chunks_inside).filter(|window| !window.is_empty())
    }

    /// The highest place for `len_bytes`, clear of what can be moved if that is possible.
    fn choose<const M: usize>(&self, len_bytes: u64, movable: &RangeSet<M>) -> Option<MfnRange> {
        let nr_frames = len_bytes >> PAGE_SHIFT;
        let highest = |windows: &mut dyn Iterator<Item = MfnRange>| {
            let place = |window: MfnRange| MfnRange::between(window.end().checked_sub(nr_frames)?, window.end());
            windows.filter(|window| window.nr_frames() >= nr_frames).last().and_then(place)
        };
        let clear = highest(&mut self.pieces().flat_map(|piece| movable.complement_in(piece)).map(chunks_inside));
        clear.or_else(|| highest(&mut self.windows()))
    }

    /// The start nearest to `start` at which `len_bytes` (a multiple of 2 MiB) has a place; the higher of two.
    fn nearest(&self, start: u64, len_bytes: u64) -> Option<u64> {
        let down = start - start % CHUNK_SIZE;
        let mut best: Option<u64> = None;
        for window in self.windows().filter(|window| window.len_bytes() >= len_bytes) {
            let lowest = window.start() << PAGE_SHIFT;
            let highest = (window.end() << PAGE_SHIFT) - len_bytes;
            // Both neighbours of an unaligned start: the window may have room for one of them only.
            for wish in [down, down.saturating_add(CHUNK_SIZE)] {
                let place = wish.clamp(lowest, highest);
                if best.is_none_or(|best| place.abs_diff(start) <= best.abs_diff(start)) {
                    best = Some(place);
                }
            }
        }
        best
    }
}

/// Checks what can be said without looking at what lies at the place; the start, if one was asked.
fn check_form<const B: usize>(asked: RegionSpec, largest: u64, room: &Room<'_, B>) -> Result<Option<u64>, RegionError> {
    // The length as it will have to be, so that a nearest start is right for it too.
    let len_bytes = asked.len_bytes.checked_next_multiple_of(CHUNK_SIZE).unwrap_or(u64::MAX).max(MIN_LEN);
    if len_bytes > largest {
        return Err(RegionError::TooLarge { asked, largest });
    }
    if let Some(start) = asked.start.filter(|start| start % CHUNK_SIZE != 0) {
        let nearest = room.nearest(start, len_bytes).ok_or(RegionError::TooLarge { asked, largest })?;
        return Err(RegionError::MisalignedStart { asked, start, nearest });
    }
    if !asked.len_bytes.is_multiple_of(CHUNK_SIZE) {
        return Err(RegionError::MisalignedLen { asked, nearest: len_bytes });
    }
    if asked.len_bytes < MIN_LEN {
        return Err(RegionError::TooSmall { asked, nearest: MIN_LEN });
    }
    Ok(asked.start)
}

/// Checks what lies at a fixed place. The form is right and some place is large enough.
fn check_place<const B: usize>(asked: RegionSpec, start: u64, room: &Room<'_, B>) -> Result<MfnRange, RegionError> {
    let largest = asked.len_bytes;
    let nearest = room.nearest(start, asked.len_bytes).ok_or(RegionError::TooLarge { asked, largest })?;
    let end = start.saturating_add(asked.len_bytes);
    if end > LIMIT {
        return Err(RegionError::Above4G { asked, end, nearest });
    }
    let range = MfnRange::frames_touched(start, asked.len_bytes);
    if let Some(lies_there) = room.map.first_not_ram(range) {
        return Err(RegionError::NotRam { asked, lies_there, nearest });
    }
    if let Some(lies_there) = room.busy.first_overlap(range) {
        return Err(RegionError::Busy { asked, lies_there, nearest });
    }
    Ok(range)
}

const _: () = assert!(MIN_LEN.is_multiple_of(CHUNK_SIZE) && LIMIT.is_multiple_of(CHUNK_SIZE));
const _: () = assert!(CHUNK_SIZE == Order::CHUNK.len_bytes() && PAGE_SIZE == 1 << PAGE_SHIFT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memmap::{FirmwareEntry, Kind};
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;

    const M: u64 = 1 << 20;
    const G: u64 = 1 << 30;

    fn map(entries: &[(u64, u64, u32)]) -> MemMap {
        let entries = entries.iter().map(|&(start, len_bytes, number)| FirmwareEntry { start, len_bytes, number });
        MemMap::from_firmware(entries).unwrap()
    }

    fn bytes(start: u64, end: u64) -> MfnRange {
        MfnRange::between(start >> PAGE_SHIFT, end >> PAGE_SHIFT).unwrap()
    }

    fn set(ranges: &[(u64, u64)]) -> RangeSet<8> {
        let mut set = RangeSet::new();
        for &(start, end) in ranges {
            set.insert(bytes(start, end)).unwrap();
        }
        set
    }

    /// 256 MiB as QEMU's q35 has it: 640 KiB, a hole, 1 MiB to 255.9 MiB, ACPI behind it; 1 GiB above 4 GiB.
    fn pc() -> MemMap {
        map(&[(0, 640 << 10, 1), (M, 255 * M - (128 << 10), 1), (256 * M - (128 << 10), 128 << 10, 2), (4 * G, G, 1)])
    }

    fn place(spec: &str, busy: &[(u64, u64)], movable: &[(u64, u64)]) -> Result<(u64, u64), RegionError> {
        let spec = if spec.is_empty() { None } else { Some(RegionSpec::parse(spec).unwrap()) };
        LuRegion::place(spec, &pc(), &set(busy), &set(movable), 32 * M)
            .map(|region| (region.start().get(), region.len_bytes()))
    }

    #[test]
    fn a_chosen_place_is_the_highest_that_is_clear() {
        // The last whole chunk of RAM ends at 254 MiB.
        assert_eq!(place("", &[], &[]), Ok((222 * M, 32 * M)));
        assert_eq!(place("64M", &[], &[]), Ok((190 * M, 64 * M)));
        // The image at the top is avoided, so is one that is not aligned.
        assert_eq!(place("64M", &[(250 * M, 254 * M)], &[]), Ok((186 * M, 64 * M)));
        assert_eq!(place("64M", &[(249 * M, 253 * M)], &[]), Ok((184 * M, 64 * M)));
        // Modules are avoided if there is a place without them ...
        assert_eq!(place("64M", &[], &[(252 * M, 253 * M)]), Ok((188 * M, 64 * M)));
        assert_eq!(place("64M", &[(200 * M, 204 * M)], &[(250 * M, 251 * M)]), Ok((136 * M, 64 * M)));
        // ... and not if there is none.
        assert_eq!(
            place("64M", &[], &[(60 * M, 61 * M), (120 * M, 121 * M), (180 * M, 200 * M)]),
            Ok((190 * M, 64 * M))
        );
        // All that there is.
        assert_eq!(place("252M", &[], &[(2 * M, 254 * M)]), Ok((2 * M, 252 * M)));
    }

    #[test]
    fn a_fixed_place_may_lie_over_modules_only() {
        assert_eq!(place("4M@2M", &[], &[]), Ok((2 * M, 4 * M)));
        assert_eq!(place("4M@250M", &[], &[(0, 256 * M)]), Ok((250 * M, 4 * M)));
        assert_eq!(place("64M@0x4000000", &[(128 * M, 132 * M)], &[]), Ok((64 * M, 64 * M)));
    }

    #[test]
    fn every_refusal_has_its_reason_and_a_way_out() {
        let image = &[(16 * M, 20 * M)];
        let cases = [
            // Unaligned; the example of a start for which one neighbour is frame 0.
            ("3M@0x100000", "liveupdate=3M@0x100000: start 0x100000 is not a multiple of 2 MiB; nearest: 0x200000"),
            ("64M@0x4100000", "start 0x4100000 is not a multiple of 2 MiB; nearest: 0x4200000"),
            ("64M@0x40fffff", "nearest: 0x4000000"),
            ("64M@0x1000001", "nearest: 0x1400000"),
            ("64M@0xffffffffff001", "nearest: 0xbe00000"),
            ("5M", "liveupdate=5M: size 5M is not a multiple of 2 MiB; nearest: 6M"),
            ("1M", "size 1M is not a multiple of 2 MiB; nearest: 4M"),
            ("0", "size 0 is too small; at least: 4M"),
            ("2M@64M", "size 2M is too small; at least: 4M"),
            ("0x4000001@64M", "size 67108865 is not a multiple of 2 MiB; nearest: 66M"),
            // Too large: 20 MiB to 254 MiB is the largest piece beside the image.
            ("236M", "size 236M is larger than any free piece of RAM below 4 GiB; at most: 234M"),
            ("235M", "at most: 234M"),
            ("8G@0", "size 8G is larger than any free piece of RAM below 4 GiB; at most: 234M"),
            ("4503599627370495", "at most: 234M"),
            // In the wrong place.
            ("64M@4G", "liveupdate=64M@0x100000000: the end 0x104000000 is above 4 GiB; nearest start: 0xbe00000"),
            ("64M@0xfe000000", "the end 0x102000000 is above 4 GiB; nearest start: 0xbe00000"),
            ("64M@0xfc000000", "there is a hole without memory at [0xfc000000, 0x100000000); nearest start: 0xbe00000"),
            ("64M@0", "not all of it is RAM, there is reserved memory at [0x0, 0x1000); nearest start: 0x1400000"),
            ("64M@192M", "there is reserved memory at [0xffe0000, 0x10000000); nearest start: 0xbe00000"),
            ("64M@14M", "the running image lies at [0x1000000, 0x1400000); nearest start: 0x1400000"),
            ("4M@14M", "nearest start: 0xc00000"),
            ("4M@18M", "nearest start: 0x1400000"),
            ("4M@16M", "nearest start: 0x1400000"),
        ];
        for (spec, expected) in cases {
            let found = place(spec, image, &[]).unwrap_err().to_string();
            assert!(found.contains(expected), "{spec}: {found}");
            assert!(found.starts_with("liveupdate="), "{spec}: {found}");
        }
    }

    #[test]
    fn a_machine_without_a_place_says_so() {
        let small = map(&[(0, 5 * M, 1)]);
        let error = LuRegion::place(None, &small, &set(&[]), &set(&[]), 32 * M).unwrap_err();
        let asked = RegionSpec { len_bytes: 32 * M, start: None };
        // Frame 0 costs the first chunk, the fifth MiB is half a chunk.
        assert_eq!(error, RegionError::NoPlace { asked, largest: 2 * M });
        assert!(error.to_string().contains("needs 4M of aligned RAM"), "{error}");
        assert!(LuRegion::place(None, &map(&[]), &set(&[]), &set(&[]), 32 * M).is_err());
        // RAM above 4 GiB is no place.
        let high = map(&[(4 * G, 8 * G, 1)]);
        assert!(matches!(
            LuRegion::place(None, &high, &set(&[]), &set(&[]), 32 * M),
            Err(RegionError::NoPlace { largest: 0, .. })
        ));
    }

    #[test]
    fn a_region_may_end_at_4_gib_exactly() {
        let full = map(&[(M, 8 * G, 1)]);
        let region = LuRegion::place(None, &full, &set(&[]), &set(&[]), 32 * M).unwrap();
        assert_eq!(region.range(), bytes(4 * G - 32 * M, 4 * G));
        assert_eq!(region.to_string(), "[0xfe000000, 0x100000000)");
        assert_eq!(region.spec().to_string(), "liveupdate=32M@0xfe000000");
        assert_eq!(region.breadcrumb_page(), Mfn::new(0xf_e000));
        assert!(region.contains(Mfn::new(0xf_e000)) && !region.contains(Mfn::new(0x10_0000)));
        assert!(region.overlaps(bytes(4 * G - 4096, 4 * G)) && !region.overlaps(bytes(4 * G, 5 * G)));
    }

    /// Memory of 64 MiB in pieces of half a chunk, so that ends are often not aligned.
    const UNITS: u64 = 64;

    /// The first address of the world, what firmware says of it, what is busy there, and what can be moved. The world starts at 0 or
    /// straddles 4 GiB; most of it is RAM, so that places, and reasons why not, of all kinds are common.
    fn world() -> impl Strategy<Value = (u64, MemMap, RangeSet<8>, RangeSet<8>)> {
        let other = (0..UNITS, 1..8u64, prop::sample::select(std::vec![1u32, 2, 4]));
        let entries = ((0..8u64, 1..=UNITS), prop::collection::vec(other, 0..4));
        let pieces = || prop::collection::vec((0..UNITS, 1..16u64), 0..3);
        (any::<bool>(), entries, pieces(), pieces()).prop_map(|(straddles, (ram, others), busy, movable)| {
            let base = if straddles { 4 * G - UNITS / 2 * M } else { 0 };
            let mut entries = std::vec![(base + ram.0 * M, ram.1 * M, 1)];
            entries.extend(others.iter().map(|&(at, len, number)| (base + at * M, len * M, number)));
            let ranges = |list: &[(u64, u64)]| {
                let list: Vec<_> = list.iter().map(|&(at, len)| (base + at * M, base + (at + len) * M)).collect();
                set(&list)
            };
            (base, map(&entries), ranges(&busy), ranges(&movable))
        })
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_place(
            (base, map, busy, movable) in world(),
            len in prop_oneof![6 => (1..8u64).prop_map(|n| n * 2 * M), 1 => (2..20u64).prop_map(|n| n * 2 * M), 1 => 0..20 * M],
            start in prop::option::weighted(0.7, (0..UNITS + 4, prop::sample::select(std::vec![0u64, 0, 0, 0, 1, M]))),
        ) {
            let start = start.map(|(at, more)| base + at / 2 * 2 * M + more);
            let spec = RegionSpec { len_bytes: len, start };
            // The model: frames one by one, every aligned place below 4 GiB that the world can have.
            let free = |at: u64, len: u64| {
                at + len <= LIMIT && bytes(at, at + len).iter().step_by(256).all(|mfn| {
                    // Everything in the world is made of whole MiB, but for frame 0.
                    map.kind_at(mfn) == Some(Kind::Ram) && !busy.contains(mfn)
                })
            };
            let places = |len: u64| -> Vec<u64> {
                let all = (0..2 * UNITS * M).step_by(CHUNK_SIZE as usize)
                    .chain((4 * G - UNITS * M..4 * G).step_by(CHUNK_SIZE as usize));
                all.filter(|&at| free(at, len)).collect()
            };
            let result = LuRegion::place(Some(spec), &map, &busy, &movable, 4 * M);
            let largest = (1..2 * UNITS).map(|n| n * CHUNK_SIZE).take_while(|&len| !places(len).is_empty()).last().unwrap_or(0);
            let valid_len = len % CHUNK_SIZE == 0 && len >= MIN_LEN;
            let len_up = len.next_multiple_of(CHUNK_SIZE).max(MIN_LEN);
            let check_nearest = |nearest: u64| {
                let nearness = places(len_up).into_iter().map(|p| p.abs_diff(start.unwrap())).min();
                free(nearest, len_up) && nearest.is_multiple_of(CHUNK_SIZE) && nearness == Some(nearest.abs_diff(start.unwrap()))
            };
            match result {
                Ok(region) => {
                    let at = region.start().get();
                    prop_assert!(valid_len && region.len_bytes() == len && at % CHUNK_SIZE == 0);
                    prop_assert!(free(at, len));
                    match start {
                        Some(start) => prop_assert_eq!(at, start),
                        None => {
                            let clear = |&at: &u64| !movable.overlaps(bytes(at, at + len));
                            let best = places(len).into_iter().filter(clear).max().or(places(len).into_iter().max());
                            prop_assert_eq!(Some(at), best);
                        }
                    }
                    // The exact range is accepted again: what the incoming side is given.
                    prop_assert_eq!(LuRegion::place(Some(region.spec()), &map, &busy, &movable, 4 * M), Ok(region));
                }
                Err(RegionError::NoPlace { largest: found, .. }) => {
                    prop_assert!(largest < MIN_LEN);
                    prop_assert_eq!(found, largest);
                }
                Err(RegionError::TooLarge { largest: found, .. }) => {
                    prop_assert!(len_up > largest);
                    prop_assert_eq!(found, largest);
                }
                Err(RegionError::MisalignedStart { nearest, .. }) => {
                    prop_assert!(start.unwrap() % CHUNK_SIZE != 0);
                    prop_assert!(check_nearest(nearest));
                }
                Err(RegionError::MisalignedLen { nearest, .. }) => {
                    prop_assert!(len % CHUNK_SIZE != 0);
                    prop_assert_eq!(nearest, len_up);
                }
                Err(RegionError::TooSmall { nearest, .. }) => {
                    prop_assert!(len % CHUNK_SIZE == 0 && len < MIN_LEN);
                    prop_assert_eq!(nearest, MIN_LEN);
                }
                Err(RegionError::Above4G { end, nearest, .. }) => {
                    prop_assert_eq!(end, start.unwrap() + len);
                    prop_assert!(end > LIMIT && check_nearest(nearest));
                }
                Err(RegionError::NotRam { lies_there, nearest, .. }) => {
                    let first = lies_there.range.first().unwrap();
                    prop_assert!(bytes(start.unwrap(), start.unwrap() + len).contains(first));
                    prop_assert_eq!(map.kind_at(first), lies_there.kind);
                    prop_assert!(lies_there.kind != Some(Kind::Ram) && check_nearest(nearest));
                }
                Err(RegionError::Busy { lies_there, nearest, .. }) => {
                    prop_assert!(lies_there.overlaps(bytes(start.unwrap(), start.unwrap() + len)));
                    prop_assert!(busy.overlaps(lies_there) && check_nearest(nearest));
                }
            }
        }

        #[test]
        fn any_numbers_are_answered(len_bytes in any::<u64>(), start in prop::option::of(any::<u64>()), default_len in any::<u64>()) {
            let spec = Some(RegionSpec { len_bytes, start });
            for spec in [spec, None] {
                if let Err(error) = LuRegion::place(spec, &pc(), &set(&[(M, 4 * M)]), &set(&[]), default_len) {
                    prop_assert!(error.to_string().len() > 20);
                }
            }
        }
    }
}
