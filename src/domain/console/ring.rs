//! The ring in the guest's memory (public/io/console.h).
//!
//! Its indices are the guest's to write, both of each pair, so they are taken modulo the ring's size and never trusted further than that: a guest that
//! writes nonsense gets a ring's worth of its own memory printed, or nothing typed.

use crate::frame::{Maddr, Mfn};
use crate::mm::physmem::PhysMem;
use crate::xen::layout::xencons_interface as ring;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

/// Bytes of the ring towards the guest.
pub const IN_LEN: u32 = 1024;
/// Bytes of the ring from the guest.
pub const OUT_LEN: u32 = 2048;

/// The hypervisor's end of a console ring.
pub struct ConsoleRing {
    frame: Mfn,
}

impl ConsoleRing {
    /// The ring in this frame.
    pub const fn new(frame: Mfn) -> Self {
        Self { frame }
    }

    fn at(&self, offset: usize) -> Maddr {
        self.frame.maddr().offset(offset as u64)
    }

    fn index(&self, mem: &impl PhysMem, offset: usize) -> u32 {
        let mut b = [0; 4];
        mem.read(self.at(offset), &mut b);
        u32::from_le_bytes(b)
    }

    fn set_index(&self, mem: &impl PhysMem, offset: usize, value: u32) {
        mem.write(self.at(offset), &value.to_le_bytes());
    }

    /// True if the guest has written something that was not taken yet.
    pub fn has_output(&self, mem: &impl PhysMem) -> bool {
        self.index(mem, ring::OUT_PROD) != self.index(mem, ring::OUT_CONS)
    }

    /// Takes up to `limit` bytes of what the guest has written.
    pub fn take(&self, mem: &impl PhysMem, limit: usize) -> Vec<u8> {
        let prod = self.index(mem, ring::OUT_PROD);
        fence(Ordering::Acquire);
        let mut cons = self.index(mem, ring::OUT_CONS);
        if prod.wrapping_sub(cons) > OUT_LEN {
            cons = prod.wrapping_sub(OUT_LEN);
        }
        let n = (prod.wrapping_sub(cons) as usize).min(limit);
        let mut bytes = alloc::vec![0; n];
        let mut done = 0;
        while done < n {
            let at = (cons % OUT_LEN) as usize;
            let piece = (OUT_LEN as usize - at).min(n - done);
            mem.read(self.at(ring::OUT + at), &mut bytes[done..done + piece]);
            cons = cons.wrapping_add(piece as u32);
            done += piece;
        }
        if n != 0 {
            // The bytes are read before the guest may write over them.
            fence(Ordering::SeqCst);
            self.set_index(mem, ring::OUT_CONS, cons);
        }
        bytes
    }

    /// Bytes that the guest has room for.
    pub fn room(&self, mem: &impl PhysMem) -> usize {
        let waiting = self.index(mem, ring::IN_PROD).wrapping_sub(self.index(mem, ring::IN_CONS));
        IN_LEN.saturating_sub(waiting) as usize
    }

    /// Puts bytes into the ring, as many as fit; how many that was.
    pub fn put(&self, mem: &impl PhysMem, bytes: impl Iterator<Item = u8>) -> usize {
        let room = self.room(mem);
        let mut prod = self.index(mem, ring::IN_PROD);
        // The guest has read what stood there before anything is written over it.
        fence(Ordering::SeqCst);
        let mut n = 0;
        for b in bytes.take(room) {
            mem.write(self.at(ring::IN + (prod % IN_LEN) as usize), &[b]);
            prod = prod.wrapping_add(1);
            n += 1;
        }
        if n != 0 {
            fence(Ordering::Release);
            self.set_index(mem, ring::IN_PROD, prod);
        }
        n
    }
}
