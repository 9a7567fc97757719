//! SQL with its values written into it.
//!
//! MySQL has no arrays, and a prepared statement costs a round trip each. So values travel as
//! literals, and a whole transaction as one packet of statements.

use durable_core::Payload;

/// Most rows of one statement.
const MAX_ROWS: usize = 200;
/// After so much a statement takes no more rows.
const FULL_BYTES: usize = 1 << 20;

/// Ends the transaction unless as many rows were found as there had to be: a writer has lost its
/// comparison. The subquery has two rows, which is an error, of all our statements only here.
macro_rules! require {
    ($count:expr) => {
        concat!("SELECT IF(", $count, ", 0, (SELECT 1 UNION ALL SELECT 2))")
    };
}
pub(super) use require;

/// What can be written into a statement.
pub(super) trait Literal: Sync {
    fn write(&self, sql: &mut Vec<u8>);
}

/// `None` is NULL.
impl<T: Literal> Literal for Option<T> {
    fn write(&self, sql: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(sql),
            None => sql.extend_from_slice(b"NULL"),
        }
    }
}

impl<T: Literal + ?Sized> Literal for &T {
    fn write(&self, sql: &mut Vec<u8>) {
        (**self).write(sql);
    }
}

impl Literal for i64 {
    fn write(&self, sql: &mut Vec<u8>) {
        sql.extend_from_slice(self.to_string().as_bytes());
    }
}

impl Literal for u32 {
    fn write(&self, sql: &mut Vec<u8>) {
        i64::from(*self).write(sql);
    }
}

/// Numbers are signed in the database.
impl Literal for u64 {
    fn write(&self, sql: &mut Vec<u8>) {
        (*self as i64).write(sql);
    }
}

impl Literal for bool {
    fn write(&self, sql: &mut Vec<u8>) {
        sql.push(if *self { b'1' } else { b'0' });
    }
}

impl Literal for str {
    fn write(&self, sql: &mut Vec<u8>) {
        quote(self.as_bytes(), sql);
    }
}

impl Literal for String {
    fn write(&self, sql: &mut Vec<u8>) {
        self.as_str().write(sql);
    }
}

impl Literal for Payload {
    fn write(&self, sql: &mut Vec<u8>) {
        self.as_str().write(sql);
    }
}

impl Literal for [u8] {
    fn write(&self, sql: &mut Vec<u8>) {
        sql.extend_from_slice(b"_binary");
        quote(self, sql);
    }
}

/// A list for `IN`. Nothing is in an empty one, and nothing is certainly not in it either: with
/// `NOT IN` it must not be empty.
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T: Literal> Literal for List<T> {
    fn write(&self, sql: &mut Vec<u8>) {
        sql.push(b'(');
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                sql.push(b',');
            }
            value.write(sql);
        }
        if self.0.is_empty() {
            sql.extend_from_slice(b"NULL");
        }
        sql.push(b')');
    }
}

/// Our sessions have backslash escapes, and a character set in which no byte of a longer character
/// looks like a quote or a backslash.
fn quote(bytes: &[u8], sql: &mut Vec<u8>) {
    sql.reserve(bytes.len() + 2);
    sql.push(b'\'');
    for byte in bytes {
        if matches!(byte, b'\'' | b'\\') {
            sql.push(b'\\');
        }
        sql.push(*byte);
    }
    sql.push(b'\'');
}

/// One or more statements, of which the first one's rows are the answer.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) sql: Vec<u8>,
    /// How many statements it is.
    pub(super) count: usize,
}

impl Statement {
    /// A statement in which each `?` stands for a value.
    pub(super) fn new(template: &str, values: &[&dyn Literal]) -> Self {
        let mut sql = Vec::with_capacity(template.len() + 64);
        let mut values = values.iter();
        for (index, part) in template.split('?').enumerate() {
            if index > 0 {
                let value = values.next();
                debug_assert!(value.is_some(), "a value is missing: {template}");
                value.copied().unwrap_or(&None::<i64>).write(&mut sql);
            }
            sql.extend_from_slice(part.as_bytes());
        }
        debug_assert!(values.next().is_none(), "a value too many: {template}");
        Self { sql, count: 1 }
    }

    /// This one, and then another.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.sql.extend_from_slice(b";");
        self.sql.extend_from_slice(&other.sql);
        self.count += other.count;
        self
    }
}

/// A statement that writes rows: `{rows}` in it stands for them.
pub(super) struct Template {
    /// The names of the columns of a table of rows; none where rows are `VALUES`.
    pub(super) columns: &'static [&'static str],
    pub(super) sql: &'static str,
    /// Whether as many rows have to be found as there are. `VALUES` are all inserted, or none.
    pub(super) is_exact: bool,
}

/// Rows on their way into statements, cut into pieces that are not too long.
pub(super) struct Rows {
    template: &'static Template,
    pieces: Vec<(Vec<u8>, usize)>,
}

impl Rows {
    pub(super) fn new(template: &'static Template) -> Self {
        Self { template, pieces: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: &[&dyn Literal]) {
        let columns = self.template.columns;
        debug_assert!(columns.is_empty() || columns.len() == row.len(), "{}", self.template.sql);
        let is_full =
            |(sql, count): &(Vec<u8>, usize)| *count >= MAX_ROWS || sql.len() >= FULL_BYTES;
        if self.pieces.last().is_none_or(is_full) {
            self.pieces.push((Vec::new(), 0));
        }
        let Some((sql, count)) = self.pieces.last_mut() else { return };
        let (between, open, close): (&[u8], &[u8], &[u8]) = match columns {
            [] => (b",", b"(", b")"),
            _ => (b" UNION ALL ", b"SELECT ", b""),
        };
        if *count > 0 {
            sql.extend_from_slice(between);
        }
        sql.extend_from_slice(open);
        for (index, value) in row.iter().enumerate() {
            if index > 0 {
                sql.push(b',');
            }
            value.write(sql);
            // The first row of a table names its columns.
            if let (0, Some(name)) = (*count, columns.get(index)) {
                sql.push(b' ');
                sql.extend_from_slice(name.as_bytes());
            }
        }
        sql.extend_from_slice(close);
        *count += 1;
    }

    pub(super) fn into_statements(self) -> impl Iterator<Item = Statement> {
        let template = self.template;
        let (before, after) = template.sql.split_once("{rows}").unwrap_or((template.sql, ""));
        self.pieces.into_iter().map(move |(rows, count)| {
            let mut sql = Vec::with_capacity(before.len() + rows.len() + after.len());
            sql.extend_from_slice(before.as_bytes());
            sql.extend_from_slice(&rows);
            sql.extend_from_slice(after.as_bytes());
            let statement = Statement { sql, count: 1 };
            if template.is_exact { statement.and(&require_rows(count as u64)) } else { statement }
        })
    }
}

/// Demands that the statement before has found so many rows.
pub(super) fn require_rows(count: u64) -> Statement {
    Statement::new(require!("ROW_COUNT() = ?"), &[&count])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(statement: &Statement) -> String {
        String::from_utf8_lossy(&statement.sql).into_owned()
    }

    #[test]
    fn values_can_not_leave_their_quotes() {
        let statement = Statement::new(
            "? ? ? ? ? ?",
            &[&"a'; DROP -- \\", &None::<&str>, &i64::MIN, &true, &&b"\xff'"[..], &List(vec!["?"])],
        );
        let expected = b"'a\\'; DROP -- \\\\' NULL -9223372036854775808 1 _binary'\xff\\'' ('?')";
        assert_eq!(statement.sql, expected);
        assert_eq!(text(&Statement::new("IN ?", &[&List(Vec::<i64>::new())])), "IN (NULL)");
    }

    #[test]
    fn rows_become_statements_that_are_not_too_long() {
        static VALUES: Template =
            Template { columns: &[], sql: "INSERT INTO t VALUES {rows}", is_exact: true };
        static TABLE: Template =
            Template { columns: &["id", "k"], sql: "UPDATE ({rows}) n", is_exact: false };
        let mut rows = Rows::new(&VALUES);
        rows.push(&[&1_i64, &"a"]);
        rows.push(&[&2_i64, &"b"]);
        let statements: Vec<_> = rows.into_statements().collect();
        assert_eq!(
            text(&statements[0]),
            "INSERT INTO t VALUES (1,'a'),(2,'b');\
             SELECT IF(ROW_COUNT() = 2, 0, (SELECT 1 UNION ALL SELECT 2))"
        );
        assert_eq!(statements[0].count, 2);

        let mut rows = Rows::new(&TABLE);
        for number in 0..=MAX_ROWS as i64 {
            rows.push(&[&number, &"x"]);
        }
        let statements: Vec<_> = rows.into_statements().collect();
        assert_eq!(statements.len(), 2);
        assert!(
            text(&statements[0]).starts_with("UPDATE (SELECT 0 id,'x' k UNION ALL SELECT 1,'x'")
        );
        assert_eq!(text(&statements[1]), format!("UPDATE (SELECT {MAX_ROWS} id,'x' k) n"));
    }
}
