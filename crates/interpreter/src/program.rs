//! A program as a worker keeps it: its definition, compiled once.

use durable_core::{Definition, Position};
use monty::MontyRun;
use monty_types::{CompileOptions, MontyException, SourceRange};

use crate::dictionary::Dictionary;

/// What the source is called in tracebacks and messages.
pub(crate) const SCRIPT_NAME: &str = "workflow.py";

/// A program, its compiled form and its dictionary.
pub(crate) struct LoadedProgram {
    pub(crate) definition: Definition,
    pub(crate) dictionary: Option<Dictionary>,
    compiled: Option<MontyRun>,
    lines: LineIndex,
}

impl LoadedProgram {
    pub(crate) fn new(definition: Definition) -> Self {
        let lines = LineIndex::new(&definition.source);
        Self { definition, dictionary: None, compiled: None, lines }
    }

    /// The program ready to be started; compiled at the first call.
    ///
    /// # Errors
    /// The syntax error.
    pub(crate) fn compiled(&mut self) -> Result<MontyRun, MontyException> {
        if let Some(compiled) = &self.compiled {
            return Ok(compiled.clone());
        }
        let compiled = compile(&self.definition)?;
        self.compiled = Some(compiled.clone());
        Ok(compiled)
    }

    /// Where in the source a suspension happened. Code made by `exec` has no place of its own
    /// and counts as the first line.
    pub(crate) fn position(&self, range: &SourceRange) -> Position {
        if range.filename != SCRIPT_NAME {
            return Position { line: 1, column: 1 };
        }
        self.position_at(range.start as usize)
    }

    /// Line and column of a byte offset.
    pub(crate) fn position_at(&self, offset: usize) -> Position {
        self.lines.position(&self.definition.source, offset)
    }
}

/// Parses and compiles a definition's source.
///
/// # Errors
/// The syntax error.
pub(crate) fn compile(definition: &Definition) -> Result<MontyRun, MontyException> {
    MontyRun::new(
        definition.source.clone(),
        SCRIPT_NAME,
        definition.inputs.clone(),
        CompileOptions::default(),
    )
}

/// Finds lines and columns.
pub(crate) struct LineIndex {
    /// Byte offset at which each line starts.
    starts: Vec<usize>,
}

impl LineIndex {
    pub(crate) fn new(source: &str) -> Self {
        let after_breaks = source.match_indices('\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// Line and column, counted from 1, of a byte offset.
    pub(crate) fn position(&self, source: &str, offset: usize) -> Position {
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let start = self.starts[line - 1];
        let before = source.get(start..offset).unwrap_or("");
        Position { line: line as u32, column: before.chars().count() as u32 + 1 }
    }

    /// Byte offset at which a line, counted from 1, starts.
    pub(crate) fn start(&self, line: u32) -> usize {
        let index = (line as usize).saturating_sub(1).min(self.starts.len() - 1);
        self.starts[index]
    }

    /// The text of a line, counted from 1.
    pub(crate) fn line<'s>(&self, source: &'s str, line: u32) -> &'s str {
        let index = (line as usize).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or(source.len());
        let end = self.starts.get(index + 1).copied().unwrap_or(source.len());
        source.get(start..end).unwrap_or("").trim_end_matches(['\r', '\n'])
    }
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
}
