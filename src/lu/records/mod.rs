//! What the records of a live-update stream hold.
//!
//! This is an ABI (I5): the types here are the saved ones and have nothing to do with the runtime's, even where they look
//! alike; every field is written and read by itself, little-endian; docs/handover.md has the same layouts as tables.
//!
//! ```text
//!  LU_VERSION                                        first, says who wrote the stream
//!  LU_TIME LU_HOST LU_M2P LU_LOG LU_CMDLINE ...      the host; anywhere outside a domain
//!  DOMAIN_BEGIN                                      one bracket a domain
//!    X86_PV_INFO STATIC_DATA_END ...                 what libxc's stream carries, in its layout
//!    LU_EXTENTS LU_PINNED LU_EVTCHN LU_VCPU ...      what only a live update needs
//!    LU_DOMAIN_SUM                                   from version 2 on: what they add up to
//!  DOMAIN_END
//!  END
//! ```
//!
//! A reader goes over the stream several times (domains, then ownership, then everything else), and calls
//! [`validate`] before the first of them: nothing is applied of a stream that is wrong somewhere.
//!
//! 1. A body has exactly the length that its fields have. A reserved byte that is not zero, or a value that a field
//!    cannot have, is refused: a build that has something new to say uses a new record, or a new stream version.
//! 2. A build reads its own stream version and the one before (I10), and writes either: a type has the version from which on it exists, and is
//!    unknown in streams of an older one.
//!
//! Sources: DESIGN §3.5; Xen's public headers, and libxc's stream format for the types without bit 30.

mod domain;
mod global;
mod history;
mod items;
mod libxc;
mod lists;
mod refused;
mod sum;
mod text;
mod validate;
mod vcpu;

pub use domain::{DomainBegin, DomainFlags, LuWatchdogs};
pub use global::{HostFlags, LuHost, LuLog, LuModule, LuTime, LuVersion, StreamVersion, XenPagesKind, stage};
pub use history::{HISTORY_MAX, HistoryEntry, LuHistory, NR_STAGES, Outcome, REASON_LEN_MAX};
pub use items::{Channel, ChannelState, ExtentError, GrantInUse, GrantMap, M2pBlock, Pin, SavedExtent, Stage};
pub use libxc::{
    P2M_PFNS_PER_FRAME, P2mFrames, PvInfo, SHARED_INFO_LEN, TscInfo, VCPU_CONTEXT_LEN, VcpuBasic, VcpuXsave,
    XSAVE_AREA_LEN_MAX, XSAVE_LEN_MIN, write_p2m_frames, write_vcpu_basic, write_vcpu_xsave,
};
pub use lists::{Grants, GrantsHead, Item, Items, ItemsIter, ListWriter, XenPages, write_grants, write_stages};
pub use refused::{LuRefused, RefusedCause, write_refused};
pub use sum::{LuDomainSum, OpenDomain};
pub use text::{Name, NameError, TEXT_LEN_MAX};
pub use validate::{DomainFault, Summary, is_of_domain, validate, validate_with};
pub use vcpu::{CallbackMasks, Callbacks, LuVcpu, Runstate, VcpuFlags, VcpuPending};

use crate::frame::Mfn;

use super::stream::{
    Body, ByteSource, Dest, FIELDS_LEN_MAX, Fields, IN_PLACE_MAX, REC_TYPE_END, REC_TYPE_LIVE_UPDATE,
    REC_TYPE_OPTIONAL, Reader, Record, RecordError, Sink, StreamError, WriteError, Writer,
};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal $(since $since:ident)?,)*) => {
        $(
            $(#[$doc])*
            pub const $name: u32 = $value;
        )*

        /// The first stream version that has records of a type; none for types that this build does not understand. END is the
        /// reader's own.
        pub const fn since(kind: u32) -> Option<StreamVersion> {
            match kind {
                $($value => Some(first_version!($($since)?)),)*
                _ => None,
            }
        }

        /// The name of a type, for messages.
        pub fn kind_name(kind: u32) -> Option<&'static str> {
            match kind {
                REC_TYPE_END => Some("END"),
                $($value => Some(stringify!($name)),)*
                _ => None,
            }
        }

        #[cfg(test)]
        pub(in crate::lu) const KINDS: &[u32] = &[$($value),*];
    };
}

macro_rules! first_version {
    () => {
        StreamVersion::V1
    };
    ($since:ident) => {
        StreamVersion::$since
    };
}

/// True for the types that this build understands in a stream of its newest version.
pub fn is_known(kind: u32) -> bool {
    since(kind).is_some_and(|since| since <= StreamVersion::CURRENT)
}

/// True for the types of stream version 1.
fn is_known_in_1(kind: u32) -> bool {
    since(kind).is_some_and(|since| since <= StreamVersion::V1)
}

kinds! {
    /// Who wrote the stream, and in which version. The first record.
    LU_VERSION = 0x4000_0000,
    /// The clocks: how to go on counting.
    LU_TIME = 0x4000_0001,
    /// TSC stamps of the outgoing side's stages.
    LU_STAGES = 0x4000_0002,
    /// The hypervisor's own command line.
    LU_CMDLINE = 0x4000_0003,
    /// A boot module that is still in memory.
    LU_MODULE = 0x4000_0004,
    /// Frames that the hypervisor itself wants kept.
    LU_XEN_PAGES = 0x4000_0005,
    /// Where the blocks of the M2P are.
    LU_M2P = 0x4000_0006,
    /// Where the log is.
    LU_LOG = 0x4000_0007,
    /// What the host keeps in mind from build to build: automatic updates, the verdict, the console.
    LU_HOST = 0x4000_0008,
    /// What became of one update.
    LU_HISTORY = 0xc000_0009,
    /// Frames found to be faulty.
    LU_BAD_FRAMES = 0x4000_000a since V2,
    /// A domain begins.
    DOMAIN_BEGIN = 0x4000_0010,
    /// Which frames the domain owns.
    LU_EXTENTS = 0x4000_0011,
    /// Which of them are pinned as page tables.
    LU_PINNED = 0x4000_0012,
    /// The domain's event channels.
    LU_EVTCHN = 0x4000_0013,
    /// A vCPU, as far as its guest context does not say it.
    LU_VCPU = 0x4000_0014,
    /// The module string that the domain was made from, for its reboot.
    LU_CMDLINE_MODULE = 0x4000_0015,
    /// The domain's grant table: version, limits and frames.
    LU_GRANTS = 0x4000_0016,
    /// Which page tables nobody has pinned are named by tables of their own level.
    LU_LINEAR = 0x4000_0017,
    /// What the domain has written of a console line that is not complete yet.
    LU_CONSOLE = 0x4000_0018,
    /// Frames that the domain has given up and that something still refers to.
    LU_LINGERING = 0x4000_0019,
    /// Which entries of the domain's grant table are in use.
    LU_GRANTS_IN_USE = 0x4000_001a,
    /// Which grants of other domains the domain maps.
    LU_GRANT_MAPS = 0x4000_001b,
    /// What was typed to the domain and has had no room in its console ring yet.
    LU_TYPED = 0x4000_001c,
    /// When the domain's watchdogs run out.
    LU_WATCHDOGS = 0x4000_001d,
    /// Why the domain was refused by the outgoing side, which has kept it.
    LU_REFUSED = 0xc000_0010,
    /// What the domain's records add up to.
    LU_DOMAIN_SUM = 0x4000_001e since V2,
    /// A domain ends.
    DOMAIN_END = 0x4000_001f,
    /// libxc: width and page-table levels of a PV guest.
    X86_PV_INFO = 0x2,
    /// libxc: which frames hold the guest's P2M.
    X86_PV_P2M_FRAMES = 0x3,
    /// libxc: a vCPU's `vcpu_guest_context`.
    X86_PV_VCPU_BASIC = 0x4,
    /// libxc: a vCPU's extended state.
    X86_PV_VCPU_XSAVE = 0x6,
    /// libxc: a copy of the shared_info frame.
    SHARED_INFO = 0x7,
    /// libxc: how the guest sees the TSC.
    X86_TSC_INFO = 0x8,
    /// libxc: what comes before is what a domain is created from.
    STATIC_DATA_END = 0x10,
}

const _: () = assert!(LU_VERSION == REC_TYPE_LIVE_UPDATE);
const _: () = assert!(LU_TIME == 0x4000_0001 && LU_HOST == 0x4000_0008);
const _: () = assert!(LU_HISTORY == REC_TYPE_OPTIONAL | REC_TYPE_LIVE_UPDATE | 9);
const _: () = assert!(DOMAIN_BEGIN == 0x4000_0010 && LU_GRANTS == 0x4000_0016 && DOMAIN_END == 0x4000_001f);
const _: () = assert!(LU_LINEAR == 0x4000_0017 && LU_CONSOLE == 0x4000_0018 && LU_TYPED == 0x4000_001c);
const _: () = assert!(LU_GRANTS_IN_USE == 0x4000_001a && LU_GRANT_MAPS == 0x4000_001b);
const _: () = assert!(LU_LINGERING == 0x4000_0019 && LU_WATCHDOGS == 0x4000_001d && LU_DOMAIN_SUM == 0x4000_001e);
const _: () = assert!(LU_REFUSED == super::stream::REC_TYPE_OPTIONAL | REC_TYPE_LIVE_UPDATE | 0x10);
const _: () = assert!(SHARED_INFO == 7 && X86_TSC_INFO == 8 && STATIC_DATA_END == 16);

/// What "no frame" is written as.
pub const NO_MFN: u64 = u64::MAX;

/// A saved type whose body has one length and nothing of variable size.
pub trait SavedRecord: Sized {
    /// The record's type.
    const KIND: u32;
    /// Bytes of the body.
    const LEN_BYTES: u64;

    /// Appends the body: [`Self::LEN_BYTES`] bytes.
    fn encode(&self, out: &mut impl Sink);

    /// Reads the fields, without a look at what follows them.
    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError>;

    /// Reads a body that must be this and nothing else.
    fn decode<S: ByteSource + ?Sized>(mut body: Body<'_, S>) -> Result<Self, RecordError> {
        const { assert!(Self::LEN_BYTES <= FIELDS_LEN_MAX as u64, "the fields are read in one piece") };
        let fields = body.fields(Self::LEN_BYTES, Self::decode_fields)?;
        body.finish()?;
        Ok(fields)
    }
}

impl<D: Dest> Writer<D> {
    /// Writes a whole record: a short one, as nearly all are, in its place.
    pub fn save<R: SavedRecord>(&mut self, saved: &R) -> Result<(), WriteError> {
        if R::LEN_BYTES <= IN_PLACE_MAX as u64 && R::LEN_BYTES.is_multiple_of(8) {
            return self.record_in_place(R::KIND, R::LEN_BYTES as usize, |place| saved.encode(place));
        }
        self.open_record(R::KIND)?;
        saved.encode(self);
        self.close_record()
    }

    /// Writes DOMAIN_END, which is all that ends a domain in stream version 1. [`OpenDomain`] does what the version asks for.
    pub fn end_domain(&mut self) -> Result<(), WriteError> {
        self.record(DOMAIN_END, &[])
    }
}

/// A record, decoded: a match over it cannot forget a type.
///
/// What may be large is a view of the stream and read as it is iterated over; its items are checked then.
pub enum AnyRecord<'a, S: ?Sized> {
    /// [`LU_VERSION`]
    Version(LuVersion),
    /// [`LU_TIME`]
    Time(LuTime),
    /// [`LU_STAGES`]
    Stages(Items<'a, S, Stage, 2>),
    /// [`LU_CMDLINE`]: the text.
    Cmdline(Body<'a, S>),
    /// [`LU_MODULE`]
    Module(LuModule<'a, S>),
    /// [`LU_XEN_PAGES`]
    XenPages(XenPages<'a, S>),
    /// [`LU_M2P`]
    M2p(Items<'a, S, M2pBlock, 2>),
    /// [`LU_LOG`]
    Log(LuLog),
    /// [`LU_HOST`]
    Host(LuHost),
    /// [`LU_HISTORY`]
    History(LuHistory<'a, S>),
    /// [`LU_BAD_FRAMES`]
    BadFrames(Items<'a, S, SavedExtent, 2>),
    /// [`DOMAIN_BEGIN`]
    DomainBegin(DomainBegin),
    /// [`LU_EXTENTS`]
    Extents(Items<'a, S, SavedExtent, 2>),
    /// [`LU_PINNED`]
    Pinned(Items<'a, S, Pin, 1>),
    /// [`LU_EVTCHN`]
    Channels(Items<'a, S, Channel, 2>),
    /// [`LU_VCPU`]
    Vcpu(LuVcpu),
    /// [`LU_CMDLINE_MODULE`]: the text.
    CmdlineModule(Body<'a, S>),
    /// [`LU_GRANTS`]
    Grants(Grants<'a, S>),
    /// [`LU_GRANTS_IN_USE`]
    GrantsInUse(Items<'a, S, GrantInUse, 2>),
    /// [`LU_GRANT_MAPS`]
    GrantMaps(Items<'a, S, GrantMap, 2>),
    /// [`LU_LINEAR`]
    Linear(Items<'a, S, Pin, 1>),
    /// [`LU_CONSOLE`]: the bytes.
    Console(Body<'a, S>),
    /// [`LU_LINGERING`]
    Lingering(Items<'a, S, Mfn, 1>),
    /// [`LU_WATCHDOGS`]
    Watchdogs(LuWatchdogs),
    /// [`LU_TYPED`]: the bytes.
    Typed(Body<'a, S>),
    /// [`LU_REFUSED`]
    Refused(LuRefused<'a, S>),
    /// [`LU_DOMAIN_SUM`]
    DomainSum(LuDomainSum),
    /// [`DOMAIN_END`]
    DomainEnd,
    /// [`X86_PV_INFO`]
    PvInfo(PvInfo),
    /// [`X86_PV_P2M_FRAMES`]
    P2mFrames(P2mFrames<'a, S>),
    /// [`X86_PV_VCPU_BASIC`]
    VcpuBasic(VcpuBasic<'a, S>),
    /// [`X86_PV_VCPU_XSAVE`]
    VcpuXsave(VcpuXsave<'a, S>),
    /// [`SHARED_INFO`]: the 4096 bytes.
    SharedInfo(Body<'a, S>),
    /// [`X86_TSC_INFO`]
    TscInfo(TscInfo),
    /// [`STATIC_DATA_END`]
    StaticDataEnd,
}

impl<'a, S: ByteSource + ?Sized> AnyRecord<'a, S> {
    /// Reads a record's body by its type.
    pub fn decode(record: &Record<'a, S>) -> Result<Self, StreamError> {
        let body = record.body;
        let wrong = |error| record.error(error);
        Ok(match record.kind {
            LU_VERSION => Self::Version(LuVersion::decode(body).map_err(wrong)?),
            LU_TIME => Self::Time(LuTime::decode(body).map_err(wrong)?),
            LU_STAGES => Self::Stages(Items::decode_or_empty(body).map_err(wrong)?),
            LU_CMDLINE => Self::Cmdline(text::decode(body).map_err(wrong)?),
            LU_MODULE => Self::Module(LuModule::decode(body).map_err(wrong)?),
            LU_XEN_PAGES => Self::XenPages(XenPages::decode(body).map_err(wrong)?),
            LU_M2P => Self::M2p(Items::decode(body).map_err(wrong)?),
            LU_LOG => Self::Log(LuLog::decode(body).map_err(wrong)?),
            LU_HOST => Self::Host(LuHost::decode(body).map_err(wrong)?),
            LU_HISTORY => Self::History(LuHistory::decode(body).map_err(wrong)?),
            LU_BAD_FRAMES => Self::BadFrames(Items::decode(body).map_err(wrong)?),
            DOMAIN_BEGIN => Self::DomainBegin(DomainBegin::decode(body).map_err(wrong)?),
            LU_EXTENTS => Self::Extents(Items::decode(body).map_err(wrong)?),
            LU_PINNED => Self::Pinned(Items::decode(body).map_err(wrong)?),
            LU_EVTCHN => Self::Channels(Items::decode(body).map_err(wrong)?),
            LU_VCPU => Self::Vcpu(LuVcpu::decode(body).map_err(wrong)?),
            LU_CMDLINE_MODULE => Self::CmdlineModule(text::decode(body).map_err(wrong)?),
            LU_GRANTS => Self::Grants(Grants::decode(body).map_err(wrong)?),
            LU_GRANTS_IN_USE => Self::GrantsInUse(Items::decode(body).map_err(wrong)?),
            LU_GRANT_MAPS => Self::GrantMaps(Items::decode(body).map_err(wrong)?),
            LU_LINEAR => Self::Linear(Items::decode(body).map_err(wrong)?),
            LU_CONSOLE => Self::Console(text::blob(body).map_err(wrong)?),
            LU_LINGERING => Self::Lingering(Items::decode(body).map_err(wrong)?),
            LU_WATCHDOGS => Self::Watchdogs(LuWatchdogs::decode(body).map_err(wrong)?),
            LU_TYPED => Self::Typed(text::blob(body).map_err(wrong)?),
            LU_REFUSED => Self::Refused(LuRefused::decode(body).map_err(wrong)?),
            LU_DOMAIN_SUM => Self::DomainSum(LuDomainSum::decode(body).map_err(wrong)?),
            DOMAIN_END => {
                body.finish().map_err(wrong)?;
                Self::DomainEnd
            }
            X86_PV_INFO => Self::PvInfo(PvInfo::decode(body).map_err(wrong)?),
            X86_PV_P2M_FRAMES => Self::P2mFrames(P2mFrames::decode(body).map_err(wrong)?),
            X86_PV_VCPU_BASIC => Self::VcpuBasic(VcpuBasic::decode(body).map_err(wrong)?),
            X86_PV_VCPU_XSAVE => Self::VcpuXsave(VcpuXsave::decode(body).map_err(wrong)?),
            SHARED_INFO => Self::SharedInfo(libxc::shared_info(body).map_err(wrong)?),
            X86_TSC_INFO => Self::TscInfo(TscInfo::decode(body).map_err(wrong)?),
            STATIC_DATA_END => {
                body.finish().map_err(wrong)?;
                Self::StaticDataEnd
            }
            kind => return Err(StreamError::Unknown { kind, at: record.at }),
        })
    }
}

/// A reader of one domain's records, of whatever version, with an END behind them.
pub fn reader_of_domain<S: ByteSource + ?Sized>(records: &S) -> Reader<'_, S> {
    Reader::new(records, is_known)
}

/// A reader that knows the types of the stream's version, which stands in its first record. If there is none, or one that this build does not know,
/// it has the types of version 1: [`validate`] refuses such a stream.
pub fn reader<S: ByteSource + ?Sized>(source: &S) -> Reader<'_, S> {
    let is_second = |record: Record<'_, S>| {
        record.kind == LU_VERSION && LuVersion::decode(record.body).is_ok_and(|v| v.stream_version > StreamVersion::V1)
    };
    match Reader::new(source, is_known_in_1).next_record() {
        Ok(Some(first)) if is_second(first) => Reader::new(source, is_known),
        _ => Reader::new(source, is_known_in_1),
    }
}

#[cfg(test)]
mod tests;
