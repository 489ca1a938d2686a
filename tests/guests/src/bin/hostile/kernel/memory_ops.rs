//! memory_op: extents that are too many, too large or too far, exchanges that do not add up, numbers that frames cannot have.

use luxen_guests::abi::{Errno, PAGE_SIZE, hypercall as nr, op};
use luxen_guests::machine::hypercall::write_entry;
use luxen_guests::machine::memory;

use super::answer::{Answer, FINE, Judge};
use super::ground::Ground;
use super::{Attempt, attempt, call};

const SELF: u64 = op::DOMID_SELF as u64;
const INVALID: Answer = Answer::No(Errno::EINVAL);
const DENIED: Answer = Answer::No(Errno::EPERM);

fn reserve(kind: u64, frames: &mut [u64], nr_extents: u64, order: u64, domid: u64) -> Answer {
    let mut reservation = [frames.as_mut_ptr() as u64, nr_extents, order, domid];
    call(nr::MEMORY_OP, [kind, reservation.as_mut_ptr() as u64])
}

fn populate(pfn: u64, nr_extents: u64, order: u64) -> Answer {
    reserve(op::XENMEM_POPULATE_PHYSMAP, &mut [pfn; 4], nr_extents, order, SELF)
}

/// One side of an exchange.
struct Side(u64, u64);

/// `give` and `take` say how many extents of which order; the frames are given one by one.
fn exchange(frames: &[u64], give: Side, take: Side, done: u64, domid: u64) -> Answer {
    let mut pfns = [1u64; 8];
    let mut argument =
        [frames.as_ptr() as u64, give.0, give.1, domid, pfns.as_mut_ptr() as u64, take.0, take.1, domid, done];
    call(nr::MEMORY_OP, [op::XENMEM_EXCHANGE, argument.as_mut_ptr() as u64])
}

/// Says a number for one of the guest's frames, and takes it back.
fn number(g: &Ground, pfn: u64) -> Answer {
    let mfn = g.loose[3];
    let own = memory::m2p(mfn);
    let found = write_entry((mfn * PAGE_SIZE) | 1, pfn);
    let now = memory::m2p(mfn);
    assert!(write_entry((mfn * PAGE_SIZE) | 1, own) == Ok(0), "a frame cannot get its number back");
    assert!(memory::m2p(mfn) == own, "the frame has number {:#x}, not {own:#x}", memory::m2p(mfn));
    match found {
        // A number is believed, or there is none.
        Ok(_) if now == pfn || now == u64::MAX => FINE,
        Ok(_) => Answer::Is(now),
        Err(errno) => Answer::No(errno),
    }
}

const ATTEMPTS: &[Attempt] = &[
    attempt("populate of no extents", FINE, |_| populate(1, 0, 0)),
    attempt("populate of u32::MAX extents", FINE, |_| populate(1, u32::MAX.into(), 0)),
    attempt("populate of extents without end", FINE, |_| populate(1, u64::MAX, 0)),
    attempt("populate with order 10", FINE, |_| populate(1, 1, 10)),
    attempt("populate with order 255", FINE, |_| populate(1, 1, 255)),
    attempt("populate with order u32::MAX", FINE, |_| populate(1, 1, u32::MAX.into())),
    attempt("populate of the last number", FINE, |_| populate((1 << 40) - 1, 1, 0)),
    attempt("populate of the last numbers", FINE, |_| populate((1 << 40) - 512, 1, 9)),
    attempt("populate of a number beyond all", FINE, |_| populate(u64::MAX, 1, 0)),
    attempt("populate for nobody", FINE, |_| {
        reserve(op::XENMEM_POPULATE_PHYSMAP, &mut [1], 1, 0, op::DOMID_NOBODY.into())
    }),
    attempt("populate for the hypervisor", FINE, |_| {
        reserve(op::XENMEM_POPULATE_PHYSMAP, &mut [1], 1, 0, op::DOMID_XEN.into())
    }),
    attempt("increase beyond what the domain may have", FINE, |_| {
        reserve(op::XENMEM_INCREASE_RESERVATION, &mut [0; 4], 4, 0, SELF)
    }),
    attempt("decrease of u32::MAX extents", FINE, |_| {
        reserve(op::XENMEM_DECREASE_RESERVATION, &mut [0], u32::MAX.into(), 0, SELF)
    }),
    attempt("decrease of extents without end", FINE, |_| {
        reserve(op::XENMEM_DECREASE_RESERVATION, &mut [0], u64::MAX, 0, SELF)
    }),
    attempt("decrease with order 10", FINE, |g| {
        reserve(op::XENMEM_DECREASE_RESERVATION, &mut [g.loose[0]], 1, 10, SELF)
    }),
    attempt("decrease of a frame beyond all", FINE, |_| {
        reserve(op::XENMEM_DECREASE_RESERVATION, &mut [u64::MAX], 1, 0, SELF)
    }),
    attempt("decrease of the last frames of all", FINE, |_| {
        reserve(op::XENMEM_DECREASE_RESERVATION, &mut [(1 << 40) - 1], 1, 9, SELF)
    }),
    attempt("decrease for nobody", FINE, |g| {
        reserve(op::XENMEM_DECREASE_RESERVATION, &mut [g.loose[0]], 1, 0, op::DOMID_NOBODY.into())
    }),
    attempt("reservation that goes on where it never was", Answer::Is((1 << 58) - 1), |_| {
        let mut reservation = [0u64, 1, 0, SELF];
        call(nr::MEMORY_OP, [u64::MAX << 6 | op::XENMEM_POPULATE_PHYSMAP, reservation.as_mut_ptr() as u64])
    }),
    attempt("exchange of nothing", FINE, |_| exchange(&[0], Side(0, 0), Side(0, 0), 0, SELF)),
    attempt("exchange that does not add up", INVALID, |g| exchange(&g.loose, Side(2, 0), Side(1, 0), 0, SELF)),
    attempt("exchange of very many", INVALID, |g| exchange(&g.loose, Side(u64::MAX, 9), Side(u64::MAX, 9), 0, SELF)),
    attempt("exchange with order 10", DENIED, |g| exchange(&g.loose, Side(1, 10), Side(1, 10), 0, SELF)),
    attempt("exchange with order 255", DENIED, |g| exchange(&g.loose, Side(1, 255), Side(1, 255), 0, SELF)),
    attempt("exchange of which more is done than there is", INVALID, |g| {
        exchange(&g.loose, Side(1, 0), Side(1, 0), 2, SELF)
    }),
    attempt("exchange that is done", FINE, |g| exchange(&g.loose, Side(1, 0), Side(1, 0), 1, SELF)),
    attempt("exchange of a frame named twice", INVALID, |g| {
        exchange(&[g.loose[0], g.loose[0]], Side(2, 0), Side(1, 1), 0, SELF)
    }),
    attempt("exchange of a frame in use", INVALID, |g| exchange(&[g.data], Side(1, 0), Side(1, 0), 0, SELF)),
    attempt("exchange of a page table", INVALID, |g| exchange(&[g.l1], Side(1, 0), Side(1, 0), 0, SELF)),
    attempt("exchange of a base", INVALID, |g| exchange(&[g.boot], Side(1, 0), Side(1, 0), 0, SELF)),
    attempt("exchange of frames beyond all", INVALID, |_| exchange(&[u64::MAX], Side(1, 0), Side(1, 0), 0, SELF)),
    attempt("exchange for nobody", Answer::No(Errno::ESRCH), |g| {
        exchange(&g.loose, Side(1, 0), Side(1, 0), 0, op::DOMID_NOBODY.into())
    }),
    attempt("exchange that goes on", INVALID, |_| call(nr::MEMORY_OP, [op::XENMEM_EXCHANGE | 1 << 6, 0])),
    attempt("memory_op that is not there", Answer::No(Errno::ENOSYS), |_| call(nr::MEMORY_OP, [63, 0])),
    attempt("number 0", FINE, |g| number(g, 0)),
    attempt("number of another frame", FINE, |g| number(g, memory::m2p(g.loose[0]))),
    attempt("number beyond the domain", FINE, |g| number(g, 1 << 32)),
    attempt("last number but one", FINE, |g| number(g, (1 << 40) - 2)),
    attempt("last number", FINE, |g| number(g, (1 << 40) - 1)),
    attempt("number beyond all", FINE, |g| number(g, 1 << 40)),
    attempt("number -1", FINE, |g| number(g, u64::MAX)),
];

/// Tries everything.
pub fn try_all(g: &Ground, judge: &mut Judge) {
    super::try_all(g, judge, ATTEMPTS);
}

/// Gives a frame the number that a stream of records cannot hold, and leaves it so: updates have to get along with it.
pub fn leave_last_number(mfn: u64) {
    for pfn in [(1 << 40) - 2, (1 << 40) - 1] {
        assert!(write_entry((mfn * PAGE_SIZE) | 1, pfn) == Ok(0), "number {pfn:#x} was refused");
    }
}
