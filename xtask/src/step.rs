//! Runs a command as one step with a progress line: its output goes to a log and is shown only if it fails.

use crate::paths;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Lines of a failed command that are shown; the log has all of them.
const SHOWN_LINES: usize = 200;

/// What a step came to.
pub struct Done {
    /// How long it took.
    pub took: Duration,
    /// All that the command printed, standard output and error mixed.
    pub output: String,
    /// Where that is kept.
    pub log: PathBuf,
    /// True if the command ended with exit code 0.
    pub succeeded: bool,
}

/// The one-word name of a step as a file name.
fn file_name(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// The command as it could be typed.
pub fn shell(command: &Command) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quote(&value.to_string_lossy())));
        }
    }
    words.push(quote(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|a| quote(&a.to_string_lossy())));
    words.join(" ")
}

/// One word, quoted for a shell if it needs to be.
pub fn quote(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| format!("{word:?}"), |q| q.into_owned())
}

/// Runs the command to its end; fails only if it cannot be started.
pub fn attempt(label: &str, command: &mut Command) -> Result<Done> {
    let log = paths::log(&file_name(label));
    let typed = shell(command);
    let mut file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(file, "$ {typed}")?;

    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")?);
    bar.set_prefix(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    if bar.is_hidden() {
        eprintln!("{label} ...");
    }

    let started = Instant::now();
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(std::process::Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let spawned = command.spawn();
    // The command keeps both writing ends: given away, so that the reading end sees the end of the output.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = spawned.with_context(|| format!("cannot start: {typed}"))?;

    let mut output = String::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? != 0 {
        file.write_all(&line)?;
        let text = String::from_utf8_lossy(&line);
        output.push_str(&text);
        bar.set_message(text.trim().to_owned());
        line.clear();
    }
    let status = child.wait().with_context(|| format!("cannot wait for: {typed}"))?;
    let took = started.elapsed();
    bar.finish_and_clear();
    eprintln!("{label}: {} ({:.1} s)", if status.success() { "done" } else { "FAILED" }, took.as_secs_f64());
    if !status.success() {
        let lines: Vec<&str> = output.lines().collect();
        eprintln!("$ {typed}");
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            eprintln!("{line}");
        }
        eprintln!("{label}: {status}; all of it is in {}", log.display());
    }
    Ok(Done { took, output, log, succeeded: status.success() })
}

/// Runs the command to its end and takes any exit code but 0 for an error.
pub fn run(label: &str, command: &mut Command) -> Result<Done> {
    let done = attempt(label, command)?;
    if !done.succeeded {
        bail!("{label} failed, see {}", done.log.display());
    }
    Ok(done)
}
