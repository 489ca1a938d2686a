//! Runs a machine with xtask at its console: reads every line, types what a script says, and tells how it ended.

use crate::qemu::Machine;
use crate::report::Verdict;
use crate::symbols;
use crate::transcript::{self, Transcript};
use anyhow::{Context, Result};
use regex::Regex;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use wait_timeout::ChildExt;

/// How long QEMU may take to end after the last line, or after its console was closed.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// One act of the person at the console.
#[derive(Clone, Debug)]
pub enum Act {
    /// Wait for a line that matches.
    Wait(Regex),
    /// Type this, as it is.
    Type(String),
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// QEMU ended with this status; none if a signal ended it.
    Exited(Option<i32>),
    /// The time was over, and QEMU was killed.
    TimedOut(Duration),
    /// It had nothing more to say, yet QEMU did not end and was killed.
    Stuck,
}

/// What came of a machine.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What it said.
    pub transcript: Transcript,
    /// Acts of the script that were not reached.
    pub acts_left: Vec<Act>,
    /// Where all of it is kept.
    pub log: PathBuf,
    /// How long it took by the host's clock.
    pub took: Duration,
}

impl Outcome {
    /// The machine's own verdict, or why it has none: the debug-exit value and the last line have to agree.
    pub fn machine_verdict(&self) -> Result<Verdict, String> {
        let log = self.log.display();
        let said = self.transcript.verdict;
        match self.end {
            End::TimedOut(limit) => Err(format!("no verdict within {} s, see {log}", limit.as_secs())),
            End::Stuck => Err(format!("the last line was printed, but no debug-exit value came, see {log}")),
            End::Exited(None) => Err(format!("QEMU was killed by a signal, see {log}")),
            End::Exited(Some(status)) => match (Verdict::from_qemu_status(status), said) {
                (Some(shown), Some(said)) if shown == said => Ok(said),
                (Some(shown), Some(said)) => {
                    Err(format!("the debug-exit value says {shown}, the last line says {said}, see {log}"))
                }
                (Some(shown), None) => {
                    Err(format!("the debug-exit value says {shown}, the last line nothing, see {log}"))
                }
                (None, Some(said)) => {
                    Err(format!("the last line says {said}, QEMU ended with status {status}, see {log}"))
                }
                (None, None) => Err(format!("the machine ended without a verdict (QEMU status {status}), see {log}")),
            },
        }
    }
}

/// Takes care that QEMU does not outlive xtask, whatever ends xtask.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(Into::into)
        });
    }
}

/// Starts the machine, plays the script, hands every line to `watch`, and returns when QEMU has ended. A machine that is not
/// done within `limit` is killed by its process id. The calling thread has to stay until then: QEMU dies with it.
pub fn attend(
    machine: &Machine,
    script: &[Act],
    limit: Duration,
    log: &Path,
    mut watch: impl FnMut(&str),
) -> Result<Outcome> {
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(file, "$ {}", machine.pasteable())?;
    let started = Instant::now();
    let (mut child, reader) = start(machine)?;
    let mut stdin = child.stdin.take().context("QEMU was started without a standard input")?;
    let lines = read_lines(reader);

    let mut transcript = Transcript::default();
    let mut acts = script.iter().peekable();
    let mut end = None;
    let mut deadline = started + limit;
    loop {
        // Whatever is to be typed now is typed before the next wait. A machine that is gone takes no input: not our failure.
        while let Some(Act::Type(keys)) = acts.peek() {
            let _ = stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush());
            acts.next();
        }
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(file, "{line}")?;
                if let Some(Act::Wait(pattern)) = acts.peek()
                    && pattern.is_match(&line)
                {
                    acts.next();
                }
                transcript.add(&line);
                watch(&line);
                if transcript.verdict.is_some() {
                    deadline = deadline.min(Instant::now() + EXIT_GRACE);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                end = Some(if transcript.verdict.is_some() { End::Stuck } else { End::TimedOut(limit) });
                break;
            }
        }
    }
    let end = match end {
        Some(end) => {
            kill(&mut child)?;
            end
        }
        None => match child.wait_timeout(EXIT_GRACE).context("cannot wait for QEMU")? {
            Some(status) => End::Exited(status.code()),
            None => {
                kill(&mut child)?;
                End::Stuck
            }
        },
    };
    let names = symbols::name_addresses(&transcript);
    if !names.is_empty() && transcript.verdict != Some(Verdict::Success) {
        writeln!(file, "\naddresses on this console, by {}.debug:", transcript.running.unwrap_or("luxen"))?;
        names.iter().try_for_each(|name| writeln!(file, "{name}"))?;
    }
    let acts_left = acts.cloned().collect();
    Ok(Outcome { end, transcript, acts_left, log: log.to_owned(), took: started.elapsed() })
}

/// Starts QEMU; both its console and its own messages come out of the reader.
fn start(machine: &Machine) -> Result<(Child, PipeReader)> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = machine.command();
    command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
    die_with_parent(&mut command);
    let child = command.spawn().context("cannot start QEMU (Debian package qemu-system-x86)")?;
    Ok((child, reader))
}

fn kill(child: &mut Child) -> Result<()> {
    child.kill().context("cannot kill QEMU")?;
    child.wait().context("cannot wait for QEMU")?;
    Ok(())
}

/// Reads in a thread of its own, so that a silent machine does not keep the caller from its deadline.
fn read_lines(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count != 0) {
            if sender.send(transcript::plain(&bytes)).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    receiver
}
