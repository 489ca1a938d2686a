//! What a domain cannot live through, and its neighbours must not notice: `fatal=<name>`.
//!
//! | name | what |
//! |---|---|
//! | iret-unmapped, iret-hypervisor | the iret hypercall with its frame where nothing is, or in the hypervisor |
//! | iret-user | the iret hypercall to user mode, for which there are no page tables |
//! | iret-stack | a return that cannot be loaded, and a stack that cannot be written for the failsafe callback |
//! | no-failsafe | a return that cannot be loaded, without a failsafe callback |
//! | no-handlers | an exception without a handler |
//! | stack-unmapped, stack-hypervisor, stack-linear, stack-wraps, stack-read-only | an exception with such a stack |
//! | handler-unmapped, handler-hypervisor | exceptions whose handler faults in turn, until the stack is used up |
//! | kernel-stack | user mode, with a kernel stack in the hypervisor |
//! | no-code, no-stack | the guest takes the mapping of its own code, or stack, away |
//! | no-tables | the guest goes to page tables with nothing in them |

use core::arch::asm;

use luxen_guests::abi::{PAGE_SIZE, TrapInfo, op};
use luxen_guests::machine::hypercall::{self, mmuext};
use luxen_guests::machine::{console, memory, traps};
use luxen_guests::say;

use super::ground::{CODE, Ground, NOTHING, READ_ONLY, must, through_linear};

const HYPERVISOR: u64 = 0xffff_8300_0000_0000;
const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;

/// Does what the name says. Coming back from it is a failure.
pub fn attempt(name: &str, g: &Ground) -> ! {
    say!("tries {name}");
    console::drain();
    match name {
        "iret-unmapped" => iret_at(NOTHING),
        "iret-hypervisor" => iret_at(HYPERVISOR),
        "iret-user" => iret(CODE, 0xe033, current_stack()),
        "iret-stack" => iret(CODE, 0xe008, NOT_CANONICAL),
        "no-failsafe" => {
            let [event, _, syscall] = traps::callbacks();
            must(hypercall::set_callbacks(event, 0, syscall), "set_callbacks");
            iret(CODE, 0xe008, current_stack())
        }
        "no-handlers" => {
            must(hypercall::clear_trap_table(), "set_trap_table");
            invalid_opcode_at(current_stack())
        }
        "stack-unmapped" => invalid_opcode_at(NOTHING + 512),
        "stack-hypervisor" => invalid_opcode_at(HYPERVISOR + 512),
        "stack-linear" => invalid_opcode_at(through_linear() + 512),
        "stack-wraps" => invalid_opcode_at(8),
        "stack-read-only" => invalid_opcode_at(READ_ONLY + 512),
        "handler-unmapped" => {
            handle_all_at(NOTHING);
            invalid_opcode_at(current_stack())
        }
        "handler-hypervisor" => {
            handle_all_at(HYPERVISOR);
            invalid_opcode_at(current_stack())
        }
        "kernel-stack" => {
            must(mmuext(op::MMUEXT_NEW_USER_BASEPTR, g.l4), "user base");
            must(hypercall::stack_switch(HYPERVISOR + 512), "stack_switch");
            iret(CODE, 0xe033, current_stack())
        }
        "no-code" => {
            // The handlers first, or they would tell of it.
            let handlers = traps::table().into_iter().map(|trap| trap.address).filter(|&address| address != 0);
            handlers.for_each(unmap);
            let here = attempt as *const () as u64;
            (here - PAGE_SIZE..=here + 4 * PAGE_SIZE).step_by(PAGE_SIZE as usize).for_each(unmap);
        }
        "no-stack" => {
            let stack = current_stack();
            (stack - 2 * PAGE_SIZE..=stack).step_by(PAGE_SIZE as usize).for_each(unmap);
        }
        "no-tables" => {
            memory::fill(g.loose[0], |_| 0);
            must(mmuext(op::MMUEXT_PIN_L4, g.loose[0]), "pin of an empty table");
            must(mmuext(op::MMUEXT_NEW_BASEPTR, g.loose[0]), "switch to an empty table");
        }
        _ => panic!("fatal={name}: no attempt is called so"),
    }
    panic!("{name}: the guest is still alive")
}

fn unmap(va: u64) {
    must(hypercall::update_va_mapping(va & !(PAGE_SIZE - 1), 0), "unmapping");
}

fn current_stack() -> u64 {
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nostack, nomem, preserves_flags)) };
    rsp - 1024
}

/// The iret hypercall with the stack pointer at an address.
fn iret_at(address: u64) {
    // SAFETY: the guest ends here, or is not what it was; it says so.
    unsafe { asm!("mov rsp, {}", "mov eax, 23", "syscall", "ud2", in(reg) address, options(noreturn)) }
}

/// The iret hypercall with a frame.
fn iret(rip: u64, cs: u64, rsp: u64) {
    // SAFETY: as for `iret_at`.
    unsafe {
        asm!("push 0xe02b", "push {rsp}", "push 0x202", "push {cs}", "push {rip}", "push 0", "jmp guest_iret",
            rsp = in(reg) rsp, cs = in(reg) cs, rip = in(reg) rip, options(noreturn))
    }
}

/// An exception with the stack pointer at an address.
fn invalid_opcode_at(rsp: u64) {
    // SAFETY: as for `iret_at`.
    unsafe { asm!("mov rsp, {}", "ud2", in(reg) rsp, options(noreturn)) }
}

/// All handlers at one address.
fn handle_all_at(address: u64) {
    let mut table = traps::table();
    for trap in table.iter_mut().filter(|trap| trap.address != 0) {
        *trap = TrapInfo { address, ..*trap };
    }
    must(hypercall::set_trap_table(&table), "set_trap_table");
}
