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
mod plug_in;
mod replay;
mod stream;

use anyhow::{Result, bail};
use clap::Parser;
use luxen_figures::{Destination, Report};
use measure::Clock;
use std::path::PathBuf;
use std::time::Instant;

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
    /// Put the table and the pictures into docs/figures/
    #[arg(long)]
    docs: bool,
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
    let measured = format!(
        "Measured on the host: {}; {:.0} s of processor time, {:.0} s by the clock{}",
        measure::machine(),
        measure::used_seconds(),
        bench.started.elapsed().as_secs_f64(),
        if bench.is_quick { ", with few rounds, which mean little" } else { "" }
    );
    bench.progress("done");
    println!("{measured}");
    bench.report.publish("host", &measured, &Destination { json: args.json, docs: args.docs })
}
