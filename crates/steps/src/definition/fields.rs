//! The values of a mapping, each taken once by its name.

use std::collections::BTreeMap;

use durable_core::report::{Problem, Report, nearest};

use crate::source::{Node, Tree};

pub(super) struct Fields<'n> {
    what: &'static str,
    values: BTreeMap<&'n str, &'n Node>,
}

impl<'n> Fields<'n> {
    /// The values of a mapping; names it does not know are reported.
    pub(super) fn of(
        node: &'n Node,
        what: &'static str,
        known: &[&str],
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let Tree::Map(fields) = &node.tree else {
            let message = format!("{what} has to be a mapping, not {}", node.kind());
            report.add(Problem { range: node.range.clone(), message, hint: String::new() });
            return None;
        };
        for (key, _) in fields {
            if !known.contains(&key.name.as_str()) {
                let hint = match nearest(&key.name, known.iter().copied()) {
                    Some(nearest) => format!("did you mean '{nearest}'?"),
                    None => format!("there are {}", known.join(", ")),
                };
                let message = format!("{what} has no '{}'", key.name);
                report.add(Problem { range: key.range.clone(), message, hint });
            }
        }
        // What is written with no value is as good as not written.
        let given = fields.iter().filter(|(_, value)| value.tree != Tree::Null);
        Some(Self { what, values: given.map(|(key, value)| (key.name.as_str(), value)).collect() })
    }

    pub(super) fn take(&mut self, name: &str) -> Option<&'n Node> {
        self.values.remove(name)
    }

    /// A value that has to be there.
    pub(super) fn required(
        &mut self,
        name: &str,
        whole: &Node,
        report: &mut Report<'_>,
    ) -> Option<&'n Node> {
        let value = self.take(name);
        if value.is_none() {
            let message = format!("{} needs '{name}'", self.what);
            let start = whole.range.start;
            report.add(Problem { range: start..start + 1, message, hint: String::new() });
        }
        value
    }

    pub(super) fn text(&mut self, name: &str, report: &mut Report<'_>) -> Option<&'n str> {
        let node = self.take(name)?;
        match &node.tree {
            Tree::Text(text) => Some(text),
            _ => {
                wrong(node, name, "text", report);
                None
            }
        }
    }

    pub(super) fn flag(&mut self, name: &str, report: &mut Report<'_>) -> Option<bool> {
        let node = self.take(name)?;
        match &node.tree {
            Tree::Bool(value) => Some(*value),
            _ => {
                wrong(node, name, "true or false", report);
                None
            }
        }
    }

    /// A number from 0 on.
    pub(super) fn number(&mut self, name: &str, report: &mut Report<'_>) -> Option<f64> {
        let node = self.take(name)?;
        let number = match &node.tree {
            Tree::Number(number) => number.as_f64().filter(|number| *number >= 0.0),
            _ => None,
        };
        if number.is_none() {
            wrong(node, name, "a number", report);
        }
        number
    }

    /// A whole number from 0 on.
    pub(super) fn whole(&mut self, name: &str, report: &mut Report<'_>) -> Option<u64> {
        let node = self.take(name)?;
        let number = match &node.tree {
            Tree::Number(number) => number.as_u64(),
            _ => None,
        };
        if number.is_none() {
            wrong(node, name, "a whole number", report);
        }
        number
    }
}

pub(super) fn wrong(node: &Node, name: &str, expected: &str, report: &mut Report<'_>) {
    let message = match &node.tree {
        Tree::Number(number) => format!("{name} is {number}: it has to be {expected}"),
        _ => format!("{name} has to be {expected}, not {}", node.kind()),
    };
    report.add(Problem { range: node.range.clone(), message, hint: String::new() });
}
