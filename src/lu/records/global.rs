//! Records of the host: version, clocks, what the hypervisor keeps for itself.

use super::super::stream::{Body, ByteSource, Dest, Fields, RecordError, Sink, WriteError, Writer};
use super::text::{self, Name};
use super::{LU_HOST, LU_LOG, LU_MODULE, LU_TIME, LU_VERSION, SavedRecord};
use crate::frame::{Mfn, MfnRange, PAGE_SIZE};
use bitflags::bitflags;
use core::fmt;

/// A version of all that is handed over: list, stream, records (I10). docs/handover.md says what differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StreamVersion(u32);

impl StreamVersion {
    /// The first one. It is frozen.
    pub const V1: Self = Self(1);
    /// A checksum for each frame of the stream, a sum for each domain.
    pub const V2: Self = Self(2);
    /// The newest that this build reads and writes. The feature `v1` makes a build of before there was a second one.
    pub const CURRENT: Self = if cfg!(feature = "v1") { Self::V1 } else { Self::V2 };
    /// The oldest that this build reads and writes.
    pub const OLDEST: Self = Self::V1;

    /// The version of that number, if this build knows it.
    pub const fn try_new(number: u32) -> Option<Self> {
        if Self::OLDEST.0 <= number && number <= Self::CURRENT.0 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

const _: () = assert!(StreamVersion::OLDEST.0 == 1 && StreamVersion::V2.0 == 2);
const _: () = assert!(
    StreamVersion::OLDEST.0 == StreamVersion::CURRENT.0 || StreamVersion::OLDEST.0 + 1 == StreamVersion::CURRENT.0,
    "I10: this version, the one before"
);

/// Who wrote the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuVersion {
    /// In which version the records are.
    pub stream_version: StreamVersion,
    /// Number of this update since the cold boot; the first is 1.
    pub update_sequence: u64,
    /// The outgoing build, such as "luxen 0.1.0-a".
    pub build: Name<48>,
}

impl SavedRecord for LuVersion {
    const KIND: u32 = LU_VERSION;
    const LEN_BYTES: u64 = 64;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u32(self.stream_version.get());
        out.put_u32(0);
        out.put_u64(self.update_sequence);
        self.build.encode(out);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let stream_version = from.checked_u32(StreamVersion::try_new)?;
        from.reserved(4)?;
        let update_sequence = from.checked_u64(|number| (number != 0).then_some(number))?;
        Ok(Self { stream_version, update_sequence, build: Name::decode(from)? })
    }
}

/// The clocks. System time at a TSC value `t` is `system_time_ns` + (`t` - `tsc`) / `tsc_hz`, on both sides of the jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuTime {
    /// The TSC when the anchor was taken.
    pub tsc: u64,
    /// System time at that moment, in nanoseconds since the cold boot.
    pub system_time_ns: u64,
    /// Frequency of the TSC as the outgoing side measured it; measuring again would make time jump.
    pub tsc_hz: u64,
    /// Frequency of the local APIC's timer at divider 1; 0 if it was not measured.
    pub apic_hz: u64,
    /// Wall-clock time at system time 0: seconds since 1970.
    pub wallclock_sec: u64,
    /// Wall-clock time at system time 0: nanoseconds of that second.
    pub wallclock_nsec: u32,
}

impl SavedRecord for LuTime {
    const KIND: u32 = LU_TIME;
    const LEN_BYTES: u64 = 48;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u64(self.tsc);
        out.put_u64(self.system_time_ns);
        out.put_u64(self.tsc_hz);
        out.put_u64(self.apic_hz);
        out.put_u64(self.wallclock_sec);
        out.put_u32(self.wallclock_nsec);
        out.put_u32(0);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let saved = Self {
            tsc: from.u64()?,
            system_time_ns: from.u64()?,
            // Time is divided by it.
            tsc_hz: from.checked_u64(|hz| (hz != 0).then_some(hz))?,
            apic_hz: from.u64()?,
            wallclock_sec: from.u64()?,
            wallclock_nsec: from.checked_u32(|nsec| (nsec < 1_000_000_000).then_some(nsec))?,
        };
        from.reserved(4)?;
        Ok(saved)
    }
}

/// Numbers of the stages in LU_STAGES. A number that a reader does not know is no error: stamps are only reported.
pub mod stage {
    /// The guests stopped: the pause begins.
    pub const PAUSED: u32 = 1;
    /// All state is saved, but for the end of the stream itself.
    pub const SAVED: u32 = 2;

    const _: () = assert!(PAUSED == 1 && SAVED == 2);
}

/// A boot module that is still in memory: a guest's kernel, a ramdisk, a next image.
#[derive(Clone, Copy)]
pub struct LuModule<'a, S: ?Sized> {
    /// Its first frame; the others follow.
    pub mfn: Mfn,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Its module string.
    pub string: Body<'a, S>,
}

impl<'a, S: ByteSource + ?Sized> LuModule<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let (mfn, len_bytes) = body.fields(16, |from| {
            let mfn = from.mfn()?;
            let is_range = |len: u64| MfnRange::try_new(mfn, len.div_ceil(PAGE_SIZE)).is_ok();
            Ok((mfn, from.checked_u64(|len| is_range(len).then_some(len))?))
        })?;
        Ok(Self { mfn, len_bytes, string: text::decode(body)? })
    }

    /// The frames that it takes.
    pub fn frames(&self) -> MfnRange {
        MfnRange::try_new(self.mfn, self.len_bytes.div_ceil(PAGE_SIZE)).unwrap_or(MfnRange::EMPTY)
    }
}

impl<D: Dest> Writer<D> {
    /// Writes a [`LuModule`] record.
    pub fn save_module(&mut self, mfn: Mfn, len_bytes: u64, string: &[u8]) -> Result<(), WriteError> {
        self.open_record(LU_MODULE)?;
        self.put_u64(mfn.get());
        self.put_u64(len_bytes);
        self.put(string);
        self.close_record()
    }
}

/// Whose the frames of a LU_XEN_PAGES record are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum XenPagesKind {
    /// The M2P, and what maps it.
    M2p = 1,
    /// The log.
    Log = 2,
    /// Boot modules.
    Module = 3,
    /// A next image that was staged.
    StagedImage = 4,
    /// Anything else that has to stay.
    Other = 5,
}

impl XenPagesKind {
    /// The kind of that number.
    pub const fn try_new(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::M2p,
            2 => Self::Log,
            3 => Self::Module,
            4 => Self::StagedImage,
            5 => Self::Other,
            _ => return None,
        })
    }
}

/// Where the log is; `head` and `tail` are as the log itself counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuLog {
    /// Its frames.
    pub frames: MfnRange,
    /// Its head.
    pub head: u64,
    /// Its tail.
    pub tail: u64,
}

impl SavedRecord for LuLog {
    const KIND: u32 = LU_LOG;
    const LEN_BYTES: u64 = 32;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u64(self.frames.start());
        out.put_u64(self.frames.nr_frames());
        out.put_u64(self.head);
        out.put_u64(self.tail);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let mfn = from.mfn()?;
        let frames =
            from.checked_u64(|nr_frames| MfnRange::try_new(mfn, nr_frames).ok().filter(|range| !range.is_empty()))?;
        Ok(Self { frames, head: from.u64()?, tail: from.u64()? })
    }
}

bitflags! {
    /// What happened to the host so far, as far as its verdict needs it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HostFlags: u64 {
        /// The line `finish` was typed into the guests' consoles.
        const FINISH_TYPED = 1;
        /// A domain ended otherwise than by powering off.
        const DOMAIN_FAILED = 2;
        /// The ledger did not add up.
        const LEDGER_MISMATCH = 4;
        /// An update was refused that should not have been.
        const REFUSED = 8;
    }
}

/// What the host keeps in mind from build to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuHost {
    /// Updates that the automatic trigger has made.
    pub updates_done: u64,
    /// System time of the next automatic one, 0 for none.
    pub next_trigger_ns: u64,
    /// What happened so far.
    pub flags: HostFlags,
    /// Updates that were refused.
    pub refusals: u64,
    /// The domain whose console has the keyboard; none for the hypervisor's own.
    pub console_focus: Option<u16>,
    /// The number that the next new domain gets.
    pub next_domid: u16,
    /// System time at which `finish` is to be typed, 0 for none.
    pub finish_ns: u64,
    /// Domains that are no more.
    pub domains_ended: u64,
}

impl LuHost {
    /// No domain has the keyboard.
    const NO_FOCUS: u16 = 0xffff;
}

impl SavedRecord for LuHost {
    const KIND: u32 = LU_HOST;
    const LEN_BYTES: u64 = 80;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u64(self.updates_done);
        out.put_u64(self.next_trigger_ns);
        out.put_u64(self.flags.bits());
        out.put_u64(self.refusals);
        out.put_u16(self.console_focus.unwrap_or(Self::NO_FOCUS));
        out.put_u16(self.next_domid);
        out.put_u32(0);
        out.put_u64(self.finish_ns);
        out.put_u64(self.domains_ended);
        out.put_zeros(24);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let updates_done = from.u64()?;
        let next_trigger_ns = from.u64()?;
        let flags = from.checked_u64(HostFlags::from_bits)?;
        let refusals = from.u64()?;
        let console_focus = Some(from.u16()?).filter(|&domid| domid != Self::NO_FOCUS);
        let next_domid = from.u16()?;
        from.reserved(4)?;
        let finish_ns = from.u64()?;
        let domains_ended = from.u64()?;
        from.reserved(24)?;
        Ok(Self { updates_done, next_trigger_ns, flags, refusals, console_focus, next_domid, finish_ns, domains_ended })
    }
}
