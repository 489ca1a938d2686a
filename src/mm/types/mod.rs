//! Page types: what each frame of a PV domain may be used as, exclusively, while it is used so.
//!
//! A PV guest writes its own page tables, through the hypervisor. What keeps it from giving itself any memory it likes is that a frame
//! has one type at a time: as long as it is a page table or a descriptor table nobody can write to it, and whoever wants to make it one has its contents
//! checked first. The rules, bits and errnos are Xen's (XEN.md §4.1 to §4.4), so that its guests find what they know.
//!
//! ```text
//!   pin, CR3 ──▶ L4 ──▶ L3 ──▶ L2 ──▶ L1 ──┬─ RW leaf ─▶ Writable        every arrow: one general and
//!                 ╰┈┈▶ L4 (linear, RO)     ╰─ RO leaf ─▶ any type        one type reference; RO leaf:
//!                                                                        the general one only
//! ```
//!
//! Invariants:
//!
//! - **T1** A frame's type changes only while its type count is 0.
//! - **T2** A frame with a type count above 0 is validated for its type, or one caller is just validating it.
//! - **T3** A validated table holds exactly the references that its present entries stand for, and no others; a table that
//!   loses its last type reference gives them back at once.
//! - **T4** Slots 256 to 271 of a validated level-4 table are the hypervisor's and hold what the domain's template says; slot 256, the
//!   M2P, may be empty in a table for user programs.
//! - **T5** A table that has entries naming other tables of its own level is not itself named so (an entry that names its own table is free).
//! - **T6** Every type reference comes with a general one, so a frame is never freed while it has a type in use.
//! - **T7** What an operation that fails had taken is given back, and memory is as before but for the fix-ups.
//!
//! Everything here is pure: memory is reached through [`PhysMem`], records through [`PageLookup`]. A [`PageTypes`] is made for one domain and one hypercall (or
//! one domain's restore); what the caller must do for the CPU's caches afterwards collects in its [`Effects`], also when
//! an operation fails. Within a call the work is bounded by the tables below the one that it touches. Validation is not preempted: the bit
//! `PARTIAL` is never set, and a loop that wanted to stop would find its place in `validate` alone.
//!
//! Lock order: at most one table is locked (`TypeFlags::LOCKED`) at a time, and taking or dropping a reference locks nothing.

mod descriptor;
pub mod entry;
mod error;
mod grants;
#[cfg(not(target_os = "none"))]
pub mod model;
mod refs;
mod roots;
mod tables;
mod update;
mod walk;

#[cfg(test)]
mod tests;

pub use descriptor::{FIRST_RESERVED_GDT_ENTRY, GUEST_GDT_PAGES, check_descriptor};
pub use error::TypeError;
pub use grants::{LeafPlace, LooseLeaf};
pub use roots::{Root, each_root};
pub use update::Preserve;
pub use walk::{Leaf, WalkFault, walk};

use crate::frame::{DomId, Mfn};
use crate::mm::page_info::{PageInfo, PageLookup};
use crate::mm::physmem::PhysMem;
use bitflags::bitflags;
use core::cell::Cell;
use entry::NR_HYPERVISOR_SLOTS;

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads.
    Read,
    /// Reads and writes.
    Write,
}

/// What the engine has to know about the domain whose tables it works on.
#[derive(Clone, Copy)]
pub struct DomainView<'a> {
    /// Its number; the tables and what they map are its own.
    pub id: DomId,
    /// What slots 256 to 271 of its level-4 tables hold.
    pub hypervisor_slots: &'a [u64; NR_HYPERVISOR_SLOTS as usize],
    /// Whether a leaf may map a frame that is not the domain's: the frame, its owner ([`DomId::IO`] for all that is not RAM), and how.
    /// The answer is needed only once: dropping the mapping does not ask.
    pub may_map: &'a dyn Fn(Mfn, DomId, Access) -> bool,
    /// Whether the domain has hardware of its own, and so may choose cache attributes for frames that are not RAM.
    pub has_hardware: bool,
}

bitflags! {
    /// What the caller must do before the domain runs again.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Effects: u8 {
        /// Flush the domain's TLBs wherever they may be: a frame changed its type or was freed, and an old translation could still reach it.
        const FLUSH_TLB = 1 << 0;
        /// Drop the domain's mapped LDT pages and their references: the guest took away its own mapping of a
        /// descriptor page and may want it for something else.
        const DROP_LDT = 1 << 1;
    }
}

/// What validation looked at, for the report of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tables validated, of all levels.
    pub tables: u64,
    /// Present leaf entries visited.
    pub leaves: u64,
}

/// The page-type engine at work for one domain.
pub struct PageTypes<'a, L, M> {
    pages: &'a L,
    mem: &'a M,
    domain: DomainView<'a>,
    effects: Cell<Effects>,
    stats: Cell<Stats>,
    /// While references are replayed after an update: a bit for each level of which the target of a linear mapping is just being validated.
    replay: Cell<Option<u8>>,
}

/// A table that the caller holds a reference on.
#[derive(Clone, Copy)]
struct Table<'p> {
    mfn: Mfn,
    page: &'p PageInfo,
    level: u8,
}

impl<'a, L: PageLookup, M: PhysMem> PageTypes<'a, L, M> {
    /// The engine for one domain, with no effects and no statistics yet.
    pub const fn new(pages: &'a L, mem: &'a M, domain: DomainView<'a>) -> Self {
        Self {
            pages,
            mem,
            domain,
            effects: Cell::new(Effects::empty()),
            stats: Cell::new(Stats { tables: 0, leaves: 0 }),
            replay: Cell::new(None),
        }
    }

    /// What the caller must do before the domain runs again, and forgets it. To be asked after success and failure alike.
    #[must_use = "a guest that runs on with stale translations can reach memory that it lost"]
    pub fn take_effects(&self) -> Effects {
        self.effects.take()
    }

    /// What was validated since the engine was made.
    pub const fn stats(&self) -> Stats {
        self.stats.get()
    }

    fn note(&self, effects: Effects) {
        self.effects.set(self.effects.get() | effects);
    }

    fn count_table(&self, leaves: u64) {
        let Stats { tables, leaves: before } = self.stats.get();
        self.stats.set(Stats { tables: tables.saturating_add(1), leaves: before.saturating_add(leaves) });
    }
}
