//! Database URLs and what stands in them.

use std::{fmt, path::PathBuf, time::Duration};

use durable_core::{Error, Result};
use mysql_async::{Opts, OptsBuilder, SslOpts};

use crate::query::{decode, duration, invalid};

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// Not at all.
    None,
    /// Nobody is verified: this keeps out who only listens.
    Unverified,
    /// The server's certificate must be valid for its name.
    Verified,
}

/// Where a MySQL or MariaDB database is, and how it is used.
///
/// ```
/// use durable_store::MysqlOptions;
/// let options = MysqlOptions::parse("mysql+pymysql://app:secret@db.example/app?ssl_mode=required")?;
/// assert_eq!(options.to_string(), "mysql://app@db.example:3306/app");
/// assert!(MysqlOptions::parse("mysql://db.example").is_err());
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlOptions {
    place: Opts,
    tls: Tls,
    root_certificates: Option<PathBuf>,
    socket: Option<String>,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
    lock_timeout: Duration,
}

/// Of the statement that every session begins with, once the time to wait for a lock is in it.
///
/// Text compares as it is stored, byte by byte and with its trailing spaces; each server calls that
/// by another name, and reads only its own of these comments.
const SESSION: &str = "\
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET NAMES utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */; \
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', SESSION autocommit = 1, \
        SESSION time_zone = '+00:00', SESSION innodb_lock_wait_timeout = ";

impl MysqlOptions {
    /// Reads a URL, `mysql://user:password@host:port/database`, also with `mariadb://` and
    /// SQLAlchemy's `mysql+pymysql://` and the like. It may say `ssl_mode` (`disabled`, `required`,
    /// `verify_identity`), `ssl_ca` (a file of certificates; it means `verify_identity`),
    /// `unix_socket`, `connect_timeout` in seconds, `statement_timeout_ms` and `lock_timeout_ms`.
    ///
    /// # Errors
    /// `Invalid` with what is wrong, without the password.
    pub fn parse(url: &str) -> Result<Self> {
        let rest = url
            .split_once("://")
            .filter(|(scheme, _)| {
                let (name, driver) = scheme.split_once('+').unwrap_or((scheme, "pymysql"));
                matches!(name, "mysql" | "mariadb")
                    && matches!(
                        driver,
                        "pymysql"
                            | "mysqldb"
                            | "mysqlconnector"
                            | "mariadbconnector"
                            | "asyncmy"
                            | "aiomysql"
                    )
            })
            .map(|(_, rest)| rest)
            .ok_or_else(|| invalid("expected mysql://user:password@host:port/database"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let opts = Opts::from_url(&format!("mysql://{place}"))
            .map_err(|error| invalid(&error.to_string()))?;
        if opts.db_name().is_none_or(str::is_empty) {
            return Err(invalid("it names no database"));
        }
        let mut options = Self {
            place: opts,
            tls: Tls::None,
            root_certificates: None,
            socket: None,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(10),
        };
        let mut mode = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "ssl_mode" => mode = Some(ssl_mode(value)?),
                "ssl_ca" => options.root_certificates = Some(decode(value)?.into()),
                "unix_socket" => options.socket = Some(decode(value)?),
                "connect_timeout" => options.connect_timeout = duration(name, value, 1_000)?,
                "statement_timeout_ms" => options.statement_timeout = duration(name, value, 1)?,
                "lock_timeout_ms" => options.lock_timeout = duration(name, value, 1)?,
                // What SQLAlchemy's users write; it is always so here.
                "charset" if value == "utf8mb4" => {}
                _ => return Err(invalid(&format!("it has an option '{name}' that there is not"))),
            }
        }
        let named = options.root_certificates.as_ref().map(|_| Tls::Verified);
        options.tls = mode.or(named).unwrap_or(Tls::None);
        Ok(options)
    }

    /// What a connection is made with.
    pub(super) fn connection(&self) -> Result<Opts> {
        let seconds = self.lock_timeout.as_millis().div_ceil(1_000);
        let builder = OptsBuilder::from_opts(self.place.clone())
            .prefer_socket(false)
            .socket(self.socket.clone())
            // An update counts the rows that it finds, also those that it leaves as they were.
            .client_found_rows(true)
            .tcp_keepalive(Some(Duration::from_secs(15)))
            .stmt_cache_size(0)
            // What the server sends is as long as it is; what it takes is asked for elsewhere.
            .max_allowed_packet(Some(1 << 30))
            .wait_timeout(Some(28_800))
            .ssl_opts(self.ssl()?)
            .setup(vec![format!("{SESSION}{seconds}")]);
        Ok(builder.into())
    }

    fn ssl(&self) -> Result<Option<SslOpts>> {
        Ok(match self.tls {
            Tls::None => None,
            Tls::Unverified => {
                let ssl = SslOpts::default().with_danger_accept_invalid_certs(true);
                Some(ssl.with_danger_skip_domain_validation(true))
            }
            Tls::Verified => {
                let ssl = SslOpts::default().with_disable_built_in_roots(true);
                Some(ssl.with_root_certs(self.roots()?.into_iter().map(Into::into).collect()))
            }
        })
    }

    /// The certificates in the given file, else those of the operating system.
    fn roots(&self) -> Result<Vec<Vec<u8>>> {
        if let Some(path) = &self.root_certificates {
            let bytes = std::fs::read(path)
                .map_err(|error| Error::invalid(format!("ssl_ca {}: {error}", path.display())))?;
            return Ok(vec![bytes]);
        }
        let found = rustls_native_certs::load_native_certs().certs;
        if found.is_empty() {
            return Err(Error::invalid(
                "no root certificates to verify the database with: name a file as ssl_ca",
            ));
        }
        Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
    }

    /// The name of the database.
    pub(super) fn database(&self) -> &str {
        self.place.db_name().unwrap_or_default()
    }
}

impl fmt::Display for MysqlOptions {
    /// The URL without password and options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        f.write_str("mysql://")?;
        if let Some(user) = place.user() {
            write!(f, "{user}@")?;
        }
        write!(f, "{}:{}/{}", place.ip_or_hostname(), place.tcp_port(), self.database())
    }
}

impl fmt::Debug for MysqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn ssl_mode(word: &str) -> Result<Tls> {
    Ok(match word.to_ascii_lowercase().as_str() {
        "disabled" => Tls::None,
        "required" => Tls::Unverified,
        "verify_identity" => Tls::Verified,
        _ => return Err(invalid("ssl_mode is one of disabled, required, verify_identity")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_to_connect_and_its_password_is_never_shown() {
        let url = "mariadb+pymysql://ann:s3cr%40t@db:3307/app?ssl_ca=%2Fetc%2Fca.pem\
                   &connect_timeout=3&charset=utf8mb4&lock_timeout_ms=1500";
        let options = MysqlOptions::parse(url).unwrap();
        assert_eq!(options.tls, Tls::Verified);
        assert_eq!(options.root_certificates, Some("/etc/ca.pem".into()));
        assert_eq!(options.connect_timeout, Duration::from_secs(3));
        assert_eq!(options.place.pass(), Some("s3cr@t"));
        assert_eq!(format!("{options} {options:?}").matches("s3cr").count(), 0);
        assert_eq!(options.to_string(), "mysql://ann@db:3307/app");
        let plain = MysqlOptions::parse("mysql://ann@db/app").unwrap();
        assert!(plain.connection().unwrap().setup()[0].ends_with("innodb_lock_wait_timeout = 10"));
    }

    #[test]
    fn what_can_not_be_meant_is_refused_without_the_password() {
        for url in [
            "mysql://ann:s3cret@db",
            "mysql://ann:s3cret@db/",
            "mysql+odbc://ann:s3cret@db/app",
            "mysql://ann:s3cret@db/app?ssl_mode=preferred",
            "mysql://ann:s3cret@db/app?connect_timeout=-1",
            "mysql://ann:s3cret@db/app?colour=blue",
            "mysql://ann:s3cret@db:port/app",
            "mysql://ann:s3cret@db/app?ssl_ca=%zz",
        ] {
            let error = MysqlOptions::parse(url).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{url}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
