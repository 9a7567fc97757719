//! Exit codes, and which error becomes which.

use std::process::ExitCode;

use durable::Error;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Done = 0,
    /// The execution did not complete.
    NotCompleted = 1,
    /// The request can't be carried out as it is.
    Refused = 2,
    /// There is no such execution.
    NotFound = 3,
    /// Something that is needed can't be had, or is damaged.
    Unavailable = 4,
    /// A signal ended it.
    Interrupted = 130,
}

/// What `durable --help` says about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
    0  done; for `run` and `resume`: the execution completed
    1  the execution failed, was cancelled, or is paused
    2  wrong usage, or refused: an invalid program, a missing input, functions that can't be
       loaded, an execution that is in another state
    3  no such execution
    4  the database or Python can't be used, or the database is damaged
  130  interrupted by Ctrl-C or SIGTERM; the execution can be resumed";

impl Exit {
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Error>() {
            // What is no error of the engine is about a file or a value that was given here.
            None | Some(Error::Invalid(_) | Error::Conflict(_)) => Self::Refused,
            Some(Error::NotFound(_)) => Self::NotFound,
            Some(Error::Unavailable(_) | Error::Corrupt(_) | Error::Internal(_)) => {
                Self::Unavailable
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
