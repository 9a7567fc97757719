//! The one map from the engine's errors to Python's.

use durable::Error;
use pyo3::{prelude::*, types::PyType};

/// Makes the Python exception of `durable_monty.errors` that says the same.
pub(crate) fn to_python(error: Error) -> PyErr {
    let (name, message) = match error {
        Error::Invalid(message) => ("InvalidWorkflow", message),
        Error::NotFound(message) => ("NotFound", message),
        Error::Conflict(message) => ("Conflict", message),
        Error::Unavailable(message) => ("Unavailable", message),
        Error::Corrupt(message) => ("Corrupt", message),
        Error::Internal(message) => ("InternalError", message),
    };
    Python::attach(|py| {
        let found = py
            .import("durable_monty.errors")
            .and_then(|module| module.getattr(name))
            .and_then(|class| Ok(class.cast_into::<PyType>()?));
        match found {
            Ok(class) => PyErr::from_type(class, message.into_owned()),
            Err(missing) => missing,
        }
    })
}
