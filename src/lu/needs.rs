//! What an incoming build needs of the region, computed by the outgoing one from the notes of its image (I11).
//!
//! Everything that the incoming side allocates before free memory is plugged in comes out of the region (I2): its fixed
//! footprint, the frametable's upper level, its page tables, and page records for every chunk of which only a part is
//! RAM or is claimed. What has to grow with the guests' page tables is allocated later, from ordinary memory.
//!
//! Beside bytes there are places: a build keeps its page records in a table of limited length, and the numbers of the stream's
//! frames in memory of limited size. Its image says how many of both it takes.

use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, MfnRange, PAGE_SIZE};
use crate::kexec::image::Needs;
use alloc::collections::BTreeSet;
use core::fmt;

/// Entries of a page table, and bytes that one of level 2 maps.
const TABLE_ENTRIES: u64 = 512;
const GIB: u64 = 1 << 30;
/// A claim may need two splits at a time, of memory that lies together: what is left at the end may be one too few.
const SPARE_SPLITS: u64 = 8;
/// Page tables beside the direct map's and one for each chunk of the image: level 4; levels 3 and 2 and one more of level 1 for an image that begins
/// in the middle of what a table maps; levels 2 and 1 for the local APIC.
const OWN_TABLES: u64 = 6;

/// The machine and what is on it, as far as the incoming side's boot depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// First frame behind the last RAM.
    pub ram_end: u64,
    /// The CPU has pages of 1 GiB.
    pub gib_pages: bool,
    /// Chunks of 2 MiB of which only a part is RAM, or will be claimed.
    pub partial_chunks: u64,
    /// Frames of stream and MFN list.
    pub stream_frames: u64,
}

impl Load {
    /// Chunks for which there will be page records, with what a last claim may need beyond.
    pub const fn nr_splits(&self) -> u64 {
        self.partial_chunks + SPARE_SPLITS
    }
}

/// A limit of the incoming build that the load goes beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// More chunks are partly claimed than it has places for.
    Splits {
        /// Splits that it would have to make.
        needed: u64,
        /// Places that it has.
        places: u64,
    },
    /// The stream is longer than what it can keep in mind.
    StreamFrames {
        /// Frames of the stream.
        needed: u64,
        /// Frames that it takes.
        takes: u64,
    },
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Splits { needed, places } => write!(
                f,
                "guests' memory lies in too many pieces: {needed} chunks of 2 MiB need page records, the next build has places \
                 for {places}; end guests whose memory is scattered, or go to a build with more places"
            ),
            Self::StreamFrames { needed, takes } => write!(
                f,
                "the stream is too long: it has {needed} frames, the next build takes {takes}; end guests whose memory is \
                 scattered, or go to a build that takes more"
            ),
        }
    }
}

/// Checks the load against the places that an image with these needs has.
pub fn check_places(image: &Needs, load: &Load) -> Result<(), Beyond> {
    let (needed, places) = (load.nr_splits(), u64::from(image.max_splits));
    if needed > places {
        return Err(Beyond::Splits { needed, places });
    }
    let (needed, takes) = (load.stream_frames, u64::from(image.max_stream_frames));
    if needed > takes { Err(Beyond::StreamFrames { needed, takes }) } else { Ok(()) }
}

/// What the region is needed for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionNeeds {
    /// Breadcrumb page, and the fixed footprint that the image states.
    pub fixed: u64,
    /// Upper level of the frametable.
    pub frametable: u64,
    /// Page tables: of the direct map, the image and the local APIC.
    pub page_tables: u64,
    /// Page records of chunks that are RAM, or claimed, only in part.
    pub page_records: u64,
}

const fn whole_pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE
}

impl RegionNeeds {
    /// What an image with these needs will allocate under this load.
    pub fn of(image: &Needs, load: &Load) -> Self {
        let ram_bytes = load.ram_end * PAGE_SIZE;
        let gibs = ram_bytes.div_ceil(GIB);
        // With large pages only the last, partial GiB has a table of level 2; without, each has.
        let level2 = if load.gib_pages { 1 } else { gibs };
        let level3 = gibs.div_ceil(TABLE_ENTRIES).max(1);
        let records = TABLE_ENTRIES * u64::from(image.page_info_bytes);
        Self {
            fixed: PAGE_SIZE + whole_pages(image.boot_footprint_bytes),
            frametable: whole_pages(load.ram_end.div_ceil(CHUNK_FRAMES) * u64::from(image.chunk_entry_bytes)),
            page_tables: (level2 + level3 + OWN_TABLES + image.slot_bytes.div_ceil(CHUNK_SIZE)) * PAGE_SIZE,
            page_records: load.nr_splits() * records,
        }
    }

    /// All of it.
    pub const fn total(&self) -> u64 {
        self.fixed + self.frametable + self.page_tables + self.page_records
    }
}

impl fmt::Display for RegionNeeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fixed, frametable, page_tables, page_records } = self;
        let kib = |bytes: &u64| bytes.div_ceil(1024);
        write!(
            f,
            "{} KiB fixed, {} KiB frametable, {} KiB page tables, {} KiB page records",
            kib(fixed),
            kib(frametable),
            kib(page_tables),
            kib(page_records)
        )
    }
}

/// Chunks that the ranges touch without one of them covering the whole chunk.
pub fn partial_chunks(claims: impl IntoIterator<Item = MfnRange>) -> u64 {
    let mut partial = BTreeSet::new();
    // A guest can have as many ranges as pages, most of which cut the chunk that the one before cut.
    let mut last = None;
    for range in claims.into_iter().filter(|range| !range.is_empty()) {
        for cut in [range.start(), range.end()] {
            let chunk = cut / CHUNK_FRAMES;
            if !cut.is_multiple_of(CHUNK_FRAMES) && last != Some(chunk) {
                partial.insert(chunk);
                last = Some(chunk);
            }
        }
    }
    partial.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{DomId, Mfn};
    use crate::mm::frametable::tests::{TEST_SLAB, machine};
    use proptest::prelude::*;
    use std::vec::Vec;

    const IMAGE: Needs = Needs {
        page_info_bytes: 32,
        chunk_entry_bytes: 16,
        stream_min: 1,
        stream_max: 1,
        stream_writes: 1,
        boot_footprint_bytes: 3 << 20,
        features: 0,
        slot_bytes: 4 << 20,
        max_splits: 1000,
        max_stream_frames: 500,
    };
    const LOAD: Load = Load { ram_end: 1 << 18, gib_pages: false, partial_chunks: 10, stream_frames: 40 };

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::between(start, end).unwrap()
    }

    #[test]
    fn only_cut_chunks_need_records() {
        assert_eq!(partial_chunks([range(512, 2048)]), 0);
        assert_eq!(partial_chunks([range(513, 2047)]), 2);
        assert_eq!(partial_chunks([range(513, 600), range(700, 701)]), 1);
        assert_eq!(partial_chunks([range(0, 0)]), 0);
    }

    #[test]
    fn a_terabyte_of_unsplit_guests_needs_little() {
        let load = Load { ram_end: (1 << 40) / PAGE_SIZE, gib_pages: true, partial_chunks: 0, ..LOAD };
        let needs = RegionNeeds::of(&IMAGE, &load);
        // 16 bytes for each 2 MiB are 8 MiB a TiB.
        assert_eq!(needs.frametable, 8 << 20);
        assert!(needs.total() < 64 << 20, "{needs}");
    }

    #[test]
    fn records_follow_the_incoming_builds_size() {
        let wide = Needs { page_info_bytes: 64, ..IMAGE };
        let (a, b) = (RegionNeeds::of(&IMAGE, &LOAD), RegionNeeds::of(&wide, &LOAD));
        assert_eq!(b.page_records, 2 * a.page_records);
        assert_eq!(a.page_records, 18 * 512 * 32);
        // 1 GiB without large pages: a table of level 2 and one of level 3; 4 MiB of image: two of level 1; and six.
        assert_eq!(a.page_tables, 10 * 4096);
    }

    #[test]
    fn places_are_counted_to_the_last() {
        let load = |partial_chunks, stream_frames| Load { partial_chunks, stream_frames, ..LOAD };
        assert_eq!(check_places(&IMAGE, &load(992, 500)), Ok(()));
        let beyond = Beyond::Splits { needed: 1001, places: 1000 };
        assert_eq!(check_places(&IMAGE, &load(993, 500)), Err(beyond));
        assert!(
            std::format!("{beyond}")
                .contains("1001 chunks of 2 MiB need page records, the next build has places for 1000")
        );
        let beyond = Beyond::StreamFrames { needed: 501, takes: 500 };
        assert_eq!(check_places(&IMAGE, &load(992, 501)), Err(beyond));
        assert!(std::format!("{beyond}").contains("it has 501 frames, the next build takes 500"));
    }

    const CHUNKS: u64 = 24;

    /// Disjoint ranges of a machine of [`CHUNKS`] chunks, from gaps and lengths; many begin or end with a chunk.
    fn ranges(steps: &[(u64, u64, bool)]) -> Vec<MfnRange> {
        let (mut at, end) = (1, CHUNKS * CHUNK_FRAMES);
        let mut found = Vec::new();
        for &(gap, len, is_whole) in steps {
            let start = if is_whole { (at + gap).next_multiple_of(CHUNK_FRAMES) } else { at + gap };
            let stop = if is_whole { start + CHUNK_FRAMES * len.div_ceil(CHUNK_FRAMES) } else { start + len };
            if stop > end {
                break;
            }
            found.push(range(start, stop));
            at = stop;
        }
        found
    }

    fn steps(gap: u64, len: u64) -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
        proptest::collection::vec((0..gap, 1..len, any::<bool>()), 1..24)
    }

    proptest! {
        /// What is planned is what boot takes: with as many splits as were counted no claim wants for one, and none is counted for nothing.
        #[test]
        fn claims_need_no_more_splits_than_are_planned(ram in steps(400, 6000), cuts in steps(300, 900), owners: u64) {
            let ram = ranges(&ram);
            let is_ram = |cut: &MfnRange| ram.iter().any(|ram| ram.contains_range(*cut));
            let claims: Vec<MfnRange> = ranges(&cuts).into_iter().filter(is_ram).collect();
            let partial = partial_chunks(ram.iter().chain(&claims).copied());
            let load = Load { partial_chunks: partial, ..LOAD };
            let frames = machine(CHUNKS as usize, load.nr_splits().div_ceil(TEST_SLAB as u64) as usize);
            let total = frames.stats().nr_unused_splits;
            let mut most = 0;
            let mut look = || most = most.max(total - frames.stats().nr_unused_splits);
            for range in &ram {
                frames.lock().init_ram(*range).unwrap();
                look();
            }
            for (n, claim) in claims.iter().enumerate() {
                prop_assert_eq!(frames.claim(*claim, DomId::new(1 + (owners >> (n % 64) & 1) as u16)), Ok(()));
                look();
            }
            prop_assert!(most <= partial, "{} splits, {} planned", most, partial);
            // None was counted for nothing: whatever is not one thing from end to end is split, and is a cut chunk.
            let is_mixed = |chunk: &u64| {
                let mut states = MfnRange::new(Mfn::new(chunk * CHUNK_FRAMES), CHUNK_FRAMES).iter().map(|mfn| frames.state_of(mfn));
                let first = states.next();
                states.any(|state| Some(state) != first)
            };
            let mixed = (0..CHUNKS).filter(is_mixed).count() as u64;
            prop_assert!(mixed <= most, "{} splits, {} chunks are mixed", most, mixed);
        }
    }
}
