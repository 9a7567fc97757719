//! What makes a snapshot trustworthy: a keyed hash over it and over what it is a snapshot of.
//!
//! A sealed snapshot is what its runner wrote, and behind it 32 bytes: BLAKE3, keyed with the
//! [`SnapshotKey`], of the execution's 16 id bytes (big-endian), its version (8 bytes,
//! little-endian) and what the runner wrote. So a snapshot can't be altered, given to another
//! execution, or given another place in the journal.

use std::fmt;

use crate::{ExecutionId, Snapshot};

/// How many bytes a seal takes.
pub const SEAL_BYTES: usize = 32;

/// The secret that snapshots are authenticated with. Whoever has it can make snapshots that are
/// trusted, so it comes from the environment or a file, never from the database.
#[derive(Clone)]
pub struct SnapshotKey([u8; 32]);

impl SnapshotKey {
    /// Takes 32 secret bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<[u8; 32]> for SnapshotKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotKey(..)")
    }
}

/// The state of an execution that a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateOf {
    /// Whose.
    pub execution: ExecutionId,
    /// The execution's version.
    pub version: u64,
}

/// Seals what a runner wrote.
pub fn seal(key: &SnapshotKey, of: StateOf, mut content: Vec<u8>) -> Snapshot {
    let tag = tag(key, of, &content);
    content.extend_from_slice(tag.as_bytes());
    Snapshot(content.into())
}

/// Checks a seal, and gives what the runner wrote.
///
/// # Errors
/// A sentence that says why it can't be used.
///
/// ```
/// use durable_core::{ExecutionId, seal::{SnapshotKey, StateOf, seal, unseal}};
/// let (key, id) = (SnapshotKey::new([1; 32]), ExecutionId::new(0, [1; 10]));
/// let sealed = seal(&key, StateOf { execution: id, version: 3 }, b"state".to_vec());
/// assert_eq!(unseal(&key, StateOf { execution: id, version: 3 }, &sealed), Ok(&b"state"[..]));
/// assert!(unseal(&key, StateOf { execution: id, version: 4 }, &sealed).is_err());
/// ```
pub fn unseal<'a>(
    key: &SnapshotKey,
    of: StateOf,
    snapshot: &'a Snapshot,
) -> Result<&'a [u8], String> {
    let Some((content, seal)) = snapshot.0.split_last_chunk::<SEAL_BYTES>() else {
        return Err("not a snapshot, or torn".to_owned());
    };
    // Compared in constant time.
    if tag(key, of, content) != blake3::Hash::from_bytes(*seal) {
        return Err("the snapshot's seal does not fit: it is torn or forged, of another \
                    execution or another place in its journal, or sealed with another key"
            .to_owned());
    }
    Ok(content)
}

fn tag(key: &SnapshotKey, of: StateOf, content: &[u8]) -> blake3::Hash {
    blake3::Hasher::new_keyed(&key.0)
        .update(&of.execution.as_u128().to_be_bytes())
        .update(&of.version.to_le_bytes())
        .update(content)
        .finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_not_shown() {
        assert_eq!(format!("{:?}", SnapshotKey::new([9; 32])), "SnapshotKey(..)");
    }
}
