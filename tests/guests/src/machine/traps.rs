//! Exceptions and callbacks after the entry code has saved the registers.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{console, events, hypercall};
use crate::abi::{self, op};

/// Rows of the table in entry.rs, with the closing one.
const NR_ENTRIES: usize = 19;

/// Vector of an NMI.
pub const NMI: u64 = 2;
/// Vector of a page fault.
pub const PAGE_FAULT: u64 = 14;
/// Not a vector: the event callback.
pub const EVENT: u64 = 0x100;
/// Not a vector: the syscall callback.
pub const SYSCALL: u64 = 0x101;

/// Registers at a trap, as the entry code lays them out.
#[allow(missing_docs, reason = "the names are the registers' names")]
#[repr(C)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub vector: u64,
    /// Error code on the way in, flags of the iret hypercall on the way out.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Frame {
    /// Whether user mode was interrupted: the hypervisor clears the RPL for kernel mode.
    pub fn is_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// The upcall mask before the trap.
    pub fn saved_mask(&self) -> u8 {
        (self.cs >> 32) as u8
    }
}

/// What became of a trap.
#[repr(C)]
pub enum TrapOutcome {
    /// Go back.
    Handled,
    /// Go back by a fast return that need not restore rcx and r11.
    HandledFast,
    /// Nobody's: the guest is broken, or the hypervisor is.
    Unhandled,
}

/// The trap hook of a guest without traps of its own.
pub fn not_mine(_: &mut Frame) -> TrapOutcome {
    TrapOutcome::Unhandled
}

/// A fault that a probe ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeFault {
    /// Page-fault error code.
    pub error: u64,
    /// cr2 as the hypervisor gave it.
    pub address: u64,
}

#[repr(C)]
struct Probe {
    value: u64,
    has_faulted: u64,
}

unsafe extern "C" {
    static guest_trap_entries: [[u64; 2]; NR_ENTRIES];
    safe fn guest_event_entry();
    safe fn guest_failsafe_entry();
    safe fn guest_syscall_entry();
    safe fn guest_probe_read(address: u64) -> Probe;
    fn guest_probe_write(address: u64, value: u64) -> Probe;
    safe fn guest_probe_read_at();
    safe fn guest_probe_write_at();
    safe fn guest_probe_faulted();
    safe fn guest_trap_hook(frame: &mut Frame) -> TrapOutcome;
}

static PROBE_ERROR: AtomicU64 = AtomicU64::new(0);
static PROBE_ADDRESS: AtomicU64 = AtomicU64::new(0);
static FAULT_FOR_EVER: AtomicBool = AtomicBool::new(false);
static IS_FATAL: AtomicBool = AtomicBool::new(false);

/// How the callbacks are made known: both ways exist, and the guests use both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CallbackInterface {
    /// One set_callbacks.
    SetCallbacks,
    /// A callback_op for each.
    CallbackOp,
}

/// The handlers, the last row being the one that ends the table.
pub fn table() -> [abi::TrapInfo; NR_ENTRIES] {
    // SAFETY: a constant table in .rodata (entry.rs), with as many rows.
    let entries = unsafe { &guest_trap_entries };
    let mut table = [abi::TrapInfo::default(); NR_ENTRIES];
    for (trap, &[vector, address]) in table.iter_mut().zip(entries) {
        // Everybody may raise the debugger's two; the rest is for the processor.
        let dpl = if vector == 3 || vector == 4 { 3 } else { 0 };
        let flags = if address == 0 { 0 } else { dpl | op::TI_MASK_EVENTS };
        *trap = abi::TrapInfo { vector: vector as u8, flags, cs: op::CS64, address };
    }
    table
}

/// The entries for events, failed returns and system calls.
pub fn callbacks() -> [u64; 3] {
    [
        guest_event_entry as *const () as u64,
        guest_failsafe_entry as *const () as u64,
        guest_syscall_entry as *const () as u64,
    ]
}

/// Installs all handlers. Events stay masked.
pub fn init(interface: CallbackInterface) {
    hypercall::set_trap_table(&table()).unwrap_or_else(|e| panic!("set_trap_table: {e}"));

    let [event, failsafe, syscall] = callbacks();
    match interface {
        CallbackInterface::SetCallbacks => {
            hypercall::set_callbacks(event, failsafe, syscall).unwrap_or_else(|e| panic!("set_callbacks: {e}"));
        }
        CallbackInterface::CallbackOp => {
            let callbacks = [
                (op::CALLBACK_EVENT, 0, event),
                (op::CALLBACK_FAILSAFE, 0, failsafe),
                (op::CALLBACK_SYSCALL, op::CALLBACK_MASK_EVENTS, syscall),
            ];
            for (kind, flags, entry) in callbacks {
                hypercall::register_callback(kind, flags, entry)
                    .unwrap_or_else(|e| panic!("callback_op register {kind}: {e}"));
            }
        }
    }
}

/// Reads a word that may not be there.
pub fn probe_read(address: u64) -> Result<u64, ProbeFault> {
    probed(guest_probe_read(address))
}

/// Writes a word where it may not be allowed.
///
/// # Safety
/// If the write succeeds, nobody else may use the word.
pub unsafe fn probe_write(address: u64, value: u64) -> Result<(), ProbeFault> {
    // SAFETY: the caller vouches for the word; a fault ends the function with `has_faulted`.
    probed(unsafe { guest_probe_write(address, value) }).map(|_| ())
}

fn probed(probe: Probe) -> Result<u64, ProbeFault> {
    if probe.has_faulted == 0 {
        return Ok(probe.value);
    }
    Err(ProbeFault { error: PROBE_ERROR.load(Ordering::Relaxed), address: PROBE_ADDRESS.load(Ordering::Relaxed) })
}

/// Faults for ever: the handler mends nothing and goes back to the same instruction.
pub fn fault_for_ever() -> ! {
    FAULT_FOR_EVER.store(true, Ordering::Relaxed);
    loop {
        let _ = probe_read(0);
    }
}

/// Faults with no handler at all; the hypervisor must end the domain.
pub fn fault_without_handler() -> ! {
    let _ = hypercall::clear_trap_table();
    loop {
        let _ = probe_read(0);
    }
}

/// Called by the entry code.
#[unsafe(no_mangle)]
extern "C" fn guest_trap(frame: &mut Frame) {
    if frame.vector == EVENT {
        events::upcall(frame);
        frame.error = 0;
        return;
    }
    if frame.vector == PAGE_FAULT && !frame.is_user() {
        if FAULT_FOR_EVER.load(Ordering::Relaxed) {
            frame.error = 0;
            return;
        }
        if frame.rip == guest_probe_read_at as *const () as u64 || frame.rip == guest_probe_write_at as *const () as u64
        {
            PROBE_ERROR.store(frame.error, Ordering::Relaxed);
            PROBE_ADDRESS.store(events::vcpu_info().cr2.load(Ordering::Relaxed), Ordering::Relaxed);
            frame.rip = guest_probe_faulted as *const () as u64;
            frame.error = 0;
            return;
        }
    }
    frame.error = match guest_trap_hook(frame) {
        TrapOutcome::Handled => 0,
        TrapOutcome::HandledFast => op::VGCF_IN_SYSCALL,
        TrapOutcome::Unhandled => dump(frame),
    };
}

/// Prints what is known and ends the guest.
fn dump(f: &Frame) -> ! {
    if IS_FATAL.swap(true, Ordering::Relaxed) {
        // A trap while dumping a trap: printing is what fails.
        hypercall::shutdown(abi::Shutdown::Crash);
    }
    let name = match f.vector {
        0 => "divide error",
        1 => "debug",
        2 => "NMI",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection",
        14 => "page fault",
        SYSCALL => "syscall from user mode",
        0x102 => "failsafe callback",
        _ => "exception",
    };
    let mode = if f.is_user() { "user" } else { "kernel" };
    let cr2 = events::vcpu_info().cr2.load(Ordering::Relaxed);
    console::print(format_args!(
        "{name} (vector {}) in {mode} mode, error {:#x}, cr2 {cr2:#x}, upcall mask before {}",
        f.vector,
        f.error,
        f.saved_mask()
    ));
    console::print(format_args!(
        "  rip {:016x} cs {:04x} rflags {:08x} rsp {:016x} ss {:04x}",
        f.rip, f.cs as u16, f.rflags, f.rsp, f.ss as u16
    ));
    console::print(format_args!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", f.rax, f.rbx, f.rcx, f.rdx));
    console::print(format_args!("  rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", f.rsi, f.rdi, f.rbp, f.r8));
    console::print(format_args!("  r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", f.r9, f.r10, f.r11, f.r12));
    console::print(format_args!("  r13 {:016x} r14 {:016x} r15 {:016x}", f.r13, f.r14, f.r15));
    panic!("{name} (vector {}, error {:#x}) at {:#x}, cr2 {cr2:#x}", f.vector, f.error, f.rip);
}
