//! Checking what is in a table, and taking and dropping what its entries stand for.

use super::entry::{
    self, CACHE_ATTRIBUTES, ENTRIES, GLOBAL, PRESENT, RW, TABLE_DISALLOW, USER, adjust, adjust_leaf, frame_of,
    needs_adjusting,
};
use super::refs::NotWritable;
use super::{Access, Effects, PageTypes, Table, TypeError, check_descriptor};
use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, DomId, Maddr, Mfn, PAGE_SHIFT};
use crate::mm::page_info::{NoPage, PageInfo, PageLookup, PageType, RefError};
use crate::mm::physmem::PhysMem;
use core::sync::atomic::{AtomicU64, Ordering};

/// What the address of an entry says of the chunk that it leads to.
const CHUNK_ADDRESS: u64 = entry::ADDRESS & !(CHUNK_SIZE - 1);

/// The chunk that the last leaf of a loop led to, by the machine address that it begins at, and its records.
#[derive(Clone, Copy)]
struct Known<'p> {
    start: u64,
    records: &'p [PageInfo; CHUNK_FRAMES as usize],
}

impl<'p> Known<'p> {
    /// The record of the frame that a leaf names, if its chunk is the known one.
    fn record(&self, leaf: u64) -> Option<&'p PageInfo> {
        (leaf & CHUNK_ADDRESS == self.start).then(|| self.record_within(leaf))
    }

    /// The same for a leaf whose chunk was compared.
    #[inline(always)]
    fn record_within(&self, leaf: u64) -> &'p PageInfo {
        &self.records[(leaf >> PAGE_SHIFT) as usize % CHUNK_FRAMES as usize]
    }

    /// True if the leaf leads to a frame of the chunk, has these flags, and nothing has to be looked at but that frame: its cache attributes are the
    /// ordinary ones, and it is as it goes into memory. All in one comparison.
    #[inline(always)]
    fn has_plain(&self, leaf: u64, flags: u64) -> bool {
        leaf & (CHUNK_ADDRESS | PRESENT | RW | USER | CACHE_ATTRIBUTES | GLOBAL) == self.start | flags
    }
}

/// Entries that are looked at together where most are empty.
const AT_ONCE: u64 = 8;
const AT_ONCE_BYTES: usize = AT_ONCE as usize * 8;

/// Leaves whose records are asked for at a time.
const AHEAD: usize = 32;

/// Takes the references of the leaves at the beginning of `entries`, as long as each maps a frame of the known chunk for writing, and nothing else refers
/// to that frame; how many they are.
///
/// The hot loop of a live update's pause: about twenty instructions a leaf, as long as all of it stays in registers.
#[inline(never)]
fn take_unused(entries: &[AtomicU64], known: &Known<'_>, owner: DomId) -> usize {
    let known = *known;
    let is_taken = |entry: &AtomicU64| {
        let leaf = entry.load(Ordering::Relaxed);
        known.has_plain(leaf, PRESENT | USER | RW) && known.record_within(leaf).get_unused_alone(owner)
    };
    entries.iter().position(|entry| !is_taken(entry)).unwrap_or(entries.len())
}

/// As [`take_unused`], and where that finds none, of a few leaves of which nothing has to be looked at but numbers in their frames' records.
#[inline(always)]
fn take_plain(entries: &[AtomicU64], known: &Known<'_>, owner: DomId) -> usize {
    match take_unused(entries, known, owner) {
        0 => take_used(&entries[..entries.len().min(AT_ONCE as usize)], known, owner),
        taken => taken,
    }
}

#[inline(never)]
fn take_used(entries: &[AtomicU64], known: &Known<'_>, owner: DomId) -> usize {
    let known = *known;
    let is_taken = |entry: &AtomicU64| {
        let leaf = entry.load(Ordering::Relaxed);
        if known.has_plain(leaf, PRESENT | USER | RW) {
            known.record_within(leaf).get_writable_alone(owner)
        } else {
            known.has_plain(leaf, PRESENT | USER) && known.record_within(leaf).get_page_alone(owner)
        }
    };
    entries.iter().position(|entry| !is_taken(entry)).unwrap_or(entries.len())
}

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

    /// Calls `each` with the place and value of the present ones among the first `nr_entries` entries, in order, until one errs.
    #[inline(always)]
    fn for_present(
        &self,
        table: Mfn,
        nr_entries: u64,
        mut each: impl FnMut(u64, u64) -> Result<(), TypeError>,
    ) -> Result<(), (u64, TypeError)> {
        for first in (0..nr_entries).step_by(AT_ONCE as usize) {
            // Most of most tables is empty.
            if !self.has_present(table, first) {
                continue;
            }
            for slot in first..nr_entries.min(first + AT_ONCE) {
                let value = self.mem.read_u64(slot_maddr(table, slot));
                if value & PRESENT != 0 {
                    each(slot, value).map_err(|error| (slot, error))?;
                }
            }
        }
        Ok(())
    }

    /// True if any of the eight entries from `first` on, a multiple of eight, is present.
    #[inline(always)]
    fn has_present(&self, table: Mfn, first: u64) -> bool {
        let mut bytes = [0u8; AT_ONCE_BYTES];
        self.mem.read(slot_maddr(table, first), &mut bytes);
        bytes.as_chunks::<8>().0.iter().fold(0, |all, value| all | u64::from_le_bytes(*value)) & PRESENT != 0
    }

    fn validate_l1(&self, table: &Table<'_>) -> Result<(), TypeError> {
        table.page.reset_linear();
        let mut leaves = 0u64;
        let result = match self.replay.get() {
            Some(_) => self.replay_leaves(table, &mut leaves),
            None => self.for_present(table.mfn, ENTRIES, |slot, leaf| {
                leaves = leaves.wrapping_add(1);
                self.get_leaf(leaf)?;
                self.adjust_in_place(table, slot, leaf);
                Ok(())
            }),
        };
        self.count_table(leaves);
        result.map_err(|(done, error)| {
            self.put_entries(table, done);
            error
        })
    }

    /// Takes the references of all leaves of a table after an update; the place of the one that could not be taken.
    fn replay_leaves(&self, table: &Table<'_>, leaves: &mut u64) -> Result<(), (u64, TypeError)> {
        self.mem.with_words(table.mfn, |entries| {
            // Frames that follow each other are mapped one after the other: most leaves find their chunk looked up.
            let mut known = None;
            // How many entries were left at the last one whose chunk was another, and where records have not been asked for.
            let (mut elsewhere, mut unasked) = (0, entries.len());
            let mut left = &entries[..];
            while let [first, rest @ ..] = left {
                let slot = ENTRIES - left.len() as u64;
                let leaf = first.load(Ordering::Relaxed);
                if leaf & PRESENT == 0 {
                    let is_empty = slot.is_multiple_of(AT_ONCE) && !self.has_present(table.mfn, slot);
                    left = if is_empty { &left[AT_ONCE as usize..] } else { rest };
                    continue;
                }
                let taken = known.map_or(0, |known| take_plain(left, &known, self.domain.id));
                if taken != 0 {
                    *leaves = leaves.wrapping_add(taken as u64);
                    left = &left[taken..];
                    continue;
                }
                if elsewhere == left.len() + 1 && left.len() <= unasked {
                    self.ask_ahead(left);
                    unasked = left.len().saturating_sub(AHEAD);
                }
                elsewhere = left.len();
                *leaves = leaves.wrapping_add(1);
                self.get_leaf_alone(leaf, &mut known).map_err(|error| (slot, error))?;
                self.adjust_in_place(table, slot, leaf);
                left = rest;
            }
            Ok(())
        })
    }

    /// Reads from the records of the next leaves. Where leaves are scattered each would wait for its record to come from memory; these reads wait together.
    #[inline(never)]
    fn ask_ahead(&self, entries: &[AtomicU64]) {
        for entry in entries.iter().take(AHEAD) {
            let leaf = entry.load(Ordering::Relaxed);
            let mfn = frame_of(leaf);
            if leaf & PRESENT != 0
                && let Some(records) = self.pages.records(mfn.chunk())
            {
                // What it is does not matter, only that it has been read.
                core::hint::black_box(records[mfn.index_in_chunk()].type_info.load(Ordering::Relaxed));
            }
        }
    }

    /// Writes a leaf as it goes into memory, if it is not so already.
    #[inline(always)]
    fn adjust_in_place(&self, table: &Table<'_>, slot: u64, leaf: u64) {
        if needs_adjusting(leaf) {
            self.mem.write_u64(slot_maddr(table.mfn, slot), adjust_leaf(leaf));
        }
    }

    fn validate_upper(&self, table: &Table<'_>) -> Result<(), TypeError> {
        table.page.reset_linear();
        let result = self.for_present(table.mfn, ENTRIES, |slot, value| {
            if table.level == 4 && entry::is_hypervisor_slot(slot) {
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
        for slot in 0..ENTRIES {
            let descriptor = self.mem.read_u64(slot_maddr(mfn, slot));
            let fixed = check_descriptor(descriptor).ok_or(TypeError::Descriptor { descriptor })?;
            if fixed != descriptor {
                self.mem.write_u64(slot_maddr(mfn, slot), fixed);
            }
        }
        Ok(())
    }

    /// Drops what the first `nr_entries` entries of a table stand for.
    fn put_entries(&self, table: &Table<'_>, nr_entries: u64) {
        let is_l4 = table.level == 4;
        let _ = self.for_present(table.mfn, nr_entries, |slot, value| {
            if !(is_l4 && entry::is_hypervisor_slot(slot)) {
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
    fn get_leaf_alone(&self, leaf: u64, known: &mut Option<Known<'a>>) -> Result<(), TypeError> {
        let mfn = frame_of(leaf);
        // The owner is compared below.
        let page = match known.and_then(|known| known.record(leaf)) {
            Some(page) => page,
            None => {
                // This may give the frame a record of its own, and so its neighbours.
                let Ok(page) = self.pages.page(mfn) else { return self.get_foreign_leaf(leaf) };
                if let Some(records) = self.pages.records(mfn.chunk()) {
                    *known = Some(Known { start: mfn.chunk() * CHUNK_SIZE, records });
                }
                page
            }
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
