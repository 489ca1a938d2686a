//! What a scenario does to a machine that stands at the jump, and what has to come of that.

use super::{Scenario, regex};
use crate::console::{self, Outcome};
use crate::lu::capture::{self, Capture};
use crate::lu::summary::Summary;
use crate::lu::xen::Checker;
use crate::lu::{Handover, project};
use crate::paths;
use crate::qemu::{Inspect, Machine};
use crate::report::Update;
use crate::stop::{self, FRAME_BYTES, Memory, Watch};
use anyhow::{Context, Result, bail};
use regex::Regex;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtJump {
    /// Each handover is captured, taken apart, compared with what the incoming build reports, and shown to Xen.
    Capture,
    /// At the first jump a bit is flipped, or none.
    Flip(Option<Flip>),
}

/// A bit that becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Where.
    pub part: Part,
    /// What decides which of all bits there.
    pub seed: u64,
}

/// A part of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first 64 bytes of the root list page.
    Header,
    /// The list's entries.
    Entries,
    /// The stream.
    Stream,
}

/// A scenario that was played.
pub struct Played {
    /// What the machine did.
    pub outcome: Outcome,
    /// What is wrong with what was seen at the jump.
    pub faults: Vec<String>,
    /// False if the machine was kept from giving a verdict, and what it said has been judged.
    pub has_verdict: bool,
}

/// What a build says that does not take an update up.
static REFUSED: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"(start: cannot boot|lu: the update cannot be taken up): (MFN list|stream|breadcrumb): .*\d")
});
/// What it says last.
static AT_REST: LazyLock<Regex> = LazyLock::new(|| regex(r"^verdict: |lu: lu-fail=(stop|reset): "));

/// Plays a scenario with somebody at the jump.
pub fn play(scenario: &Scenario, what: AtJump, mut machine: Machine, log: &Path, call: &mut String) -> Result<Played> {
    let sockets = tempfile::tempdir().context("cannot make a temporary directory")?;
    let stays = matches!(what, AtJump::Flip(_));
    machine.inspect = Some(Inspect { sockets: sockets.path().to_owned(), stays });
    *call = machine.pasteable();
    match what {
        AtJump::Capture => {
            let dir = Path::new(paths::STREAMS).join(scenario.name);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let run = || console::attend(&machine, &scenario.script, scenario.limit, log, |_| {});
            let (outcome, captures) = stop::watched(sockets.path(), run, |watch| capture::save_all(watch, &dir))?;
            let updates = &outcome.transcript.updates;
            let mut captures = captures?;
            capture::save_who_took_over(&mut captures, updates, &dir)?;
            let mut faults = Vec::new();
            if captures.len() != updates.len() {
                faults.push(format!("{} updates were captured, {} reported", captures.len(), updates.len()));
            }
            let checker = Checker::ensure()?;
            for capture in &captures {
                faults.extend(check(capture, updates, &checker, &dir)?);
            }
            Ok(Played { outcome, faults, has_verdict: true })
        }
        AtJump::Flip(flip) => {
            let (limit, (at_rest, rests)) = (scenario.limit, mpsc::channel());
            let run = || attend_until_rest(scenario, &machine, log, &at_rest);
            let watch = move |watch: &mut Watch| flip_and_wait(watch, flip, &rests, limit);
            let (outcome, seen) = stop::watched(sockets.path(), run, watch)?;
            let faults = judge_flip(&outcome, flip, &seen?);
            Ok(Played { outcome, faults, has_verdict: false })
        }
    }
}

/// What is wrong with a handover.
fn check(capture: &Capture, updates: &[Update], checker: &Checker, dir: &Path) -> Result<Vec<String>> {
    let number = capture.about.update;
    let handover = Handover::of_both(capture.stream.clone(), &capture.list, &capture.about.place());
    let mut faults: Vec<String> =
        handover.violations().map(|violation| format!("update {number}: violation: {violation}")).collect();
    let summary = Summary::of(&handover.stream);
    let report = updates.iter().find(|update| update.sequence == u64::from(number));
    match report {
        Some(report) => faults.extend(differences(&summary, report)),
        None => faults.push(format!("update {number} was captured, but not reported")),
    }
    for (index, domain) in summary.domains.iter().map(|domain| domain.domain).enumerate() {
        let Some(bytes) = project::project(&handover.stream, &handover.bytes, domain) else {
            bail!("update {number} has no domain {domain}");
        };
        let file = dir.join(format!("update-{number}-d{domain}.xen"));
        let objection = |bytes: &[u8]| {
            fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
            checker.objection(&file)
        };
        // Damaged ones first, so that the good one stays.
        if index == 0 {
            for (what, damaged) in damaged(&bytes) {
                if objection(&damaged)?.is_none() {
                    faults.push(format!("update {number} d{domain}: Xen takes a stream with {what}"));
                }
            }
        }
        if let Some(objection) = objection(&bytes)? {
            faults.push(format!("update {number} d{domain}: Xen does not take {}: {objection}", file.display()));
        }
    }
    Ok(faults)
}

/// Where the decoder has counted something else than the incoming build.
fn differences(summary: &Summary, report: &Update) -> Vec<String> {
    let numbers = [
        ("domains", summary.domains.len() as u64, report.domains),
        ("extents", summary.nr_extents, report.extents),
        ("pages", summary.nr_frames + summary.nr_lingering, report.pages),
        ("stream bytes", summary.stream_bytes, report.stream_bytes),
        ("update", summary.update, report.sequence),
    ];
    let mut faults: Vec<String> = numbers
        .into_iter()
        .filter(|(_, decoded, reported)| decoded != reported)
        .map(|(what, decoded, reported)| format!("{what}: {decoded} in the stream, {reported} reported"))
        .collect();
    if summary.build != report.from {
        faults.push(format!("the stream is from {:?}, {:?} is reported", summary.build, report.from));
    }
    faults
}

/// Streams of libxc's that are each wrong in one way. `good` begins with headers of 40 bytes and X86_PV_INFO, 16 bytes.
fn damaged(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] ^= byte;
        bytes
    };
    vec![
        ("another magic number", with(8, 1)),
        ("another page shift", with(28, 1)),
        ("another guest width", with(48, 1)),
        ("a record of an unknown type", with(40, 0x20)),
        ("a live-update record", with(43, 0x40)),
        ("a record that is too long", with(44, 8)),
        ("no end", good[..good.len() - 8].to_vec()),
    ]
}

/// What was seen of a machine in which a bit was flipped.
struct Seen {
    /// Which bit, for messages.
    what: String,
    /// Guests' memory at the jump and when the machine had come to rest.
    memory: [Vec<(u64, String)>; 2],
}

/// Attends the machine and says when it has come to rest.
fn attend_until_rest(scenario: &Scenario, machine: &Machine, log: &Path, at_rest: &Sender<()>) -> Result<Outcome> {
    console::attend(machine, &scenario.script, scenario.limit, log, |line| {
        if AT_REST.is_match(line) {
            // One who does not wait any more has failed, and says so itself.
            at_rest.send(()).unwrap_or_default();
        }
    })
}

fn flip_and_wait(watch: &mut Watch, flip: Option<Flip>, rests: &Receiver<()>, limit: Duration) -> Result<Seen> {
    let jump = watch.next_jump()?.context("the machine ended without an update")?;
    let capture = Capture::take(&jump, watch.memory())?;
    let summary = Summary::of(&Handover::of_stream(capture.stream.clone()).stream);
    let before = digests(watch.memory(), &summary)?;
    let mut what = "no bit flipped".to_owned();
    if let Some(flip) = flip {
        let place = choose(flip, &capture)?;
        watch.memory().flip(place.address, place.bit)?;
        what = format!("seed {}: bit {} of {}", flip.seed, place.bit, place.name);
    }
    watch.let_run()?;
    rests.recv_timeout(limit).with_context(|| format!("the machine did not come to rest, {what}"))?;
    watch.memory().halt()?;
    let after = digests(watch.memory(), &summary)?;
    watch.memory().quit()?;
    Ok(Seen { what, memory: [before, after] })
}

/// A digest of each domain's memory.
fn digests(memory: &mut Memory, summary: &Summary) -> Result<Vec<(u64, String)>> {
    let mut all = Vec::new();
    for domain in &summary.domains {
        let mut hash = Sha256::new();
        let extents = domain.extents.iter().map(|extent| (extent.mfn, extent.count));
        for (mfn, count) in extents.chain(domain.others.iter().map(|mfn| (*mfn, 1))) {
            hash.update(memory.read_much(mfn * FRAME_BYTES, count * FRAME_BYTES)?);
        }
        all.push((domain.domain, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()));
    }
    Ok(all)
}

/// A bit of the machine's memory.
struct Place {
    address: u64,
    bit: u8,
    name: String,
}

fn choose(flip: Flip, capture: &Capture) -> Result<Place> {
    let mut random = fastrand::Rng::with_seed(flip.seed);
    let bit = random.u8(..8);
    let pages = capture.list_pages();
    let (address, name) = match flip.part {
        Part::Header => {
            let at = random.u64(..64);
            (pages[0] + at, format!("byte {at} of the root list page"))
        }
        Part::Entries => {
            // Behind the headers of both kinds of pages.
            let (page, at) = (random.usize(..pages.len()), random.u64(64..FRAME_BYTES));
            (pages[page] + at, format!("byte {at} of list page {page}"))
        }
        Part::Stream => {
            let at = random.u64(..capture.about.stream_bytes);
            let address = capture.machine_address(at).context("the list does not name all of the stream")?;
            (address, format!("byte {at:#x} of the stream"))
        }
    };
    Ok(Place { address, bit, name })
}

/// What is wrong with how a machine took a flipped bit, or none.
fn judge_flip(outcome: &Outcome, flip: Option<Flip>, seen: &Seen) -> Vec<String> {
    let lines = &outcome.transcript.lines;
    let said = |pattern: &Regex| lines.iter().any(|line| pattern.is_match(line));
    let took_over = lines.iter().any(|line| line.contains("took over from"));
    let [before, after] = &seen.memory;
    let changed: Vec<u64> =
        before.iter().zip(after).filter(|(before, after)| before != after).map(|(before, _)| before.0).collect();
    let mut faults = Vec::new();
    if before.is_empty() {
        faults.push("there was no guest".to_owned());
    }
    if flip.is_some() {
        if took_over {
            faults.push("the incoming build took over all the same".to_owned());
        }
        if !said(&REFUSED) {
            faults.push(format!("no line like: {}", REFUSED.as_str()));
        }
        if !changed.is_empty() {
            faults.push(format!("memory of the domains {changed:?} has changed"));
        }
    } else {
        if !took_over || said(&REFUSED) {
            faults.push("the incoming build did not take over".to_owned());
        }
        if changed.is_empty() {
            faults.push("no guest's memory has changed, though they ran on: changes are not seen".to_owned());
        }
    }
    faults.iter_mut().for_each(|fault| *fault = format!("{}: {fault}", seen.what));
    faults
}
