//! The hypervisor's own page tables: direct map, image, local APIC, and the slots that every guest L4 shares.
//!
//! | L4 slot | what |
//! |---|---|
//! | 256 | M2P, read-only for guests |
//! | 260 | the domain's own: GDT and LDT of each vCPU |
//! | 261 | image at 0xffff82d0_40000000, local APIC at 0xffff82d0_80000000 |
//! | 262 to 271 | direct map |
//!
//! All tables but the domains' slot 260 live in the region: they are as disposable as the build that made them.

use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, Maddr, Mfn, MfnRange, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use crate::x86::directmap::{DIRECTMAP_VA, DirectMap};
use crate::x86::{apic, traps};
use x86_64::PhysAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const RW: u64 = 1 << 1;
/// Accessible to ring 3.
pub const US: u64 = 1 << 2;
/// Cache disabled and write-through: uncached.
pub const UC: u64 = 3 << 3;
/// Accessed and dirty.
pub const AD: u64 = 3 << 5;
/// Large page.
pub const PS: u64 = 1 << 7;
/// Not executable.
pub const NX: u64 = 1 << 63;
/// Machine address in an entry.
pub const ADDR: u64 = 0x000f_ffff_ffff_f000;

/// First L4 slot of the hypervisor.
pub const FIRST_SLOT: usize = 256;
/// L4 slots of the hypervisor.
pub const NR_SLOTS: usize = 16;
/// Slot of a domain's own area.
pub const PERDOMAIN_SLOT: usize = 260;
/// Address of slot 260.
pub const PERDOMAIN_VA: u64 = 0xffff_8200_0000_0000;
/// Pages of a vCPU in the per-domain area: 16 for the GDT, 16 for the LDT.
pub const VCPU_AREA_PAGES: u64 = 32;
/// Address of the M2P for guests.
pub const M2P_VA: u64 = 0xffff_8000_0000_0000;

const GIB: u64 = 1 << 30;

/// Index into the table of `level` (1 to 4) for an address.
pub const fn index(va: u64, level: u32) -> u64 {
    (va >> (12 + 9 * (level - 1))) & 511
}

/// The entry of `table` at `index`.
pub fn entry_at(table: Mfn, index: u64) -> Maddr {
    table.maddr().offset(index * 8)
}

/// Tables that a caller-given source of zeroed frames grows.
pub struct Builder<F> {
    take: F,
}

impl<F: FnMut() -> Option<Mfn>> Builder<F> {
    /// A builder that takes zeroed frames from `take`.
    pub fn new(take: F) -> Self {
        Self { take }
    }

    /// A fresh table.
    pub fn table(&mut self) -> Option<Mfn> {
        (self.take)()
    }

    fn descend(&mut self, table: Mfn, index: u64, flags: u64) -> Option<Mfn> {
        let at = entry_at(table, index);
        let found = DirectMap.read_u64(at);
        if found & P != 0 {
            DirectMap.write_u64(at, found | flags);
            return Some(Maddr::new(found & ADDR).mfn_containing());
        }
        let next = self.table()?;
        DirectMap.write_u64(at, next.maddr().get() | flags);
        Some(next)
    }

    /// The table of `level` above which `va` is mapped; those above it get `P | RW | flags & US`.
    fn table_for(&mut self, l4: Mfn, va: u64, level: u32, flags: u64) -> Option<Mfn> {
        let table_flags = P | RW | AD & (1 << 5) | flags & US;
        let mut table = l4;
        for l in (level + 1..=4).rev() {
            table = self.descend(table, index(va, l), table_flags)?;
        }
        Some(table)
    }

    /// Maps one page of 4 KiB (`level` 1), 2 MiB (2) or 1 GiB (3); the tables above get `P | RW | flags & US`.
    pub fn map(&mut self, l4: Mfn, va: u64, to: Maddr, level: u32, flags: u64) -> Option<()> {
        let table = self.table_for(l4, va, level, flags)?;
        let large = if level > 1 { PS } else { 0 };
        DirectMap.write_u64(entry_at(table, index(va, level)), to.get() | flags | P | large);
        Some(())
    }

    /// Maps whole chunks in pages of 2 MiB, with flags as for [`Self::map`].
    pub fn map_chunks(&mut self, l4: Mfn, va: u64, to: MfnRange, flags: u64) -> Option<()> {
        self.map_run(l4, va, to.first()?.maddr(), to.nr_frames() / CHUNK_FRAMES, 2, flags)
    }

    /// Maps `nr_pages` pages in a row, table by table.
    fn map_run(&mut self, l4: Mfn, va: u64, to: Maddr, nr_pages: u64, level: u32, flags: u64) -> Option<()> {
        let page_len = PAGE_SIZE << (9 * (level - 1));
        let large = if level > 1 { PS } else { 0 };
        let mut done = 0;
        while done < nr_pages {
            let va = va + done * page_len;
            let table = self.table_for(l4, va, level, flags)?;
            let first = index(va, level);
            let here = (nr_pages - done).min(512 - first);
            let mut entry = (to.get() + done * page_len) | flags | P | large;
            for i in first..first + here {
                DirectMap.write_u64(entry_at(table, i), entry);
                entry += page_len;
            }
            done += here;
        }
        Some(())
    }
}

/// Builds the hypervisor's L4: direct map of `[0, ram_end)`, image, local APIC. `None` if frames run out.
pub fn build(take: impl FnMut() -> Option<Mfn>, ram_end: u64, image: Maddr, gib_pages: bool) -> Option<Mfn> {
    let mut b = Builder::new(take);
    let l4 = b.table()?;
    let rw = RW | AD | NX;
    // The last, partial GiB is mapped in pages of 2 MiB, so that no more than needed of what lies above RAM is mapped cacheable.
    let in_gibs = if gib_pages { ram_end / GIB * GIB } else { 0 };
    b.map_run(l4, DIRECTMAP_VA, Maddr::new(0), in_gibs / GIB, 3, rw)?;
    let rest = ram_end.saturating_sub(in_gibs).div_ceil(CHUNK_SIZE);
    b.map_run(l4, DIRECTMAP_VA + in_gibs, Maddr::new(in_gibs), rest, 2, rw)?;
    let [start, rodata, data, end] = traps::image_parts();
    let mut va = start;
    for (part_end, flags) in [(rodata, AD), (data, AD | NX), (end, rw)] {
        let nr_pages = part_end.saturating_sub(va).div_ceil(PAGE_SIZE);
        b.map_run(l4, va, image.offset(va - start), nr_pages, 1, flags)?;
        va += nr_pages * PAGE_SIZE;
    }
    b.map(l4, apic::APIC_VA, Maddr::new(apic::base_maddr()), 1, rw | UC)?;
    Some(l4)
}

/// Loads an L4.
#[expect(unsafe_code, reason = "changes the address space")]
pub fn load(l4: Mfn) {
    let frame = PhysFrame::containing_address(PhysAddr::new(l4.maddr().get()));
    // SAFETY: every L4 that is loaded has the hypervisor's slots filled from the template of `build`.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
}

/// Forgets all translations of this CPU (none is global).
pub fn flush_all() {
    tlb::flush_all();
}

/// Forgets the translation of one page.
pub fn flush_page(va: u64) {
    tlb::flush(x86_64::VirtAddr::new_truncate(va));
}

/// The entries of slots 256 to 271 of an L4.
pub fn hypervisor_slots(l4: Mfn) -> [u64; NR_SLOTS] {
    core::array::from_fn(|i| DirectMap.read_u64(entry_at(l4, (FIRST_SLOT + i) as u64)))
}
