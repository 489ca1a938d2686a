//! The command line of the next build.

use super::RegionSpec;
use crate::frame::MfnRange;
use core::fmt;
use core::fmt::Write;

/// The buffer for the incoming build's command line is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoesNotFit {
    /// Bytes that the line has.
    pub needed: usize,
    /// Bytes that the buffer has.
    pub capacity: usize,
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, capacity } = self;
        write!(f, "the command line for the next build has {needed} bytes, there is room for {capacity}")
    }
}

/// Counts everything, keeps what fits.
struct Buffer<'b> {
    bytes: &'b mut [u8],
    needed: usize,
}

impl fmt::Write for Buffer<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.needed.saturating_add(s.len());
        if let Some(place) = self.bytes.get_mut(self.needed..end) {
            place.copy_from_slice(s.as_bytes());
        }
        self.needed = end;
        Ok(())
    }
}

/// Writes the command line of the incoming build into `into`, without a NUL behind it: the outgoing one's words in their order, where
/// the first `liveupdate=` (or the end, if there is none) has become the exact `liveupdate=<size>@0x<start>` and further ones are gone.
pub fn write_incoming<'b>(outgoing: &str, region: MfnRange, into: &'b mut [u8]) -> Result<&'b str, DoesNotFit> {
    let capacity = into.len();
    let mut out = Buffer { bytes: into, needed: 0 };
    let exact = RegionSpec::exactly(region);
    let mut is_written = false;
    // Buffer's own write_str never fails, and nothing else here can.
    let mut put = |text: fmt::Arguments<'_>| {
        let gap = if out.needed == 0 { "" } else { " " };
        let _ = write!(out, "{gap}{text}");
    };
    for word in outgoing.split_ascii_whitespace() {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        if name != "liveupdate" {
            put(format_args!("{word}"));
        } else if !is_written {
            put(format_args!("{exact}"));
            is_written = true;
        }
    }
    if !is_written {
        put(format_args!("{exact}"));
    }
    let Buffer { bytes, needed } = out;
    let line = bytes.get(..needed).ok_or(DoesNotFit { needed, capacity })?;
    Ok(core::str::from_utf8(line).expect("whole words of a str, and digits"))
}
