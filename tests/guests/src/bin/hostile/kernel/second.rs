//! The second vCPU is started on a context in which everything is forged that the hypervisor takes: it has to end in the failsafe callback of that context, and
//! nowhere else.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use luxen_guests::abi::{Errno, PAGE_SIZE, VcpuContext, context, op};
use luxen_guests::machine::hypercall;

use super::answer::{Answer, FINE, Judge};
use super::ground::Ground;

const VCPU: usize = 1;
const STACK_LEN: usize = 4096;
const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;
const HYPERVISOR: u64 = 0xffff_82d0_4000_0000;
/// In the context's flags: the FPU state counts.
const I387_VALID: u64 = 1;
/// Words of the context that have no name yet: MXCSR, the debug registers, the control registers, the LDT.
const MXCSR: usize = 24 / 8;
const LDT_BASE: usize = 4816 / 8;
const LDT_ENTS: usize = 4824 / 8;
const CR: usize = 4984 / 8;
const DR: usize = 5048 / 8;
const GS_BASE_USER: usize = 5160 / 8;

global_asm!(
    r#"
    .pushsection .text.hostile, "ax", @progbits
    .globl hostile_second_failsafe
hostile_second_failsafe:
    lock inc qword ptr [rip + hostile_second_runs]
    mov eax, 24         # vcpu_op
    mov edi, 2          # down
    mov esi, 1          # this one
    xor edx, edx
    syscall
    jmp hostile_second_failsafe
    .popsection
    "#
);

unsafe extern "C" {
    safe fn hostile_second_failsafe();
}

#[unsafe(no_mangle)]
static hostile_second_runs: AtomicU64 = AtomicU64::new(0);

/// Its stack.
#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_LEN]>);

// SAFETY: only the second vCPU uses it, as a stack.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_LEN]));

/// The second vCPU, if there is one.
pub struct Second {
    runs: u64,
}

impl Second {
    /// Tries contexts that are refused, then starts it on one that is forged as far as it goes.
    pub fn start(g: &Ground, judge: &mut Judge) -> Option<Second> {
        if hypercall::vcpu_op_alone(op::VCPU_IS_UP, VCPU) == Err(Errno::ENOENT) {
            return None;
        }
        let good = forged(g);
        for (name, word, value) in [
            ("rip", context::RIP, NOT_CANONICAL),
            ("rsp", context::RSP, NOT_CANONICAL),
            ("kernel stack", context::KERNEL_SP, NOT_CANONICAL),
            ("fs base", context::FS_BASE, NOT_CANONICAL),
            ("gs base", context::GS_BASE_KERNEL, NOT_CANONICAL),
            ("user's gs base", GS_BASE_USER, NOT_CANONICAL),
            ("failsafe callback", context::FAILSAFE_CALLBACK, NOT_CANONICAL),
            ("handler of vector 0", context::TRAPS + 1, NOT_CANONICAL),
            ("handler of vector 255", context::TRAPS + 511, NOT_CANONICAL),
            ("page tables beyond all", context::CR3, !0xfff),
            ("page tables of another", context::CR3, g.foreign.unwrap_or(g.m2p) * PAGE_SIZE),
            ("page tables that are none", context::CR3, g.data * PAGE_SIZE),
            ("page tables of level 1", context::CR3, g.l1 * PAGE_SIZE),
            ("user's page tables of another", CR + 1, g.foreign.unwrap_or(g.m2p) * PAGE_SIZE),
            ("GDT of another", context::GDT_FRAMES, g.foreign.unwrap_or(g.m2p)),
            ("GDT of a page table", context::GDT_FRAMES, g.l1),
            ("GDT beyond all", context::GDT_FRAMES, u64::MAX),
            ("GDT with one entry too many", context::GDT_ENTS, 7169),
            ("GDT without end", context::GDT_ENTS, u64::MAX),
            ("LDT in the hypervisor", LDT_BASE, HYPERVISOR),
            ("LDT that is not aligned", LDT_BASE, 8),
            ("LDT without end", LDT_ENTS, u64::MAX),
            ("user mode without page tables", context::FLAGS, I387_VALID),
        ] {
            let mut bad = VcpuContext(good.0);
            bad.0[word] = value;
            let found = initialise(&bad);
            judge.check(format_args!("context, {name}"), found, Answer::No(Errno::EINVAL));
        }
        judge.check(format_args!("vCPU up without a context"), up(), Answer::No(Errno::EINVAL));
        judge.check(format_args!("forged context"), initialise(&good), FINE);
        judge.check(
            format_args!("context of a vCPU that has one already"),
            initialise(&good),
            Answer::No(Errno::EEXIST),
        );
        let mut second = Second { runs: 0 };
        second.run_again();
        Some(second)
    }

    /// Lets it run until it takes itself down.
    pub fn run_again(&mut self) {
        assert!(up() == FINE, "the second vCPU cannot be brought up");
        self.runs += 1;
        // Bounded, so that one that is lost is noticed.
        for _ in 0..100_000 {
            if hypercall::vcpu_op_alone(op::VCPU_IS_UP, VCPU) == Ok(0) {
                let runs = hostile_second_runs.load(Ordering::SeqCst);
                assert!(
                    runs == self.runs,
                    "the second vCPU was in its failsafe callback {runs} times, not {}",
                    self.runs
                );
                return;
            }
            hypercall::sched_yield();
        }
        panic!("the second vCPU does not come to its failsafe callback");
    }
}

fn up() -> Answer {
    hypercall::vcpu_op_alone(op::VCPU_UP, VCPU).into()
}

fn initialise(context: &VcpuContext) -> Answer {
    let mut words = context.0;
    hypercall::vcpu_op(op::VCPU_INITIALISE, VCPU, &mut words).into()
}

/// Selectors and flags of ring 0, breakpoints in the hypervisor, an FPU state that faults when it is loaded.
fn forged(g: &Ground) -> VcpuContext {
    let mut c = VcpuContext([0; 5168 / 8]);
    let top = STACK.0.get() as u64 + STACK_LEN as u64;
    for (word, value) in [
        (MXCSR, u64::MAX),
        (context::FLAGS, context::IN_KERNEL | I387_VALID),
        (context::RIP, HYPERVISOR),
        (context::CS, 0xe008),
        (context::RFLAGS, u64::MAX),
        (context::RSP, top),
        (context::SS, 0xe010),
        (context::ES, 0xe040),
        (context::DS, 0xe008),
        (context::GDT_FRAMES, g.gdt),
        (context::GDT_ENTS, 16),
        (context::KERNEL_SS, 0xe010),
        (context::KERNEL_SP, HYPERVISOR),
        (context::CR3, g.boot * PAGE_SIZE),
        (CR, 0),
        (CR + 4, u64::MAX),
        (DR, HYPERVISOR),
        (DR + 7, 0x2001),
        (context::EVENT_CALLBACK, 0),
        (context::FAILSAFE_CALLBACK, hostile_second_failsafe as *const () as u64),
        (context::FS_BASE, HYPERVISOR),
        (context::GS_BASE_KERNEL, HYPERVISOR),
        (LDT_BASE, 0),
        (LDT_ENTS, 1),
    ] {
        c.0[word] = value;
    }
    c
}
