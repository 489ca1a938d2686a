//! The table: a chunk entry for every 2 MiB, page records where a chunk is split.

use super::chunk::{Chunk, ChunkEntry, Class, Counts, SplitId, packed};
use super::entries::{BlockState, Entries};
use super::split::{Split, SplitPool, SplitSlab, split_at};
use super::vacant::Vacancy;
use super::{ClaimError, FrameState, InitError};
use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange, Order};
use crate::mm::page_info::PageInfo;
use core::ops::Range;

/// Most chunks that a table describes: 16 TiB of addresses. Links of free lists are 32 bits and name frames, as Xen's are without BIGMEM.
pub const MAX_CHUNKS: usize = 1 << 23;

/// What the 512 records of a fresh split are to say.
#[derive(Clone, Copy)]
pub(in crate::mm) enum Fill {
    Unclaimed,
    Free,
    Private,
    Owned(DomId),
}

/// Part of a chunk: pages `[first, end)` of it.
#[derive(Clone, Copy)]
pub(in crate::mm) struct Part {
    pub chunk: usize,
    pub first: usize,
    pub end: usize,
}

impl Part {
    pub fn is_whole(self) -> bool {
        self.first == 0 && self.end == CHUNK_FRAMES as usize
    }

    pub fn is_empty(self) -> bool {
        self.first == self.end
    }

    pub fn len(self) -> u64 {
        (self.end - self.first) as u64
    }

    /// The block of an order below 9 that begins at the page `first`.
    #[inline(always)]
    pub const fn block(chunk: usize, first: usize, order: Order) -> Self {
        Self { chunk, first, end: first + order.nr_frames() as usize }
    }

    /// The frames.
    pub fn frames(self) -> impl Iterator<Item = Mfn> {
        (self.first..self.end).map(move |index| self.mfn(index))
    }

    /// The frame of the page `index` of the chunk.
    pub fn mfn(self, index: usize) -> Mfn {
        Mfn::new(self.chunk as u64 * CHUNK_FRAMES + index as u64)
    }
}

/// The parts of a range, chunk by chunk.
pub(in crate::mm) fn parts(range: MfnRange) -> impl Iterator<Item = Part> + Clone {
    let (mut at, end) = (range.start(), range.end());
    core::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let base = at & !(CHUNK_FRAMES - 1);
        let stop = end.min(base + CHUNK_FRAMES);
        let part =
            Part { chunk: (at / CHUNK_FRAMES) as usize, first: (at - base) as usize, end: (stop - base) as usize };
        at = stop;
        Some(part)
    })
}

/// A range taken apart into the chunks that it covers whole, and what it has of the chunks before and behind them.
struct Cut {
    head: Part,
    whole: Range<usize>,
    tail: Part,
}

impl Cut {
    fn of(range: MfnRange) -> Self {
        let place = |frame: u64| ((frame / CHUNK_FRAMES) as usize, (frame % CHUNK_FRAMES) as usize);
        let ((first_chunk, first), (end_chunk, end)) = (place(range.start()), place(range.end()));
        let none = Part { chunk: 0, first: 0, end: 0 };
        if first_chunk == end_chunk {
            return Self { head: Part { chunk: first_chunk, first, end }, whole: 0..0, tail: none };
        }
        let tail = Part { chunk: end_chunk, first: 0, end };
        if first == 0 {
            return Self { head: none, whole: first_chunk..end_chunk, tail };
        }
        let head = Part { chunk: first_chunk, first, end: CHUNK_FRAMES as usize };
        Self { head, whole: first_chunk + 1..end_chunk, tail }
    }
}

/// The split that was used last, of a table: a number names the same records for ever, so this never is out of date.
#[derive(Default)]
pub(in crate::mm) struct Near(Option<(SplitId, &'static Split)>);

impl Near {
    /// None was used yet.
    pub const fn new() -> Self {
        Self(None)
    }

    /// The split of a number, which is remembered.
    #[inline(always)]
    pub fn split(&mut self, table: &FrameTable, id: SplitId) -> &'static Split {
        match self.0 {
            Some((last, split)) if last == id => split,
            _ => {
                let split = table.split_at(id);
                self.0 = Some((id, split));
                split
            }
        }
    }
}

/// Who owns which frame. See the [module](super).
pub struct FrameTable {
    entries: Entries,
    slabs: &'static [SplitSlab],
}

impl FrameTable {
    /// A table over `entries`, one for each 2 MiB from address 0 on; those above [`MAX_CHUNKS`] stay unused. What is in them does not matter, as long as
    /// `blocks` are all zero: [`blocks_for`](super::blocks_for) so many chunks. `slabs` are the pool's.
    pub const fn new(
        entries: &'static [ChunkEntry],
        blocks: &'static [BlockState],
        slabs: &'static [SplitSlab],
    ) -> Self {
        let entries = if entries.len() > MAX_CHUNKS { entries.split_at(MAX_CHUNKS).0 } else { entries };
        Self { entries: Entries::new(entries, blocks), slabs }
    }

    /// Frames that the table describes, from frame 0 on.
    pub const fn nr_frames(&self) -> u64 {
        self.entries.len() as u64 * CHUNK_FRAMES
    }

    /// The chunks.
    #[inline(always)]
    pub(in crate::mm) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Records and bits of a split.
    #[inline(always)]
    pub(in crate::mm) fn split_at(&self, id: SplitId) -> &'static Split {
        split_at(self.slabs, id)
    }

    /// What a chunk is; not RAM behind the table's end.
    pub fn chunk(&self, index: u64) -> Chunk {
        usize::try_from(index).ok().and_then(|i| self.entries.get(i)).map_or(Chunk::NotRam, ChunkEntry::get)
    }

    /// What a frame is.
    pub fn state_of(&self, mfn: Mfn) -> FrameState {
        match self.chunk(mfn.chunk()) {
            Chunk::NotRam => FrameState::NotRam,
            Chunk::Unclaimed => FrameState::Unclaimed,
            Chunk::Region => FrameState::Region,
            Chunk::Image => FrameState::Image,
            Chunk::Owned { owner } => FrameState::Owned { owner },
            Chunk::Private => FrameState::Private,
            Chunk::Free { .. } | Chunk::FreeTail => FrameState::Free,
            Chunk::Split { id, .. } => state_in_split(self.split_at(id), mfn.index_in_chunk()),
        }
    }

    /// Who owns a frame, if anybody does. [`DomId::IO`] owns reserved frames, and frames that are not RAM in a chunk that also has RAM.
    pub fn owner_of(&self, mfn: Mfn) -> Option<DomId> {
        match self.state_of(mfn) {
            FrameState::Owned { owner } => Some(owner),
            _ => None,
        }
    }

    /// A frame's record, if its chunk is split.
    pub(in crate::mm) fn record(&self, mfn: Mfn) -> Option<&'static PageInfo> {
        let id = self.entries.get(mfn.chunk() as usize)?.split_id()?;
        Some(&self.split_at(id).pages()[mfn.index_in_chunk()])
    }

    /// Splits a chunk that is not split yet. The records are complete before a reader can find them.
    pub(in crate::mm) fn split(&self, pool: &mut SplitPool, chunk: usize, fill: Fill) -> Option<&'static Split> {
        let owner = if let Fill::Owned(owner) = fill { Some(owner) } else { None };
        let (id, split) = pool.take(owner)?;
        let vacate = |of: Vacancy| {
            split.vacant().set(of, 0, CHUNK_FRAMES as usize);
            of.class()
        };
        let class = match fill {
            Fill::Unclaimed => vacate(Vacancy::Unclaimed),
            Fill::Free => vacate(Vacancy::Free),
            Fill::Private => vacate(Vacancy::Private),
            Fill::Owned(owner) => Class::of_owner(owner),
        };
        let entry = self.entries.own(chunk);
        entry.set_counts(Counts::all(class));
        entry.set_word(packed::split(id));
        Some(split)
    }

    /// Ends a split none of whose pages has an owner: its chunk has become `word` as a whole.
    pub(in crate::mm) fn unsplit(&self, pool: &mut SplitPool, chunk: usize, word: u64) {
        let entry = self.entries.written(chunk);
        let id = entry.split_id().expect("only a split chunk is made whole");
        entry.set_word(word);
        pool.give_back(id);
    }

    /// Tells the table of RAM. A chunk that has less than 512 frames of RAM is split, and the rest is [`DomId::IO`]'s; a later call may
    /// complete it. Frame 0 stays `DomId::IO`'s, so that no block ever starts at 0. Nothing has changed on an error.
    pub fn init_ram(&self, pool: &mut SplitPool, range: MfnRange) -> Result<(), InitError> {
        self.check_inside(range)?;
        let range = match MfnRange::between(range.start().max(1), range.end()) {
            Some(range) => range,
            None => return Ok(()),
        };
        // What is new as a whole takes a byte for each block, and a word for each other chunk.
        let Cut { head, whole, tail } = Cut::of(range);
        if !whole.is_empty() && self.entries.all_are(whole.clone(), packed::NOT_RAM) == Some(true) {
            let ends = [head, tail];
            self.init_parts(pool, ends.iter().copied().filter(|part| !part.is_empty()))?;
            self.entries.set_all(whole, packed::UNCLAIMED);
            return Ok(());
        }
        self.init_parts(pool, parts(range))
    }

    /// [`Self::init_ram`], part for part.
    fn init_parts(&self, pool: &mut SplitPool, parts: impl Iterator<Item = Part> + Clone) -> Result<(), InitError> {
        let mut nr_splits = 0;
        for part in parts.clone() {
            match self.entries.at(part.chunk).get() {
                Chunk::NotRam => nr_splits += u64::from(!part.is_whole()),
                Chunk::Unclaimed => {}
                Chunk::Split { id, .. } => {
                    let split = self.split_at(id);
                    let told = |index: &usize| match state_in_split(split, *index) {
                        FrameState::Unclaimed => true,
                        state => state == FrameState::Owned { owner: DomId::IO },
                    };
                    if let Some(bad) = (part.first..part.end).find(|index| !told(index)) {
                        return Err(self.init_conflict(part.mfn(bad)));
                    }
                }
                _ => return Err(self.init_conflict(part.mfn(part.first))),
            }
        }
        if nr_splits > pool.nr_unused() {
            return Err(InitError::NoRecords { needed: nr_splits, found: pool.nr_unused() });
        }
        for part in parts {
            let entry = self.entries.own(part.chunk);
            let split = match entry.get() {
                Chunk::NotRam if part.is_whole() => {
                    entry.set_word(packed::UNCLAIMED);
                    continue;
                }
                Chunk::NotRam => self.split(pool, part.chunk, Fill::Owned(DomId::IO)),
                Chunk::Split { id, .. } => Some(self.split_at(id)),
                _ => continue,
            };
            let split = split.expect("the splits were counted above");
            let mut nr_new = 0;
            for page in split.pages()[part.first..part.end].iter().filter(|page| page.owner().is_some()) {
                page.clear();
                nr_new += 1;
            }
            split.vacant().set(Vacancy::Unclaimed, part.first, part.end);
            let counts = entry.counts().moved(nr_new, Class::Hole, Class::Unclaimed);
            entry.set_counts(counts);
            if counts == Counts::all(Class::Unclaimed) {
                self.unsplit(pool, part.chunk, packed::UNCLAIMED);
            }
        }
        Ok(())
    }

    /// Makes whole chunks the live-update region. All of it must be RAM that nobody has claimed. Nothing has changed on an error.
    pub fn init_region(&self, range: MfnRange) -> Result<(), InitError> {
        self.init_chunks(range, packed::REGION)
    }

    /// Makes whole chunks the slot of the running image. All of it must be RAM that nobody has claimed. Nothing has changed on an error.
    pub fn init_image(&self, range: MfnRange) -> Result<(), InitError> {
        self.init_chunks(range, packed::IMAGE)
    }

    fn init_chunks(&self, range: MfnRange, word: u64) -> Result<(), InitError> {
        self.check_inside(range)?;
        if !range.start().is_multiple_of(CHUNK_FRAMES) || !range.end().is_multiple_of(CHUNK_FRAMES) {
            return Err(InitError::NotChunks { range });
        }
        for part in parts(range) {
            if self.entries.at(part.chunk).word() != packed::UNCLAIMED {
                let bad = part.frames().find(|&mfn| self.state_of(mfn) != FrameState::Unclaimed);
                return Err(self.init_conflict(bad.unwrap_or(part.mfn(0))));
            }
        }
        for part in parts(range) {
            self.entries.own(part.chunk).set_word(word);
        }
        Ok(())
    }

    fn check_inside(&self, range: MfnRange) -> Result<(), InitError> {
        if range.end() > self.nr_frames() {
            return Err(InitError::BehindTable { range, nr_frames: self.nr_frames() });
        }
        Ok(())
    }

    fn init_conflict(&self, mfn: Mfn) -> InitError {
        InitError::Conflict { mfn, found: self.state_of(mfn) }
    }

    /// Gives frames to `owner` that nobody has, after checking all of them (I1, I6). Nothing has changed on an error. Costs
    /// one step a chunk where chunks are claimed whole, and a split where one is claimed in part.
    #[inline]
    pub fn claim(&self, pool: &mut SplitPool, range: MfnRange, owner: DomId) -> Result<(), ClaimError> {
        let Cut { head, whole, tail } = Cut::of(range);
        // Nearly all ranges are some whole chunks, or a part of one.
        if head.is_empty() && tail.is_empty() {
            self.claim_chunks(whole, range, owner)
        } else if whole.is_empty() && tail.is_empty() {
            self.claim_within(pool, head, range, owner)
        } else {
            self.claim_across(pool, Cut { head, whole, tail }, range, owner)
        }
    }

    /// Claims some whole chunks, if all are unclaimed.
    #[inline(always)]
    pub(super) fn claim_whole(&self, first: usize, nr_chunks: usize, owner: DomId) -> bool {
        // A chunk is never split when all of it is unclaimed, so one word tells.
        if nr_chunks == 1 {
            return self.entries.change(first, packed::UNCLAIMED, packed::owned(owner));
        }
        let chunks = first..first + nr_chunks;
        let is_unclaimed = self.entries.all_are(chunks.clone(), packed::UNCLAIMED) == Some(true);
        if is_unclaimed {
            self.entries.set_all(chunks, packed::owned(owner));
        }
        is_unclaimed
    }

    fn claim_chunks(&self, whole: Range<usize>, range: MfnRange, owner: DomId) -> Result<(), ClaimError> {
        match self.claim_whole(whole.start, whole.len(), owner) {
            true => Ok(()),
            false => Err(self.conflict(range, owner)),
        }
    }

    fn claim_within(&self, pool: &mut SplitPool, part: Part, range: MfnRange, owner: DomId) -> Result<(), ClaimError> {
        let Some(entry) = self.entries.get(part.chunk) else { return Err(self.conflict(range, owner)) };
        let split = match entry.split_id() {
            Some(id) => self.split_at(id),
            None if entry.word() != packed::UNCLAIMED => return Err(self.conflict(range, owner)),
            None => {
                let none = ClaimError::NoRecords { range, needed: 1, found: 0 };
                self.split(pool, part.chunk, Fill::Unclaimed).ok_or(none)?
            }
        };
        if !split.claim_pages(part.first, part.end, owner) {
            return Err(self.conflict(range, owner));
        }
        let entry = self.entries.written(part.chunk);
        entry.set_counts(entry.counts().moved(part.len(), Class::Unclaimed, Class::of_owner(owner)));
        Ok(())
    }

    fn claim_across(&self, pool: &mut SplitPool, cut: Cut, range: MfnRange, owner: DomId) -> Result<(), ClaimError> {
        let ends = [cut.head, cut.tail];
        let mut nr_splits = 0;
        for part in ends.iter().filter(|part| !part.is_empty()) {
            let Some(splits) = self.check_part(part) else { return Err(self.conflict(range, owner)) };
            nr_splits += splits;
        }
        if nr_splits > pool.nr_unused() {
            return match self.first_conflict(range) {
                Some(_) => Err(self.conflict(range, owner)),
                None => Err(ClaimError::NoRecords { range, needed: nr_splits, found: pool.nr_unused() }),
            };
        }
        self.claim_chunks(cut.whole, range, owner)?;
        for part in ends.into_iter().filter(|part| !part.is_empty()) {
            let first = part.mfn(part.first);
            self.claim_within(pool, part, MfnRange::new(first, part.len()), owner)?;
        }
        Ok(())
    }

    /// Splits that it takes to claim a part of a chunk, if all of it is unclaimed.
    fn check_part(&self, part: &Part) -> Option<u64> {
        let entry = self.entries.get(part.chunk)?;
        match entry.split_id() {
            Some(id) => {
                let vacant = self.split_at(id).vacant();
                vacant.has_all(Vacancy::Unclaimed, part.first, part.end).then_some(0)
            }
            None => (entry.word() == packed::UNCLAIMED).then_some(1),
        }
    }

    /// The first frame of a range that cannot be claimed.
    fn first_conflict(&self, range: MfnRange) -> Option<Mfn> {
        let is_taken = |&mfn: &Mfn| self.state_of(mfn) != FrameState::Unclaimed;
        parts(range)
            .filter(|part| self.entries.get(part.chunk).map(ChunkEntry::word) != Some(packed::UNCLAIMED))
            .find_map(|part| part.frames().find(is_taken))
    }

    #[cold]
    fn conflict(&self, range: MfnRange, wanted: DomId) -> ClaimError {
        let mfn = self.first_conflict(range).or(range.first()).unwrap_or(Mfn::ZERO);
        ClaimError::Conflict { mfn, wanted, found: self.state_of(mfn) }
    }

    /// The free block of 2 MiB or more that a free chunk lies in: its first chunk and its order.
    pub(in crate::mm) fn free_block_around(&self, chunk: usize) -> Option<(usize, Order)> {
        let mut order = Order::CHUNK;
        loop {
            let first = chunk & !(chunks_in(order) - 1);
            if let Some(found) = self.entries.get(first)?.free_order()
                && first + chunks_in(found) > chunk
            {
                return Some((first, found));
            }
            order = order.larger()?;
        }
    }
}

/// Chunks in a block of order 9 or more.
pub(in crate::mm) const fn chunks_in(order: Order) -> usize {
    (order.nr_frames() / CHUNK_FRAMES) as usize
}

/// What a page of a split chunk is. The owner comes first: a page gets one before it loses its bit.
fn state_in_split(split: &Split, index: usize) -> FrameState {
    match (split.pages()[index].owner(), split.vacant().of(index)) {
        (Some(owner), _) => FrameState::Owned { owner },
        (None, Some(Vacancy::Unclaimed)) => FrameState::Unclaimed,
        (None, Some(Vacancy::Free)) => FrameState::Free,
        (None, Some(Vacancy::Private) | None) => FrameState::Private,
    }
}
