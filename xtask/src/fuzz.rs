//! `cargo xtask fuzz`: what reads bytes that luxen has not made, under libFuzzer. `tests/fuzz/README.md` says what is fuzzed and how.

use crate::{build, paths, step};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Only targets whose name contains this
    target: Option<String>,
    /// How long each runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Print the targets, and run none
    #[arg(long)]
    list: bool,
}

/// The fuzzer's workspace.
const WORKSPACE: &str = "tests/fuzz";
/// Where its programs come out.
const PROGRAMS: &str = "tests/fuzz/target/x86_64-unknown-linux-gnu/release";
/// Where cargo-fuzz is installed if there is none.
const TOOLS: &str = "target/luxen/tools";
/// The version that is installed.
const VERSION: &str = "0.13.2";
/// Bounds of each run: of memory, of one input's time, and of an input's length. The longest record that a stream needs, a vCPU's context, has 5 KiB.
const BOUNDS: [&str; 3] = ["-rss_limit_mb=2048", "-timeout=20", "-max_len=16384"];

/// `cargo xtask fuzz`.
pub fn verb(args: Args) -> Result<ExitCode> {
    paths::enter_root()?;
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| args.target.as_ref().is_none_or(|part| name.contains(part))).collect();
    ensure!(!chosen.is_empty(), "no target's name contains {:?}; --list prints them", args.target.unwrap_or_default());
    if args.list {
        chosen.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    step::run("build fuzz targets", &mut build_command(&cargo_fuzz()?))?;
    let mut nr_findings = 0;
    for name in chosen {
        let done = step::attempt(&format!("fuzz {name}"), &mut run_command(name, args.seconds)?)?;
        let executions = statistic(&done.output, "number_of_executed_units").unwrap_or(0);
        if done.succeeded {
            println!("ok    {name}: {executions} executions in {:.0} s", done.took.as_secs_f64());
        } else {
            nr_findings += 1;
            println!("FOUND {name}: see {}; the input lies in {}", done.log.display(), artifacts(name).display());
        }
    }
    Ok(ExitCode::from(u8::from(nr_findings != 0)))
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let dir = Path::new(WORKSPACE).join("fuzz_targets");
    let mut names = Vec::new();
    for file in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = file.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// The program cargo-fuzz: the caller's own, or one that is installed for this tree.
fn cargo_fuzz() -> Result<PathBuf> {
    let installed = Path::new(TOOLS).join("bin/cargo-fuzz");
    for program in [PathBuf::from("cargo-fuzz"), installed.clone()] {
        let found = Command::new(&program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_ok_and(|status| status.success()) {
            return Ok(program);
        }
    }
    let mut install = build::cargo("install");
    install.args(["cargo-fuzz", "--locked", "--version", VERSION, "--root", TOOLS]);
    step::run("install cargo-fuzz", &mut install)?;
    if !installed.exists() {
        bail!("cargo-fuzz is not at {}, where it was installed", installed.display());
    }
    Ok(installed)
}

/// The pinned compiler knows the instrumentation; RUSTC_BOOTSTRAP lets its flags through. What is fuzzed is safe Rust, so there is no sanitizer:
/// findings are panics, overflows, loops and memory without bounds.
fn build_command(cargo_fuzz: &Path) -> Command {
    let mut command = Command::new(cargo_fuzz);
    command.args(["build", "--fuzz-dir", WORKSPACE, "--sanitizer", "none"]).env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Inputs that reach new code are kept from run to run, apart from the seeds.
fn run_command(name: &str, seconds: u32) -> Result<Command> {
    let found = paths::out("fuzz").join(name);
    let artifacts = artifacts(name);
    for dir in [&found, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut command = Command::new(Path::new(PROGRAMS).join(name));
    command.arg(&found).arg(Path::new(WORKSPACE).join("corpus").join(name));
    command.arg(format!("-max_total_time={seconds}")).args(BOUNDS).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    Ok(command)
}

fn artifacts(name: &str) -> PathBuf {
    Path::new(WORKSPACE).join("artifacts").join(name)
}

/// A number of libFuzzer's closing lines.
fn statistic(output: &str, name: &str) -> Option<u64> {
    output
        .lines()
        .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_by_their_names() {
        let output = "#1 DONE\nstat::number_of_executed_units: 123\nstat::peak_rss_mb:               29\n";
        assert_eq!(statistic(output, "number_of_executed_units"), Some(123));
        assert_eq!(statistic(output, "peak_rss_mb"), Some(29));
        assert_eq!(statistic(output, "rss"), None);
    }

    #[test]
    fn every_target_has_a_program_and_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let workspace = root.join(WORKSPACE);
        let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap();
        let files = fs::read_dir(workspace.join("fuzz_targets")).unwrap();
        let names: Vec<String> =
            files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        assert!(names.len() >= 10);
        for name in names {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in Cargo.toml");
            assert!(workspace.join("corpus").join(&name).is_dir(), "{name} has no seeds");
        }
    }
}
