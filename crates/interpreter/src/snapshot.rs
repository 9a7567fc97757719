//! Snapshots as they are stored: packed by a worker, sealed and checked by the parent.
//!
//! All numbers are little-endian.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | `DMSN` |
//! | 4 | format version, [`FORMAT_VERSION`] |
//! | 5..13 | id of the dictionary (see the module `dictionary`), zero for none |
//! | 13..17 | length of the dump once unpacked |
//! | 17..n-32 | the dump, as one zstd frame compressed against the dictionary |
//! | n-32..n | BLAKE3, keyed with the [`SnapshotKey`], of the execution's 16 id bytes, its version (8 bytes) and bytes 0..n-32 |
//!
//! The dump is a `u32`, the number of calls the execution has asked for so far, and monty's own
//! dump, which carries a version of its own. That of a session begins with a `u32`, the length of
//! its notes, and the notes as postcard, instead of the number of calls.
//!
//! The seal covers the execution's id, so a snapshot can't be given to another execution; its
//! version, so it can't be given another place in the journal; and the dictionary's id, which is a
//! hash, so another dictionary can't be slipped in.
//! Workers run hostile code and never see the key.

use durable_core::{
    Snapshot,
    seal::{self, SEAL_BYTES, SnapshotKey, StateOf},
};

/// The version of the layout above.
const FORMAT_VERSION: u8 = 2;

const MAGIC: &[u8; 4] = b"DMSN";
const HEADER_BYTES: usize = 17;

/// What a sealed snapshot holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsealed<'a> {
    pub(crate) dictionary: Option<u64>,
    pub(crate) raw_len: u32,
    pub(crate) packed: &'a [u8],
}

/// Puts a packed dump into its stored form.
pub(crate) fn seal(key: &SnapshotKey, of: StateOf, content: &Unsealed<'_>) -> Snapshot {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.packed.len() + SEAL_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.push(FORMAT_VERSION);
    bytes.extend_from_slice(&content.dictionary.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&content.raw_len.to_le_bytes());
    bytes.extend_from_slice(content.packed);
    seal::seal(key, of, bytes)
}

/// How long a snapshot of `packed_len` bytes is once sealed.
pub(crate) fn sealed_len(packed_len: usize) -> usize {
    HEADER_BYTES + packed_len + SEAL_BYTES
}

/// Checks a stored snapshot and takes it apart.
///
/// # Errors
/// A sentence that says why it can't be used.
pub(crate) fn unseal<'a>(
    key: &SnapshotKey,
    of: StateOf,
    snapshot: &'a Snapshot,
) -> Result<Unsealed<'a>, String> {
    let bytes = &*snapshot.0;
    if bytes.len() < sealed_len(0) || bytes[..4] != *MAGIC {
        return Err("not a snapshot, or torn".to_owned());
    }
    if bytes[4] != FORMAT_VERSION {
        return Err(format!(
            "the snapshot has format {}, this version reads {FORMAT_VERSION}",
            bytes[4]
        ));
    }
    let sealed = seal::unseal(key, of, snapshot)?;
    let mut dictionary = [0; 8];
    dictionary.copy_from_slice(&sealed[5..13]);
    let mut raw_len = [0; 4];
    raw_len.copy_from_slice(&sealed[13..HEADER_BYTES]);
    Ok(Unsealed {
        dictionary: Some(u64::from_le_bytes(dictionary)).filter(|&id| id != 0),
        raw_len: u32::from_le_bytes(raw_len),
        packed: &sealed[HEADER_BYTES..],
    })
}

#[cfg(test)]
mod tests {
    use durable_core::ExecutionId;

    use super::*;

    const CONTENT: Unsealed<'_> = Unsealed { dictionary: Some(77), raw_len: 5, packed: b"abc" };

    fn state(seed: u8, version: u64) -> StateOf {
        StateOf { execution: ExecutionId::new(1_700_000_000_000, [seed; 10]), version }
    }

    #[test]
    fn a_sealed_snapshot_opens_for_its_state_and_key_only() {
        let key = SnapshotKey::new([1; 32]);
        let sealed = seal(&key, state(1, 7), &CONTENT);
        assert_eq!(unseal(&key, state(1, 7), &sealed), Ok(CONTENT));
        assert!(unseal(&key, state(2, 7), &sealed).is_err());
        assert!(unseal(&key, state(1, 8), &sealed).is_err());
        assert!(unseal(&SnapshotKey::new([2; 32]), state(1, 7), &sealed).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_torn_end_is_noticed() {
        let key = SnapshotKey::new([1; 32]);
        let sealed = seal(&key, state(1, 7), &CONTENT);
        for at in 0..sealed.0.len() {
            let mut bytes = sealed.0.to_vec();
            bytes[at] ^= 1;
            assert!(unseal(&key, state(1, 7), &Snapshot(bytes.into())).is_err(), "byte {at}");
            let torn = Snapshot(sealed.0[..at].into());
            assert!(unseal(&key, state(1, 7), &torn).is_err(), "torn at {at}");
        }
    }
}
