//! The hypervisor's lines once more, for the operator: out of the ring, past guests' output, and never into the ring again.
//!
//! A listing is text that the console gets between two bytes of the log: behind what was there when it was asked for, before what comes later. It is
//! made piece by piece as the console takes it, so that nobody waits, and what guests add meanwhile waits as it always does.
//!
//! The hypervisor's lines are known by their stamp. A guest in focus writes to the console as it likes, and a line of its that looks like
//! the hypervisor's is listed as one, as it was shown as one.

use super::Ring;
use core::fmt::{self, Write};

/// Bytes of a piece.
const PIECE_LEN: usize = 192;
/// Bytes of others' lines that are passed over in one go: more take their turn.
const SCAN_LEN: u64 = 4096;
/// What every line of a listing begins with.
const MARK: &[u8] = b"| ";

/// Which part is next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Lines,
    End,
}

/// A listing under way.
pub(super) struct Listing {
    /// Position in the ring behind which it is shown.
    pub(super) after: u64,
    part: Part,
    /// Position of what is looked at next, and of the end.
    at: u64,
    end: u64,
    /// The middle of a line that is listed; of one that is passed over.
    is_in_line: bool,
    is_skipping: bool,
    piece: [u8; PIECE_LEN],
    len: usize,
    sent: usize,
}

impl Listing {
    /// A listing of all that is in the ring, which has to be at the start of a line.
    pub(super) fn new(ring: &Ring<'_>) -> Self {
        let (head, oldest) = (ring.head, ring.oldest());
        Self {
            after: head,
            part: Part::Head,
            at: oldest,
            end: head,
            is_in_line: false,
            // The oldest byte is in the middle of a line, for all that one knows.
            is_skipping: oldest != 0,
            piece: [0; PIECE_LEN],
            len: 0,
            sent: 0,
        }
    }

    /// True if the console has a part of a line.
    pub(super) fn is_mid_line(&self) -> bool {
        self.is_in_line || self.sent < self.len
    }

    /// Offers up to `limit` bytes; `offer` says how many it took. How many that was in all, and whether this is the end.
    pub(super) fn offer(
        &mut self,
        ring: &Ring<'_>,
        limit: usize,
        mut offer: impl FnMut(&[u8]) -> usize,
    ) -> (usize, bool) {
        let mut taken = 0;
        while taken < limit {
            if self.sent == self.len {
                if self.part == Part::End {
                    return (taken, true);
                }
                self.fill(ring);
            }
            let piece = &self.piece[self.sent..self.len];
            let piece = &piece[..piece.len().min(limit - taken)];
            let n = offer(piece).min(piece.len());
            let is_all = n == piece.len() && n != 0;
            self.sent += n;
            taken += n;
            if !is_all {
                break;
            }
        }
        (taken, self.part == Part::End && self.sent == self.len)
    }

    /// Makes the next piece; an empty one if there was much to pass over.
    fn fill(&mut self, ring: &Ring<'_>) {
        (self.len, self.sent) = (0, 0);
        match self.part {
            Part::Head => {
                self.part = Part::Lines;
                let _ = match self.at {
                    0 => write!(self, "| the hypervisor's lines since the cold boot\r\n"),
                    gone => {
                        write!(self, "| the hypervisor's lines; the log has lost what came before, {gone} bytes\r\n")
                    }
                };
            }
            Part::Lines if self.at < ring.oldest().min(self.end) => {
                if self.is_in_line {
                    self.put(b"\r\n");
                }
                let oldest = ring.oldest().min(self.end);
                let lost = oldest - self.at;
                let _ = write!(self, "| {lost} bytes were lost meanwhile\r\n");
                self.at = oldest;
                (self.is_in_line, self.is_skipping) = (false, true);
            }
            Part::Lines => self.next_of_lines(ring),
            Part::End => {}
        }
    }

    fn next_of_lines(&mut self, ring: &Ring<'_>) {
        let stop = self.at.saturating_add(SCAN_LEN);
        while !self.is_in_line && self.at < self.end {
            if self.at >= stop {
                return;
            }
            if self.is_skipping {
                self.is_skipping = ring.byte(self.at) != b'\n';
                self.at += 1;
            } else if is_own_line(ring, self.at) {
                self.is_in_line = true;
                self.put(MARK);
            } else {
                self.is_skipping = true;
            }
        }
        while self.is_in_line && self.at < self.end && self.len < PIECE_LEN {
            let byte = ring.byte(self.at);
            self.put(&[byte]);
            self.at += 1;
            self.is_in_line = byte != b'\n';
        }
        if !self.is_in_line && self.at >= self.end && self.len + 32 < PIECE_LEN {
            self.part = Part::End;
            let _ = write!(self, "| the end of the log\r\n");
        }
    }

    /// Adds to the piece; what it has no room for is left out.
    fn put(&mut self, bytes: &[u8]) {
        for (place, &byte) in self.piece[self.len..].iter_mut().zip(bytes) {
            *place = byte;
            self.len += 1;
        }
    }
}

impl Write for Listing {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.put(s.as_bytes());
        Ok(())
    }
}

/// True if a line of the hypervisor's begins at `at`: `[    0.350043] lu: ...`.
fn is_own_line(ring: &Ring<'_>, at: u64) -> bool {
    /// Bytes that are looked at: the widest stamp and the longest name of a module.
    const LEN: usize = 48;
    let mut start = [0; LEN];
    let len = (ring.head - at).min(LEN as u64) as usize;
    for (byte, at) in start[..len].iter_mut().zip(at..) {
        *byte = ring.byte(at);
    }
    let Some(rest) = start[..len].strip_prefix(b"[") else { return false };
    let Some(dot) = rest.iter().position(|&b| b == b'.') else { return false };
    let (seconds, rest) = rest.split_at(dot);
    let Some((micros, rest)) = rest[1..].split_at_checked(6) else { return false };
    let Some(rest) = rest.strip_prefix(b"] ") else { return false };
    let name_len = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    seconds.len() >= 5
        && seconds.iter().all(|b| b.is_ascii_digit() || *b == b' ')
        && micros.iter().all(u8::is_ascii_digit)
        && name_len != 0
        && rest[name_len..].starts_with(b": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec;
    use std::vec::Vec;

    /// All of a listing, for a console that takes `at_a_time` bytes, and the ring's owner's doings in between.
    fn listed(ring: &mut Ring<'_>, at_a_time: usize, mut meanwhile: impl FnMut(&mut Ring<'_>)) -> String {
        let mut listing = Listing::new(ring);
        let mut out = Vec::new();
        for _ in 0..100_000 {
            let (_, is_over) = listing.offer(ring, 256, |bytes| {
                let n = bytes.len().min(at_a_time);
                out.extend_from_slice(&bytes[..n]);
                n
            });
            if is_over {
                return String::from_utf8(out).unwrap();
            }
            meanwhile(ring);
        }
        panic!("no end: {}", String::from_utf8_lossy(&out));
    }

    const OWN: [&str; 2] = ["[    0.000012] lu: report {\"sequence\":1}\r\n", "[12345.678901] start: took over\r\n"];

    #[test]
    fn only_the_hypervisors_lines_are_listed_and_in_order() {
        let mut buf = vec![0; 4096];
        let mut ring = Ring::new(&mut buf);
        for text in [
            OWN[0],
            "(d1) [    1.000000] lu: forged\r\n",
            "[    1.000000] no module\r\n",
            "[1.000000] lu: short stamp\r\n",
            "[    1.00000x] lu: no stamp\r\n",
            "\r\n",
            OWN[1],
            "[",
            "\r\n",
        ] {
            ring.push(text.as_bytes());
        }
        let expected = std::format!(
            "| the hypervisor's lines since the cold boot\r\n| {}| {}| the end of the log\r\n",
            OWN[0],
            OWN[1]
        );
        for at_a_time in [1, 3, 1000] {
            let before = ring.positions();
            assert_eq!(listed(&mut ring, at_a_time, |_| ()), expected);
            assert_eq!(ring.positions(), before, "a listing adds nothing to the ring and takes nothing from it");
        }
    }

    #[test]
    fn long_lines_and_many_lines_of_others_are_no_trouble() {
        let mut buf = vec![0; 1 << 16];
        let mut ring = Ring::new(&mut buf);
        let long = std::format!("[    0.000001] lu: {}\r\n", "x".repeat(1000));
        ring.push(long.as_bytes());
        (0..2000).for_each(|_| ring.push(b"(d1) something\r\n"));
        ring.push(OWN[1].as_bytes());
        let found = listed(&mut ring, 1000, |_| ());
        let lines: Vec<&str> = found.split_inclusive('\n').collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1], std::format!("| {long}"));
        assert_eq!(lines[2], std::format!("| {}", OWN[1]));
    }

    #[test]
    fn what_is_gone_is_said() {
        let mut buf = vec![0; 128];
        let mut ring = Ring::new(&mut buf);
        for n in 0..6 {
            ring.push(std::format!("[    0.00000{n}] lu: line number {n}\r\n").as_bytes());
        }
        let gone = ring.oldest();
        let found = listed(&mut ring, 1000, |_| ());
        assert!(found.starts_with(&std::format!(
            "| the hypervisor's lines; the log has lost what came before, {gone} bytes\r\n"
        )));
        let numbers: Vec<&str> = found.lines().filter_map(|line| line.split_once("number ")).map(|(_, n)| n).collect();
        assert_eq!(numbers, ["3", "4", "5"]);
    }

    #[test]
    fn what_goes_while_it_is_listed_is_said_too() {
        let mut buf = vec![0; 4096];
        let mut ring = Ring::new(&mut buf);
        for n in 100..200 {
            ring.push(std::format!("[    0.000{n}] lu: before {n}\r\n").as_bytes());
        }
        // Faster than it is listed.
        let found = listed(&mut ring, 8, |ring| ring.push(b"(d1) a guest that says much\r\n"));
        assert!(found.contains(" bytes were lost meanwhile\r\n"), "{found}");
        assert!(found.ends_with("| the end of the log\r\n"));
        assert!(found.lines().all(|line| line.starts_with("| ")), "{found}");
        assert!(found.contains("before 100") && !found.contains("a guest"));
    }
}
