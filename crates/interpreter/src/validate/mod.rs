//! Checks a program before anything of it is stored, and says what to do about what it finds.
//!
//! The checks accept every program that could work: a problem is reported only where running
//! into it is certain, or where the sandbox would refuse the source anyway.
//!
//! | module | what it finds |
//! |---|---|
//! | `constructs` | Python that the sandbox doesn't know, and what to write instead |
//! | `names` | functions that are called but neither declared nor defined |
//! | `awaits` | calls whose result is never awaited |

mod awaits;
mod bindings;
mod constructs;
mod names;

use std::collections::HashSet;

use durable_core::{
    Definition, Language, Position, Request,
    report::{Problem, Report},
};
use monty::{MontyRun, RunProgress};
use monty_types::{
    CodeLoc, CompileOptions, MontyException, PrintWriter, ResourceLimits, ResourceTracker,
};
use ruff_python_ast::ModModule;
use ruff_python_parser::parse_module;
use ruff_text_size::Ranged as _;

use crate::program;
use bindings::Bindings;

/// Checks a program.
///
/// # Errors
/// The problems as one text, each with line and column, the line with a caret, and a hint.
pub(crate) fn check(definition: &Definition) -> Result<(), String> {
    let source = &definition.source;
    let mut report = Report::new(program::SCRIPT_NAME, source);
    check_declarations(definition, &mut report);
    if definition.language == Language::Session {
        if !source.is_empty() {
            report.add_general("a session has no source: its code comes in feeds".to_owned());
        }
        return report.into_result();
    }
    // First, because it knows how deep the source is nested: the walks below recurse.
    let compiled = program::compile(definition);
    if let Err(error) = &compiled
        && error.message().is_some_and(|message| message.contains("too deeply nested"))
    {
        report_exception(error, &mut report);
        return report.into_result();
    }
    match parse_module(source) {
        Ok(parsed) => check_module(parsed.syntax(), definition, &mut report),
        Err(error) => report.add(Problem {
            range: error.range().into(),
            message: format!("syntax error: {}", error.error),
            hint: String::new(),
        }),
    }
    // What the walks explain better need not be said twice.
    if let Err(error) = &compiled
        && report.is_empty()
    {
        report_exception(error, &mut report);
    }
    report.into_result()
}

fn check_module(module: &ModModule, definition: &Definition, report: &mut Report<'_>) {
    let bindings = Bindings::of(module);
    constructs::check(module, &bindings, report);
    names::check(module, definition, &bindings, report);
    awaits::check(module, definition, &bindings, report);
}

fn check_declarations(definition: &Definition, report: &mut Report<'_>) {
    let mut seen = HashSet::new();
    let functions = definition.functions.keys().map(|name| ("function", name));
    let inputs = definition.inputs.iter().map(|name| ("input", name));
    for (kind, name) in functions.chain(inputs) {
        let what = if Request::is_feed_name(name) {
            "has a name that is kept for sessions"
        } else if !is_identifier(name) {
            "is not a Python name"
        } else if is_builtin(name) {
            "is declared but has the name of a builtin, which the program would get instead"
        } else if !seen.insert(name) {
            "is declared twice"
        } else {
            continue;
        };
        report.add_general(format!("the {kind} '{name}' {what}: give it another name"));
    }
}

fn is_identifier(name: &str) -> bool {
    let parsed = ruff_python_parser::parse_expression(name);
    parsed.is_ok_and(|parsed| parsed.expr().is_name_expr())
        && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Whether the interpreter itself knows a name. It is asked, so that there is no second list.
fn is_builtin(name: &str) -> bool {
    let Ok(run) =
        MontyRun::new(name.to_owned(), program::SCRIPT_NAME, Vec::new(), CompileOptions::default())
    else {
        return true;
    };
    let tracker = ResourceTracker::new(ResourceLimits::default());
    !matches!(
        run.start(Vec::new(), tracker, PrintWriter::Disabled),
        Ok(RunProgress::NameLookup(_) | RunProgress::FunctionCall(_))
    )
}

fn report_exception(error: &MontyException, report: &mut Report<'_>) {
    let message = format!("{}: {}", error.exc_type(), error.message().unwrap_or(""));
    match error.traceback().last() {
        Some(frame) => report.add_at(position(frame.start), position(frame.end), message),
        None => report.add_general(message),
    }
}

fn position(place: CodeLoc) -> Position {
    Position { line: place.line, column: place.column }
}

#[cfg(test)]
mod tests;
