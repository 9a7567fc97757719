//! `durable cancel`, `durable pause`, `durable retry` and `durable delete`

use std::time::Duration;

use anyhow::Result;
use durable::Status;

use crate::{args, database, exit::Exit, text};

/// How long another engine is given to do what it was asked.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn cancel(url: &str, command: &args::Cancel) -> Result<Exit> {
    let id = database::id(&command.id)?;
    let engine = database::open(url)?;
    engine.cancel(id, &command.reason)?;
    match engine.wait(id, Some(PATIENCE))? {
        Some(record) if record.status == Status::Cancelled => {
            text::say(&format!("execution {id} is cancelled"));
            Ok(Exit::Done)
        }
        Some(record) => {
            text::say(&format!("execution {id} was faster: it is {}", record.status));
            Ok(Exit::Refused)
        }
        None => {
            text::say(&format!(
                "the engine that runs execution {id} was asked to cancel it and has not \
                 answered yet"
            ));
            Ok(Exit::Done)
        }
    }
}

pub(crate) fn pause(url: &str, command: &args::Pause) -> Result<Exit> {
    let id = database::id(&command.id)?;
    let engine = database::open(url)?;
    engine.pause(id, &command.reason)?;
    let is_paused = engine.execution(id)?.status == Status::Paused;
    text::say(&if is_paused {
        format!("execution {id} is paused")
    } else {
        format!("the engine that runs execution {id} was asked to pause it")
    });
    Ok(Exit::Done)
}

pub(crate) fn retry(url: &str, command: &args::Retry) -> Result<Exit> {
    let id = database::id(&command.id)?;
    let engine = database::open(url)?;
    engine.retry(id)?;
    text::say(&format!(
        "execution {id} goes on from where it failed: a worker takes it up, or `durable resume` \
         runs it to its end"
    ));
    Ok(Exit::Done)
}

pub(crate) fn delete(url: &str, command: &args::Delete) -> Result<Exit> {
    let id = database::id(&command.id)?;
    let engine = database::open(url)?;
    // What an interrupted import has left belongs to nobody who could be asked to let it go.
    if !durable::portable::discard(&engine, id)? {
        engine.delete(id)?;
    }
    text::say(&format!("execution {id} is deleted"));
    Ok(Exit::Done)
}
