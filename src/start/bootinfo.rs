//! What the loader says, copied out of its structures before anything can overwrite them.
//!
//! Multiboot2 (crate `multiboot2`) from GRUB and from another build of this hypervisor; Multiboot1 from loaders that know no better, such as QEMU's own.

use crate::memmap::FirmwareEntry;
use crate::x86::directmap::DIRECTMAP_VA;
use core::fmt;
use multiboot2::{BootInformation, BootInformationHeader};

const MB2_MAGIC: u32 = 0x36d7_6289;
const MB1_MAGIC: u32 = 0x2bad_b002;
/// Most bytes of the command line.
pub const MAX_COMMAND_LINE: usize = 2048;
/// Most bytes of a module's string.
pub const MAX_STRING: usize = 512;
/// Most modules.
pub const MAX_MODULES: usize = 96;
/// Most entries of the firmware map.
pub const MAX_ENTRIES: usize = 128;

/// Text of bounded length.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    fn try_from(text: &[u8]) -> Option<Self> {
        let mut this = Self::EMPTY;
        core::str::from_utf8(text).ok()?;
        this.bytes.get_mut(..text.len())?.copy_from_slice(text);
        this.len = text.len();
        Some(this)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

/// A module as the loader left it.
#[derive(Clone, Copy)]
pub struct BootModule {
    /// Address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Its string.
    pub string: Text<MAX_STRING>,
}

/// Everything the loader says that matters here.
pub struct BootInfo {
    /// The command line.
    pub command_line: Text<MAX_COMMAND_LINE>,
    entries: [FirmwareEntry; MAX_ENTRIES],
    nr_entries: usize,
    modules: [BootModule; MAX_MODULES],
    nr_modules: usize,
}

/// What the loader says cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootInfoError {
    /// eax at entry is neither protocol's magic number.
    Magic {
        /// What it was.
        found: u32,
    },
    /// The information structure is not one.
    Structure,
    /// There is no memory map.
    NoMemoryMap,
    /// More entries than fit.
    TooManyEntries,
    /// More modules than fit.
    TooManyModules,
    /// The command line or a module's string is too long or not text.
    BadString {
        /// Module number, none for the command line.
        module: Option<usize>,
    },
}

impl fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { found } => {
                write!(
                    f,
                    "found magic {found:#x}, expected Multiboot2 ({MB2_MAGIC:#x}) or Multiboot1 ({MB1_MAGIC:#x}): start luxen with a Multiboot loader"
                )
            }
            Self::Structure => f.write_str("the loader's information structure cannot be read"),
            Self::NoMemoryMap => f.write_str("the loader gave no memory map"),
            Self::TooManyEntries => write!(f, "the memory map has more than {MAX_ENTRIES} entries"),
            Self::TooManyModules => write!(f, "there are more than {MAX_MODULES} modules: give fewer"),
            Self::BadString { module: None } => {
                write!(f, "the command line is longer than {MAX_COMMAND_LINE} bytes or not UTF-8")
            }
            Self::BadString { module: Some(n) } => {
                write!(f, "the string of module {n} is longer than {MAX_STRING} bytes or not UTF-8")
            }
        }
    }
}

impl BootInfo {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        command_line: Text::EMPTY,
        entries: [FirmwareEntry { start: 0, len_bytes: 0, number: 0 }; MAX_ENTRIES],
        nr_entries: 0,
        modules: [BootModule { start: 0, len_bytes: 0, string: Text::EMPTY }; MAX_MODULES],
        nr_modules: 0,
    };

    /// Reads the structure at machine address `at` (below 4 GiB).
    pub fn read(&mut self, magic: u32, at: u32) -> Result<(), BootInfoError> {
        match magic {
            MB2_MAGIC => self.read_multiboot2(at),
            MB1_MAGIC => self.read_multiboot1(at),
            found => Err(BootInfoError::Magic { found }),
        }
    }

    /// The firmware map.
    pub fn entries(&self) -> &[FirmwareEntry] {
        &self.entries[..self.nr_entries]
    }

    /// The modules.
    pub fn modules(&self) -> &[BootModule] {
        &self.modules[..self.nr_modules]
    }

    /// The modules, to be moved.
    pub fn modules_mut(&mut self) -> &mut [BootModule] {
        &mut self.modules[..self.nr_modules]
    }

    fn add_entry(&mut self, start: u64, len_bytes: u64, number: u32) -> Result<(), BootInfoError> {
        let slot = self.entries.get_mut(self.nr_entries).ok_or(BootInfoError::TooManyEntries)?;
        *slot = FirmwareEntry { start, len_bytes, number };
        self.nr_entries += 1;
        Ok(())
    }

    fn add_module(&mut self, start: u64, end: u64, string: &[u8]) -> Result<(), BootInfoError> {
        let module = Some(self.nr_modules);
        let string = Text::try_from(string.trim_ascii()).ok_or(BootInfoError::BadString { module })?;
        let slot = self.modules.get_mut(self.nr_modules).ok_or(BootInfoError::TooManyModules)?;
        *slot = BootModule { start, len_bytes: end.saturating_sub(start), string };
        self.nr_modules += 1;
        Ok(())
    }

    #[expect(unsafe_code, reason = "the loader's memory")]
    fn read_multiboot2(&mut self, at: u32) -> Result<(), BootInfoError> {
        let header = (DIRECTMAP_VA + u64::from(at)) as *const BootInformationHeader;
        // SAFETY: eax said Multiboot2, so ebx points at such a structure; boot/head.S maps it, and nothing has been written yet.
        let info = unsafe { BootInformation::load(header) }.map_err(|_| BootInfoError::Structure)?;
        if let Some(tag) = info.command_line_tag() {
            let text = tag.cmdline().map_err(|_| BootInfoError::BadString { module: None })?;
            self.command_line = Text::try_from(text.as_bytes()).ok_or(BootInfoError::BadString { module: None })?;
        }
        let map = info.memory_map_tag().ok_or(BootInfoError::NoMemoryMap)?;
        for area in map.memory_areas() {
            self.add_entry(area.start_address(), area.size(), area.typ().into())?;
        }
        for tag in info.module_tags() {
            let module = Some(self.nr_modules);
            let text = tag.cmdline().map_err(|_| BootInfoError::BadString { module })?;
            self.add_module(tag.start_address().into(), tag.end_address().into(), text.as_bytes())?;
        }
        Ok(())
    }

    /// The structure of the Multiboot 0.6.96 specification, 3.3: flags 0, cmdline 16, mods_count 20, mods_addr 24, mmap_length 44, mmap_addr 48.
    fn read_multiboot1(&mut self, at: u32) -> Result<(), BootInfoError> {
        let word = |offset: u32| read_u32(at.wrapping_add(offset));
        let flags = word(0);
        if flags & 1 << 2 != 0 {
            self.command_line = Text::try_from(c_string(word(16))).ok_or(BootInfoError::BadString { module: None })?;
        }
        if flags & 1 << 6 == 0 {
            return Err(BootInfoError::NoMemoryMap);
        }
        let (len, map) = (word(44), word(48));
        let mut offset = 0u32;
        while offset < len {
            let entry = map.wrapping_add(offset);
            let size = read_u32(entry);
            let long = |o: u32| u64::from(read_u32(entry + o)) | u64::from(read_u32(entry + o + 4)) << 32;
            self.add_entry(long(4), long(12), read_u32(entry + 20))?;
            offset = offset.saturating_add(size).saturating_add(4);
        }
        if flags & 1 << 3 != 0 {
            for i in 0..word(20).min(MAX_MODULES as u32 + 1) {
                let module = word(24).wrapping_add(i * 16);
                let (start, end) = (read_u32(module), read_u32(module + 4));
                self.add_module(start.into(), end.into(), c_string(read_u32(module + 8)))?;
            }
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the loader's memory")]
fn read_u32(at: u32) -> u32 {
    // SAFETY: boot/head.S maps the low 4 GiB; reading RAM or nothing is harmless.
    unsafe { ((DIRECTMAP_VA + u64::from(at)) as *const u32).read_unaligned() }
}

/// The bytes of a C string, cut where no text that fits here can be that long.
#[expect(unsafe_code, reason = "the loader's memory")]
fn c_string(at: u32) -> &'static [u8] {
    if at == 0 {
        return &[];
    }
    // SAFETY: as for `read_u32`; nothing writes there while boot information is read.
    let bytes =
        unsafe { core::slice::from_raw_parts((DIRECTMAP_VA + u64::from(at)) as *const u8, MAX_COMMAND_LINE + 1) };
    bytes.split(|&b| b == 0).next().unwrap_or(&[])
}
