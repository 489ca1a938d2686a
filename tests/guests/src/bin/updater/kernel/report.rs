//! Frames that are reported faulty: with `sysctl` page_offline_op, before and behind an update.
//!
//! One frame is given up after it was reported: it is out of use, over the update, too, and is put back behind it. One is reported and kept: it is pending, and
//! out of use when it is given up behind the update. One is taken back at once. One is not reported at all: when it is given up, the next page that the domain
//! gets is this one, which shows that the others would have come back likewise.

use luxen_guests::abi::{Errno, PAGE_SIZE, PageOffline, Reservation, op};
use luxen_guests::clock::MS;
use luxen_guests::machine::hypercall::{self, Outcome};
use luxen_guests::machine::{memory, time};
use luxen_guests::say;

use super::{granted, range, refused};

/// Frames of a call at the most.
const MAX_FRAMES: u32 = 512;
/// A status word before the call.
const UNTOUCHED: u32 = 0xdead_beef;
/// One chunk of so many is swept.
const SWEPT: u32 = 7;

/// One call for the frames from `start` to `end`, the last one included.
fn ask_range(cmd: u32, (start, end): (u32, u32), status: &mut [u32]) -> Outcome {
    status.fill(UNTOUCHED);
    hypercall::sysctl(&mut PageOffline::new(cmd, (start, end), status.as_mut_ptr() as u64))
}

/// One call for one frame: what it ends with, and the word.
fn ask(cmd: u32, mfn: u64) -> (Outcome, u32) {
    let mut status = [0];
    let frame = mfn as u32;
    let outcome = ask_range(cmd, (frame, frame), &mut status);
    (outcome, status[0])
}

/// A call that succeeds; the word has to be this one.
fn expect(cmd: u32, mfn: u64, expected: u32, what: &str) {
    let (outcome, status) = ask(cmd, mfn);
    granted(outcome, 0, what);
    assert!(status == expected, "{what}, frame {mfn:#x}: the word is {status:#x}, not {expected:#x}");
}

fn expect_refused(mfn: u64, status: u32, errno: Errno, what: &str) {
    let (outcome, found) = ask(op::PAGE_OFFLINE, mfn);
    refused(outcome, errno, what);
    assert!(found == status, "{what}, frame {mfn:#x}: the word is {found:#x}, not {status:#x}");
}

/// Extents of one page that an operation did of one.
fn reserve(operation: u64, frame: u64) -> u64 {
    let mut frames = [frame];
    let mut argument = Reservation {
        extent_start: frames.as_mut_ptr() as u64,
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: op::DOMID_SELF,
    };
    let done = hypercall::memory_op(operation, &mut argument).unwrap_or_else(|e| panic!("memory_op {operation}: {e}"));
    assert!(done == 1, "memory_op {operation} did not do it for frame {frame:#x}");
    frames[0]
}

fn give_up(mfn: u64) {
    reserve(op::XENMEM_DECREASE_RESERVATION, mfn);
}

/// A page for a pfn of which the frame was given up.
fn take(pfn: u64) -> u64 {
    reserve(op::XENMEM_POPULATE_PHYSMAP, pfn)
}

/// The frames in question.
pub struct Report {
    gone: u64,
    kept: u64,
    back: u64,
    /// Where the next page goes.
    pfn: u64,
    is_first: bool,
}

impl Report {
    /// Reports, before any update. With `forgets` the first frame is not.
    pub fn before_updates(forgets: bool) -> Report {
        check_refusals();
        let mut pool = memory::FramePool::new();
        let [gone, kept, back, plain] = core::array::from_fn(|_| pool.take());
        for mfn in [gone, kept, back, plain] {
            expect(op::PAGE_QUERY, mfn, 0, "query of a frame that nobody has reported");
            expect(op::PAGE_ONLINE, mfn, 0, "online of a frame that nobody has reported");
        }
        let own = op::PG_OWNED | op::PG_PENDING | 1 << 16;
        for mfn in [gone, kept, back].into_iter().skip(usize::from(forgets)) {
            expect(op::PAGE_OFFLINE, mfn, own, "offline of a frame of domain 1");
            expect(op::PAGE_OFFLINE, mfn, own, "offline once more");
        }
        expect(op::PAGE_QUERY, gone, op::PG_STATUS_PENDING, "query of a frame in use");
        expect(op::PAGE_ONLINE, back, op::PG_OFFLINED, "online of a frame in use");
        expect(op::PAGE_QUERY, back, 0, "query of a frame that was taken back");

        let pfns = [gone, plain].map(memory::m2p);
        give_up(plain);
        give_up(gone);
        expect(op::PAGE_QUERY, gone, op::PG_OFFLINED, "query of a frame that was given up");
        let found = take(pfns[0]);
        assert!(found == plain, "frame {plain:#x} was given up and not reported, but the next one is {found:#x}");
        say!("reported frames {gone:#x}, which is out of use, and {kept:#x}, which it keeps");
        Report { gone, kept, back, pfn: pfns[1], is_first: true }
    }

    /// What of it is still known, after an update.
    pub fn after_update(&mut self) {
        expect(op::PAGE_QUERY, self.back, 0, "query of a frame that was taken back, after an update");
        if !self.is_first {
            expect(op::PAGE_QUERY, self.kept, op::PG_OFFLINED, "query of a frame that was given up, after updates");
            expect(op::PAGE_QUERY, self.gone, 0, "query of a frame that was put back, after updates");
            return;
        }
        self.is_first = false;
        expect(op::PAGE_QUERY, self.gone, op::PG_OFFLINED, "query of a frame that was given up, after an update");
        expect(op::PAGE_QUERY, self.kept, op::PG_STATUS_PENDING, "query of a frame in use, after an update");
        let pfn = memory::m2p(self.kept);
        give_up(self.kept);
        expect(op::PAGE_QUERY, self.kept, op::PG_OFFLINED, "query of a frame that was given up after an update");
        expect(op::PAGE_ONLINE, self.gone, op::PG_OFFLINED, "online of a frame out of use");
        expect(op::PAGE_QUERY, self.gone, 0, "query of a frame that was put back");
        let found = take(self.pfn);
        assert!(found == self.gone, "frame {:#x} was put back, but the next one is {found:#x}", self.gone);
        let found = take(pfn);
        assert!(found != self.kept, "frame {found:#x} is out of use, and yet it is given out");
        say!("frame {:#x} is back in use, {:#x} out of use", self.gone, self.kept);
    }
}

/// What makes no sense, and what is the hypervisor's.
fn check_refusals() {
    const ONE: (u32, u32) = (0x1000, 0x1000);
    let mut status = [UNTOUCHED; 2];
    let query = PageOffline::new(op::PAGE_QUERY, ONE, status.as_mut_ptr() as u64);
    let sysctl = |mut argument: PageOffline| hypercall::sysctl(&mut argument);
    refused(
        sysctl(PageOffline { version: op::SYSCTL_VERSION + 1, ..query }),
        Errno::EACCES,
        "sysctl of another version",
    );
    refused(sysctl(PageOffline { sysctl: 0, ..query }), Errno::ENOSYS, "a sysctl that is none");
    refused(hypercall::sysctl_nowhere(), Errno::EFAULT, "a sysctl whose argument is nowhere");
    for cmd in [0, op::PAGE_QUERY + 1, u32::MAX] {
        refused(ask_range(cmd, ONE, &mut status), Errno::EINVAL, "a command that is none");
    }
    for range in [(2, 1), (2, 0), (u32::MAX, 0)] {
        refused(ask_range(op::PAGE_OFFLINE, range, &mut status), Errno::EINVAL, "a range that ends before it begins");
    }
    for range in [(0x1000, 0x1000 + MAX_FRAMES), (0, u32::MAX), (0, u32::MAX - 1)] {
        refused(ask_range(op::PAGE_OFFLINE, range, &mut status), Errno::E2BIG, "too many frames");
    }
    assert!(status == [UNTOUCHED; 2], "a call that was refused has written {status:#x?}");
    for nowhere in [0, 0x0000_7abc_def0_1000, 0x0000_8000_0000_0000, 0xffff_82d0_4000_0000, u64::MAX - 2] {
        for cmd in [op::PAGE_OFFLINE, op::PAGE_ONLINE, op::PAGE_QUERY] {
            refused(sysctl(PageOffline::new(cmd, ONE, nowhere)), Errno::EFAULT, "a status that is nowhere");
        }
    }

    let beyond = memory::maximum_ram_page() + 1;
    for mfn in [0, beyond, u64::from(u32::MAX), 0xfee00] {
        expect_refused(mfn, op::PG_NOT_CONV_RAM | op::PG_FAILED, Errno::EINVAL, "offline of what is no RAM");
        let (outcome, status) = ask(op::PAGE_QUERY, mfn);
        refused(outcome, Errno::EINVAL, "query of what is no RAM");
        assert!(status == op::PG_INVALID, "query of what is no RAM: the word is {status:#x}");
    }
    let xen = op::PG_XENPAGE | op::PG_FAILED | u32::from(op::DOMID_XEN) << 16;
    for which in [op::KEXEC_RANGE_XEN, op::KEXEC_RANGE_LIVEUPDATE] {
        let first = range(which).start / PAGE_SIZE;
        expect_refused(first, xen, Errno::EPERM, "offline of the hypervisor's own");
        // The first that is refused ends the call.
        let outcome = ask_range(op::PAGE_OFFLINE, (first as u32, first as u32 + 1), &mut status);
        refused(outcome, Errno::EPERM, "offline of two frames of the hypervisor's");
        assert!(status == [xen, op::PG_INVALID], "the words of two of the hypervisor's frames are {status:#x?}");
        expect(op::PAGE_QUERY, first, 0, "query of the hypervisor's own");
    }
}

/// Reports samples of all memory, whosever it is, and takes that back.
pub fn sweep() {
    let mut status = [0; MAX_FRAMES as usize];
    let (mut out, mut pending, mut ended, mut longest) = (0, 0, 0, 0);
    let last = memory::maximum_ram_page() as u32;
    for first in (0..last).step_by((MAX_FRAMES * SWEPT) as usize) {
        let range = (first, first + MAX_FRAMES - 1);
        let begun = time::now();
        let outcome = ask_range(op::PAGE_OFFLINE, range, &mut status);
        longest = longest.max(time::now() - begun);
        out += status.iter().filter(|&&word| word == op::PG_OFFLINED).count();
        pending += status.iter().filter(|&&word| word & op::PG_PENDING != 0).count();
        let is_refused = status.iter().any(|word| word & op::PG_FAILED != 0);
        assert!(outcome.is_err() == is_refused, "of frames from {first:#x} on the call does not say what its words do");
        ended += u32::from(is_refused);
        // Those before the one that was refused.
        let reported = status.iter().take_while(|&&word| word & (op::PG_OFFLINED | op::PG_PENDING) != 0).count() as u32;
        if reported > 0 {
            let range = (first, first + reported - 1);
            granted(ask_range(op::PAGE_ONLINE, range, &mut status[..reported as usize]), 0, "online of what was swept");
            let mut after = [0; MAX_FRAMES as usize];
            granted(ask_range(op::PAGE_QUERY, range, &mut after[..reported as usize]), 0, "query of what was swept");
            let is_back = status[..reported as usize].iter().all(|&word| word == op::PG_OFFLINED);
            assert!(is_back && after.iter().all(|&word| word == 0), "frames from {first:#x} on are not what they were");
        }
    }
    assert!(out > 0 && pending > 0 && ended > 0, "swept {out} free frames, {pending} in use, {ended} calls ended");
    assert!(longest < 50 * MS, "a call took {} ms", longest / MS);
    say!("swept {out} free frames and {pending} in use, {ended} calls ended early, the longest took {longest} ns");
}

/// Nothing of it is for a domain without privilege.
pub fn refuse_without_privilege() {
    let mut status = [0];
    for cmd in 0..=op::PAGE_QUERY + 1 {
        for range in [(0x1000, 0x1000), (2, 1), (0, u32::MAX)] {
            let outcome = ask_range(cmd, range, &mut status);
            refused(outcome, Errno::EPERM, "page_offline_op without privilege");
            assert!(status == [UNTOUCHED], "page_offline_op without privilege has written {status:#x?}");
        }
    }
    let argument = PageOffline::new(op::PAGE_OFFLINE, (0x1000, 0x1000), status.as_mut_ptr() as u64);
    let outcome = hypercall::sysctl(&mut PageOffline { version: op::SYSCTL_VERSION - 1, ..argument });
    refused(outcome, Errno::EACCES, "sysctl of another version without privilege");
    refused(hypercall::sysctl_nowhere(), Errno::EFAULT, "sysctl without privilege on nothing");
    say!("page_offline_op is refused with {}", Errno::EPERM);
}
