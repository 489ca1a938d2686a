//! User mode: a program that counts, computes, faults once, and calls the kernel twice.
//!
//! Entry and return: `tables_enter_user` saves the kernel's registers, builds an iret frame and leaves by the iret
//! hypercall. The program comes back through the syscall callback, on the trap stack that stack_switch named; the call
//! that says "done" drops that stack and returns from `tables_enter_user` as if from a function.

use core::arch::global_asm;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use luxen_guests::abi::{PAGE_SIZE, op};
use luxen_guests::machine::memory::fill;
use luxen_guests::machine::traps::{Frame, PAGE_FAULT, SYSCALL, TrapOutcome};
use luxen_guests::machine::{events, hypercall};

use super::granted;
use super::space::{CODE, DATA, LAZY, STACK, Space, USER_BASE};

global_asm!(
    r#"
    .pushsection .text.tables, "ax", @progbits
    # (rdi = rip, rsi = rsp, rdx = data address, rcx = loops) -> when the program is done.
    .globl tables_enter_user
tables_enter_user:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + tables_kernel_rsp], rsp
    push 0xe02b         # ss
    push rsi            # rsp
    push 0x200          # rflags: IF
    push 0xe033         # cs, RPL 3: user mode
    push rdi            # rip
    push 0              # flags
    mov rdi, rdx
    mov rbx, rcx
    mov r12, 0x1212
    mov r13, 0x1313
    mov r14, 0x1414
    mov r15, 0x1515
    mov rbp, 0x0b0b
    jmp guest_iret

    # Does not return to its caller but from tables_enter_user.
    .globl tables_leave_user
tables_leave_user:
    mov rsp, [rip + tables_kernel_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .popsection

    # The program; copied to a frame of its own, so only relative addresses. rdi = data page, rbx = loops.
    .pushsection .rodata.tables, "a", @progbits
    .globl tables_program
tables_program:
    mov rax, [rdi]
    inc rax
    mov [rdi], rax
    push rax
    mov rdx, rbx
1:  dec rdx
    jg 1b
    pop rsi             # the new count
    mov eax, 1          # call 1: counted
    syscall
    .globl tables_program_after_count
tables_program_after_count:
    mov r8, rax         # what the kernel said
    mov rdx, [rdi + 4096 + 8]
    mov eax, 2          # call 2: done; rdx = number read behind the fault, r8 = answer to call 1
    syscall
    ud2
    .globl tables_program_end
tables_program_end:
    .popsection
    "#
);

unsafe extern "C" {
    safe fn tables_enter_user(rip: u64, rsp: u64, data: u64, loops: u64);
    fn tables_leave_user() -> !;
    safe static tables_program: u8;
    safe static tables_program_after_count: u8;
    safe static tables_program_end: u8;
}

#[unsafe(no_mangle)]
static tables_kernel_rsp: AtomicU64 = AtomicU64::new(0);

const ANSWER: u64 = 0xa5a5_0000_1234;
const TRAP_STACK_BYTES: usize = 16 * 1024;

/// The stack for traps from user mode.
#[repr(C, align(16))]
struct TrapStack(core::cell::UnsafeCell<[u8; TRAP_STACK_BYTES]>);

// SAFETY: only the processor uses it, as a stack.
unsafe impl Sync for TrapStack {}

static TRAP_STACK: TrapStack = TrapStack(core::cell::UnsafeCell::new([0; TRAP_STACK_BYTES]));

/// What the trap handler knows of the program that runs.
static SPACE: AtomicPtr<Space> = AtomicPtr::new(core::ptr::null_mut());
static ROUND: AtomicU64 = AtomicU64::new(0);
/// Calls and faults so far: call 1, fault, call 2, in this order.
static STEP: AtomicU64 = AtomicU64::new(0);

/// Where the program is in every space.
pub fn program_va() -> u64 {
    USER_BASE + CODE * PAGE_SIZE
}

fn offset_of(label: &u8) -> u64 {
    (&raw const *label as u64) - (&raw const tables_program as u64)
}

/// Names the trap stack.
pub fn init() {
    let end = TRAP_STACK.0.get() as u64 + TRAP_STACK_BYTES as u64;
    granted(hypercall::stack_switch(end), "stack_switch");
}

/// Copies the program into a frame; gives it back.
pub fn load_program(mfn: u64) -> u64 {
    let len = offset_of(&tables_program_end) as usize;
    fill(mfn, |index| {
        let byte = |i: usize| {
            let at = index * 8 + i;
            if at >= len {
                return 0xcc;
            }
            // SAFETY: the program lies there up to its end label.
            unsafe { ((&raw const tables_program as usize + at) as *const u8).read() }
        };
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(byte))
    });
    mfn
}

/// Runs the program once in the present space, and checks what it did.
pub fn run(space: &mut Space, round: u64, loops: u64) {
    let by_address = round.is_multiple_of(2);
    STEP.store(0, Ordering::Relaxed);
    ROUND.store(round, Ordering::Relaxed);
    SPACE.store(space, Ordering::Relaxed);
    tables_enter_user(program_va(), USER_BASE + (STACK + 1) * PAGE_SIZE, USER_BASE + DATA * PAGE_SIZE, loops);
    SPACE.store(core::ptr::null_mut(), Ordering::Relaxed);
    // The syscall callback masks events, and it was not left by iret.
    events::enable();
    let steps = STEP.load(Ordering::Relaxed);
    assert!(steps == 3, "the user program took {steps} steps, not 3");
    space.unmap_lazy(by_address);
}

/// Traps out of user mode.
pub fn trap(frame: &mut Frame) -> TrapOutcome {
    let space = SPACE.load(Ordering::Relaxed);
    if !frame.is_user() || space.is_null() {
        return TrapOutcome::Unhandled;
    }
    // SAFETY: set by `run`, whose exclusive reference is idle as long as the program runs.
    let space = unsafe { &mut *space };
    let round = ROUND.load(Ordering::Relaxed);
    let step = STEP.fetch_add(1, Ordering::Relaxed);

    let mask = events::vcpu_info().upcall_mask.load(Ordering::SeqCst);
    assert!(mask == 1, "trap {:#x} from user mode with upcall mask {mask}, 1 is due", frame.vector);
    assert!(frame.saved_mask() == 0 && frame.rflags & op::RFLAGS_IF != 0, "user mode ran with events masked");
    assert!(frame.cs as u16 == op::CS64 && frame.ss as u16 == op::SS, "user mode selectors are lost");
    let kept = [frame.r12, frame.r13, frame.r14, frame.r15, frame.rbp];
    assert!(kept == [0x1212, 0x1313, 0x1414, 0x1515, 0x0b0b], "user registers are lost: {kept:x?}");
    let stack = USER_BASE + (STACK + 1) * PAGE_SIZE;
    assert!(frame.rsp == stack, "user rsp is {:#x}, not {stack:#x}", frame.rsp);

    match (frame.vector, step) {
        (SYSCALL, 0) if frame.rax == 1 => {
            space.count();
            let rip = program_va() + offset_of(&tables_program_after_count);
            assert!(frame.rip == rip, "syscall from user mode: rip {:#x}, not {rip:#x}", frame.rip);
            let expected = space.counter();
            assert!(frame.rsi == expected, "the user program counted {:#x}, not {expected:#x}", frame.rsi);
            frame.rax = ANSWER;
            // The program does not look at rcx and r11, so both ways back must do.
            if round.is_multiple_of(3) { TrapOutcome::HandledFast } else { TrapOutcome::Handled }
        }
        (PAGE_FAULT, 1) => {
            let cr2 = events::vcpu_info().cr2.load(Ordering::SeqCst);
            let expected = USER_BASE + LAZY * PAGE_SIZE + 8;
            assert!(cr2 == expected, "user page fault at {cr2:#x}, not {expected:#x}");
            assert!(frame.error == 0b100, "user read of an absent page: error code {:#x}, not 0x4", frame.error);
            space.map_lazy(round.is_multiple_of(2));
            TrapOutcome::Handled
        }
        (SYSCALL, 2) if frame.rax == 2 => {
            assert!(frame.r8 == ANSWER, "the answer of call 1 is {:#x} in user mode, not {ANSWER:#x}", frame.r8);
            let number = space.number();
            assert!(frame.rdx == number, "read {:#x} behind the page fault, not {number:#x}", frame.rdx);
            // SAFETY: the program was started by tables_enter_user, whose frame is still there.
            unsafe { tables_leave_user() }
        }
        _ => TrapOutcome::Unhandled,
    }
}
