//! The record of one frame: its references, its type, its owner.
//!
//! The bits are Xen's (count_info and type_info, `asm/mm.h`), so that the rules of page types can be read side by side. A record of all
//! zeros is *uninitialised* (I3): the frame has no life of its own yet. The record never crosses an update; builds may differ in its
//! size, and the `next` build does.
//!
//! Memory ordering: counts are changed by compare-and-exchange with acquire on gain and release on loss; the owner is stored before the count becomes visible.

use crate::frame::{CHUNK_FRAMES, DomId, Mfn};
use crate::mm::marks::Marks;
use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

bitflags! {
    /// The high bits of count_info; the general reference count is in bits 55:0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CountFlags: u64 {
        /// The owner holds its reference ("the guest has the page").
        const ALLOCATED = 1 << 63;
        /// The hypervisor's own page, possibly shared with a domain.
        const XEN_HEAP = 1 << 62;
        /// A domain's page that does not count in its total.
        const EXTRA = 1 << 61;
        /// Not to be used again.
        const BROKEN = 1 << 60;
        /// Holds old contents that nobody else may see.
        const NEED_SCRUB = 1 << 57;
    }
}

/// Mask of the general reference count.
pub const COUNT_MASK: u64 = (1 << 56) - 1;

/// What a frame may be used as, exclusively, while references of that type exist. Values are Xen's PGT_* in bits 63:61.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageType {
    /// No type.
    None = 0,
    /// Level-1 page table.
    L1 = 1,
    /// Level-2 page table.
    L2 = 2,
    /// Level-3 page table.
    L3 = 3,
    /// Level-4 page table.
    L4 = 4,
    /// Segment descriptors (GDT or LDT).
    SegDesc = 5,
    /// Shared copy-on-write (unused here, kept for the numbering).
    Shared = 6,
    /// Mapped writable by its owner.
    Writable = 7,
}

impl PageType {
    /// The type in bits 63:61 of a type_info.
    pub const fn of(type_info: u64) -> Self {
        match type_info >> 61 {
            0 => Self::None,
            1 => Self::L1,
            2 => Self::L2,
            3 => Self::L3,
            4 => Self::L4,
            5 => Self::SegDesc,
            6 => Self::Shared,
            _ => Self::Writable,
        }
    }

    /// The type's bits 63:61.
    pub const fn bits(self) -> u64 {
        (self as u64) << 61
    }

    /// 1 to 4 for page tables.
    pub const fn table_level(self) -> Option<u8> {
        match self {
            Self::L1 => Some(1),
            Self::L2 => Some(2),
            Self::L3 => Some(3),
            Self::L4 => Some(4),
            _ => None,
        }
    }

    /// The type of a page table of the level 1 to 4.
    pub const fn table(level: u8) -> Option<Self> {
        match level {
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            3 => Some(Self::L3),
            4 => Some(Self::L4),
            _ => None,
        }
    }
}

bitflags! {
    /// The flags of type_info; the type is in bits 63:61, the type count in bits 54:0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TypeFlags: u64 {
        /// Entries are being changed.
        const LOCKED = 1 << 60;
        /// The guest holds a type reference through a pin.
        const PINNED = 1 << 59;
        /// The contents have been checked for the type.
        const VALIDATED = 1 << 58;
        /// Validation was left half done.
        const PARTIAL = 1 << 56;
    }
}

/// Mask of the type count.
pub const TYPE_COUNT_MASK: u64 = (1 << 55) - 1;

/// What is from here on is no count: of general references, the upper half is never reached.
const FLAGS_SHIFT: u32 = 55;
const _: () = assert!(TYPE_COUNT_MASK == (1 << FLAGS_SHIFT) - 1 && COUNT_MASK > TYPE_COUNT_MASK);

/// The record of one frame.
///
/// | bytes | field |
/// |---|---|
/// | 0 to 7 | count_info |
/// | 8 to 15 | type_info |
/// | 16 to 19 | owner: 0 for none, domain number + 1 |
/// | 20 to 23 | of a page table in use, its linear mappings |
/// | 24 to 31 | 0 |
///
/// All zero is the record of a frame that is nobody's.
#[repr(C)]
#[derive(Default)]
pub struct PageInfo {
    /// References and flags, [`CountFlags`] and [`COUNT_MASK`].
    pub count_info: AtomicU64,
    /// Type and its references, [`PageType`], [`TypeFlags`] and [`TYPE_COUNT_MASK`].
    pub type_info: AtomicU64,
    owner: AtomicU32,
    /// Of a validated page table the count behind [`PageInfo::add_linear_entry`].
    linear: AtomicU32,
    /// Keeps two records in a line of the cache, none in two.
    unused: u64,
    #[cfg(feature = "next")]
    reserved: [u64; 4],
}

#[cfg(not(feature = "next"))]
const _: () = assert!(size_of::<PageInfo>() == 32);
#[cfg(feature = "next")]
const _: () = assert!(size_of::<PageInfo>() == 64);

/// Why a reference was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefError {
    /// The frame has no reference that could be added to: free, or going away.
    NotInUse,
    /// The count is at its limit.
    Overflow,
    /// The frame is somebody else's.
    Owner {
        /// Whose it is.
        found: Option<DomId>,
    },
}

/// A frame has no record that a domain's reference could be taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPage {
    /// Not RAM.
    NotRam,
    /// Nobody's in the sense of guests: free, in the region, in the image, or private to the hypervisor.
    NotOwned,
    /// The frame had no record of its own yet, and there was no memory for one.
    NoMemory,
}

/// Finds a frame's record, giving the frame a life of its own if it has none yet.
pub trait PageLookup {
    /// The record of a frame that somebody owns.
    fn page(&self, mfn: Mfn) -> Result<&PageInfo, NoPage>;
    /// The records of all frames of a chunk, if each has one of its own and they lie together: for loops over frames that follow each other.
    fn records(&self, _chunk: u64) -> Option<&[PageInfo; CHUNK_FRAMES as usize]> {
        None
    }
    /// Where the frames of a chunk are marked of which each has a record of its own, and the records. No mark is taken away as long as somebody owns
    /// the frame.
    fn marks(&self, _chunk: u64) -> Option<(&Marks, &[PageInfo; CHUNK_FRAMES as usize])> {
        None
    }
    /// The last reference is gone: the frame goes back to the heap.
    fn free_page(&self, mfn: Mfn);
}

impl PageInfo {
    /// A record of all zeros.
    pub const fn uninitialised() -> Self {
        Self {
            count_info: AtomicU64::new(0),
            type_info: AtomicU64::new(0),
            owner: AtomicU32::new(0),
            linear: AtomicU32::new(0),
            unused: 0,
            #[cfg(feature = "next")]
            reserved: [0; 4],
        }
    }

    /// The owner.
    pub fn owner(&self) -> Option<DomId> {
        match self.owner.load(Ordering::Acquire) {
            0 => None,
            n => Some(DomId::new((n - 1) as u16)),
        }
    }

    /// Makes `owner` the owner, or nobody.
    pub fn set_owner(&self, owner: Option<DomId>) {
        self.owner.store(owner.map_or(0, |d| d.get() as u32 + 1), Ordering::Release);
    }

    /// Gives the frame to a domain: owner first, then `ALLOCATED` with one reference, no type.
    pub fn assign(&self, owner: DomId, flags: CountFlags) {
        self.set_owner(Some(owner));
        self.type_info.store(0, Ordering::Relaxed);
        self.count_info.store((flags | CountFlags::ALLOCATED).bits() | 1, Ordering::Release);
    }

    /// As [`PageInfo::assign`] without flags, whatever the record's memory held.
    pub fn assign_first(&self, owner: DomId) {
        self.reset_linear();
        self.assign(owner, CountFlags::empty());
    }

    /// Makes the record a frame's that is nobody's: all zero. Only while nobody else can reach the frame: under the heap's lock, before the
    /// frame has an owner or after its last reference.
    pub fn clear(&self) {
        self.type_info.store(0, Ordering::Relaxed);
        self.linear.store(0, Ordering::Relaxed);
        self.set_owner(None);
        self.count_info.store(0, Ordering::Release);
    }

    /// True if the record is all zero, as that of a frame that is nobody's.
    pub fn is_clear(&self) -> bool {
        let numbers = [&self.count_info, &self.type_info].iter().all(|n| n.load(Ordering::Acquire) == 0);
        numbers && self.linear.load(Ordering::Acquire) == 0 && self.owner().is_none()
    }

    /// References now.
    pub fn count(&self) -> u64 {
        self.count_info.load(Ordering::Acquire) & COUNT_MASK
    }

    /// Type references now.
    pub fn type_count(&self) -> u64 {
        self.type_info.load(Ordering::Acquire) & TYPE_COUNT_MASK
    }

    /// The type now; it means something only while the type count is not 0.
    pub fn page_type(&self) -> PageType {
        PageType::of(self.type_info.load(Ordering::Acquire))
    }

    /// Takes a general reference on behalf of `owner`, as Xen's `get_page`.
    pub fn get_page(&self, owner: DomId) -> Result<(), RefError> {
        let mut x = self.count_info.load(Ordering::Acquire);
        loop {
            let count = x & COUNT_MASK;
            if count == 0 {
                return Err(RefError::NotInUse);
            }
            if count >= COUNT_MASK - 1 {
                return Err(RefError::Overflow);
            }
            match self.count_info.compare_exchange_weak(x, x.wrapping_add(1), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => x = now,
            }
        }
        let found = self.owner();
        if found == Some(owner) {
            return Ok(());
        }
        // The reference just taken is never the last: the owner's own is still there, or its holder drops it after us.
        let _ = self.put_page();
        Err(RefError::Owner { found })
    }

    /// As [`PageInfo::get_page`] without the atomic exchange, which is most of its cost: for the replay after an update, when no other CPU
    /// touches the record. False if the reference is not to be had; `get_page` then says why.
    #[inline(always)]
    pub fn get_page_alone(&self, owner: DomId) -> bool {
        let x = self.count_info.load(Ordering::Relaxed);
        let in_range = (x & COUNT_MASK).wrapping_sub(1) < COUNT_MASK - 2;
        let is_given = in_range && self.owner.load(Ordering::Relaxed) == owner.get() as u32 + 1;
        if is_given {
            self.count_info.store(x.wrapping_add(1), Ordering::Relaxed);
        }
        is_given
    }

    /// Takes a general reference on behalf of `owner` and a writable type reference, as [`PageInfo::get_page_alone`], where nothing but numbers has to be
    /// looked at: the frame is in ordinary use, and writable or fresh. False otherwise, and nothing is taken.
    #[inline(always)]
    pub fn get_writable_alone(&self, owner: DomId) -> bool {
        const WRITABLE: u64 = PageType::Writable.bits() | TypeFlags::VALIDATED.bits();
        let count = self.count_info.load(Ordering::Relaxed);
        let found = self.type_info.load(Ordering::Relaxed);
        let taken = if found == 0 { WRITABLE | 1 } else { found.wrapping_add(1) };
        // The flags are all of what is above the counts, and a count that was 0 or is full has changed them.
        let is_given = (count.wrapping_sub(1) >> FLAGS_SHIFT == CountFlags::ALLOCATED.bits() >> FLAGS_SHIFT)
            & (taken >> FLAGS_SHIFT == WRITABLE >> FLAGS_SHIFT)
            & (self.owner.load(Ordering::Relaxed) == owner.get() as u32 + 1);
        if is_given {
            self.count_info.store(count.wrapping_add(1), Ordering::Relaxed);
            self.type_info.store(taken, Ordering::Relaxed);
        }
        is_given
    }

    /// As [`PageInfo::get_writable_alone`] on a frame that nothing refers to but its owner, and that has no type: one comparison tells. False for
    /// all others, and nothing is taken.
    #[inline(always)]
    pub fn get_unused_alone(&self, owner: DomId) -> bool {
        const UNUSED: u64 = CountFlags::ALLOCATED.bits() | 1;
        const WRITABLE: u64 = PageType::Writable.bits() | TypeFlags::VALIDATED.bits();
        let differs = (self.count_info.load(Ordering::Relaxed) ^ UNUSED)
            | self.type_info.load(Ordering::Relaxed)
            | u64::from(self.owner.load(Ordering::Relaxed) ^ (owner.get() as u32 + 1));
        if differs == 0 {
            self.count_info.store(UNUSED + 1, Ordering::Relaxed);
            self.type_info.store(WRITABLE | 1, Ordering::Relaxed);
        }
        differs == 0
    }

    /// Takes a general reference whoever the owner is, and says who, as Xen's `page_get_owner_and_reference`.
    pub fn get_any(&self) -> Result<Option<DomId>, RefError> {
        let mut x = self.count_info.load(Ordering::Acquire);
        loop {
            match x & COUNT_MASK {
                0 => return Err(RefError::NotInUse),
                count if count >= COUNT_MASK - 1 => return Err(RefError::Overflow),
                _ => {}
            }
            match self.count_info.compare_exchange_weak(x, x.wrapping_add(1), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(self.owner()),
                Err(now) => x = now,
            }
        }
    }

    /// Drops a general reference; true if it was the last, and the frame is the caller's to free.
    ///
    /// # Panics
    /// If there was none to drop (I6: every reference has one holder).
    #[must_use = "the last reference frees the frame"]
    pub fn put_page(&self) -> bool {
        let before = self.count_info.fetch_sub(1, Ordering::AcqRel);
        assert!(before & COUNT_MASK != 0, "page reference dropped that nobody held (I6)");
        before & COUNT_MASK == 1
    }

    /// A table starts its life without linear mappings.
    pub fn reset_linear(&self) {
        self.linear.store(0, Ordering::Relaxed);
    }

    /// Linear mappings: above 0, entries of this table that name other tables of its level; below 0, such entries elsewhere that name
    /// this one. Never both, so that no chain and no circle of them can be built (Xen's `linear_pt_count`).
    pub fn linear_count(&self) -> i32 {
        self.linear.load(Ordering::Acquire) as i32
    }

    /// Counts an entry of this table that names another table of its level; false if this one is itself named so.
    pub fn add_linear_entry(&self) -> bool {
        self.change_linear(|n| if n >= 0 { n.checked_add(1) } else { None })
    }

    /// Takes back [`PageInfo::add_linear_entry`].
    pub fn drop_linear_entry(&self) {
        let dropped = self.change_linear(|n| if n > 0 { Some(n - 1) } else { None });
        assert!(dropped, "linear entry dropped that nobody counted (T5)");
    }

    /// Counts an entry elsewhere that names this table from its own level; false if this one has such entries itself.
    pub fn add_linear_use(&self) -> bool {
        self.change_linear(|n| if n <= 0 { n.checked_sub(1) } else { None })
    }

    /// Takes back [`PageInfo::add_linear_use`].
    pub fn drop_linear_use(&self) {
        let dropped = self.change_linear(|n| if n < 0 { Some(n + 1) } else { None });
        assert!(dropped, "linear use dropped that nobody counted (T5)");
    }

    fn change_linear(&self, change: impl Fn(i32) -> Option<i32>) -> bool {
        self.linear.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| change(n as i32).map(|n| n as u32)).is_ok()
    }

    /// True if the frame is `owner`'s, who has given it up, and something still refers to it.
    pub fn is_lingering(&self, owner: DomId) -> bool {
        let x = self.count_info.load(Ordering::Acquire);
        x & COUNT_MASK != 0 && x & CountFlags::ALLOCATED.bits() == 0 && self.owner() == Some(owner)
    }

    /// Takes the owner's own reference away: clears `ALLOCATED` if it is set and says whether it was. The caller then drops
    /// one reference with [`PageInfo::put_page`].
    pub fn clear_allocated(&self) -> bool {
        let bit = CountFlags::ALLOCATED.bits();
        self.count_info.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_given_to_the_owner_only() {
        let page = PageInfo::uninitialised();
        assert_eq!(page.get_page(DomId::new(1)), Err(RefError::NotInUse));
        page.assign(DomId::new(1), CountFlags::empty());
        assert_eq!(page.get_page(DomId::new(2)), Err(RefError::Owner { found: Some(DomId::new(1)) }));
        assert_eq!(page.count(), 1);
        assert_eq!(page.get_page(DomId::new(1)), Ok(()));
        assert!(!page.put_page());
        assert!(page.clear_allocated());
        assert!(!page.clear_allocated());
        assert!(page.put_page());
    }

    #[test]
    fn a_page_lingers_from_its_owners_leave_to_its_last_reference() {
        let page = PageInfo::uninitialised();
        let (owner, other) = (DomId::new(1), DomId::new(2));
        assert!(!page.is_lingering(owner));
        page.assign(owner, CountFlags::empty());
        page.get_page(owner).unwrap();
        assert!(!page.is_lingering(owner), "it is an ordinary page");
        page.clear_allocated();
        assert!(!page.put_page());
        assert!(page.is_lingering(owner));
        assert!(!page.is_lingering(other));
        assert!(page.put_page());
        assert!(!page.is_lingering(owner));
        page.clear();
        assert!(page.is_clear());
        assert!(!page.is_lingering(owner), "it is the hypervisor's now");
    }

    #[test]
    fn linear_mappings_go_one_way_only() {
        let page = PageInfo::uninitialised();
        assert!(page.add_linear_entry());
        assert!(!page.add_linear_use());
        page.drop_linear_entry();
        assert!(page.add_linear_use());
        assert!(page.add_linear_use());
        assert!(!page.add_linear_entry());
        assert_eq!(page.linear_count(), -2);
        page.drop_linear_use();
        page.drop_linear_use();
        assert_eq!(page.linear_count(), 0);
    }

    #[test]
    fn alone_or_not_a_reference_is_given_in_the_same_cases() {
        let allocated = CountFlags::ALLOCATED.bits();
        for count in [0, 1, 2, COUNT_MASK - 2, COUNT_MASK - 1, COUNT_MASK] {
            for flags in [0, allocated, CountFlags::BROKEN.bits()] {
                for asked in [0, 1, 2, 0x7ff2] {
                    let pages = [PageInfo::uninitialised(), PageInfo::uninitialised()];
                    for page in &pages {
                        page.assign(DomId::new(1), CountFlags::empty());
                        page.count_info.store(flags | count, Ordering::Relaxed);
                    }
                    let asked = DomId::new(asked);
                    assert_eq!(pages[0].get_page(asked).is_ok(), pages[1].get_page_alone(asked), "{count:#x}");
                    assert_eq!(pages[0].count(), pages[1].count());
                }
            }
        }
    }

    /// Whatever the record holds: nothing is taken that could not be had in two steps, and what is taken is the same.
    #[test]
    fn both_references_at_once_are_those_that_are_given_one_by_one() {
        let writable = PageType::Writable.bits() | TypeFlags::VALIDATED.bits();
        let full = TYPE_COUNT_MASK;
        let types = [
            0,
            writable,
            writable | 1,
            writable | (full - 1),
            writable | full,
            writable | TypeFlags::LOCKED.bits() | 1,
        ];
        let others = [
            PageType::L1.bits() | TypeFlags::VALIDATED.bits() | 1,
            TypeFlags::PINNED.bits() | writable | 1,
            1,
            writable ^ 1 << 58,
        ];
        let allocated = CountFlags::ALLOCATED.bits();
        let mut nr_given = 0;
        for count in [0, 1, 2, (1 << 55) - 1, 1 << 55, COUNT_MASK - 2, COUNT_MASK - 1, COUNT_MASK] {
            for flags in [0, allocated, allocated | CountFlags::BROKEN.bits(), CountFlags::XEN_HEAP.bits()] {
                for (ty, asked) in types.iter().chain(&others).flat_map(|ty| [(*ty, 1), (*ty, 2)]) {
                    let page = PageInfo::uninitialised();
                    page.assign(DomId::new(1), CountFlags::empty());
                    page.count_info.store(flags | count, Ordering::Relaxed);
                    page.type_info.store(ty, Ordering::Relaxed);
                    let unused = PageInfo::uninitialised();
                    unused.assign(DomId::new(1), CountFlags::empty());
                    unused.count_info.store(flags | count, Ordering::Relaxed);
                    unused.type_info.store(ty, Ordering::Relaxed);
                    let is_unused = unused.get_unused_alone(DomId::new(asked));
                    let is_given = page.get_writable_alone(DomId::new(asked));
                    let after = (page.count_info.load(Ordering::Relaxed), page.type_info.load(Ordering::Relaxed));
                    let of_unused =
                        (unused.count_info.load(Ordering::Relaxed), unused.type_info.load(Ordering::Relaxed));
                    assert_eq!(is_unused, is_given && count == 1 && ty == 0, "{count:#x}, {ty:#x}");
                    assert_eq!(of_unused, if is_unused { after } else { (flags | count, ty) });
                    if is_given {
                        let is_writable = ty == 0 || ty & !full == writable;
                        assert!(asked == 1 && flags == allocated && count != 0 && count < COUNT_MASK - 1, "{count:#x}");
                        assert!(is_writable && ty & full != full, "{ty:#x}");
                        assert_eq!(after, (flags | (count + 1), if ty == 0 { writable | 1 } else { ty + 1 }));
                        nr_given += 1;
                    } else {
                        assert_eq!(after, (flags | count, ty), "a refusal changes nothing");
                    }
                }
            }
        }
        // Four types, and the counts 1, 2, 2^55 - 1 and 2^55.
        assert_eq!(nr_given, 16);
    }

    #[test]
    fn a_full_count_is_refused() {
        let page = PageInfo::uninitialised();
        page.assign(DomId::new(0), CountFlags::empty());
        page.count_info.store(CountFlags::ALLOCATED.bits() | (COUNT_MASK - 1), Ordering::Relaxed);
        assert_eq!(page.get_page(DomId::new(0)), Err(RefError::Overflow));
    }
}
