//! The machine as a 64-bit PV guest has it.
//!
//! One thing interrupts: the event upcall, which does nothing but count (`events`). Most guests have one vCPU with one stack, so that all
//! other code may think that it is alone. In a guest with more, every vCPU has its own event state (`cpu`, `events`); the console, probes and the
//! window are vCPU 0's.

#![expect(unsafe_code, reason = "this is the hardware layer of the guests")]

pub mod console;
pub mod cpu;
pub mod entry;
pub mod events;
pub mod grants;
pub mod guest;
pub mod hypercall;
pub mod memory;
pub mod time;
pub mod traps;

/// Makes a kernel: its name, its `fn run(&mut Guest)`, what it does with traps of its own
/// (`fn(&mut Frame) -> TrapOutcome`, or [`traps::not_mine`]), its [`guest::Setup`], and whether it calls through the
/// hypercall page or by `syscall` of its own.
#[macro_export]
macro_rules! kernel {
    (name: $name:literal, run: $run:path, traps: $traps:path, setup: $setup:expr, calls: hypercall_page) => {
        core::arch::global_asm!(
            r#"
            .pushsection .hypercall_page, "ax", @progbits
            .balign 4096
            .globl hypercall_page
            hypercall_page:
                .skip 4096, 0xcc
            .popsection
            .pushsection .note.Xen, "a", @note
            .balign 4
                .long 4, 8, 2
                .asciz "Xen"
                .quad hypercall_page
            .popsection
            "#
        );
        $crate::kernel!(name: $name, run: $run, traps: $traps, setup: $setup, calls: syscall);
    };
    (name: $name:literal, run: $run:path, traps: $traps:path, setup: $setup:expr, calls: syscall) => {
        /// The name that the guest's lines begin with.
        #[unsafe(no_mangle)]
        static GUEST_NAME: &str = $name;

        /// Called once by the entry code, on the guest's own stack.
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(start_info: usize, boot_stack_end: usize) -> ! {
            $crate::machine::guest::start($setup, start_info, boot_stack_end, $run)
        }

        /// Called for every trap that the runtime does not handle itself.
        #[unsafe(no_mangle)]
        extern "C" fn guest_trap_hook(
            frame: &mut $crate::machine::traps::Frame,
        ) -> $crate::machine::traps::TrapOutcome {
            $traps(frame)
        }
    };
}
