//! Hypercalls: the call itself, and one typed function for each that the guests use.
//!
//! The typed functions are safe to call although some change the guest's own mappings. What makes them so is how the
//! guests are written: no Rust object lives in a frame that is mapped, unmapped, exchanged or made a page table (those
//! come from the frames behind the boot area, [`super::memory::free_pfns`]); they are reached through raw addresses only.

use core::arch::asm;

use crate::abi::{self, Errno, hypercall as nr, op};

unsafe extern "C" {
    /// Address of the hypercall page, 0 for a guest that has none (entry.rs).
    static guest_hypercall_page: usize;
}

/// Result of a hypercall.
pub type Outcome = Result<u64, Errno>;

/// Any hypercall, raw.
///
/// # Safety
/// Every argument that the hypercall takes for an address must be one that it may read or write.
pub unsafe fn call(number: u64, args: [u64; 5]) -> i64 {
    let [a, b, c, d, e] = args;
    let result: i64;
    // SAFETY: a constant in .rodata, set by the linker.
    let page = unsafe { guest_hypercall_page };
    if page == 0 {
        // SAFETY: `syscall` in guest kernel mode is a hypercall (XEN.md §5.1): it clobbers rcx and r11, perhaps the
        // argument registers, and what its arguments point to, for which the caller vouches.
        unsafe {
            asm!("syscall", inlateout("rax") number => result, inlateout("rdi") a => _, inlateout("rsi") b => _,
                inlateout("rdx") c => _, inlateout("r10") d => _, inlateout("r8") e => _, out("rcx") _, out("r11") _);
        }
    } else {
        // SAFETY: as above; entry `number` of the page, 32 bytes each, does the `syscall` and returns.
        unsafe {
            asm!("call {entry}", entry = in(reg) page as u64 + number * 32, out("rax") result,
                inlateout("rdi") a => _, inlateout("rsi") b => _, inlateout("rdx") c => _,
                inlateout("r10") d => _, inlateout("r8") e => _, out("rcx") _, out("r11") _);
        }
    }
    result
}

/// A hypercall whose arguments are values, or addresses of live Rust objects of the right type.
fn checked(number: u64, args: [u64; 5]) -> Outcome {
    // SAFETY: only called from this file, with arguments as said.
    Errno::check(unsafe { call(number, args) })
}

fn address<T: ?Sized>(object: &T) -> u64 {
    core::ptr::from_ref(object).cast::<u8>() as u64
}

fn address_mut<T: ?Sized>(object: &mut T) -> u64 {
    core::ptr::from_mut(object).cast::<u8>() as u64
}

/// Version of the hypervisor, `major << 16 | minor`; also makes it look for pending events.
pub fn xen_version() -> Outcome {
    checked(nr::XEN_VERSION, [op::XEN_VERSION_VERSION, 0, 0, 0, 0])
}

/// A number that no hypercall has.
pub fn no_such_hypercall() -> Outcome {
    checked(nr::NONE, [0; 5])
}

/// Which build of the hypervisor runs, as it says: text, padded with zero bytes.
pub fn xen_changeset() -> Result<[u8; 64], Errno> {
    let mut text = [0u8; 64];
    checked(nr::XEN_VERSION, [op::XEN_VERSION_CHANGESET, address_mut(&mut text), 0, 0, 0])?;
    Ok(text)
}

/// A kexec operation on its argument structure, which may be written.
pub fn kexec_op<T>(operation: u64, argument: &mut T) -> Outcome {
    checked(nr::KEXEC_OP, [operation, address_mut(argument), 0, 0, 0])
}

/// A kexec operation whose argument is where nothing is.
pub fn kexec_op_nowhere(operation: u64) -> Outcome {
    checked(nr::KEXEC_OP, [operation, 0x0000_7abc_def0_1000, 0, 0, 0])
}

/// A control operation on its argument structure, which may be written.
pub fn sysctl<T>(argument: &mut T) -> Outcome {
    checked(nr::SYSCTL, [address_mut(argument), 0, 0, 0, 0])
}

/// A control operation whose argument is where nothing is.
pub fn sysctl_nowhere() -> Outcome {
    checked(nr::SYSCTL, [0x0000_7abc_def0_1000, 0, 0, 0, 0])
}

/// Writes to the hypervisor's console.
pub fn console_write(bytes: &[u8]) -> Outcome {
    checked(nr::CONSOLE_IO, [op::CONSOLEIO_WRITE, bytes.len() as u64, address(bytes), 0, 0])
}

/// Gives the processor away, once.
pub fn sched_yield() {
    // Cannot fail; and if it did, the caller only asks again.
    let _ = checked(nr::SCHED_OP, [op::SCHED_YIELD, 0, 0, 0, 0]);
}

/// Unmasks events and sleeps until one comes.
pub fn sched_block() -> Outcome {
    checked(nr::SCHED_OP, [op::SCHED_BLOCK, 0, 0, 0, 0])
}

/// Ends the domain.
pub fn shutdown(reason: abi::Shutdown) -> ! {
    let argument = reason as u32;
    loop {
        let _ = checked(nr::SCHED_OP, [op::SCHED_SHUTDOWN, address(&argument), 0, 0, 0]);
    }
}

/// The other one-shot timer interface: fires VIRQ_TIMER at a system time, 0 stops it.
pub fn set_timer_op(at: u64) -> Outcome {
    checked(nr::SET_TIMER_OP, [at, 0, 0, 0, 0])
}

/// Fires VIRQ_TIMER at a system time; a time that is over is refused with -ETIME.
pub fn set_singleshot_timer(at: u64) -> Outcome {
    let argument = [at, u64::from(op::SINGLESHOT_FUTURE)];
    checked(nr::VCPU_OP, [op::VCPU_SET_SINGLESHOT, 0, address(&argument), 0, 0])
}

/// Stops the periodic timer, which a vCPU may be started with.
pub fn stop_periodic_timer() -> Outcome {
    checked(nr::VCPU_OP, [op::VCPU_STOP_PERIODIC, 0, 0, 0, 0])
}

/// Moves vcpu_info to a place of the guest's own.
pub fn register_vcpu_info(vcpu: usize, mfn: u64, offset: u32) -> Outcome {
    vcpu_op(op::VCPU_REGISTER_INFO, vcpu, &mut [mfn, u64::from(offset)])
}

/// A vCPU operation on its argument structure, which may be written.
pub fn vcpu_op<T: ?Sized>(operation: u64, vcpu: usize, argument: &mut T) -> Outcome {
    checked(nr::VCPU_OP, [operation, vcpu as u64, address_mut(argument), 0, 0])
}

/// A vCPU operation without an argument.
pub fn vcpu_op_alone(operation: u64, vcpu: usize) -> Outcome {
    checked(nr::VCPU_OP, [operation, vcpu as u64, 0, 0, 0])
}

/// Waits until one of the ports is pending, or until a system time; 0 for no limit.
pub fn sched_poll(ports: &[u32], until: u64) -> Outcome {
    let argument = [address(ports), ports.len() as u64, until];
    checked(nr::SCHED_OP, [op::SCHED_POLL, address(&argument), 0, 0, 0])
}

/// Winds a watchdog up, or asks for one with id 0.
pub fn watchdog(id: u32, seconds: u32) -> Outcome {
    let argument = [id, seconds];
    checked(nr::SCHED_OP, [op::SCHED_WATCHDOG, address(&argument), 0, 0, 0])
}

/// A scheduling operation on its argument structure.
pub fn sched_op<T>(operation: u64, argument: &T) -> Outcome {
    checked(nr::SCHED_OP, [operation, address(argument), 0, 0, 0])
}

/// Registers the handler of NMIs the older way.
pub fn nmi_op(operation: u64, handler: u64) -> Outcome {
    let argument = [handler, 0];
    checked(nr::NMI_OP, [operation, address(&argument), 0, 0, 0])
}

/// Asks for a service of the hypervisor to the memory of the guest.
pub fn vm_assist(cmd: u64, kind: u64) -> Outcome {
    checked(nr::VM_ASSIST, [cmd, kind, 0, 0, 0])
}

/// Has the vCPU's times written to an address.
pub fn register_runstate(area: &'static abi::RunstateInfo) -> Outcome {
    let argument = address(area);
    checked(nr::VCPU_OP, [op::VCPU_REGISTER_RUNSTATE, 0, address(&argument), 0, 0])
}

/// An event channel operation on its argument structure, which may be written.
pub fn event_channel_op<T>(operation: u64, argument: &mut T) -> Outcome {
    checked(nr::EVENT_CHANNEL_OP, [operation, address_mut(argument), 0, 0, 0])
}

/// A memory operation on its argument structure, which may be written.
pub fn memory_op<T>(operation: u64, argument: &mut T) -> Outcome {
    checked(nr::MEMORY_OP, [operation, address_mut(argument), 0, 0, 0])
}

/// A grant table operation on a list of its argument structures, which may be written.
pub fn grant_table_op<T>(operation: u64, list: &mut [T]) -> Outcome {
    checked(nr::GRANT_TABLE_OP, [operation, address_mut(list), list.len() as u64, 0, 0])
}

/// The same with a list that is nowhere.
pub fn grant_table_op_nowhere(operation: u64, count: u64) -> Outcome {
    checked(nr::GRANT_TABLE_OP, [operation, 0x0000_7abc_def0_1000, count, 0, 0])
}

/// Installs exception handlers; the table ends with address 0.
pub fn set_trap_table(table: &[abi::TrapInfo]) -> Outcome {
    checked(nr::SET_TRAP_TABLE, [address(table), 0, 0, 0, 0])
}

/// Takes all exception handlers away: a list that is nowhere says so, an empty one would change nothing.
pub fn clear_trap_table() -> Outcome {
    checked(nr::SET_TRAP_TABLE, [0; 5])
}

/// Event, failsafe and syscall entries in one call.
pub fn set_callbacks(event: u64, failsafe: u64, syscall: u64) -> Outcome {
    checked(nr::SET_CALLBACKS, [event, failsafe, syscall, 0, 0])
}

/// One of the entries.
pub fn register_callback(kind: u16, flags: u16, entry: u64) -> Outcome {
    let argument = [u64::from(kind) | u64::from(flags) << 16, entry];
    checked(nr::CALLBACK_OP, [op::CALLBACKOP_REGISTER, address(&argument), 0, 0, 0])
}

/// The stack for traps from user mode.
pub fn stack_switch(rsp: u64) -> Outcome {
    checked(nr::STACK_SWITCH, [u64::from(op::SS), rsp, 0, 0, 0])
}

/// Base of fs or gs.
pub fn set_segment_base(which: u64, base: u64) -> Outcome {
    checked(nr::SET_SEGMENT_BASE, [which, base, 0, 0, 0])
}

/// Installs a descriptor table.
pub fn set_gdt(frames: &[u64], entries: u64) -> Outcome {
    checked(nr::SET_GDT, [address(frames), entries, 0, 0, 0])
}

/// Writes one descriptor.
pub fn update_descriptor(maddr: u64, descriptor: u64) -> Outcome {
    checked(nr::UPDATE_DESCRIPTOR, [maddr, descriptor, 0, 0, 0])
}

/// Changes the L1 entry that maps an address, and flushes it.
pub fn update_va_mapping(va: u64, entry: u64) -> Outcome {
    checked(nr::UPDATE_VA_MAPPING, [va, entry, op::UVMF_INVLPG, 0, 0])
}

/// Changes the L1 entry that maps an address, and flushes what `flags` say.
pub fn update_va_mapping_flags(va: u64, entry: u64, flags: u64) -> Outcome {
    checked(nr::UPDATE_VA_MAPPING, [va, entry, flags, 0, 0])
}

/// The same, of a frame of `domain`'s.
pub fn update_va_mapping_otherdomain(va: u64, entry: u64, flags: u64, domain: u16) -> Outcome {
    checked(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, [va, entry, flags, u64::from(domain), 0])
}

/// Page-table updates; `domain` is whose pages may be mapped.
pub fn mmu_update(updates: &[abi::MmuUpdate], domain: u16) -> Outcome {
    let mut done = 0u32;
    let args = [address(updates), updates.len() as u64, address_mut(&mut done), u64::from(domain), 0];
    let outcome = checked(nr::MMU_UPDATE, args)?;
    assert!(done as usize == updates.len(), "mmu_update says success, but {done} of {} updates done", updates.len());
    Ok(outcome)
}

/// One page-table update of the guest's own: `entry_maddr` is the machine address of the entry.
pub fn write_entry(entry_maddr: u64, value: u64) -> Outcome {
    mmu_update(&[abi::MmuUpdate { ptr: entry_maddr, val: value }], op::DOMID_SELF)
}

/// One extended page-table operation.
pub fn mmuext(cmd: u32, arg1: u64) -> Outcome {
    mmuext_two(cmd, arg1, 0)
}

/// One extended page-table operation with two arguments.
pub fn mmuext_two(cmd: u32, arg1: u64, arg2: u64) -> Outcome {
    let operation = [abi::MmuextOp { cmd, arg1, arg2 }];
    let mut done = 0u32;
    checked(nr::MMUEXT_OP, [address(&operation), 1, address_mut(&mut done), u64::from(op::DOMID_SELF), 0])
}

/// Many hypercalls in one.
///
/// # Safety
/// As for [`call`], for every entry.
pub unsafe fn multicall(entries: &mut [abi::MulticallEntry]) -> Outcome {
    checked(nr::MULTICALL, [address_mut(entries), entries.len() as u64, 0, 0, 0])
}
