//! The PV console: a ring in the guest's memory (public/io/console.h), drained into the log line by line, filled with the operator's keystrokes.
//!
//! The ring's indices are the guest's to write, so they are taken modulo the ring's size and never trusted further than that.

use crate::frame::{Maddr, Mfn};
use crate::mm::physmem::PhysMem;
use crate::xen::layout::xencons_interface as ring;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

const IN_LEN: u32 = 1024;
const OUT_LEN: u32 = 2048;
/// Longest line that is kept together.
const LINE_MAX: usize = 1024;

/// The hypervisor's end of a console ring.
pub struct ConsoleRing {
    ring: Mfn,
    line: Vec<u8>,
}

impl ConsoleRing {
    /// The ring in this frame.
    pub const fn new(ring: Mfn) -> Self {
        Self { ring, line: Vec::new() }
    }

    /// What has arrived of a line that is not complete yet.
    pub fn partial_line(&self) -> &[u8] {
        &self.line
    }

    /// Takes up an incomplete line that another build had begun.
    pub fn set_partial_line(&mut self, line: &[u8]) {
        self.line = line[..line.len().min(LINE_MAX)].to_vec();
    }

    fn at(&self, offset: usize) -> Maddr {
        self.ring.maddr().offset(offset as u64)
    }

    fn index(&self, mem: &impl PhysMem, offset: usize) -> u32 {
        let mut b = [0; 4];
        mem.read(self.at(offset), &mut b);
        u32::from_le_bytes(b)
    }

    fn set_index(&self, mem: &impl PhysMem, offset: usize, value: u32) {
        mem.write(self.at(offset), &value.to_le_bytes());
    }

    /// Adds bytes that the guest wrote by other ways (console_io) and hands complete lines on.
    pub fn write(&mut self, bytes: &[u8], mut line_out: impl FnMut(&[u8])) {
        for &b in bytes {
            match b {
                b'\n' => {
                    line_out(&self.line);
                    self.line.clear();
                }
                b'\r' => {}
                b => {
                    if self.line.len() == LINE_MAX {
                        line_out(&self.line);
                        self.line.clear();
                    }
                    self.line.push(b);
                }
            }
        }
    }

    /// Takes everything out of the ring; complete lines go to `line_out`. True if the guest should be told that there is room.
    pub fn drain(&mut self, mem: &impl PhysMem, line_out: impl FnMut(&[u8])) -> bool {
        let prod = self.index(mem, ring::OUT_PROD);
        fence(Ordering::Acquire);
        let mut cons = self.index(mem, ring::OUT_CONS);
        // A producer that is more than a ring ahead has written nonsense: it gets one ring's worth printed.
        let pending = prod.wrapping_sub(cons).min(OUT_LEN);
        if pending == 0 {
            return false;
        }
        let mut bytes = Vec::with_capacity(pending as usize);
        while cons != prod && bytes.len() < pending as usize {
            let at = (cons % OUT_LEN) as usize;
            let n = (OUT_LEN as usize - at).min(pending as usize - bytes.len());
            let start = bytes.len();
            bytes.resize(start + n, 0);
            mem.read(self.at(ring::OUT + at), &mut bytes[start..]);
            cons = cons.wrapping_add(n as u32);
        }
        fence(Ordering::SeqCst);
        self.set_index(mem, ring::OUT_CONS, prod);
        self.write(&bytes, line_out);
        true
    }

    /// Puts keystrokes into the ring, as many as fit; how many that was.
    pub fn type_in(&mut self, mem: &impl PhysMem, bytes: &[u8]) -> usize {
        let cons = self.index(mem, ring::IN_CONS);
        let mut prod = self.index(mem, ring::IN_PROD);
        fence(Ordering::SeqCst);
        let room = IN_LEN.saturating_sub(prod.wrapping_sub(cons)) as usize;
        let n = bytes.len().min(room);
        for &b in &bytes[..n] {
            mem.write(self.at(ring::IN + (prod % IN_LEN) as usize), &[b]);
            prod = prod.wrapping_add(1);
        }
        fence(Ordering::Release);
        self.set_index(mem, ring::IN_PROD, prod);
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::physmem::sparse::SparseMem;
    use std::string::String;
    use std::vec::Vec;

    const RING: Mfn = Mfn::new(5);

    fn guest_writes(mem: &SparseMem, text: &[u8]) {
        let at = |o: usize| RING.maddr().offset(o as u64);
        let mut b = [0; 4];
        mem.read(at(ring::OUT_PROD), &mut b);
        let mut prod = u32::from_le_bytes(b);
        for &c in text {
            mem.write(at(ring::OUT + (prod % OUT_LEN) as usize), &[c]);
            prod = prod.wrapping_add(1);
        }
        mem.write(at(ring::OUT_PROD), &prod.to_le_bytes());
    }

    fn drain(ring: &mut ConsoleRing, mem: &SparseMem) -> Vec<String> {
        let mut lines = Vec::new();
        ring.drain(mem, |l| lines.push(String::from_utf8_lossy(l).into_owned()));
        lines
    }

    #[test]
    fn lines_come_out_whole_across_the_end_of_the_ring() {
        let mem = SparseMem::new();
        let mut ring = ConsoleRing::new(RING);
        for i in 0..200 {
            let text = std::format!("line {i} of the guest\r\n");
            guest_writes(&mem, &text.as_bytes()[..7]);
            assert!(drain(&mut ring, &mem).is_empty());
            guest_writes(&mem, &text.as_bytes()[7..]);
            assert_eq!(drain(&mut ring, &mem), [text.trim_end()]);
        }
        assert!(!ring.drain(&mem, |_| ()));
    }

    #[test]
    fn nonsense_indices_are_survived() {
        let mem = SparseMem::new();
        let mut ring = ConsoleRing::new(RING);
        mem.write(RING.maddr().offset(ring::OUT_PROD as u64), &0xffff_fff0u32.to_le_bytes());
        let bytes: usize = drain(&mut ring, &mem).iter().map(String::len).sum();
        assert!(bytes + ring.partial_line().len() <= OUT_LEN as usize);
        mem.write(RING.maddr().offset(ring::IN_CONS as u64), &77u32.to_le_bytes());
        assert_eq!(ring.type_in(&mem, b"x"), 0);
    }

    #[test]
    fn input_stops_at_a_full_ring() {
        let mem = SparseMem::new();
        let mut ring = ConsoleRing::new(RING);
        assert_eq!(ring.type_in(&mem, &[b'a'; 2000]), 1024);
        assert_eq!(ring.type_in(&mem, b"b"), 0);
    }
}
