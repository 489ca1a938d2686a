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
//! 2. One exception: a region is not guessed. A bad `liveupdate=` stays in [`Options`] as an error, and boot stops with it.
//! 3. An option given twice has the last value.
//! 4. Every duration is at most [`MAX_DURATION_NS`], so that sums with the system time cannot overflow.
//!
//! Read once, before there is memory to allocate. [`write_incoming`] makes the command line of the next build, which must find
//! the region at the very place where it is (DESIGN §3.3).

mod value;

use crate::frame::MfnRange;
use core::fmt;
use core::fmt::Write;
use value::{NumberFault, parse_u64};

pub use value::{BadRegionSpec, RegionSpec, ShortText, Size, SpecFault};

/// The longest time that an option may name: a day.
pub const MAX_DURATION_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
/// Bytes in the name of a built-in test.
pub const MAX_TEST_NAME: usize = 32;
/// Complaints that are kept; further ones are counted.
pub const MAX_COMPLAINTS: usize = 16;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_US: u64 = 1_000;

const NAMES: &str = "liveupdate, lu-updates, lu-first, lu-every, lu-deadline, finish, exit, expect, test and conswitch";

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
            Why::Unknown => write!(f, "there is no option `{option}`, it is ignored; the options are {NAMES}"),
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

/// The options in the order of [`NAMES`], as bits of what was seen.
#[derive(Clone, Copy)]
enum Name {
    LiveUpdate,
    LuUpdates,
    LuFirst,
    LuEvery,
    LuDeadline,
    Finish,
    Exit,
    Expect,
    Test,
    Conswitch,
}

impl Name {
    fn of(text: &str) -> Option<Self> {
        Some(match text {
            "liveupdate" => Self::LiveUpdate,
            "lu-updates" => Self::LuUpdates,
            "lu-first" => Self::LuFirst,
            "lu-every" => Self::LuEvery,
            "lu-deadline" => Self::LuDeadline,
            "finish" => Self::Finish,
            "exit" => Self::Exit,
            "expect" => Self::Expect,
            "test" => Self::Test,
            "conswitch" => Self::Conswitch,
            _ => return None,
        })
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
        let Some(name) = Name::of(option) else {
            let is_file_name = index == 0 && !word.contains('=');
            if !is_file_name {
                complain(Why::Unknown);
            }
            continue;
        };
        match set(&mut options, name, found) {
            Ok(()) => {
                let bit = 1 << name as u32;
                if seen & bit != 0 {
                    complain(Why::Duplicate);
                }
                seen |= bit;
            }
            Err(why) => complain(why),
        }
    }
    (options, complaints)
}

/// Takes one option's value, or leaves the former one in place.
fn set(options: &mut Options, name: Name, value: &str) -> Result<(), Why> {
    match name {
        Name::LiveUpdate => options.liveupdate = RegionSpec::parse(value).map(Some),
        Name::LuUpdates => options.lu_updates = number(value, u32::MAX, "updates")?,
        Name::LuFirst => options.lu_first_ns = duration(value, NS_PER_MS)?,
        Name::LuEvery => options.lu_every_ns = duration(value, NS_PER_MS)?,
        Name::LuDeadline => options.lu_deadline_ns = duration(value, NS_PER_US)?,
        Name::Finish => options.finish_ns = Some(duration(value, NS_PER_MS)?),
        Name::Exit => options.exit = one_of(value, "qemu", Exit::Qemu)?,
        Name::Expect => options.expect = one_of(value, "refuse", Expect::Refuse)?,
        Name::Test => {
            if value.is_empty() {
                return Err(Why::NoValue { expected: "the name of a built-in test" });
            }
            options.test = Some(ShortText::whole(value).ok_or(Why::TooLong { limit: MAX_TEST_NAME })?);
        }
        Name::Conswitch => options.switch_key = control_key(value)?,
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Mfn;
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::vec::Vec;
    use std::{format, vec};

    fn options(line: &str) -> Options {
        let (options, complaints) = parse(line);
        assert!(complaints.is_empty(), "{line}: {complaints:?}");
        options
    }

    fn complaints(line: &str) -> Vec<String> {
        parse(line).1.iter().map(|c| c.to_string()).collect()
    }

    #[test]
    fn every_option_is_understood() {
        let line = " /boot/luxen.elf liveupdate=64M@0x8000000\tlu-updates=6 lu-first=1000 lu-every=0 lu-deadline=0x10 \
                    finish=200 exit=qemu expect=refuse test=relocate-lists conswitch=b ";
        let expected = Options {
            liveupdate: Ok(Some(RegionSpec { len_bytes: 64 << 20, start: Some(0x800_0000) })),
            lu_updates: 6,
            lu_first_ns: 1_000_000_000,
            lu_every_ns: 0,
            lu_deadline_ns: 16_000,
            finish_ns: Some(200_000_000),
            exit: Exit::Qemu,
            expect: Expect::Refuse,
            test: ShortText::whole("relocate-lists"),
            switch_key: 2,
        };
        assert_eq!(options(line), expected);
        assert_eq!(options(""), Options::DEFAULT);
        assert_eq!(options("luxen"), Options::DEFAULT);
        // The defaults of the table above.
        assert_eq!(Options::DEFAULT.lu_first_ns, 500_000_000);
        assert_eq!(Options::DEFAULT.lu_every_ns, 300_000_000);
        assert_eq!(Options::DEFAULT.lu_deadline_ns, 100_000_000);
    }

    #[test]
    fn a_bad_region_is_kept_as_an_error() {
        let cases = [
            ("liveupdate=", SpecFault::SizeAbsent, ""),
            ("liveupdate", SpecFault::SizeAbsent, ""),
            ("liveupdate=@64M", SpecFault::SizeAbsent, "@64M"),
            ("liveupdate=64Q@1M", SpecFault::SizeNotANumber, "64Q"),
            ("liveupdate=9999999G", SpecFault::SizeTooLarge, "9999999G"),
            ("liveupdate=64M@", SpecFault::StartAbsent, "64M@"),
            ("liveupdate=64M@top", SpecFault::StartNotANumber, "top"),
            ("liveupdate=64M@1M@2M", SpecFault::StartNotANumber, "1M@2M"),
            ("liveupdate=64M@0x10000000000000", SpecFault::StartTooLarge, "0x10000000000000"),
        ];
        for (line, fault, found) in cases {
            let bad = options(line).liveupdate.unwrap_err();
            assert_eq!((bad.fault, bad.found.as_str()), (fault, found), "{line}");
            assert!(bad.to_string().contains("liveupdate=<size>@<start>"));
        }
        assert_eq!(
            options("liveupdate=64Q").liveupdate.unwrap_err().to_string(),
            "liveupdate=: the size `64Q` is not a number; write liveupdate=<size> or liveupdate=<size>@<start>, \
             such as 64M or 64M@0x8000000"
        );
        // The last one counts, for better or worse.
        assert!(parse("liveupdate=64M liveupdate=no").0.liveupdate.is_err());
        assert!(parse("liveupdate=no liveupdate=64M").0.liveupdate.is_ok());
    }

    #[test]
    fn complaints_say_what_was_found_and_what_to_do() {
        let cases: Vec<(&str, Vec<&str>)> = vec![
            ("lu-frist=5", vec!["no option `lu-frist`", "lu-first"]),
            ("luxen nonsense", vec!["no option `nonsense`"]),
            ("lu-first=5 lu-first=7", vec!["lu-first= is given more than once", "`7` counts", "leave the others out"]),
            ("lu-first=soon", vec!["lu-first=", "`soon` is ignored", "a number of milliseconds"]),
            ("lu-deadline=5ms", vec!["`5ms`", "a number of microseconds"]),
            ("lu-first=86400001", vec!["`86400001` is too large", "at most 86400000 milliseconds"]),
            ("lu-deadline=99999999999999999999999", vec!["at most 86400000000 microseconds"]),
            ("lu-updates=4294967296", vec!["at most 4294967295 updates"]),
            ("lu-updates=-1", vec!["`-1`", "a number"]),
            ("finish", vec!["finish= has no value", "milliseconds"]),
            ("exit=bochs", vec!["`bochs`", "expected qemu"]),
            ("expect=", vec!["expect= has no value", "refuse"]),
            ("test=", vec!["test= has no value"]),
            ("conswitch=", vec!["conswitch= has no value", "letter"]),
            ("conswitch=m", vec!["`m`", "none of h, i, j and m"]),
            ("conswitch=A", vec!["`A`", "from a to z"]),
            ("test=123456789012345678901234567890123", vec!["too long", "at most 32 bytes"]),
        ];
        for (line, parts) in cases {
            let found = complaints(line);
            assert_eq!(found.len(), 1, "{line}");
            for part in parts {
                assert!(found[0].contains(part), "{line}: {}: {part}", found[0]);
            }
        }
    }

    #[test]
    fn a_bad_value_leaves_the_former_one() {
        let (found, complaints) = parse("lu-first=7 lu-first=x lu-updates=3");
        assert_eq!((found.lu_first_ns, found.lu_updates), (7_000_000, 3));
        assert_eq!(complaints.nr_found(), 1);
        assert_eq!(parse("lu-first=7 lu-first=9").0.lu_first_ns, 9_000_000);
        assert_eq!(options("lu-first=86400000").lu_first_ns, MAX_DURATION_NS);
    }

    #[test]
    fn complaints_beyond_the_room_are_counted() {
        let line = "a=1 ".repeat(MAX_COMPLAINTS + 5);
        let (_, complaints) = parse(&line);
        assert_eq!(complaints.iter().count(), MAX_COMPLAINTS);
        assert_eq!((complaints.nr_found(), complaints.nr_dropped()), (MAX_COMPLAINTS + 5, 5));
    }

    fn region() -> MfnRange {
        MfnRange::new(Mfn::new(0x8000), 0x4000)
    }

    #[test]
    fn the_incoming_command_line_names_the_exact_region() {
        let cases = [
            ("", "liveupdate=64M@0x8000000"),
            ("  luxen.elf  exit=qemu ", "luxen.elf exit=qemu liveupdate=64M@0x8000000"),
            ("liveupdate=64M exit=qemu", "liveupdate=64M@0x8000000 exit=qemu"),
            ("a liveupdate=bad b liveupdate=1G@0 c", "a liveupdate=64M@0x8000000 b c"),
            ("liveupdate liveupdated=1", "liveupdate=64M@0x8000000 liveupdated=1"),
        ];
        for (outgoing, expected) in cases {
            let mut buffer = [0; 64];
            assert_eq!(write_incoming(outgoing, region(), &mut buffer), Ok(expected), "{outgoing}");
            let mut exact = vec![0; expected.len()];
            assert_eq!(write_incoming(outgoing, region(), &mut exact), Ok(expected));
            let mut short = vec![0; expected.len() - 1];
            let refused = DoesNotFit { needed: expected.len(), capacity: expected.len() - 1 };
            assert_eq!(write_incoming(outgoing, region(), &mut short), Err(refused));
        }
        let odd = RegionSpec::exactly(MfnRange::new(Mfn::new(1), 3));
        assert_eq!(odd.to_string(), "liveupdate=12K@0x1000");
    }

    fn word() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "liveupdate",
            "lu-updates",
            "lu-first",
            "lu-every",
            "lu-deadline",
            "finish",
            "exit",
            "expect",
            "test",
            "conswitch",
            "luxen",
            "",
        ]);
        let value = prop_oneof![
            "[0-9]{1,6}[KMG]?".boxed(),
            "0x[0-9a-f]{1,8}".boxed(),
            "[0-9]{1,3}M@[0-9]{1,4}M".boxed(),
            "\\PC{0,40}".boxed(),
            "[a-z]".boxed(),
            Just(String::from("qemu")).boxed(),
            Just(String::from("refuse")).boxed(),
        ];
        (name, value, any::<bool>()).prop_map(|(n, v, sign)| if sign { format!("{n}={v}") } else { format!("{n}{v}") })
    }

    proptest! {
        #[test]
        fn any_line_is_answered(line in "\\PC{0,200}") {
            let (options, complaints) = parse(&line);
            prop_assert!(options.lu_first_ns <= MAX_DURATION_NS);
            for complaint in complaints.iter() {
                prop_assert!(complaint.to_string().contains(complaint.option));
            }
        }

        #[test]
        fn each_word_counts_once_and_the_last_wins(words in prop::collection::vec(word(), 0..12)) {
            // The model takes the words one by one, each as a line of its own behind a file name.
            let line = format!("luxen {}", words.join(" "));
            let (all, complaints) = parse(&line);
            let mut model = Options::DEFAULT;
            let mut nr_bad = 0;
            let mut taken = Vec::new();
            for word in line.split_ascii_whitespace().skip(1) {
                let single = format!("luxen {word}");
                let (one, wrong) = parse(&single);
                if !wrong.is_empty() {
                    nr_bad += 1;
                    continue;
                }
                let name = word.split('=').next().unwrap();
                nr_bad += usize::from(taken.contains(&name));
                taken.push(name);
                match name {
                    "liveupdate" => model.liveupdate = one.liveupdate,
                    "lu-updates" => model.lu_updates = one.lu_updates,
                    "lu-first" => model.lu_first_ns = one.lu_first_ns,
                    "lu-every" => model.lu_every_ns = one.lu_every_ns,
                    "lu-deadline" => model.lu_deadline_ns = one.lu_deadline_ns,
                    "finish" => model.finish_ns = one.finish_ns,
                    "exit" => model.exit = one.exit,
                    "expect" => model.expect = one.expect,
                    "test" => model.test = one.test,
                    "conswitch" => model.switch_key = one.switch_key,
                    other => prop_assert!(false, "{} was taken without complaint", other),
                }
            }
            prop_assert_eq!(all, model);
            prop_assert_eq!(complaints.nr_found(), nr_bad);
        }

        #[test]
        fn the_incoming_build_reads_the_same_but_for_the_region(words in prop::collection::vec(word(), 0..12)) {
            let line = words.join(" ");
            let mut buffer = vec![0; line.len() + 64];
            let incoming = String::from(write_incoming(&line, region(), &mut buffer).unwrap());
            let expected = Options { liveupdate: Ok(Some(RegionSpec::exactly(region()))), ..parse(&line).0 };
            prop_assert_eq!(parse(&incoming).0, expected);
            // For ever: the line does not grow from update to update.
            let again = write_incoming(&incoming, region(), &mut buffer).unwrap();
            prop_assert_eq!(again, &incoming);
        }
    }
}
