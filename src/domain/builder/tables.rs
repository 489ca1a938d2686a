//! The boot page tables: how many there are, where they lie, what is in them.
//!
//! Two spans of virtual memory may be mapped: the boot mapping, and the p2m list where INIT_P2M puts it. Each brings
//! its own tables, [L4][L3s][L2s][L1s] one after the other; the second span needs only those that the first does not
//! have. A table is named by its level and its index, the virtual address divided by what such a table spans.

use super::memory::Memory;
use crate::frame::{Mfn, PAGE_SHIFT};
use crate::mm::physmem::PhysMem;
use crate::xen::hypercall::pv::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START};

/// Present, writable, accessed: what Xen's toolstack gives an L1 entry. The hypervisor adds the user bit on validation.
const L1_FLAGS: u64 = 0x23;
/// Present, writable, user, accessed, dirty: an entry of a higher table.
const TABLE_FLAGS: u64 = 0x67;
const WRITABLE: u64 = 2;

/// Entries of a table.
const ENTRIES: u64 = 512;
/// First L4 slot of the hypervisor.
const HYPERVISOR_SLOT: usize = (HYPERVISOR_VIRT_START >> 39 & 511) as usize;
/// L4 slots of the hypervisor.
pub(super) const NR_HYPERVISOR_SLOTS: usize = 16;

const _: () = assert!((HYPERVISOR_VIRT_END - HYPERVISOR_VIRT_START) >> 39 == NR_HYPERVISOR_SLOTS as u64);

/// Pages mapped to frames that follow each other in the domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Virtual address >> 12, 36 bits of it.
    first: u64,
    /// Pages that tables are made for, at least one.
    nr_pages: u64,
    /// Pages that are mapped, from the first on.
    nr_mapped: u64,
    /// Frame of the first.
    pfn: u64,
}

impl Span {
    /// The span at `[start, end)`, both page-aligned, if a guest may map all of it.
    pub(super) fn try_new(start: u64, end: u64, pfn: u64, nr_mapped: u64) -> Option<Self> {
        // Neither the hole in the middle nor the hypervisor's part may be touched.
        let is_guests = end <= 1 << 47 || start >= HYPERVISOR_VIRT_END;
        let nr_pages = end.checked_sub(start)? >> PAGE_SHIFT;
        let first = start >> PAGE_SHIFT & ((1 << 36) - 1);
        (is_guests && nr_pages != 0).then_some(Self { first, nr_pages, nr_mapped, pfn })
    }

    /// Indices of the first and last table of a level.
    fn tables(&self, level: usize) -> (u64, u64) {
        (self.first >> (9 * level), (self.first + self.nr_pages - 1) >> (9 * level))
    }
}

/// Tables of one level with indices that follow each other, in pages that do so too.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    first: u64,
    count: u64,
    pfn: u64,
}

/// A span with the tables that are its own.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    span: Span,
    /// By level - 1.
    runs: [Run; 4],
    /// First page of the tables.
    pfn: u64,
    nr_tables: u64,
}

impl Mapped {
    /// Counts the tables of `span` that `other` does not have, and gives them pages from `pfn` on.
    fn new(span: Span, pfn: u64, other: Option<&Span>) -> Self {
        let mut runs = [Run::default(); 4];
        let mut next = pfn;
        for level in (1..=4).rev() {
            let (first, last) = span.tables(level);
            // The other span is the higher one, so what both have is at this one's end.
            let end = match other {
                Some(other) => (last + 1).min(other.tables(level).0),
                None => last + 1,
            };
            let count = end.saturating_sub(first);
            runs[level - 1] = Run { first, count, pfn: next };
            next += count;
        }
        Self { span, runs, pfn, nr_tables: next - pfn }
    }

    fn has_table_at(&self, pfn: u64) -> bool {
        (self.pfn..self.pfn + self.nr_tables).contains(&pfn)
    }
}

/// All boot page tables of a domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    boot: Mapped,
    p2m: Option<Mapped>,
}

impl Tables {
    /// Tables for the boot mapping, in pages from `pfn` on.
    pub(super) fn new(boot: Span, pfn: u64) -> Self {
        Self { boot: Mapped::new(boot, pfn, None), p2m: None }
    }

    /// Adds the p2m list's mapping, which lies below the boot mapping, with its tables in pages from `pfn` on. Returns
    /// how many they are.
    pub(super) fn add_p2m(&mut self, span: Span, pfn: u64) -> u64 {
        let mapped = Mapped::new(span, pfn, Some(&self.boot.span));
        self.p2m = Some(mapped);
        mapped.nr_tables
    }

    /// Tables of the boot mapping.
    pub(super) fn nr_boot(&self) -> u64 {
        self.boot.nr_tables
    }

    fn mapped(&self) -> impl Iterator<Item = &Mapped> {
        [Some(&self.boot), self.p2m.as_ref()].into_iter().flatten()
    }

    /// Writes all tables; the L4. `scratch` holds a page.
    pub(super) fn write(
        &self,
        mem: &impl PhysMem,
        memory: &Memory<'_>,
        slots: &[u64; NR_HYPERVISOR_SLOTS],
        scratch: &mut [u8],
    ) -> Mfn {
        for (mapped, level) in self.mapped().flat_map(|m| (1..=4).map(move |level| (m, level))) {
            let run = mapped.runs[level - 1];
            for i in 0..run.count {
                scratch.fill(0);
                let (table, _) = scratch.as_chunks_mut::<8>();
                match level {
                    1 => self.fill_l1(table, run.first + i, memory),
                    _ => self.fill_upper(table, level, run.first + i, memory),
                }
                if level == 4 {
                    for (entry, slot) in table[HYPERVISOR_SLOT..].iter_mut().zip(slots) {
                        *entry = slot.to_le_bytes();
                    }
                }
                mem.write(memory.mfn(run.pfn + i).maddr(), scratch);
            }
        }
        memory.mfn(self.boot.runs[3].pfn)
    }

    fn fill_l1(&self, table: &mut [[u8; 8]], index: u64, memory: &Memory<'_>) {
        for mapped in self.mapped() {
            let span = &mapped.span;
            fill(table, index, (span.first, span.nr_mapped, span.pfn), memory, |pfn| {
                // A guest must not be able to write its own page tables.
                if self.mapped().any(|m| m.has_table_at(pfn)) { L1_FLAGS & !WRITABLE } else { L1_FLAGS }
            });
        }
    }

    fn fill_upper(&self, table: &mut [[u8; 8]], level: usize, index: u64, memory: &Memory<'_>) {
        for mapped in self.mapped() {
            let below = mapped.runs[level - 2];
            fill(table, index, (below.first, below.count, below.pfn), memory, |_| TABLE_FLAGS);
        }
    }
}

/// Fills the entries of a table that point into `(first, count, pfn)`: things numbered from `first` on, in pages from
/// `pfn` on.
fn fill(
    table: &mut [[u8; 8]],
    index: u64,
    (first, count, pfn): (u64, u64, u64),
    memory: &Memory<'_>,
    flags: impl Fn(u64) -> u64,
) {
    let mut at = first.max(index * ENTRIES);
    let end = (first + count).min((index + 1) * ENTRIES);
    while at < end {
        let (mfn, nr_frames) = memory.run(pfn + (at - first));
        for i in 0..nr_frames.min(end - at) {
            let entry = mfn.offset(i).maddr().get() | flags(pfn + (at - first));
            table[(at % ENTRIES) as usize] = entry.to_le_bytes();
            at += 1;
        }
    }
}
