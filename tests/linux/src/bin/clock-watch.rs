//! `clock-watch --stop FILE [--late-ms N]`: watches the guest's clocks and sleeps until FILE exists.
//!
//! No clock steps back, not between any two readings. A sleep never ends early, and never later than N milliseconds. The wall clock
//! and the monotonic clock go on together: nobody sets the time in the guest. The last line says how much was looked at, or,
//! with exit code 1, what is wrong.

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// From one wake to the next.
const INTERVAL_NS: i64 = 10_000_000;
/// Readings without a sleep in between, after every sleep.
const READINGS: u32 = 200;
/// How far wall clock and monotonic clock may drift apart.
const DRIFT_NS: i64 = 5_000_000;

/// The clocks, and what they are called, in the order in which they are read. The monotonic clock is read again behind the wall
/// clock: the process may be stopped between any two readings, so only between these two is the wall clock's place known.
const CLOCKS: [(ClockId, &str); 5] = [
    (ClockId::MonotonicRaw, "raw"),
    (ClockId::Boottime, "boot"),
    (ClockId::Monotonic, "monotonic"),
    (ClockId::Realtime, "wall"),
    (ClockId::Monotonic, "monotonic"),
];

/// One look at all of them.
#[derive(Clone, Copy)]
struct Look {
    /// Monotonic, before the wall clock was read.
    before: i64,
    wall: i64,
    /// Monotonic, afterwards.
    after: i64,
}

impl Look {
    /// How far the wall clock is certainly away from where it was at another look, the monotonic clock taken for true.
    fn drift(self, other: Self) -> i64 {
        let least = (self.wall - self.after) - (other.wall - other.before);
        let most = (self.wall - self.before) - (other.wall - other.after);
        least.max(-most).max(0)
    }
}

fn ns(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
}

/// What is known of the clocks so far.
#[derive(Default)]
struct Watch {
    last: [i64; CLOCKS.len()],
    readings: u64,
}

impl Watch {
    /// Reads every clock once; none may be behind what it said before.
    fn look(&mut self) -> Result<Look, String> {
        let mut now = self.last;
        for (index, (clock, name)) in CLOCKS.into_iter().enumerate() {
            now[index] = ns(clock_gettime(clock));
            let last = self.last[index];
            if now[index] < last {
                return Err(format!("the {name} clock went back from {last} to {} ns", now[index]));
            }
        }
        if now[4] < now[2] {
            return Err(format!("the monotonic clock went back from {} to {} ns", now[2], now[4]));
        }
        let look = Look { before: now[2], wall: now[3], after: now[4] };
        // The next look must not be behind the last reading of this one.
        now[2] = now[4];
        self.last = now;
        self.readings += now.len() as u64;
        Ok(look)
    }
}

fn watch(stop: &Path, late_limit_ns: i64) -> Result<String, String> {
    let mut watch = Watch::default();
    let first = watch.look()?;
    let (mut sleeps, mut latest, mut drift) = (0u64, 0, 0);
    while !stop.exists() {
        let due = watch.last[2] + INTERVAL_NS;
        clock_nanosleep_absolute(ClockId::Monotonic, &timespec(due)).map_err(|error| format!("sleep: {error}"))?;
        let look = watch.look()?;
        sleeps += 1;
        let woken = look.before;
        if woken < due {
            return Err(format!("sleep {sleeps} ended {} ns early", due - woken));
        }
        latest = latest.max(woken - due);
        if latest > late_limit_ns {
            return Err(format!(
                "sleep {sleeps} ended {} us late, {} are allowed",
                latest / 1000,
                late_limit_ns / 1000
            ));
        }
        drift = drift.max(look.drift(first));
        if drift > DRIFT_NS {
            return Err(format!("the wall clock went {} us away from the monotonic clock", drift / 1000));
        }
        for _ in 0..READINGS {
            watch.look()?;
        }
    }
    Ok(format!(
        "{sleeps} sleeps, the latest by {} us, wall clock within {} us, {} readings",
        latest / 1000,
        drift / 1000,
        watch.readings
    ))
}

fn main() -> ExitCode {
    let mut stop = None;
    let mut late_ms = 100;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--stop", Some(path)) => stop = Some(PathBuf::from(path)),
            ("--late-ms", Some(number)) if number.parse().is_ok_and(|n: i64| n > 0) => {
                late_ms = number.parse().unwrap_or(late_ms);
            }
            _ => {
                println!("usage: clock-watch --stop FILE [--late-ms N]");
                return ExitCode::from(2);
            }
        }
    }
    let Some(stop) = stop else {
        println!("usage: clock-watch --stop FILE [--late-ms N]");
        return ExitCode::from(2);
    };
    let (text, code) = match watch(&stop, late_ms * 1_000_000) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    println!("{text}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn look(before: i64, wall: i64, after: i64) -> Look {
        Look { before, wall, after }
    }

    #[test]
    fn a_stop_between_two_readings_is_no_drift() {
        let first = look(100, 5000, 101);
        // On time, and the process stopped before or behind the reading of the wall clock.
        assert_eq!(look(200, 5100, 201).drift(first), 0);
        assert_eq!(look(200, 5500, 600).drift(first), 0);
        assert_eq!(look(200, 5100, 900).drift(first), 0);
    }

    #[test]
    fn a_wall_clock_that_is_set_drifts_both_ways() {
        let first = look(100, 5000, 101);
        assert_eq!(look(200, 6000, 201).drift(first), 899);
        assert_eq!(look(200, 4000, 201).drift(first), 1099);
        assert_eq!(first.drift(look(200, 6000, 201)), 899);
    }

    #[test]
    fn clocks_that_go_on_are_fine() {
        let mut watch = Watch::default();
        (0..100).for_each(|_| assert!(watch.look().is_ok()));
        watch.last[0] = i64::MAX;
        assert!(watch.look().is_err_and(|reason| reason.starts_with("the raw clock went back")));
    }
}
