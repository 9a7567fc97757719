//! Programs and new executions.

use std::sync::Arc;

use durable_core::{Definition, Language, Program, ProgramId, Status};

use super::{
    Check,
    kit::{Kit, NOW_MS, id, json, ok, owner, refused, some},
};
use crate::{NewExecution, Write, Written};

pub(super) const CHECKS: &[Check] = &[
    ("a program is kept as it was", programs),
    ("a program keeps its first dictionary", dictionaries),
    ("a new execution is scheduled", created),
    ("an execution needs its program", unknown_program),
    ("an id is given once", id_taken),
    ("a program and its execution may come in one batch", one_batch),
    ("two starts with one key are one", idempotency_keys),
    ("a batch may be empty", empty_batch),
];

fn other_program() -> Arc<Program> {
    Arc::new(Program::new(Definition {
        language: Language::Python,
        source: "await b('grüße')\n".into(),
        functions: Default::default(),
        inputs: Vec::new(),
        limits: Default::default(),
    }))
}

fn programs(kit: &Kit) {
    let program = other_program();
    assert!(ok(kit.store.program(program.id())).is_none());
    for _ in 0..2 {
        kit.done(Write::PutProgram(program.clone()));
        let stored = some(ok(kit.store.program(program.id())));
        assert_eq!(stored.program, program);
        assert!(stored.dictionary.is_none());
    }
}

fn dictionaries(kit: &Kit) {
    let put = |program: &ProgramId, bytes: &[u8]| {
        let (program, dictionary) = (program.clone(), bytes.into());
        kit.write(Write::PutDictionary { program, dictionary })
    };
    refused!(put(other_program().id(), b"x"), NotFound);
    for bytes in [b"first", b"other"] {
        match ok(put(kit.program.id(), bytes)) {
            Written::Dictionary(kept) => assert_eq!(&kept[..], b"first"),
            other => panic!("expected a dictionary, got {other:?}"),
        }
    }
    // Storing the program once more does not take it away.
    kit.done(Write::PutProgram(kit.program.clone()));
    let stored = some(ok(kit.store.program(kit.program.id())));
    assert_eq!(stored.dictionary.as_deref(), Some(&b"first"[..]));
}

fn created(kit: &Kit) {
    let id = kit.create(1);
    let record = kit.record(id);
    assert_eq!(record.status, Status::Scheduled);
    assert_eq!(record.workflow_id, "flow");
    assert_eq!(&record.program, kit.program.id());
    assert_eq!(record.inputs, json(r#"{"text": "hello"}"#));
    assert_eq!((record.version, record.created_at_ms), (0, NOW_MS));
    assert_eq!((record.started_at_ms, record.completed_at_ms), (None, None));
    assert_eq!((record.output, record.failure, record.locked_by), (None, None, None));
    assert!(ok(kit.store.calls(id)).is_empty());
    assert!(kit.journal(id).is_empty());
    let loaded = kit.load(id);
    assert_eq!(&loaded.program, kit.program.id());
    assert_eq!(loaded.inputs, json(r#"{"text": "hello"}"#));
    assert!(loaded.lease.is_none() && loaded.snapshot.is_none() && loaded.control.is_none());
    assert!(loaded.tail.is_empty() && loaded.inbox.is_empty());
    kit.assert_state(&durable_core::Execution::scheduled(id));

    let held = kit.create_held(2, &owner("one"));
    assert_eq!(kit.record(held.id()).locked_by.as_deref(), Some("one"));
    assert_eq!(kit.load(held.id()).lease, Some(held.lease));
}

fn unknown_program(kit: &Kit) {
    let program = other_program().id().clone();
    let new = NewExecution { program, ..kit.new_execution(id(1)) };
    refused!(kit.write(Write::Create(new)), NotFound);
    assert!(ok(kit.store.execution(id(1))).is_none());
    assert!(ok(kit.store.load(id(1))).is_none());
}

fn id_taken(kit: &Kit) {
    kit.create(1);
    let workflow_id = "other".into();
    let new = NewExecution { workflow_id, ..kit.new_execution(id(1)) };
    refused!(kit.write(Write::Create(new)), Conflict);
    assert_eq!(kit.record(id(1)).workflow_id, "flow");
}

fn one_batch(kit: &Kit) {
    let program = other_program();
    let new = NewExecution { program: program.id().clone(), ..kit.new_execution(id(1)) };
    for answer in ok(kit.store.commit(&[Write::PutProgram(program), Write::Create(new)])) {
        ok(answer);
    }
    assert_eq!(kit.record(id(1)).status, Status::Scheduled);
}

fn idempotency_keys(kit: &Kit) {
    let start = |number: u8, key: &str| {
        let idempotency_key = Some(key.to_owned());
        Write::Create(NewExecution { idempotency_key, ..kit.new_execution(id(number)) })
    };
    // The second of one batch, and one in a later batch, are the first.
    let batch = [start(1, "order 7"), start(2, "order 7"), start(3, "order 8")];
    let mut answers = ok(kit.store.commit(&batch));
    answers.push(kit.write(start(4, "order 7")));
    let found: Vec<_> = answers
        .into_iter()
        .map(|answer| match ok(answer) {
            Written::Created { id, existing } => (id, existing),
            other => panic!("expected Created, got {other:?}"),
        })
        .collect();
    assert_eq!(found, [(id(1), false), (id(1), true), (id(3), false), (id(1), true)]);
    assert!(ok(kit.store.execution(id(2))).is_none());
    assert_eq!(kit.record(id(1)).idempotency_key.as_deref(), Some("order 7"));
}

fn empty_batch(kit: &Kit) {
    assert!(ok(kit.store.commit(&[])).is_empty());
}
