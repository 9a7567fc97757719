//! The functions that workflows call: a Python process, or none.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use durable::{
    Error, ExecutionId, Executor, FunctionOptions, Outline, Program, PullQueue, Request, Result,
};
use durable_executors::{Serve, Subprocess, SubprocessConfig};

use crate::args;

/// What runs calls.
pub(crate) enum Functions {
    Python(Arc<Subprocess>),
    /// Nobody pulls from this queue: the calls of other executions stay in it until the engine
    /// takes them back.
    None(Arc<PullQueue>),
}

impl Functions {
    /// Imports the module, if one is given.
    pub(crate) fn load(given: &args::FunctionsOf) -> Result<Self> {
        let Some(config) = config(given) else { return Ok(Self::None(Arc::default())) };
        Ok(Self::Python(Arc::new(Subprocess::start(config)?)))
    }

    /// As [`Self::load`], to run so many calls at once.
    pub(crate) fn load_many(given: &args::FunctionsOf, concurrency: u32) -> Result<Self> {
        let Some(config) = config(given) else { return Ok(Self::None(Arc::default())) };
        let at_once = concurrency as usize;
        let config = SubprocessConfig { threads: at_once, async_calls: at_once, ..config };
        Ok(Self::Python(Arc::new(Subprocess::start(config)?)))
    }

    /// The functions there are.
    pub(crate) fn all(&self) -> BTreeMap<String, FunctionOptions> {
        match self {
            Self::Python(subprocess) => subprocess.functions().clone(),
            Self::None(_) => BTreeMap::new(),
        }
    }

    /// Those that a source mentions: the program stays the same when the module gets others.
    pub(crate) fn mentioned_in(&self, source: &str) -> BTreeMap<String, FunctionOptions> {
        let is_part_of_a_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let words: HashSet<_> = source.split(|letter| !is_part_of_a_name(letter)).collect();
        let mut functions = self.all();
        functions.retain(|name, _| words.contains(name.as_str()));
        functions
    }

    /// The agents there are, by name.
    fn agents(&self) -> BTreeMap<String, FunctionOptions> {
        let agents = self.all().into_iter().filter_map(|(name, options)| {
            let name = Request::agent_of(&name)?.to_owned();
            Some((name, FunctionOptions { target: None, ..options }))
        });
        agents.collect()
    }

    /// The agents of a step workflow; all there are when it asks for one that is not there, so
    /// that the nearest of them can be named.
    pub(crate) fn agents_of(&self, outline: &Outline) -> BTreeMap<String, FunctionOptions> {
        let mut agents = self.agents();
        if outline.agents.iter().all(|name| agents.contains_key(name)) {
            agents.retain(|name, _| outline.agents.contains(name));
        }
        agents
    }

    /// Checks that everything a program may call is there.
    ///
    /// # Errors
    /// `Invalid` that names what is missing.
    pub(crate) fn check(&self, program: &Program) -> Result<()> {
        let there = self.all();
        let definition = program.definition();
        let targets = definition.functions.keys().map(|name| definition.target_of(name));
        let missing: Vec<_> = targets.filter(|name| !there.contains_key(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.join(", ");
        Err(Error::invalid(match self {
            Self::Python(_) => format!(
                "the workflow calls {missing}, which the module of functions does not have: \
                 give the one it was started with"
            ),
            Self::None(_) => {
                format!("the workflow calls {missing}: give --functions MODULE_OR_FILE.py")
            }
        }))
    }

    pub(crate) fn executor(&self) -> Arc<dyn Executor> {
        match self {
            Self::Python(subprocess) => subprocess.clone(),
            Self::None(queue) => queue.clone(),
        }
    }

    /// Begins to run the calls of one execution, and only those: a database may hold others,
    /// whose functions are not in this module, or are others of the same name.
    pub(crate) fn serve(&self, id: ExecutionId) {
        if let Self::Python(subprocess) = self {
            subprocess.serve(Serve::Execution(id));
        }
    }

    /// Begins to run the calls of all executions.
    pub(crate) fn serve_all(&self) {
        if let Self::Python(subprocess) = self {
            subprocess.serve(Serve::Everything);
        }
    }
}

fn config(given: &args::FunctionsOf) -> Option<SubprocessConfig> {
    let module = given.functions.as_ref()?;
    let python = python(given.python.as_deref());
    Some(SubprocessConfig { python, ..SubprocessConfig::new(module) })
}

/// The Python that is meant: the one given, else that of the active virtual environment, else
/// `python3`.
pub(crate) fn python(given: Option<&std::path::Path>) -> PathBuf {
    if let Some(given) = given {
        return given.to_owned();
    }
    match std::env::var_os("VIRTUAL_ENV").map(|root| PathBuf::from(root).join("bin/python")) {
        Some(python) if python.exists() => python,
        _ => "python3".into(),
    }
}
