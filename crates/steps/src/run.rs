//! One execution of a workflow: what its steps came to, and which are next.
//!
//! Pure: the same results in the same groups lead to the same calls, which is what a replay of
//! the journal relies on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use durable_core::{
    CallId, Failure, Frame, FunctionOptions, Inspection, Limits, NewCall, Outcome, Payload,
    Request, report::LineIndex,
};
use minijinja::Value;

use crate::{
    definition::{Condition, Input, Step, Workflow},
    template::{Fault, Known, Out, Scope, Template, quoted},
};

/// A workflow with the text it was read from.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) workflow: Workflow,
    pub(crate) source: String,
    pub(crate) label: &'static str,
    pub(crate) limits: Limits,
}

/// JSON, and its value once something has asked for it.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) json: Payload,
    value: OnceLock<Value>,
}

impl Output {
    pub(crate) fn new(json: Payload) -> Self {
        Self { json, value: OnceLock::new() }
    }

    fn known(&self) -> Known<'_> {
        let text = self.json.as_str();
        let read = || serde_json::from_str(text).unwrap_or(Value::UNDEFINED);
        Known { value: self.value.get_or_init(read), bytes: text.len() }
    }
}

/// Where a step stands.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// It waits for others.
    Waiting,
    /// Its calls are open, or some of them.
    Running(Running),
    /// It has ended.
    Done(Output),
}

/// The calls of a step: their numbers follow each other.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) first: CallId,
    pub(crate) calls: u32,
    /// What has come back, by the call's place among them.
    pub(crate) results: BTreeMap<u32, Payload>,
}

/// The state of an execution.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) inputs: Output,
    pub(crate) steps: Vec<Progress>,
    /// The number of the last call that was asked for.
    pub(crate) last_call: CallId,
    /// The bytes of all results that are in it.
    pub(crate) bytes: usize,
    /// Steps and what they still wait for; what is ready is not in it.
    waits: Vec<usize>,
    /// The step of each open call.
    open: BTreeMap<CallId, usize>,
    ready: BTreeSet<usize>,
}

/// How far a run got.
#[derive(Debug)]
pub(crate) enum Reach {
    /// It waits for open calls.
    Waits,
    /// All steps have ended, with this output.
    Ended(Payload),
    /// A step failed.
    Failed(Failure),
}

impl Compiled {
    /// Fills in what inputs are not given.
    ///
    /// # Errors
    /// One sentence for each input that is missing, unknown or of another type.
    pub(crate) fn inputs(&self, given: &str) -> Result<Output, String> {
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(given)
            .map_err(|error| format!("the inputs are no JSON object: {error}"))?;
        let Some(declared) = &self.workflow.inputs else {
            let missing = self.workflow.wanted.iter().find(|(name, _)| !value.contains_key(*name));
            return match missing {
                Some((name, range)) => {
                    let excerpt = LineIndex::new(&self.source).excerpt(&self.source, range);
                    Err(format!(
                        "the input '{name}' is missing; a step is given it:\n{}",
                        excerpt.unwrap_or_default()
                    ))
                }
                None => Ok(Output::new(Payload::trusted(given))),
            };
        };
        let problems = problems(declared, &value);
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
        let absent: Vec<_> =
            declared.iter().filter(|input| !value.contains_key(&input.name)).collect();
        if absent.is_empty() {
            return Ok(Output::new(Payload::trusted(given)));
        }
        let mut text = given.trim_end().trim_end_matches('}').trim_end().to_owned();
        for input in absent {
            text.push_str(if text.ends_with('{') { "" } else { "," });
            let default = input.default.as_deref().unwrap_or("null");
            text.push_str(&format!("{}:{default}", quoted(&input.name)));
        }
        text.push('}');
        Ok(Output::new(Payload::trusted(text)))
    }

    /// A failure of a step that no call is the cause of.
    fn fault(&self, step: &Step, fault: Fault) -> Failure {
        let message = format!("step '{}': {}", step.name, fault.message);
        Failure::new("TemplateError", message).with_traceback(self.place(step, &fault.range))
    }

    fn place(&self, step: &Step, range: &std::ops::Range<usize>) -> String {
        let lines = LineIndex::new(&self.source);
        let position = lines.position(&self.source, range.start);
        let excerpt = lines.excerpt(&self.source, range);
        format!(
            "  File \"{}\", line {}, column {}, in step '{}'\n{}",
            self.label,
            position.line,
            position.column,
            step.name,
            excerpt.unwrap_or_default()
        )
    }
}

fn problems(declared: &[Input], given: &serde_json::Map<String, serde_json::Value>) -> Vec<String> {
    let mut problems = Vec::new();
    for input in declared {
        match given.get(&input.name) {
            None if input.is_required && input.default.is_none() => {
                problems.push(format!("the input '{}' is missing", input.name));
            }
            None => {}
            Some(value) if input.kind.fits(value) || (value.is_null() && !input.is_required) => {}
            Some(_) => problems.push(format!(
                "the input '{}' has to be of type {}",
                input.name,
                input.kind.as_str()
            )),
        }
    }
    for name in given.keys() {
        if declared.iter().all(|input| input.name != *name) {
            let known = declared.iter().map(|input| input.name.as_str());
            let hint = match durable_core::report::nearest(name, known) {
                Some(nearest) => format!("did you mean '{nearest}'?"),
                None => "the workflow does not declare it".to_owned(),
            };
            problems.push(format!("there is no input '{name}': {hint}"));
        }
    }
    problems
}

/// What a step may refer to.
struct World<'a> {
    compiled: &'a Compiled,
    run: &'a Run,
    item: Option<(&'a Output, usize)>,
}

impl Scope for World<'_> {
    fn inputs(&self) -> Known<'_> {
        self.run.inputs.known()
    }

    fn step(&self, step: &str) -> Option<Known<'_>> {
        match &self.run.steps[*self.compiled.workflow.by_name.get(step)?] {
            Progress::Done(output) => Some(output.known()),
            Progress::Waiting | Progress::Running(_) => None,
        }
    }

    fn item(&self) -> Option<(Known<'_>, usize)> {
        self.item.map(|(item, index)| (item.known(), index))
    }
}

impl Run {
    /// Nothing has been asked for yet.
    pub(crate) fn new(compiled: &Compiled, inputs: Output) -> Self {
        let steps = vec![Progress::Waiting; compiled.workflow.steps.len()];
        Self::of(compiled, inputs, steps, 0)
    }

    /// A run of which this is known.
    pub(crate) fn of(
        compiled: &Compiled,
        inputs: Output,
        steps: Vec<Progress>,
        last_call: CallId,
    ) -> Self {
        let all = &compiled.workflow.steps;
        let is_open = |index: &usize| !matches!(steps[*index], Progress::Done(_));
        let waits: Vec<_> =
            all.iter().map(|step| step.needs.iter().filter(|need| is_open(need)).count()).collect();
        let is_ready =
            |index: &usize| waits[*index] == 0 && matches!(steps[*index], Progress::Waiting);
        let ready = (0..all.len()).filter(is_ready).collect();
        let mut open = BTreeMap::new();
        let mut bytes = inputs.json.as_str().len();
        for (index, progress) in steps.iter().enumerate() {
            match progress {
                Progress::Waiting => {}
                Progress::Done(output) => bytes += output.json.as_str().len(),
                Progress::Running(Running { first, calls, results }) => {
                    let returned = |call: &u32| results.contains_key(call);
                    let left = (0..*calls).filter(|call| !returned(call));
                    open.extend(left.map(|call| (first + call, index)));
                    bytes += results.values().map(|json| json.as_str().len()).sum::<usize>();
                }
            }
        }
        Self { inputs, steps, last_call, bytes, waits, open, ready }
    }

    /// Whether a call is open.
    pub(crate) fn has_open(&self, call: CallId) -> bool {
        self.open.contains_key(&call)
    }

    /// The steps whose calls are open, with what each of them may refer to.
    pub(crate) fn inspect(&self, compiled: &Compiled) -> Inspection {
        let steps = &compiled.workflow.steps;
        let mut known = BTreeMap::from([("inputs".to_owned(), self.inputs.json.clone())]);
        for (step, progress) in steps.iter().zip(&self.steps) {
            if let Progress::Done(output) = progress {
                known.insert(format!("steps.{}", step.name), output.json.clone());
            }
        }
        let open: BTreeSet<_> = self.open.values().copied().collect();
        let stack = |index: usize| {
            let Step { name, position, .. } = &steps[index];
            let (function, position) = (name.clone(), *position);
            vec![Frame { function, position, variables: known.clone() }]
        };
        Inspection { stacks: open.into_iter().map(stack).collect() }
    }

    /// Takes results in and asks for the calls of the steps that are ready then.
    pub(crate) fn advance(
        &mut self,
        compiled: &Compiled,
        results: &[(CallId, Outcome)],
        printed: &mut String,
    ) -> (Vec<NewCall>, Reach) {
        let mut calls = Vec::new();
        for (call, outcome) in results {
            match outcome {
                Outcome::Completed(result) => self.take(compiled, *call, result.clone()),
                Outcome::Failed(failure) => {
                    let Some(&step) = self.open.get(call) else { continue };
                    let step = &compiled.workflow.steps[step];
                    return (calls, Reach::Failed(failed(compiled, step, *call, failure)));
                }
            }
        }
        while let Some(step) = self.ready.pop_first() {
            if let Err(failure) = self.begin(compiled, step, &mut calls, printed) {
                return (calls, Reach::Failed(failure));
            }
        }
        if !self.open.is_empty() {
            return (calls, Reach::Waits);
        }
        let reach = match self.output(compiled) {
            Ok(output) => Reach::Ended(output),
            Err(failure) => Reach::Failed(failure),
        };
        (calls, reach)
    }

    fn take(&mut self, compiled: &Compiled, call: CallId, result: Payload) {
        let Some(index) = self.open.remove(&call) else { return };
        let Progress::Running(running) = &mut self.steps[index] else { return };
        self.bytes += result.as_str().len();
        running.results.insert(call - running.first, result);
        if running.results.len() < running.calls as usize {
            return;
        }
        let results = std::mem::take(&mut running.results);
        let output = match (&compiled.workflow.steps[index].foreach, results.first_key_value()) {
            (None, Some((_, only))) => only.clone(),
            _ => list(results.into_values()),
        };
        self.end(compiled, index, Output::new(output));
    }

    fn end(&mut self, compiled: &Compiled, index: usize, output: Output) {
        self.steps[index] = Progress::Done(output);
        for &dependent in &compiled.workflow.steps[index].dependents {
            self.waits[dependent] -= 1;
            if self.waits[dependent] == 0 {
                self.ready.insert(dependent);
            }
        }
    }

    /// Begins a step that waits for nothing any more: asks for its calls, or ends it without any.
    fn begin(
        &mut self,
        compiled: &Compiled,
        index: usize,
        calls: &mut Vec<NewCall>,
        printed: &mut String,
    ) -> Result<(), Failure> {
        let step = &compiled.workflow.steps[index];
        let world = World { compiled, run: self, item: None };
        let fault = |fault| compiled.fault(step, fault);
        let is_wanted = match &step.when {
            None => true,
            Some(Condition::Fixed(value)) => *value,
            Some(Condition::When(expression)) => {
                expression.evaluate(&world).map_err(fault)?.is_true()
            }
        };
        if !is_wanted {
            printed.push_str(&format!("step '{}' is skipped\n", step.name));
            self.end(compiled, index, Output::new(Payload::null()));
            return Ok(());
        }
        let inputs = match &step.foreach {
            None => vec![payload(compiled, step, &world)?],
            Some(foreach) => {
                let items = items(compiled, step, foreach, &world)?;
                let mut inputs = Vec::with_capacity(items.len());
                for (number, item) in items.iter().enumerate() {
                    let world = World { item: Some((item, number)), ..world };
                    inputs.push(payload(compiled, step, &world)?);
                }
                inputs
            }
        };
        if inputs.is_empty() {
            self.end(compiled, index, Output::new(Payload::trusted("[]")));
            return Ok(());
        }
        self.ask(compiled, index, inputs, calls)
    }

    fn ask(
        &mut self,
        compiled: &Compiled,
        index: usize,
        inputs: Vec<String>,
        calls: &mut Vec<NewCall>,
    ) -> Result<(), Failure> {
        let step = &compiled.workflow.steps[index];
        let limits = &compiled.limits;
        let number = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
        let open = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        for (count, name, limit, when) in [
            (self.last_call, "max_calls", limits.max_calls, "in all"),
            (open, "max_open_calls", limits.max_open_calls, "at once"),
        ] {
            if count.saturating_add(number) > limit {
                let message = format!(
                    "step '{}' asks for {number} calls: the execution asks for more than {name} = \
                     {limit} of them {when}",
                    step.name
                );
                let place = compiled.place(step, &step.range);
                return Err(Failure::new("CallLimitExceeded", message).with_traceback(place));
            }
        }
        let first = self.last_call + 1;
        for (call, input) in (first..).zip(inputs) {
            let options = FunctionOptions {
                target: Some(Request::agent_target(&step.agent)),
                retry: step.retry.clone(),
                timeout_ms: step.timeout_ms,
            };
            let request = Request::Function {
                name: step.name.clone(),
                args: Payload::trusted(format!("[{input}]")),
                kwargs: Payload::trusted("{}"),
                options,
            };
            calls.push(NewCall { id: call, request, position: step.position });
            self.open.insert(call, index);
        }
        self.last_call += number;
        let running = Running { first, calls: number, results: BTreeMap::new() };
        self.steps[index] = Progress::Running(running);
        Ok(())
    }

    /// An object of what the steps came to, in the order they are written.
    fn output(&self, compiled: &Compiled) -> Result<Payload, Failure> {
        let max_bytes = max_payload(&compiled.limits);
        let mut out = Out::new(max_bytes);
        out.push("{");
        for (index, (step, progress)) in compiled.workflow.steps.iter().zip(&self.steps).enumerate()
        {
            let Progress::Done(output) = progress else { continue };
            out.push(if index == 0 { "" } else { "," });
            out.push(&quoted(&step.name));
            out.push(":");
            out.push(output.json.as_str());
        }
        out.push("}");
        if out.is_full {
            return Err(Failure::new(
                "ValueError",
                format!(
                    "what the steps came to is together longer than max_payload_bytes = \
                     {max_bytes}: keep large data elsewhere and return references to it"
                ),
            ));
        }
        Ok(Payload::trusted(out.text))
    }
}

fn max_payload(limits: &Limits) -> usize {
    usize::try_from(limits.max_payload_bytes).unwrap_or(usize::MAX)
}

fn list(results: impl Iterator<Item = Payload>) -> Payload {
    let mut text = "[".to_owned();
    for (index, result) in results.enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        text.push_str(result.as_str());
    }
    text.push(']');
    Payload::trusted(text)
}

/// What the agent of a step is given.
fn payload(compiled: &Compiled, step: &Step, world: &World<'_>) -> Result<String, Failure> {
    let Some(input) = &step.input else {
        return Ok(world.run.inputs.json.as_str().to_owned());
    };
    let json = filled(compiled, step, input, world, "input")?;
    if json.starts_with('{') {
        return Ok(json);
    }
    let message = format!("step '{}': input has to be a mapping, not {json:.60}", step.name);
    let expressions = input.expressions();
    let range = expressions.first().map_or(&step.range, |expression| &expression.range);
    Err(Failure::new("TemplateError", message).with_traceback(compiled.place(step, range)))
}

/// The items of a `foreach`.
fn items(
    compiled: &Compiled,
    step: &Step,
    foreach: &Template,
    world: &World<'_>,
) -> Result<Vec<Output>, Failure> {
    let json = filled(compiled, step, foreach, world, "foreach")?;
    let items: Result<Vec<Box<serde_json::value::RawValue>>, _> = serde_json::from_str(&json);
    let items = items.map_err(|_| {
        let message = format!("step '{}': foreach has to give a list, not {json:.60}", step.name);
        let expressions = foreach.expressions();
        let range = expressions.first().map_or(&step.range, |expression| &expression.range);
        Failure::new("TemplateError", message).with_traceback(compiled.place(step, range))
    })?;
    Ok(items.iter().map(|item| Output::new(Payload::trusted(item.get()))).collect())
}

fn filled(
    compiled: &Compiled,
    step: &Step,
    template: &Template,
    world: &World<'_>,
    what: &str,
) -> Result<String, Failure> {
    // The brackets of the argument list count too.
    let max_bytes = max_payload(&compiled.limits).saturating_sub(2);
    let mut out = Out::new(max_bytes);
    template.render(world, &mut out).map_err(|fault| compiled.fault(step, fault))?;
    if out.is_full {
        let message = format!(
            "step '{}': its {what} is longer than max_payload_bytes = {}: keep large data \
             elsewhere and pass references to it",
            step.name, compiled.limits.max_payload_bytes
        );
        let place = compiled.place(step, &step.range);
        return Err(Failure::new("ValueError", message).with_traceback(place));
    }
    Ok(out.text)
}

/// Why an execution failed one of whose calls did.
fn failed(compiled: &Compiled, step: &Step, call: CallId, cause: &Failure) -> Failure {
    let mut traceback = compiled.place(step, &step.range);
    if let Some(inner) = &cause.traceback {
        traceback.push('\n');
        traceback.push_str(inner);
    }
    Failure {
        error_type: cause.error_type.clone(),
        message: format!("step '{}' (agent '{}'): {}", step.name, step.agent, cause.message),
        traceback: Some(traceback),
        cause_call: Some(call),
    }
}
