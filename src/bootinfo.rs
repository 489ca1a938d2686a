//! What the loader says, copied out of its structures before anything can overwrite them.
//!
//! Multiboot2 (crate `multiboot2`) from GRUB and from another build of this hypervisor; Multiboot1 from loaders that know no better, such as QEMU's own.
//! The loader is believed as far as addresses go: what they lead to has to be mapped by whoever reads it.

use crate::frame::Maddr;
use crate::memmap::FirmwareEntry;
use crate::mm::physmem::PhysMem;
use core::fmt;
use multiboot2::BootInformation;

/// What eax holds at entry from a Multiboot2 loader.
pub const MB2_MAGIC: u32 = 0x36d7_6289;
/// What eax holds at entry from a Multiboot1 loader.
pub const MB1_MAGIC: u32 = 0x2bad_b002;
const MB2_TAG_MODULE: u32 = 3;
const MB2_TAG_MEMORY_MAP: u32 = 6;
/// Bytes of an entry of a Multiboot2 memory map.
const MAP_ENTRY_BYTES: u32 = 24;
/// Bytes of a Multiboot2 tag for a module, and for a memory map, before what they have many of.
const TAG_FIXED_BYTES: u32 = 16;
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
    /// Another build of this hypervisor is the loader: this is an update, guests are waiting.
    pub is_update: bool,
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
    /// A tag of the structure has a size that it cannot have.
    TagSize {
        /// Its type: 3 is a module, 6 the memory map.
        kind: u32,
        /// Its size in bytes.
        found: u32,
    },
    /// The memory map's entries are not of the size that they have in version 0.
    EntrySize {
        /// The size in bytes.
        found: u32,
    },
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
            Self::TagSize { kind, found } => write!(f, "the loader's tag of type {kind} cannot have {found} bytes"),
            Self::EntrySize { found } => {
                write!(f, "the memory map has entries of {found} bytes, {MAP_ENTRY_BYTES} can be read")
            }
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
        is_update: false,
        entries: [FirmwareEntry { start: 0, len_bytes: 0, number: 0 }; MAX_ENTRIES],
        nr_entries: 0,
        modules: [BootModule { start: 0, len_bytes: 0, string: Text::EMPTY }; MAX_MODULES],
        nr_modules: 0,
    };

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

    /// Takes over what a Multiboot2 loader says.
    pub fn read_multiboot2(&mut self, info: &BootInformation<'_>) -> Result<(), BootInfoError> {
        check_tags(info)?;
        if let Some(tag) = info.command_line_tag() {
            let text = tag.cmdline().map_err(|_| BootInfoError::BadString { module: None })?;
            self.command_line = Text::try_from(text.as_bytes()).ok_or(BootInfoError::BadString { module: None })?;
        }
        let loader = info.boot_loader_name_tag().and_then(|tag| tag.name().ok());
        self.is_update = loader.is_some_and(|name| name.starts_with("luxen "));
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

    /// Takes over what a Multiboot1 loader says in the structure at `at`, by the Multiboot 0.6.96 specification, 3.3: flags 0, cmdline 16,
    /// mods_count 20, mods_addr 24, mmap_length 44, mmap_addr 48. Addresses wrap around at 4 GiB, as the loader's own do.
    pub fn read_multiboot1(&mut self, mem: &impl PhysMem, at: u32) -> Result<(), BootInfoError> {
        let word = |offset: u32| read_u32(mem, at.wrapping_add(offset));
        let flags = word(0);
        if flags & 1 << 2 != 0 {
            let mut text = [0; MAX_COMMAND_LINE + 1];
            let text = c_string(mem, word(16), &mut text);
            self.command_line = Text::try_from(text).ok_or(BootInfoError::BadString { module: None })?;
        }
        if flags & 1 << 6 == 0 {
            return Err(BootInfoError::NoMemoryMap);
        }
        let (len, map) = (word(44), word(48));
        let mut offset = 0u32;
        while offset < len {
            let entry = map.wrapping_add(offset);
            let size = read_u32(mem, entry);
            let half = |o: u32| read_u32(mem, entry.wrapping_add(o));
            let long = |o: u32| u64::from(half(o)) | u64::from(half(o + 4)) << 32;
            self.add_entry(long(4), long(12), half(20))?;
            offset = offset.saturating_add(size).saturating_add(4);
        }
        if flags & 1 << 3 != 0 {
            for i in 0..word(20).min(MAX_MODULES as u32 + 1) {
                let module = word(24).wrapping_add(i * 16);
                let half = |o: u32| read_u32(mem, module.wrapping_add(o));
                let mut text = [0; MAX_COMMAND_LINE + 1];
                let string = c_string(mem, half(8), &mut text);
                self.add_module(half(0).into(), half(4).into(), string)?;
            }
        }
        Ok(())
    }
}

/// Checks what the crate takes for granted when it gives a tag its shape.
fn check_tags(info: &BootInformation<'_>) -> Result<(), BootInfoError> {
    for tag in info.tags() {
        let (kind, found) = (tag.header().typ.into(), tag.header().size);
        let behind = match kind {
            MB2_TAG_MODULE | MB2_TAG_MEMORY_MAP => found.checked_sub(TAG_FIXED_BYTES),
            _ => Some(0),
        };
        let bytes = behind.ok_or(BootInfoError::TagSize { kind, found })?;
        if kind == MB2_TAG_MEMORY_MAP {
            if !bytes.is_multiple_of(MAP_ENTRY_BYTES) {
                return Err(BootInfoError::TagSize { kind, found });
            }
            // Behind type and size.
            let found = tag.payload().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            if found != MAP_ENTRY_BYTES {
                return Err(BootInfoError::EntrySize { found });
            }
        }
    }
    Ok(())
}

/// Four bytes at an address that may be unaligned; what would lie behind 4 GiB lies at 0.
fn read_u32(mem: &impl PhysMem, at: u32) -> u32 {
    let mut bytes = [0; 4];
    for (byte, i) in bytes.iter_mut().zip(0..) {
        mem.read(Maddr::new(at.wrapping_add(i).into()), core::slice::from_mut(byte));
    }
    u32::from_le_bytes(bytes)
}

/// The bytes of a C string, copied to `into` and cut where it is full: no text that fits here is that long.
fn c_string<'b>(mem: &impl PhysMem, at: u32, into: &'b mut [u8]) -> &'b [u8] {
    if at == 0 {
        return &[];
    }
    let mut len = 0;
    for byte in into.iter_mut() {
        // As for `read_u32`.
        mem.read(Maddr::new(at.wrapping_add(len).into()), core::slice::from_mut(byte));
        if *byte == 0 {
            break;
        }
        len += 1;
    }
    &into[..len as usize]
}
