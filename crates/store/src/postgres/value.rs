//! Values on their way to the database and back.

use std::{borrow::Cow, error::Error as StdError};

use bytes::BytesMut;
use durable_core::UnixMs;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

type Outcome<T> = Result<T, Box<dyn StdError + Sync + Send>>;

/// From 1970 to 2000, where Postgres begins to count.
const EPOCH_MS: i64 = 946_684_800_000;
/// What `timestamptz` can hold, in microseconds since 2000: 4714 BC to AD 294276.
const RANGE_US: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// An instant as `timestamptz`. One outside of its range is stored as infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instant(pub(super) UnixMs);

impl ToSql for Instant {
    fn to_sql(&self, _type: &Type, out: &mut BytesMut) -> Outcome<IsNull> {
        let since_epoch_us = self.0.checked_sub(EPOCH_MS).and_then(|ms| ms.checked_mul(1_000));
        let us = since_epoch_us.filter(|us| RANGE_US.contains(us)).unwrap_or(if self.0 < 0 {
            i64::MIN
        } else {
            i64::MAX
        });
        out.extend_from_slice(&us.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl FromSql<'_> for Instant {
    fn from_sql(_type: &Type, raw: &[u8]) -> Outcome<Self> {
        Ok(Self(match i64::from_be_bytes(raw.try_into()?) {
            infinite @ (i64::MIN | i64::MAX) => infinite,
            us => us.div_euclid(1_000) + EPOCH_MS,
        }))
    }

    accepts!(TIMESTAMPTZ);
}

/// Text that may hold NUL, which Postgres does not take.
pub(super) struct Text(pub(super) String);

const ESCAPE: char = '\u{241B}';

impl Text {
    /// As it is stored.
    pub(super) fn stored(text: &str) -> Cow<'_, str> {
        if !text.contains(['\0', ESCAPE]) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.replace(ESCAPE, "\u{241B}\u{241B}").replace('\0', "\u{241B}@"))
    }

    /// As it was.
    pub(super) fn read(stored: &str) -> String {
        if !stored.contains(ESCAPE) {
            return stored.to_owned();
        }
        let mut text = String::with_capacity(stored.len());
        let mut letters = stored.chars();
        while let Some(letter) = letters.next() {
            match (letter == ESCAPE).then(|| letters.next()).flatten() {
                Some('@') => text.push('\0'),
                Some(other) => text.push(other),
                None => text.push(letter),
            }
        }
        text
    }
}

impl<'a> FromSql<'a> for Text {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Outcome<Self> {
        Ok(Self(Self::read(<&str>::from_sql(kind, raw)?)))
    }

    accepts!(TEXT);
}

/// A `json` column as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Json<T>(pub(super) T);

impl ToSql for Json<String> {
    fn to_sql(&self, _type: &Type, out: &mut BytesMut) -> Outcome<IsNull> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    accepts!(JSON);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Json<&'a str> {
    fn from_sql(_type: &Type, raw: &'a [u8]) -> Outcome<Self> {
        Ok(Self(std::str::from_utf8(raw)?))
    }

    accepts!(JSON);
}

/// A parameter of a statement. It says its own type, so that statements need not be described.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Number(Option<i64>),
    Flag(bool),
    Text(Option<String>),
    Json(Option<Json<String>>),
    Instant(Option<Instant>),
    Bytes(Option<Vec<u8>>),
    Numbers(Vec<Option<i64>>),
    Flags(Vec<bool>),
    Texts(Vec<Option<String>>),
    Jsons(Vec<Option<Json<String>>>),
    Instants(Vec<Option<Instant>>),
    Blobs(Vec<Option<Vec<u8>>>),
}

impl Value {
    pub(super) fn kind(&self) -> Type {
        match self {
            Self::Number(_) => Type::INT8,
            Self::Flag(_) => Type::BOOL,
            Self::Text(_) => Type::TEXT,
            Self::Json(_) => Type::JSON,
            Self::Instant(_) => Type::TIMESTAMPTZ,
            Self::Bytes(_) => Type::BYTEA,
            Self::Numbers(_) => Type::INT8_ARRAY,
            Self::Flags(_) => Type::BOOL_ARRAY,
            Self::Texts(_) => Type::TEXT_ARRAY,
            Self::Jsons(_) => Type::JSON_ARRAY,
            Self::Instants(_) => Type::TIMESTAMPTZ_ARRAY,
            Self::Blobs(_) => Type::BYTEA_ARRAY,
        }
    }

    pub(super) fn sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Number(value) => value,
            Self::Flag(value) => value,
            Self::Text(value) => value,
            Self::Json(value) => value,
            Self::Instant(value) => value,
            Self::Bytes(value) => value,
            Self::Numbers(values) => values,
            Self::Flags(values) => values,
            Self::Texts(values) => values,
            Self::Jsons(values) => values,
            Self::Instants(values) => values,
            Self::Blobs(values) => values,
        }
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Text(Some(Text::stored(text).into_owned()))
    }

    pub(super) fn maybe_text(value: Option<&str>) -> Self {
        Self::Text(value.map(|value| Text::stored(value).into_owned()))
    }

    /// JSON goes as it is: what it holds is escaped already.
    pub(super) fn json(text: &str) -> Self {
        Self::Json(Some(Json(text.to_owned())))
    }

    pub(super) fn maybe_json(text: Option<&str>) -> Self {
        Self::Json(text.map(|text| Json(text.to_owned())))
    }

    pub(super) fn at(ms: UnixMs) -> Self {
        Self::Instant(Some(Instant(ms)))
    }

    pub(super) fn maybe_at(ms: Option<UnixMs>) -> Self {
        Self::Instant(ms.map(Instant))
    }

    pub(super) fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Texts(values.into_iter().map(|text| Some(Text::stored(text).into_owned())).collect())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Number(Some(value as i64))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Number(Some(value))
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(Some(value.into()))
    }
}

/// How many rows are written out. Each number of them makes a statement of its own, whose plan the
/// server keeps.
const MOST_WRITTEN_OUT: usize = 2;

/// Rows on their way into a statement, one after the other.
#[derive(Clone, Default)]
pub(super) struct Columns {
    width: usize,
    cells: Vec<Value>,
}

impl Columns {
    /// Adds a row. Every row has the same kinds of values in the same order.
    pub(super) fn push<const N: usize>(&mut self, row: [Value; N]) {
        debug_assert!(self.cells.is_empty() || self.width == N, "rows of one width");
        self.width = N;
        self.cells.extend(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.cells.len().checked_div(self.width).unwrap_or(0)
    }

    /// A parameter for each column.
    pub(super) fn into_arrays(self) -> Vec<Value> {
        let mut columns: Vec<_> = self.cells.iter().take(self.width).map(Value::column).collect();
        for (index, cell) in self.cells.into_iter().enumerate() {
            columns[index % self.width].append(cell);
        }
        columns
    }

    /// SQL for the rows as a table, and its parameters.
    ///
    /// A few rows are written out. To unfold an array the server keeps a store of tuples with room
    /// for thousands, for each column: that costs more than all the rest of a single step.
    pub(super) fn into_rows(self) -> (String, Vec<Value>) {
        let (height, width) = (self.len(), self.width);
        let parameters = |from: usize| {
            (from + 1..=from + width).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
        };
        if height > MOST_WRITTEN_OUT {
            return (format!("unnest({})", parameters(0)), self.into_arrays());
        }
        let rows: Vec<_> =
            (0..height).map(|row| format!("({})", parameters(row * width))).collect();
        (format!("(VALUES {})", rows.join(", ")), self.cells)
    }
}

impl Value {
    /// An empty column of such values.
    fn column(&self) -> Self {
        match self {
            Self::Number(_) | Self::Numbers(_) => Self::Numbers(Vec::new()),
            Self::Flag(_) | Self::Flags(_) => Self::Flags(Vec::new()),
            Self::Text(_) | Self::Texts(_) => Self::Texts(Vec::new()),
            Self::Json(_) | Self::Jsons(_) => Self::Jsons(Vec::new()),
            Self::Instant(_) | Self::Instants(_) => Self::Instants(Vec::new()),
            Self::Bytes(_) | Self::Blobs(_) => Self::Blobs(Vec::new()),
        }
    }

    /// Adds a value to a column.
    fn append(&mut self, cell: Self) {
        match (self, cell) {
            (Self::Numbers(all), Self::Number(one)) => all.push(one),
            (Self::Flags(all), Self::Flag(one)) => all.push(one),
            (Self::Texts(all), Self::Text(one)) => all.push(one),
            (Self::Jsons(all), Self::Json(one)) => all.push(one),
            (Self::Instants(all), Self::Instant(one)) => all.push(one),
            (Self::Blobs(all), Self::Bytes(one)) => all.push(one),
            (column, cell) => debug_assert!(false, "{cell:?} is none of {column:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_nul_and_with_the_escape_itself_comes_back() {
        for text in ["", "plain", "a\0b", "\0", "␛", "␛@", "␛␛\0", "\0␛", "ü␛@\0\0"] {
            let stored = Text::stored(text);
            assert!(!stored.contains('\0'));
            assert_eq!(Text::read(&stored), text);
        }
        assert!(matches!(Text::stored("plain ü"), Cow::Borrowed(_)));
    }

    #[test]
    fn instants_are_exact_to_the_millisecond_and_infinite_beyond_their_range() {
        for ms in [0, 1, -1, 1_790_000_000_123, EPOCH_MS - 1, i64::MIN, i64::MAX] {
            let mut out = BytesMut::new();
            Instant(ms).to_sql(&Type::TIMESTAMPTZ, &mut out).unwrap();
            assert_eq!(Instant::from_sql(&Type::TIMESTAMPTZ, &out).unwrap(), Instant(ms));
        }
        let mut out = BytesMut::new();
        Instant(i64::MAX / 2).to_sql(&Type::TIMESTAMPTZ, &mut out).unwrap();
        assert_eq!(Instant::from_sql(&Type::TIMESTAMPTZ, &out).unwrap(), Instant(i64::MAX));
    }
}
