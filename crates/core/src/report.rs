//! Problems in a source text, and how they are shown to its author: line and column, the line
//! with a caret, and what to do.

use std::ops::Range;

use crate::{Error, Position, Result};

/// Most problems that are shown.
const MAX_SHOWN: usize = 10;

/// Longest source line that is shown in full.
const MAX_LINE_CHARS: usize = 160;

/// Something wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: bytes of the source.
    pub range: Range<usize>,
    /// What.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

/// The problems of one source.
///
/// ```
/// use durable_core::report::{Problem, Report};
/// let mut report = Report::new("flow.yaml", "a: 1\nb: 2\n");
/// report.add(Problem { range: 8..9, message: "too much".into(), hint: "use 1".into() });
/// let shown = report.into_result().unwrap_err();
/// assert_eq!(shown, "flow.yaml:2:4: too much\n    b: 2\n       ^\n  hint: use 1");
/// ```
#[derive(Debug)]
pub struct Report<'s> {
    label: &'static str,
    source: &'s str,
    lines: LineIndex,
    problems: Vec<Problem>,
    general: Vec<String>,
}

impl<'s> Report<'s> {
    /// No problem so far in a source that is called `label`.
    pub fn new(label: &'static str, source: &'s str) -> Self {
        let lines = LineIndex::new(source);
        Self { label, source, lines, problems: Vec::new(), general: Vec::new() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty() && self.general.is_empty()
    }

    /// Adds a problem.
    pub fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Adds a problem that has no place in the source.
    pub fn add_general(&mut self, message: String) {
        self.general.push(message);
    }

    /// Adds a problem between two places given by line and column.
    pub fn add_at(&mut self, start: Position, end: Position, message: String) {
        let offset = |place: Position| {
            let start = self.lines.start(place.line);
            let line = self.source.get(start..).unwrap_or("");
            let ahead = line.chars().take(place.column.saturating_sub(1) as usize);
            start + ahead.map(char::len_utf8).sum::<usize>()
        };
        let (start, end) = (offset(start), offset(end));
        self.add(Problem { range: start..end.max(start), message, hint: String::new() });
    }

    /// All problems as one text, in the order of the source.
    ///
    /// # Errors
    /// That text, if there is a problem.
    pub fn into_result(mut self) -> std::result::Result<(), String> {
        if self.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| (problem.range.start, problem.range.end));
        self.problems.dedup_by(|a, b| a.range == b.range && a.message == b.message);
        let mut shown = std::mem::take(&mut self.general);
        shown.extend(self.problems.iter().map(|problem| self.show(problem)));
        let count = shown.len();
        shown.truncate(MAX_SHOWN);
        if count > MAX_SHOWN {
            shown.push(format!("and {} more", count - MAX_SHOWN));
        }
        Err(shown.join("\n"))
    }

    /// As [`Report::into_result`], for whoever asked for the check.
    ///
    /// # Errors
    /// [`Error::Invalid`] with that text.
    pub fn into_invalid(self) -> Result<()> {
        self.into_result().map_err(Error::invalid)
    }

    fn show(&self, problem: &Problem) -> String {
        let position = self.lines.position(self.source, problem.range.start);
        let mut text =
            format!("{}:{}:{}: {}", self.label, position.line, position.column, problem.message);
        if let Some(excerpt) = self.lines.excerpt(self.source, &problem.range) {
            text.push('\n');
            text.push_str(&excerpt);
        }
        if !problem.hint.is_empty() {
            text.push_str(&format!("\n  hint: {}", problem.hint));
        }
        text
    }
}

/// Finds lines and columns.
#[derive(Debug)]
pub struct LineIndex {
    /// Byte offset at which each line starts.
    starts: Vec<usize>,
}

impl LineIndex {
    /// Finds where the lines of a source begin.
    pub fn new(source: &str) -> Self {
        let after_breaks = source.match_indices('\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// Line and column, counted from 1, of a byte offset.
    pub fn position(&self, source: &str, offset: usize) -> Position {
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let start = self.starts[line - 1];
        let before = source.get(start..offset).unwrap_or("");
        Position { line: line as u32, column: before.chars().count() as u32 + 1 }
    }

    /// Byte offset at which a line, counted from 1, starts.
    pub fn start(&self, line: u32) -> usize {
        let index = (line as usize).saturating_sub(1).min(self.starts.len() - 1);
        self.starts[index]
    }

    /// The text of a line, counted from 1.
    pub fn line<'s>(&self, source: &'s str, line: u32) -> &'s str {
        let index = (line as usize).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or(source.len());
        let end = self.starts.get(index + 1).copied().unwrap_or(source.len());
        source.get(start..end).unwrap_or("").trim_end_matches(['\r', '\n'])
    }

    /// The line where a stretch of source begins, with carets below it; `None` for lines that are
    /// too long to be shown.
    pub fn excerpt(&self, source: &str, range: &Range<usize>) -> Option<String> {
        let position = self.position(source, range.start);
        let line = self.line(source, position.line);
        if line.chars().count() > MAX_LINE_CHARS {
            return None;
        }
        let width = source.get(range.clone()).map_or(1, |text| {
            let first_line = text.lines().next().unwrap_or("");
            first_line.trim_end().chars().count().max(1)
        });
        // A tab stays a tab, so that the caret stands under its column.
        let ahead = line.chars().take(position.column as usize - 1);
        let indent: String = ahead.map(|c| if c == '\t' { c } else { ' ' }).collect();
        Some(format!("    {line}\n    {indent}{}", "^".repeat(width)))
    }
}

/// The candidate with the fewest edits from `name`, if that is few.
pub fn nearest<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // In names of one or two letters every other one would be near.
    let limit = match name.chars().count() {
        0..3 => return None,
        letters => letters / 3,
    };
    candidates
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The number of characters to add, drop or change.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let source = "a = 1\nb = 'ü' + f()\n";
        let lines = LineIndex::new(source);
        let offset = source.find("f()").unwrap();
        assert_eq!(lines.position(source, offset), Position { line: 2, column: 11 });
        assert_eq!(lines.position(source, 0), Position { line: 1, column: 1 });
        assert_eq!(lines.line(source, 2), "b = 'ü' + f()");
        assert_eq!(lines.line(source, 9), "");
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("fetch", "fetch"), 0);
        assert_eq!(edits("fetc", "fetch"), 1);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(nearest("fetc", ["patch", "fetch"].into_iter()), Some("fetch"));
        assert_eq!(nearest("x", ["yz"].into_iter()), None);
    }
}
