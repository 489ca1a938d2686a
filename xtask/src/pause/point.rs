//! A point of a curve: a machine, and the pauses of its updates.

use crate::console;
use crate::image::{Boot, Module};
use crate::job::{self, Guest};
use crate::qemu::{Accel, Clock, Loader, Machine, Serial};
use crate::report::{Update, Verdict, faults_in_chain};
use crate::{paths, transcript};
use anyhow::{Result, bail, ensure};
use std::time::Duration;

/// Updates of each machine: there and back.
const UPDATES: u32 = 2;
/// Seconds of the host after which a machine is given up.
const LIMIT: Duration = Duration::from_secs(300);
/// Of machines with more memory than this there is one at a time.
const LARGE_MIB: u64 = 6 << 10;

/// What a point's number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Series {
    /// MiB of one guest whose memory is mostly not mapped by any page table.
    Untyped,
    /// MiB of one guest that maps all of its memory, page by page.
    Mapped,
    /// MiB of one Linux guest.
    Linux,
    /// Guests of 2 MiB.
    Domains,
    /// Extents of one guest of 256 MiB.
    Extents,
    /// The same of one that maps all of its memory.
    MappedExtents,
    /// MiB of RAM of a machine with one guest of 16 MiB.
    Unowned,
}

impl Series {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Untyped, Self::Mapped, Self::Linux, Self::Domains, Self::Extents, Self::MappedExtents, Self::Unowned];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untyped => "untyped",
            Self::Mapped => "mapped",
            Self::Linux => "linux",
            Self::Domains => "domains",
            Self::Extents => "extents",
            Self::MappedExtents => "mapped-extents",
            Self::Unowned => "unowned",
        }
    }

    /// What its numbers count.
    pub const fn counts(self) -> &'static str {
        match self {
            Self::Untyped => "MiB of one guest, not typed page by page",
            Self::Mapped => "MiB of one guest that maps all of it",
            Self::Linux => "MiB of one Linux guest",
            Self::Domains => "domains of 2 MiB",
            Self::Extents => "extents of one guest of 256 MiB",
            Self::MappedExtents => "extents of one guest of 256 MiB that maps all of it",
            Self::Unowned => "MiB of RAM with one guest of 16 MiB",
        }
    }

    /// A point of it in words.
    pub fn at(self, x: u64) -> String {
        match self {
            Self::Untyped => format!("a guest of {x} MiB, not typed page by page"),
            Self::Mapped => format!("a guest of {x} MiB that maps all of it"),
            Self::Linux => format!("Linux with {x} MiB"),
            Self::Domains => format!("domains of 2 MiB: {x}"),
            Self::Extents => format!("a guest of 256 MiB, extents: {x}"),
            Self::MappedExtents => format!("a guest of 256 MiB that maps all of it, extents: {x}"),
            Self::Unowned => format!("a guest of 16 MiB on a machine of {x} MiB"),
        }
    }
}

/// A machine to measure.
#[derive(Clone, Debug)]
pub struct Point {
    /// The curve that it belongs to.
    pub series: Series,
    /// Its place on the curve.
    pub x: u64,
    memory_mib: u64,
    modules: Vec<Module>,
    options: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The curve.
    pub series: Series,
    /// The place on it.
    pub x: u64,
    /// Nanoseconds of both pauses, in their order.
    pub pauses_ns: Vec<u64>,
    /// The longer of the two updates.
    pub update: Update,
}

impl Measured {
    /// `series/x`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.series.name(), self.x)
    }
}

/// All points.
pub fn all() -> Vec<Point> {
    let mut points = Vec::new();
    for mib in [64, 256, 1 << 10, 4 << 10, 12 << 10] {
        points.push(Point::new(Series::Untyped, mib, mib + 1024, [Guest::new("pulse", &format!("{mib}M"))]));
    }
    for mib in [64, 256, 1 << 10, 4 << 10, 12 << 10] {
        points.push(Point::new(Series::Mapped, mib, mib + 1024, [Guest::new("memory", &format!("{mib}M"))]));
    }
    for mib in [256, 1 << 10, 4 << 10, 12 << 10] {
        let mut point = Point::new(Series::Linux, mib, mib + 1024, [Guest::linux(&format!("{mib}M"), "shell")]);
        point.modules.insert(0, job::linux_ramdisk());
        // It has a shell after 3.5 s; nothing is typed to it but `finish`.
        point.options.push_str(" lu-first=6000");
        points.push(point);
    }
    for count in [1, 4, 16, 64] {
        let guest = Guest::new("pulse", "2M").with(&format!("count={count}")).line("quiet");
        points.push(Point::new(Series::Domains, count, 1024, [guest]));
    }
    for (series, program) in [(Series::Extents, "pulse"), (Series::MappedExtents, "memory")] {
        for extents in [1, 128, 1024, 16 << 10] {
            let guest = Guest::new(program, "256M").with(&format!("extents={extents}"));
            points.push(Point::new(series, extents, 1024, [guest]));
        }
    }
    for mib in [512, 2 << 10, 8 << 10, 14 << 10] {
        points.push(Point::new(Series::Unowned, mib, mib, [Guest::new("pulse", "16M")]));
    }
    points
}

impl Point {
    fn new(series: Series, x: u64, memory_mib: u64, guests: impl IntoIterator<Item = Guest>) -> Self {
        let modules = job::images().into_iter().chain(guests.into_iter().map(|guest| guest.module())).collect();
        let options = format!("{} exit=qemu {} lu-updates={UPDATES}", job::REGION, job::TIMING);
        Self { series, x, memory_mib, modules, options }
    }

    /// `series/x`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.series.name(), self.x)
    }

    /// True if the host has no memory for two of its kind.
    pub const fn is_large(&self) -> bool {
        self.touched_mib() > LARGE_MIB
    }

    /// What it takes of the host's memory, in MiB. RAM that nobody owns is not touched.
    pub const fn touched_mib(&self) -> u64 {
        match self.series {
            Series::Unowned => 512,
            _ => self.memory_mib,
        }
    }

    /// Runs it, twice unless it is large.
    pub fn measure(&self) -> Result<Measured> {
        let first = self.run(1)?;
        if !self.is_large() {
            let second = self.run(2)?;
            ensure!(
                first == second,
                "two runs differ: pauses of {:?} and {:?} ns",
                first.iter().map(|u| u.pause_ns).collect::<Vec<_>>(),
                second.iter().map(|u| u.pause_ns).collect::<Vec<_>>()
            );
        }
        let pauses_ns = first.iter().map(|update| update.pause_ns).collect();
        let Some(update) = first.into_iter().max_by_key(|update| update.pause_ns) else { bail!("no update") };
        Ok(Measured { series: self.series, x: self.x, pauses_ns, update })
    }

    fn run(&self, number: u32) -> Result<Vec<Update>> {
        let mut boot = Boot::new(&self.options);
        boot.modules.clone_from(&self.modules);
        let machine = Machine {
            memory: format!("{}M", self.memory_mib),
            loader: Loader::Qemu(boot),
            accel: Accel::Tcg,
            clock: Clock::Instructions,
            serial: Serial::Pipes,
            reboots: false,
            inspect: None,
        };
        let log = paths::log(&format!("pause-{}-{}-{number}", self.series.name(), self.x));
        let outcome = console::attend(&machine, &[], LIMIT, &log, |_| {})?;
        let said = outcome.machine_verdict().map_err(anyhow::Error::msg)?;
        ensure!(said == Verdict::Success, "the machine's verdict is {said}, see {}", log.display());
        let transcript::Transcript { updates, alarms, .. } = outcome.transcript;
        ensure!(alarms.is_empty(), "{}, see {}", alarms.join("; "), log.display());
        let faults = faults_in_chain(&updates, UPDATES);
        ensure!(faults.is_empty(), "{}, see {}", faults.join("; "), log.display());
        Ok(updates)
    }
}
