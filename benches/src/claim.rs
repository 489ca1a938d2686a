//! Claims: a host full of guests, as the first pass over a stream finds them.

use crate::Bench;
use crate::baseline::flat::Flat;
use crate::baseline::radix::{Radix, nr_used};
use crate::host::{Extent, FIRST_GUEST, GIB, HostMemory, Layout, MOST, TIB};
use crate::measure::{Contender, interleave};
use crate::memory::Huge;
use luxen_figures::{Curve, Row, Spread, Target};
use std::cell::RefCell;

const OURS: &str = "luxen";
const EACH: &str = "luxen, lock taken for each";
/// The flat table.
pub const FLAT: &str = "flat records";
/// The same, and the records cleared first, as a boot has to: ours are cleared in the time, where they are needed.
const CLEARED: &str = "flat records, cleared first";
/// The bitmaps.
pub const RADIX: &str = "radix of bitmaps";

/// A layout, its hosts in GiB, and up to which the flat table is measured, too.
struct Case {
    layout: Layout,
    name: &'static str,
    file: &'static str,
    hosts: &'static [u64],
    flat_up_to: u64,
}

const CASES: [Case; 5] = [
    Case {
        layout: Layout::Blocks(262_144),
        name: "1 GiB extents",
        file: "claim-1gib",
        hosts: &[1, 16, 64, 256, 1024, 4096, 16384],
        flat_up_to: 1024,
    },
    Case {
        layout: Layout::Blocks(512),
        name: "2 MiB extents",
        file: "claim-2mib",
        hosts: &[1, 16, 64, 256, 1024, 4096, 16384],
        flat_up_to: 4096,
    },
    Case {
        layout: Layout::Dealt(512),
        name: "2 MiB extents dealt to 16 guests",
        file: "claim-2mib-dealt",
        hosts: &[1, 16, 64, 256, 1024, 4096],
        flat_up_to: 1024,
    },
    Case {
        layout: Layout::Blocks(16),
        name: "64 KiB extents",
        file: "claim-64kib",
        hosts: &[1, 4, 16, 64],
        flat_up_to: 64,
    },
    Case {
        layout: Layout::Alternating,
        name: "alternating 4 KiB extents",
        file: "claim-4kib",
        hosts: &[1, 4, 16, 64],
        flat_up_to: 64,
    },
];

/// A flat table is made a window at a time, which is cleared outside of the time: the table of a large host need not be there at once.
pub struct Windows {
    memory: Huge,
    nr_frames: u64,
}

impl Windows {
    /// Windows of at most `len_bytes`.
    pub fn new(len_bytes: usize) -> Self {
        let nr_frames = (len_bytes / Flat::len_bytes(1)) as u64;
        Self { memory: Huge::new(len_bytes), nr_frames }
    }

    /// What lies in which window, cut where a window ends, in the order of the list: (first frame, length, owner).
    pub fn cut(&self, extents: &[Extent], nr_frames: u64) -> Vec<Vec<(u64, u64, u16)>> {
        let mut windows = vec![Vec::new(); nr_frames.div_ceil(self.nr_frames) as usize];
        for extent in extents {
            let (mut at, end) = (extent.range().start(), extent.range().end());
            while at < end {
                let window = at / self.nr_frames;
                let stop = end.min((window + 1) * self.nr_frames);
                windows[window as usize].push((at - window * self.nr_frames, stop - at, extent.owner().get()));
                at = stop;
            }
        }
        windows
    }

    /// A fresh table for a window; the last one of a host may be shorter.
    pub fn table(&mut self, window: usize, nr_frames: u64) -> Flat<'_> {
        Flat::new(&mut self.memory, self.nr_frames.min(nr_frames - window as u64 * self.nr_frames))
    }
}

/// All claims.
pub fn run(bench: &mut Bench) {
    let mut windows = Windows::new(bench.flat_window_bytes());
    for case in &CASES {
        one_case(bench, case, &mut windows);
    }
}

fn one_case(bench: &mut Bench, case: &Case, windows: &mut Windows) {
    let is_split = matches!(case.layout, Layout::Blocks(16) | Layout::Alternating);
    let hosts: Vec<u64> = case.hosts.iter().copied().filter(|gib| *gib <= bench.largest_gib()).collect();
    let largest = (hosts.last().copied().unwrap_or(1) * GIB).min(MOST);
    let memory = RefCell::new(HostMemory::new(largest, if is_split { largest } else { 0 }));
    let (y, file) = if is_split { ("ns a page", case.file) } else { ("ms", case.file) };
    let mut curve = Curve::new(file, format!("Claiming a host full of guests in {}", case.name), "host, GiB", y);
    for gib in hosts {
        let nr_frames = (gib * GIB).min(MOST);
        bench.progress(&format!("claim: {}, {gib} GiB", case.name));
        let found = measure(bench, case, windows, &memory, nr_frames, gib <= case.flat_up_to);
        // What a reader compares: the whole for hosts in large extents, a page where every page costs.
        let factor = if is_split { 1.0 / (nr_frames - FIRST_GUEST) as f64 } else { 1e-6 };
        let found: Vec<(&'static str, Spread)> = found.into_iter().map(|(n, s)| (n, s.times(factor))).collect();
        for (name, spread) in &found {
            curve.add(name, gib as f64, *spread);
        }
        add_rows(bench, case, gib, &found, is_split);
    }
    bench.report.curves.push(curve);
}

fn add_rows(bench: &mut Bench, case: &Case, gib: u64, found: &[(&'static str, Spread)], is_split: bool) {
    let unit = if is_split { "ns/page" } else { "ms" };
    let get = |name| found.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
    let Some(ours) = get(OURS) else { return };
    let host = if gib >= 1024 { format!("{} TiB", gib / 1024) } else { format!("{gib} GiB") };
    let what = format!("claim {host} in {}", case.name);
    let mut row = Row::new(what.clone(), unit, ours);
    for (name, spread) in &found[1..] {
        row = row.beside(name, *spread);
    }
    let is_judged_whole = gib * GIB == TIB && case.layout != Layout::Blocks(262_144) && !is_split;
    if is_judged_whole {
        row = row.target(Target::AtMost(2.0));
    } else if case.layout == Layout::Alternating {
        row = row.target(Target::AtMost(3.0));
    }
    bench.report.add(row);
    let (Some(flat), Some(cleared)) = (get(FLAT), get(CLEARED)) else { return };
    if is_judged_whole {
        bench.report.add_ratio(format!("{what}: flat / luxen"), flat, ours, Target::AtLeast(100.0));
    } else if case.layout == Layout::Alternating {
        bench.report.add_ratio(format!("{what}: luxen / flat"), ours, flat, Target::AtMost(4.0 / 3.0));
        let what = format!("{what}: luxen / flat, cleared first");
        bench.report.add_ratio(what, ours, cleared, Target::AtMost(4.0 / 3.0));
    }
}

/// Nanoseconds for all claims of a host.
fn measure(
    bench: &Bench,
    case: &Case,
    windows: &mut Windows,
    memory: &RefCell<HostMemory>,
    nr_frames: u64,
    with_flat: bool,
) -> Vec<(&'static str, Spread)> {
    let clock = bench.clock;
    let extents = case.layout.extents(nr_frames);
    let claimed = nr_frames - FIRST_GUEST;
    let ours = || {
        let mut memory = memory.borrow_mut();
        let host = memory.host(nr_frames);
        let (ns, ()) = clock.time(|| host.claim_all(&extents));
        assert_eq!(host.frames.ledger().claims, claimed, "all frames are claimed");
        vec![ns]
    };
    let each = || {
        let mut memory = memory.borrow_mut();
        let host = memory.host(nr_frames);
        let (ns, ()) = clock.time(|| host.claim_each(&extents));
        assert_eq!(host.frames.ledger().claims, claimed, "all frames are claimed");
        vec![ns]
    };
    let mut radix = Radix::new();
    for extent in &extents {
        radix.preserve(extent.range().start(), extent.range().nr_frames());
    }
    let mut bits = Huge::new(nr_frames as usize / 8);
    let walk = || {
        let used = bits.fresh::<u64>(nr_frames as usize / 64);
        let (ns, found) = clock.time(|| radix.walk(used));
        assert_eq!((found, nr_used(used)), (claimed, claimed), "all frames are marked");
        vec![ns]
    };
    let cut = if with_flat { windows.cut(&extents, nr_frames) } else { Vec::new() };
    let flat = || {
        let (mut total, mut clearing, mut found) = (0.0, 0.0, 0);
        for (window, extents) in cut.iter().enumerate() {
            let (clear, table) = clock.time(|| windows.table(window, nr_frames));
            clearing += clear;
            let (ns, ()) = clock.time(|| {
                for &(start, len, owner) in extents {
                    assert!(table.claim(start, len, owner).is_ok(), "nobody has the frames");
                }
            });
            total += ns;
            found += table.ledger().claims;
        }
        assert_eq!(found, claimed, "all frames are claimed");
        vec![total, total + clearing]
    };
    let mut contenders = vec![Contender::new(OURS, ours), Contender::new(EACH, each), Contender::new(RADIX, walk)];
    let is_long = nr_frames >= 4 * TIB || (nr_frames >= 64 * GIB && extents.len() > nr_frames as usize / 32);
    let rounds = bench.rounds(if is_long { 6 } else { 12 });
    if with_flat {
        let every = if nr_frames >= 4 * TIB {
            6
        } else if nr_frames >= 256 * GIB {
            4
        } else {
            2
        };
        contenders.push(Contender::new(FLAT, flat).rarely(every.min(rounds)));
    }
    let spreads = interleave(rounds, &mut contenders);
    let mut found: Vec<(&'static str, Spread)> = contenders.iter().zip(&spreads).map(|(c, s)| (c.name, s[0])).collect();
    if with_flat && let Some(both) = spreads.last() {
        found.push((CLEARED, both[1]));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cut_extents_and_lose_none() {
        let mut windows = Windows::new(Flat::len_bytes(1 << 16));
        for layout in [Layout::Blocks(262_144), Layout::Dealt(512), Layout::Alternating] {
            let cut = windows.cut(&layout.extents(GIB), GIB);
            assert_eq!(cut.len(), 4);
            let mut claimed = 0;
            for (window, extents) in cut.iter().enumerate() {
                let table = windows.table(window, GIB);
                extents.iter().for_each(|&(start, len, owner)| table.claim(start, len, owner).unwrap());
                claimed += table.ledger().claims;
            }
            assert_eq!(claimed, GIB - FIRST_GUEST, "{layout:?}");
        }
    }
}
