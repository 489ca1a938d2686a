//! `cargo xtask bench pause`: what an update's pause is made of, against guests' memory, domains, extents and unowned RAM.
//!
//! Each point is a machine of its own under `-icount shift=0`, where a nanosecond is an instruction, that is updated A→B and B→A. Every
//! point is run twice: the two runs have to agree to the instruction, or the point is an error. Of the two updates the longer one counts.

mod picture;
mod point;
mod table;

use crate::{build, linux, paths, setup};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use point::{Measured, Point};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Options of `cargo xtask bench pause`.
#[derive(clap::Args)]
pub struct Args {
    /// Write a list of {what, unit, ours, baselines, target, met} to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the points whose series or label contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Machines at a time; those with much memory have the host to themselves
    #[arg(long, value_name = "N", default_value_t = crate::scenario::runner::DEFAULT_JOBS)]
    jobs: usize,
    /// Measure what target/luxen/ has, without compiling
    #[arg(long)]
    no_build: bool,
}

/// `cargo xtask bench pause`.
pub fn verb(args: &Args) -> Result<ExitCode> {
    let json = paths::from_caller(args.json.clone())?;
    paths::enter_root()?;
    setup::ensure(setup::BOOT)?;
    build::all_unless(args.no_build)?;
    linux::ensure(args.no_build)?;
    let only = args.only.as_deref().unwrap_or("");
    let points: Vec<Point> = point::all().into_iter().filter(|p| p.name().contains(only)).collect();
    let measured = measure(&points, args.jobs)?;
    println!("{}", table::stages(&measured));
    let rows = table::rows(&measured);
    println!("{}", table::summary(&rows));
    for picture in picture::draw_all(&measured)? {
        println!("picture: {}", picture.display());
    }
    if let Some(json) = json {
        paths::write_json(&json, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every point, twice; the large machines one after the other, behind the others.
fn measure(points: &[Point], jobs: usize) -> Result<Vec<Measured>> {
    let bar = ProgressBar::new(points.len() as u64);
    bar.set_style(ProgressStyle::with_template("{spinner} points {pos}/{len} [{elapsed}] {wide_bar}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let results: Mutex<Vec<(usize, Result<Measured>)>> = Mutex::new(Vec::new());
    let (large, small): (Vec<_>, Vec<_>) = points.iter().enumerate().partition(|(_, point)| point.is_large());
    for (batch, jobs) in [(small, jobs), (large, 1)] {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, batch.len().max(1)) {
                scope.spawn(|| {
                    while let Some((index, point)) = batch.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = point.measure().with_context(|| point.name());
                        bar.inc(1);
                        results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((*index, result));
                    }
                });
            }
        });
    }
    bar.finish_and_clear();
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
