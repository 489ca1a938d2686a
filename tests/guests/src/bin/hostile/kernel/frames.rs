//! Frames that are not the guest's, in everything that takes a frame: entries, pins, base pointers, descriptor tables, reservations, grants.

use luxen_guests::abi::{Errno, PAGE_SIZE, hypercall as nr, op};
use luxen_guests::grant::Status;
use luxen_guests::machine::hypercall::{self, mmuext, write_entry};
use luxen_guests::machine::memory::{self, Window, fill};
use luxen_guests::pte;

use super::answer::{Answer, FINE, GENERAL_PROTECTION, Judge, WRITE_FAULT};
use super::catch::catch;
use super::ground::{EMPTY_INDEX, FREE_SLOT, Ground, L1, is_mine, read};
use super::{call, grants};

const SELF: u64 = op::DOMID_SELF as u64;
const INVALID: Answer = Answer::No(Errno::EINVAL);
/// Far behind any RAM, but still a frame number that an entry can hold.
const BEYOND_RAM: u64 = 1 << 31;
/// All ones in an entry of 40 bits for a frame: Xen takes it for an invalid number.
const LAST: u64 = (1 << 40) - 1;
/// One frame of so many is tried of all that the machine has.
const STEP: u64 = 97;

/// A frame and what a mapping of it is refused with: by its owner that it is busy, where there is no RAM that it is not permitted.
struct Frame {
    name: &'static str,
    mfn: u64,
    due: Errno,
}

/// What a frame is to be made, and what is due if no mapping is.
struct Use {
    name: &'static str,
    attempt: fn(&Ground, u64) -> Answer,
    due: Due,
}

#[derive(Clone, Copy)]
enum Due {
    /// As a mapping.
    AsMapped,
    This(Answer),
}

const fn mapped(name: &'static str, attempt: fn(&Ground, u64) -> Answer) -> Use {
    Use { name, attempt, due: Due::AsMapped }
}

const fn this(name: &'static str, due: Answer, attempt: fn(&Ground, u64) -> Answer) -> Use {
    Use { name, attempt, due: Due::This(due) }
}

const USES: &[Use] = &[
    mapped("mapped to be written", |g, mfn| write_entry(g.empty_entry(), pte::entry(mfn, pte::DATA)).into()),
    mapped("mapped to be read", |g, mfn| write_entry(g.empty_entry(), pte::entry(mfn, pte::READ_ONLY)).into()),
    mapped("mapped by address", |_, mfn| hypercall::update_va_mapping(Window::va(), pte::entry(mfn, pte::DATA)).into()),
    mapped("in a table that is pinned", pinned_in_l1),
    this(
        "mapped by a mov",
        WRITE_FAULT,
        |_, mfn| catch!("mov [rdi], rsi", in("rdi") L1 + EMPTY_INDEX * 8, in("rsi") pte::entry(mfn, pte::DATA)),
    ),
    this(
        "mapped by an xchg",
        WRITE_FAULT,
        |_, mfn| catch!("xchg [rdi], rsi", in("rdi") L1 + EMPTY_INDEX * 8, inout("rsi") pte::entry(mfn, pte::READ_ONLY) => _),
    ),
    this(
        "mapped by a cmpxchg",
        WRITE_FAULT,
        |_, mfn| catch!("lock cmpxchg [rdi], rsi", in("rdi") L1 + EMPTY_INDEX * 8, in("rsi") pte::entry(mfn, pte::DATA), inout("rax") 0u64 => _),
    ),
    this("as a level-1 table", INVALID, |g, mfn| write_entry(g.l2 * PAGE_SIZE + 8, pte::entry(mfn, pte::TABLE)).into()),
    this("as a level-2 table", INVALID, |g, mfn| write_entry(g.l3 * PAGE_SIZE + 8, pte::entry(mfn, pte::TABLE)).into()),
    this("as a level-3 table", INVALID, |g, mfn| {
        write_entry(g.l4 * PAGE_SIZE + FREE_SLOT as u64 * 8, pte::entry(mfn, pte::TABLE)).into()
    }),
    this("pinned as a level-1 table", INVALID, |_, mfn| mmuext(op::MMUEXT_PIN_L1, mfn).into()),
    this("pinned as a level-2 table", INVALID, |_, mfn| mmuext(op::MMUEXT_PIN_L2, mfn).into()),
    this("pinned as a level-3 table", INVALID, |_, mfn| mmuext(op::MMUEXT_PIN_L3, mfn).into()),
    this("pinned as a level-4 table", INVALID, |_, mfn| mmuext(op::MMUEXT_PIN_L4, mfn).into()),
    this("unpinned", INVALID, |_, mfn| mmuext(op::MMUEXT_UNPIN, mfn).into()),
    this("as the kernel's base", INVALID, |_, mfn| mmuext(op::MMUEXT_NEW_BASEPTR, mfn).into()),
    this("as the user's base", INVALID, |_, mfn| match mfn {
        // This one says that there is none.
        0 => INVALID,
        mfn => mmuext(op::MMUEXT_NEW_USER_BASEPTR, mfn).into(),
    }),
    this("in CR3", GENERAL_PROTECTION, |_, mfn| catch!("mov cr3, rax", in("rax") mfn << 12)),
    this("cleared", INVALID, |_, mfn| mmuext(op::MMUEXT_CLEAR_PAGE, mfn).into()),
    this("copied from", INVALID, |g, mfn| hypercall::mmuext_two(op::MMUEXT_COPY_PAGE, g.loose[0], mfn).into()),
    this("copied to", INVALID, |g, mfn| hypercall::mmuext_two(op::MMUEXT_COPY_PAGE, mfn, g.loose[0]).into()),
    this("written as a table", INVALID, |_, mfn| write_entry(mfn * PAGE_SIZE, 0).into()),
    this("written as a descriptor table", INVALID, |_, mfn| hypercall::update_descriptor(mfn * PAGE_SIZE, 0).into()),
    this("as a descriptor table", INVALID, |_, mfn| hypercall::set_gdt(&[mfn], 512).into()),
    this("numbered", INVALID, |_, mfn| write_entry((mfn * PAGE_SIZE) | 1, 7).into()),
    this("with vcpu_info", INVALID, |_, mfn| hypercall::register_vcpu_info(0, mfn, 0).into()),
    this("given back", FINE, |_, mfn| decrease(mfn)),
    this("exchanged", INVALID, exchange),
    this("copied from by a grant operation", Answer::Grant(Status::BAD_PAGE), |g, mfn| {
        grants::copy_frame(mfn, g.loose[0])
    }),
    this("copied to by a grant operation", Answer::Grant(Status::BAD_PAGE), |g, mfn| {
        grants::copy_frame(g.loose[0], mfn)
    }),
];

/// Tries every use of every frame.
pub fn try_all(g: &Ground, grants: &grants::Table, judge: &mut Judge) {
    let others = [
        Frame { name: "a frame of the M2P", mfn: g.m2p, due: Errno::EBUSY },
        Frame { name: "frame 0", mfn: 0, due: Errno::EPERM },
        Frame { name: "the local APIC", mfn: 0xfee00, due: Errno::EPERM },
        Frame { name: "the screen's memory", mfn: 0xb8, due: Errno::EPERM },
        Frame { name: "a frame beyond RAM", mfn: BEYOND_RAM, due: Errno::EPERM },
        Frame { name: "the last frame of all", mfn: LAST, due: Errno::EINVAL },
    ];
    let foreign = g.foreign.map(|mfn| Frame { name: "another domain's frame", mfn, due: Errno::EBUSY });
    for f in others.iter().chain(&foreign) {
        for u in USES {
            let due = match u.due {
                Due::AsMapped => Answer::No(f.due),
                Due::This(answer) => answer,
            };
            judge.check(format_args!("{}, {}", f.name, u.name), (u.attempt)(g, f.mfn), due);
        }
        judge.check(format_args!("{}, granted", f.name), grants.map_granted(f.mfn), grants::NOT_THE_GRANTERS);
        for (word, expected) in [(EMPTY_INDEX, 0), (1, pte::entry(g.data, pte::DATA))] {
            let found = read(L1 + word * 8);
            assert!(pte::is_same(found, expected), "{}: entry {word} is {found:#x}, not {expected:#x}", f.name);
        }
    }
    try_every_frame(g, judge);
    try_shared_info(g, judge);
}

/// A table that nothing uses, with one entry for the frame.
fn pinned_in_l1(g: &Ground, mfn: u64) -> Answer {
    let table = g.loose[1];
    fill(table, |index| match index {
        7 => pte::entry(g.data, pte::DATA),
        300 => pte::entry(mfn, pte::DATA),
        _ => 0,
    });
    let found = mmuext(op::MMUEXT_PIN_L1, table);
    fill(table, |_| 0);
    found.into()
}

fn decrease(mfn: u64) -> Answer {
    let frames = [mfn];
    let reservation = [frames.as_ptr() as u64, 1, 0, SELF];
    call(nr::MEMORY_OP, [op::XENMEM_DECREASE_RESERVATION, reservation.as_ptr() as u64])
}

fn exchange(_: &Ground, mfn: u64) -> Answer {
    let (frames, mut pfns) = ([mfn], [1u64]);
    let mut argument = [frames.as_ptr() as u64, 1, 0, SELF, pfns.as_mut_ptr() as u64, 1, 0, SELF, 0];
    call(nr::MEMORY_OP, [op::XENMEM_EXCHANGE, argument.as_mut_ptr() as u64])
}

/// Samples of all frames that the machine has, whosever they are: the hypervisor's image, region, tables and heap, other domains', free ones, holes. Which
/// of them each is the guest cannot tell, so two refusals will do.
fn try_every_frame(g: &Ground, judge: &mut Judge) {
    for mfn in (1..=g.last).step_by(STEP as usize).filter(|&mfn| mfn != g.odd && !is_mine(mfn)) {
        for (name, flags) in [("written", pte::DATA), ("read", pte::READ_ONLY)] {
            let found = write_entry(g.empty_entry(), pte::entry(mfn, flags));
            let due = if found == Err(Errno::EPERM) { Errno::EPERM } else { Errno::EBUSY };
            judge.check(format_args!("frame {mfn:#x} mapped to be {name}"), found.into(), Answer::No(due));
        }
        judge.check(format_args!("frame {mfn:#x} pinned"), mmuext(op::MMUEXT_PIN_L1, mfn).into(), INVALID);
        judge.check(format_args!("frame {mfn:#x} given back"), decrease(mfn), FINE);
    }
}

/// The page that the hypervisor shares with the guest may be mapped, but nothing else: the hypervisor writes to it.
fn try_shared_info(g: &Ground, judge: &mut Judge) {
    let mfn = memory::start_info().shared_info / PAGE_SIZE;
    for cmd in [op::MMUEXT_PIN_L1, op::MMUEXT_PIN_L2, op::MMUEXT_PIN_L3, op::MMUEXT_PIN_L4, op::MMUEXT_NEW_BASEPTR] {
        judge.check(format_args!("shared_info, mmuext_op {cmd}"), mmuext(cmd, mfn).into(), INVALID);
    }
    let entries = [(g.l2, 1), (g.l3, 1), (g.l4, FREE_SLOT as u64)];
    for (table, slot) in entries {
        let found = write_entry(table * PAGE_SIZE + slot * 8, pte::entry(mfn, pte::TABLE));
        judge.check(format_args!("shared_info as a page table, slot {slot}"), found.into(), INVALID);
    }
    judge.check(format_args!("shared_info as a GDT"), hypercall::set_gdt(&[mfn], 512).into(), INVALID);
    judge.check(format_args!("shared_info given back"), decrease(mfn), FINE);
    judge.check(format_args!("shared_info exchanged"), exchange(g, mfn), INVALID);
}
