//! Blocks as owned values: what is taken from the heap can be given back once, and what domains take has come from the heap.

use crate::frame::{DomId, Mfn, MfnRange, Order};
use crate::mm::physmem::PhysMem;

/// A block of the heap, the hypervisor's own until it is given back or given to a domain. Dropping the value keeps the memory for ever.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is lost"]
pub struct Block {
    mfn: Mfn,
    order: Order,
}

impl Block {
    pub(super) const fn new(mfn: Mfn, order: Order) -> Self {
        Self { mfn, order }
    }

    pub(super) const fn into_parts(self) -> (Mfn, Order) {
        (self.mfn, self.order)
    }

    /// The lower and the upper half, unless it is a single page.
    pub(super) fn halves(self) -> Result<(Self, Self), Self> {
        let Some(half) = self.order.smaller() else { return Err(self) };
        Ok((Self::new(self.mfn, half), Self::new(self.mfn.offset(half.nr_frames()), half)))
    }

    /// Writes zeros all over it: whoever had it before, nobody learns of what was in it.
    pub fn scrub(self, mem: &impl PhysMem) -> Scrubbed {
        mem.zero(self.mfn.maddr(), self.order.len_bytes());
        Scrubbed(self)
    }

    /// The first frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The size.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The frames.
    pub const fn range(&self) -> MfnRange {
        MfnRange::new(self.mfn, self.order.nr_frames())
    }
}

/// A block that was scrubbed since it was taken from the heap: the only kind that becomes a guest's.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is lost"]
pub struct Scrubbed(Block);

impl Scrubbed {
    /// The first frame.
    pub const fn mfn(&self) -> Mfn {
        self.0.mfn
    }

    /// The size.
    pub const fn order(&self) -> Order {
        self.0.order
    }

    /// The frames.
    pub const fn range(&self) -> MfnRange {
        self.0.range()
    }

    /// For the hypervisor's own use, or back to the heap.
    pub fn into_block(self) -> Block {
        self.0
    }
}

/// A block that a domain owns: what guest memory, shared pages and everything else that has to survive an update is made of. It can be made from
/// a heap's [`Block`] only, by [`Frames::into_domain`](crate::mm::frametable::Frames::into_domain), so region memory cannot become
/// a domain's (I1), and only when that was [scrubbed](Block::scrub) (rule 8 of the [heap](super)).
///
/// This compiles:
///
/// ```
/// use luxen::frame::DomId;
/// use luxen::mm::buddy::{Block, DomBlock};
/// use luxen::mm::frametable::Frames;
/// use luxen::mm::physmem::PhysMem;
///
/// fn give(frames: &Frames, block: Block, to: DomId, mem: &impl PhysMem) -> Option<DomBlock> {
///     frames.into_domain(block.scrub(mem), to).ok()
/// }
/// ```
///
/// Without the scrubbing it does not:
///
/// ```compile_fail
/// use luxen::frame::DomId;
/// use luxen::mm::buddy::{Block, DomBlock};
/// use luxen::mm::frametable::Frames;
///
/// fn give(frames: &Frames, block: Block, to: DomId) -> Option<DomBlock> {
///     frames.into_domain(block, to).ok()
/// }
/// ```
///
/// The same with a block of the region does not:
///
/// ```compile_fail
/// use luxen::frame::DomId;
/// use luxen::mm::bootmem::BootBlock;
/// use luxen::mm::buddy::DomBlock;
/// use luxen::mm::frametable::Frames;
///
/// fn give(frames: &Frames, block: BootBlock, to: DomId) -> Option<DomBlock> {
///     frames.into_domain(block, to).ok()
/// }
/// ```
///
/// Nor can one be made up:
///
/// ```compile_fail
/// use luxen::frame::{DomId, Mfn, Order};
/// use luxen::mm::buddy::Block;
///
/// let block = Block { mfn: Mfn::new(512), order: Order::CHUNK };
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the domain's record of its memory needs to be told of the block"]
pub struct DomBlock {
    mfn: Mfn,
    order: Order,
    owner: DomId,
}

impl DomBlock {
    pub(super) const fn new(block: Block, owner: DomId) -> Self {
        let (mfn, order) = block.into_parts();
        Self { mfn, order, owner }
    }

    /// The first frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The size.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// Whose it is.
    pub const fn owner(&self) -> DomId {
        self.owner
    }

    /// The frames.
    pub const fn range(&self) -> MfnRange {
        MfnRange::new(self.mfn, self.order.nr_frames())
    }
}
