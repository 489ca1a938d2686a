//! Whose images are taken: public keys, and the policy that the build and the command line make of them.
//!
//! A next image has the whole machine, so a hypervisor takes only one that somebody it trusts has signed. Which keys are trusted:
//!
//! | command line | next images have to be signed by |
//! |---|---|
//! | nothing | the key that was built in; without one nothing is taken |
//! | `lu-key=<key>[,<key>...]` | one of these keys and no other; the word `built-in` stands for the key that was built in |
//! | `lu-key=none` | nobody: signatures are not looked at |
//! | an `lu-key=` that cannot be read | nothing is taken: a key is not guessed, and the others would be one that the operator did not ask for |
//!
//! The command line is trusted as the loader is. It travels to the next build, and the policy with it.

use core::fmt;

use sha2::{Digest as _, Sha256};

/// Bytes of a public key.
pub const KEY_LEN: usize = 32;
/// Keys that `lu-key=` can name.
pub const MAX_KEYS: usize = 4;

/// An Ed25519 public key (RFC 8032), as it is written down; whether it is a point of the curve shows when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; KEY_LEN]);

impl PublicKey {
    /// Reads 64 hexadecimal digits, without anything before or behind them.
    pub const fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_LEN {
            return None;
        }
        let mut key = [0; KEY_LEN];
        let mut i = 0;
        while i < digits.len() {
            let value = match digits[i] {
                digit @ b'0'..=b'9' => digit - b'0',
                letter @ b'a'..=b'f' => letter - b'a' + 10,
                letter @ b'A'..=b'F' => letter - b'A' + 10,
                _ => return None,
            };
            key[i / 2] = key[i / 2] << 4 | value;
            i += 1;
        }
        Some(Self(key))
    }

    /// What it is called for short.
    pub fn id(&self) -> KeyId {
        let hash: [u8; 32] = Sha256::digest(self.0).into();
        KeyId(core::array::from_fn(|i| hash[i]))
    }
}

/// The first eight bytes of a key's SHA-256: enough to tell keys apart, nothing to rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What `lu-key=` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOption {
    /// It was not given.
    BuiltIn,
    /// Signatures are not looked at.
    None,
    /// Only these.
    Only(NamedKeys),
    /// It was given and cannot be read.
    Bad,
}

/// Keys in the order in which they were named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NamedKeys {
    keys: [Option<PublicKey>; MAX_KEYS],
    has_built_in: bool,
}

impl KeyOption {
    /// What the value of `lu-key=` should be.
    pub const EXPECTED: &'static str = "`none`, or 1 to 4 keys of 64 hexadecimal digits with commas between them, \
                                        where `built-in` is the build's own; no next image is taken until it is";

    /// Reads the value of `lu-key=`.
    pub fn parse(value: &str) -> Option<Self> {
        if value == "none" {
            return Some(Self::None);
        }
        let mut named = NamedKeys::default();
        for (n, word) in value.split(',').enumerate() {
            if word == "built-in" {
                named.has_built_in = true;
            } else {
                *named.keys.get_mut(n)? = Some(PublicKey::parse(word)?);
            }
        }
        Some(Self::Only(named))
    }
}

/// What a next image has to be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Signatures are not looked at.
    Anything,
    /// One of these keys; with none of them, nothing is taken.
    Keys(TrustedKeys),
}

impl Trust {
    /// The policy, from the command line and the key that was built in.
    pub fn of(option: &KeyOption, built_in: Option<PublicKey>) -> Self {
        let mut trusted = TrustedKeys::default();
        match option {
            KeyOption::None => return Self::Anything,
            KeyOption::Bad => {}
            KeyOption::BuiltIn => trusted.add(built_in),
            KeyOption::Only(named) => {
                named.keys.iter().for_each(|key| trusted.add(*key));
                trusted.add(built_in.filter(|_| named.has_built_in));
            }
        }
        Self::Keys(trusted)
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anything => f.write_str("next images are taken unsigned: lu-key=none"),
            Self::Keys(keys) if keys.is_empty() => {
                f.write_str("no next image is taken: no key is built in, and lu-key= names none")
            }
            Self::Keys(keys) => write!(f, "next images have to be signed by {}", keys.ids()),
        }
    }
}

/// Keys whose images are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TrustedKeys {
    // One more than can be named: the key that was built in.
    keys: [Option<PublicKey>; MAX_KEYS + 1],
}

impl TrustedKeys {
    /// Puts a key in, unless it is there.
    pub fn add(&mut self, key: Option<PublicKey>) {
        if !self.keys.contains(&key)
            && let Some(place) = self.keys.iter_mut().find(|place| place.is_none())
        {
            *place = key;
        }
    }

    /// True without any key.
    pub fn is_empty(&self) -> bool {
        self.keys.iter().all(Option::is_none)
    }

    /// The key of that name.
    pub fn named(&self, id: KeyId) -> Option<PublicKey> {
        self.keys.iter().flatten().find(|key| key.id() == id).copied()
    }

    /// What they are called.
    pub fn ids(&self) -> KeyIds {
        KeyIds(self.keys.map(|key| key.map(|key| key.id())))
    }
}

/// Names of keys, for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyIds([Option<KeyId>; MAX_KEYS + 1]);

impl fmt::Display for KeyIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, id) in self.0.iter().flatten().enumerate() {
            write!(f, "{}{id}", if i == 0 { "key " } else { " or key " })?;
        }
        if self.0.iter().all(Option::is_none) { f.write_str("no key at all") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::{String, ToString};

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    fn key(byte: u8) -> PublicKey {
        PublicKey([byte; 32])
    }

    fn keys(of: &[u8]) -> Trust {
        let mut trusted = TrustedKeys::default();
        of.iter().for_each(|byte| trusted.add(Some(key(*byte))));
        Trust::Keys(trusted)
    }

    fn trust(value: &str) -> Option<Trust> {
        KeyOption::parse(value).map(|option| Trust::of(&option, Some(key(0xaa))))
    }

    #[test]
    fn the_command_line_replaces_what_was_built_in_unless_it_names_it() {
        assert_eq!(Trust::of(&KeyOption::BuiltIn, Some(key(0xaa))), keys(&[0xaa]));
        assert_eq!(Trust::of(&KeyOption::BuiltIn, None), keys(&[]));
        assert_eq!(Trust::of(&KeyOption::Bad, Some(key(0xaa))), keys(&[]));
        assert_eq!(trust("none"), Some(Trust::Anything));
        assert_eq!(trust(&hex(1)), Some(keys(&[1])));
        assert_eq!(trust("built-in"), Some(keys(&[0xaa])));
        assert_eq!(trust(&format!("{},built-in,{}", hex(1), hex(2))), Some(keys(&[1, 2, 0xaa])));
        assert_eq!(trust(&format!("{},{}", hex(1), hex(1))), Some(keys(&[1])));
        assert_eq!(trust(&[1, 2, 3, 4].map(hex).join(",")), Some(keys(&[1, 2, 3, 4])));
    }

    #[test]
    fn what_is_no_key_is_not_guessed() {
        let long = format!("{}0", hex(1));
        let many = [1, 2, 3, 4, 5].map(hex).join(",");
        let half = format!("{},", hex(1));
        let not_hex = format!("g{}", &hex(1)[1..]);
        let prefixed = format!("0x{}", &hex(1)[2..]);
        for bad in ["", "None", "nonee", &hex(1)[1..], &long, &many, &half, &not_hex, &prefixed, "none,none", "é"] {
            assert_eq!(KeyOption::parse(bad), None, "{bad}");
        }
        assert_eq!(PublicKey::parse(&hex(0xAB).to_uppercase()), Some(key(0xab)));
    }

    #[test]
    fn a_key_is_found_by_its_name() {
        // SHA-256 of 32 zeros begins with 66687aadf862bd77 (as any implementation says).
        assert_eq!(key(0).id().to_string(), "66687aadf862bd77");
        let Trust::Keys(trusted) = keys(&[1, 0]) else { panic!() };
        assert_eq!(trusted.named(key(0).id()), Some(key(0)));
        assert_eq!(trusted.named(key(2).id()), None);
        assert_eq!(trusted.ids().to_string(), format!("key {} or key 66687aadf862bd77", key(1).id()));
        assert_eq!(TrustedKeys::default().ids().to_string(), "no key at all");
    }
}
