//! JSON. serde_json says what is valid; here only the places are found.

use std::ops::Range;

use durable_core::{
    Position,
    report::{LineIndex, Problem},
};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Key, MAX_DEPTH, Node, Tree, problem, too_deep};

pub(super) fn read(source: &str) -> Result<Node, Problem> {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(source) {
        let place = Position { line: error.line() as u32, column: error.column() as u32 };
        // It counts bytes, and from 0 at the end of a line.
        let start = LineIndex::new(source).start(place.line);
        let at = (start + (place.column as usize).saturating_sub(1)).min(source.len());
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        return Err(problem(at..at, format!("this is not JSON: {what}"), ""));
    }
    let mut reader = Reader { source, at: 0 };
    reader.node(0)
}

/// Walks over text that is known to be JSON.
struct Reader<'s> {
    source: &'s str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> u8 {
        let bytes = self.source.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Passes over a byte if it is the next one.
    fn passes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == byte;
        self.at += usize::from(is_next);
        is_next
    }

    fn node(&mut self, depth: usize) -> Result<Node, Problem> {
        let first = self.peek();
        let start = self.at;
        if depth > MAX_DEPTH {
            return Err(too_deep(start..start));
        }
        let tree = match first {
            b'{' => {
                self.at += 1;
                let mut fields = Vec::new();
                while !self.passes(b'}') {
                    self.peek();
                    let range = self.scalar();
                    let name = self.value::<String>(&range)?;
                    self.passes(b':');
                    fields.push((Key { name, range }, self.node(depth + 1)?));
                    self.passes(b',');
                }
                Tree::Map(fields)
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.passes(b']') {
                    items.push(self.node(depth + 1)?);
                    self.passes(b',');
                }
                Tree::List(items)
            }
            _ => {
                let range = self.scalar();
                match self.value::<serde_json::Value>(&range)? {
                    serde_json::Value::String(text) => Tree::Text(text),
                    serde_json::Value::Number(number) => Tree::Number(number),
                    serde_json::Value::Bool(value) => Tree::Bool(value),
                    _ => Tree::Null,
                }
            }
        };
        Ok(Node { range: start..self.at, tree })
    }

    /// Passes over a text, a number or a word.
    fn scalar(&mut self) -> Range<usize> {
        let (bytes, start) = (self.source.as_bytes(), self.at);
        if bytes.get(start) == Some(&b'"') {
            self.at += 1;
            while let Some(&byte) = bytes.get(self.at) {
                self.at += 1;
                match byte {
                    b'\\' => self.at += 1,
                    b'"' => break,
                    _ => {}
                }
            }
        } else {
            let is_inside = |byte: &u8| {
                !matches!(byte, b',' | b']' | b'}' | b':') && !byte.is_ascii_whitespace()
            };
            while bytes.get(self.at).is_some_and(is_inside) {
                self.at += 1;
            }
        }
        // Of text that is JSON something is always passed over; of other text this must end too.
        self.at = self.at.clamp(start + 1, bytes.len().max(start + 1));
        start..self.at.min(bytes.len())
    }

    fn value<T: DeserializeOwned>(&self, range: &Range<usize>) -> Result<T, Problem> {
        let text = self.source.get(range.clone()).unwrap_or("");
        serde_json::from_str(text)
            .map_err(|error| problem(range.clone(), format!("this is not JSON: {error}"), ""))
    }
}
