//! The MFN list, docs/handover.md §3: which frames the stream is in.

use super::layout::MFN_END;
use super::rule::{ListRule, Rule, StreamRule, Violations};
use anyhow::{Result, ensure};
use std::collections::HashSet;
use std::ops::Range;

/// Bytes of a list page, and of a stream frame.
pub const PAGE_BYTES: usize = 4096;

/// Fields of the root page by their offsets.
const VERSION: usize = 8;
const HEADER_LEN: usize = 12;
const STREAM_LEN: usize = 16;
const NR_FRAMES: usize = 24;
const STREAM_CRC: usize = 32;
const LIST_CRC: usize = 36;
const NEXT: usize = 40;
const NR_LIST_PAGES: usize = 48;
const RESERVED: usize = 56;
const HEADER_BYTES: usize = 64;
const HEADER_MAX: usize = 2048;
/// Fields of a further page by their offsets.
const PLACE: usize = 8;
const FURTHER_NEXT: usize = 16;
const FURTHER_RESERVED: usize = 24;
const FURTHER_HEADER_BYTES: usize = 32;

/// A list, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Its version, which is the stream's as well.
    pub version: u32,
    /// Length of the stream.
    pub stream_len: u64,
    /// CRC-32C of the stream.
    pub stream_crc: u32,
    /// The stream's frames, each with its CRC-32C in version 2.
    pub frames: Vec<(u64, Option<u32>)>,
}

/// What is known of the machine that the list comes from.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The root's frame.
    pub root: Option<u64>,
    /// Frames of the region.
    pub region: Option<Range<u64>>,
    /// Frames of RAM.
    pub ram: Option<Vec<Range<u64>>>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Follows a list in a machine's memory and returns its pages, one behind the other. `read` returns a frame's bytes.
pub fn follow(root: u64, mut read: impl FnMut(u64) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let mut pages = read(root)?;
    ensure!(pages.len() == PAGE_BYTES && pages.starts_with(b"LuxenMFN"), "there is no MFN list at mfn {root:#x}");
    let count = u64_at(&pages, NR_LIST_PAGES);
    ensure!((1..=MFN_END / PAGE_BYTES as u64).contains(&count), "a list of {count} pages at mfn {root:#x}");
    let mut next = u64_at(&pages, NEXT);
    for _ in 1..count {
        if next == 0 {
            break;
        }
        ensure!(next < MFN_END, "list page at mfn {next:#x}");
        let page = read(next)?;
        ensure!(page.len() == PAGE_BYTES, "{} bytes of the list page at mfn {next:#x}", page.len());
        next = u64_at(&page, FURTHER_NEXT);
        pages.extend(page);
    }
    Ok(pages)
}

/// Reads list pages as they follow each other. Without a list, what is wrong says why it cannot be read.
pub fn decode(pages: &[u8], place: &Place) -> (Option<List>, Violations) {
    let mut reader = Reader { pages, place, found: Violations::default(), named: HashSet::new() };
    let list = reader.read();
    (list, reader.found)
}

struct Reader<'a> {
    pages: &'a [u8],
    place: &'a Place,
    found: Violations,
    named: HashSet<u64>,
}

impl Reader<'_> {
    fn wrong(&mut self, at: usize, rule: ListRule, detail: impl Into<String>) {
        self.found.add(at as u64, Rule::List(rule), detail);
    }

    fn read(&mut self) -> Option<List> {
        let pages = self.pages;
        if pages.len() < PAGE_BYTES || !pages.starts_with(b"LuxenMFN") {
            self.wrong(0, ListRule::Magic, "the root does not begin with LuxenMFN");
            return None;
        }
        let version = u32_at(pages, VERSION);
        if !(1..=2).contains(&version) {
            self.wrong(VERSION, ListRule::Version, format!("version {version}, 1 and 2 are known"));
            return None;
        }
        let entry_bytes = if version == 1 { 8 } else { 16 };
        let header_len = u32_at(pages, HEADER_LEN) as usize;
        if !(HEADER_BYTES..=HEADER_MAX).contains(&header_len) || !header_len.is_multiple_of(entry_bytes) {
            self.wrong(HEADER_LEN, ListRule::HeaderLen, format!("a header of {header_len} bytes"));
            return None;
        }
        let stream_len = u64_at(pages, STREAM_LEN);
        if !(1..=MFN_END).contains(&stream_len) {
            self.wrong(STREAM_LEN, ListRule::StreamLen, format!("a stream of {stream_len:#x} bytes"));
            return None;
        }
        let nr_frames = u64_at(pages, NR_FRAMES);
        let due = stream_len.div_ceil(PAGE_BYTES as u64);
        if nr_frames != due {
            self.wrong(NR_FRAMES, ListRule::PageCount, format!("{nr_frames} frames, {due} are due"));
            return None;
        }
        if u64_at(pages, RESERVED) != 0 {
            self.wrong(RESERVED, ListRule::Reserved, "it is not zero");
        }
        self.check_crc();
        let in_root = ((PAGE_BYTES - header_len) / entry_bytes) as u64;
        let in_further = ((PAGE_BYTES - FURTHER_HEADER_BYTES) / entry_bytes) as u64;
        let due = 1 + nr_frames.saturating_sub(in_root).div_ceil(in_further);
        let nr_pages = u64_at(pages, NR_LIST_PAGES);
        if nr_pages != due {
            self.wrong(NR_LIST_PAGES, ListRule::ListPageCount, format!("{nr_pages} list pages, {due} are due"));
        }
        if let Some(root) = self.place.root {
            self.check_frame(0, root);
        }
        let mut frames = Vec::new();
        for (index, page) in pages.chunks_exact(PAGE_BYTES).enumerate() {
            let base = index * PAGE_BYTES;
            let (next_at, entries_at) =
                if index == 0 { (NEXT, header_len) } else { (FURTHER_NEXT, FURTHER_HEADER_BYTES) };
            if index != 0 {
                self.check_further(base, index, page)?;
            }
            self.check_next(base + next_at, index as u64 + 1, due, u64_at(page, next_at));
            for at in (entries_at..PAGE_BYTES).step_by(entry_bytes) {
                self.read_entry(base + at, &page[at..at + entry_bytes], nr_frames, &mut frames);
            }
        }
        if (pages.len() / PAGE_BYTES) as u64 > due || !pages.len().is_multiple_of(PAGE_BYTES) {
            self.wrong(pages.len(), ListRule::ChainLong, format!("{} bytes for {due} pages", pages.len()));
        }
        Some(List { version, stream_len, stream_crc: u32_at(pages, STREAM_CRC), frames })
    }

    fn check_crc(&mut self) {
        let mut copy = self.pages.to_vec();
        copy[LIST_CRC..LIST_CRC + 4].fill(0);
        let (noted, found) = (u32_at(self.pages, LIST_CRC), super::crc32c(&copy));
        if noted != found {
            self.wrong(LIST_CRC, ListRule::Checksum, format!("{noted:#010x} is noted, {found:#010x} was found"));
        }
    }

    fn check_further(&mut self, base: usize, index: usize, page: &[u8]) -> Option<()> {
        if !page.starts_with(b"LuxenLST") {
            self.wrong(base, ListRule::NextMagic, "the page does not begin with LuxenLST");
            return None;
        }
        let place = u64_at(page, PLACE);
        if place != index as u64 {
            self.wrong(base + PLACE, ListRule::Index, format!("page {place} where page {index} is due"));
            return None;
        }
        if u64_at(page, FURTHER_RESERVED) != 0 {
            self.wrong(base + FURTHER_RESERVED, ListRule::Reserved, "it is not zero");
        }
        Some(())
    }

    /// The link behind `count` of `due` pages.
    fn check_next(&mut self, at: usize, count: u64, due: u64, next: u64) {
        match (next, count < due) {
            (0, true) => self.wrong(at, ListRule::ChainShort, format!("the list ends after {count} pages of {due}")),
            (0, false) => {}
            (next, true) => self.check_frame(at, next),
            (next, false) => {
                self.wrong(at, ListRule::ChainLong, format!("mfn {next:#x} behind the last of {due} pages"));
            }
        }
    }

    fn read_entry(&mut self, at: usize, entry: &[u8], nr_frames: u64, frames: &mut Vec<(u64, Option<u32>)>) {
        if frames.len() as u64 == nr_frames {
            if entry.iter().any(|byte| *byte != 0) {
                self.wrong(at, ListRule::Reserved, "an unused entry is not zero");
            }
            return;
        }
        let mfn = u64_at(entry, 0);
        self.check_frame(at, mfn);
        let crc = (entry.len() > 8).then(|| u32_at(entry, 8));
        if entry.len() > 8 && u32_at(entry, 12) != 0 {
            self.wrong(at + 12, ListRule::Reserved, "it is not zero");
        }
        frames.push((mfn, crc));
    }

    fn check_frame(&mut self, at: usize, mfn: u64) {
        if mfn == 0 || mfn >= MFN_END {
            self.wrong(at, ListRule::Number, format!("{mfn:#x} is no frame"));
        }
        if self.place.region.as_ref().is_some_and(|region| region.contains(&mfn)) {
            self.wrong(at, ListRule::InRegion, format!("mfn {mfn:#x} is in the region"));
        }
        if self.place.ram.as_ref().is_some_and(|ram| !ram.iter().any(|range| range.contains(&mfn))) {
            self.wrong(at, ListRule::NotRam, format!("mfn {mfn:#x} is not RAM"));
        }
        if !self.named.insert(mfn) {
            self.wrong(at, ListRule::Twice, format!("mfn {mfn:#x} is named before"));
        }
    }
}

impl List {
    /// Compares a stream with what the list says of it; its version is `stream_version`.
    pub fn check_stream(&self, stream: &[u8], stream_version: u32) -> Violations {
        let mut found = Violations::default();
        if stream.len() as u64 != self.stream_len {
            let detail = format!("{} bytes are there, {} are noted", stream.len(), self.stream_len);
            found.add(STREAM_LEN as u64, Rule::List(ListRule::StreamLen), detail);
        }
        for (index, (bytes, (mfn, noted))) in stream.chunks(PAGE_BYTES).zip(&self.frames).enumerate() {
            let Some(noted) = *noted else { break };
            let mut frame = bytes.to_vec();
            frame.resize(PAGE_BYTES, 0);
            let crc = super::crc32c(&frame);
            if crc != noted {
                let detail = format!("frame {index}, mfn {mfn:#x}: {noted:#010x} is noted, {crc:#010x} was found");
                found.add((index * PAGE_BYTES) as u64, Rule::Stream(StreamRule::Page), detail);
            }
        }
        let crc = super::crc32c(stream);
        if crc != self.stream_crc {
            let detail = format!("{:#010x} is noted, {crc:#010x} was found", self.stream_crc);
            found.add(0, Rule::Stream(StreamRule::Checksum), detail);
        }
        if stream_version != self.version {
            let detail = format!("a list of version {} names a stream of version {stream_version}", self.version);
            found.add(0, Rule::List(ListRule::StreamVersion), detail);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(pages: &mut [u8], at: usize, value: u64, len: usize) {
        pages[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    fn seal(pages: &mut [u8]) {
        put(pages, LIST_CRC, 0, 4);
        let crc = super::super::crc32c(pages);
        put(pages, LIST_CRC, crc.into(), 4);
    }

    /// A stream of `nr` frames and its list, put together by the specification's tables. Frame `i` is mfn 0x1000 + i, list page `i` mfn 0x800 + i.
    fn list_of(version: u32, nr: usize) -> (Vec<u8>, Vec<u8>) {
        let stream: Vec<u8> = (0..nr * PAGE_BYTES - 100).map(|at| (at % 251) as u8).collect();
        let entry_bytes = if version == 1 { 8 } else { 16 };
        let (in_root, in_further) = if version == 1 { (504, 508) } else { (252, 254) };
        let nr_pages = 1 + nr.saturating_sub(in_root).div_ceil(in_further);
        let mut pages = vec![0; nr_pages * PAGE_BYTES];
        pages[..8].copy_from_slice(b"LuxenMFN");
        put(&mut pages, VERSION, version.into(), 4);
        put(&mut pages, HEADER_LEN, 64, 4);
        put(&mut pages, STREAM_LEN, stream.len() as u64, 8);
        put(&mut pages, NR_FRAMES, nr as u64, 8);
        put(&mut pages, STREAM_CRC, super::super::crc32c(&stream).into(), 4);
        put(&mut pages, NR_LIST_PAGES, nr_pages as u64, 8);
        for page in 0..nr_pages {
            let base = page * PAGE_BYTES;
            let next = if page + 1 == nr_pages { 0 } else { 0x801 + page as u64 };
            if page != 0 {
                pages[base..base + 8].copy_from_slice(b"LuxenLST");
                put(&mut pages, base + PLACE, page as u64, 8);
            }
            put(&mut pages, base + if page == 0 { NEXT } else { FURTHER_NEXT }, next, 8);
        }
        for (index, frame) in stream.chunks(PAGE_BYTES).enumerate() {
            let at = match index.checked_sub(in_root) {
                None => HEADER_BYTES + index * entry_bytes,
                Some(more) => {
                    (1 + more / in_further) * PAGE_BYTES + FURTHER_HEADER_BYTES + more % in_further * entry_bytes
                }
            };
            put(&mut pages, at, 0x1000 + index as u64, 8);
            if version == 2 {
                let mut whole = frame.to_vec();
                whole.resize(PAGE_BYTES, 0);
                put(&mut pages, at + 8, super::super::crc32c(&whole).into(), 4);
            }
        }
        seal(&mut pages);
        (pages, stream)
    }

    fn place() -> Place {
        Place { root: Some(0x800), region: Some(0x400..0x600), ram: Some(Vec::from([0x10..0x5000, 0x5000..0x9000])) }
    }

    fn rules(found: &Violations) -> Vec<Rule> {
        found.as_slice().iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn good_lists_of_both_versions_are_read() {
        for (version, nr) in [(1, 1), (1, 504), (1, 505), (1, 1200), (2, 1), (2, 252), (2, 253), (2, 700)] {
            let (pages, stream) = list_of(version, nr);
            let (list, found) = decode(&pages, &place());
            assert_eq!(rules(&found), [], "version {version}, {nr} frames");
            let list = list.unwrap();
            let frames: Vec<u64> = list.frames.iter().map(|(mfn, _)| *mfn).collect();
            assert_eq!(frames, (0..nr as u64).map(|i| 0x1000 + i).collect::<Vec<_>>());
            assert_eq!(rules(&list.check_stream(&stream, version)), []);
            assert_eq!(rules(&list.check_stream(&stream, 3 - version)), [Rule::List(ListRule::StreamVersion)]);
            let followed = follow(0x800, |mfn| {
                let at = (mfn as usize - 0x800) * PAGE_BYTES;
                Ok(pages[at..at + PAGE_BYTES].to_vec())
            });
            assert_eq!(followed.unwrap(), pages);
        }
    }

    #[test]
    fn a_damaged_frame_is_named() {
        let (pages, mut stream) = list_of(2, 3);
        let list = decode(&pages, &place()).0.unwrap();
        stream[PAGE_BYTES + 5] ^= 4;
        let found = list.check_stream(&stream, 2);
        assert_eq!(rules(&found), [Rule::Stream(StreamRule::Page), Rule::Stream(StreamRule::Checksum)]);
        assert!(found.as_slice()[0].detail.contains("frame 1, mfn 0x1001"));
    }

    #[test]
    fn every_rule_can_be_broken() {
        use ListRule as R;
        // Offset, bytes, value, and what that breaks; the checksum is made true again.
        let (last_entry, further) = (HEADER_BYTES + 503 * 8, PAGE_BYTES);
        let damages: [(usize, usize, u64, &[R]); 22] = [
            (0, 1, 0, &[R::Magic]),
            (VERSION, 4, 3, &[R::Version]),
            (HEADER_LEN, 4, 63, &[R::HeaderLen]),
            (HEADER_LEN, 4, 2056, &[R::HeaderLen]),
            (STREAM_LEN, 8, 0, &[R::StreamLen]),
            (STREAM_LEN, 8, MFN_END + 1, &[R::StreamLen]),
            (NR_FRAMES, 8, 9, &[R::PageCount]),
            (NR_LIST_PAGES, 8, 3, &[R::ListPageCount]),
            (RESERVED, 8, 1 << 63, &[R::Reserved]),
            (NEXT, 8, 0, &[R::ChainShort]),
            (NEXT, 8, MFN_END, &[R::Number, R::NotRam]),
            (last_entry, 8, 0, &[R::Number, R::NotRam]),
            (last_entry, 8, 0x400, &[R::InRegion]),
            (last_entry, 8, 0x9000, &[R::NotRam]),
            (last_entry, 8, 0x1000, &[R::Twice]),
            (last_entry, 8, 0x800, &[R::Twice]),
            (further, 1, 0, &[R::NextMagic]),
            (further + PLACE, 8, 2, &[R::Index]),
            (further + FURTHER_NEXT, 8, 0x900, &[R::ChainLong]),
            (further + FURTHER_RESERVED, 8, 1, &[R::Reserved]),
            (further + FURTHER_HEADER_BYTES + 96 * 8, 8, 0x1fff, &[R::Reserved]),
            (PAGE_BYTES * 2 - 1, 1, 0x80, &[R::Reserved]),
        ];
        for (at, len, value, broken) in damages {
            let (mut pages, _) = list_of(1, 600);
            put(&mut pages, at, value, len);
            seal(&mut pages);
            let found = decode(&pages, &place()).1;
            assert_eq!(rules(&found), broken.iter().map(|r| Rule::List(*r)).collect::<Vec<_>>(), "at {at}");
        }
        let (mut pages, _) = list_of(1, 600);
        pages[LIST_CRC] ^= 1;
        assert_eq!(rules(&decode(&pages, &place()).1), [Rule::List(R::Checksum)]);
    }
}
