//! CPU features and control registers.

use crate::kexec::image::MachineFeatures;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

/// What this CPU can do, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// No-execute pages.
    pub nx: bool,
    /// Pages of 1 GiB.
    pub gib_pages: bool,
    /// XSAVE and friends.
    pub xsave: bool,
    /// State components that XCR0 can enable.
    pub xcr0: u64,
    /// Bytes of an XSAVE area with those components.
    pub xsave_len: u32,
    /// x2APIC mode.
    pub x2apic: bool,
    /// FS and GS base instructions.
    pub fsgsbase: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
}

/// State components that guests may use: x87, SSE, AVX, AVX-512 (SDM vol. 1 §13.1).
const XCR0_WANTED: u64 = 0xe7;

/// CR4.TSD: `rdtsc` in ring 3 faults.
pub const CR4_TSD: u64 = 1 << 2;
/// CR4.DE: debugging extensions.
const CR4_DE: u64 = 1 << 3;
/// CR4.FSGSBASE.
const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4 bits that are always set for a guest: PAE, MCE is not offered; OSFXSR, OSXMMEXCPT.
const CR4_GUEST_ALWAYS: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// What the hypervisor's own CR4 takes over from a guest's.
const CR4_FROM_GUEST: u64 = CR4_TSD | CR4_DE;
/// The page attribute table: MSR number, and Xen's choice for host and guests: WB, WT, UC-, UC, WC, WP, UC, UC.
const PAT_MSR: u32 = 0x277;
/// As Xen sets it up (public/xen.h documents the order to guests).
pub const PAT: u64 = 0x0000_0501_0007_0406;

/// Runs CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> core::arch::x86_64::CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}

/// Asks the CPU what it can do.
pub fn features() -> Features {
    let max = cpuid(0, 0).eax;
    let one = cpuid(1, 0);
    let seven = if max >= 7 { cpuid(7, 0).ebx } else { 0 };
    let max_ext = cpuid(0x8000_0000, 0).eax;
    let ext = if max_ext >= 0x8000_0001 { cpuid(0x8000_0001, 0).edx } else { 0 };
    let xsave = one.ecx & (1 << 26) != 0 && max >= 0xd;
    let xcr0 = if xsave {
        let d = cpuid(0xd, 0);
        let offered = (u64::from(d.edx) << 32 | u64::from(d.eax)) & XCR0_WANTED;
        // AVX-512 needs all three of its components.
        if offered & 0xe0 == 0xe0 { offered } else { offered & !0xe0 }
    } else {
        3
    };
    Features {
        nx: ext & (1 << 20) != 0,
        gib_pages: ext & (1 << 26) != 0,
        xsave,
        xcr0,
        xsave_len: 0,
        x2apic: one.ecx & (1 << 21) != 0,
        fsgsbase: seven & 1 != 0,
        smep: seven & (1 << 7) != 0,
    }
}

impl Features {
    /// The same, as a next build asks for it.
    pub fn offered(&self) -> MachineFeatures {
        let mut offered = MachineFeatures::empty();
        offered.set(MachineFeatures::NX, self.nx);
        offered.set(MachineFeatures::GIB_PAGES, self.gib_pages);
        offered.set(MachineFeatures::XSAVE, self.xsave);
        offered.set(MachineFeatures::FSGSBASE, self.fsgsbase);
        offered.set(MachineFeatures::SMEP, self.smep);
        offered.set(MachineFeatures::X2APIC, self.x2apic);
        offered
    }
}

/// True on AMD's CPUs and their relatives.
pub fn is_amd() -> bool {
    let vendor = cpuid(0, 0);
    // "AuthenticAMD" or "HygonGenuine".
    matches!(
        (vendor.ebx, vendor.edx, vendor.ecx),
        (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975)
    )
}

/// The CR4 that a guest has after it asked for `wanted`: what it cannot have is left out, as in Xen.
pub fn guest_cr4(features: &Features, wanted: u64) -> u64 {
    let mut offered = CR4_FROM_GUEST;
    if features.fsgsbase {
        offered |= CR4_FSGSBASE;
    }
    if features.xsave {
        offered |= CR4_OSXSAVE;
    }
    wanted & offered | CR4_GUEST_ALWAYS
}

/// Makes those bits of a guest's CR4 effective that have an effect in ring 3.
#[expect(unsafe_code, reason = "control register")]
pub fn load_guest_cr4(guest: u64) {
    let now = Cr4::read_raw();
    let wanted = now & !CR4_FROM_GUEST | guest & CR4_FROM_GUEST;
    if wanted != now {
        // SAFETY: `rdtsc` in ring 0 never faults, and nothing here uses DR4 or DR5.
        unsafe { Cr4::write_raw(wanted) };
    }
}

/// True if a guest may set XCR0 so: components that are offered, with those that they depend on (SDM vol. 1 §13.3).
pub fn is_valid_xcr0(features: &Features, value: u64) -> bool {
    let has = |bits: u64| value & bits == bits;
    let avx512 = value & 0xe0;
    features.xsave
        && value & !features.xcr0 == 0
        && has(1)
        && (value & 4 == 0 || has(2))
        && (avx512 == 0 || (avx512 == 0xe0 && has(4)))
}

/// Brings the control registers into the state that the hypervisor and its guests run in; completes `features`.
#[expect(unsafe_code, reason = "control registers")]
pub fn init(mut features: Features) -> Features {
    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    if features.xsave {
        cr4 |= Cr4Flags::OSXSAVE;
    }
    if features.smep {
        cr4 |= Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION;
    }
    if features.fsgsbase {
        cr4 |= Cr4Flags::FSGSBASE;
    }
    // SAFETY: PAE stays; no page that the hypervisor executes is a user page; the rest enables state that is saved with each vCPU.
    unsafe { Cr4::write(cr4) };
    let cr0 = Cr0Flags::PROTECTED_MODE_ENABLE
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::ALIGNMENT_MASK
        | Cr0Flags::PAGING;
    // SAFETY: paging stays on; caches on.
    unsafe { Cr0::write(cr0) };
    let mut pat = x86_64::registers::model_specific::Msr::new(PAT_MSR);
    // SAFETY: entries 0 to 3, which are all that the hypervisor's tables use, keep the meaning that they have after reset.
    unsafe { pat.write(PAT) };
    if features.xsave {
        // SAFETY: `xcr0` holds only components that the CPU offers, with their dependencies.
        unsafe { XCr0::write(XCr0Flags::from_bits_truncate(features.xcr0)) };
        features.xsave_len = cpuid(0xd, 0).ebx;
    } else {
        features.xsave_len = 512;
    }
    features
}
