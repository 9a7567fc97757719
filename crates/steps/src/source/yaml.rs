//! YAML: one document of the core schema, without anchors and tags.

use std::ops::Range;

use durable_core::report::Problem;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::{Key, MAX_DEPTH, Node, Tree, float, problem, too_deep};

pub(super) fn read(source: &str) -> Result<Node, Problem> {
    let mut reader =
        Reader { source, offsets: Offsets::new(source), parser: Parser::new_from_str(source) };
    let mut document = None;
    loop {
        let (event, range) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            _ if document.is_some() => {
                return Err(problem(range, "a second document begins here", "leave it out"));
            }
            event => document = Some(reader.node(event, range, 0)?),
        }
    }
    Ok(document.unwrap_or(Node { range: 0..0, tree: Tree::Null }))
}

struct Reader<'s> {
    source: &'s str,
    offsets: Offsets,
    parser: Parser<'s, StrInput<'s>>,
}

impl<'s> Reader<'s> {
    fn next(&mut self) -> Result<(Event<'s>, Range<usize>), Problem> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let range = self.range(span);
                Ok((event, range))
            }
            Some(Err(error)) => Err(self.refused(&error)),
            None => Ok((Event::StreamEnd, self.source.len()..self.source.len())),
        }
    }

    fn refused(&self, error: &ScanError) -> Problem {
        let at = self.offsets.byte(error.marker().index(), self.source.len());
        problem(at..at, format!("this is not YAML: {}", error.info()), "")
    }

    fn range(&self, span: Span) -> Range<usize> {
        let byte = |index| self.offsets.byte(index, self.source.len());
        let (start, end) = (byte(span.start.index()), byte(span.end.index()));
        let text = self.source.get(start..end.max(start)).unwrap_or("");
        start..start + text.trim_end().len()
    }

    fn node(
        &mut self,
        event: Event<'s>,
        range: Range<usize>,
        depth: usize,
    ) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(too_deep(range));
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(anchor, tag.is_some(), &range)?;
                let tree = if style == ScalarStyle::Plain {
                    plain(&text, &range)?
                } else {
                    Tree::Text(text.into_owned())
                };
                Ok(Node { range, tree })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(anchor, tag.is_some(), &range)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, end) => {
                            let range = range.start..end.end.max(range.end);
                            return Ok(Node { range, tree: Tree::List(items) });
                        }
                        (event, range) => items.push(self.node(event, range, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(anchor, tag.is_some(), &range)?;
                let mut fields = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, end) => {
                            let range = range.start..end.end.max(range.end);
                            return Ok(Node { range, tree: Tree::Map(fields) });
                        }
                        (event, range) => self.key(event, range)?,
                    };
                    let (event, range) = self.next()?;
                    fields.push((key, self.node(event, range, depth + 1)?));
                }
            }
            Event::Alias(_) => Err(no_anchors(range)),
            _ => Err(problem(range, "a value is missing here", "")),
        }
    }

    fn key(&self, event: Event<'s>, range: Range<usize>) -> Result<Key, Problem> {
        match event {
            Event::Scalar(name, _, anchor, tag) => {
                self.refuse_extras(anchor, tag.is_some(), &range)?;
                Ok(Key { name: name.into_owned(), range })
            }
            Event::Alias(_) => Err(no_anchors(range)),
            _ => Err(problem(range, "the name of a value has to be text", "")),
        }
    }

    fn refuse_extras(
        &self,
        anchor: usize,
        has_tag: bool,
        range: &Range<usize>,
    ) -> Result<(), Problem> {
        if anchor != 0 {
            return Err(no_anchors(range.clone()));
        }
        if has_tag {
            let hint = "put text into quotes, and write everything else plainly";
            return Err(problem(range.clone(), "tags (`!name`) are not read here", hint));
        }
        Ok(())
    }
}

fn no_anchors(range: Range<usize>) -> Problem {
    problem(range, "anchors and aliases (`&name`, `*name`) are not read here", "write it out")
}

/// A scalar without quotes, by YAML's core schema.
fn plain(text: &str, range: &Range<usize>) -> Result<Tree, Problem> {
    let tree = match text {
        "" | "~" | "null" | "Null" | "NULL" => Tree::Null,
        "true" | "True" | "TRUE" => Tree::Bool(true),
        "false" | "False" | "FALSE" => Tree::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return float(f64::NAN, range);
        }
        other => match number(other, range)? {
            Some(tree) => tree,
            None => Tree::Text(other.to_owned()),
        },
    };
    Ok(tree)
}

fn number(text: &str, range: &Range<usize>) -> Result<Option<Tree>, Problem> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let based = [("0x", 16), ("0o", 8)]
        .into_iter()
        .find_map(|(prefix, radix)| u64::from_str_radix(text.strip_prefix(prefix)?, radix).ok());
    if let Some(based) = based {
        return Ok(Some(Tree::Number(based.into())));
    }
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_digits(unsigned) {
        return match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(whole), _) => Ok(Some(Tree::Number(whole.into()))),
            (_, Ok(whole)) => Ok(Some(Tree::Number(whole.into()))),
            _ => {
                let hint = "put it into quotes";
                Err(problem(range.clone(), "this number has more than 64 bits", hint))
            }
        };
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let is_float = (is_digits(whole) || whole.is_empty() && is_digits(fraction))
        && (fraction.is_empty() || is_digits(fraction))
        && exponent.is_none_or(|text| is_digits(text.strip_prefix(['-', '+']).unwrap_or(text)));
    match text.parse::<f64>() {
        Ok(value) if is_float => float(value, range).map(Some),
        _ => Ok(None),
    }
}

/// Bytes of characters: the parser counts these.
struct Offsets(Option<Vec<usize>>);

impl Offsets {
    fn new(source: &str) -> Self {
        Self((!source.is_ascii()).then(|| source.char_indices().map(|(at, _)| at).collect()))
    }

    fn byte(&self, index: usize, end: usize) -> usize {
        match &self.0 {
            None => index.min(end),
            Some(offsets) => offsets.get(index).copied().unwrap_or(end),
        }
    }
}
