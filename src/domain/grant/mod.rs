//! Grant tables: what a domain lets others do with its frames, and what they are doing with them.
//!
//! ```text
//!   granter                                              mapper
//!   shared frames ── entry 9: d2, frame 0x1234 ─╮        handle 0 ──▶ (d1, entry 9, read-only)
//!   (the guest's)         ▲ reading, writing    │             │
//!                         │                     ▼             ▼
//!                  the hypervisor's:  active entry 9 ── frame 0x1234, for d2, 1 reader
//! ```
//!
//! A domain fills in entries of frames that it shares with the hypervisor. Another domain names one, and the hypervisor, if the entry
//! allows it, maps the frame for it or copies. While an entry is in use so, it is *active*: the hypervisor keeps its own copy of what it granted,
//! and marks the guest's entry as being read or written, so that the guest knows that it cannot take the grant back yet. The mapper
//! gets a handle, by which it takes the mapping down again.
//!
//! One [`GrantTables`] holds the tables of all domains, because most operations touch two. Rules, numbers and the order of checks are
//! Xen's. Everything here is pure: the entries are reached through [`PhysMem`]; the references on frames and the entries
//! of page tables are the business of [`crate::mm::types`], and who calls both is the hypercall.
//!
//! 1. An entry has an active entry exactly while something uses it, and then only for one domain.
//! 2. An active entry counts what refers to it: the mappings of its domain, all of which have a handle there, and a copy under way.
//! 3. An entry is marked as being read while it is active, and as being written while a writer is among those.
//! 4. A version is changed only while no entry is active but the reserved ones.
//!
//! Not here: transfers, transitive grants (refused as by a Xen that has them switched off), mappings for devices.

mod entry;
mod restore;
#[cfg(test)]
mod tests;

pub use crate::mm::types::Access;
pub use restore::{Inconsistent, Mapped, SavedTable, TableToSave};

use crate::frame::{DomId, Mfn, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use crate::xen::grant::{NR_RESERVED_ENTRIES, entry_v1, entry_v2, gntmap, gtf};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use entry::Place;

/// Why an operation on a grant is refused: Xen's GNTST_* numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum GrantError {
    /// The entry does not allow it, or something else is wrong.
    General = -1,
    /// No such domain.
    BadDomain = -2,
    /// There is no such entry.
    BadRef = -3,
    /// There is no such mapping.
    BadHandle = -4,
    /// An address to be written to is none.
    BadVirtAddr = -5,
    /// The address of the frame is not this one.
    BadDevAddr = -6,
    /// The caller may not.
    PermissionDenied = -8,
    /// The frame is not the granter's.
    BadPage = -9,
    /// A copy goes beyond the frame.
    BadCopyArg = -10,
    /// The entry is in use.
    Again = -12,
    /// No room for a mapping.
    NoSpace = -13,
}

impl GrantError {
    /// The number that the guest is told.
    pub const fn status(self) -> i16 {
        self as i16
    }
}

/// GNTST_okay.
pub const OKAY: i16 = 0;

/// Which layout the entries have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Version {
    /// Entries of 8 bytes with the marks in them.
    V1 = 1,
    /// Entries of 16 bytes, marks in frames of their own.
    V2 = 2,
}

/// Marks in a status frame.
const STATUS_PER_FRAME: u32 = PAGE_SIZE as u32 / 2;

impl Version {
    /// The version with this number.
    pub const fn try_new(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }

    /// Entries in a shared frame.
    pub const fn entries_per_frame(self) -> u32 {
        match self {
            Self::V1 => PAGE_SIZE as u32 / entry_v1::SIZE as u32,
            Self::V2 => PAGE_SIZE as u32 / entry_v2::SIZE as u32,
        }
    }

    /// Status frames that go with so many shared ones.
    pub const fn status_frames(self, nr_shared: u32) -> u32 {
        match self {
            Self::V1 => 0,
            Self::V2 => (nr_shared * self.entries_per_frame()).div_ceil(STATUS_PER_FRAME),
        }
    }
}

/// How much a domain may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shared frames.
    pub max_frames: u32,
    /// Mappings of others' grants.
    pub max_maps: u32,
}

impl Limits {
    /// What a reader of a saved table takes at most.
    pub const MAX: Self = Self { max_frames: 1 << 12, max_maps: 1 << 20 };
    /// What every domain gets: Xen's 64 frames; of mappings fewer than Xen's 2^18, as they take the hypervisor's own memory.
    pub const DEFAULT: Self = Self { max_frames: 64, max_maps: 1 << 14 };
}

/// What a frame is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To be mapped.
    Map,
    /// To be copied from or to, at once.
    Copy,
}

/// An entry in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// Who uses it.
    pub to: DomId,
    /// The frame that was granted; the guest may meanwhile have written another one into the entry.
    pub frame: Mfn,
    /// Uses that only read.
    pub readers: u8,
    /// Uses that also write.
    pub writers: u8,
}

/// Uses of one kind that are counted; Xen's counters have 8 bits, and refuse when the highest is set.
pub const MAX_USES: u8 = 0x80;

impl Active {
    const fn count(&mut self, access: Access) -> &mut u8 {
        match access {
            Access::Read => &mut self.readers,
            Access::Write => &mut self.writers,
        }
    }
}

/// A grant of another domain that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Whose grant.
    pub granter: DomId,
    /// Which.
    pub reference: u32,
    /// How, [`gntmap`].
    pub flags: u32,
}

impl Mapping {
    /// What it allows.
    pub const fn access(&self) -> Access {
        if self.flags & gntmap::READONLY != 0 { Access::Read } else { Access::Write }
    }
}

/// A part of a frame that may be used until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The frame.
    pub frame: Mfn,
    /// First byte.
    pub start: u16,
    /// Bytes.
    pub len: u16,
}

/// A handle's place.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Not in use; the next that is not.
    Free(Option<u32>),
    Used(Mapping),
}

#[derive(Debug)]
struct Table {
    version: Version,
    limits: Limits,
    shared: Vec<Mfn>,
    status: Vec<Mfn>,
    active: BTreeMap<u32, Active>,
    maps: Vec<Slot>,
    first_free: Option<u32>,
}

/// Frames that a domain's table needs and does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanting {
    /// Shared frames.
    pub shared: u32,
    /// Status frames.
    pub status: u32,
}

/// The grant tables of all domains.
#[derive(Debug, Default)]
pub struct GrantTables {
    tables: BTreeMap<DomId, Table>,
}

impl Table {
    fn maps(&self) -> impl Iterator<Item = (u32, Mapping)> + '_ {
        (0..).zip(&self.maps).filter_map(|(handle, slot)| match slot {
            Slot::Used(mapping) => Some((handle, *mapping)),
            Slot::Free(_) => None,
        })
    }

    fn active(&self) -> impl Iterator<Item = (u32, Active)> + '_ {
        self.active.iter().map(|(reference, active)| (*reference, *active))
    }

    fn nr_entries(&self) -> u32 {
        self.shared.len() as u32 * self.version.entries_per_frame()
    }

    /// Where an entry lies; none beyond the frames that there are.
    fn place(&self, reference: u32) -> Option<Place> {
        self.place_in(self.version, reference)
    }

    fn place_in(&self, version: Version, reference: u32) -> Option<Place> {
        let per_frame = version.entries_per_frame();
        let frame = self.shared.get((reference / per_frame) as usize)?.maddr();
        let nth = u64::from(reference % per_frame);
        Some(match version {
            Version::V1 => Place::V1 { entry: frame.offset(nth * entry_v1::SIZE as u64) },
            Version::V2 => {
                let status = self.status.get((reference / STATUS_PER_FRAME) as usize)?.maddr();
                Place::V2 {
                    entry: frame.offset(nth * entry_v2::SIZE as u64),
                    status: status.offset(u64::from(reference % STATUS_PER_FRAME) * 2),
                }
            }
        })
    }

    fn wanting(&self, version: Version, nr_shared: u32) -> Wanting {
        let nr_shared = nr_shared.max(self.shared.len() as u32);
        Wanting {
            shared: nr_shared - self.shared.len() as u32,
            status: version.status_frames(nr_shared).saturating_sub(self.status.len() as u32),
        }
    }
}

impl GrantTables {
    /// No domain has a table.
    pub const fn new() -> Self {
        Self { tables: BTreeMap::new() }
    }

    /// Gives a domain a table of version 1 without frames.
    pub fn add_domain(&mut self, id: DomId, limits: Limits) {
        let table = Table {
            version: Version::V1,
            limits,
            shared: Vec::new(),
            status: Vec::new(),
            active: BTreeMap::new(),
            maps: Vec::new(),
            first_free: None,
        };
        self.tables.insert(id, table);
    }

    /// Takes a domain's table away; the frames, which are the caller's to free. What others map of the domain must have been released.
    pub fn remove_domain(&mut self, id: DomId) -> Vec<Mfn> {
        self.tables.remove(&id).map_or_else(Vec::new, |table| [table.shared, table.status].concat())
    }

    fn table(&self, id: DomId) -> Result<&Table, GrantError> {
        self.tables.get(&id).ok_or(GrantError::BadDomain)
    }

    fn table_mut(&mut self, id: DomId) -> Result<&mut Table, GrantError> {
        self.tables.get_mut(&id).ok_or(GrantError::BadDomain)
    }

    /// The version that a domain's table has.
    pub fn version(&self, id: DomId) -> Result<Version, GrantError> {
        Ok(self.table(id)?.version)
    }

    /// A domain's limits.
    pub fn limits(&self, id: DomId) -> Result<Limits, GrantError> {
        Ok(self.table(id)?.limits)
    }

    /// The frames that the entries lie in.
    pub fn shared_frames(&self, id: DomId) -> &[Mfn] {
        self.tables.get(&id).map_or(&[], |table| &table.shared)
    }

    /// The frames that the marks of version 2 lie in.
    pub fn status_frames(&self, id: DomId) -> &[Mfn] {
        self.tables.get(&id).map_or(&[], |table| &table.status)
    }

    /// True if somebody uses a grant of the domain.
    pub fn is_in_use(&self, id: DomId) -> bool {
        self.tables.get(&id).is_some_and(|table| !table.active.is_empty())
    }

    /// The frames that a table of `nr_frames` needs beyond what there is. Errors: more than the limit.
    pub fn wanting(&self, id: DomId, nr_frames: u32) -> Result<Wanting, GrantError> {
        let table = self.table(id)?;
        if nr_frames > table.limits.max_frames {
            return Err(GrantError::General);
        }
        Ok(table.wanting(table.version, nr_frames))
    }

    /// Adds zeroed frames.
    pub fn grow(&mut self, id: DomId, shared: &[Mfn], status: &[Mfn]) -> Result<(), GrantError> {
        let table = self.table_mut(id)?;
        table.shared.try_reserve(shared.len()).map_err(|_| GrantError::NoSpace)?;
        table.status.try_reserve(status.len()).map_err(|_| GrantError::NoSpace)?;
        table.shared.extend_from_slice(shared);
        table.status.extend_from_slice(status);
        Ok(())
    }

    /// Fills in an entry on the guest's behalf, as a toolstack does for the rings before a guest runs.
    pub fn seed<M: PhysMem>(&self, mem: &M, id: DomId, reference: u32, to: DomId, frame: Mfn) {
        let Some(place) = self.tables.get(&id).and_then(|table| table.place(reference)) else { return };
        let (Ok(frame), to) = (u32::try_from(frame.get()), u64::from(to.get())) else { return };
        place.write_common(mem, u64::from(gtf::PERMIT_ACCESS) | to << 16 | u64::from(frame) << 32);
    }

    /// Takes a grant into use for `to`: marks the entry, counts the use.
    ///
    /// The frame is what the granter says; whether it is the granter's is for the caller to find out, who releases it again if not.
    pub fn acquire<M: PhysMem>(
        &mut self,
        mem: &M,
        granter: DomId,
        reference: u32,
        to: DomId,
        access: Access,
        usage: Use,
    ) -> Result<Acquired, GrantError> {
        let table = self.table_mut(granter)?;
        if reference >= table.nr_entries() {
            return Err(GrantError::BadRef);
        }
        let place = table.place(reference).ok_or(GrantError::BadRef)?;
        let Some(active) = table.active.get_mut(&reference) else {
            let granted = place.mark(mem, to, access, usage)?;
            let Ok(frame) = Mfn::try_new(granted.frame) else {
                place.clear(mem, gtf::READING | gtf::WRITING);
                return Err(GrantError::BadPage);
            };
            let mut active = Active { to, frame, readers: 0, writers: 0 };
            *active.count(access) = 1;
            table.active.insert(reference, active);
            return Ok(Acquired { frame, start: granted.start, len: granted.len });
        };
        if active.to != to || active.readers >= MAX_USES || active.writers >= MAX_USES {
            return Err(GrantError::General);
        }
        if access == Access::Write && active.writers == 0 {
            place.mark(mem, to, access, usage)?;
        }
        *active.count(access) += 1;
        Ok(Acquired { frame: active.frame, start: 0, len: PAGE_SIZE as u16 })
    }

    /// Ends a use of a grant: the count goes down, and marks that nobody needs go.
    pub fn release<M: PhysMem>(&mut self, mem: &M, granter: DomId, reference: u32, access: Access) {
        let Some(table) = self.tables.get_mut(&granter) else { return };
        let Some(active) = table.active.get_mut(&reference) else { return };
        let count = active.count(access);
        *count = count.saturating_sub(1);
        let mut marks = 0;
        if active.writers == 0 && access == Access::Write {
            marks |= gtf::WRITING;
        }
        if active.writers == 0 && active.readers == 0 {
            marks |= gtf::READING;
            table.active.remove(&reference);
        }
        if let (Some(place), true) = (table.place(reference), marks != 0) {
            place.clear(mem, marks);
        }
    }

    /// Makes sure that [`GrantTables::add_map`] will find room.
    pub fn reserve_map(&mut self, mapper: DomId) -> Result<(), GrantError> {
        let table = self.table_mut(mapper)?;
        if table.first_free.is_some() {
            return Ok(());
        }
        if table.maps.len() as u64 >= u64::from(table.limits.max_maps) {
            return Err(GrantError::NoSpace);
        }
        table.maps.try_reserve(1).map_err(|_| GrantError::NoSpace)
    }

    /// Keeps a mapping, for whose use the grant was acquired; its handle.
    pub fn add_map(&mut self, mapper: DomId, mapping: Mapping) -> Result<u32, GrantError> {
        let table = self.table_mut(mapper)?;
        let Some(handle) = table.first_free else {
            table.maps.push(Slot::Used(mapping));
            return Ok(table.maps.len() as u32 - 1);
        };
        let slot = table.maps.get_mut(handle as usize).ok_or(GrantError::NoSpace)?;
        if let Slot::Free(next) = *slot {
            table.first_free = next;
        }
        *slot = Slot::Used(mapping);
        Ok(handle)
    }

    /// A mapping, and the frame that it is of.
    pub fn map(&self, mapper: DomId, handle: u32) -> Result<(Mapping, Mfn), GrantError> {
        let Some(Slot::Used(mapping)) = self.table(mapper)?.maps.get(handle as usize) else {
            return Err(GrantError::BadHandle);
        };
        let active = self.table(mapping.granter)?.active.get(&mapping.reference);
        // A mapping keeps its grant active (2).
        let active = active.ok_or(GrantError::BadHandle)?;
        Ok((*mapping, active.frame))
    }

    /// Forgets a mapping and releases its grant.
    pub fn end_map<M: PhysMem>(&mut self, mem: &M, mapper: DomId, handle: u32) {
        let Some(table) = self.tables.get_mut(&mapper) else { return };
        let first_free = table.first_free;
        let Some(slot) = table.maps.get_mut(handle as usize) else { return };
        let Slot::Used(mapping) = *slot else { return };
        *slot = Slot::Free(first_free);
        table.first_free = Some(handle);
        self.release(mem, mapping.granter, mapping.reference, mapping.access());
    }

    /// Releases up to `budget` mappings of a domain that is no more; false if it had no more of them.
    pub fn end_some_maps<M: PhysMem>(&mut self, mem: &M, mapper: DomId, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(table) = self.tables.get_mut(&mapper) else { return false };
            let Some(slot) = table.maps.pop() else { return false };
            table.first_free = None;
            if let Slot::Used(mapping) = slot {
                self.release(mem, mapping.granter, mapping.reference, mapping.access());
            }
        }
        true
    }

    /// The mappings that a domain has, by handle.
    pub fn maps(&self, mapper: DomId) -> impl Iterator<Item = (u32, Mapping)> + '_ {
        self.tables.get(&mapper).into_iter().flat_map(Table::maps)
    }

    /// The entries of a domain that are in use, ascending.
    pub fn active(&self, id: DomId) -> impl Iterator<Item = (u32, Active)> + '_ {
        self.tables.get(&id).into_iter().flat_map(Table::active)
    }

    /// True if one of the domain's mappings is of this frame of the granter's.
    pub fn maps_frame(&self, mapper: DomId, granter: DomId, frame: Mfn) -> bool {
        self.maps(mapper).any(|(_, mapping)| {
            let active = self.tables.get(&mapping.granter).and_then(|table| table.active.get(&mapping.reference));
            mapping.granter == granter && active.is_some_and(|active| active.frame == frame)
        })
    }

    /// Status frames that a change to version 2 needs. Errors: an entry behind the reserved ones is in use, so the version cannot change.
    pub fn prepare_version(&self, id: DomId, version: Version) -> Result<u32, GrantError> {
        let table = self.table(id)?;
        if table.active.range(NR_RESERVED_ENTRIES..).next().is_some() {
            return Err(GrantError::Again);
        }
        Ok(table.wanting(version, 0).status)
    }

    /// Changes the version, for which [`GrantTables::prepare_version`] was asked and given its status frames. The reserved entries are carried over,
    /// everything else is empty; the status frames that are not needed any more.
    pub fn set_version<M: PhysMem>(
        &mut self,
        mem: &M,
        id: DomId,
        version: Version,
        status: &[Mfn],
    ) -> Result<Vec<Mfn>, GrantError> {
        self.grow(id, &[], status)?;
        let table = self.table_mut(id)?;
        let places = |table: &Table, version| {
            core::array::from_fn::<_, { NR_RESERVED_ENTRIES as usize }, _>(|i| table.place_in(version, i as u32))
        };
        let kept = places(table, table.version).map(|place| place.map_or(0, |place| place.read_common(mem)));
        for frame in table.shared.iter().chain(&table.status) {
            mem.zero(frame.maddr(), PAGE_SIZE);
        }
        table.version = version;
        for (place, common) in places(table, version).into_iter().zip(kept) {
            if let Some(place) = place {
                place.write_common(mem, common);
            }
        }
        match version {
            Version::V1 => Ok(core::mem::take(&mut table.status)),
            Version::V2 => Ok(Vec::new()),
        }
    }

    /// Swaps two entries, neither of which may be in use.
    pub fn swap<M: PhysMem>(&mut self, mem: &M, id: DomId, a: u32, b: u32) -> Result<(), GrantError> {
        let table = self.table_mut(id)?;
        let [at_a, at_b] = [a, b].map(|reference| table.place(reference));
        let (at_a, at_b) = (at_a.ok_or(GrantError::BadRef)?, at_b.ok_or(GrantError::BadRef)?);
        if a == b {
            return Ok(());
        }
        if table.active.contains_key(&a) || table.active.contains_key(&b) {
            return Err(GrantError::Again);
        }
        at_a.swap(at_b, mem);
        Ok(())
    }
}

/// The leaf of a mapping as the hypervisor writes it, before the fix-ups of all leaves.
pub const fn leaf(frame: Mfn, flags: u32) -> u64 {
    use crate::mm::types::entry::{ACCESSED, AVAIL, DIRTY, PRESENT, RW, USER};
    let mut entry = frame.maddr().get() | PRESENT | ACCESSED | DIRTY;
    if flags & gntmap::APPLICATION_MAP != 0 {
        entry |= USER;
    }
    if flags & gntmap::READONLY == 0 {
        entry |= RW;
    }
    entry | ((flags >> gntmap::GUEST_AVAIL_SHIFT) as u64) << 9 & AVAIL
}
