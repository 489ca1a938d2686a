//! Records that are lists: extents, pins, event channels and the like, read and written one item at a time.
//!
//! An item is one or two 64-bit words. A list may be as long as memory is fragmented, so neither side ever has all of it
//! in memory: the writer takes items one by one and begins a new record when one is full, the reader takes them where they lie.

use super::super::stream::{Body, ByteSource, Dest, RecordError, Sink, WriteError, Writer};
use super::global::XenPagesKind;
use super::items::{Channel, GrantInUse, GrantMap, M2pBlock, Pin, SavedExtent, Stage};
use super::{
    LU_BAD_FRAMES, LU_EVTCHN, LU_EXTENTS, LU_GRANT_MAPS, LU_GRANTS, LU_GRANTS_IN_USE, LU_LINEAR, LU_LINGERING, LU_M2P,
    LU_PINNED, LU_STAGES, LU_XEN_PAGES,
};
use crate::frame::Mfn;
use core::marker::PhantomData;

/// Something that a list is made of: `WORDS` 64-bit words.
pub trait Item<const WORDS: usize>: Sized {
    /// The words.
    fn encode(&self) -> [u64; WORDS];

    /// Reads the words; offsets in the error count from the item's first byte.
    fn decode(words: [u64; WORDS]) -> Result<Self, RecordError>;
}

/// The items of a list in the stream.
pub struct Items<'a, S: ?Sized, T, const WORDS: usize> {
    body: Body<'a, S>,
    item: PhantomData<T>,
}

impl<S: ?Sized, T, const WORDS: usize> Clone for Items<'_, S, T, WORDS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: ?Sized, T, const WORDS: usize> Copy for Items<'_, S, T, WORDS> {}

impl<'a, S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize> Items<'a, S, T, WORDS> {
    const ITEM_LEN: u64 = 8 * WORDS as u64;

    /// The rest of a body as a list of at least one item.
    pub fn decode(body: Body<'a, S>) -> Result<Self, RecordError> {
        if body.remaining() == 0 {
            return Err(RecordError::NotWhole { item: Self::ITEM_LEN, found: 0 });
        }
        Self::decode_or_empty(body)
    }

    /// The rest of a body as a list.
    pub fn decode_or_empty(body: Body<'a, S>) -> Result<Self, RecordError> {
        let found = body.remaining();
        if found.is_multiple_of(Self::ITEM_LEN) {
            Ok(Self { body, item: PhantomData })
        } else {
            Err(RecordError::NotWhole { item: Self::ITEM_LEN, found })
        }
    }

    /// The rest of a body as a list of that many items.
    pub fn exactly(body: Body<'a, S>, nr_items: u64) -> Result<Self, RecordError> {
        let mut behind = body;
        behind.skip(nr_items.saturating_mul(Self::ITEM_LEN))?;
        behind.finish()?;
        Ok(Self { body, item: PhantomData })
    }

    /// How many there are.
    pub fn nr_items(&self) -> u64 {
        self.body.remaining() / Self::ITEM_LEN
    }

    /// The items, each checked as it is read. An error is the last thing returned.
    pub fn iter(&self) -> ItemsIter<'a, S, T, WORDS> {
        ItemsIter { body: self.body, shown: &[], item: PhantomData }
    }
}

impl<'a, S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize> IntoIterator for Items<'a, S, T, WORDS> {
    type Item = Result<T, RecordError>;
    type IntoIter = ItemsIter<'a, S, T, WORDS>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over a list where it lies, as far as the source shows it, and reads item by item what it does not.
pub struct ItemsIter<'a, S: ?Sized, T, const WORDS: usize> {
    body: Body<'a, S>,
    /// Items that come before the rest of the body.
    shown: &'a [u8],
    item: PhantomData<T>,
}

impl<S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize> ItemsIter<'_, S, T, WORDS> {
    /// The next item, when none is shown: has more of them shown, or reads it; nothing at the end.
    #[cold]
    fn refill(&mut self) -> Option<Result<T, RecordError>> {
        if self.body.remaining() == 0 {
            return None;
        }
        if let Some(shown) = self.body.lend_whole(8 * WORDS as u64) {
            self.shown = shown;
            return self.next();
        }
        let mut words = [0; WORDS];
        for word in &mut words {
            match self.body.u64() {
                Ok(read) => *word = read,
                Err(error) => return self.stop(error),
            }
        }
        match T::decode(words) {
            Ok(item) => Some(Ok(item)),
            Err(error) => self.stop(error),
        }
    }

    /// Nothing comes behind an error.
    #[cold]
    fn stop(&mut self, error: RecordError) -> Option<Result<T, RecordError>> {
        let start = (self.body.offset() - self.shown.len() as u64).saturating_sub(8 * WORDS as u64);
        self.shown = &[];
        // What is left of the body exists, so this does not fail.
        let _ = self.body.skip(self.body.remaining());
        Some(Err(match error {
            RecordError::BadValue { offset, found } => RecordError::BadValue { offset: start + offset, found },
            error => error,
        }))
    }
}

impl<S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize> Iterator for ItemsIter<'_, S, T, WORDS> {
    type Item = Result<T, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Some((item, rest)) = self.shown.split_at_checked(8 * WORDS) else { return self.refill() };
        self.shown = rest;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(item.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        match T::decode(words) {
            Ok(item) => Some(Ok(item)),
            Err(error) => self.stop(error),
        }
    }
}

/// Frames that the hypervisor itself wants kept.
pub struct XenPages<'a, S: ?Sized> {
    /// What for.
    pub kind: XenPagesKind,
    /// The frames; none has a pfn.
    pub extents: Items<'a, S, SavedExtent, 2>,
}

impl<'a, S: ByteSource + ?Sized> XenPages<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let kind = body.fields(8, |from| {
            let kind = from.checked_u32(XenPagesKind::try_new)?;
            from.reserved(4)?;
            Ok(kind)
        })?;
        Ok(Self { kind, extents: Items::decode(body)? })
    }
}

/// A domain's grant table: version, limits and frames.
pub struct Grants<'a, S: ?Sized> {
    /// What the frames are counted by.
    pub head: GrantsHead,
    /// Shared and status frames.
    pub frames: Items<'a, S, Mfn, 1>,
}

/// What LU_GRANTS says besides frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantsHead {
    /// 1 or 2.
    pub version: u32,
    /// Shared frames that the domain may have, at most [`GrantsHead::MAX_FRAMES`].
    pub max_frames: u32,
    /// Mappings that it may have, at most [`GrantsHead::MAX_MAPS`].
    pub max_maps: u32,
    /// Shared frames, which come first.
    pub nr_shared: u32,
}

impl GrantsHead {
    /// A reader takes no higher limit of shared frames.
    pub const MAX_FRAMES: u32 = 1 << 12;
    /// A reader takes no higher limit of mappings.
    pub const MAX_MAPS: u32 = 1 << 20;
    /// In version 2, shared frames whose entries have their marks in one status frame.
    const SHARED_PER_STATUS: u32 = 8;

    /// Status frames that are due.
    pub const fn nr_status(&self) -> u32 {
        if self.version == 2 { self.nr_shared.div_ceil(Self::SHARED_PER_STATUS) } else { 0 }
    }
}

impl<'a, S: ByteSource + ?Sized> Grants<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let head = body.fields(24, |from| {
            let version = from.checked_u32(|n| matches!(n, 1 | 2).then_some(n))?;
            let max_frames = from.checked_u32(|n| (n <= GrantsHead::MAX_FRAMES).then_some(n))?;
            let max_maps = from.checked_u32(|n| (n <= GrantsHead::MAX_MAPS).then_some(n))?;
            let nr_shared = from.checked_u32(|n| (n <= max_frames).then_some(n))?;
            let head = GrantsHead { version, max_frames, max_maps, nr_shared };
            from.checked_u32(|n| (n == head.nr_status()).then_some(n))?;
            from.reserved(4)?;
            Ok(head)
        })?;
        let nr_frames = u64::from(head.nr_shared) + u64::from(head.nr_status());
        Ok(Self { head, frames: Items::exactly(body, nr_frames)? })
    }
}

/// Writes LU_GRANTS, with shared frames and status frames.
pub fn write_grants<D: Dest>(out: &mut Writer<D>, head: GrantsHead, frames: [&[Mfn]; 2]) -> Result<(), WriteError> {
    let due = u64::from(head.nr_shared) + u64::from(head.nr_status());
    let found = frames.iter().map(|frames| frames.len() as u64).sum();
    if found != due {
        return out.fail(WriteError::Count { kind: LU_GRANTS, due, found });
    }
    out.open_record(LU_GRANTS)?;
    for field in [head.version, head.max_frames, head.max_maps, head.nr_shared, head.nr_status()] {
        out.put_u32(field);
    }
    out.put_zeros(4);
    for mfn in frames.into_iter().flatten() {
        out.put_u64(mfn.get());
    }
    out.close_record()
}

/// Writes LU_STAGES.
pub fn write_stages<D: Dest>(out: &mut Writer<D>, stages: &[Stage]) -> Result<(), WriteError> {
    out.open_record(LU_STAGES)?;
    for stage in stages {
        out.put_words(&stage.encode());
    }
    out.close_record()
}

/// Items in a record, before a new one is begun: 1 MiB of extents. Small enough that records can be shared out among
/// CPUs, large enough that headers do not count.
const ITEMS_PER_RECORD: u64 = 0x1_0000;

/// Writes a list item by item: as many records as it takes, and none at all for an empty list.
///
/// [`ListWriter::finish`] closes the last record. Forgetting it is an error that the writer notices at its next record.
pub struct ListWriter<'w, D, T, const WORDS: usize> {
    out: &'w mut Writer<D>,
    kind: u32,
    /// What the body begins with.
    prefix: Option<u64>,
    /// Items in the open record; none is open at 0.
    in_record: u64,
    nr_items: u64,
    limit: u64,
    item: PhantomData<T>,
}

impl<'w, D: Dest> ListWriter<'w, D, SavedExtent, 2> {
    /// For LU_EXTENTS.
    pub fn extents(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_EXTENTS, None, ITEMS_PER_RECORD)
    }

    /// For LU_BAD_FRAMES.
    pub fn bad_frames(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_BAD_FRAMES, None, ITEMS_PER_RECORD)
    }

    /// For LU_XEN_PAGES.
    pub fn xen_pages(out: &'w mut Writer<D>, kind: XenPagesKind) -> Self {
        Self::new(out, LU_XEN_PAGES, Some(kind as u64), ITEMS_PER_RECORD)
    }
}

impl<'w, D: Dest> ListWriter<'w, D, Pin, 1> {
    /// For LU_PINNED.
    pub fn pinned(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_PINNED, None, ITEMS_PER_RECORD)
    }

    /// For LU_LINEAR.
    pub fn linear(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_LINEAR, None, ITEMS_PER_RECORD)
    }
}

impl<'w, D: Dest> ListWriter<'w, D, Mfn, 1> {
    /// For LU_LINGERING.
    pub fn lingering(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_LINGERING, None, ITEMS_PER_RECORD)
    }
}

impl<'w, D: Dest> ListWriter<'w, D, Channel, 2> {
    /// For LU_EVTCHN; ports have to ascend.
    pub fn channels(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_EVTCHN, None, ITEMS_PER_RECORD)
    }
}

impl<'w, D: Dest> ListWriter<'w, D, GrantInUse, 2> {
    /// For LU_GRANTS_IN_USE; references have to ascend.
    pub fn grants_in_use(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_GRANTS_IN_USE, None, ITEMS_PER_RECORD)
    }
}

impl<'w, D: Dest> ListWriter<'w, D, GrantMap, 2> {
    /// For LU_GRANT_MAPS; handles have to ascend.
    pub fn grant_maps(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_GRANT_MAPS, None, ITEMS_PER_RECORD)
    }
}

impl<'w, D: Dest> ListWriter<'w, D, M2pBlock, 2> {
    /// For LU_M2P, of which there is one record; blocks have to ascend.
    pub fn m2p(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_M2P, None, u64::MAX)
    }
}

impl<'w, D: Dest, T: Item<WORDS>, const WORDS: usize> ListWriter<'w, D, T, WORDS> {
    fn new(out: &'w mut Writer<D>, kind: u32, prefix: Option<u64>, limit: u64) -> Self {
        Self { out, kind, prefix, in_record: 0, nr_items: 0, limit, item: PhantomData }
    }

    /// Appends an item. A failure is kept by the writer and returned by [`ListWriter::finish`].
    #[inline]
    pub fn push(&mut self, item: &T) {
        if self.in_record == 0 || self.in_record == self.limit {
            self.next_record();
        }
        self.out.put_words(&item.encode());
        self.in_record += 1;
        self.nr_items += 1;
    }

    fn next_record(&mut self) {
        if self.in_record != 0 {
            // A failure stays in the writer.
            let _ = self.out.close_record();
        }
        let _ = self.out.open_record(self.kind);
        if let Some(prefix) = self.prefix {
            self.out.put_u64(prefix);
        }
        self.in_record = 0;
    }

    /// Closes the list; how many items it has.
    pub fn finish(self) -> Result<u64, WriteError> {
        if self.in_record != 0 {
            self.out.close_record()?;
        }
        self.out.check()?;
        Ok(self.nr_items)
    }
}
