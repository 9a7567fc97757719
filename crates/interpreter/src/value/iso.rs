//! Dates and times as ISO 8601 text, the way Python's `isoformat()` writes them.

use std::fmt::Write as _;

use monty_types::{MontyDate, MontyDateTime, MontyTime};

pub(super) fn write_date(date: &MontyDate, out: &mut String) {
    let _ = write!(out, "{:04}-{:02}-{:02}", date.year, date.month, date.day);
}

pub(super) fn write_datetime(value: &MontyDateTime, out: &mut String) {
    let date = MontyDate { year: value.year, month: value.month, day: value.day };
    write_date(&date, out);
    out.push('T');
    write_clock([value.hour, value.minute, value.second], value.microsecond, out);
    write_offset(value.offset_seconds, out);
}

pub(super) fn write_time(value: &MontyTime, out: &mut String) {
    write_clock([value.hour, value.minute, value.second], value.microsecond, out);
    write_offset(value.offset_seconds, out);
}

fn write_clock([hour, minute, second]: [u8; 3], microsecond: u32, out: &mut String) {
    let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
    if microsecond != 0 {
        let _ = write!(out, ".{microsecond:06}");
    }
}

fn write_offset(offset_seconds: Option<i32>, out: &mut String) {
    let Some(offset) = offset_seconds else { return };
    let sign = if offset < 0 { '-' } else { '+' };
    let offset = offset.unsigned_abs();
    let _ = write!(out, "{sign}{:02}:{:02}", offset / 3600, offset / 60 % 60);
    if !offset.is_multiple_of(60) {
        let _ = write!(out, ":{:02}", offset % 60);
    }
}

pub(super) fn parse_date(text: &str) -> Option<MontyDate> {
    let mut cursor = Cursor(text.as_bytes());
    let date = cursor.date()?;
    cursor.end().then_some(date)
}

pub(super) fn parse_datetime(text: &str, zone: Option<String>) -> Option<MontyDateTime> {
    let mut cursor = Cursor(text.as_bytes());
    let date = cursor.date()?;
    cursor.byte(b'T')?;
    let ([hour, minute, second], microsecond) = cursor.clock()?;
    let offset_seconds = cursor.offset()?;
    (cursor.end() && (zone.is_none() || offset_seconds.is_some())).then_some(MontyDateTime {
        year: date.year,
        month: date.month,
        day: date.day,
        hour,
        minute,
        second,
        microsecond,
        offset_seconds,
        timezone_name: zone,
    })
}

pub(super) fn parse_time(text: &str, zone: Option<String>, fold: u8) -> Option<MontyTime> {
    let mut cursor = Cursor(text.as_bytes());
    let ([hour, minute, second], microsecond) = cursor.clock()?;
    let offset_seconds = cursor.offset()?;
    let fits = cursor.end() && fold <= 1 && (zone.is_none() || offset_seconds.is_some());
    fits.then_some(MontyTime {
        hour,
        minute,
        second,
        microsecond,
        offset_seconds,
        timezone_name: zone,
        fold,
    })
}

/// What is left of a text.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn end(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self, expected: u8) -> Option<()> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        (first == expected).then_some(())
    }

    fn digits(&mut self, count: usize) -> Option<u32> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |number, &byte| {
            byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
        })
    }

    fn below(&mut self, limit: u32) -> Option<u8> {
        self.digits(2).filter(|&number| number < limit).map(|number| number as u8)
    }

    fn date(&mut self) -> Option<MontyDate> {
        let year = self.digits(4)?;
        self.byte(b'-')?;
        let month = self.digits(2)?;
        self.byte(b'-')?;
        let day = self.digits(2)?;
        let is_leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 if is_leap => 29,
            2 => 28,
            1..=12 => 31,
            _ => return None,
        };
        (year >= 1 && (1..=days).contains(&day)).then_some(MontyDate {
            year: year as i32,
            month: month as u8,
            day: day as u8,
        })
    }

    fn clock(&mut self) -> Option<([u8; 3], u32)> {
        let hour = self.below(24)?;
        self.byte(b':')?;
        let minute = self.below(60)?;
        self.byte(b':')?;
        let second = self.below(60)?;
        let microsecond = match self.0.first() {
            Some(b'.') => {
                self.byte(b'.')?;
                self.digits(6)?
            }
            _ => 0,
        };
        Some(([hour, minute, second], microsecond))
    }

    fn offset(&mut self) -> Option<Option<i32>> {
        let sign = match self.0.first() {
            None => return Some(None),
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return None,
        };
        self.0 = &self.0[1..];
        let hours = i32::from(self.below(24)?);
        self.byte(b':')?;
        let minutes = i32::from(self.below(60)?);
        let mut seconds = 0;
        if self.0.first() == Some(&b':') {
            self.byte(b':')?;
            seconds = i32::from(self.below(60)?);
        }
        Some(Some(sign * (hours * 3600 + minutes * 60 + seconds)))
    }
}
