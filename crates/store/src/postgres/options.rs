//! Database URLs and what stands in them.

use std::{fmt, path::PathBuf, time::Duration};

use durable_core::Result;
use tokio_postgres::{Config, config::SslMode};

use super::error::{unavailable, with_causes};
use crate::query::{decode, duration, invalid};

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// As the server likes it; nobody is verified.
    Unverified,
    /// The server's certificate must be valid for its name.
    Verified,
}

/// Where a Postgres database is, and how it is used.
///
/// ```
/// use durable_store::PostgresOptions;
/// let options = PostgresOptions::parse("postgresql://app:secret@db.example/app?sslmode=require")?;
/// assert_eq!(options.to_string(), "postgresql://app@db.example:5432/app");
/// assert!(PostgresOptions::parse("postgresql://db/app?sslmode=maybe").is_err());
/// # Ok::<(), durable_core::Error>(())
/// ```
#[derive(Clone)]
pub struct PostgresOptions {
    config: Config,
    pub(super) tls: Tls,
    pub(super) root_certificates: Option<PathBuf>,
    /// Whether statements stay prepared; `None` to find out.
    pub(super) prepare: Option<bool>,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
    pub(super) lock_timeout: Duration,
    /// Whether a commit is on the disk when it is acknowledged.
    pub synchronous: bool,
}

impl PostgresOptions {
    /// Reads a URL: what libpq takes, with `sslmode` (`disable`, `prefer`, `require`,
    /// `verify-full`), `sslrootcert`, `connect_timeout` in seconds, and our own `prepare`
    /// (`true`, `false`), `statement_timeout_ms` and `lock_timeout_ms`. `postgres://` and
    /// SQLAlchemy's `postgresql+psycopg://` name the same.
    ///
    /// # Errors
    /// `Invalid` with what is wrong, without the password.
    pub fn parse(url: &str) -> Result<Self> {
        let rest = url
            .split_once("://")
            .filter(|(scheme, _)| {
                let (name, driver) = scheme.split_once('+').unwrap_or((scheme, "psycopg"));
                matches!(name, "postgresql" | "postgres")
                    && matches!(driver, "psycopg" | "psycopg2" | "asyncpg" | "pg8000")
            })
            .map(|(_, rest)| rest)
            .ok_or_else(|| invalid("expected postgresql://user:password@host:port/database"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Self {
            config: Config::new(),
            tls: Tls::Unverified,
            root_certificates: None,
            prepare: None,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(10),
            synchronous: true,
        };
        let mut mode = SslMode::Prefer;
        let mut theirs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sslmode" => (mode, options.tls) = ssl_mode(value)?,
                "sslrootcert" => options.root_certificates = Some(decode(value)?.into()),
                "prepare" => options.prepare = Some(flag(name, value)?),
                "connect_timeout" => options.connect_timeout = duration(name, value, 1_000)?,
                "statement_timeout_ms" => options.statement_timeout = duration(name, value, 1)?,
                "lock_timeout_ms" => options.lock_timeout = duration(name, value, 1)?,
                _ => theirs.push(pair),
            }
        }
        if options.root_certificates.is_some() && mode == SslMode::Require {
            // As libpq does: whoever names a certificate wants it looked at.
            options.tls = Tls::Verified;
        }
        let theirs = format!("postgresql://{place}?{}", theirs.join("&"));
        options.config = theirs.parse().map_err(|error| invalid(&with_causes(&error)))?;
        if options.config.get_hosts().is_empty() {
            return Err(invalid("it names no host"));
        }
        options.config.ssl_mode(mode);
        Ok(options)
    }

    /// Makes one connection, driven by the runtime that polls this, for tables beside a store's.
    /// Nothing is prepared by it, and no session state is used.
    ///
    /// # Errors
    /// `Invalid` when the certificates can't be read; `Unavailable` when the server can't be
    /// reached, or takes nobody in.
    pub async fn connect(&self) -> Result<tokio_postgres::Client> {
        let connected = self.connection(false).connect(super::tls::connector(self)?).await;
        let (client, connection) =
            connected.map_err(|error| unavailable("no connection", &with_causes(&error)))?;
        tokio::spawn(async move {
            // Whoever asks next is told.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// What a connection is made with.
    pub(super) fn connection(&self, with_session: bool) -> Config {
        let mut config = self.config.clone();
        config
            .connect_timeout(self.connect_timeout)
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(30));
        if config.get_application_name().is_none() {
            config.application_name("durable");
        }
        if with_session {
            let mut words: Vec<_> = config.get_options().map(str::to_owned).into_iter().collect();
            words.push("-c plan_cache_mode=force_generic_plan".to_owned());
            words.extend(self.settings().map(|(name, value)| format!("-c {name}={value}")));
            config.options(words.join(" "));
        }
        config
    }

    /// What every session of ours is told.
    fn settings(&self) -> impl Iterator<Item = (&'static str, String)> {
        let ms = |duration: Duration| duration.as_millis().to_string();
        [
            ("statement_timeout", ms(self.statement_timeout)),
            ("lock_timeout", ms(self.lock_timeout)),
            // Ends what a process left that was killed or cut off in the middle of a transaction.
            ("idle_in_transaction_session_timeout", ms(self.statement_timeout)),
            // Everything here is found by an index. A plan that was made while a table was small
            // is kept, and must not read all of it when it has grown.
            ("enable_seqscan", "off".to_owned()),
            ("enable_hashjoin", "off".to_owned()),
            ("enable_mergejoin", "off".to_owned()),
            // What is discouraged counts as dear, and what is dear would be compiled.
            ("jit", "off".to_owned()),
        ]
        .into_iter()
        .chain((!self.synchronous).then(|| ("synchronous_commit", "off".to_owned())))
    }

    /// What a transaction that writes begins with; where sessions are not ours it is told
    /// everything anew.
    pub(super) fn begin(&self, own_session: bool) -> String {
        format!("BEGIN{}", self.local_settings(own_session))
    }

    /// What a transaction begins with that sees one state of the database.
    pub(super) fn begin_read(&self, own_session: bool) -> String {
        let level = "ISOLATION LEVEL REPEATABLE READ READ ONLY";
        format!("BEGIN {level}{}", self.local_settings(own_session))
    }

    fn local_settings(&self, own_session: bool) -> String {
        if own_session {
            return String::new();
        }
        self.settings().map(|(name, value)| format!("; SET LOCAL {name} = {value}")).collect()
    }
}

impl fmt::Display for PostgresOptions {
    /// The URL without password and options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgresql://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match host {
                tokio_postgres::config::Host::Tcp(name) => write!(f, "{comma}{name}")?,
                #[cfg(unix)]
                tokio_postgres::config::Host::Unix(path) => {
                    write!(f, "{comma}{}", path.display())?;
                }
            }
            if let Some(port) = self.config.get_ports().get(index) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for PostgresOptions {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config && self.tls == other.tls
    }
}

impl Eq for PostgresOptions {}

fn ssl_mode(word: &str) -> Result<(SslMode, Tls)> {
    Ok(match word {
        "disable" => (SslMode::Disable, Tls::Unverified),
        "prefer" => (SslMode::Prefer, Tls::Unverified),
        "require" => (SslMode::Require, Tls::Unverified),
        "verify-full" => (SslMode::Require, Tls::Verified),
        _ => return Err(invalid("sslmode is one of disable, prefer, require, verify-full")),
    })
}

fn flag(name: &str, word: &str) -> Result<bool> {
    word.parse().map_err(|_| invalid(&format!("{name} is true or false")))
}

#[cfg(test)]
mod tests {
    use durable_core::Error;

    use super::*;

    #[test]
    fn a_url_says_how_to_connect_and_its_password_is_never_shown() {
        let url = "postgresql+psycopg://ann:s3cret@db:6543/app?sslmode=verify-full\
                   &sslrootcert=%2Fetc%2Fca.pem&prepare=false&connect_timeout=3";
        let options = PostgresOptions::parse(url).unwrap();
        assert_eq!(options.tls, Tls::Verified);
        assert_eq!(options.root_certificates, Some("/etc/ca.pem".into()));
        assert_eq!(options.prepare, Some(false));
        assert_eq!(options.connect_timeout, Duration::from_secs(3));
        assert_eq!(format!("{options} {options:?}").matches("s3cret").count(), 0);
        assert_eq!(options.to_string(), "postgresql://ann@db:6543/app");
    }

    #[test]
    fn what_can_not_be_meant_is_refused_without_the_password() {
        for url in [
            "postgresql:///app",
            "postgresql+odbc://ann:s3cret@db/app",
            "postgresql://ann:s3cret@db/app?sslmode=verify-ca",
            "postgresql://ann:s3cret@db/app?prepare=maybe",
            "postgresql://ann:s3cret@db/app?connect_timeout=-1",
            "postgresql://ann:s3cret@db/app?colour=blue",
            "postgresql://ann:s3cret@db:port/app",
        ] {
            let error = PostgresOptions::parse(url).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{url}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
