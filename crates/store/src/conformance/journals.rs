//! The journal gives back exactly what was committed.

use durable_core::{
    Assignment, End, Event, Failure, FunctionOptions, NewCall, Payload, Reached, Recorded, Request,
    Transition,
};

use super::{
    Check,
    kit::{Held, Kit, NOW_MS, completed, failed, function, ok, owner, suspended, timer},
};
use crate::Write;

pub(super) const CHECKS: &[Check] = &[
    ("every event of a completed execution comes back", completed_life),
    ("every event of a failed execution comes back", failed_life),
    ("every event of a cancelled execution comes back", cancelled_life),
    ("a journal is read in pages", pages),
];

/// Commits transitions and notes what the journal must say.
struct Scribe<'a> {
    kit: &'a Kit,
    held: Held,
    expected: Vec<Recorded>,
}

impl Scribe<'_> {
    #[track_caller]
    fn commit(&mut self, fill: impl FnOnce(&mut durable_core::Draft) -> durable_core::Result<()>) {
        let transition: Transition = self.held.transition(fill);
        self.expected.extend(transition.recorded());
        self.held.state = durable_core::Execution::clone(&transition.after);
        self.held.at_ms += 10;
        self.kit.done(Write::Transition(Box::new(transition)));
        self.kit.assert_state(&self.held.state);
        assert_eq!(self.kit.journal(self.held.id()), self.expected);
    }
}

fn begin(kit: &Kit) -> Scribe<'_> {
    let held = kit.create_held(1, &owner("one"));
    let mut scribe = Scribe { kit, held, expected: Vec::new() };
    let options = FunctionOptions { timeout_ms: Some(1), ..Default::default() };
    let mut special = function(3, "b");
    if let Request::Function { options: place, .. } = &mut special.request {
        *place = options;
    }
    let calls: Vec<NewCall> = vec![function(1, "a"), timer(2, u64::MAX - 5), special, timer(4, 7)];
    scribe.commit(|draft| {
        draft.push(Event::ExecutionStarted { seed: u64::MAX })?;
        let mut reached = suspended(calls, Some(b"snapshot"));
        reached.printed = "line 1\nÜ\u{1F600}\0end".into();
        draft.take_reached(reached)
    });
    scribe
}

fn completed_life(kit: &Kit) {
    let mut scribe = begin(kit);
    scribe.commit(|draft| {
        let failure = Failure::new("OSError", "busy").with_traceback("line 1");
        draft.push(Event::CallRetrying { call: 3, attempt: 1, failure, due_ms: NOW_MS + 5 })
    });
    scribe.commit(|draft| {
        draft.close_call(3, 2, failed("at last"))?;
        draft.close_call(1, 1, completed(r#"{"nested": ["\u00fc", 1e400]}"#))?;
        draft.push(Event::TimerFired { call: 4 })?;
        draft.take_reached(suspended(vec![function(9, "a")], None))
    });
    scribe.commit(|draft| {
        let (function, name) = ("<module>".to_owned(), "ž".to_owned());
        let value = Payload::trusted(r#"{"z": [1e400, "\u00fc"], "a": null}"#);
        let variable = Assignment { task: 0, depth: 2, function, name, value };
        draft.push(Event::VariablesSet { variables: vec![variable] })
    });
    scribe.commit(|draft| draft.push(Event::ExecutionPaused { reason: "stop: 'now'".into() }));
    scribe.commit(|draft| draft.push(Event::ExecutionResumed));
    scribe.commit(|draft| {
        draft.close_call(9, 1, completed("null"))?;
        let end = End::Completed(Payload::trusted(r#"["done"]"#));
        draft.take_reached(Reached { calls: vec![Vec::new()], printed: "bye".into(), end })
    });
}

fn failed_life(kit: &Kit) {
    let mut scribe = begin(kit);
    // Taken in from the inbox: the journal can't tell the difference.
    ok(kit.report(scribe.held.id(), 1, failed("from outside")));
    scribe.commit(|draft| {
        draft.inbox_taken.push(1);
        draft.close_call(1, 1, failed("from outside"))?;
        let failure = Failure { cause_call: Some(1), ..Failure::new("ValueError", "") };
        draft.fail(failure)
    });
}

fn cancelled_life(kit: &Kit) {
    let mut scribe = begin(kit);
    scribe.commit(|draft| draft.push(Event::ExecutionCancelled { reason: String::new() }));
}

fn pages(kit: &Kit) {
    let scribe = begin(kit);
    let id = scribe.held.id();
    let page = |after, limit| ok(kit.store.journal(id, after, limit));
    let all = scribe.expected;
    assert_eq!(page(0, 2), all[..2]);
    assert_eq!(page(2, 2), all[2..4]);
    assert_eq!(page(4, 100), all[4..]);
    assert!(page(all.len() as u64, 10).is_empty());
    assert!(page(u64::MAX, 10).is_empty());
    assert!(page(0, 0).is_empty());
    assert!(ok(kit.store.journal(super::kit::id(77), 0, 10)).is_empty());
}
