//! Table and heap under one lock: what the kernel holds once, for ever.

use super::{
    BlockState, ChunkEntry, ClaimError, Claimer, Fill, FrameState, FrameTable, GetPageError, InitError, ReleaseError,
    SplitPool, SplitSlab, packed,
};
use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, Order};
use crate::mm::buddy::{
    Block, DomBlock, Heap, HeapStats, InsertError, IntoDomainRefused, MapSplits, Retired, Scrubbed, ValidateError,
};
use crate::mm::ledger::Ledger;
use crate::mm::marks::Marks;
use crate::mm::page_info::{CountFlags, NoPage, PageInfo, PageLookup};

/// All frames of the machine. Its lock is the innermost one: whoever holds it takes no other.
pub struct Frames {
    table: FrameTable,
    heap: spin::Mutex<Heap>,
}

/// The frames, locked: for many operations in a row.
pub struct LockedFrames<'a> {
    table: &'a FrameTable,
    heap: spin::MutexGuard<'a, Heap>,
}

impl Frames {
    /// Frames of which nothing is known yet. `entries` has one for each 2 MiB from address 0 on, with anything in it; of `blocks`, all zero, there are
    /// [`blocks_for`](super::blocks_for) so many. `slabs` are empty and nobody else's; [`NR_SLABS`](super::NR_SLABS) of them are enough.
    pub const fn new(
        entries: &'static [ChunkEntry],
        blocks: &'static [BlockState],
        slabs: &'static [SplitSlab],
    ) -> Self {
        Self { table: FrameTable::new(entries, blocks, slabs), heap: spin::Mutex::new(Heap::new(slabs)) }
    }

    /// Takes the lock for several operations.
    pub fn lock(&self) -> LockedFrames<'_> {
        LockedFrames { table: &self.table, heap: self.heap.lock() }
    }

    /// The table, to read.
    pub fn table(&self) -> &FrameTable {
        &self.table
    }

    /// What a frame is.
    pub fn state_of(&self, mfn: Mfn) -> FrameState {
        self.table.state_of(mfn)
    }

    /// Who owns a frame, if anybody does.
    pub fn owner_of(&self, mfn: Mfn) -> Option<DomId> {
        self.table.owner_of(mfn)
    }

    /// See [`FrameTable::claim`].
    pub fn claim(&self, range: MfnRange, owner: DomId) -> Result<(), ClaimError> {
        self.lock().claim(range, owner)
    }

    /// See [`Heap::retire`].
    pub fn retire(&self, mfn: Mfn) -> Retired {
        self.lock().retire(mfn)
    }

    /// See [`Heap::reinstate`].
    pub fn reinstate(&self, mfn: Mfn) -> bool {
        self.lock().reinstate(mfn)
    }

    /// See [`FrameTable::withhold`].
    pub fn withhold(&self, range: MfnRange, owner: Option<DomId>) -> Result<(), ClaimError> {
        self.lock().withhold(range, owner)
    }

    /// See [`Heap::release`].
    pub fn release(&self, range: MfnRange, owner: DomId) -> Result<(), ReleaseError> {
        self.lock().release(range, owner)
    }

    /// See [`Heap::relinquish`].
    pub fn relinquish(&self, range: MfnRange, owner: DomId) -> Result<u64, ReleaseError> {
        self.lock().relinquish(range, owner)
    }

    /// See [`Heap::plug_in`].
    pub fn plug_in(&self, map: MapSplits) -> u64 {
        self.lock().plug_in(map)
    }

    /// See [`Heap::plug_in_more`].
    pub fn plug_in_more(&self) -> bool {
        self.lock().plug_in_more()
    }

    /// See [`Heap::alloc`].
    pub fn alloc(&self, order: Order) -> Option<Block> {
        self.lock().alloc(order)
    }

    /// See [`Heap::alloc_below`].
    pub fn alloc_below(&self, order: Order, limit: u64) -> Option<Block> {
        self.lock().alloc_below(order, limit)
    }

    /// See [`Heap::free`].
    pub fn free(&self, block: Block) {
        self.lock().free(block);
    }

    /// See [`Heap::split`].
    pub fn split(&self, block: Block) -> Result<(Block, Block), Block> {
        self.lock().split(block)
    }

    /// Gives a block to a domain. See [`Heap::into_domain`].
    pub fn into_domain(&self, block: Scrubbed, owner: DomId) -> Result<DomBlock, IntoDomainRefused> {
        self.lock().into_domain(block, owner, CountFlags::empty())
    }

    /// See [`Heap::preserve`].
    pub fn preserve(&self, block: Block) -> Result<DomBlock, IntoDomainRefused> {
        self.lock().preserve(block)
    }

    /// Gives a block to a domain, with flags. See [`Heap::into_domain`].
    pub fn into_domain_with(
        &self,
        block: Scrubbed,
        owner: DomId,
        flags: CountFlags,
    ) -> Result<DomBlock, IntoDomainRefused> {
        self.lock().into_domain(block, owner, flags)
    }

    /// True if `owner` has given a frame up and something still refers to it: [`PageInfo::is_lingering`].
    pub fn is_lingering(&self, mfn: Mfn, owner: DomId) -> bool {
        self.table.record(mfn).is_some_and(|page| page.is_lingering(owner))
    }

    /// The record of a frame, with a reference taken for `owner`. In contrast to [`PageLookup::page`] and then [`PageInfo::get_page`], nobody can
    /// free the frame in between.
    pub fn get_page(&self, mfn: Mfn, owner: DomId) -> Result<&PageInfo, GetPageError> {
        let mut locked = self.lock();
        let page = locked.page(mfn).map_err(GetPageError::NoPage)?;
        page.get_page(owner).map_err(GetPageError::Ref)?;
        Ok(page)
    }

    /// All frames of the table, counted by what they are (I8), when all that will be plugged in is.
    pub fn ledger(&self) -> Ledger {
        self.plugged_in().ledger()
    }

    /// See [`Heap::stats`]: when all that will be plugged in is.
    pub fn stats(&self) -> HeapStats {
        self.plugged_in().stats()
    }

    /// See [`Heap::validate`]: when all that will be plugged in is.
    pub fn validate(&self) -> Result<(), ValidateError> {
        self.plugged_in().validate()
    }

    fn plugged_in(&self) -> LockedFrames<'_> {
        let mut locked = self.lock();
        locked.heap.plug_in_rest(locked.table);
        locked
    }
}

impl LockedFrames<'_> {
    /// The pool of page records, to feed it during boot.
    pub fn pool(&mut self) -> &mut SplitPool {
        self.heap.pool()
    }

    /// See [`FrameTable::init_ram`].
    pub fn init_ram(&mut self, range: MfnRange) -> Result<(), InitError> {
        match self.table.init_ram(self.heap.pool(), range) {
            Err(InitError::NoRecords { needed, .. }) if self.heap.reserve_splits(self.table, needed) => {
                self.table.init_ram(self.heap.pool(), range)
            }
            done => done,
        }
    }

    /// See [`FrameTable::init_region`].
    pub fn init_region(&mut self, range: MfnRange) -> Result<(), InitError> {
        self.table.init_region(range)
    }

    /// See [`FrameTable::init_image`].
    pub fn init_image(&mut self, range: MfnRange) -> Result<(), InitError> {
        self.table.init_image(range)
    }

    /// For claims of a domain that come one after the other.
    pub fn claimer(&mut self, owner: DomId) -> Claimer<'_> {
        Claimer::new(self, owner)
    }

    pub(super) fn table(&self) -> &FrameTable {
        self.table
    }

    /// See [`FrameTable::claim`]. Once the heap has memory it provides the page records.
    pub fn claim(&mut self, range: MfnRange, owner: DomId) -> Result<(), ClaimError> {
        match self.table.claim(self.heap.pool(), range, owner) {
            Err(ClaimError::NoRecords { needed, .. }) if self.heap.reserve_splits(self.table, needed) => {
                self.table.claim(self.heap.pool(), range, owner)
            }
            done => done,
        }
    }

    /// See [`Heap::retire`].
    pub fn retire(&mut self, mfn: Mfn) -> Retired {
        self.heap.retire(self.table, mfn)
    }

    /// See [`Heap::reinstate`].
    pub fn reinstate(&mut self, mfn: Mfn) -> bool {
        self.heap.reinstate(self.table, mfn)
    }

    /// See [`Heap::nr_broken`].
    pub fn nr_broken(&self) -> u64 {
        self.heap.nr_broken()
    }

    /// See [`FrameTable::withhold`]. Once the heap has memory it provides the page records.
    pub fn withhold(&mut self, range: MfnRange, owner: Option<DomId>) -> Result<(), ClaimError> {
        match self.table.withhold(self.heap.pool(), range, owner) {
            Err(ClaimError::NoRecords { needed, .. }) if self.heap.reserve_splits(self.table, needed) => {
                self.table.withhold(self.heap.pool(), range, owner)
            }
            done => done,
        }
    }

    /// See [`Heap::release`].
    pub fn release(&mut self, range: MfnRange, owner: DomId) -> Result<(), ReleaseError> {
        self.heap.release(self.table, range, owner)
    }

    /// See [`Heap::relinquish`].
    pub fn relinquish(&mut self, range: MfnRange, owner: DomId) -> Result<u64, ReleaseError> {
        self.heap.relinquish(self.table, range, owner)
    }

    /// See [`Heap::plug_in`].
    pub fn plug_in(&mut self, map: MapSplits) -> u64 {
        self.heap.plug_in(self.table, map)
    }

    /// See [`Heap::plug_in_later`].
    pub fn plug_in_later(&mut self, map: MapSplits) {
        self.heap.plug_in_later(self.table, map);
    }

    /// See [`Heap::plug_in_more`].
    pub fn plug_in_more(&mut self) -> bool {
        self.heap.plug_in_more(self.table)
    }

    /// See [`Heap::insert`].
    pub fn insert(&mut self, range: MfnRange) -> Result<(), InsertError> {
        self.heap.insert(self.table, range)
    }

    /// See [`Heap::alloc`].
    pub fn alloc(&mut self, order: Order) -> Option<Block> {
        self.heap.alloc(self.table, order)
    }

    /// See [`Heap::alloc_below`].
    pub fn alloc_below(&mut self, order: Order, limit: u64) -> Option<Block> {
        self.heap.alloc_below(self.table, order, limit)
    }

    /// See [`Heap::free`].
    pub fn free(&mut self, block: Block) {
        self.heap.free(self.table, block);
    }

    /// See [`Heap::split`].
    pub fn split(&mut self, block: Block) -> Result<(Block, Block), Block> {
        self.heap.split(self.table, block)
    }

    /// See [`Heap::into_domain`].
    pub fn into_domain(
        &mut self,
        block: Scrubbed,
        owner: DomId,
        flags: CountFlags,
    ) -> Result<DomBlock, IntoDomainRefused> {
        self.heap.into_domain(self.table, block, owner, flags)
    }

    /// See [`Heap::preserve`].
    pub fn preserve(&mut self, block: Block) -> Result<DomBlock, IntoDomainRefused> {
        self.heap.preserve(self.table, block)
    }

    /// See [`Heap::free_unreferenced`].
    pub fn free_unreferenced(&mut self, mfn: Mfn) -> Result<(), FrameState> {
        self.heap.free_unreferenced(self.table, mfn)
    }

    /// See [`Heap::drain`].
    pub fn drain(&mut self) {
        self.heap.drain(self.table);
    }

    /// All frames of the table, counted by what they are (I8).
    pub fn ledger(&self) -> Ledger {
        Ledger::count(self.table, self.table.nr_frames())
    }

    /// See [`Heap::stats`].
    pub fn stats(&self) -> HeapStats {
        self.heap.stats(self.table)
    }

    /// See [`Heap::validate`].
    pub fn validate(&self) -> Result<(), ValidateError> {
        self.heap.validate(self.table)
    }

    fn page(&mut self, mfn: Mfn) -> Result<&'static PageInfo, NoPage> {
        let chunk = mfn.chunk() as usize;
        let entry = self.table.entries().get(chunk).ok_or(NoPage::NotRam)?;
        if entry.word() & packed::KIND == packed::OWNED
            && let FrameState::Owned { owner } = self.table.state_of(mfn)
            && owner != DomId::IO
        {
            if !self.heap.reserve_splits(self.table, 1) {
                return Err(NoPage::NoMemory);
            }
            self.table.split(self.heap.pool(), chunk, Fill::Owned(owner)).ok_or(NoPage::NoMemory)?;
        }
        record_of(self.table, mfn)
    }
}

/// A domain's frame's record, if the chunk is split.
fn record_of(table: &FrameTable, mfn: Mfn) -> Result<&'static PageInfo, NoPage> {
    match table.record(mfn) {
        Some(page) => match page.owner() {
            Some(owner) if owner == DomId::IO => Err(NoPage::NotRam),
            Some(_) => Ok(page),
            None => Err(NoPage::NotOwned),
        },
        None => match table.state_of(mfn) {
            FrameState::NotRam | FrameState::Owned { .. } => Err(NoPage::NotRam),
            _ => Err(NoPage::NotOwned),
        },
    }
}

impl PageLookup for Frames {
    fn page(&self, mfn: Mfn) -> Result<&PageInfo, NoPage> {
        let entry = self.table.entries().get(mfn.chunk() as usize).ok_or(NoPage::NotRam)?;
        if entry.word() & packed::KIND == packed::OWNED {
            return self.lock().page(mfn);
        }
        record_of(&self.table, mfn)
    }

    fn records(&self, chunk: u64) -> Option<&[PageInfo; CHUNK_FRAMES as usize]> {
        let id = self.table.entries().get(usize::try_from(chunk).ok()?)?.split_id()?;
        Some(self.table.split_at(id).pages())
    }

    /// A split is taken without marks, and is given back when none of its pages has an owner.
    fn marks(&self, chunk: u64) -> Option<(&Marks, &[PageInfo; CHUNK_FRAMES as usize])> {
        let id = self.table.entries().get(usize::try_from(chunk).ok()?)?.split_id()?;
        let split = self.table.split_at(id);
        Some((split.vacant().marks(), split.pages()))
    }

    /// # Panics
    /// If somebody has a reference, or the frame is nobody's (I6: the last reference has one holder).
    fn free_page(&self, mfn: Mfn) {
        if let Err(found) = self.lock().free_unreferenced(mfn) {
            panic!("frame {mfn} cannot be freed, it {found} (I6)");
        }
    }
}
