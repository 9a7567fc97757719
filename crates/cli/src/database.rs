//! Opening the database.

use durable::{Config, Durable, Engine, Error, ExecutionId, Isolation, Location, Result};

/// Opens a database to look at it or to change what it says; no program code is run, and a
/// database that is not there is not made.
pub(crate) fn open(url: &str) -> Result<Engine> {
    if let Location::Sqlite(path) = Location::parse(url)?
        && !path.exists()
    {
        return Err(Error::unavailable(format!(
            "there is no database {}: `durable run` or `durable migrate` makes one, --db or \
             DURABLE_DB names another",
            path.display()
        )));
    }
    Durable::builder(url).isolation(Isolation::Thread).workers(1).open_engine()
}

/// Opens a database to store executions that workers run; makes it if it is not there.
pub(crate) fn open_to_start(url: &str) -> Result<Engine> {
    if Location::parse(url)? == Location::Memory {
        return Err(Error::invalid(
            "what is started in memory is lost at once: --db names a database that is kept",
        ));
    }
    Durable::builder(url).isolation(Isolation::Thread).workers(1).open_engine()
}

/// Opens a database to run executions.
pub(crate) fn open_to_run(url: &str, isolation: Isolation, config: Config) -> Result<Engine> {
    Durable::builder(url).isolation(isolation).config(config).open_engine()
}

/// Reads an id; one that can't be an id names no execution.
pub(crate) fn id(text: &str) -> Result<ExecutionId> {
    text.parse()
}
