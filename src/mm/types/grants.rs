//! Mappings of other domains' frames, by grants.
//!
//! A guest cannot write such a leaf itself. The hypervisor takes the references on the granter's frame, writes the leaf, and from then on the leaf
//! holds them, as every leaf does (T3): they go when it is overwritten or its table is devalidated, whoever does that. Taking the mapping
//! down takes the leaf out together with its references. After an update the leaves are found in the tables and let through as far as the
//! domain's mappings go ([`DomainView::may_map`](super::DomainView)).

use super::entry::{PRESENT, RW, adjust_leaf, frame_of};
use super::update::entry_maddr;
use super::walk::leaf_entry;
use super::{Access, PageTypes, Preserve, Table, TypeError};
use crate::frame::{DomId, Maddr, Mfn};
use crate::mm::page_info::{CountFlags, PageLookup, PageType};
use crate::mm::physmem::PhysMem;
use core::sync::atomic::Ordering;

/// Where a leaf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafPlace {
    /// At a machine address.
    Entry(u64),
    /// Where the tables below a level-4 table, on which the caller holds a type reference, translate an address.
    Address {
        /// The table.
        l4: Mfn,
        /// The address.
        va: u64,
    },
}

/// A leaf that is in no table; it still holds its references.
#[must_use = "its references have to be dropped or put into a table again"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LooseLeaf(u64);

impl LooseLeaf {
    /// A leaf whose references the caller has taken.
    pub const fn holding(entry: u64) -> Self {
        Self(entry)
    }

    /// No leaf at all.
    pub const NONE: Self = Self(0);
}

const fn access_of(leaf: u64) -> Access {
    if leaf & RW != 0 { Access::Write } else { Access::Read }
}

impl<'a, L: PageLookup, M: PhysMem> PageTypes<'a, L, M> {
    /// Takes the references of a leaf on a frame of `owner`: a general one, and one as a writable page for writes. Frames that the hypervisor
    /// shares with `owner` are not given to others.
    pub fn get_granted(&self, mfn: Mfn, owner: DomId, access: Access) -> Result<(), TypeError> {
        let page = self.pages.page(mfn).map_err(|cause| TypeError::NoFrame { mfn, cause })?;
        page.get_page(owner).map_err(|cause| TypeError::NoReference { mfn, cause })?;
        if page.count_info.load(Ordering::Acquire) & CountFlags::XEN_HEAP.bits() != 0 {
            self.put_page_of(mfn, page);
            return Err(TypeError::LeafForeign { mfn, found: Some(owner) });
        }
        match access {
            Access::Read => Ok(()),
            Access::Write => {
                self.get_type_of(mfn, page, PageType::Writable).inspect_err(|_| self.put_page_of(mfn, page))
            }
        }
    }

    /// Drops what [`PageTypes::get_granted`] took.
    pub fn put_granted(&self, mfn: Mfn, access: Access) {
        let page = self.held(mfn);
        if access == Access::Write {
            self.put_type_of(mfn, page);
        }
        self.put_page_of(mfn, page);
    }

    /// Puts a leaf whose references are held into a level-1 table of the domain; they are the table's from then on. True if
    /// what was there before translated, which is dropped.
    pub fn install_leaf(&self, place: LeafPlace, leaf: LooseLeaf) -> Result<bool, TypeError> {
        self.with_leaf(place, |table, pte| {
            let old = self.mem.read_u64(pte);
            let found = self.exchange(pte, old, adjust_leaf(leaf.0), Preserve::Nothing)?;
            Ok(self.put_replaced(table, found))
        })
    }

    /// Takes the leaf out that maps a frame for `access`, puts another one in its place, and drops the first one's references.
    /// Errors: something else is mapped there, and stays.
    pub fn replace_leaf(&self, place: LeafPlace, mfn: Mfn, access: Access, by: LooseLeaf) -> Result<(), TypeError> {
        self.with_leaf(place, |table, pte| {
            let old = self.mem.read_u64(pte);
            if old & PRESENT == 0 || frame_of(old) != mfn || access_of(old) != access {
                return Err(TypeError::EntryRaced { pte, found: old });
            }
            let found = self.exchange(pte, old, by.0, Preserve::Nothing)?;
            self.put_replaced(table, found);
            Ok(())
        })
    }

    /// Takes a leaf out of a table of the domain.
    pub fn take_leaf(&self, place: LeafPlace) -> Result<LooseLeaf, TypeError> {
        self.with_leaf(place, |_, pte| {
            let old = self.mem.read_u64(pte);
            self.exchange(pte, old, 0, Preserve::Nothing).map(LooseLeaf)
        })
    }

    /// Drops the references of a leaf that is in no table.
    pub fn drop_leaf(&self, leaf: LooseLeaf) {
        if leaf.0 & PRESENT != 0 {
            self.put_leaf(leaf.0);
        }
    }

    /// Runs `body` with the level-1 table that a leaf is in, locked.
    fn with_leaf<T>(
        &self,
        place: LeafPlace,
        body: impl FnOnce(&Table<'_>, Maddr) -> Result<T, TypeError>,
    ) -> Result<T, TypeError> {
        let pte = match place {
            LeafPlace::Entry(maddr) => entry_maddr(maddr)?,
            LeafPlace::Address { l4, va } => leaf_entry(self.mem, l4, va).map_err(|_| TypeError::NoL1 { va })?.0,
        };
        self.with_page(pte.mfn_containing(), |mfn, page| {
            let wanted = PageType::L1;
            let found = self.lock(page).ok_or(TypeError::TypeInUse { mfn, wanted, found: PageType::None })?;
            let result = if found == wanted {
                body(&Table { mfn, page, level: 1 }, pte)
            } else {
                Err(TypeError::TypeInUse { mfn, wanted, found })
            };
            self.unlock(page);
            result
        })
    }
}
