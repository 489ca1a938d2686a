//! Builds, runs and tests luxen: `cargo xtask help` lists the verbs.
//!
//! Every verb works from the repository's root, installs what it needs where it may, and keeps what it makes under
//! `target/luxen/`: the two kernels, the guests, ISO images, damaged images, `keys/` and `logs/`.

mod bench;
mod build;
mod check;
mod console;
mod damage;
mod digest;
mod fuzz;
mod grub_pv;
mod image;
mod job;
mod linux;
mod lu;
mod paths;
mod pause;
mod planned;
mod qemu;
mod report;
mod run;
mod scenario;
mod setup;
mod sign;
mod step;
mod stop;
mod symbols;
mod transcript;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, runs and tests luxen, a hypervisor that replaces itself under its running guests.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Compile both builds of the hypervisor and the test guests.
    ///
    /// Leaves luxen, luxen-next and the guests of tests/guests (pulse, memory, tables...) in target/luxen/. Both builds of the hypervisor
    /// carry their SHA-256 and a signature in ELF notes, which an update checks. They trust, and are signed by, the key
    /// target/luxen/keys/development.pem, which is made the first time; LUXEN_KEY=<64 digits> in the environment makes
    /// them trust another. The files of the same names with `.debug` behind them have the line tables.
    Build,
    /// Make a key to sign images with, and print its public half as `lu-key=` takes it.
    Keygen(sign::KeygenArgs),
    /// Sign an image, or sign it again with another key.
    Sign(sign::SignArgs),
    /// Make the bootable ISO image of the main job.
    Image(image::Args),
    /// Boot in QEMU, start the guests, update the hypervisor under them, and give a verdict.
    ///
    /// The main job: both builds, GRUB, Linux and five small guests, six updates from one build to the other and back, every
    /// guest's own verdict, and a table of the pause of each update by stage. The last line is the verdict; the exit code is 0 only for
    /// `verdict: SUCCESS`, 1 for FAILURE, 2 for ERROR, 3 for SKIP.
    Run(run::Args),
    /// Check everything: format, lints, documentation, host tests, then every QEMU scenario.
    ///
    /// The last line is `N passed, N failed`, steps and scenarios together; the exit code is 0 only if none failed.
    Test(check::Args),
    /// Boot each scenario in QEMU and judge it.
    ///
    /// A scenario passes if the debug-exit value and the last line agree on the verdict that it expects, and all that it
    /// says about the console holds. No verdict in time is an ERROR, not a failure. Long ones run with --all, or by name.
    QemuTest(scenario::Args),
    /// Take apart what crosses an update.
    ///
    /// By a decoder that is written from docs/handover.md alone. `run --save-stream` captures.
    Lu(lu::Args),
    /// Fuzz what reads bytes that luxen has not made: streams, images, kernels, command lines, page tables...
    ///
    /// Each target of tests/fuzz runs under libFuzzer for a while. The exit code is 0 only if none found anything.
    Fuzz(fuzz::Args),
    /// Measure, and put the figures beside what they have to reach.
    ///
    /// By itself: the pure code on this machine, beside baselines (claims, free memory, stream, pages, page types, metadata). Native, release, on one
    /// core, several rounds in turn. Prints one table and draws the curves into target/luxen/bench/. Takes two minutes and some gibibytes of
    /// memory; docs/performance.md tells what the figures mean.
    Bench(Bench),
}

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Bench {
    #[command(subcommand)]
    kind: Option<BenchKind>,
    #[command(flatten)]
    host: bench::Args,
}

#[derive(Subcommand)]
enum BenchKind {
    /// What the pause of an update costs, in instructions.
    ///
    /// Machines of 512 MiB to 14 GiB with one to 64 guests, all but the largest measured twice; a table of every pause by stage, the targets, and pictures under
    /// target/luxen/bench/. Takes four minutes on two quiet cores, and up to 19 GiB of memory.
    Pause(pause::Args),
}

fn main() -> ExitCode {
    match Cli::parse().verb.carry_out() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Verb {
    fn carry_out(self) -> Result<ExitCode> {
        // The paths that the caller gave are relative to where the caller stands, all others to the root.
        match self {
            Verb::Build => {
                paths::enter_root()?;
                setup::ensure(setup::BUILD)?;
                build::all()?;
                println!("built: {}/ has luxen, luxen-next and the guests", paths::OUT);
                Ok(ExitCode::SUCCESS)
            }
            // These work where the caller stands.
            Verb::Keygen(args) => sign::keygen(args),
            Verb::Sign(args) => sign::verb(args),
            Verb::Image(args) => image::verb(args),
            Verb::Run(args) => run::verb(args),
            Verb::Test(args) => check::verb(args),
            Verb::QemuTest(args) => scenario::verb(args),
            Verb::Lu(args) => lu::verb(args),
            Verb::Fuzz(args) => fuzz::verb(args),
            Verb::Bench(Bench { kind: Some(BenchKind::Pause(args)), .. }) => pause::verb(&args),
            Verb::Bench(Bench { kind: None, host }) => bench::verb(host),
        }
    }
}
