//! A made-up machine for the engine, and an oracle that counts its references anew from the page tables alone: for tests and fuzzing on a host.
//!
//! The oracle is written from XEN.md §4.4 with constants of its own. It starts at what the test itself pinned and based, walks
//! every table, and says for each frame what its counts must be.

use super::{Access, DomainView, Effects, PageTypes, TypeError};
use super::{Root, each_root};
use crate::frame::{CHUNK_FRAMES, DomId, Mfn, MfnRange};
use crate::mm::marks::Marks;
use crate::mm::page_info::{CountFlags, NoPage, PageInfo, PageLookup, PageType, TypeFlags};
use crate::mm::physmem::PhysMem;
use crate::mm::physmem::sparse::SparseMem;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cell::RefCell;

/// The domain.
pub const D1: DomId = DomId::new(1);
/// Another domain.
pub const D2: DomId = DomId::new(2);

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const W: u64 = 2;
/// For user mode.
pub const U: u64 = 4;

/// Frames of domain 1. By convention 0 to 3 become level-1 tables, 4 to 6 level 2, 7 to 9 level 3, 10 to 13 level 4.
pub const NR_OWN: u64 = 26;
/// A frame of domain 2.
pub const FOREIGN: u64 = 26;
/// A frame of the hypervisor that guests may read, as the M2P.
pub const M2P: u64 = 27;
/// A frame inside RAM that is none.
pub const IO: u64 = 28;
/// A frame that is shared with domain 1 for reading only.
pub const SHARED_RO: u64 = 29;
/// From here on frames are in the region: they have no record that a guest could refer to.
pub const REGION: u64 = 30;
/// From here on there is no RAM.
pub const NO_RAM: u64 = 32;

/// What the hypervisor's slots hold.
pub const TEMPLATE: [u64; 16] = {
    let mut slots = [0; 16];
    let mut i = 0;
    while i < 16 {
        slots[i] = 0x7_0000_0063 + ((i as u64) << 12);
        i += 1;
    }
    slots
};

/// Frames with records, and which were freed.
pub struct Frames {
    /// The records, of a whole chunk: those of frames in the region and of what is no RAM are never written.
    pub infos: Vec<PageInfo>,
    /// Which of them are marked.
    pub marks: Marks,
    /// Frames that have gone back to the heap.
    pub freed: RefCell<Vec<u64>>,
}

impl Frames {
    fn at_start() -> Self {
        let infos: Vec<PageInfo> = (0..CHUNK_FRAMES).map(|_| PageInfo::uninitialised()).collect();
        for info in &infos[..NR_OWN as usize] {
            info.assign(D1, CountFlags::empty());
        }
        infos[FOREIGN as usize].assign(D2, CountFlags::empty());
        infos[M2P as usize].assign(DomId::XEN, CountFlags::XEN_HEAP);
        infos[IO as usize].assign(DomId::IO, CountFlags::empty());
        infos[SHARED_RO as usize].assign(D1, CountFlags::XEN_HEAP);
        for mfn in [M2P, SHARED_RO] {
            let shared = TypeFlags::VALIDATED.bits() | 1;
            infos[mfn as usize].type_info.store(shared, core::sync::atomic::Ordering::Relaxed);
        }
        Self { infos, marks: Marks::new(), freed: RefCell::new(Vec::new()) }
    }

    /// True if the frame has gone back to the heap.
    pub fn is_freed(&self, mfn: u64) -> bool {
        self.freed.borrow().contains(&mfn)
    }
}

impl PageLookup for Frames {
    fn page(&self, mfn: Mfn) -> Result<&PageInfo, NoPage> {
        match mfn.get() {
            n if n < REGION && !self.is_freed(n) => Ok(&self.infos[n as usize]),
            n if n < NO_RAM => Err(NoPage::NotOwned),
            _ => Err(NoPage::NotRam),
        }
    }

    /// All frames lie in one chunk, as those of a split one do.
    fn records(&self, chunk: u64) -> Option<&[PageInfo; CHUNK_FRAMES as usize]> {
        if chunk == 0 { self.infos.as_slice().try_into().ok() } else { None }
    }

    fn marks(&self, chunk: u64) -> Option<(&Marks, &[PageInfo; CHUNK_FRAMES as usize])> {
        Some((&self.marks, self.records(chunk)?))
    }

    fn free_page(&self, mfn: Mfn) {
        let info = &self.infos[mfn.get() as usize];
        assert_eq!(info.count(), 0, "freed with references");
        assert_eq!(info.type_count(), 0, "freed with type references");
        assert_eq!(info.linear_count(), 0, "freed with linear mappings");
        assert!(!self.is_freed(mfn.get()), "freed twice");
        self.freed.borrow_mut().push(mfn.get());
    }
}

/// The hypervisor's shared frames may be read.
pub fn may_map(_: Mfn, owner: DomId, access: Access) -> bool {
    owner == DomId::XEN && access == Access::Read
}

/// A machine, and what the test holds on it.
pub struct Guest {
    /// The frames' records.
    pub frames: Frames,
    /// What is in them.
    pub mem: SparseMem,
    /// Pinned tables and their levels.
    pub pins: BTreeMap<u64, u8>,
    /// Base pointers, as often as they were loaded.
    pub bases: Vec<u64>,
    /// Frames in use as descriptor tables.
    pub descriptors: Vec<u64>,
    /// Frames that the domain has given up.
    pub released: BTreeSet<u64>,
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// A machine without any table.
    pub fn new() -> Self {
        Self {
            frames: Frames::at_start(),
            mem: SparseMem::new(),
            pins: BTreeMap::new(),
            bases: Vec::new(),
            descriptors: Vec::new(),
            released: BTreeSet::new(),
        }
    }

    /// The engine, for domain 1.
    pub fn types(&self) -> PageTypes<'_, Frames, SparseMem> {
        let view = DomainView { id: D1, hypervisor_slots: &TEMPLATE, may_map: &may_map, has_hardware: false };
        PageTypes::new(&self.frames, &self.mem, view)
    }

    /// Whether a replay would start at the frame.
    pub fn root_of(&self, mfn: Mfn) -> Option<Root> {
        Root::of(self.frames.page(mfn).ok()?)
    }

    /// Writes an entry behind the engine's back: for frames without a type.
    pub fn poke(&self, table: u64, slot: u64, entry: u64) {
        self.mem.write_u64(Mfn::new(table).maddr().offset(slot * 8), entry);
    }

    /// An entry as it lies in memory.
    pub fn peek(&self, table: u64, slot: u64) -> u64 {
        self.mem.read_u64(Mfn::new(table).maddr().offset(slot * 8))
    }

    /// The smallest address space: L4 10, L3 7, L2 4, L1 0 translate addresses near 0, by their slots 0.
    pub fn with_tree() -> Self {
        let guest = Self::new();
        for (table, next) in [(10, 7), (7, 4), (4, 0)] {
            guest.poke(table, 0, next << 12 | P | W | U);
        }
        guest
    }

    /// Pins, and remembers it.
    pub fn pin(&mut self, mfn: u64, level: u8) -> Result<(), TypeError> {
        self.types().pin(Mfn::new(mfn), level)?;
        assert!(self.pins.insert(mfn, level).is_none());
        Ok(())
    }

    /// Unpins, and remembers it.
    pub fn unpin(&mut self, mfn: u64) -> Result<(), TypeError> {
        self.types().unpin(Mfn::new(mfn))?;
        self.pins.remove(&mfn).expect("it was pinned");
        Ok(())
    }

    /// Takes a base pointer, and remembers it.
    pub fn base(&mut self, mfn: u64) -> Result<(), TypeError> {
        self.types().get_base(Mfn::new(mfn))?;
        self.bases.push(mfn);
        Ok(())
    }

    /// MMU_NORMAL_PT_UPDATE of one entry.
    pub fn update(&self, table: u64, slot: u64, entry: u64) -> Result<bool, TypeError> {
        self.types().mmu_update((table << 12) + slot * 8, entry)
    }

    /// Type and type count of a frame.
    pub fn type_of(&self, mfn: u64) -> (PageType, u64) {
        let info = &self.frames.infos[mfn as usize];
        (info.page_type(), info.type_count())
    }

    /// Compares every record with what the tables say, and the roots found by marks with those found by looking at all frames.
    pub fn check(&self) {
        let mut found = Vec::new();
        each_root(&self.frames, MfnRange::new(Mfn::new(0), CHUNK_FRAMES), |mfn, root| found.push((mfn, root)));
        let roots = (0..NR_OWN).map(Mfn::new).filter_map(|mfn| Some((mfn, self.root_of(mfn)?)));
        assert_eq!(found, roots.collect::<Vec<_>>(), "roots that are marked, and all roots");
        let expected = self.count_references();
        for mfn in 0..REGION {
            if self.frames.is_freed(mfn) {
                assert!(!expected.contains_key(&mfn), "frame {mfn:#x} is free and referred to");
                continue;
            }
            let info = &self.frames.infos[mfn as usize];
            let want = expected.get(&mfn).copied().unwrap_or_default();
            let own = u64::from(!self.released.contains(&mfn));
            let shared = u64::from(mfn == M2P || mfn == SHARED_RO);
            assert_eq!(info.count(), want.general + own, "references of frame {mfn:#x}, {want:?}");
            assert_eq!(info.type_count(), want.typed + shared, "type references of frame {mfn:#x}, {want:?}");
            assert_eq!(info.linear_count(), want.linear, "linear mappings of frame {mfn:#x}, {want:?}");
            let flags = info.type_info.load(core::sync::atomic::Ordering::Relaxed);
            assert_eq!(flags & TypeFlags::LOCKED.bits(), 0, "frame {mfn:#x} is locked");
            assert_eq!(flags & TypeFlags::PARTIAL.bits(), 0, "frame {mfn:#x} is half validated");
            assert_eq!(flags & TypeFlags::PINNED.bits() != 0, self.pins.contains_key(&mfn), "pin of frame {mfn:#x}");
            let is_validated = flags & TypeFlags::VALIDATED.bits() != 0;
            if want.typed != 0 {
                assert_eq!(Some(info.page_type() as u8), want.ty, "type of frame {mfn:#x}");
                assert!(is_validated, "frame {mfn:#x} is not validated");
            } else if (1..=4).contains(&(info.page_type() as u8)) {
                assert!(!is_validated, "frame {mfn:#x} is validated without a reference");
            }
        }
    }

    /// What must be referred to, from nothing but the roots and memory.
    fn count_references(&self) -> BTreeMap<u64, Expected> {
        let mut all = BTreeMap::new();
        let mut to_visit = Vec::new();
        for (mfn, level) in &self.pins {
            refer(&mut all, &mut to_visit, *mfn, Some(*level));
        }
        for mfn in &self.bases {
            refer(&mut all, &mut to_visit, *mfn, Some(4));
        }
        for mfn in &self.descriptors {
            refer(&mut all, &mut to_visit, *mfn, Some(5));
        }
        let mut visited = BTreeSet::new();
        while let Some((table, level)) = to_visit.pop() {
            if !visited.insert(table) {
                continue;
            }
            let mut bytes = [0; 4096];
            self.mem.read(Mfn::new(table).maddr(), &mut bytes);
            for (slot, entry) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let (slot, entry) = (slot as u64, u64::from_le_bytes(*entry));
                if level == 4 && (256..272).contains(&slot) {
                    assert_eq!(entry, TEMPLATE[slot as usize - 256], "slot {slot} of table {table:#x}");
                    continue;
                }
                if entry & 1 == 0 {
                    continue;
                }
                assert_ne!(entry & 4, 0, "entry {entry:#x} of table {table:#x} was not fixed up");
                let next = entry << 12 >> 24;
                if level == 1 {
                    if next < REGION && next != IO {
                        let ty = if entry & 2 != 0 { Some(7) } else { None };
                        refer(&mut all, &mut to_visit, next, ty);
                    }
                } else if next != table {
                    // Whether a mapping is linear cannot be seen in memory.
                    let is_linear = self.frames.infos[next as usize].page_type() as u8 == level;
                    refer(&mut all, &mut to_visit, next, Some(if is_linear { level } else { level - 1 }));
                    if is_linear {
                        assert_eq!(entry & 2, 0, "linear mapping with write permission");
                        all.entry(table).or_default().linear += 1;
                        all.entry(next).or_default().linear -= 1;
                    }
                } else {
                    assert_eq!(entry & 2, 0, "linear mapping with write permission");
                }
            }
        }
        all
    }

    /// Drops what the vCPUs would hold, then ends the domain, page by page in the order given.
    pub fn relinquish(&mut self, order: &[u64]) {
        let types = self.types();
        for mfn in &self.bases {
            types.put_base(Mfn::new(*mfn));
        }
        for mfn in &self.descriptors {
            types.put_page_and_type(Mfn::new(*mfn));
        }
        for mfn in order {
            if !self.frames.is_freed(*mfn) {
                types.relinquish_page(Mfn::new(*mfn)).expect("the page is the domain's");
            }
        }
        let mut freed = self.frames.freed.borrow().clone();
        freed.sort_unstable();
        assert_eq!(freed, (0..NR_OWN).collect::<Vec<u64>>(), "every page once");
        for mfn in [FOREIGN, M2P, IO, SHARED_RO] {
            assert_eq!(self.frames.infos[mfn as usize].count(), 1, "references left on frame {mfn:#x}");
        }
        assert_eq!(types.take_effects() & Effects::FLUSH_TLB, Effects::FLUSH_TLB);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    general: u64,
    typed: u64,
    ty: Option<u8>,
    linear: i32,
}

/// One reference more on a frame: general, and of a type if one is given.
fn refer(all: &mut BTreeMap<u64, Expected>, to_visit: &mut Vec<(u64, u8)>, mfn: u64, ty: Option<u8>) {
    let of = all.entry(mfn).or_default();
    of.general += 1;
    if let Some(ty) = ty {
        of.typed += 1;
        assert!(of.ty.is_none_or(|before| before == ty), "frame {mfn:#x} is of types {:?} and {ty}", of.ty);
        of.ty = Some(ty);
        if ty <= 4 {
            to_visit.push((mfn, ty));
        }
    }
}
