//! Where the attempts are made: a part of the address space with one page of each kind, page tables that are mapped to be read, and frames
//! that nothing uses.
//!
//! ```text
//!  AREA + 0 data, read-only    3 the level-1 table of all this, read-only    6 the spare level-4 table, read-only
//!       + 1 data               4 empty: attempts to map aim at it            7 code for user mode
//!       + 2 nothing            5 the level-2 table, read-only                8 a data page of its own for watching
//! ```
//!
//! The level-4 table that the guest was started on has two more entries: the area's, and one that names the table itself.

use luxen_guests::abi::{HYPERVISOR_SLOTS, PAGE_SIZE, op};
use luxen_guests::machine::hypercall::{self, write_entry};
use luxen_guests::machine::memory::{self, FramePool, fill};
use luxen_guests::machine::traps::probe_read;
use luxen_guests::pte;

/// The level-4 slot of the area, and of the table's own.
pub const AREA_SLOT: usize = 5;
pub const LINEAR_SLOT: usize = 6;
/// A slot of the boot table that stays empty between attempts.
pub const FREE_SLOT: usize = 8;
/// Where the area begins.
pub const AREA: u64 = (AREA_SLOT as u64) << 39;
/// Pages of the area.
pub const READ_ONLY: u64 = AREA;
pub const DATA: u64 = AREA + PAGE_SIZE;
pub const NOTHING: u64 = AREA + 2 * PAGE_SIZE;
pub const L1: u64 = AREA + 3 * PAGE_SIZE;
pub const EMPTY: u64 = AREA + 4 * PAGE_SIZE;
pub const L2: u64 = AREA + 5 * PAGE_SIZE;
pub const L4: u64 = AREA + 6 * PAGE_SIZE;
pub const CODE: u64 = AREA + 7 * PAGE_SIZE;
pub const WATCHED: u64 = AREA + 8 * PAGE_SIZE;
/// Index of the empty page's entry.
pub const EMPTY_INDEX: u64 = 4;
/// The guest's own kernel.
const KERNEL_SLOT: usize = 511;
/// `ud2`, four times.
const UD2: u64 = 0x0b0f_0b0f_0b0f_0b0f;

/// The frames.
pub struct Ground {
    /// The level-4 table that the guest runs on.
    pub boot: u64,
    /// A pinned one that it does not run on.
    pub l4: u64,
    pub l3: u64,
    pub l2: u64,
    pub l1: u64,
    /// The page that is mapped to be written.
    pub data: u64,
    /// A page of descriptors, in use as GDT.
    pub gdt: u64,
    /// Frames that nothing uses.
    pub loose: [u64; 4],
    /// A frame of the guest's own that it has told the hypervisor the last number of all for.
    pub odd: u64,
    /// A frame of another domain's, if the M2P knows one.
    pub foreign: Option<u64>,
    /// A frame of the M2P.
    pub m2p: u64,
    /// The highest frame that has RAM.
    pub last: u64,
}

impl Ground {
    /// Takes the frames and sets everything up.
    pub fn new() -> Ground {
        let mut pool = FramePool::new();
        let boot = memory::mfn_of(memory::start_info().pt_base);
        let mut take = || pool.take();
        let (l3, l2, l1, l4) = (take(), take(), take(), take());
        let (read_only, data, code, watched, gdt) = (take(), take(), take(), take(), take());
        let loose = [take(), take(), take(), take()];
        let odd = take();
        for mfn in [data, gdt, watched].into_iter().chain(loose) {
            fill(mfn, |_| 0);
        }
        // To be asked about: the guest's own port 1.
        fill(read_only, |index| if index == 0 { u64::from(op::DOMID_SELF) | 1 << 32 } else { 0 });
        fill(code, |_| UD2);
        fill(l1, |index| match index {
            0 => pte::entry(read_only, pte::READ_ONLY),
            1 => pte::entry(data, pte::DATA),
            3 => pte::entry(l1, pte::READ_ONLY),
            5 => pte::entry(l2, pte::READ_ONLY),
            6 => pte::entry(l4, pte::READ_ONLY),
            7 => pte::entry(code, pte::READ_ONLY),
            8 => pte::entry(watched, pte::DATA),
            _ => 0,
        });
        fill(l2, |index| if index == 0 { pte::entry(l1, pte::TABLE) } else { 0 });
        fill(l3, |index| if index == 0 { pte::entry(l2, pte::TABLE) } else { 0 });
        let kernel = boot_entry(KERNEL_SLOT);
        fill(l4, |index| match index {
            AREA_SLOT => pte::entry(l3, pte::TABLE),
            KERNEL_SLOT => kernel,
            _ => 0,
        });
        must(hypercall::mmuext(op::MMUEXT_PIN_L4, l4), "pin of the spare level-4 table");
        must(write_entry(boot_slot(AREA_SLOT), pte::entry(l3, pte::TABLE)), "the area's entry");
        must(write_entry(boot_slot(LINEAR_SLOT), pte::entry(boot, pte::READ_ONLY)), "a table's entry for itself");
        must(hypercall::set_gdt(&[gdt], 512), "set_gdt");
        must(hypercall::vm_assist(op::VMASST_ENABLE, op::VMASST_WRITABLE_PAGETABLES), "writable_pagetables");
        let last = memory::maximum_ram_page();
        let foreign = (1..last).find(|&mfn| memory::m2p(mfn) < 1 << 32 && !is_mine(mfn));
        Ground { boot, l4, l3, l2, l1, data, gdt, loose, odd, foreign, m2p: first_m2p_frame(), last }
    }

    /// Machine address of the empty page's entry.
    pub fn empty_entry(&self) -> u64 {
        self.l1 * PAGE_SIZE + EMPTY_INDEX * 8
    }

    /// Fails unless the tables of the area are as they were set up.
    pub fn check(&self) {
        for (va, expected) in [
            (L1 + 8, pte::entry(self.data, pte::DATA)),
            (L1 + 2 * 8, 0),
            (L1 + EMPTY_INDEX * 8, 0),
            (L1 + 3 * 8, pte::entry(self.l1, pte::READ_ONLY)),
            (L2, pte::entry(self.l1, pte::TABLE)),
            (L2 + 8, 0),
            (L4 + AREA_SLOT as u64 * 8, pte::entry(self.l3, pte::TABLE)),
            (L4 + FREE_SLOT as u64 * 8, 0),
        ] {
            let found = read(va);
            assert!(pte::is_same(found, expected), "the entry at {va:#x} is {found:#x}, not {expected:#x}");
        }
        for slot in HYPERVISOR_SLOTS.map(|slot| L4 + slot as u64 * 8) {
            let (found, own) = (read(slot), probe_read(slot - L4 + linear_l4()));
            assert!(own == Ok(found), "slot at {slot:#x} is {found:#x} in one table, {own:x?} in another");
        }
    }
}

/// Where the level-4 table that the guest runs on can be read, by its entry for itself.
pub fn linear_l4() -> u64 {
    let slot = LINEAR_SLOT as u64;
    slot << 39 | slot << 30 | slot << 21 | slot << 12
}

/// An address that leads through that entry into the hypervisor's own page tables: slot 261, and there the table of its image.
pub fn through_linear() -> u64 {
    (LINEAR_SLOT as u64) << 39 | 261 << 30 | 321 << 21
}

/// Fails unless the hypervisor agreed.
pub fn must(outcome: hypercall::Outcome, what: &str) {
    if let Err(errno) = outcome {
        panic!("{what} was refused with {errno}");
    }
}

/// A word that is mapped.
pub fn read(va: u64) -> u64 {
    probe_read(va).unwrap_or_else(|fault| panic!("{va:#x} cannot be read: {fault:x?}"))
}

/// Machine address of a slot of the level-4 table that the guest runs on.
pub fn boot_slot(slot: usize) -> u64 {
    memory::boot_l4_entry(slot)
}

fn boot_entry(slot: usize) -> u64 {
    read(memory::start_info().pt_base + slot as u64 * 8)
}

/// Whether a frame is the guest's own, or shared with it.
pub fn is_mine(mfn: u64) -> bool {
    let pfn = memory::m2p(mfn) as usize;
    memory::p2m().get(pfn).is_some_and(|_| memory::mfn(pfn as u64) == mfn)
        || mfn == memory::start_info().shared_info / PAGE_SIZE
}

/// `machphys_mfn_list`: {u32 max, pointer, u32 found}.
fn first_m2p_frame() -> u64 {
    let mut list = [0u64; 1];
    let mut argument = [1, list.as_mut_ptr() as u64, 0];
    must(hypercall::memory_op(op::XENMEM_MACHPHYS_MFN_LIST, &mut argument), "machphys_mfn_list");
    list[0]
}
