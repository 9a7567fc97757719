//! Workflows as a Rust program writes them down.

use std::collections::BTreeMap;

use durable_core::{
    Definition, Error, FunctionOptions, Language, Limits, Payload, Program, Request, Result,
};
use durable_engine::Start;
use durable_store::Labels;
use serde::Serialize;

/// A workflow to start: source, inputs, and how its calls are run.
///
/// ```
/// use durable::{RetryPolicy, Workflow};
/// let workflow = Workflow::new("await fetch(url)")
///     .input("url", "https://example.org")?
///     .retry("fetch", RetryPolicy { max_attempts: 5, ..RetryPolicy::default() });
/// # Ok::<(), durable::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Workflow {
    language: Language,
    source: String,
    name: String,
    inputs: serde_json::Map<String, serde_json::Value>,
    functions: BTreeMap<String, FunctionOptions>,
    limits: Limits,
    labels: Labels,
    idempotency_key: Option<String>,
}

impl Workflow {
    /// A workflow of this Python source. It may call every function that is registered.
    pub fn new(source: &str) -> Self {
        Self {
            language: Language::Python,
            source: source.to_owned(),
            name: "workflow".into(),
            inputs: serde_json::Map::new(),
            functions: BTreeMap::new(),
            limits: Limits::default(),
            labels: Labels::default(),
            idempotency_key: None,
        }
    }

    /// A workflow of named steps, which agents work on. An agent is a registered function named
    /// `agent:NAME`; those are declared by themselves.
    pub fn steps(language: Language, source: &str) -> Self {
        Self { language, ..Self::new(source) }
    }

    /// A session: no source, but code that is [fed](crate::Session::feed) to it piece by piece.
    pub fn session() -> Self {
        Self { language: Language::Session, name: "session".into(), ..Self::new("") }
    }

    /// A name to find its executions by.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// A global variable of the program.
    ///
    /// # Errors
    /// `Invalid` when the value can't be written as JSON.
    pub fn input(mut self, name: &str, value: impl Serialize) -> Result<Self> {
        let value = serde_json::to_value(value)
            .map_err(|error| Error::invalid(format!("input '{name}' is not JSON: {error}")))?;
        self.inputs.insert(name.to_owned(), value);
        Ok(self)
    }

    /// Declares a function that other processes run.
    #[must_use]
    pub fn declare(mut self, function: &str) -> Self {
        self.functions.entry(function.to_owned()).or_default();
        self
    }

    /// When failed attempts of a function are made again.
    #[must_use]
    pub fn retry(mut self, function: &str, policy: durable_core::RetryPolicy) -> Self {
        self.functions.entry(function.to_owned()).or_default().retry = Some(policy);
        self
    }

    /// How long an attempt of a function may take.
    #[must_use]
    pub fn timeout_ms(mut self, function: &str, timeout_ms: u64) -> Self {
        self.functions.entry(function.to_owned()).or_default().timeout_ms = Some(timeout_ms);
        self
    }

    /// Its limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The tenant it belongs to.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.labels.namespace);
        self
    }

    /// The queue that workers take it from.
    #[must_use]
    pub fn queue(mut self, queue: &str) -> Self {
        queue.clone_into(&mut self.labels.queue);
        self
    }

    /// A word to find it by.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.labels.tags.push(tag.to_owned());
        self
    }

    /// Two starts with the same key in one namespace are one.
    #[must_use]
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.idempotency_key = Some(key.to_owned());
        self
    }

    /// What the engine starts, with these functions declared besides its own.
    pub fn to_start(&self, registered: &[String]) -> Start {
        let mut functions = self.functions.clone();
        for name in registered {
            let name = match (!self.language.is_steps(), Request::agent_of(name)) {
                (true, None) => name.as_str(),
                (false, Some(agent)) => agent,
                (true, Some(_)) | (false, None) => continue,
            };
            functions.entry(name.to_owned()).or_default();
        }
        let definition = Definition {
            language: self.language,
            source: self.source.clone(),
            functions,
            inputs: self.inputs.keys().cloned().collect(),
            limits: self.limits.clone(),
        };
        Start {
            program: std::sync::Arc::new(Program::new(definition)),
            inputs: Payload::from_value(&serde_json::Value::Object(self.inputs.clone())),
            workflow_id: self.name.clone(),
            labels: self.labels.clone(),
            idempotency_key: self.idempotency_key.clone(),
        }
    }
}
