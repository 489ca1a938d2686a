//! Runs a machine with xtask at its console: reads every line, types what a script says, and tells how it ended.
//!
//! What the machine says is looked at as it comes, not line by line, because a prompt has no end. Typing never waits: a machine that does not
//! read holds the typist up, not the reader.

use crate::qemu::Machine;
use crate::report::Verdict;
use crate::symbols;
use crate::transcript::{self, Line, Transcript};
use anyhow::{Context, Result};
use regex::Regex;
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use wait_timeout::ChildExt;

/// How long QEMU may take to end after the last line, or after its console was closed.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// One act of the person at the console.
#[derive(Clone, Debug)]
pub enum Act {
    /// Wait for a line that matches.
    Wait(Regex),
    /// Wait for text that matches, be its line complete or not, in what was said since the act before.
    See(Regex),
    /// Wait until exactly this, which has no line ends, was said by the guest in focus since the act before, whatever others said in between.
    Hear(String),
    /// Type this, as it is.
    Type(String),
    /// Look away for so long: the console's line is full soon.
    Rest(Duration),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Wait(pattern) => write!(f, "the script still waits for a line like: {pattern}"),
            Act::See(pattern) => write!(f, "the script still waits for text like: {pattern}"),
            Act::Hear(text) => {
                let start: String = text.chars().take(40).collect();
                write!(f, "the script still waits for the {} bytes `{start}`...", text.len())
            }
            Act::Type(keys) => write!(f, "the script still has {keys:?} to type"),
            Act::Rest(time) => write!(f, "the script still rests for {} s", time.as_secs()),
        }
    }
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
    /// When a Linux guest's shell was there; none if there was no such guest, or nobody looked.
    pub shell: Option<Shell>,
}

/// How long it took from QEMU's start, or the guest's own, to the first line of the first Linux guest's shell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shell {
    /// By the guest's clock, from its own start: under `-icount` 10^9 instructions a second.
    pub virtual_seconds: f64,
    /// By the host's clock, from QEMU's start.
    pub host_seconds: f64,
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
    let typist = start_typist(child.stdin.take().context("QEMU was started without a standard input")?);
    let pieces = start_reader(reader);

    let mut transcript = Transcript::default();
    let mut acts = script.iter().peekable();
    let mut shell = None;
    let mut said = Said::default();
    let mut end = None;
    let mut deadline = started + limit;
    loop {
        // Whatever is to be typed now is typed before the next wait. A machine that is gone takes no input: not our failure.
        loop {
            match acts.peek() {
                Some(Act::Type(keys)) => drop(typist.send(keys.clone().into_bytes())),
                Some(Act::Rest(time)) => std::thread::sleep(*time),
                _ => break,
            }
            acts.next();
        }
        match pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(piece) => {
                // A piece may hold what several acts wait for, each behind what the one before waited for.
                said.add(&piece, |line, said| {
                    writeln!(file, "{line}")?;
                    while acts.next_if(|act| said.satisfies(act, Some(line))).is_some() {
                        said.forget();
                    }
                    transcript.add(line);
                    if let (None, Some(virtual_seconds)) = (shell, transcript.shell_seconds) {
                        let host_seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
                        shell = Some(Shell { virtual_seconds, host_seconds });
                    }
                    watch(line);
                    anyhow::Ok(())
                })?;
                while acts.next_if(|act| said.satisfies(act, None)).is_some() {
                    said.forget();
                }
                // One that stays is ended by the one who looks into it.
                if transcript.verdict.is_some() && !machine.stays() {
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
    if let Some(line) = said.rest() {
        writeln!(file, "{line}")?;
        transcript.add(&line);
        watch(&line);
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
    Ok(Outcome { end, transcript, acts_left, log: log.to_owned(), took: started.elapsed(), shell })
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

/// Reads in a thread of its own, so that a silent machine does not keep the caller from its deadline. A caller that rests keeps it waiting, and
/// through it the machine.
fn start_reader(mut reader: PipeReader) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            if sender.send(bytes[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Types in a thread of its own, so that a machine that does not read does not keep the caller from reading. A machine that is gone takes no
/// input: not our failure.
fn start_typist(mut stdin: ChildStdin) -> Sender<Vec<u8>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for keys in receiver {
            if stdin.write_all(&keys).and_then(|()| stdin.flush()).is_err() {
                break;
            }
        }
    });
    sender
}

/// What was said since the last act was done, and the line that has no end yet.
#[derive(Default)]
struct Said {
    /// Bytes of the line at hand.
    bytes: Vec<u8>,
    /// How many of them were there when the last act was done.
    old: usize,
    /// Complete lines since then.
    lines: Vec<String>,
    /// Bytes since then.
    count: usize,
}

impl Said {
    /// Takes in a piece, and hands on each line that becomes complete.
    fn add(&mut self, piece: &[u8], mut each: impl FnMut(&str, &mut Self) -> Result<()>) -> Result<()> {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            self.bytes.extend_from_slice(part);
            self.count += part.len();
            if part.ends_with(b"\n") {
                let line = transcript::plain(&self.bytes);
                self.lines.push(transcript::plain(&self.bytes[self.old..]));
                self.bytes.clear();
                self.old = 0;
                each(&line, self)?;
            }
        }
        Ok(())
    }

    /// True if an act need not wait any longer; `line` is one that has just become complete.
    fn satisfies(&self, act: &Act, line: Option<&str>) -> bool {
        match act {
            Act::Wait(pattern) => line.is_some_and(|line| pattern.is_match(line)),
            Act::See(pattern) => pattern.is_match(&self.text()),
            // Putting a long text together for every piece of it would take longer than saying it.
            Act::Hear(text) => self.count >= text.len() && self.of_guest_in_focus().contains(text.as_str()),
            Act::Type(_) | Act::Rest(_) => false,
        }
    }

    fn open_line(&self) -> String {
        transcript::plain(&self.bytes[self.old..])
    }

    fn text(&self) -> String {
        let mut text: String = self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        text.push_str(&self.open_line());
        text
    }

    /// What others say begins on a line of its own; the rest is the guest's.
    fn of_guest_in_focus(&self) -> String {
        let open = self.open_line();
        let lines = self.lines.iter().chain([&open]).map(String::as_str);
        lines.filter(|line| matches!(Line::parse(line), Line::Other(_))).collect()
    }

    /// The act is done: the next one looks at what comes now.
    fn forget(&mut self) {
        self.lines.clear();
        self.count = 0;
        self.old = self.bytes.len();
    }

    /// A last line without an end.
    fn rest(&self) -> Option<String> {
        (!self.bytes.is_empty()).then(|| transcript::plain(&self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pieces: &[&str]) -> (Said, Vec<String>) {
        let (mut said, mut lines) = (Said::default(), Vec::new());
        for piece in pieces {
            said.add(piece.as_bytes(), |line, _| {
                lines.push(line.to_owned());
                Ok(())
            })
            .unwrap();
        }
        (said, lines)
    }

    fn see(pattern: &str) -> Act {
        Act::See(Regex::new(pattern).unwrap())
    }

    #[test]
    fn lines_are_put_together_and_prompts_are_seen_before_they_end() {
        let (mut said, lines) = said(&["one\r\ntw", "o\r", "\n\x1b[1m/ #", " "]);
        assert_eq!(lines, ["one", "two"]);
        assert!(said.satisfies(&see("^/ # $|\n/ # $"), None));
        assert!(!said.satisfies(&Act::Wait(Regex::new("/ #").unwrap()), None));
        said.forget();
        // The same prompt does not count twice; the next one does.
        assert!(!said.satisfies(&see("/ #"), None));
        said.add(b"ls\r\n/ # ", |_, _| Ok(())).unwrap();
        assert!(said.satisfies(&see("ls\n/ # $"), None));
        assert_eq!(said.rest().as_deref(), Some("/ # "));
    }

    #[test]
    fn what_others_say_in_between_is_not_the_guests() {
        let (said, _) = said(&["01 02\r\n[    1.000000] lu: an update\r\n(d2) pulse: tick\r\n 03", " 04"]);
        assert!(said.satisfies(&Act::Hear("01 02 03 04".into()), None));
        assert!(!said.satisfies(&Act::Hear("02 04".into()), None));
    }
}
