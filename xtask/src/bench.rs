//! `cargo xtask bench`: builds and runs benches/, a package of its own so that nothing of it gets into the kernel.

use crate::{build, paths};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Only the groups whose names contain FILTER: claim, plug-in, stream, pages, replay, metadata
    filter: Option<String>,
    /// Write the table to FILE as JSON: a list of what, unit, ours, baselines, target, met
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Hosts of 64 GiB at the most and few rounds: to see that all works
    #[arg(long)]
    quick: bool,
    /// Put the table and the pictures into docs/figures/
    #[arg(long)]
    docs: bool,
}

/// `cargo xtask bench`. A target that is missed is a line of the table, not a failure: figures depend on the machine.
pub fn verb(args: Args) -> Result<ExitCode> {
    let json = paths::from_caller(args.json.clone())?;
    paths::enter_root()?;
    let mut command = command(&args, json);
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the benches ended with {status}");
    }
    Ok(ExitCode::SUCCESS)
}

fn command(args: &Args, json: Option<PathBuf>) -> Command {
    let mut command = build::cargo("run");
    command.args(["--quiet", "--profile", "measure", "--package", "luxen-bench", "--"]);
    command.args(args.quick.then_some("--quick"));
    command.args(args.docs.then_some("--docs"));
    if let Some(json) = json {
        command.arg("--json").arg(json);
    }
    command.args(&args.filter);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step;

    #[test]
    fn options_are_handed_on() {
        let args = Args { filter: Some("claim".into()), json: None, quick: true, docs: true };
        let typed = step::shell(&command(&args, Some("/tmp/out.json".into())));
        assert!(typed.ends_with("--package luxen-bench -- --quick --docs --json /tmp/out.json claim"), "{typed}");
        let args = Args { filter: None, json: None, quick: false, docs: false };
        assert!(step::shell(&command(&args, None)).ends_with("--package luxen-bench --"));
    }
}
