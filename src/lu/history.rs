//! The history of updates: the last ones, whatever became of them. It crosses every update as LU_HISTORY records.
//!
//! 1. Numbers ascend, through refusals and updates alike, from the cold boot on.
//! 2. No more than [`KEPT`] are kept; the oldest go.
//! 3. A reason is printable ASCII of at most [`REASON_LEN_MAX`] bytes, so that whatever was kept can be saved.

use super::records::{HISTORY_MAX, HistoryEntry, Outcome, REASON_LEN_MAX};
use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt;

/// Entries that are kept. Each costs an update some 12 us of its pause, so that they are fewer than a stream may have.
pub const KEPT: usize = 24;

const _: () = assert!(KEPT <= HISTORY_MAX);

/// An entry, and why it did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its fields.
    pub entry: HistoryEntry,
    /// The reason; empty if it came about.
    pub reason: String,
}

/// What happened, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: VecDeque<Past>,
}

/// A text that a record may carry: what is not printable is shown as a question mark, what is too long is cut.
fn storable(reason: &str) -> String {
    let mut text: String =
        reason.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).take(REASON_LEN_MAX).collect();
    if reason.chars().nth(REASON_LEN_MAX).is_some() {
        text.truncate(REASON_LEN_MAX - 3);
        text.push_str("...");
    }
    text
}

impl History {
    /// Takes up an entry of the outgoing build, whose numbers [`validate`](super::records::validate) has checked.
    pub fn resume(&mut self, entry: HistoryEntry, reason: &str) {
        self.keep(Past { entry, reason: storable(reason) });
    }

    /// Adds what has just happened; its number is given here.
    pub fn add(&mut self, entry: HistoryEntry, reason: &str) {
        let number = self.entries.back().map_or(1, |last| last.entry.number.saturating_add(1));
        self.keep(Past { entry: HistoryEntry { number, ..entry }, reason: storable(reason) });
    }

    fn keep(&mut self, past: Past) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(past);
    }

    /// The entries, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Past> {
        self.entries.iter()
    }

    /// How many there were before the first that is kept.
    pub fn nr_lost(&self) -> u64 {
        self.entries.front().map_or(0, |first| first.entry.number.saturating_sub(1))
    }
}

/// Microseconds of a time in nanoseconds.
const fn micros(ns: u64) -> u64 {
    ns / 1000
}

impl fmt::Display for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HistoryEntry { number, sequence, outcome, nr_domains, at_ns, pause_ns, stages_ns, .. } = &self.entry;
        let HistoryEntry { nr_extents, nr_frames, stream_bytes, from, to, .. } = &self.entry;
        let at_ms = at_ns / 1_000_000;
        let to = if to.as_str().is_empty() { "nothing" } else { to.as_str() };
        write!(f, "{number}: update {sequence} {} at {}.{:03} s, ", outcome.word(), at_ms / 1000, at_ms % 1000)?;
        write!(f, "{from} to {to}")?;
        match outcome {
            Outcome::Done => {
                let [save, relocate, boot, restore, resume] = stages_ns.map(micros);
                write!(
                    f,
                    ": pause {} us (save {save}, relocate {relocate}, boot {boot}, restore {restore}, resume {resume})",
                    micros(*pause_ns)
                )?;
                write!(f, "; {nr_domains} domains, {nr_extents} extents, {nr_frames} frames, {stream_bytes} bytes")
            }
            Outcome::Refused | Outcome::Aborted => {
                if *pause_ns != 0 {
                    write!(f, ", guests stood still for {} us", micros(*pause_ns))?;
                }
                write!(f, ": {}", self.reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::{AnyRecord, LuHistory, Name, reader};
    use super::super::stream::Writer;
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn entry(outcome: Outcome) -> HistoryEntry {
        HistoryEntry {
            number: 0,
            sequence: 3,
            outcome,
            nr_domains: 2,
            at_ns: 1_234_567_890,
            pause_ns: 5_000_000,
            stages_ns: [1_000_000, 2_000_000, 500_000, 1_400_000, 100_000],
            nr_extents: 9,
            nr_frames: 4096,
            stream_bytes: 8192,
            from: Name::try_new("luxen a").unwrap(),
            to: Name::try_new("luxen b").unwrap(),
        }
    }

    #[test]
    fn numbers_go_on_and_the_oldest_go() {
        let mut history = History::default();
        assert_eq!((history.iter().count(), history.nr_lost()), (0, 0));
        for _ in 0..KEPT + 6 {
            history.add(entry(Outcome::Done), "");
        }
        let numbers: Vec<u64> = history.iter().map(|past| past.entry.number).collect();
        assert_eq!(numbers, (7..=30).collect::<Vec<_>>());
        assert_eq!(history.nr_lost(), 6);
    }

    #[test]
    fn a_history_is_the_same_behind_an_update() {
        let mut history = History::default();
        for n in 0..70u64 {
            let outcome = if n % 3 == 0 { Outcome::Refused } else { Outcome::Done };
            history.add(HistoryEntry { sequence: n + 1, ..entry(outcome) }, &"no\tmemory ".repeat(n as usize));
        }
        let mut writer = Writer::new(Vec::new());
        history.iter().for_each(|past| writer.save_history(&past.entry, &past.reason).unwrap());
        writer.finish().unwrap();
        let bytes = writer.into_dest();
        let mut again = History::default();
        let mut records = reader(&bytes);
        while let Some(record) = records.next_record().unwrap() {
            let Ok(AnyRecord::History(LuHistory { entry, reason })) = AnyRecord::decode(&record) else {
                panic!("not an entry")
            };
            again.resume(entry, core::str::from_utf8(&reason.to_vec().unwrap()).unwrap());
        }
        assert_eq!(again, history);
        again.add(entry(Outcome::Done), "");
        assert_eq!(again.iter().last().unwrap().entry.number, 71);
    }

    #[test]
    fn a_reason_can_always_be_saved() {
        assert_eq!(storable("too\nsmall é"), "too?small ?");
        assert_eq!(storable(&"x".repeat(256)), "x".repeat(256));
        let cut = storable(&"x".repeat(257));
        assert_eq!((cut.len(), cut.ends_with("x...")), (256, true));
    }

    #[test]
    fn an_entry_says_what_happened() {
        let mut history = History::default();
        history.add(entry(Outcome::Done), "");
        history.add(HistoryEntry { pause_ns: 0, to: Name::EMPTY, ..entry(Outcome::Refused) }, "no next image");
        history.add(entry(Outcome::Aborted), "not quiet");
        let lines: Vec<_> = history.iter().map(Past::to_string).collect();
        assert_eq!(
            lines[0],
            "1: update 3 done at 1.234 s, luxen a to luxen b: pause 5000 us (save 1000, relocate 2000, boot 500, restore 1400, resume 100); 2 domains, 9 extents, 4096 frames, 8192 bytes"
        );
        assert_eq!(lines[1], "2: update 3 refused at 1.234 s, luxen a to nothing: no next image");
        assert_eq!(
            lines[2],
            "3: update 3 aborted at 1.234 s, luxen a to luxen b, guests stood still for 5000 us: not quiet"
        );
    }
}
