//! `durable worker`

use std::time::Duration;

use anyhow::Result;
use durable::{Announcement, Config, Duty, Engine, Error, Location};

use crate::{
    args, database,
    exit::Exit,
    functions::Functions,
    interrupts::{self, Inbox},
    text,
};

/// How often a worker that is to end when all is done looks whether it is.
const IDLE_TICK: Duration = Duration::from_millis(200);

pub(crate) fn worker(url: &str, command: &args::Worker) -> Result<Exit> {
    if Location::parse(url)? == Location::Memory {
        return Err(Error::invalid("a worker needs a database that others see: give --db").into());
    }
    let inbox = interrupts::watch()?;
    let functions = Functions::load_many(&command.host.functions, command.concurrency)?;
    let names: Vec<_> = functions.all().into_keys().collect();
    let announcement = Announcement {
        host: command.name.clone().unwrap_or_else(hostname),
        functions: names.clone(),
        concurrency: command.concurrency,
    };
    let duty = Duty { queues: command.queues.clone(), announcement: Some(announcement) };
    let isolation = command.host.isolation.isolation();
    let engine = database::open_to_run(url, isolation, config(command.concurrency))?;
    if inbox.is_interrupted() {
        return Ok(Exit::Done);
    }
    functions.serve_all();
    engine.attach_for(functions.executor(), duty)?;
    text::say(&format!(
        "worker started: {}, {} calls at once, functions: {}",
        match command.queues.as_slice() {
            [] => "all queues".to_owned(),
            queues => format!("queues {}", queues.join(", ")),
        },
        command.concurrency,
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    ));
    let idle = wait(&engine, &inbox, command.until_idle);
    if matches!(idle, Ok(false)) {
        text::say("ending: running calls are waited for; once more ends it at once");
    }
    engine.detach(Duration::from_secs(command.grace.into()));
    text::say(if idle? { "worker ended: nothing is left to do" } else { "worker ended" });
    Ok(Exit::Done)
}

/// Waits until there is nothing left to do, if that is asked for (`true`), or a signal comes.
fn wait(engine: &Engine, inbox: &Inbox, until_idle: bool) -> Result<bool> {
    loop {
        if until_idle && engine.is_idle()? {
            return Ok(true);
        }
        let news = if until_idle {
            inbox.receiver.recv_timeout(IDLE_TICK).ok()
        } else {
            inbox.receiver.recv().ok()
        };
        if news.is_some() || !until_idle {
            return Ok(false);
        }
    }
}

/// A worker leases what keeps its calls busy, and leaves the rest to others.
fn config(concurrency: u32) -> Config {
    let at_once = concurrency as usize;
    Config {
        max_active: (4 * at_once).max(32),
        max_claim: (2 * at_once).max(16),
        ..Config::default()
    }
}

pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
