//! The verdict of a test run: SUCCESS < SKIP < ERROR < FAILURE, the worst stays, the last line says it.

use core::sync::atomic::{AtomicU8, Ordering};

/// How a run ended. Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Everything asked for was done and checked.
    Success = 0,
    /// The machine cannot run this test.
    Skip = 1,
    /// The test itself went wrong.
    Error = 2,
    /// What was tested is wrong.
    Failure = 3,
}

impl Verdict {
    /// The value for the debug-exit device.
    pub const fn exit_value(self) -> u32 {
        match self {
            Self::Success => 0x10,
            Self::Failure => 0x11,
            Self::Error => 0x12,
            Self::Skip => 0x13,
        }
    }
}

impl Verdict {
    /// The last line of a run.
    pub const fn last_line(self) -> &'static str {
        match self {
            Self::Success => "verdict: SUCCESS\n",
            Self::Skip => "verdict: SKIP\n",
            Self::Error => "verdict: ERROR\n",
            Self::Failure => "verdict: FAILURE\n",
        }
    }
}

static WORST: AtomicU8 = AtomicU8::new(0);

/// Notes a verdict; the worst so far stays.
pub fn note(verdict: Verdict) {
    WORST.fetch_max(verdict as u8, Ordering::Relaxed);
}

/// The worst verdict noted so far.
pub fn worst() -> Verdict {
    match WORST.load(Ordering::Relaxed) {
        0 => Verdict::Success,
        1 => Verdict::Skip,
        2 => Verdict::Error,
        _ => Verdict::Failure,
    }
}
