//! Status of executions and calls: the words of the API and the words of the database.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

macro_rules! status {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $api:literal / $stored:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every status, in the order of a life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The lower-case word that the API speaks.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $api),+ }
            }

            /// The upper-case word that the database stores.
            pub fn as_stored(self) -> &'static str {
                match self { $(Self::$variant => $stored),+ }
            }

            /// Reads the database's word.
            ///
            /// # Errors
            /// [`Error::Corrupt`] for a word that no version of this engine writes.
            pub fn from_stored(text: &str) -> Result<Self> {
                match text {
                    $($stored => Ok(Self::$variant),)+
                    other => Err(Error::corrupt(format!(
                        concat!("'{}' is no stored ", stringify!($name)), other
                    ))),
                }
            }

            /// Reads the API's word.
            ///
            /// # Errors
            /// [`Error::Invalid`] with the words there are.
            pub fn parse(text: &str) -> Result<Self> {
                match text {
                    $($api => Ok(Self::$variant),)+
                    other => Err(Error::invalid(format!(
                        "'{other}' is no status, expected one of {}", [$($api),+].join(", ")
                    ))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

status! {
    /// Status of an execution.
    Status {
        /// Stored, and no engine has begun with it.
        Scheduled = "scheduled" / "SCHEDULED",
        /// An engine is running its program.
        Running = "running" / "RUNNING",
        /// Suspended: everything waits for open calls or timers.
        Waiting = "waiting" / "WAITING",
        /// Stopped by an operator, or parked after the engine failed to advance it.
        Paused = "paused" / "PAUSED",
        /// Ended with an output.
        Completed = "completed" / "SUCCESS",
        /// Ended with a failure.
        Failed = "failed" / "FAILED",
        /// Ended by an operator.
        Cancelled = "cancelled" / "CANCELLED",
    }
}

status! {
    /// Status of a call.
    CallStatus {
        /// Not yet handed to an executor; with a due time it waits for its next attempt.
        Pending = "pending" / "PENDING",
        /// Handed to an executor.
        Submitted = "submitted" / "SUBMITTED",
        /// Ended with a result.
        Completed = "completed" / "SUCCESS",
        /// Ended with a failure.
        Failed = "failed" / "FAILED",
        /// Nobody waits for it any more.
        Cancelled = "cancelled" / "CANCELLED",
    }
}

impl Status {
    /// Whether it has ended: nothing happens to such an execution any more, unless an operator
    /// retries one that failed.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Scheduled | Self::Running | Self::Waiting | Self::Paused => false,
        }
    }
}

impl CallStatus {
    /// Whether the call has ended.
    pub fn is_closed(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Pending | Self::Submitted => false,
        }
    }
}
