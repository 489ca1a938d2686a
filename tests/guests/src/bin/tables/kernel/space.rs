//! One address space: a kernel L4 (the user part and the kernel's own slot), a user L4 (the user part only), and the tables
//! of the user part, which both share.
//!
//! ```text
//! kernel L4 ─ slot 511 ─ the boot tables' L3        user part: L3 ─ L2 ─ L1 ─ 0 code    (read only)
//!           └ slot 0 ─┬─ user part                                          ├ 1 stack
//! user L4   ─ slot 0 ─┘                                                     ├ 2 data
//!                                                                           └ 3 absent until the program touches it
//! ```

use luxen_guests::abi::{HYPERVISOR_SLOTS, PAGE_SIZE, op};
use luxen_guests::machine::hypercall;
use luxen_guests::machine::memory::{self, FramePool, Window, fill};
use luxen_guests::machine::traps::probe_read;
use luxen_guests::pte;

use super::granted;

/// Where the user part begins: L4 slot 0, L3 index 64.
pub const USER_BASE: u64 = 64 << 30;
/// Indices into the L1, and pages from [`USER_BASE`] on.
pub const CODE: u64 = 0;
/// The user program's stack.
pub const STACK: u64 = 1;
/// Its counter (word 0) and the space's number (word 1).
pub const DATA: u64 = 2;
/// The page that faults.
pub const LAZY: u64 = 3;
/// An L1 index that stays empty; the refusals aim at it.
pub const EMPTY: u64 = 5;

const KERNEL_SLOT: usize = 511;

/// The frames of a space.
#[derive(Clone)]
pub struct Frames {
    kernel_l4: u64,
    user_l4: u64,
    l3: u64,
    l2: u64,
    l1: u64,
    stack: u64,
    data: u64,
}

impl Frames {
    /// Takes them out of the pool.
    pub fn take(pool: &mut FramePool) -> Frames {
        Frames {
            kernel_l4: pool.take(),
            user_l4: pool.take(),
            l3: pool.take(),
            l2: pool.take(),
            l1: pool.take(),
            stack: pool.take(),
            data: pool.take(),
        }
    }

    fn tables(&self) -> [u64; 5] {
        [self.kernel_l4, self.user_l4, self.l3, self.l2, self.l1]
    }
}

/// A pinned address space.
pub struct Space {
    frames: Frames,
    code: u64,
    kernel_l3: u64,
    number: u64,
    counter: u64,
    is_lazy_mapped: bool,
}

impl Space {
    /// Builds and pins it.
    pub fn build(frames: Frames, code: u64, number: u64) -> Space {
        let kernel_l3 = pte::frame(read_boot_l4(KERNEL_SLOT));
        let space = Space { frames, code, kernel_l3, number, counter: number << 8, is_lazy_mapped: false };
        fill(space.frames.stack, |_| 0);
        fill(space.frames.data, |index| space.data_word(index));
        for table in space.frames.tables() {
            fill(table, |index| space.entry(table, index));
        }
        granted(hypercall::mmuext(op::MMUEXT_PIN_L4, space.frames.kernel_l4), "pin of a kernel L4");
        granted(hypercall::mmuext(op::MMUEXT_PIN_L4, space.frames.user_l4), "pin of a user L4");
        space.check();
        space
    }

    fn data_word(&self, index: usize) -> u64 {
        match index {
            0 => self.counter,
            1 => self.number,
            _ => self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64),
        }
    }

    /// What an entry of one of the tables must be. Slots of the hypervisor are written as zero, and are not looked at.
    fn entry(&self, table: u64, index: usize) -> u64 {
        let frames = &self.frames;
        let user = |level| pte::index(USER_BASE, level);
        let value = match table {
            t if t == frames.kernel_l4 && index == KERNEL_SLOT => Some((self.kernel_l3, pte::TABLE)),
            t if t == frames.kernel_l4 && index == user(4) => Some((frames.l3, pte::TABLE)),
            t if t == frames.user_l4 && index == user(4) => Some((frames.l3, pte::TABLE)),
            t if t == frames.l3 && index == user(3) => Some((frames.l2, pte::TABLE)),
            t if t == frames.l2 && index == user(2) => Some((frames.l1, pte::TABLE)),
            t if t == frames.l1 => match index as u64 {
                CODE => Some((self.code, pte::READ_ONLY)),
                STACK => Some((frames.stack, pte::DATA)),
                DATA => Some((frames.data, pte::DATA)),
                LAZY if self.is_lazy_mapped => Some((frames.data, pte::READ_ONLY)),
                _ => None,
            },
            _ => None,
        };
        value.map_or(0, |(mfn, flags)| pte::entry(mfn, flags))
    }

    /// mfn of the kernel's L4.
    pub fn kernel_root(&self) -> u64 {
        self.frames.kernel_l4
    }

    /// mfn of the user part's L2.
    pub fn l2(&self) -> u64 {
        self.frames.l2
    }

    /// mfn of the user part's L1.
    pub fn l1(&self) -> u64 {
        self.frames.l1
    }

    /// mfn of the data page.
    pub fn data(&self) -> u64 {
        self.frames.data
    }

    /// What the space was named at its making.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The user program's counter as it must be.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Makes it the present space, for kernel and user mode.
    pub fn enter(&self) {
        granted(hypercall::mmuext(op::MMUEXT_NEW_BASEPTR, self.frames.kernel_l4), "switch of the kernel tables");
        granted(hypercall::mmuext(op::MMUEXT_NEW_USER_BASEPTR, self.frames.user_l4), "switch of the user tables");
    }

    /// The present space must be this one, seen from kernel mode.
    pub fn check_view(&self) {
        for index in [0, 1, 2, 511] {
            let va = USER_BASE + DATA * PAGE_SIZE + index as u64 * 8;
            let (found, expected) = (probe_read(va), self.data_word(index));
            assert!(found == Ok(expected), "space {:#x}, address {va:#x}: {found:x?}, not {expected:#x}", self.number);
        }
    }

    /// All tables must have exactly the entries that were written.
    pub fn check(&self) {
        let names = ["kernel L4", "user L4", "L3", "L2", "L1"];
        for (table, name) in self.frames.tables().into_iter().zip(names) {
            let is_root = table == self.frames.kernel_l4 || table == self.frames.user_l4;
            let window = Window::open(table);
            for index in 0..512 {
                if is_root && HYPERVISOR_SLOTS.contains(&index) {
                    continue;
                }
                let (found, written) = (window.read(index), self.entry(table, index));
                assert!(
                    pte::is_same(found, written),
                    "space {:#x}: {name} entry {index} is {found:#x}, not {written:#x}",
                    self.number
                );
            }
        }
    }

    /// The program has counted.
    pub fn count(&mut self) {
        self.counter += 1;
    }

    /// Maps the page that the program faulted on: read-only, the data page a second time.
    pub fn map_lazy(&mut self, by_address: bool) {
        self.is_lazy_mapped = true;
        self.write_lazy(by_address, "mapping on demand");
    }

    /// Unmaps it again.
    pub fn unmap_lazy(&mut self, by_address: bool) {
        self.is_lazy_mapped = false;
        self.write_lazy(by_address, "unmapping");
        granted(hypercall::mmuext(op::MMUEXT_TLB_FLUSH_LOCAL, 0), "TLB flush");
    }

    fn write_lazy(&self, by_address: bool, what: &str) {
        let value = self.entry(self.frames.l1, LAZY as usize);
        let outcome = if by_address {
            hypercall::update_va_mapping(USER_BASE + LAZY * PAGE_SIZE, value)
        } else {
            hypercall::write_entry(self.frames.l1 * PAGE_SIZE + LAZY * 8, value)
        };
        granted(outcome, what);
    }

    /// Unpins it; afterwards its frames must be ordinary ones, which can be written.
    pub fn take_apart(self) {
        for root in [self.frames.kernel_l4, self.frames.user_l4] {
            granted(hypercall::mmuext(op::MMUEXT_UNPIN, root), "unpin of an L4");
        }
        for table in self.frames.tables() {
            fill(table, |_| 0);
        }
    }
}

fn read_boot_l4(slot: usize) -> u64 {
    let va = memory::start_info().pt_base + slot as u64 * 8;
    probe_read(va).unwrap_or_else(|fault| panic!("the boot L4 is not mapped: {fault:x?}"))
}
