//! What the program is told when it asks the operating system: the time, and nothing else.

use monty_types::{
    ExcType, ExtFunctionResult, MontyDate, MontyDateTime, MontyException, MontyObject,
    MontyTimeZone, OsFunctionCall,
};

/// Answers a call to the operating system at a given time. The clock stands still during an
/// advance, so a replay sees the same time.
pub(super) fn answer(call: &OsFunctionCall, now_ms: i64) -> ExtFunctionResult {
    let refuse = |exc_type, message: &str| {
        ExtFunctionResult::Error(MontyException::new(exc_type, Some(message.to_owned())))
    };
    match call {
        OsFunctionCall::Time(_) => {
            ExtFunctionResult::Return(MontyObject::float(now_ms as f64 / 1_000.0))
        }
        OsFunctionCall::DateToday => {
            let local = civil(now_ms, 0);
            let (year, month, day) = (local.year, local.month, local.day);
            ExtFunctionResult::Return(MontyObject::date(MontyDate { year, month, day }))
        }
        OsFunctionCall::DateTimeNow(zone) => {
            ExtFunctionResult::Return(MontyObject::datetime(now_in(now_ms, zone.as_ref())))
        }
        OsFunctionCall::Sleep(_) | OsFunctionCall::SystemSleep(_) => refuse(
            ExcType::RuntimeError,
            "time.sleep() would block the workflow: write `await asyncio.sleep(seconds)`",
        ),
        OsFunctionCall::Urandom(_) => refuse(
            ExcType::RuntimeError,
            "os.urandom() can't be replayed: use the random module, or a declared function",
        ),
        OsFunctionCall::Getenv(_) | OsFunctionCall::GetEnviron => refuse(
            ExcType::RuntimeError,
            "a workflow has no environment variables: pass the value as an input",
        ),
        OsFunctionCall::Import(name) => refuse(
            ExcType::ModuleNotFoundError,
            &format!("No module named '{name}': call it through a declared function"),
        ),
        other if other.fs_primary_path().is_some() => refuse(
            ExcType::PermissionError,
            &format!("{} is not possible, a workflow has no files: use a declared function", other),
        ),
        other => ExtFunctionResult::Error(other.on_no_handler()),
    }
}

fn now_in(now_ms: i64, zone: Option<&MontyTimeZone>) -> MontyDateTime {
    let mut local = civil(now_ms, zone.map_or(0, |zone| zone.offset_seconds));
    local.offset_seconds = zone.map(|zone| zone.offset_seconds);
    local.timezone_name = zone.and_then(|zone| zone.name.clone());
    local
}

/// The calendar's reading of an instant, at an offset from UTC. The calendar ends at the years 1
/// and 9999.
fn civil(unix_ms: i64, offset_seconds: i32) -> MontyDateTime {
    const FIRST_MS: i64 = -62_135_596_800_000;
    const LAST_MS: i64 = 253_402_300_799_999;
    const DAY_MS: i64 = 86_400_000;
    let local = unix_ms.saturating_add(i64::from(offset_seconds) * 1_000).clamp(FIRST_MS, LAST_MS);
    let (days, in_day) = (local.div_euclid(DAY_MS), local.rem_euclid(DAY_MS));
    // Counts years from March, so that the leap day is a year's last: day 0 is 0000-03-01.
    let shifted = days + 719_468;
    let (era, in_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_in_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_in_era + year_in_era / 4 - year_in_era / 100);
    let march_month = (5 * in_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    MontyDateTime {
        year: (era * 400 + year_in_era + i64::from(month <= 2)) as i32,
        month: month as u8,
        day: (in_year - (153 * march_month + 2) / 5 + 1) as u8,
        hour: (in_day / 3_600_000) as u8,
        minute: (in_day / 60_000 % 60) as u8,
        second: (in_day / 1_000 % 60) as u8,
        microsecond: (in_day % 1_000 * 1_000) as u32,
        offset_seconds: None,
        timezone_name: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(unix_ms: i64) -> (i32, u8, u8, u8, u8, u8, u32) {
        let t = civil(unix_ms, 0);
        (t.year, t.month, t.day, t.hour, t.minute, t.second, t.microsecond)
    }

    #[test]
    fn the_calendar_is_right_at_its_corners() {
        assert_eq!(reading(0), (1970, 1, 1, 0, 0, 0, 0));
        assert_eq!(reading(-1), (1969, 12, 31, 23, 59, 59, 999_000));
        assert_eq!(reading(951_782_400_000), (2000, 2, 29, 0, 0, 0, 0));
        assert_eq!(reading(1_700_000_000_123), (2023, 11, 14, 22, 13, 20, 123_000));
        assert_eq!(reading(i64::MIN), (1, 1, 1, 0, 0, 0, 0));
        assert_eq!(reading(i64::MAX), (9999, 12, 31, 23, 59, 59, 999_000));
    }

    #[test]
    fn zones_shift_the_reading() {
        let zone = MontyTimeZone { offset_seconds: -3_600, name: Some("AZOT".to_owned()) };
        let now = now_in(0, Some(&zone));
        assert_eq!((now.year, now.hour, now.offset_seconds), (1969, 23, Some(-3_600)));
        assert_eq!(now.timezone_name.as_deref(), Some("AZOT"));
    }
}
