//! The one place where Postgres' errors become the engine's.

use durable_core::Error;
use tokio_postgres::error::SqlState;

use crate::trust::distrust;

/// Why something did not work.
#[derive(Debug)]
pub(super) enum Fault {
    /// The store refuses it: the request lost a comparison, or a row is not as it must be.
    Refused(Error),
    /// A comparison inside of the database was lost; which, and why, is to be found out.
    Lost,
    /// The database refuses what this member of a batch wants to store.
    Member(Error),
    /// Another transaction was in the way, and this one was undone: once more.
    Again(Error),
    /// The connection can't keep prepared statements: there is a pooler in between.
    Pooled(Error),
    /// The connection is gone. What was under way may have happened or not.
    Broken(Error),
    /// The database itself is in trouble.
    Failed(Error),
}

/// Results inside this store.
pub(super) type Outcome<T> = std::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Lost => Error::internal("a comparison was lost for no reason that can be seen"),
            Fault::Refused(error)
            | Fault::Member(error)
            | Fault::Again(error)
            | Fault::Pooled(error)
            | Fault::Broken(error)
            | Fault::Failed(error) => error,
        }
    }
}

impl Fault {
    /// Whether only the member at hand is concerned; otherwise nothing else of the batch would
    /// work either.
    pub(super) fn is_of_one_member(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Lost | Self::Member(_))
    }

    /// Whether a read is worth another try.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Again(_) | Self::Pooled(_) | Self::Broken(_))
    }
}

/// What [`durable_require`](super) raises.
const LOST: &str = "DU001";

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let text = with_causes(&error);
            if let Some(fault) = of_tls(&error, &text) {
                return fault;
            }
            // Without a word from the server: either the connection, or a value that can't be read.
            return if error.is_closed() || is_of_connection(&error) {
                Self::Broken(unavailable("the connection was lost", &text))
            } else {
                Self::Refused(Error::corrupt(format!(
                    "a row of the database can't be read: {text}"
                )))
            };
        };
        let text = match db.detail() {
            Some(detail) => format!("{} ({detail})", db.message()),
            None => db.message().to_owned(),
        };
        let code = db.code();
        if code.code() == LOST {
            return Self::Lost;
        }
        if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) {
            return Self::Again(unavailable("another transaction was in the way", &text));
        }
        if [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code) {
            return Self::Pooled(unavailable("prepared statements are not kept", &text));
        }
        match code.code().get(..2).unwrap_or_default() {
            // Shut down, crashed, starting up; a connection exception.
            "57" if *code != SqlState::QUERY_CANCELED => {
                Self::Broken(unavailable("the server went away", &text))
            }
            "08" => Self::Broken(unavailable("the connection was lost", &text)),
            "57" | "55" => Self::Failed(unavailable("the database took too long", &text)),
            "53" => Self::Failed(unavailable("the server lacks resources", &text)),
            "58" | "XX" => Self::Failed(unavailable("the server has an internal problem", &text)),
            // Data it can't hold, constraints, limits.
            "22" | "23" | "54" => Self::Member(Error::invalid(format!(
                "Postgres can't store a value ({text}): store such data elsewhere and pass a \
                 reference to it"
            ))),
            "25" if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Self::Failed(unavailable(
                "the server takes no writes: connect to the primary",
                &text,
            )),
            "28" | "3D" | "42" if is_of_access(code) => {
                Self::Failed(Error::invalid(format!("Postgres refuses access: {text}")))
            }
            _ => Self::Failed(Error::internal(format!(
                "Postgres refused a statement: {text} (SQLSTATE {})",
                code.code()
            ))),
        }
    }
}

/// What no other try would change about an encrypted connection.
fn of_tls(error: &tokio_postgres::Error, text: &str) -> Option<Fault> {
    if let Some(why) = distrust(error) {
        return Some(Fault::Failed(Error::invalid(format!(
            "Postgres: the server's certificate is not trusted ({why}): name the file with its \
             authority as sslrootcert, and the host as the certificate does"
        ))));
    }
    // The library tells it apart in no other way.
    let is_refused = text.starts_with("error performing TLS handshake") && !is_of_connection(error);
    is_refused.then(|| {
        Fault::Failed(Error::invalid(format!(
            "Postgres: no encrypted connection ({text}): have the server speak TLS, or ask for \
             another sslmode"
        )))
    })
}

fn is_of_access(code: &SqlState) -> bool {
    [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ]
    .contains(code)
}

/// Whether the error came from below the protocol.
fn is_of_connection(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

pub(super) fn unavailable(what: &str, text: &str) -> Error {
    Error::unavailable(format!("Postgres: {what} ({text}): try again"))
}

/// An error with what caused it. Neither holds a password.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A connection could not be had.
pub(super) fn from_pool(error: deadpool_postgres::PoolError) -> Fault {
    match error {
        deadpool_postgres::PoolError::Backend(error) => match Fault::from(error) {
            // Nothing was under way; but whatever it says, it may be over in a moment.
            Fault::Refused(error) | Fault::Member(error) => Fault::Broken(error),
            fault => fault,
        },
        other => Fault::Broken(unavailable("no connection", &with_causes(&other))),
    }
}
