//! The pause of three updates, held to what it was: no change makes it longer, or shorter, without somebody saying so.
//!
//! The times are instructions, so the figures of tests/pause.json are the same on every host. `cargo xtask qemu-test pause- --accept` writes new ones.

use super::Scenario;
use crate::job::{self, Guest};
use crate::paths;
use crate::report::Update;
use anyhow::{Context, Result};
use indexmap::IndexMap;
use std::path::Path;

/// Where the figures are, seen from the repository's root.
const FILE: &str = "tests/pause.json";
/// What was in it when this was compiled.
const TEXT: &str = include_str!("../../../tests/pause.json");
/// A pause may differ by this part of the figure either way: a twentieth.
const PART: u64 = 20;
const ACCEPT: &str = "`cargo xtask qemu-test pause- --accept` takes it as the new figure";

/// Nanoseconds of each update's pause, by scenario.
pub type Figures = IndexMap<String, Vec<u64>>;

/// All of them.
pub fn all() -> Vec<Scenario> {
    let figures: Figures = serde_json::from_str(TEXT).unwrap_or_default();
    let held = |name, purpose| {
        Scenario::new(name, purpose)
            .options(job::REGION)
            .modules(job::images())
            .updates(2)
            .holds_pauses(figures.get(name).cloned().unwrap_or_default())
    };
    vec![
        held("pause-untyped", "the pause with one guest of 1 GiB whose memory is not typed page by page")
            .memory("2G")
            .options(job::TIMING)
            .options("lu-updates=2")
            .guests([Guest::new("pulse", "1G")]),
        held("pause-small-guests", "the pause with the five small guests of the main job")
            .memory("1G")
            .options(job::TIMING)
            .options("lu-updates=2")
            .guests(job::guests()),
        held("pause-linux", "the pause with Linux, which maps all of its memory")
            .memory("1G")
            // It has its shell after 3.5 s; nothing is typed to it but `finish`.
            .options("lu-first=6000 lu-every=200 finish=300 lu-updates=2")
            .modules([job::linux_ramdisk()])
            .guests([Guest::linux("256M", "shell")]),
    ]
}

/// What is wrong with the pauses, beside the figures.
pub fn faults(figures: &[u64], updates: &[Update]) -> Vec<String> {
    if figures.len() != updates.len() {
        return vec![format!("{FILE} has {} figures for {} updates; {ACCEPT}", figures.len(), updates.len())];
    }
    let pairs = updates.iter().zip(figures);
    let far = pairs.filter(|(update, figure)| update.pause_ns.abs_diff(**figure) > **figure / PART);
    far.map(|(Update { sequence, pause_ns, .. }, figure)| {
        let percent = 100.0 * (*pause_ns as f64 / *figure as f64 - 1.0);
        format!("update {sequence} paused for {pause_ns} ns, {percent:+.1} % beside the {figure} of {FILE}; {ACCEPT}")
    })
    .collect()
}

/// Writes new figures, and leaves those of scenarios that did not run.
pub fn accept(new: Figures) -> Result<()> {
    let mut figures: Figures =
        serde_json::from_str(TEXT).with_context(|| format!("{FILE} is not a list of figures"))?;
    figures.extend(new);
    paths::write_json(Path::new(FILE), &figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(sequence: u64, pause_ns: u64) -> Update {
        let (from, to, stages) = (String::new(), String::new(), IndexMap::new());
        Update { sequence, from, to, pause_ns, stages, domains: 1, extents: 1, pages: 1, stream_bytes: 1 }
    }

    #[test]
    fn five_percent_either_way_are_let_through() {
        assert!(faults(&[1000, 1000], &[update(1, 1050), update(2, 950)]).is_empty());
        assert_eq!(faults(&[1000, 1000], &[update(1, 1051), update(2, 949)]).len(), 2);
        assert_eq!(faults(&[1000], &[update(1, 1000), update(2, 1000)]).len(), 1);
        assert_eq!(faults(&[], &[update(1, 1000)]).len(), 1);
    }

    #[test]
    fn the_file_has_figures_for_each() {
        for scenario in all() {
            assert_eq!(scenario.expect.pauses.map(|figures| figures.len()), Some(2), "{}", scenario.name);
        }
    }
}
