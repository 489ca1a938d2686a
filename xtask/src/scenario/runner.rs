//! Makes a machine of each scenario, a few at a time, and judges what came of it.

use super::at_jump::{self, Played};
use super::{Expect, Scenario, Way, pause};
use crate::console::{self, Act, Outcome};
use crate::qemu::{self, Accel, Clock, Loader, Machine, Serial};
use crate::report::{self, Update, Verdict};
use crate::transcript::Memory;
use crate::{image, paths};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Machines at a time: QEMU with one emulated processor fills one of the host's.
pub const DEFAULT_JOBS: usize = 2;

/// Lines of the console that a failed scenario shows.
const SHOWN_LINES: usize = 12;

/// What came of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioResult {
    /// Its name.
    pub name: String,
    /// SUCCESS if all that it expects is true.
    pub verdict: Verdict,
    /// How long it took by the host's clock.
    pub seconds: f64,
    /// When a Linux guest's shell was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<console::Shell>,
    /// How long the guests stood still in each update.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pauses_ns: Vec<u64>,
    /// Where the console is kept.
    pub log: String,
    /// What is wrong, and the last lines of the console.
    #[serde(skip)]
    pub reasons: Vec<String>,
    /// QEMU's call; empty if it did not come to that.
    #[serde(skip)]
    pub call: String,
}

/// How many went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Those with SUCCESS.
    pub passed: usize,
    /// Those with FAILURE or ERROR.
    pub failed: usize,
    /// Those with SKIP.
    pub skipped: usize,
}

impl Tally {
    /// Counts the verdicts.
    pub fn of(results: &[ScenarioResult]) -> Self {
        let mut tally = Self::default();
        results.iter().for_each(|result| tally.add(result.verdict));
        tally
    }

    /// Counts one more.
    pub fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Success => self.passed += 1,
            Verdict::Skip => self.skipped += 1,
            Verdict::Error | Verdict::Failure => self.failed += 1,
        }
    }
}

/// The closing line.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped != 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Runs the scenarios, `jobs` at a time, and prints a line for each as it ends.
pub fn run_all(scenarios: &[Scenario], jobs: usize) -> Result<Vec<ScenarioResult>> {
    let bar = ProgressBar::new(scenarios.len() as u64);
    bar.set_style(ProgressStyle::with_template("{spinner} scenarios {pos}/{len} [{elapsed}] {wide_bar}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, ScenarioResult)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, scenarios.len().max(1)) {
            scope.spawn(|| {
                while let Some((index, scenario)) = take(scenarios, &next) {
                    let result = run_one(scenario);
                    bar.suspend(|| print(&result));
                    bar.inc(1);
                    let mut results = results.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    results.push((index, result));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn take<'a>(scenarios: &'a [Scenario], next: &AtomicUsize) -> Option<(usize, &'a Scenario)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    scenarios.get(index).map(|scenario| (index, scenario))
}

fn print(result: &ScenarioResult) {
    let word = match result.verdict {
        Verdict::Success => "ok",
        Verdict::Failure => "FAIL",
        Verdict::Error => "ERROR",
        Verdict::Skip => "skip",
    };
    println!("{word:<5} {} ({:.1} s)", result.name, result.seconds);
    if !result.call.is_empty() {
        println!("      $ {}", result.call);
    }
    result.reasons.iter().for_each(|reason| println!("      {reason}"));
}

/// Runs one scenario. Whatever keeps it from running is its ERROR and no other's.
fn run_one(scenario: &Scenario) -> ScenarioResult {
    let log = paths::log(scenario.name);
    let started = Instant::now();
    let mut call = String::new();
    let mut shell = None;
    let mut pauses_ns = Vec::new();
    let (verdict, reasons) = match play(scenario, &log, &mut call) {
        Ok(Played { outcome, faults, has_verdict }) => {
            shell = outcome.shell;
            pauses_ns.extend(outcome.transcript.updates.iter().map(|update| update.pause_ns));
            let (mut verdict, mut reasons) = if has_verdict {
                judge(&scenario.expect, scenario.boot.guest_strings().count() as u32, &outcome)
            } else {
                (Verdict::Success, Vec::new())
            };
            if !faults.is_empty() {
                verdict = verdict.max(Verdict::Failure);
                reasons.extend(faults);
            }
            if verdict > Verdict::Skip {
                let lines = &outcome.transcript.lines;
                reasons.push(format!("the last lines of {}:", log.display()));
                let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].iter();
                reasons.extend(last.map(|line| format!("| {line}")));
            }
            (verdict, reasons)
        }
        Err(error) => (Verdict::Error, vec![format!("{error:#}")]),
    };
    let seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let log = log.to_string_lossy().into_owned();
    ScenarioResult { name: scenario.name.to_owned(), verdict, seconds, shell, pauses_ns, log, reasons, call }
}

fn play(scenario: &Scenario, log: &std::path::Path, call: &mut String) -> Result<Played> {
    let loader = match scenario.way {
        Way::Grub => {
            let iso = qemu::iso_path(scenario.name);
            image::make_iso(&scenario.boot, &iso)?;
            Loader::Grub(iso)
        }
        Way::Qemu => Loader::Qemu(scenario.boot.clone()),
    };
    let machine = Machine {
        memory: scenario.memory.to_owned(),
        loader,
        accel: Accel::Tcg,
        clock: Clock::Instructions,
        serial: Serial::Pipes,
        reboots: scenario.reboots,
        inspect: None,
    };
    if let Some(what) = scenario.at_jump {
        return at_jump::play(scenario, what, machine, log, call);
    }
    *call = machine.pasteable();
    let outcome = console::attend(&machine, &scenario.script, scenario.limit, log, |_| {})?;
    Ok(Played { outcome, faults: Vec::new(), has_verdict: true })
}

/// The verdict on a scenario and every reason against it.
fn judge(expect: &Expect, guests: u32, outcome: &Outcome) -> (Verdict, Vec<String>) {
    let said = match outcome.machine_verdict() {
        Ok(Verdict::Skip) if expect.verdict != Verdict::Skip => {
            return (Verdict::Skip, vec!["the machine says that the question does not arise".to_owned()]);
        }
        Ok(said) => said,
        Err(reason) => return (Verdict::Error, vec![reason]),
    };
    let transcript = &outcome.transcript;
    let mut verdict = Verdict::Success;
    let mut reasons = Vec::new();
    let mut blame = |worse: Verdict, reason: String| {
        verdict = verdict.max(worse);
        reasons.push(reason);
    };
    if said != expect.verdict {
        blame(Verdict::Failure, format!("the machine's verdict is {said}, not {}", expect.verdict));
    }
    for act in &outcome.acts_left {
        if matches!(act, Act::Wait(_) | Act::See(_) | Act::Hear(_)) {
            blame(Verdict::Error, act.to_string());
        }
    }
    let faults_in = if expect.is_onward { report::faults_in_row } else { report::faults_in_chain };
    faults_in(&transcript.updates, expect.updates).into_iter().for_each(|f| blame(Verdict::Failure, f));
    for (number, (planned, used)) in (1..).zip(&transcript.regions) {
        planned.faults(*used).into_iter().for_each(|f| blame(Verdict::Failure, format!("update {number}: {f}")));
    }
    if transcript.regions.len() != transcript.updates.len() {
        let (said, updates) = (transcript.regions.len(), transcript.updates.len());
        blame(Verdict::Failure, format!("{said} of {updates} updates say what of the region was planned and used"));
    }
    for pattern in expect.says.iter().filter(|pattern| !transcript.has(pattern)) {
        blame(Verdict::Failure, format!("no line like: {pattern}"));
    }
    for pattern in &expect.never {
        transcript
            .lines
            .iter()
            .filter(|line| pattern.is_match(line))
            .for_each(|line| blame(Verdict::Failure, format!("a line that must not be: {line}")));
    }
    for pattern in &expect.same {
        let found: Vec<&str> = transcript
            .lines
            .iter()
            .filter_map(|line| pattern.captures(line)?.get(1).map(|group| group.as_str()))
            .collect();
        if found.len() < 2 || found.iter().any(|&group| group != found[0]) {
            blame(Verdict::Failure, format!("not the same, or not there twice: {pattern}: {found:?}"));
        }
    }
    if let Some(figures) = &expect.pauses {
        pause::faults(figures, &transcript.updates).into_iter().for_each(|f| blame(Verdict::Failure, f));
    }
    if expect.is_steady {
        unsteady_memory(&transcript.ledgers, expect.updates).into_iter().for_each(|f| blame(Verdict::Failure, f));
    }
    if expect.is_even {
        drift(&transcript.updates, &transcript.reported_us).into_iter().for_each(|f| blame(Verdict::Failure, f));
    }
    for domain in (1..=guests).filter(|domain| !expect.lost.contains(domain)) {
        match transcript.guests.get(&domain) {
            Some(own) if own.verdict == Verdict::Success => {}
            Some(own) => blame(Verdict::Failure, format!("d{domain}: {} {}", own.verdict, own.reason)),
            None => blame(Verdict::Failure, format!("d{domain} gave no verdict")),
        }
    }
    transcript.alarms.iter().for_each(|line| blame(Verdict::Failure, line.clone()));
    transcript.unreadable.iter().for_each(|line| blame(Verdict::Error, format!("unreadable report: {line}")));
    (verdict, reasons)
}

/// What differs between the second update and the last that goes the same way: the pause, and the time from one report to the next. Where time is counted
/// in instructions, only state that grows can make them differ by more than what guests happen to be at.
fn drift(updates: &[Update], reported_us: &[u64]) -> Vec<String> {
    const PER_CENT: u64 = 10;
    // The first update finds the machine as the loader left it, so the second one sets the measure.
    let second = 1;
    let Some(last) = (2..updates.len().min(reported_us.len())).rev().find(|index| index % 2 == second) else {
        return vec![format!("{} updates are too few to compare", updates.len())];
    };
    let took = |index: usize| reported_us[index].saturating_sub(reported_us[index - 1]);
    let pause = |index: usize| updates[index].pause_ns / 1000;
    let mut faults = Vec::new();
    for (what, then, now) in [("pause", pause(second), pause(last)), ("time", took(second), took(last))] {
        if now.abs_diff(then) * 100 > then * PER_CENT {
            let number = last + 1;
            faults.push(format!("the {what} of update {number} is {now} µs, that of update 2 was {then} µs"));
        }
    }
    faults
}

/// What is wrong with the ledgers of the updates: the first is the cold boot's, before there are guests, and what comes behind them is the end's.
fn unsteady_memory(ledgers: &[Memory], updates: u32) -> Vec<String> {
    let Some(ledgers) = ledgers.get(1..=updates as usize) else {
        return vec![format!("{} ledgers, {} are due", ledgers.len(), updates + 1)];
    };
    let mut faults = Vec::new();
    for (number, pair) in (2..).zip(ledgers.windows(2)) {
        if pair[0].claims != pair[1].claims {
            faults.push(format!("update {number} found {} frames claimed, not {}", pair[1].claims, pair[0].claims));
        }
    }
    // The two builds take turns, and their images need different amounts.
    for (number, three) in (3..).zip(ledgers.windows(3)) {
        if three[0].free != three[2].free {
            faults.push(format!("update {number} found {} frames free, not {}", three[2].free, three[0].free));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::End;
    use crate::transcript::Transcript;

    fn outcome(lines: &[&str], status: i32) -> Outcome {
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.add(line));
        let end = End::Exited(Some(status));
        Outcome { end, transcript, acts_left: Vec::new(), log: "log".into(), took: Duration::ZERO, shell: None }
    }

    fn verdict(scenario: Scenario, guests: u32, lines: &[&str], status: i32) -> Verdict {
        judge(&scenario.expect, guests, &outcome(lines, status)).0
    }

    fn scenario() -> Scenario {
        Scenario::new("x", "x")
    }

    #[test]
    fn what_is_expected_has_to_be_there() {
        let lines = ["[    0.000000] region: chosen [0x200000, 0x400000)", "verdict: SUCCESS"];
        assert_eq!(verdict(scenario(), 0, &lines, 33), Verdict::Success);
        assert_eq!(verdict(scenario().says("region: chosen"), 0, &lines, 33), Verdict::Success);
        assert_eq!(verdict(scenario().says("region: fixed"), 0, &lines, 33), Verdict::Failure);
        assert_eq!(verdict(scenario().never("region: chosen"), 0, &lines, 33), Verdict::Failure);
        let sums = ["sum 1", "sum 2", "sum 1", "verdict: SUCCESS"];
        assert_eq!(verdict(scenario().same("sum (.)"), 0, &[sums[0], sums[2], sums[3]], 33), Verdict::Success);
        assert_eq!(verdict(scenario().same("sum (.)"), 0, &sums, 33), Verdict::Failure);
        assert_eq!(verdict(scenario().same("sum (.)"), 0, &[sums[0], sums[3]], 33), Verdict::Failure);
        assert_eq!(verdict(scenario().updates(1), 0, &lines, 33), Verdict::Failure);
        assert_eq!(verdict(scenario().verdict(Verdict::Failure), 0, &lines, 33), Verdict::Failure);
    }

    #[test]
    fn every_guest_answers_for_itself() {
        let lines = ["(d1) pulse: verdict SUCCESS", "verdict: SUCCESS"];
        assert_eq!(verdict(scenario(), 1, &lines, 33), Verdict::Success);
        assert_eq!(verdict(scenario(), 2, &lines, 33), Verdict::Failure);
        assert_eq!(verdict(scenario().loses(2), 2, &lines, 33), Verdict::Success);
    }

    #[test]
    fn memory_that_goes_is_noticed() {
        let memory = |claims, free| Memory { claims, free };
        let steady = [memory(1, 90), memory(10, 50), memory(10, 45), memory(10, 50), memory(10, 45), memory(1, 80)];
        assert!(unsteady_memory(&steady, 4).is_empty());
        assert_eq!(unsteady_memory(&steady, 6).len(), 1, "ledgers are missing");
        let mut leaking = steady;
        leaking[3].free = 49;
        assert_eq!(unsteady_memory(&leaking, 4).len(), 1);
        leaking[4].claims = 11;
        assert_eq!(unsteady_memory(&leaking, 4).len(), 2);
    }

    #[test]
    fn updates_that_take_longer_and_longer_are_noticed() {
        let update = |sequence: u64, pause_us: u64| Update {
            sequence,
            from: String::new(),
            to: String::new(),
            pause_ns: pause_us * 1000,
            stages: Default::default(),
            domains: 1,
            extents: 1,
            pages: 1,
            stream_bytes: 1,
        };
        let pauses = |all: [u64; 5]| all.into_iter().zip(1..).map(|(us, n)| update(n, us)).collect::<Vec<_>>();
        let at = [1000, 2000, 3000, 4000, 5000];
        // The last one that goes the way of the second is the fourth.
        assert!(drift(&pauses([300, 100, 300, 110, 900]), &at).is_empty());
        assert_eq!(drift(&pauses([100, 100, 100, 111, 100]), &at).len(), 1);
        assert_eq!(drift(&pauses([100, 100, 100, 89, 100]), &at).len(), 1);
        assert_eq!(drift(&pauses([100; 5]), &[1000, 2000, 3000, 4101, 5000]).len(), 1);
        assert_eq!(drift(&pauses([100; 5])[..3], &at).len(), 1, "too few");
    }

    #[test]
    fn no_verdict_is_an_error_and_a_skip_is_a_skip() {
        assert_eq!(verdict(scenario(), 0, &["nothing"], 0), Verdict::Error);
        assert_eq!(verdict(scenario(), 0, &["verdict: SUCCESS"], 35), Verdict::Error);
        assert_eq!(verdict(scenario(), 0, &["verdict: SKIP"], 39), Verdict::Skip);
        assert_eq!(verdict(scenario(), 0, &["[    1.000000] panic: no", "verdict: SUCCESS"], 33), Verdict::Failure);
    }

    #[test]
    fn the_closing_line_counts() {
        let mut tally = Tally::default();
        for verdict in [Verdict::Success, Verdict::Error, Verdict::Failure] {
            tally.add(verdict);
        }
        assert_eq!(tally.to_string(), "1 passed, 2 failed");
        tally.add(Verdict::Skip);
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 1 skipped");
    }
}
