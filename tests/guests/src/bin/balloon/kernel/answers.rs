//! What memory operations answer that are refused, or that only ask. The reasons are Xen's (common/memory.c, arch/x86/mm.c).

use luxen_guests::abi::{Errno, Exchange, PAGE_SIZE, Reservation, op};
use luxen_guests::machine::hypercall::{self, Outcome};
use luxen_guests::machine::memory::{self, Window};

use super::reserve;

/// Address bits 0 to 27: memory below 256 MiB.
const LOW_BITS: u32 = 28;
/// Node 0 of the machine, and no other.
const EXACT_NODE_0: u32 = 1 << 8 | 1 << 17;
const POPULATE_ON_DEMAND: u32 = 1 << 16;
/// Where nothing is mapped.
const NOWHERE: u64 = 0x0000_7abc_def0_1000;

fn refused(outcome: Outcome, expected: Errno, what: &str) {
    assert!(outcome == Err(expected), "{what} came to {outcome:?}, {expected} is due");
}

/// Asks and tries it all.
pub fn check(given: u64, most: u64) {
    check_map(given, most);
    check_physmap();
    check_flags();
    check_names_and_masks();
}

/// {u32 entries, pointer}: one range of RAM.
fn check_map(given: u64, most: u64) {
    assert!(most >= given, "the domain has {given} pages, but may have {most}");
    let mut entries = [[0u32; 5]; 2];
    let mut map = [2, entries.as_mut_ptr() as u64];
    hypercall::memory_op(op::XENMEM_MEMORY_MAP, &mut map).unwrap_or_else(|e| panic!("memory_map: {e}"));
    let [start_low, start_high, len_low, len_high, kind] = entries[0];
    let len_bytes = u64::from(len_high) << 32 | u64::from(len_low);
    assert!(map[0] == 1 && start_low == 0 && start_high == 0 && kind == 1, "memory_map gave {map:?}: {entries:x?}");
    assert!(len_bytes == most * PAGE_SIZE, "memory_map ends at {len_bytes:#x}, not at page {most:#x}");
    let mut none = [0, NOWHERE];
    hypercall::memory_op(op::XENMEM_MEMORY_MAP, &mut none).unwrap_or_else(|e| panic!("memory_map of nothing: {e}"));
    refused(hypercall::memory_op(op::XENMEM_MEMORY_MAP, &mut [1, NOWHERE]), Errno::EFAULT, "memory_map to nowhere");
    refused(hypercall::memory_op(op::XENMEM_MACHINE_MEMORY_MAP, &mut map), Errno::EPERM, "machine_memory_map");
    refused(hypercall::memory_op(op::XENMEM_SET_MEMORY_MAP, &mut map), Errno::EPERM, "set_memory_map");
    let mut own = op::DOMID_SELF;
    let gpfn = hypercall::memory_op(op::XENMEM_MAXIMUM_GPFN, &mut own);
    assert!(gpfn == Ok(0), "maximum_gpfn came to {gpfn:?}, but the guest has not said anything");
    let continued = op::XENMEM_MAXIMUM_GPFN | 1 << 6;
    refused(hypercall::memory_op(continued, &mut own), Errno::EINVAL, "maximum_gpfn to be continued");
    let mut nobody = op::DOMID_NOBODY;
    refused(hypercall::memory_op(op::XENMEM_MAXIMUM_GPFN, &mut nobody), Errno::ESRCH, "maximum_gpfn of nobody");
}

/// A PV domain has no physmap, and no resource of anybody's.
fn check_physmap() {
    let own = u64::from(op::DOMID_SELF);
    let nobody = u64::from(op::DOMID_NOBODY);
    // {u16 domid, u16 pages, u32 space, ...}: space 2 is a page of the guest's own, 4 a foreign one.
    let add = |head: u64| hypercall::memory_op(op::XENMEM_ADD_TO_PHYSMAP, &mut [head, 0, 0]);
    refused(add(own | 2 << 32), Errno::EACCES, "add_to_physmap");
    refused(add(nobody | 2 << 32), Errno::ESRCH, "add_to_physmap of nobody");
    refused(add(own | 4 << 32), Errno::ENOSYS, "add_to_physmap of a foreign page");
    let far = op::XENMEM_ADD_TO_PHYSMAP | 0x1_0000 << 6;
    refused(hypercall::memory_op(far, &mut [own, 0, 0]), Errno::EDOM, "add_to_physmap from page 0x10000 on");
    let batch = |head: u64| hypercall::memory_op(op::XENMEM_ADD_TO_PHYSMAP_BATCH, &mut [head, 0, 0, 0]);
    refused(batch(own | 2 << 16), Errno::EACCES, "add_to_physmap_batch");
    refused(batch(own | 3 << 16), Errno::EOPNOTSUPP, "add_to_physmap_batch of ranges");
    let mut remove = [own, 0];
    refused(hypercall::memory_op(op::XENMEM_REMOVE_FROM_PHYSMAP, &mut remove), Errno::EACCES, "remove_from_physmap");
    let acquire = |words: [u64; 4]| hypercall::memory_op(op::XENMEM_ACQUIRE_RESOURCE, &mut { words });
    refused(acquire([own | 1 << 16, 1, 0, 0]), Errno::EPERM, "acquire_resource of its own");
    refused(acquire([nobody | 1 << 16, 1, 0, 0]), Errno::ESRCH, "acquire_resource of nobody");
    refused(acquire([own, 1, 1 << 32, 0]), Errno::EINVAL, "acquire_resource far out");
    let mut plain =
        Reservation { extent_start: 0, nr_extents: 1, extent_order: 0, mem_flags: 0, domid: op::DOMID_SELF };
    refused(hypercall::memory_op(op::XENMEM_CLAIM_PAGES, &mut plain), Errno::EINVAL, "claim_pages for itself");
    let mut nodes = [own, 0, 0, 0, 0];
    refused(hypercall::memory_op(op::XENMEM_GET_VNUMAINFO, &mut nodes), Errno::EOPNOTSUPP, "get_vnumainfo");
    let mut devices = [1u64 | 7 << 32, 0, 0];
    let none = hypercall::memory_op(op::XENMEM_RESERVED_DEVICE_MEMORY_MAP, &mut devices);
    assert!(none == Ok(0) && devices[0] >> 32 == 0, "reserved_device_memory_map came to {none:?}: {devices:x?}");
}

/// Where memory is to be.
fn check_flags() {
    let refuse = |flags, what: &str| {
        let done = reserve(op::XENMEM_POPULATE_PHYSMAP, &mut [1], flags);
        assert!(done == 0, "there is memory {what}");
    };
    refuse(12, "below one page");
    refuse(EXACT_NODE_0, "for who insists on a node");
    refuse(POPULATE_ON_DEMAND, "on demand");
    // Exchanged for a page that is low, and back to where it may be anywhere.
    let pfn = memory::free_pfns().end - 1;
    for (bits, limit) in [(LOW_BITS, 1 << (LOW_BITS - 12)), (0, u64::MAX)] {
        let (mut give, mut take) = ([memory::mfn(pfn)], [pfn]);
        let done = exchange(&mut give, &mut take, bits);
        assert!(done == Ok(0), "exchange for {bits} address bits: {done:?}");
        assert!(take[0] < limit && memory::m2p(take[0]) == pfn, "exchange for {bits} address bits gave {:#x}", take[0]);
        memory::p2m()[pfn as usize].store(take[0], core::sync::atomic::Ordering::Relaxed);
    }
    let too_low = exchange(&mut [memory::mfn(pfn)], &mut [pfn], 12);
    refused(too_low, Errno::ENOMEM, "exchange for memory below one page");
    let node = exchange(&mut [memory::mfn(pfn)], &mut [pfn], EXACT_NODE_0);
    refused(node, Errno::EINVAL, "exchange for memory of a node");
}

fn exchange(give: &mut [u64; 1], take: &mut [u64; 1], mem_flags: u32) -> Outcome {
    let side = |list: &mut [u64; 1], mem_flags| Reservation {
        extent_start: list.as_mut_ptr() as u64,
        nr_extents: 1,
        extent_order: 0,
        mem_flags,
        domid: op::DOMID_SELF,
    };
    let mut argument = Exchange { give: side(give, 0), take: side(take, mem_flags), nr_exchanged: 0 };
    hypercall::memory_op(op::XENMEM_EXCHANGE, &mut argument)
}

/// Whose frames a change is about, and which vCPUs it is flushed for.
fn check_names_and_masks() {
    let va = Window::va();
    let change = |flags| hypercall::update_va_mapping_flags(va, 0, flags);
    let mask = [1u64];
    assert!(change(op::UVMF_INVLPG | mask.as_ptr() as u64) == Ok(0), "flush for a mask of vCPUs");
    assert!(change(op::UVMF_TLB_FLUSH | op::UVMF_ALL) == Ok(0), "flush for all vCPUs");
    assert!(change(NOWHERE) == Ok(0), "a mask is not looked at without a flush");
    refused(change(op::UVMF_INVLPG | NOWHERE), Errno::EFAULT, "flush for a mask that is nowhere");
    let other = |domid| hypercall::update_va_mapping_otherdomain(va, 0, op::UVMF_INVLPG, domid);
    assert!(other(op::DOMID_SELF) == Ok(0), "update_va_mapping_otherdomain for itself");
    refused(other(op::DOMID_NOBODY), Errno::ESRCH, "update_va_mapping_otherdomain of nobody");
    refused(other(op::DOMID_XEN), Errno::EPERM, "update_va_mapping_otherdomain of the hypervisor");
    let multi = |cmd, mask| hypercall::mmuext_two(cmd, va, mask);
    for cmd in [op::MMUEXT_TLB_FLUSH_MULTI, op::MMUEXT_INVLPG_MULTI] {
        assert!(multi(cmd, mask.as_ptr() as u64) == Ok(0), "mmuext {cmd} for a mask of vCPUs");
        refused(multi(cmd, NOWHERE), Errno::EINVAL, "mmuext flush for a mask that is nowhere");
    }
    refused(multi(op::MMUEXT_MARK_SUPER, 0), Errno::EOPNOTSUPP, "mark_super");
}
