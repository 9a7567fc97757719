//! Words for what `check` finds, the same from every store.

use durable_core::Execution;

/// Says in what the state that the journal amounts to differs from the state in the rows.
pub(crate) fn difference(journal: &Execution, rows: &Execution) -> String {
    let mut parts = Vec::new();
    let mut compare = |name: &str, journal: String, rows: String| {
        if journal != rows {
            parts.push(format!("{name} is {journal} by the journal, {rows} in the rows"));
        }
    };
    compare("status", journal.status.to_string(), rows.status.to_string());
    compare("version", journal.version.to_string(), rows.version.to_string());
    compare("next event", journal.next_sequence.to_string(), rows.next_sequence.to_string());
    compare("started", journal.started.to_string(), rows.started.to_string());
    compare(
        "calls asked for",
        journal.requested_calls.to_string(),
        rows.requested_calls.to_string(),
    );
    compare("resume groups", journal.groups.to_string(), rows.groups.to_string());
    compare("calls closed", journal.closed_calls.to_string(), rows.closed_calls.to_string());
    let numbers = |execution: &Execution| format!("{:?}", execution.open_calls.keys());
    compare("open calls", numbers(journal), numbers(rows));
    if parts.is_empty() {
        parts.push("an open call is another by the journal than in its row".into());
    }
    parts.join("; ")
}
