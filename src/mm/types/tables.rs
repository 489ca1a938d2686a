//! Checking what is in a table, and taking and dropping what its entries stand for.

use super::entry::{
    self, CACHE_ATTRIBUTES, ENTRIES, PRESENT, RW, TABLE_DISALLOW, adjust, adjust_leaf, frame_of, needs_adjusting,
};
use super::refs::NotWritable;
use super::{Access, Effects, PageTypes, Table, TypeError, check_descriptor};
use crate::frame::{CHUNK_FRAMES, DomId, Maddr, Mfn};
use crate::mm::page_info::{NoPage, PageInfo, PageLookup, PageType, RefError};
use crate::mm::physmem::PhysMem;

/// The chunk that the last leaf of a loop led to, and its records, if it has any.
struct Known<'p> {
    chunk: u64,
    records: Option<&'p [PageInfo; CHUNK_FRAMES as usize]>,
}

/// Entries read at a time: enough to make the call cheap, few enough for five levels of them on the stack.
const BATCH: u64 = 64;
const BATCH_BYTES: usize = BATCH as usize * 8;

impl<'a, L: PageLookup, M: PhysMem> PageTypes<'a, L, M> {
    /// Checks a frame for a type, takes what its entries stand for, and writes the fix-ups into it.
    pub(super) fn validate(&self, mfn: Mfn, page: &PageInfo, ty: PageType) -> Result<(), TypeError> {
        match ty.table_level() {
            Some(1) => self.validate_l1(&Table { mfn, page, level: 1 }),
            Some(level) => self.validate_upper(&Table { mfn, page, level }),
            None => self.validate_descriptors(mfn),
        }
    }

    /// Drops what the entries of a table stand for.
    pub(super) fn devalidate(&self, table: &Table<'_>) {
        self.put_entries(table, ENTRIES);
    }

    /// Calls `each` with the place and value of the first `nr_entries` entries, in order, until one errs.
    #[inline(always)]
    fn for_entries(
        &self,
        table: Mfn,
        nr_entries: u64,
        mut each: impl FnMut(u64, u64) -> Result<(), TypeError>,
    ) -> Result<(), (u64, TypeError)> {
        let mut bytes = [0u8; BATCH_BYTES];
        let mut first = 0;
        while first < nr_entries {
            self.mem.read(table.maddr().offset(first * 8), &mut bytes);
            let (values, _) = bytes.as_chunks::<8>();
            for (slot, value) in (first..nr_entries).zip(values) {
                each(slot, u64::from_le_bytes(*value)).map_err(|error| (slot, error))?;
            }
            first += BATCH;
        }
        Ok(())
    }

    fn validate_l1(&self, table: &Table<'_>) -> Result<(), TypeError> {
        if self.replay.get().is_some() {
            let mut known = Known { chunk: u64::MAX, records: None };
            self.validate_leaves(table, |leaf| self.get_leaf_alone(leaf, &mut known))
        } else {
            self.validate_leaves(table, |leaf| self.get_leaf(leaf))
        }
    }

    /// The hot loop of a live update's pause: nothing per entry but the references themselves.
    #[inline(always)]
    fn validate_leaves(
        &self,
        table: &Table<'_>,
        mut get_leaf: impl FnMut(u64) -> Result<(), TypeError>,
    ) -> Result<(), TypeError> {
        table.page.reset_linear();
        let mut leaves = 0u64;
        let result = self.for_entries(table.mfn, ENTRIES, |slot, value| {
            if value & PRESENT != 0 {
                get_leaf(value)?;
                leaves = leaves.wrapping_add(1);
                if needs_adjusting(value) {
                    self.mem.write_u64(slot_maddr(table.mfn, slot), adjust_leaf(value));
                }
            }
            Ok(())
        });
        self.count_table(leaves);
        result.map_err(|(done, error)| {
            self.put_entries(table, done);
            error
        })
    }

    fn validate_upper(&self, table: &Table<'_>) -> Result<(), TypeError> {
        table.page.reset_linear();
        let result = self.for_entries(table.mfn, ENTRIES, |slot, value| {
            if value & PRESENT == 0 || (table.level == 4 && entry::is_hypervisor_slot(slot)) {
                return Ok(());
            }
            self.get_table_entry(table, value)?;
            let adjusted = adjust(table.level, value);
            if adjusted != value {
                self.mem.write_u64(slot_maddr(table.mfn, slot), adjusted);
            }
            Ok(())
        });
        self.count_table(0);
        if let Err((done, error)) = result {
            self.put_entries(table, done);
            return Err(error);
        }
        if table.level == 4 {
            self.write_hypervisor_slots(table.mfn);
        }
        Ok(())
    }

    /// Fills slots 256 to 271 from the domain's template.
    pub(super) fn write_hypervisor_slots(&self, l4: Mfn) {
        for (slot, value) in (entry::FIRST_HYPERVISOR_SLOT..).zip(self.domain.hypervisor_slots) {
            self.mem.write_u64(slot_maddr(l4, slot), *value);
        }
    }

    fn validate_descriptors(&self, mfn: Mfn) -> Result<(), TypeError> {
        self.for_entries(mfn, ENTRIES, |slot, descriptor| {
            let fixed = check_descriptor(descriptor).ok_or(TypeError::Descriptor { descriptor })?;
            if fixed != descriptor {
                self.mem.write_u64(slot_maddr(mfn, slot), fixed);
            }
            Ok(())
        })
        .map_err(|(_, error)| error)
    }

    /// Drops what the first `nr_entries` entries of a table stand for.
    fn put_entries(&self, table: &Table<'_>, nr_entries: u64) {
        let is_l4 = table.level == 4;
        let _ = self.for_entries(table.mfn, nr_entries, |slot, value| {
            if value & PRESENT != 0 && !(is_l4 && entry::is_hypervisor_slot(slot)) {
                self.put_entry(table, value);
            }
            Ok(())
        });
    }

    /// What a present entry of any level stands for.
    pub(super) fn get_entry(&self, table: &Table<'_>, value: u64) -> Result<(), TypeError> {
        if table.level == 1 { self.get_leaf(value) } else { self.get_table_entry(table, value) }
    }

    /// Drops what a present entry of any level stands for.
    #[inline(always)]
    pub(super) fn put_entry(&self, table: &Table<'_>, value: u64) {
        if table.level == 1 { self.put_leaf(value) } else { self.put_table_entry(table, value) }
    }

    /// A general reference on what a leaf maps, and a writable type reference if the leaf allows writes.
    #[inline(always)]
    fn get_leaf(&self, leaf: u64) -> Result<(), TypeError> {
        let mfn = frame_of(leaf);
        let Ok(page) = self.pages.page(mfn) else { return self.get_foreign_leaf(leaf) };
        if leaf & CACHE_ATTRIBUTES != 0 || page.get_page(self.domain.id).is_err() {
            return self.get_foreign_leaf(leaf);
        }
        self.get_leaf_type(leaf, mfn, page)
    }

    /// As [`Self::get_leaf`], for the replay after an update.
    #[inline(always)]
    fn get_leaf_alone(&self, leaf: u64, known: &mut Known<'a>) -> Result<(), TypeError> {
        let mfn = frame_of(leaf);
        if known.chunk != mfn.chunk() {
            *known = Known { chunk: mfn.chunk(), records: self.pages.records(mfn.chunk()) };
        }
        // Frames that follow each other are mapped one after the other: most leaves find their chunk looked up. The owner is compared below.
        let page = match known.records {
            Some(records) => &records[mfn.index_in_chunk()],
            None => match self.pages.page(mfn) {
                Ok(page) => {
                    // The frame has just been given a record of its own, and so have its neighbours.
                    known.chunk = u64::MAX;
                    page
                }
                Err(_) => return self.get_foreign_leaf(leaf),
            },
        };
        if leaf & CACHE_ATTRIBUTES != 0 || !page.get_page_alone(self.domain.id) {
            return self.get_foreign_leaf(leaf);
        }
        if leaf & RW != 0
            && let Err(why) = self.get_writable_alone(page)
        {
            return Err(self.refuse_writable(mfn, page, why));
        }
        Ok(())
    }

    /// The type half of a leaf's reference; gives the general half back if it fails.
    #[inline(always)]
    fn get_leaf_type(&self, leaf: u64, mfn: Mfn, page: &PageInfo) -> Result<(), TypeError> {
        if leaf & RW != 0
            && let Err(why) = self.get_writable(page)
        {
            return Err(self.refuse_writable(mfn, page, why));
        }
        Ok(())
    }

    #[cold]
    fn refuse_writable(&self, mfn: Mfn, page: &PageInfo, why: NotWritable) -> TypeError {
        self.put_page_of(mfn, page);
        match why {
            NotWritable::InUse(found) => TypeError::LeafNotWritable { mfn, found },
            NotWritable::Overflow => TypeError::TypeOverflow { mfn },
        }
    }

    /// A leaf that is not simply a mapping of the domain's own memory: refused, unless the domain's view says otherwise. Frames that are not
    /// RAM have no references.
    #[cold]
    fn get_foreign_leaf(&self, leaf: u64) -> Result<(), TypeError> {
        let mfn = frame_of(leaf);
        let access = if leaf & RW != 0 { Access::Write } else { Access::Read };
        let refused = leaf & CACHE_ATTRIBUTES;
        let bits = TypeError::EntryBits { level: 1, entry: leaf, refused };
        if refused != 0 && !self.domain.has_hardware {
            return Err(bits);
        }
        let page = match self.pages.page(mfn) {
            Ok(page) if page.owner() == Some(DomId::IO) => None,
            Ok(page) => Some(page),
            Err(NoPage::NotRam) => None,
            Err(NoPage::NotOwned) => return Err(TypeError::LeafForeign { mfn, found: None }),
            Err(cause) => return Err(TypeError::NoFrame { mfn, cause }),
        };
        let Some(page) = page else {
            return match (self.domain.may_map)(mfn, DomId::IO, access) {
                true => Ok(()),
                false => Err(TypeError::LeafNotRam { mfn }),
            };
        };
        if refused != 0 {
            return Err(bits);
        }
        let found = match page.get_any() {
            Ok(found) => found,
            Err(RefError::Overflow) => return Err(TypeError::NoReference { mfn, cause: RefError::Overflow }),
            Err(_) => return Err(TypeError::LeafForeign { mfn, found: None }),
        };
        match found {
            Some(owner) if (self.domain.may_map)(mfn, owner, access) => self.get_leaf_type(leaf, mfn, page),
            _ => {
                self.put_page_of(mfn, page);
                Err(TypeError::LeafForeign { mfn, found })
            }
        }
    }

    /// Drops what [`Self::get_leaf`] took.
    #[inline(always)]
    pub(super) fn put_leaf(&self, leaf: u64) {
        let mfn = frame_of(leaf);
        let page = match self.pages.page(mfn) {
            Ok(page) => page,
            Err(NoPage::NotRam) => return,
            Err(_) => panic!("a mapped frame has lost its record (T6)"),
        };
        let owner = page.owner();
        if owner == Some(DomId::IO) {
            return;
        }
        if leaf & RW != 0 {
            self.put_type_of(mfn, page);
        } else if page.page_type() == PageType::SegDesc && owner == Some(self.domain.id) && page.type_count() != 0 {
            // A guest that takes its own mapping away means to reuse the page, and LDT pages are mapped behind its back.
            self.note(Effects::DROP_LDT);
        }
        self.put_page_of(mfn, page);
    }

    /// A general and a type reference on the table that an entry of level 2 to 4 names.
    fn get_table_entry(&self, table: &Table<'_>, value: u64) -> Result<(), TypeError> {
        let level = table.level;
        let refused = value & TABLE_DISALLOW;
        if refused != 0 {
            return Err(TypeError::EntryBits { level, entry: value, refused });
        }
        let mfn = frame_of(value);
        if mfn == table.mfn {
            // The simplest linear mapping: a table that maps itself, read-only. It keeps nothing alive.
            return if value & RW == 0 { Ok(()) } else { Err(TypeError::LinearWritable { level, entry: value }) };
        }
        let Some(below) = PageType::table(level - 1) else { return Err(TypeError::Level { level }) };
        self.get_page_and_type(mfn, below).or_else(|error| {
            let is_linear = error.is_invalid() && value & RW == 0 && self.get_linear(table, value);
            if is_linear { Ok(()) } else { Err(error) }
        })
    }

    /// Drops what [`Self::get_table_entry`] took.
    fn put_table_entry(&self, table: &Table<'_>, value: u64) {
        let mfn = frame_of(value);
        if mfn == table.mfn {
            return;
        }
        let page = self.held(mfn);
        if page.page_type().table_level() == Some(table.level) {
            page.drop_linear_use();
            table.page.drop_linear_entry();
        }
        self.put_type_of(mfn, page);
        self.put_page_of(mfn, page);
    }
}

/// Where an entry is.
pub(super) fn slot_maddr(table: Mfn, slot: u64) -> Maddr {
    table.maddr().offset(slot * 8)
}
