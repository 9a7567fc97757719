//! Stores whose payloads are sealed, and executions with something to hide.

use std::sync::Arc;

use durable_core::{
    Assignment, Draft, End, Event, Execution, Failure, Lease, NewCall, Outcome, Owner, Payload,
    Reached, Request, Snapshot,
};
use durable_store::{KeyRing, SealedStore, Store, Write, Written};

use super::{NOW_MS, create, function, id, program};

pub(crate) const ONE: &str = "one:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub(crate) const TWO: &str = "two:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
pub(crate) const OTHER_ONE: &str = "one:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=";

pub(crate) fn sealed(inner: impl Store, keys: &str) -> SealedStore {
    let keys = if keys.is_empty() { KeyRing::default() } else { KeyRing::parse(keys).unwrap() };
    SealedStore::new(Arc::new(inner), keys)
}

/// Commits what must work.
pub(crate) fn commit(store: &dyn Store, write: Write) -> Written {
    store.commit(&[write]).unwrap().remove(0).unwrap()
}

/// An execution with a secret in every place there is; it waits for call 3.
pub(crate) fn secrets(store: &dyn Store, number: u8) {
    commit(store, Write::PutProgram(program()));
    let Write::Create(mut new) = create(number, true) else { unreachable!() };
    new.inputs = Payload::trusted(r#"{"x": "hidden input"}"#);
    commit(store, Write::Create(new));
    let dictionary = b"hidden dictionary"[..].into();
    commit(store, Write::PutDictionary { program: program().id().clone(), dictionary });
    let lease = Lease { owner: Owner::new("one"), epoch: 1 };
    let calls = (1..=3).map(|id| NewCall {
        request: Request::Function {
            name: "a".into(),
            args: Payload::trusted(r#"["hidden argument"]"#),
            kwargs: Payload::trusted(r#"{"k": "hidden keyword"}"#),
            options: Default::default(),
        },
        ..function(id)
    });
    let mut draft = Draft::new(Execution::scheduled(id(number)), NOW_MS);
    draft.push(Event::ExecutionStarted { seed: 1 }).unwrap();
    let snapshot = Some(Snapshot(b"hidden snapshot"[..].into()));
    let end = End::Suspended { snapshot, new_dictionary: None };
    let printed = "hidden print".into();
    draft.take_reached(Reached { calls: vec![calls.collect()], printed, end }).unwrap();
    let (transition, _) = draft.finish(lease.clone(), false);
    let after = Execution::clone(&transition.after);
    commit(store, Write::Transition(Box::new(transition)));
    let mut draft = Draft::new(after, NOW_MS);
    let value = Payload::trusted(r#"{"hidden": "value"}"#);
    let (function, name) = ("<module>".into(), "x".into());
    let variable = Assignment { task: 0, depth: 0, function, name, value };
    draft.push(Event::VariablesSet { variables: vec![variable.clone(), variable] }).unwrap();
    let (transition, _) = draft.finish(lease.clone(), false);
    let after = Execution::clone(&transition.after);
    commit(store, Write::Transition(Box::new(transition)));
    let mut draft = Draft::new(after, NOW_MS + 1);
    let failure = Failure::new("ValueError", "hidden message").with_traceback("hidden traceback");
    let result = Payload::trusted(r#""hidden result""#);
    draft.close_call(1, 1, Outcome::Completed(result)).unwrap();
    draft.close_call(2, 1, Outcome::Failed(failure)).unwrap();
    let (transition, _) = draft.finish(lease, true);
    commit(store, Write::Transition(Box::new(transition)));
}
