//! What keeps tables alive from outside the tables: pins and base pointers; giving pages up; a domain's end; the replay after an update.

use super::{Effects, PageTypes, Stats, Table, TypeError};
use crate::frame::{CHUNK_FRAMES, Mfn, MfnRange};
use crate::mm::page_info::{COUNT_MASK, CountFlags, PageInfo, PageLookup, PageType, TypeFlags};
use crate::mm::physmem::PhysMem;
use core::sync::atomic::Ordering;

const PINNED: u64 = TypeFlags::PINNED.bits();
const VALIDATED: u64 = TypeFlags::VALIDATED.bits();

/// What the stream must say of a table, because it does not follow from the tables themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its level.
    pub level: u8,
    /// True if it is pinned; otherwise it is only named from its own level, and is to be announced.
    pub is_pinned: bool,
}

impl Root {
    /// What the outgoing side saves of a domain's frame: a root, or nothing if its type follows from other frames.
    #[inline(always)]
    pub fn of(page: &PageInfo) -> Option<Self> {
        let x = page.type_info.load(Ordering::Acquire);
        let level = PageType::of(x).table_level()?;
        let is_pinned = x & PINNED != 0;
        (is_pinned || (page.type_count() != 0 && page.linear_count() < 0)).then_some(Self { level, is_pinned })
    }
}

/// Calls `f` with each root of a range, in order. Only frames that are marked are looked at, which is no matter of how many there are. Chunks whose frames
/// have no records have none.
pub fn each_root(pages: &impl PageLookup, range: MfnRange, mut f: impl FnMut(Mfn, Root)) {
    let mut at = range.start();
    while at < range.end() {
        let chunk = at / CHUNK_FRAMES;
        let base = chunk * CHUNK_FRAMES;
        let end = range.end().min(base + CHUNK_FRAMES);
        if let Some((marks, records)) = pages.marks(chunk) {
            marks.each((at - base) as usize..(end - base) as usize, |index| {
                if let Some(root) = Root::of(&records[index]) {
                    f(Mfn::new(base + index as u64), root);
                }
            });
        }
        at = end;
    }
}

impl<'a, L: PageLookup, M: PhysMem> PageTypes<'a, L, M> {
    /// Makes the frame a table of the level 1 to 4 and keeps it one (`MMUEXT_PIN_L1_TABLE` to `MMUEXT_PIN_L4_TABLE`).
    pub fn pin(&self, mfn: Mfn, level: u8) -> Result<(), TypeError> {
        let ty = PageType::table(level).ok_or(TypeError::Level { level })?;
        self.get_page_and_type(mfn, ty)?;
        if self.held(mfn).type_info.fetch_or(PINNED, Ordering::AcqRel) & PINNED != 0 {
            self.put_page_and_type(mfn);
            return Err(TypeError::AlreadyPinned { mfn });
        }
        self.mark_root(mfn);
        Ok(())
    }

    /// Marks a frame that has become a root, while a reference on it is held: as long as it is one, [`each_root`] finds it.
    pub(super) fn mark_root(&self, mfn: Mfn) {
        if let Some((marks, _)) = self.pages.marks(mfn.chunk()) {
            marks.set(mfn.index_in_chunk());
        }
    }

    /// Takes a pin back (`MMUEXT_UNPIN_TABLE`).
    pub fn unpin(&self, mfn: Mfn) -> Result<(), TypeError> {
        let page = self.get_page(mfn)?;
        let result = if self.clear_pin(mfn) { Ok(()) } else { Err(TypeError::NotPinned { mfn }) };
        self.put_page_of(mfn, page);
        result
    }

    /// Drops the references of a pin, if there is one, on a held frame.
    fn clear_pin(&self, mfn: Mfn) -> bool {
        let was_pinned = self.held(mfn).type_info.fetch_and(!PINNED, Ordering::AcqRel) & PINNED != 0;
        if was_pinned {
            self.put_page_and_type(mfn);
        }
        was_pinned
    }

    /// Takes the references of a base pointer (`MMUEXT_NEW_BASEPTR`, `MMUEXT_NEW_USER_BASEPTR`, a vCPU's first CR3).
    pub fn get_base(&self, l4: Mfn) -> Result<(), TypeError> {
        self.get_page_and_type(l4, PageType::L4)
    }

    /// Drops the references of a base pointer. Only when no CPU uses it any more: the new base is loaded before the old one is dropped.
    pub fn put_base(&self, l4: Mfn) {
        self.put_page_and_type(l4);
    }

    /// Says, before any replay, what a frame is going to be: every saved root and every base pointer.
    ///
    /// An entry alone does not tell a table of the level below from one of its own level; what was announced decides. A guest without
    /// linear mappings is replayed rightly without it.
    pub fn announce(&self, mfn: Mfn, level: u8) -> Result<(), TypeError> {
        let wanted = PageType::table(level).ok_or(TypeError::Level { level })?;
        let page = self.get_page(mfn)?;
        let fresh = page.type_info.compare_exchange(0, wanted.bits(), Ordering::AcqRel, Ordering::Acquire);
        self.put_page_of(mfn, page);
        match fresh {
            Err(x) if PageType::of(x) != wanted => Err(TypeError::TypeInUse { mfn, wanted, found: PageType::of(x) }),
            _ => Ok(()),
        }
    }

    /// Pins a table again after an update, with everything below it; what that took to validate.
    ///
    /// The tables are in memory as the outgoing side left them, with all fix-ups applied, and their frames have fresh records. No other CPU may
    /// touch those records meanwhile: leaves are counted without atomic exchanges, which would be more than half of the time.
    pub fn replay_pin(&self, mfn: Mfn, level: u8) -> Result<Stats, TypeError> {
        self.replaying(|| self.pin(mfn, level))
    }

    /// Takes the references of a base pointer again after an update; as [`PageTypes::replay_pin`].
    pub fn replay_base(&self, l4: Mfn) -> Result<Stats, TypeError> {
        self.replaying(|| self.get_base(l4))
    }

    fn replaying(&self, body: impl FnOnce() -> Result<(), TypeError>) -> Result<Stats, TypeError> {
        let before = self.stats();
        self.replay.set(Some(0));
        let result = body();
        self.replay.set(None);
        result?;
        let after = self.stats();
        Ok(Stats { tables: after.tables - before.tables, leaves: after.leaves - before.leaves })
    }

    /// The domain gives the page up (`XENMEM_decrease_reservation`): its own reference goes. True if the frame is free now; false if something else
    /// keeps it, a mapping or a pin, and it is freed with the last of that.
    pub fn release_page(&self, mfn: Mfn) -> Result<bool, TypeError> {
        let page = self.get_page(mfn)?;
        if page.clear_allocated() {
            self.put_page_of(mfn, page);
        }
        let is_last = page.put_page();
        if is_last {
            self.free(mfn);
        }
        Ok(is_last)
    }

    /// Takes a page out of its domain (`XENMEM_exchange`): possible only if nothing refers to it but its owner. The frame has no
    /// owner and no reference afterwards, and is the caller's to assign or to give to the heap.
    pub fn steal_page(&self, mfn: Mfn) -> Result<(), TypeError> {
        const OWN: u64 = CountFlags::ALLOCATED.bits() | 2;
        const REFERENCES: u64 = CountFlags::ALLOCATED.bits() | COUNT_MASK;
        let page = self.get_page(mfn)?;
        let mut x = page.count_info.load(Ordering::Acquire);
        loop {
            if x & REFERENCES != OWN || page.type_count() != 0 {
                let error = TypeError::Referenced { mfn, count: page.count() - 1, type_count: page.type_count() };
                self.put_page_of(mfn, page);
                return Err(error);
            }
            match page.count_info.compare_exchange_weak(x, x & !REFERENCES, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => x = now,
            }
        }
        page.set_owner(None);
        self.note(Effects::FLUSH_TLB);
        Ok(())
    }

    /// One page of a domain that is gone: its pin, its owner's reference and, if it is a table, everything that its entries hold.
    ///
    /// To be called once for every page of the domain, in any order, when no CPU runs on its tables and its vCPUs' references (base pointers,
    /// descriptor tables) are dropped. Tables are devalidated whether or not others still refer to them, which breaks any circle; the
    /// references left on them go when those others are devalidated. After the last call every page has been freed, but
    /// for those that another domain still maps.
    pub fn relinquish_page(&self, mfn: Mfn) -> Result<(), TypeError> {
        let page = self.get_page(mfn)?;
        self.clear_pin(mfn);
        if page.clear_allocated() {
            self.put_page_of(mfn, page);
        }
        let mut x = page.type_info.load(Ordering::Acquire);
        while let Some(level) = PageType::of(x).table_level()
            && x & VALIDATED != 0
        {
            match page.type_info.compare_exchange_weak(x, x & !VALIDATED, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.devalidate(&Table { mfn, page, level });
                    break;
                }
                Err(now) => x = now,
            }
        }
        self.put_page_of(mfn, page);
        Ok(())
    }
}
