//! The boot allocator: hands out frames of the region, and of nothing else (I2).
//!
//! Before the stream is read nobody knows which other frames are in use, so this is all the memory that there is. Nothing is given back;
//! boot ends and [`BootAlloc::finish`] tells what was given out and what is left, which becomes the heap for small objects.
//!
//! 1. What is given out, left and reserved are disjoint and together are the region.
//! 2. The breadcrumb page is always reserved, and so is what the outgoing side put into the region for this build to read.
//! 3. A [`BootBlock`] cannot be copied and turns into nothing that a domain takes: its frames are gone for the next build (I1).
//! 4. Low addresses first, so that what is left stays in one piece at the top.
//!
//! ```text
//! region  ├ breadcrumb ┼ MBI ┼ given out ┼ gap ┼ given out, aligned ┼ left ────────────┤
//!           reserved     res.               └ left, for smaller ones
//! ```
//!
//! First fit over the free ranges; boot makes some tens of blocks. An alignment costs a gap, and only [`MAX_PIECES`] gaps are
//! remembered: with all of them in use a block that needs another one goes to the next place that needs none.

use crate::frame::{Mfn, MfnRange, Order};
use crate::ranges::{Full, RangeSet};
use crate::region::LuRegion;
use core::fmt;

/// Free ranges that are remembered.
pub const MAX_PIECES: usize = 64;

/// A block of frames of the region. Its owner keeps it for as long as it uses the frames; they are never given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the frames are never given back"]
pub struct BootBlock {
    range: MfnRange,
}

impl BootBlock {
    /// The frames.
    pub const fn range(&self) -> MfnRange {
        self.range
    }
}

/// The region has no room for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBootMemory {
    /// Frames asked for.
    pub wanted: u64,
    /// Their alignment.
    pub align: Order,
    /// Frames left, in all pieces together.
    pub left: u64,
}

impl fmt::Display for OutOfBootMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, align, left } = self;
        write!(
            f,
            "the region has no room for {wanted} frames aligned to {}, {left} frames are left; boot with a larger liveupdate=",
            align.nr_frames()
        )
    }
}

/// How much of the region went where, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootStats {
    /// Blocks given out.
    pub nr_blocks: u64,
    /// Frames given out.
    pub given: u64,
    /// Frames reserved.
    pub reserved: u64,
    /// Frames left.
    pub left: u64,
    /// Frames of the largest piece left.
    pub largest_left: u64,
}

impl fmt::Display for BootStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nr_blocks, given, reserved, left, largest_left } = self;
        write!(
            f,
            "{given} frames given out in {nr_blocks} blocks, {reserved} reserved, {left} left, {largest_left} of them in one piece"
        )
    }
}

/// The allocator. There is one, made once the region is placed.
#[derive(Debug)]
pub struct BootAlloc {
    region: MfnRange,
    left: RangeSet<MAX_PIECES>,
    reserved: RangeSet<MAX_PIECES>,
    nr_blocks: u64,
}

impl BootAlloc {
    /// Takes the region, without its breadcrumb page and without what of `reserved` lies in it.
    pub fn new(region: &LuRegion, reserved: &[MfnRange]) -> Result<Self, Full> {
        let region_range = region.range();
        let mut kept = RangeSet::new();
        kept.insert(MfnRange::new(region.breadcrumb_page(), 1))?;
        for range in reserved {
            kept.insert(range.intersection(region_range))?;
        }
        let mut left = RangeSet::new();
        for gap in kept.complement_in(region_range) {
            left.insert(gap)?;
        }
        Ok(Self { region: region_range, left, reserved: kept, nr_blocks: 0 })
    }

    /// Gives out `nr_frames` that follow each other, the first a multiple of `align`. Of no frames it gives an empty block.
    pub fn alloc(&mut self, nr_frames: u64, align: Order) -> Result<BootBlock, OutOfBootMemory> {
        if nr_frames == 0 {
            return Ok(BootBlock { range: MfnRange::EMPTY });
        }
        for piece in 0..self.left.len() {
            let Some(range) = lowest_in(self.left.ranges()[piece], nr_frames, align) else { continue };
            // Refused if it would leave one piece more than can be remembered: then nothing has changed.
            if self.left.remove(range).is_ok() {
                self.nr_blocks += 1;
                return Ok(BootBlock { range });
            }
        }
        Err(OutOfBootMemory { wanted: nr_frames, align, left: self.left.nr_frames() })
    }

    /// Gives out one frame.
    pub fn alloc_page(&mut self) -> Result<BootBlock, OutOfBootMemory> {
        self.alloc(1, Order::PAGE)
    }

    /// How much of the region went where so far.
    pub fn stats(&self) -> BootStats {
        let (left, reserved) = (self.left.nr_frames(), self.reserved.nr_frames());
        BootStats {
            nr_blocks: self.nr_blocks,
            given: self.region.nr_frames() - left - reserved,
            reserved,
            left,
            largest_left: self.left.iter().map(MfnRange::nr_frames).max().unwrap_or(0),
        }
    }

    /// Ends the boot allocator: what was given out stays as it is, what is left is the caller's.
    pub fn finish(self) -> BootLeft {
        let stats = self.stats();
        BootLeft { region: self.region, left: self.left, reserved: self.reserved, stats }
    }
}

/// The lowest aligned range of `nr_frames` in `piece`.
fn lowest_in(piece: MfnRange, nr_frames: u64, align: Order) -> Option<MfnRange> {
    let start = piece.start().next_multiple_of(align.nr_frames());
    MfnRange::try_new(Mfn::try_new(start).ok()?, nr_frames).ok().filter(|range| piece.contains_range(*range))
}

/// What the boot allocator leaves behind.
#[derive(Debug)]
pub struct BootLeft {
    region: MfnRange,
    left: RangeSet<MAX_PIECES>,
    reserved: RangeSet<MAX_PIECES>,
    stats: BootStats,
}

impl BootLeft {
    /// The ranges left, ascending: for the heap of small objects.
    pub fn left(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.left.iter()
    }

    /// The ranges reserved, ascending, the breadcrumb page first. The others may be used once they have been read.
    pub fn reserved(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.reserved.iter()
    }

    /// The ranges given out, ascending; blocks that touch are one range.
    pub fn given_out(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.left.complement_in(self.region).flat_map(|used| self.reserved.complement_in(used))
    }

    /// How much of the region went where.
    pub const fn stats(&self) -> BootStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::RegionSpec;
    use crate::memmap::{FirmwareEntry, MemMap};
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec;
    use std::vec::Vec;

    const BASE: u64 = 0x1000;
    const NR: u64 = 0x400;

    fn region() -> LuRegion {
        let ram = FirmwareEntry { start: 1 << 20, len_bytes: 1 << 30, number: 1 };
        let spec = RegionSpec { len_bytes: NR << 12, start: Some(BASE << 12) };
        let map = MemMap::from_firmware([ram]).unwrap();
        LuRegion::place(Some(spec), &map, &RangeSet::<1>::new(), &RangeSet::<1>::new(), 0).unwrap()
    }

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::between(start, end).unwrap()
    }

    fn new(reserved: &[MfnRange]) -> BootAlloc {
        BootAlloc::new(&region(), reserved).unwrap()
    }

    #[test]
    fn low_addresses_first_behind_what_is_reserved() {
        let mut boot = new(&[range(BASE + 1, BASE + 4), range(0, 10), range(BASE + NR - 1, BASE + NR + 50)]);
        assert_eq!(boot.alloc(2, Order::PAGE).unwrap().range(), range(BASE + 4, BASE + 6));
        assert_eq!(boot.alloc(8, Order::new(4)).unwrap().range(), range(BASE + 16, BASE + 24));
        // The gap that the alignment left is used before anything higher.
        assert_eq!(boot.alloc_page().unwrap().range(), range(BASE + 6, BASE + 7));
        assert_eq!(boot.alloc(10, Order::PAGE).unwrap().range(), range(BASE + 24, BASE + 34));
        assert!(boot.alloc(0, Order::MAX).unwrap().range().is_empty());
        let expected = BootStats {
            nr_blocks: 4,
            given: 2 + 8 + 1 + 10,
            reserved: 1 + 3 + 1,
            left: NR - 21 - 5,
            largest_left: NR - 1 - 34,
        };
        assert_eq!(boot.stats(), expected);
        let left = boot.finish();
        assert_eq!(left.stats(), expected);
        assert_eq!(left.reserved().collect::<Vec<_>>(), [range(BASE, BASE + 4), range(BASE + NR - 1, BASE + NR)]);
        assert_eq!(left.left().collect::<Vec<_>>(), [range(BASE + 7, BASE + 16), range(BASE + 34, BASE + NR - 1)]);
        let given = [range(BASE + 4, BASE + 7), range(BASE + 16, BASE + 34)];
        assert_eq!(left.given_out().collect::<Vec<_>>(), given);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let mut boot = new(&[]);
        // The first chunk lacks its breadcrumb page.
        assert_eq!(boot.alloc(512, Order::CHUNK).unwrap().range(), range(BASE + 512, BASE + 1024));
        let refused = OutOfBootMemory { wanted: 512, align: Order::CHUNK, left: 511 };
        assert_eq!(boot.alloc(512, Order::CHUNK), Err(refused));
        assert!(refused.to_string().contains("512 frames aligned to 512, 511 frames are left"), "{refused}");
        assert_eq!(boot.alloc(u64::MAX, Order::PAGE).unwrap_err().wanted, u64::MAX);
        assert_eq!(boot.alloc(1, Order::MAX).unwrap_err().left, 511);
        assert_eq!(boot.alloc(511, Order::PAGE).unwrap().range(), range(BASE + 1, BASE + 512));
        assert_eq!(boot.alloc_page().unwrap_err().left, 0);
        assert_eq!(boot.finish().left().count(), 0);
    }

    #[test]
    fn everything_reserved_leaves_nothing() {
        let mut boot = new(&[range(0, 1 << 40)]);
        assert_eq!(boot.alloc_page(), Err(OutOfBootMemory { wanted: 1, align: Order::PAGE, left: 0 }));
        assert_eq!(boot.stats(), BootStats { reserved: NR, ..BootStats::default() });
    }

    #[test]
    fn more_reserved_pieces_than_can_be_remembered_are_refused() {
        let many: Vec<_> = (1..=MAX_PIECES as u64).map(|i| range(BASE + 2 * i, BASE + 2 * i + 1)).collect();
        assert!(BootAlloc::new(&region(), &many).is_err());
        assert!(BootAlloc::new(&region(), &many[1..]).is_ok());
    }

    #[test]
    fn with_all_gaps_in_use_a_block_goes_where_it_needs_none() {
        let mut boot = new(&[]);
        // Every block at a multiple of 8 leaves a gap of seven frames in front of the next.
        let mut starts = vec![];
        for _ in 0..MAX_PIECES - 1 {
            starts.push(boot.alloc(1, Order::new(3)).unwrap().range().start());
        }
        assert_eq!(starts, (1..MAX_PIECES as u64).map(|i| BASE + 8 * i).collect::<Vec<_>>());
        assert_eq!(boot.left.len(), MAX_PIECES);
        // In the middle of a gap of seven frames there is room, but not for remembering two halves of it.
        assert_eq!(
            boot.alloc(1, Order::new(2)),
            Err(OutOfBootMemory { wanted: 1, align: Order::new(2), left: NR - 1 - 63 })
        );
        // At the start of a gap there is.
        assert_eq!(boot.alloc(1, Order::PAGE).unwrap().range().start(), BASE + 1);
    }

    fn request() -> impl Strategy<Value = (u64, Order)> {
        let nr_frames = prop_oneof![4 => 0..6u64, 2 => 0..80u64, 1 => 0..NR * 2];
        (nr_frames, prop_oneof![3 => 0..3u8, 1 => 0..=10u8].prop_map(Order::new))
    }

    proptest! {
        #[test]
        fn behaves_as_a_bitmap(
            reserved in prop::collection::vec((BASE - 50..BASE + NR + 50, 0..60u64), 0..5),
            requests in prop::collection::vec(request(), 0..30),
        ) {
            let reserved: Vec<_> = reserved.iter().map(|&(start, len)| range(start, start + len)).collect();
            let mut boot = new(&reserved);
            // One letter a frame: free, reserved or given.
            let mut bitmap = vec![b'f'; NR as usize];
            bitmap[0] = b'r';
            for mfn in reserved.iter().flat_map(|r| r.iter()).filter(|mfn| region().contains(*mfn)) {
                bitmap[(mfn.get() - BASE) as usize] = b'r';
            }
            for (nr_frames, align) in requests {
                let fits = |at: &u64| {
                    (BASE + at).is_multiple_of(align.nr_frames())
                        && at + nr_frames <= NR
                        && bitmap[*at as usize..(at + nr_frames) as usize].iter().all(|&b| b == b'f')
                };
                let expected = (0..NR).find(fits);
                let nr_free = bitmap.iter().filter(|&&b| b == b'f').count() as u64;
                match boot.alloc(nr_frames, align) {
                    Ok(block) if nr_frames == 0 => prop_assert!(block.range().is_empty()),
                    Ok(block) => {
                        let at = expected.unwrap();
                        prop_assert_eq!(block.range(), range(BASE + at, BASE + at + nr_frames));
                        bitmap[at as usize..(at + nr_frames) as usize].fill(b'g');
                    }
                    Err(refused) => {
                        // Thirty requests never run out of pieces, so the bitmap knows no place either.
                        prop_assert_eq!(expected, None);
                        prop_assert_eq!(refused, OutOfBootMemory { wanted: nr_frames, align, left: nr_free });
                    }
                }
            }
            let left = boot.finish();
            let mut seen = vec![0u8; NR as usize];
            let parts = left.left().map(|r| (r, b'f')).chain(left.reserved().map(|r| (r, b'r'))).chain(left.given_out().map(|r| (r, b'g')));
            for (part, letter) in parts {
                for mfn in part.iter() {
                    let at = (mfn.get() - BASE) as usize;
                    prop_assert_eq!(seen[at], 0, "in two parts");
                    seen[at] = letter;
                }
            }
            prop_assert_eq!(&seen, &bitmap);
            let count = |letter| bitmap.iter().filter(|&&b| b == letter).count() as u64;
            let stats = left.stats();
            prop_assert_eq!((stats.given, stats.reserved, stats.left), (count(b'g'), count(b'r'), count(b'f')));
        }
    }
}
