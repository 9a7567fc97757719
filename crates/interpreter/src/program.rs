//! A program as a worker keeps it: its definition, compiled once.

use durable_core::{Definition, Language, Position, report::LineIndex};
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

    /// Whether it is fed piece by piece.
    pub(crate) fn is_session(&self) -> bool {
        self.definition.language == Language::Session
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
