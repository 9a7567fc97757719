//! Checkpoints as objects of S3 and what speaks its protocol, in a local folder, or in memory.
//!
//! There are no transactions there, so a lease is a row of objects: every tenure makes
//! `<execution>/lease/<epoch>`, which only one can make; the greatest epoch holds. A checkpoint is
//! `<execution>/<number>.<epoch>.ckpt`: what a writer that lost its lease still writes has an
//! older epoch than what comes before it or stands beside it, and no reader takes it for one.

use std::{future::Future, sync::Arc, time::Duration};

use durable_core::{Error, Lease, Owner, Result};
use futures_util::{StreamExt as _, stream::BoxStream};
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path,
};

use crate::{
    Ask, CheckpointId, ExecutionName, Provider,
    checkpoints::{is_held, is_lost},
    drive::Driver,
    filesystem::{LeaseRecord, expiry_ms},
};

/// Checkpoints in an object store, shared by any number of machines, whose clocks should agree
/// within the duration of a lease.
pub struct ObjectProvider {
    driver: Driver,
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// A checkpoint as it is stored: its number, and the tenure it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    number: u64,
    epoch: u64,
}

impl ObjectProvider {
    /// Uses an object store, below a prefix.
    ///
    /// # Errors
    /// `Invalid` for a prefix that can't be; `Unavailable` for want of a thread.
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self> {
        let prefix = Path::parse(prefix)
            .map_err(|error| Error::invalid(format!("the prefix of objects: {error}")))?;
        Ok(Self { driver: Driver::new("durable-objects")?, objects, prefix })
    }

    /// Uses the memory of this process.
    ///
    /// # Errors
    /// As [`ObjectProvider::new`].
    pub fn memory() -> Result<Self> {
        Self::new(Arc::new(object_store::memory::InMemory::new()), "")
    }

    /// Uses a local folder, which is made when it is not there.
    ///
    /// # Errors
    /// `Unavailable` when there can be no such folder.
    pub fn local(folder: &std::path::Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::unavailable(format!("{}: {error}", folder.display())))?;
        let objects = object_store::local::LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| failed(&error))?
            .with_automatic_cleanup(false)
            .with_fsync(true);
        Self::new(Arc::new(objects), "")
    }

    /// Uses a bucket: `s3://bucket/prefix`. Region, endpoint and credentials stand in the
    /// environment, under the names that Amazon's tools use (`AWS_REGION`, `AWS_ENDPOINT`,
    /// `AWS_ACCESS_KEY_ID`, …).
    ///
    /// # Errors
    /// `Invalid` when the URL names no bucket, or something is missing in the environment.
    #[cfg(feature = "s3")]
    pub fn s3(url: &str) -> Result<Self> {
        let place = url.strip_prefix("s3://").filter(|place| !place.is_empty());
        let place = place.ok_or_else(|| Error::invalid("expected s3://bucket/prefix"))?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        // The HTTP client takes the process's way to encrypt; whoever chose one keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let objects = object_store::aws::AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(object_store::RetryConfig {
                retry_timeout: Duration::from_secs(15),
                ..object_store::RetryConfig::default()
            })
            .build()
            .map_err(|error| Error::invalid(format!("s3://{bucket}: {error}")))?;
        Self::new(Arc::new(objects), prefix)
    }

    fn folder(&self, execution: &ExecutionName) -> Path {
        self.prefix.clone().join(execution.as_str())
    }

    fn leases(&self, execution: &ExecutionName) -> Path {
        self.folder(execution).join("lease")
    }

    fn lease_object(&self, execution: &ExecutionName, epoch: u64) -> Path {
        self.leases(execution).join(format!("{epoch:012}"))
    }

    fn object(&self, execution: &ExecutionName, stored: Stored) -> Path {
        self.folder(execution).join(format!("{:012}.{:012}.ckpt", stored.number, stored.epoch))
    }

    fn run<T, F>(&self, ask: impl FnOnce(Arc<dyn ObjectStore>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        let asked = ask(self.objects.clone());
        self.driver.run(async move { asked.await.map_err(|error| failed(&error)) })
    }

    /// The objects right below a folder, by their names.
    fn names(&self, folder: &Path) -> Result<Vec<String>> {
        let folder = folder.clone();
        self.run(async move |objects| {
            let listed = objects.list_with_delimiter(Some(&folder)).await?;
            let name = |meta: &ObjectMeta| meta.location.filename().map(str::to_owned);
            Ok(listed.objects.iter().filter_map(name).collect())
        })
    }

    fn get(&self, path: Path) -> Result<Option<Vec<u8>>> {
        self.run(async move |objects| match objects.get(&path).await {
            Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// Whether it was written; with [`PutMode::Create`] only when it was not there.
    fn put(&self, path: Path, content: Vec<u8>, mode: PutMode) -> Result<bool> {
        self.run(async move |objects| {
            let options = PutOptions { mode, ..PutOptions::default() };
            match objects.put_opts(&path, PutPayload::from(content), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn remove(&self, paths: Vec<Path>) -> Result<()> {
        self.run(async move |objects| {
            let paths: BoxStream<'static, _> =
                futures_util::stream::iter(paths.into_iter().map(Ok)).boxed();
            let removed: Vec<_> = objects.delete_stream(paths).collect().await;
            removed.into_iter().try_for_each(|one| match one {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            })
        })
    }

    /// The epochs that have a lease, in ascending order.
    fn epochs(&self, execution: &ExecutionName) -> Result<Vec<u64>> {
        let names = self.names(&self.leases(execution))?;
        let mut epochs: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The lease that holds.
    fn current(&self, execution: &ExecutionName) -> Result<Option<LeaseRecord>> {
        let Some(epoch) = self.epochs(execution)?.pop() else { return Ok(None) };
        let path = self.lease_object(execution, epoch);
        let Some(content) = self.get(path.clone())? else {
            // Somebody removed it since: there is a newer one.
            return Err(Error::unavailable(format!("{path} changes hands: try again")));
        };
        let record = serde_json::from_slice(&content)
            .map_err(|error| Error::corrupt(format!("{path}: {error}: remove that object")))?;
        Ok(Some(record))
    }

    fn put_lease(
        &self,
        execution: &ExecutionName,
        record: &LeaseRecord,
        mode: PutMode,
    ) -> Result<bool> {
        let content = serde_json::to_vec(record)
            .map_err(|error| Error::internal(format!("a lease has no form: {error}")))?;
        self.put(self.lease_object(execution, record.epoch), content, mode)
    }

    fn check(&self, execution: &ExecutionName, lease: &Lease) -> Result<()> {
        match self.current(execution)? {
            Some(record) if record.is(lease) => Ok(()),
            _ => Err(is_lost(execution)),
        }
    }

    /// What counts, in ascending order: of two with one number the later tenure's, and nothing of
    /// a tenure that was over when an earlier number was written.
    fn counted(&self, execution: &ExecutionName) -> Result<(Vec<Stored>, Vec<Stored>)> {
        let names = self.names(&self.folder(execution))?;
        let read = |name: &String| {
            let (number, epoch) = name.strip_suffix(".ckpt")?.split_once('.')?;
            Some(Stored { number: number.parse().ok()?, epoch: epoch.parse().ok()? })
        };
        let mut all: Vec<Stored> = names.iter().filter_map(read).collect();
        all.sort_unstable();
        let (mut counted, mut stale): (Vec<Stored>, Vec<Stored>) = (Vec::new(), Vec::new());
        for stored in all {
            match counted.last() {
                Some(last) if stored.epoch < last.epoch => stale.push(stored),
                Some(last) if stored.number == last.number => {
                    stale.extend(counted.pop());
                    counted.push(stored);
                }
                _ => counted.push(stored),
            }
        }
        Ok((counted, stale))
    }

    fn find(&self, id: &CheckpointId) -> Result<Option<Stored>> {
        let (counted, _) = self.counted(&id.execution)?;
        Ok(counted.into_iter().find(|stored| stored.number == id.number))
    }
}

impl Provider for ObjectProvider {
    fn acquire(&self, ask: &Ask<'_>) -> Result<u64> {
        let before = self.current(ask.execution)?;
        if let Some(before) = before.as_ref().filter(|before| !before.is_free_for(ask)) {
            return Err(is_held(ask.execution, &before.owner));
        }
        let epoch = before.map_or(0, |before| before.epoch) + 1;
        let owner = ask.owner.as_str().to_owned();
        let record = LeaseRecord { owner, epoch, expires_at_ms: expiry_ms(ask.duration) };
        let is_first = self.put_lease(ask.execution, &record, PutMode::Create)?;
        let epochs = self.epochs(ask.execution)?;
        if !is_first || epochs.last() != Some(&epoch) {
            return Err(is_held(ask.execution, "somebody who was faster"));
        }
        let older = epochs.into_iter().filter(|older| *older < epoch);
        let older = older.map(|older| self.lease_object(ask.execution, older)).collect();
        self.remove(older)?;
        Ok(epoch)
    }

    fn renew(&self, execution: &ExecutionName, lease: &Lease, duration: Duration) -> Result<()> {
        self.check(execution, lease)?;
        let owner = lease.owner.as_str().to_owned();
        let expires_at_ms = expiry_ms(duration);
        let record = LeaseRecord { owner, epoch: lease.epoch, expires_at_ms };
        self.put_lease(execution, &record, PutMode::Overwrite)?;
        // Whoever took over between the two stands above it.
        self.check(execution, lease)
    }

    fn release(&self, execution: &ExecutionName, lease: &Lease) -> Result<()> {
        match self.check(execution, lease) {
            Ok(()) => {}
            Err(Error::Conflict(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        let record = LeaseRecord { owner: String::new(), epoch: lease.epoch, expires_at_ms: 0 };
        self.put_lease(execution, &record, PutMode::Overwrite).map(drop)
    }

    fn holder(&self, execution: &ExecutionName) -> Result<Option<Owner>> {
        let record = self.current(execution)?.filter(|record| !record.owner.is_empty());
        Ok(record.map(|record| Owner::new(&record.owner)))
    }

    fn save(&self, id: &CheckpointId, lease: &Lease, stored: &[u8]) -> Result<()> {
        self.check(&id.execution, lease)?;
        let place = Stored { number: id.number, epoch: lease.epoch };
        self.put(self.object(&id.execution, place), stored.to_vec(), PutMode::Overwrite)?;
        self.check(&id.execution, lease)
    }

    fn load(&self, id: &CheckpointId) -> Result<Option<Vec<u8>>> {
        match self.find(id)? {
            Some(stored) => self.get(self.object(&id.execution, stored)),
            None => Ok(None),
        }
    }

    fn list(&self, execution: &ExecutionName) -> Result<Vec<u64>> {
        Ok(self.counted(execution)?.0.into_iter().map(|stored| stored.number).collect())
    }

    fn delete(&self, id: &CheckpointId) -> Result<bool> {
        let (counted, stale) = self.counted(&id.execution)?;
        let of_it = |stored: &&Stored| stored.number == id.number;
        let was_there = counted.iter().any(|stored| of_it(&stored));
        let paths = counted.iter().chain(&stale).filter(of_it);
        self.remove(paths.map(|stored| self.object(&id.execution, *stored)).collect())?;
        Ok(was_there)
    }

    fn cleanup(&self, execution: &ExecutionName, keep_last: usize) -> Result<usize> {
        let (counted, stale) = self.counted(execution)?;
        let old = &counted[..counted.len().saturating_sub(keep_last)];
        let Some(last) = old.last() else { return Ok(0) };
        let stale = stale.iter().filter(|stored| stored.number <= last.number);
        let paths = old.iter().chain(stale).map(|stored| self.object(execution, *stored));
        self.remove(paths.collect())?;
        Ok(old.len())
    }

    fn place(&self) -> String {
        format!("{}, below {:?}", self.objects, self.prefix.as_ref())
    }
}

fn failed(error: &object_store::Error) -> Error {
    Error::unavailable(format!("objects: {error}"))
}
