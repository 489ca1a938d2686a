//! Model-specific registers as a PV guest sees them (XEN.md §5.4). What is not here does not exist for it: #GP.

use crate::run::vcpu::VcpuState;
use crate::x86::cpu;
use crate::x86::tsc;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{Efer, FsBase, KernelGsBase};

const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const MICROCODE: u32 = 0x8b;
const MISC_ENABLE: u32 = 0x1a0;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const AMD_HWCR: u32 = 0xc001_0015;
const AMD_DE_CFG: u32 = 0xc001_1029;

/// The TSC counts at the frequency of P0, whatever the CPU does.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// LFENCE waits for everything before it.
const DE_CFG_LFENCE_SERIALISE: u64 = 1 << 1;
/// EFER bits that say nothing to a guest: SVME, LMSLE.
const EFER_HIDDEN: u64 = 1 << 12 | 1 << 13;

/// Reads a register; `None` for one that the guest does not have.
pub fn read(v: &VcpuState, msr: u32) -> Option<u64> {
    Some(match msr {
        TSC => tsc::rdtsc(),
        // There is no APIC to use: what Linux reads is the address of one that is off.
        APIC_BASE => 0xfee0_0000,
        MICROCODE | MISC_ENABLE => 0,
        PAT => cpu::PAT,
        EFER => Efer::read().bits() & !EFER_HIDDEN,
        FS_BASE => FsBase::read().as_u64(),
        GS_BASE => KernelGsBase::read().as_u64(),
        // The base that `swapgs` would bring: the other mode's.
        KERNEL_GS_BASE => v.gs_base_user,
        AMD_HWCR if cpu::is_amd() => HWCR_TSC_FREQ_SEL,
        AMD_DE_CFG if cpu::is_amd() => DE_CFG_LFENCE_SERIALISE,
        _ => return None,
    })
}

/// Writes a register; false for one that the guest does not have, or a value that it must not have.
pub fn write(v: &mut VcpuState, msr: u32, value: u64) -> bool {
    let base = VirtAddr::try_new(value);
    match msr {
        FS_BASE => base.map(FsBase::write).is_ok(),
        GS_BASE => base.map(KernelGsBase::write).is_ok(),
        KERNEL_GS_BASE => base.map(|base| v.gs_base_user = base.as_u64()).is_ok(),
        EFER => value == Efer::read().bits() & !EFER_HIDDEN,
        // Where Linux only makes sure of what is so anyway.
        PAT => value == cpu::PAT,
        MICROCODE | MISC_ENABLE => value == 0,
        AMD_DE_CFG if cpu::is_amd() => value == DE_CFG_LFENCE_SERIALISE,
        AMD_HWCR if cpu::is_amd() => value == HWCR_TSC_FREQ_SEL,
        _ => false,
    }
}
