//! Executions to test stores with.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod secrets;

use std::{future::Future, sync::Arc};

use durable_core::{
    CallId, Definition, ExecutionId, FunctionOptions, Language, NewCall, Owner, Payload, Position,
    Program, Request, UnixMs,
};
use durable_store::{Labels, NewExecution, Write};

pub(crate) const NOW_MS: UnixMs = 1_790_000_000_000;

pub(crate) fn program() -> Arc<Program> {
    Arc::new(Program::new(Definition {
        language: Language::Python,
        source: "await a(1)".into(),
        functions: Default::default(),
        inputs: Vec::new(),
        limits: Default::default(),
    }))
}

pub(crate) fn id(number: u8) -> ExecutionId {
    ExecutionId::new(NOW_MS + i64::from(number), [number; 10])
}

/// A new execution, under a lease of "one" if asked for.
pub(crate) fn create(number: u8, held: bool) -> Write {
    Write::Create(NewExecution {
        id: id(number),
        program: program().id().clone(),
        workflow_id: "flow".into(),
        inputs: Payload::trusted("{}"),
        labels: Labels::default(),
        idempotency_key: None,
        created_at_ms: NOW_MS,
        lease: held.then(|| (Owner::new("one"), NOW_MS + 1_000)),
    })
}

pub(crate) fn function(id: CallId) -> NewCall {
    NewCall {
        id,
        request: Request::Function {
            name: "a".into(),
            args: Payload::trusted(format!("[{id}]")),
            kwargs: Payload::trusted("{}"),
            options: FunctionOptions::default(),
        },
        position: Position { line: 1, column: 7 },
    }
}

pub(crate) fn timer(id: CallId, delay_ms: u64) -> NewCall {
    let position = Position { line: 2, column: 1 };
    NewCall { id, request: Request::Timer { delay_ms }, position }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
