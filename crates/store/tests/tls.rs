//! TLS with real servers and certificates of our own: who is let in, and what others are told.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use durable_core::{Error, Result};
use durable_store::{ListFilter, MysqlOptions, MysqlStore, PostgresOptions, PostgresStore, Store};
use support::{mysql, postgres};

/// Who can't be trusted is not asked again and again.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A server with a certificate for `localhost`, the authority that made it, and another one.
struct Secure {
    directory: tempfile::TempDir,
    url: String,
}

impl Secure {
    fn start(service: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for authority in ["ours", "theirs"] {
            certificate(directory.path(), authority, &["basicConstraints=critical,CA:TRUE"], None);
        }
        let extensions = ["basicConstraints=critical,CA:FALSE", "subjectAltName=DNS:localhost"];
        certificate(directory.path(), "server", &extensions, Some("ours"));
        let mut secure = Self { directory, url: String::new() };
        secure.services(&["up", service]);
        let told = secure.services(&["env"]);
        let (_, url) = told.trim().split_once('=').unwrap();
        secure.url = url.trim_matches('\'').replace("127.0.0.1", "localhost");
        secure
    }

    fn authority(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.crt"))
    }

    /// The URL with options; `{ours}` and `{theirs}` are the files of the authorities.
    fn with(&self, host: &str, options: &str) -> String {
        let mut options = options.to_owned();
        for name in ["ours", "theirs"] {
            let file = self.authority(name).display().to_string().replace('/', "%2F");
            options = options.replace(&format!("{{{name}}}"), &file);
        }
        format!("{}?{options}", self.url.replace("localhost", host))
    }

    fn services(&self, words: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services");
        let mut command = Command::new(script);
        command.arg("--state").arg(self.directory.path().join("services"));
        let output = command.arg("--tls").arg(self.directory.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.services(&["down"]);
    }
}

/// Makes NAME.key and NAME.crt, signed by an authority or by itself.
fn certificate(directory: &Path, name: &str, extensions: &[&str], authority: Option<&str>) {
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &format!("/CN={name}")]);
    command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
    if let Some(authority) = authority {
        command.args(["-CA", &format!("{authority}.crt"), "-CAkey", &format!("{authority}.key")]);
    }
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// That an attempt to open a store fails at once, as the user's business, and says why.
#[track_caller]
fn assert_refused<S: std::fmt::Debug>(open: impl FnOnce() -> Result<S>, words: &[&str]) {
    let began = Instant::now();
    let error = open().unwrap_err();
    assert!(began.elapsed() < AT_ONCE, "after {:?}: {error}", began.elapsed());
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

fn open_postgres(url: &str) -> Result<PostgresStore> {
    PostgresStore::open(&PostgresOptions::parse(url)?)
}

fn open_mysql(url: &str) -> Result<MysqlStore> {
    MysqlStore::open(&MysqlOptions::parse(url)?)
}

#[test]
fn postgres_is_verified_as_it_is_asked_for() {
    let Some(plain) = postgres::server() else { return };
    let server = Secure::start("postgres");
    let admin = server.url.replace("localhost", "127.0.0.1");
    let encrypted = |name: &str| {
        support::block_on(async {
            let client = postgres::connect(&admin).await;
            let sql = "SELECT count(*), count(*) FILTER (WHERE ssl)
                FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = $1";
            let row = client.query_one(sql, &[&name]).await.unwrap();
            (row.get::<_, i64>(0), row.get::<_, i64>(1))
        })
    };
    for (name, host, options) in [
        ("full", "localhost", "sslmode=verify-full&sslrootcert={ours}"),
        ("named", "localhost", "sslmode=require&sslrootcert={ours}"),
        ("required", "127.0.0.1", "sslmode=require"),
        ("preferred", "127.0.0.1", "sslmode=prefer"),
    ] {
        let options = format!("{options}&application_name={name}");
        let store = open_postgres(&server.with(host, &options)).unwrap();
        assert!(store.list(&ListFilter::default()).unwrap().is_empty());
        // Every connection, also the one that listens.
        let (all, secure) = encrypted(name);
        assert!(all >= 2 && all == secure, "{name}: {secure} of {all}");
    }
    let full = |host, authority: &str| {
        let options = format!("sslmode=verify-full&sslrootcert={authority}");
        open_postgres(&server.with(host, &options))
    };
    assert_refused(|| full("localhost", "{theirs}"), &["certificate", "UnknownIssuer"]);
    assert_refused(|| full("127.0.0.1", "{ours}"), &["certificate", "127.0.0.1"]);
    let url = server.with("localhost", "sslmode=verify-full");
    assert_refused(|| open_postgres(&url), &["certificate"]);
    let url = format!("{}&sslmode=require", plain.new_database());
    assert_refused(|| open_postgres(&url), &["TLS"]);
}

#[test]
fn mysql_is_verified_as_it_is_asked_for() {
    let Some(plain) = mysql::server() else { return };
    let server = Secure::start("mysql");
    let admin = server.url.replace("localhost", "127.0.0.1");
    let only_encrypted = "ALTER USER durable@'%' REQUIRE SSL";
    mysql::run(&admin, only_encrypted);
    for (host, options) in [
        ("localhost", "ssl_mode=verify_identity&ssl_ca={ours}"),
        ("localhost", "ssl_ca={ours}"),
        ("127.0.0.1", "ssl_mode=required"),
    ] {
        let store = open_mysql(&server.with(host, options)).unwrap();
        assert!(store.list(&ListFilter::default()).unwrap().is_empty());
    }
    // So those were encrypted: others are not let in.
    let url = server.with("localhost", "ssl_mode=disabled");
    assert_refused(|| open_mysql(&url), &["denied"]);
    let full = |host, authority: &str| {
        let options = format!("ssl_mode=verify_identity&ssl_ca={authority}");
        open_mysql(&server.with(host, &options))
    };
    assert_refused(|| full("localhost", "{theirs}"), &["certificate", "UnknownIssuer"]);
    assert_refused(|| full("127.0.0.1", "{ours}"), &["certificate", "127.0.0.1"]);
    let url = server.with("localhost", "ssl_mode=verify_identity");
    assert_refused(|| open_mysql(&url), &["certificate"]);
    let url = format!("{}?ssl_mode=required", plain.new_database());
    assert_refused(|| open_mysql(&url), &["TLS"]);
}
