//! Hypercalls of PV guests: Xen's numbers, arguments and errnos.
//!
//! rax = number, arguments in rdi, rsi, rdx, r10, r8, result in rax. A call that takes long gives way between two steps when something is due: it leaves its
//! progress in the guest's own registers and memory and points rip back at `syscall`, so that at every entry and exit a guest is at a boundary from
//! which it can simply go on, here or in another build of the hypervisor.

pub mod console;
pub mod cpuid;
pub mod evtchn;
pub mod grant;
pub mod kexec;
pub mod memory;
pub mod mmu;
pub mod mmuext;
pub mod physdev;
pub mod refused;
pub mod sched;
pub mod sysctl;
pub mod tables;
pub mod vcpu;
pub mod version;

use crate::frame::Mfn;
use crate::run::guest_mem::{GuestMem, field_u64};
use crate::run::vcpu::Vcpu;
use crate::x86::directmap::DirectMap;
use crate::x86::traps::Frame;
use crate::xen::errno::Errno;
use crate::xen::hypercall::nr;
use crate::xen::layout::multicall_entry;
use alloc::sync::Arc;

/// What a hypercall comes to.
pub enum Outcome {
    /// A result for rax.
    Done(u64),
    /// To be called again with these arguments, because something else is due now.
    Again([u64; 5]),
    /// The call has set the guest's registers itself (iret).
    RegistersSet,
}

impl From<Result<u64, Errno>> for Outcome {
    fn from(result: Result<u64, Errno>) -> Self {
        Self::Done(result.unwrap_or_else(|e| e.to_rax()))
    }
}

impl From<Result<(), Errno>> for Outcome {
    fn from(result: Result<(), Errno>) -> Self {
        result.map(|()| 0).into()
    }
}

/// The calling vCPU, with access to its memory.
pub struct Caller<'a> {
    /// The vCPU.
    pub vcpu: &'a Arc<Vcpu>,
    /// Its registers, for the few calls that change them.
    pub frame: &'a mut Frame,
    /// It calls from inside a multicall.
    pub in_multicall: bool,
}

impl Caller<'_> {
    /// The guest kernel's virtual memory.
    pub fn memory(&self) -> Result<GuestMem<'static, DirectMap>, Errno> {
        Ok(GuestMem::new(&DirectMap, self.kernel_l4()?))
    }

    /// The page tables of the guest's kernel.
    pub fn kernel_l4(&self) -> Result<Mfn, Errno> {
        self.vcpu.state.lock().kernel_l4.ok_or(Errno::EFAULT)
    }

    /// Something else is due: a long call should give way.
    pub fn should_give_way(&self) -> bool {
        crate::run::work::is_due()
    }
}

/// Length of `syscall`, and of `int 0x82`.
const SYSCALL_LEN: u64 = 2;

/// A hypercall from a guest's kernel.
pub fn dispatch(vcpu: &Arc<Vcpu>, frame: &mut Frame) {
    let number = frame.rax;
    let args = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8];
    let mut caller = Caller { vcpu, frame, in_multicall: false };
    match call(&mut caller, number, args) {
        Outcome::Done(result) => frame.rax = result,
        Outcome::Again(args) => {
            frame.rip = frame.rip.wrapping_sub(SYSCALL_LEN);
            frame.rax = number;
            [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8] = args;
        }
        Outcome::RegistersSet => {}
    }
}

fn call(c: &mut Caller<'_>, number: u64, args: [u64; 5]) -> Outcome {
    let [a, b, d, e, _] = args;
    match number {
        nr::SET_TRAP_TABLE => tables::set_trap_table(c, a).into(),
        nr::MMU_UPDATE => mmu::mmu_update(c, a, b, d, e),
        nr::SET_GDT => tables::set_gdt(c, a, b).into(),
        nr::STACK_SWITCH => tables::stack_switch(c, a, b).into(),
        nr::SET_CALLBACKS => tables::set_callbacks(c, a, b, d).into(),
        nr::FPU_TASKSWITCH => tables::fpu_taskswitch(c, a).into(),
        nr::SET_DEBUGREG => tables::set_debugreg(c, a, b).into(),
        nr::GET_DEBUGREG => tables::get_debugreg(c, a).into(),
        nr::UPDATE_DESCRIPTOR => mmu::update_descriptor(c, a, b).into(),
        nr::MEMORY_OP => memory::memory_op(c, a, b),
        nr::MULTICALL => multicall(c, a, b),
        nr::UPDATE_VA_MAPPING => mmu::update_va_mapping(c, a, b, d).into(),
        nr::UPDATE_VA_MAPPING_OTHERDOMAIN => mmu::update_va_mapping_otherdomain(c, a, b, d, e).into(),
        nr::SET_TIMER_OP => vcpu::set_timer_op(c, a).into(),
        nr::XEN_VERSION => version::xen_version(c, a, b).into(),
        nr::CONSOLE_IO => console::console_io(c, a, b, d),
        nr::GRANT_TABLE_OP => grant::grant_table_op(c, a, b, d),
        nr::VM_ASSIST => tables::vm_assist(c, a, b).into(),
        nr::IRET => tables::iret(c),
        nr::VCPU_OP => vcpu::vcpu_op(c, a, b, d).into(),
        nr::SET_SEGMENT_BASE => tables::set_segment_base(c, a, b).into(),
        nr::MMUEXT_OP => mmuext::mmuext_op(c, a, b, d, e),
        nr::SCHED_OP => sched::sched_op(c, a, b).into(),
        nr::SCHED_OP_COMPAT => sched::sched_op_compat(c, a, b).into(),
        nr::NMI_OP => tables::nmi_op(c, a, b).into(),
        nr::CALLBACK_OP => tables::callback_op(c, a, b).into(),
        nr::EVENT_CHANNEL_OP => evtchn::event_channel_op(c, a, b).into(),
        nr::PHYSDEV_OP => physdev::physdev_op(c, a, b).into(),
        nr::EVENT_CHANNEL_OP_COMPAT => refused::event_channel_op_compat(c, a).into(),
        nr::PHYSDEV_OP_COMPAT => refused::physdev_op_compat(c, a).into(),
        nr::PLATFORM_OP => refused::platform_op(c, a).into(),
        nr::SYSCTL => sysctl::sysctl(c, a).into(),
        nr::DOMCTL => refused::domctl(c, a).into(),
        nr::HVM_OP => refused::hvm_op(c, a, b).into(),
        nr::DM_OP => refused::dm_op(c, a).into(),
        // The hypervisor's file system is the control domain's; Argo and the PMU are switched off.
        nr::HYPFS_OP => Outcome::Done(Errno::EPERM.to_rax()),
        nr::ARGO_OP | nr::XENPMU_OP => Outcome::Done(Errno::EOPNOTSUPP.to_rax()),
        nr::KEXEC_OP => kexec::kexec_op(c, a, b).into(),
        _ => Outcome::Done(Errno::ENOSYS.to_rax()),
    }
}

/// `multicall`: `count` entries of {op, result, args}. Gives way between two entries.
fn multicall(c: &mut Caller<'_>, list: u64, count: u64) -> Outcome {
    if c.in_multicall {
        return Outcome::Done(Errno::EINVAL.to_rax());
    }
    const SIZE: u64 = multicall_entry::SIZE as u64;
    // The interface has 32 bits for the number.
    let count = u64::from(count as u32);
    for i in 0..count {
        if i > 0 && c.should_give_way() {
            return Outcome::Again([list.wrapping_add(i * SIZE), count - i, 0, 0, 0]);
        }
        let at = list.wrapping_add(i.wrapping_mul(SIZE));
        // Anew for every entry: the one before may have switched page tables.
        let Ok(memory) = c.memory() else { return Outcome::Done(Errno::EFAULT.to_rax()) };
        let Ok(entry) = memory.read_array::<{ multicall_entry::SIZE }>(at) else {
            return Outcome::Done(Errno::EFAULT.to_rax());
        };
        let number = field_u64(&entry, multicall_entry::OP);
        let args = core::array::from_fn(|n| field_u64(&entry, multicall_entry::ARGS + n * 8));
        let mut inner = Caller { vcpu: c.vcpu, frame: c.frame, in_multicall: true };
        let result = match call(&mut inner, number, args) {
            Outcome::Done(result) => result,
            Outcome::Again(args) => {
                // The entry itself carries on: its arguments are replaced, and the list starts with it next time.
                let mut bytes = [0; 40];
                for (n, a) in args.iter().enumerate() {
                    bytes[n * 8..n * 8 + 8].copy_from_slice(&a.to_le_bytes());
                }
                if memory.write(at.wrapping_add(multicall_entry::ARGS as u64), &bytes).is_err() {
                    return Outcome::Done(Errno::EFAULT.to_rax());
                }
                return Outcome::Again([at, count - i, 0, 0, 0]);
            }
            Outcome::RegistersSet => return Outcome::RegistersSet,
        };
        let Ok(memory) = c.memory() else { return Outcome::Done(Errno::EFAULT.to_rax()) };
        if memory.write_u64(at.wrapping_add(multicall_entry::RESULT as u64), result).is_err() {
            return Outcome::Done(Errno::EFAULT.to_rax());
        }
    }
    Outcome::Done(0)
}
