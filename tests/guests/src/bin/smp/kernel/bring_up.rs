//! vCPU 0 makes the others: for each a stack, a descriptor table, segment bases, and a context to begin with, as Linux does it.

use core::cell::UnsafeCell;

use luxen_guests::abi::{Errno, PAGE_SIZE, VcpuContext, context, op};
use luxen_guests::machine::cpu::{self, MAX};
use luxen_guests::machine::memory::{self, FramePool};
use luxen_guests::machine::{events, hypercall, traps};

use super::{granted, is_up, live, refusals, registers};

const STACK_LEN: usize = 64 << 10;

/// The stacks of all vCPUs but the first.
#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[[u8; STACK_LEN]; MAX - 1]>);

// SAFETY: each part is reached only as the stack of one vCPU.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_LEN]; MAX - 1]));

/// 64-bit code, flat data: as a kernel of ring 0 writes them down; the hypervisor makes ring 3 of them.
const CODE: u64 = 0x00af_9b00_0000_ffff;
const STACK: u64 = 0x00cf_9300_0000_ffff;
/// Data, DPL 3, in bytes, limit 0: the limit tells whose it is.
const DATA: u64 = 0x0040_f300_0000_0000;
const CODE_SELECTOR: u64 = 2 << 3;
const STACK_SELECTOR: u64 = 3 << 3;
/// As it is on a vCPU of its own.
pub const DATA_SELECTOR: u16 = 5 << 3 | 3;
/// What Linux begins with: I/O privilege level 1.
const RFLAGS: u64 = 1 << 12;

/// The limit of a vCPU's data segment.
pub fn data_limit(vcpu: usize) -> u32 {
    0x100 + vcpu as u32
}

/// Makes and starts them.
pub fn all(nr: usize) {
    registers::set_own_bases();
    cpu::set_stacks(STACKS.0.get() as u64, STACK_LEN as u64);
    let mut pool = FramePool::new();
    for vcpu in 1..nr {
        // Of the last one vcpu_info stays in the shared page.
        if vcpu != nr - 1 || nr == 2 {
            events::move_vcpu_info(vcpu, memory::mfn_of);
            refusals::moved(vcpu);
        }
        let context = context_for(vcpu, pool.take());
        refusals::before_initialise(vcpu, &context);
        granted(initialise(vcpu, &context), "initialise");
        let again = initialise(vcpu, &context);
        assert!(again == Err(Errno::EEXIST), "a second initialise of vCPU {vcpu}: {again:?}, -EEXIST is due");
        assert!(!is_up(vcpu), "vCPU {vcpu} is up before anybody said so");
        granted(hypercall::vcpu_op_alone(op::VCPU_UP, vcpu), "up");
        assert!(is_up(vcpu), "vCPU {vcpu} is not up");
    }
}

/// `initialise` with a copy of a context.
pub fn initialise(vcpu: usize, context: &VcpuContext) -> hypercall::Outcome {
    let mut words = context.0;
    hypercall::vcpu_op(op::VCPU_INITIALISE, vcpu, &mut words)
}

fn context_for(vcpu: usize, gdt: u64) -> VcpuContext {
    memory::fill(gdt, |index| match index {
        2 => CODE,
        3 => STACK,
        5 => DATA | u64::from(data_limit(vcpu)),
        _ => 0,
    });
    let mut c = VcpuContext([0; 5168 / 8]);
    let top = STACKS.0.get() as u64 + (vcpu * STACK_LEN) as u64;
    let [fs, gs] = registers::bases(vcpu);
    let [event, failsafe, syscall] = traps::callbacks();
    for (word, value) in [
        (context::FLAGS, context::IN_KERNEL),
        (context::RDI, vcpu as u64),
        (context::RIP, begin as *const () as u64),
        (context::CS, CODE_SELECTOR),
        (context::RFLAGS, RFLAGS),
        // As after a call.
        (context::RSP, top - 8),
        (context::SS, STACK_SELECTOR),
        (context::ES, DATA_SELECTOR.into()),
        (context::DS, DATA_SELECTOR.into()),
        (context::GDT_FRAMES, gdt),
        (context::GDT_ENTS, 16),
        (context::KERNEL_SS, STACK_SELECTOR),
        (context::KERNEL_SP, top),
        (context::CR3, memory::mfn_of(memory::start_info().pt_base) * PAGE_SIZE),
        (context::EVENT_CALLBACK, event),
        (context::FAILSAFE_CALLBACK, failsafe),
        (context::SYSCALL_CALLBACK, syscall),
        (context::FS_BASE, fs),
        (context::GS_BASE_KERNEL, gs),
    ] {
        c.0[word] = value;
    }
    for trap in traps::table().iter().filter(|trap| trap.address != 0) {
        let word = context::TRAPS + usize::from(trap.vector) * 2;
        c.0[word] = u64::from(trap.vector) | u64::from(trap.flags) << 8 | u64::from(trap.cs) << 16;
        c.0[word + 1] = trap.address;
    }
    c
}

/// Where a vCPU begins.
extern "C" fn begin(vcpu: u64) -> ! {
    let me = cpu::id();
    assert!(me as u64 == vcpu, "vCPU {vcpu} has the stack of vCPU {me}");
    registers::check_identity(me);
    events::enable();
    live()
}
