//! The language of expressions: minijinja's, without what could make much out of little.
//!
//! - There are no statements, no functions, no `~` and no `*`: text is put together around
//!   expressions, where its length is watched.
//! - Filters that make text ask for text and watch its length. Were anything written out first,
//!   as minijinja's own do, quotes within quotes would double at each turn.
//! - How long an expression may be, how many steps it may take, and how many operations on how
//!   much data, is bounded.

use std::{collections::BTreeSet, io, ops::Range, sync::LazyLock};

use durable_core::report::nearest;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::{
    Fault, Part, Scope,
    filters::{FILTERS, language},
    seen,
};
use crate::source::Node;

/// Longest expression.
const MAX_EXPRESSION_BYTES: usize = 4 << 10;

/// Most bytes that the operations of one evaluation may go over, each over all it refers to.
const MAX_WORK_BYTES: usize = 64 << 20;

static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(|| language(MAX_INSTRUCTIONS));

/// Most instructions of one evaluation.
const MAX_INSTRUCTIONS: u64 = 10_000;

/// An expression, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Expression {
    compiled: minijinja::Expression<'static, 'static>,
    /// Where it stands in the definition.
    pub(crate) range: Range<usize>,
    /// What it refers to.
    pub(crate) roots: Vec<Root>,
    /// Whether it says what is to be done without something.
    pub(crate) minds_undefined: bool,
    operations: usize,
}

/// What an expression can refer to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Root {
    /// One input, or all of them.
    Inputs(Option<String>),
    /// What a step came to.
    Step(String),
    /// The item of a `foreach`, or its index.
    Item,
}

impl Expression {
    /// Reads an expression.
    pub(crate) fn read(text: &str, range: Range<usize>) -> Result<Self, Vec<Fault>> {
        let fault = |message: String, hint: &str| {
            vec![Fault { range: range.clone(), message, hint: hint.to_owned() }]
        };
        if text.len() > MAX_EXPRESSION_BYTES {
            let limit = format!("this expression is longer than {MAX_EXPRESSION_BYTES} bytes");
            return Err(fault(limit, "let an agent do it"));
        }
        let operations = scan(text).map_err(|(message, hint)| fault(message, &hint))?;
        let compiled = LANGUAGE.compile_expression_owned(text.to_owned()).map_err(|error| {
            let why = error.detail().unwrap_or("it can't be read");
            fault(format!("this expression is not understood: {why}"), "")
        })?;
        let mut roots = BTreeSet::new();
        for path in compiled.undeclared_variables(true) {
            roots.insert(root(&path).map_err(|(message, hint)| fault(message, &hint))?);
        }
        let words: Vec<_> = words(text).collect();
        let minds_undefined = words.iter().any(|word| matches!(*word, "default" | "d" | "defined"));
        let roots = roots.into_iter().collect();
        Ok(Self { compiled, range, roots, minds_undefined, operations })
    }

    /// Its value.
    ///
    /// # Errors
    /// Why it has none.
    pub(crate) fn evaluate(&self, scope: &dyn Scope) -> Result<Value, Fault> {
        let (context, bytes) = seen(&self.roots, scope);
        if self.operations.saturating_mul(bytes) > MAX_WORK_BYTES {
            return Err(self.fault(format!(
                "this expression does {} operations on {bytes} bytes, more than {MAX_WORK_BYTES} \
                 bytes in all",
                self.operations
            )));
        }
        let value = self.compiled.eval(context).map_err(|error| self.fault(why(&error)))?;
        if value.is_undefined() {
            return Err(self.fault("this is undefined".to_owned()));
        }
        Ok(value)
    }

    pub(crate) fn fault(&self, message: String) -> Fault {
        Fault { range: self.range.clone(), message, hint: String::new() }
    }
}

fn why(error: &Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, _) => "something in this is undefined".to_owned(),
        (ErrorKind::OutOfFuel, _) => {
            format!("this expression takes more than {MAX_INSTRUCTIONS} instructions")
        }
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// What a path such as `steps.a.summary` begins with.
fn root(path: &str) -> Result<Root, (String, String)> {
    let mut names = path.split('.');
    let (first, second) = (names.next().unwrap_or(path), names.next());
    match (first, second) {
        ("inputs", name) => Ok(Root::Inputs(name.map(str::to_owned))),
        ("steps", Some(step)) => Ok(Root::Step(step.to_owned())),
        ("steps", None) => {
            let message = "this does not name a step".to_owned();
            Err((message, "write steps.NAME".to_owned()))
        }
        ("item" | "index", _) => Ok(Root::Item),
        _ => {
            let known = ["inputs", "steps", "item", "index"];
            let hint = match nearest(first, known.into_iter()) {
                Some(nearest) => format!("did you mean '{nearest}'?"),
                None => "an expression sees inputs.NAME and steps.NAME".to_owned(),
            };
            Err((format!("there is no '{first}'"), hint))
        }
    }
}

/// Cuts text at its expressions.
pub(super) fn split(source: &str, node: &Node, text: &str) -> Result<Vec<Part>, Vec<Fault>> {
    let mut parts = Vec::new();
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        let (before, from) = rest.split_at(open);
        let Some(length) = length(&from[2..]) else {
            let fault = located(source, node, from.lines().next().unwrap_or(from));
            let message = "this expression has no end".to_owned();
            faults.push(Fault { range: fault, message, hint: "write {{ … }}".to_owned() });
            break;
        };
        parts.push(Part::Fixed(before.to_owned()));
        let inside = from[2..2 + length].trim();
        match Expression::read(inside, located(source, node, inside)) {
            Ok(expression) => parts.push(Part::Value(expression)),
            Err(found) => faults.extend(found),
        }
        rest = &from[2 + length + 2..];
    }
    for (part, what) in [("{%", "statements"), ("{#", "comments")] {
        let is_fixed = |piece: &Part| matches!(piece, Part::Fixed(text) if text.contains(part));
        if parts.iter().any(is_fixed) || rest.contains(part) && faults.is_empty() {
            faults.push(Fault {
                range: located(source, node, part),
                message: format!("there are no {what} ({part}) in templates"),
                hint: "write expressions only: {{ … }}".to_owned(),
            });
        }
    }
    parts.push(Part::Fixed(rest.to_owned()));
    if faults.is_empty() { Ok(parts) } else { Err(faults) }
}

/// Where a piece of a text stands in the source, if it is written there as it is.
pub(crate) fn located(source: &str, node: &Node, piece: &str) -> Range<usize> {
    let written = source.get(node.range.clone()).unwrap_or("");
    match written.find(piece) {
        Some(at) if !piece.is_empty() => {
            let start = node.range.start + at;
            start..start + piece.len()
        }
        _ => node.range.clone(),
    }
}

/// How long an expression is that ends with `}}`.
fn length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => at = end_of_quotes(bytes, at),
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the quotes end that begin at `at`.
fn end_of_quotes(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&byte) = bytes.get(end) {
        match byte {
            b'\\' => end += 1,
            _ if byte == bytes[at] => return end,
            _ => {}
        }
        end += 1;
    }
    end
}

/// The words of an expression that stand outside of quotes.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut outside = Vec::new();
    let (bytes, mut start, mut at) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        if matches!(bytes[at], b'"' | b'\'') {
            outside.push(text.get(start..at).unwrap_or(""));
            at = end_of_quotes(bytes, at);
            start = (at + 1).min(bytes.len());
        }
        at += 1;
    }
    outside.push(text.get(start..).unwrap_or(""));
    let is_part_of_a_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    outside
        .into_iter()
        .flat_map(move |piece| piece.split(move |letter| !is_part_of_a_word(letter)))
        .filter(|word| !word.is_empty())
}

/// Refuses what there is no such thing of, and counts the operations.
fn scan(text: &str) -> Result<usize, (String, String)> {
    let bytes = text.as_bytes();
    let (mut at, mut operations) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => at = end_of_quotes(bytes, at),
            b'~' => {
                let hint = "write the values side by side: {{ a }}{{ b }}";
                return Err(("there is no ~ in expressions".to_owned(), hint.to_owned()));
            }
            b'*' => {
                let hint = "let an agent do it".to_owned();
                return Err(("there is no multiplication in expressions".to_owned(), hint));
            }
            b'|' => {
                operations += 1;
                let name = text.get(at + 1..).and_then(|rest| words(rest).next()).unwrap_or("");
                if !FILTERS.contains(&name) {
                    let hint = match nearest(name, FILTERS.into_iter()) {
                        Some(nearest) => format!("did you mean '{nearest}'?"),
                        None => format!("there are {}", FILTERS.join(", ")),
                    };
                    return Err((format!("there is no filter '{name}'"), hint));
                }
            }
            b'+' | b'[' | b'(' | b'{' | b'=' | b'<' | b'>' | b'!' => operations += 1,
            _ => {}
        }
        at += 1;
    }
    operations += words(text).filter(|word| matches!(*word, "in" | "is")).count();
    Ok(operations)
}

/// A value as JSON; `None` when that takes more than `max_bytes`.
///
/// # Errors
/// Why it has no JSON form.
pub(super) fn json(value: &Value, max_bytes: usize) -> Result<Option<String>, String> {
    let mut bounded = Bounded { bytes: Vec::new(), max_bytes, is_full: false };
    match serde_json::to_writer(&mut bounded, value) {
        Ok(()) => String::from_utf8(bounded.bytes).map(Some).map_err(|error| error.to_string()),
        Err(_) if bounded.is_full => Ok(None),
        Err(error) => Err(format!("this has no JSON form: {error}")),
    }
}

struct Bounded {
    bytes: Vec<u8>,
    max_bytes: usize,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max_bytes {
            self.is_full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
