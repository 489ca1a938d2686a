//! The entry list: what the relocation code does when nothing of the outgoing hypervisor runs any more.
//!
//! A list is a sequence of 64-bit entries in *list pages*, read from the first page's start on. Low bits say what to do:
//!
//! | bit | name | meaning |
//! |---|---|---|
//! | 0x01 | DESTINATION | what follows goes to this page |
//! | 0x02 | INDIRECTION | go on reading entries at this page |
//! | 0x04 | DONE | the end |
//! | 0x08 | SOURCE | copy this page to the destination, which moves on by a page |
//! | 0x10 | ZERO | clear the destination, which moves on by a page |
//! | 0x20 | WRITE64 | store the entry without its low 12 bits at the destination, which moves on by 8 bytes |
//!
//! The first five are Linux's and Xen's kexec; WRITE64 is the live-update series' addition, because the one thing that
//! is known only after everything else has been staged is a page's address: the root of the MFN list.
//!
//! Invariants, each checked when an entry is appended:
//!
//! - **K1** every destination lies in the slot or in the region (I11);
//! - **K2** no page is a destination twice;
//! - **K3** a source is its own destination or no destination at all, so that the order of copying does not matter;
//! - **K4** list pages and prepared pages lie outside of slot and region, so that nothing overwrites them;
//! - **K5** a staged list has room left for the breadcrumb: [`Kimage::append_breadcrumb`] cannot fail.
//!
//! ```text
//! supply ──> list page ──> list page ──> list page          slot <── image (module's own pages, prepared pages, zeros)
//!            511 entries   511 entries   … │ ▒ ▒ ▒          region + 0x1000 <── Multiboot2 information
//!            + INDIRECTION + INDIRECTION   DEST WRITE64 DONE  region <── root of the MFN list
//! ```

use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;

use super::image::PlacedImage;
use crate::frame::{Maddr, Mfn, MfnRange, PAGE_SHIFT, PAGE_SIZE};
use crate::mm::physmem::PhysMem;

/// Bytes of an entry.
pub const ENTRY_LEN: u64 = 8;
/// Entries that fit a list page.
pub const ENTRIES_PER_PAGE: u64 = PAGE_SIZE / ENTRY_LEN;
/// Bits of an entry that are not the address.
const LOW_BITS: u64 = PAGE_SIZE - 1;
/// DESTINATION, WRITE64, DONE.
const BREADCRUMB_ENTRIES: u64 = 3;

bitflags! {
    /// What an entry says.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryFlags: u64 {
        /// What follows goes to this page.
        const DESTINATION = 0x1;
        /// Go on reading entries at this page.
        const INDIRECTION = 0x2;
        /// The end.
        const DONE = 0x4;
        /// Copy this page.
        const SOURCE = 0x8;
        /// Clear a page.
        const ZERO = 0x10;
        /// Store the address bits themselves.
        const WRITE64 = 0x20;
    }
}

/// An entry that says one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// What follows goes to this page.
    Destination(Mfn),
    /// Go on reading entries at this page.
    Indirection(Mfn),
    /// The end.
    Done,
    /// Copy this page.
    Source(Mfn),
    /// Clear a page.
    Zero,
    /// Store this value, whose low 12 bits are zero.
    Write64(u64),
}

impl Entry {
    /// The entry as it is in memory.
    pub const fn encode(self) -> u64 {
        match self {
            Self::Destination(mfn) => mfn.maddr().get() | EntryFlags::DESTINATION.bits(),
            Self::Indirection(mfn) => mfn.maddr().get() | EntryFlags::INDIRECTION.bits(),
            Self::Done => EntryFlags::DONE.bits(),
            Self::Source(mfn) => mfn.maddr().get() | EntryFlags::SOURCE.bits(),
            Self::Zero => EntryFlags::ZERO.bits(),
            Self::Write64(value) => value & !LOW_BITS | EntryFlags::WRITE64.bits(),
        }
    }

    /// Reads an entry; none if it has no flag, several, an unknown one, or no machine address where one is needed.
    pub fn decode(raw: u64) -> Option<Self> {
        let mfn = || Mfn::try_new(raw >> PAGE_SHIFT).ok();
        Some(match EntryFlags::from_bits(raw & LOW_BITS)? {
            EntryFlags::DESTINATION => Self::Destination(mfn()?),
            EntryFlags::INDIRECTION => Self::Indirection(mfn()?),
            EntryFlags::DONE => Self::Done,
            EntryFlags::SOURCE => Self::Source(mfn()?),
            EntryFlags::ZERO => Self::Zero,
            EntryFlags::WRITE64 => Self::Write64(raw & !LOW_BITS),
            _ => return None,
        })
    }
}

/// Why a list cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the numbers of the sentence that Display makes of them")]
pub enum KimageError {
    /// Slot or region is empty, or they overlap.
    BadPlaces { slot: MfnRange, region: MfnRange },
    /// There is no free frame for a list page or a prepared page.
    NoFrame { taken: usize },
    /// The hypervisor's own heap is exhausted.
    NoMemory,
    /// A frame that was supplied lies in slot or region (K4).
    SuppliedInside { mfn: Mfn },
    /// A destination outside of slot and region (K1).
    DestinationOutside { mfn: u64 },
    /// A page is a destination for the second time (K2).
    DestinationTwice { mfn: Mfn },
    /// A page is source and, for something else, destination (K3).
    SourceIsDestination { mfn: Mfn },
    /// Something to be put before it was said where.
    NoDestination,
    /// A page to be put behind words: it would not be page aligned.
    PageAfterWords,
    /// More words than a page has.
    TooManyWords,
    /// A word whose low 12 bits are not zero cannot be said.
    WordUnaligned { value: u64 },
    /// The Multiboot2 information is larger than what the region has behind its breadcrumb page; bytes.
    MbiTooLarge { need: u64, room: u64 },
    /// The image's file does not lie where a frame number can say it.
    ImageOutOfReach { start: Maddr, len_bytes: u64 },
}

impl fmt::Display for KimageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadPlaces { slot, region } => {
                write!(f, "the slot {slot} and the region {region} overlap or are empty")
            }
            Self::NoFrame { taken } => write!(f, "no free frame is left to stage the image in, after {taken}"),
            Self::NoMemory => write!(f, "no memory is left to account for the image's pages"),
            Self::SuppliedInside { mfn } => write!(f, "frame {mfn} for staging lies in the slot or the region"),
            Self::DestinationOutside { mfn } => write!(f, "destination frame {mfn:#x} is outside of slot and region"),
            Self::DestinationTwice { mfn } => write!(f, "destination frame {mfn} would be written twice"),
            Self::SourceIsDestination { mfn } => write!(f, "source frame {mfn} would be overwritten"),
            Self::NoDestination => write!(f, "an entry needs a destination before it"),
            Self::PageAfterWords => write!(f, "a page cannot follow words without a destination of its own"),
            Self::TooManyWords => write!(f, "words cannot cross the end of their page"),
            Self::WordUnaligned { value } => write!(f, "the word {value:#x} has low bits, which an entry cannot carry"),
            Self::MbiTooLarge { need, room } => {
                write!(f, "the boot information has {need} bytes, the region has room for {room}")
            }
            Self::ImageOutOfReach { start, len_bytes } => {
                write!(f, "the image's file, {len_bytes} bytes at {start}, ends beyond all addresses")
            }
        }
    }
}

impl core::error::Error for KimageError {}

/// Staging failed, and these frames are the caller's again.
#[derive(Debug)]
#[must_use = "the frames in it want to be freed"]
pub struct StageError {
    /// Why.
    pub cause: KimageError,
    /// What the supply had given.
    pub frames: Vec<Mfn>,
}

/// A set of frames as ascending runs `[start, end)` that neither overlap nor touch: an image's pages are a few runs.
#[derive(Debug, Default)]
struct FrameSet {
    runs: Vec<(u64, u64)>,
}

impl FrameSet {
    fn contains(&self, mfn: Mfn) -> bool {
        let at = self.runs.partition_point(|run| run.1 <= mfn.get());
        self.runs.get(at).is_some_and(|run| run.0 <= mfn.get())
    }

    /// Adds a frame, which may be in the set already.
    fn insert(&mut self, mfn: Mfn) -> Result<(), KimageError> {
        let n = mfn.get();
        // The first run that holds the frame or touches it from below, or lies above it.
        let at = self.runs.partition_point(|run| run.1 < n);
        let behind = self.runs.get(at + 1).copied();
        match self.runs.get_mut(at) {
            Some(run) if run.0 <= n && n < run.1 => {}
            Some(run) if run.1 == n => {
                run.1 = n + 1;
                if let Some((_, end)) = behind.filter(|behind| behind.0 == n + 1) {
                    run.1 = end;
                    self.runs.remove(at + 1);
                }
            }
            Some(run) if run.0 == n + 1 => run.0 = n,
            _ => {
                self.runs.try_reserve(1).map_err(|_| KimageError::NoMemory)?;
                self.runs.insert(at, (n, n + 1));
            }
        }
        Ok(())
    }
}

/// Where the next SOURCE, ZERO or WRITE64 goes.
#[derive(Clone, Copy, Debug)]
enum Cursor {
    Nowhere,
    Page(u64),
    /// Behind `nr_words` words of a page.
    Words {
        nr_words: u64,
    },
}

/// Makes an entry list, page by page, in frames that `supply` gives.
///
/// The frames are ordinary free ones, outside of slot and region and owned by the caller. They are handed back by
/// [`KimageBuilder::into_frames`] or become the [`Kimage`]'s.
pub struct KimageBuilder<'m, M, S> {
    mem: &'m M,
    supply: S,
    slot: MfnRange,
    region: MfnRange,
    breadcrumb: Mfn,
    destinations: FrameSet,
    sources: FrameSet,
    cursor: Cursor,
    frames: Vec<Mfn>,
    first: Option<Mfn>,
    at: Option<Maddr>,
    counts: Counts,
    entry: u32,
    mbi: u32,
}

/// What is in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries, INDIRECTIONs and the final DONE included, without the breadcrumb's.
    pub entries: u64,
    /// Pages that hold entries.
    pub list_pages: u64,
    /// Pages that hold what could not be copied from where it lies.
    pub prepared_pages: u64,
    /// Pages that will be copied.
    pub copied_pages: u64,
    /// Pages that will be cleared.
    pub zeroed_pages: u64,
}

impl<'m, M: PhysMem, S: FnMut() -> Option<Mfn>> KimageBuilder<'m, M, S> {
    /// An empty list for an image that goes to `slot`. The first page of the region is kept for the breadcrumb.
    pub fn new(mem: &'m M, slot: MfnRange, region: MfnRange, supply: S) -> Result<Self, KimageError> {
        let bad = KimageError::BadPlaces { slot, region };
        let breadcrumb = region.first().ok_or(bad)?;
        if slot.is_empty() || slot.overlaps(region) {
            return Err(bad);
        }
        let mut destinations = FrameSet::default();
        destinations.insert(breadcrumb)?;
        Ok(Self {
            mem,
            supply,
            slot,
            region,
            breadcrumb,
            destinations,
            sources: FrameSet::default(),
            cursor: Cursor::Nowhere,
            frames: Vec::new(),
            first: None,
            at: None,
            counts: Counts::default(),
            entry: 0,
            mbi: 0,
        })
    }

    /// What follows goes to this page.
    pub fn destination(&mut self, mfn: Mfn) -> Result<(), KimageError> {
        self.check_destination(mfn.get())?;
        self.append(Entry::Destination(mfn))?;
        self.cursor = Cursor::Page(mfn.get());
        Ok(())
    }

    /// Copies a page to the destination.
    pub fn source(&mut self, mfn: Mfn) -> Result<(), KimageError> {
        let to = self.page_cursor()?;
        if mfn != to {
            if self.destinations.contains(mfn) {
                return Err(KimageError::SourceIsDestination { mfn });
            }
            self.sources.insert(mfn)?;
        }
        self.fill(to, Entry::Source(mfn))?;
        self.counts.copied_pages += 1;
        Ok(())
    }

    /// Clears the destination.
    pub fn zero(&mut self) -> Result<(), KimageError> {
        let to = self.page_cursor()?;
        self.fill(to, Entry::Zero)?;
        self.counts.zeroed_pages += 1;
        Ok(())
    }

    /// Stores a word at the destination.
    pub fn write64(&mut self, value: u64) -> Result<(), KimageError> {
        if value & LOW_BITS != 0 {
            return Err(KimageError::WordUnaligned { value });
        }
        let nr_words = match self.cursor {
            Cursor::Nowhere => return Err(KimageError::NoDestination),
            Cursor::Page(mfn) => {
                let mfn = self.check_destination(mfn)?;
                self.destinations.insert(mfn)?;
                0
            }
            Cursor::Words { nr_words } if nr_words == ENTRIES_PER_PAGE => return Err(KimageError::TooManyWords),
            Cursor::Words { nr_words } => nr_words,
        };
        self.append(Entry::Write64(value))?;
        self.cursor = Cursor::Words { nr_words: nr_words + 1 };
        Ok(())
    }

    /// Puts an image into its slot. `image_at` is where the image's file lies in memory, whole and in one piece: its
    /// pages are copied from there by the relocation code where they are pages of the file, and prepared where not.
    pub fn load_image(&mut self, image: &PlacedImage<'_>, image_at: Maddr) -> Result<(), KimageError> {
        let file = image.image().file();
        let len_bytes = file.len() as u64;
        if image_at.checked_add(len_bytes).is_none() {
            return Err(KimageError::ImageOutOfReach { start: image_at, len_bytes });
        }
        for segment in image.image().segments() {
            let first = image.slot().start() + segment.slot_offset / PAGE_SIZE;
            self.destination(Mfn::try_new(first).map_err(|_| KimageError::DestinationOutside { mfn: first })?)?;
            let mut done = 0;
            while done < segment.memory_len {
                let from_file = segment.file_len.saturating_sub(done).min(PAGE_SIZE);
                let in_file = segment.file_offset + done;
                let in_place = image_at.offset(in_file.min(len_bytes));
                if from_file == 0 {
                    self.zero()?;
                } else if from_file == PAGE_SIZE && in_place.page_offset() == 0 {
                    self.source(in_place.mfn_containing())?;
                } else {
                    // `NextImage::parse` has seen that the segment's bytes are all in the file.
                    self.prepared(&file[in_file as usize..][..from_file as usize])?;
                }
                done += PAGE_SIZE;
            }
        }
        self.entry = image.entry();
        Ok(())
    }

    /// Puts the Multiboot2 information into the region, right behind the breadcrumb page.
    pub fn load_mbi(&mut self, mbi: &[u8]) -> Result<(), KimageError> {
        let (need, room) = (mbi.len() as u64, self.region.len_bytes() - PAGE_SIZE);
        let first = self.breadcrumb.checked_add(1).filter(|_| need <= room && need != 0);
        let first = first.ok_or(KimageError::MbiTooLarge { need, room })?;
        // The register that it is passed in has 32 bits.
        let mbi_at = u32::try_from(first.maddr().get());
        self.mbi = mbi_at.map_err(|_| KimageError::DestinationOutside { mfn: first.get() })?;
        self.destination(first)?;
        mbi.chunks(PAGE_SIZE as usize).try_for_each(|page| self.prepared(page))
    }

    /// Ends the list. It is complete but for the breadcrumb, for which there is room.
    pub fn finish(&mut self) -> Result<Kimage, KimageError> {
        // Chains to a new page first if the breadcrumb's entries would not fit the present one.
        let tail = self.room_for(BREADCRUMB_ENTRIES)?;
        self.put(tail, Entry::Done);
        // Nothing can be appended any more: the next entry would need a supply and a place.
        self.at = None;
        self.cursor = Cursor::Nowhere;
        Ok(Kimage {
            // `room_for` has seen to it that there is a first page.
            first: self.first.take().unwrap_or(tail.mfn_containing()),
            tail,
            has_breadcrumb: false,
            breadcrumb: self.breadcrumb,
            frames: core::mem::take(&mut self.frames),
            counts: core::mem::take(&mut self.counts),
            entry: self.entry,
            mbi: self.mbi,
        })
    }

    /// Gives the list up; the frames are the caller's again.
    pub fn into_frames(self) -> Vec<Mfn> {
        self.frames
    }

    /// Where a page goes now.
    fn page_cursor(&self) -> Result<Mfn, KimageError> {
        match self.cursor {
            Cursor::Nowhere => Err(KimageError::NoDestination),
            Cursor::Words { .. } => Err(KimageError::PageAfterWords),
            Cursor::Page(mfn) => self.check_destination(mfn),
        }
    }

    /// K1, K2, K3 for a page that is about to be written.
    fn check_destination(&self, mfn: u64) -> Result<Mfn, KimageError> {
        let outside = KimageError::DestinationOutside { mfn };
        let mfn = Mfn::try_new(mfn).map_err(|_| outside)?;
        if !self.slot.contains(mfn) && !self.region.contains(mfn) {
            return Err(outside);
        }
        if self.destinations.contains(mfn) {
            return Err(KimageError::DestinationTwice { mfn });
        }
        if self.sources.contains(mfn) {
            return Err(KimageError::SourceIsDestination { mfn });
        }
        Ok(mfn)
    }

    /// Appends what fills the page `to`, and moves on.
    fn fill(&mut self, to: Mfn, entry: Entry) -> Result<(), KimageError> {
        self.destinations.insert(to)?;
        self.append(entry)?;
        self.cursor = Cursor::Page(to.get() + 1);
        Ok(())
    }

    /// Copies `bytes`, a page at most, to a frame of their own, and from there to the destination.
    fn prepared(&mut self, bytes: &[u8]) -> Result<(), KimageError> {
        let mfn = self.supplied()?;
        self.mem.write(mfn.maddr(), bytes);
        self.mem.zero(mfn.maddr().offset(bytes.len() as u64), PAGE_SIZE - bytes.len() as u64);
        self.source(mfn)?;
        self.counts.prepared_pages += 1;
        Ok(())
    }

    fn supplied(&mut self) -> Result<Mfn, KimageError> {
        // Room first, so that a frame that was given is always accounted for.
        self.frames.try_reserve(1).map_err(|_| KimageError::NoMemory)?;
        let mfn = (self.supply)().ok_or(KimageError::NoFrame { taken: self.frames.len() })?;
        self.frames.push(mfn);
        if self.slot.contains(mfn) || self.region.contains(mfn) {
            return Err(KimageError::SuppliedInside { mfn });
        }
        Ok(mfn)
    }

    fn append(&mut self, entry: Entry) -> Result<(), KimageError> {
        let at = self.room_for(1)?;
        self.put(at, entry);
        Ok(())
    }

    fn put(&mut self, at: Maddr, entry: Entry) {
        self.mem.write_u64(at, entry.encode());
        self.at = Some(at.offset(ENTRY_LEN));
        self.counts.entries += 1;
    }

    /// A place with room for that many entries in a row; a page's last entry is kept for the INDIRECTION.
    fn room_for(&mut self, nr_entries: u64) -> Result<Maddr, KimageError> {
        if let Some(at) = self.at
            && at.page_offset() / ENTRY_LEN + nr_entries < ENTRIES_PER_PAGE
        {
            return Ok(at);
        }
        let page = self.supplied()?;
        self.counts.list_pages += 1;
        match self.at {
            Some(at) => self.put(at, Entry::Indirection(page)),
            None => self.first = Some(page),
        }
        self.at = Some(page.maddr());
        Ok(page.maddr())
    }
}

/// Stages an image: everything but the breadcrumb.
///
/// `image_at` is where the image's file lies in memory, in one piece and outside of slot and region, and where it stays
/// until the jump. `supply` gives frames outside of slot and region; on failure they come back in the error.
pub fn stage<M: PhysMem>(
    mem: &M,
    image: &PlacedImage<'_>,
    image_at: Maddr,
    region: MfnRange,
    mbi: &[u8],
    supply: impl FnMut() -> Option<Mfn>,
) -> Result<Kimage, StageError> {
    let mut builder = KimageBuilder::new(mem, image.slot(), region, supply)
        .map_err(|cause| StageError { cause, frames: Vec::new() })?;
    builder
        .load_image(image, image_at)
        .and_then(|()| builder.load_mbi(mbi))
        .and_then(|()| builder.finish())
        .map_err(|cause| StageError { cause, frames: builder.into_frames() })
}

/// A staged list, complete but for the breadcrumb.
#[derive(Debug)]
pub struct Kimage {
    first: Mfn,
    tail: Maddr,
    has_breadcrumb: bool,
    breadcrumb: Mfn,
    frames: Vec<Mfn>,
    counts: Counts,
    entry: u32,
    mbi: u32,
}

impl Kimage {
    /// Makes the list's last act the writing of the breadcrumb: the address of `root`, the MFN list's first page.
    ///
    /// It needs nothing that could be missing (K5). An update that is given up afterwards leaves a list that is as
    /// good as before: the next one appends another root in the same place.
    pub fn append_breadcrumb<M: PhysMem>(&mut self, mem: &M, root: Mfn) {
        // The old DONE is replaced last, so that the list ends properly at every moment.
        mem.write_u64(self.tail.offset(2 * ENTRY_LEN), Entry::Done.encode());
        mem.write_u64(self.tail.offset(ENTRY_LEN), Entry::Write64(root.maddr().get()).encode());
        mem.write_u64(self.tail, Entry::Destination(self.breadcrumb).encode());
        self.has_breadcrumb = true;
    }

    /// The first list page.
    pub fn first(&self) -> Mfn {
        self.first
    }

    /// The page that the breadcrumb goes to.
    pub fn breadcrumb_page(&self) -> Mfn {
        self.breadcrumb
    }

    /// The physical address at which the image is entered.
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// The physical address at which the incoming image finds the Multiboot2 information.
    pub fn mbi(&self) -> u32 {
        self.mbi
    }

    /// What is in the list, the breadcrumb's entries not counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Entries that the relocation code will read.
    pub fn nr_entries(&self) -> u64 {
        // The breadcrumb's DONE stands for the one that is counted already.
        self.counts.entries + if self.has_breadcrumb { BREADCRUMB_ENTRIES - 1 } else { 0 }
    }

    /// The frames that it occupies: list pages and prepared pages.
    pub fn frames(&self) -> &[Mfn] {
        &self.frames
    }

    /// Gives the list up; the frames are the caller's again.
    #[must_use = "the frames want to be freed"]
    pub fn into_frames(self) -> Vec<Mfn> {
        self.frames
    }
}

#[cfg(test)]
mod tests;
