//! The line that a guest is writing.
//!
//! The operator sees a guest's lines whole, unless he talks to the guest or it leaves a line open for a while (a prompt, a row of dots): then the
//! part that is there is shown, and what follows is the rest of that line.

use alloc::vec::Vec;

/// Longest line that is kept together.
pub const LINE_MAX: usize = 1024;
/// A line that is not complete is shown after this many nanoseconds without a further byte: longer than a guest waits for its next slice.
const PATIENCE_NS: u64 = 250_000_000;

/// A line, or a part of one, to be shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes, without the line's end.
    pub text: &'a [u8],
    /// The line ends here.
    pub ends: bool,
    /// What showing the part before this one gave, if there was one.
    pub continues: Option<u64>,
}

/// The line at hand.
#[derive(Default)]
pub struct OpenLine {
    bytes: Vec<u8>,
    /// How much of it has been shown.
    shown: usize,
    /// What showing that gave.
    continues: Option<u64>,
    last_byte_ns: u64,
}

impl OpenLine {
    /// Adds bytes. Lines that become complete go to `show`, whose result is for the next part of the same line.
    pub fn add(&mut self, bytes: &[u8], now_ns: u64, mut show: impl FnMut(Piece<'_>) -> u64) {
        for &b in bytes {
            match b {
                b'\n' => self.end(&mut show),
                b'\r' => {}
                b => {
                    if self.bytes.len() == LINE_MAX {
                        self.end(&mut show);
                    }
                    self.bytes.push(b);
                }
            }
        }
        self.last_byte_ns = now_ns;
    }

    fn end(&mut self, show: &mut impl FnMut(Piece<'_>) -> u64) {
        let text = &self.bytes[self.shown..];
        // The end alone of a line that has been shown elsewhere is not worth a line.
        if self.shown == 0 || !text.is_empty() || self.continues.is_some() {
            show(Piece { text, ends: true, continues: self.continues });
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.shown, self.continues) = (0, None);
    }

    /// Shows what there is of a line that has been left open for long.
    pub fn show_if_old(&mut self, now_ns: u64, show: impl FnMut(Piece<'_>) -> u64) {
        if now_ns.saturating_sub(self.last_byte_ns) >= PATIENCE_NS {
            self.show_part(show);
        }
    }

    /// Shows what there is of a line that is not complete.
    pub fn show_part(&mut self, mut show: impl FnMut(Piece<'_>) -> u64) {
        if self.shown < self.bytes.len() {
            let text = &self.bytes[self.shown..];
            self.continues = Some(show(Piece { text, ends: false, continues: self.continues }));
            self.shown = self.bytes.len();
        }
    }

    /// Notes bytes that have been shown as they are: they are a part of a line nonetheless.
    pub fn note_shown(&mut self, bytes: &[u8]) {
        let tail = match bytes.iter().rposition(|&b| b == b'\n') {
            Some(end) => {
                self.clear();
                &bytes[end + 1..]
            }
            None => bytes,
        };
        if self.bytes.len() + tail.len() > LINE_MAX {
            self.clear();
        }
        self.bytes.extend_from_slice(&tail[tail.len().saturating_sub(LINE_MAX)..]);
        (self.shown, self.continues) = (self.bytes.len(), None);
    }

    /// All that there is of the line, which is shown to somebody now.
    pub fn show_all(&mut self) -> &[u8] {
        (self.shown, self.continues) = (self.bytes.len(), None);
        &self.bytes
    }

    /// What nobody has seen of it yet.
    pub fn unseen(&self) -> &[u8] {
        &self.bytes[self.shown..]
    }

    /// Takes up a line that another build had begun.
    pub fn resume(&mut self, unseen: &[u8], now_ns: u64) {
        self.clear();
        self.bytes.extend_from_slice(&unseen[..unseen.len().min(LINE_MAX)]);
        self.last_byte_ns = now_ns;
    }
}
