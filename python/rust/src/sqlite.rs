//! A connection of the SQLite library that the engine uses, for SQLAlchemy.
//!
//! Python's own `sqlite3` would be a second copy of SQLite in the process, and two copies must
//! never open the same file: POSIX file locks belong to the process, so that neither sees the
//! locks of the other (<https://www.sqlite.org/howtocorrupt.html>, section 2.2.1).

use std::time::Duration;

use parking_lot::Mutex;
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType},
};
use rusqlite::{Connection, ErrorCode, Statement, types::Value};

#[pyclass(module = "durable_monty._internal")]
pub(crate) struct SqliteConnection {
    connection: Mutex<Option<Connection>>,
    pid: u32,
}

/// The same for Python: rows are a list of tuples.
type RanForPython<'py> = (Option<Vec<String>>, Bound<'py, PyList>, i64, i64);

/// What a statement gave: column names, rows, changed rows (-1 when it only reads), last row id.
type Ran = (Option<Vec<String>>, Vec<Vec<Value>>, i64, i64);

#[pymethods]
impl SqliteConnection {
    #[new]
    fn new(py: Python<'_>, path: &str, timeout_s: f64) -> PyResult<Self> {
        let opened = py.detach(|| {
            let connection = Connection::open(path)?;
            connection.busy_timeout(
                Duration::try_from_secs_f64(timeout_s.max(0.0)).unwrap_or(Duration::MAX),
            )?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| to_python(py, &error))?;
        Ok(Self { connection: Mutex::new(Some(connection)), pid: std::process::id() })
    }

    fn execute<'py>(
        &self,
        py: Python<'py>,
        sql: &str,
        parameters: &Bound<'py, PyAny>,
    ) -> PyResult<RanForPython<'py>> {
        self.check_process(py)?;
        let parameters = Parameters::from_python(parameters)?;
        let ran = py.detach(|| match &*self.connection.lock() {
            Some(connection) => run(connection, sql, &parameters).map(Some),
            None => Ok(None),
        });
        let Some((columns, rows, changed, last_id)) = ran.map_err(|error| to_python(py, &error))?
        else {
            return Err(exception(py, "ProgrammingError", "the connection is closed"));
        };
        let list = PyList::empty(py);
        for row in rows {
            let row = row.into_iter().map(|value| value_to_python(py, value));
            list.append(PyTuple::new(py, row.collect::<PyResult<Vec<_>>>()?)?)?;
        }
        Ok((columns, list, changed, last_id))
    }

    #[getter]
    fn in_transaction(&self, py: Python<'_>) -> bool {
        py.detach(|| {
            self.connection.lock().as_ref().is_some_and(|connection| !connection.is_autocommit())
        })
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.forget_or_drop());
    }
}

impl SqliteConnection {
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if std::process::id() == self.pid {
            return Ok(());
        }
        let why = "this connection was opened before the process forked: open one in the child";
        Err(exception(py, "ProgrammingError", why))
    }

    /// Closes the connection; in a forked child it is only forgotten, because closing it would
    /// touch what belongs to the parent.
    fn forget_or_drop(&self) {
        let connection = self.connection.lock().take();
        if std::process::id() != self.pid {
            std::mem::forget(connection);
        }
    }
}

impl Drop for SqliteConnection {
    fn drop(&mut self) {
        self.forget_or_drop();
    }
}

enum Parameters {
    Positional(Vec<Value>),
    Named(Vec<(String, Value)>),
}

impl Parameters {
    fn from_python(parameters: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(named) = parameters.cast::<PyDict>() {
            let named = named.iter().map(|(name, value)| {
                Ok((format!(":{}", name.extract::<String>()?), value_from_python(&value)?))
            });
            return named.collect::<PyResult<_>>().map(Self::Named);
        }
        let values = parameters.try_iter()?.map(|value| value_from_python(&value?));
        values.collect::<PyResult<_>>().map(Self::Positional)
    }

    fn bind(&self, statement: &mut Statement<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Positional(values) => {
                let expected = statement.parameter_count();
                if expected != values.len() {
                    return Err(rusqlite::Error::InvalidParameterCount(values.len(), expected));
                }
                for (index, value) in values.iter().enumerate() {
                    statement.raw_bind_parameter(index + 1, value)?;
                }
            }
            Self::Named(values) => {
                for (name, value) in values {
                    // A name that the statement does not use is none of its business.
                    if let Some(index) = statement.parameter_index(name)? {
                        statement.raw_bind_parameter(index, value)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn run(connection: &Connection, sql: &str, parameters: &Parameters) -> rusqlite::Result<Ran> {
    let mut statement = connection.prepare_cached(sql)?;
    parameters.bind(&mut statement)?;
    let reads = statement.readonly();
    let width = statement.column_count();
    let columns = (width > 0).then(|| statement.column_names().map(str::to_owned).collect());
    let mut found = Vec::new();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let values = (0..width).map(|index| row.get::<_, Value>(index));
        found.push(values.collect::<rusqlite::Result<_>>()?);
    }
    drop(rows);
    let changed = if reads { -1 } else { connection.changes() as i64 };
    Ok((columns, found, changed, connection.last_insert_rowid()))
}

fn value_from_python(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_none() {
        return Ok(Value::Null);
    }
    if value.is_instance_of::<PyInt>() {
        return value.extract().map(Value::Integer);
    }
    if value.is_instance_of::<PyFloat>() {
        return value.extract().map(Value::Real);
    }
    if value.is_instance_of::<PyString>() {
        return value.extract().map(Value::Text);
    }
    if let Ok(bytes) = value.extract::<Vec<u8>>() {
        return Ok(Value::Blob(bytes));
    }
    let name = value.get_type().name()?;
    Err(PyTypeError::new_err(format!("a {name} can't be stored in SQLite")))
}

fn value_to_python(py: Python<'_>, value: Value) -> PyResult<Bound<'_, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Integer(number) => number.into_pyobject(py)?.into_any(),
        Value::Real(number) => number.into_pyobject(py)?.into_any(),
        Value::Text(text) => text.into_pyobject(py)?.into_any(),
        Value::Blob(bytes) => PyBytes::new(py, &bytes).into_any(),
    })
}

/// The exception of Python's `sqlite3` that says the same.
fn to_python(py: Python<'_>, error: &rusqlite::Error) -> PyErr {
    let name = match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => "IntegrityError",
        Some(ErrorCode::TypeMismatch | ErrorCode::TooBig) => "DataError",
        Some(ErrorCode::ApiMisuse | ErrorCode::ParameterOutOfRange) => "ProgrammingError",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "DatabaseError",
        Some(_) => "OperationalError",
        None => "ProgrammingError",
    };
    exception(py, name, &error.to_string())
}

fn exception(py: Python<'_>, name: &str, message: &str) -> PyErr {
    let class = py
        .import("sqlite3")
        .and_then(|module| module.getattr(name))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, message.to_owned()),
        Err(missing) => missing,
    }
}
