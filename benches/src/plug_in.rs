//! Free memory plugged in, a host's bookkeeping made anew, the ledger counted: beside a flat table and a bitmap of all frames.

use crate::Bench;
use crate::baseline::flat::FlatLedger;
use crate::baseline::radix::{Radix, free_runs, nr_used};
use crate::claim::{FLAT, RADIX, Windows};
use crate::host::{Extent, FIRST_GUEST, FREE_BELOW, GIB, HostMemory, Layout, MOST, NR_KEPT, TIB, every_second};
use crate::measure::{Contender, interleave};
use crate::memory::Huge;
use luxen_figures::{Curve, Row, Spread, Target};

const OURS: &str = "luxen";

/// What is claimed before: nothing, or every second run of so many frames.
const CASES: [(Option<u32>, &str, &str, &[u64]); 4] = [
    (None, "unfragmented", "plug-in", &[1, 16, 64, 256, 1024, 4096, 16384]),
    (Some(512), "every second 2 MiB free", "plug-in-2mib", &[1, 16, 64, 256, 1024, 4096]),
    (Some(16), "every second 64 KiB free", "plug-in-64kib", &[1, 4, 16, 64]),
    (Some(1), "every second 4 KiB free", "plug-in-4kib", &[1, 4, 16, 64]),
];

/// All of it.
pub fn run(bench: &mut Bench) {
    let mut windows = Windows::new(bench.flat_window_bytes());
    let mut ledgers = Curve::new(
        "ledger",
        "The ledger counted, guests in 2 MiB extents and every second one free",
        "host, GiB",
        "ms",
    );
    for (len, name, file, hosts) in CASES {
        let hosts: Vec<u64> = hosts.iter().copied().filter(|gib| *gib <= bench.largest_gib()).collect();
        let largest = (hosts.last().copied().unwrap_or(1) * GIB).min(MOST);
        let split = if len.is_some_and(|len| len < 512) { largest } else { 0 };
        let mut memory = HostMemory::new(largest, split);
        let mut curve = Curve::new(file, format!("Free memory plugged in, {name}"), "host, GiB", "ms");
        for gib in hosts {
            bench.progress(&format!("plug-in: {name}, {gib} GiB"));
            let nr_frames = (gib * GIB).min(MOST);
            let extents = len.map_or(Vec::new(), |len| every_second(len, nr_frames));
            let found = measure(bench, &extents, &mut windows, &mut memory, nr_frames, gib <= 1024);
            for (who, figures) in &found {
                curve.add(who, gib as f64, figures[0].times(1e-6));
                if len == Some(512) {
                    ledgers.add(who, gib as f64, figures[1].times(1e-6));
                }
            }
            add_rows(bench, name, gib, len, &found);
        }
        bench.report.curves.push(curve);
    }
    bench.report.curves.push(ledgers);
    rebuild(bench);
}

fn host_name(gib: u64) -> String {
    if gib >= 1024 { format!("{} TiB", gib / 1024) } else { format!("{gib} GiB") }
}

fn add_rows(bench: &mut Bench, name: &str, gib: u64, len: Option<u32>, found: &[(&'static str, Vec<Spread>)]) {
    let host = host_name(gib);
    let rows = |what: String, unit, figure: usize, factor: f64| {
        let row = Row::new(what, unit, found[0].1[figure].times(factor));
        found[1..].iter().fold(row, |row, (who, figures)| row.beside(who, figures[figure].times(factor)))
    };
    match len {
        None => {
            let row = rows(format!("plug in {host}, {name}"), "ms", 0, 1e-6);
            let row = if gib * GIB == TIB { row.target(Target::AtMost(1.0)) } else { row };
            bench.report.add(row);
        }
        Some(len) => {
            let nr_fragments = ((gib * GIB - FIRST_GUEST) / (2 * u64::from(len))) as f64;
            let row = rows(format!("plug in {host}, {name}"), "ns/fragment", 0, 1.0 / nr_fragments);
            bench.report.add(row.target(Target::AtMost(10.0)));
        }
    }
    bench.report.add(rows(format!("ledger of {host}, {name}"), "ms", 1, 1e-6));
}

/// Nanoseconds for the free memory of a host, and for its ledger.
fn measure(
    bench: &Bench,
    extents: &[Extent],
    windows: &mut Windows,
    memory: &mut HostMemory,
    nr_frames: u64,
    with_flat: bool,
) -> Vec<(&'static str, Vec<Spread>)> {
    let clock = bench.clock;
    let claimed: u64 = extents.iter().map(|extent| extent.range().nr_frames()).sum();
    let free = nr_frames - NR_KEPT - 1 - claimed;
    let ours = || {
        let host = memory.host(nr_frames);
        host.claim_all(extents);
        let (plug_in, found) = clock.time(|| host.plug_in());
        assert_eq!(found, free, "all that nobody has is free");
        let (count, ledger) = clock.time(|| host.frames.ledger());
        assert!(ledger.is_balanced() && ledger.free == free && ledger.claims == claimed, "{ledger}");
        vec![plug_in, count]
    };
    let mut radix = Radix::new();
    for extent in extents {
        radix.preserve(extent.range().start(), extent.range().nr_frames());
    }
    radix.preserve(0, 1);
    for pair in FREE_BELOW.windows(2) {
        radix.preserve(pair[0].1, pair[1].0 - pair[0].1);
    }
    let mut bits = Huge::new(nr_frames as usize / 8);
    let scan = || {
        let used = bits.fresh::<u64>(nr_frames as usize / 64);
        radix.walk(used);
        let (plug_in, (_, found)) = clock.time(|| free_runs(used));
        assert_eq!(found, free, "all that nobody has is free");
        let (count, found) = clock.time(|| nr_used(used));
        assert_eq!(found, nr_frames - free, "all that somebody has is counted");
        vec![plug_in, count]
    };
    let cut = if with_flat { windows.cut(extents, nr_frames) } else { Vec::new() };
    let flat = || {
        let mut times = [0.0; 2];
        let mut found = FlatLedger::default();
        for (window, extents) in cut.iter().enumerate() {
            let mut table = windows.table(window, nr_frames);
            if window == 0 {
                for pair in FREE_BELOW.windows(2) {
                    assert!(table.claim(pair[0].1, pair[1].0 - pair[0].1, 0).is_ok(), "nobody has the frames");
                }
            }
            for &(start, len, owner) in extents {
                assert!(table.claim(start, len, owner).is_ok(), "nobody has the frames");
            }
            times[0] += clock.time(|| table.plug_in()).0;
            let (count, ledger) = clock.time(|| table.ledger());
            times[1] += count;
            found.claims += ledger.claims;
            found.free += ledger.free;
            found.rest += ledger.rest;
        }
        // The first frame of each window stays out.
        let nr_windows = cut.len() as u64;
        assert!(found.claims == claimed + NR_KEPT && found.free + found.rest == free + 1, "{found:?}");
        assert!(found.rest <= nr_windows, "{found:?}");
        times.to_vec()
    };
    let mut contenders = vec![Contender::new(OURS, ours), Contender::new(RADIX, scan)];
    let rounds = bench.rounds(if nr_frames == 64 * GIB { 4 } else { 8 });
    if with_flat {
        contenders.push(Contender::new(FLAT, flat).rarely(if nr_frames >= 64 * GIB { 8 } else { 2 }.min(rounds)));
    }
    let spreads = interleave(rounds, &mut contenders);
    contenders.iter().zip(spreads).map(|(c, s)| (c.name, s)).collect()
}

/// What an update does to a host full of guests, from an empty table to a heap: zeros, the map of RAM, all claims, all free memory.
fn rebuild(bench: &mut Bench) {
    let clock = bench.clock;
    let mut curve = Curve::new(
        "rebuild",
        "Frametable and heap made anew: RAM, claims in 2 MiB extents, free memory",
        "host, GiB",
        "ms",
    );
    let hosts: Vec<u64> = [1, 16, 64, 256, 1024, 4096].into_iter().filter(|gib| *gib <= bench.largest_gib()).collect();
    let mut memory = HostMemory::new(hosts.last().copied().unwrap_or(1) * GIB, 0);
    for gib in hosts {
        bench.progress(&format!("plug-in: all made anew, {gib} GiB"));
        let nr_frames = gib * GIB;
        let extents = Layout::Blocks(512).extents(nr_frames);
        // A quarter of the guests is gone.
        let extents = &extents[..extents.len() * 3 / 4];
        let all = || {
            let (ns, host) = clock.time(|| {
                let host = memory.host(nr_frames);
                host.claim_all(extents);
                host.plug_in();
                host
            });
            let ledger = host.frames.ledger();
            assert!(ledger.is_balanced() && ledger.claims == extents.len() as u64 * 512, "{ledger}");
            vec![ns]
        };
        let spread = interleave(bench.rounds(8), &mut [Contender::new(OURS, all)])[0][0].times(1e-6);
        curve.add(OURS, gib as f64, spread);
        let row = Row::new(format!("all made anew, {}, 3/4 claimed in 2 MiB extents", host_name(gib)), "ms", spread);
        bench.report.add(row);
    }
    bench.report.curves.push(curve);
}
