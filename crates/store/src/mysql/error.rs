//! The one place where MySQL's errors become the engine's.

use durable_core::Error;
use mysql_async::{DriverError, FromValueError, ServerError};

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
    /// Another transaction was in the way, and this one has to be undone: once more.
    Again(Error),
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
        matches!(self, Self::Again(_) | Self::Broken(_))
    }
}

impl From<mysql_async::Error> for Fault {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) => of_server(&error),
            mysql_async::Error::Driver(
                error @ (DriverError::UnknownAuthPlugin { .. }
                | DriverError::MysqlOldPasswordDisabled
                | DriverError::CleartextPluginDisabled),
            ) => Self::Failed(Error::invalid(format!("MySQL refuses access: {error}"))),
            mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => {
                Self::Failed(Error::invalid(
                    "MySQL: no encrypted connection, since the server does not support TLS: have \
                     it speak TLS, or ask for ssl_mode=disabled",
                ))
            }
            mysql_async::Error::Url(error) => {
                Self::Failed(Error::invalid(format!("the database URL can't be used: {error}")))
            }
            other => match distrust(&other) {
                Some(why) => Self::Failed(Error::invalid(format!(
                    "MySQL: the server's certificate is not trusted ({why}): name the file with \
                     its authority as ssl_ca, and the host as the certificate does"
                ))),
                None => Self::Broken(unavailable("the connection was lost", &with_causes(&other))),
            },
        }
    }
}

impl From<FromValueError> for Fault {
    fn from(error: FromValueError) -> Self {
        Self::Refused(Error::corrupt(format!("a row of the database can't be read: {error}")))
    }
}

/// The names of these numbers stand in MySQL's and MariaDB's lists of errors.
fn of_server(error: &ServerError) -> Fault {
    let text = &error.message;
    match error.code {
        // What `require!` raises.
        1242 => Fault::Lost,
        // A deadlock, a lock that was waited for too long, a row that changed meanwhile.
        1213 | 1205 | 1020 | 3572 => {
            Fault::Again(unavailable("another transaction was in the way", text))
        }
        // Shutting down, killed; too many connections, which passes.
        1053 | 1077 | 1080 | 1159 | 1160 | 1161 | 1152 | 1158 | 1184 | 1317 | 1927 => {
            Fault::Broken(unavailable("the server went away", text))
        }
        1040 | 1203 | 1226 => Fault::Broken(unavailable("it takes no more connections", text)),
        1969 | 3024 => Fault::Failed(unavailable("a statement took too long", text)),
        // Disk and memory.
        1021 | 1030 | 1037 | 1038 | 1041 | 1114 | 1206 => {
            Fault::Failed(unavailable("the server lacks resources", text))
        }
        // Data it can't hold, constraints, limits.
        1048 | 1062 | 1118 | 1139 | 1153 | 1264 | 1265 | 1292 | 1301 | 1366 | 1406 | 1690
        | 3140 | 4025 => Fault::Member(Error::invalid(format!(
            "MySQL can't store a value ({text}): store such data elsewhere and pass a reference \
             to it"
        ))),
        1290 | 1792 | 1836 => {
            Fault::Failed(unavailable("the server takes no writes: connect to the primary", text))
        }
        1419 => Fault::Failed(Error::invalid(format!(
            "MySQL refuses to make a trigger: {text}. With a binary log, making the schema needs \
             log_bin_trust_function_creators=1, or a user that may (SUPER, SET_USER_ID) once"
        ))),
        1044 | 1045 | 1049 | 1142 | 1143 | 1227 | 1251 | 1370 | 1524 | 1698 => {
            Fault::Failed(Error::invalid(format!("MySQL refuses access: {text}")))
        }
        code => Fault::Failed(Error::internal(format!(
            "MySQL refused a statement: {text} (error {code})"
        ))),
    }
}

pub(super) fn unavailable(what: &str, text: &str) -> Error {
    Error::unavailable(format!("MySQL: {what} ({text}): try again"))
}

/// An error with what caused it. Neither holds a password.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
