//! Waiting for async clients on any thread.

use std::{future::Future, sync::mpsc};

use durable_core::{Error, Result};
use tokio::runtime::{Builder, Runtime};

/// A thread that drives the connections of one provider.
pub(crate) struct Driver(Option<Runtime>);

impl Driver {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable(format!("{name}: no thread: {error}")))?;
        Ok(Self(Some(runtime)))
    }

    /// Waits for a future, also on a thread that belongs to another runtime.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let closed = || Error::unavailable("the provider is closed");
        let runtime = self.0.as_ref().ok_or_else(closed)?;
        let (done, answer) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let _ = done.send(future.await);
        });
        answer.recv().map_err(|_| closed())?
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Not waiting: it may be dropped on a thread of another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
