//! Why a call or an execution failed, as data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A failure of a call's attempt or of a whole execution, as it is stored and shown.
///
/// The wire form is this struct as JSON; fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exception's type name: `ValueError`, or a dotted name for a type that is no builtin.
    #[serde(rename = "type")]
    pub error_type: String,
    /// The message, without the type.
    pub message: String,
    /// For a call: the traceback of the function. For an execution: that of the *workflow* code,
    /// with source lines and carets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// For an execution that failed because a call did: that call's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause_call: Option<u32>,
}

impl Failure {
    /// A failure with neither traceback nor cause.
    ///
    /// ```
    /// let failure = durable_core::Failure::new("ValueError", "no price");
    /// assert_eq!(failure.to_string(), "ValueError: no price");
    /// ```
    pub fn new(error_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            error_type: error_type.into(),
            message: message.into(),
            traceback: None,
            cause_call: None,
        }
    }

    /// The same failure with a traceback.
    #[must_use]
    pub fn with_traceback(mut self, traceback: impl Into<String>) -> Self {
        self.traceback = Some(traceback.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str(&self.error_type)
        } else {
            write!(f, "{}: {}", self.error_type, self.message)
        }
    }
}

/// What came of a call: its result, or the failure of its last attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function returned.
    Completed(crate::Payload),
    /// The function failed and will not be tried again.
    Failed(Failure),
}
