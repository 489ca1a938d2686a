//! The digest that a build of luxen carries about itself.
//!
//! The kernel has an ELF note, owner `luxen`, type 1, whose description is 32 bytes. They are the SHA-256 of the whole file
//! with these 32 bytes zero. An update is refused if they do not match, so whatever happens to the file on its way to the
//! machine's memory is found before anything pauses.

use anyhow::{Context, Result, bail, ensure};
use elf::ElfBytes;
use elf::abi::PT_NOTE;
use elf::endian::LittleEndian;
use elf::note::Note;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// The note's owner, without its terminating zero.
const OWNER: &[u8] = b"luxen";
/// The note's type.
const TYPE: u64 = 1;
/// Bytes of SHA-256.
const LEN_BYTES: usize = 32;

/// Where in the file the 32 bytes lie.
pub fn place(file: &[u8]) -> Result<Range<usize>> {
    let place = note(file, TYPE)?;
    ensure!(place.len() == LEN_BYTES, "the digest note has {} bytes, not {LEN_BYTES}", place.len());
    Ok(place)
}

/// Where in the file the body of luxen's note of a type lies.
pub fn note(file: &[u8], kind: u64) -> Result<Range<usize>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("not an ELF file")?;
    let segments = elf.segments().context("no program headers")?;
    for header in segments.iter().filter(|header| header.p_type == PT_NOTE) {
        for note in elf.segment_data_as_notes(&header).context("a PT_NOTE segment lies outside the file")? {
            let Note::Unknown(note) = note else { continue };
            let owner = note.name_str().unwrap_or_default().as_bytes();
            if owner == OWNER && note.n_type == kind {
                // `desc` is a slice of `file`: its place follows from the two addresses.
                let start = note.desc.as_ptr().addr() - file.as_ptr().addr();
                return Ok(start..start + note.desc.len());
            }
        }
    }
    bail!("no ELF note of owner luxen and type {kind} in a PT_NOTE segment")
}

/// Writes the digest into its place and returns it in hexadecimal.
pub fn seal(file: &mut [u8]) -> Result<String> {
    let place = place(file)?;
    file[place.clone()].fill(0);
    let digest = Sha256::digest(&*file);
    file[place].copy_from_slice(&digest);
    Ok(hex(&digest))
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A 64-bit ELF file with one program header, a note that holds `desc`, and a little more.
    pub fn elf_with_note(owner: &[u8], desc: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend((owner.len() as u32 + 1).to_le_bytes());
        note.extend((desc.len() as u32).to_le_bytes());
        note.extend(1u32.to_le_bytes());
        note.extend(owner);
        note.push(0);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(desc);

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
