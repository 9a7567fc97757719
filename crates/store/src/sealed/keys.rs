//! The keys that payloads are sealed with.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload as WithContext},
};
use durable_core::{Error, Result};

/// Most keys of a ring, and longest name of one.
const MAX_KEYS: usize = 64;
const MAX_NAME_CHARS: usize = 64;

const NONCE_BYTES: usize = 24;

/// How sealed bytes begin: this, the length of the key's name, and the name.
const MAGIC: &[u8] = b"DMSEALED";

/// The key's name in sealed bytes, and what is sealed; `None` when they are not.
pub(super) fn parts<'a>(place: &str, bytes: &'a [u8]) -> Result<Option<(&'a str, &'a [u8])>> {
    let Some((length, rest)) = bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let parts = rest.split_at_checked(usize::from(*length));
    let parts = parts.and_then(|(key, data)| Some((std::str::from_utf8(key).ok()?, data)));
    parts.map(Some).ok_or_else(|| Error::corrupt(format!("{place} is sealed, and torn")))
}

/// Some keys, each with a name. The first seals, all of them open.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    name: String,
    cipher: XChaCha20Poly1305,
    /// Nonces are drawn from what is sealed: the same content in the same place looks the same,
    /// and nothing else can be told of it.
    nonces: [u8; 32],
}

impl KeyRing {
    /// Reads `name:base64` pairs with commas between them; each key has 32 bytes.
    ///
    /// ```
    /// use durable_store::KeyRing;
    /// let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    /// let ring = KeyRing::parse(&format!("k2:{key},k1:{key}"))?;
    /// assert_eq!(format!("{ring:?}"), r#"KeyRing["k2", "k1"]"#);
    /// assert!(KeyRing::parse("k1:short").is_err());
    /// # Ok::<(), durable_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` that names the pair which can't be read, and never shows a key.
    pub fn parse(text: &str) -> Result<Self> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, pair) in (1..).zip(text.split(',')) {
            let wrong = |what: &str| {
                Err(Error::invalid(format!(
                    "encryption key {number} {what}: expected name:base64, where the name has \
                     letters, digits, - and _, and the key 32 bytes"
                )))
            };
            let Some((name, key)) = pair.trim().split_once(':') else {
                return wrong("has no name");
            };
            let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
            if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(is_plain) {
                return wrong("has a name that can't be used");
            }
            let bytes = BASE64_STANDARD.decode(key).unwrap_or_default();
            let Ok(bytes) = <[u8; 32]>::try_from(bytes) else { return wrong("is none") };
            if keys.iter().any(|key| key.name == name) || keys.len() == MAX_KEYS {
                return wrong("is one too many, or has the name of another");
            }
            keys.push(Key {
                name: name.to_owned(),
                cipher: XChaCha20Poly1305::new(&bytes.into()),
                nonces: blake3::derive_key("durable-monty 2026 nonces of sealed payloads", &bytes),
            });
        }
        Ok(Self { keys })
    }

    /// Whether there is no key to seal with.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the first key has this name.
    pub(super) fn is_first(&self, name: &str) -> bool {
        self.keys.first().is_some_and(|key| key.name == name)
    }

    /// Seals under the first key: its name, and what is stored.
    pub(super) fn seal(&self, place: &str, content: &[u8]) -> Result<(&str, Vec<u8>)> {
        let Some(key) = self.keys.first() else {
            return Err(Error::internal("a ring without a key"));
        };
        let mut hash = blake3::Hasher::new_keyed(&key.nonces);
        hash.update(&(place.len() as u64).to_le_bytes()).update(place.as_bytes()).update(content);
        let mut nonce = [0; NONCE_BYTES];
        hash.finalize_xof().fill(&mut nonce);
        let with_place = WithContext { msg: content, aad: place.as_bytes() };
        let sealed = key
            .cipher
            .encrypt(&XNonce::from(nonce), with_place)
            .map_err(|_| Error::invalid("the payload is too large to be sealed"))?;
        Ok((&key.name, [&nonce[..], &sealed].concat()))
    }

    /// Seals bytes for a place under the first key. What they look like then tells the key's name.
    ///
    /// # Errors
    /// `Internal` without a key; `Invalid` for more than can be sealed.
    pub fn seal_bytes(&self, place: &str, content: &[u8]) -> Result<Vec<u8>> {
        let (key, sealed) = self.seal(place, content)?;
        Ok([MAGIC, &[key.len() as u8], key.as_bytes(), &sealed].concat())
    }

    /// Opens what [`KeyRing::seal_bytes`] sealed for the same place; what is not sealed stays as
    /// it is.
    ///
    /// # Errors
    /// `Unavailable` without the key; `Corrupt` when it was altered, or sealed for another place.
    pub fn open_bytes<'a>(&self, place: &str, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        match parts(place, bytes)? {
            None => Ok(Cow::Borrowed(bytes)),
            Some((key, sealed)) => self.open(key, place, sealed).map(Cow::Owned),
        }
    }

    /// Opens what was sealed for a place under the key of a name.
    ///
    /// # Errors
    /// `Unavailable` without that key; `Corrupt` when it was altered, or sealed for another place.
    pub(super) fn open(&self, name: &str, place: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let key = self.keys.iter().find(|key| key.name == name).ok_or_else(|| {
            Error::unavailable(format!(
                "{place} is sealed with the key '{name}', which is not among the encryption keys: \
                 add it to DURABLE_ENCRYPTION_KEYS"
            ))
        })?;
        let opened = sealed.split_at_checked(NONCE_BYTES).and_then(|(nonce, sealed)| {
            let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).ok()?;
            let with_place = WithContext { msg: sealed, aad: place.as_bytes() };
            key.cipher.decrypt(&XNonce::from(nonce), with_place).ok()
        });
        opened.ok_or_else(|| {
            Error::corrupt(format!(
                "{place} can't be opened with the key '{name}': it was altered or moved, or the \
                 key of that name is another one"
            ))
        })
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.keys.iter().map(|key| &key.name).collect();
        write!(f, "KeyRing{names:?}")
    }
}
