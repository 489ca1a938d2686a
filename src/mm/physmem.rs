//! The one seam through which pure code reads and writes machine memory.
//!
//! On the machine it is the direct map; in tests a sparse store that reads zero where nothing was written. All
//! callers have established by other means (frametable, memory map, plan) that what they touch is RAM that they may touch.

use crate::frame::{Maddr, Mfn, PAGE_SIZE};
use core::sync::atomic::AtomicU64;

/// Words of eight bytes in a frame.
pub const FRAME_WORDS: usize = PAGE_SIZE as usize / 8;

/// Access to machine memory by machine address.
pub trait PhysMem {
    /// Reads the eight bytes at `at`, which is a multiple of 8, in one access.
    fn read_u64(&self, at: Maddr) -> u64;
    /// Writes the eight bytes at `at`, which is a multiple of 8, in one access.
    fn write_u64(&self, at: Maddr, value: u64);
    /// Replaces `old` by `new` at `at` (a multiple of 8) atomically; the value found if it was not `old`.
    fn compare_exchange_u64(&self, at: Maddr, old: u64, new: u64) -> Result<(), u64>;
    /// Reads bytes; they may cross frames.
    fn read(&self, at: Maddr, into: &mut [u8]);
    /// Writes bytes; they may cross frames.
    fn write(&self, at: Maddr, from: &[u8]);
    /// Writes `len_bytes` zeros; they may cross frames.
    fn zero(&self, at: Maddr, len_bytes: u64);

    /// A frame's bytes where they lie, if this memory can show them: a copy less.
    ///
    /// # Safety
    /// Nothing writes to the frame as long as they are borrowed.
    #[expect(unsafe_code, reason = "the caller vouches for the frame")]
    unsafe fn show(&self, _mfn: Mfn) -> Option<&[u8; PAGE_SIZE as usize]> {
        None
    }

    /// Calls `look` with a frame's words, to be read one by one: where they lie if this memory can show them, otherwise a copy.
    fn with_words<T>(&self, mfn: Mfn, look: impl FnOnce(&[AtomicU64; FRAME_WORDS]) -> T) -> T
    where
        Self: Sized,
    {
        look(&core::array::from_fn(|i| AtomicU64::new(self.read_u64(mfn.maddr().offset(i as u64 * 8)))))
    }

    /// Copies a whole frame.
    fn copy_frame(&self, from: Mfn, to: Mfn) {
        let mut buf = [0u8; 512];
        let mut off = 0;
        while off < PAGE_SIZE {
            self.read(from.maddr().offset(off), &mut buf);
            self.write(to.maddr().offset(off), &buf);
            off += buf.len() as u64;
        }
    }
}

/// Machine memory for host tests: what was never written reads as zero.
#[cfg(any(test, not(target_os = "none")))]
pub mod sparse {
    use super::*;
    use alloc::boxed::Box;
    use alloc::collections::BTreeMap;
    use core::cell::RefCell;

    type Frame = Box<[u8; PAGE_SIZE as usize]>;

    /// A sparse store of frames.
    #[derive(Default)]
    pub struct SparseMem {
        frames: RefCell<BTreeMap<u64, Frame>>,
    }

    impl SparseMem {
        /// An empty store.
        pub fn new() -> Self {
            Self::default()
        }

        /// Frames that were ever written.
        pub fn nr_written(&self) -> usize {
            self.frames.borrow().len()
        }

        /// Numbers of the frames that were ever written, ascending.
        pub fn written(&self) -> alloc::vec::Vec<u64> {
            self.frames.borrow().keys().copied().collect()
        }

        fn each(&self, at: Maddr, len: usize, mut f: impl FnMut(u64, usize, core::ops::Range<usize>)) {
            let mut done = 0;
            while done < len {
                let addr = at.get() + done as u64;
                let off = (addr % PAGE_SIZE) as usize;
                let n = (PAGE_SIZE as usize - off).min(len - done);
                f(addr / PAGE_SIZE, off, done..done + n);
                done += n;
            }
        }
    }

    impl PhysMem for SparseMem {
        fn read_u64(&self, at: Maddr) -> u64 {
            assert_eq!(at.get() % 8, 0, "unaligned 8-byte access");
            let mut b = [0; 8];
            self.read(at, &mut b);
            u64::from_le_bytes(b)
        }

        fn write_u64(&self, at: Maddr, value: u64) {
            assert_eq!(at.get() % 8, 0, "unaligned 8-byte access");
            self.write(at, &value.to_le_bytes());
        }

        fn compare_exchange_u64(&self, at: Maddr, old: u64, new: u64) -> Result<(), u64> {
            let found = self.read_u64(at);
            if found != old {
                return Err(found);
            }
            self.write_u64(at, new);
            Ok(())
        }

        fn read(&self, at: Maddr, into: &mut [u8]) {
            let frames = self.frames.borrow();
            self.each(at, into.len(), |frame, off, part| match frames.get(&frame) {
                Some(bytes) => {
                    let n = part.len();
                    into[part].copy_from_slice(&bytes[off..off + n]);
                }
                None => into[part].fill(0),
            });
        }

        fn write(&self, at: Maddr, from: &[u8]) {
            let mut frames = self.frames.borrow_mut();
            self.each(at, from.len(), |frame, off, part| {
                let bytes = frames.entry(frame).or_insert_with(|| Box::new([0; PAGE_SIZE as usize]));
                let n = part.len();
                bytes[off..off + n].copy_from_slice(&from[part]);
            });
        }

        fn zero(&self, at: Maddr, len_bytes: u64) {
            let mut done = 0;
            while done < len_bytes {
                let n = (len_bytes - done).min(PAGE_SIZE);
                self.write(at.offset(done), &[0; PAGE_SIZE as usize][..n as usize]);
                done += n;
            }
        }
    }
}
