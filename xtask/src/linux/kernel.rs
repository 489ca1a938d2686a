//! From a bzImage, the packed kernel that distributions ship, to the ELF file inside.
//!
//! ```text
//! 0        0x1f1            (setup_sects + 1) * 512
//! | boot   | setup header   | protected-mode code ... | payload, packed | ... |
//!                             0                       payload_offset    + payload_length
//! ```
//!
//! Source: Documentation/arch/x86/boot.rst of Linux. The build appends the unpacked size to the payload, 32 bits, little-endian; gzip has
//! it there by itself. Nothing in the file is believed unchecked: it is the user's.

use anyhow::{Context, Result, bail, ensure};
use std::io::Read;

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADFLAGS: usize = 0x211;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// What is behind the last field that is read here.
const HEADER_END: usize = 0x250;
/// The first version of the protocol that has the payload's place.
const VERSION_WITH_PAYLOAD: u16 = 0x0208;
const LOADED_HIGH: u8 = 1;
/// No kernel is larger: whatever unpacks to more is none.
const LIMIT_BYTES: u64 = 1 << 30;

/// True if it starts as an ELF file does.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// The ELF file in `file`: the file itself, or what a bzImage has packed.
pub fn unpack(file: &[u8]) -> Result<Vec<u8>> {
    if is_elf(file) {
        return Ok(file.to_vec());
    }
    let payload = payload(file)?;
    let packing = Packing::of(payload)?;
    let whole = packing.unpack(payload).with_context(|| format!("the payload, packed with {packing:?}, is damaged"))?;
    ensure!(is_elf(&whole), "the payload, packed with {packing:?}, is no ELF file");
    let size = le32(payload, payload.len() - 4)?;
    ensure!(
        whole.len() as u64 == u64::from(size),
        "the payload unpacks to {} bytes, and the file says {size}",
        whole.len()
    );
    Ok(whole)
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    file.get(at..).and_then(|rest| rest.first_chunk()).copied().context("the file is cut off")
}

fn le16(file: &[u8], at: usize) -> Result<u16> {
    bytes(file, at).map(u16::from_le_bytes)
}

fn le32(file: &[u8], at: usize) -> Result<u32> {
    bytes(file, at).map(u32::from_le_bytes)
}

/// The packed kernel in a bzImage.
fn payload(file: &[u8]) -> Result<&[u8]> {
    const NEITHER: &str = "neither an ELF file nor a bzImage";
    ensure!(file.len() >= HEADER_END, "{NEITHER}: it has only {} bytes", file.len());
    let flag = le16(file, BOOT_FLAG)?;
    ensure!(flag == 0xaa55, "{NEITHER}: 0x{flag:04x} instead of 0xaa55 at 0x{BOOT_FLAG:x}");
    let magic = bytes::<4>(file, MAGIC)?;
    ensure!(&magic == b"HdrS", "{NEITHER}: `{}` instead of `HdrS` at 0x{MAGIC:x}", magic.escape_ascii());
    let version = le16(file, VERSION)?;
    ensure!(
        version >= VERSION_WITH_PAYLOAD,
        "boot protocol {}.{:02} does not say where the payload is; 2.08 does",
        version >> 8,
        version & 0xff
    );
    ensure!(file[LOADFLAGS] & LOADED_HIGH != 0, "a zImage: only bzImages have a payload");
    // 0 stands for 4, for the sake of very old boot loaders.
    let sectors = match file[SETUP_SECTS] {
        0 => 4,
        n => usize::from(n),
    };
    let offset = le32(file, PAYLOAD_OFFSET)?;
    let length = le32(file, PAYLOAD_LENGTH)?;
    let start = (sectors + 1) * 512 + offset as usize;
    let end = start + length as usize;
    let found = file.get(start..end);
    let payload = found.with_context(|| {
        format!("the file is cut off: the payload is [{start:#x}, {end:#x}) and the file has {:#x} bytes", file.len())
    })?;
    ensure!(payload.len() > 8, "the payload has only {} bytes", payload.len());
    Ok(payload)
}

/// What a payload is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lz4,
    Zstd,
}

impl Packing {
    /// By the payload's first bytes.
    fn of(payload: &[u8]) -> Result<Self> {
        const MAGICS: [(&[u8], Packing); 6] = [
            (b"\x1f\x8b", Packing::Gzip),
            (b"BZh", Packing::Bzip2),
            (b"\x5d\0\0", Packing::Lzma),
            (b"\xfd7zXZ\0", Packing::Xz),
            (b"\x02\x21\x4c\x18", Packing::Lz4),
            (b"\x28\xb5\x2f\xfd", Packing::Zstd),
        ];
        if payload.starts_with(b"\x89LZO") {
            bail!("the payload is packed with LZO, which is not unpacked here: give the vmlinux itself");
        }
        match MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)) {
            Some((_, packing)) => Ok(*packing),
            None => {
                let first = payload.first_chunk::<8>().map_or(String::new(), |first| format!("{first:02x?}"));
                bail!("the payload is packed with something unknown: it begins with {first}")
            }
        }
    }

    fn unpack(self, payload: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Gzip => read_all(flate2::read::GzDecoder::new(payload)),
            Self::Bzip2 => read_all(bzip2::read::BzDecoder::new(payload)),
            Self::Lzma => {
                let stream = liblzma::stream::Stream::new_lzma_decoder(u64::MAX)?;
                read_all(liblzma::read::XzDecoder::new_stream(payload, stream))
            }
            Self::Xz => read_all(liblzma::read::XzDecoder::new(payload)),
            Self::Lz4 => unpack_lz4(payload),
            Self::Zstd => read_all(ruzstd::decoding::StreamingDecoder::new(payload)?),
        }
    }
}

fn read_all(reader: impl Read) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    let count = reader.take(LIMIT_BYTES + 1).read_to_end(&mut whole)?;
    ensure!(count as u64 <= LIMIT_BYTES, "it unpacks to more than {LIMIT_BYTES} bytes");
    Ok(whole)
}

/// LZ4's legacy frame, which the kernel's build makes: blocks of 8 MiB, each behind its packed length. No end is marked, so the
/// size behind the last block has to be cut off.
fn unpack_lz4(payload: &[u8]) -> Result<Vec<u8>> {
    const BLOCK_BYTES: usize = 8 << 20;
    let mut rest = &payload[4..payload.len() - 4];
    let mut whole = Vec::new();
    let mut block = vec![0; BLOCK_BYTES];
    while !rest.is_empty() {
        let length = le32(rest, 0)? as usize;
        let packed = rest.get(4..).and_then(|rest| rest.get(..length)).context("a block is cut off")?;
        let count = lz4_flex::block::decompress_into(packed, &mut block)?;
        whole.extend_from_slice(&block[..count]);
        ensure!(whole.len() as u64 <= LIMIT_BYTES, "it unpacks to more than {LIMIT_BYTES} bytes");
        rest = &rest[4 + length..];
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Something that starts as an ELF file does, and is not only repetition.
    fn sample(len: usize) -> Vec<u8> {
        let mut whole = b"\x7fELF".to_vec();
        let mut state = 1u32;
        while whole.len() < len {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let run = [(state >> 24) as u8; 8];
            whole.extend_from_slice(&run);
        }
        whole
    }

    /// A bzImage around a packed payload, by the table above.
    fn bzimage(packed: &[u8], size: u32, has_size: bool) -> Vec<u8> {
        let mut file = vec![0u8; 3 * 512];
        file[0x1f1] = 2;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        file[0x211] = 1;
        let mut payload = packed.to_vec();
        if !has_size {
            payload.extend_from_slice(&size.to_le_bytes());
        }
        file[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(&[0x90; 100]);
        file.extend_from_slice(&payload);
        file.extend_from_slice(&[0xcc; 77]);
        file
    }

    fn pack(packing: Packing, whole: &[u8]) -> Vec<u8> {
        match packing {
            Packing::Gzip => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(whole).unwrap();
                to.finish().unwrap()
            }
            Packing::Bzip2 => {
                let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                to.write_all(whole).unwrap();
                to.finish().unwrap()
            }
            Packing::Lzma => {
                let options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
                let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
                let mut to = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                to.write_all(whole).unwrap();
                to.finish().unwrap()
            }
            Packing::Xz => {
                // As the kernel's build does it: the filter for x86 in front.
                let options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
                let mut filters = liblzma::stream::Filters::new();
                filters.x86().lzma2(&options);
                let check = liblzma::stream::Check::Crc32;
                let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check).unwrap();
                let mut to = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                to.write_all(whole).unwrap();
                to.finish().unwrap()
            }
            Packing::Lz4 => {
                let mut packed = b"\x02\x21\x4c\x18".to_vec();
                for block in whole.chunks(8 << 20) {
                    let block = lz4_flex::block::compress(block);
                    packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
                    packed.extend_from_slice(&block);
                }
                packed
            }
            Packing::Zstd => ruzstd::encoding::compress_to_vec(whole, ruzstd::encoding::CompressionLevel::Fastest),
        }
    }

    const ALL: [Packing; 6] = [Packing::Gzip, Packing::Bzip2, Packing::Lzma, Packing::Xz, Packing::Lz4, Packing::Zstd];

    fn error(file: &[u8]) -> String {
        format!("{:#}", unpack(file).unwrap_err())
    }

    #[test]
    fn every_packing_gives_the_kernel_back() {
        for packing in ALL {
            // LZ4's blocks are of 8 MiB: the other packings know no such border.
            let whole = sample(if packing == Packing::Lz4 { (8 << 20) + 12345 } else { 123_456 });
            let packed = pack(packing, &whole);
            assert_eq!(Packing::of(&packed).unwrap(), packing);
            let file = bzimage(&packed, whole.len() as u32, packing == Packing::Gzip);
            assert!(unpack(&file).unwrap() == whole, "{packing:?}");
        }
    }

    #[test]
    fn damage_is_found() {
        let whole = sample(123_456);
        for packing in ALL {
            let packed = pack(packing, &whole);
            let has_size = packing == Packing::Gzip;
            let file = bzimage(&packed, whole.len() as u32, has_size);
            let mut cut = file.clone();
            cut.truncate(file.len() - 100);
            assert!(error(&cut).contains("cut off"), "{packing:?}: {}", error(&cut));
            let half = bzimage(&packed[..packed.len() / 2], whole.len() as u32, has_size);
            assert!(unpack(&half).is_err(), "{packing:?}");
            if !has_size {
                let other = bzimage(&packed, 1 + whole.len() as u32, has_size);
                assert!(error(&other).contains("the file says"), "{packing:?}: {}", error(&other));
            }
        }
    }

    #[test]
    fn what_is_no_bzimage_is_told_why() {
        let good = bzimage(b"\x1f\x8b12345678", 0, false);
        assert!(error(b"#!/bin/sh").contains("it has only 9 bytes"));
        assert!(error(&[0; 4096]).contains("0x0000 instead of 0xaa55"));
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            error(&file)
        };
        assert!(with(MAGIC, b"Nope").contains("`Nope` instead of `HdrS`"));
        assert!(with(VERSION, &[7, 2]).contains("boot protocol 2.07"));
        assert!(with(LOADFLAGS, &[0]).contains("zImage"));
        assert!(with(PAYLOAD_OFFSET, &[0xff; 4]).contains("cut off"));
        assert!(with(PAYLOAD_LENGTH, &[3, 0, 0, 0]).contains("only 3 bytes"));
        assert!(error(&bzimage(b"\x89LZO00000000", 0, false)).contains("LZO"));
        assert!(error(&bzimage(b"who knows what", 0, false)).contains("something unknown"));
        let packed = pack(Packing::Gzip, b"not ELF");
        assert!(error(&bzimage(&packed, 7, true)).contains("no ELF file"));
    }

    #[test]
    fn an_elf_file_is_taken_as_it_is() {
        assert_eq!(unpack(b"\x7fELF and so on").unwrap(), b"\x7fELF and so on");
    }
}
