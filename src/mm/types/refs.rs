//! Taking and dropping references: general ones, type ones, both.

use super::{Effects, PageTypes, Table, TypeError, entry};
use crate::frame::Mfn;
use crate::mm::page_info::{PageInfo, PageLookup, PageType, TYPE_COUNT_MASK, TypeFlags};
use crate::mm::physmem::PhysMem;
use core::hint::spin_loop;
use core::sync::atomic::Ordering;

const LOCKED: u64 = TypeFlags::LOCKED.bits();
const VALIDATED: u64 = TypeFlags::VALIDATED.bits();
const TYPE_MASK: u64 = 7 << 61;
const WRITABLE: u64 = PageType::Writable.bits();

/// How a writable type reference was not to be had.
#[derive(Clone, Copy)]
pub(super) enum NotWritable {
    InUse(PageType),
    Overflow,
}

/// The type_info with one writable reference more, in the two cases that leave nothing to think about: the frame is writable, or fresh.
#[inline(always)]
fn writable_at_once(x: u64) -> Option<u64> {
    // One comparison for the type, for no other flag, and for a count that can grow.
    if x.wrapping_sub(WRITABLE | VALIDATED) < TYPE_COUNT_MASK {
        Some(x.wrapping_add(1))
    } else if x == 0 {
        Some(WRITABLE | VALIDATED | 1)
    } else {
        None
    }
}

impl<'a, L: PageLookup, M: PhysMem> PageTypes<'a, L, M> {
    /// A general reference on a frame of the domain.
    pub(super) fn get_page(&self, mfn: Mfn) -> Result<&'a PageInfo, TypeError> {
        let page = self.pages.page(mfn).map_err(|cause| TypeError::NoFrame { mfn, cause })?;
        page.get_page(self.domain.id).map_err(|cause| TypeError::NoReference { mfn, cause })?;
        Ok(page)
    }

    /// Drops a general reference that somebody holds; the last one frees the frame.
    #[inline(always)]
    pub(super) fn put_page_of(&self, mfn: Mfn, page: &PageInfo) {
        if page.put_page() {
            self.free(mfn);
        }
    }

    #[cold]
    pub(super) fn free(&self, mfn: Mfn) {
        self.note(Effects::FLUSH_TLB);
        self.pages.free_page(mfn);
    }

    /// The record behind a reference that is held.
    #[inline(always)]
    pub(super) fn held(&self, mfn: Mfn) -> &'a PageInfo {
        match self.pages.page(mfn) {
            Ok(page) => page,
            Err(_) => panic!("a referenced frame has lost its record (T6)"),
        }
    }

    /// Takes a type reference on a frame that the caller holds a general one on, validating the frame if nobody has.
    ///
    /// Errors: the frame is in use as something else, or its contents are not fit for the type.
    pub fn get_page_type(&self, mfn: Mfn, wanted: PageType) -> Result<(), TypeError> {
        let page = self.pages.page(mfn).map_err(|cause| TypeError::NoFrame { mfn, cause })?;
        self.get_type_of(mfn, page, wanted)
    }

    /// Drops a type reference that the caller holds; the last one of a table gives back what its entries hold.
    pub fn put_page_type(&self, mfn: Mfn) {
        self.put_type_of(mfn, self.held(mfn));
    }

    /// Takes a general and a type reference on a frame of the domain.
    pub fn get_page_and_type(&self, mfn: Mfn, wanted: PageType) -> Result<(), TypeError> {
        let page = self.get_page(mfn)?;
        self.get_type_of(mfn, page, wanted).inspect_err(|_| self.put_page_of(mfn, page))
    }

    /// Drops a general and a type reference that the caller holds.
    pub fn put_page_and_type(&self, mfn: Mfn) {
        let page = self.held(mfn);
        self.put_type_of(mfn, page);
        self.put_page_of(mfn, page);
    }

    /// A type reference on a held frame.
    pub(super) fn get_type_of(&self, mfn: Mfn, page: &PageInfo, wanted: PageType) -> Result<(), TypeError> {
        match wanted {
            PageType::None | PageType::Shared => return Err(TypeError::NotAType { wanted }),
            PageType::Writable => {
                return self.get_writable(page).map_err(|why| match why {
                    NotWritable::InUse(found) => TypeError::TypeInUse { mfn, wanted, found },
                    NotWritable::Overflow => TypeError::TypeOverflow { mfn },
                });
            }
            _ => {}
        }
        let mut x = page.type_info.load(Ordering::Acquire);
        let mut taken;
        loop {
            let count = x & TYPE_COUNT_MASK;
            let found = PageType::of(x);
            if count == TYPE_COUNT_MASK {
                return Err(TypeError::TypeOverflow { mfn });
            }
            taken = x + 1;
            if count == 0 {
                if found != wanted {
                    // In a replay the type that a frame has without a reference is the one announced for it.
                    if self.replay.get().is_some() && found != PageType::None {
                        return Err(TypeError::TypeInUse { mfn, wanted, found });
                    }
                    taken = (taken & !(TYPE_MASK | VALIDATED)) | wanted.bits();
                }
            } else if found != wanted {
                return Err(TypeError::TypeInUse { mfn, wanted, found });
            } else if x & VALIDATED == 0 {
                // Another CPU validates it for the same type (T2); never this one, since no table is its own descendant.
                spin_loop();
                x = page.type_info.load(Ordering::Acquire);
                continue;
            }
            match page.type_info.compare_exchange_weak(x, taken, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => x = now,
            }
        }
        self.note_type_change(x, taken);
        if taken & VALIDATED != 0 {
            return Ok(());
        }
        match self.validate(mfn, page, wanted) {
            Ok(()) => {
                page.type_info.fetch_or(VALIDATED, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                // Nobody else got a reference while VALIDATED was clear: back to no type at all.
                page.type_info.store(0, Ordering::Release);
                Err(error)
            }
        }
    }

    /// A writable type reference, which needs no validation.
    #[inline(always)]
    pub(super) fn get_writable(&self, page: &PageInfo) -> Result<(), NotWritable> {
        let x = page.type_info.load(Ordering::Acquire);
        match writable_at_once(x) {
            Some(taken) if page.type_info.compare_exchange(x, taken, Ordering::AcqRel, Ordering::Acquire).is_ok() => {
                Ok(())
            }
            _ => self.get_writable_slowly(page),
        }
    }

    /// As [`Self::get_writable`] without the atomic exchange, which is most of its cost: for the replay after an update, when no other
    /// CPU touches the record.
    #[inline(always)]
    pub(super) fn get_writable_alone(&self, page: &PageInfo) -> Result<(), NotWritable> {
        match writable_at_once(page.type_info.load(Ordering::Relaxed)) {
            Some(taken) => {
                page.type_info.store(taken, Ordering::Relaxed);
                Ok(())
            }
            None => self.get_writable_slowly(page),
        }
    }

    #[cold]
    fn get_writable_slowly(&self, page: &PageInfo) -> Result<(), NotWritable> {
        let mut x = page.type_info.load(Ordering::Acquire);
        loop {
            let taken = if x & TYPE_COUNT_MASK == 0 {
                (x & !TYPE_MASK | WRITABLE | VALIDATED) + 1
            } else if x & TYPE_MASK != WRITABLE {
                return Err(NotWritable::InUse(PageType::of(x)));
            } else if x & TYPE_COUNT_MASK == TYPE_COUNT_MASK {
                return Err(NotWritable::Overflow);
            } else {
                x + 1
            };
            match page.type_info.compare_exchange_weak(x, taken, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break self.note_type_change(x, taken),
                Err(now) => x = now,
            }
        }
        Ok(())
    }

    /// A stale translation, or a stale copy of an entry above, could reach the frame as what it was before. A frame without a type was reached by nobody
    /// who could have changed it.
    fn note_type_change(&self, before: u64, after: u64) {
        if (before ^ after) & TYPE_MASK != 0 && before & TYPE_MASK != 0 {
            self.note(Effects::FLUSH_TLB);
        }
    }

    /// Drops a type reference on a held frame.
    #[inline(always)]
    pub(super) fn put_type_of(&self, mfn: Mfn, page: &PageInfo) {
        let mut x = page.type_info.load(Ordering::Acquire);
        loop {
            assert!(x & TYPE_COUNT_MASK != 0, "type reference dropped that nobody held (T6)");
            let left = x - 1;
            let is_last = left & TYPE_COUNT_MASK == 0;
            if is_last && x & VALIDATED != 0 && PageType::of(x).table_level().is_some() {
                match page.type_info.compare_exchange_weak(x, x & !VALIDATED, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return self.put_last_type(mfn, page, PageType::of(x)),
                    Err(now) => x = now,
                }
                continue;
            }
            if left & (LOCKED | TYPE_COUNT_MASK) == LOCKED | 1 {
                // The lock's own reference would be the last, and unlocking does not devalidate: wait for the unlock. It is another CPU's,
                // since what a table's entries hold is never a type reference on that table.
                spin_loop();
                x = page.type_info.load(Ordering::Acquire);
                continue;
            }
            match page.type_info.compare_exchange_weak(x, left, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => x = now,
            }
        }
    }

    /// The caller has cleared VALIDATED, so everybody else waits until the count is 0.
    fn put_last_type(&self, mfn: Mfn, page: &PageInfo, ty: PageType) {
        if let Some(level) = ty.table_level() {
            self.devalidate(&Table { mfn, page, level });
        }
        page.type_info.fetch_sub(1, Ordering::AcqRel);
    }

    /// Locks a validated frame against changes of its entries, holding its type; nothing if it has no type in use.
    pub(super) fn lock(&self, page: &PageInfo) -> Option<PageType> {
        let mut x = page.type_info.load(Ordering::Acquire);
        loop {
            if x & LOCKED != 0 {
                spin_loop();
                x = page.type_info.load(Ordering::Acquire);
                continue;
            }
            let count = x & TYPE_COUNT_MASK;
            if x & VALIDATED == 0 || count == 0 || count == TYPE_COUNT_MASK {
                return None;
            }
            match page.type_info.compare_exchange_weak(x, (x + 1) | LOCKED, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(PageType::of(x)),
                Err(now) => x = now,
            }
        }
    }

    /// Unlocks what [`Self::lock`] locked. Its reference is not the last: whoever wanted to drop the one before it waited.
    pub(super) fn unlock(&self, page: &PageInfo) {
        let before = page.type_info.fetch_sub(LOCKED + 1, Ordering::AcqRel);
        assert!(before & LOCKED != 0 && before & TYPE_COUNT_MASK > 1, "page unlocked that was not locked (T2)");
    }

    /// A general and a type reference for an entry that names a table of its own level.
    ///
    /// An entry that names its own table needs none, and was dealt with by the caller. Any other must name a validated table of
    /// the domain, and T5 must hold.
    pub(super) fn get_linear(&self, table: &Table<'_>, entry: u64) -> bool {
        let mfn = entry::frame_of(entry);
        let Some(level_type) = PageType::table(table.level) else { return false };
        let Ok(page) = self.get_page(mfn) else { return false };
        if !self.get_validated(mfn, page, level_type, table.level) {
            self.put_page_of(mfn, page);
            return false;
        }
        if table.page.add_linear_entry() {
            if page.add_linear_use() {
                self.mark_root(mfn);
                return true;
            }
            table.page.drop_linear_entry();
        }
        self.put_type_of(mfn, page);
        self.put_page_of(mfn, page);
        false
    }

    /// A type reference on a frame that has that type in use. In a replay also on one that the type was announced for: the only
    /// reference that keeps a table may be this linear mapping, so it is validated on the way. By T5 that happens once a level at most.
    fn get_validated(&self, mfn: Mfn, page: &PageInfo, wanted: PageType, level: u8) -> bool {
        let mut x = page.type_info.load(Ordering::Acquire);
        loop {
            let count = x & TYPE_COUNT_MASK;
            if count == TYPE_COUNT_MASK || PageType::of(x) != wanted {
                return false;
            }
            if count == 0
                && let Some(levels) = self.replay.get()
                && levels & 1 << level == 0
            {
                self.replay.set(Some(levels | 1 << level));
                let result = self.get_type_of(mfn, page, wanted);
                self.replay.set(Some(levels));
                return result.is_ok();
            }
            if count == 0 || x & VALIDATED == 0 {
                return false;
            }
            match page.type_info.compare_exchange_weak(x, x + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => x = now,
            }
        }
    }
}
