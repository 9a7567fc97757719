//! What can be said of a definition without checking it.

use std::collections::BTreeSet;

use durable_core::Language;

use crate::source::{self, Node, Tree};

/// A look at a definition, for whoever declares the agents that it names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Its id.
    pub id: Option<String>,
    /// The names of the agents of its steps.
    pub agents: BTreeSet<String>,
}

impl Outline {
    /// Looks at a definition. What is wrong with it is found by
    /// [`Runner::validate`](durable_core::Runner::validate), not here.
    ///
    /// ```
    /// use durable_steps::Outline;
    /// let source = "id: x\nsteps:\n  - {name: a, agent: echo}\n";
    /// let outline = Outline::of(durable_core::Language::Yaml, source);
    /// assert_eq!(outline.id.as_deref(), Some("x"));
    /// assert!(outline.agents.contains("echo"));
    /// ```
    pub fn of(language: Language, source: &str) -> Self {
        let Ok(node) = source::read(language, source) else { return Self::default() };
        let steps = match field(&node, "steps").map(|steps| &steps.tree) {
            Some(Tree::List(steps)) => steps.as_slice(),
            _ => &[],
        };
        let agents = steps.iter().filter_map(|step| text(field(step, "agent")?)).collect();
        Self { id: field(&node, "id").and_then(text), agents }
    }
}

fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    match &node.tree {
        Tree::Map(fields) => fields.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
        _ => None,
    }
}

fn text(node: &Node) -> Option<String> {
    match &node.tree {
        Tree::Text(text) => Some(text.clone()),
        _ => None,
    }
}
