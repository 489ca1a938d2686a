//! `cargo xtask run`: the main job, watched from the terminal.

use crate::console::{self, End, Outcome};
use crate::image::Boot;
use crate::lu::capture;
use crate::qemu::{self, Accel, Clock, Inspect, Loader, Machine, Serial};
use crate::report::{self, GuestResult, RunResult, Verdict};
use crate::transcript::{Line, Transcript};
use crate::{build, image, job, paths, setup, stop, transcript};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {
    /// Updates that the hypervisor starts by itself [default: 6; 0 with --interactive]
    #[arg(long, value_name = "N")]
    updates: Option<u32>,
    /// Memory of the machine, in MiB or with a suffix: 512, 4G
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: String,
    /// Write the verdict, every update's report and the guests' verdicts to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Save what crosses each update to DIR, as update-N.stream, update-N.list and update-N.json; see `lu dump`
    #[arg(long, value_name = "DIR", conflicts_with = "interactive")]
    save_stream: Option<PathBuf>,
    /// Stay on the console, in real time: `?` lists the hypervisor's keys, Ctrl-] x ends QEMU
    #[arg(long)]
    interactive: bool,
    /// Who executes the machine's instructions; with kvm the times are the host's
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accel,
    #[command(flatten)]
    job: job::Args,
    /// Seconds after which a machine without a verdict is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 480)]
    limit: u64,
    /// Boot what target/luxen/ has, without compiling
    #[arg(long)]
    no_build: bool,
}

/// `cargo xtask run`.
pub fn verb(mut args: Args) -> Result<ExitCode> {
    let json = paths::from_caller(args.json.clone())?;
    args.save_stream = paths::from_caller(args.save_stream)?;
    args.job = args.job.with_absolute_paths()?;
    paths::enter_root()?;
    let result = carry_out(&args).unwrap_or_else(|error| {
        println!("error: {error:#}");
        RunResult { verdict: Verdict::Error, updates: Vec::new(), guests: Vec::new(), shell: None }
    });
    let mut verdict = result.verdict;
    if let Some(json) = json
        && let Err(error) = paths::write_json(&json, &result)
    {
        println!("error: {error:#}");
        verdict = verdict.max(Verdict::Error);
    }
    println!("verdict: {verdict}");
    Ok(ExitCode::from(verdict.exit_code()))
}

fn carry_out(args: &Args) -> Result<RunResult> {
    setup::ensure(setup::BOOT)?;
    build::all_unless(args.no_build)?;
    let updates = args.updates.unwrap_or(if args.interactive { 0 } else { job::DEFAULT_UPDATES });
    let boot = args.job.boot(updates, !args.interactive, args.no_build)?;
    let iso = qemu::iso_path("run");
    let started = Instant::now();
    image::make_iso(&boot, &iso)?;
    eprintln!("image {}: done ({:.1} s)", iso.display(), started.elapsed().as_secs_f64());

    let log = paths::log("run");
    let sockets = tempfile::tempdir().context("cannot make a temporary directory")?;
    let machine = Machine {
        memory: args.memory.clone(),
        loader: Loader::Grub(iso),
        accel: args.accel,
        clock: if args.interactive || args.accel == Accel::Kvm { Clock::Host } else { Clock::Instructions },
        serial: if args.interactive { Serial::Terminal { log: log.clone() } } else { Serial::Pipes },
        reboots: false,
        inspect: args.save_stream.is_some().then(|| Inspect { sockets: sockets.path().to_owned(), stays: false }),
    };
    println!("$ {}", machine.pasteable());
    let mut unsaved = None;
    let outcome = if args.interactive {
        interact(&machine, log)?
    } else {
        let mut screen = Screen::new(&boot);
        let limit = Duration::from_secs(args.limit);
        let mut attend = || console::attend(&machine, &[], limit, &log, |line| screen.show(line));
        let outcome = match &args.save_stream {
            None => attend()?,
            Some(dir) => {
                let (outcome, saved) = save_streams(sockets.path(), dir, attend)?;
                unsaved = saved.err();
                outcome
            }
        };
        screen.unfold();
        outcome
    };

    let wanted = if args.interactive { None } else { Some(updates) };
    let (mut verdict, mut reasons) = judge(&outcome, &boot, wanted);
    if let Some(error) = unsaved {
        verdict = verdict.max(Verdict::Error);
        reasons.push(format!("streams were not saved: {error:#}"));
    }
    let guests = guest_results(&boot, &outcome.transcript);
    summarise(&outcome, &guests);
    reasons.iter().for_each(|reason| println!("why: {reason}"));
    Ok(RunResult { verdict, updates: outcome.transcript.updates, guests, shell: outcome.shell })
}

/// Saves what crosses each update while the machine runs.
fn save_streams(sockets: &Path, dir: &Path, attend: impl FnOnce() -> Result<Outcome>) -> Result<(Outcome, Result<()>)> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (outcome, captures) = stop::watched(sockets, attend, |watch| capture::save_all(watch, dir))?;
    let saved = captures.and_then(|mut captures| {
        println!("streams: {} in {}", captures.len(), dir.display());
        capture::save_who_took_over(&mut captures, &outcome.transcript.updates, dir)
    });
    Ok((outcome, saved))
}

/// Gives the terminal to QEMU and reads its log afterwards.
fn interact(machine: &Machine, log: PathBuf) -> Result<Outcome> {
    println!(
        "The console: `?` lists the hypervisor's keys, `u` updates; Ctrl-A types to each guest in turn; Ctrl-] x ends QEMU."
    );
    let started = Instant::now();
    let mut command = machine.command();
    console::die_with_parent(&mut command);
    let status = command.status().context("cannot start QEMU (Debian package qemu-system-x86)")?;
    let mut transcript = Transcript::default();
    let text = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    text.split(|byte| *byte == b'\n').for_each(|line| transcript.add(&transcript::plain(line)));
    let took = started.elapsed();
    Ok(Outcome { end: End::Exited(status.code()), transcript, acts_left: Vec::new(), log, took, shell: None })
}

/// The verdict on the whole run and every reason against SUCCESS. Without a number of updates wanted, someone was at the
/// console: then a machine that just ended proves nothing, and that is a SKIP.
fn judge(outcome: &Outcome, boot: &Boot, wanted: Option<u32>) -> (Verdict, Vec<String>) {
    let mut verdict = Verdict::Success;
    let mut reasons = Vec::new();
    let mut blame = |worse: Verdict, reason: String| {
        verdict = verdict.max(worse);
        reasons.push(reason);
    };
    match outcome.machine_verdict() {
        Ok(Verdict::Success) => {}
        Ok(said) => blame(said, format!("the machine's own verdict is {said}")),
        Err(_) if wanted.is_none() && outcome.end == End::Exited(Some(0)) => {
            return (Verdict::Skip, vec!["QEMU was ended before the machine gave a verdict".to_owned()]);
        }
        Err(reason) => blame(Verdict::Error, reason),
    }
    let transcript = &outcome.transcript;
    if let Some(wanted) = wanted {
        report::faults_in_chain(&transcript.updates, wanted).into_iter().for_each(|f| blame(Verdict::Failure, f));
    }
    for (index, string) in boot.guest_strings().enumerate() {
        let number = index as u32 + 1;
        let name = guest_name(string);
        match transcript.guests.get(&number) {
            Some(own) if own.verdict == Verdict::Success => {}
            Some(own) => blame(own.verdict, format!("d{number} {name}: {} {}", own.verdict, own.reason)),
            None => blame(Verdict::Failure, format!("d{number} {name} gave no verdict")),
        }
    }
    transcript.alarms.iter().for_each(|line| blame(Verdict::Failure, line.clone()));
    transcript.unreadable.iter().for_each(|line| blame(Verdict::Error, format!("unreadable report: {line}")));
    (verdict, reasons)
}

fn guest_name(string: &str) -> &str {
    string.split_ascii_whitespace().find_map(|word| word.strip_prefix("name=")).unwrap_or("?")
}

fn guest_results(boot: &Boot, transcript: &Transcript) -> Vec<GuestResult> {
    let verdict = |number: u32| transcript.guests.get(&number).map_or(Verdict::Error, |own| own.verdict);
    boot.guest_strings()
        .zip(1..)
        .map(|(string, number)| GuestResult { name: guest_name(string).to_owned(), verdict: verdict(number) })
        .collect()
}

fn summarise(outcome: &Outcome, guests: &[GuestResult]) {
    let updates = &outcome.transcript.updates;
    println!();
    if !updates.is_empty() {
        println!("The pause of each update by stage, in µs:\n{}\n", report::pause_table(updates));
    }
    for (guest, number) in guests.iter().zip(1..) {
        println!("d{number} {:<12} {}", guest.name, guest.verdict);
    }
    if let Some(shell) = outcome.shell {
        println!(
            "linux: shell after {:.2} s of the guest's, {:.1} s of the host's",
            shell.virtual_seconds, shell.host_seconds
        );
    }
    println!("console: {} ({:.1} s)", outcome.log.display(), outcome.took.as_secs_f64());
}

/// Shows the console as it comes. A guest that prints all the time would hide everything else, so only its first lines
/// after each line of the hypervisor are shown, and the rest are counted.
struct Screen {
    names: BTreeMap<u32, String>,
    /// Lines of each guest since the hypervisor last spoke.
    since: BTreeMap<u32, u32>,
}

impl Screen {
    /// Lines of each guest that are shown in a row.
    const SHOWN: u32 = 2;

    fn new(boot: &Boot) -> Self {
        let names = boot.guest_strings().zip(1..).map(|(string, number)| (number, guest_name(string).to_owned()));
        Self { names: names.collect(), since: BTreeMap::new() }
    }

    fn show(&mut self, line: &str) {
        match Line::parse(line) {
            Line::Guest(number, text) if !text.contains("verdict") => {
                let count = self.since.entry(number).or_default();
                *count += 1;
                if *count <= Self::SHOWN {
                    println!("{line}");
                }
            }
            Line::Guest(..) => println!("{line}"),
            // The whole run has its own last line: the machine's must not be taken for it.
            Line::Verdict(verdict) => {
                self.unfold();
                println!("machine: {verdict}");
            }
            Line::Hypervisor("lu", text) if text.starts_with("report ") => {
                self.unfold();
                match serde_json::from_str::<report::Update>(&text["report ".len()..]) {
                    Ok(update) => println!(
                        "==> update {}: {} -> {}, pause {}.{:03} ms, {} domains, {} extents",
                        update.sequence,
                        update.from,
                        update.to,
                        update.pause_ns / 1_000_000,
                        update.pause_ns / 1000 % 1000,
                        update.domains,
                        update.extents
                    ),
                    Err(_) => println!("{line}"),
                }
            }
            Line::Hypervisor(..) => {
                self.unfold();
                println!("{line}");
            }
            Line::Other(text) if text.trim().is_empty() => {}
            Line::Other(_) => println!("{line}"),
        }
    }

    /// Says how many lines were left out.
    fn unfold(&mut self) {
        for (number, count) in std::mem::take(&mut self.since) {
            if let Some(more @ 1..) = count.checked_sub(Self::SHOWN) {
                let name = self.names.get(&number).map_or("?", String::as_str);
                println!("(d{number}) {name}: ... {more} more lines");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLD: &str = "[    0.000000] start: luxen 0.1.0-a, cold boot";

    fn outcome(lines: &[String], end: End) -> Outcome {
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.add(line));
        Outcome { end, transcript, acts_left: Vec::new(), log: "log".into(), took: Duration::ZERO, shell: None }
    }

    fn good_lines(updates: u64) -> Vec<String> {
        let mut lines = vec![COLD.to_owned()];
        for n in 1..=updates {
            let (from, to) = if n % 2 == 1 { ("a", "b") } else { ("b", "a") };
            lines.push(format!(
                r#"[    1.000000] lu: report {{"sequence":{n},"from":"{from}","to":"{to}","pause_ns":1,"stages":{{"save":1}},"domains":5,"extents":5,"pages":1,"stream_bytes":1}}"#
            ));
        }
        lines.extend((1..=6).map(|d| format!("(d{d}) guest: verdict SUCCESS")));
        lines.push("verdict: SUCCESS".to_owned());
        lines
    }

    fn verdict_on(lines: &[String], end: End) -> Verdict {
        judge(&outcome(lines, end), &job::testing::main_job(), Some(6)).0
    }

    #[test]
    fn success_needs_everything() {
        let exit = |status| End::Exited(Some(status));
        let good = good_lines(6);
        assert_eq!(verdict_on(&good, exit(33)), Verdict::Success);
        assert_eq!(verdict_on(&good, exit(0)), Verdict::Error);
        assert_eq!(verdict_on(&good, exit(35)), Verdict::Error);
        assert_eq!(verdict_on(&good, End::TimedOut(Duration::ZERO)), Verdict::Error);
        assert_eq!(verdict_on(&good_lines(5), exit(33)), Verdict::Failure);
        assert_eq!(verdict_on(&good_lines(7), exit(33)), Verdict::Failure);
        for left_out in 0..good.len() {
            let mut lines = good.clone();
            lines.remove(left_out);
            assert_eq!(verdict_on(&lines, exit(33)) == Verdict::Success, left_out == 0, "without line {left_out}");
        }
        let mut worse = good.clone();
        worse.insert(1, "[    0.100000] ledger: MISMATCH 3 frames".to_owned());
        assert_eq!(verdict_on(&worse, exit(33)), Verdict::Failure);
        worse[1] = "(d2) memory: verdict FAILURE: pfn 1".to_owned();
        assert_eq!(verdict_on(&worse, exit(33)), Verdict::Failure);
    }

    #[test]
    fn leaving_the_console_is_no_verdict() {
        let boot = job::testing::at_the_console();
        assert_eq!(judge(&outcome(&[COLD.to_owned()], End::Exited(Some(0))), &boot, None).0, Verdict::Skip);
        assert_eq!(judge(&outcome(&good_lines(3), End::Exited(Some(33))), &boot, None).0, Verdict::Success);
    }
}
