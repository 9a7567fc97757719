//! URLs of providers.

use std::sync::Arc;

use durable_core::{Error, Result};
use durable_store::PostgresOptions;

use crate::{
    FilesystemProvider, ObjectProvider, PostgresProvider, Provider, RedisProvider, SqliteProvider,
};

/// Opens the provider behind a URL: `file:folder`, `sqlite:///file.db`, `postgresql://…`,
/// `redis://…`, `s3://bucket/prefix`, `folder-of-objects:folder` or `memory:`.
///
/// # Errors
/// `Invalid` with the forms there are; those of the provider.
pub fn connect(url: &str) -> Result<Arc<dyn Provider>> {
    let (scheme, place) = url.split_once(':').unwrap_or((url, ""));
    Ok(match scheme {
        "memory" => Arc::new(ObjectProvider::memory()?),
        "file" if !place.is_empty() => Arc::new(FilesystemProvider::open(place)?),
        "folder-of-objects" if !place.is_empty() => {
            Arc::new(ObjectProvider::local(place.as_ref())?)
        }
        "sqlite" => match place.strip_prefix("///") {
            Some(path) if !path.is_empty() => Arc::new(SqliteProvider::open(path)?),
            _ => return Err(Error::invalid("expected sqlite:///file.db")),
        },
        "redis" | "rediss" => Arc::new(RedisProvider::open(url)?),
        "s3" => s3(url)?,
        _ if scheme.starts_with("postgres") => {
            Arc::new(PostgresProvider::open(&PostgresOptions::parse(url)?)?)
        }
        // What follows the scheme may hold a password.
        _ => {
            return Err(Error::invalid(format!(
                "'{scheme}' names no place for checkpoints: expected file:folder, \
                 sqlite:///file.db, postgresql://…, redis://…, s3://bucket/prefix or memory:"
            )));
        }
    })
}

#[cfg(feature = "s3")]
fn s3(url: &str) -> Result<Arc<dyn Provider>> {
    Ok(Arc::new(ObjectProvider::s3(url)?))
}

#[cfg(not(feature = "s3"))]
fn s3(_url: &str) -> Result<Arc<dyn Provider>> {
    Err(Error::invalid("this durable was built without the feature s3"))
}
