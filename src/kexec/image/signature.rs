//! An image's signature: the note that carries it, what is signed, and whether somebody trusted has signed it.
//!
//! The note of type 4:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u32 | scheme: 0 = not signed, and all else is zero; 1 = Ed25519 (RFC 8032) |
//! | 4 | u32 | reserved |
//! | 8 | 8 bytes | name of the key: [`KeyId`] |
//! | 16 | 64 bytes | signature |
//!
//! What is signed, 84 bytes:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | 28 bytes | [`DOMAIN`], so that the signature is good for nothing else |
//! | 28 | 32 bytes | the digest, as the note of type 1 has it |
//! | 60 | u64 | length of the file |
//! | 68 | u64 | where in the file the 32 bytes of the digest lie |
//! | 76 | u64 | where in the file the 80 bytes of this note's body lie |
//!
//! The digest takes both of these places as zero. Their positions are signed, so no other file with other places can have the same
//! message; what is in the places is checked by itself: the digest against the file, the signature against the message. So a file that
//! passes is, but for the choice of the signature, the file that was signed.

use ed25519_dalek::{Signature, VerifyingKey};

use super::{DIGEST_LEN, Digest, ImageError, NOTE_SIGNATURE, NextImage, u32_at};
use crate::trust::{KeyId, PublicKey, Trust};

/// What the signed message begins with.
pub const DOMAIN: &[u8; 28] = b"luxen next image, version 1\0";
/// Bytes of the note's body.
pub const SIGNATURE_NOTE_LEN: usize = 80;
/// Bytes of the signed message.
pub const MESSAGE_LEN: usize = DOMAIN.len() + DIGEST_LEN + 3 * 8;
/// Scheme of the note: Ed25519.
const ED25519: u32 = 1;

/// A signature, as its note has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSignature {
    /// Name of the key that it says it is by.
    pub key: KeyId,
    /// The 64 bytes.
    pub bytes: [u8; 64],
}

impl ImageSignature {
    /// The note's body.
    pub fn encode(&self) -> [u8; SIGNATURE_NOTE_LEN] {
        let mut body = [0; SIGNATURE_NOTE_LEN];
        body[..4].copy_from_slice(&ED25519.to_le_bytes());
        body[8..16].copy_from_slice(&self.key.0);
        body[16..].copy_from_slice(&self.bytes);
        body
    }

    /// Reads the note's body; nothing if the image is not signed.
    pub(super) fn decode(body: &[u8]) -> Result<Option<Self>, ImageError> {
        let bad = ImageError::BadNote { kind: NOTE_SIGNATURE, found: body.len() };
        let body: &[u8; SIGNATURE_NOTE_LEN] = body.try_into().map_err(|_| bad)?;
        let scheme = u32_at(body, 0).ok_or(bad)?;
        if *body == [0; SIGNATURE_NOTE_LEN] {
            return Ok(None);
        }
        if scheme != ED25519 {
            return Err(ImageError::SignatureScheme { found: scheme });
        }
        if u32_at(body, 4) != Some(0) {
            return Err(bad);
        }
        let key = body[8..].first_chunk().ok_or(bad)?;
        let bytes = body[16..].first_chunk().ok_or(bad)?;
        Ok(Some(Self { key: KeyId(*key), bytes: *bytes }))
    }
}

/// What is signed of a file with this digest, and with digest and signature at these places.
pub fn message(digest: &Digest, file_len: u64, digest_at: u64, signature_at: u64) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[..28].copy_from_slice(DOMAIN);
    message[28..60].copy_from_slice(&digest.0);
    for (place, number) in message[60..].chunks_exact_mut(8).zip([file_len, digest_at, signature_at]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    message
}

impl NextImage<'_> {
    /// Who has signed the image, as far as it says so itself.
    pub fn claimed_signer(&self) -> Option<KeyId> {
        self.signature.map(|signature| signature.key)
    }

    /// Checks, without the mathematics, that the image can pass [`Self::verify_signature`].
    pub fn check_signer(&self, trust: &Trust) -> Result<(), ImageError> {
        self.trusted_key(trust).map(|_| ())
    }

    /// Checks that a trusted key has signed the image, and returns the key's name; nothing if nobody is asked to have signed it. The
    /// signature is over the digest that the image claims: only together with [`Self::verify_digest`] it says something about the file.
    pub fn verify_signature(&self, trust: &Trust) -> Result<Option<KeyId>, ImageError> {
        let Some((key, at, signature)) = self.trusted_key(trust)? else { return Ok(None) };
        let bad = ImageError::BadSignature { key: signature.key };
        let message = message(&self.digest, self.file.len() as u64, self.digest_at as u64, at as u64);
        let verifying = VerifyingKey::from_bytes(&key.0).map_err(|_| ImageError::BadKey { key: signature.key })?;
        // Strict: no key and no point of small order, no second encoding of a signature.
        verifying.verify_strict(&message, &Signature::from_bytes(&signature.bytes)).map_err(|_| bad)?;
        Ok(Some(signature.key))
    }

    fn trusted_key(&self, trust: &Trust) -> Result<Option<(PublicKey, usize, ImageSignature)>, ImageError> {
        let Trust::Keys(keys) = trust else { return Ok(None) };
        let trusted = keys.ids();
        let (at, signature) = self.signature_at.zip(self.signature).ok_or(ImageError::Unsigned { trusted })?;
        let key = keys.named(signature.key).ok_or(ImageError::SignerUnknown { signer: signature.key, trusted })?;
        Ok(Some((key, at, signature)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kexec::testing::TestImage;
    use crate::trust::{KeyOption, TrustedKeys};
    use ed25519_dalek::{Signer, SigningKey};
    use std::string::ToString;
    use std::vec::Vec;

    fn signer(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public(signer: &SigningKey) -> PublicKey {
        PublicKey(signer.verifying_key().to_bytes())
    }

    fn trusting(seeds: &[u8]) -> Trust {
        let mut keys = TrustedKeys::default();
        seeds.iter().for_each(|seed| keys.add(Some(public(&signer(*seed)))));
        Trust::Keys(keys)
    }

    fn place_of(file: &[u8], header: [u32; 3]) -> usize {
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.windows(12).position(|bytes| bytes == header).unwrap() + 20
    }

    /// Signs as this page has it and not by way of the code that reads it.
    fn sign(file: &mut [u8], signer: &SigningKey) -> usize {
        let digest_at = place_of(file, [6, 32, 1]);
        let at = place_of(file, [6, 80, 4]);
        let mut message = b"luxen next image, version 1\0".to_vec();
        message.extend(&file[digest_at..digest_at + 32]);
        [file.len(), digest_at, at].iter().for_each(|n| message.extend((*n as u64).to_le_bytes()));
        file[at] = 1;
        file[at + 8..at + 16].copy_from_slice(&public(signer).id().0);
        file[at + 16..at + 80].copy_from_slice(&signer.sign(&message).to_bytes());
        at
    }

    fn unsigned() -> Vec<u8> {
        let mut image = TestImage::default();
        image.notes.push((4, [0; 80].to_vec()));
        image.file()
    }

    fn signed(seed: u8) -> (Vec<u8>, usize) {
        let mut file = unsigned();
        let at = sign(&mut file, &signer(seed));
        (file, at)
    }

    /// All that is asked of a file before it is staged.
    fn accepted(file: &[u8], trust: &Trust) -> Result<Option<KeyId>, ImageError> {
        let image = NextImage::parse(file)?;
        image.verify_digest()?;
        image.verify_signature(trust)
    }

    #[test]
    fn what_a_trusted_key_has_signed_is_taken() {
        let (file, _) = signed(1);
        for trust in [trusting(&[1]), trusting(&[2, 1]), trusting(&[1, 3])] {
            assert_eq!(accepted(&file, &trust), Ok(Some(public(&signer(1)).id())));
        }
        assert_eq!(accepted(&file, &Trust::Anything), Ok(None));
        assert_eq!(NextImage::parse(&file).unwrap().claimed_signer(), Some(public(&signer(1)).id()));
        // The digest of a file does not depend on who has signed it, nor whether anybody has.
        let digest = |file: &[u8]| NextImage::parse(file).unwrap().claimed_digest();
        assert_eq!(digest(&signed(2).0), digest(&unsigned()));
    }

    #[test]
    fn what_nobody_has_signed_is_taken_only_if_that_was_asked_for() {
        let trust = trusting(&[1]);
        let Trust::Keys(keys) = trust else { panic!() };
        // With an empty note, and as builds were before there was one.
        for file in [unsigned(), TestImage::default().file()] {
            assert_eq!(accepted(&file, &trust), Err(ImageError::Unsigned { trusted: keys.ids() }));
            assert_eq!(accepted(&file, &Trust::Anything), Ok(None));
            assert_eq!(NextImage::parse(&file).unwrap().claimed_signer(), None);
        }
    }

    #[test]
    fn another_key_is_no_trusted_key() {
        let (mut file, at) = signed(2);
        let trust = trusting(&[1]);
        let Trust::Keys(keys) = trust else { panic!() };
        let error = ImageError::SignerUnknown { signer: public(&signer(2)).id(), trusted: keys.ids() };
        assert_eq!(accepted(&file, &trust), Err(error));
        assert!(error.to_string().contains(&public(&signer(1)).id().to_string()));
        assert!(accepted(&file, &Trust::of(&KeyOption::Bad, Some(public(&signer(2))))).is_err());
        // Nor does it become one by saying so.
        file[at + 8..at + 16].copy_from_slice(&public(&signer(1)).id().0);
        assert_eq!(accepted(&file, &trust), Err(ImageError::BadSignature { key: public(&signer(1)).id() }));
    }

    #[test]
    fn every_flipped_bit_of_the_note_is_refused() {
        let (file, at) = signed(1);
        for bit in 0..SIGNATURE_NOTE_LEN * 8 {
            let mut damaged = file.clone();
            damaged[at + bit / 8] ^= 1 << (bit % 8);
            assert!(accepted(&damaged, &trusting(&[1])).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_byte_of_the_file_is_refused() {
        let (file, at) = signed(1);
        let digest_at = place_of(&file, [6, 32, 1]);
        let notes = digest_at - 20..file.len();
        for byte in (0..256).chain((256..notes.start).step_by(61)).chain(notes).filter(|byte| *byte != at) {
            let mut damaged = file.clone();
            damaged[byte] ^= 0x04;
            assert!(accepted(&damaged, &trusting(&[1])).is_err(), "byte {byte:#x}");
        }
    }

    #[test]
    fn a_new_digest_does_not_fit_the_old_signature() {
        use sha2::{Digest as _, Sha256};
        let (mut file, at) = signed(1);
        let digest_at = place_of(&file, [6, 32, 1]);
        file[0x1100] ^= 1;
        let mut blank = file.clone();
        blank[digest_at..digest_at + 32].fill(0);
        blank[at..at + 80].fill(0);
        file[digest_at..digest_at + 32].copy_from_slice(&Sha256::digest(&blank));
        assert_eq!(accepted(&file, &Trust::Anything), Ok(None));
        assert_eq!(accepted(&file, &trusting(&[1])), Err(ImageError::BadSignature { key: public(&signer(1)).id() }));
    }

    #[test]
    fn a_signature_for_something_else_is_none_for_an_image() {
        let (mut file, at) = signed(1);
        let digest_at = place_of(&file, [6, 32, 1]);
        let bare = signer(1).sign(&file[digest_at..digest_at + 32]).to_bytes();
        file[at + 16..at + 80].copy_from_slice(&bare);
        assert_eq!(accepted(&file, &trusting(&[1])), Err(ImageError::BadSignature { key: public(&signer(1)).id() }));
    }

    #[test]
    fn truncated_files_and_odd_notes_are_refused() {
        let (file, _) = signed(1);
        for len in (0..file.len()).step_by(97).chain([file.len() - 1]) {
            assert!(accepted(&file[..len], &trusting(&[1])).is_err(), "{len} bytes");
        }
        let parse = |notes: &[(u32, Vec<u8>)]| {
            let mut image = TestImage::default();
            image.notes.extend_from_slice(notes);
            NextImage::parse(&image.file()).map(|_| ())
        };
        let zeros = |len| (4, std::vec![0; len]);
        assert_eq!(parse(&[zeros(80), zeros(80)]), Err(ImageError::NoteTwice { kind: 4 }));
        for len in [0, 64, 79, 81, 96] {
            assert_eq!(parse(&[zeros(len)]), Err(ImageError::BadNote { kind: 4, found: len }));
        }
        let mut other = [0; 80];
        other[0] = 2;
        assert_eq!(parse(&[(4, other.to_vec())]), Err(ImageError::SignatureScheme { found: 2 }));
        other[0] = 1;
        other[4] = 1;
        assert_eq!(parse(&[(4, other.to_vec())]), Err(ImageError::BadNote { kind: 4, found: 80 }));
    }

    #[test]
    fn keys_of_small_order_sign_nothing() {
        // The neutral element as a key, and a signature that the plain equation accepts for any message: R = 1, s = 0 (RFC 8032 §5.1.7
        // with A = 1). Whoever trusts such a key by mistake must not thereby trust everybody.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let weak = PublicKey(neutral);
        let mut signature = [0; 64];
        signature[0] = 1;
        let (mut file, at) = signed(1);
        file[at..at + 80].copy_from_slice(&ImageSignature { key: weak.id(), bytes: signature }.encode());
        let mut keys = TrustedKeys::default();
        keys.add(Some(weak));
        assert_eq!(accepted(&file, &Trust::Keys(keys)), Err(ImageError::BadSignature { key: weak.id() }));
        // And what is no point of the curve at all is no key: y = 2 has no x.
        neutral[0] = 2;
        let none = PublicKey(neutral);
        file[at + 8..at + 16].copy_from_slice(&none.id().0);
        let mut keys = TrustedKeys::default();
        keys.add(Some(none));
        assert_eq!(accepted(&file, &Trust::Keys(keys)), Err(ImageError::BadKey { key: none.id() }));
    }

    #[test]
    fn the_message_is_what_the_table_says() {
        assert_eq!((DOMAIN.len(), MESSAGE_LEN), (28, 84));
        let message = message(&Digest([7; 32]), 0x1234, 0x56, 0x78);
        assert_eq!(&message[..28], DOMAIN);
        assert_eq!(message[28..60], [7; 32]);
        assert_eq!(message[60..62], [0x34, 0x12]);
        assert_eq!((message[68], message[76]), (0x56, 0x78));
    }
}
