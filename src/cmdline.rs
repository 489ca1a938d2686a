//! The hypervisor's command line.
//!
//! Words separated by white space, each `name=value`:
//!
//! | option | value | without it |
//! |---|---|---|
//! | `liveupdate=` | `<size>[@<start>]`, the region | size and place are chosen |
//! | `lu-updates=` | number of updates that are triggered by themselves | 0 |
//! | `lu-first=` | milliseconds until the first of them | 500 |
//! | `lu-every=` | milliseconds from one to the next; 0: as soon as the last is over | 300 |
//! | `lu-deadline=` | microseconds that the vCPUs have to come to rest | 100000 |
//! | `lu-key=` | who must have signed a next image: `none`, or keys, see [`crate::trust`] | the key that was built in |
//! | `lu-fail=` | `stop` or `reset`: what the machine does with an update that cannot be taken up | stop |
//! | `badpage=` | `<mfn>[-<mfn>][,...]`, frames that are never used, the last one included; at most 16 ranges | none |
//! | `lu-stream=` | `<version>[,<version>...]`, stream versions that the updates are written in by turns, from the cold boot on | the newest that the next image reads |
//! | `finish=` | milliseconds after the last of these updates when the guests are asked to finish | never |
//! | `exit=` | `qemu`: end the machine with a verdict when all domains are down | stay |
//! | `expect=` | `refuse`: the updates must be refused | they must succeed |
//! | `test=` | name of a built-in machine test | none |
//! | `conswitch=` | letter that, with Ctrl, moves the console's focus | a |
//!
//! Numbers are decimal, or hexadecimal behind `0x`; sizes and addresses may end in `K`, `M` or `G`. The first word may be the image's
//! file name, which QEMU's loader puts there: it has no `=` and is passed over.
//!
//! 1. Parsing never fails: what is wrong becomes a [`Complaint`] to print, and the option keeps its former value.
//! 2. Two exceptions: a region is not guessed, nor is a key. A bad `liveupdate=` stays in [`Options`] as an error, and boot stops with it; with a
//!    bad `lu-key=` nobody is trusted.
//! 3. An option given twice has the last value.
//! 4. Every duration is at most [`MAX_DURATION_NS`], so that sums with the system time cannot overflow.
//!
//! Read once, before there is memory to allocate. [`write_incoming`] makes the command line of the next build, which must find
//! the region at the very place where it is (DESIGN §3.3).

mod incoming;
mod value;

use crate::trust::KeyOption;
use core::fmt;
use value::{NumberFault, parse_u64};

pub use incoming::{DoesNotFit, write_incoming};
pub use value::{BadPages, BadRegionSpec, MAX_BAD_RANGES, RegionSpec, ShortText, Size, SpecFault, Turns};

/// The longest time that an option may name: a day.
pub const MAX_DURATION_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
/// Bytes in the name of a built-in test.
pub const MAX_TEST_NAME: usize = 32;
/// Complaints that are kept; further ones are counted.
pub const MAX_COMPLAINTS: usize = 16;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_US: u64 = 1_000;

/// How the machine ends when all domains are down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It stays.
    Stay,
    /// A verdict line, and the verdict's value to QEMU's debug exit port.
    Qemu,
}

/// What is expected of the updates that are triggered by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// They succeed.
    Success,
    /// Each is refused, and the guests go on.
    Refuse,
}

/// What the machine does when an update cannot be taken up: guests are in memory, and nobody runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It stands still, for a debugger.
    Stop,
    /// It is reset, and boots cold.
    Reset,
}

/// Everything that the command line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The region asked for; nothing if it was not asked for; an error that boot stops with.
    pub liveupdate: Result<Option<RegionSpec>, BadRegionSpec>,
    /// Updates to trigger without being asked.
    pub lu_updates: u32,
    /// Time of the first of them.
    pub lu_first_ns: u64,
    /// Time from one to the next; 0: the next as soon as the last is over.
    pub lu_every_ns: u64,
    /// Time that the vCPUs have to come to rest.
    pub lu_deadline_ns: u64,
    /// Who must have signed a next image.
    pub lu_key: KeyOption,
    /// What happens to an update that cannot be taken up.
    pub lu_fail: OnFailure,
    /// Frames that are never to be used.
    pub badpage: BadPages,
    /// The stream versions that the updates are written in, if it is not for the next image to say.
    pub lu_stream: Option<Turns>,
    /// Time after the last of these updates, or after boot if there are none, when the guests are asked to finish.
    pub finish_ns: Option<u64>,
    /// What happens when all domains are down.
    pub exit: Exit,
    /// What these updates are expected to do.
    pub expect: Expect,
    /// The built-in test to run.
    pub test: Option<ShortText<MAX_TEST_NAME>>,
    /// The key that moves the console's focus: a control character.
    pub switch_key: u8,
}

impl Options {
    /// What holds for an empty command line.
    pub const DEFAULT: Self = Self {
        liveupdate: Ok(None),
        lu_updates: 0,
        lu_first_ns: 500 * NS_PER_MS,
        lu_every_ns: 300 * NS_PER_MS,
        lu_deadline_ns: 100_000 * NS_PER_US,
        lu_key: KeyOption::BuiltIn,
        lu_fail: OnFailure::Stop,
        badpage: BadPages::NONE,
        lu_stream: None,
        finish_ns: None,
        exit: Exit::Stay,
        expect: Expect::Success,
        test: None,
        switch_key: 1,
    };
}

/// What is wrong with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no option of that name.
    Unknown,
    /// It was given before; the value complained about is the one that counts.
    Duplicate,
    /// Its value is missing.
    NoValue {
        /// What the value should be.
        expected: &'static str,
    },
    /// Its value cannot be understood.
    BadValue {
        /// What the value should be.
        expected: &'static str,
    },
    /// Its value is too large.
    TooLarge {
        /// The largest value.
        limit: u64,
        /// What the value counts.
        unit: &'static str,
    },
    /// Its value is too long.
    TooLong {
        /// The most bytes it may have.
        limit: usize,
    },
}

/// Something in the command line that is wrong and does not stop the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint<'a> {
    /// The option's name.
    pub option: &'a str,
    /// The value found, empty if there is none.
    pub found: &'a str,
    /// What is wrong.
    pub why: Why,
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, found, why } = self;
        match why {
            Why::Unknown => write!(f, "there is no option `{option}`, it is ignored; the options are {Names}"),
            Why::Duplicate => {
                write!(f, "{option}= is given more than once, the last value `{found}` counts; leave the others out")
            }
            Why::NoValue { expected } => write!(f, "{option}= has no value, it is ignored; give it {expected}"),
            Why::BadValue { expected } => {
                write!(f, "{option}=: the value `{found}` is ignored; expected {expected}")
            }
            Why::TooLarge { limit, unit } => {
                write!(f, "{option}=: the value `{found}` is too large and ignored; at most {limit} {unit}")
            }
            Why::TooLong { limit } => {
                write!(f, "{option}=: the value `{found}` is too long and ignored; at most {limit} bytes")
            }
        }
    }
}

/// The first complaints, in the order of the command line, and how many more there were.
#[derive(Clone, Copy, Debug)]
pub struct Complaints<'a> {
    kept: [Option<Complaint<'a>>; MAX_COMPLAINTS],
    nr_found: usize,
}

impl<'a> Complaints<'a> {
    const NONE: Self = Self { kept: [None; MAX_COMPLAINTS], nr_found: 0 };

    fn add(&mut self, complaint: Complaint<'a>) {
        if let Some(slot) = self.kept.get_mut(self.nr_found) {
            *slot = Some(complaint);
        }
        self.nr_found = self.nr_found.saturating_add(1);
    }

    /// Those that are kept.
    pub fn iter(&self) -> impl Iterator<Item = Complaint<'a>> + '_ {
        self.kept.iter().flatten().copied()
    }

    /// How many there were, kept or not.
    pub const fn nr_found(&self) -> usize {
        self.nr_found
    }

    /// How many there were beyond those that are kept.
    pub const fn nr_dropped(&self) -> usize {
        self.nr_found.saturating_sub(MAX_COMPLAINTS)
    }

    /// True if nothing was wrong.
    pub const fn is_empty(&self) -> bool {
        self.nr_found == 0
    }
}

/// An option: its name, and how its value gets into [`Options`].
type Known = (&'static str, fn(&mut Options, &str) -> Result<(), Why>);

/// All options, in the order of the table above.
const OPTIONS: [Known; 14] = [
    ("liveupdate", |o, value| {
        o.liveupdate = RegionSpec::parse(value).map(Some);
        Ok(())
    }),
    ("lu-updates", |o, value| put(&mut o.lu_updates, number(value, u32::MAX, "updates"))),
    ("lu-first", |o, value| put(&mut o.lu_first_ns, duration(value, NS_PER_MS))),
    ("lu-every", |o, value| put(&mut o.lu_every_ns, duration(value, NS_PER_MS))),
    ("lu-deadline", |o, value| put(&mut o.lu_deadline_ns, duration(value, NS_PER_US))),
    ("lu-key", |o, value| {
        o.lu_key = KeyOption::parse(value).unwrap_or(KeyOption::Bad);
        if o.lu_key == KeyOption::Bad { Err(Why::BadValue { expected: KeyOption::EXPECTED }) } else { Ok(()) }
    }),
    ("lu-fail", |o, value| put(&mut o.lu_fail, on_failure(value))),
    ("badpage", |o, value| put(&mut o.badpage, bad_pages(value))),
    ("lu-stream", |o, value| put(&mut o.lu_stream, turns(value).map(Some))),
    ("finish", |o, value| put(&mut o.finish_ns, duration(value, NS_PER_MS).map(Some))),
    ("exit", |o, value| put(&mut o.exit, one_of(value, "qemu", Exit::Qemu))),
    ("expect", |o, value| put(&mut o.expect, one_of(value, "refuse", Expect::Refuse))),
    ("test", |o, value| put(&mut o.test, test_name(value).map(Some))),
    ("conswitch", |o, value| put(&mut o.switch_key, control_key(value))),
];

// What was seen is kept as bits of a u32.
const _: () = assert!(OPTIONS.len() <= 32);

/// Takes an option's value, or leaves the former one in place.
fn put<T>(place: &mut T, value: Result<T, Why>) -> Result<(), Why> {
    *place = value?;
    Ok(())
}

/// The names of all options, for a complaint.
struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, _)) in OPTIONS.iter().enumerate() {
            let gap = match i {
                0 => "",
                _ if i + 1 == OPTIONS.len() => " and ",
                _ => ", ",
            };
            write!(f, "{gap}{name}")?;
        }
        Ok(())
    }
}

/// Reads the command line.
pub fn parse(line: &str) -> (Options, Complaints<'_>) {
    let mut options = Options::DEFAULT;
    let mut complaints = Complaints::NONE;
    let mut seen = 0u32;
    for (index, word) in line.split_ascii_whitespace().enumerate() {
        let (option, found) = word.split_once('=').unwrap_or((word, ""));
        let mut complain = |why| complaints.add(Complaint { option, found, why });
        let Some(place) = OPTIONS.iter().position(|(name, _)| *name == option) else {
            let is_file_name = index == 0 && !word.contains('=');
            if !is_file_name {
                complain(Why::Unknown);
            }
            continue;
        };
        let (_, set) = OPTIONS[place];
        match set(&mut options, found) {
            Ok(()) => {
                if seen & (1 << place) != 0 {
                    complain(Why::Duplicate);
                }
                seen |= 1 << place;
            }
            Err(why) => complain(why),
        }
    }
    (options, complaints)
}

fn test_name(value: &str) -> Result<ShortText<MAX_TEST_NAME>, Why> {
    if value.is_empty() {
        return Err(Why::NoValue { expected: "the name of a built-in test" });
    }
    ShortText::whole(value).ok_or(Why::TooLong { limit: MAX_TEST_NAME })
}

/// The control character of a letter. Those that a line editor cannot do without are refused.
fn control_key(value: &str) -> Result<u8, Why> {
    let expected = "a letter from a to z, but none of h, i, j and m";
    match value.as_bytes() {
        [] => Err(Why::NoValue { expected }),
        [b'h' | b'i' | b'j' | b'm'] => Err(Why::BadValue { expected }),
        [letter @ b'a'..=b'z'] => Ok(letter & 0x1f),
        _ => Err(Why::BadValue { expected }),
    }
}

fn bad_pages(value: &str) -> Result<BadPages, Why> {
    let expected = "<mfn>[-<mfn>][,...], at most 16 of them";
    if value.is_empty() {
        return Err(Why::NoValue { expected });
    }
    BadPages::parse(value).ok_or(Why::BadValue { expected })
}

fn on_failure(value: &str) -> Result<OnFailure, Why> {
    let expected = "stop or reset";
    match value {
        "" => Err(Why::NoValue { expected }),
        "stop" => Ok(OnFailure::Stop),
        "reset" => Ok(OnFailure::Reset),
        _ => Err(Why::BadValue { expected }),
    }
}

/// Numbers that take turns.
fn turns(value: &str) -> Result<Turns, Why> {
    let expected = "stream versions from 1 to 255 behind commas, eight at the most";
    match value {
        "" => Err(Why::NoValue { expected }),
        _ => Turns::parse(value).ok_or(Why::BadValue { expected }),
    }
}

/// The only word that an option knows so far.
fn one_of<T>(value: &str, word: &'static str, meaning: T) -> Result<T, Why> {
    match value {
        "" => Err(Why::NoValue { expected: word }),
        _ if value == word => Ok(meaning),
        _ => Err(Why::BadValue { expected: word }),
    }
}

fn number(value: &str, limit: u32, unit: &'static str) -> Result<u32, Why> {
    let number = bounded(value, u64::from(limit), unit, "a number, decimal or hexadecimal behind 0x")?;
    u32::try_from(number).map_err(|_| Why::TooLarge { limit: u64::from(limit), unit })
}

/// A time given in units of `unit_ns`, in nanoseconds.
fn duration(value: &str, unit_ns: u64) -> Result<u64, Why> {
    let (unit, expected) = match unit_ns {
        NS_PER_US => ("microseconds", "a number of microseconds"),
        _ => ("milliseconds", "a number of milliseconds"),
    };
    Ok(bounded(value, MAX_DURATION_NS / unit_ns, unit, expected)? * unit_ns)
}

fn bounded(value: &str, limit: u64, unit: &'static str, expected: &'static str) -> Result<u64, Why> {
    match parse_u64(value) {
        Ok(number) if number <= limit => Ok(number),
        Ok(_) | Err(NumberFault::TooLarge) => Err(Why::TooLarge { limit, unit }),
        Err(NumberFault::Absent) => Err(Why::NoValue { expected }),
        Err(NumberFault::NotANumber) => Err(Why::BadValue { expected }),
    }
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
