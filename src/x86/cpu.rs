//! CPU features and control registers.

use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

/// What this CPU can do, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Features {
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
        gib_pages: ext & (1 << 26) != 0,
        xsave,
        xcr0,
        xsave_len: 0,
        x2apic: one.ecx & (1 << 21) != 0,
        fsgsbase: seven & 1 != 0,
        smep: seven & (1 << 7) != 0,
    }
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
    if features.xsave {
        // SAFETY: `xcr0` holds only components that the CPU offers, with their dependencies.
        unsafe { XCr0::write(XCr0Flags::from_bits_truncate(features.xcr0)) };
        features.xsave_len = cpuid(0xd, 0).ebx;
    } else {
        features.xsave_len = 512;
    }
    features
}
