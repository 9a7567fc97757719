//! Names of executions and ids of checkpoints.

use std::fmt;

use durable_core::{Error, Result};

/// What stands between the name of an execution and the number of a checkpoint.
const MARK: &str = "_ckpt_";

/// Longest name of an execution.
const MAX_NAME_CHARS: usize = 200;

/// Greatest number of a checkpoint: twelve digits.
const MAX_NUMBER: u64 = 999_999_999_999;

/// The name of an execution, safe as a name of a file: letters, digits and `-_.:@+=,`, beginning
/// with a letter, a digit or `_`.
///
/// ```
/// use durable_checkpoints::ExecutionName;
/// assert!(ExecutionName::parse("order-7").is_ok());
/// for name in ["", "../etc", "a/b", "a\0b", ".hidden", "a_ckpt_1"] {
///     assert!(ExecutionName::parse(name).is_err());
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionName(String);

impl ExecutionName {
    /// Reads a name.
    ///
    /// # Errors
    /// `Invalid` that says what can't stand in a name.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |why: &str| {
            let shown: String = text.chars().take(40).collect();
            Err(Error::invalid(format!("{shown:?} can't be the name of an execution: {why}")))
        };
        if text.is_empty() {
            return refused("it is empty");
        }
        if text.len() > MAX_NAME_CHARS {
            return refused(&format!("it is longer than {MAX_NAME_CHARS} characters"));
        }
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:@+=,".contains(letter);
        if let Some(letter) = text.chars().find(|letter| !is_plain(*letter)) {
            return refused(&format!(
                "{letter:?} is not among the letters, digits and -_.:@+=, it may have"
            ));
        }
        if !text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_') {
            return refused("it has to begin with a letter, a digit or _");
        }
        if text.contains(MARK) {
            return refused(&format!("{MARK:?} is what divides it from a checkpoint's number"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of a checkpoint of this execution.
    pub fn checkpoint(&self, number: u64) -> CheckpointId {
        CheckpointId { execution: self.clone(), number }
    }
}

impl fmt::Display for ExecutionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a checkpoint: `<execution>_ckpt_<number>`, counted from 1.
///
/// ```
/// use durable_checkpoints::CheckpointId;
/// let id = CheckpointId::parse("order-7_ckpt_12")?;
/// assert_eq!((id.execution.as_str(), id.number), ("order-7", 12));
/// assert_eq!(id.to_string(), "order-7_ckpt_12");
/// assert!(CheckpointId::parse("order-7").is_err());
/// assert!(CheckpointId::parse("order-7_ckpt_012").is_err());
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId {
    /// Whose checkpoint it is.
    pub execution: ExecutionName,
    /// Its place among the checkpoints of the execution.
    pub number: u64,
}

impl CheckpointId {
    /// Reads an id.
    ///
    /// # Errors
    /// `Invalid` that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.rfind(MARK).map(|at| (&text[..at], &text[at + MARK.len()..]));
        let read = parts.and_then(|(execution, digits)| {
            let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
            let number: u64 = digits.parse().ok().filter(|_| plain && !digits.starts_with('0'))?;
            (number <= MAX_NUMBER).then_some((execution, number))
        });
        let Some((execution, number)) = read else {
            let shown: String = text.chars().take(60).collect();
            return Err(Error::invalid(format!(
                "{shown:?} is no id of a checkpoint: expected <execution>{MARK}<number>, \
                 counted from 1"
            )));
        };
        Ok(Self { execution: ExecutionName::parse(execution)?, number })
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{MARK}{}", self.execution, self.number)
    }
}
