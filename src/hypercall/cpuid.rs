//! The hypervisor's CPUID leaves (public/arch-x86/cpuid.h), for guests that use the forced-emulation prefix.

use crate::x86::{cpu, tsc};

const BASE: u32 = 0x4000_0000;
const MAX_LEAF: u32 = BASE + 5;
/// Highest machine address width that a guest needs to count with.
const MADDR_WIDTH: u32 = 44;

/// eax, ebx, ecx, edx of a leaf: the hypervisor's own, or the CPU's.
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
            let mut regs = [r.eax, r.ebx, r.ecx, r.edx];
            hide(leaf, subleaf, &mut regs);
            regs
        }
    }
}

/// Takes away what a PV guest cannot use.
fn hide(leaf: u32, subleaf: u32, regs: &mut [u32; 4]) {
    let [_, b, c, d] = regs;
    match (leaf, subleaf) {
        (1, _) => {
            // DTES64, MONITOR, VMX, SMX, EIST, TM2, PDCM, PCID, DCA, x2APIC, TSC deadline.
            *c &= !(1 << 2
                | 1 << 3
                | 1 << 5
                | 1 << 6
                | 1 << 7
                | 1 << 8
                | 1 << 15
                | 1 << 17
                | 1 << 18
                | 1 << 21
                | 1 << 24);
            *c |= 1 << 31;
            // VME, PSE, PGE, MCE, MCA, MTRR, PSE36, DS, ACPI, TM.
            *d &= !(1 << 1 | 1 << 3 | 1 << 7 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 22 | 1 << 29);
        }
        // SMEP, INVPCID, SMAP; UMIP, PKU, OSPKE, LA57.
        (7, 0) => {
            *b &= !(1 << 7 | 1 << 10 | 1 << 20);
            *c &= !(1 << 2 | 1 << 3 | 1 << 4 | 1 << 16);
        }
        // PSE, PGE, PSE36, 1 GiB pages, RDTSCP; SVM, IBS, SKINIT.
        (0x8000_0001, _) => {
            *d &= !(1 << 3 | 1 << 13 | 1 << 17 | 1 << 26 | 1 << 27);
            *c &= !(1 << 2 | 1 << 10 | 1 << 12);
        }
        _ => {}
    }
}
