//! A definition: what its author wrote down, read and checked.
//!
//! | module | what |
//! |---|---|
//! | `fields` | the values of a mapping, by name and type |
//! | `options` | retry policies, times, declared inputs |
//! | `check` | what steps refer to: needs, circles, what is upstream |

mod check;
mod fields;
mod options;

use std::{collections::BTreeMap, ops::Range};

use durable_core::{
    Definition, Language, Position, Request, RetryPolicy,
    report::{LineIndex, Problem, Report, nearest},
};

use crate::{
    source::{self, Node, Tree},
    template::{Expression, Fault, Template, located},
};
use fields::Fields;
pub(crate) use options::Input;

/// Most steps of a workflow.
const MAX_STEPS: usize = 10_000;

/// A workflow, ready to be run.
#[derive(Debug)]
pub(crate) struct Workflow {
    /// The inputs it declares; without a declaration any are taken.
    pub(crate) inputs: Option<Vec<Input>>,
    /// In the order they are written.
    pub(crate) steps: Vec<Step>,
    /// Where each step stands by name.
    pub(crate) by_name: BTreeMap<String, usize>,
    /// Without a declaration: the inputs that can't be left out, each with a place that says so.
    pub(crate) wanted: BTreeMap<String, Range<usize>>,
}

/// A step of a workflow.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    /// Where its name stands.
    pub(crate) range: Range<usize>,
    pub(crate) position: Position,
    pub(crate) agent: String,
    /// The steps it waits for.
    pub(crate) needs: Vec<usize>,
    /// The steps that wait for it.
    pub(crate) dependents: Vec<usize>,
    /// What the agent is given; the inputs of the execution where it says nothing.
    pub(crate) input: Option<Template>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) when: Option<Condition>,
    pub(crate) foreach: Option<Template>,
}

/// When a step is run.
#[derive(Debug)]
pub(crate) enum Condition {
    Fixed(bool),
    When(Expression),
}

/// What a file of a language is called in messages.
pub(crate) fn label(language: Language) -> &'static str {
    match language {
        Language::Yaml => "workflow.yaml",
        Language::Toml => "workflow.toml",
        Language::Json => "workflow.json",
        Language::Python | Language::Session => "workflow.py",
    }
}

/// Reads and checks a definition.
///
/// # Errors
/// `Invalid` with every problem found, each with line and column, the line with a caret, and what
/// to do.
pub(crate) fn read(definition: &Definition) -> durable_core::Result<Workflow> {
    let text = &definition.source;
    let mut report = Report::new(label(definition.language), text);
    let limit = definition.limits.max_source_bytes;
    if text.len() as u64 > limit {
        let size = text.len();
        report.add_general(format!(
            "the source has {size} bytes, the limit max_source_bytes is {limit}"
        ));
        report.into_invalid()?;
        unreachable!("a problem was added")
    }
    let workflow = match source::read(definition.language, text) {
        Ok(node) => Reader { definition, text, lines: LineIndex::new(text), report: &mut report }
            .workflow(&node),
        Err(problem) => {
            report.add(problem);
            None
        }
    };
    report.into_invalid()?;
    workflow.ok_or_else(|| durable_core::Error::internal("an unread definition has no problem"))
}

struct Reader<'a, 's> {
    definition: &'a Definition,
    text: &'s str,
    lines: LineIndex,
    report: &'a mut Report<'s>,
}

impl Reader<'_, '_> {
    fn add(&mut self, range: &Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        let (message, hint) = (message.into(), hint.into());
        self.report.add(Problem { range: range.clone(), message, hint });
    }

    fn add_faults(&mut self, faults: Vec<Fault>) {
        for Fault { range, message, hint } in faults {
            self.report.add(Problem { range, message, hint });
        }
    }

    fn workflow(&mut self, node: &Node) -> Option<Workflow> {
        for name in self.definition.functions.keys() {
            let target = self.definition.target_of(name);
            if target != Request::agent_target(name) {
                let message = format!("the agent '{name}' has the target '{target}': leave it out");
                self.report.add_general(message);
            }
        }
        let known = ["id", "version", "description", "inputs", "steps"];
        let mut fields = Fields::of(node, "a workflow", &known, self.report)?;
        if let Some(id) = fields.required("id", node, self.report) {
            self.name(id, "the id", "-_.");
        }
        if let Some(version) = fields.take("version")
            && !matches!(version.tree, Tree::Number(_) | Tree::Text(_))
        {
            self.add(&version.range, "version has to be a number or text", "");
        }
        fields.text("description", self.report);
        let inputs = fields.take("inputs").map(|node| options::inputs(node, self.report));
        let steps = fields.required("steps", node, self.report)?;
        let Tree::List(nodes) = &steps.tree else {
            let message = format!("steps has to be a list, not {}", steps.kind());
            self.add(&steps.range, message, "");
            return None;
        };
        if nodes.is_empty() || nodes.len() > MAX_STEPS {
            let message = format!("there are {} steps", nodes.len());
            self.add(&steps.range, message, format!("write from 1 to {MAX_STEPS} of them"));
            return None;
        }
        let read: Vec<_> = nodes.iter().map(|node| self.step(node)).collect();
        let mut workflow = Workflow {
            inputs,
            steps: Vec::with_capacity(read.len()),
            by_name: BTreeMap::new(),
            wanted: BTreeMap::new(),
        };
        let mut needs = Vec::with_capacity(read.len());
        // What could not be read is not there to be referred to: say that first.
        let all_read = read.iter().all(Option::is_some);
        for (step, step_needs) in read.into_iter().flatten() {
            let before = workflow.by_name.insert(step.name.clone(), workflow.steps.len());
            if before.is_some() {
                let message = format!("there are two steps named '{}'", step.name);
                self.add(&step.range, message, "give one of them another name");
            }
            workflow.steps.push(step);
            needs.push(step_needs);
        }
        if all_read {
            check::connect(&mut workflow, &needs, self.report);
        }
        Some(workflow)
    }

    /// Checks something that is a name.
    fn name(&mut self, node: &Node, what: &str, marks: &str) -> Option<String> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || marks.contains(letter);
        match &node.tree {
            Tree::Text(name)
                if !name.is_empty() && name.len() <= 200 && name.chars().all(is_part) =>
            {
                Some(name.clone())
            }
            _ => {
                let message = format!("{what} has to be a name");
                self.add(&node.range, message, "write letters, digits, and - _ .");
                None
            }
        }
    }

    fn step(&mut self, node: &Node) -> Option<(Step, check::Needs)> {
        let known = [
            "name",
            "agent",
            "needs",
            "input",
            "retry",
            "timeout",
            "when",
            "foreach",
            "description",
        ];
        let mut fields = Fields::of(node, "a step", &known, self.report)?;
        let name = fields.required("name", node, self.report);
        let name = name.and_then(|node| Some((self.step_name(node)?, node.range.clone())));
        let agent = fields.required("agent", node, self.report);
        let agent = agent.and_then(|node| self.agent(node));
        fields.text("description", self.report);
        let needs = fields.take("needs").map(|node| self.needs(node));
        let retry = fields.take("retry").map(|node| options::retry(node, self.report));
        let timeout = fields.take("timeout").map(|node| options::duration(node, self.report));
        let foreach = fields.take("foreach").map(|node| self.foreach(node));
        let when = fields.take("when").and_then(|node| self.condition(node));
        let input = fields.take("input").map(|node| self.input(node));
        let (name, range) = name?;
        let step = Step {
            position: self.lines.position(self.text, range.start),
            name,
            range,
            agent: agent?,
            needs: Vec::new(),
            dependents: Vec::new(),
            input,
            retry: retry.flatten(),
            timeout_ms: timeout.flatten(),
            when,
            foreach,
        };
        Some((step, needs))
    }

    fn step_name(&mut self, node: &Node) -> Option<String> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        match &node.tree {
            Tree::Text(name)
                if name.len() <= 100
                    && name.chars().all(is_part)
                    && name.starts_with(|first: char| !first.is_ascii_digit()) =>
            {
                Some(name.clone())
            }
            _ => {
                let hint = "write letters, digits and _, so that templates can say steps.NAME";
                self.add(&node.range, "this is no name for a step", hint);
                None
            }
        }
    }

    fn agent(&mut self, node: &Node) -> Option<String> {
        // An agent may be named with its version: summarize@2.
        let name = self.name(node, "agent", "-_.@")?;
        let declared = &self.definition.functions;
        if !declared.contains_key(&name) {
            let hint = match nearest(&name, declared.keys().map(String::as_str)) {
                Some(nearest) => format!("did you mean '{nearest}'? Otherwise register '{name}'"),
                None if declared.is_empty() => "no agent is registered".to_owned(),
                None => {
                    let names: Vec<_> = declared.keys().take(10).map(String::as_str).collect();
                    format!("register it; there are {}", names.join(", "))
                }
            };
            self.add(&node.range, format!("there is no agent '{name}'"), hint);
        }
        Some(name)
    }

    fn needs(&mut self, node: &Node) -> Vec<(String, Range<usize>)> {
        let nodes = match &node.tree {
            Tree::List(nodes) => nodes.as_slice(),
            Tree::Text(_) => std::slice::from_ref(node),
            _ => &[],
        };
        let mut needs = Vec::with_capacity(nodes.len());
        for item in nodes {
            match &item.tree {
                Tree::Text(name) => needs.push((name.clone(), item.range.clone())),
                _ => self.add(&item.range, "needs has to be a list of names of steps", ""),
            }
        }
        if nodes.is_empty() && !matches!(node.tree, Tree::List(_)) {
            self.add(&node.range, "needs has to be a list of names of steps", "");
        }
        needs
    }

    fn input(&mut self, node: &Node) -> Template {
        let mut faults = Vec::new();
        let template = Template::read(self.text, node, &mut faults);
        let is_object = match &node.tree {
            Tree::Map(_) => true,
            Tree::Text(_) => matches!(template, Template::Value(_)) || !faults.is_empty(),
            _ => false,
        };
        if !is_object {
            let message = format!("input has to be a mapping, not {}", node.kind());
            self.add(&node.range, message, "agents are given a dict");
        }
        self.add_faults(faults);
        template
    }

    /// An expression, with or without braces around it.
    fn expression(&mut self, node: &Node, text: &str) -> Option<Expression> {
        let inside = text.trim();
        let bare = inside.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
        let inside = bare.unwrap_or(inside).trim();
        match Expression::read(inside, located(self.text, node, inside)) {
            Ok(expression) => Some(expression),
            Err(faults) => {
                self.add_faults(faults);
                None
            }
        }
    }

    fn condition(&mut self, node: &Node) -> Option<Condition> {
        match &node.tree {
            Tree::Bool(value) => Some(Condition::Fixed(*value)),
            Tree::Text(text) => self.expression(node, text).map(Condition::When),
            _ => {
                let message = format!("when has to be an expression, not {}", node.kind());
                self.add(&node.range, message, "");
                None
            }
        }
    }

    fn foreach(&mut self, node: &Node) -> Template {
        match &node.tree {
            Tree::List(_) => {
                let mut faults = Vec::new();
                let template = Template::read(self.text, node, &mut faults);
                self.add_faults(faults);
                template
            }
            Tree::Text(text) => match self.expression(node, text) {
                Some(expression) => Template::Value(expression),
                None => Template::Fixed("[]".to_owned()),
            },
            _ => {
                let message = format!("foreach has to be a list, not {}", node.kind());
                self.add(&node.range, message, "write a list, or an expression that gives one");
                Template::Fixed("[]".to_owned())
            }
        }
    }
}

impl Step {
    /// All expressions in it, and whether each sees the item of its `foreach`.
    pub(crate) fn expressions(&self) -> Vec<(&Expression, bool)> {
        let when = match &self.when {
            Some(Condition::When(expression)) => Some(expression),
            Some(Condition::Fixed(_)) | None => None,
        };
        let sees_item = self.foreach.is_some();
        let foreach = self.foreach.iter().flat_map(Template::expressions);
        let input = self.input.iter().flat_map(Template::expressions);
        when.into_iter()
            .chain(foreach)
            .map(|expression| (expression, false))
            .chain(input.map(|expression| (expression, sees_item)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
