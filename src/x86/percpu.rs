//! What belongs to one CPU, reached through GS.
//!
//! While the hypervisor runs, GS base points at the CPU's [`PerCpu`]; while a guest runs, KERNEL_GS_BASE does (boot/traps.S swaps).

use crate::frame::Mfn;
use alloc::sync::Arc;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};

use crate::run::vcpu::Vcpu;

/// One CPU's own things. The first two words are known to boot/traps.S.
#[repr(C)]
pub struct PerCpu {
    stack_top: Cell<u64>,
    scratch_rsp: Cell<u64>,
    me: Cell<*const PerCpu>,
    /// The vCPU whose registers are in the frame at the top of the stack, if any.
    pub current: RefCell<Option<Arc<Vcpu>>>,
    /// Set when the next return to a guest must choose anew who runs.
    pub reschedule: Cell<bool>,
    /// The L4 loaded in CR3.
    pub loaded_l4: Cell<Option<Mfn>>,
    /// System time at which the running vCPU's time slice ends, in nanoseconds.
    pub slice_end_ns: Cell<u64>,
    /// Deadline that the one-shot timer is set to, in nanoseconds of system time; `u64::MAX` if it is not set.
    pub timer_armed_ns: Cell<u64>,
}

const _: () = assert!(offset_of!(PerCpu, stack_top) == 0 && offset_of!(PerCpu, scratch_rsp) == 8);
const _: () = assert!(offset_of!(PerCpu, me) == 16);

impl PerCpu {
    /// A CPU's block, not yet in use.
    pub const fn new() -> Self {
        Self {
            stack_top: Cell::new(0),
            scratch_rsp: Cell::new(0),
            me: Cell::new(core::ptr::null()),
            current: RefCell::new(None),
            reschedule: Cell::new(true),
            loaded_l4: Cell::new(None),
            slice_end_ns: Cell::new(0),
            timer_armed_ns: Cell::new(u64::MAX),
        }
    }

    /// Top of the CPU's stack, where guests' frames stand.
    pub fn stack_top(&self) -> u64 {
        self.stack_top.get()
    }

    /// The vCPU that runs here.
    pub fn current(&self) -> Option<Arc<Vcpu>> {
        self.current.borrow().clone()
    }
}

impl Default for PerCpu {
    fn default() -> Self {
        Self::new()
    }
}

/// The block of CPU 0.
struct BootCpu(PerCpu);

#[expect(unsafe_code, reason = "per-CPU data is not shared")]
// SAFETY: reached through GS of its own CPU only, and there with interrupts off.
unsafe impl Sync for BootCpu {}

static BOOT_CPU: BootCpu = BootCpu(PerCpu::new());

/// Makes the block of CPU 0 this CPU's, with the stack that ends at `stack_top`.
pub fn init_boot_cpu(stack_top: u64) {
    let cpu = &BOOT_CPU.0;
    cpu.stack_top.set(stack_top);
    cpu.me.set(cpu);
    GsBase::write(VirtAddr::from_ptr(cpu));
    KernelGsBase::write(VirtAddr::zero());
}

/// This CPU's block.
#[expect(unsafe_code, reason = "GS-relative access")]
pub fn this_cpu() -> &'static PerCpu {
    let p: *const PerCpu;
    // SAFETY: GS base points at a `PerCpu` whose third word is its own address: `init_boot_cpu` ran before anything else.
    unsafe { core::arch::asm!("mov {}, gs:[16]", out(reg) p, options(nostack, preserves_flags, readonly)) };
    // SAFETY: the block is a static.
    unsafe { &*p }
}
