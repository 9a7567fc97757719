//! The functions that workflows call: a Python process, or none.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use durable::{Error, ExecutionId, Executor, FunctionOptions, Program, PullQueue, Result};
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

    /// Checks that everything a program may call is there.
    ///
    /// # Errors
    /// `Invalid` that names what is missing.
    pub(crate) fn check(&self, program: &Program) -> Result<()> {
        let there = self.all();
        let declared = &program.definition().functions;
        let target = |(name, options): (&String, &FunctionOptions)| {
            options.target.clone().unwrap_or_else(|| name.clone())
        };
        let missing: Vec<_> =
            declared.iter().map(target).filter(|name| !there.contains_key(name)).collect();
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
