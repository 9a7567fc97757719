//! `durable events`

use anyhow::Result;
use durable_server::views::EventView;

use crate::{
    args, database,
    exit::Exit,
    text::{self, short},
};

/// How many events are read at a time.
const PAGE: usize = 1_000;

pub(crate) fn events(url: &str, command: &args::Events) -> Result<Exit> {
    let id = database::id(&command.id)?;
    let engine = database::open(url)?;
    // So that an id that names nothing is told from an empty journal.
    engine.execution(id)?;
    let mut after = 0;
    loop {
        let page = engine.store().journal(id, after, PAGE)?;
        let Some(last) = page.last() else { return Ok(Exit::Done) };
        after = last.sequence;
        for recorded in &page {
            let view = EventView::new(recorded);
            let line = if command.json { serde_json::to_string(&view)? } else { plain(&view) };
            text::print(&(line + "\n"))?;
        }
    }
}

fn plain(event: &EventView) -> String {
    let payload = match event.payload.as_object() {
        Some(fields) if fields.is_empty() => String::new(),
        _ => short(&event.payload.to_string(), 120),
    };
    let EventView { sequence, time, event_type, .. } = event;
    format!("{sequence:>4}  {time}  {event_type:<19}  {payload}").trim_end().to_owned()
}
