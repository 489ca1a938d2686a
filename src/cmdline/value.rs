//! The values of options: short texts, numbers, sizes, and the region as it was asked for.

use crate::frame::{MADDR_BITS, MfnRange, PAGE_SHIFT};
use core::fmt;

/// A short text by value. What does not fit is cut off at the end of a character.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortText<const N: usize> {
    bytes: [u8; N],
    len: usize,
    cut: bool,
}

impl<const N: usize> ShortText<N> {
    /// As much of `text` as fits.
    pub fn cut_from(text: &str) -> Self {
        let len = (0..=N.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let mut bytes = [0; N];
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes, len, cut: len < text.len() }
    }

    /// All of `text`, if it fits.
    pub fn whole(text: &str) -> Option<Self> {
        Some(Self::cut_from(text)).filter(|short| !short.cut)
    }

    /// The text that is kept.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).expect("cut at the end of a character")
    }
}

impl<const N: usize> fmt::Debug for ShortText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for ShortText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        if self.cut { f.write_str("...") } else { Ok(()) }
    }
}

/// Ranges of frames that an option may name.
pub const MAX_BAD_RANGES: usize = 16;

/// Frames that are not to be used, as they were named: in any order, perhaps more than once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadPages {
    ranges: [MfnRange; MAX_BAD_RANGES],
    len: usize,
}

impl BadPages {
    /// No frames.
    pub const NONE: Self = Self { ranges: [MfnRange::EMPTY; MAX_BAD_RANGES], len: 0 };

    /// Reads `<mfn>[-<mfn>][,...]`; both ends of a range are in it, as with Xen's option.
    pub fn parse(value: &str) -> Option<Self> {
        let mut all = Self::NONE;
        for part in value.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_u64(first).ok()?, parse_u64(last).ok()?);
            let range = MfnRange::between(first, last.checked_add(1)?).filter(|range| !range.is_empty())?;
            *all.ranges.get_mut(all.len)? = range;
            all.len += 1;
        }
        Some(all)
    }

    /// The ranges, none empty.
    pub fn ranges(&self) -> &[MfnRange] {
        &self.ranges[..self.len]
    }
}

/// Small numbers that take turns: `1,2` is 1, 2, 1, 2 and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    numbers: [u8; Self::MAX],
    len: usize,
}

impl Turns {
    /// The most numbers.
    pub const MAX: usize = 8;

    /// Numbers from 1 to 255 behind commas.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut turns = Self { numbers: [0; Self::MAX], len: 0 };
        for word in text.split(',') {
            let number = parse_u64(word).ok().and_then(|number| u8::try_from(number).ok())?;
            *turns.numbers.get_mut(turns.len)? = Some(number).filter(|&number| number != 0)?;
            turns.len += 1;
        }
        Some(turns)
    }

    /// The number whose turn it is the `turn`th time; the first time is 1.
    pub fn of(&self, turn: u64) -> u32 {
        let index = turn.saturating_sub(1) % self.len as u64;
        self.numbers[index as usize].into()
    }
}

/// A length or an address, printed as one types it: with the largest suffix that loses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(
    /// Bytes.
    pub u64,
);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A region as it was asked for: well formed, not yet known to be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Length.
    pub len_bytes: u64,
    /// First byte, if the place is fixed.
    pub start: Option<u64>,
}

impl RegionSpec {
    /// The spec that names exactly these frames.
    pub const fn exactly(range: MfnRange) -> Self {
        Self { len_bytes: range.len_bytes(), start: Some(range.start() << PAGE_SHIFT) }
    }

    /// Takes the value of `liveupdate=`.
    pub fn parse(value: &str) -> Result<Self, BadRegionSpec> {
        let bad = |part: &str, fault| BadRegionSpec { found: ShortText::cut_from(part), fault };
        let (size, start) = match value.split_once('@') {
            Some((size, start)) => (size, Some(start)),
            None => (value, None),
        };
        let len_bytes = match parse_size(size) {
            Ok(len_bytes) => len_bytes,
            Err(NumberFault::Absent) => return Err(bad(value, SpecFault::SizeAbsent)),
            Err(NumberFault::NotANumber) => return Err(bad(size, SpecFault::SizeNotANumber)),
            Err(NumberFault::TooLarge) => return Err(bad(size, SpecFault::SizeTooLarge)),
        };
        let start = match start.map(parse_size) {
            None => None,
            Some(Ok(start)) => Some(start),
            Some(Err(NumberFault::Absent)) => return Err(bad(value, SpecFault::StartAbsent)),
            Some(Err(fault)) => {
                let part = start.unwrap_or_default();
                let too_large = fault == NumberFault::TooLarge;
                return Err(bad(part, if too_large { SpecFault::StartTooLarge } else { SpecFault::StartNotANumber }));
            }
        };
        Ok(Self { len_bytes, start })
    }
}

/// Prints the option as it is typed.
impl fmt::Display for RegionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "liveupdate={}", Size(self.len_bytes))?;
        match self.start {
            Some(start) => write!(f, "@{start:#x}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with the form of a `liveupdate=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecFault {
    /// There is nothing where the size should be.
    SizeAbsent,
    /// The size is not a number with a suffix.
    SizeNotANumber,
    /// The size is larger than any memory.
    SizeTooLarge,
    /// There is nothing behind the `@`.
    StartAbsent,
    /// The start is not a number with a suffix.
    StartNotANumber,
    /// The start lies behind the last machine address.
    StartTooLarge,
}

/// A `liveupdate=` that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRegionSpec {
    /// The part that is wrong, or the whole value if a part is absent.
    pub found: ShortText<48>,
    /// What is wrong with it.
    pub fault: SpecFault,
}

impl fmt::Display for BadRegionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, fault } = self;
        f.write_str("liveupdate=: ")?;
        match fault {
            SpecFault::SizeAbsent => write!(f, "`{found}` has no size"),
            SpecFault::SizeNotANumber => write!(f, "the size `{found}` is not a number"),
            SpecFault::SizeTooLarge => write!(f, "the size `{found}` is larger than any memory"),
            SpecFault::StartAbsent => write!(f, "`{found}` has no start behind the @"),
            SpecFault::StartNotANumber => write!(f, "the start `{found}` is not a number"),
            SpecFault::StartTooLarge => write!(f, "the start `{found}` is behind all memory"),
        }?;
        f.write_str("; write liveupdate=<size> or liveupdate=<size>@<start>, such as 64M or 64M@0x8000000")
    }
}

/// Why a text is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberFault {
    /// There is no text.
    Absent,
    /// Something else than digits.
    NotANumber,
    /// More than the type or the machine can have.
    TooLarge,
}

/// Decimal, or hexadecimal behind `0x`; no sign, no separators.
pub(super) fn parse_u64(text: &str) -> Result<u64, NumberFault> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((text, 10), |digits| (digits, 16));
    if text.is_empty() {
        return Err(NumberFault::Absent);
    }
    // The digits are checked first: from_str_radix would take a sign.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberFault::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| NumberFault::TooLarge)
}

/// A number that may end in K, M or G (of either case), in bytes; at most the last machine address.
fn parse_size(text: &str) -> Result<u64, NumberFault> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if digits.is_empty() && shift != 0 {
        return Err(NumberFault::NotANumber);
    }
    let bytes = parse_u64(digits)?.checked_mul(1 << shift).ok_or(NumberFault::TooLarge)?;
    if bytes < 1 << MADDR_BITS { Ok(bytes) } else { Err(NumberFault::TooLarge) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn sizes() {
        let cases = [
            ("0", Ok(0)),
            ("4096", Ok(4096)),
            ("0x1000", Ok(4096)),
            ("0X1000", Ok(4096)),
            ("64M", Ok(64 << 20)),
            ("64m", Ok(64 << 20)),
            ("0x40M", Ok(64 << 20)),
            ("2K", Ok(2048)),
            ("3g", Ok(3 << 30)),
            ("4194303G", Ok(4_194_303 << 30)),
            ("4194304G", Err(NumberFault::TooLarge)),
            ("0xffffffffffffffff", Err(NumberFault::TooLarge)),
            ("99999999999999999999999", Err(NumberFault::TooLarge)),
            ("18014398509481984K", Err(NumberFault::TooLarge)),
            ("", Err(NumberFault::Absent)),
            ("M", Err(NumberFault::NotANumber)),
            ("0x", Err(NumberFault::NotANumber)),
            ("0xM", Err(NumberFault::NotANumber)),
            ("+5", Err(NumberFault::NotANumber)),
            ("-5", Err(NumberFault::NotANumber)),
            ("1_000", Err(NumberFault::NotANumber)),
            ("64MB", Err(NumberFault::NotANumber)),
            ("64MM", Err(NumberFault::NotANumber)),
            ("1.5G", Err(NumberFault::NotANumber)),
            ("6٤M", Err(NumberFault::NotANumber)),
            ("64é", Err(NumberFault::NotANumber)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    #[test]
    fn short_texts_are_cut_between_characters() {
        assert_eq!(ShortText::<3>::cut_from("aéb").to_string(), "aé...");
        assert_eq!(ShortText::<2>::cut_from("aéb").to_string(), "a...");
        assert_eq!(ShortText::<4>::cut_from("aéb").to_string(), "aéb");
        assert_eq!(ShortText::<0>::whole("a"), None);
    }

    proptest! {
        #[test]
        fn a_spec_prints_as_it_is_read(len_bytes in 0..1u64 << MADDR_BITS, start in prop::option::of(0..1u64 << MADDR_BITS), shift in 0..40u32) {
            let spec = RegionSpec { len_bytes: len_bytes >> shift << shift, start };
            let text = spec.to_string();
            prop_assert_eq!(RegionSpec::parse(text.strip_prefix("liveupdate=").unwrap()), Ok(spec));
        }
    }
}
