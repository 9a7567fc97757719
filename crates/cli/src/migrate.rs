//! `durable migrate`

use anyhow::Result;

use crate::{exit::Exit, text};

pub(crate) fn migrate(url: &str) -> Result<Exit> {
    let (from, to) = durable::migrate(url)?;
    text::say(&match (from, to) {
        (0, to) => format!("{url}: created, with schema version {to}"),
        (from, to) if from == to => format!("{url}: has schema version {to} already"),
        (from, to) => format!("{url}: migrated from schema version {from} to {to}"),
    });
    Ok(Exit::Done)
}
