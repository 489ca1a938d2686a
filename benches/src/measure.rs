//! How time is taken: the thread's own processor time, in rounds that go from one contender to the next.
//!
//! 1. The thread is bound to one core, so it keeps its caches.
//! 2. Processor time does not run while others have the core. On a quiet machine it is what a watch shows.
//! 3. Contenders take turns, each round beginning with another one: what changes with time (frequency, neighbours) hits all of
//!    them. What is printed is the median of the rounds, and the lowest and the highest.
//! 4. One round more, the first, is not counted.

use anyhow::{Context, Result};
use luxen_figures::Spread;
use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};

/// Binds the thread to the last core that it may use; which one that is.
pub fn pin() -> Result<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).context("cannot ask which cores may be used")?;
    let core = (0..CpuSet::MAX_CPU).rev().find(|core| allowed.is_set(*core)).context("no core may be used")?;
    let mut one = CpuSet::new();
    one.set(core);
    rustix::thread::sched_setaffinity(None, &one).with_context(|| format!("cannot stay on core {core}"))?;
    Ok(core)
}

/// What all this runs on, and how much company there is.
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let mut models =
        cpus.lines().filter_map(|line| line.strip_prefix("model name")).map(|l| l.trim_start_matches([' ', '\t', ':']));
    let model = models.next().unwrap_or("a processor without a name");
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!("{model}, {} processors, load {load} at the end", models.count() + 1)
}

/// Seconds of processor time that the thread has used.
pub fn used_seconds() -> f64 {
    now_ns() as f64 / 1e9
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Takes times.
#[derive(Clone, Copy)]
pub struct Clock {
    overhead_ns: u64,
}

impl Clock {
    /// Finds out what looking at the clock costs, which is taken off every time.
    pub fn new() -> Self {
        let mut costs: Vec<u64> = (0..1001)
            .map(|_| {
                let start = now_ns();
                now_ns() - start
            })
            .collect();
        costs.sort_unstable();
        Self { overhead_ns: costs[costs.len() / 2] }
    }

    /// Nanoseconds that `f` takes, and what it returns.
    pub fn time<R>(self, f: impl FnOnce() -> R) -> (f64, R) {
        let start = now_ns();
        let result = f();
        let took = now_ns() - start;
        (took.saturating_sub(self.overhead_ns).max(1) as f64, result)
    }
}

/// One that is measured: makes all ready, takes its times, checks what came out. Each call returns the same number of figures.
pub struct Contender<'a> {
    /// Its name in the table.
    pub name: &'static str,
    run: Box<dyn FnMut() -> Vec<f64> + 'a>,
    every: usize,
}

impl<'a> Contender<'a> {
    /// Under a name.
    pub fn new(name: &'static str, run: impl FnMut() -> Vec<f64> + 'a) -> Self {
        Self { name, run: Box::new(run), every: 1 }
    }

    /// Takes part in every so-manieth round only: for what takes long and does not vary.
    pub fn rarely(mut self, every: usize) -> Self {
        self.every = every;
        self
    }
}

/// Lets all take turns. The result has a row for each contender, in their order, and in it a spread for each figure.
pub fn interleave(rounds: usize, contenders: &mut [Contender<'_>]) -> Vec<Vec<Spread>> {
    let mut seen: Vec<Vec<Vec<f64>>> = contenders.iter().map(|_| Vec::new()).collect();
    let nr = contenders.len();
    for round in 0..=rounds {
        for turn in 0..nr {
            let who = (round + turn) % nr;
            if !round.is_multiple_of(contenders[who].every) {
                continue;
            }
            let figures = (contenders[who].run)();
            if round > 0 {
                seen[who].push(figures);
            }
        }
    }
    let spreads = |figures: Vec<Vec<f64>>| {
        let nr_figures = figures.first().map_or(0, Vec::len);
        (0..nr_figures).map(|i| Spread::of(&figures.iter().map(|f| f[i]).collect::<Vec<f64>>())).collect()
    };
    seen.into_iter().map(spreads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_begins_with_another_and_the_first_does_not_count() {
        let turns = std::cell::RefCell::new(String::new());
        let mut nth = 0.0;
        let mut contenders = [
            Contender::new("a", || {
                turns.borrow_mut().push('a');
                nth += 1.0;
                vec![nth, 10.0 * nth]
            }),
            Contender::new("b", || {
                turns.borrow_mut().push('b');
                vec![7.0]
            }),
        ];
        let spreads = interleave(3, &mut contenders);
        drop(contenders);
        assert_eq!(turns.into_inner(), "abbaabba");
        assert_eq!(
            spreads[0],
            [Spread { median: 3.0, low: 2.0, high: 4.0 }, Spread { median: 30.0, low: 20.0, high: 40.0 }]
        );
        assert_eq!(spreads[1], [Spread::exact(7.0)]);
    }

    #[test]
    fn who_is_slow_takes_part_now_and_then() {
        let mut nr = 0.0;
        let mut run = || {
            nr += 1.0;
            vec![nr]
        };
        // The rounds 0, which does not count, 3 and 6.
        assert_eq!(
            interleave(6, &mut [Contender::new("a", &mut run).rarely(3)])[0],
            [Spread { median: 2.5, low: 2.0, high: 3.0 }]
        );
    }

    #[test]
    fn time_passes() {
        let (ns, sum) = Clock::new().time(|| (0..1_000_000u64).map(std::hint::black_box).sum::<u64>());
        assert_eq!(sum, 499_999_500_000);
        assert!(ns > 10_000.0, "{ns} ns for a million steps");
    }
}
