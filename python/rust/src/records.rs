//! Rows of the store as Python dictionaries; their keys stand in `_internal.pyi`.

use durable::{
    Call, CallRecord, Definition, ExecutionRecord, Failure, Recorded,
    checkpoints::{Assignment, Checkpoint, Frame, Inspection},
    wire,
};
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

pub(crate) fn execution<'py>(
    py: Python<'py>,
    record: &ExecutionRecord,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("execution_id", record.id.to_string())?;
    dict.set_item("workflow_id", &record.workflow_id)?;
    dict.set_item("status", record.status.as_str())?;
    dict.set_item("inputs", record.inputs.as_str())?;
    dict.set_item("output", record.output.as_ref().map(|output| output.as_str()))?;
    failure(&dict, record.failure.as_ref())?;
    dict.set_item("error_call", record.failure.as_ref().and_then(|failure| failure.cause_call))?;
    dict.set_item("created_at_ms", record.created_at_ms)?;
    dict.set_item("started_at_ms", record.started_at_ms)?;
    dict.set_item("completed_at_ms", record.completed_at_ms)?;
    Ok(dict)
}

pub(crate) fn call<'py>(py: Python<'py>, record: &CallRecord) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("call_id", record.id)?;
    dict.set_item("step_order", record.order)?;
    dict.set_item("resume_group_id", &record.resume_group_id)?;
    dict.set_item("is_timer", record.is_timer)?;
    dict.set_item("function_name", &record.name)?;
    dict.set_item("target", &record.function)?;
    dict.set_item("args", record.args.as_str())?;
    dict.set_item("kwargs", record.kwargs.as_str())?;
    dict.set_item("line", record.position.line)?;
    dict.set_item("column", record.position.column)?;
    dict.set_item("status", record.status.as_str())?;
    dict.set_item("attempt", record.attempt)?;
    dict.set_item("due_at_ms", record.due_at_ms)?;
    dict.set_item("job_id", record.job_id.as_deref())?;
    dict.set_item("result", record.result.as_ref().map(|result| result.as_str()))?;
    failure(&dict, record.failure.as_ref())?;
    Ok(dict)
}

pub(crate) fn event<'py>(py: Python<'py>, recorded: &Recorded) -> PyResult<Bound<'py, PyDict>> {
    let wire = wire::encode(&recorded.event);
    let dict = PyDict::new(py);
    dict.set_item("sequence", recorded.sequence)?;
    dict.set_item("event_type", wire.event_type)?;
    dict.set_item("payload", wire.payload.to_string())?;
    dict.set_item("at_ms", recorded.at_ms)?;
    Ok(dict)
}

pub(crate) fn checkpoint<'py>(
    py: Python<'py>,
    checkpoint: &Checkpoint,
) -> PyResult<Bound<'py, PyDict>> {
    let waits_for = checkpoint.waits_for.iter().map(|call| open_call(py, call));
    let set = checkpoint.set.iter().map(|one| assignment(py, one));
    let dict = PyDict::new(py);
    dict.set_item("number", checkpoint.number)?;
    dict.set_item("id", checkpoint.id())?;
    dict.set_item("execution_id", checkpoint.execution.to_string())?;
    dict.set_item("at_ms", checkpoint.at_ms)?;
    dict.set_item("sequence", checkpoint.sequence)?;
    dict.set_item("waits_for", waits_for.collect::<PyResult<Vec<_>>>()?)?;
    dict.set_item("label", checkpoint.label.as_deref())?;
    dict.set_item("set", set.collect::<PyResult<Vec<_>>>()?)?;
    Ok(dict)
}

fn assignment<'py>(py: Python<'py>, assignment: &Assignment) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("task", assignment.task)?;
    dict.set_item("depth", assignment.depth)?;
    dict.set_item("function", &assignment.function)?;
    dict.set_item("name", &assignment.name)?;
    dict.set_item("value", assignment.value.as_str())?;
    Ok(dict)
}

fn open_call<'py>(py: Python<'py>, call: &Call) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("call_id", call.id())?;
    dict.set_item("name", call.name())?;
    dict.set_item("line", call.new.position.line)?;
    dict.set_item("column", call.new.position.column)?;
    Ok(dict)
}

/// A checkpoint with its source and its call stacks.
pub(crate) fn inspected<'py>(
    py: Python<'py>,
    at: &Checkpoint,
    definition: &Definition,
    seen: &Inspection,
) -> PyResult<Bound<'py, PyDict>> {
    let stacks = PyList::empty(py);
    for stack in &seen.stacks {
        let frames = stack.iter().map(|one| frame(py, one));
        stacks.append(frames.collect::<PyResult<Vec<_>>>()?)?;
    }
    let dict = checkpoint(py, at)?;
    dict.set_item("source", &definition.source)?;
    dict.set_item("stacks", stacks)?;
    Ok(dict)
}

fn frame<'py>(py: Python<'py>, frame: &Frame) -> PyResult<Bound<'py, PyDict>> {
    let variables = PyDict::new(py);
    for (name, value) in &frame.variables {
        variables.set_item(name, value.as_str())?;
    }
    let dict = PyDict::new(py);
    dict.set_item("function", &frame.function)?;
    dict.set_item("line", frame.position.line)?;
    dict.set_item("column", frame.position.column)?;
    dict.set_item("variables", variables)?;
    Ok(dict)
}

fn failure(dict: &Bound<'_, PyDict>, failure: Option<&Failure>) -> PyResult<()> {
    dict.set_item("error_type", failure.map(|failure| failure.error_type.as_str()))?;
    dict.set_item("error", failure.map(|failure| failure.message.as_str()))?;
    dict.set_item("error_traceback", failure.and_then(|failure| failure.traceback.as_deref()))
}
