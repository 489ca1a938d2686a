//! Next images that are damaged on purpose, each in one way: whatever else is true of them is made true again.

use crate::digest::{self, Place};
use crate::{paths, sign};
use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use std::fs;
use std::path::{Path, PathBuf};

/// How an image is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The last third of the file is missing.
    Truncated,
    /// One bit in the middle of the file is another.
    Flipped,
    /// A good ELF file with a good digest, but without a Multiboot2 header.
    NotMultiboot2,
    /// A good image whose last segment is longer in memory than an image slot.
    TooLarge,
    /// No ELF note with a digest.
    Undigested,
    /// No ELF file at all.
    Garbage,
    /// Good, but nobody has signed it.
    Unsigned,
    /// Good, but signed by a key that no build trusts by itself.
    Stranger,
    /// Good, but one bit of the signature is another.
    Signature,
    /// One bit in the middle of the file is another, and the digest was made right again, but not the signature.
    Altered,
    /// A good image that needs a feature that nothing has.
    Features,
    /// A good image with three places for page records.
    Places,
    /// A good image that takes a stream of two frames.
    StreamFrames,
    /// A good image that says that it reads stream versions from 3 on only.
    NewerStream,
    /// A good image that trusts the scenarios' own key: what `LUXEN_KEY=` makes of the same sources, as no code depends on which key it is.
    Rotated,
    /// The first build, signed by the scenarios' own key.
    Successor,
}

/// Note type of what an image needs.
const NOTE_NEEDS: u64 = 2;
/// Place of the oldest and of the newest stream version that an image reads in that note, 4 bytes each.
const STREAM_MIN: usize = 12;

/// The size of an image slot.
const SLOT_BYTES: u64 = 4 << 20;
/// Little-endian magic of the Multiboot2 header, which lies in the first 32 KiB at a multiple of 8.
const MULTIBOOT2_MAGIC: u32 = 0xe852_50d6;
const MULTIBOOT2_SEARCH_BYTES: usize = 32 * 1024;

impl Damage {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Truncated,
        Self::Flipped,
        Self::NotMultiboot2,
        Self::TooLarge,
        Self::Undigested,
        Self::Garbage,
        Self::Unsigned,
        Self::Stranger,
        Self::Signature,
        Self::Altered,
        Self::Features,
        Self::Places,
        Self::StreamFrames,
        Self::NewerStream,
        Self::Rotated,
        Self::Successor,
    ];

    /// The file that [`make_all`] leaves.
    pub fn file(self) -> PathBuf {
        let name = match self {
            Self::Truncated => "truncated",
            Self::Flipped => "flipped",
            Self::NotMultiboot2 => "not-multiboot2",
            Self::TooLarge => "too-large",
            Self::Undigested => "undigested",
            Self::Garbage => "garbage",
            Self::Unsigned => "unsigned",
            Self::Stranger => "stranger",
            Self::Signature => "signature",
            Self::Altered => "altered",
            Self::Features => "features",
            Self::Places => "places",
            Self::StreamFrames => "stream-frames",
            Self::NewerStream => "newer-stream",
            Self::Rotated => "rotated",
            Self::Successor => "successor",
        };
        Path::new(paths::DAMAGED).join(name)
    }

    /// The build that it is made of.
    fn of(self) -> &'static str {
        if self == Self::Successor { "luxen" } else { "luxen-next" }
    }

    fn apply(self, good: &[u8], key: &SigningKey) -> Result<Vec<u8>> {
        let mut file = good.to_vec();
        match self {
            Self::Truncated => file.truncate(good.len() / 3 * 2),
            Self::Flipped => file[good.len() / 2] ^= 0x10,
            Self::NotMultiboot2 => {
                let place = multiboot2_header(&file).context("the good image has no Multiboot2 header")?;
                file[place..place + 4].fill(0);
                sign::sign(&mut file, key)?;
            }
            Self::TooLarge => {
                lengthen_last_segment(&mut file)?;
                sign::sign(&mut file, key)?;
            }
            Self::Undigested => {
                // The owner's name stands right before the digest, padded to a multiple of four.
                let place = digest::place(&file)?;
                file[place.start - 8..place.start].fill(b'x');
            }
            Self::Features => change_needs(&mut file, 32, &(1u64 << 63 | 1).to_le_bytes(), key)?,
            Self::Places => change_needs(&mut file, 48, &3u32.to_le_bytes(), key)?,
            Self::StreamFrames => change_needs(&mut file, 52, &2u32.to_le_bytes(), key)?,
            Self::NewerStream => change_needs(&mut file, STREAM_MIN, &[3, 0, 0, 0, 4, 0, 0, 0], key)?,
            Self::Unsigned => sign::unsign(&mut file)?,
            Self::Stranger | Self::Successor => sign::sign(&mut file, &sign::stranger())?,
            Self::Rotated => {
                build_in(&mut file, key, &sign::stranger())?;
                sign::sign(&mut file, key)?;
            }
            Self::Signature => {
                let place = Place::Signature.find(&file)?.context("the good image has no place for a signature")?;
                file[place.end - 1] ^= 1;
            }
            Self::Altered => {
                file[good.len() / 2] ^= 0x10;
                digest::seal(&mut file)?;
            }
            Self::Garbage => file = (0..64 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
        }
        Ok(file)
    }
}

/// Damages the builds in every way.
pub fn make_all() -> Result<()> {
    let key = sign::development()?;
    for damage in Damage::ALL {
        let path = paths::out(damage.of());
        let good = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let bad = damage.apply(&good, &key).with_context(|| format!("cannot make the image {damage:?}"))?;
        fs::write(damage.file(), bad).with_context(|| format!("cannot write {}", damage.file().display()))?;
    }
    Ok(())
}

/// Puts another public key in the place of the one that was built in.
fn build_in(file: &mut [u8], old: &SigningKey, new: &SigningKey) -> Result<()> {
    let (old, new) = (old.verifying_key(), new.verifying_key());
    let places = places_of(file, old.as_bytes());
    let [place] = places[..] else {
        anyhow::bail!(
            "the development key is in the image {} times, not once: it was built with another LUXEN_KEY, or the key is not kept as its bytes any more",
            places.len()
        );
    };
    file[place..place + new.as_bytes().len()].copy_from_slice(new.as_bytes());
    // In instructions it would be there in pieces, of seven bytes at least wherever eight of them are moved at once.
    let is_left = old.as_bytes().windows(7).any(|piece| !places_of(file, piece).is_empty());
    ensure!(!is_left, "the development key is in the image's code, too: build::key has to be the one place");
    Ok(())
}

fn places_of(file: &[u8], wanted: &[u8]) -> Vec<usize> {
    (0..file.len()).filter(|&at| file[at..].starts_with(wanted)).collect()
}

fn multiboot2_header(file: &[u8]) -> Option<usize> {
    let words = file.len().min(MULTIBOOT2_SEARCH_BYTES) / 8;
    (0..words).map(|word| word * 8).find(|at| file[*at..*at + 4] == MULTIBOOT2_MAGIC.to_le_bytes())
}

/// Changes a field of the note that says what the image needs, and makes digest and signature right again.
fn change_needs(file: &mut [u8], offset: usize, value: &[u8], key: &SigningKey) -> Result<()> {
    let note = digest::note(file, NOTE_NEEDS)?;
    ensure!(offset + value.len() <= note.len(), "the note of its needs has {} bytes", note.len());
    let start = note.start + offset;
    file[start..start + value.len()].copy_from_slice(value);
    sign::sign(file, key)
}

/// Adds twice a slot to the memory size of the PT_LOAD segment that ends last.
fn lengthen_last_segment(file: &mut [u8]) -> Result<()> {
    /// Place of `p_memsz` in an Elf64_Phdr.
    const P_MEMSZ: u64 = 40;
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("not an ELF file")?;
    let segments = elf.segments().context("no program headers")?;
    let (index, last) = segments
        .iter()
        .enumerate()
        .filter(|(_, header)| header.p_type == PT_LOAD)
        .max_by_key(|(_, header)| header.p_vaddr)
        .context("no PT_LOAD segment")?;
    let place = elf.ehdr.e_phoff + index as u64 * u64::from(elf.ehdr.e_phentsize) + P_MEMSZ;
    let place = usize::try_from(place)?;
    let longer = last.p_memsz + 2 * SLOT_BYTES;
    ensure!(place + 8 <= file.len(), "the program headers lie outside the file");
    file[place..place + 8].copy_from_slice(&longer.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::tests::{elf_with_notes, note};

    /// A small image in which everything that is damaged exists: its one segment is a PT_NOTE, so a PT_LOAD is put in front.
    fn image() -> Vec<u8> {
        let mut file = elf_with_notes(&[
            note(b"luxen", 1, &[0; 32]),
            note(b"luxen", NOTE_NEEDS as u32, &[1; 48]),
            note(b"luxen", 4, &[0; 80]),
        ]);
        file.resize(file.len().next_multiple_of(8), 0);
        file.extend(MULTIBOOT2_MAGIC.to_le_bytes());
        file.extend([1; 400]);
        file.extend(key().verifying_key().as_bytes());
        // A second program header in the place of the note's data would overlap it: the table moves to the end.
        let table = file.len().next_multiple_of(8);
        file.resize(table, 0);
        let note_header = file[64..120].to_vec();
        file.extend(note_header);
        file.extend(PT_LOAD.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        for word in [0u64, 0x1000, 0x1000, 64, 4096, 4096] {
            file.extend(word.to_le_bytes());
        }
        file[32..40].copy_from_slice(&(table as u64).to_le_bytes());
        file[56..58].copy_from_slice(&2u16.to_le_bytes());
        sign::sign(&mut file, &key()).unwrap();
        file
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn signed_again(file: &[u8], by: &SigningKey) -> Vec<u8> {
        let mut again = file.to_vec();
        sign::sign(&mut again, by).unwrap();
        again
    }

    fn digest_holds(file: &[u8]) -> bool {
        let mut again = file.to_vec();
        digest::seal(&mut again).is_ok() && again == file
    }

    #[test]
    fn each_damage_is_the_only_one() {
        let good = image();
        assert!(digest_holds(&good));
        let bad = |damage: Damage| damage.apply(&good, &key()).unwrap();
        assert!(!digest_holds(&bad(Damage::Flipped)));
        assert_eq!(bad(Damage::Flipped).iter().zip(&good).filter(|(a, b)| a != b).count(), 1);
        assert!(!digest_holds(&bad(Damage::Truncated)));
        assert!(digest_holds(&bad(Damage::NotMultiboot2)));
        assert_eq!(multiboot2_header(&bad(Damage::NotMultiboot2)), None);
        assert!(digest_holds(&bad(Damage::TooLarge)));
        assert!(bad(Damage::TooLarge).len() == good.len());
        assert!(digest::place(&bad(Damage::Undigested)).is_err());
        assert!(digest::place(&bad(Damage::Garbage)).is_err());
        for damage in [Damage::Unsigned, Damage::Stranger, Damage::Signature] {
            assert!(digest_holds(&bad(damage)) && bad(damage) != good);
            assert_eq!(signed_again(&bad(damage), &key()), good);
        }
        for damage in [Damage::NotMultiboot2, Damage::TooLarge, Damage::NewerStream] {
            assert_eq!(signed_again(&bad(damage), &key()), bad(damage));
        }
        assert_eq!(signed_again(&bad(Damage::Stranger), &sign::stranger()), bad(Damage::Stranger));
        assert!(digest_holds(&bad(Damage::Altered)));
        assert_ne!(signed_again(&bad(Damage::Altered), &key()), bad(Damage::Altered));
        let newer = bad(Damage::NewerStream);
        assert!(digest_holds(&newer));
        let needs = digest::note(&newer, NOTE_NEEDS).unwrap();
        assert_eq!(newer[needs.clone()][12..20], [3, 0, 0, 0, 4, 0, 0, 0]);
        let differs: Vec<usize> = (0..newer.len()).filter(|&i| newer[i] != good[i]).collect();
        let digest = digest::place(&good).unwrap();
        let signature = Place::Signature.find(&good).unwrap().unwrap();
        let may_differ = [digest, signature, needs.start + 12..needs.start + 20];
        assert!(differs.iter().all(|i| may_differ.iter().any(|place| place.contains(i))));
    }

    #[test]
    fn a_rotated_image_has_another_key_and_the_old_signature() {
        let good = image();
        let bad = Damage::Rotated.apply(&good, &key()).unwrap();
        assert_eq!(signed_again(&bad, &key()), bad);
        let has = |file: &[u8], key: &SigningKey| !places_of(file, key.verifying_key().as_bytes()).is_empty();
        assert!(has(&good, &key()) && !has(&good, &sign::stranger()));
        assert!(!has(&bad, &key()) && has(&bad, &sign::stranger()));
        // Not by guess where it is not, or not once.
        assert!(Damage::Rotated.apply(&bad, &key()).is_err());
        let twice = [&good[..], key().verifying_key().as_bytes()].concat();
        assert!(Damage::Rotated.apply(&twice, &key()).is_err());
        let in_code = [&good[..], &key().verifying_key().as_bytes()[7..14]].concat();
        assert!(Damage::Rotated.apply(&in_code, &key()).is_err());
    }

    #[test]
    fn too_large_adds_two_slots_in_memory() {
        let bad = Damage::TooLarge.apply(&image(), &key()).unwrap();
        let elf = ElfBytes::<LittleEndian>::minimal_parse(&bad).unwrap();
        let load = elf.segments().unwrap().iter().find(|header| header.p_type == PT_LOAD).unwrap();
        assert_eq!((load.p_filesz, load.p_memsz), (64, 4096 + 2 * SLOT_BYTES));
    }
}
