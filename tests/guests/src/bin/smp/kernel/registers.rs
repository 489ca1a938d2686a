//! What a vCPU has for itself in its registers.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use luxen_guests::abi::op;
use luxen_guests::machine::cpu::MAX;
use luxen_guests::machine::hypercall;

use super::{bring_up, granted};

// smp_hold_vectors(rdi = 256 bytes for xmm0-15, rsi = where they are stored afterwards, rdx = how often to yield meanwhile,
// rcx = mxcsr to load, and where it is stored).
global_asm!(
    r#"
    .pushsection .text.smp, "ax", @progbits
    .globl smp_hold_vectors
smp_hold_vectors:
    push rbx
    push r12
    push r13
    mov rbx, rdx
    mov r12, rsi
    mov r13, rcx
    ldmxcsr [r13]
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu xmm\n, [rdi + \n * 16]
    .endr
1:  mov ecx, 3000
2:  dec ecx
    jnz 2b
    mov eax, 29
    xor edi, edi
    xor esi, esi
    syscall
    dec rbx
    jnz 1b
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu [r12 + \n * 16], xmm\n
    .endr
    stmxcsr [r13]
    pop r13
    pop r12
    pop rbx
    ret
    .popsection
    "#
);

unsafe extern "C" {
    fn smp_hold_vectors(given: *const [u64; 32], found: *mut [u64; 32], yields: u64, mxcsr: *mut u32);
}

/// What gs:0 and fs:0 read on each vCPU.
static GS_WORDS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static FS_WORDS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];

/// Bases of fs and gs for a vCPU.
pub fn bases(vcpu: usize) -> [u64; 2] {
    FS_WORDS[vcpu].store(0xf5 << 32 | vcpu as u64, Ordering::Relaxed);
    GS_WORDS[vcpu].store(0x65 << 32 | vcpu as u64, Ordering::Relaxed);
    [&FS_WORDS[vcpu], &GS_WORDS[vcpu]].map(|word| core::ptr::from_ref(word) as u64)
}

/// Sets the bases of vCPU 0, which was not given any.
pub fn set_own_bases() {
    let [fs, gs] = bases(0);
    granted(hypercall::set_segment_base(op::SEGBASE_FS, fs), "fs base");
    granted(hypercall::set_segment_base(op::SEGBASE_GS_KERNEL, gs), "gs base");
}

/// Segment bases and selectors are those that the vCPU was given.
pub fn check_identity(me: usize) {
    let (fs, gs): (u64, u64);
    // SAFETY: the base of fs is the address of a word (see `bases`); if it is not, this is what the guest is here to find.
    unsafe { asm!("mov {}, fs:[0]", out(reg) fs, options(nostack, readonly, preserves_flags)) };
    // SAFETY: likewise gs.
    unsafe { asm!("mov {}, gs:[0]", out(reg) gs, options(nostack, readonly, preserves_flags)) };
    assert!(fs == 0xf5 << 32 | me as u64, "vCPU {me}: fs:0 is {fs:#x}");
    assert!(gs == 0x65 << 32 | me as u64, "vCPU {me}: gs:0 is {gs:#x}");
    if me != 0 {
        let (ds, limit): (u16, u32);
        // SAFETY: reads a selector.
        unsafe { asm!("mov {0:x}, ds", out(reg) ds, options(nostack, nomem, preserves_flags)) };
        // SAFETY: reads a limit; a selector that cannot be looked at leaves the register alone.
        unsafe { asm!("lsl {0:e}, {1:e}", inout(reg) 0u32 => limit, in(reg) u32::from(ds), options(nostack, nomem)) };
        let expected = bring_up::data_limit(me);
        assert!(ds == bring_up::DATA_SELECTOR, "vCPU {me}: ds is {ds:#x}");
        assert!(limit == expected, "vCPU {me}: ds has limit {limit:#x}, not {expected:#x}: another one's descriptors");
    }
}

/// Holds values of its own in all vector registers while others run.
pub fn hold(me: usize, round: u64) {
    let given: [u64; 32] =
        core::array::from_fn(|i| (round << 16 | (me as u64) << 8 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut found = [0u64; 32];
    // All exceptions masked, the rounding mode differs.
    let expected = 0x1f80 | (me as u32 & 3) << 13;
    let mut mxcsr = expected;
    // SAFETY: keeps to the C calling convention but for vector registers, which this soft-float guest does not use otherwise; the pointers lead to objects
    // that live on.
    unsafe { smp_hold_vectors(&given, &mut found, 3, &mut mxcsr) };
    for (i, (given, found)) in given.iter().zip(&found).enumerate() {
        assert!(given == found, "vCPU {me}: half {i} of the vector registers is {found:#x}, not {given:#x}");
    }
    assert!(mxcsr == expected, "vCPU {me}: mxcsr is {mxcsr:#x}, not {expected:#x}");
}
