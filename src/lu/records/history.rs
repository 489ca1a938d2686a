//! LU_HISTORY: what became of one update. The incoming build goes on with the list; one that does not know it passes over it.

use super::super::stream::{Body, ByteSource, Dest, Fields, RecordError, Sink, WriteError, Writer};
use super::text::{Name, is_printable};
use super::{LU_HISTORY, SavedRecord};

/// Entries that are kept, and the most that a stream may have.
pub const HISTORY_MAX: usize = 64;
/// The longest reason, in bytes.
pub const REASON_LEN_MAX: usize = 256;
/// Stages of a pause: save, relocate, boot, restore, resume.
pub const NR_STAGES: usize = 5;

const _: () = assert!(HISTORY_MAX == 64 && REASON_LEN_MAX == 256 && NR_STAGES == 5);

/// How an update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// It came about.
    Done = 1,
    /// It was refused: guests were not paused, or for nothing but the save.
    Refused = 2,
    /// Its pause was given up: the machine did not come to rest in time.
    Aborted = 3,
}

impl Outcome {
    /// The outcome of that number.
    pub const fn try_new(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Done,
            2 => Self::Refused,
            3 => Self::Aborted,
            _ => return None,
        })
    }

    /// In a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
        }
    }
}

/// The fields of an entry, all but its reason. Times are nanoseconds; of an update that did not come about, what was carried is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Its number since the cold boot; the first is 1.
    pub number: u64,
    /// The update's number; of one that did not come about, the number that it would have had.
    pub sequence: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Domains carried.
    pub nr_domains: u32,
    /// System time at which the pause began, or it was refused.
    pub at_ns: u64,
    /// From the guests' stop to their going on.
    pub pause_ns: u64,
    /// The same by stage.
    pub stages_ns: [u64; NR_STAGES],
    /// Extents carried.
    pub nr_extents: u64,
    /// Frames carried.
    pub nr_frames: u64,
    /// Bytes of the stream.
    pub stream_bytes: u64,
    /// The outgoing build.
    pub from: Name<48>,
    /// The incoming one; empty if none was found.
    pub to: Name<48>,
}

impl SavedRecord for HistoryEntry {
    const KIND: u32 = LU_HISTORY;
    const LEN_BYTES: u64 = 200;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u64(self.number);
        out.put_u64(self.sequence);
        out.put_u32(self.outcome as u32);
        out.put_u32(self.nr_domains);
        out.put_u64(self.at_ns);
        out.put_u64(self.pause_ns);
        out.put_words(&self.stages_ns);
        out.put_u64(self.nr_extents);
        out.put_u64(self.nr_frames);
        out.put_u64(self.stream_bytes);
        self.from.encode(out);
        self.to.encode(out);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let not_zero = |number| (number != 0).then_some(number);
        let number = from.checked_u64(not_zero)?;
        let sequence = from.checked_u64(not_zero)?;
        let outcome = from.checked_u32(Outcome::try_new)?;
        let nr_domains = from.u32()?;
        let (at_ns, pause_ns) = (from.u64()?, from.u64()?);
        let mut stages_ns = [0; NR_STAGES];
        for stage in &mut stages_ns {
            *stage = from.u64()?;
        }
        Ok(Self {
            number,
            sequence,
            outcome,
            nr_domains,
            at_ns,
            pause_ns,
            stages_ns,
            nr_extents: from.u64()?,
            nr_frames: from.u64()?,
            stream_bytes: from.u64()?,
            from: Name::decode(from)?,
            to: Name::decode(from)?,
        })
    }
}

/// An entry as it is read.
#[derive(Clone, Copy)]
pub struct LuHistory<'a, S: ?Sized> {
    /// Its fields.
    pub entry: HistoryEntry,
    /// Why it did not come about: printable ASCII.
    pub reason: Body<'a, S>,
}

impl<'a, S: ByteSource + ?Sized> LuHistory<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let entry = body.fields(HistoryEntry::LEN_BYTES, HistoryEntry::decode_fields)?;
        let reason = body;
        let limit = REASON_LEN_MAX as u64;
        if reason.remaining() > limit {
            let start = reason.offset();
            return Err(RecordError::Long { known: start + limit, found: start + reason.remaining() });
        }
        // It goes to the console as it is.
        while body.remaining() != 0 {
            body.checked_u8(|byte| is_printable(byte).then_some(()))?;
        }
        Ok(Self { entry, reason })
    }
}

impl<D: Dest> Writer<D> {
    /// Writes a [`LuHistory`] record. A reason that is too long, or not printable, is the caller's fault and refused by every reader.
    pub fn save_history(&mut self, entry: &HistoryEntry, reason: &str) -> Result<(), WriteError> {
        self.open_record(LU_HISTORY)?;
        entry.encode(self);
        self.put(reason.as_bytes());
        self.close_record()
    }
}

#[cfg(test)]
mod tests;
