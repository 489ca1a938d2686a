//! Entries into the hypervisor: the frame, who is told, and readable dumps of what must not happen.
//!
//! Assembly: boot/traps.S. From a guest everything goes to [`crate::run::entry`]; in the hypervisor itself only the timer (while idle) and
//! faults with a fix-up are expected, everything else is a bug and ends in a dump.

use crate::verdict::Verdict;
use crate::x86::{apic, debug_exit};
use core::fmt;
use x86_64::instructions::segmentation::{GS, Segment};
use x86_64::registers::control::{Cr2, Cr3};
use x86_64::registers::model_specific::GsBase;

/// Vector number that stands for `syscall`.
pub const VECTOR_SYSCALL: u64 = 256;
/// Vector number that stands for `syscall` from 32-bit code.
pub const VECTOR_SYSCALL32: u64 = 257;

/// The registers at an entry, as boot/traps.S lays them on the stack.
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[expect(missing_docs, reason = "register names")]
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
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Frame>() == 176);
const _: () = assert!(core::mem::offset_of!(Frame, vector) == 120 && core::mem::offset_of!(Frame, rip) == 136);

#[expect(unsafe_code, reason = "symbols of boot/traps.S and linker.ld")]
mod symbols {
    core::arch::global_asm!(include_str!("../../boot/traps.S"));

    unsafe extern "C" {
        pub static trap_stubs: u8;
        pub static segment_load_gs: u8;
        pub static segment_load_ds: u8;
        pub static segment_load_es: u8;
        pub static segment_load_fs: u8;
        pub static segment_load_bad: u8;
        pub static image_start: u8;
        pub static rodata_start: u8;
        pub static data_start: u8;
        pub static image_end: u8;
        pub fn syscall_entry();
        pub fn syscall32_entry();
        pub fn return_to_guest() -> !;
        pub fn load_segment(which: u64, selector: u64);
    }
}

macro_rules! address_of {
    ($name:ident) => {
        (&raw const symbols::$name) as u64
    };
}

/// Address of the stub of a vector.
pub fn stub_va(vector: u8) -> u64 {
    address_of!(trap_stubs) + u64::from(vector) * 16
}

/// Address of the entry of `syscall`.
pub fn syscall_entry_va() -> u64 {
    symbols::syscall_entry as *const () as u64
}

/// Address of the entry of `syscall` from 32-bit code.
pub fn syscall32_entry_va() -> u64 {
    symbols::syscall32_entry as *const () as u64
}

/// True if a selector names 64-bit code in the descriptor tables that are loaded.
#[expect(unsafe_code, reason = "reads a descriptor's access rights")]
pub fn is_64_bit_code(selector: u16) -> bool {
    const CODE_LONG: u64 = 1 << 11 | 1 << 12 | 1 << 21;
    let mut rights: u64 = 0;
    // SAFETY: `lar` only reads the descriptor, and leaves its destination alone if there is none that ring 0 can see.
    unsafe {
        core::arch::asm!("lar {0}, {1}", inout(reg) rights, in(reg) u64::from(selector), options(nostack, readonly));
    }
    rights & CODE_LONG == CODE_LONG
}

/// Addresses of the image's parts: start, read-only data, data, end.
pub fn image_parts() -> [u64; 4] {
    [address_of!(image_start), address_of!(rodata_start), address_of!(data_start), address_of!(image_end)]
}

/// DS, ES, FS or GS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
#[expect(missing_docs, reason = "register names")]
pub enum SegmentRegister {
    Ds = 0,
    Es = 1,
    Fs = 2,
    Gs = 3,
}

/// Loads a guest's selector; one that faults becomes 0. Loading FS or GS clears its base.
#[expect(unsafe_code, reason = "segment registers")]
pub fn load_selector(which: SegmentRegister, selector: u16) {
    if which == SegmentRegister::Gs {
        load_gs(selector);
    } else {
        // SAFETY: the fix-ups of `trap_from_hypervisor` cover every fault that the load can have.
        unsafe { symbols::load_segment(which as u64, u64::from(selector)) };
    }
}

/// Loads a guest's selector into GS; one that faults becomes 0. The base that its descriptor has, 0 if it names none.
#[expect(unsafe_code, reason = "segment registers")]
pub fn load_gs(selector: u16) -> u64 {
    // GS carries this CPU's own block: its base is put back.
    let own = GsBase::read();
    // SAFETY: between the load and the write of the base nothing uses GS: interrupts are off, and a fault's fix-up does not either.
    unsafe { symbols::load_segment(SegmentRegister::Gs as u64, u64::from(selector)) };
    // Not every CPU clears the base for a selector that names nothing.
    let base = if GS::get_reg().0 <= 3 { 0 } else { GsBase::read().as_u64() };
    GsBase::write(own);
    base
}

/// Leaves for a guest: the frame at the top of this CPU's stack is filled by `exit_to_guest`.
#[expect(unsafe_code, reason = "moves the stack pointer")]
pub fn enter_guests(stack_top: u64) -> ! {
    let frame = stack_top - size_of::<Frame>() as u64;
    // SAFETY: nothing on the abandoned stack is needed again; `frame` is inside the CPU's stack and 16-byte aligned as a call expects.
    unsafe {
        core::arch::asm!("mov rsp, {}", "xor ebp, ebp", "jmp {}", in(reg) frame, sym symbols::return_to_guest, options(noreturn))
    }
}

#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "called by boot/traps.S")]
extern "C" fn trap_from_guest(frame: &mut Frame) {
    crate::run::entry::from_guest(frame);
}

#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "called by boot/traps.S")]
extern "C" fn exit_to_guest(frame: &mut Frame) {
    crate::run::entry::to_guest(frame);
}

#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "called by boot/traps.S")]
extern "C" fn guest_return_failed(frame: &mut Frame) {
    crate::run::entry::return_failed(frame);
}

#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "called by boot/traps.S")]
extern "C" fn trap_from_hypervisor(frame: &mut Frame) {
    let vector = frame.vector & 0xff;
    if vector == u64::from(apic::TIMER_VECTOR) {
        apic::eoi();
        return;
    }
    if vector == u64::from(apic::SPURIOUS_VECTOR) {
        return;
    }
    let loads = [
        address_of!(segment_load_ds),
        address_of!(segment_load_es),
        address_of!(segment_load_fs),
        address_of!(segment_load_gs),
    ];
    if loads.contains(&frame.rip) {
        frame.rip = address_of!(segment_load_bad);
        return;
    }
    die(frame);
}

#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "called by boot/traps.S")]
extern "C" fn trap_paranoid_entry(frame: &mut Frame) {
    if frame.vector & 0xff == 2 {
        crate::log!("traps", "NMI at {:#x}", frame.rip);
        return;
    }
    die(frame);
}

#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "called by boot/traps.S")]
extern "C" fn trap_debug_in_hypervisor() {
    crate::x86::debug::note_held_back();
}

fn die(frame: &Frame) -> ! {
    crate::log::break_lock();
    crate::x86::serial::break_lock();
    crate::log!("traps", "the hypervisor faulted: {}", Dump(frame));
    backtrace(frame.rip, frame.rbp);
    finish(Verdict::Error)
}

/// Ends the machine after a bug of the hypervisor: verdict ERROR for a test run, a stopped CPU for a debugger otherwise.
pub fn finish(verdict: Verdict) -> ! {
    // No allocation: this may be the end of a boot that has no memory yet.
    crate::log::lines(verdict.last_line().as_bytes());
    crate::log::drain();
    debug_exit::exit(verdict)
}

/// Names of the exceptions (SDM vol. 3A, table 6-1).
const NAMES: [&str; 32] = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound range",
    "#UD invalid opcode",
    "#NM device not available",
    "#DF double fault",
    "coprocessor overrun",
    "#TS invalid TSS",
    "#NP segment not present",
    "#SS stack fault",
    "#GP general protection",
    "#PF page fault",
    "reserved",
    "#MF x87 error",
    "#AC alignment check",
    "#MC machine check",
    "#XM SIMD error",
    "#VE virtualization",
    "#CP control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "#HV hypervisor injection",
    "#VC VMM communication",
    "#SX security",
    "reserved",
];

/// Prints a frame with the exception's name, a page fault's reason, and the registers.
pub struct Dump<'a>(pub &'a Frame);

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.0;
        let vector = (r.vector & 0x1ff) as usize;
        writeln!(f, "{} (vector {vector}, error {:#x})", NAMES.get(vector).unwrap_or(&"interrupt"), r.error)?;
        if vector == 14 {
            let e = r.error;
            writeln!(
                f,
                "  {} {} at {:#x}: {}{}",
                if e & 4 != 0 { "user" } else { "supervisor" },
                if e & 16 != 0 {
                    "instruction fetch"
                } else if e & 2 != 0 {
                    "write"
                } else {
                    "read"
                },
                Cr2::read_raw(),
                if e & 1 != 0 { "protection violation" } else { "not present" },
                if e & 8 != 0 { ", reserved bit set" } else { "" },
            )?;
        }
        writeln!(f, "  rip {:04x}:{:016x} rflags {:08x} rsp {:04x}:{:016x}", r.cs, r.rip, r.rflags, r.ss, r.rsp)?;
        writeln!(f, "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
        writeln!(f, "  rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8)?;
        writeln!(f, "  r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", r.r9, r.r10, r.r11, r.r12)?;
        write!(f, "  r13 {:016x} r14 {:016x} r15 {:016x} cr3 {:016x}", r.r13, r.r14, r.r15, cr3())
    }
}

fn cr3() -> u64 {
    Cr3::read_raw().0.start_address().as_u64()
}

/// Logs the return addresses of the hypervisor's own frames, from the innermost. `addr2line` on the build's debug file names them.
pub fn backtrace(rip: u64, mut rbp: u64) {
    let [start, _, _, end] = image_parts();
    crate::log!("traps", "backtrace: {rip:#x} (image starts at {start:#x})");
    for _ in 0..24 {
        if rbp < start || rbp >= end - 16 || !rbp.is_multiple_of(8) {
            break;
        }
        #[expect(unsafe_code, reason = "reads the stack")]
        // SAFETY: inside the image, whose stacks are mapped; two aligned words.
        let [next, ret] = unsafe { *(rbp as *const [u64; 2]) };
        crate::log!("traps", "  {ret:#x}");
        if next <= rbp {
            break;
        }
        rbp = next;
    }
}

/// The frame pointer of the caller, for backtraces of panics.
#[expect(unsafe_code, reason = "reads a register")]
pub fn frame_pointer() -> u64 {
    let rbp;
    // SAFETY: only reads rbp.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    rbp
}
