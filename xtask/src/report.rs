//! Verdicts, and the report of each update as a table and as JSON.

use crate::console::Shell;
use indexmap::{IndexMap, IndexSet};
use luxen_figures::Sheet;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How something ended. Ordered as Xen's test framework does it: of several, the worst stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// All that was asked is true.
    Success,
    /// The question does not arise here.
    Skip,
    /// The test itself did not work, or never said how it ended.
    Error,
    /// Something asked is false.
    Failure,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Success, Self::Skip, Self::Error, Self::Failure];

    /// The word that stands for it everywhere.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Skip => "SKIP",
            Self::Error => "ERROR",
            Self::Failure => "FAILURE",
        }
    }

    /// What the hypervisor writes to the isa-debug-exit port.
    const fn debug_exit_value(self) -> i32 {
        match self {
            Self::Success => 0x10,
            Self::Failure => 0x11,
            Self::Error => 0x12,
            Self::Skip => 0x13,
        }
    }

    /// Takes the word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.word() == word)
    }

    /// Takes QEMU's exit status: the device exits with the value doubled, plus one.
    pub fn from_qemu_status(status: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.debug_exit_value() * 2 + 1 == status)
    }

    /// The exit code of a verb that ends with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Error => 2,
            Self::Skip => 3,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One update, as the incoming side reports it on the console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The how-manieth since the cold boot; on the console only.
    #[serde(skip_serializing)]
    pub sequence: u64,
    /// Version that left.
    pub from: String,
    /// Version that took over.
    pub to: String,
    /// Nanoseconds during which no guest ran.
    pub pause_ns: u64,
    /// The same by stage, in the order in which they happened.
    pub stages: IndexMap<String, u64>,
    /// Domains handed over.
    pub domains: u64,
    /// Extents of memory handed over.
    pub extents: u64,
    /// Pages in them.
    pub pages: u64,
    /// Length of the stream.
    pub stream_bytes: u64,
}

/// What `cargo xtask run --json` writes.
#[derive(Debug, Serialize)]
pub struct RunResult {
    /// How it ended.
    pub verdict: Verdict,
    /// All updates that happened.
    pub updates: Vec<Update>,
    /// The guests in the order of their domain numbers.
    pub guests: Vec<GuestResult>,
    /// When the Linux guest's shell was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Shell>,
}

/// A guest's part in [`RunResult`].
#[derive(Debug, Serialize)]
pub struct GuestResult {
    /// The domain's name.
    pub name: String,
    /// Its own verdict; ERROR if it gave none.
    pub verdict: Verdict,
}

/// What is wrong with a row of updates that should have gone from one build to the other and back, `wanted` times.
pub fn faults_in_chain(updates: &[Update], wanted: u32) -> Vec<String> {
    let mut faults = faults_in_row(updates, wanted);
    for (number, pair) in (2..).zip(updates.windows(2)) {
        if pair[0].from != pair[1].to {
            faults.push(format!("update {number} went to {}, not back to {}", pair[1].to, pair[0].from));
        }
    }
    faults
}

/// What is wrong with a row of updates, each of which should have gone on to another build, `wanted` times.
pub fn faults_in_row(updates: &[Update], wanted: u32) -> Vec<String> {
    let mut faults = Vec::new();
    if updates.len() as u64 != u64::from(wanted) {
        faults.push(format!("{} updates were reported, {wanted} were asked for", updates.len()));
    }
    for (index, update) in updates.iter().enumerate() {
        let number = index as u64 + 1;
        if update.sequence != number {
            faults.push(format!("report {number} says that it is update {}", update.sequence));
        }
        if update.from == update.to {
            faults.push(format!("update {number} went from {} to itself", update.from));
        }
        if index > 0 {
            let before = &updates[index - 1];
            if before.to != update.from {
                faults.push(format!("update {number} came from {}, but {} was running", update.from, before.to));
            }
        }
    }
    faults
}

/// The pause of each update by stage, in microseconds.
pub fn pause_table(updates: &[Update]) -> String {
    stages("update", updates.iter().map(|update| (update.sequence.to_string(), update))).text()
}

/// The same of updates each of which has a name, under `head`.
pub fn stages<'a>(head: &str, updates: impl Iterator<Item = (String, &'a Update)> + Clone) -> Sheet {
    let stages: IndexSet<&str> = updates.clone().flat_map(|(_, u)| u.stages.keys().map(String::as_str)).collect();
    let micros = |ns: u64| format!("{}.{:03}", ns / 1000, ns % 1000);
    let short = |version: &str| version.strip_prefix("luxen ").unwrap_or(version).to_owned();
    let mut heads: Vec<&str> = vec![head, "from", "to", "pause"];
    heads.extend(&stages);
    heads.extend(["domains", "extents", "pages", "stream bytes"]);
    let columns = heads.len();
    let mut sheet = Sheet::new(heads).numbers(3..columns);
    for (name, update) in updates {
        let mut row = vec![name, short(&update.from), short(&update.to), micros(update.pause_ns)];
        row.extend(stages.iter().map(|stage| update.stages.get(*stage).map_or("-".to_owned(), |ns| micros(*ns))));
        row.extend([update.domains, update.extents, update.pages, update.stream_bytes].map(|n| n.to_string()));
        sheet.add(row);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(sequence: u64, from: &str, to: &str) -> Update {
        let stages = IndexMap::from([("save".to_owned(), 1500), ("boot".to_owned(), 2_000_250)]);
        let (from, to) = (from.to_owned(), to.to_owned());
        Update { sequence, from, to, pause_ns: 2_001_750, stages, domains: 5, extents: 9, pages: 8, stream_bytes: 7 }
    }

    #[test]
    fn the_worst_verdict_is_the_greatest() {
        assert_eq!([Verdict::Error, Verdict::Failure, Verdict::Success].into_iter().max(), Some(Verdict::Failure));
        assert!(Verdict::Success < Verdict::Skip && Verdict::Skip < Verdict::Error);
    }

    #[test]
    fn the_exit_status_is_the_value_doubled_plus_one() {
        assert_eq!(Verdict::from_qemu_status(33), Some(Verdict::Success));
        assert_eq!(Verdict::from_qemu_status(35), Some(Verdict::Failure));
        assert_eq!(Verdict::from_qemu_status(37), Some(Verdict::Error));
        assert_eq!(Verdict::from_qemu_status(39), Some(Verdict::Skip));
        assert_eq!(Verdict::from_qemu_status(0), None);
    }

    #[test]
    fn a_chain_alternates() {
        let good = [update(1, "a", "b"), update(2, "b", "a"), update(3, "a", "b")];
        assert!(faults_in_chain(&good, 3).is_empty());
        assert_eq!(faults_in_chain(&good, 6).len(), 1);
        assert!(!faults_in_chain(&[update(1, "a", "a")], 1).is_empty());
        assert!(!faults_in_chain(&[update(1, "a", "b"), update(2, "a", "b")], 2).is_empty());
        assert!(!faults_in_chain(&[update(1, "a", "b"), update(2, "b", "c")], 2).is_empty());
        assert!(faults_in_row(&[update(1, "a", "b"), update(2, "b", "c")], 2).is_empty());
        assert!(!faults_in_row(&[update(1, "a", "b"), update(2, "a", "c")], 2).is_empty());
        assert!(!faults_in_chain(&[update(2, "a", "b")], 1).is_empty());
    }

    #[test]
    fn the_table_has_a_column_for_each_stage() {
        let text = pause_table(&[update(1, "luxen a", "luxen b")]);
        assert!(text.contains("save") && text.contains("1.500") && text.contains("2000.250"), "{text}");
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let guests = vec![GuestResult { name: "pulse".into(), verdict: Verdict::Success }];
        let result = RunResult { verdict: Verdict::Success, updates: vec![update(1, "a", "b")], guests, shell: None };
        let expected = r#"{"verdict":"SUCCESS","updates":[{"from":"a","to":"b","pause_ns":2001750,"stages":{"save":1500,"boot":2000250},"domains":5,"extents":9,"pages":8,"stream_bytes":7}],"guests":[{"name":"pulse","verdict":"SUCCESS"}]}"#;
        assert_eq!(serde_json::to_string(&result).unwrap(), expected);
        let shell = Some(Shell { virtual_seconds: 4.56, host_seconds: 20.5 });
        let with_shell = serde_json::to_string(&RunResult { shell, ..result }).unwrap();
        assert!(with_shell.ends_with(r#","shell":{"virtual_seconds":4.56,"host_seconds":20.5}}"#), "{with_shell}");
    }
}
