//! `durable migrate`

use anyhow::Result;

use crate::{args, exit::Exit, text};

pub(crate) fn migrate(url: &str, command: &args::Migrate) -> Result<Exit> {
    if command.dry_run {
        return plan(url);
    }
    let (from, to) = durable::migrate(url)?;
    text::say(&match (from, to) {
        (0, to) => format!("{url}: created, with schema version {to}"),
        (from, to) if from == to => format!("{url}: has schema version {to} already"),
        (from, to) => format!("{url}: migrated from schema version {from} to {to}"),
    });
    Ok(Exit::Done)
}

fn plan(url: &str) -> Result<Exit> {
    let (from, to, scripts) = durable::plan_migration(url)?;
    text::say(&match (from, to) {
        (0, to) => format!("{url}: would be created, with schema version {to}"),
        (from, to) if from == to => format!("{url}: has schema version {to} already"),
        (from, to) => format!("{url}: would be migrated from schema version {from} to {to}"),
    });
    for (version, script) in (from + 1..).zip(scripts) {
        text::print(&format!("-- to schema version {version}\n{}\n", script.trim_end()))?;
    }
    Ok(Exit::Done)
}
