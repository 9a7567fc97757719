//! Checkpoints in files: `<root>/<execution>/<number>.ckpt`.
//!
//! A checkpoint is written to a temporary name, carried to the disk, renamed, and the folder
//! carried to the disk: after a power loss it is there as a whole or not at all. Beside them lie
//! `lease`, which says who writes, and `lock`, which is locked while anybody changes anything.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use durable_core::{Error, Lease, Owner, Result};
use serde::{Deserialize, Serialize};

use crate::{
    Ask, CheckpointId, ExecutionName, Provider,
    checkpoints::{is_held, is_lost},
};

/// What the name of a checkpoint's file ends with.
const SUFFIX: &str = ".ckpt";

/// Checkpoints in a folder, for processes of one machine.
#[derive(Debug)]
pub struct FilesystemProvider {
    root: PathBuf,
}

/// The content of `lease`, also as an object of [`crate::ObjectProvider`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseRecord {
    /// Empty when nobody holds it.
    pub(crate) owner: String,
    pub(crate) epoch: u64,
    pub(crate) expires_at_ms: u64,
}

impl LeaseRecord {
    /// Whether somebody else may take it.
    pub(crate) fn is_free_for(&self, ask: &Ask<'_>) -> bool {
        self.owner.is_empty()
            || self.owner == ask.owner.as_str()
            || self.expires_at_ms <= now_ms()
            || ask.gone.is_some_and(|gone| gone.as_str() == self.owner)
    }

    pub(crate) fn is(&self, lease: &Lease) -> bool {
        self.owner == lease.owner.as_str() && self.epoch == lease.epoch
    }
}

impl FilesystemProvider {
    /// Keeps checkpoints in a folder, which is made when it is not there.
    ///
    /// # Errors
    /// `Unavailable` when there can be no such folder.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|error| failed(&root, &error))?;
        Ok(Self { root })
    }

    fn folder(&self, execution: &ExecutionName) -> PathBuf {
        self.root.join(execution.as_str())
    }

    fn file(&self, id: &CheckpointId) -> PathBuf {
        self.folder(&id.execution).join(file_name(id.number))
    }

    /// Keeps everybody else from changing anything of an execution, until it is dropped. `None`
    /// when nothing is kept of it.
    fn lock(&self, execution: &ExecutionName, creates: bool) -> Result<Option<File>> {
        let folder = self.folder(execution);
        let path = folder.join("lock");
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound && creates => {
                fs::create_dir_all(&folder)
                    .and_then(|()| sync_folder(&self.root))
                    .and_then(|()| open())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened,
        };
        let file = file.map_err(|error| failed(&path, &error))?;
        file.lock().map_err(|error| failed(&path, &error))?;
        Ok(Some(file))
    }

    fn read_lease(&self, execution: &ExecutionName) -> Result<Option<LeaseRecord>> {
        let path = self.folder(execution).join("lease");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::corrupt(format!(
                "{}: {error}: when nobody writes checkpoints of execution {execution} any more, \
                 remove this file",
                path.display()
            ))
        })
    }

    fn write_lease(&self, execution: &ExecutionName, record: &LeaseRecord) -> Result<()> {
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::internal(format!("a lease has no form: {error}")))?;
        self.put(&self.folder(execution), "lease", &text)
    }

    /// Writes a file as a whole, or not at all. Under the lock.
    fn put(&self, folder: &Path, name: &str, content: &[u8]) -> Result<()> {
        let (written, path) = (folder.join("writing.tmp"), folder.join(name));
        let write = || {
            let mut file = File::create(&written)?;
            file.write_all(content)?;
            file.sync_data()?;
            fs::rename(&written, &path)?;
            sync_folder(folder)
        };
        write().map_err(|error| failed(&path, &error))
    }

    /// The lock, if the lease is still held.
    fn lock_with(&self, execution: &ExecutionName, lease: &Lease) -> Result<File> {
        let lock = self.lock(execution, false)?.ok_or_else(|| is_lost(execution))?;
        match self.read_lease(execution)? {
            Some(record) if record.is(lease) => Ok(lock),
            _ => Err(is_lost(execution)),
        }
    }
}

impl Provider for FilesystemProvider {
    fn acquire(&self, ask: &Ask<'_>) -> Result<u64> {
        let _lock = self.lock(ask.execution, true)?;
        let before = self.read_lease(ask.execution)?;
        if let Some(before) = before.as_ref().filter(|before| !before.is_free_for(ask)) {
            return Err(is_held(ask.execution, &before.owner));
        }
        let epoch = before.map_or(0, |before| before.epoch) + 1;
        let owner = ask.owner.as_str().to_owned();
        let expires_at_ms = expiry_ms(ask.duration);
        self.write_lease(ask.execution, &LeaseRecord { owner, epoch, expires_at_ms })?;
        Ok(epoch)
    }

    fn renew(&self, execution: &ExecutionName, lease: &Lease, duration: Duration) -> Result<()> {
        let _lock = self.lock_with(execution, lease)?;
        let owner = lease.owner.as_str().to_owned();
        let expires_at_ms = expiry_ms(duration);
        self.write_lease(execution, &LeaseRecord { owner, epoch: lease.epoch, expires_at_ms })
    }

    fn release(&self, execution: &ExecutionName, lease: &Lease) -> Result<()> {
        let Some(_lock) = self.lock(execution, false)? else { return Ok(()) };
        let owner = String::new();
        match self.read_lease(execution)? {
            Some(record) if record.is(lease) => {
                self.write_lease(execution, &LeaseRecord { owner, epoch: lease.epoch, ..record })
            }
            _ => Ok(()),
        }
    }

    fn holder(&self, execution: &ExecutionName) -> Result<Option<Owner>> {
        let record = self.read_lease(execution)?.filter(|record| !record.owner.is_empty());
        Ok(record.map(|record| Owner::new(&record.owner)))
    }

    fn save(&self, id: &CheckpointId, lease: &Lease, stored: &[u8]) -> Result<()> {
        let _lock = self.lock_with(&id.execution, lease)?;
        self.put(&self.folder(&id.execution), &file_name(id.number), stored)
    }

    fn load(&self, id: &CheckpointId) -> Result<Option<Vec<u8>>> {
        let path = self.file(id);
        match fs::read(&path) {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    fn list(&self, execution: &ExecutionName) -> Result<Vec<u64>> {
        let folder = self.folder(execution);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&folder, &error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| failed(&folder, &error))?.file_name();
            numbers.extend(name.to_str().and_then(number_of));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn delete(&self, id: &CheckpointId) -> Result<bool> {
        let path = self.file(id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

fn file_name(number: u64) -> String {
    format!("{number:012}{SUFFIX}")
}

fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn expiry_ms(duration: Duration) -> u64 {
    now_ms().saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    // Only there can a folder be opened as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("{}: {error}", path.display()))
}
