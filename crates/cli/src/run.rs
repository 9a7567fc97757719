//! `durable run` and `durable resume`

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use durable::{
    Clock as _, Config, Definition, Engine, ExecutionId, ExecutionRecord, Language, Limits,
    Location, Outline, Payload, Program, Start, Status, SystemClock,
};
use serde_json::Value;

use crate::{
    args, database, exit::Exit, follow::follow, functions::Functions, inputs, interrupts,
    show::failure, text,
};

pub(crate) fn run(url: &str, command: &args::Run) -> Result<Exit> {
    let inbox = interrupts::watch()?;
    let functions = Functions::load(&command.host.functions)?;
    let start = read_start(&command.workflow, &functions)?;
    let config = match command.workflow.key {
        None => only_what_it_starts(),
        // The execution may be there already, left by somebody else.
        Some(_) => Config::default(),
    };
    let engine = database::open_to_run(url, command.host.isolation.isolation(), config)?;
    // Before anything is leased, and so that nothing is stored of what is refused.
    engine.validate(&start.program)?;
    if inbox.is_interrupted() {
        text::say("nothing was started");
        return Ok(Exit::Interrupted);
    }
    engine.attach(functions.executor())?;
    let began_ms = SystemClock::default().now_ms();
    let id = match engine.start(start) {
        Ok(id) => id,
        Err(error) => {
            engine.detach(std::time::Duration::ZERO);
            return Err(error.into());
        }
    };
    text::say(&format!("execution {id}"));
    functions.serve(id);
    let is_new = engine.execution(id)?.created_at_ms >= began_ms;
    let record = follow(&engine, id, is_new, &inbox)?;
    report(&engine, &record, &how_to_resume(id, url, &command.host.functions))
}

pub(crate) fn start(url: &str, command: &args::Start) -> Result<Exit> {
    let functions = Functions::load(&command.functions)?;
    let start = read_start(&command.workflow, &functions)?;
    let engine = database::open_to_start(url)?;
    let id = engine.start(start)?;
    text::print(&format!("{id}\n"))?;
    Ok(Exit::Done)
}

/// Reads the workflow and its inputs.
fn read_start(workflow: &args::Workflow, functions: &Functions) -> Result<Start> {
    let shown = workflow.file.display();
    let source =
        std::fs::read_to_string(&workflow.file).with_context(|| format!("can't read {shown}"))?;
    let inputs = inputs::gather(workflow.inputs_file.as_deref(), &workflow.inputs)?;
    let language = Language::of_file(&shown.to_string());
    let outline = match language {
        Language::Python | Language::Session => Outline::default(),
        Language::Yaml | Language::Toml | Language::Json => Outline::of(language, &source),
    };
    let definition = Definition {
        language,
        functions: match language {
            Language::Python | Language::Session => functions.mentioned_in(&source),
            Language::Yaml | Language::Toml | Language::Json => functions.agents_of(&outline),
        },
        source,
        inputs: inputs.keys().cloned().collect(),
        limits: Limits::default(),
    };
    Ok(Start {
        program: Arc::new(Program::new(definition)),
        inputs: Payload::from_value(&Value::Object(inputs)),
        workflow_id: workflow.name.clone().or(outline.id).unwrap_or_else(|| stem(&workflow.file)),
        labels: workflow.labels(),
        idempotency_key: workflow.key.clone(),
    })
}

pub(crate) fn resume(url: &str, command: &args::Resume) -> Result<Exit> {
    let inbox = interrupts::watch()?;
    let id = database::id(&command.id)?;
    let hint = how_to_resume(id, url, &command.host.functions);
    // Cheap look first: what has ended needs neither Python nor workers.
    let looked_at = database::open(url)?;
    let record = looked_at.execution(id)?;
    if record.status.is_terminal() {
        text::say(&format!("execution {id} is {} already", record.status));
        return report(&looked_at, &record, &hint);
    }
    drop(looked_at);
    let functions = Functions::load(&command.host.functions)?;
    let isolation = command.host.isolation.isolation();
    let config = Config { only: Some(id), hold_ms: u64::MAX, ..Config::default() };
    let engine = database::open_to_run(url, isolation, config)?;
    let program = engine.program_of(&record)?;
    functions.check(&program)?;
    if inbox.is_interrupted() {
        text::say(&hint);
        return Ok(Exit::Interrupted);
    }
    functions.serve(id);
    if record.status == Status::Paused {
        engine.resume(id)?;
    }
    engine.attach(functions.executor())?;
    text::say(&format!("execution {id}"));
    let record = follow(&engine, id, false, &inbox)?;
    report(&engine, &record, &hint)
}

/// An engine that leases what is started on it and nothing else, and keeps that to its end.
fn only_what_it_starts() -> Config {
    Config { max_claim: 0, hold_ms: u64::MAX, ..Config::default() }
}

/// Prints what came of an execution, and gives the exit code for it.
fn report(engine: &Engine, record: &ExecutionRecord, hint: &str) -> Result<Exit> {
    match record.status {
        Status::Completed => {
            let output = record.output.as_ref().map_or("null", Payload::as_str);
            text::print(&format!("{output}\n"))?;
            Ok(Exit::Done)
        }
        Status::Failed | Status::Cancelled | Status::Paused => {
            let calls = engine.store().calls(record.id)?;
            text::say(failure(record, &calls).unwrap_or_default().trim_end());
            if let Some(name) = undefined_name(record) {
                text::say(&format!("hint: if '{name}' is an input, give --input {name}=VALUE"));
            }
            if record.status == Status::Paused {
                text::say(hint);
            }
            Ok(Exit::NotCompleted)
        }
        Status::Scheduled | Status::Running | Status::Waiting => {
            text::say(hint);
            Ok(Exit::Interrupted)
        }
    }
}

/// The name whose lack an execution failed of.
fn undefined_name(record: &ExecutionRecord) -> Option<&str> {
    let failure = record.failure.as_ref().filter(|failure| failure.error_type == "NameError")?;
    failure.message.strip_prefix("name '")?.strip_suffix("' is not defined")
}

fn stem(file: &Path) -> String {
    file.file_stem().map_or_else(|| "workflow".into(), |stem| stem.to_string_lossy().into_owned())
}

fn how_to_resume(id: ExecutionId, url: &str, given: &args::FunctionsOf) -> String {
    if Location::parse(url) == Ok(Location::Memory) {
        return format!("execution {id} is lost: it was kept in memory, --db names a database");
    }
    let mut words = vec![
        "durable".to_owned(),
        "resume".to_owned(),
        id.to_string(),
        "--db".to_owned(),
        quoted(url),
    ];
    if let Some(functions) = &given.functions {
        words.extend(["--functions".to_owned(), quoted(functions)]);
    }
    if let Some(python) = &given.python {
        words.extend(["--python".to_owned(), quoted(&python.to_string_lossy())]);
    }
    format!("execution {id} is kept; continue with: {}", words.join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:=@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("sqlite:///a.db"), "sqlite:///a.db");
        assert_eq!(quoted("my file's.py"), r"'my file'\''s.py'");
    }
}
