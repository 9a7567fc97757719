//! `durable checkpoints`

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use durable::{
    Call, Config, Definition, Engine, Error, Isolation, Location, Outcome, Payload,
    checkpoints::{self, Assignment, Change, Checkpoint, Edits, Inspection},
};
use durable_server::views::{CheckpointView, InspectedCheckpointView, instant};

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
        Checkpoints::Fork { id, at, result, set } => fork(url, id, *at, result, set),
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
        None => checkpoints::last(engine, id),
    }
}

fn list(url: &str, id: &str, is_json: bool) -> Result<Exit> {
    let engine = database::open(url)?;
    let all = checkpoints::list(&engine, database::id(id)?)?;
    if is_json {
        for checkpoint in &all {
            text::print(&(serde_json::to_string(&CheckpointView::new(checkpoint))? + "\n"))?;
        }
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = all.iter().map(row).collect();
    text::print(&text::table(
        &["CHECKPOINT", "TIME", "EVENT", "WAITS FOR", "LABEL", "SET"],
        &rows,
    ))?;
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
        short(&checkpoint.set.iter().map(assigned).collect::<Vec<_>>().join(", "), 60),
    ]
}

/// A variable that was set, in the form that `--set` takes.
fn assigned(assignment: &Assignment) -> String {
    let Assignment { function, name, value, .. } = assignment;
    format!("{function}.{name}={}", value.as_str())
}

fn describe(call: &Call) -> String {
    format!("{} (call {}, line {})", call.name(), call.id(), call.new.position.line)
}

fn show(url: &str, id: &str, at: Option<u32>, is_json: bool) -> Result<Exit> {
    let engine = open(url)?;
    let checkpoint = find(&engine, id, at)?;
    let seen = checkpoints::inspect(&engine, &checkpoint)?;
    let definition = checkpoints::definition(&engine, &checkpoint)?;
    if is_json {
        let view = InspectedCheckpointView::new(&checkpoint, &definition, &seen);
        text::print(&(serde_json::to_string(&view)? + "\n"))?;
    } else {
        text::print(&plain(&checkpoint, &definition, &seen))?;
    }
    Ok(Exit::Done)
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
    for assignment in &checkpoint.set {
        let _ = writeln!(text, "set         {}", short(&assigned(assignment), MAX_CHARS));
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
    let diff = checkpoints::diff(&engine, &before, &after)?;
    let mut text = String::new();
    for change in &diff.variables {
        let mut tell = |sign, value: Option<&Payload>| {
            if let Some(value) = value {
                let (place, value) = (place(change), short(value.as_str(), MAX_CHARS));
                let _ = writeln!(text, "{sign} {place}{} = {value}", change.name);
            }
        };
        tell('-', change.before.as_ref());
        tell('+', change.after.as_ref());
    }
    for assignment in &diff.set {
        let _ = writeln!(text, "  {} was set", short(&assigned(assignment), MAX_CHARS));
    }
    for (call, outcome) in &diff.ended {
        let came_to = match outcome {
            Outcome::Completed(result) => short(result.as_str(), MAX_CHARS),
            Outcome::Failed(failure) => failure.to_string(),
        };
        let _ = writeln!(text, "  call {call} came to {came_to}");
    }
    text::print(&text)?;
    Ok(Exit::Done)
}

/// Whose variable it is; nothing for the program's own.
fn place(change: &Change) -> String {
    match (change.task, change.depth) {
        (0, 0) => String::new(),
        (0, _) => format!("{}: ", change.function),
        (task, _) => format!("task {task}, {}: ", change.function),
    }
}

fn fork(
    url: &str,
    id: &str,
    at: Option<u32>,
    results: &[String],
    variables: &[String],
) -> Result<Exit> {
    // Whether the program takes the values is known only to what runs it.
    let engine = if variables.is_empty() { database::open(url)? } else { open(url)? };
    let checkpoint = find(&engine, id, at)?;
    let limit =
        usize::try_from(checkpoints::definition(&engine, &checkpoint)?.limits.max_payload_bytes);
    let limit = limit.unwrap_or(usize::MAX);
    let results = results.iter().map(|result| {
        let (call, value) = result
            .split_once('=')
            .with_context(|| format!("--result {result}: give CALL=JSON, as in --result 3=null"))?;
        let call =
            call.trim().parse().with_context(|| format!("{call:?} is no number of a call"))?;
        Ok((call, Outcome::Completed(Payload::parse(value, limit)?)))
    });
    let variables = variables.iter().map(|set| {
        let (name, value) = set
            .split_once('=')
            .with_context(|| format!("--set {set}: give NAME=JSON, as in --set 'name=\"Ann\"'"))?;
        let value = Payload::parse(value, limit).with_context(|| format!("--set {set:.100}"))?;
        Ok((name.trim().to_owned(), value))
    });
    let edits = Edits {
        results: results.collect::<Result<_>>()?,
        variables: variables.collect::<Result<_>>()?,
    };
    let fork = checkpoints::fork(&engine, &checkpoint, &edits)?;
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
