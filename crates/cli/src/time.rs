//! Times as they are given on the command line.

use durable_core::UnixMs;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// Reads an instant: a day or an instant in RFC 3339, in UTC, or how long ago it was.
pub(crate) fn parse(text: &str, now_ms: UnixMs) -> Option<UnixMs> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant.as_millisecond());
    }
    if let Ok(day) = text.parse::<Date>() {
        return Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond());
    }
    let unit = text.chars().last()?;
    let unit_ms = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let count: u32 = text.strip_suffix(unit)?.parse().ok()?;
    Some(now_ms - i64::from(count) * unit_ms)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn days_instants_and_how_long_ago() {
        for (text, expected) in [
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-01T00:00:01.5Z", Some(1_500)),
            ("1970-01-01T02:00:00+02:00", Some(0)),
            ("90s", Some(1_000_000_000 - 90_000)),
            ("7d", Some(1_000_000_000 - 7 * 86_400_000)),
            ("7", None),
            ("-1h", None),
            ("d", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse(text, 1_000_000_000), expected, "{text}");
        }
    }
}
