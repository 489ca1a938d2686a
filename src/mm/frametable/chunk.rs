//! The entry of one 2 MiB chunk: packed in the table, decoded for everyone who reads it.
//!
//! | kind | word, bits 63:32 | word, bits 31:16 | word, bits 15:8 | second word |
//! |---|---|---|---|---|
//! | owned | 0 | domain number | 0 | not used |
//! | free, first chunk | 0 | 0 | order | previous chunk of the list (63:32), next (31:0), 0 for none |
//! | split | number of the [`Split`](super::Split) | 0 | 0 | [`Counts`] |
//! | all others | 0 | 0 | 0 | not used |
//!
//! The kind is in bits 7:0 of the word. A chunk's kind and what is needed to reach its page records are in one word, so that a reader
//! without the lock sees either the old state or the new one. Chunk 0 is never free as a whole (frame 0 is nobody's), so its
//! number can mean "none" in a link.

use crate::frame::{CHUNK_FRAMES, DomId, Order};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// The entry of one chunk. All zero is [`Chunk::NotRam`].
#[repr(C)]
#[derive(Default)]
pub struct ChunkEntry {
    word: AtomicU64,
    extra: AtomicU64,
}

const _: () = assert!(size_of::<ChunkEntry>() == 16);

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// No RAM in it, or none that was told of.
    NotRam,
    /// RAM of which it is not known yet whether somebody owns it.
    Unclaimed,
    /// In the live-update region.
    Region,
    /// In the slot of the running image.
    Image,
    /// Owned whole by a domain.
    Owned {
        /// Whose it is.
        owner: DomId,
    },
    /// Taken from the heap by the hypervisor for itself.
    Private,
    /// First chunk of a free block.
    Free {
        /// Order of the block, 9 to 18.
        order: Order,
        /// First chunk of the next block in the list; 0 for none.
        next: u32,
        /// First chunk of the previous block in the list; 0 for none.
        prev: u32,
    },
    /// In a free block, not its first chunk.
    FreeTail,
    /// Each of its pages has a life of its own.
    Split {
        /// Where the page records are.
        id: SplitId,
        /// How many pages are of which class.
        counts: Counts,
    },
}

/// Number of a [`Split`](super::Split): of its slab (31:16), and its place in the slab (15:0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitId(pub(super) u32);

/// What the ledger counts a frame as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// RAM not yet claimed or free.
    Unclaimed = 0,
    /// In the heap.
    Free = 1,
    /// The hypervisor's own, from the heap.
    Private = 2,
    /// Owned by a domain, or preserved by the hypervisor.
    Claimed = 3,
    /// A page of the stream.
    Stream = 4,
    /// Not RAM, or reserved.
    Hole = 5,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Unclaimed, Self::Free, Self::Private, Self::Claimed, Self::Stream, Self::Hole];

    /// How a frame of this owner is counted.
    pub const fn of_owner(owner: DomId) -> Self {
        if owner.get() == DomId::IO.get() {
            Self::Hole
        } else if owner.get() == DomId::STREAM.get() {
            Self::Stream
        } else {
            Self::Claimed
        }
    }

    const fn shift(self) -> u32 {
        self as u32 * Counts::BITS
    }
}

/// How many of a split chunk's 512 pages are of which [`Class`]: six numbers of 10 bits, which always add up to 512.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Counts(u64);

impl Counts {
    const BITS: u32 = 10;

    /// All pages of one class.
    pub const fn all(class: Class) -> Self {
        Self(CHUNK_FRAMES << class.shift())
    }

    /// No pages counted yet: for recounting.
    pub const NONE: Self = Self(0);

    /// Pages of the class.
    pub const fn get(self, class: Class) -> u64 {
        (self.0 >> class.shift()) & ((1 << Self::BITS) - 1)
    }

    /// `n` more of the class, which must not exceed 512.
    pub const fn plus(self, class: Class, n: u64) -> Self {
        Self(self.0 + (n << class.shift()))
    }

    /// `n` pages have gone from one class to another; the first has as many.
    #[must_use]
    pub fn moved(self, n: u64, from: Class, to: Class) -> Self {
        debug_assert!(self.get(from) >= n, "more pages leave a class than it has");
        Self(self.0 - (n << from.shift()) + (n << to.shift()))
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(Class::ALL.map(|class| (class, self.get(class)))).finish()
    }
}

/// Kinds and whole words of the packed form.
pub(in crate::mm) mod packed {
    use crate::frame::{DomId, Order};

    pub const KIND: u64 = 0xff;
    pub const NOT_RAM: u64 = 0;
    pub const UNCLAIMED: u64 = 1;
    pub const REGION: u64 = 2;
    pub const IMAGE: u64 = 3;
    pub const OWNED: u64 = 4;
    pub const PRIVATE: u64 = 5;
    pub const FREE: u64 = 6;
    pub const FREE_TAIL: u64 = 7;
    pub const SPLIT: u64 = 8;

    pub const fn owned(owner: DomId) -> u64 {
        OWNED | (owner.get() as u64) << 16
    }

    pub const fn free(order: Order) -> u64 {
        FREE | (order.get() as u64) << 8
    }

    pub const fn split(id: super::SplitId) -> u64 {
        SPLIT | (id.0 as u64) << 32
    }
}

/// True if all of some chunks have this word. Eight at a time: an update waits for it.
pub(in crate::mm) fn all_are(entries: &[ChunkEntry], word: u64) -> bool {
    let (eights, rest) = entries.as_chunks::<8>();
    let differs =
        |entries: &[ChunkEntry]| entries.iter().fold(0, |differs, entry| differs | (entry.word() ^ word)) != 0;
    !eights.iter().any(|eight| differs(eight)) && !differs(rest)
}

/// Sets the word of all of some chunks.
pub(in crate::mm) fn set_all(entries: &[ChunkEntry], word: u64) {
    let (eights, rest) = entries.as_chunks::<8>();
    for eight in eights {
        eight.iter().for_each(|entry| entry.set_word(word));
    }
    rest.iter().for_each(|entry| entry.set_word(word));
}

impl ChunkEntry {
    /// An entry of all zeros.
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0), extra: AtomicU64::new(0) }
    }

    /// An entry in which anything may be, as in memory that nobody has cleared.
    #[cfg(test)]
    pub(crate) const fn dirty() -> Self {
        Self { word: AtomicU64::new(u64::MAX), extra: AtomicU64::new(u64::MAX) }
    }

    /// An entry with this word, of a kind that has nothing in the second.
    pub(super) const fn of_word(word: u64) -> Self {
        Self { word: AtomicU64::new(word), extra: AtomicU64::new(0) }
    }

    /// The entry, decoded.
    ///
    /// # Panics
    /// If its kind is none of those above (I3: only this code writes it).
    pub fn get(&self) -> Chunk {
        let word = self.word();
        match word & packed::KIND {
            packed::NOT_RAM => Chunk::NotRam,
            packed::UNCLAIMED => Chunk::Unclaimed,
            packed::REGION => Chunk::Region,
            packed::IMAGE => Chunk::Image,
            packed::OWNED => Chunk::Owned { owner: DomId::new((word >> 16) as u16) },
            packed::PRIVATE => Chunk::Private,
            packed::FREE => {
                let (next, prev) = self.links();
                Chunk::Free { order: Order::new((word >> 8) as u8), next, prev }
            }
            packed::FREE_TAIL => Chunk::FreeTail,
            packed::SPLIT => Chunk::Split { id: SplitId((word >> 32) as u32), counts: self.counts() },
            kind => panic!("chunk entry of kind {kind}, which nobody writes (I3)"),
        }
    }

    /// The packed word, for loops over many chunks.
    pub(in crate::mm) fn word(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    /// Makes it a chunk that does not use the second word, or whose second word is set next.
    pub(in crate::mm) fn set_word(&self, word: u64) {
        self.word.store(word, Ordering::Release);
    }

    /// The split it refers to, if it is split.
    pub(in crate::mm) fn split_id(&self) -> Option<SplitId> {
        let word = self.word();
        (word & packed::KIND == packed::SPLIT).then_some(SplitId((word >> 32) as u32))
    }

    /// Order of the free block that starts here, if one does.
    pub(in crate::mm) fn free_order(&self) -> Option<Order> {
        let word = self.word();
        (word & packed::KIND == packed::FREE).then(|| Order::new((word >> 8) as u8))
    }

    /// Next and previous block, while free.
    pub(in crate::mm) fn links(&self) -> (u32, u32) {
        let links = self.extra.load(Ordering::Relaxed);
        (links as u32, (links >> 32) as u32)
    }

    /// Sets the next and previous block, while free.
    pub(in crate::mm) fn set_links(&self, next: u32, prev: u32) {
        self.extra.store(next as u64 | (prev as u64) << 32, Ordering::Relaxed);
    }

    /// The classes of its pages, while split.
    pub(in crate::mm) fn counts(&self) -> Counts {
        Counts(self.extra.load(Ordering::Relaxed))
    }

    /// Sets the classes of its pages, while split.
    pub(in crate::mm) fn set_counts(&self, counts: Counts) {
        self.extra.store(counts.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_zeros_is_not_ram() {
        assert_eq!(ChunkEntry::new().get(), Chunk::NotRam);
    }

    #[test]
    fn every_kind_decodes_to_what_was_written() {
        let entry = ChunkEntry::new();
        for (word, chunk) in [
            (packed::UNCLAIMED, Chunk::Unclaimed),
            (packed::REGION, Chunk::Region),
            (packed::IMAGE, Chunk::Image),
            (packed::PRIVATE, Chunk::Private),
            (packed::FREE_TAIL, Chunk::FreeTail),
            (packed::owned(DomId::new(0xffff)), Chunk::Owned { owner: DomId::new(0xffff) }),
            (packed::owned(DomId::new(0)), Chunk::Owned { owner: DomId::new(0) }),
        ] {
            entry.set_word(word);
            assert_eq!(entry.get(), chunk);
        }
        entry.set_word(packed::free(Order::MAX));
        entry.set_links(u32::MAX, 7);
        assert_eq!(entry.get(), Chunk::Free { order: Order::MAX, next: u32::MAX, prev: 7 });
        entry.set_word(packed::split(SplitId(u32::MAX)));
        entry.set_counts(Counts::all(Class::Hole));
        assert_eq!(entry.get(), Chunk::Split { id: SplitId(u32::MAX), counts: Counts::all(Class::Hole) });
    }

    #[test]
    fn counts_hold_512_of_every_class() {
        for from in Class::ALL {
            for to in Class::ALL {
                let counts = Counts::all(from).moved(512, from, to);
                assert_eq!(counts, Counts::all(to));
                assert_eq!(Class::ALL.iter().map(|&class| counts.get(class)).sum::<u64>(), 512);
            }
        }
    }
}
