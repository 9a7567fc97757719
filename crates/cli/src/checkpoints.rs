//! `durable checkpoints`

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};
use durable::{
    Call, Config, Definition, Engine, Error, Isolation, Location, Outcome, Payload,
    checkpoints::{self, Checkpoint, Frame, Inspection},
};
use durable_server::views::instant;
use serde_json::{Value, json};

use crate::{
    args::Checkpoints,
    database,
    exit::Exit,
    text::{self, short},
};

/// How much of a value is shown.
const MAX_CHARS: usize = 120;

/// Lines of source shown before and after the one that waits.
const CONTEXT_LINES: usize = 3;

pub(crate) fn checkpoints(url: &str, command: &Checkpoints) -> Result<Exit> {
    match command {
        Checkpoints::List { id, json } => list(url, id, *json),
        Checkpoints::Show { id, at, json } => show(url, id, *at, *json),
        Checkpoints::Diff { id, from, to } => diff(url, id, *from, *to),
        Checkpoints::Fork { id, at, result } => fork(url, id, *at, result),
        Checkpoints::Restore { id, at } => restore(url, id, *at),
    }
}

/// Opens a database to run program code of its executions, as untrusted as it is.
fn open(url: &str) -> Result<Engine> {
    if Location::parse(url)? == Location::Memory {
        return Err(Error::invalid("there is nothing to look at in memory: --db names it").into());
    }
    // Says so when the database is not there.
    drop(database::open(url)?);
    Ok(database::open_to_run(url, Isolation::Process, Config::default())?)
}

fn find(engine: &Engine, id: &str, at: Option<u32>) -> durable::Result<Checkpoint> {
    let id = database::id(id)?;
    match at {
        Some(number) => checkpoints::get(engine, id, number),
        None => checkpoints::list(engine, id)?.pop().ok_or_else(|| {
            Error::not_found(format!("execution {id} has no checkpoint: it has not waited yet"))
        }),
    }
}

fn list(url: &str, id: &str, is_json: bool) -> Result<Exit> {
    let engine = database::open(url)?;
    let all = checkpoints::list(&engine, database::id(id)?)?;
    if is_json {
        for checkpoint in &all {
            text::print(&format!("{}\n", view(checkpoint)))?;
        }
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = all.iter().map(row).collect();
    text::print(&text::table(&["CHECKPOINT", "TIME", "EVENT", "WAITS FOR", "LABEL"], &rows))?;
    Ok(Exit::Done)
}

fn row(checkpoint: &Checkpoint) -> Vec<String> {
    let waits: Vec<_> = checkpoint.waits_for.iter().map(describe).collect();
    vec![
        checkpoint.number.to_string(),
        instant(checkpoint.at_ms),
        checkpoint.sequence.to_string(),
        short(&waits.join(", "), 60),
        checkpoint.label.clone().unwrap_or_default(),
    ]
}

fn describe(call: &Call) -> String {
    format!("{} (call {}, line {})", call.name(), call.id(), call.new.position.line)
}

fn view(checkpoint: &Checkpoint) -> Value {
    let call = |call: &Call| {
        let position = call.new.position;
        json!({ "call": call.id(), "name": call.name(), "line": position.line,
                "column": position.column })
    };
    json!({
        "checkpoint": checkpoint.number,
        "id": checkpoint.id(),
        "execution": checkpoint.execution,
        "time": instant(checkpoint.at_ms),
        "sequence": checkpoint.sequence,
        "transition": checkpoint.transition,
        "waits_for": checkpoint.waits_for.iter().map(call).collect::<Value>(),
        "label": checkpoint.label,
    })
}

fn show(url: &str, id: &str, at: Option<u32>, is_json: bool) -> Result<Exit> {
    let engine = open(url)?;
    let checkpoint = find(&engine, id, at)?;
    let seen = checkpoints::inspect(&engine, &checkpoint)?;
    let definition = checkpoints::definition(&engine, &checkpoint)?;
    if is_json {
        let mut view = view(&checkpoint);
        view["source"] = json!(definition.source);
        let stack = |stack: &Vec<Frame>| stack.iter().map(frame_view).collect::<Vec<_>>();
        view["stacks"] = json!(seen.stacks.iter().map(stack).collect::<Vec<_>>());
        text::print(&format!("{view}\n"))?;
    } else {
        text::print(&plain(&checkpoint, &definition, &seen))?;
    }
    Ok(Exit::Done)
}

fn frame_view(frame: &Frame) -> Value {
    let value = |payload: &Payload| serde_json::from_str(payload.as_str()).unwrap_or(Value::Null);
    let variables: BTreeMap<_, _> =
        frame.variables.iter().map(|(name, payload)| (name, value(payload))).collect();
    json!({ "function": frame.function, "line": frame.position.line,
            "column": frame.position.column, "variables": variables })
}

fn plain(checkpoint: &Checkpoint, definition: &Definition, seen: &Inspection) -> String {
    let waits: Vec<_> = checkpoint.waits_for.iter().map(describe).collect();
    let mut text = format!(
        "checkpoint  {}\ntime        {}\nwaits for   {}\n",
        checkpoint.id(),
        instant(checkpoint.at_ms),
        waits.join(", ")
    );
    if let Some(label) = &checkpoint.label {
        let _ = writeln!(text, "label       {label}");
    }
    let lines: Vec<_> = definition.source.lines().collect();
    let waiting = seen.stacks.iter().filter_map(|stack| stack.last());
    let mut waiting: Vec<_> = waiting.map(|frame| frame.position.line as usize).collect();
    waiting.sort_unstable();
    waiting.dedup();
    text.push('\n');
    let mut last = 0;
    for (number, line) in (1..).zip(&lines) {
        if !waiting.iter().any(|at| number + CONTEXT_LINES >= *at && number <= at + CONTEXT_LINES) {
            continue;
        }
        if last > 0 && number > last + 1 {
            text += "        …\n";
        }
        last = number;
        let mark = if waiting.contains(&number) { '>' } else { ' ' };
        let _ = writeln!(text, "{mark} {number:>4}  {line}");
    }
    for (task, stack) in seen.stacks.iter().enumerate() {
        let name = if seen.stacks.len() > 1 { format!("task {task}: ") } else { String::new() };
        for frame in stack {
            let _ = writeln!(text, "\n{name}{} (line {})", frame.function, frame.position.line);
            for (variable, value) in &frame.variables {
                let _ = writeln!(text, "    {variable} = {}", short(value.as_str(), MAX_CHARS));
            }
        }
    }
    text
}

fn diff(url: &str, id: &str, from: u32, to: u32) -> Result<Exit> {
    let engine = open(url)?;
    let (before, after) = (find(&engine, id, Some(from))?, find(&engine, id, Some(to))?);
    let seen = |checkpoint| Ok::<_, Error>(variables(&checkpoints::inspect(&engine, checkpoint)?));
    let (old, new) = (seen(&before)?, seen(&after)?);
    let mut text = String::new();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let (was, is) = (old.get(name), new.get(name));
        if was == is {
            continue;
        }
        let mut tell = |sign, value: Option<&String>| {
            if let Some(value) = value {
                let _ = writeln!(text, "{sign} {name} = {}", short(value, MAX_CHARS));
            }
        };
        tell('-', was);
        tell('+', is);
    }
    for call in checkpoints::ended_between(&engine, &before, &after)? {
        let came_to = match &call.1 {
            Outcome::Completed(result) => short(result.as_str(), MAX_CHARS),
            Outcome::Failed(failure) => failure.to_string(),
        };
        let _ = writeln!(text, "  call {} came to {came_to}", call.0);
    }
    text::print(&text)?;
    Ok(Exit::Done)
}

/// The variables of all frames, by task, function and name.
fn variables(seen: &Inspection) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (task, stack) in seen.stacks.iter().enumerate() {
        for (depth, frame) in stack.iter().enumerate() {
            let place = match (task, depth) {
                (0, 0) => String::new(),
                (0, _) => format!("{}: ", frame.function),
                _ => format!("task {task}, {}: ", frame.function),
            };
            for (name, value) in &frame.variables {
                all.insert(format!("{place}{name}"), value.as_str().to_owned());
            }
        }
    }
    all
}

fn fork(url: &str, id: &str, at: Option<u32>, results: &[String]) -> Result<Exit> {
    let engine = database::open(url)?;
    let checkpoint = find(&engine, id, at)?;
    let limit =
        usize::try_from(checkpoints::definition(&engine, &checkpoint)?.limits.max_payload_bytes);
    let results = results.iter().map(|result| {
        let (call, value) = result
            .split_once('=')
            .with_context(|| format!("--result {result}: give CALL=JSON, as in --result 3=null"))?;
        let call =
            call.trim().parse().with_context(|| format!("{call:?} is no number of a call"))?;
        let value = Payload::parse(value, limit.unwrap_or(usize::MAX))?;
        Ok((call, Outcome::Completed(value)))
    });
    let results = results.collect::<Result<Vec<_>>>()?;
    let fork = checkpoints::fork(&engine, &checkpoint, &results)?;
    text::print(&format!("{fork}\n"))?;
    text::say(&format!(
        "it goes on from checkpoint {}: a worker takes it up, or `durable resume {fork}`",
        checkpoint.number
    ));
    Ok(Exit::Done)
}

fn restore(url: &str, id: &str, at: u32) -> Result<Exit> {
    let engine = database::open(url)?;
    let checkpoint = find(&engine, id, Some(at))?;
    let fork = checkpoints::restore(&engine, &checkpoint)?;
    text::print(&format!("{fork}\n"))?;
    text::say(&format!("it goes on in the place of {id}: `durable resume {fork}`, or a worker"));
    Ok(Exit::Done)
}
