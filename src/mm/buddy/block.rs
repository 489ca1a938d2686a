//! Blocks as owned values: what is taken from the heap can be given back once, and what domains take has come from the heap.

use crate::frame::{DomId, Mfn, MfnRange, Order};

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

/// A block that a domain owns: what guest memory, shared pages and everything else that has to survive an update is made of. It can be made from
/// a heap's [`Block`] only, by [`Frames::into_domain`](crate::mm::frametable::Frames::into_domain), so region memory cannot become
/// a domain's (I1).
///
/// This compiles:
///
/// ```
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
