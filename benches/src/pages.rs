//! The page allocator: pages and large blocks, in bulk, at random, one after the other; and how a host is fragmented after a million operations.

use crate::Bench;
use crate::baseline::pages::{Bitmap, BuddySystem, Lifo, Ours, Pages};
use crate::host::{GIB, HostMemory};
use crate::measure::{Clock, Contender, interleave};
use luxen_figures::{Curve, Row, Spread, Target};
use std::cell::RefCell;

/// All allocators have a host of 4 GiB: a mebi-page.
const NR_FRAMES: u64 = 4 * GIB;
const OURS: &str = "luxen";
const BUDDY: &str = "buddy_system_allocator";
const BITMAP: &str = "bitmap-allocator";
const LIFO: &str = "LIFO stack (floor)";

/// What is measured of one order, in the order of the figures.
const PATTERNS: [&str; 4] = ["bulk get", "bulk put", "random put", "get+put"];

/// Nanoseconds an operation of each pattern; of the last, for both operations together.
fn patterns<P: Pages>(clock: Clock, mut pages: P, order: u8, nr: usize, random: &mut fastrand::Rng) -> Vec<f64> {
    let mut held: Vec<P::Held> = Vec::with_capacity(nr);
    let fill = |held: &mut Vec<P::Held>, pages: &mut P| {
        let (ns, ()) = clock.time(|| held.extend((0..nr).map_while(|_| pages.get(order))));
        assert_eq!(held.len(), nr, "there are pages enough");
        ns / nr as f64
    };
    let get = fill(&mut held, &mut pages);
    let mut firsts: Vec<u64> = held.iter().map(P::first).collect();
    firsts.sort_unstable();
    assert!(firsts.windows(2).all(|pair| pair[0] + (1 << order) <= pair[1]), "no page is given out twice");
    let (put, ()) = clock.time(|| held.drain(..).for_each(|block| pages.put(block)));
    fill(&mut held, &mut pages);
    random.shuffle(&mut held);
    let (random_put, ()) = clock.time(|| held.drain(..).for_each(|block| pages.put(block)));
    let (pairs, sum) = clock.time(|| {
        let mut sum = 0u64;
        for _ in 0..nr {
            let Some(block) = pages.get(order) else { continue };
            sum = sum.wrapping_add(P::first(&block) + 1);
            pages.put(block);
        }
        sum
    });
    assert!(sum >= nr as u64, "every pair was one");
    vec![get, put / nr as f64, random_put / nr as f64, pairs / nr as f64]
}

/// Operations of the mixed run.
const NR_MIXED: u64 = 1_000_000;
/// The orders that are asked for: most are single pages, few are large.
const MIX: [u8; 20] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 6, 9];

/// Takes and gives at random, at between a half and four fifths of all memory. Nanoseconds an operation, and then the share of the free memory that is to be
/// had in blocks of 2 MiB.
fn mixed<P: Pages>(clock: Clock, mut pages: P, nr_operations: u64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(9);
    let mut held: Vec<(P::Held, u8)> = Vec::new();
    let mut used = 0u64;
    let mut is_filling = true;
    let (ns, ()) = clock.time(|| {
        for _ in 0..nr_operations {
            let fill = used * 100 / NR_FRAMES;
            is_filling = if is_filling { fill < 80 } else { fill < 50 };
            // Two of three operations go the way of the tide.
            let takes = held.is_empty() || (random.u8(0..3) != 0) == is_filling;
            if takes {
                let order = MIX[random.usize(0..MIX.len())];
                match pages.get(order) {
                    Some(block) => {
                        held.push((block, order));
                        used += 1 << order;
                    }
                    None => is_filling = false,
                }
            } else {
                let (block, order) = held.swap_remove(random.usize(0..held.len()));
                pages.put(block);
                used -= 1 << order;
            }
        }
    });
    let free = NR_FRAMES - used;
    let mut nr_large = 0u64;
    while let Some(block) = pages.get(9) {
        held.push((block, 9));
        nr_large += 1;
    }
    let mut firsts: Vec<(u64, u64)> = held.iter().map(|(block, order)| (P::first(block), 1 << order)).collect();
    firsts.sort_unstable();
    assert!(firsts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "no page is given out twice");
    vec![ns / nr_operations as f64, 100.0 * (nr_large * 512) as f64 / free as f64]
}

/// All of it.
pub fn run(bench: &mut Bench) {
    let memory = RefCell::new(HostMemory::new(NR_FRAMES, NR_FRAMES));
    for (order, nr) in [(0u8, 1 << 18), (9, 1 << 10)] {
        one_order(bench, &memory, order, nr);
    }
    sweep(bench, &memory);
    fragmentation(bench, &memory);
}

fn on_host<R>(memory: &RefCell<HostMemory>, f: impl FnOnce(Ours<'_, '_>) -> R) -> R {
    let mut memory = memory.borrow_mut();
    let host = memory.host(NR_FRAMES);
    host.plug_in();
    let result = f(Ours(&host));
    assert!(host.frames.ledger().is_balanced(), "no frame is lost");
    result
}

fn one_order(bench: &mut Bench, memory: &RefCell<HostMemory>, order: u8, nr: usize) {
    bench.progress(&format!("pages: order {order}"));
    let clock = bench.clock;
    let random = || fastrand::Rng::with_seed(5);
    // The bitmap's search for large blocks goes over all pages before the one found: few blocks and few rounds.
    let nr_bitmap = if order == 0 { nr } else { 64 };
    let bitmap = || patterns(clock, Bitmap::new(NR_FRAMES), order, nr_bitmap, &mut random());
    let mut contenders = [
        Contender::new(OURS, || on_host(memory, |ours| patterns(clock, ours, order, nr, &mut random()))),
        Contender::new(BUDDY, || patterns(clock, BuddySystem::new(NR_FRAMES), order, nr, &mut random())),
        Contender::new(LIFO, || patterns(clock, Lifo::new(NR_FRAMES, order), order, nr, &mut random())),
        Contender::new(BITMAP, bitmap).rarely(2),
    ];
    let spreads = interleave(bench.rounds(14), &mut contenders);
    let targets: [Option<f64>; 4] = match order {
        0 => [Some(18.0), Some(15.0), Some(18.0), None],
        _ => [Some(33.0), Some(14.0), None, None],
    };
    for (nth, pattern) in PATTERNS.into_iter().enumerate() {
        let what = format!("order {order}, {pattern}");
        let mut row = Row::new(what.clone(), "ns", spreads[0][nth]);
        for (other, spread) in contenders.iter().zip(&spreads).skip(1) {
            row = row.beside(other.name, spread[nth]);
        }
        if let Some(target) = targets[nth] {
            row = row.target(Target::AtMost(target));
        }
        bench.report.add(row);
        bench.report.add_ratio(
            format!("{what}: luxen / {BUDDY}"),
            spreads[0][nth],
            spreads[1][nth],
            Target::AtMost(1.0),
        );
    }
}

/// Every order, for the picture.
fn sweep(bench: &mut Bench, memory: &RefCell<HostMemory>) {
    let clock = bench.clock;
    let mut curve =
        Curve::new("pages", "A block taken and given back at once, lock included", "pages in the block", "ns");
    for order in 0..=11u8 {
        bench.progress(&format!("pages: pairs of order {order}"));
        let nr = 20_000;
        let pair = |figures: Vec<f64>| vec![figures[3]];
        let take = nr.min(1 << (18 - order));
        let mut contenders = [
            Contender::new(OURS, || {
                on_host(memory, |ours| pair(patterns(clock, ours, order, take, &mut fastrand::Rng::new())))
            }),
            Contender::new(BUDDY, || {
                pair(patterns(clock, BuddySystem::new(NR_FRAMES), order, take, &mut fastrand::Rng::new()))
            }),
            Contender::new(LIFO, || {
                pair(patterns(clock, Lifo::new(NR_FRAMES, order), order, take, &mut fastrand::Rng::new()))
            }),
        ];
        let spreads = interleave(bench.rounds(6), &mut contenders);
        for (contender, spread) in contenders.iter().zip(spreads) {
            curve.add(contender.name, f64::from(1u32 << order), spread[0]);
        }
    }
    bench.report.curves.push(curve);
}

fn fragmentation(bench: &mut Bench, memory: &RefCell<HostMemory>) {
    bench.progress("pages: a million mixed operations");
    let clock = bench.clock;
    let mut contenders = [
        Contender::new(OURS, || on_host(memory, |ours| mixed(clock, ours, NR_MIXED))),
        Contender::new(BUDDY, || mixed(clock, BuddySystem::new(NR_FRAMES), NR_MIXED)),
    ];
    let spreads = interleave(bench.rounds(6), &mut contenders);
    // Its search for large blocks would take minutes.
    let nr_short = if bench.is_quick { 2_000 } else { 20_000 };
    bench.progress("pages: the bitmap's share of them");
    let mut bitmap = [Contender::new(BITMAP, || mixed(clock, Bitmap::new(NR_FRAMES), nr_short))];
    let short: Vec<Vec<Spread>> = interleave(1, &mut bitmap);
    bench.report.add(
        Row::new("a million mixed operations", "ns", spreads[0][0])
            .beside(BUDDY, spreads[1][0])
            .beside("bitmap-allocator (its first 2 %)", short[0][0]),
    );
    bench.report.add_ratio(
        format!("a million mixed operations: luxen / {BUDDY}"),
        spreads[0][0],
        spreads[1][0],
        Target::AtMost(1.0),
    );
    bench.report.add(
        Row::new("free memory in blocks of 2 MiB after them", "%", spreads[0][1])
            .beside(BUDDY, spreads[1][1])
            .target(Target::AtLeast(spreads[1][1].median)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_gives_a_figure_for_every_pattern() {
        let clock = Clock::new();
        let figures = patterns(clock, BuddySystem::new(NR_FRAMES), 0, 1000, &mut fastrand::Rng::with_seed(1));
        assert_eq!(figures.len(), PATTERNS.len());
        assert!(figures.iter().all(|ns| *ns > 0.0));
    }

    #[test]
    fn mixed_operations_leave_the_same_memory_free_with_either_buddy() {
        let memory = RefCell::new(HostMemory::new(NR_FRAMES, NR_FRAMES));
        let clock = Clock::new();
        let ours = on_host(&memory, |ours| mixed(clock, ours, 3000));
        let theirs = mixed(clock, BuddySystem::new(NR_FRAMES), 3000);
        assert!((ours[1] - theirs[1]).abs() < 25.0, "{ours:?} {theirs:?}");
        assert!(ours[1] > 50.0 && ours[1] <= 100.0);
    }
}
