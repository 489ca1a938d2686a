//! What an attempt comes to, what is due, and the comparison of the two.

use core::fmt::{self, Write};

use luxen_guests::abi::Errno;
use luxen_guests::grant::Status;

/// What an attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A value: a hypercall's, or what was found afterwards.
    Is(u64),
    /// A hypercall was refused.
    No(Errno),
    /// A grant operation's own status.
    Grant(Status),
    /// An exception, with its error code.
    Trap(u64, u64),
}

/// Nothing to object to.
pub const FINE: Answer = Answer::Is(0);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Is(value) => write!(f, "{value:#x}"),
            Answer::No(errno) => write!(f, "{errno}"),
            Answer::Grant(status) => write!(f, "{status}"),
            Answer::Trap(FAILSAFE, _) => f.write_str("the failsafe callback"),
            Answer::Trap(vector, error) => write!(f, "exception {vector} with error {error:#x}"),
        }
    }
}

/// Not a vector: the failsafe callback.
pub const FAILSAFE: u64 = 0x102;
/// An instruction that only ring 0 has.
pub const GENERAL_PROTECTION: Answer = Answer::Trap(13, 0);
/// A write that the page tables do not allow.
pub const WRITE_FAULT: Answer = Answer::Trap(14, 3);

impl From<Result<u64, Errno>> for Answer {
    fn from(outcome: Result<u64, Errno>) -> Self {
        match outcome {
            Ok(value) => Answer::Is(value),
            Err(errno) => Answer::No(errno),
        }
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Answer::Grant(status)
    }
}

/// Compares, counts, and ends the guest at the first difference.
pub struct Judge {
    inverted: Option<&'static str>,
    has_inverted: bool,
    nr: u64,
}

impl Judge {
    /// `inverted` names the attempt whose expectation is turned round: then it must not come to what is due.
    pub fn new(inverted: Option<&'static str>) -> Self {
        Judge { inverted, has_inverted: false, nr: 0 }
    }

    /// Attempts so far.
    pub fn nr(&self) -> u64 {
        self.nr
    }

    /// Fails unless the attempt came to what is due.
    pub fn check(&mut self, name: fmt::Arguments<'_>, found: Answer, due: Answer) {
        self.nr += 1;
        if self.inverted.is_some_and(|slug| is_called(name, slug)) {
            self.has_inverted = true;
            assert!(found != due, "{name}: came to {found}, which must not be");
            return;
        }
        assert!(found == due, "{name}: came to {found}, {due} is due");
    }

    /// Fails if an expectation was to be turned round, and no attempt has the name.
    pub fn finish_round(&self) {
        if let Some(slug) = self.inverted {
            assert!(self.has_inverted, "no attempt is called {slug}");
        }
    }
}

/// Whether a name, with a dash for all that is neither letter nor digit, is this one.
fn is_called(name: fmt::Arguments<'_>, slug: &str) -> bool {
    let mut rest = Rest(slug.as_bytes());
    rest.write_fmt(name).is_ok() && rest.0.is_empty()
}

/// What of a slug has not been seen in a name yet.
struct Rest<'a>(&'a [u8]);

impl Write for Rest<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            let byte = if byte.is_ascii_alphanumeric() { byte } else { b'-' };
            match self.0 {
                [first, rest @ ..] if *first == byte => self.0 = rest,
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}
