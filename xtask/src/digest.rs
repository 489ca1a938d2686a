//! The digest that a build of luxen carries about itself, and the places of its notes.
//!
//! The kernel has ELF notes of owner `luxen`. That of type 1 has a description of 32 bytes: the SHA-256 of the whole file with these 32 bytes, and the
//! description of the note of type 4 (the signature, `sign.rs`), zero. An update is refused if they do not match, so whatever happens to the file on its
//! way to the machine's memory is found before anything pauses.

use anyhow::{Context, Result, bail, ensure};
use elf::ElfBytes;
use elf::abi::PT_NOTE;
use elf::endian::LittleEndian;
use elf::note::Note;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// The notes' owner, without its terminating zero.
const OWNER: &[u8] = b"luxen";

/// A note with a place of fixed size in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// SHA-256.
    Digest,
    /// Scheme, key and signature.
    Signature,
}

impl Place {
    /// The note's type and the bytes of its description.
    const fn numbers(self) -> (u64, usize) {
        match self {
            Self::Digest => (1, 32),
            Self::Signature => (4, 80),
        }
    }

    /// Where in the file the description lies; nothing without such a note.
    pub fn find(self, file: &[u8]) -> Result<Option<Range<usize>>> {
        let (kind, len) = self.numbers();
        let place = find(file, kind)?;
        if let Some(place) = &place {
            ensure!(place.len() == len, "the note of type {kind} has {} bytes, not {len}", place.len());
        }
        Ok(place)
    }
}

/// Where in the file the body of luxen's note of a type lies, if there is one.
fn find(file: &[u8], kind: u64) -> Result<Option<Range<usize>>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("not an ELF file")?;
    let segments = elf.segments().context("no program headers")?;
    for header in segments.iter().filter(|header| header.p_type == PT_NOTE) {
        for note in elf.segment_data_as_notes(&header).context("a PT_NOTE segment lies outside the file")? {
            let Note::Unknown(note) = note else { continue };
            let owner = note.name_str().unwrap_or_default().as_bytes();
            if owner == OWNER && note.n_type == kind {
                // `desc` is a slice of `file`: its place follows from the two addresses.
                let start = note.desc.as_ptr().addr() - file.as_ptr().addr();
                return Ok(Some(start..start + note.desc.len()));
            }
        }
    }
    Ok(None)
}

/// Where in the file the body of luxen's note of a type lies.
pub fn note(file: &[u8], kind: u64) -> Result<Range<usize>> {
    match find(file, kind)? {
        Some(place) => Ok(place),
        None => bail!("no ELF note of owner luxen and type {kind} in a PT_NOTE segment"),
    }
}

/// Where in the file the digest lies.
pub fn place(file: &[u8]) -> Result<Range<usize>> {
    match Place::Digest.find(file)? {
        Some(place) => Ok(place),
        None => bail!("no ELF note of owner luxen and type 1 in a PT_NOTE segment"),
    }
}

/// Writes the digest into its place and returns it. The signature stays as it is; it holds only if nothing else has changed since it was made.
pub fn seal(file: &mut [u8]) -> Result<[u8; 32]> {
    let place = place(file)?;
    let mut blank = file.to_vec();
    blank[place.clone()].fill(0);
    if let Some(signature) = Place::Signature.find(file)? {
        blank[signature].fill(0);
    }
    let digest = Sha256::digest(&blank);
    file[place].copy_from_slice(&digest);
    Ok(digest.into())
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A 64-bit ELF file with one program header, a note of type 1 that holds `desc`, and a little more.
    pub fn elf_with_note(owner: &[u8], desc: &[u8]) -> Vec<u8> {
        elf_with_notes(&[note(owner, 1, desc)])
    }

    /// A note.
    pub fn note(owner: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend((owner.len() as u32 + 1).to_le_bytes());
        note.extend((desc.len() as u32).to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(owner);
        note.push(0);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(desc);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    /// The same with several notes.
    pub fn elf_with_notes(notes: &[Vec<u8>]) -> Vec<u8> {
        let note = notes.concat();

        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        file.resize(16, 0);
        file.extend(2u16.to_le_bytes()); // e_type: EXEC
        file.extend(62u16.to_le_bytes()); // e_machine: x86-64
        file.extend(1u32.to_le_bytes());
        file.extend(0u64.to_le_bytes()); // e_entry
        file.extend(64u64.to_le_bytes()); // e_phoff
        file.extend(0u64.to_le_bytes()); // e_shoff
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(PT_NOTE.to_le_bytes());
        file.extend(4u32.to_le_bytes());
        for word in [120, 0, 0, note.len() as u64, note.len() as u64, 4] {
            file.extend(u64::to_le_bytes(word));
        }
        assert_eq!(file.len(), 120);
        file.extend(note);
        file.extend(b"what follows counts too");
        file
    }

    #[test]
    fn the_digest_is_that_of_the_file_with_the_place_zero() {
        let blank = elf_with_note(b"luxen", &[0; 32]);
        let mut sealed = elf_with_note(b"luxen", &[0xaa; 32]);
        seal(&mut sealed).unwrap();
        let place = place(&sealed).unwrap();
        assert_eq!(place.start, 120 + 12 + 8);
        assert_eq!(sealed[place.clone()], *Sha256::digest(&blank));
        sealed[place].fill(0);
        assert_eq!(sealed, blank);
    }

    #[test]
    fn the_signature_does_not_count() {
        let mut file = elf_with_notes(&[note(b"luxen", 4, &[0; 80]), note(b"luxen", 1, &[0; 32])]);
        let digest = seal(&mut file).unwrap();
        let place = Place::Signature.find(&file).unwrap().unwrap();
        assert_eq!(place, 120 + 20..120 + 100);
        file[place].fill(0x77);
        assert_eq!(seal(&mut file).unwrap(), digest);
        // The last byte is no part of any structure.
        *file.last_mut().unwrap() ^= 1;
        assert_ne!(seal(&mut file).unwrap(), digest);
    }

    #[test]
    fn a_file_without_the_note_is_refused() {
        assert!(place(b"no ELF file").is_err());
        assert!(place(&elf_with_note(b"Xen", &[0; 32])).is_err());
        assert!(place(&elf_with_note(b"luxen", &[0; 20])).is_err());
        let whole = elf_with_note(b"luxen", &[0; 32]);
        for len in 0..whole.len() - 23 {
            assert!(place(&whole[..len]).is_err(), "cut to {len} bytes");
        }
    }
}
