//! One attempt of one call, as Python sees it.

use durable::CallRequest;
use pyo3::prelude::*;

#[pyclass(frozen, module = "durable_monty._internal")]
pub(crate) struct Task {
    pub(crate) call: CallRequest,
}

impl Task {
    pub(crate) fn new(call: CallRequest) -> Self {
        Self { call }
    }
}

#[pymethods]
impl Task {
    #[getter]
    fn execution_id(&self) -> String {
        self.call.execution.to_string()
    }

    #[getter]
    fn call_id(&self) -> u32 {
        self.call.call
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.call.attempt
    }

    #[getter]
    fn function(&self) -> &str {
        &self.call.function
    }

    #[getter]
    fn step(&self) -> &str {
        &self.call.step
    }

    #[getter]
    fn args(&self) -> &str {
        self.call.args.as_str()
    }

    #[getter]
    fn kwargs(&self) -> &str {
        self.call.kwargs.as_str()
    }

    #[getter]
    fn idempotency_key(&self) -> String {
        self.call.idempotency_key()
    }

    #[getter]
    fn timeout_ms(&self) -> Option<u64> {
        self.call.timeout_ms
    }
}
