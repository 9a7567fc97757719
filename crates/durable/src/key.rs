//! The key that authenticates snapshots.
//!
//! It never stands in the database. For a SQLite file it is made once and kept beside it in
//! `<file>.key`, readable by the owner only; for a database on a server it stands in
//! `durable-monty/snapshot.key` in the user's data directory. `DURABLE_SNAPSHOT_KEY` (64
//! hexadecimal digits) overrides both. Hosts that share a database should share the key, or each
//! rebuilds from the journal what it takes over from another; when it is lost nothing else is.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use durable_core::{Error, Result};
use durable_interpreter::SnapshotKey;
use durable_store::{KeyRing, Rekeyed, Rekeying, SealedStore, Store};

use crate::{Durability, Location};

/// The environment variable that holds the key.
const VARIABLE: &str = "DURABLE_SNAPSHOT_KEY";

pub(crate) fn of(location: &Location) -> Result<SnapshotKey> {
    if let Ok(text) = std::env::var(VARIABLE) {
        return parse(&text)
            .ok_or_else(|| Error::invalid(format!("{VARIABLE} is not 64 hexadecimal digits")));
    }
    match location {
        Location::Sqlite(database) => beside(database),
        Location::Postgres(_) | Location::Mysql(_) => of_user(),
        Location::Memory => Ok(SnapshotKey::new(random()?)),
    }
}

/// The key of this user on this host.
fn of_user() -> Result<SnapshotKey> {
    let data = std::env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty());
    let data = data.map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME").filter(|path| !path.is_empty())?;
        Some(PathBuf::from(home).join(".local/share"))
    });
    let Some(directory) = data.map(|data| data.join("durable-monty")) else {
        tracing::warn!(
            "no home directory for a snapshot key: set {VARIABLE}, or states are rebuilt"
        );
        return Ok(SnapshotKey::new(random()?));
    };
    fs::create_dir_all(&directory).map_err(|error| unavailable(&directory, &error))?;
    let path = directory.join("snapshot.key");
    tracing::info!(file = %path.display(), "key of the snapshots; hosts should share {VARIABLE}");
    in_file(path)
}

/// The environment variable that holds the keys which payloads are sealed with.
const ENCRYPTION_VARIABLE: &str = "DURABLE_ENCRYPTION_KEYS";

/// Seals payloads if there are keys to seal them with. Without keys what is sealed is refused, and
/// not taken for a payload.
pub(crate) fn sealed(store: Arc<dyn Store>) -> Result<SealedStore> {
    let keys = match std::env::var(ENCRYPTION_VARIABLE) {
        Ok(text) if !text.is_empty() => KeyRing::parse(&text)
            .map_err(|error| Error::invalid(format!("{ENCRYPTION_VARIABLE}: {error}")))?,
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Error::invalid(format!("{ENCRYPTION_VARIABLE} is no text")));
        }
        Ok(_) | Err(std::env::VarError::NotPresent) => KeyRing::default(),
    };
    Ok(SealedStore::new(store, keys))
}

/// Seals everything that is stored behind a URL under the first of the keys in
/// `DURABLE_ENCRYPTION_KEYS`: what is sealed under another one, and what was stored in the clear.
/// Without `writes` it only counts. Workers may run meanwhile, if they have both keys.
///
/// # Errors
/// `Invalid` without a key; `Unavailable` when the store can't be had. What can't be opened is told
/// and left out.
pub fn rekey(url: &str, writes: bool, tell: impl FnMut(Rekeying<'_>)) -> Result<Rekeyed> {
    let location = Location::parse(url)?;
    if location == Location::Memory {
        return Err(Error::invalid(
            "what is in memory ends with its process: nothing to seal anew",
        ));
    }
    sealed(location.open(Durability::Full)?)?.rekey(writes, tell)
}

fn beside(database: &Path) -> Result<SnapshotKey> {
    let mut path = database.as_os_str().to_owned();
    path.push(".key");
    in_file(PathBuf::from(path))
}

fn in_file(path: PathBuf) -> Result<SnapshotKey> {
    // Two processes may open a new database at once: whoever links its file first wins.
    for _ in 0..2 {
        match fs::read_to_string(&path) {
            Ok(text) => {
                return parse(text.trim()).ok_or_else(|| {
                    Error::corrupt(format!(
                        "{} holds no snapshot key: delete it, and states are rebuilt from \
                         their journals",
                        path.display()
                    ))
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => create(&path)?,
            Err(error) => return Err(unavailable(&path, &error)),
        }
    }
    Err(Error::unavailable(format!("{} comes and goes", path.display())))
}

fn create(path: &Path) -> Result<()> {
    let text: String = random()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| unavailable(&draft, &error))?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(|error| unavailable(&draft, &error))?;
    match linked {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(unavailable(path, &error)),
    }
}

fn random() -> Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)
        .map_err(|error| Error::unavailable(format!("no randomness for a key: {error}")))?;
    Ok(key)
}

fn parse(text: &str) -> Option<SnapshotKey> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(SnapshotKey::new(key))
}

fn unavailable(path: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("snapshot key file {}: {error}", path.display()))
}
