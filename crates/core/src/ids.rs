//! Names of things: executions, programs, calls, lease owners.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Result};

/// Milliseconds since the Unix epoch, UTC. Instants are stored and compared in this unit.
pub type UnixMs = i64;

/// The id of one execution: a UUIDv7, written as the usual 36 characters.
///
/// Ids made by one process sort by creation time.
///
/// ```
/// use durable_core::ExecutionId;
/// let id = ExecutionId::new(1_700_000_000_000, [7; 10]);
/// assert_eq!(id.to_string().parse::<ExecutionId>()?, id);
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ExecutionId(Uuid);

impl ExecutionId {
    /// Makes an id from the clock and 10 random bytes, both supplied by the caller.
    pub fn new(now_ms: UnixMs, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(now_ms.max(0) as u64, &random).into_uuid())
    }

    /// The time it was made at.
    pub fn made_at_ms(self) -> UnixMs {
        // The first 48 bits of a UUIDv7.
        (self.0.as_u128() >> 80) as UnixMs
    }

    /// Its 128 bits.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecutionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Uuid::try_parse(text).map(Self).map_err(|_| {
            Error::not_found(format!("no execution '{text}': an execution id is a UUID"))
        })
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// The number of a call within its execution, given by the program in the order it asks.
pub type CallId = u32;

/// The content address of a program: BLAKE3 of its canonical form, 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProgramId(Arc<str>);

impl ProgramId {
    /// Takes an id as it was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProgramId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who holds a lease: one running engine. Unique for every engine that was ever started.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(Arc<str>);

impl Owner {
    /// Names an owner. The engine puts host, process and a random part into it.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The owner as text, as it stands in `execution_locks.locked_by`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The right to advance one execution: who, and the fencing token of this tenure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The engine that holds it.
    pub owner: Owner,
    /// Grows with every new tenure of this execution; an older epoch's writes are refused.
    pub epoch: u64,
}
