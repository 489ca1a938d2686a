//! Signatures of images: keys, and what `docs/images.md` says of the note of type 4.
//!
//! This is written from that page and not from the hypervisor's code, which reads what is written here.

use crate::digest::{self, Place, hex};
use crate::paths;
use anyhow::{Context, Result, anyhow, ensure};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the signed message begins with.
const DOMAIN: &[u8; 28] = b"luxen next image, version 1\0";

/// Options of `cargo xtask keygen`.
#[derive(clap::Args)]
pub struct KeygenArgs {
    /// Where the private key goes: PKCS#8 in PEM, as OpenSSL has it
    file: PathBuf,
}

/// Options of `cargo xtask sign`.
#[derive(clap::Args)]
pub struct SignArgs {
    /// The image: luxen or luxen-next in target/luxen/
    file: PathBuf,
    /// The private key: PKCS#8 in PEM, of `cargo xtask keygen` or `openssl genpkey -algorithm ed25519`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// `cargo xtask keygen`.
pub fn keygen(args: KeygenArgs) -> Result<ExitCode> {
    let key = make(&args.file)?;
    println!("{} has the private key {}: keep it to yourself", args.file.display(), id(&key));
    println!("lu-key={}", public(&key));
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask sign`.
pub fn verb(args: SignArgs) -> Result<ExitCode> {
    let key = read(&args.key)?;
    let mut bytes = fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    sign(&mut bytes, &key).with_context(|| format!("cannot sign {}", args.file.display()))?;
    fs::write(&args.file, bytes).with_context(|| format!("cannot write {}", args.file.display()))?;
    println!("signed: {} by key {}", args.file.display(), id(&key));
    println!("lu-key={}", public(&key));
    Ok(ExitCode::SUCCESS)
}

/// The key that builds are signed with here and that they trust: made the first time, and never part of the sources.
pub fn development() -> Result<SigningKey> {
    let file = Path::new(paths::KEYS).join("development.pem");
    if file.exists() { read(&file) } else { make(&file) }
}

/// A key for scenarios, which no build trusts by itself. It is no secret.
pub fn stranger() -> SigningKey {
    SigningKey::from_bytes(&[0x5a; 32])
}

/// The public key as `lu-key=` takes it.
pub fn public(key: &SigningKey) -> String {
    hex(key.verifying_key().as_bytes())
}

/// What a key is called: the beginning of its public half's SHA-256.
pub fn id(key: &SigningKey) -> String {
    hex(&id_bytes(key))
}

fn id_bytes(key: &SigningKey) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(key.verifying_key().as_bytes()).into();
    std::array::from_fn(|i| hash[i])
}

fn make(file: &Path) -> Result<SigningKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow!("no random numbers: {e}"))?;
    let key = SigningKey::from_bytes(&seed);
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| anyhow!("cannot encode the key: {e}"))?;
    // For its owner alone, and never over another key.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut opened = opened.with_context(|| format!("cannot make {}", file.display()))?;
    opened.write_all(pem.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(key)
}

fn read(file: &Path) -> Result<SigningKey> {
    let pem = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    SigningKey::from_pkcs8_pem(&pem)
        .map_err(|e| anyhow!("{} has no Ed25519 private key in PKCS#8 and PEM: {e}", file.display()))
}

/// Writes digest and signature into an image.
pub fn sign(file: &mut [u8], key: &SigningKey) -> Result<()> {
    let digest = digest::seal(file)?;
    let digest_at = digest::place(file)?.start;
    let place = signature_place(file)?;
    let mut message = DOMAIN.to_vec();
    message.extend(digest);
    [file.len(), digest_at, place.start].iter().for_each(|n| message.extend((*n as u64).to_le_bytes()));
    let mut body = Vec::from([1, 0, 0, 0, 0, 0, 0, 0]);
    body.extend(id_bytes(key));
    body.extend(key.sign(&message).to_bytes());
    ensure!(body.len() == place.len(), "a signature's note has {} bytes, not {}", place.len(), body.len());
    file[place].copy_from_slice(&body);
    Ok(())
}

/// Takes the signature out of an image; the digest stays right.
pub fn unsign(file: &mut [u8]) -> Result<()> {
    let place = signature_place(file)?;
    file[place].fill(0);
    Ok(())
}

fn signature_place(file: &[u8]) -> Result<std::ops::Range<usize>> {
    let place = Place::Signature.find(file)?;
    place.context("no ELF note of owner luxen and type 4 in a PT_NOTE segment: there is no place for a signature")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::tests::{elf_with_notes, note};
    use ed25519_dalek::Signature;

    fn image() -> Vec<u8> {
        elf_with_notes(&[note(b"luxen", 1, &[0; 32]), note(b"luxen", 4, &[0; 80])])
    }

    #[test]
    fn a_signature_is_what_the_page_says() {
        let key = stranger();
        let mut file = image();
        sign(&mut file, &key).unwrap();
        let (digest, at) = (digest::place(&file).unwrap(), signature_place(&file).unwrap());
        assert_eq!(file[at.start..at.start + 8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(hex(&file[at.start + 8..at.start + 16]), id(&key));
        let mut message = DOMAIN.to_vec();
        message.extend(&file[digest.clone()]);
        for number in [file.len(), digest.start, at.start] {
            message.extend((number as u64).to_le_bytes());
        }
        assert_eq!(message.len(), 84);
        let signature = Signature::from_slice(&file[at.start + 16..at.end]).unwrap();
        key.verifying_key().verify_strict(&message, &signature).unwrap();
        // Signing again, or by another key, leaves the digest as it is.
        let sealed = file[digest.clone()].to_vec();
        sign(&mut file, &SigningKey::from_bytes(&[1; 32])).unwrap();
        assert_eq!(file[digest.clone()], sealed);
        unsign(&mut file).unwrap();
        assert!(file[at].iter().all(|byte| *byte == 0));
        assert_eq!(digest::seal(&mut file).unwrap().to_vec(), sealed);
    }

    #[test]
    fn without_a_place_nothing_is_signed() {
        let mut file = elf_with_notes(&[note(b"luxen", 1, &[0; 32])]);
        assert!(sign(&mut file, &stranger()).unwrap_err().to_string().contains("type 4"));
        assert!(unsign(&mut file).is_err());
        let mut short = elf_with_notes(&[note(b"luxen", 1, &[0; 32]), note(b"luxen", 4, &[0; 64])]);
        assert!(sign(&mut short, &stranger()).unwrap_err().to_string().contains("64 bytes"));
    }

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        let key = make(&file).unwrap();
        assert_eq!(read(&file).unwrap().to_bytes(), key.to_bytes());
        assert!(make(&file).is_err());
        assert_eq!(public(&key).len(), 64);
        assert_ne!(make(&dir.path().join("other.pem")).unwrap().to_bytes(), key.to_bytes());
        fs::write(&file, "no key").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("PKCS#8"));
    }
}
