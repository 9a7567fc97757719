//! What a store keeps beside executions: the workers of a fleet and the tokens of its users.

use durable_core::{Error, Owner, Result, UnixMs};

/// A worker process as it is shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// The name it holds leases under.
    pub owner: Owner,
    /// The machine it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// The queues it takes from; empty for all.
    pub queues: Vec<String>,
    /// The functions it runs, by name.
    pub functions: Vec<String>,
    /// How many calls it runs at once.
    pub concurrency: u32,
    /// The version of its program.
    pub version: String,
    /// When it started.
    pub started_at_ms: UnixMs,
    /// When it was last heard of.
    pub seen_at_ms: UnixMs,
    /// How many executions it holds. The store counts; what is announced here is ignored.
    pub held: u32,
}

/// What the bearer of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Take tasks and report what came of them.
    Worker,
    /// Look, start, and operate executions.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Self] = &[Self::Viewer, Self::Worker, Self::Operator, Self::Admin];

    /// The word that API and database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Reads a role's word.
    ///
    /// # Errors
    /// `Invalid` with the words there are.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == text).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|role| role.as_str()).collect();
            Error::invalid(format!("'{text}' is no role: expected one of {}", words.join(", ")))
        })
    }
}

/// An access token as it is stored: never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// The public half, by which it is found and revoked.
    pub id: String,
    /// Whom it was given to.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// The namespace its bearer is confined to; `None` for all.
    pub namespace: Option<String>,
    /// BLAKE3 of the secret half.
    pub secret_hash: [u8; 32],
    /// When it was made.
    pub created_at_ms: UnixMs,
    /// When it ends by itself.
    pub expires_at_ms: Option<UnixMs>,
    /// When it was revoked.
    pub revoked_at_ms: Option<UnixMs>,
}

impl TokenRecord {
    /// Whether it is worth anything at a time.
    pub fn is_live(&self, now_ms: UnixMs) -> bool {
        self.revoked_at_ms.is_none() && self.expires_at_ms.is_none_or(|end_ms| now_ms < end_ms)
    }
}
