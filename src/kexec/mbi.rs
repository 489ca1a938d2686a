//! Writes the Multiboot2 information structure for the incoming image, which is started as a boot loader would start it.
//!
//! The structure is put together in ordinary memory while guests run; its pages become destinations of the kimage, right
//! behind the breadcrumb page. Modules are not moved: their tags name the places where they already are.
//!
//! Layout (Multiboot2 specification 2.0 §3.6): total size and a reserved word, then tags of {u32 type, u32 size, body},
//! each padded to eight bytes, the last of type 0.

use core::fmt;

use crate::frame::Maddr;

const TAG_END: u32 = 0;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_LOADER_NAME: u32 = 2;
const TAG_MODULE: u32 = 3;
const TAG_MEMORY_MAP: u32 = 6;
const TAG_HEADER_LEN: usize = 8;
const TAG_ALIGN: usize = 8;
const MAP_ENTRY_LEN: u32 = 24;
const MAP_ENTRY_VERSION: u32 = 0;

/// Why the structure cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbiError {
    /// The buffer ends before the structure does; bytes.
    TooSmall {
        /// What would have been needed up to here.
        need: usize,
        /// What there is.
        found: usize,
    },
    /// A string has a NUL in it, which would end it early.
    NulInString,
    /// A module lies above 4 GiB or ends before it starts.
    BadModule {
        /// Its first byte.
        start: u64,
        /// The first byte behind it.
        end: u64,
    },
}

impl fmt::Display for MbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { need, found } => {
                write!(f, "the boot information needs more than {need} bytes, there is room for {found}")
            }
            Self::NulInString => write!(f, "a string for the boot information has a NUL in it"),
            Self::BadModule { start, end } => {
                write!(f, "a module at [{start:#x}, {end:#x}) cannot be named in the boot information")
            }
        }
    }
}

impl core::error::Error for MbiError {}

/// An entry of the firmware's memory map as the boot loader gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// 1 RAM, 2 reserved, 3 ACPI, 4 NVS, 5 bad; others count as reserved.
    pub kind: u32,
}

/// A structure that is being written.
#[derive(Debug)]
pub struct MbiWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> MbiWriter<'a> {
    /// Starts a structure in `buf`.
    pub fn new(buf: &'a mut [u8]) -> Result<Self, MbiError> {
        let mut writer = Self { buf, len: 0 };
        // The total size is known at the end; the second word is reserved and zero.
        writer.put(&[0; 8])?;
        Ok(writer)
    }

    /// The command line, without the image's own name.
    pub fn command_line(&mut self, line: &str) -> Result<(), MbiError> {
        self.tag(TAG_COMMAND_LINE, &[string(line)?, &[0]])
    }

    /// Who started the image.
    pub fn loader_name(&mut self, name: &str) -> Result<(), MbiError> {
        self.tag(TAG_LOADER_NAME, &[string(name)?, &[0]])
    }

    /// A module that lies in `[start, end)`.
    pub fn module(&mut self, start: Maddr, end: Maddr, line: &str) -> Result<(), MbiError> {
        let bad = MbiError::BadModule { start: start.get(), end: end.get() };
        let first = u32::try_from(start.get()).map_err(|_| bad)?;
        let behind = u32::try_from(end.get()).map_err(|_| bad)?;
        if behind < first {
            return Err(bad);
        }
        self.tag(TAG_MODULE, &[&first.to_le_bytes(), &behind.to_le_bytes(), string(line)?, &[0]])
    }

    /// The firmware's memory map.
    pub fn memory_map(&mut self, entries: impl IntoIterator<Item = MapEntry>) -> Result<(), MbiError> {
        let at = self.len;
        self.tag(TAG_MEMORY_MAP, &[&MAP_ENTRY_LEN.to_le_bytes(), &MAP_ENTRY_VERSION.to_le_bytes()])?;
        for MapEntry { base, len_bytes, kind } in entries {
            self.put(&base.to_le_bytes())?;
            self.put(&len_bytes.to_le_bytes())?;
            self.put(&kind.to_le_bytes())?;
            self.put(&[0; 4])?;
        }
        self.put_u32_at(at + 4, self.len - at)
    }

    /// Any other tag, its body as it came from the boot loader: ACPI's root pointer, for example.
    pub fn raw_tag(&mut self, kind: u32, body: &[u8]) -> Result<(), MbiError> {
        self.tag(kind, &[body])
    }

    /// Ends the structure; its length in bytes.
    pub fn finish(mut self) -> Result<usize, MbiError> {
        self.tag(TAG_END, &[])?;
        self.put_u32_at(0, self.len)?;
        Ok(self.len)
    }

    fn tag(&mut self, kind: u32, body: &[&[u8]]) -> Result<(), MbiError> {
        let at = self.len;
        self.put(&kind.to_le_bytes())?;
        self.put(&[0; 4])?;
        body.iter().try_for_each(|part| self.put(part))?;
        let size = self.len - at;
        debug_assert!(size >= TAG_HEADER_LEN);
        self.put(&[0; TAG_ALIGN][..size.next_multiple_of(TAG_ALIGN) - size])?;
        self.put_u32_at(at + 4, size)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), MbiError> {
        let end = self.len.saturating_add(bytes.len());
        let too_small = MbiError::TooSmall { need: end, found: self.buf.len() };
        self.buf.get_mut(self.len..end).ok_or(too_small)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Fills a size in that has become known. All of a structure fits 32 bits, since it lies below 4 GiB.
    fn put_u32_at(&mut self, at: usize, size: usize) -> Result<(), MbiError> {
        let too_small = MbiError::TooSmall { need: size, found: u32::MAX as usize };
        let size = u32::try_from(size).map_err(|_| too_small)?;
        self.buf[at..at + 4].copy_from_slice(&size.to_le_bytes());
        Ok(())
    }
}

fn string(text: &str) -> Result<&[u8], MbiError> {
    if text.contains('\0') { Err(MbiError::NulInString) } else { Ok(text.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use multiboot2::{BootInformation, BootInformationHeader};
    use std::vec::Vec;

    #[repr(align(8))]
    struct Buffer([u8; 4096]);

    const MAP: [MapEntry; 3] = [
        MapEntry { base: 0, len_bytes: 0x9fc00, kind: 1 },
        MapEntry { base: 0xfffc_0000, len_bytes: 0x4_0000, kind: 2 },
        MapEntry { base: 1 << 32, len_bytes: 1 << 33, kind: 1 },
    ];

    fn write(buf: &mut [u8]) -> Result<usize, MbiError> {
        let mut mbi = MbiWriter::new(buf)?;
        mbi.command_line("liveupdate=64M@0x4000000 exit=qemu")?;
        mbi.loader_name("luxen 0.1.0-a")?;
        mbi.module(Maddr::new(0x100_0000), Maddr::new(0x123_4567), "guest name=pulse memory=16M")?;
        mbi.module(Maddr::new(0x200_0000), Maddr::new(0x200_0000), "")?;
        mbi.raw_tag(0x1234, b"as it came")?;
        mbi.memory_map(MAP)?;
        mbi.finish()
    }

    #[expect(unsafe_code, reason = "the crate that reads the structure takes a pointer")]
    fn load(buffer: &Buffer) -> BootInformation<'_> {
        // SAFETY: the buffer is 8-aligned, lives as long as the result, and has at least as many bytes as the
        // structure in it says, since `MbiWriter` has put the size there.
        unsafe { BootInformation::load(buffer.0.as_ptr().cast::<BootInformationHeader>()) }.unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_by_the_multiboot2_crate() {
        let mut buffer = Buffer([0xaa; 4096]);
        let len = write(&mut buffer.0).unwrap();
        let info = load(&buffer);
        assert_eq!(info.total_size(), len);
        assert_eq!(info.command_line_tag().unwrap().cmdline().unwrap(), "liveupdate=64M@0x4000000 exit=qemu");
        assert_eq!(info.boot_loader_name_tag().unwrap().name().unwrap(), "luxen 0.1.0-a");
        let modules: Vec<_> =
            info.module_tags().map(|m| (m.start_address(), m.end_address(), m.cmdline().unwrap())).collect();
        assert_eq!(modules, [(0x100_0000, 0x123_4567, "guest name=pulse memory=16M"), (0x200_0000, 0x200_0000, "")]);
        let map: Vec<_> = info.memory_map_tag().unwrap().memory_areas().iter().collect();
        assert_eq!(map.len(), MAP.len());
        for (area, want) in map.iter().zip(MAP) {
            assert_eq!((area.start_address(), area.size()), (want.base, want.len_bytes));
            assert_eq!(u32::from(area.typ()), want.kind);
        }
        assert!(buffer.0[len..].iter().all(|b| *b == 0xaa), "nothing is written behind the end");
    }

    #[test]
    fn every_buffer_that_is_too_small_is_refused_without_a_panic() {
        let mut buf = [0; 4096];
        let len = write(&mut buf).unwrap();
        for short in 0..len {
            let error = write(&mut buf[..short]).unwrap_err();
            assert!(matches!(error, MbiError::TooSmall { need, found } if found == short && need > short));
        }
        assert_eq!(write(&mut buf[..len]), Ok(len));
    }

    #[test]
    fn what_the_structure_cannot_say_is_refused() {
        let mut buf = [0; 4096];
        let mut mbi = MbiWriter::new(&mut buf).unwrap();
        assert_eq!(mbi.command_line("a\0b"), Err(MbiError::NulInString));
        let above = (Maddr::new(0xffff_f000), Maddr::new(0x1_0000_0000));
        assert_eq!(
            mbi.module(above.0, above.1, "x"),
            Err(MbiError::BadModule { start: 0xffff_f000, end: 0x1_0000_0000 })
        );
        assert!(mbi.module(Maddr::new(0x2000), Maddr::new(0x1000), "x").is_err());
    }
}
