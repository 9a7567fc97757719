//! Sealing anew what is stored, so that an old key can be dropped.
//!
//! Every payload is looked at where it lies. One that is not sealed under the first key is opened
//! and replaced by itself, sealed under that, if nobody has replaced it meanwhile. That means the
//! same to everybody who has both keys, so no lease is taken, and an execution may be held and
//! advanced all the while.

use durable_core::{CallId, Error, ExecutionId, Failure, Result};
use serde_json::Value;

use super::{
    SealedStore, dictionary_of,
    turn::{
        ERROR, INPUTS, OUTPUT, Tally, Turn, Way, args_of, error_of, kwargs_of, message_of,
        metadata_of, printed_of, result_of, snapshot_of, traceback_of, turned_bytes, variable_of,
    },
};
use crate::{PayloadChange, PayloadRow, PayloadTable, StoredPayload};

/// How many rows are looked at, and at most written, at a time.
const PAGE: usize = 100;

/// How often everything is looked at again as long as others write under another key.
const MAX_PASSES: u32 = 5;

/// What came of [`SealedStore::rekey`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// How many rows hold payloads.
    pub rows: u64,
    /// How many payloads were sealed anew, by the name of the key they were sealed with before;
    /// under the empty name those that were in the clear. Without writing: how many would be.
    pub renewed: std::collections::BTreeMap<String, u64>,
    /// How many rows hold something that can't be opened or written.
    pub refused: u64,
    /// Whether a last look found nothing that needs another key than the first.
    pub is_settled: bool,
}

/// How [`SealedStore::rekey`] gets on.
#[derive(Debug)]
pub enum Rekeying<'a> {
    /// Some rows more were looked at.
    Page(&'a Rekeyed),
    /// A row is left as it is.
    Refused(Error),
}

impl SealedStore {
    /// Seals everything that is stored under the first key of the ring: what is sealed under
    /// another key, and what was stored before there was one. When it says so in the end, no
    /// other key is needed any more, unless a process that seals under another one still runs.
    ///
    /// Cut off, it goes on where it was when it is started again: what is done is only read.
    ///
    /// # Errors
    /// `Invalid` without a key; those of the store. What can't be opened is told and left out.
    pub fn rekey(&self, writes: bool, mut tell: impl FnMut(Rekeying<'_>)) -> Result<Rekeyed> {
        if self.keys.is_empty() {
            return Err(Error::invalid(
                "there is no key to seal with: give DURABLE_ENCRYPTION_KEYS, the new key first",
            ));
        }
        let mut rekeyed = Rekeyed::default();
        for pass in 0..MAX_PASSES {
            // What is refused is told once.
            let mut tell = |rekeying: Rekeying<'_>| {
                if pass == 0 || !matches!(rekeying, Rekeying::Refused(_)) {
                    tell(rekeying);
                }
            };
            let before: u64 = rekeyed.renewed.values().sum();
            rekeyed.rows = 0;
            rekeyed.refused = 0;
            for table in PayloadTable::ALL {
                self.rekey_table(*table, writes, &mut rekeyed, &mut tell)?;
            }
            let found = rekeyed.renewed.values().sum::<u64>() > before;
            rekeyed.is_settled = !found && rekeyed.refused == 0;
            if !found || !writes {
                break;
            }
        }
        Ok(rekeyed)
    }

    fn rekey_table(
        &self,
        table: PayloadTable,
        writes: bool,
        rekeyed: &mut Rekeyed,
        tell: &mut impl FnMut(Rekeying<'_>),
    ) -> Result<()> {
        let mut after = (String::new(), 0);
        loop {
            let page = self.inner.payloads(table, &after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = (last.id.clone(), last.number);
            let mut changes: Vec<PayloadChange> = Vec::new();
            for row in &page {
                rekeyed.rows += 1;
                let tally = Tally::default();
                match self.renewed(table, row, &tally) {
                    Ok(changed) => {
                        changes.extend(changed);
                        for (key, count) in tally.0.into_inner() {
                            *rekeyed.renewed.entry(key).or_default() += count;
                        }
                    }
                    Err(error) => {
                        rekeyed.refused += 1;
                        tell(Rekeying::Refused(error));
                    }
                }
            }
            if writes && !changes.is_empty() {
                self.write(table, &changes, rekeyed, tell)?;
            }
            tell(Rekeying::Page(rekeyed));
        }
    }

    /// Writes a page, or what of it can be written.
    fn write(
        &self,
        table: PayloadTable,
        changes: &[PayloadChange],
        rekeyed: &mut Rekeyed,
        tell: &mut impl FnMut(Rekeying<'_>),
    ) -> Result<()> {
        match self.inner.replace_payloads(table, changes) {
            Ok(()) => Ok(()),
            Err(error @ Error::Unavailable(_)) => Err(error),
            Err(_) => {
                for row in changes.chunk_by(|one, other| one.row == other.row) {
                    if let Err(error) = self.inner.replace_payloads(table, row) {
                        rekeyed.refused += 1;
                        tell(Rekeying::Refused(error));
                    }
                }
                Ok(())
            }
        }
    }

    /// What has to change in a row.
    fn renewed(
        &self,
        table: PayloadTable,
        row: &PayloadRow,
        tally: &Tally,
    ) -> Result<Vec<PayloadChange>> {
        let mut changes = Vec::new();
        for (column, payload) in row.payloads.iter().enumerate() {
            let Some(payload) = payload else { continue };
            let to = match payload {
                StoredPayload::Text(text) => {
                    let way = Way::Renew(tally);
                    let turn = Turn { keys: &self.keys, way, id: row.id.parse()? };
                    renewed_text(&turn, table, row, column, text)?.map(StoredPayload::Text)
                }
                StoredPayload::Bytes(bytes) => {
                    let place = match table {
                        PayloadTable::Programs => dictionary_of(&row.id),
                        _ => snapshot_of(&row.id.parse::<ExecutionId>()?.to_string()),
                    };
                    turned_bytes(&self.keys, Way::Renew(tally), &place, bytes)?
                        .map(StoredPayload::Bytes)
                }
            };
            if let Some(to) = to {
                let from = payload.clone();
                changes.push(PayloadChange { row: (row.id.clone(), row.number), column, from, to });
            }
        }
        Ok(changes)
    }
}

fn renewed_text(
    turn: &Turn<'_>,
    table: PayloadTable,
    row: &PayloadRow,
    column: usize,
    text: &str,
) -> Result<Option<String>> {
    let call = row.number as CallId;
    let column = table.columns().nth(column).unwrap_or_default();
    let is_call = table == PayloadTable::Calls;
    let failure = if is_call { error_of(call) } else { ERROR.to_owned() };
    let place = match (table, column) {
        (PayloadTable::Events, _) => return renewed_event(turn, row, text),
        // Of what did not fail it is the reason of an operator, which is not sealed.
        (PayloadTable::Executions, "error" | "error_traceback") if row.word.is_empty() => {
            return Ok(None);
        }
        (_, "error" | "error_traceback") if text.is_empty() => return Ok(None),
        (_, "error") => message_of(&failure),
        (_, "error_traceback") => traceback_of(&failure),
        (_, "input_payload") => INPUTS.to_owned(),
        (_, "output_payload") => OUTPUT.to_owned(),
        (_, "args") => args_of(call),
        (_, "kwargs") => kwargs_of(call),
        (_, "result") => result_of(call),
        _ => return Err(Error::internal(format!("{}.{column} has no place", table.name()))),
    };
    turn.text(text, &place)
}

/// An event that holds payloads itself; their places are those that the walk of events gives them.
fn renewed_event(turn: &Turn<'_>, row: &PayloadRow, text: &str) -> Result<Option<String>> {
    let torn = |what: &str| {
        Error::corrupt(format!("event {} of execution {}: {what}", row.number, row.id))
    };
    let mut event: Value =
        serde_json::from_str(text).map_err(|error| torn(&format!("no JSON: {error}")))?;
    let before = event.clone();
    let call_of = |value: &Value| {
        let number = value.get("call").and_then(Value::as_u64);
        let number = number.and_then(|number| CallId::try_from(number).ok());
        number.ok_or_else(|| torn("it names no call"))
    };
    let failed = |value: &mut Value, place: &str| -> Result<()> {
        let Some(error) = value.get_mut("error") else { return Err(torn("it has no error")) };
        let mut failure: Failure = serde_json::from_value(error.take())
            .map_err(|error| torn(&format!("its error can't be read: {error}")))?;
        turn.failure(&mut failure, place)?;
        *error = serde_json::json!(failure);
        Ok(())
    };
    let string = |value: &mut Value, field: &str, place: &str| -> Result<()> {
        match value.get_mut(field) {
            Some(Value::String(text)) => turn.string(text, place),
            _ => Ok(()),
        }
    };
    match row.word.as_str() {
        "PROGRAM_PRINTED" => string(&mut event, "text", &printed_of(row.number))?,
        "VARIABLES_SET" => {
            for (place, variable) in list(&mut event, "variables").enumerate() {
                string(variable, "value", &variable_of(row.number, place))?;
            }
        }
        "AGENT_RESPONSE" => {
            if let Some(metadata) = event.get_mut("agent_metadata")
                && let Some(renewed) = turn.text(&metadata.to_string(), &metadata_of(row.number))?
            {
                *metadata = serde_json::from_str(&renewed)
                    .map_err(|error| torn(&format!("its metadata can't be read: {error}")))?;
            }
        }
        "STEP_RETRYING" => {
            let call = call_of(&event)?;
            failed(&mut event, &error_of(call))?;
        }
        _ => {
            for again in list(&mut event, "again") {
                let call = call_of(again)?;
                failed(again, &error_of(call))?;
            }
            for dropped in list(&mut event, "dropped") {
                let call = call_of(dropped)?;
                string(dropped, "args", &args_of(call))?;
                string(dropped, "kwargs", &kwargs_of(call))?;
            }
            failed(&mut event, ERROR)?;
        }
    }
    Ok((event != before).then(|| event.to_string()))
}

fn list<'a>(event: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    event.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}
