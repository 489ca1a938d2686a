//! The tool's side of a live update, without a toolstack. Its ramdisk is the file of the next build. In this order:
//!
//! - kexec_op's ranges are what they can be; nothing is loaded; what makes no sense is refused, each with its errno;
//! - a damaged image is refused and leaves nothing behind, nor does it take away what was loaded before;
//! - load, status, unload; load again; exec, which only asks; and the guest goes on under the other build, which the
//!   hypervisor's version says, and under which nothing is loaded any more;
//! - the next update as far as `updates=` says: with another build among the hypervisor's modules every second one goes
//!   back to it (`alternate`), else the same build is loaded again.
//!
//! With `reports` it reports faulty frames before the updates and looks what became of them behind each ([`report`]), `forgets` one of them on purpose; with
//! `sweeps` it reports frames of all memory and takes that back.
//!
//! Without privilege each of the operations is refused with -EPERM, and that is all there is to see.
//!
//! Options: `updates=<n>` (1), `first-ms=<n>` (100: when the first one is asked for), `every-ms=<n>` (100: from one to the
//! next), `wait-ms=<n>` (5000: how long one may take), `alternate`, `expect=<text>` (end of the version that the first
//! update leads to, `-b`), `untrusted` (the image must be refused with -EACCES, and nothing else is done with it), `exec-nothing` (exec with nothing loaded must be refused: no module is a next build either).

#![expect(unsafe_code, reason = "the ramdisk is reached by its address")]

use luxen_guests::abi::{Errno, KexecLoad, KexecRange, KexecSegment, PAGE_SIZE, op};
use luxen_guests::clock::{MS, Seconds};
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::hypercall::{self, Outcome};
use luxen_guests::machine::traps::{CallbackInterface, not_mine};
use luxen_guests::machine::{events, memory, time};
use luxen_guests::{kernel, say};

mod report;

use report::Report;

kernel!(
    name: "updater",
    run: run,
    traps: not_mine,
    setup: Setup { callbacks: CallbackInterface::SetCallbacks, moves_vcpu_info: true },
    calls: syscall
);

/// What the image slot and the region are multiples of.
const ALIGNMENT: u64 = 2 << 20;
/// First address that a 32-bit entry cannot reach.
const LIMIT: u64 = 4 << 30;

fn run(guest: &mut Guest) {
    if memory::start_info().flags & op::SIF_PRIVILEGED == 0 {
        refuse_without_privilege();
    } else {
        update_all(guest);
    }
    let now = time::now();
    while !wait_until(guest, now.saturating_add(3600 * 1000 * MS)) {}
    if memory::start_info().flags & op::SIF_PRIVILEGED != 0 {
        say!("ends under {}", Version::now());
    }
}

/// The updates; comes back early when somebody says `finish`.
fn update_all(guest: &mut Guest) {
    let updates = guest.number("updates", 1);
    let first = guest.number("first-ms", 100).saturating_mul(MS);
    let every = guest.number("every-ms", 100).saturating_mul(MS);
    let limit = guest.number("wait-ms", 5000).saturating_mul(MS);
    let alternates = guest.options().has("alternate");
    let wanted = guest.options().value("expect").unwrap_or("");

    let image = ramdisk();
    check_ranges();
    check_refusals(image);
    if guest.options().has("untrusted") {
        refused(
            load(op::KEXEC_TYPE_LIVE_UPDATE, image),
            Errno::EACCES,
            "load of an image that nobody trusted has signed",
        );
        granted(status(), 0, "status after an image that is not trusted");
        say!("load is refused with {}", Errno::EACCES);
    } else {
        check_loading(image);
    }
    if guest.options().has("exec-nothing") {
        refused(exec(op::KEXEC_TYPE_LIVE_UPDATE), Errno::ENOENT, "exec of nothing");
        say!("exec of nothing is refused with {}", Errno::ENOENT);
    }

    let mut reported = guest.options().has("reports").then(|| Report::before_updates(guest.options().has("forgets")));
    if guest.options().has("sweeps") {
        report::sweep();
    }

    let mut next = time::now().saturating_add(first);
    for number in 1..=updates {
        if wait_until(guest, next) {
            return;
        }
        let before = Version::now();
        // Every second one goes back to the build that the hypervisor has among its modules.
        let goes_back = alternates && number % 2 == 0;
        if !goes_back {
            granted(load(op::KEXEC_TYPE_LIVE_UPDATE, image), 0, "load");
            granted(status(), 1, "status of what was loaded");
        }
        let asked = time::now();
        granted(exec(op::KEXEC_TYPE_LIVE_UPDATE), 0, "exec");
        let is_over = || if goes_back { Version::now() != before } else { status() == Ok(0) };
        while !is_over() {
            let now = time::now();
            assert!(now < asked.saturating_add(limit), "no update {} ms after exec", limit / MS);
            if wait_until(guest, now.saturating_add(MS)) {
                panic!("somebody says finish before update {number} is over");
            }
        }
        let now = Version::now();
        granted(status(), 0, "status after an update");
        if number == 1 || alternates {
            assert!(now != before, "still under {now} after update {number}");
        } else {
            assert!(now == before, "under {now}, but what was loaded is {before}");
        }
        if number == 1 {
            assert!(now.text().ends_with(wanted), "under {now}, not one that ends with {wanted}");
        }
        check_ranges();
        if let Some(reported) = &mut reported {
            reported.after_update();
        }
        say!("runs under {now} after update {number}, at {}", Seconds(time::now()));
        next = asked.saturating_add(every);
    }
}

/// The file of the next build.
fn ramdisk() -> &'static mut [u8] {
    let info = memory::start_info();
    assert!(info.mod_start != 0 && info.mod_len != 0, "there is no ramdisk: a module `ramdisk name=...` is needed");
    // SAFETY: the domain builder placed the ramdisk there, in memory of the guest's own that nothing else uses; called once.
    unsafe { core::slice::from_raw_parts_mut(info.mod_start as *mut u8, info.mod_len as usize) }
}

/// The text by which a build of the hypervisor names itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version([u8; 64]);

impl Version {
    fn now() -> Self {
        Version(hypercall::xen_changeset().unwrap_or_else(|e| panic!("xen_version changeset: {e}")))
    }

    fn text(&self) -> &str {
        let bytes = self.0.split(|&byte| byte == 0).next().unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or_else(|_| panic!("the hypervisor's version is not text"))
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

/// Loads one segment: the whole file.
fn load(kind: u8, file: &[u8]) -> Outcome {
    let len = file.len() as u64;
    let whole = KexecSegment {
        buf: file.as_ptr() as u64,
        buf_size: len,
        dest_maddr: 0,
        dest_size: len.next_multiple_of(PAGE_SIZE),
    };
    hypercall::kexec_op(op::KEXEC_LOAD, &mut KexecLoad::new(kind, &[whole]))
}

fn unload(kind: u8) -> Outcome {
    hypercall::kexec_op(op::KEXEC_UNLOAD, &mut [kind])
}

fn status() -> Outcome {
    status_of(op::KEXEC_TYPE_LIVE_UPDATE)
}

fn status_of(kind: u8) -> Outcome {
    hypercall::kexec_op(op::KEXEC_STATUS, &mut [kind])
}

fn exec(kind: u8) -> Outcome {
    hypercall::kexec_op(op::KEXEC_EXEC, &mut u32::from(kind))
}

fn granted(outcome: Outcome, expected: u64, what: &str) {
    match outcome {
        Ok(value) => assert!(value == expected, "{what} gave {value}, not {expected}"),
        Err(errno) => panic!("{what} was refused with {errno}"),
    }
}

fn refused(outcome: Outcome, expected: Errno, what: &str) {
    match outcome {
        Err(errno) => assert!(errno == expected, "{what} was refused with {errno}, not {expected}"),
        Ok(value) => panic!("{what} was allowed (result {value}), {expected} is due"),
    }
}

fn range(which: i32) -> KexecRange {
    let mut range = KexecRange { range: which, ..KexecRange::default() };
    granted(hypercall::kexec_op(op::KEXEC_GET_RANGE, &mut range), 0, "get_range");
    range
}

/// The image and the region: each where the next build can be entered and neither over the other.
fn check_ranges() {
    let image = range(op::KEXEC_RANGE_XEN);
    let region = range(op::KEXEC_RANGE_LIVEUPDATE);
    for (range, what) in [(image, "image"), (region, "region")] {
        let (start, size) = (range.start, range.size);
        assert!(size != 0 && size.is_multiple_of(ALIGNMENT), "the {what} has {size:#x} bytes");
        assert!(start != 0 && start.is_multiple_of(ALIGNMENT), "the {what} is at {start:#x}");
        assert!(start.checked_add(size).is_some_and(|end| end <= LIMIT), "the {what} at {start:#x} ends above 4 GiB");
    }
    let is_apart = image.start + image.size <= region.start || region.start + region.size <= image.start;
    assert!(is_apart, "the image at {:#x} and the region at {:#x} overlap", image.start, region.start);
}

/// What makes no sense, with nothing loaded before or after.
fn check_refusals(image: &[u8]) {
    granted(status(), 0, "status at the start");
    let mut nowhere = KexecRange { range: -1, ..KexecRange::default() };
    refused(hypercall::kexec_op(op::KEXEC_GET_RANGE, &mut nowhere), Errno::EINVAL, "get_range of range -1");
    for kind in [op::KEXEC_TYPE_LIVE_UPDATE + 1, u8::MAX] {
        refused(status_of(kind), Errno::EINVAL, "status of a type that is none");
        refused(load(kind, image), Errno::EINVAL, "load of a type that is none");
        refused(unload(kind), Errno::EINVAL, "unload of a type that is none");
        refused(exec(kind), Errno::EINVAL, "exec of a type that is none");
    }
    // Types that exist elsewhere; here nothing else than the update can be loaded.
    for kind in [op::KEXEC_TYPE_DEFAULT, op::KEXEC_TYPE_CRASH] {
        refused(load(kind, image), Errno::EINVAL, "load of another type than the update");
        refused(exec(kind), Errno::EINVAL, "exec of another type than the update");
    }
    refused(hypercall::kexec_op(op::KEXEC_NONE, &mut [0u64; 4]), Errno::ENOSYS, "a kexec_op that is none");
    for command in [op::KEXEC_GET_RANGE, op::KEXEC_LOAD, op::KEXEC_UNLOAD, op::KEXEC_STATUS, op::KEXEC_EXEC] {
        refused(hypercall::kexec_op_nowhere(command), Errno::EFAULT, "a kexec_op whose argument is nowhere");
    }

    let len = image.len() as u64;
    let whole = KexecSegment { buf: image.as_ptr() as u64, buf_size: len, dest_maddr: 0, dest_size: len };
    let try_load = |segments: &[KexecSegment]| {
        hypercall::kexec_op(op::KEXEC_LOAD, &mut KexecLoad::new(op::KEXEC_TYPE_LIVE_UPDATE, segments))
    };
    refused(try_load(&[]), Errno::EINVAL, "load of no segment");
    refused(try_load(&[whole, whole]), Errno::EINVAL, "load of two segments");
    refused(try_load(&[KexecSegment { buf_size: 0, ..whole }]), Errno::EINVAL, "load of nothing");
    refused(
        try_load(&[KexecSegment { dest_size: len - 1, ..whole }]),
        Errno::EINVAL,
        "load of more than there is room",
    );
    let endless = KexecSegment { buf_size: u64::MAX, dest_size: u64::MAX, ..whole };
    refused(try_load(&[endless]), Errno::EINVAL, "load of an endless image");
    refused(try_load(&[KexecSegment { buf: 0, ..whole }]), Errno::EFAULT, "load from where nothing is");
    granted(status(), 0, "status after loads that were refused");
}

/// Loads, unloads, and damaged images. Leaves nothing loaded.
fn check_loading(image: &mut [u8]) {
    const TYPE: u8 = op::KEXEC_TYPE_LIVE_UPDATE;
    granted(load(TYPE, image), 0, "load");
    granted(status(), 1, "status after load");
    granted(unload(TYPE), 0, "unload");
    granted(status(), 0, "status after unload");
    granted(unload(TYPE), 0, "unload of nothing");

    let middle = image.len() / 2;
    image[middle] ^= 0x10;
    refused(load(TYPE, image), Errno::EINVAL, "load of a damaged image");
    granted(status(), 0, "status after a damaged image");
    image[middle] ^= 0x10;
    refused(load(TYPE, &image[..image.len() / 3 * 2]), Errno::EINVAL, "load of an image that is cut off");
    refused(load(TYPE, &image[..100]), Errno::EINVAL, "load of an image's first bytes");

    granted(load(TYPE, image), 0, "load after damaged ones");
    granted(load(TYPE, image), 0, "load over what is loaded");
    image[middle] ^= 0x10;
    refused(load(TYPE, image), Errno::EINVAL, "load of a damaged image over a good one");
    image[middle] ^= 0x10;
    granted(status(), 1, "status when a damaged image came after a good one");
    granted(unload(TYPE), 0, "unload of the good one");
    say!("loads and unloads {} bytes under {}", image.len(), Version::now());
}

/// Nothing of it is for a domain without privilege, whatever else is wrong with the call.
fn refuse_without_privilege() {
    for command in 0..=op::KEXEC_NONE {
        refused(hypercall::kexec_op(command, &mut [0u64; 4]), Errno::EPERM, "kexec_op without privilege");
        refused(hypercall::kexec_op_nowhere(command), Errno::EPERM, "kexec_op without privilege on nothing");
    }
    say!("kexec_op is refused with {}", Errno::EPERM);
    report::refuse_without_privilege();
}

/// Waits; true when it is time to finish.
fn wait_until(guest: &mut Guest, at: u64) -> bool {
    loop {
        let seen = events::total();
        if guest.poll() {
            return true;
        }
        if time::now() >= at {
            return false;
        }
        guest.sleep(seen, at);
    }
}
