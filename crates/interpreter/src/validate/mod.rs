//! Checks a program before anything of it is stored.

use durable_core::Definition;

use crate::program;

/// Checks a program; the problems as one text.
pub(crate) fn check(definition: &Definition) -> Result<(), String> {
    program::compile(definition).map(drop).map_err(|error| error.to_string())
}
