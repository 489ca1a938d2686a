//! Hypercalls that are wrong otherwise: numbers, vCPUs that are not there, values that registers must not have, what is for others.

use core::arch::asm;

use luxen_guests::abi::{Errno, MulticallEntry, PageOffline, hypercall as nr, op};
use luxen_guests::machine::hypercall;

use super::answer::{Answer, FINE, Judge};
use super::ground::{DATA, Ground, NOTHING};
use super::{Attempt, NO_CALL, attempt, call};

const INVALID: Answer = Answer::No(Errno::EINVAL);
const DENIED: Answer = Answer::No(Errno::EPERM);
const ABSENT: Answer = Answer::No(Errno::ENOENT);
const UNKNOWN: Answer = Answer::No(Errno::ENOSYS);
const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;
const HYPERVISOR: u64 = 0xffff_82d0_4000_0000;
const SELF: u64 = op::DOMID_SELF as u64;
/// Versions of the control interfaces, as Xen 4.17 has them.
const PLATFORM_VERSION: u32 = 0x0300_0001;
const CONTROL_VERSION: u32 = 0x15;

fn multicall<const N: usize>(entries: [(u64, [u64; 3]); N]) -> Answer {
    let mut list = entries.map(|(op, [a, b, c])| MulticallEntry { op, result: 0x55, args: [a, b, c, 0, 0, 0] });
    let found = call(nr::MULTICALL, [list.as_mut_ptr() as u64, N as u64]);
    match found {
        FINE => Errno::check(list[0].result).into(),
        other => other,
    }
}

/// {u32 command, u32 version, ...}.
fn control(number: u64, version: u32) -> Answer {
    let mut argument = [0u32; 64];
    argument[1] = version;
    call(number, [argument.as_mut_ptr() as u64])
}

fn debugreg(reg: u64, value: u64) -> Answer {
    call(nr::SET_DEBUGREG, [reg, value])
}

fn callback(kind: u64, address: u64) -> Answer {
    let argument = [kind, address];
    call(nr::CALLBACK_OP, [op::CALLBACKOP_REGISTER, argument.as_ptr() as u64])
}

fn vcpu<const N: usize>(operation: u64, vcpu: u64, words: [u64; N]) -> Answer {
    let mut argument = words;
    call(nr::VCPU_OP, [operation, vcpu, argument.as_mut_ptr() as u64])
}

/// Sets the user's gs by its selector; what the selector is then.
fn user_gs(selector: u64) -> Answer {
    let gs: u16;
    match hypercall::set_segment_base(3, selector) {
        Ok(0) => {
            // SAFETY: reads a segment register.
            unsafe { asm!("mov {0:x}, gs", out(reg) gs, options(nostack, preserves_flags, nomem)) };
            Answer::Is(gs.into())
        }
        other => other.into(),
    }
}

const ATTEMPTS: &[Attempt] = &[
    attempt("multicall inside of a multicall", INVALID, |_| multicall([(nr::MULTICALL, [DATA, 1, 0])])),
    attempt("multicall of no hypercall", UNKNOWN, |_| multicall([(NO_CALL, [0; 3]), (u64::MAX, [0; 3])])),
    attempt("multicall of hypercall -1", UNKNOWN, |_| multicall([(u64::MAX, [0; 3])])),
    attempt("multicall of 4 Gi entries", FINE, |_| call(nr::MULTICALL, [NOTHING, 1 << 32])),
    attempt("hypercall 63", UNKNOWN, |_| call(NO_CALL, [])),
    attempt("hypercall 127", UNKNOWN, |_| call(127, [])),
    attempt("hypercall 128", UNKNOWN, |_| call(128, [])),
    attempt("hypercall u32::MAX + 1", UNKNOWN, |_| call(1 << 32, [])),
    attempt("hypercall -1", UNKNOWN, |_| call(u64::MAX, [])),
    attempt("hypercall 11, which is none", UNKNOWN, |_| call(11, [])),
    attempt("xsm_op", UNKNOWN, |_| call(nr::XSM_OP, [])),
    attempt("xenoprof_op", UNKNOWN, |_| call(nr::XENOPROF_OP, [])),
    attempt("tmem_op", UNKNOWN, |_| call(nr::TMEM_OP, [])),
    attempt("sysctl", DENIED, |_| control(nr::SYSCTL, CONTROL_VERSION)),
    attempt("sysctl of another version", Answer::No(Errno::EACCES), |_| control(nr::SYSCTL, 1)),
    attempt("sysctl page_offline_op", DENIED, |_| {
        let mut status = [0u32];
        let frame = 0x1000;
        hypercall::sysctl(&mut PageOffline::new(op::PAGE_OFFLINE, (frame, frame), status.as_mut_ptr() as u64)).into()
    }),
    attempt("domctl", DENIED, |_| control(nr::DOMCTL, CONTROL_VERSION)),
    attempt("domctl of another version", Answer::No(Errno::EACCES), |_| control(nr::DOMCTL, 1)),
    attempt("platform_op", DENIED, |_| control(nr::PLATFORM_OP, PLATFORM_VERSION)),
    attempt("platform_op of another version", Answer::No(Errno::EACCES), |_| control(nr::PLATFORM_OP, 1)),
    attempt("kexec_op get_range", DENIED, |_| call(nr::KEXEC_OP, [op::KEXEC_GET_RANGE, DATA])),
    attempt("kexec_op load", DENIED, |_| call(nr::KEXEC_OP, [op::KEXEC_LOAD, DATA])),
    attempt("kexec_op execute", DENIED, |_| call(nr::KEXEC_OP, [op::KEXEC_EXEC, DATA])),
    attempt("kexec_op that is not there", DENIED, |_| call(nr::KEXEC_OP, [op::KEXEC_NONE, DATA])),
    attempt("hypfs_op", DENIED, |_| call(nr::HYPFS_OP, [0; 5])),
    attempt("argo_op", Answer::No(Errno::EOPNOTSUPP), |_| call(nr::ARGO_OP, [0; 5])),
    attempt("xenpmu_op", Answer::No(Errno::EOPNOTSUPP), |_| call(nr::XENPMU_OP, [0; 5])),
    attempt("dm_op for itself", DENIED, |_| call(nr::DM_OP, [SELF, 0, 0])),
    attempt("dm_op for nobody", Answer::No(Errno::ESRCH), |_| call(nr::DM_OP, [op::DOMID_NOBODY.into(), 0, 0])),
    attempt("hvm_op get_param", INVALID, |_| call(nr::HVM_OP, [1, DATA])),
    attempt("hvm_op that is not there", UNKNOWN, |_| call(nr::HVM_OP, [99, DATA])),
    attempt("physdev_op set_iopl 4", INVALID, |_| {
        let iopl = 4u32;
        call(nr::PHYSDEV_OP, [op::PHYSDEV_SET_IOPL, &raw const iopl as u64])
    }),
    attempt("physdev_op set_iobitmap of 65537 ports", INVALID, |_| {
        let bitmap = [DATA, 65537];
        call(nr::PHYSDEV_OP, [op::PHYSDEV_SET_IOBITMAP, bitmap.as_ptr() as u64])
    }),
    attempt("physdev_op set_iobitmap in the hypervisor", INVALID, |_| {
        let bitmap = [HYPERVISOR, 1024];
        call(nr::PHYSDEV_OP, [op::PHYSDEV_SET_IOBITMAP, bitmap.as_ptr() as u64])
    }),
    attempt("physdev_op that is not there", UNKNOWN, |_| call(nr::PHYSDEV_OP, [99, DATA])),
    attempt("physdev_op map_pirq", DENIED, |_| call(nr::PHYSDEV_OP, [13, DATA])),
    attempt("physdev_op apic_write", DENIED, |_| call(nr::PHYSDEV_OP, [9, DATA])),
    attempt("console_io of more than there can be", INVALID, |_| {
        call(nr::CONSOLE_IO, [op::CONSOLEIO_WRITE, 0x8000_0000, DATA])
    }),
    attempt("console_io without end", INVALID, |_| call(nr::CONSOLE_IO, [op::CONSOLEIO_WRITE, u64::MAX, DATA])),
    attempt("console_io of nothing", FINE, |_| call(nr::CONSOLE_IO, [op::CONSOLEIO_WRITE, 0, NOTHING])),
    attempt("console_io that is not there", UNKNOWN, |_| call(nr::CONSOLE_IO, [9, 8, DATA])),
    attempt("breakpoint in the hypervisor", DENIED, |_| debugreg(0, HYPERVISOR)),
    attempt("breakpoint in the direct map", DENIED, |_| debugreg(3, 0xffff_8300_0000_0000)),
    attempt("breakpoint at the hypervisor's end", DENIED, |_| debugreg(1, 0xffff_87ff_ffff_ffff)),
    attempt("breakpoint that is not canonical", DENIED, |_| debugreg(2, NOT_CANONICAL)),
    attempt("breakpoint on ports", DENIED, |_| debugreg(7, 0x0002_0001)),
    attempt("breakpoint on instructions of 8 bytes", DENIED, |_| debugreg(7, 0x0008_0001)),
    attempt("debug register 8", INVALID, |_| debugreg(8, 0)),
    attempt("debug register -1", INVALID, |_| debugreg(u64::MAX, 0)),
    attempt("debug register 8 read", INVALID, |_| call(nr::GET_DEBUGREG, [8])),
    // Bit 13 would make every access to a debug register fault, the hypervisor's too.
    attempt("general detect", Answer::Is(0x400), |_| {
        assert!(debugreg(7, 0x2000) == FINE, "general detect");
        let found = call(nr::GET_DEBUGREG, [7]);
        assert!(debugreg(7, 0) == FINE, "debug register 7 cleared");
        found
    }),
    attempt("vm_assist that is not there", INVALID, |_| hypercall::vm_assist(op::VMASST_ENABLE, 63).into()),
    attempt("vm_assist 64", INVALID, |_| hypercall::vm_assist(op::VMASST_ENABLE, 64).into()),
    attempt("vm_assist -1", INVALID, |_| hypercall::vm_assist(op::VMASST_ENABLE, u64::MAX).into()),
    attempt("vm_assist, neither on nor off", UNKNOWN, |_| {
        hypercall::vm_assist(2, op::VMASST_WRITABLE_PAGETABLES).into()
    }),
    attempt("segment base that is not canonical", INVALID, |_| {
        hypercall::set_segment_base(op::SEGBASE_FS, NOT_CANONICAL).into()
    }),
    attempt("kernel's segment base that is not canonical", INVALID, |_| {
        hypercall::set_segment_base(op::SEGBASE_GS_KERNEL, NOT_CANONICAL).into()
    }),
    attempt("segment base that is not there", INVALID, |_| hypercall::set_segment_base(4, 0).into()),
    // No error, as Linux cannot go on after one; but there is no segment then.
    attempt("user's selector of the hypervisor's code", FINE, |_| user_gs(0xe008)),
    attempt("user's selector of the hypervisor's TSS", FINE, |_| user_gs(0xe040)),
    attempt("user's selector of a page that is not there", FINE, |_| user_gs(600 << 3 | 3)),
    attempt("user's selector behind all", FINE, |_| user_gs(0xfff8)),
    attempt("callback that is not canonical", INVALID, |_| callback(0, NOT_CANONICAL)),
    attempt("failsafe callback that is not canonical", INVALID, |_| callback(1, NOT_CANONICAL)),
    attempt("callback of no kind", UNKNOWN, |_| callback(6, DATA)),
    attempt("callback_op that is not there", UNKNOWN, |_| call(nr::CALLBACK_OP, [9, DATA])),
    attempt("event callback taken away", INVALID, |_| {
        let kind = 0u64;
        call(nr::CALLBACK_OP, [op::CALLBACKOP_UNREGISTER, &raw const kind as u64])
    }),
    attempt("callbacks that are not canonical", INVALID, |_| {
        hypercall::set_callbacks(NOT_CANONICAL, DATA, DATA).into()
    }),
    attempt("NMI handler that is not canonical", INVALID, |_| {
        hypercall::nmi_op(op::NMI_REGISTER, NOT_CANONICAL).into()
    }),
    attempt("nmi_op that is not there", UNKNOWN, |_| hypercall::nmi_op(9, 0).into()),
    attempt("vCPU that is not there", ABSENT, |_| vcpu(op::VCPU_IS_UP, 2, [0])),
    attempt("vCPU 32", ABSENT, |_| vcpu(op::VCPU_UP, 32, [0])),
    attempt("vCPU -1", ABSENT, |_| vcpu(op::VCPU_DOWN, u64::MAX, [0])),
    attempt("context of a vCPU that is not there", ABSENT, |_| vcpu(op::VCPU_INITIALISE, 2, [0])),
    attempt("context of a vCPU that has one", Answer::No(Errno::EEXIST), |_| vcpu(op::VCPU_INITIALISE, 0, [0; 646])),
    attempt("vcpu_op that is not there", UNKNOWN, |_| vcpu(op::VCPU_NONE, 0, [0])),
    attempt("vcpu_op -1", UNKNOWN, |_| vcpu(u64::MAX, 0, [0])),
    attempt("physical number of a vCPU", INVALID, |_| vcpu(op::VCPU_GET_PHYSID, 0, [0])),
    attempt("vcpu_info across a page's end", Answer::No(Errno::ENXIO), |g| {
        vcpu(op::VCPU_REGISTER_INFO, 0, [g.data, 4096 - 56])
    }),
    attempt("vcpu_info that is not aligned", Answer::No(Errno::ENXIO), |g| {
        vcpu(op::VCPU_REGISTER_INFO, 0, [g.data, 4])
    }),
    attempt("vcpu_info at offset -1", Answer::No(Errno::ENXIO), |g| {
        vcpu(op::VCPU_REGISTER_INFO, 0, [g.data, u32::MAX.into()])
    }),
    attempt("vcpu_info in a page table", INVALID, |g| vcpu(op::VCPU_REGISTER_INFO, 0, [g.l1, 0])),
    attempt("vcpu_info in the descriptor table", INVALID, |g| vcpu(op::VCPU_REGISTER_INFO, 0, [g.gdt, 0])),
    attempt("period of no time", INVALID, |_| vcpu(op::VCPU_SET_PERIODIC, 0, [0])),
    attempt("period of centuries", INVALID, |_| vcpu(op::VCPU_SET_PERIODIC, 0, [u64::MAX])),
    attempt("timer at the end of time", FINE, |_| vcpu(op::VCPU_SET_SINGLESHOT, 0, [u64::MAX, 0])),
    attempt("timer at the beginning of time", FINE, |_| vcpu(op::VCPU_SET_SINGLESHOT, 0, [0, 0])),
    attempt("timer in the past that must be in the future", Answer::No(Errno::ETIME), |_| {
        vcpu(op::VCPU_SET_SINGLESHOT, 0, [1, 1])
    }),
    attempt("timer of old at the end of time", FINE, |_| hypercall::set_timer_op(u64::MAX).into()),
    attempt("timer of old stopped", FINE, |_| hypercall::set_timer_op(0).into()),
    attempt("shutdown for no reason", INVALID, |_| {
        let reason = 6u32;
        hypercall::sched_op(op::SCHED_SHUTDOWN, &reason).into()
    }),
    attempt("shutdown of old for no reason", INVALID, |_| call(nr::SCHED_OP_COMPAT, [op::SCHED_SHUTDOWN, 99])),
    attempt("sched_op of old that is not there", UNKNOWN, |_| call(nr::SCHED_OP_COMPAT, [op::SCHED_POLL, DATA])),
    attempt("shutdown of nobody", Answer::No(Errno::ESRCH), |_| {
        let argument = [u32::from(op::DOMID_NOBODY), 0];
        hypercall::sched_op(op::SCHED_REMOTE_SHUTDOWN, &argument).into()
    }),
    attempt("watchdog that is not there", INVALID, |_| hypercall::watchdog(3, 1).into()),
    attempt("sched_op that is not there", UNKNOWN, |_| call(nr::SCHED_OP, [99, DATA])),
    attempt("sched_op -1", UNKNOWN, |_| call(nr::SCHED_OP, [u64::MAX, DATA])),
    attempt("xen_version that is not there", UNKNOWN, |_| call(nr::XEN_VERSION, [99, DATA])),
    attempt("build id", Answer::No(Errno::ENODATA), |_| call(nr::XEN_VERSION, [10, DATA])),
];

/// Tries everything, and shuts nobody else down.
pub fn try_all(g: &Ground, judge: &mut Judge) {
    super::try_all(g, judge, ATTEMPTS);
    // Whoever the first domains are, they are not for this one to end, nor to be named for their frames.
    for domid in 1..=3u16 {
        let argument = [u32::from(domid), 0];
        let found: Answer = hypercall::sched_op(op::SCHED_REMOTE_SHUTDOWN, &argument).into();
        let due = if found == Answer::No(Errno::ESRCH) { found } else { DENIED };
        judge.check(format_args!("shutdown of domain {domid}"), found, due);
    }
}
