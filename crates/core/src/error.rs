//! The one error type of the layers below the leaves, named by what the caller can do.

use std::borrow::Cow;

/// What went wrong, in terms of what the caller can do about it.
///
/// A message says what was wrong, where, and what to do. No variant carries a
/// secret or a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request can never succeed as it is: fix it.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(Cow<'static, str>),
    /// The state moved on, or forbids this: reload and look again.
    #[error("{0}")]
    Conflict(Cow<'static, str>),
    /// A resource is busy or gone for now: try again.
    #[error("{0}")]
    Unavailable(Cow<'static, str>),
    /// Stored data contradicts itself: an operator has to look.
    #[error("{0}")]
    Corrupt(Cow<'static, str>),
    /// A bug in this engine.
    #[error("{0}")]
    Internal(Cow<'static, str>),
}

/// Shorthand for results of this engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Shorthand for [`Error::Invalid`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(message.into())
    }

    /// Shorthand for [`Error::NotFound`].
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::NotFound(message.into())
    }

    /// Shorthand for [`Error::Conflict`].
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Conflict(message.into())
    }

    /// Shorthand for [`Error::Unavailable`].
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable(message.into())
    }

    /// Shorthand for [`Error::Corrupt`].
    pub fn corrupt(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Corrupt(message.into())
    }

    /// Shorthand for [`Error::Internal`].
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Internal(message.into())
    }
}
