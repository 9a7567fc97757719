//! What runs programs: the interpreter, or the steps, as their language says.

use std::sync::Arc;

use durable_core::{
    Advance, AdvanceDone, ExecutionId, Inspection, Payload, Program, Result, Runner,
    seal::SnapshotKey,
};
use durable_interpreter::Pool;
use durable_steps::Steps;

use crate::{Isolation, worker};

struct ByLanguage {
    python: Pool,
    steps: Steps,
}

/// Starts what runs programs of all languages.
///
/// # Errors
/// `Invalid` or `Unavailable` when the workers can't be started.
pub(crate) fn start(
    isolation: Isolation,
    workers: usize,
    key: SnapshotKey,
) -> Result<Arc<dyn Runner>> {
    let python = worker::pool(isolation, workers, key.clone())?;
    Ok(Arc::new(ByLanguage { python, steps: Steps::new(key)? }))
}

impl ByLanguage {
    fn of(&self, program: &Program) -> &dyn Runner {
        if program.definition().language.is_steps() { &self.steps } else { &self.python }
    }
}

impl Runner for ByLanguage {
    fn advance(&self, request: Advance, done: AdvanceDone) {
        let program = Arc::clone(&request.program);
        self.of(&program).advance(request, done);
    }

    fn validate(&self, program: &Program) -> Result<()> {
        self.of(program).validate(program)
    }

    fn validate_inputs(&self, program: &Program, inputs: &Payload) -> Result<()> {
        self.of(program).validate_inputs(program, inputs)
    }

    fn inspect(&self, request: Advance) -> Result<Inspection> {
        let program = Arc::clone(&request.program);
        self.of(&program).inspect(request)
    }

    fn forget(&self, execution: ExecutionId) {
        self.python.forget(execution);
        self.steps.forget(execution);
    }
}
