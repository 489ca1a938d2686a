//! Grant tables as plain data, for a save, and back.
//!
//! A domain's table comes back by itself. When all are back, [`GrantTables::inconsistent`] tells whose do not fit the others' (invariant 2
//! of the module above), and [`GrantTables::mapped`] what a domain's page tables may map of others' frames.

use super::{Access, Active, GrantTables, Limits, Mapping, Slot, Table, Version};
use crate::frame::{DomId, Mfn};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

/// A domain's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedTable {
    /// Its version.
    pub version: Version,
    /// Its limits.
    pub limits: Limits,
    /// The frames of its entries.
    pub shared: Vec<Mfn>,
    /// The frames of its marks.
    pub status: Vec<Mfn>,
    /// Its entries that are in use, ascending.
    pub active: Vec<(u32, Active)>,
    /// Its mappings of others' grants by handle, ascending.
    pub maps: Vec<(u32, Mapping)>,
}

/// A domain's table where it is: what a [`SavedTable`] is to have.
#[derive(Clone, Copy)]
pub struct TableToSave<'a>(&'a Table);

impl<'a> TableToSave<'a> {
    /// Its version.
    pub fn version(self) -> Version {
        self.0.version
    }

    /// Its limits.
    pub fn limits(self) -> Limits {
        self.0.limits
    }

    /// The frames of its entries.
    pub fn shared(self) -> &'a [Mfn] {
        &self.0.shared
    }

    /// The frames of its marks.
    pub fn status(self) -> &'a [Mfn] {
        &self.0.status
    }

    /// Its entries that are in use, ascending.
    pub fn active(self) -> impl Iterator<Item = (u32, Active)> + 'a {
        self.0.active()
    }

    /// Its mappings of others' grants by handle, ascending.
    pub fn maps(self) -> impl Iterator<Item = (u32, Mapping)> + 'a {
        self.0.maps()
    }
}

/// Why a domain's table does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inconsistent {
    /// It has other frames than its version and limits allow.
    Frames {
        /// Shared ones.
        shared: usize,
        /// Status frames.
        status: usize,
    },
    /// An entry in use is not there, or does not follow the one before.
    Entry {
        /// Which.
        reference: u32,
    },
    /// A handle is beyond the limit, or does not follow the one before.
    Handle {
        /// Which.
        handle: u32,
    },
    /// A mapping is of a grant that is not in use by the domain.
    NotGranted {
        /// The mapping's handle.
        handle: u32,
        /// Whose grant.
        granter: DomId,
        /// Which.
        reference: u32,
    },
    /// An entry is in use by more or fewer mappings than it counts.
    Uses {
        /// Which.
        reference: u32,
        /// Readers and writers counted.
        counted: (u8, u8),
        /// Readers and writers found.
        found: (u32, u32),
    },
    /// The hypervisor has no memory for it.
    NoMemory,
}

impl fmt::Display for Inconsistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Frames { shared, status } => {
                write!(f, "its grant table has {shared} shared and {status} status frames")
            }
            Self::Entry { reference } => write!(f, "grant {reference} cannot be in use"),
            Self::Handle { handle } => write!(f, "handle {handle} of a grant mapping cannot be"),
            Self::NotGranted { handle, granter, reference } => {
                write!(f, "its mapping {handle} is of grant {reference} of {granter}, which it does not use")
            }
            Self::Uses { reference, counted, found } => {
                write!(f, "grant {reference} counts {counted:?} readers and writers, found were {found:?}")
            }
            Self::NoMemory => f.write_str("no memory for its grant table"),
        }
    }
}

/// What a domain's leaves may map of others' frames: each mapping is good for one leaf.
#[derive(Debug, Default)]
pub struct Mapped(RefCell<BTreeMap<(Mfn, DomId, bool), u64>>);

impl Mapped {
    /// True if there is a mapping left for such a leaf, which it then is used up for.
    pub fn take(&self, frame: Mfn, owner: DomId, access: Access) -> bool {
        match self.0.borrow_mut().get_mut(&(frame, owner, access == Access::Write)) {
            Some(left) if *left != 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    fn add(&self, frame: Mfn, owner: DomId, access: Access) {
        *self.0.borrow_mut().entry((frame, owner, access == Access::Write)).or_default() += 1;
    }
}

impl GrantTables {
    /// A domain's table, to be saved; none if it has none.
    pub fn to_save(&self, id: DomId) -> Option<TableToSave<'_>> {
        self.tables.get(&id).map(TableToSave)
    }

    /// Gives a domain the table that was saved. On an error it has its frames, and nothing in use.
    pub fn restore(&mut self, id: DomId, saved: SavedTable) -> Result<(), Inconsistent> {
        let SavedTable { version, limits, shared, status, active, maps } = saved;
        let frames = Inconsistent::Frames { shared: shared.len(), status: status.len() };
        let fits = shared.len() <= limits.max_frames as usize
            && shared.len() <= Limits::MAX.max_frames as usize
            && status.len() == version.status_frames(shared.len() as u32) as usize;
        let table =
            Table { version, limits, shared, status, active: BTreeMap::new(), maps: Vec::new(), first_free: None };
        let nr_entries = table.nr_entries();
        let table = match self.tables.entry(id) {
            alloc::collections::btree_map::Entry::Vacant(place) => place.insert(table),
            alloc::collections::btree_map::Entry::Occupied(mut place) => {
                place.insert(table);
                place.into_mut()
            }
        };
        if !fits {
            return Err(frames);
        }
        let max_maps = limits.max_maps.min(Limits::MAX.max_maps);
        check_order(active.iter().map(|a| a.0), nr_entries).map_err(|reference| Inconsistent::Entry { reference })?;
        check_order(maps.iter().map(|m| m.0), max_maps).map_err(|handle| Inconsistent::Handle { handle })?;
        let nr_slots = maps.last().map_or(0, |last| last.0 as usize + 1);
        table.maps.try_reserve_exact(nr_slots).map_err(|_| Inconsistent::NoMemory)?;
        for (handle, mapping) in maps {
            while table.maps.len() < handle as usize {
                table.maps.push(Slot::Free(table.first_free));
                table.first_free = Some(table.maps.len() as u32 - 1);
            }
            table.maps.push(Slot::Used(mapping));
        }
        table.active = active.into_iter().collect();
        Ok(())
    }

    /// The domains whose tables do not fit the others', each with the first reason. `is_unknown` says of whom it is not known what they
    /// use or have granted, so that nothing can be held against the others.
    pub fn inconsistent(&self, is_unknown: impl Fn(DomId) -> bool) -> BTreeMap<DomId, Inconsistent> {
        let mut bad = BTreeMap::new();
        let mut uses: BTreeMap<(DomId, u32), (u32, u32)> = BTreeMap::new();
        for &mapper in self.tables.keys() {
            for (handle, mapping) in self.maps(mapper) {
                let Mapping { granter, reference, .. } = mapping;
                if is_unknown(granter) {
                    continue;
                }
                let active = self.tables.get(&granter).and_then(|table| table.active.get(&reference));
                if active.is_none_or(|active| active.to != mapper) {
                    bad.entry(mapper).or_insert(Inconsistent::NotGranted { handle, granter, reference });
                    continue;
                }
                let (readers, writers) = uses.entry((granter, reference)).or_default();
                match mapping.access() {
                    Access::Read => *readers += 1,
                    Access::Write => *writers += 1,
                }
            }
        }
        for &granter in self.tables.keys() {
            for (reference, active) in self.active(granter) {
                let found = uses.get(&(granter, reference)).copied().unwrap_or_default();
                let counted = (active.readers, active.writers);
                if found != (counted.0.into(), counted.1.into()) && !is_unknown(active.to) {
                    bad.entry(granter).or_insert(Inconsistent::Uses { reference, counted, found });
                }
            }
        }
        bad
    }

    /// What a domain's leaves may map of others' frames.
    pub fn mapped(&self, mapper: DomId) -> Mapped {
        let mapped = Mapped::default();
        for (_, mapping) in self.maps(mapper) {
            let active = self.tables.get(&mapping.granter).and_then(|table| table.active.get(&mapping.reference));
            if let Some(active) = active {
                mapped.add(active.frame, mapping.granter, mapping.access());
            }
        }
        mapped
    }
}

/// Numbers ascend below a limit; the first that does not is the error.
fn check_order(numbers: impl Iterator<Item = u32>, limit: u32) -> Result<(), u32> {
    let mut due = 0;
    for number in numbers {
        if number < due || number >= limit {
            return Err(number);
        }
        due = number + 1;
    }
    Ok(())
}
