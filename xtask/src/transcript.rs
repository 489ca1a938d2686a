//! What a console said: luxen's own lines, its guests' lines, and what they amount to.

use crate::planned::Region;
use crate::report::{Update, Verdict};
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static HYPERVISOR: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\[ *\d+\.\d{6}\] (\w+): (.*)$"));
static STAMP: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\[ *(\d+)\.(\d{6})\]"));
static GUEST: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\(d(\d+)\) (.*)$"));
static GUEST_VERDICT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\w-]+: verdict ([A-Z]+)(?:: (.*))?$"));
static SHELL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^linux: \S+ is up, (\d+\.\d+) s after its start$"));
static FOCUS: LazyLock<Regex> = LazyLock::new(|| pattern(r"^input goes to (?:d(\d+) |the hypervisor )"));
static ESCAPE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Za-z0-9]|.)"));
static LEDGER: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^total \d+ = claims (\d+) \+ free (\d+) .* \+ stream (\d+) "));
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(?:0x)?(ffff82d04[0-9a-f]{7})\b"));

/// A pattern of this program's own.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns in this file are well-formed")
}

/// The time that a line of the hypervisor begins with, in microseconds.
fn stamp_us(line: &str) -> Option<u64> {
    let (_, [seconds, micros]) = STAMP.captures(line)?.extract();
    Some(seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?)
}

/// One line and what it is.
#[derive(Debug)]
pub enum Line<'a> {
    /// The hypervisor's: module and sentence.
    Hypervisor(&'a str, &'a str),
    /// A guest's: domain number and text.
    Guest(u32, &'a str),
    /// The last word of all.
    Verdict(Verdict),
    /// The firmware's, the boot loader's, QEMU's.
    Other(&'a str),
}

impl<'a> Line<'a> {
    /// Tells what a line is.
    pub fn parse(line: &'a str) -> Self {
        if let Some(verdict) = line.strip_prefix("verdict: ").and_then(Verdict::from_word) {
            return Line::Verdict(verdict);
        }
        if let Some(parts) = HYPERVISOR.captures(line) {
            let (_, [module, text]) = parts.extract();
            return Line::Hypervisor(module, text);
        }
        if let Some(parts) = GUEST.captures(line) {
            let (_, [number, text]) = parts.extract();
            if let Ok(number) = number.parse() {
                return Line::Guest(number, text);
            }
        }
        Line::Other(line)
    }
}

/// Takes the terminal's control sequences out of a line, which GRUB and the firmware send.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = ESCAPE.replace_all(&text, "");
    text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// A guest's own verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestVerdict {
    /// The verdict; the worst if there are several.
    pub verdict: Verdict,
    /// The reason that it gave.
    pub reason: String,
}

/// Frames by the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Owned by domains, or preserved by the hypervisor.
    pub claims: u64,
    /// Free, or free as soon as the stream has been read: it grows with the history of updates.
    pub free: u64,
}

/// Everything that a console has said so far.
#[derive(Debug, Default)]
pub struct Transcript {
    /// All lines.
    pub lines: Vec<String>,
    /// Updates that happened, as the incoming side reported them.
    pub updates: Vec<Update>,
    /// Microseconds of system time when each of them was reported.
    pub reported_us: Vec<u64>,
    /// Lines that should have been reports but could not be read.
    pub unreadable: Vec<String>,
    /// Guests' verdicts by domain number.
    pub guests: BTreeMap<u32, GuestVerdict>,
    /// Seconds by the first Linux guest's own clock until its shell, which runs /init, had its first line.
    pub shell_seconds: Option<f64>,
    /// What nothing may ever say: ledger mismatches, panics.
    pub alarms: Vec<String>,
    /// Claimed and free frames, as each boot and the end counted them.
    pub ledgers: Vec<Memory>,
    /// What each update was to use of the region, and what it used.
    pub regions: Vec<(Region, Region)>,
    /// What the next update is to use of the region.
    planned: Option<Region>,
    /// The file in target/luxen/ that now runs, as the last banner says.
    pub running: Option<&'static str>,
    /// The verdict, if it is the last line.
    pub verdict: Option<Verdict>,
    /// The domain in focus, whose lines have no mark.
    focus: Option<u32>,
}

impl Transcript {
    /// Takes in the next line.
    pub fn add(&mut self, line: &str) {
        // QEMU's own messages come through the same pipe and say nothing about the machine.
        if !line.trim().is_empty() && !line.starts_with("qemu-system-x86_64:") {
            self.verdict = None;
        }
        match Line::parse(line) {
            Line::Verdict(verdict) => self.verdict = Some(verdict),
            Line::Guest(domain, text) => self.add_guest(domain, text),
            Line::Hypervisor("lu", text) if text.starts_with("report ") => {
                match serde_json::from_str(&text["report ".len()..]) {
                    Ok(update) => {
                        self.updates.push(update);
                        self.reported_us.push(stamp_us(line).unwrap_or(0));
                    }
                    Err(error) => self.unreadable.push(format!("{error}: {line}")),
                }
            }
            Line::Hypervisor("lu", text) if text.starts_with("planned ") => self.planned = Region::parse(text),
            Line::Hypervisor("bootmem", text) if text.starts_with("used ") => {
                self.regions.extend(self.planned.take().zip(Region::parse(text)));
            }
            Line::Hypervisor("start", text) if text.starts_with("luxen ") => {
                if text.ends_with("cold boot") {
                    // Whatever was planned before did not come about.
                    self.planned = None;
                }
                let version = text.split([' ', ',']).nth(1).unwrap_or_default();
                self.running = Some(if version.ends_with("-b") { "luxen-next" } else { "luxen" });
            }
            Line::Hypervisor("ledger", text) if text.contains("MISMATCH") => self.alarms.push(line.to_owned()),
            Line::Hypervisor("ledger", text) => {
                if let Some((_, [claims, free, stream])) = LEDGER.captures(text).map(|found| found.extract())
                    && let (Ok(claims), Ok(free), Ok(stream)) =
                        (claims.parse(), free.parse::<u64>(), stream.parse::<u64>())
                {
                    self.ledgers.push(Memory { claims, free: free + stream });
                }
            }
            Line::Hypervisor("console", text) => {
                if let Some(to) = FOCUS.captures(text) {
                    self.focus = to.get(1).and_then(|number| number.as_str().parse().ok());
                }
            }
            Line::Hypervisor("panic", _) => self.alarms.push(line.to_owned()),
            Line::Other(text) => {
                if let Some(domain) = self.focus {
                    self.add_guest(domain, text);
                }
            }
            Line::Hypervisor(..) => {}
        }
        self.lines.push(line.to_owned());
    }

    fn add_guest(&mut self, domain: u32, text: &str) {
        if self.shell_seconds.is_none() {
            self.shell_seconds = SHELL.captures(text).and_then(|parts| parts[1].parse().ok());
        }
        let Some(parts) = GUEST_VERDICT.captures(text) else { return };
        let verdict = Verdict::from_word(&parts[1]).unwrap_or(Verdict::Error);
        let reason = parts.get(2).map_or(String::new(), |m| m.as_str().to_owned());
        let old = self.guests.get(&domain).map(|known| known.verdict);
        if old.is_none_or(|old| old < verdict) {
            self.guests.insert(domain, GuestVerdict { verdict, reason });
        }
    }

    /// True if some line matches.
    pub fn has(&self, pattern: &Regex) -> bool {
        self.lines.iter().any(|line| pattern.is_match(line))
    }

    /// Addresses in the hypervisor's own text, in the order in which they were printed.
    pub fn text_addresses(&self) -> Vec<u64> {
        let mut found = Vec::new();
        for line in self.lines.iter().filter(|line| !matches!(Line::parse(line), Line::Guest(..))) {
            for part in ADDRESS.captures_iter(line) {
                if let Ok(address) = u64::from_str_radix(&part[1], 16)
                    && !found.contains(&address)
                {
                    found.push(address);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[    1.500000] lu: report {"sequence":1,"from":"luxen 0.1.0-a","to":"luxen 0.1.0-b","pause_ns":300,"stages":{"save":100,"boot":200},"domains":5,"extents":9,"pages":4096,"stream_bytes":8192}"#;

    fn transcript(lines: &[&str]) -> Transcript {
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.add(line));
        transcript
    }

    #[test]
    fn a_report_keeps_the_order_of_its_stages() {
        let transcript = transcript(&[REPORT]);
        let update = &transcript.updates[0];
        assert_eq!((update.sequence, update.pause_ns, update.pages), (1, 300, 4096));
        assert_eq!(update.stages.keys().collect::<Vec<_>>(), ["save", "boot"]);
        let cut = &REPORT[..REPORT.len() - 2];
        assert_eq!(self::transcript(&[cut]).unreadable.len(), 1);
    }

    #[test]
    fn a_guest_cannot_speak_for_the_hypervisor() {
        let forged = format!("(d1) {REPORT}");
        let transcript = transcript(&[&forged, "(d1) verdict: SUCCESS", "(d2) [    1.0] panic: not mine"]);
        assert!(transcript.updates.is_empty());
        assert_eq!(transcript.verdict, None);
        assert!(transcript.alarms.is_empty());
    }

    #[test]
    fn a_guest_in_focus_speaks_without_a_mark() {
        let transcript = transcript(&[
            "pulse: verdict FAILURE: nobody is in focus",
            "[    1.000000] console: input goes to d2 bad (Ctrl-A for the next)",
            "pulse: verdict SUCCESS",
            "[    2.000000] console: input goes to the hypervisor (? for help, Ctrl-A for the next)",
            "pulse: verdict FAILURE: nobody is in focus any more",
        ]);
        assert_eq!(transcript.guests.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(transcript.guests[&2].verdict, Verdict::Success);
    }

    #[test]
    fn ledgers_are_read_in_their_order() {
        let line = "[    0.001093] ledger: total 100 = claims 30 + free 50 + heap 0 + region 10 + image 5 + stream 0 + holes 5 (frames)";
        let later = line.replace("free 50", "free 47").replace("stream 0", "stream 2");
        let transcript = transcript(&[line, &format!("(d1) {line}"), &later]);
        let [first, second] = [50, 49].map(|free| Memory { claims: 30, free });
        assert_eq!(transcript.ledgers, [first, second]);
    }

    #[test]
    fn the_worst_verdict_of_a_guest_stays() {
        let transcript = transcript(&[
            "(d1) pulse: verdict SUCCESS",
            "(d2) memory: verdict FAILURE: pfn 3 holds 4",
            "(d2) memory: verdict SUCCESS",
            "(d3) events-a: verdict WHATEVER",
        ]);
        assert_eq!(transcript.guests[&1].verdict, Verdict::Success);
        assert_eq!(transcript.guests[&2].reason, "pfn 3 holds 4");
        assert_eq!(transcript.guests[&3].verdict, Verdict::Error);
    }

    #[test]
    fn the_first_shell_counts() {
        let shells = transcript(&[
            "(d1) linux: 6.1 is up, never s after its start",
            "(d2) linux: 6.1 is up, 4.56 s after its start",
            "(d3) linux: 6.1 is up, 1.00 s after its start",
        ]);
        assert_eq!(shells.shell_seconds, Some(4.56));
        assert_eq!(transcript(&["linux: 6.1 is up, 4.56 s after its start"]).shell_seconds, None);
    }

    #[test]
    fn only_the_last_line_is_the_verdict() {
        assert_eq!(transcript(&["verdict: SUCCESS", "", "qemu-system-x86_64: bye"]).verdict, Some(Verdict::Success));
        assert_eq!(transcript(&["verdict: SUCCESS", "[    1.000000] panic: late"]).verdict, None);
        assert_eq!(transcript(&["verdict: SPLENDID"]).verdict, None);
    }

    #[test]
    fn the_banner_says_which_build_runs() {
        let cold = "[    0.000000] start: luxen 0.1.0-a, cold boot";
        let next = "[    0.700000] start: luxen 0.1.0-b took over from luxen 0.1.0-a, update 1";
        assert_eq!(transcript(&[cold]).running, Some("luxen"));
        assert_eq!(transcript(&[cold, next]).running, Some("luxen-next"));
    }

    #[test]
    fn control_sequences_go() {
        assert_eq!(plain(b"\x1b[2J\x1b[01;01Hverdict: SUCCESS\r"), "verdict: SUCCESS");
        assert_eq!(plain(b"\x1bc\x07beep"), "beep");
    }

    #[test]
    fn addresses_are_found_once() {
        let transcript =
            transcript(&["[    1.000000] trap: rip 0xffff82d040001234", "  ffff82d040001234 ffff82d040002000"]);
        assert_eq!(transcript.text_addresses(), [0xffff_82d0_4000_1234, 0xffff_82d0_4000_2000]);
    }
}
