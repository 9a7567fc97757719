//! Payloads: JSON text that the engine carries and does not look into.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Error, Result};

/// A JSON document as text: an input, an argument list, a result.
///
/// The engine moves payloads about without parsing them; the two ends agree on
/// the tagged mapping that `durable-interpreter` documents (ordinary JSON stays
/// ordinary JSON). Cloning is cheap.
///
/// ```
/// use durable_core::Payload;
/// let payload = Payload::parse("[1, 2]", 100)?;
/// assert_eq!(payload.as_str(), "[1, 2]");
/// assert!(Payload::parse("[1, 2", 100).is_err());
/// assert!(Payload::parse("[1, 2]", 3).is_err());
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Arc<str>);

impl Payload {
    /// Checks that `text` is one JSON document of at most `max_bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the place of the fault, or with both sizes.
    pub fn parse(text: &str, max_bytes: usize) -> Result<Self> {
        if text.len() > max_bytes {
            return Err(Error::invalid(format!(
                "the payload has {} bytes, the limit max_payload_bytes is {max_bytes}: \
                 store large data elsewhere and pass a reference to it",
                text.len()
            )));
        }
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|error| Error::invalid(format!("the payload is not JSON: {error}")))?;
        Ok(Self(text.into()))
    }

    /// Takes text that is known to be JSON: it was read back from a store, or made by a serializer.
    pub fn trusted(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Serializes a value.
    pub fn from_value(value: &serde_json::Value) -> Self {
        Self(value.to_string().into())
    }

    /// The JSON document `null`.
    pub fn null() -> Self {
        Self("null".into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses the text.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is not JSON after all.
    pub fn to_value(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.0)
            .map_err(|error| Error::corrupt(format!("a stored payload is not JSON: {error}")))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text, usize::MAX).map_err(D::Error::custom)
    }
}
