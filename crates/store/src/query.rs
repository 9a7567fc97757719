//! The options in a database URL.

use std::time::Duration;

use durable_core::{Error, Result};

pub(crate) fn invalid(what: &str) -> Error {
    Error::invalid(format!("the database URL can't be read: {what}"))
}

/// A positive number of units, up to a day of milliseconds.
pub(crate) fn duration(name: &str, word: &str, unit_ms: u64) -> Result<Duration> {
    match word.parse::<u64>() {
        Ok(number @ 1..=86_400_000) => Ok(Duration::from_millis(number.saturating_mul(unit_ms))),
        _ => Err(invalid(&format!("{name} is a number from 1"))),
    }
}

/// Undoes percent-encoding.
pub(crate) fn decode(word: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(invalid("after '%' come two hexadecimal digits"));
        };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))
}
