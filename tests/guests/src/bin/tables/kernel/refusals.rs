//! What must be refused, and why. The reasons are Xen's (arch/x86/mm.c and its neighbours): a mapping that finds its frame
//! used otherwise or owned by somebody else is -EBUSY, one of what is not RAM (or belongs to the machine, as frame 0) is
//! -EPERM, a table or descriptor that is wrong in itself is -EINVAL.

use luxen_guests::abi::{Errno, HYPERVISOR_SLOTS, KexecRange, MmuUpdate, PAGE_SIZE, Reservation, op};
use luxen_guests::machine::console;
use luxen_guests::machine::hypercall::{self, mmuext, write_entry};
use luxen_guests::machine::memory::{self, Window};
use luxen_guests::pte;

use super::space::{EMPTY, Space, USER_BASE};
use super::{granted, refused};

/// An interrupt gate: system type 14, DPL 0.
const SYSTEM_GATE: u64 = 0x0000_8e00_0000_0000;
/// A busy 64-bit task segment: system type 11.
const TASK_SEGMENT: u64 = 0x0000_8b00_0000_0000;
/// Far behind any RAM, but still a frame number that an entry can hold.
const BEYOND_RAM: u64 = 1 << 32;

/// Tries it all, in the present space. `loose` is a frame that nothing uses.
pub fn try_all(space: &Space, loose: u64, gdt: u64, region: Option<u64>) {
    let empty_l1_entry = space.l1() * PAGE_SIZE + EMPTY * 8;
    let map = |mfn| write_entry(empty_l1_entry, pte::entry(mfn, pte::DATA));
    let map_read_only = |mfn| write_entry(empty_l1_entry, pte::entry(mfn, pte::READ_ONLY));

    // Writable mappings of what must not be written.
    refused(map(space.l1()), Errno::EBUSY, "writable mapping of an L1 in itself");
    refused(map(space.kernel_root()), Errno::EBUSY, "writable mapping of a pinned L4");
    refused(map(gdt), Errno::EBUSY, "writable mapping of the GDT");
    let by_address = |mfn| hypercall::update_va_mapping(Window::va(), pte::entry(mfn, pte::DATA));
    refused(by_address(space.l1()), Errno::EBUSY, "writable mapping of an L1 by update_va_mapping");
    refused(by_address(space.l2()), Errno::EBUSY, "writable mapping of an L2 by update_va_mapping");

    // Frames that are not the domain's.
    refused(map(0), Errno::EPERM, "mapping of frame 0");
    refused(map(BEYOND_RAM), Errno::EPERM, "mapping of a frame beyond RAM");
    refused(map_read_only(BEYOND_RAM), Errno::EPERM, "read-only mapping of a frame beyond RAM");
    if let Some(region) = region {
        refused(map(region), Errno::EBUSY, "mapping of a frame of the region");
        refused(map_read_only(region), Errno::EBUSY, "read-only mapping of a frame of the region");
    }
    try_foreign_frames(map_read_only);
    refused(mmuext(op::MMUEXT_PIN_L1, BEYOND_RAM), Errno::EINVAL, "pin of a frame beyond RAM");
    refused(write_entry(BEYOND_RAM * PAGE_SIZE, 0), Errno::EINVAL, "update of an entry beyond RAM");
    let nobody = [MmuUpdate { ptr: empty_l1_entry, val: 0 }];
    refused(
        hypercall::mmu_update(&nobody, op::DOMID_NOBODY),
        Errno::ESRCH,
        "mmu_update for a domain that is not there",
    );

    // The hypervisor's part of an L4.
    for slot in [HYPERVISOR_SLOTS.start, 260, 261, HYPERVISOR_SLOTS.end - 1] {
        let entry = space.kernel_root() * PAGE_SIZE + slot as u64 * 8;
        refused(write_entry(entry, 0), Errno::EINVAL, "clearing an L4 slot of the hypervisor");
        let value = pte::entry(pte::frame(own_l4_entry(space)), pte::TABLE);
        refused(write_entry(entry, value), Errno::EINVAL, "writing an L4 slot of the hypervisor");
    }

    // Tables that are none.
    let free_l2_entry = space.l2() * PAGE_SIZE + 100 * 8;
    let large = write_entry(free_l2_entry, pte::entry(loose, pte::DATA | pte::LARGE));
    refused(large, Errno::EINVAL, "large page in an L2");
    let wrong_level = write_entry(free_l2_entry, pte::entry(space.kernel_root(), pte::TABLE));
    refused(wrong_level, Errno::EINVAL, "L4 as an L1");
    let writable = write_entry(free_l2_entry, pte::entry(space.data(), pte::TABLE));
    refused(writable, Errno::EINVAL, "page that is mapped writable as an L1");

    // Pins.
    refused(mmuext(op::MMUEXT_PIN_L4, space.kernel_root()), Errno::EINVAL, "second pin of an L4");
    refused(mmuext(op::MMUEXT_UNPIN, loose), Errno::EINVAL, "unpin of a page that is not pinned");
    refused(mmuext(op::MMUEXT_UNPIN, space.l1()), Errno::EINVAL, "unpin of a table that is used but not pinned");
    refused(mmuext(op::MMUEXT_PIN_L4, space.l1()), Errno::EINVAL, "pin of an L1 as an L4");
    refused(mmuext(op::MMUEXT_PIN_L2, space.l1()), Errno::EINVAL, "pin of an L1 as an L2");
    refused(mmuext(op::MMUEXT_PIN_L1, space.data()), Errno::EINVAL, "pin of a page that is mapped writable");
    refused(mmuext(op::MMUEXT_NEW_BASEPTR, space.l1()), Errno::EINVAL, "switch to an L1");
    refused(mmuext(op::MMUEXT_NEW_USER_BASEPTR, space.data()), Errno::EINVAL, "switch to a data page");
    refused(mmuext(op::MMUEXT_CLEAR_PAGE, space.l1()), Errno::EINVAL, "clearing a page table");
    refused(mmuext(99, loose), Errno::ENOSYS, "mmuext command 99");
    try_console_ring();

    // Descriptors.
    let descriptor = gdt * PAGE_SIZE + 4 * 8;
    refused(hypercall::update_descriptor(descriptor, SYSTEM_GATE), Errno::EINVAL, "interrupt gate in the GDT");
    refused(hypercall::update_descriptor(descriptor, TASK_SEGMENT), Errno::EINVAL, "task segment in the GDT");
    refused(hypercall::update_descriptor(descriptor + 4, 0), Errno::EINVAL, "descriptor that is not aligned");
    let of_table = hypercall::update_descriptor(space.l1() * PAGE_SIZE, 0);
    refused(of_table, Errno::EINVAL, "descriptor in a page table");
    refused(hypercall::set_gdt(&[gdt; 16], 7169), Errno::EINVAL, "GDT with more entries than a guest may have");

    // Calls that are nobody's, or not an unprivileged domain's.
    refused(hypercall::no_such_hypercall(), Errno::ENOSYS, "a hypercall that does not exist");
    if memory::start_info().flags & op::SIF_PRIVILEGED == 0 {
        let mut range = KexecRange { range: op::KEXEC_RANGE_LIVEUPDATE, ..KexecRange::default() };
        let outcome = hypercall::kexec_op(op::KEXEC_GET_RANGE, &mut range);
        refused(outcome, Errno::EPERM, "kexec_op without privilege");
    }
}

/// The hypervisor writes to the console ring as long as the domain lives: also while the guest does not map it, and nothing in it
/// is against it, it is not to be a page table. It may be given back, and stays nevertheless.
fn try_console_ring() {
    if !console::clear() {
        return;
    }
    let ring = memory::start_info().console_mfn;
    let va = console::ring_address();
    granted(hypercall::update_va_mapping(va, 0), "unmapping of the console ring");
    let pinned = mmuext(op::MMUEXT_PIN_L1, ring);
    let mut frames = [ring];
    let mut reservation = Reservation {
        extent_start: frames.as_mut_ptr() as u64,
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: op::DOMID_SELF,
    };
    let given_back = hypercall::memory_op(op::XENMEM_DECREASE_RESERVATION, &mut reservation);
    // Back again before anything is said.
    granted(hypercall::update_va_mapping(va, pte::entry(ring, pte::DATA)), "mapping of the console ring");
    refused(pinned, Errno::EINVAL, "pin of the console ring as an L1");
    assert!(given_back == Ok(1), "giving back the console ring came to {given_back:?}, not to one page");
}

/// Frames that the M2P knows no owner of: the hypervisor's, free ones, and holes. Which they are a guest cannot tell, so
/// each of the two refusals will do, but nothing else.
fn try_foreign_frames(map: impl Fn(u64) -> Result<u64, Errno>) {
    const STEPS: u64 = 32;
    let last = memory::maximum_ram_page();
    for step in 1..=STEPS {
        let mfn = last / STEPS * step;
        let pfn = memory::m2p(mfn) as usize;
        let is_mine = memory::p2m().get(pfn).is_some_and(|_| memory::mfn(pfn as u64) == mfn);
        // The shared page and the console ring, which was given up, have no pfn, but may be mapped.
        let info = memory::start_info();
        if is_mine || mfn == info.shared_info / PAGE_SIZE || mfn == info.console_mfn {
            continue;
        }
        match map(mfn) {
            Err(Errno::EBUSY | Errno::EPERM) => {}
            Err(errno) => panic!("mapping of foreign frame {mfn:#x} was refused with {errno}"),
            Ok(_) => panic!("mapping of foreign frame {mfn:#x} was allowed"),
        }
    }
}

/// The present L4's entry for the user part.
fn own_l4_entry(space: &Space) -> u64 {
    Window::open(space.kernel_root()).read(pte::index(USER_BASE, 4))
}
