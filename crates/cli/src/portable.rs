//! `durable export`, `durable import` and `durable copy`

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use durable::{
    Config, Error, Isolation, Location,
    portable::{Copied, CopyPlan, Imported, Portable},
};

use crate::{args, database, exit::Exit, text};

/// Least time between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn export(url: &str, command: &args::Export) -> Result<Exit> {
    let id = database::id(&command.id)?;
    let engine = database::open(url)?;
    let portable = Portable::export(&engine, id)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = portable.write(&mut out).and_then(|()| writeln!(out)).and_then(|()| out.flush());
    written.context("can't write the execution")?;
    Ok(Exit::Done)
}

pub(crate) fn import(url: &str, command: &args::Import) -> Result<Exit> {
    let shown = command.file.display();
    let reader: Box<dyn Read> = if command.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&command.file).with_context(|| format!("can't read {shown}"))?)
    };
    let portable = Portable::read(reader)?;
    let engine = open_to_write(url)?;
    let id = portable.id();
    text::say(&match portable.import(&engine)? {
        Imported::New => format!("execution {id} is imported"),
        Imported::Continued(transitions) => {
            format!("execution {id} was there and has got {transitions} transitions more")
        }
        Imported::Known => format!("execution {id} is there already"),
    });
    let status = engine.execution(id)?.status;
    if !status.is_terminal() {
        text::say(&format!(
            "it is {status}: the workers of this database go on with it, and so do those of the \
             one it came from unless it is paused or deleted there"
        ));
    }
    Ok(Exit::Done)
}

pub(crate) fn copy(command: &args::Copy) -> Result<Exit> {
    let from = database::open(&command.from)?;
    let to = open_to_write(&command.to)?;
    let ids = command.ids.iter().map(|id| database::id(id)).collect::<durable::Result<Vec<_>>>()?;
    // First: whoever is shut out here has to be shut out there.
    let tokens = if ids.is_empty() { durable::portable::copy_tokens(&from, &to)? } else { 0 };
    let plan = CopyPlan { ids, pause_source: command.pause_source };
    let mut counts = Counts::default();
    let mut said = Instant::now();
    durable::portable::copy(&from, &to, &plan, |copied| {
        counts.add(&copied);
        if let Copied::Refused(id, error) = &copied {
            text::say(&format!("execution {id} is not copied: {error}"));
        }
        if let Copied::Done(id, _) = copied
            && to.execution(id).is_ok_and(|record| !record.status.is_terminal())
        {
            counts.alive += 1;
        }
        if said.elapsed() >= INTERVAL {
            said = Instant::now();
            text::say(&counts.to_string());
        }
    })?;
    text::say(&counts.to_string());
    if tokens > 0 {
        text::say(&format!("{tokens} access tokens copied or revoked"));
    }
    if counts.alive > 0 {
        text::say(&format!(
            "{} of them have not ended: {}",
            counts.alive,
            if command.pause_source {
                "they are paused in both databases; `durable resume`, or resume() of the service, \
                 lets them go on in one"
            } else {
                "workers of both databases would run them; delete them in one, or copy with \
                 --pause-source"
            }
        ));
    }
    Ok(if counts.refused == 0 { Exit::Done } else { Exit::Refused })
}

/// Programs that come from elsewhere are looked at in a process of their own.
fn open_to_write(url: &str) -> Result<durable::Engine> {
    if Location::parse(url)? == Location::Memory {
        return Err(Error::invalid("what is put into memory is lost at once").into());
    }
    Ok(database::open_to_run(url, Isolation::Process, Config::default())?)
}

#[derive(Debug, Default)]
struct Counts {
    new: u64,
    continued: u64,
    known: u64,
    refused: u64,
    alive: u64,
}

impl Counts {
    fn add(&mut self, copied: &Copied) {
        *match copied {
            Copied::Done(_, Imported::New) => &mut self.new,
            Copied::Done(_, Imported::Continued(_)) => &mut self.continued,
            Copied::Done(_, Imported::Known) => &mut self.known,
            Copied::Refused(..) => &mut self.refused,
        } += 1;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { new, continued, known, refused, .. } = self;
        write!(f, "{new} copied, {continued} continued, {known} there already, {refused} refused")
    }
}
