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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::String;

    fn guest(string: &str) -> GuestSpec<'_> {
        match ModuleSpec::parse(string) {
            Ok(ModuleSpec::Guest(guest)) => guest,
            other => panic!("{string}: {other:?}"),
        }
    }

    #[test]
    fn a_full_string_is_read_whole() {
        let g = guest(
            "/boot/pulse.elf guest name=pulse memory=64M vcpus=2 privileged count=3 create=later ramdisk=initrd \
             peer=other extents=1000 store=empty --  console=hvc0 name=x -- y ",
        );
        assert_eq!(
            g,
            GuestSpec {
                name: "pulse",
                memory_bytes: 64 << 20,
                maxmem_bytes: 64 << 20,
                vcpus: 2,
                is_privileged: true,
                count: 3,
                create: Create::Later,
                ramdisk: Some("initrd"),
                peer: Some("other"),
                extents: 1000,
                store: Store::Empty,
                command_line: "console=hvc0 name=x -- y",
            }
        );
        assert_eq!(g.nr_pages(), 16384);
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let g = guest("guest memory=0x100000 name=a");
        assert_eq!((g.vcpus, g.is_privileged, g.count, g.create), (1, false, 1, Create::AtBoot));
        assert_eq!(g.max_pages(), g.nr_pages());
        assert_eq!((g.ramdisk, g.peer, g.extents, g.store, g.command_line), (None, None, 1, Store::None, ""));
        assert_eq!(guest("guest name=a memory=1M --").command_line, "");
        assert!(guest("guest\tname=a\nmemory=4M\u{2003}privileged").is_privileged);
    }

    #[test]
    fn images_and_ramdisks_have_a_name() {
        assert_eq!(ModuleSpec::parse("x image name=b"), Ok(ModuleSpec::Image { name: "b" }));
        assert_eq!(ModuleSpec::parse("ramdisk name=r").unwrap().name(), "r");
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("64M", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("512K", Some(512 << 10)),
            ("0x10M", Some(16 << 20)),
            ("4096", Some(4096)),
            ("", None),
            ("M", None),
            ("0x", None),
            ("+5M", None),
            ("-1", None),
            ("1.5G", None),
            ("64MB", None),
            ("f", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("18446744073709551615K", None),
            ("5\u{e9}", None),
        ] {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }

    #[test]
    fn each_mistake_is_told_with_what_was_found() {
        use SpecError as E;
        let long = format!("guest name={} memory=1M", "n".repeat(65));
        let cmdline = format!("guest name=a memory=1M -- {}", "x".repeat(1024));
        let range = |key, found, min, max| E::OutOfRange { key, found, min, max };
        for (string, error) in [
            ("", E::NoClass { found: "" }),
            ("guests name=a", E::NoClass { found: "guests name=a" }),
            ("guest memory=1M", E::Missing { key: Key::Name }),
            ("guest name=a", E::Missing { key: Key::Memory }),
            ("image", E::Missing { key: Key::Name }),
            ("guest name=a name=b memory=1M", E::Twice { key: Key::Name, found: "name=b" }),
            ("guest privileged privileged", E::Twice { key: Key::Privileged, found: "privileged" }),
            ("guest name=a memory=1M colour=red", E::UnknownWord { found: "colour=red" }),
            ("guest name=a memory=1M privileged=yes", E::UnknownWord { found: "privileged=yes" }),
            ("guest guest name=a", E::UnknownWord { found: "guest" }),
            ("image name=b memory=1M", E::UnknownWord { found: "memory=1M" }),
            ("ramdisk name=b -- x", E::UnknownWord { found: "--" }),
            ("guest name= memory=1M", E::NoValue { key: Key::Name }),
            ("guest name memory=1M", E::NoValue { key: Key::Name }),
            (&long, E::NameTooLong { key: Key::Name, len_bytes: 65 }),
            ("guest name=a memory=lots", E::NotASize { key: Key::Memory, found: "lots" }),
            ("guest name=a memory=1M vcpus=two", E::NotANumber { key: Key::Vcpus, found: "two" }),
            ("guest name=a memory=1020K", range(Key::Memory, 1020 << 10, 1 << 20, (1 << 52) - 4096)),
            ("guest name=a memory=0xfffffffffffff000", range(Key::Memory, !0xfff, 1 << 20, (1 << 52) - 4096)),
            ("guest name=a memory=0x100001", E::NotPages { key: Key::Memory, found: 0x100001 }),
            ("guest name=a memory=2M maxmem=1M", range(Key::Maxmem, 1 << 20, 2 << 20, (1 << 52) - 4096)),
            ("guest name=a memory=1M maxmem=0x100001", E::NotPages { key: Key::Maxmem, found: 0x100001 }),
            ("guest name=a memory=1M vcpus=0", range(Key::Vcpus, 0, 1, 32)),
            ("guest name=a memory=1M vcpus=33", range(Key::Vcpus, 33, 1, 32)),
            ("guest name=a memory=1M count=0", range(Key::Count, 0, 1, 0x7fef)),
            ("guest name=a memory=1M extents=257", range(Key::Extents, 257, 1, 256)),
            ("guest name=a memory=1M create=now", E::UnknownTime { found: "now" }),
            ("guest name=a memory=1M store=full", E::UnknownStore { found: "full" }),
            (&cmdline, E::CommandLineTooLong { len_bytes: 1024 }),
        ] {
            assert_eq!(ModuleSpec::parse(string), Err(error), "{string}");
            assert!(!format!("{error}").is_empty());
        }
        assert_eq!(
            format!("{}", E::NotPages { key: Key::Memory, found: 0x100001 }),
            "memory=0x100001 is not a whole number of pages, the nearest below is 0x100000"
        );
    }

    /// Writes a specification as a module string, independently of the parser's tables.
    fn to_string(g: &GuestSpec<'_>) -> String {
        let mut s = format!("file guest name={} memory={} vcpus={}", g.name, g.memory_bytes, g.vcpus);
        if g.maxmem_bytes != g.memory_bytes {
            s += &format!(" maxmem={}", g.maxmem_bytes);
        }
        if g.is_privileged {
            s += " privileged";
        }
        s += &format!(" extents={} count={}", g.extents, g.count);
        if g.create == Create::Later {
            s += " create=later";
        }
        if g.store == Store::Empty {
            s += " store=empty";
        }
        if let Some(peer) = g.peer {
            s += &format!("  peer={peer}");
        }
        s + " -- " + g.command_line
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in "[a-z0-9-]{1,64}", pages in 256u64..1 << 30, more in 0u64..1 << 20, vcpus in 1u32..=32, is_privileged: bool,
            later: bool, peer in proptest::option::of("[a-z]{1,8}"), count in 1u32..1000, extents in 1u64..=256,
            command_line in "([a-z=-]{1,9} ){0,20}",
        ) {
            let g = GuestSpec {
                name: &name, memory_bytes: pages * PAGE_SIZE, maxmem_bytes: (pages + more) * PAGE_SIZE, vcpus, is_privileged, count,
                create: if later { Create::Later } else { Create::AtBoot },
                ramdisk: None, peer: peer.as_deref(), extents, store: if later { Store::Empty } else { Store::None },
                command_line: command_line.trim(),
            };
            let string = to_string(&g);
            prop_assert_eq!(ModuleSpec::parse(&string), Ok(ModuleSpec::Guest(g)));
        }

        #[test]
        fn nothing_panics(s in "((guest|image|name|memory|vcpus|=|--|1|K|\u{e9}|x| ){1,3} ?){0,12}") {
            let _ = ModuleSpec::parse(&s).map_err(|e| format!("{e}"));
        }
    }
}
