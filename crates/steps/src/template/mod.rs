//! Templates: values of a definition in which `{{ expressions }}` stand.
//!
//! What surrounds the expressions is put together here; what stands in them is evaluated by
//! minijinja. A definition may come from anybody, so an expression has no statements, a short list
//! of filters, and nothing that makes much out of little: see the module `language`.

mod filters;
mod language;

use std::{collections::BTreeMap, ops::Range};

use minijinja::{Value, context};

pub(crate) use language::{Expression, Root, located};

use crate::source::{Node, Tree};

/// What the value of an expression may depend on.
pub(crate) trait Scope {
    /// The inputs of the execution.
    fn inputs(&self) -> Known<'_>;
    /// What a step came to; `None` as long as it has not ended.
    fn step(&self, step: &str) -> Option<Known<'_>>;
    /// Inside of a `foreach`: the item, and its number from 0.
    fn item(&self) -> Option<(Known<'_>, usize)>;
}

/// A value, and how long its JSON is.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) value: &'a Value,
    pub(crate) bytes: usize,
}

/// A value that is filled in for each execution.
#[derive(Debug)]
pub(crate) enum Template {
    /// The same for all of them, as JSON.
    Fixed(String),
    /// One expression and nothing else: what it gives keeps its type.
    Value(Expression),
    /// Text with expressions in it.
    Text(Vec<Part>),
    /// A list.
    List(Vec<Template>),
    /// A mapping; the names are fixed, and JSON.
    Map(Vec<(String, Template)>),
}

/// A piece of a text.
#[derive(Debug)]
pub(crate) enum Part {
    Fixed(String),
    Value(Expression),
}

/// Something wrong with a template, and where in the source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    pub(crate) range: Range<usize>,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Template {
    /// Reads a value; what is wrong with it is added to `faults`.
    pub(crate) fn read(source: &str, node: &Node, faults: &mut Vec<Fault>) -> Self {
        match &node.tree {
            Tree::Null => Self::Fixed("null".to_owned()),
            Tree::Bool(value) => Self::Fixed(value.to_string()),
            Tree::Number(number) => Self::Fixed(number.to_string()),
            Tree::Text(text) => Self::text(source, node, text, faults),
            Tree::List(items) => {
                let items: Vec<_> =
                    items.iter().map(|item| Self::read(source, item, faults)).collect();
                Self::List(items).settled()
            }
            Tree::Map(fields) => {
                let field = |(key, value): &(crate::source::Key, Node)| {
                    (quoted(&key.name), Self::read(source, value, faults))
                };
                Self::Map(fields.iter().map(field).collect()).settled()
            }
        }
    }

    fn text(source: &str, node: &Node, text: &str, faults: &mut Vec<Fault>) -> Self {
        let parts = match language::split(source, node, text) {
            Ok(parts) => parts,
            Err(found) => {
                faults.extend(found);
                return Self::Fixed("null".to_owned());
            }
        };
        let is_alone = |part: &Part| match part {
            Part::Fixed(text) => text.trim().is_empty(),
            Part::Value(_) => true,
        };
        let expressions = parts.iter().filter(|part| matches!(part, Part::Value(_))).count();
        if expressions == 0 {
            return Self::Fixed(quoted(text));
        }
        if expressions == 1 && parts.iter().all(is_alone) {
            let alone = parts.into_iter().find_map(|part| match part {
                Part::Value(expression) => Some(Self::Value(expression)),
                Part::Fixed(_) => None,
            });
            return alone.unwrap_or_else(|| Self::Fixed("null".to_owned()));
        }
        Self::Text(parts)
    }

    /// What has nothing to fill in becomes its JSON.
    fn settled(self) -> Self {
        let is_fixed = match &self {
            Self::List(items) => items.iter().all(|item| matches!(item, Self::Fixed(_))),
            Self::Map(fields) => fields.iter().all(|(_, field)| matches!(field, Self::Fixed(_))),
            Self::Fixed(_) | Self::Value(_) | Self::Text(_) => false,
        };
        let mut out = Out::new(usize::MAX);
        if is_fixed && self.render(&Nothing, &mut out).is_ok() {
            return Self::Fixed(out.text);
        }
        self
    }

    /// All expressions in it.
    pub(crate) fn expressions(&self) -> Vec<&Expression> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Value(expression) => vec![expression],
            Self::Text(parts) => parts
                .iter()
                .filter_map(|part| match part {
                    Part::Value(expression) => Some(expression),
                    Part::Fixed(_) => None,
                })
                .collect(),
            Self::List(items) => items.iter().flat_map(Self::expressions).collect(),
            Self::Map(fields) => fields.iter().flat_map(|(_, field)| field.expressions()).collect(),
        }
    }

    /// Writes it as JSON, with everything filled in.
    ///
    /// # Errors
    /// What an expression failed of.
    pub(crate) fn render(&self, scope: &dyn Scope, out: &mut Out) -> Result<(), Fault> {
        match self {
            Self::Fixed(json) => out.push(json),
            Self::Value(expression) => {
                let value = expression.evaluate(scope)?;
                out.value(&value, expression)?;
            }
            Self::Text(parts) => {
                let mut text = Out::new(out.room());
                for part in parts {
                    match part {
                        Part::Fixed(fixed) => text.push(fixed),
                        Part::Value(expression) => {
                            let value = expression.evaluate(scope)?;
                            match value.as_str() {
                                Some(plain) => text.push(plain),
                                None => text.value(&value, expression)?,
                            }
                        }
                    }
                }
                out.is_full |= text.is_full;
                out.push(&quoted(&text.text));
            }
            Self::List(items) => {
                out.push("[");
                for (index, item) in items.iter().enumerate() {
                    out.push(if index == 0 { "" } else { "," });
                    item.render(scope, out)?;
                }
                out.push("]");
            }
            Self::Map(fields) => {
                out.push("{");
                for (index, (name, field)) in fields.iter().enumerate() {
                    out.push(if index == 0 { "" } else { "," });
                    out.push(name);
                    out.push(":");
                    field.render(scope, out)?;
                }
                out.push("}");
            }
        }
        Ok(())
    }
}

/// Text as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// JSON that is being written, up to a limit.
pub(crate) struct Out {
    pub(crate) text: String,
    max_bytes: usize,
    /// Whether something had no room.
    pub(crate) is_full: bool,
}

impl Out {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), max_bytes, is_full: false }
    }

    fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.text.len())
    }

    pub(crate) fn push(&mut self, text: &str) {
        if text.len() > self.room() {
            self.is_full = true;
        } else if !self.is_full {
            self.text.push_str(text);
        }
    }

    fn value(&mut self, value: &Value, expression: &Expression) -> Result<(), Fault> {
        let room = self.room();
        match language::json(value, room) {
            Ok(Some(json)) => self.push(&json),
            Ok(None) => self.is_full = true,
            Err(why) => return Err(expression.fault(why)),
        }
        Ok(())
    }
}

/// There is nothing to refer to.
struct Nothing;

impl Scope for Nothing {
    fn inputs(&self) -> Known<'_> {
        Known { value: &Value::UNDEFINED, bytes: 0 }
    }

    fn step(&self, _: &str) -> Option<Known<'_>> {
        None
    }

    fn item(&self) -> Option<(Known<'_>, usize)> {
        None
    }
}

/// What an expression sees, and how long the JSON of all of it is.
fn seen(roots: &[Root], scope: &dyn Scope) -> (Value, usize) {
    let mut bytes = 0;
    let mut steps = BTreeMap::new();
    let mut inputs = Value::UNDEFINED;
    let (mut item, mut index) = (Value::UNDEFINED, Value::UNDEFINED);
    let mut take = |known: Known<'_>| {
        bytes += known.bytes;
        known.value.clone()
    };
    for root in roots {
        match root {
            Root::Inputs(_) if inputs.is_undefined() => inputs = take(scope.inputs()),
            Root::Inputs(_) => {}
            Root::Step(name) => {
                if let Some(known) = scope.step(name) {
                    steps.insert(name.clone(), take(known));
                }
            }
            Root::Item => {
                if let Some((known, number)) = scope.item() {
                    (item, index) = (take(known), Value::from(number));
                }
            }
        }
    }
    (context! { inputs, steps, item, index }, bytes)
}

#[cfg(test)]
mod tests;
