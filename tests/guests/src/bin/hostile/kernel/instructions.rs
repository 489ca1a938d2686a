//! Instructions that only ring 0 has, with what the hypervisor would carry out for a guest if it were allowed, and jumps to where nobody may go.

use luxen_guests::abi::{Errno, hypercall as nr, op};
use luxen_guests::machine::events;
use luxen_guests::machine::traps::probe_read;

use super::answer::{Answer, FAILSAFE, FINE, GENERAL_PROTECTION, Judge};
use super::catch::catch;
use super::ground::{CODE, Ground, NOTHING, WATCHED, through_linear};
use super::{Attempt, attempt, call};

const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;
const HYPERVISOR: u64 = 0xffff_82d0_4000_0000;
const INVALID_OPCODE: Answer = Answer::Trap(6, 0);
const FAILED: Answer = Answer::Trap(FAILSAFE, 0);
/// CR4 bits that are the hypervisor's: VMXE, SMXE, PCIDE, SMEP, SMAP, PKE, CET, PKS.
const CR4_NOT_A_GUESTS: u64 = 1 << 13 | 1 << 14 | 1 << 17 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 24;
/// A PV guest's CR0 as Xen shows it.
const CR0: u64 = 0x8005_0033;

/// Registers that a guest must not write, and values.
const MSRS: [(u32, u64); 25] = [
    (0x1b, 0xfee0_0900),
    (0x10, 0),
    (0x8b, 1),
    (0x174, 0x33),
    (0x175, HYPERVISOR),
    (0x176, HYPERVISOR),
    (0x1d9, 1),
    (0x1a0, 1),
    (0x200, 6),
    (0x250, 0),
    (0x277, 0),
    (0x2ff, 0),
    (0x480, 0),
    (0x600, 0),
    (0x830, 0),
    (0x4000_0000, 1),
    (0xc000_0080, 0),
    (0xc000_0081, 0),
    (0xc000_0082, HYPERVISOR),
    (0xc000_0083, HYPERVISOR),
    (0xc000_0084, 0),
    (0xc000_0100, NOT_CANONICAL),
    (0xc000_0101, NOT_CANONICAL),
    (0xc000_0102, NOT_CANONICAL),
    (0xdead_beef, 0),
];

fn wrmsr(msr: u32, value: u64) -> Answer {
    catch!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

fn xsetbv(index: u32, value: u64) -> Answer {
    catch!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

/// The iret hypercall with this frame: rip, cs, rflags, ss. The stack is a good one.
fn iret(rip: u64, cs: u64, rflags: u64, ss: u64) -> Answer {
    catch!(
        "lea r11, [rsp - 1024]
         push {ss}
         push r11
         push {rflags}
         push {cs}
         push {rip}
         push 0
         jmp guest_iret",
        ss = in(reg) ss, rflags = in(reg) rflags, cs = in(reg) cs, rip = in(reg) rip, out("rcx") _
    )
}

const ATTEMPTS: &[Attempt] = &[
    attempt(
        "rdmsr of none",
        GENERAL_PROTECTION,
        |_| catch!("rdmsr", in("ecx") 0xdead_beefu32, out("eax") _, out("edx") _),
    ),
    attempt("mov to CR0 without paging", GENERAL_PROTECTION, |_| catch!("mov cr0, rax", in("rax") CR0 & !(1 << 31))),
    attempt(
        "mov to CR0 without protection of pages",
        GENERAL_PROTECTION,
        |_| catch!("mov cr0, rax", in("rax") CR0 & !(1 << 16)),
    ),
    attempt("mov to CR0 without caches", GENERAL_PROTECTION, |_| catch!("mov cr0, rax", in("rax") CR0 | 1 << 30)),
    attempt("mov to CR0 of all ones", GENERAL_PROTECTION, |_| catch!("mov cr0, rax", in("rax") u64::MAX)),
    attempt("mov to CR0 of what it is", FINE, |_| catch!("mov cr0, rax", in("rax") CR0)),
    attempt("CR4 of all ones", FINE, |_| {
        let (before, after): (u64, u64);
        let mut found = catch!("mov rax, cr4", out("rax") before);
        if found == FINE {
            found = catch!("mov cr4, rax", in("rax") u64::MAX);
        }
        let read = catch!("mov rax, cr4", out("rax") after);
        assert!(read == FINE && catch!("mov cr4, rax", in("rax") before) == FINE, "CR4 cannot be put back");
        if found == FINE { Answer::Is(after & CR4_NOT_A_GUESTS) } else { found }
    }),
    attempt("mov to CR3 beyond all", GENERAL_PROTECTION, |_| catch!("mov cr3, rax", in("rax") u64::MAX)),
    attempt("mov to CR3 of a level-1 table", GENERAL_PROTECTION, |g| catch!("mov cr3, rax", in("rax") g.l1 << 12)),
    attempt("mov to CR8", GENERAL_PROTECTION, |_| catch!("mov cr8, rax", in("rax") 0u64)),
    attempt(
        "mov of the hypervisor's address to DR0",
        GENERAL_PROTECTION,
        |_| catch!("mov dr0, rax", in("rax") HYPERVISOR),
    ),
    attempt(
        "mov of a breakpoint on ports to DR7",
        GENERAL_PROTECTION,
        |_| catch!("mov dr7, rax", in("rax") 0x0002_0001u64),
    ),
    attempt("mov of general detect to DR7", Answer::Is(0x400), |_| {
        let value: u64;
        let put = catch!("mov dr7, rax", in("rax") 0x2000u64);
        let got = catch!("mov rax, dr7", out("rax") value);
        if (put, got) == (FINE, FINE) { Answer::Is(value) } else { put }
    }),
    attempt("xsetbv of nothing", GENERAL_PROTECTION, |_| xsetbv(0, 0)),
    attempt("xsetbv of everything", GENERAL_PROTECTION, |_| xsetbv(0, u64::MAX)),
    attempt("xsetbv without the x87", GENERAL_PROTECTION, |_| xsetbv(0, 2)),
    attempt("xsetbv of AVX without SSE", GENERAL_PROTECTION, |_| xsetbv(0, 5)),
    attempt("xsetbv of register 1", GENERAL_PROTECTION, |_| xsetbv(1, 3)),
    attempt("in without the right", GENERAL_PROTECTION, |_| catch!("in al, 0x71", out("al") _)),
    attempt("out without the right", GENERAL_PROTECTION, |_| catch!("out 0x80, al", in("al") 0u8)),
    attempt("out to the machine's exit", GENERAL_PROTECTION, |_| catch!("out 0xf4, al", in("al") 0u8)),
    attempt(
        "rep outsb without the right",
        GENERAL_PROTECTION,
        |_| catch!("rep outsb", in("dx") 0x3f8u16, inout("rsi") WATCHED => _, inout("rcx") 9u64 => _),
    ),
    attempt(
        "rep insd without the right",
        GENERAL_PROTECTION,
        |_| catch!("rep insd", in("dx") 0xcf8u16, inout("rdi") WATCHED => _, inout("rcx") u64::MAX => _),
    ),
    attempt("rep outsb of what is not there", GENERAL_PROTECTION, |_| {
        with_iopl(|| catch!("rep outsb", in("dx") 0x3f8u16, inout("rsi") NOTHING => _, inout("rcx") u64::MAX => _))
    }),
    attempt("rep insb into the hypervisor", GENERAL_PROTECTION, |_| {
        with_iopl(|| catch!("rep insb", in("dx") 0x3f8u16, inout("rdi") HYPERVISOR => _, inout("rcx") u64::MAX => _))
    }),
    attempt("rep outsb of the hypervisor by a linear mapping", GENERAL_PROTECTION, |_| {
        with_iopl(|| catch!("rep outsb", in("dx") 0x3f8u16, inout("rsi") through_linear() => _, inout("rcx") 1u64 => _))
    }),
    attempt("in with the right", Answer::Is(0xff), |_| {
        with_iopl(|| {
            let value: u8;
            match catch!("in al, 0x71", out("al") value) {
                FINE => Answer::Is(value.into()),
                other => other,
            }
        })
    }),
    attempt("cli without the right", GENERAL_PROTECTION, |_| catch!("cli")),
    attempt("hlt", GENERAL_PROTECTION, |_| catch!("hlt")),
    attempt("lgdt", GENERAL_PROTECTION, |_| catch!("lgdt [rdi]", in("rdi") WATCHED)),
    attempt("lidt", GENERAL_PROTECTION, |_| catch!("lidt [rdi]", in("rdi") WATCHED)),
    attempt("lldt", GENERAL_PROTECTION, |_| catch!("lldt ax", in("ax") 0u16)),
    attempt("ltr", GENERAL_PROTECTION, |_| catch!("ltr ax", in("ax") 0xe040u16)),
    attempt("lmsw", GENERAL_PROTECTION, |_| catch!("lmsw ax", in("ax") 0u16)),
    attempt("invlpg", GENERAL_PROTECTION, |_| catch!("invlpg [rdi]", in("rdi") HYPERVISOR)),
    attempt("swapgs", GENERAL_PROTECTION, |_| catch!("swapgs")),
    attempt("sysretq", GENERAL_PROTECTION, |_| catch!("sysretq", out("rcx") _)),
    attempt("ud2", INVALID_OPCODE, |_| catch!("ud2")),
    attempt("ud2 before what is no cpuid", INVALID_OPCODE, |_| catch!(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x90")),
    attempt("vmcall", INVALID_OPCODE, |_| catch!("vmcall")),
    attempt("int3", Answer::Trap(3, 0), |_| catch!("int3")),
    attempt("int 0x80 without a handler", Answer::Trap(13, 0x80 << 3 | 2), |_| catch!("int 0x80")),
    attempt("int 0xff without a handler", GENERAL_FROM_INT, |_| any_general(catch!("int 0xff"))),
    attempt("int 0xf0 without a handler", GENERAL_FROM_INT, |_| any_general(catch!("int 0xf0"))),
    attempt("int 14", GENERAL_FROM_INT, |_| any_general(catch!("int 14"))),
    attempt("int 8", GENERAL_FROM_INT, |_| any_general(catch!("int 8"))),
    attempt("int 5", GENERAL_FROM_INT, |_| any_general(catch!("int 5"))),
    attempt("jump to where no address is", GENERAL_PROTECTION, |_| catch!("jmp rax", in("rax") NOT_CANONICAL)),
    attempt("return to where no address is", GENERAL_PROTECTION, |_| {
        catch!("push rax
         ret", in("rax") NOT_CANONICAL)
    }),
    attempt("jump to what must not be read", Answer::Trap(14, 0x10), |_| catch!("jmp rax", in("rax") NOTHING)),
    attempt("jump into the hypervisor", Answer::Trap(14, 0x11), |_| catch!("jmp rax", in("rax") HYPERVISOR)),
    attempt(
        "read where no address is",
        GENERAL_PROTECTION,
        |_| catch!("mov rax, [rax]", inout("rax") NOT_CANONICAL => _),
    ),
    attempt("iret with the hypervisor's code", FAILED, |_| iret(CODE, 0xe008, 0x202, 0xe02b)),
    attempt("iret with no code", FAILED, |_| iret(CODE, 0, 0x202, 0xe02b)),
    attempt("iret with data for code", FAILED, |_| iret(CODE, 0xe028, 0x202, 0xe02b)),
    attempt("iret with the hypervisor's TSS for code", FAILED, |_| iret(CODE, 0xe040, 0x202, 0xe02b)),
    attempt("iret with code behind all", FAILED, |_| iret(CODE, 0xfff8, 0x202, 0xe02b)),
    attempt("iret with code of a page that is not there", FAILED, |_| iret(CODE, 600 << 3, 0x202, 0xe02b)),
    attempt("iret with code of an LDT that is not there", FAILED, |_| iret(CODE, 0xc, 0x202, 0xe02b)),
    attempt("iret with the hypervisor's stack", FAILED, |_| iret(CODE, 0xe030, 0x202, 0xe010)),
    attempt("iret with no stack", FAILED, |_| iret(CODE, 0xe030, 0x202, 0)),
    attempt("iret to where no address is", FAILED, |_| match iret(NOT_CANONICAL, 0xe030, 0x202, 0xe02b) {
        // Some processors, QEMU's too, go there and fault then.
        GENERAL_PROTECTION => FAILED,
        other => other,
    }),
    attempt("iret into the hypervisor", Answer::Trap(14, 0x11), |_| iret(HYPERVISOR, 0xe030, 0x202, 0xe02b)),
    attempt("iret with all flags", INVALID_OPCODE, |_| iret(CODE, 0xe030, u64::MAX, 0xe02b)),
    attempt("iret to code that is none", INVALID_OPCODE, |_| iret(CODE, 0xe030, 0x202, 0xe02b)),
    attempt("hypercall with the nested-task flag", FINE, |_| hypercall_with_flags(1 << 14)),
    attempt("hypercall with the alignment flag", FINE, |_| hypercall_with_flags(1 << 18)),
    attempt("hypercall with the direction flag", FINE, |_| hypercall_with_flags(1 << 10)),
    attempt("hypercall in single steps", Answer::Trap(1, 0), |_| hypercall_with_flags(1 << 8)),
    attempt("hypercall in the shadow of a stack that is watched", FINE, watched_stack),
];

/// `int n` of a vector without a handler: whatever error code there is, as the machine may give a wrong one (QEMU 7.2 does).
const GENERAL_FROM_INT: Answer = Answer::Trap(13, 2);

fn any_general(found: Answer) -> Answer {
    match found {
        Answer::Trap(13, error) if error & 2 != 0 => GENERAL_FROM_INT,
        other => other,
    }
}

/// Runs something with the right to all ports.
fn with_iopl(attempt: impl FnOnce() -> Answer) -> Answer {
    let set = |iopl: u32| call(nr::PHYSDEV_OP, [op::PHYSDEV_SET_IOPL, &raw const iopl as u64]);
    assert!(set(3) == FINE, "physdev_op set_iopl 3");
    let found = attempt();
    assert!(set(0) == FINE, "physdev_op set_iopl 0");
    found
}

/// xen_version with a flag set before it.
fn hypercall_with_flags(flags: u64) -> Answer {
    let result: u64;
    let found = catch!(
        "pushfq
         or [rsp], rdx
         popfq
         xor edi, edi
         syscall
         pushfq
         and qword ptr [rsp], 0xfffffffffffbb8ff
         popfq",
        in("rdx") flags, inout("rax") nr::XEN_VERSION => result, out("rdi") _, out("rsi") _, out("rcx") _
    );
    match found {
        FINE => {
            let is_version = Errno::check(result as i64).is_ok_and(|version| version >> 16 == 4);
            Answer::Is(u64::from(!is_version))
        }
        other => other,
    }
}

/// A data breakpoint on what is loaded into ss: the exception is held back for one instruction, and that one is a hypercall. On a machine that does hold it back it
/// comes in the hypervisor, whose stack is not set up yet; on one that does not the guest has it. In both cases the guest must find nothing amiss.
fn watched_stack(_: &Ground) -> Answer {
    // SAFETY: the page is there to be watched.
    unsafe { (WATCHED as *mut u64).write_volatile(0xe02b) };
    // DR0, reads and writes of two bytes.
    for (reg, value) in [(0, WATCHED), (7, 0x0007_0001)] {
        assert!(call(nr::SET_DEBUGREG, [reg, value]) == FINE, "debug register {reg}");
    }
    let found = catch!(
        "mov ss, word ptr [rdx]
         syscall",
        in("rdx") WATCHED, inout("rax") nr::XEN_VERSION => _, in("rdi") 0u64, out("rsi") _, out("rcx") _
    );
    let found = match found {
        Answer::Trap(1, _) => FINE,
        other => other,
    };
    let again = catch!("mov ss, word ptr [rdx]
         int3", in("rdx") WATCHED);
    assert!(call(nr::SET_DEBUGREG, [7, 0]) == FINE, "debug register 7");
    assert!(matches!(again, Answer::Trap(1 | 3, _)), "int3 in the shadow came to {again}");
    found
}

/// Tries everything.
pub fn try_all(g: &Ground, judge: &mut Judge) {
    for (msr, value) in MSRS {
        judge.check(format_args!("wrmsr of {msr:#x}"), wrmsr(msr, value), GENERAL_PROTECTION);
    }
    super::try_all(g, judge, ATTEMPTS);
    // What the guest cannot see it cannot see by an ordinary read either; the M2P it can see.
    for address in [HYPERVISOR, 0xffff_8300_0000_0000, 0xffff_82e0_0000_0000, 0xffff_87ff_ffff_f000, through_linear()] {
        let found = probe_read(address);
        let due = if found.is_err() { FINE } else { Answer::Is(1) };
        judge.check(format_args!("read of {address:#x}"), due, FINE);
    }
    let found = catch!("mov [rdi], rax", in("rdi") 0xffff_8000_0000_0000u64, in("rax") 0u64);
    judge.check(format_args!("write to the M2P"), found, super::answer::WRITE_FAULT);
    // Failsafe and the others mask events, and are not left by iret.
    events::enable();
}
