//! One instruction that may trap, and what trap it was.

use core::sync::atomic::{AtomicU64, Ordering};

use luxen_guests::machine::traps::{Frame, TrapOutcome};

use super::answer::{Answer, FINE};

/// Where the guest goes on after a trap; 0 as long as none is expected. The instruction's macro sets it.
#[unsafe(no_mangle)]
static hostile_resume: AtomicU64 = AtomicU64::new(0);
/// The stack pointer there.
#[unsafe(no_mangle)]
static hostile_rsp: AtomicU64 = AtomicU64::new(0);
static VECTOR: AtomicU64 = AtomicU64::new(0);
static ERROR: AtomicU64 = AtomicU64::new(0);

/// The guest kernel's own selectors, as a trap's frame has them.
const KERNEL_CS: u64 = 0xe030;
const KERNEL_SS: u64 = 0xe02b;
/// Nothing but interrupts on.
const RFLAGS: u64 = 0x202;

/// Runs the code and gives what it came to: [`FINE`], or the trap. After a trap the guest goes on behind the code.
macro_rules! catch {
    ($code:literal $(, $($operands:tt)*)?) => {{
        // SAFETY: the code is one attempt, which the hypervisor refuses by a trap, or changes only what its operands name. A trap
        // comes back behind it, with all registers but r11 and rcx as they were.
        unsafe {
            core::arch::asm!(
                "lea r11, [rip + 2f]",
                "mov [rip + hostile_rsp], rsp",
                "mov [rip + hostile_resume], r11",
                $code,
                "2:",
                $($($operands)*,)?
                out("r11") _,
            )
        };
        $crate::kernel::catch::answer()
    }};
}
pub(super) use catch;

/// What the code came to that has just run.
pub fn answer() -> Answer {
    if hostile_resume.swap(0, Ordering::Relaxed) != 0 {
        return FINE;
    }
    Answer::Trap(VECTOR.load(Ordering::Relaxed), ERROR.load(Ordering::Relaxed))
}

/// The trap hook.
pub fn hook(frame: &mut Frame) -> TrapOutcome {
    let resume = hostile_resume.swap(0, Ordering::Relaxed);
    if resume == 0 {
        return TrapOutcome::Unhandled;
    }
    VECTOR.store(frame.vector, Ordering::Relaxed);
    ERROR.store(frame.error, Ordering::Relaxed);
    frame.rip = resume;
    frame.rsp = hostile_rsp.load(Ordering::Relaxed);
    (frame.cs, frame.ss, frame.rflags) = (KERNEL_CS, KERNEL_SS, RFLAGS);
    TrapOutcome::Handled
}
