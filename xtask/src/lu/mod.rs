//! What crosses an update, seen from outside: captured at the jump, taken apart, and held against docs/handover.md.
//!
//! The decoder is written from that page alone and shares nothing with the hypervisor's own reader and writer, so that a mistake of theirs
//! shows here.
//!
//! ```text
//! machine at the jump ─ capture ─ update-N.stream ─ stream ─ body by layout, order ─ dump, project
//!                                 update-N.list ─── list ──┘
//! ```

mod body;
pub mod capture;
mod dump;
mod layout;
pub mod list;
mod order;
pub mod project;
pub mod rule;
pub mod stream;
pub mod summary;
mod value;
pub mod xen;

use anyhow::{Context, Result, bail, ensure};
use capture::About;
use clap::Subcommand;
use list::{List, Place};
use rule::{Violation, Violations};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use stream::Stream;
use summary::Summary;

/// Options of `cargo xtask lu`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print what a stream holds, and all that docs/handover.md forbids.
    ///
    /// FILE is what `run --save-stream` leaves: an `update-N.stream`, or an `update-N.list`, beside which the stream has to be; then the
    /// checksums of both are compared, too, and with an `update-N.json` the places of all frames. The exit code is 1 if something is wrong.
    Dump {
        /// An update-N.stream or an update-N.list
        file: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a domain's part as a stream of libxc's, format 3.
    ///
    /// What only a live update has is left out; Xen's verify-stream-v2 takes what is written.
    Project {
        /// An update-N.stream
        file: PathBuf,
        /// Where it goes
        #[arg(short, long, value_name = "DOMAIN.xen")]
        output: PathBuf,
        /// The domain, if there are several
        #[arg(long, value_name = "N")]
        domain: Option<u64>,
    },
}

/// A stream and, if it was given, its list.
pub struct Handover {
    /// The stream.
    pub stream: Stream,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The list, if it was given and can be read.
    pub list: Option<List>,
    /// What is wrong with the list, and between list and stream.
    pub list_violations: Violations,
}

impl Handover {
    /// Takes a stream apart.
    pub fn of_stream(bytes: Vec<u8>) -> Self {
        Self { stream: stream::decode(&bytes), bytes, list: None, list_violations: Violations::default() }
    }

    /// Takes a stream apart, and compares it with its list.
    pub fn of_both(bytes: Vec<u8>, list_pages: &[u8], place: &Place) -> Self {
        let mut handover = Self::of_stream(bytes);
        let (list, mut violations) = list::decode(list_pages, place);
        if let Some(list) = &list {
            violations.extend(list.check_stream(&handover.bytes, handover.stream.version));
        }
        handover.list = list;
        handover.list_violations = violations;
        handover
    }

    /// All that is wrong: with the list, then with the stream.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.list_violations.as_slice().iter().chain(self.stream.violations.as_slice())
    }

    /// Reads the files that belong to this one.
    fn of_file(file: &Path) -> Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        if file.extension().is_some_and(|extension| extension == "list") {
            let stream = read(&file.with_extension("stream")).context("a list is read beside its stream")?;
            let about = file.with_extension("json");
            let place = if about.exists() {
                let about: About = serde_json::from_slice(&read(&about)?)
                    .with_context(|| format!("{} is not what `run --save-stream` writes", about.display()))?;
                about.place()
            } else {
                Place::default()
            };
            Ok(Self::of_both(stream, &read(file)?, &place))
        } else {
            Ok(Self::of_stream(read(file)?))
        }
    }
}

/// `cargo xtask lu`.
pub fn verb(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Dump { file, json } => {
            let handover = Handover::of_file(&file)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&dump::json(&handover)).context("cannot write JSON")?);
            } else {
                print!("{}", dump::text(&handover));
            }
            Ok(ExitCode::from(u8::from(handover.violations().next().is_some())))
        }
        Verb::Project { file, output, domain } => {
            let handover = Handover::of_file(&file)?;
            if let Some(violation) = handover.violations().next() {
                bail!("{} is not a good stream: {violation}", file.display());
            }
            let domain = the_domain(&Summary::of(&handover.stream), domain)?;
            let bytes = project::project(&handover.stream, &handover.bytes, domain)
                .with_context(|| format!("there is no domain {domain}"))?;
            fs::write(&output, bytes).with_context(|| format!("cannot write {}", output.display()))?;
            println!("d{domain}: {}", output.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The domain that is meant: the one that was said, or the only one.
fn the_domain(summary: &Summary, said: Option<u64>) -> Result<u64> {
    let all: Vec<u64> = summary.domains.iter().map(|domain| domain.domain).collect();
    match (said, all.as_slice()) {
        (Some(domain), _) => {
            ensure!(all.contains(&domain), "there is no domain {domain}, only {all:?}");
            Ok(domain)
        }
        (None, [domain]) => Ok(*domain),
        (None, _) => bail!("say which one with --domain: there are {all:?}"),
    }
}

/// CRC-32C, as docs/handover.md §3 has it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    static CRC_32C: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);
    CRC_32C.checksum(bytes)
}

#[cfg(test)]
mod tests;
