//! Runs as they are stored: `DMST`, a version, and JSON; sealed.

use std::collections::BTreeMap;

use durable_core::{
    CallId, Payload, Snapshot,
    seal::{SnapshotKey, StateOf, seal, unseal},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::run::{Compiled, Output, Progress, Run, Running};

const MAGIC: &[u8; 5] = b"DMST\x01";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// How many steps the workflow has.
    steps: usize,
    last_call: CallId,
    inputs: Box<RawValue>,
    /// What the steps came to that have ended.
    done: BTreeMap<usize, Box<RawValue>>,
    /// The steps whose calls are open.
    running: BTreeMap<usize, StoredRunning>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRunning {
    first: CallId,
    calls: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    results: BTreeMap<u32, Box<RawValue>>,
}

fn raw(payload: &Payload) -> Result<Box<RawValue>, serde_json::Error> {
    RawValue::from_string(payload.as_str().to_owned())
}

fn payload(raw: &RawValue) -> Payload {
    Payload::trusted(raw.get())
}

/// Writes a run.
///
/// # Errors
/// A result that is not JSON.
pub(crate) fn write(
    key: &SnapshotKey,
    of: StateOf,
    run: &Run,
) -> Result<Snapshot, serde_json::Error> {
    let mut stored = Stored {
        steps: run.steps.len(),
        last_call: run.last_call,
        inputs: raw(&run.inputs.json)?,
        done: BTreeMap::new(),
        running: BTreeMap::new(),
    };
    for (index, progress) in run.steps.iter().enumerate() {
        match progress {
            Progress::Waiting => {}
            Progress::Done(output) => {
                stored.done.insert(index, raw(&output.json)?);
            }
            Progress::Running(Running { first, calls, results }) => {
                let results = results.iter().map(|(call, json)| Ok((*call, raw(json)?)));
                let results = results.collect::<Result<_, serde_json::Error>>()?;
                stored
                    .running
                    .insert(index, StoredRunning { first: *first, calls: *calls, results });
            }
        }
    }
    let mut bytes = MAGIC.to_vec();
    serde_json::to_writer(&mut bytes, &stored)?;
    Ok(seal(key, of, bytes))
}

/// Reads a run.
///
/// # Errors
/// A sentence that says why it can't be used.
pub(crate) fn read(
    key: &SnapshotKey,
    of: StateOf,
    snapshot: &Snapshot,
    compiled: &Compiled,
) -> Result<Run, String> {
    let bytes = unseal(key, of, snapshot)?;
    let json = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| "it is no snapshot of a step workflow that this version reads".to_owned())?;
    let stored: Stored = serde_json::from_slice(json)
        .map_err(|error| format!("the snapshot can't be read: {error}"))?;
    if stored.steps != compiled.workflow.steps.len() {
        return Err("the snapshot is of another workflow".to_owned());
    }
    let mut steps = vec![Progress::Waiting; stored.steps];
    for (index, json) in stored.done {
        let step = steps.get_mut(index).ok_or("the snapshot has a step too many")?;
        *step = Progress::Done(Output::new(payload(&json)));
    }
    for (index, StoredRunning { first, calls, results }) in stored.running {
        let step = steps.get_mut(index).ok_or("the snapshot has a step too many")?;
        let results = results.iter().map(|(call, json)| (*call, payload(json))).collect();
        *step = Progress::Running(Running { first, calls, results });
    }
    let inputs = Output::new(payload(&stored.inputs));
    Ok(Run::of(compiled, inputs, steps, stored.last_call))
}
