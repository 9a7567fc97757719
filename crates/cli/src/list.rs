//! `durable list`

use anyhow::Result;
use durable::{ExecutionRecord, ListFilter};
use durable_server::views::{ExecutionView, duration_ms, instant};

use crate::{
    args, database,
    exit::Exit,
    text::{self, duration, short},
};

pub(crate) fn list(url: &str, command: &args::List) -> Result<Exit> {
    let engine = database::open(url)?;
    let filter = ListFilter {
        statuses: command.status.clone(),
        workflow_id: command.workflow.clone(),
        tag: command.tag.clone(),
        namespace: command.namespace.clone(),
        since_ms: command.since,
        until_ms: command.until,
        before: None,
        limit: command.limit as usize,
    };
    let records = engine.store().list(&filter)?;
    if command.json {
        for record in &records {
            text::print(&(serde_json::to_string(&ExecutionView::new(record))? + "\n"))?;
        }
    } else if records.is_empty() {
        text::say("no executions");
    } else {
        let rows: Vec<_> = records.iter().map(row).collect();
        text::print(&text::table(&["ID", "WORKFLOW", "STATUS", "CREATED", "TOOK", ""], &rows))?;
    }
    Ok(Exit::Done)
}

fn row(record: &ExecutionRecord) -> Vec<String> {
    let came_of_it = match (&record.output, &record.failure) {
        (Some(output), _) => short(output.as_str(), 40),
        (None, Some(failure)) => short(&failure.to_string(), 60),
        (None, None) => String::new(),
    };
    vec![
        record.id.to_string(),
        short(&record.workflow_id, 24),
        record.status.to_string(),
        instant(record.created_at_ms),
        duration_ms(record).map(duration).unwrap_or_default(),
        came_of_it,
    ]
}
