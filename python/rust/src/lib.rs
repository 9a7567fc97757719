//! The Python module `durable_monty._internal`: a thin seam over the engine.
//!
//! No lock of this crate is held while Python code runs, and the GIL is not held while anything
//! here waits. What each function takes and gives stands in `_internal.pyi`.

mod checkpoints;
mod engine;
mod error;
mod http;
mod records;
mod session;
mod sqlite;
mod task;

use pyo3::prelude::*;

/// Lets interpreter workers bound their memory; elsewhere it only counts.
#[global_allocator]
static ALLOCATOR: durable::LimitedAllocator = durable::LimitedAllocator;

/// Body of an interpreter worker process.
#[pyfunction]
fn worker_main(py: Python<'_>) -> i32 {
    // An exit code other than success is for the parent's log only.
    py.detach(|| i32::from(durable::worker_main() != std::process::ExitCode::SUCCESS))
}

/// Brings the schema up to date; versions before and after.
#[pyfunction]
fn migrate(py: Python<'_>, url: &str) -> PyResult<(u32, u32)> {
    py.detach(|| durable::migrate(url)).map_err(error::to_python)
}

/// The id of a step workflow and the agents that it names; nothing is checked.
#[pyfunction]
fn outline(source: &str, language: &str) -> PyResult<(Option<String>, Vec<String>)> {
    let language = durable::Language::parse(language).map_err(error::to_python)?;
    let durable::Outline { id, agents } = durable::Outline::of(language, source);
    Ok((id, agents.into_iter().collect()))
}

#[pymodule]
fn _internal(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Warnings of the engine go to standard error unless RUST_LOG asks for more or less. A host
    // that has set up its own subscriber keeps it.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<checkpoints::CheckpointStore>()?;
    module.add_class::<task::Task>()?;
    module.add_class::<session::Session>()?;
    module.add_class::<http::HttpApp>()?;
    module.add_class::<http::Exchange>()?;
    module.add_class::<sqlite::SqliteConnection>()?;
    module.add_function(wrap_pyfunction!(worker_main, module)?)?;
    module.add_function(wrap_pyfunction!(migrate, module)?)?;
    module.add_function(wrap_pyfunction!(outline, module)?)?;
    Ok(())
}
