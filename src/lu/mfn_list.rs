//! The MFN list: names the frames that the stream lies in, wherever they are.
//!
//! ```text
//!  breadcrumb ──► root page                    further list page            last list page
//!                 +------------------------+   +------------------------+   +------------------+
//!                 | header, 64 bytes       | ┌►| header, 32 bytes       | ┌►| header           |
//!                 |   next list page  ─────┼─┘ |   next list page  ─────┼─┘ |   next = 0       |
//!                 | up to 504 frames       |   | up to 508 frames       |   | the rest, zeros  |
//!                 +------------------------+   +------------------------+   +------------------+
//! ```
//!
//! The header tells the stream's length and CRC-32C, and the CRC-32C of all list pages, so a stream is believed only when
//! every bit of it is what was written. Nothing in a list needs memory that is contiguous.
//!
//! 1. A list page or stream page is RAM outside the region (I1), is named once, and is not frame 0.
//! 2. The chain is as long as the number of frames says; each page carries its place in it, so that a loop or a page that
//!    belongs elsewhere is noticed at once, after as many steps as a correct list has.
//! 3. The list's own checksum is compared before any entry is believed. What is read before that is used only to read on.
//!
//! The outgoing side calls [`write()`] as the last thing before the kimage gets its breadcrumb; the incoming side calls
//! [`read`] as soon as the breadcrumb was taken. Layout: docs/handover.md. Source: DESIGN §3.4.

use super::stream::{ByteSource, COPY_LEN, PagedSource, StreamError, checksum, digest};
use crate::frame::{Mfn, MfnRange, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use alloc::vec::Vec;
use core::fmt;

/// "LuxenMFN" in the order of the bytes.
pub const MAGIC: u64 = u64::from_le_bytes(*b"LuxenMFN");
/// First bytes of a further list page: "LuxenLST".
pub const NEXT_MAGIC: u64 = u64::from_le_bytes(*b"LuxenLST");
/// The version written.
pub const VERSION: u32 = 1;
/// The oldest version read.
pub const OLDEST_VERSION: u32 = 1;
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
const _: () = assert!(VERSION == 1 && OLDEST_VERSION == 1);
const _: () = assert!(OLDEST_VERSION == VERSION || OLDEST_VERSION + 1 == VERSION, "I10: this version, the one before");
const _: () = assert!(HEADER_LEN as u64 == root::RESERVED + 8 && NEXT_HEADER_LEN as u64 == next::RESERVED + 8);
const _: () = assert!(entries_in_root(HEADER_LEN) == 504 && ENTRIES_IN_NEXT == 508);

const ENTRIES_IN_NEXT: u64 = (PAGE_SIZE - NEXT_HEADER_LEN as u64) / 8;

const fn entries_in_root(header_len: u32) -> u64 {
    (PAGE_SIZE - header_len as u64) / 8
}

const fn list_pages(nr_pages: u64, header_len: u32) -> u64 {
    1 + nr_pages.saturating_sub(entries_in_root(header_len)).div_ceil(ENTRIES_IN_NEXT)
}

/// List pages needed to name `nr_pages` frames, the root included.
pub const fn nr_list_pages(nr_pages: u64) -> u64 {
    list_pages(nr_pages, HEADER_LEN)
}

/// What is wrong with an MFN list, found or to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MfnListError {
    /// The root does not begin with [`MAGIC`].
    Magic {
        /// The root page.
        root: Mfn,
        /// What it begins with.
        found: u64,
    },
    /// The list is of a version that this build does not read.
    Version {
        /// The version found; [`OLDEST_VERSION`] to [`VERSION`] are read.
        found: u32,
    },
    /// The root's header is too short, too long, or not a multiple of 8.
    HeaderLen {
        /// The length found.
        found: u32,
    },
    /// The stream is empty or too long.
    StreamLen {
        /// The length found.
        found: u64,
    },
    /// The number of frames is not that of the stream's length.
    PageCount {
        /// Frames that the stream's length needs.
        needed: u64,
        /// Frames found, or given.
        found: u64,
    },
    /// The number of list pages is not that of the number of frames.
    ListPageCount {
        /// List pages that the number of frames needs.
        needed: u64,
        /// List pages found, or given.
        found: u64,
    },
    /// A reserved field is not zero, or an unused entry.
    Reserved {
        /// The list page.
        page: Mfn,
        /// Offset in it.
        offset: u64,
        /// What is there.
        found: u64,
    },
    /// A further list page does not begin with [`NEXT_MAGIC`].
    NextMagic {
        /// The list page.
        page: Mfn,
        /// What it begins with.
        found: u64,
    },
    /// A list page is not the one that is due: the chain loops, or was mixed up.
    Index {
        /// The list page.
        page: Mfn,
        /// Its place in the chain; the root's is 0.
        due: u64,
        /// The place noted in it.
        found: u64,
    },
    /// The chain ends too early.
    ChainShort {
        /// List pages read.
        found: u64,
        /// List pages that there should be.
        needed: u64,
    },
    /// The chain goes on behind its last page.
    ChainLong {
        /// The last page.
        page: Mfn,
        /// The frame number that it gives as the next.
        next: u64,
    },
    /// A frame number is out of range, or 0.
    Number {
        /// Which list page names it.
        page: Mfn,
        /// The number.
        found: u64,
    },
    /// A frame lies in the region, where nothing survives.
    InRegion {
        /// The frame.
        mfn: Mfn,
    },
    /// A frame is not RAM where the outgoing side may have put something.
    NotRam {
        /// The frame, or the first one of a run of which not all are.
        mfn: Mfn,
    },
    /// A frame is named twice.
    Twice {
        /// The frame.
        mfn: Mfn,
    },
    /// The list's bytes are not those that were written.
    Checksum {
        /// CRC-32C noted in the root.
        noted: u32,
        /// CRC-32C of the pages found.
        found: u32,
    },
    /// No memory for the list of frames.
    NoMemory {
        /// Frames to be listed.
        nr_frames: u64,
    },
}

impl fmt::Display for MfnListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic { root, found } => write!(f, "no MFN list in frame {root}: it begins with {found:#x}"),
            Self::Version { found } => {
                write!(f, "the MFN list has version {found}, {OLDEST_VERSION} to {VERSION} can be read")
            }
            Self::HeaderLen { found } => {
                write!(f, "the MFN list's header has {found} bytes, {HEADER_LEN} to {HEADER_LEN_MAX} can be read")
            }
            Self::StreamLen { found } => write!(f, "a stream of {found} bytes, 1 to {STREAM_LEN_MAX} can be read"),
            Self::PageCount { needed, found } => write!(f, "{found} frames of stream, its length needs {needed}"),
            Self::ListPageCount { needed, found } => write!(f, "{found} list pages, the stream needs {needed}"),
            Self::Reserved { page, offset, found } => {
                write!(f, "list page {page}: the reserved field at {offset} is {found:#x}")
            }
            Self::NextMagic { page, found } => write!(f, "no list page in frame {page}: it begins with {found:#x}"),
            Self::Index { page, due, found } => write!(f, "list page {page} is number {found}, {due} was due"),
            Self::ChainShort { found, needed } => write!(f, "the chain has {found} list pages, {needed} are needed"),
            Self::ChainLong { page, next } => write!(f, "list page {page} is the last, but goes on to {next:#x}"),
            Self::Number { page, found } => write!(f, "list page {page} names frame {found:#x}, which cannot be"),
            Self::InRegion { mfn } => write!(f, "frame {mfn} lies in the region"),
            Self::NotRam { mfn } => write!(f, "frame {mfn} is not RAM"),
            Self::Twice { mfn } => write!(f, "frame {mfn} is named twice"),
            Self::Checksum { noted, found } => {
                write!(f, "the MFN list's checksum is {found:#010x}, noted was {noted:#010x}")
            }
            Self::NoMemory { nr_frames } => write!(f, "no memory for a list of {nr_frames} frames"),
        }
    }
}

/// A list that was read: everything about a stream but its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MfnList {
    pages: Vec<Mfn>,
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

    /// The stream's bytes, once their checksum was found to be right.
    pub fn open<'a, M: PhysMem + ?Sized>(&'a self, mem: &'a M) -> Result<PagedSource<'a, M>, StreamError> {
        let source = PagedSource::new(mem, &self.pages, self.stream_len_bytes);
        debug_assert_eq!(source.len_bytes(), self.stream_len_bytes);
        let found = checksum(&source);
        if found == self.stream_crc { Ok(source) } else { Err(StreamError::Checksum { noted: self.stream_crc, found }) }
    }
}

/// Writes the list for a stream of `stream_len_bytes` bytes in `pages`, whose CRC-32C is `stream_crc`, to `list_pages`, of
/// which there are [`nr_list_pages`]. Returns the root, for the breadcrumb.
pub fn write<M: PhysMem + ?Sized>(
    mem: &M,
    list_pages: &[Mfn],
    pages: &[Mfn],
    stream_len_bytes: u64,
    stream_crc: u32,
) -> Result<Mfn, MfnListError> {
    let nr_pages = pages.len() as u64;
    check_lengths(stream_len_bytes, nr_pages)?;
    let needed = nr_list_pages(nr_pages);
    let Some((&root, further)) = list_pages.split_first().filter(|_| list_pages.len() as u64 == needed) else {
        return Err(MfnListError::ListPageCount { needed, found: list_pages.len() as u64 });
    };
    if list_pages.contains(&Mfn::ZERO) || pages.contains(&Mfn::ZERO) {
        return Err(MfnListError::Number { page: root, found: 0 });
    }
    let runs = Runs::of(pages.iter().chain(list_pages).copied())?;
    runs.check_disjoint()?;

    let next_of = |index: usize| list_pages.get(index + 1).map_or(0, |mfn| mfn.get());
    let (in_root, mut rest) = pages.split_at(pages.len().min(entries_in_root(HEADER_LEN) as usize));
    let put = |page: Mfn, offset: u64, value: u64| mem.write_u64(page.maddr().offset(offset), value);
    put(root, root::MAGIC, MAGIC);
    put(root, root::VERSION_HEADER_LEN, pair(VERSION, HEADER_LEN));
    put(root, root::STREAM_LEN, stream_len_bytes);
    put(root, root::NR_PAGES, nr_pages);
    put(root, root::CRCS, pair(stream_crc, 0));
    put(root, root::NEXT, next_of(0));
    put(root, root::NR_LIST_PAGES, needed);
    put(root, root::RESERVED, 0);
    write_entries(mem, root, HEADER_LEN.into(), in_root);
    for (index, &page) in further.iter().enumerate() {
        let (here, behind) = rest.split_at(rest.len().min(ENTRIES_IN_NEXT as usize));
        rest = behind;
        put(page, next::MAGIC, NEXT_MAGIC);
        put(page, next::INDEX, index as u64 + 1);
        put(page, next::NEXT, next_of(index + 1));
        put(page, next::RESERVED, 0);
        write_entries(mem, page, NEXT_HEADER_LEN.into(), here);
    }
    assert!(rest.is_empty(), "the list pages were counted to hold all entries");
    put(root, root::CRCS, pair(stream_crc, list_checksum(mem, list_pages)));
    Ok(root)
}

fn write_entries<M: PhysMem + ?Sized>(mem: &M, page: Mfn, offset: u64, entries: &[Mfn]) {
    let mut at = offset;
    for mfn in entries {
        mem.write_u64(page.maddr().offset(at), mfn.get());
        at += 8;
    }
    mem.zero(page.maddr().offset(at), PAGE_SIZE - at);
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
    let (version, header_len) = halves(get(root, root::VERSION_HEADER_LEN));
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(MfnListError::Version { found: version });
    }
    if !(HEADER_LEN..=HEADER_LEN_MAX).contains(&header_len) || !header_len.is_multiple_of(8) {
        return Err(MfnListError::HeaderLen { found: header_len });
    }
    let stream_len_bytes = get(root, root::STREAM_LEN);
    let nr_pages = get(root, root::NR_PAGES);
    check_lengths(stream_len_bytes, nr_pages)?;
    let needed = list_pages(nr_pages, header_len);
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
    let no_memory = MfnListError::NoMemory { nr_frames: nr_pages };
    pages.try_reserve_exact(usize::try_from(nr_pages).map_err(|_| no_memory)?).map_err(|_| no_memory)?;
    for &page in &chain {
        let header_len = if page == root { header_len } else { NEXT_HEADER_LEN };
        if page != root {
            reserved(page, next::RESERVED)?;
        }
        for offset in (u64::from(header_len)..PAGE_SIZE).step_by(8) {
            if (pages.len() as u64) < nr_pages {
                pages.push(frame(page, get(page, offset))?);
            } else {
                reserved(page, offset)?;
            }
        }
    }
    let runs = Runs::of(pages.iter().chain(&chain).copied())?;
    for run in &runs.0 {
        check_run(run.0, run.1)?;
    }
    runs.check_disjoint()?;
    Ok(MfnList { pages, list_pages: chain, stream_len_bytes, stream_crc })
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
    let mut digest = digest();
    let mut buf = [0; COPY_LEN];
    for (index, page) in list_pages.iter().enumerate() {
        for offset in (0..PAGE_SIZE).step_by(COPY_LEN) {
            mem.read(page.maddr().offset(offset), &mut buf);
            if index == 0 && offset == 0 {
                let field = root::CRCS as usize + 4;
                buf[field..field + 4].fill(0);
            }
            digest.update(&buf);
        }
    }
    digest.finalize()
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
