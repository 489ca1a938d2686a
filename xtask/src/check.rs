//! `cargo xtask test`: format, lints on both targets, documentation, host tests, QEMU scenarios.

use crate::report::Verdict;
use crate::scenario::{self, runner};
use crate::{build, paths, setup, step};
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Write each step's and each scenario's name, verdict, seconds and log to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The long scenarios, too
    #[arg(long)]
    all: bool,
    /// Machines at a time
    #[arg(long, value_name = "N", default_value_t = runner::DEFAULT_JOBS)]
    jobs: usize,
}

/// What `--json` writes.
#[derive(Serialize)]
struct CheckResult {
    steps: Vec<StepResult>,
    scenarios: Vec<runner::ScenarioResult>,
    passed: usize,
    failed: usize,
    skipped: usize,
}

#[derive(Serialize)]
struct StepResult {
    name: &'static str,
    verdict: Verdict,
    seconds: f64,
    log: String,
}

/// `cargo xtask test`.
pub fn verb(args: Args) -> Result<ExitCode> {
    let json = paths::from_caller(args.json)?;
    paths::enter_root()?;
    setup::ensure(setup::CHECK)?;
    let mut steps = Vec::new();
    for (name, command) in commands() {
        steps.push(run_step(name, command)?);
    }
    // One that builds nothing cannot test anything: then this step fails and the scenarios are not even tried.
    let started = Instant::now();
    let chosen = scenario::chosen(None, args.all);
    let built = build::all().and_then(|()| scenario::prepare(&chosen, false));
    if let Err(error) = &built {
        println!("FAIL  build: {error:#}");
    }
    let verdict = if built.is_ok() { Verdict::Success } else { Verdict::Failure };
    let seconds = started.elapsed().as_secs_f64();
    steps.push(StepResult { name: "build", verdict, seconds, log: paths::LOGS.to_owned() });
    let scenarios = if built.is_ok() { runner::run_all(&chosen, args.jobs)? } else { Vec::new() };

    println!();
    let mut tally = runner::Tally::of(&scenarios);
    for step in &steps {
        tally.add(step.verdict);
        println!("{:<8} {} ({:.1} s)", step.verdict.word(), step.name, step.seconds);
    }
    println!("scenarios: {}", runner::Tally::of(&scenarios));
    if let Some(json) = json {
        let runner::Tally { passed, failed, skipped } = tally;
        paths::write_json(&json, &CheckResult { steps, scenarios, passed, failed, skipped })?;
    }
    println!("{tally}");
    Ok(ExitCode::from(u8::from(tally.failed != 0)))
}

/// The steps before the scenarios, in order: what is quick and finds most comes first.
fn commands() -> Vec<(&'static str, Command)> {
    const DENY: [&str; 3] = ["--", "-D", "warnings"];
    let mut format = build::cargo("fmt");
    format.args(["--all", "--check"]);
    let mut host_lints = build::cargo("clippy");
    host_lints.args(["--workspace", "--all-targets"]).args(DENY);
    let mut kernel_lints = build::KERNELS.map(|(_, features)| {
        let mut command = build::bare_cargo("clippy", build::KERNEL_TARGET);
        command.args(["-p", "luxen"]).args(features).args(DENY);
        command
    });
    let next_lints = std::mem::replace(&mut kernel_lints[1], Command::new("true"));
    let [kernel_lints, _] = kernel_lints;
    let mut guest_lints = build::bare_cargo("clippy", build::GUEST_TARGET);
    guest_lints.args(["-p", "luxen-guests", "--bins"]).args(DENY);
    let mut docs = build::cargo("doc");
    docs.args(["--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    let mut host_tests = build::cargo("test");
    host_tests.arg("--workspace");
    vec![
        ("format", format),
        ("clippy host", host_lints),
        ("clippy luxen", kernel_lints),
        ("clippy luxen-next", next_lints),
        ("clippy guests", guest_lints),
        ("doc", docs),
        ("host tests", host_tests),
    ]
}

fn run_step(name: &'static str, mut command: Command) -> Result<StepResult> {
    let done = step::attempt(name, &mut command).with_context(|| format!("step {name}"))?;
    let (passed, failed) = count_tests(&done.output);
    if passed + failed != 0 {
        println!("{name}: {passed} passed, {failed} failed, in all test binaries");
    }
    Ok(StepResult {
        name,
        verdict: if done.succeeded { Verdict::Success } else { Verdict::Failure },
        seconds: (done.took.as_secs_f64() * 10.0).round() / 10.0,
        log: done.log.to_string_lossy().into_owned(),
    })
}

/// Adds up the `test result:` lines of cargo's test binaries.
fn count_tests(output: &str) -> (u64, u64) {
    let number_before = |line: &str, word: &str| -> u64 {
        let words: Vec<&str> = line.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
        words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
    };
    output.lines().filter(|line| line.starts_with("test result:")).fold((0, 0), |(passed, failed), line| {
        (passed + number_before(line, "passed"), failed + number_before(line, "failed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_results_are_added_up() {
        let output = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n\
                      test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured\n";
        assert_eq!(count_tests(output), (13, 2));
        assert_eq!(count_tests("nothing"), (0, 0));
    }

    #[test]
    fn every_step_is_a_different_command() {
        let commands = commands();
        assert_eq!(commands.len(), 7);
        assert!(commands.iter().all(|(_, command)| command.get_program() != "true"));
        assert_eq!(step::shell(&commands[3].1).matches("--features next").count(), 1);
        assert_eq!(step::shell(&commands[2].1).matches("--features").count(), 0);
    }
}
