//! `cargo xtask bench pause`: what an update's pause is made of, against guests' memory, domains, extents and unowned RAM.
//!
//! Each point is a machine of its own under `-icount shift=0`, where a nanosecond is an instruction, that is updated A→B and B→A. Every
//! point but the largest is run twice: the two runs have to agree to the instruction, or the point is an error. Of the two updates the longer one counts.

mod point;
mod table;

use crate::{build, linux, paths, qemu, setup};
use anyhow::{Context, Result, ensure};
use luxen_figures::Destination;
use point::{Measured, Point};
use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Options of `cargo xtask bench pause`.
#[derive(clap::Args)]
pub struct Args {
    /// Write a list of {what, unit, ours, baselines, target, met} to FILE; pauses have their stages behind it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the tables and the pictures into docs/figures/
    #[arg(long)]
    docs: bool,
    /// Only the points whose names contain this: `untyped/`, `domains/64`...
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Machines at a time; of those with much memory there is never more than one
    #[arg(long, value_name = "N", default_value_t = crate::scenario::runner::DEFAULT_JOBS)]
    jobs: usize,
    /// Measure what target/luxen/ has, without compiling
    #[arg(long)]
    no_build: bool,
}

/// `cargo xtask bench pause`. A target that is missed is a line of the table, not a failure.
pub fn verb(args: &Args) -> Result<ExitCode> {
    let json = paths::from_caller(args.json.clone())?;
    paths::enter_root()?;
    let only = args.only.as_deref().unwrap_or("");
    let all = point::all();
    let names: Vec<String> = all.iter().map(Point::name).collect();
    let points: Vec<Point> = all.into_iter().filter(|p| p.name().contains(only)).collect();
    ensure!(!points.is_empty(), "no point's name contains {only:?}: there are {}", names.join(", "));
    setup::ensure(setup::BOOT)?;
    build::all_unless(args.no_build)?;
    linux::ensure(args.no_build)?;
    check_memory(&points, args.jobs)?;
    let started = Instant::now();
    let measured = measure(&points, args.jobs)?;
    let how = format!(
        "Counted in instructions, 1 ms = 10⁶, under {}; every point twice, but for those above 6 GiB, and both runs the same; {:.0} s",
        qemu::version()?,
        started.elapsed().as_secs_f64()
    );
    println!("{how}");
    table::report(&measured).publish("pause", &how, &Destination { json, docs: args.docs })?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses what the host has no memory for: QEMU would be killed in the middle.
fn check_memory(points: &[Point], jobs: usize) -> Result<()> {
    let most = |is_large| points.iter().filter(|p| p.is_large() == is_large).map(Point::touched_mib).max().unwrap_or(0);
    let (large, small) = (most(true), most(false));
    let others = jobs.max(1) as u64 - 1;
    let needed = if large == 0 { small * (others + 1) } else { large + small * others };
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let available = kib.context("/proc/meminfo has no MemAvailable")? >> 10;
    ensure!(
        needed <= available,
        "the machines take up to {needed} MiB and the host has {available} MiB to spare: try --jobs 1, or leave large ones out with --only"
    );
    Ok(())
}

/// Every point. One worker begins with the large machines, of which the host has room for one, and the others with the rest.
fn measure(points: &[Point], jobs: usize) -> Result<Vec<Measured>> {
    let (large, small): (VecDeque<_>, VecDeque<_>) = points.iter().enumerate().partition(|(_, point)| point.is_large());
    let small = Mutex::new(small);
    let results: Mutex<Vec<(usize, Result<Measured>)>> = Mutex::new(Vec::new());
    let one = |(index, point): (usize, &Point)| {
        let started = Instant::now();
        let result = point.measure().with_context(|| point.name());
        let seconds = started.elapsed().as_secs_f64();
        match &result {
            Ok(m) => println!("{:<16}{:>12.3} ms ({seconds:.1} s)", point.name(), m.update.pause_ns as f64 / 1e6),
            Err(error) => println!("{:<16}ERROR: {error:#} ({seconds:.1} s)", point.name()),
        }
        results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
    };
    let (one, small) = (&one, &small);
    let rest = move || {
        let next = || small.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        std::iter::from_fn(next).for_each(one);
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            large.into_iter().for_each(one);
            rest();
        });
        for _ in 1..jobs {
            scope.spawn(rest);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
