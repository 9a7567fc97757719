//! A session as a Python class.

use std::time::Instant;

use durable::{
    Came, Error, ExecutionId, Feed, FeedRecord, Limits, Payload, Session as RustSession,
};
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

use crate::engine::{Engine, SIGNAL_CHECK, duration};

#[pyclass(frozen, module = "durable_monty._internal")]
pub(crate) struct Session {
    engine: Py<Engine>,
    id: ExecutionId,
}

impl Session {
    /// Runs `work` on the session without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(RustSession<'_>) -> durable::Result<T> + Send,
    ) -> PyResult<T> {
        let id = self.id;
        self.engine.get().with(py, |engine| work(RustSession::get(engine, id)?))
    }

    /// Asks in slices, between which Python can handle a signal, until there is an answer or the
    /// time is over.
    fn wait<T: Send>(
        &self,
        py: Python<'_>,
        timeout_s: Option<f64>,
        ask: impl Fn(RustSession<'_>, std::time::Duration) -> durable::Result<Option<T>> + Sync,
    ) -> PyResult<Option<T>> {
        let until = timeout_s.map(|seconds| Instant::now() + duration(seconds));
        loop {
            let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
            let at_most = rest.map_or(SIGNAL_CHECK, |rest| rest.min(SIGNAL_CHECK));
            if let Some(found) = self.with(py, |session| ask(session, at_most))? {
                return Ok(Some(found));
            }
            py.check_signals()?;
            if rest.is_some_and(|rest| rest <= at_most) {
                return Ok(None);
            }
        }
    }
}

#[pymethods]
impl Session {
    #[staticmethod]
    fn open(py: Python<'_>, engine: Py<Engine>, execution_id: &str) -> PyResult<Self> {
        let id = engine.get().with(py, |engine| {
            let id = execution_id
                .parse()
                .map_err(|_| Error::not_found(format!("no execution '{execution_id}'")))?;
            RustSession::get(engine, id).map(|session| session.id())
        })?;
        Ok(Self { engine, id })
    }

    #[pyo3(signature = (code, response = None, number = None, timeout_s = None))]
    fn submit(
        &self,
        py: Python<'_>,
        code: &str,
        response: Option<&str>,
        number: Option<u32>,
        timeout_s: Option<f64>,
    ) -> PyResult<Option<u32>> {
        let max_bytes = usize::try_from(Limits::default().max_payload_bytes).unwrap_or(usize::MAX);
        let response = response.map(|response| Payload::parse(response, max_bytes)).transpose();
        let response = response.map_err(crate::error::to_python)?;
        let feed = Feed { code: code.to_owned(), response, number };
        self.wait(py, timeout_s, |session, at_most| session.submit(&feed, Some(at_most)))
    }

    #[pyo3(signature = (number, timeout_s = None))]
    fn result<'py>(
        &self,
        py: Python<'py>,
        number: u32,
        timeout_s: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let came =
            self.wait(py, timeout_s, |session, at_most| session.result(number, Some(at_most)))?;
        came.map(|came| came_of(py, &came)).transpose()
    }

    fn feeds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let feeds = self.with(py, |session| session.feeds())?;
        let list = PyList::empty(py);
        for FeedRecord { number, code, response, came } in &feeds {
            let dict = PyDict::new(py);
            dict.set_item("number", number)?;
            dict.set_item("code", code)?;
            dict.set_item("response", response.as_ref().map(Payload::as_str))?;
            let came = came.as_ref().map(|came| came_of(py, came)).transpose()?;
            dict.set_item("result", came)?;
            list.append(dict)?;
        }
        Ok(list)
    }

    fn variables(&self, py: Python<'_>) -> PyResult<std::collections::BTreeMap<String, String>> {
        let variables = self.with(py, |session| session.variables())?;
        let text = |(name, value): (String, Payload)| (name, value.as_str().to_owned());
        Ok(variables.into_iter().map(text).collect())
    }

    #[pyo3(signature = (after = None))]
    fn fork(&self, py: Python<'_>, after: Option<u32>) -> PyResult<String> {
        self.with(py, |session| Ok(session.fork(after)?.id().to_string()))
    }

    fn rewind(&self, py: Python<'_>, after: u32) -> PyResult<String> {
        self.with(py, |session| Ok(session.rewind(after)?.id().to_string()))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.wait(py, None, |session, at_most| session.close(Some(at_most))).map(drop)
    }
}

fn came_of<'py>(py: Python<'py>, came: &Came) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("number", came.number)?;
    dict.set_item("output", came.output.as_str())?;
    dict.set_item("repr", came.repr.as_deref())?;
    dict.set_item("printed", &came.printed)?;
    let error = came.error.as_ref().map(|error| {
        let dict = PyDict::new(py);
        dict.set_item("type", &error.error_type)?;
        dict.set_item("message", &error.message)?;
        dict.set_item("traceback", error.traceback.as_deref())?;
        dict.set_item("call_id", error.call)?;
        PyResult::Ok(dict)
    });
    dict.set_item("error", error.transpose()?)?;
    Ok(dict)
}
