//! What the lists are made of: an extent, a pin, an event channel and so on, each of one or two 64-bit words.

use super::super::stream::RecordError;
use super::lists::Item;
use crate::domain::evtchn::Service;
use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, DomId, FRAME_BITS, Mfn, MfnRange, Order, Pfn};
use core::fmt;

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
        // The hypervisor's end is one of its services.
        let is_service = is_port && remote == DomId::XEN && Service::of(number).is_some();
        if is_xen_consumer && !is_service {
            return bad(5, flags.into());
        }
        Ok(Self { port, state, is_xen_consumer, notify_vcpu: (second >> 32) as u32 })
    }
}

/// An entry of a domain's grant table that is in use.
///
/// ```text
///  word 0   63     56 55     48 47             32 31       0     word 1   63   40 39    0
///           | writers | readers | to whom        | reference |            | 0     | frame |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantInUse {
    /// Which entry.
    pub reference: u32,
    /// Who uses it.
    pub to: DomId,
    /// Mappings that read.
    pub readers: u8,
    /// Mappings that also write.
    pub writers: u8,
    /// The frame granted.
    pub frame: Mfn,
}

impl GrantInUse {
    /// The most of either kind.
    pub const MAX_USES: u8 = 0x80;
}

impl Item<2> for GrantInUse {
    fn encode(&self) -> [u64; 2] {
        let counts = u64::from(self.readers) << 48 | u64::from(self.writers) << 56;
        [u64::from(self.reference) | u64::from(self.to.get()) << 32 | counts, self.frame.get()]
    }

    fn decode([first, second]: [u64; 2]) -> Result<Self, RecordError> {
        let bad = |offset: u64, found: u64| RecordError::BadValue { offset, found };
        let to = DomId::new((first >> 32) as u16);
        let (readers, writers) = ((first >> 48) as u8, (first >> 56) as u8);
        if !to.is_domain() {
            return Err(bad(4, to.get().into()));
        }
        if readers > Self::MAX_USES || writers > Self::MAX_USES || readers == 0 && writers == 0 {
            return Err(bad(6, first >> 48));
        }
        let frame = Mfn::try_new(second).map_err(|_| bad(8, second))?;
        Ok(Self { reference: first as u32, to, readers, writers, frame })
    }
}

/// A mapping of another domain's grant.
///
/// ```text
///  word 0   63            32 31       0     word 1   63       32 31    16 15             0
///           | reference there | handle |             | flags   | 0      | whose grant    |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantMap {
    /// Its handle.
    pub handle: u32,
    /// Whose grant.
    pub granter: DomId,
    /// Which.
    pub reference: u32,
    /// How: Xen's GNTMAP_*.
    pub flags: u32,
}

impl GrantMap {
    /// What every mapping has: GNTMAP_host_map.
    const HOST_MAP: u32 = 2;
    /// What it may have: GNTMAP_host_map, _readonly, _application_map, _contains_pte, and the guest's own bits.
    const FLAGS: u32 = 0xffff_001e;
}

impl Item<2> for GrantMap {
    fn encode(&self) -> [u64; 2] {
        [
            u64::from(self.handle) | u64::from(self.reference) << 32,
            u64::from(self.granter.get()) | u64::from(self.flags) << 32,
        ]
    }

    fn decode([first, second]: [u64; 2]) -> Result<Self, RecordError> {
        let bad = |offset: u64, found: u64| RecordError::BadValue { offset, found };
        let granter = DomId::new(second as u16);
        let flags = (second >> 32) as u32;
        if !granter.is_domain() {
            return Err(bad(8, granter.get().into()));
        }
        if second >> 16 & 0xffff != 0 {
            return Err(bad(10, second >> 16 & 0xffff));
        }
        if flags & !Self::FLAGS != 0 || flags & Self::HOST_MAP == 0 {
            return Err(bad(12, flags.into()));
        }
        Ok(Self { handle: first as u32, granter, reference: (first >> 32) as u32, flags })
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
