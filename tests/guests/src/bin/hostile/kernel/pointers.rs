//! Pointers that lead nowhere, to memory that is not the guest's, or to a page that must not be written: for every argument of every hypercall.

use luxen_guests::abi::{Errno, PAGE_SIZE, hypercall as nr, op};
use luxen_guests::grant::op as grant;

use super::answer::{Answer, FINE, Judge};
use super::ground::{DATA, Ground, NOTHING, READ_ONLY, through_linear};
use super::{NO_CALL, call};

/// What the hypervisor does with the memory behind a pointer, first of all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Reads,
    Writes,
}
use Access::{Reads, Writes};

/// A pointer that no hypercall can use.
struct Pointer {
    name: &'static str,
    address: u64,
}

/// They end the reading of any structure, but for the last.
const POINTERS: [Pointer; 10] = [
    Pointer { name: "nothing mapped", address: NOTHING },
    Pointer { name: "address 0", address: 0 },
    Pointer { name: "no level-4 entry", address: 0x0000_7abc_def0_1000 },
    Pointer { name: "below the hole", address: 0x0000_7fff_ffff_fff8 },
    Pointer { name: "not canonical", address: 0x0000_8000_0000_0000 },
    Pointer { name: "the M2P", address: 0xffff_8000_0000_0000 },
    Pointer { name: "the hypervisor's image", address: 0xffff_82d0_4000_0000 },
    Pointer { name: "the direct map", address: 0xffff_8300_0000_0000 },
    Pointer { name: "the end of all addresses", address: u64::MAX - 1 },
    Pointer { name: "across a page's end", address: NOTHING - 1 },
];

/// A hypercall with a pointer among its arguments.
struct Call {
    name: &'static str,
    number: u64,
    /// [`P`] stands for the pointer.
    args: [u64; 4],
    access: Access,
    due: Answer,
}

/// Stands for the pointer: a value that no argument has otherwise.
const P: u64 = 0x0bad_0bad_0bad_0bad;
const SELF: u64 = op::DOMID_SELF as u64;
const FAULT: Answer = Answer::No(Errno::EFAULT);
const DENIED: Answer = Answer::No(Errno::EPERM);

const fn reads(name: &'static str, number: u64, args: [u64; 4]) -> Call {
    Call { name, number, args, access: Reads, due: FAULT }
}

const fn writes(name: &'static str, number: u64, args: [u64; 4]) -> Call {
    Call { name, number, args, access: Writes, due: FAULT }
}

const fn otherwise(call: Call, due: Answer) -> Call {
    Call { due, ..call }
}

const CALLS: &[Call] = &[
    reads("mmu_update", nr::MMU_UPDATE, [P, 1, 0, SELF]),
    reads("mmu_update of very many", nr::MMU_UPDATE, [P, 0x7fff_ffff, 0, SELF]),
    reads("mmu_update without end", nr::MMU_UPDATE, [P, u64::MAX, 0, SELF]),
    otherwise(reads("mmu_update of none", nr::MMU_UPDATE, [P, 0, P, SELF]), FINE),
    reads("set_gdt", nr::SET_GDT, [P, 1, 0, 0]),
    reads("set_gdt of all pages", nr::SET_GDT, [P, 7168, 0, 0]),
    reads("memory_op exchange", nr::MEMORY_OP, [op::XENMEM_EXCHANGE, P, 0, 0]),
    otherwise(reads("memory_op increase", nr::MEMORY_OP, [op::XENMEM_INCREASE_RESERVATION, P, 0, 0]), FINE),
    otherwise(reads("memory_op decrease", nr::MEMORY_OP, [op::XENMEM_DECREASE_RESERVATION, P, 0, 0]), FINE),
    otherwise(reads("memory_op populate", nr::MEMORY_OP, [op::XENMEM_POPULATE_PHYSMAP, P, 0, 0]), FINE),
    reads("memory_op current_reservation", nr::MEMORY_OP, [op::XENMEM_CURRENT_RESERVATION, P, 0, 0]),
    reads("memory_op maximum_reservation", nr::MEMORY_OP, [op::XENMEM_MAXIMUM_RESERVATION, P, 0, 0]),
    reads("memory_op maximum_gpfn", nr::MEMORY_OP, [op::XENMEM_MAXIMUM_GPFN, P, 0, 0]),
    reads("memory_op add_to_physmap", nr::MEMORY_OP, [op::XENMEM_ADD_TO_PHYSMAP, P, 0, 0]),
    reads("memory_op add_to_physmap_batch", nr::MEMORY_OP, [op::XENMEM_ADD_TO_PHYSMAP_BATCH, P, 0, 0]),
    reads("memory_op remove_from_physmap", nr::MEMORY_OP, [op::XENMEM_REMOVE_FROM_PHYSMAP, P, 0, 0]),
    reads("memory_op machphys_mfn_list", nr::MEMORY_OP, [op::XENMEM_MACHPHYS_MFN_LIST, P, 0, 0]),
    reads("memory_op memory_map", nr::MEMORY_OP, [op::XENMEM_MEMORY_MAP, P, 0, 0]),
    reads("memory_op claim_pages", nr::MEMORY_OP, [op::XENMEM_CLAIM_PAGES, P, 0, 0]),
    reads("memory_op get_vnumainfo", nr::MEMORY_OP, [op::XENMEM_GET_VNUMAINFO, P, 0, 0]),
    reads("memory_op reserved_device_memory_map", nr::MEMORY_OP, [op::XENMEM_RESERVED_DEVICE_MEMORY_MAP, P, 0, 0]),
    reads("memory_op acquire_resource", nr::MEMORY_OP, [op::XENMEM_ACQUIRE_RESOURCE, P, 0, 0]),
    writes("memory_op machphys_mapping", nr::MEMORY_OP, [op::XENMEM_MACHPHYS_MAPPING, P, 0, 0]),
    reads("multicall", nr::MULTICALL, [P, 1, 0, 0]),
    reads("multicall of very many", nr::MULTICALL, [P, 0xffff_ffff, 0, 0]),
    otherwise(reads("multicall of none", nr::MULTICALL, [P, 0, 0, 0]), FINE),
    reads("update_va_mapping, mask of vCPUs", nr::UPDATE_VA_MAPPING, [NOTHING, 0, P & !3 | 2, 0]),
    writes("xen_version extraversion", nr::XEN_VERSION, [1, P, 0, 0]),
    writes("xen_version compile_info", nr::XEN_VERSION, [2, P, 0, 0]),
    writes("xen_version capabilities", nr::XEN_VERSION, [3, P, 0, 0]),
    writes("xen_version changeset", nr::XEN_VERSION, [4, P, 0, 0]),
    writes("xen_version platform_parameters", nr::XEN_VERSION, [5, P, 0, 0]),
    reads("xen_version get_features", nr::XEN_VERSION, [6, P, 0, 0]),
    writes("xen_version guest_handle", nr::XEN_VERSION, [8, P, 0, 0]),
    writes("xen_version commandline", nr::XEN_VERSION, [9, P, 0, 0]),
    reads("console_io write", nr::CONSOLE_IO, [op::CONSOLEIO_WRITE, 8, P, 0]),
    reads("console_io write of very much", nr::CONSOLE_IO, [op::CONSOLEIO_WRITE, 0x7fff_ffff, P, 0]),
    otherwise(reads("console_io read", nr::CONSOLE_IO, [op::CONSOLEIO_READ, 8, P, 0]), DENIED),
    reads("grant_table_op map", nr::GRANT_TABLE_OP, [grant::MAP_GRANT_REF, P, 1, 0]),
    reads("grant_table_op map of very many", nr::GRANT_TABLE_OP, [grant::MAP_GRANT_REF, P, 0x7fff_ffff, 0]),
    reads("grant_table_op unmap", nr::GRANT_TABLE_OP, [grant::UNMAP_GRANT_REF, P, 1, 0]),
    reads("grant_table_op setup_table", nr::GRANT_TABLE_OP, [grant::SETUP_TABLE, P, 1, 0]),
    reads("grant_table_op copy", nr::GRANT_TABLE_OP, [grant::COPY, P, 1, 0]),
    reads("grant_table_op query_size", nr::GRANT_TABLE_OP, [grant::QUERY_SIZE, P, 1, 0]),
    reads("grant_table_op unmap_and_replace", nr::GRANT_TABLE_OP, [grant::UNMAP_AND_REPLACE, P, 1, 0]),
    reads("grant_table_op set_version", nr::GRANT_TABLE_OP, [grant::SET_VERSION, P, 1, 0]),
    reads("grant_table_op get_status_frames", nr::GRANT_TABLE_OP, [grant::GET_STATUS_FRAMES, P, 1, 0]),
    reads("grant_table_op get_version", nr::GRANT_TABLE_OP, [grant::GET_VERSION, P, 1, 0]),
    reads("grant_table_op swap", nr::GRANT_TABLE_OP, [grant::SWAP_GRANT_REF, P, 1, 0]),
    reads("grant_table_op cache_flush", nr::GRANT_TABLE_OP, [grant::CACHE_FLUSH, P, 1, 0]),
    reads("vcpu_op initialise", nr::VCPU_OP, [op::VCPU_INITIALISE, 0, P, 0]),
    writes("vcpu_op get_runstate_info", nr::VCPU_OP, [op::VCPU_GET_RUNSTATE, 0, P, 0]),
    reads("vcpu_op register_runstate_memory_area", nr::VCPU_OP, [op::VCPU_REGISTER_RUNSTATE, 0, P, 0]),
    reads("vcpu_op set_periodic_timer", nr::VCPU_OP, [op::VCPU_SET_PERIODIC, 0, P, 0]),
    reads("vcpu_op set_singleshot_timer", nr::VCPU_OP, [op::VCPU_SET_SINGLESHOT, 0, P, 0]),
    reads("vcpu_op register_vcpu_info", nr::VCPU_OP, [op::VCPU_REGISTER_INFO, 0, P, 0]),
    reads("vcpu_op register_vcpu_time_memory_area", nr::VCPU_OP, [op::VCPU_REGISTER_TIME, 0, P, 0]),
    reads("mmuext_op", nr::MMUEXT_OP, [P, 1, 0, SELF]),
    reads("mmuext_op of very many", nr::MMUEXT_OP, [P, 0x7fff_ffff, 0, SELF]),
    otherwise(reads("mmuext_op of none", nr::MMUEXT_OP, [P, 0, P, SELF]), FINE),
    reads("sched_op shutdown", nr::SCHED_OP, [op::SCHED_SHUTDOWN, P, 0, 0]),
    reads("sched_op poll", nr::SCHED_OP, [op::SCHED_POLL, P, 0, 0]),
    reads("sched_op remote_shutdown", nr::SCHED_OP, [op::SCHED_REMOTE_SHUTDOWN, P, 0, 0]),
    reads("sched_op shutdown_code", nr::SCHED_OP, [op::SCHED_SHUTDOWN_CODE, P, 0, 0]),
    reads("sched_op watchdog", nr::SCHED_OP, [op::SCHED_WATCHDOG, P, 0, 0]),
    reads("callback_op register", nr::CALLBACK_OP, [op::CALLBACKOP_REGISTER, P, 0, 0]),
    reads("callback_op unregister", nr::CALLBACK_OP, [op::CALLBACKOP_UNREGISTER, P, 0, 0]),
    reads("nmi_op register", nr::NMI_OP, [op::NMI_REGISTER, P, 0, 0]),
    reads("event_channel_op bind_interdomain", nr::EVENT_CHANNEL_OP, [op::EVTCHN_BIND_INTERDOMAIN, P, 0, 0]),
    reads("event_channel_op bind_virq", nr::EVENT_CHANNEL_OP, [op::EVTCHN_BIND_VIRQ, P, 0, 0]),
    reads("event_channel_op close", nr::EVENT_CHANNEL_OP, [op::EVTCHN_CLOSE, P, 0, 0]),
    reads("event_channel_op send", nr::EVENT_CHANNEL_OP, [op::EVTCHN_SEND, P, 0, 0]),
    reads("event_channel_op status", nr::EVENT_CHANNEL_OP, [op::EVTCHN_STATUS, P, 0, 0]),
    reads("event_channel_op alloc_unbound", nr::EVENT_CHANNEL_OP, [op::EVTCHN_ALLOC_UNBOUND, P, 0, 0]),
    reads("event_channel_op bind_ipi", nr::EVENT_CHANNEL_OP, [op::EVTCHN_BIND_IPI, P, 0, 0]),
    reads("event_channel_op bind_vcpu", nr::EVENT_CHANNEL_OP, [op::EVTCHN_BIND_VCPU, P, 0, 0]),
    reads("event_channel_op unmask", nr::EVENT_CHANNEL_OP, [op::EVTCHN_UNMASK, P, 0, 0]),
    reads("event_channel_op reset", nr::EVENT_CHANNEL_OP, [op::EVTCHN_RESET, P, 0, 0]),
    reads("event_channel_op of old", nr::EVENT_CHANNEL_OP_COMPAT, [P, 0, 0, 0]),
    reads("physdev_op set_iopl", nr::PHYSDEV_OP, [op::PHYSDEV_SET_IOPL, P, 0, 0]),
    reads("physdev_op set_iobitmap", nr::PHYSDEV_OP, [op::PHYSDEV_SET_IOBITMAP, P, 0, 0]),
    reads("physdev_op of old", nr::PHYSDEV_OP_COMPAT, [P, 0, 0, 0]),
    reads("platform_op", nr::PLATFORM_OP, [P, 0, 0, 0]),
    reads("hvm_op get_param", nr::HVM_OP, [1, P, 0, 0]),
];

/// As the others, for those who look at more than the pointer.
const CONTROL_CALLS: &[Call] = &[
    reads("sysctl", nr::SYSCTL, [P, 0, 0, 0]),
    reads("domctl", nr::DOMCTL, [P, 0, 0, 0]),
    otherwise(reads("kexec_op load", nr::KEXEC_OP, [op::KEXEC_LOAD, P, 0, 0]), DENIED),
];

/// Tries every call with every pointer.
pub fn try_all(_: &Ground, judge: &mut Judge) {
    let through = Pointer { name: "a linear mapping into the hypervisor", address: through_linear() };
    for c in CALLS.iter().chain(CONTROL_CALLS) {
        for p in POINTERS.iter().chain([&through]) {
            let args = c.args.map(|arg| put(arg, p.address));
            judge.check(format_args!("{}, {}", c.name, p.name), call(c.number, args), c.due);
        }
        if c.access == Writes {
            let args = c.args.map(|arg| put(arg, READ_ONLY));
            judge.check(format_args!("{}, a read-only page", c.name), call(c.number, args), c.due);
        }
    }
    inner_pointers(judge);
    halfway(judge);
    trap_tables(judge);
}

fn put(arg: u64, address: u64) -> u64 {
    match arg {
        P => address,
        // The low bits say what is flushed.
        arg if arg == P & !3 | 2 => (address & !3 | 2).max(8 | 2),
        arg => arg,
    }
}

/// Pointers inside of structures, which are read themselves.
fn inner_pointers(judge: &mut Judge) {
    for p in &POINTERS[..8] {
        let poll = [p.address, 1, 0];
        let found = call(nr::SCHED_OP, [op::SCHED_POLL, poll.as_ptr() as u64]);
        judge.check(format_args!("ports of a poll, {}", p.name), found, FAULT);
        let mut list = [8u64, p.address, 0];
        let found = call(nr::MEMORY_OP, [op::XENMEM_MACHPHYS_MFN_LIST, list.as_mut_ptr() as u64]);
        judge.check(format_args!("frames of machphys_mfn_list, {}", p.name), found, FAULT);
        let mut map = [8u64, p.address];
        let found = call(nr::MEMORY_OP, [op::XENMEM_MEMORY_MAP, map.as_mut_ptr() as u64]);
        judge.check(format_args!("entries of memory_map, {}", p.name), found, FAULT);
        let reservation = [p.address, 4, 0, SELF];
        for kind in [op::XENMEM_DECREASE_RESERVATION, op::XENMEM_POPULATE_PHYSMAP] {
            let found = call(nr::MEMORY_OP, [kind, reservation.as_ptr() as u64]);
            judge.check(format_args!("frames of reservation {kind}, {}", p.name), found, FINE);
        }
        let mut exchange = [p.address, 4, 0, SELF, p.address, 4, 0, SELF, 0];
        let found = call(nr::MEMORY_OP, [op::XENMEM_EXCHANGE, exchange.as_mut_ptr() as u64]);
        judge.check(format_args!("frames of an exchange, {}", p.name), found, FAULT);
        // An area of run states that is not the guest's is refused; where nothing is mapped nothing is written.
        let area = [p.address];
        let found = call(nr::VCPU_OP, [op::VCPU_REGISTER_RUNSTATE, 0, area.as_ptr() as u64]);
        let is_guests = !(0x0000_8000_0000_0000..0xffff_8800_0000_0000).contains(&p.address);
        judge.check(format_args!("run states, {}", p.name), found, if is_guests { FINE } else { FAULT });
    }
    let none = [0u64];
    let found = call(nr::VCPU_OP, [op::VCPU_REGISTER_RUNSTATE, 0, none.as_ptr() as u64]);
    judge.check(format_args!("no run states"), found, FINE);
    let answer = [u64::from(u32::MAX)];
    let found = call(nr::XEN_VERSION, [6, answer.as_ptr() as u64]);
    judge.check(format_args!("features of submap -1"), found, Answer::No(Errno::EINVAL));
}

/// Lists of which the second half is not there: the first is done.
fn halfway(judge: &mut Judge) {
    // Two calls at the end of the page in front of nothing.
    let list = NOTHING - 128;
    let entries = list as *mut [u64; 8];
    for i in 0..2 {
        // SAFETY: in the page of data, which only these attempts use.
        unsafe { entries.wrapping_add(i).write_volatile([NO_CALL, 0, 0, 0, 0, 0, 0, 0]) };
    }
    judge.check(format_args!("multicall that ends in nothing"), call(nr::MULTICALL, [list, 3]), FAULT);
    for i in 0..2 {
        // SAFETY: as above.
        let result = unsafe { entries.wrapping_add(i).read_volatile() }[1];
        let due = Answer::No(Errno::ENOSYS);
        judge.check(format_args!("its entry {i}"), Errno::check(result as i64).into(), due);
    }
    // A flush of the TLB, twice, and one that is not there.
    let list = NOTHING - 48;
    let mut done = [u32::MAX];
    for i in 0..2 {
        // SAFETY: as above.
        unsafe {
            (list as *mut [u64; 3]).wrapping_add(i).write_volatile([u64::from(op::MMUEXT_TLB_FLUSH_LOCAL), 0, 0])
        };
    }
    let found = call(nr::MMUEXT_OP, [list, u64::from(u32::MAX), done.as_mut_ptr() as u64, SELF]);
    judge.check(format_args!("mmuext_op that ends in nothing"), found, FAULT);
    // The flag that says that a call goes on is set in that count: it goes on from what was done before.
    judge.check(format_args!("what it did"), Answer::Is(done[0].wrapping_add(1).into()), Answer::Is(2));
    // SAFETY: as above.
    unsafe { (DATA as *mut [u64; (PAGE_SIZE / 8) as usize]).write_volatile([0; (PAGE_SIZE / 8) as usize]) };
}

/// A table of trap handlers has no length, but an end.
fn trap_tables(judge: &mut Judge) {
    for p in POINTERS.iter().filter(|p| p.address != 0) {
        let found = call(nr::SET_TRAP_TABLE, [p.address]);
        judge.check(format_args!("set_trap_table, {}", p.name), found, FAULT);
    }
    // vector 200, with a handler where no address is.
    let table = [[200u64, 0x0000_8000_0000_0000], [0, 0]];
    let found = call(nr::SET_TRAP_TABLE, [table.as_ptr() as u64]);
    judge.check(format_args!("set_trap_table, handler not canonical"), found, Answer::No(Errno::EINVAL));
}
