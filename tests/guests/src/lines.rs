//! Lines in and lines out, without an allocator.

use core::fmt;

/// Assembles one line of output; what does not fit is cut off.
pub struct LineOut {
    bytes: [u8; LineOut::CAPACITY],
    len: usize,
}

impl LineOut {
    /// Longest line, with its end.
    pub const CAPACITY: usize = 400;

    /// An empty line.
    pub const fn new() -> Self {
        LineOut { bytes: [0; Self::CAPACITY], len: 0 }
    }

    /// Ends the line, as a terminal wants it, and gives its bytes.
    pub fn finish(&mut self) -> &[u8] {
        self.bytes[self.len..self.len + 2].copy_from_slice(b"\r\n");
        &self.bytes[..self.len + 2]
    }
}

impl Default for LineOut {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for LineOut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len + 2 < Self::CAPACITY {
                // One message is one line, whatever it is made of.
                self.bytes[self.len] = if byte == b'\n' || byte == b'\r' { b' ' } else { byte };
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Assembles lines of input from single bytes.
pub struct LineIn {
    bytes: [u8; LineIn::CAPACITY],
    len: usize,
    is_complete: bool,
}

impl LineIn {
    /// Longest line kept; the rest of a longer one is dropped.
    pub const CAPACITY: usize = 80;

    /// Nothing typed yet.
    pub const fn new() -> Self {
        LineIn { bytes: [0; Self::CAPACITY], len: 0, is_complete: false }
    }

    /// Takes one byte; gives the line when the byte ends one. Empty lines are not given.
    pub fn push(&mut self, byte: u8) -> Option<&str> {
        if self.is_complete {
            self.len = 0;
            self.is_complete = false;
        }
        match byte {
            b'\n' | b'\r' => {
                if self.len == 0 {
                    return None;
                }
                self.is_complete = true;
                core::str::from_utf8(&self.bytes[..self.len]).ok().map(str::trim)
            }
            _ => {
                if self.len < Self::CAPACITY {
                    self.bytes[self.len] = byte;
                    self.len += 1;
                }
                None
            }
        }
    }
}

impl Default for LineIn {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn a_message_is_one_line() {
        let mut line = LineOut::new();
        write!(line, "a\nb {}", 3).unwrap();
        assert_eq!(line.finish(), b"a b 3\r\n");
    }

    #[test]
    fn a_long_message_is_cut_but_ends() {
        let mut line = LineOut::new();
        for _ in 0..100 {
            line.write_str("0123456789").unwrap();
        }
        let bytes = line.finish();
        assert_eq!(bytes.len(), LineOut::CAPACITY);
        assert!(bytes.ends_with(b"\r\n"));
    }

    #[test]
    fn input_is_cut_into_lines() {
        let mut input = LineIn::new();
        let mut seen: Vec<String> = Vec::new();
        for &byte in b"finish\r\n\n crash \nab" {
            if let Some(line) = input.push(byte) {
                seen.push(line.into());
            }
        }
        assert_eq!(seen, ["finish", "crash"]);
    }

    #[test]
    fn an_endless_line_does_not_overflow() {
        let mut input = LineIn::new();
        for _ in 0..1000 {
            assert_eq!(input.push(b'x'), None);
        }
        assert_eq!(input.push(b'\n').unwrap().len(), LineIn::CAPACITY);
        assert_eq!(input.push(b'\n'), None);
    }
}
