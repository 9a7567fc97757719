//! The one place where SQLite's errors become the engine's.

use durable_core::Error;
use rusqlite::ErrorCode;

/// Why something inside a transaction did not work.
#[derive(Debug)]
pub(super) enum Fault {
    /// The store refuses it: the request lost a comparison, or a row is not as it must be.
    Refused(Error),
    /// SQLite refuses it.
    Sqlite(rusqlite::Error),
}

/// Results inside a transaction.
pub(super) type Outcome<T> = std::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(error) => error,
            Fault::Sqlite(error) => from_sqlite(&error),
        }
    }
}

impl Fault {
    /// Whether only the member at hand is concerned; otherwise the database itself is in trouble
    /// and nothing else of the batch would work either.
    pub(super) fn is_of_one_member(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                None | Some(
                    ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch
                )
            ),
        }
    }

    /// Whether another process holds the write lock.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite(error) if is_busy(error))
    }
}

/// Whether another process holds the lock that was asked for.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Names an error by what the caller can do about it.
pub(super) fn from_sqlite(error: &rusqlite::Error) -> Error {
    let Some(code) = error.sqlite_error_code() else {
        // The statement worked; a value in a row is of another type than the schema says.
        return Error::corrupt(format!("a row of the database can't be read: {error}"));
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::unavailable(format!(
            "another process keeps the database locked ({error}): \
             look for a long transaction and try again"
        )),
        ErrorCode::DiskFull => Error::unavailable(format!(
            "the disk is full ({error}): nothing of this batch was stored; free some space"
        )),
        ErrorCode::SystemIoFailure => Error::unavailable(format!(
            "reading or writing the database failed ({error}): check the disk and the system log"
        )),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Error::unavailable(format!(
            "the database can't be written ({error}): \
             check the rights of the file and of its directory"
        )),
        ErrorCode::CannotOpen => Error::unavailable(format!(
            "the database can't be opened ({error}): check that its directory exists"
        )),
        ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted | ErrorCode::OperationAborted => {
            Error::unavailable(format!("the database gave up ({error}): try again"))
        }
        ErrorCode::DatabaseCorrupt => Error::corrupt(format!(
            "the database file is damaged ({error}): \
             stop every process that uses it, keep a copy, and restore a backup"
        )),
        ErrorCode::NotADatabase => {
            Error::invalid(format!("the file is no SQLite database ({error})"))
        }
        ErrorCode::TooBig => Error::invalid(format!(
            "a value is larger than SQLite can store ({error}): \
             store large data elsewhere and pass a reference to it"
        )),
        _ => Error::internal(format!("the database refused a statement: {error}")),
    }
}
