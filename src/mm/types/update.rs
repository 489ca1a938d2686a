//! Changing entries of live tables, one at a time.

use super::entry::{self, ACCESSED, DIRTY, FREELY_CHANGED, PRESENT, adjust};
use super::walk::leaf_entry;
use super::{PageTypes, Table, TypeError, check_descriptor};
use crate::frame::{Maddr, Mfn, PAGE_SIZE};
use crate::mm::page_info::{PageInfo, PageLookup, PageType};
use crate::mm::physmem::PhysMem;

/// What an update does with the bits that the CPU sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preserve {
    /// The new entry is taken as it is.
    Nothing,
    /// Accessed and dirty stay set if they are.
    AccessedDirty,
}

impl<'a, L: PageLookup, M: PhysMem> PageTypes<'a, L, M> {
    /// One request of mmu_update on page tables, with the command in the pointer's low two bits: `MMU_NORMAL_PT_UPDATE` (0), `MMU_PT_UPDATE_PRESERVE_AD` (2) or
    /// `MMU_PT_UPDATE_NO_TRANSLATE` (3, the same as 0 for a PV domain).
    ///
    /// A frame in use as a table has its entry replaced by that level's rules; a frame that is writable or has no type is simply written.
    /// True if translations that a TLB may hold are out of date. That flush is the guest's own business, as on a bare machine;
    /// what must be flushed for the sake of others is in [`PageTypes::take_effects`].
    pub fn mmu_update(&self, ptr: u64, val: u64) -> Result<bool, TypeError> {
        let preserve = match ptr & 3 {
            0 | 3 => Preserve::Nothing,
            2 => Preserve::AccessedDirty,
            found => return Err(TypeError::Command { found }),
        };
        let pte = entry_maddr(ptr & !3)?;
        self.with_page(pte.mfn_containing(), |mfn, page| {
            let Some(ty) = self.lock(page) else { return self.write_plain(mfn, page, pte, val).map(|()| false) };
            let result = match ty.table_level() {
                Some(level) => self.change_entry(&Table { mfn, page, level }, pte, val, preserve),
                None if ty == PageType::Writable => {
                    self.mem.write_u64(pte, val);
                    Ok(false)
                }
                None => Err(TypeError::NotWritten { mfn, found: ty }),
            };
            self.unlock(page);
            result
        })
    }

    /// Replaces an entry of a table that has the level already; true as for [`PageTypes::mmu_update`].
    ///
    /// If the new entry maps the same frame with the same right to write, no reference moves. Otherwise the new one's are taken before
    /// the old one's are dropped, so that what both need is not devalidated in between.
    pub fn mod_entry(&self, level: u8, pte: Maddr, new: u64, preserve: Preserve) -> Result<bool, TypeError> {
        let wanted = PageType::table(level).ok_or(TypeError::Level { level })?;
        let pte = entry_maddr(pte.get())?;
        self.with_page(pte.mfn_containing(), |mfn, page| {
            let found = self.lock(page).ok_or(TypeError::TypeInUse { mfn, wanted, found: PageType::None })?;
            let result = if found == wanted {
                self.change_entry(&Table { mfn, page, level }, pte, new, preserve)
            } else {
                Err(TypeError::TypeInUse { mfn, wanted, found })
            };
            self.unlock(page);
            result
        })
    }

    /// Replaces the leaf that translates `va` below `l4`, which the caller holds a type reference on (the vCPU's own base); true as for [`PageTypes::mmu_update`].
    pub fn update_va_mapping(&self, l4: Mfn, va: u64, val: u64) -> Result<bool, TypeError> {
        let (pte, _) = leaf_entry(self.mem, l4, va).map_err(|_| TypeError::NoL1 { va })?;
        // The walk ends in a table of another level where a linear mapping leads to one.
        self.mod_entry(1, pte, val, Preserve::Nothing)
    }

    /// Writes one segment descriptor, checked, into a descriptor table of the domain, or into a page that is writable.
    pub fn update_descriptor(&self, maddr: u64, descriptor: u64) -> Result<(), TypeError> {
        let at = entry_maddr(maddr)?;
        let fixed = check_descriptor(descriptor).ok_or(TypeError::Descriptor { descriptor })?;
        self.with_page(at.mfn_containing(), |mfn, page| {
            let wanted = if page.page_type() == PageType::SegDesc { PageType::SegDesc } else { PageType::Writable };
            self.get_type_of(mfn, page, wanted)?;
            self.mem.write_u64(at, fixed);
            self.put_type_of(mfn, page);
            Ok(())
        })
    }

    /// Fills slots 256 to 271 of a validated level-4 table again, from a template that has changed.
    pub fn refill_hypervisor_slots(&self, l4: Mfn) -> Result<(), TypeError> {
        self.with_page(l4, |mfn, page| {
            let wanted = PageType::L4;
            match self.lock(page) {
                Some(PageType::L4) => self.write_hypervisor_slots(mfn),
                Some(found) => {
                    self.unlock(page);
                    return Err(TypeError::TypeInUse { mfn, wanted, found });
                }
                None => return Err(TypeError::TypeInUse { mfn, wanted, found: PageType::None }),
            }
            self.unlock(page);
            Ok(())
        })
    }

    /// Takes the M2P out of a validated level-4 table, whose slots are otherwise as its template says: the table is for user programs, and the
    /// domain does not want them to see it. It comes back when the slots are filled again.
    pub fn hide_m2p(&self, l4: Mfn) -> Result<(), TypeError> {
        self.with_page(l4, |mfn, page| {
            let found = self.lock(page);
            let result = match found {
                Some(PageType::L4) => {
                    self.mem.write_u64(mfn.maddr().offset(entry::FIRST_HYPERVISOR_SLOT * 8), 0);
                    Ok(())
                }
                other => {
                    Err(TypeError::TypeInUse { mfn, wanted: PageType::L4, found: other.unwrap_or(PageType::None) })
                }
            };
            if found.is_some() {
                self.unlock(page);
            }
            result
        })
    }

    /// Runs `body` with a general reference on a frame of the domain.
    pub(super) fn with_page<T>(
        &self,
        mfn: Mfn,
        body: impl FnOnce(Mfn, &PageInfo) -> Result<T, TypeError>,
    ) -> Result<T, TypeError> {
        let page = self.get_page(mfn)?;
        let result = body(mfn, page);
        self.put_page_of(mfn, page);
        result
    }

    /// A write to a frame without a type in use: it is writable as long as the write takes.
    fn write_plain(&self, mfn: Mfn, page: &PageInfo, at: Maddr, value: u64) -> Result<(), TypeError> {
        self.get_type_of(mfn, page, PageType::Writable)?;
        self.mem.write_u64(at, value);
        self.put_type_of(mfn, page);
        Ok(())
    }

    /// Replaces an entry of a locked table.
    fn change_entry(&self, table: &Table<'_>, pte: Maddr, new: u64, preserve: Preserve) -> Result<bool, TypeError> {
        let slot = pte.page_offset() / 8;
        if table.level == 4 && entry::is_hypervisor_slot(slot) {
            return Err(TypeError::HypervisorSlot { slot });
        }
        let adjusted = adjust(table.level, new);
        let old = self.mem.read_u64(pte);
        if new & PRESENT == 0 {
            let found = self.exchange(pte, old, adjusted, preserve)?;
            return Ok(self.put_replaced(table, found));
        }
        let same_references = (old ^ new) & !FREELY_CHANGED == 0;
        if same_references && self.allows_bits(table, new) {
            let found = self.exchange(pte, old, adjusted, preserve)?;
            return Ok((found ^ adjusted) & !(ACCESSED | DIRTY) != 0);
        }
        self.get_entry(table, new)?;
        match self.exchange(pte, old, adjusted, preserve) {
            Ok(found) => Ok(self.put_replaced(table, found)),
            Err(error) => {
                self.put_entry(table, new);
                Err(error)
            }
        }
    }

    /// True if the entry's bits are allowed whatever it maps; where they are not, or it depends, taking the reference decides.
    fn allows_bits(&self, table: &Table<'_>, value: u64) -> bool {
        let refused = if table.level == 1 { entry::CACHE_ATTRIBUTES } else { entry::TABLE_DISALLOW };
        value & refused == 0
    }

    /// Drops what the replaced entry stood for; true if it translated.
    pub(super) fn put_replaced(&self, table: &Table<'_>, old: u64) -> bool {
        if old & PRESENT != 0 {
            self.put_entry(table, old);
        }
        old & PRESENT != 0
    }

    /// Writes the entry in place of `old`; what stood there last. The table is locked, so only the CPU may have changed the
    /// entry meanwhile, and only its accessed and dirty bits.
    pub(super) fn exchange(&self, pte: Maddr, old: u64, new: u64, preserve: Preserve) -> Result<u64, TypeError> {
        let mut old = old;
        loop {
            let value = match preserve {
                Preserve::Nothing => new,
                Preserve::AccessedDirty => new | old & (ACCESSED | DIRTY),
            };
            match self.mem.compare_exchange_u64(pte, old, value) {
                Ok(()) => return Ok(old),
                Err(found) if (found ^ old) & !(ACCESSED | DIRTY) != 0 => {
                    return Err(TypeError::EntryRaced { pte, found });
                }
                Err(found) => old = found,
            }
        }
    }
}

/// The address of an entry or descriptor, given by a guest.
pub(super) fn entry_maddr(found: u64) -> Result<Maddr, TypeError> {
    const _: () = assert!(PAGE_SIZE.is_multiple_of(8), "an aligned entry lies in one frame");
    if found & 7 != 0 {
        return Err(TypeError::Address { found });
    }
    Maddr::try_new(found).map_err(|_| TypeError::Address { found })
}
