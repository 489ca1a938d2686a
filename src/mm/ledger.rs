//! The ledger: every frame counted by what it is (I8).
//!
//! It is counted from the chunk entries alone, a step for each chunk or free block: a split chunk carries its counts. Every boot prints it
//! as one line, and a frame that is missing ends the boot's verdict in ERROR.

use super::frametable::{Chunk, Class, FrameState, FrameTable, chunks_in};
use crate::frame::{CHUNK_FRAMES, Mfn};
use core::fmt;

/// All frames below some frame number, by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Frames there are.
    pub total: u64,
    /// Owned by domains, or preserved by the hypervisor ([`DomId::XEN`](crate::frame::DomId::XEN)).
    pub claims: u64,
    /// In the buddy heap.
    pub free: u64,
    /// The hypervisor's own, from the buddy heap.
    pub heap: u64,
    /// In the live-update region.
    pub region: u64,
    /// In the slot of the running image.
    pub image: u64,
    /// Pages of the stream ([`DomId::STREAM`](crate::frame::DomId::STREAM)).
    pub stream: u64,
    /// Not RAM, or reserved ([`DomId::IO`](crate::frame::DomId::IO)).
    pub holes: u64,
    /// RAM that is neither claimed nor free. None is left when memory has been plugged in.
    pub unclaimed: u64,
}

impl Ledger {
    /// Counts the frames `[0, end)`; those behind the table are holes. Changes at the same time make it wrong, so
    /// [`Frames::ledger`](super::frametable::Frames::ledger) does it under the lock.
    pub fn count(table: &FrameTable, end: u64) -> Self {
        let mut ledger = Self { total: end, ..Self::default() };
        let behind = end.saturating_sub(table.nr_frames());
        ledger.add(Class::Hole, behind);
        let end = end - behind;
        let mut at = 0;
        while at < end {
            let mfn = Mfn::new(at);
            let left = end - at;
            at += match table.chunk(mfn.chunk()) {
                Chunk::Free { order, .. } => {
                    let nr_frames = chunks_in(order) as u64 * CHUNK_FRAMES;
                    ledger.add(Class::Free, nr_frames.min(left));
                    nr_frames
                }
                Chunk::Split { counts, .. } if left >= CHUNK_FRAMES => {
                    for class in Class::ALL {
                        ledger.add(class, counts.get(class));
                    }
                    CHUNK_FRAMES
                }
                // The last chunk, in part.
                Chunk::Split { .. } => {
                    for mfn in (at..end).map(Mfn::new) {
                        match table.state_of(mfn) {
                            FrameState::Owned { owner } => ledger.add(Class::of_owner(owner), 1),
                            FrameState::Free => ledger.add(Class::Free, 1),
                            FrameState::Unclaimed => ledger.add(Class::Unclaimed, 1),
                            _ => ledger.add(Class::Private, 1),
                        }
                    }
                    CHUNK_FRAMES
                }
                chunk => {
                    let nr_frames = CHUNK_FRAMES.min(left);
                    match chunk {
                        Chunk::Region => ledger.region += nr_frames,
                        Chunk::Image => ledger.image += nr_frames,
                        Chunk::Unclaimed => ledger.add(Class::Unclaimed, nr_frames),
                        Chunk::Private => ledger.add(Class::Private, nr_frames),
                        Chunk::Owned { owner } => ledger.add(Class::of_owner(owner), nr_frames),
                        Chunk::NotRam => ledger.add(Class::Hole, nr_frames),
                        // A tail whose block was not met is nobody's: it shows as a mismatch.
                        Chunk::FreeTail | Chunk::Free { .. } | Chunk::Split { .. } => {}
                    }
                    CHUNK_FRAMES
                }
            };
        }
        ledger
    }

    fn add(&mut self, class: Class, n: u64) {
        let field = match class {
            Class::Unclaimed => &mut self.unclaimed,
            Class::Free => &mut self.free,
            Class::Private => &mut self.heap,
            Class::Claimed => &mut self.claims,
            Class::Stream => &mut self.stream,
            Class::Hole => &mut self.holes,
        };
        *field += n;
    }

    /// All that is accounted for.
    pub const fn sum(&self) -> u64 {
        self.claims + self.free + self.heap + self.region + self.image + self.stream + self.holes
    }

    /// True if every frame is accounted for, and none is left unclaimed.
    pub const fn is_balanced(&self) -> bool {
        self.sum() == self.total && self.unclaimed == 0
    }
}

/// The line of the console, without its time stamp; it begins with `ledger: MISMATCH` if a frame is missing.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, claims, free, heap, region, image, stream, holes, unclaimed } = self;
        let parts = format_args!(
            "claims {claims} + free {free} + heap {heap} + region {region} + image {image} + stream {stream} + \
             holes {holes} (frames)"
        );
        if self.is_balanced() {
            write!(f, "ledger: total {total} = {parts}")
        } else {
            let sum = self.sum();
            write!(f, "ledger: MISMATCH total {total}, found {sum} = {parts}, unclaimed {unclaimed}")
        }
    }
}
