//! The log: a ring of bytes in memory that the console follows.
//!
//! Every line goes into the ring; the console prints what it has not printed yet, at once or, during an update's pause, later. The ring starts in
//! the image's own memory. Once there is memory that survives updates it moves there, and its place, head and printed
//! position travel in the stream, so that lines of the outgoing build stand before those of the incoming one.
//!
//! Lines are `[seconds.micros] module: sentence`, guests' lines `(d3) text`.

use crate::frame::MfnRange;
use core::fmt::{self, Write};
use spin::Mutex;

/// Bytes of the ring that serves until memory that survives is there.
const EARLY_LEN: usize = 32 << 10;

/// A ring of bytes. Positions count bytes ever written; the oldest are overwritten.
pub struct Ring<'a> {
    buf: &'a mut [u8],
    head: u64,
    printed: u64,
}

impl<'a> Ring<'a> {
    /// An empty ring.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, head: 0, printed: 0 }
    }

    /// A ring that another build has written: `head` bytes in all, `printed` of them shown. Positions that cannot be are brought into range.
    pub fn resume(buf: &'a mut [u8], head: u64, printed: u64) -> Self {
        Self { buf, head, printed: printed.min(head) }
    }

    /// Bytes ever written, and bytes ever printed.
    pub fn positions(&self) -> (u64, u64) {
        (self.head, self.printed)
    }

    /// Appends bytes, over the oldest ones.
    pub fn push(&mut self, bytes: &[u8]) {
        let len = self.buf.len() as u64;
        for &b in bytes {
            self.buf[(self.head % len) as usize] = b;
            self.head += 1;
        }
    }

    /// The oldest contiguous piece at or after `from` that is still there, and the position behind it.
    pub fn piece(&self, from: u64) -> (&[u8], u64) {
        let len = self.buf.len() as u64;
        let from = from.max(self.head.saturating_sub(len)).min(self.head);
        let start = from % len;
        let n = (self.head - from).min(len - start);
        (&self.buf[start as usize..(start + n) as usize], from + n)
    }

    /// Hands everything not yet printed to `print`, in order.
    pub fn print(&mut self, mut print: impl FnMut(&[u8])) {
        while self.printed < self.head {
            let (piece, next) = self.piece(self.printed);
            print(piece);
            self.printed = next;
        }
    }
}

/// What the log knows of the machine: the time for stamps, and how bytes reach the console.
#[derive(Clone, Copy)]
pub struct Backend {
    /// System time in nanoseconds.
    pub now_ns: fn() -> u64,
    /// Writes bytes to the console.
    pub print: fn(&[u8]),
}

struct Log {
    ring: Option<Ring<'static>>,
    place: Option<MfnRange>,
    backend: Option<Backend>,
    held: bool,
}

static LOG: Mutex<Log> = Mutex::new(Log { ring: None, place: None, backend: None, held: false });

impl Log {
    fn flush(&mut self) {
        if self.held {
            return;
        }
        if let (Some(ring), Some(backend)) = (&mut self.ring, self.backend) {
            ring.print(backend.print);
        }
    }
}

/// Length in bytes of the buffer for [`start`].
pub const fn early_len() -> usize {
    EARLY_LEN
}

/// Starts the log in the image's own memory.
pub fn start(buf: &'static mut [u8]) {
    LOG.lock().ring = Some(Ring::new(buf));
}

/// Connects the console: what was logged before is replayed.
pub fn connect(backend: Backend) {
    let mut log = LOG.lock();
    log.backend = Some(backend);
    log.flush();
}

/// Keeps lines in memory until [`release`]: the console is slow, and an update's pause is no place for it.
pub fn hold() {
    LOG.lock().held = true;
}

/// Prints what was held.
pub fn release() {
    let mut log = LOG.lock();
    log.held = false;
    log.flush();
}

/// Moves the log into memory that survives updates, behind what `ring` already holds.
pub fn move_to(mut ring: Ring<'static>, place: MfnRange) {
    let mut log = LOG.lock();
    if let Some(early) = &log.ring {
        let (head, printed) = early.positions();
        let mut at = 0;
        // What another build left unprinted comes first; what this one has printed already is not printed again.
        let nothing_pending = ring.positions().0 == ring.positions().1;
        while at < head {
            let (piece, next) = early.piece(at);
            ring.push(piece);
            at = next;
        }
        if nothing_pending {
            ring.printed = ring.head - (head - printed);
        }
    }
    log.ring = Some(ring);
    log.place = Some(place);
    log.flush();
}

/// Bytes ever written and bytes ever printed, for the stream.
pub fn positions() -> (u64, u64) {
    LOG.lock().ring.as_ref().map_or((0, 0), Ring::positions)
}

/// Where the log is, once it is in memory that survives updates.
pub fn place() -> Option<MfnRange> {
    LOG.lock().place
}

/// Adds bytes as they are: guests' lines and the operator's dialogue.
pub fn raw(bytes: &[u8]) {
    let mut log = LOG.lock();
    if let Some(ring) = &mut log.ring {
        ring.push(bytes);
    }
    log.flush();
}

struct Line<'a>(&'a mut Ring<'static>);

impl Write for Line<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.push(s.as_bytes());
        Ok(())
    }
}

/// Adds one line: use the [`log!`](crate::log!) macro.
pub fn line(module: &str, text: fmt::Arguments<'_>) {
    line_of(format_args!("{module}: {text}"));
}

/// Adds one line whose text names its module itself.
pub fn line_of(text: fmt::Arguments<'_>) {
    let mut log = LOG.lock();
    let now = log.backend.map_or(0, |b| (b.now_ns)());
    if let Some(ring) = &mut log.ring {
        let micros = now / 1000;
        // The ring takes everything: writing to it has no error.
        let _ = writeln!(Line(ring), "[{:5}.{:06}] {text}", micros / 1_000_000, micros % 1_000_000);
    }
    log.flush();
}

/// For the panic handler alone: the lock may be held by whoever panicked, who will not come back.
pub fn break_lock() {
    if LOG.is_locked() {
        // The holder is this CPU, in the middle of the panic; the others never hold it across one.
        force_unlock();
    }
    LOG.lock().held = false;
}

#[expect(unsafe_code, reason = "the panic handler must be able to speak")]
fn force_unlock() {
    // SAFETY: called by the panic handler only, after which no other code of this CPU runs; the ring is bytes without invariants.
    unsafe { LOG.force_unlock() }
}

/// Logs one line: `log!("module", "sentence {}", value)`.
#[macro_export]
macro_rules! log {
    ($module:expr, $($arg:tt)+) => {
        $crate::log::line($module, format_args!($($arg)+))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn printed(ring: &mut Ring<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        ring.print(|b| out.extend_from_slice(b));
        out
    }

    #[test]
    fn the_ring_prints_everything_once_in_order() {
        let mut buf = [0; 8];
        let mut ring = Ring::new(&mut buf);
        ring.push(b"abcde");
        assert_eq!(printed(&mut ring), b"abcde");
        ring.push(b"fghij");
        assert_eq!(printed(&mut ring), b"fghij");
        assert_eq!(printed(&mut ring), b"");
    }

    #[test]
    fn the_oldest_bytes_are_lost_first() {
        let mut buf = [0; 4];
        let mut ring = Ring::new(&mut buf);
        ring.push(b"abcdefg");
        assert_eq!(printed(&mut ring), b"defg");
    }

    #[test]
    fn a_resumed_ring_goes_on_where_it_was() {
        let mut buf = *b"efgdXXXX";
        buf[..4].copy_from_slice(b"abcd");
        let mut ring = Ring::resume(&mut buf, 4, 2);
        ring.push(b"ef");
        assert_eq!(printed(&mut ring), b"cdef");
    }
}
