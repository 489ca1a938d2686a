//! The handover of an update, taken out of a machine that stands at the jump, and its files.
//!
//! From the breadcrumb to the list to the frames, as docs/handover.md says: nothing of the hypervisor is asked.

use super::list::{self, PAGE_BYTES, Place};
use crate::report::Update;
use crate::stop::{FRAME_BYTES, Jump, Memory, Watch};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is known beside the stream and its list. Ranges are of machine addresses, half-open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Number of the update since the machine started.
    pub update: u32,
    /// Machine address of the root list page.
    pub breadcrumb: u64,
    /// The region.
    pub region: Range<u64>,
    /// RAM, as the incoming build is told.
    pub ram: Vec<Range<u64>>,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// Length of the stream.
    pub stream_bytes: u64,
    /// The incoming build's command line.
    pub command_line: String,
    /// The build that left; none until it is known.
    pub from: Option<String>,
    /// The build that took over; none if none has reported.
    pub to: Option<String>,
}

/// A handover.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The stream's bytes.
    pub stream: Vec<u8>,
    /// The list pages, whole, in their order.
    pub list: Vec<u8>,
    /// What is known beside.
    pub about: About,
}

impl About {
    /// What a list has to be checked against.
    pub fn place(&self) -> Place {
        let frames = |range: &Range<u64>| range.start.div_ceil(FRAME_BYTES)..range.end / FRAME_BYTES;
        Place {
            root: Some(self.breadcrumb / FRAME_BYTES),
            region: Some(frames(&self.region)),
            ram: Some(self.ram.iter().map(frames).collect()),
        }
    }
}

impl Capture {
    /// Takes it out of a machine.
    pub fn take(jump: &Jump, memory: &mut Memory) -> Result<Self> {
        let region = region_of(&jump.told.command_line).context("the incoming build's command line")?;
        ensure!(
            region.start == jump.breadcrumb_page,
            "the breadcrumb is at {:#x}, the region is [{:#x}, {:#x})",
            jump.breadcrumb_page,
            region.start,
            region.end
        );
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&memory.read(jump.breadcrumb_page, 8)?);
        let breadcrumb = u64::from_le_bytes(bytes);
        let root = breadcrumb / FRAME_BYTES;
        ensure!(breadcrumb != 0 && breadcrumb.is_multiple_of(FRAME_BYTES), "the breadcrumb is {breadcrumb:#x}");
        let pages = list::follow(root, |mfn| memory.read_much(mfn * FRAME_BYTES, FRAME_BYTES))?;
        let (found, wrong) = list::decode(&pages, &Place::default());
        let found = found.with_context(|| format!("the MFN list cannot be read: {:?}", wrong.as_slice()))?;
        let mut stream = Vec::new();
        for run in runs(found.frames.iter().map(|(mfn, _)| *mfn)) {
            let (start, count) = (run.start, run.end - run.start);
            stream.extend(memory.read_much(start * FRAME_BYTES, count * FRAME_BYTES)?);
        }
        stream.truncate(usize::try_from(found.stream_len)?);
        let from = super::summary::Summary::of(&super::stream::decode(&stream)).build;
        let about = About {
            update: jump.number,
            breadcrumb,
            region,
            ram_bytes: jump.told.ram.iter().map(|range| range.end - range.start).sum(),
            ram: jump.told.ram.clone(),
            stream_bytes: found.stream_len,
            command_line: jump.told.command_line.clone(),
            from: Some(from),
            to: None,
        };
        Ok(Self { stream, list: pages, about })
    }

    /// Writes the three files into a directory and returns the stream's path.
    pub fn save(&self, dir: &Path) -> Result<PathBuf> {
        let name = dir.join(format!("update-{}", self.about.update));
        let write = |extension: &str, bytes: &[u8]| {
            let path = name.with_extension(extension);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        write("stream", &self.stream)?;
        write("list", &self.list)?;
        crate::paths::write_json(&name.with_extension("json"), &self.about)?;
        Ok(name.with_extension("stream"))
    }

    /// The frame and the offset in it where a byte of the stream lies; none behind the end.
    pub fn machine_address(&self, offset: u64) -> Option<u64> {
        let list = list::decode(&self.list, &Place::default()).0?;
        let (mfn, _) = list.frames.get((offset / PAGE_BYTES as u64) as usize)?;
        (offset < list.stream_len).then_some(mfn * FRAME_BYTES + offset % FRAME_BYTES)
    }

    /// The machine address of each list page.
    pub fn list_pages(&self) -> Vec<u64> {
        let next = |index: usize| {
            let at = index * PAGE_BYTES + if index == 0 { 40 } else { 16 };
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.list[at..at + 8]);
            u64::from_le_bytes(bytes) * FRAME_BYTES
        };
        let count = self.list.len() / PAGE_BYTES;
        std::iter::once(self.about.breadcrumb).chain((0..count.saturating_sub(1)).map(next)).collect()
    }
}

/// Saves the handover of every jump until the machine ends.
pub fn save_all(watch: &mut Watch, dir: &Path) -> Result<Vec<Capture>> {
    let mut all = Vec::new();
    while let Some(jump) = watch.next_jump()? {
        let capture = Capture::take(&jump, watch.memory()).with_context(|| format!("update {}", jump.number))?;
        capture.save(dir)?;
        all.push(capture);
    }
    Ok(all)
}

/// Adds to what is known which build took over each time, as the builds themselves have said.
pub fn save_who_took_over(captures: &mut [Capture], updates: &[Update], dir: &Path) -> Result<()> {
    for capture in captures {
        if let Some(update) = updates.iter().find(|update| update.sequence == u64::from(capture.about.update)) {
            capture.about.to = Some(update.to.clone());
            capture.save(dir)?;
        }
    }
    Ok(())
}

/// Frames that follow each other, put together.
fn runs(frames: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for mfn in frames {
        match runs.last_mut() {
            Some(run) if run.end == mfn => run.end += 1,
            _ => runs.push(mfn..mfn + 1),
        }
    }
    runs
}

/// The region in a command line: the last `liveupdate=<size>@<start>` there.
fn region_of(command_line: &str) -> Result<Range<u64>> {
    let spec = command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("liveupdate="))
        .next_back()
        .context("there is no liveupdate=")?;
    let (size, start) = spec.split_once('@').with_context(|| format!("liveupdate={spec} does not say where"))?;
    let (size, start) = (number(size)?, number(start)?);
    Ok(start..start.checked_add(size).with_context(|| format!("liveupdate={spec} does not end"))?)
}

/// A number, decimal or hexadecimal, with K, M or G behind it.
fn number(text: &str) -> Result<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'k', 'M', 'm', 'G', 'g']) {
        Some(digits) => (
            digits,
            match text.as_bytes()[text.len() - 1].to_ascii_uppercase() {
                b'K' => 10,
                b'M' => 20,
                _ => 30,
            },
        ),
        None => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let number = number.with_context(|| format!("{text:?} is no number"))?;
    number.checked_mul(1 << shift).with_context(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_off_the_command_line() {
        assert_eq!(region_of("exit=qemu liveupdate=32M@0x1000000 x").unwrap(), 0x100_0000..0x300_0000);
        assert_eq!(region_of("liveupdate=1M liveupdate=2048K@16M").unwrap(), 0x100_0000..0x120_0000);
        for bad in ["", "liveupdate=32M", "liveupdate=x@0", "liveupdate=0xffffffffffffffff@2"] {
            assert!(region_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn frames_in_a_row_are_one_run() {
        assert_eq!(runs([5, 6, 7, 9, 8]), [5..8, 9..10, 8..9]);
    }
}
