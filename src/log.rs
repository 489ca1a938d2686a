//! The log: a ring of bytes in memory that the console follows.
//!
//! Every line goes into the ring; the console prints what it has not printed yet, at once or, during an update's pause, later. The ring starts in
//! the image's own memory. Once there is memory that survives updates it moves there, and its place, head and printed
//! position travel in the stream, so that lines of the outgoing build stand before those of the incoming one.
//!
//! Lines are `[seconds.micros] module: sentence`, guests' lines `(d3) text`; what the guest in focus writes stands there as it is ([`raw`]). The ring holds
//! exactly what the console gets, line ends included, and every line begins on a fresh one, whatever was left open before it.
//!
//! Until guests run, whoever logs waits for the console. From then on ([`pace`]) the console takes what it can take at once, and the rest when
//! [`pump`] is called: nobody waits for a slow line, unless what is not printed yet would soon be overwritten. What guests may add is what [`room`] says,
//! so that they are held back long before that.
//!
//! A build that takes over says so in the ring before its first line, so that a [listing](list) shows who wrote what.

mod listing;

use crate::frame::MfnRange;
use core::fmt::{self, Write};
use listing::Listing;
use spin::Mutex;

/// Bytes of the ring that serves until memory that survives is there.
const EARLY_LEN: usize = 32 << 10;
/// Guests may add to what is not printed yet up to this many bytes.
const GUESTS_AHEAD: u64 = 4096;
/// The most that is offered to the console in one go.
const OFFER_MAX: usize = 256;

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
        let from = from.max(self.oldest()).min(self.head);
        let start = from % len;
        let n = (self.head - from).min(len - start);
        (&self.buf[start as usize..(start + n) as usize], from + n)
    }

    /// Hands everything not yet printed to `print`, in order.
    pub fn print(&mut self, print: impl FnMut(&[u8])) {
        self.print_down_to(0, print);
    }

    /// As [`Ring::print`], until no more than `left` bytes are left.
    pub fn print_down_to(&mut self, left: u64, mut print: impl FnMut(&[u8])) {
        while self.backlog() > left {
            let (piece, next) = self.piece(self.printed);
            print(piece);
            self.printed = next;
        }
    }

    /// Offers up to `limit` bytes that are not printed yet and stand before position `until`; `offer` says how many it took. How many that was in all.
    pub fn offer(&mut self, until: u64, limit: usize, mut offer: impl FnMut(&[u8]) -> usize) -> usize {
        let mut taken = 0;
        while self.printed < until.min(self.head) && taken < limit {
            let (piece, next) = self.piece(self.printed);
            let start = next - piece.len() as u64;
            let before = usize::try_from(until.saturating_sub(start)).unwrap_or(usize::MAX);
            let piece = &piece[..piece.len().min(limit - taken).min(before)];
            let n = offer(piece).min(piece.len());
            let is_all = n == piece.len();
            self.printed = start + n as u64;
            taken += n;
            if !is_all {
                break;
            }
        }
        taken
    }

    /// Bytes that are not printed yet, those already overwritten included.
    pub const fn backlog(&self) -> u64 {
        self.head - self.printed
    }

    /// Position of the oldest byte that is still there.
    fn oldest(&self) -> u64 {
        self.head.saturating_sub(self.buf.len() as u64)
    }

    /// The byte at a position that is still there.
    fn byte(&self, at: u64) -> u8 {
        self.buf[(at % self.buf.len() as u64) as usize]
    }

    /// True if the next byte begins a line.
    pub fn is_at_line_start(&self) -> bool {
        self.head == 0 || self.byte(self.head - 1) == b'\n'
    }

    /// Appends text whose lines end with `\n` alone, as the terminal wants them.
    pub fn push_text(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|&b| b == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(line) => {
                    self.push(line);
                    self.push(b"\r\n");
                }
                None => self.push(piece),
            }
        }
    }

    /// Sees to it that the next byte begins a line.
    pub fn start_line(&mut self) {
        if !self.is_at_line_start() {
            self.push(b"\r\n");
        }
    }
}

/// What the log knows of the machine: the time for stamps, and how bytes reach the console.
#[derive(Clone, Copy)]
pub struct Backend {
    /// System time in nanoseconds.
    pub now_ns: fn() -> u64,
    /// Writes bytes to the console, and waits until it has them all.
    pub print: fn(&[u8]),
    /// Offers bytes to the console; how many of them it took at once.
    pub offer: fn(&[u8]) -> usize,
}

struct Log {
    ring: Option<Ring<'static>>,
    place: Option<MfnRange>,
    backend: Option<Backend>,
    held: bool,
    paced: bool,
    listing: Option<Listing>,
}

static LOG: Mutex<Log> =
    Mutex::new(Log { ring: None, place: None, backend: None, held: false, paced: false, listing: None });

impl Log {
    fn flush(&mut self) {
        if self.held {
            return;
        }
        let (Some(ring), Some(backend)) = (&self.ring, self.backend) else { return };
        // What would be overwritten soon is worth waiting for.
        let may_wait = if self.paced { ring.buf.len() as u64 / 2 } else { 0 };
        if self.paced {
            self.serve(OFFER_MAX, backend.offer);
        }
        let print = |bytes: &[u8]| {
            (backend.print)(bytes);
            bytes.len()
        };
        while self.listing.is_some() && (!self.paced || self.backlog() > may_wait) {
            self.serve(usize::MAX, print);
        }
        if let Some(ring) = &mut self.ring {
            ring.print_down_to(may_wait, backend.print);
        }
    }

    /// Offers the console up to `limit` bytes: of the ring, and of a listing where its place is.
    fn serve(&mut self, limit: usize, mut offer: impl FnMut(&[u8]) -> usize) {
        let Some(ring) = &mut self.ring else { return };
        let place = self.listing.as_ref().map_or(u64::MAX, |listing| listing.after);
        let mut taken = ring.offer(place, limit, &mut offer);
        if ring.printed < place.min(ring.head) {
            return;
        }
        if let Some(listing) = &mut self.listing {
            let (more, is_over) = listing.offer(ring, limit - taken, &mut offer);
            taken += more;
            if is_over {
                self.listing = None;
                ring.offer(u64::MAX, limit - taken, &mut offer);
            }
        }
    }

    fn backlog(&self) -> u64 {
        self.ring.as_ref().map_or(0, Ring::backlog)
    }

    /// True if the console has not had everything.
    fn has_more(&self) -> bool {
        self.backlog() != 0 || self.listing.is_some()
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

/// Moves the log into memory that survives updates, behind what `ring` already holds and a line that says who writes from here on.
pub fn move_to(mut ring: Ring<'static>, place: MfnRange, who: fmt::Arguments<'_>) {
    let mut log = LOG.lock();
    let now = log.backend.map_or(0, |b| (b.now_ns)());
    if let Some(early) = &log.ring {
        let (head, printed) = early.positions();
        let mut at = 0;
        // What another build left unprinted comes first; what this one has printed already is not printed again.
        let nothing_pending = ring.positions().0 == ring.positions().1;
        ring.start_line();
        let start = ring.head;
        write_line(&mut ring, now, format_args!("log: {who}"));
        while at < head {
            let (piece, next) = early.piece(at);
            ring.push(piece);
            at = next;
        }
        if nothing_pending {
            ring.printed = if printed == 0 { start } else { ring.head - (head - printed) };
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

/// From now on the console is served by [`pump`], and nobody waits for it.
pub fn pace() {
    LOG.lock().paced = true;
}

/// Prints all there is, and waits for it: the machine is about to end.
pub fn drain() {
    let mut log = LOG.lock();
    (log.held, log.paced) = (false, false);
    log.flush();
}

/// Offers the console more of what it has not printed yet; true if something is left that it could have.
pub fn pump() -> bool {
    let mut log = LOG.lock();
    if !log.has_more() {
        return false;
    }
    log.flush();
    !log.held && log.has_more()
}

/// True if [`pump`] has something to do.
pub fn is_behind() -> bool {
    let log = LOG.lock();
    !log.held && log.has_more()
}

/// Bytes that guests may add now.
pub fn room() -> usize {
    GUESTS_AHEAD.saturating_sub(LOG.lock().backlog()) as usize
}

/// Adds bytes as they are: those of the guest that the operator talks to.
pub fn raw(bytes: &[u8]) {
    let mut log = LOG.lock();
    if let Some(ring) = &mut log.ring {
        ring.push(bytes);
    }
    log.flush();
}

/// Adds lines that end with `\n`, on a fresh line.
pub fn lines(text: &[u8]) {
    let mut log = LOG.lock();
    if let Some(ring) = &mut log.ring {
        ring.start_line();
        ring.push_text(text);
    }
    log.flush();
}

/// Adds a line of a guest, or a piece of one, behind the mark of whose it is. A piece that goes on where an earlier one ended (`continues` is what
/// this function gave then) is joined to it if nothing has come between. The result is for the piece behind this one.
pub fn guest(mark: &[u8], text: &[u8], ends: bool, continues: Option<u64>) -> u64 {
    let mut log = LOG.lock();
    let Some(ring) = &mut log.ring else { return 0 };
    if continues != Some(ring.head) {
        ring.start_line();
        ring.push(mark);
    }
    ring.push(text);
    if ends {
        ring.push(b"\r\n");
    }
    let head = ring.head;
    log.flush();
    head
}

struct Line<'a>(&'a mut Ring<'static>);

impl Write for Line<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.push_text(s.as_bytes());
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
        write_line(ring, now, text);
    }
    log.flush();
}

fn write_line(ring: &mut Ring<'static>, now_ns: u64, text: fmt::Arguments<'_>) {
    let micros = now_ns / 1000;
    ring.start_line();
    // The ring takes everything: writing to it has no error.
    let _ = writeln!(Line(ring), "[{:5}.{:06}] {text}", micros / 1_000_000, micros % 1_000_000);
}

/// Shows the hypervisor's lines once more, as far as the log has them. They come behind what is not printed yet; what is logged from now on comes behind them.
pub fn list() {
    let mut log = LOG.lock();
    if log.listing.is_none()
        && let Some(ring) = &mut log.ring
    {
        ring.start_line();
        log.listing = Some(Listing::new(ring));
    }
    log.flush();
}

/// An update comes: what is left of a listing is not shown any more, which is said.
pub fn cut_listing() {
    let mut log = LOG.lock();
    let now = log.backend.map_or(0, |b| (b.now_ns)());
    if let (Some(listing), Some(ring)) = (log.listing.take(), &mut log.ring) {
        if listing.is_mid_line() {
            ring.push(b"\r\n");
        }
        write_line(ring, now, format_args!("log: the listing is cut off by an update"));
    }
}

/// For the panic handler alone: the lock may be held by whoever panicked, who will not come back.
pub fn break_lock() {
    if LOG.is_locked() {
        // The holder is this CPU, in the middle of the panic; the others never hold it across one.
        force_unlock();
    }
    let mut log = LOG.lock();
    (log.held, log.paced) = (false, false);
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
    fn what_is_offered_goes_on_where_it_was_taken_to() {
        let mut buf = [0; 8];
        let mut ring = Ring::new(&mut buf);
        let mut out = Vec::new();
        // Three bytes at a time, as a console that is slow would have it.
        let mut offer = |ring: &mut Ring<'_>, limit| {
            ring.offer(u64::MAX, limit, |bytes| {
                let n = bytes.len().min(3);
                out.extend_from_slice(&bytes[..n]);
                n
            })
        };
        ring.push(b"abcdef");
        assert_eq!(offer(&mut ring, 8), 3);
        ring.push(b"ghij");
        assert_eq!(offer(&mut ring, 2), 2);
        assert_eq!(ring.backlog(), 5);
        // The end of the buffer is no end of what is offered.
        assert_eq!((offer(&mut ring, 8), offer(&mut ring, 8)), (5, 0));
        assert_eq!(out, b"abcdefghij");
    }

    #[test]
    fn what_is_offered_ends_where_it_has_to() {
        let mut buf = [0; 8];
        let mut ring = Ring::new(&mut buf);
        ring.push(b"abcdefghij");
        let mut out = Vec::new();
        let mut take = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            bytes.len()
        };
        assert_eq!(ring.offer(5, 100, &mut take), 3, "the first two are overwritten");
        assert_eq!((ring.offer(5, 100, &mut take), ring.backlog()), (0, 5));
        assert_eq!(ring.offer(u64::MAX, 100, &mut take), 5);
        assert_eq!(out, b"cdefghij");
    }

    #[test]
    fn a_line_begins_on_a_fresh_one() {
        let mut buf = [0; 64];
        let mut ring = Ring::new(&mut buf);
        ring.start_line();
        ring.push_text(b"one\ntwo\n");
        ring.start_line();
        ring.push(b"/ # ");
        ring.start_line();
        ring.push_text(b"three\n");
        assert_eq!(printed(&mut ring), b"one\r\ntwo\r\n/ # \r\nthree\r\n");
    }

    #[test]
    fn printing_stops_with_what_may_be_left() {
        let mut buf = [0; 8];
        let mut ring = Ring::new(&mut buf);
        ring.push(b"abcdefghij");
        let mut out = Vec::new();
        ring.print_down_to(9, |b| out.extend_from_slice(b));
        // The oldest two bytes are gone; the rest comes in the pieces that the ring has.
        assert_eq!(out, b"cdefgh");
        assert_eq!(ring.backlog(), 2);
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
