//! A definition's text as a tree in which everything knows where it stands.

mod json;
mod toml;
mod yaml;

use std::ops::Range;

use durable_core::{Language, report::Problem};

/// Deepest nesting of a definition.
const MAX_DEPTH: usize = 64;

/// A value in a definition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Where it stands: bytes of the source.
    pub(crate) range: Range<usize>,
    pub(crate) tree: Tree,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// The name of a value in a map.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) range: Range<usize>,
}

impl Node {
    /// What it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self.tree {
            Tree::Null => "nothing",
            Tree::Bool(_) => "true or false",
            Tree::Number(_) => "a number",
            Tree::Text(_) => "text",
            Tree::List(_) => "a list",
            Tree::Map(_) => "a mapping",
        }
    }
}

/// Reads a definition.
///
/// # Errors
/// The first thing in it that is not of its language.
pub(crate) fn read(language: Language, source: &str) -> Result<Node, Problem> {
    let node = match language {
        Language::Yaml | Language::Python | Language::Session => yaml::read(source),
        Language::Toml => toml::read(source),
        Language::Json => json::read(source),
    }?;
    refuse_repeated(&node)?;
    Ok(node)
}

fn refuse_repeated(node: &Node) -> Result<(), Problem> {
    match &node.tree {
        Tree::List(items) => items.iter().try_for_each(refuse_repeated),
        Tree::Map(fields) => {
            let mut seen = std::collections::BTreeSet::new();
            for (key, value) in fields {
                if !seen.insert(&key.name) {
                    let message = format!("'{}' is given twice", key.name);
                    return Err(problem(key.range.clone(), message, "leave one of them out"));
                }
                refuse_repeated(value)?;
            }
            Ok(())
        }
        Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::Text(_) => Ok(()),
    }
}

fn problem(range: Range<usize>, message: impl Into<String>, hint: &str) -> Problem {
    Problem { range, message: message.into(), hint: hint.to_owned() }
}

fn too_deep(range: Range<usize>) -> Problem {
    problem(range, format!("this is nested more than {MAX_DEPTH} levels deep"), "")
}

/// A float as a number; there is none for infinity and what is no number.
fn float(value: f64, range: &Range<usize>) -> Result<Tree, Problem> {
    serde_json::Number::from_f64(value).map(Tree::Number).ok_or_else(|| {
        let hint = "write it as text if that is what is meant";
        problem(range.clone(), "this number can't be written as JSON", hint)
    })
}

#[cfg(test)]
mod tests;
