//! Measures luxen's pure code on the host, beside baselines: `cargo xtask bench`.
//!
//! What is measured is the hypervisor's own library, compiled as the hypervisor is (`[profile.release]`, overflow checks included). The metadata are real:
//! chunk entries, page records, page tables, streams. The RAM that they describe is not there. Every contender's result is checked in every round.
//! docs/performance.md tells what the figures mean.

mod baseline;
mod claim;
mod host;
mod measure;
mod memory;
mod metadata;
mod pages;
mod plot;
mod plug_in;
mod replay;
mod report;
mod stream;

use anyhow::{Context, Result, bail};
use clap::Parser;
use measure::Clock;
use report::Report;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where the pictures go, from the repository's root.
const PICTURES: &str = "target/luxen/bench";

/// Measures luxen's pure code on the host, beside baselines.
#[derive(Parser)]
#[command(name = "luxen-bench")]
struct Args {
    /// Only the groups whose names contain FILTER: claim, plug-in, stream, pages, replay, metadata
    filter: Option<String>,
    /// Write the table to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Hosts of 64 GiB at the most and few rounds: to see that all works
    #[arg(long)]
    quick: bool,
}

/// A run.
pub struct Bench {
    clock: Clock,
    report: Report,
    is_quick: bool,
    started: Instant,
}

impl Bench {
    /// The largest host, in GiB.
    fn largest_gib(&self) -> u64 {
        if self.is_quick { 64 } else { 16 * 1024 }
    }

    /// How many rounds where `usual` would be right.
    fn rounds(&self, usual: usize) -> usize {
        if self.is_quick { 2 } else { usual }
    }

    /// Bytes of a window of a flat table: what the machine can spare.
    fn flat_window_bytes(&self) -> usize {
        let most = if self.is_quick { 1 << 29 } else { 2 << 30 };
        let spare = available_bytes().unwrap_or(4 << 30) / 4;
        // A power of two, so that extents are rarely cut.
        most.min(1 << spare.max(1 << 27).ilog2())
    }

    /// Says what is being done.
    fn progress(&self, what: &str) {
        eprintln!("[{:6.1} s] {what}", self.started.elapsed().as_secs_f64());
    }
}

/// Memory that could be had without anybody's harm.
fn available_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// A group of measurements.
type Group = (&'static str, fn(&mut Bench));

const GROUPS: &[Group] = &[
    ("claim", claim::run),
    ("plug-in", plug_in::run),
    ("stream", stream::run),
    ("pages", pages::run),
    ("replay", replay::run),
    ("metadata", metadata::run),
];

fn main() -> Result<()> {
    let args = Args::parse();
    let is_chosen = |name: &str| args.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let chosen: Vec<&Group> = GROUPS.iter().filter(|(name, _)| is_chosen(name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("no group is called {:?}: there are {}", args.filter.unwrap_or_default(), names.join(", "));
    }
    let core = measure::pin()?;
    let mut bench =
        Bench { clock: Clock::new(), report: Report::default(), is_quick: args.quick, started: Instant::now() };
    bench.progress(&format!("on core {core}"));
    for (_, group) in chosen {
        group(&mut bench);
    }
    bench.progress("done");
    println!("{}", bench.report.table());
    draw_all(&bench.report)?;
    if let Some(json) = args.json {
        bench.report.write_json(&json)?;
        println!("json: {}", json.display());
    }
    let (met, all) = bench.report.nr_met();
    println!("{met} of {all} targets met");
    Ok(())
}

fn draw_all(report: &Report) -> Result<()> {
    let dir = Path::new(PICTURES);
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {PICTURES}"))?;
    for curve in &report.curves {
        plot::draw(curve, dir)?;
    }
    println!("pictures: {} in {PICTURES}", report.curves.len());
    Ok(())
}
