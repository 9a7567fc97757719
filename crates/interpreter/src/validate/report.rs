//! Problems, and how they are shown.

use monty_types::CodeLoc;
use ruff_text_size::{TextRange, TextSize};

use crate::program::{LineIndex, SCRIPT_NAME};

/// Most problems that are shown.
const MAX_SHOWN: usize = 10;

/// Longest source line that is shown in full.
const MAX_LINE_CHARS: usize = 160;

/// Something wrong at a place.
pub(super) struct Problem {
    pub(super) range: TextRange,
    pub(super) message: String,
    /// What to do; may be empty.
    pub(super) hint: String,
}

/// The problems of one program.
pub(super) struct Report<'s> {
    source: &'s str,
    lines: LineIndex,
    problems: Vec<Problem>,
    general: Vec<String>,
}

impl<'s> Report<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        let lines = LineIndex::new(source);
        Self { source, lines, problems: Vec::new(), general: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty() && self.general.is_empty()
    }

    pub(super) fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Adds a problem that has no place in the source.
    pub(super) fn add_general(&mut self, message: String) {
        self.general.push(message);
    }

    /// Adds a problem between two places given by line and column.
    pub(super) fn add_at(&mut self, start: CodeLoc, end: CodeLoc, message: String) {
        let offset = |place: CodeLoc| {
            let start = self.lines.start(place.line);
            let line = self.source.get(start..).unwrap_or("");
            let ahead = line.chars().take(place.column.saturating_sub(1) as usize);
            TextSize::try_from(start + ahead.map(char::len_utf8).sum::<usize>()).unwrap_or_default()
        };
        let (start, end) = (offset(start), offset(end));
        let range = TextRange::new(start, end.max(start));
        self.add(Problem { range, message, hint: String::new() });
    }

    /// All problems as one text, in the order of the source.
    pub(super) fn into_result(mut self) -> Result<(), String> {
        if self.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| (problem.range.start(), problem.range.end()));
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

    fn show(&self, problem: &Problem) -> String {
        let start = usize::from(problem.range.start());
        let end = usize::from(problem.range.end());
        let position = self.lines.position(self.source, start);
        let line = self.lines.line(self.source, position.line);
        let width = self.source.get(start..end).map_or(1, |text| {
            let first_line = text.lines().next().unwrap_or("");
            first_line.chars().count().max(1)
        });
        let mut text =
            format!("{SCRIPT_NAME}:{}:{}: {}", position.line, position.column, problem.message);
        let column = position.column as usize - 1;
        if line.chars().count() <= MAX_LINE_CHARS {
            // A tab stays a tab, so that the caret stands under its column.
            let indent: String =
                line.chars().take(column).map(|c| if c == '\t' { c } else { ' ' }).collect();
            let carets = "^".repeat(width);
            text.push_str(&format!("\n    {line}\n    {indent}{carets}"));
        }
        if !problem.hint.is_empty() {
            text.push_str(&format!("\n  hint: {}", problem.hint));
        }
        text
    }
}
