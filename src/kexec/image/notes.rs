//! The notes of owner `luxen`: how a build carries them and how its predecessor reads them.

use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};

use super::signature::{ImageSignature, SIGNATURE_NOTE_LEN};
use super::{DIGEST_LEN, Digest, ImageError, from_elf, u32_at};

/// The owner's name in the notes.
pub const NOTE_OWNER: &str = "luxen";
/// Note type of the digest.
pub const NOTE_DIGEST: u32 = 1;
/// Note type of the needs.
pub const NOTE_NEEDS: u32 = 2;
/// Note type of the version string.
pub const NOTE_VERSION: u32 = 3;
/// Note type of the signature.
pub const NOTE_SIGNATURE: u32 = 4;

/// What an image tells its predecessor about itself; the body of the note of type 2.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | u32 | [`Needs::VERSION`] |
/// | 4 | u32 | `page_info_bytes` |
/// | 8 | u32 | `chunk_entry_bytes` |
/// | 12 | u32 | `stream_min` |
/// | 16 | u32 | `stream_max` |
/// | 20 | u32 | `stream_writes` |
/// | 24 | u64 | `boot_footprint_bytes` |
/// | 32 | u64 | `features` |
/// | 40 | u64 | `slot_bytes` |
/// | 48 | u32 | `max_splits` |
/// | 52 | u32 | `max_stream_frames` |
///
/// A body may be longer: what follows is for readers that know it. One of 48 bytes is of a build that did not say how much it takes:
/// [`Needs::UNSAID_SPLITS`] and [`Needs::UNSAID_STREAM_FRAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes that a page of a split chunk takes: its `page_info` and its share of what else belongs to the split, rounded up.
    pub page_info_bytes: u32,
    /// Bytes of an entry of the frametable's upper level.
    pub chunk_entry_bytes: u32,
    /// The oldest stream version that it reads.
    pub stream_min: u32,
    /// The newest stream version that it reads.
    pub stream_max: u32,
    /// The stream version that it writes by itself.
    pub stream_writes: u32,
    /// What it allocates from the region however small the machine is.
    pub boot_footprint_bytes: u64,
    /// Features that the machine must have: [`MachineFeatures`](super::MachineFeatures).
    pub features: u64,
    /// Size of the slot that it expects to own.
    pub slot_bytes: u64,
    /// Splits, records of the 512 pages of a chunk, for which its boot has places.
    pub max_splits: u32,
    /// Frames of a stream, list pages included, that its boot can keep in mind.
    pub max_stream_frames: u32,
}

impl Needs {
    /// The version of the layout.
    pub const VERSION: u32 = 1;
    /// Bytes of the layout.
    pub const LEN: usize = 56;
    /// Bytes of the layout without `max_splits` and what follows it.
    const SHORT_LEN: usize = 48;
    /// `max_splits` of a build that does not say it: 1024 slabs of eight.
    pub const UNSAID_SPLITS: u32 = 8192;
    /// `max_stream_frames` of a build that does not say it: what fits 2 MiB of small objects.
    pub const UNSAID_STREAM_FRAMES: u32 = 16384;

    /// The note's body.
    pub const fn encode(&self) -> [u8; Self::LEN] {
        const fn put<const N: usize>(body: &mut [u8; Needs::LEN], at: usize, bytes: [u8; N]) {
            let mut i = 0;
            while i < N {
                body[at + i] = bytes[i];
                i += 1;
            }
        }
        let mut body = [0; Self::LEN];
        put(&mut body, 0, Self::VERSION.to_le_bytes());
        put(&mut body, 4, self.page_info_bytes.to_le_bytes());
        put(&mut body, 8, self.chunk_entry_bytes.to_le_bytes());
        put(&mut body, 12, self.stream_min.to_le_bytes());
        put(&mut body, 16, self.stream_max.to_le_bytes());
        put(&mut body, 20, self.stream_writes.to_le_bytes());
        put(&mut body, 24, self.boot_footprint_bytes.to_le_bytes());
        put(&mut body, 32, self.features.to_le_bytes());
        put(&mut body, 40, self.slot_bytes.to_le_bytes());
        put(&mut body, 48, self.max_splits.to_le_bytes());
        put(&mut body, 52, self.max_stream_frames.to_le_bytes());
        body
    }

    fn decode(body: &[u8]) -> Result<Self, ImageError> {
        let bad = ImageError::BadNote { kind: NOTE_NEEDS, found: body.len() };
        let u32_at = |at| u32_at(body, at).ok_or(bad);
        let limit_at = |at, unsaid| if body.len() == Self::SHORT_LEN { Ok(unsaid) } else { u32_at(at) };
        let u64_at = |at: usize| -> Result<u64, ImageError> {
            let bytes = body.get(at..).and_then(|rest| rest.first_chunk()).ok_or(bad)?;
            Ok(u64::from_le_bytes(*bytes))
        };
        let version = u32_at(0)?;
        if version != Self::VERSION {
            return Err(ImageError::NeedsVersion { found: version, known: Self::VERSION });
        }
        let needs = Self {
            page_info_bytes: u32_at(4)?,
            chunk_entry_bytes: u32_at(8)?,
            stream_min: u32_at(12)?,
            stream_max: u32_at(16)?,
            stream_writes: u32_at(20)?,
            boot_footprint_bytes: u64_at(24)?,
            features: u64_at(32)?,
            slot_bytes: u64_at(40)?,
            max_splits: limit_at(48, Self::UNSAID_SPLITS)?,
            max_stream_frames: limit_at(52, Self::UNSAID_STREAM_FRAMES)?,
        };
        if needs.stream_min > needs.stream_max { Err(bad) } else { Ok(needs) }
    }
}

/// A note as a build carries it: a static of this type in a section `.note.luxen` is an ELF note of owner `luxen`.
#[derive(Debug)]
#[repr(C, align(4))]
pub struct ElfNote<const N: usize> {
    name_len: u32,
    body_len: u32,
    kind: u32,
    /// The name and its NUL are six bytes; notes are padded to four.
    name: [u8; 8],
    body: [u8; N],
}

const _: () = assert!(core::mem::offset_of!(ElfNote<32>, body) == 20);
const _: () = assert!(core::mem::align_of::<ElfNote<32>>() == 4);

impl<const N: usize> ElfNote<N> {
    /// A note with that type and body.
    pub const fn new(kind: u32, body: [u8; N]) -> Self {
        Self { name_len: NOTE_OWNER.len() as u32 + 1, body_len: N as u32, kind, name: *b"luxen\0\0\0", body }
    }
}

/// What the notes say.
pub(super) struct Notes<'a> {
    pub(super) digest_at: usize,
    pub(super) digest: Digest,
    pub(super) needs: Needs,
    pub(super) version: &'a str,
    /// Where the signature's note has its body, and what is in it.
    pub(super) signature_at: Option<usize>,
    pub(super) signature: Option<ImageSignature>,
}

impl<'a> Notes<'a> {
    pub(super) fn read(elf: &ElfBytes<'a, LittleEndian>, file: &'a [u8]) -> Result<Self, ImageError> {
        let mut found = FoundNotes::default();
        for header in elf.segments().into_iter().flatten() {
            if header.p_type == abi::PT_NOTE {
                let data = elf.segment_data(&header).map_err(|e| from_elf(e, file))?;
                found.collect(data, header.p_align)?;
            }
        }
        // A linker script may leave the notes to the section headers only.
        if found.is_empty() {
            for header in elf.section_headers().into_iter().flatten() {
                if header.sh_type == abi::SHT_NOTE {
                    let (data, _) = elf.section_data(&header).map_err(|e| from_elf(e, file))?;
                    found.collect(data, header.sh_addralign)?;
                }
            }
        }
        let digest = found.digest.ok_or(ImageError::NoNote { kind: NOTE_DIGEST })?;
        let needs = found.needs.ok_or(ImageError::NoNote { kind: NOTE_NEEDS })?;
        let version = found.version.ok_or(ImageError::NoNote { kind: NOTE_VERSION })?;
        let bad = |kind, body: &[u8]| ImageError::BadNote { kind, found: body.len() };
        // A body is a part of the file, so that the difference of their addresses is its offset.
        let offset_of = |body: &[u8]| body.as_ptr().addr() - file.as_ptr().addr();
        let digest_at = offset_of(digest);
        let signature_at = found.signature.map(offset_of);
        // One place cannot be both: the digest would hold without saying anything about the signature's note.
        if signature_at.is_some_and(|at| at < digest_at + DIGEST_LEN && digest_at < at + SIGNATURE_NOTE_LEN) {
            return Err(ImageError::BadNote { kind: NOTE_SIGNATURE, found: SIGNATURE_NOTE_LEN });
        }
        Ok(Self {
            digest_at,
            signature_at,
            signature: found.signature.map(ImageSignature::decode).transpose()?.flatten(),
            digest: Digest(<[u8; DIGEST_LEN]>::try_from(digest).map_err(|_| bad(NOTE_DIGEST, digest))?),
            needs: Needs::decode(needs)?,
            version: version_str(version).ok_or_else(|| bad(NOTE_VERSION, version))?,
        })
    }
}

/// The version goes into log lines and JSON as it is, so that only plain characters may be in it.
fn version_str(body: &[u8]) -> Option<&str> {
    let text = core::str::from_utf8(body).ok()?.trim_end_matches('\0');
    let is_plain = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '"' && c != '\\';
    (!text.is_empty() && text.chars().all(is_plain)).then_some(text)
}

/// Bodies of luxen's notes.
#[derive(Default)]
struct FoundNotes<'a> {
    digest: Option<&'a [u8]>,
    needs: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    signature: Option<&'a [u8]>,
}

impl<'a> FoundNotes<'a> {
    fn is_empty(&self) -> bool {
        self.digest.is_none() && self.needs.is_none() && self.version.is_none()
    }

    fn collect(&mut self, data: &'a [u8], align: u64) -> Result<(), ImageError> {
        // Notes are padded to four bytes unless their segment is aligned to eight; smaller alignments mean four.
        let align = if align == 8 { 8 } else { 4 };
        for note in NoteIterator::new(LittleEndian, Class::ELF64, align, data) {
            let Note::Unknown(note) = note else { continue };
            if !matches!(note.name_str(), Ok(NOTE_OWNER)) {
                continue;
            }
            let (place, kind) = match u32::try_from(note.n_type) {
                Ok(kind @ NOTE_DIGEST) => (&mut self.digest, kind),
                Ok(kind @ NOTE_NEEDS) => (&mut self.needs, kind),
                Ok(kind @ NOTE_VERSION) => (&mut self.version, kind),
                Ok(kind @ NOTE_SIGNATURE) => (&mut self.signature, kind),
                _ => continue,
            };
            if place.replace(note.desc).is_some() {
                return Err(ImageError::NoteTwice { kind });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kexec::testing::NEEDS;

    #[test]
    fn needs_are_what_was_encoded_and_may_be_longer() {
        assert_eq!(Needs::decode(&NEEDS.encode()), Ok(NEEDS));
        let mut longer = NEEDS.encode().to_vec();
        longer.extend([1, 2, 3, 4]);
        assert_eq!(Needs::decode(&longer), Ok(NEEDS));
        // The layout is what the table in the documentation says.
        let body = NEEDS.encode();
        assert_eq!(body[..4], [1, 0, 0, 0]);
        assert_eq!(body[40..], [0, 0, 0x40, 0, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 0x78, 0x56, 0, 0]);
        // A build that does not say how much it takes is not trusted with more than such builds took.
        let shorter = Needs { max_splits: 8192, max_stream_frames: 16384, ..NEEDS };
        assert_eq!(Needs::decode(&body[..48]), Ok(shorter));
        for len in (0..48).chain(49..56) {
            assert_eq!(Needs::decode(&body[..len]), Err(ImageError::BadNote { kind: NOTE_NEEDS, found: len }));
        }
    }

    #[test]
    fn a_note_of_the_build_is_laid_out_as_elf_wants_it() {
        let note = ElfNote::new(NOTE_DIGEST, [0x5a; 32]);
        assert_eq!((note.name_len, note.body_len, note.kind), (6, 32, 1));
        assert_eq!(&note.name, b"luxen\0\0\0");
        assert_eq!(core::mem::size_of_val(&note), 52);
        // A version string of any length leaves the next note aligned.
        assert_eq!(core::mem::size_of::<ElfNote<13>>() % 4, 0);
    }
}
