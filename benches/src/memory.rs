//! Memory in large pages, as the hypervisor's direct map has them: for tables, page records, page tables and streams.

use luxen::frame::{Maddr, Mfn, PAGE_SIZE};
use luxen::mm::frametable::{ChunkEntry, Split};
use luxen::mm::physmem::PhysMem;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ptr::NonNull;

/// Types of which zeros are a value, and whose values may be forgotten.
///
/// # Safety
/// Just that.
#[expect(unsafe_code, reason = "implementers vouch for zeros")]
pub unsafe trait ZeroValid {}

#[expect(unsafe_code, reason = "zeros are valid")]
// SAFETY: an entry of zeros is `ChunkEntry::new`.
unsafe impl ZeroValid for ChunkEntry {}
#[expect(unsafe_code, reason = "zeros are valid")]
// SAFETY: records of zeros are `Split::new`.
unsafe impl ZeroValid for Split {}
#[expect(unsafe_code, reason = "zeros are valid")]
// SAFETY: a number.
unsafe impl ZeroValid for u64 {}

const LARGE_PAGE: usize = 2 << 20;

/// A stretch of memory, all of it there.
pub struct Huge {
    start: NonNull<u8>,
    len: usize,
    mapped: (*mut core::ffi::c_void, usize),
}

impl Huge {
    /// At least `len_bytes` of zeros, in large pages if the machine gives any.
    ///
    /// # Panics
    /// If there is no such memory.
    #[expect(unsafe_code, reason = "maps memory")]
    pub fn new(len_bytes: usize) -> Self {
        let len = len_bytes.next_multiple_of(LARGE_PAGE).max(LARGE_PAGE);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at a place of the system's choice.
        let mapped = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len + LARGE_PAGE, access, flags) };
        let mapped = mapped.unwrap_or_else(|e| panic!("no {len} bytes of memory: {e}"));
        let at = mapped.cast::<u8>();
        // SAFETY: the result is inside the mapping, which is longer by a large page.
        let start = unsafe { at.add(at.align_offset(LARGE_PAGE)) };
        // SAFETY: the advice concerns pages of that mapping, and changes nothing in them. Without it pages are small: that is all.
        let _ = unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxHugepage) };
        let start = NonNull::new(start).expect("a mapping is not at address 0");
        let mut huge = Self { start, len, mapped: (mapped, len + LARGE_PAGE) };
        huge.clear(len);
        huge
    }

    /// Bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes zeros over the first `len_bytes`.
    #[expect(unsafe_code, reason = "writes memory")]
    pub fn clear(&mut self, len_bytes: usize) {
        assert!(len_bytes <= self.len, "only what is there can be cleared");
        // SAFETY: inside the mapping, which is borrowed for writing.
        unsafe { self.start.as_ptr().write_bytes(0, len_bytes) }
    }

    /// `n` values of zeros, from the start on.
    #[expect(unsafe_code, reason = "bytes become objects")]
    pub fn fresh<T: ZeroValid>(&mut self, n: usize) -> &mut [T] {
        self.clear(n * size_of::<T>());
        // SAFETY: `clear` found the bytes to be there and made them zeros, which are a value of the type; a large page is aligned for any; the
        // result borrows the mapping.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), n) }
    }

    /// `n` values at `offset`, as long-lived as those in the hypervisor.
    ///
    /// # Safety
    /// Nobody has these bytes as another type, clears them, or drops the memory, while the slice is in use. The bytes are a value of the type: what `fresh` or
    /// `clear` left, or what the same type left.
    #[expect(unsafe_code, reason = "the caller vouches for the memory")]
    pub unsafe fn slice<T: ZeroValid>(&self, offset: usize, n: usize) -> &'static [T] {
        assert!(offset.is_multiple_of(align_of::<T>()), "the slice is aligned");
        assert!(offset + n * size_of::<T>() <= self.len, "the slice is in the memory");
        // SAFETY: the offset was found to be inside.
        let at = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: inside the mapping and aligned; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(at.cast(), n) }
    }

    /// Where the byte at `offset` is.
    #[inline(always)]
    fn place(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "only what is there is used");
        self.start.as_ptr().wrapping_add(offset)
    }
}

impl Drop for Huge {
    #[expect(unsafe_code, reason = "unmaps memory")]
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own; slices that outlive it are their makers' promise not to be used.
        let _ = unsafe { rustix::mm::munmap(self.mapped.0, self.mapped.1) };
    }
}

/// Machine memory that really is there: the frames from a first one on. As cheap as the direct map.
pub struct Backing {
    memory: Huge,
    first_byte: u64,
}

impl Backing {
    /// `nr_frames` frames of zeros from the frame number `first` on.
    pub fn new(first: u64, nr_frames: u64) -> Self {
        Self { memory: Huge::new((nr_frames * PAGE_SIZE) as usize), first_byte: first * PAGE_SIZE }
    }

    #[inline(always)]
    fn place(&self, at: Maddr, len: usize) -> *mut u8 {
        self.memory.place(at.get().wrapping_sub(self.first_byte) as usize, len)
    }
}

#[expect(unsafe_code, reason = "reads and writes memory")]
impl PhysMem for Backing {
    #[inline(always)]
    fn read_u64(&self, at: Maddr) -> u64 {
        assert!(at.get().is_multiple_of(8), "unaligned 8-byte access");
        // SAFETY: `place` has found eight bytes, which are aligned.
        unsafe { self.place(at, 8).cast::<u64>().read_volatile() }
    }

    #[inline(always)]
    fn write_u64(&self, at: Maddr, value: u64) {
        assert!(at.get().is_multiple_of(8), "unaligned 8-byte access");
        // SAFETY: as for `read_u64`.
        unsafe { self.place(at, 8).cast::<u64>().write_volatile(value) }
    }

    fn compare_exchange_u64(&self, at: Maddr, old: u64, new: u64) -> Result<(), u64> {
        // One thread measures.
        match self.read_u64(at) {
            found if found == old => {
                self.write_u64(at, new);
                Ok(())
            }
            found => Err(found),
        }
    }

    #[inline(always)]
    fn read(&self, at: Maddr, into: &mut [u8]) {
        // SAFETY: `place` has found as many bytes; `into` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(self.place(at, into.len()), into.as_mut_ptr(), into.len()) }
    }

    #[inline(always)]
    fn write(&self, at: Maddr, from: &[u8]) {
        // SAFETY: as for `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.place(at, from.len()), from.len()) }
    }

    #[inline(always)]
    unsafe fn show(&self, mfn: Mfn) -> Option<&[u8; PAGE_SIZE as usize]> {
        // SAFETY: `place` has found a frame; that nothing writes there is the caller's promise.
        Some(unsafe { &*self.place(mfn.maddr(), PAGE_SIZE as usize).cast() })
    }

    fn zero(&self, at: Maddr, len_bytes: u64) {
        // SAFETY: as for `read`.
        unsafe { self.place(at, len_bytes as usize).write_bytes(0, len_bytes as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_reads_what_was_written_where_it_was_written() {
        let memory = Backing::new(100, 2);
        let at = Mfn::new(101).maddr();
        memory.write_u64(at, 0x1122_3344_5566_7788);
        assert_eq!(memory.read_u64(at), 0x1122_3344_5566_7788);
        assert_eq!(memory.read_u64(Mfn::new(100).maddr()), 0);
        assert_eq!(memory.compare_exchange_u64(at, 1, 2), Err(0x1122_3344_5566_7788));
        let mut bytes = [0; 3];
        memory.read(at.offset(6), &mut bytes);
        assert_eq!(bytes, [0x22, 0x11, 0]);
        memory.write(at.offset(7), &[9, 9]);
        memory.zero(at.offset(8), 8);
        assert_eq!(memory.read_u64(at) >> 56, 9);
        assert_eq!(memory.read_u64(at.offset(8)), 0);
    }

    #[test]
    #[should_panic(expected = "only what is there")]
    fn backing_has_an_end() {
        Backing::new(100, 512).read_u64(Mfn::new(99).maddr());
    }

    #[test]
    fn cleared_memory_is_zero() {
        let mut memory = Huge::new(4096);
        memory.fresh::<u64>(100).fill(7);
        assert!(memory.fresh::<u64>(100).iter().all(|&word| word == 0));
        assert_eq!(memory.len(), LARGE_PAGE);
    }
}
