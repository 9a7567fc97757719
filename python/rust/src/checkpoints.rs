//! Checkpoints behind a provider.

use std::time::Duration;

use durable::Error;
use durable_checkpoints::{Checkpoints, KeyRing, Options, connect};
use pyo3::{exceptions::PyValueError, prelude::*, pybacked::PyBackedStr};

use crate::error::to_python;

#[pyclass(module = "durable_monty._internal", frozen)]
pub(crate) struct CheckpointStore {
    /// `None` only while it is dropped.
    checkpoints: Option<Checkpoints>,
}

impl CheckpointStore {
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        run: impl FnOnce(&Checkpoints) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let closed = || Error::unavailable("it is closed");
        py.detach(|| run(self.checkpoints.as_ref().ok_or_else(closed)?)).map_err(to_python)
    }
}

impl Drop for CheckpointStore {
    fn drop(&mut self) {
        // Leases are given back, which may wait for a server.
        let checkpoints = self.checkpoints.take();
        Python::attach(|py| py.detach(|| drop(checkpoints)));
    }
}

#[pymethods]
impl CheckpointStore {
    #[new]
    fn new(
        py: Python<'_>,
        url: &str,
        max_bytes: usize,
        keep_last: Option<usize>,
        lease_s: f64,
        keys: Option<&str>,
    ) -> PyResult<Self> {
        let lease = Duration::try_from_secs_f64(lease_s)
            .map_err(|error| PyValueError::new_err(format!("lease_s: {error}")))?;
        let opened = py.detach(|| {
            let keys = keys.map(KeyRing::parse).transpose()?.unwrap_or_default();
            let options = Options { max_bytes, keep_last, lease, keys };
            Ok(Checkpoints::new(connect(url)?, options))
        });
        Ok(Self { checkpoints: Some(opened.map_err(to_python)?) })
    }

    fn save(&self, py: Python<'_>, id: &str, content: PyBackedStr) -> PyResult<(usize, usize)> {
        let saved = self.run(py, |checkpoints| checkpoints.save(id, content.as_bytes()))?;
        Ok((saved.bytes, saved.removed))
    }

    fn load(&self, py: Python<'_>, id: &str) -> PyResult<Option<String>> {
        self.run(py, |checkpoints| {
            let content = checkpoints.load(id)?;
            content.map(String::from_utf8).transpose().map_err(|_| {
                Error::corrupt(format!("checkpoint {id} holds no text, and so no JSON"))
            })
        })
    }

    fn list(&self, py: Python<'_>, execution: &str) -> PyResult<Vec<String>> {
        self.run(py, |checkpoints| checkpoints.list(execution))
    }

    fn delete(&self, py: Python<'_>, id: &str) -> PyResult<bool> {
        self.run(py, |checkpoints| checkpoints.delete(id))
    }

    fn cleanup(&self, py: Python<'_>, execution: &str, keep_last: usize) -> PyResult<usize> {
        self.run(py, |checkpoints| checkpoints.cleanup(execution, keep_last))
    }

    fn acquire(&self, py: Python<'_>, execution: &str) -> PyResult<()> {
        self.run(py, |checkpoints| checkpoints.acquire(execution))
    }

    fn release(&self, py: Python<'_>, execution: &str) -> PyResult<()> {
        self.run(py, |checkpoints| checkpoints.release(execution))
    }

    #[getter]
    fn place(&self, py: Python<'_>) -> PyResult<String> {
        self.run(py, |checkpoints| Ok(checkpoints.place()))
    }
}
