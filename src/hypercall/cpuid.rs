//! CPUID as the kernel of a PV guest sees it: the hypervisor's leaves (public/arch-x86/cpuid.h), and of the CPU's what can be used in ring 3 and crosses an update.
//!
//! A guest's programs execute `cpuid` themselves and see the CPU. A leaf that is not listed here is all zeros: a feature of a future CPU is not offered before
//! somebody has thought about its state.

use crate::run::host::host;
use crate::x86::{cpu, tsc};

const BASE: u32 = 0x4000_0000;
const MAX_LEAF: u32 = BASE + 5;
/// Highest machine address width that a guest needs to count with.
const MADDR_WIDTH: u32 = 44;

/// Highest basic leaf that says anything.
const MAX_BASIC: u32 = 0xd;
/// Highest extended leaf that says anything.
const MAX_EXTENDED: u32 = 0x8000_0008;

/// eax, ebx, ecx, edx of a leaf.
pub fn leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    match leaf {
        BASE => [MAX_LEAF, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e], // "XenVMMXenVMM"
        0x4000_0001 => [(super::version::MAJOR << 16 | super::version::MINOR) as u32, 0, 0, 0],
        // One hypercall page, its MSR, feature bit 0: PRESERVE_AD.
        0x4000_0002 => [1, BASE, 1, 0],
        0x4000_0003 => {
            let clock = tsc::clock();
            match subleaf {
                0 => [0, 0, (clock.tsc_hz / 1000) as u32, 0],
                1 => [0, 0, clock.scale.mul, clock.scale.shift as u32],
                2 => [(clock.tsc_hz / 1000) as u32, 0, 0, 0],
                _ => [0; 4],
            }
        }
        0x4000_0005 => [0, MADDR_WIDTH, 0, 0],
        0x4000_0004 => [0; 4],
        _ => {
            let r = cpu::cpuid(leaf, subleaf);
            offered(leaf, subleaf, [r.eax, r.ebx, r.ecx, r.edx])
        }
    }
}

/// What is left of the CPU's own answer.
fn offered(leaf: u32, subleaf: u32, [a, b, c, d]: [u32; 4]) -> [u32; 4] {
    match (leaf, subleaf) {
        (0, _) => [a.min(MAX_BASIC), b, c, d],
        (1, _) => {
            // As with Xen, the kernel finds OSXSAVE set before it has set it: that is how it knows that it may.
            let osxsave = if host().features.xsave { 1 << 27 } else { 0 };
            let hypervisor = 1 << 31;
            [a, b, c & LEAF_1_ECX | osxsave | hypervisor, d & LEAF_1_EDX]
        }
        (2 | 4 | 0xb | 0x8000_0002..=0x8000_0006, _) => [a, b, c, d],
        (7, 0) => [0, b & LEAF_7_EBX, c & LEAF_7_ECX, d & LEAF_7_EDX],
        (0xd, _) => xsave_leaf(subleaf, [a, b, c, d]),
        (0x8000_0000, _) => [a.min(MAX_EXTENDED), b, c, d],
        (0x8000_0001, _) => [a, b, c & LEAF_EXT_1_ECX, d & LEAF_EXT_1_EDX],
        // Address widths; CLZERO and the two that say how pointers behave.
        (0x8000_0008, _) => [a, b & (1 << 0 | 1 << 2 | 1 << 9), 0, 0],
        _ => [0; 4],
    }
}

/// State components: those that the hypervisor saves, without what needs ring 0 (XSAVES, XFD).
fn xsave_leaf(subleaf: u32, [a, b, c, d]: [u32; 4]) -> [u32; 4] {
    let features = &host().features;
    if !features.xsave {
        return [0; 4];
    }
    match subleaf {
        0 => [features.xcr0 as u32, b, features.xsave_len, (features.xcr0 >> 32) as u32],
        1 => [a & 7, b, 0, 0],
        2..64 if features.xcr0 >> subleaf & 1 != 0 => [a, b, c, d],
        _ => [0; 4],
    }
}

/// Bits by their numbers.
const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < N {
        mask |= 1 << numbers[i];
        i += 1;
    }
    mask
}

/// SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
const LEAF_1_ECX: u32 = bits([0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// FPU, DE, TSC, MSR, PAE, CX8, APIC, SEP, CMOV, PAT, CLFLUSH, MMX, FXSR, SSE, SSE2, HTT.
const LEAF_1_EDX: u32 = bits([0, 2, 4, 5, 6, 8, 9, 11, 15, 16, 19, 23, 24, 25, 26, 28]);
/// FSGSBASE, BMI1, AVX2, BMI2, ERMS, AVX512F, AVX512DQ, RDSEED, ADX, AVX512IFMA, CLFLUSHOPT, CLWB, AVX512CD, SHA, AVX512BW, AVX512VL.
const LEAF_7_EBX: u32 = bits([0, 3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31]);
/// AVX512_VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ.
const LEAF_7_ECX: u32 = bits([1, 6, 8, 9, 10, 11, 12, 14]);
/// FSRM.
const LEAF_7_EDX: u32 = bits([4]);
/// LAHF, CMP_LEGACY, CR8_LEGACY, LZCNT, SSE4A, misaligned SSE, 3DNow! prefetch.
const LEAF_EXT_1_ECX: u32 = bits([0, 1, 4, 5, 6, 7, 8]);
/// Those of leaf 1 that AMD repeats; SYSCALL, NX, MMX extensions, FXSR, long mode, 3DNow!.
const LEAF_EXT_1_EDX: u32 = bits([0, 2, 4, 5, 6, 8, 9, 11, 15, 16, 20, 22, 23, 24, 29, 30, 31]);
