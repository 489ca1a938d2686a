//! The PV console of a domain: a ring in its memory, the line that it is writing, and what was typed and has no room in the ring yet.
//!
//! 1. Every byte that the guest writes is taken out of the ring once, in order, and only as fast as the log takes it.
//! 2. Every byte that was accepted by [`Console::type_in`] comes to the guest once, unchanged and in order, when the guest makes room for it.
//! 3. What is kept here is bounded, whatever the guest writes into its ring: a line and [`TYPED_MAX`] bytes (or what another
//!    build, with another limit, had accepted).

mod line;
mod ring;
#[cfg(test)]
mod tests;

pub use line::{LINE_MAX, OpenLine, Piece};
pub use ring::{IN_LEN, OUT_LEN};

use crate::frame::Mfn;
use crate::mm::physmem::PhysMem;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use ring::ConsoleRing;

/// Bytes typed that are kept while the guest does not read.
pub const TYPED_MAX: usize = 4096;

/// A domain's console.
pub struct Console {
    ring: ConsoleRing,
    /// The line that the guest is writing.
    pub line: OpenLine,
    typed: VecDeque<u8>,
    /// When the guest last took something, or had nothing to take.
    read_ns: u64,
}

impl Console {
    /// The console whose ring is in this frame.
    pub fn new(ring: Mfn) -> Self {
        Self { ring: ConsoleRing::new(ring), line: OpenLine::default(), typed: VecDeque::new(), read_ns: 0 }
    }

    /// True if the guest has written something that was not taken yet.
    pub fn has_output(&self, mem: &impl PhysMem) -> bool {
        self.ring.has_output(mem)
    }

    /// Takes up to `limit` bytes of what the guest has written.
    pub fn take_output(&mut self, mem: &impl PhysMem, limit: usize) -> Vec<u8> {
        self.ring.take(mem, limit)
    }

    /// Bytes that [`Console::type_in`] accepts now.
    pub fn room(&self) -> usize {
        TYPED_MAX.saturating_sub(self.typed.len())
    }

    /// Accepts bytes that were typed, as many as there is room for; how many that was.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        self.typed.extend(&bytes[..n]);
        n
    }

    /// Hands the guest what it has room for. True if that was something, which the guest should be told.
    pub fn deliver(&mut self, mem: &impl PhysMem, now_ns: u64) -> bool {
        if self.typed.is_empty() {
            self.read_ns = now_ns;
            return false;
        }
        let n = self.ring.put(mem, self.typed.iter().copied());
        self.typed.drain(..n);
        if n != 0 {
            self.read_ns = now_ns;
        }
        n != 0
    }

    /// For how many nanoseconds the guest has not taken anything of what is kept for it.
    pub fn unread_for(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.read_ns)
    }

    /// Takes up what another build left: the line that had not been shown, and what was typed, all of it.
    pub fn resume(&mut self, unseen: &[u8], typed: &[u8], now_ns: u64) {
        self.line.resume(unseen, now_ns);
        self.typed = typed.iter().copied().collect();
        self.read_ns = now_ns;
    }

    /// What was typed and is not in the guest's ring yet.
    pub fn typed(&self) -> Vec<u8> {
        self.typed.iter().copied().collect()
    }
}
