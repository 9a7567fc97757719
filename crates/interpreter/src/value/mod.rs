//! Python values as JSON text and back: one documented, tagged mapping.
//!
//! Ordinary JSON stays ordinary JSON. What JSON has no word for is written as an object with
//! exactly one key, a *tag* that starts with `$`:
//!
//! | Python | JSON |
//! |---|---|
//! | `None`, `True`, `False`, `str`, `list` | `null`, `true`, `false`, string, array |
//! | `int` from -2⁶³ to 2⁶³-1 | number without fraction or exponent |
//! | other `int` | `{"$int": "9223372036854775808"}` |
//! | finite `float` | number with a fraction or an exponent (`1.0`, `-0.0`, `1e300`) |
//! | other `float` | `{"$float": "nan"}`, `"inf"`, `"-inf"` |
//! | `complex` | `{"$complex": [real, imaginary]}` |
//! | `decimal.Decimal` | `{"$decimal": "1.10"}` |
//! | `bytes` | `{"$bytes": "aGk="}` (standard base64, padded) |
//! | `tuple`, `set`, `frozenset` | `{"$tuple": […]}`, `{"$set": […]}`, `{"$frozenset": […]}` |
//! | `dict` with string keys | object, in order |
//! | any other `dict` | `{"$dict": [[key, value], …]}` |
//! | `datetime.date` | `{"$date": "2026-01-31"}` |
//! | `datetime.datetime` | `{"$datetime": "2026-01-31T12:00:00.000001+02:00"}` or `{"$datetime": [iso, zone name]}` |
//! | `datetime.time` | `{"$time": "12:00:00"}` or `{"$time": [iso, zone name or null, fold]}` |
//! | `datetime.timedelta` | `{"$timedelta": [days, seconds, microseconds]}` |
//! | `datetime.timezone` | `{"$timezone": offset in seconds}` or `{"$timezone": [offset, name]}` |
//! | `pathlib.Path` | `{"$path": "a/b"}` |
//! | named tuple | `{"$namedtuple": {"name": "Point", "fields": {"x": 1}}}` |
//! | dataclass instance | `{"$dataclass": {"name": "Point", "fields": {"x": 1}}}` |
//! | other instance | `{"$object": {"name": "Point", "fields": {"x": 1}}}` |
//! | exception instance | `{"$exception": {"type": "ValueError", "message": "no" or null}}` |
//! | `...` | `{"$ellipsis": null}` |
//!
//! A `dict` whose only key is one of these tags, or starts with `$py:` (kept for later tags), is
//! written as `$dict` too, so nothing is ambiguous. An object with a single `$` key that is *not*
//! in the table is an ordinary dict (`{"$ref": "#/x"}` stays as it is); one that is in the table
//! but whose content is not of the form shown is an error. Everything else (functions, classes,
//! modules, coroutines, iterators, open files) is an error that names the type.
//!
//! `docs/VALUES.md` says the same in a form that other languages can implement from.

mod base64;
mod decode;
mod encode;
mod iso;
mod json;

pub use decode::{DecodeError, decode, decode_object};
pub use encode::{EncodeError, encode, encode_args};

/// Deepest nesting of arrays and objects in the JSON text, tags included.
pub const MAX_DEPTH: usize = 120;

/// Most decimal digits of an integer.
pub const MAX_INT_DIGITS: usize = 100_000;

/// Every tag there is.
pub(crate) const TAGS: [&str; 20] = [
    "$int",
    "$float",
    "$complex",
    "$decimal",
    "$bytes",
    "$tuple",
    "$set",
    "$frozenset",
    "$dict",
    "$date",
    "$datetime",
    "$time",
    "$timedelta",
    "$timezone",
    "$path",
    "$namedtuple",
    "$dataclass",
    "$object",
    "$exception",
    "$ellipsis",
];

/// Whether a lone key means a tag, now or in a later version.
pub(crate) fn is_reserved(key: &str) -> bool {
    key.starts_with('$') && (TAGS.contains(&key) || key.starts_with("$py:"))
}

#[cfg(test)]
mod tests;
