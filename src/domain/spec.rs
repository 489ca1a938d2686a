//! Module strings: what the words behind a boot module ask for.
//!
//! ```text
//! guest name=<s> memory=<size> [maxmem=<size>] [vcpus=1] [privileged] [count=<n>] [create=later] [ramdisk=<module name>] [peer=<name>]
//!       [extents=<n>] [store=empty] [-- guest command line]
//! image name=<s>
//! ramdisk name=<s>
//! ```
//!
//! Words in front of the class word are ignored, because QEMU's loader puts the module's file name there. A size is a
//! number, decimal or `0x` hexadecimal, with an optional `K`, `M` or `G`. What a string says is checked here and
//! nowhere else; whether the named ramdisk or peer exists is for whoever has all the modules to say.

use core::fmt;

use crate::frame::{DomId, PAGE_SIZE, Pfn};
use crate::xen::hypercall::pv::LEGACY_MAX_VCPUS;

/// The least memory that a guest may be given, in bytes.
pub const MEMORY_MIN_BYTES: u64 = 1 << 20;
/// The first amount of memory that is too much, in bytes.
pub const MEMORY_LIMIT_BYTES: u64 = Pfn::LIMIT * PAGE_SIZE;
/// The most vCPUs of a guest: those that have a vcpu_info in the shared page.
pub const VCPUS_MAX: u32 = LEGACY_MAX_VCPUS as u32;
/// The longest name, in bytes.
pub const NAME_MAX_BYTES: usize = 64;
/// The longest guest command line: start_info has room for this and a zero.
pub const COMMAND_LINE_MAX_BYTES: usize = 1023;
/// The most guests of one module: there are no more domain numbers.
pub const COUNT_MAX: u32 = DomId::FIRST_RESERVED as u32 - 1;

/// What a boot module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleSpec<'a> {
    /// A guest's kernel.
    Guest(GuestSpec<'a>),
    /// A next build of the hypervisor.
    Image {
        /// What it is called.
        name: &'a str,
    },
    /// A ramdisk that guests refer to.
    Ramdisk {
        /// What it is called.
        name: &'a str,
    },
}

/// What a guest is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestSpec<'a> {
    /// What it is called; with `count` above 1, the stem of the names.
    pub name: &'a str,
    /// Memory in bytes, whole pages.
    pub memory_bytes: u64,
    /// The most memory that it may grow to, in bytes, whole pages.
    pub maxmem_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// May manage other domains and the hypervisor.
    pub is_privileged: bool,
    /// How many guests to make of this module.
    pub count: u32,
    /// When to make them.
    pub create: Create,
    /// Name of the ramdisk module.
    pub ramdisk: Option<&'a str>,
    /// Name of the guest that it exchanges events with.
    pub peer: Option<&'a str>,
    /// Separate extents that its memory is to be made of, at least.
    pub extents: u64,
    /// What its store ring is connected to.
    pub store: Store,
    /// What stands behind `--`.
    pub command_line: &'a str,
}

impl GuestSpec<'_> {
    /// Memory in pages.
    pub const fn nr_pages(&self) -> u64 {
        self.memory_bytes / PAGE_SIZE
    }

    /// The most memory that it may grow to, in pages.
    pub const fn max_pages(&self) -> u64 {
        self.maxmem_bytes / PAGE_SIZE
    }
}

/// When a guest is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// At boot.
    AtBoot,
    /// When the first update is over.
    Later,
}

/// What a guest's store ring is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Nothing: the guest is told so.
    None,
    /// A store without any node.
    Empty,
}

/// Why a module string was refused. Everything found is quoted from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecError<'a> {
    /// None of the words says what the module is.
    NoClass {
        /// The whole string.
        found: &'a str,
    },
    /// A key that must be there is not.
    Missing {
        /// Its name.
        key: Key,
    },
    /// A key is there twice.
    Twice {
        /// Its name.
        key: Key,
        /// The second word.
        found: &'a str,
    },
    /// A word that this class of module does not know.
    UnknownWord {
        /// The word.
        found: &'a str,
    },
    /// A key stands without a value.
    NoValue {
        /// Its name.
        key: Key,
    },
    /// A name is longer than [`NAME_MAX_BYTES`].
    NameTooLong {
        /// Its key.
        key: Key,
        /// Its bytes.
        len_bytes: usize,
    },
    /// A value is not a number.
    NotANumber {
        /// Its key.
        key: Key,
        /// The value.
        found: &'a str,
    },
    /// A value is not a size.
    NotASize {
        /// Its key.
        key: Key,
        /// The value.
        found: &'a str,
    },
    /// A number is too small or too large.
    OutOfRange {
        /// Its key.
        key: Key,
        /// The number.
        found: u64,
        /// The smallest that is accepted.
        min: u64,
        /// The largest that is accepted.
        max: u64,
    },
    /// Memory is not a whole number of pages.
    NotPages {
        /// The key that says so.
        key: Key,
        /// The bytes asked for.
        found: u64,
    },
    /// `create=` something else than `later`.
    UnknownTime {
        /// The value.
        found: &'a str,
    },
    /// `store=` something else than `empty`.
    UnknownStore {
        /// The value.
        found: &'a str,
    },
    /// The guest's command line does not fit start_info.
    CommandLineTooLong {
        /// Its bytes.
        len_bytes: usize,
    },
}

/// The keys of module strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// `name=`
    Name,
    /// `memory=`
    Memory,
    /// `maxmem=`
    Maxmem,
    /// `vcpus=`
    Vcpus,
    /// `privileged`
    Privileged,
    /// `count=`
    Count,
    /// `create=`
    Create,
    /// `ramdisk=`
    Ramdisk,
    /// `peer=`
    Peer,
    /// `extents=`
    Extents,
    /// `store=`
    Store,
}

impl Key {
    /// Those of a guest, which are all there are.
    pub(crate) const GUEST: &'static [Self] = &[
        Self::Name,
        Self::Memory,
        Self::Maxmem,
        Self::Vcpus,
        Self::Privileged,
        Self::Count,
        Self::Create,
        Self::Ramdisk,
        Self::Peer,
        Self::Extents,
        Self::Store,
    ];

    /// The word itself.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Memory => "memory",
            Self::Maxmem => "maxmem",
            Self::Vcpus => "vcpus",
            Self::Privileged => "privileged",
            Self::Count => "count",
            Self::Create => "create",
            Self::Ramdisk => "ramdisk",
            Self::Peer => "peer",
            Self::Extents => "extents",
            Self::Store => "store",
        }
    }

    /// True for the one word that takes no value.
    pub(crate) const fn stands_alone(self) -> bool {
        matches!(self, Self::Privileged)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for SpecError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoClass { found } => {
                write!(f, "no word of \"{found}\" says what the module is: guest, image or ramdisk")
            }
            Self::Missing { key } => write!(f, "{key}= is missing"),
            Self::Twice { key, found } => write!(f, "{key} is given a second time by \"{found}\""),
            Self::UnknownWord { found } => write!(f, "\"{found}\" is not known here"),
            Self::NoValue { key } => write!(f, "{key}= has no value"),
            Self::NameTooLong { key, len_bytes } => {
                write!(f, "{key}= has {len_bytes} bytes, at most {NAME_MAX_BYTES} are accepted")
            }
            Self::NotANumber { key, found } => write!(f, "{key}={found} is not a number"),
            Self::NotASize { key, found } => {
                write!(f, "{key}={found} is not a size, such as 64M, 1G, 512K or 0x100000")
            }
            Self::OutOfRange { key: key @ (Key::Memory | Key::Maxmem), found, min, max } => {
                write!(f, "{key}={found:#x} is out of range, {min:#x} to {max:#x} bytes are accepted")
            }
            Self::OutOfRange { key, found, min, max } => {
                write!(f, "{key}={found} is out of range, {min} to {max} are accepted")
            }
            Self::NotPages { key, found } => {
                write!(
                    f,
                    "{key}={found:#x} is not a whole number of pages, the nearest below is {:#x}",
                    found & !(PAGE_SIZE - 1)
                )
            }
            Self::UnknownTime { found } => write!(f, "create={found} is not known, only create=later is"),
            Self::UnknownStore { found } => write!(f, "store={found} is not known, only store=empty is"),
            Self::CommandLineTooLong { len_bytes } => {
                write!(f, "the command line has {len_bytes} bytes, at most {COMMAND_LINE_MAX_BYTES} are accepted")
            }
        }
    }
}

impl<'a> ModuleSpec<'a> {
    /// Reads a module string.
    pub fn parse(string: &'a str) -> Result<Self, SpecError<'a>> {
        let mut rest = string;
        while let Some((word, behind)) = next_word(rest) {
            rest = behind;
            match word {
                "guest" => return GuestSpec::parse(rest).map(Self::Guest),
                "image" => return parse_name(rest).map(|name| Self::Image { name }),
                "ramdisk" => return parse_name(rest).map(|name| Self::Ramdisk { name }),
                _ => {}
            }
        }
        Err(SpecError::NoClass { found: string })
    }

    /// What the module is called.
    pub const fn name(&self) -> &'a str {
        match *self {
            Self::Guest(ref guest) => guest.name,
            Self::Image { name } | Self::Ramdisk { name } => name,
        }
    }
}

impl<'a> GuestSpec<'a> {
    fn parse(words: &'a str) -> Result<Self, SpecError<'a>> {
        let (values, command_line) = Values::parse(words, Key::GUEST, Dashes::CommandLine)?;
        if command_line.len() > COMMAND_LINE_MAX_BYTES {
            return Err(SpecError::CommandLineTooLong { len_bytes: command_line.len() });
        }
        let name = values.name(Key::Name)?.ok_or(SpecError::Missing { key: Key::Name })?;
        let memory = values.memory(Key::Memory, MEMORY_MIN_BYTES)?;
        let memory_bytes = memory.ok_or(SpecError::Missing { key: Key::Memory })?;
        let maxmem_bytes = values.memory(Key::Maxmem, memory_bytes)?.unwrap_or(memory_bytes);
        let create = match values.get(Key::Create) {
            None => Create::AtBoot,
            Some("later") => Create::Later,
            Some(found) => return Err(SpecError::UnknownTime { found }),
        };
        let store = match values.get(Key::Store) {
            None => Store::None,
            Some("empty") => Store::Empty,
            Some(found) => return Err(SpecError::UnknownStore { found }),
        };
        Ok(Self {
            name,
            memory_bytes,
            maxmem_bytes,
            vcpus: values.number(Key::Vcpus, 1, VCPUS_MAX.into())? as u32,
            is_privileged: values.get(Key::Privileged).is_some(),
            count: values.number(Key::Count, 1, COUNT_MAX.into())? as u32,
            create,
            ramdisk: values.name(Key::Ramdisk)?,
            peer: values.name(Key::Peer)?,
            extents: values.number(Key::Extents, 1, memory_bytes / PAGE_SIZE)?,
            store,
            command_line,
        })
    }
}

fn parse_name(words: &str) -> Result<&str, SpecError<'_>> {
    let (values, _) = Values::parse(words, &[Key::Name], Dashes::Unknown)?;
    values.name(Key::Name)?.ok_or(SpecError::Missing { key: Key::Name })
}

/// What `--` means in a module string.
#[derive(PartialEq)]
enum Dashes {
    /// The rest is a command line.
    CommandLine,
    /// Nothing.
    Unknown,
}

/// The values of a string's keys, by key; `Some("")` for a word that takes none.
struct Values<'a>([Option<&'a str>; Key::GUEST.len()]);

impl<'a> Values<'a> {
    /// Sorts words by key; the second result is what stands behind `--`.
    fn parse(words: &'a str, known: &[Key], dashes: Dashes) -> Result<(Self, &'a str), SpecError<'a>> {
        let mut values = Self([None; Key::GUEST.len()]);
        let mut rest = words;
        while let Some((word, behind)) = next_word(rest) {
            rest = behind;
            if word == "--" && dashes == Dashes::CommandLine {
                return Ok((values, rest.trim()));
            }
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word, None),
            };
            let key = known.iter().copied().find(|k| k.word() == key && (!k.stands_alone() || value.is_none()));
            let key = key.ok_or(SpecError::UnknownWord { found: word })?;
            let value = match value {
                _ if key.stands_alone() => "",
                None | Some("") => return Err(SpecError::NoValue { key }),
                Some(value) => value,
            };
            if values.0[key as usize].replace(value).is_some() {
                return Err(SpecError::Twice { key, found: word });
            }
        }
        Ok((values, ""))
    }

    fn get(&self, key: Key) -> Option<&'a str> {
        self.0[key as usize]
    }

    fn name(&self, key: Key) -> Result<Option<&'a str>, SpecError<'a>> {
        match self.get(key) {
            Some(name) if name.len() > NAME_MAX_BYTES => Err(SpecError::NameTooLong { key, len_bytes: name.len() }),
            name => Ok(name),
        }
    }

    /// An amount of memory of at least `min_bytes`, in whole pages.
    fn memory(&self, key: Key, min_bytes: u64) -> Result<Option<u64>, SpecError<'a>> {
        let Some(found) = self.get(key) else { return Ok(None) };
        let bytes = parse_size(found).ok_or(SpecError::NotASize { key, found })?;
        in_range(key, bytes, min_bytes, MEMORY_LIMIT_BYTES - PAGE_SIZE)?;
        if bytes.is_multiple_of(PAGE_SIZE) { Ok(Some(bytes)) } else { Err(SpecError::NotPages { key, found: bytes }) }
    }

    /// A number from 1 to `max`, `absent` if the key is.
    fn number(&self, key: Key, absent: u64, max: u64) -> Result<u64, SpecError<'a>> {
        let Some(found) = self.get(key) else {
            return Ok(absent);
        };
        let number = parse_number(found).ok_or(SpecError::NotANumber { key, found })?;
        in_range(key, number, 1, max)?;
        Ok(number)
    }
}

fn in_range<'a>(key: Key, found: u64, min: u64, max: u64) -> Result<(), SpecError<'a>> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(SpecError::OutOfRange { key, found, min, max }) }
}

fn next_word(string: &str) -> Option<(&str, &str)> {
    let string = string.trim_start();
    if string.is_empty() {
        return None;
    }
    let end = string.find(char::is_whitespace).unwrap_or(string.len());
    Some(string.split_at(end))
}

/// A decimal or `0x` hexadecimal number of digits alone: `from_str_radix` would take a sign as well.
fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.bytes().all(|b| b.is_ascii_hexdigit()) { u64::from_str_radix(digits, radix).ok() } else { None }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1u64 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    parse_number(number)?.checked_mul(unit)
}

#[cfg(test)]
mod tests;
