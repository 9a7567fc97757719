//! TOML.

use std::ops::Range;

use durable_core::report::Problem;
use toml::de::{DeInteger, DeTable, DeValue};

use super::{Key, MAX_DEPTH, Node, Tree, float, problem, too_deep};

pub(super) fn read(source: &str) -> Result<Node, Problem> {
    let table = DeTable::parse(source).map_err(|error| {
        let range = error.span().unwrap_or(0..0);
        problem(range, format!("this is not TOML: {}", error.message()), "")
    })?;
    fields(table.get_ref(), 0..source.len(), 0)
}

fn node(value: &DeValue<'_>, range: Range<usize>, depth: usize) -> Result<Node, Problem> {
    if depth > MAX_DEPTH {
        return Err(too_deep(range));
    }
    let tree = match value {
        DeValue::String(text) => Tree::Text(text.clone().into_owned()),
        DeValue::Boolean(value) => Tree::Bool(*value),
        DeValue::Integer(value) => Tree::Number(integer(value, &range)?),
        DeValue::Float(value) => {
            let value = value.as_str().parse().map_err(|_| {
                problem(range.clone(), "this number can't be read", "put it into quotes")
            })?;
            float(value, &range)?
        }
        // JSON has no dates: they are the text that is written.
        DeValue::Datetime(value) => Tree::Text(value.to_string()),
        DeValue::Array(items) => Tree::List(
            items
                .iter()
                .map(|item| node(item.get_ref(), item.span(), depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => return fields(table, range, depth),
    };
    Ok(Node { range, tree })
}

fn fields(table: &DeTable<'_>, range: Range<usize>, depth: usize) -> Result<Node, Problem> {
    let mut fields = Vec::with_capacity(table.len());
    for (key, value) in table {
        let name = Key { name: key.get_ref().clone().into_owned(), range: key.span() };
        fields.push((name, node(value.get_ref(), value.span(), depth + 1)?));
    }
    // The table gives them by name; as they were written is what its author expects.
    fields.sort_by_key(|(key, _)| key.range.start);
    Ok(Node { range, tree: Tree::Map(fields) })
}

fn integer(value: &DeInteger<'_>, range: &Range<usize>) -> Result<serde_json::Number, Problem> {
    i64::from_str_radix(value.as_str(), value.radix()).map(Into::into).map_err(|_| {
        problem(range.clone(), "this number has more than 64 bits", "put it into quotes")
    })
}
