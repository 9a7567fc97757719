//! `durable doctor`: looks at everything an execution needs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use durable::{Config, Definition, Error, Language, Limits, Location, PullQueue, Start, Status};
use durable_executors::{Subprocess, SubprocessConfig};
use serde::Serialize;

use crate::{args, database, exit::Exit, functions::python, text};

/// Less free space than this is a problem: a commit that finds no room fails.
const LEAST_FREE_BYTES: u64 = 256 << 20;

/// How long a trivial workflow may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One thing that was looked at: what `doctor --json` prints in `checks`.
#[derive(Serialize)]
struct Finding {
    check: &'static str,
    ok: bool,
    /// What was found; for a problem also what to do.
    message: String,
}

/// What a check gives: what was found, or what is wrong and what to do about it.
type Found = Result<String, String>;

pub(crate) fn doctor(url: &str, command: &args::Doctor) -> Result<Exit> {
    let location = Location::parse(url)?;
    let mut findings = Vec::new();
    let mut add = |check, found: Found| {
        let (ok, message) = match found {
            Ok(message) => (true, message),
            Err(message) => (false, message),
        };
        findings.push(Finding { check, ok, message });
    };
    if let Location::Sqlite(path) = &location {
        add("database", schema(url, path));
        add("integrity", integrity(url));
        add("disk", disk(path));
        add("snapshot key", key(path));
    }
    add("workers", workers(command.host.isolation));
    add("python", host(&command.host.functions));
    let exit = match findings.iter().all(|finding| finding.ok) {
        true => Exit::Done,
        false => Exit::Unavailable,
    };
    if command.json {
        let json = serde_json::json!({ "ok": exit == Exit::Done, "checks": findings });
        text::print(&format!("{json}\n"))?;
        return Ok(exit);
    }
    for Finding { check, ok, message } in findings {
        let word = if ok { "ok" } else { "problem" };
        text::print(&format!("{word:<7}  {check:<12}  {}\n", message.trim_end()))?;
    }
    Ok(exit)
}

fn told(error: Error) -> String {
    error.to_string()
}

fn schema(url: &str, path: &Path) -> Found {
    if !path.exists() {
        return Err(format!(
            "there is no database {}: `durable migrate` makes it, --db names another",
            path.display()
        ));
    }
    let (from, to) = durable::migrate(url).map_err(told)?;
    Ok(match from == to {
        true => format!("{}, schema version {to}", path.display()),
        false => format!("{}, migrated from schema version {from} to {to}", path.display()),
    })
}

fn integrity(url: &str) -> Found {
    let engine = database::open(url).map_err(told)?;
    let damage = engine.store().check().map_err(told)?;
    match damage.as_slice() {
        [] => Ok("nothing is damaged".into()),
        damage => Err(format!(
            "{}\nkeep a copy of the database file with its -wal file, and restore a backup or \
             export what can be read with `sqlite3 FILE .recover`",
            damage.join("\n")
        )),
    }
}

fn disk(path: &Path) -> Found {
    let directory = directory(path);
    let shown = directory.display();
    let stat = rustix::fs::statvfs(&directory)
        .map_err(|error| format!("the free space of {shown} can't be read: {error}"))?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let free = format!("{} MiB free in {shown}", free_bytes >> 20);
    match free_bytes < LEAST_FREE_BYTES {
        true => Err(format!("{free}: make room, or move the database")),
        false => Ok(free),
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn key(database: &Path) -> Found {
    if std::env::var_os("DURABLE_SNAPSHOT_KEY").is_some() {
        return Ok("given by DURABLE_SNAPSHOT_KEY".into());
    }
    let mut file = database.as_os_str().to_owned();
    file.push(".key");
    let file = PathBuf::from(file);
    let shown = file.display();
    match std::fs::metadata(&file) {
        Ok(metadata) => {
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
            match mode & 0o077 {
                0 => Ok(format!("{shown} is readable by its owner only")),
                _ => Err(format!(
                    "{shown} has mode {mode:03o}, others can read or change it: chmod 600 {shown}"
                )),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(format!("{shown} will be made with the first execution"))
        }
        Err(error) => Err(format!("{shown} can't be looked at: {error}")),
    }
}

/// Runs a trivial workflow from start to end.
fn workers(isolation: args::IsolationName) -> Found {
    let ran = || -> durable::Result<Option<Status>> {
        let engine = database::open_to_run("memory:", isolation.isolation(), Config::default())?;
        engine.attach(Arc::new(PullQueue::default()))?;
        let id = engine.start(Start::new(Definition {
            language: Language::Python,
            source: "1 + 1".into(),
            functions: std::collections::BTreeMap::new(),
            inputs: Vec::new(),
            limits: Limits::default(),
        }))?;
        let record = engine.wait(id, Some(PATIENCE))?;
        engine.detach(Duration::ZERO);
        Ok(record.map(|record| record.status))
    };
    let name = match isolation {
        args::IsolationName::Process => "worker processes run workflows",
        args::IsolationName::Thread => "threads run workflows",
    };
    match ran().map_err(told)? {
        Some(Status::Completed) => Ok(name.into()),
        Some(status) => Err(format!("a trivial workflow is {status}: run again with -v")),
        None => Err(format!("a trivial workflow took longer than {PATIENCE:?}: run with -v")),
    }
}

fn host(host: &args::FunctionsOf) -> Found {
    let python = python(host.python.as_deref());
    let shown = python.display().to_string();
    // Any module will do to see whether Python starts at all.
    let module = host.functions.as_deref().unwrap_or("json");
    let config = SubprocessConfig { python, ..SubprocessConfig::new(module) };
    let subprocess = Subprocess::start(config).map_err(told)?;
    Ok(match &host.functions {
        None => format!("{shown} starts"),
        Some(module) => {
            let names: Vec<_> = subprocess.functions().keys().map(String::as_str).collect();
            format!("{shown} starts and loads {module}: {}", names.join(", "))
        }
    })
}
