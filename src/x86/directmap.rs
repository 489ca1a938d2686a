//! The direct map: all RAM at one place of the hypervisor's address space, and [`PhysMem`] over it.
//!
//! Until the stage `paging` has run only `[0, 4 GiB)` is mapped (boot/head.S); afterwards all RAM is.

use crate::frame::{CHUNK_SIZE, Maddr, Mfn, PAGE_SIZE};
use crate::mm::physmem::{FRAME_WORDS, PhysMem};
use core::sync::atomic::{AtomicU64, Ordering};

/// Address of machine address 0 in the direct map (L4 slots 262 to 271).
pub const DIRECTMAP_VA: u64 = 0xffff_8300_0000_0000;
/// First machine address that the direct map cannot reach.
pub const DIRECTMAP_LEN: u64 = 10 << 39;

/// Pointer to a machine address. Making it is harmless; using it is the caller's responsibility.
pub fn ptr<T>(at: Maddr) -> *mut T {
    assert!(at.get() < DIRECTMAP_LEN, "machine address beyond the direct map");
    (DIRECTMAP_VA + at.get()) as *mut T
}

/// The machine address behind a pointer into the direct map.
pub fn maddr_of<T>(p: *const T) -> Maddr {
    Maddr::new((p as u64) - DIRECTMAP_VA)
}

/// Machine memory through the direct map.
///
/// The methods are safe to call because of what [`PhysMem`] asks of its callers: they touch only RAM that the frametable, the memory map or the
/// plan gives them, never memory that Rust references point to.
#[derive(Clone, Copy)]
pub struct DirectMap;

#[expect(unsafe_code, reason = "machine memory is reached through pointers")]
impl PhysMem for DirectMap {
    fn read_u64(&self, at: Maddr) -> u64 {
        assert!(at.get().is_multiple_of(8), "unaligned 8-byte access");
        // SAFETY: mapped, aligned, and the callers' by the contract of `PhysMem`; volatile because guests write there too.
        unsafe { ptr::<u64>(at).read_volatile() }
    }

    fn write_u64(&self, at: Maddr, value: u64) {
        assert!(at.get().is_multiple_of(8), "unaligned 8-byte access");
        // SAFETY: as for `read_u64`.
        unsafe { ptr::<u64>(at).write_volatile(value) }
    }

    fn compare_exchange_u64(&self, at: Maddr, old: u64, new: u64) -> Result<(), u64> {
        assert!(at.get().is_multiple_of(8), "unaligned 8-byte access");
        // SAFETY: as for `read_u64`; the place is only ever accessed atomically or volatile.
        let place = unsafe { AtomicU64::from_ptr(ptr(at)) };
        place.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    fn read(&self, at: Maddr, into: &mut [u8]) {
        // SAFETY: mapped and the callers' by the contract of `PhysMem`; `into` is not in the direct map's guest memory.
        unsafe { core::ptr::copy_nonoverlapping(ptr::<u8>(at), into.as_mut_ptr(), into.len()) }
    }

    fn write(&self, at: Maddr, from: &[u8]) {
        // SAFETY: as for `read`.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), ptr::<u8>(at), from.len()) }
    }

    fn zero(&self, at: Maddr, len_bytes: u64) {
        // SAFETY: as for `read`.
        unsafe { core::ptr::write_bytes(ptr::<u8>(at), 0, len_bytes as usize) }
    }

    unsafe fn show(&self, mfn: Mfn) -> Option<&[u8; PAGE_SIZE as usize]> {
        // SAFETY: mapped and the callers' by the contract of `PhysMem`; that nothing writes there is the caller's promise.
        Some(unsafe { &*ptr(mfn.maddr()) })
    }

    fn with_words<T>(&self, mfn: Mfn, look: impl FnOnce(&[AtomicU64; FRAME_WORDS]) -> T) -> T {
        // SAFETY: as for `read_u64`; whoever writes there meanwhile, a word at a time, is allowed to by the type.
        look(unsafe { &*ptr(mfn.maddr()) })
    }

    fn copy_frame(&self, from: Mfn, to: Mfn) {
        if from == to {
            return;
        }
        // SAFETY: as for `read`; two different frames do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(ptr::<u8>(from.maddr()), ptr::<u8>(to.maddr()), PAGE_SIZE as usize) }
    }
}

/// Memory as a slice for ever: boot memory that is never given back, and module contents.
///
/// # Safety
/// `[at, at + len)` elements are mapped, initialised, aligned for `T`, and nobody else has them or will.
#[expect(unsafe_code, reason = "the caller vouches for the memory")]
pub unsafe fn slice_mut<T>(at: Maddr, len: usize) -> &'static mut [T] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(ptr(at), len) }
}

/// Bytes of memory that nobody writes while the slice lives.
///
/// # Safety
/// As said, and mapped.
#[expect(unsafe_code, reason = "the caller vouches for the memory")]
pub unsafe fn bytes(at: Maddr, len_bytes: u64) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(ptr(at), len_bytes as usize) }
}

const _: () = assert!(DIRECTMAP_VA.is_multiple_of(CHUNK_SIZE));
