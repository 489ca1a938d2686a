//! The MFN list: names the frames that the stream lies in, wherever they are.
//!
//! ```text
//!  breadcrumb ──► root page                    further list page            last list page
//!                 +------------------------+   +------------------------+   +------------------+
//!                 | header, 64 bytes       | ┌►| header, 32 bytes       | ┌►| header           |
//!                 |   next list page  ─────┼─┘ |   next list page  ─────┼─┘ |   next = 0       |
//!                 | entries, one a frame   |   | entries                |   | the rest, zeros  |
//!                 +------------------------+   +------------------------+   +------------------+
//! ```
//!
//! The header tells the stream's length and CRC-32C, and the CRC-32C of all list pages, so a stream is believed only when
//! every bit of it is what was written. Nothing in a list needs memory that is contiguous. An entry is a frame number in version 1; in version 2
//! the CRC-32C of that frame stands beside it, so that a frame that is damaged has a name.
//!
//! 1. A list page or stream page is RAM outside the region (I1), is named once, and is not frame 0.
//! 2. The chain is as long as the number of frames says; each page carries its place in it, so that a loop or a page that
//!    belongs elsewhere is noticed at once, after as many steps as a correct list has.
//! 3. The list's own checksum is compared before any entry is believed. What is read before that is used only to read on.
//!
//! The outgoing side calls [`write()`] as the last thing before the kimage gets its breadcrumb; the incoming side calls
//! [`read`] as soon as the breadcrumb was taken. Layout: docs/handover.md. Source: DESIGN §3.4.

mod error;

use super::records::StreamVersion;
use super::stream::{ByteSource, COPY_LEN, Finished, PagedSource, StreamError, checksum, joined, with_zeros};
use crate::crc32c::Crc32c;
use crate::frame::{Mfn, MfnRange, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use alloc::vec::Vec;

pub use error::MfnListError;

/// "LuxenMFN" in the order of the bytes.
pub const MAGIC: u64 = u64::from_le_bytes(*b"LuxenMFN");
/// First bytes of a further list page: "LuxenLST".
pub const NEXT_MAGIC: u64 = u64::from_le_bytes(*b"LuxenLST");
/// Bytes of the root's header as written. A reader takes a longer one, whose further fields it does not know.
pub const HEADER_LEN: u32 = 64;
/// The longest root header that is read.
pub const HEADER_LEN_MAX: u32 = 2048;
/// Bytes of the header of a further list page.
pub const NEXT_HEADER_LEN: u32 = 32;
/// The longest stream: 2^40 bytes. It keeps all sums below far from overflow.
pub const STREAM_LEN_MAX: u64 = 1 << 40;

/// Offsets in the root page.
mod root {
    pub const MAGIC: u64 = 0;
    pub const VERSION_HEADER_LEN: u64 = 8;
    pub const STREAM_LEN: u64 = 16;
    pub const NR_PAGES: u64 = 24;
    pub const CRCS: u64 = 32;
    pub const NEXT: u64 = 40;
    pub const NR_LIST_PAGES: u64 = 48;
    pub const RESERVED: u64 = 56;
}

/// Offsets in a further list page.
mod next {
    pub const MAGIC: u64 = 0;
    pub const INDEX: u64 = 8;
    pub const NEXT: u64 = 16;
    pub const RESERVED: u64 = 24;
}

const _: () = assert!(MAGIC == 0x4e46_4d6e_6578_754c && NEXT_MAGIC == 0x5453_4c6e_6578_754c);
const _: () = assert!(HEADER_LEN as u64 == root::RESERVED + 8 && NEXT_HEADER_LEN as u64 == next::RESERVED + 8);
/// Bytes of an entry.
const fn entry_len(version: StreamVersion) -> u64 {
    match version {
        StreamVersion::V1 => 8,
        _ => 16,
    }
}

const fn entries_in_root(version: StreamVersion, header_len: u32) -> u64 {
    (PAGE_SIZE - header_len as u64) / entry_len(version)
}

const fn entries_in_next(version: StreamVersion) -> u64 {
    (PAGE_SIZE - NEXT_HEADER_LEN as u64) / entry_len(version)
}

const _: () = {
    let (v1, v2) = (StreamVersion::V1, StreamVersion::V2);
    assert!(entry_len(v1) == 8 && entries_in_root(v1, HEADER_LEN) == 504 && entries_in_next(v1) == 508);
    assert!(entry_len(v2) == 16 && entries_in_root(v2, HEADER_LEN) == 252 && entries_in_next(v2) == 254);
};

const fn list_pages(version: StreamVersion, nr_pages: u64, header_len: u32) -> u64 {
    1 + nr_pages.saturating_sub(entries_in_root(version, header_len)).div_ceil(entries_in_next(version))
}

/// List pages needed to name `nr_pages` frames, the root included.
pub const fn nr_list_pages(version: StreamVersion, nr_pages: u64) -> u64 {
    list_pages(version, nr_pages, HEADER_LEN)
}

/// A list that was read: everything about a stream but its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MfnList {
    version: StreamVersion,
    pages: Vec<Mfn>,
    /// CRC-32C of each frame; none in version 1.
    page_crcs: Vec<u32>,
    list_pages: Vec<Mfn>,
    stream_len_bytes: u64,
    stream_crc: u32,
}

impl MfnList {
    /// The stream's frames, in its order.
    pub fn pages(&self) -> &[Mfn] {
        &self.pages
    }

    /// The frames that hold the list itself, the root first.
    pub fn list_pages(&self) -> &[Mfn] {
        &self.list_pages
    }

    /// All frames that must stay untouched until the stream was read, and are free afterwards.
    pub fn frames(&self) -> impl Iterator<Item = Mfn> {
        self.pages.iter().chain(&self.list_pages).copied()
    }

    /// Bytes of the stream.
    pub fn stream_len_bytes(&self) -> u64 {
        self.stream_len_bytes
    }

    /// Its version, which is also that of the stream that it names.
    pub fn version(&self) -> StreamVersion {
        self.version
    }

    /// Whether a stream that says that it is of version `stream` belongs to this list.
    pub fn check_version(&self, stream: StreamVersion) -> Result<(), MfnListError> {
        let list = self.version;
        if list == stream { Ok(()) } else { Err(MfnListError::StreamVersion { list, stream }) }
    }

    /// The stream's bytes, once their checksums were found to be right.
    pub fn open<'a, M: PhysMem + ?Sized>(&'a self, mem: &'a M) -> Result<PagedSource<'a, M>, StreamError> {
        let source = PagedSource::new(mem, &self.pages, self.stream_len_bytes);
        debug_assert_eq!(source.len_bytes(), self.stream_len_bytes);
        let found = if self.page_crcs.is_empty() { checksum(&source) } else { self.check_pages(&source)? };
        if found != self.stream_crc {
            return Err(StreamError::Checksum { noted: self.stream_crc, found });
        }
        Ok(source.with_crcs(&self.page_crcs))
    }

    /// Compares the checksum of every frame, and returns that of all bytes.
    fn check_pages(&self, source: &impl ByteSource) -> Result<u32, StreamError> {
        let mut crc = checksum(&[][..]);
        let mut damage = None;
        let mut nr_damaged = 0;
        let mut start = 0;
        for (index, (&mfn, &noted)) in (0..).zip(self.pages.iter().zip(&self.page_crcs)) {
            let used = (self.stream_len_bytes - start).min(PAGE_SIZE);
            let part = source.crc(start, start + used);
            let found = with_zeros(part, PAGE_SIZE - used);
            if found != noted {
                nr_damaged += 1;
                damage.get_or_insert((index, mfn, noted, found));
            }
            crc = joined(crc, part, used);
            start += used;
        }
        match damage {
            Some((index, mfn, noted, found)) => Err(StreamError::Page { index, mfn, noted, found, nr_damaged }),
            None => Ok(crc),
        }
    }
}

/// A stream that was written, as its list has to know it.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// In which version.
    pub version: StreamVersion,
    /// Its frames, in its order.
    pub pages: &'a [Mfn],
    /// CRC-32C of each of them, whole, with zeros behind the stream's end. Version 1 has no place for them.
    pub page_crcs: &'a [u32],
    /// Its length and checksum.
    pub finished: Finished,
}

/// Writes the list of a stream to `list_pages`, of which there are [`nr_list_pages`]. Returns the root, for the breadcrumb.
pub fn write<M: PhysMem + ?Sized>(mem: &M, list_pages: &[Mfn], stream: &Written<'_>) -> Result<Mfn, MfnListError> {
    let &Written { version, pages, page_crcs, finished: Finished { len_bytes, crc } } = stream;
    let nr_pages = pages.len() as u64;
    check_lengths(len_bytes, nr_pages)?;
    if page_crcs.len() != pages.len() {
        return Err(MfnListError::CrcCount { found: page_crcs.len() as u64, needed: nr_pages });
    }
    let needed = nr_list_pages(version, nr_pages);
    let Some((&root, further)) = list_pages.split_first().filter(|_| list_pages.len() as u64 == needed) else {
        return Err(MfnListError::ListPageCount { needed, found: list_pages.len() as u64 });
    };
    if list_pages.contains(&Mfn::ZERO) || pages.contains(&Mfn::ZERO) {
        return Err(MfnListError::Number { page: root, found: 0 });
    }
    let runs = Runs::of(pages.iter().chain(list_pages).copied())?;
    runs.check_disjoint()?;

    let next_of = |index: usize| list_pages.get(index + 1).map_or(0, |mfn| mfn.get());
    let put = |page: Mfn, offset: u64, value: u64| mem.write_u64(page.maddr().offset(offset), value);
    let mut entries = pages.iter().zip(page_crcs);
    let mut put_entries = |page: Mfn, header_len: u32| {
        let mut at = u64::from(header_len);
        let in_page = (PAGE_SIZE - at) / entry_len(version);
        for (mfn, &page_crc) in entries.by_ref().take(in_page as usize) {
            put(page, at, mfn.get());
            if version != StreamVersion::V1 {
                put(page, at + 8, pair(page_crc, 0));
            }
            at += entry_len(version);
        }
        mem.zero(page.maddr().offset(at), PAGE_SIZE - at);
    };
    put(root, root::MAGIC, MAGIC);
    put(root, root::VERSION_HEADER_LEN, pair(version.get(), HEADER_LEN));
    put(root, root::STREAM_LEN, len_bytes);
    put(root, root::NR_PAGES, nr_pages);
    put(root, root::CRCS, pair(crc, 0));
    put(root, root::NEXT, next_of(0));
    put(root, root::NR_LIST_PAGES, needed);
    put(root, root::RESERVED, 0);
    put_entries(root, HEADER_LEN);
    for (index, &page) in further.iter().enumerate() {
        put(page, next::MAGIC, NEXT_MAGIC);
        put(page, next::INDEX, index as u64 + 1);
        put(page, next::NEXT, next_of(index + 1));
        put(page, next::RESERVED, 0);
        put_entries(page, NEXT_HEADER_LEN);
    }
    assert!(entries.next().is_none(), "the list pages were counted to hold all entries");
    put(root, root::CRCS, pair(crc, list_checksum(mem, list_pages)));
    Ok(root)
}

/// Reads the list whose root is `root`, and checks all of it. The stream's own bytes are checked by [`MfnList::open`].
///
/// `is_ram` says whether a whole range is RAM where the outgoing side may have put something: outside of what the
/// firmware keeps and of the incoming image. It is asked once for each run of frames.
pub fn read<M: PhysMem + ?Sized>(
    mem: &M,
    root: Mfn,
    region: MfnRange,
    is_ram: impl Fn(MfnRange) -> bool,
) -> Result<MfnList, MfnListError> {
    let check_run = |start: Mfn, nr_frames: u64| {
        let run = MfnRange::try_new(start, nr_frames).map_err(|_| MfnListError::NotRam { mfn: start })?;
        if let Some(mfn) = run.intersection(region).first() {
            Err(MfnListError::InRegion { mfn })
        } else if !is_ram(run) {
            Err(MfnListError::NotRam { mfn: start })
        } else {
            Ok(())
        }
    };
    let get = |page: Mfn, offset: u64| mem.read_u64(page.maddr().offset(offset));
    let frame = |page: Mfn, found: u64| match Mfn::try_new(found) {
        Ok(mfn) if mfn != Mfn::ZERO => Ok(mfn),
        _ => Err(MfnListError::Number { page, found }),
    };

    frame(root, root.get())?;
    check_run(root, 1)?;
    let found = get(root, root::MAGIC);
    if found != MAGIC {
        return Err(MfnListError::Magic { root, found });
    }
    let (number, header_len) = halves(get(root, root::VERSION_HEADER_LEN));
    let version = StreamVersion::try_new(number).ok_or(MfnListError::Version { found: number })?;
    let is_whole = u64::from(header_len).is_multiple_of(entry_len(version));
    if !(HEADER_LEN..=HEADER_LEN_MAX).contains(&header_len) || !is_whole {
        return Err(MfnListError::HeaderLen { found: header_len });
    }
    let stream_len_bytes = get(root, root::STREAM_LEN);
    let nr_pages = get(root, root::NR_PAGES);
    check_lengths(stream_len_bytes, nr_pages)?;
    let needed = list_pages(version, nr_pages, header_len);
    let found = get(root, root::NR_LIST_PAGES);
    if found != needed {
        return Err(MfnListError::ListPageCount { needed, found });
    }

    // First the chain alone, so that its checksum is known before any entry is looked at.
    let mut chain: Vec<Mfn> = Vec::new();
    let mut page = root;
    let mut next = get(root, root::NEXT);
    loop {
        chain.try_reserve(1).map_err(|_| MfnListError::NoMemory { nr_frames: nr_pages })?;
        chain.push(page);
        let done = chain.len() as u64;
        if next == 0 || done == needed {
            break;
        }
        page = frame(page, next)?;
        check_run(page, 1)?;
        let found = get(page, next::MAGIC);
        if found != NEXT_MAGIC {
            return Err(MfnListError::NextMagic { page, found });
        }
        let found = get(page, next::INDEX);
        if found != done {
            return Err(MfnListError::Index { page, due: done, found });
        }
        next = get(page, next::NEXT);
    }
    if (chain.len() as u64) < needed {
        return Err(MfnListError::ChainShort { found: chain.len() as u64, needed });
    }
    if next != 0 {
        return Err(MfnListError::ChainLong { page, next });
    }
    let (stream_crc, noted) = halves(get(root, root::CRCS));
    let found = list_checksum(mem, &chain);
    if found != noted {
        return Err(MfnListError::Checksum { noted, found });
    }
    let reserved = |page: Mfn, offset: u64| match get(page, offset) {
        0 => Ok(()),
        found => Err(MfnListError::Reserved { page, offset, found }),
    };
    // A longer header is of a build that knows what its further fields are for; these are for all builds.
    reserved(root, root::RESERVED)?;

    let mut pages = Vec::new();
    let mut page_crcs = Vec::new();
    let no_memory = MfnListError::NoMemory { nr_frames: nr_pages };
    let room = usize::try_from(nr_pages).map_err(|_| no_memory)?;
    pages.try_reserve_exact(room).map_err(|_| no_memory)?;
    if version != StreamVersion::V1 {
        page_crcs.try_reserve_exact(room).map_err(|_| no_memory)?;
    }
    for &page in &chain {
        let mut at = u64::from(if page == root { header_len } else { NEXT_HEADER_LEN });
        if page != root {
            reserved(page, next::RESERVED)?;
        }
        while at < PAGE_SIZE && (pages.len() as u64) < nr_pages {
            pages.push(frame(page, get(page, at))?);
            if version != StreamVersion::V1 {
                let (crc, zero) = halves(get(page, at + 8));
                if zero != 0 {
                    return Err(MfnListError::Reserved { page, offset: at + 12, found: zero.into() });
                }
                page_crcs.push(crc);
            }
            at += entry_len(version);
        }
        for offset in (at..PAGE_SIZE).step_by(8) {
            reserved(page, offset)?;
        }
    }
    let runs = Runs::of(pages.iter().chain(&chain).copied())?;
    for run in &runs.0 {
        check_run(run.0, run.1)?;
    }
    runs.check_disjoint()?;
    Ok(MfnList { version, pages, page_crcs, list_pages: chain, stream_len_bytes, stream_crc })
}

fn check_lengths(stream_len_bytes: u64, nr_pages: u64) -> Result<(), MfnListError> {
    if stream_len_bytes == 0 || stream_len_bytes > STREAM_LEN_MAX {
        return Err(MfnListError::StreamLen { found: stream_len_bytes });
    }
    let needed = stream_len_bytes.div_ceil(PAGE_SIZE);
    if needed == nr_pages { Ok(()) } else { Err(MfnListError::PageCount { needed, found: nr_pages }) }
}

/// CRC-32C of all list pages, whole, in the order of the chain, with the root's checksum field taken as zero.
fn list_checksum<M: PhysMem + ?Sized>(mem: &M, list_pages: &[Mfn]) -> u32 {
    let mut sum = Crc32c::new();
    let mut buf = [0; COPY_LEN];
    for (index, page) in list_pages.iter().enumerate() {
        for offset in (0..PAGE_SIZE).step_by(COPY_LEN) {
            mem.read(page.maddr().offset(offset), &mut buf);
            if index == 0 && offset == 0 {
                let field = root::CRCS as usize + 4;
                buf[field..field + 4].fill(0);
            }
            sum.update(&buf);
        }
    }
    sum.finish()
}

/// Two 32-bit fields as they lie in memory.
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// Frames gathered into runs, so that checks cost what the memory's fragmentation costs and not what its size does.
struct Runs(Vec<(Mfn, u64)>);

impl Runs {
    fn of(frames: impl Iterator<Item = Mfn>) -> Result<Self, MfnListError> {
        let mut runs: Vec<(Mfn, u64)> = Vec::new();
        for mfn in frames {
            match runs.last_mut() {
                Some((start, len)) if start.checked_add(*len) == Some(mfn) => *len += 1,
                _ => {
                    let nr_frames = runs.len() as u64 + 1;
                    runs.try_reserve(1).map_err(|_| MfnListError::NoMemory { nr_frames })?;
                    runs.push((mfn, 1));
                }
            }
        }
        Ok(Self(runs))
    }

    fn check_disjoint(mut self) -> Result<(), MfnListError> {
        self.0.sort_unstable();
        for two in self.0.windows(2) {
            if let &[(start, len), (mfn, _)] = two
                && mfn.get() < start.get() + len
            {
                return Err(MfnListError::Twice { mfn });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
