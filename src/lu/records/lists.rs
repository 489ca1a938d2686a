//! Records that are lists: extents, pins, event channels and the like, read and written one item at a time.
//!
//! An item is one or two 64-bit words. A list may be as long as memory is fragmented, so neither side ever has all of it
//! in memory: the writer takes items one by one and begins a new record when one is full, the reader goes through a
//! small buffer.

use super::super::stream::{Body, ByteSource, Dest, RecordError, Sink, WriteError, Writer};
use super::global::XenPagesKind;
use super::{LU_EVTCHN, LU_EXTENTS, LU_GRANTS, LU_M2P, LU_PINNED, LU_STAGES, LU_XEN_PAGES};
use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, DomId, FRAME_BITS, Mfn, MfnRange, Order, Pfn};
use core::fmt;
use core::marker::PhantomData;

/// Something that a list is made of: `WORDS` 64-bit words.
pub trait Item<const WORDS: usize>: Sized {
    /// The words.
    fn encode(&self) -> [u64; WORDS];

    /// Reads the words; offsets in the error count from the item's first byte.
    fn decode(words: [u64; WORDS]) -> Result<Self, RecordError>;
}

/// Why frames cannot be an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentError {
    /// It has no frames.
    Empty,
    /// Its pfns go beyond the limit, of which the last number says "none".
    PfnLimit {
        /// The first pfn.
        pfn: Pfn,
        /// Frames.
        nr_frames: u64,
    },
}

impl fmt::Display for ExtentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => write!(f, "an extent without frames"),
            Self::PfnLimit { pfn, nr_frames } => write!(f, "{nr_frames} pfns from {pfn} are out of range"),
        }
    }
}

/// Frames that follow each other, in the machine and, if they have pfns, in the guest.
///
/// ```text
///  word 0   63      40 39             0      word 1   63      40 39             0
///           +---------+---------------+               +---------+---------------+
///           | count,  | first mfn     |               | count,  | first pfn, or |
///           | low 24  |               |               | high 24 | all ones      |
///           +---------+---------------+               +---------+---------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedExtent {
    mfns: MfnRange,
    pfn: Option<Pfn>,
}

/// The 40 bits of a frame number.
const FRAME_MASK: u64 = (1 << FRAME_BITS) - 1;
/// What "no pfn" is written as.
const NO_PFN: u64 = FRAME_MASK;
/// Bits of a count in each word.
const COUNT_BITS: u32 = 64 - FRAME_BITS;

const _: () = assert!(FRAME_BITS == 40 && COUNT_BITS == 24 && FRAME_MASK == 0xff_ffff_ffff);

impl SavedExtent {
    /// The frames `mfns`, which the guest sees from `pfn` on.
    pub fn try_new(mfns: MfnRange, pfn: Option<Pfn>) -> Result<Self, ExtentError> {
        let nr_frames = mfns.nr_frames();
        if nr_frames == 0 {
            return Err(ExtentError::Empty);
        }
        match pfn {
            Some(pfn) if pfn.get() + nr_frames > NO_PFN => Err(ExtentError::PfnLimit { pfn, nr_frames }),
            _ => Ok(Self { mfns, pfn }),
        }
    }

    /// The frames.
    pub fn mfns(&self) -> MfnRange {
        self.mfns
    }

    /// The first one's pfn; none if the guest does not see them in its own space.
    pub fn pfn(&self) -> Option<Pfn> {
        self.pfn
    }

    /// How many there are.
    pub fn nr_frames(&self) -> u64 {
        self.mfns.nr_frames()
    }
}

impl Item<2> for SavedExtent {
    #[inline]
    fn encode(&self) -> [u64; 2] {
        let nr_frames = self.mfns.nr_frames();
        let pfn = self.pfn.map_or(NO_PFN, Pfn::get);
        [self.mfns.start() | nr_frames << FRAME_BITS, pfn | (nr_frames >> COUNT_BITS) << FRAME_BITS]
    }

    #[inline]
    fn decode([first, second]: [u64; 2]) -> Result<Self, RecordError> {
        let nr_frames = first >> FRAME_BITS | (second >> FRAME_BITS) << COUNT_BITS;
        let start = first & FRAME_MASK;
        let pfn = second & FRAME_MASK;
        // Both sums stay below 2^49.
        let mfns = MfnRange::between(start, start + nr_frames).filter(|range| !range.is_empty());
        let Some(mfns) = mfns else {
            return Err(RecordError::BadValue { offset: 0, found: first });
        };
        if pfn == NO_PFN {
            return Ok(Self { mfns, pfn: None });
        }
        match Pfn::try_new(pfn) {
            Ok(number) if pfn + nr_frames <= NO_PFN => Ok(Self { mfns, pfn: Some(number) }),
            _ => Err(RecordError::BadValue { offset: 8, found: second }),
        }
    }
}

/// A frame that is pinned as a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    mfn: Mfn,
    level: u8,
}

impl Pin {
    /// Where the level is in the word.
    const LEVEL_SHIFT: u32 = 60;

    /// A frame pinned at a level of 1 to 4; none for another level.
    pub const fn try_new(mfn: Mfn, level: u8) -> Option<Self> {
        if matches!(level, 1..=4) { Some(Self { mfn, level }) } else { None }
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The page table's level, 1 to 4.
    pub fn level(&self) -> u8 {
        self.level
    }
}

impl Item<1> for Pin {
    fn encode(&self) -> [u64; 1] {
        [self.mfn.get() | u64::from(self.level) << Self::LEVEL_SHIFT]
    }

    fn decode([word]: [u64; 1]) -> Result<Self, RecordError> {
        let level = (word >> Self::LEVEL_SHIFT) as u8;
        Mfn::try_new(word & !(0xf << Self::LEVEL_SHIFT))
            .ok()
            .and_then(|mfn| Self::try_new(mfn, level))
            .ok_or(RecordError::BadValue { offset: 0, found: word })
    }
}

/// What an event channel is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// Nothing yet: `remote` may bind to it.
    Unbound {
        /// Who may.
        remote: DomId,
    },
    /// Another domain's port.
    Interdomain {
        /// The domain.
        remote: DomId,
        /// The port there.
        port: u32,
    },
    /// A physical interrupt.
    Pirq {
        /// Its number.
        pirq: u32,
    },
    /// A virtual interrupt.
    Virq {
        /// Its number.
        virq: u32,
    },
    /// Another vCPU of the domain.
    Ipi,
}

/// An event channel that is not closed.
///
/// ```text
///  word 0   63          48 47    40 39    32 31            0     word 1   63            32 31            0
///           | remote domid | flags | state  | port        |              | notified vCPU | port/irq there |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The port.
    pub port: u32,
    /// What it is connected to.
    pub state: ChannelState,
    /// True if the hypervisor itself is at the other end.
    pub is_xen_consumer: bool,
    /// The vCPU that is told.
    pub notify_vcpu: u32,
}

impl Channel {
    /// The first port that cannot be: Xen's limit with FIFO event channels.
    pub const PORT_LIMIT: u32 = 1 << 17;
    /// The flag for [`Channel::is_xen_consumer`].
    const XEN_CONSUMER: u8 = 1;
    /// Xen's EVTCHNSTAT_* numbers; 0 is a closed port, which is not saved.
    const UNBOUND: u8 = 1;
    const INTERDOMAIN: u8 = 2;
    const PIRQ: u8 = 3;
    const VIRQ: u8 = 4;
    const IPI: u8 = 5;
}

impl Item<2> for Channel {
    fn encode(&self) -> [u64; 2] {
        let (state, remote, number) = match self.state {
            ChannelState::Unbound { remote } => (Self::UNBOUND, remote.get(), 0),
            ChannelState::Interdomain { remote, port } => (Self::INTERDOMAIN, remote.get(), port),
            ChannelState::Pirq { pirq } => (Self::PIRQ, 0, pirq),
            ChannelState::Virq { virq } => (Self::VIRQ, 0, virq),
            ChannelState::Ipi => (Self::IPI, 0, 0),
        };
        let flags = if self.is_xen_consumer { Self::XEN_CONSUMER } else { 0 };
        [
            u64::from(self.port) | u64::from(state) << 32 | u64::from(flags) << 40 | u64::from(remote) << 48,
            u64::from(number) | u64::from(self.notify_vcpu) << 32,
        ]
    }

    fn decode([first, second]: [u64; 2]) -> Result<Self, RecordError> {
        let bad = |offset: u64, found: u64| Err(RecordError::BadValue { offset, found });
        let port = first as u32;
        let state = (first >> 32) as u8;
        let flags = (first >> 40) as u8;
        let domid = (first >> 48) as u16;
        let number = second as u32;
        let remote = DomId::new(domid);
        if port == 0 || port >= Self::PORT_LIMIT {
            return bad(0, port.into());
        }
        if flags & !Self::XEN_CONSUMER != 0 {
            return bad(5, flags.into());
        }
        let (state, has_remote, has_number) = match state {
            Self::UNBOUND => (ChannelState::Unbound { remote }, true, false),
            Self::INTERDOMAIN => (ChannelState::Interdomain { remote, port: number }, true, true),
            Self::PIRQ => (ChannelState::Pirq { pirq: number }, false, true),
            Self::VIRQ => (ChannelState::Virq { virq: number }, false, true),
            Self::IPI => (ChannelState::Ipi, false, false),
            _ => return bad(4, state.into()),
        };
        if domid != 0 && !has_remote {
            return bad(6, domid.into());
        }
        let is_port = matches!(state, ChannelState::Interdomain { .. });
        if number != 0 && !has_number || is_port && (number == 0 || number >= Self::PORT_LIMIT) {
            return bad(8, number.into());
        }
        let is_xen_consumer = flags & Self::XEN_CONSUMER != 0;
        Ok(Self { port, state, is_xen_consumer, notify_vcpu: (second >> 32) as u32 })
    }
}

/// A 2 MiB block of the M2P.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct M2pBlock {
    first: Mfn,
    block: Mfn,
}

impl M2pBlock {
    /// Frames whose entries are in a block.
    pub const FRAMES_COVERED: u64 = CHUNK_SIZE / 8;

    /// The block at `block`, which covers the frames from `first` on; none if either is not aligned.
    pub const fn try_new(first: Mfn, block: Mfn) -> Option<Self> {
        if first.is_aligned(Order::MAX) && block.is_aligned(Order::CHUNK) { Some(Self { first, block }) } else { None }
    }

    /// The first frame covered, a multiple of [`Self::FRAMES_COVERED`].
    pub fn first(&self) -> Mfn {
        self.first
    }

    /// Where the block is: a whole chunk.
    pub fn frames(&self) -> MfnRange {
        MfnRange::new(self.block, CHUNK_FRAMES)
    }
}

const _: () = assert!(M2pBlock::FRAMES_COVERED == 0x4_0000 && M2pBlock::FRAMES_COVERED == Order::MAX.nr_frames());

impl Item<2> for M2pBlock {
    fn encode(&self) -> [u64; 2] {
        [self.first.get(), self.block.get()]
    }

    fn decode([first, block]: [u64; 2]) -> Result<Self, RecordError> {
        let bad = |offset: u64, found: u64| RecordError::BadValue { offset, found };
        let first_mfn = Mfn::try_new(first).map_err(|_| bad(0, first))?;
        let block_mfn = Mfn::try_new(block).map_err(|_| bad(8, block))?;
        let offset = if first_mfn.is_aligned(Order::MAX) { (8, block) } else { (0, first) };
        Self::try_new(first_mfn, block_mfn).ok_or(bad(offset.0, offset.1))
    }
}

/// The moment at which a stage was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Which one: see [`stage`](super::stage).
    pub stage: u32,
    /// The TSC then.
    pub tsc: u64,
}

impl Item<2> for Stage {
    fn encode(&self) -> [u64; 2] {
        [self.stage.into(), self.tsc]
    }

    fn decode([stage, tsc]: [u64; 2]) -> Result<Self, RecordError> {
        match u32::try_from(stage) {
            Ok(stage) => Ok(Self { stage, tsc }),
            Err(_) => Err(RecordError::BadValue { offset: 4, found: stage >> 32 }),
        }
    }
}

impl Item<1> for Mfn {
    fn encode(&self) -> [u64; 1] {
        [self.get()]
    }

    fn decode([word]: [u64; 1]) -> Result<Self, RecordError> {
        Self::try_new(word).map_err(|_| RecordError::BadValue { offset: 0, found: word })
    }
}

impl Item<1> for Pfn {
    fn encode(&self) -> [u64; 1] {
        [self.get()]
    }

    fn decode([word]: [u64; 1]) -> Result<Self, RecordError> {
        Self::try_new(word).map_err(|_| RecordError::BadValue { offset: 0, found: word })
    }
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
        ItemsIter { body: self.body, buf: [0; BUF_LEN], at: 0, filled: 0, item: PhantomData }
    }
}

impl<'a, S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize> IntoIterator for Items<'a, S, T, WORDS> {
    type Item = Result<T, RecordError>;
    type IntoIter = ItemsIter<'a, S, T, WORDS>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Bytes read from the source at a time.
const BUF_LEN: usize = 1024;

/// Iterates over a list through a small buffer.
pub struct ItemsIter<'a, S: ?Sized, T, const WORDS: usize> {
    body: Body<'a, S>,
    buf: [u8; BUF_LEN],
    at: usize,
    filled: usize,
    item: PhantomData<T>,
}

impl<S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize> ItemsIter<'_, S, T, WORDS> {
    /// Fills the buffer again; false at the end.
    fn refill(&mut self) -> Result<bool, RecordError> {
        let n = self.body.remaining().min(BUF_LEN as u64) as usize;
        self.body.read_into(&mut self.buf[..n])?;
        self.at = 0;
        self.filled = n;
        Ok(n != 0)
    }

    /// Nothing comes behind an error.
    fn stop(&mut self, error: RecordError) -> Option<Result<T, RecordError>> {
        self.at = self.filled;
        // What is left of the body exists, so this does not fail.
        let _ = self.body.skip(self.body.remaining());
        Some(Err(error))
    }
}

impl<S: ByteSource + ?Sized, T: Item<WORDS>, const WORDS: usize> Iterator for ItemsIter<'_, S, T, WORDS> {
    type Item = Result<T, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.filled {
            match self.refill() {
                Ok(true) => (),
                Ok(false) => return None,
                Err(error) => return self.stop(error),
            }
        }
        let start = self.body.offset() - (self.filled - self.at) as u64;
        let bytes = self.buf.get(self.at..self.at + 8 * WORDS)?;
        self.at += 8 * WORDS;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        match T::decode(words) {
            Ok(item) => Some(Ok(item)),
            Err(RecordError::BadValue { offset, found }) => {
                self.stop(RecordError::BadValue { offset: start + offset, found })
            }
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
        let kind = body.checked_u32(XenPagesKind::try_new)?;
        body.reserved(4)?;
        Ok(Self { kind, extents: Items::decode(body)? })
    }
}

/// A domain's grant table: its version, 0 if it has none yet, and its frames.
pub struct Grants<'a, S: ?Sized> {
    /// 0, 1 or 2.
    pub version: u32,
    /// The shared frames.
    pub frames: Items<'a, S, Mfn, 1>,
}

impl<'a, S: ByteSource + ?Sized> Grants<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let version = body.checked_u32(|version| (version <= 2).then_some(version))?;
        let nr_frames = body.u32()?;
        Ok(Self { version, frames: Items::exactly(body, nr_frames.into())? })
    }
}

/// Writes LU_GRANTS.
pub fn write_grants<D: Dest>(out: &mut Writer<D>, version: u32, frames: &[Mfn]) -> Result<(), WriteError> {
    let Ok(nr_frames) = u32::try_from(frames.len()) else {
        let found = frames.len() as u64;
        return out.fail(WriteError::Count { kind: LU_GRANTS, due: u32::MAX.into(), found });
    };
    out.open_record(LU_GRANTS)?;
    out.put_u32(version);
    out.put_u32(nr_frames);
    for mfn in frames {
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
}

impl<'w, D: Dest> ListWriter<'w, D, Channel, 2> {
    /// For LU_EVTCHN; ports have to ascend.
    pub fn channels(out: &'w mut Writer<D>) -> Self {
        Self::new(out, LU_EVTCHN, None, ITEMS_PER_RECORD)
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
