//! FPU, SSE and AVX state of guests. The hypervisor itself never touches it (soft float).

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;

/// Bytes of the legacy area, which is also the whole of an FXSAVE image.
pub const LEGACY_LEN: usize = 512;

/// A save area, aligned to 64 bytes, large enough for every component of XCR0.
pub struct FpuArea {
    at: NonNull<u8>,
    len: usize,
    xcr0: u64,
}

#[expect(unsafe_code, reason = "owned memory")]
// SAFETY: the area is owned and only reached through `&mut` or `&`.
unsafe impl Send for FpuArea {}
#[expect(unsafe_code, reason = "owned memory")]
// SAFETY: as above.
unsafe impl Sync for FpuArea {}

#[expect(unsafe_code, reason = "allocates aligned memory and runs FPU instructions on it")]
impl FpuArea {
    /// An area in the state after reset (x87 control word 0x37f, MXCSR 0x1f80); `None` without memory. `xcr0` is 0 if the CPU has no XSAVE.
    pub fn try_new(len: usize, xcr0: u64) -> Option<Self> {
        let len = len.max(LEGACY_LEN + 64);
        let layout = Layout::from_size_align(len, 64).ok()?;
        // SAFETY: the layout has a size.
        let at = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let mut area = Self { at, len, xcr0 };
        let bytes = area.bytes_mut();
        bytes[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        // XSTATE_BV: x87 and SSE are as written above.
        bytes[512..520].copy_from_slice(&3u64.to_le_bytes());
        Some(area)
    }

    /// The bytes, in the standard format of XSAVE.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: owned, initialised, `len` long.
        unsafe { core::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// The bytes, to be restored from another build.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }

    /// State components in the area; 0 if only the legacy area is.
    pub fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Stores the CPU's state.
    pub fn save(&mut self) {
        let (lo, hi) = (self.xcr0 as u32, (self.xcr0 >> 32) as u32);
        // What the guest has switched off has a state too.
        set_xcr0(self.xcr0);
        if self.xcr0 == 0 {
            // SAFETY: 512 bytes, aligned.
            unsafe { core::arch::asm!("fxsave64 [{}]", in(reg) self.at.as_ptr(), options(nostack)) }
        } else {
            // SAFETY: aligned to 64, and as long as CPUID said for this XCR0.
            unsafe {
                core::arch::asm!("xsave64 [{}]", in(reg) self.at.as_ptr(), in("eax") lo, in("edx") hi, options(nostack))
            }
        }
    }

    /// Loads the CPU's state. Bits that would fault are cleared first: the area may come from a guest or another build.
    pub fn load(&mut self) {
        let xcr0 = self.xcr0;
        set_xcr0(xcr0);
        let bytes = self.bytes_mut();
        // MXCSR bits 31:16 are reserved and fault.
        bytes[26..28].fill(0);
        if xcr0 == 0 {
            // SAFETY: 512 bytes, aligned, MXCSR sane.
            unsafe { core::arch::asm!("fxrstor64 [{}]", in(reg) self.at.as_ptr(), options(nostack)) }
        } else {
            let mut bv = [0; 8];
            bv.copy_from_slice(&bytes[512..520]);
            let bv = u64::from_le_bytes(bv) & xcr0;
            bytes[512..520].copy_from_slice(&bv.to_le_bytes());
            // XCOMP_BV and the reserved part of the header: standard format.
            bytes[520..576].fill(0);
            let (lo, hi) = (xcr0 as u32, (xcr0 >> 32) as u32);
            // SAFETY: aligned to 64, long enough, header sane.
            unsafe {
                core::arch::asm!("xrstor64 [{}]", in(reg) self.at.as_ptr(), in("eax") lo, in("edx") hi, options(nostack))
            }
        }
    }
}

impl Drop for FpuArea {
    #[expect(unsafe_code, reason = "frees aligned memory")]
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.len, 64) {
            // SAFETY: allocated in `try_new` with this layout.
            unsafe { dealloc(self.at.as_ptr(), layout) }
        }
    }
}

/// Sets XCR0, the state components that may be used; nothing on a CPU without XSAVE, where it is 0.
#[expect(unsafe_code, reason = "extended control register")]
pub fn set_xcr0(xcr0: u64) {
    use x86_64::registers::xcontrol::{XCr0, XCr0Flags};
    if xcr0 != 0 && XCr0::read_raw() != xcr0 {
        // SAFETY: the caller's value is that of `Features` or one that `cpu::is_valid_xcr0` found good.
        unsafe { XCr0::write(XCr0Flags::from_bits_truncate(xcr0)) };
    }
}

/// Sets CR0.TS, so that the next FPU instruction faults, or clears it.
#[expect(unsafe_code, reason = "control register")]
pub fn set_ts(ts: bool) {
    use x86_64::registers::control::{Cr0, Cr0Flags};
    let cr0 = Cr0::read();
    if cr0.contains(Cr0Flags::TASK_SWITCHED) != ts {
        // SAFETY: only TS changes.
        unsafe { Cr0::write(cr0 ^ Cr0Flags::TASK_SWITCHED) };
    }
}
