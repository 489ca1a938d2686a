//! The guest's own page tables, wrong in themselves: mapped writable, in circles, with large pages, with the hypervisor's slots.

use luxen_guests::abi::{Errno, HYPERVISOR_SLOTS, PAGE_SIZE, op};
use luxen_guests::machine::hypercall::{self, mmuext, write_entry};
use luxen_guests::machine::memory::{self, Window, fill};
use luxen_guests::pte;

use super::answer::{Answer, FINE, WRITE_FAULT};
use super::catch::catch;
use super::ground::{
    AREA_SLOT, DATA, EMPTY, EMPTY_INDEX, FREE_SLOT, Ground, L1, L2, L4, READ_ONLY, boot_slot, must, read,
};
use super::{Attempt, attempt};

const BUSY: Answer = Answer::No(Errno::EBUSY);
const INVALID: Answer = Answer::No(Errno::EINVAL);
/// Bits of entries that no guest may set: write-through, no cache, the PAT bit in a leaf.
const WRITE_THROUGH: u64 = 1 << 3;
const NO_CACHE: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 8;
/// A value that the data page holds for a moment.
const MARK: u64 = 0x6d61_726b;

fn map(g: &Ground, mfn: u64) -> Answer {
    write_entry(g.empty_entry(), pte::entry(mfn, pte::DATA)).into()
}

/// Writes an entry of a table; a success is taken back.
fn entry_of(table: u64, slot: u64, value: u64) -> Answer {
    let found = write_entry(table * PAGE_SIZE + slot * 8, value);
    if found.is_ok() {
        must(write_entry(table * PAGE_SIZE + slot * 8, 0), "clearing an entry");
    }
    found.into()
}

const ATTEMPTS: &[Attempt] = &[
    attempt("level-1 table mapped writable", BUSY, |g| map(g, g.l1)),
    attempt("level-2 table mapped writable", BUSY, |g| map(g, g.l2)),
    attempt("level-3 table mapped writable", BUSY, |g| map(g, g.l3)),
    attempt("level-4 table mapped writable", BUSY, |g| map(g, g.l4)),
    attempt("own base mapped writable", BUSY, |g| map(g, g.boot)),
    attempt("descriptor table mapped writable", BUSY, |g| map(g, g.gdt)),
    attempt("leaf with write-through", INVALID, |g| {
        entry_of(g.l1, EMPTY_INDEX, pte::entry(g.loose[0], pte::DATA | WRITE_THROUGH))
    }),
    attempt("leaf without cache", INVALID, |g| {
        entry_of(g.l1, EMPTY_INDEX, pte::entry(g.loose[0], pte::DATA | NO_CACHE))
    }),
    attempt("leaf with the PAT bit", INVALID, |g| {
        entry_of(g.l1, EMPTY_INDEX, pte::entry(g.loose[0], pte::DATA | pte::LARGE))
    }),
    attempt("large page of 2 MiB", INVALID, |g| entry_of(g.l2, 1, pte::entry(g.loose[0], pte::DATA | pte::LARGE))),
    attempt("large page of 2 MiB for a table", INVALID, |g| {
        entry_of(g.l2, 1, pte::entry(g.l1, pte::DATA | pte::LARGE))
    }),
    attempt("large page of 1 GiB", INVALID, |g| entry_of(g.l3, 1, pte::entry(g.loose[0], pte::DATA | pte::LARGE))),
    attempt("bit 7 in a level-4 entry", INVALID, |g| entry_of(g.l4, 8, pte::entry(g.l3, pte::TABLE | pte::LARGE))),
    attempt("global table", INVALID, |g| entry_of(g.l2, 1, pte::entry(g.l1, pte::TABLE | GLOBAL))),
    attempt("table without cache", INVALID, |g| entry_of(g.l3, 1, pte::entry(g.l2, pte::TABLE | NO_CACHE))),
    attempt("page that is mapped writable as a table", INVALID, |g| entry_of(g.l2, 1, pte::entry(g.data, pte::TABLE))),
    attempt("level-2 table as level 1", INVALID, |g| entry_of(g.l2, 1, pte::entry(g.l2, pte::TABLE))),
    attempt("level-3 table as level 1", INVALID, |g| entry_of(g.l2, 1, pte::entry(g.l3, pte::READ_ONLY))),
    attempt("level-1 table as level 2", INVALID, |g| entry_of(g.l3, 1, pte::entry(g.l1, pte::TABLE))),
    attempt("level-4 table as level 3, writable", INVALID, |g| entry_of(g.l4, 8, pte::entry(g.boot, pte::TABLE))),
    attempt("table that names itself, writable", INVALID, |g| entry_of(g.l3, 1, pte::entry(g.l3, pte::TABLE))),
    attempt("table that names itself", FINE, |g| entry_of(g.l3, 1, pte::entry(g.l3, pte::READ_ONLY))),
    attempt("tables that name each other", INVALID, |g| {
        must(
            write_entry(g.l4 * PAGE_SIZE + FREE_SLOT as u64 * 8, pte::entry(g.boot, pte::READ_ONLY)),
            "a linear entry",
        );
        let found = write_entry(boot_slot(FREE_SLOT), pte::entry(g.l4, pte::READ_ONLY));
        must(write_entry(g.l4 * PAGE_SIZE + FREE_SLOT as u64 * 8, 0), "clearing a linear entry");
        found.into()
    }),
    attempt("descriptor table as a page table", INVALID, |g| entry_of(g.l2, 1, pte::entry(g.gdt, pte::TABLE))),
    attempt("entry for user mode withheld", Answer::Is(MARK), |g| {
        // Of the level-2 entry above all of the area; the hypervisor gives it back, or this would be the guest's end.
        must(write_entry(g.l2 * PAGE_SIZE, pte::entry(g.l1, pte::TABLE & !pte::USER)), "an entry without user");
        // SAFETY: the page of data is for these attempts only.
        unsafe { (DATA as *mut u64).write_volatile(MARK) };
        let found = read(DATA);
        // SAFETY: as above.
        unsafe { (DATA as *mut u64).write_volatile(0) };
        Answer::Is(found)
    }),
    attempt("leaf for user mode withheld", FINE, |g| {
        must(write_entry(g.empty_entry(), pte::entry(g.data, pte::DATA & !pte::USER)), "a leaf without user");
        let found = read(EMPTY);
        must(write_entry(g.empty_entry(), 0), "clearing a leaf");
        Answer::Is(found)
    }),
    attempt("second pin", INVALID, |g| mmuext(op::MMUEXT_PIN_L4, g.l4).into()),
    attempt("unpin of a table that is not pinned", INVALID, |g| mmuext(op::MMUEXT_UNPIN, g.l2).into()),
    attempt("unpin of no table", INVALID, |g| mmuext(op::MMUEXT_UNPIN, g.data).into()),
    attempt("pin at another level", INVALID, |g| mmuext(op::MMUEXT_PIN_L3, g.l4).into()),
    attempt("pin of a page that is mapped writable", INVALID, |g| mmuext(op::MMUEXT_PIN_L1, g.data).into()),
    attempt("base that is a level-1 table", INVALID, |g| mmuext(op::MMUEXT_NEW_BASEPTR, g.l1).into()),
    attempt("user base that is a level-3 table", INVALID, |g| mmuext(op::MMUEXT_NEW_USER_BASEPTR, g.l3).into()),
    attempt("table cleared", INVALID, |g| mmuext(op::MMUEXT_CLEAR_PAGE, g.l1).into()),
    attempt("table copied over", INVALID, |g| hypercall::mmuext_two(op::MMUEXT_COPY_PAGE, g.l1, g.loose[0]).into()),
    attempt("table as descriptor table", INVALID, |g| hypercall::set_gdt(&[g.l1], 512).into()),
    attempt("caches flushed", Answer::No(Errno::EACCES), |_| mmuext(op::MMUEXT_FLUSH_CACHE, 0).into()),
    attempt("mmuext_op that is not there", Answer::No(Errno::ENOSYS), |g| mmuext(99, g.loose[0]).into()),
    attempt("entry at an address that is not aligned", INVALID, |g| write_entry(g.l1 * PAGE_SIZE + 4, 0).into()),
    attempt("entry at an address beyond all", INVALID, |_| write_entry(1 << 60, 0).into()),
    attempt("entry of the descriptor table", INVALID, |g| write_entry(g.gdt * PAGE_SIZE, 0).into()),
    attempt("change of an address without tables", INVALID, |_| {
        hypercall::update_va_mapping(0x7abc_def0_1000, 0).into()
    }),
    attempt("change of an address of the hypervisor's", INVALID, |_| {
        hypercall::update_va_mapping(0xffff_8300_0000_0000, 0).into()
    }),
    attempt("change of an address that is not canonical", INVALID, |_| hypercall::update_va_mapping(1 << 47, 0).into()),
    attempt("change of an entry through the table itself", INVALID, |g| {
        hypercall::update_va_mapping(super::ground::linear_l4(), pte::entry(g.data, pte::DATA)).into()
    }),
    attempt("hypervisor's slots in a table that is pinned", FINE, forged_slots),
    // Writes by instructions: those that the hypervisor carries out look at the entry as hypercalls do.
    attempt(
        "mov to a level-2 entry",
        WRITE_FAULT,
        |g| catch!("mov [rdi], rsi", in("rdi") L2 + 8, in("rsi") pte::entry(g.l1, pte::TABLE)),
    ),
    attempt(
        "mov to a level-4 entry",
        WRITE_FAULT,
        |g| catch!("mov [rdi], rsi", in("rdi") L4 + 64, in("rsi") pte::entry(g.l3, pte::TABLE)),
    ),
    attempt(
        "mov to a slot of the hypervisor's",
        WRITE_FAULT,
        |_| catch!("mov [rdi], rsi", in("rdi") L4 + 262 * 8, in("rsi") 0u64),
    ),
    attempt("mov to a read-only page", WRITE_FAULT, |_| catch!("mov [rdi], rsi", in("rdi") READ_ONLY, in("rsi") 1u64)),
    attempt(
        "mov across two entries",
        WRITE_FAULT,
        |_| catch!("mov [rdi], rsi", in("rdi") L1 + EMPTY_INDEX * 8 + 4, in("rsi") 0u64),
    ),
    attempt("mov across the table's end", WRITE_FAULT, |_| {
        // The page behind is the empty one, of which the fault may be too; it is not there.
        match catch!("mov [rdi], rsi", in("rdi") L1 + PAGE_SIZE - 4, in("rsi") 0u64) {
            Answer::Trap(14, 2) => WRITE_FAULT,
            other => other,
        }
    }),
    attempt(
        "rep stosq over a table",
        WRITE_FAULT,
        |_| catch!("rep stosq", inout("rdi") L1 => _, inout("rcx") 512u64 => _, in("rax") 0u64),
    ),
    attempt("movups over a table", WRITE_FAULT, |_| catch!("movups [rdi], xmm0", in("rdi") L1)),
    attempt(
        "writable mapping of a table by lock bts",
        WRITE_FAULT,
        |_| catch!("lock bts qword ptr [rdi], 1", in("rdi") L1 + 3 * 8),
    ),
    attempt(
        "writable mapping of a table by a byte",
        WRITE_FAULT,
        |_| catch!("or byte ptr [rdi], 2", in("rdi") L1 + 3 * 8),
    ),
    attempt(
        "writable mapping of a table by half an entry",
        WRITE_FAULT,
        |g| catch!("mov [rdi], esi", in("rdi") L1 + 3 * 8, in("esi") pte::entry(g.l1, pte::DATA) as u32),
    ),
    attempt("read-only mapping by lock btr", FINE, |_| catch!("lock btr qword ptr [rdi], 1", in("rdi") L1 + 8)),
    attempt("writable mapping again by lock bts", FINE, |_| catch!("lock bts qword ptr [rdi], 1", in("rdi") L1 + 8)),
    attempt("entry taken out by xchg", FINE, |g| {
        let (mut entry, own) = (pte::entry(g.loose[0], pte::DATA), pte::entry(g.loose[0], pte::DATA));
        let first = catch!("xchg [rdi], rsi", in("rdi") L1 + EMPTY_INDEX * 8, inout("rsi") entry);
        assert!(first == FINE && entry == 0, "xchg came to {first} and found {entry:#x}");
        let second = catch!("xchg [rdi], rsi", in("rdi") L1 + EMPTY_INDEX * 8, inout("rsi") entry);
        assert!(pte::is_same(entry, own), "xchg found {entry:#x}, not {own:#x}");
        second
    }),
];

/// Tries everything.
pub fn try_all(g: &Ground, judge: &mut super::Judge) {
    super::try_all(g, judge, ATTEMPTS);
    slots(g, judge);
    let nobody = [luxen_guests::abi::MmuUpdate { ptr: g.empty_entry(), val: 0 }];
    for (domain, due) in [(op::DOMID_NOBODY, Errno::ESRCH), (0x7ff1, Errno::EPERM), (op::DOMID_XEN, Errno::EPERM)] {
        let found = hypercall::mmu_update(&nobody, domain).into();
        judge.check(format_args!("mmu_update for domain {domain:#x}"), found, Answer::No(due));
    }
}

/// Slots 256 to 271, one by one, in the table that the guest runs on and in the other.
fn slots(g: &Ground, judge: &mut super::Judge) {
    for slot in HYPERVISOR_SLOTS {
        for (name, value) in [
            ("cleared", 0),
            ("written", pte::entry(g.l3, pte::TABLE)),
            ("made linear", pte::entry(g.l4, pte::READ_ONLY)),
        ] {
            for (table, at) in [("own base", boot_slot(slot)), ("spare table", g.l4 * PAGE_SIZE + slot as u64 * 8)] {
                judge.check(format_args!("slot {slot} of the {table} {name}"), write_entry(at, value).into(), INVALID);
            }
        }
    }
}

/// A table with entries of the guest's own in the hypervisor's slots is taken, but they are not: how many of them are left.
fn forged_slots(g: &Ground) -> Answer {
    let table = g.loose[2];
    let forged = pte::entry(g.foreign.unwrap_or(0x100), pte::DATA);
    let kernel = read(memory::start_info().pt_base + 511 * 8);
    fill(table, |index| match index {
        index if HYPERVISOR_SLOTS.contains(&index) => forged,
        AREA_SLOT => pte::entry(g.l3, pte::TABLE),
        511 => kernel,
        _ => 0,
    });
    must(mmuext(op::MMUEXT_PIN_L4, table), "pin of a table with forged slots");
    must(mmuext(op::MMUEXT_NEW_BASEPTR, table), "switch to a table with forged slots");
    must(mmuext(op::MMUEXT_NEW_BASEPTR, g.boot), "switch back");
    let window = Window::open(table);
    let left = HYPERVISOR_SLOTS.filter(|&slot| pte::is_same(window.read(slot), forged)).count();
    drop(window);
    must(mmuext(op::MMUEXT_UNPIN, table), "unpin of a table with forged slots");
    fill(table, |_| 0);
    Answer::Is(left as u64)
}
