//! Hosts that are made up: real frametable, real heap, real page records; the RAM that they describe is not there.
//!
//! ```text
//!  0    4 MiB   8 MiB    16 MiB           64 MiB                                  end
//!  ├ RAM ┼ image ┼ RAM ───┼ region, 32 MiB ┼─┼ guests, or free memory ────────────┤
//! ```

use crate::memory::Huge;
use luxen::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, PAGE_SIZE};
use luxen::lu::claims::{Claims, NoRoom};
use luxen::mm::frametable::{
    BlockState, ChunkEntry, ClaimError, Frames, InitError, MAX_CHUNKS, NR_SLABS, Split, SplitSlab, blocks_for,
    boot_slab_splits,
};
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

/// A gibibyte, in frames.
pub const GIB: u64 = (1 << 30) / PAGE_SIZE;
/// A tebibyte, in frames.
pub const TIB: u64 = 1024 * GIB;
/// The first frame that guests have.
pub const FIRST_GUEST: u64 = (64 << 20) / PAGE_SIZE;
/// Frames of the region and the image.
pub const NR_KEPT: u64 = REGION.nr_frames() + IMAGE.nr_frames();
/// RAM below the guests that is free once memory is plugged in. Frame 0 is nobody's.
pub const FREE_BELOW: [(u64, u64); 3] = [(1, 0x400), (0x800, 0x1000), (0x3000, FIRST_GUEST)];
/// The most that a frametable describes.
pub const MOST: u64 = MAX_CHUNKS as u64 * CHUNK_FRAMES;

/// Extents in one record of a stream at the most.
const MOST_IN_RECORD: usize = 0x1_0000;
const IMAGE: MfnRange = MfnRange::new(Mfn::new(0x400), 0x400);
const REGION: MfnRange = MfnRange::new(Mfn::new(0x1000), 0x2000);

/// Where page records come from: handed out from the front, all at once given back by the next host.
struct Arena {
    memory: Rc<Huge>,
    used: usize,
}

thread_local! {
    static ARENA: RefCell<Option<Arena>> = const { RefCell::new(None) };
}

/// Page records, zeroed when they are asked for, as the hypervisor does. None if the arena is used up.
#[expect(unsafe_code, reason = "bytes become page records")]
fn take_splits(nr_splits: usize) -> Option<&'static [Split]> {
    ARENA.with_borrow_mut(|arena| {
        let Arena { memory, used } = arena.as_mut()?;
        let len = nr_splits * size_of::<Split>();
        (*used + len <= memory.len()).then_some(())?;
        // SAFETY: what is behind `used` is nobody's. A host borrows the memory for as long as it lives, so it is not dropped; only page records are
        // ever made of it.
        let splits = unsafe { memory.slice::<Split>(*used, nr_splits) };
        // SAFETY: as above; zeros are a value of the type.
        unsafe { splits.as_ptr().cast_mut().write_bytes(0, nr_splits) }
        *used += len;
        Some(splits)
    })
}

fn map_splits(_first: Mfn, nr_frames: u64) -> &'static [Split] {
    take_splits((nr_frames * PAGE_SIZE) as usize / size_of::<Split>()).unwrap_or(&[])
}

/// The memory in which hosts are made, one at a time.
pub struct HostMemory {
    entries: Huge,
    splits: Rc<Huge>,
}

impl HostMemory {
    /// For hosts of `nr_frames` frames at the most, of which `nr_split_frames` have a life of their own.
    pub fn new(nr_frames: u64, nr_split_frames: u64) -> Self {
        let nr_chunks = nr_frames.div_ceil(CHUNK_FRAMES) as usize;
        // Slabs are taken ahead of need: an eighth of what there is, and a few at the beginning.
        let nr_splits = nr_split_frames.div_ceil(CHUNK_FRAMES) as usize;
        let room = (nr_splits + nr_splits / 4 + 512) * size_of::<Split>();
        Self { entries: Huge::new(nr_chunks * size_of::<ChunkEntry>()), splits: Rc::new(Huge::new(room)) }
    }

    /// A host on which nobody owns anything yet. The one before it must be gone: it borrows the memory.
    #[expect(unsafe_code, reason = "bytes become entries")]
    pub fn host(&mut self, nr_frames: u64) -> Host<'_> {
        let nr_chunks = nr_frames.div_ceil(CHUNK_FRAMES) as usize;
        ARENA.set(Some(Arena { memory: self.splits.clone(), used: 0 }));
        let slabs: &'static [SplitSlab] = Box::leak((0..NR_SLABS).map(|_| SplitSlab::new()).collect());
        // SAFETY: the host borrows the memory for as long as it lives; what is in the entries does not matter.
        let entries = unsafe { self.entries.slice::<ChunkEntry>(0, nr_chunks) };
        let blocks = (0..blocks_for(nr_chunks)).map(|_| BlockState::new()).collect::<Vec<_>>().leak();
        let frames = Frames::new(entries, blocks, slabs);
        let host = Host { frames, nr_frames, _memory: self };
        let ram = MfnRange::between(0, nr_frames).expect("a host is smaller than the machine's limit");
        loop {
            let result = host.frames.lock().init_ram(ram);
            match result {
                Ok(()) => break,
                Err(InitError::NoRecords { needed, .. }) => host.feed(needed),
                Err(error) => panic!("{error}"),
            }
        }
        host.frames.lock().init_region(REGION).expect("the region is RAM");
        host.frames.lock().init_image(IMAGE).expect("the image is RAM");
        host
    }
}

/// A host.
pub struct Host<'m> {
    /// Its frames.
    pub frames: Frames,
    /// How many.
    pub nr_frames: u64,
    _memory: &'m HostMemory,
}

impl Host<'_> {
    /// Claims all extents as a restore does it, record by record; page records come out of the region when there are none left.
    pub fn claim_all(&self, extents: &[Extent]) {
        let mut claims = Claims::new(&self.frames, |needed| {
            self.feed(needed);
            Ok::<(), NoRoom>(())
        });
        for guest in extents.chunk_by(|a, b| a.owner() == b.owner()) {
            for record in guest.chunks(MOST_IN_RECORD) {
                let ranges = record.iter().map(|extent| Ok::<_, Infallible>(extent.range()));
                let Ok(Ok(())) = claims.domain_all(ranges, guest[0].owner()) else { panic!("there is room") };
            }
        }
        assert!(claims.finish().is_empty(), "nobody else has the frames");
    }

    /// The same without records, the lock taken for each extent.
    pub fn claim_each(&self, extents: &[Extent]) {
        for extent in extents {
            self.claim(extent.range(), extent.owner());
        }
    }

    /// Claims one.
    #[inline]
    pub fn claim(&self, range: MfnRange, owner: DomId) {
        while let Err(error) = self.frames.claim(range, owner) {
            match error {
                ClaimError::NoRecords { needed, .. } => self.feed(needed),
                error => panic!("{error}"),
            }
        }
    }

    #[cold]
    fn feed(&self, needed: u64) {
        let wanted = boot_slab_splits(self.frames.lock().pool().nr_slabs()).max(needed);
        let slab = take_splits(wanted as usize).expect("the arena was made large enough");
        self.frames.lock().pool().feed(slab).expect("there is a place for every slab");
    }

    /// Everything that nobody claimed becomes free memory; how many frames that is.
    pub fn plug_in(&self) -> u64 {
        self.frames.plug_in(map_splits)
    }

    /// Bytes of entries and page records.
    pub fn metadata_bytes(&self) -> (u64, u64) {
        let entries = self.nr_frames.div_ceil(CHUNK_FRAMES) * size_of::<ChunkEntry>() as u64;
        (entries, self.frames.lock().pool().nr_total() * size_of::<Split>() as u64)
    }
}

/// A part of a guest's memory, as long as an item of LU_EXTENTS.
#[derive(Clone, Copy)]
pub struct Extent {
    start: u64,
    nr_frames: u32,
    owner: u16,
}

impl Extent {
    /// The frames.
    #[inline(always)]
    pub const fn range(self) -> MfnRange {
        MfnRange::new(Mfn::new(self.start), self.nr_frames as u64)
    }

    /// Whose they are.
    #[inline(always)]
    pub const fn owner(self) -> DomId {
        DomId::new(self.owner)
    }
}

/// How a host is full of guests. No two neighbours could be one extent: either they are different guests', or their pfns do not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// 16 guests one behind the other, in extents of so many frames.
    Blocks(u32),
    /// 16 guests to which extents of so many frames were dealt in turn.
    Dealt(u32),
    /// Every second page is one guest's, every other the other's.
    Alternating,
}

impl Layout {
    /// The extents of `[FIRST_GUEST, nr_frames)`, guest by guest and ascending, as a stream has them.
    pub fn extents(self, nr_frames: u64) -> Vec<Extent> {
        let run = |first: u64, end: u64, len: u32, stride: u64, owner: u16| {
            (first..end).step_by(stride as usize).map(move |start| Extent {
                start,
                nr_frames: u64::from(len).min(end - start) as u32,
                owner,
            })
        };
        match self {
            Self::Blocks(len) => {
                let share = ((nr_frames - FIRST_GUEST) / 16).next_multiple_of(len.into());
                let guest = |i: u64| {
                    let first = (FIRST_GUEST + i * share).min(nr_frames);
                    run(first, (first + share).min(nr_frames), len, len.into(), i as u16 + 1)
                };
                (0..16).flat_map(guest).collect()
            }
            Self::Dealt(len) => {
                let guest =
                    |i: u64| run(FIRST_GUEST + i * u64::from(len), nr_frames, len, 16 * u64::from(len), i as u16 + 1);
                (0..16).flat_map(guest).collect()
            }
            Self::Alternating => {
                (0..2u16).flat_map(|i| run(FIRST_GUEST + u64::from(i), nr_frames, 1, 2, i + 1)).collect()
            }
        }
    }
}

/// Every second extent of so many frames, all one guest's: what is between them is free.
pub fn every_second(len: u32, nr_frames: u64) -> Vec<Extent> {
    let starts = (FIRST_GUEST..nr_frames).step_by(2 * len as usize);
    starts.map(|start| Extent { start, nr_frames: u64::from(len).min(nr_frames - start) as u32, owner: 1 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_layout_fills_the_host_without_overlap() {
        for layout in [
            Layout::Blocks(262_144),
            Layout::Blocks(512),
            Layout::Blocks(16),
            Layout::Dealt(512),
            Layout::Dealt(16),
            Layout::Alternating,
        ] {
            let mut all = BTreeMap::new();
            for extent in layout.extents(GIB) {
                assert!(all.insert(extent.range().start(), extent).is_none());
            }
            let mut at = FIRST_GUEST;
            for extent in all.values() {
                assert_eq!(extent.range().start(), at, "{layout:?}");
                at = extent.range().end();
            }
            assert_eq!(at, GIB, "{layout:?}");
        }
    }

    #[test]
    fn a_host_adds_up_whatever_is_on_it() {
        let mut memory = HostMemory::new(GIB, GIB);
        for layout in [Layout::Blocks(512), Layout::Dealt(16), Layout::Alternating] {
            let host = memory.host(GIB);
            host.claim_all(&layout.extents(GIB));
            let free = host.plug_in();
            let ledger = host.frames.ledger();
            assert!(ledger.is_balanced(), "{ledger}");
            assert_eq!(ledger.claims, GIB - FIRST_GUEST);
            assert_eq!(ledger.free, free);
            // Frame 0 is nobody's.
            assert_eq!(free, FIRST_GUEST - NR_KEPT - 1);
            host.frames.validate().expect("the heap is sound");
        }
    }

    #[test]
    fn half_of_the_host_is_free() {
        let mut memory = HostMemory::new(GIB, GIB);
        let host = memory.host(GIB);
        host.claim_all(&every_second(1, GIB));
        assert_eq!(host.plug_in(), (GIB - FIRST_GUEST) / 2 + FIRST_GUEST - NR_KEPT - 1);
        let (entries, records) = host.metadata_bytes();
        assert_eq!(entries, 512 * 16);
        assert!(records >= (512 - 32) * 512 * 32);
    }
}
