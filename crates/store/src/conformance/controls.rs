//! What operators ask for.

use durable_core::{Event, Execution, Failure, Status};

use super::{
    Check,
    kit::{Kit, NOW_MS, completed, function, id, ids, ok, owner, refused, timer},
};
use crate::{Control, Write};

pub(super) const CHECKS: &[Check] = &[
    ("a request waits for whoever leases the execution", waits),
    ("an answered request is gone", answered),
    ("what is so already needs no request", moot),
    ("a cancel is not replaced", cancel_stays),
    ("what is asked for meanwhile stays", meanwhile),
    ("a pause keeps its reason until it ends", reasons),
    ("a paused execution that is asked something is claimed", paused_is_claimed),
];

fn request(kit: &Kit, number: u8, control: Control) {
    kit.done(Write::Request { execution: id(number), control, reason: "asked to".into() });
}

fn asked(control: Control) -> Option<(Control, String)> {
    Some((control, "asked to".to_owned()))
}

fn waits(kit: &Kit) {
    let reason = "asked to".to_owned();
    let cancel = Write::Request { execution: id(1), control: Control::Cancel, reason };
    refused!(kit.write(cancel.clone()), NotFound);
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    kit.done(cancel.clone());
    assert_eq!(kit.load(held.id()).control, asked(Control::Cancel));
    assert_eq!(ok(kit.store.inboxes(&owner("one"))), [held.id()]);
    assert!(ok(kit.store.inboxes(&owner("two"))).is_empty());
    let reason = "asked to".to_owned();
    kit.advance(&mut held, |draft| {
        draft.control_taken = true;
        draft.push(Event::ExecutionCancelled { reason })
    });
    let record = kit.record(held.id());
    assert_eq!(record.status, Status::Cancelled);
    assert_eq!(record.failure, Some(Failure::new("Cancelled", "asked to")));
    assert_eq!(kit.load(held.id()).control, None);
    refused!(kit.write(cancel), Conflict);
}

fn answered(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    request(kit, 1, Control::Pause);
    // Not answered by a transition that does not say so.
    kit.advance(&mut held, |draft| draft.close_call(1, 1, completed("1")));
    assert_eq!(kit.load(held.id()).control, asked(Control::Pause));
    kit.advance(&mut held, |draft| {
        draft.control_taken = true;
        draft.close_call(2, 1, completed("2"))
    });
    assert_eq!(kit.load(held.id()).control, None);
    assert!(ok(kit.store.inboxes(&owner("one"))).is_empty());
}

fn moot(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    request(kit, 1, Control::Resume);
    assert_eq!(kit.load(held.id()).control, None);
    request(kit, 1, Control::Pause);
    request(kit, 1, Control::Resume);
    assert_eq!(kit.load(held.id()).control, None);
    // The engine parks it by itself while an operator asks for a pause.
    request(kit, 1, Control::Pause);
    kit.advance(&mut held, |draft| draft.push(Event::ExecutionPaused { reason: "x".into() }));
    assert_eq!(kit.load(held.id()).control, None);
    request(kit, 1, Control::Pause);
    assert_eq!(kit.load(held.id()).control, None);
    request(kit, 1, Control::Resume);
    assert_eq!(kit.load(held.id()).control, asked(Control::Resume));
    kit.advance(&mut held, |draft| {
        draft.control_taken = true;
        draft.push(Event::ExecutionResumed)
    });
    assert_eq!(kit.load(held.id()).control, None);
}

fn cancel_stays(kit: &Kit) {
    kit.create(1);
    for control in [Control::Cancel, Control::Pause, Control::Resume] {
        request(kit, 1, control);
        assert_eq!(kit.load(id(1)).control, asked(Control::Cancel));
    }
}

fn meanwhile(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    request(kit, 1, Control::Pause);
    let pausing = held.transition(|draft| {
        draft.control_taken = true;
        draft.push(Event::ExecutionPaused { reason: "asked to".into() })
    });
    request(kit, 1, Control::Cancel);
    held.state = Execution::clone(&pausing.after);
    kit.done(Write::Transition(Box::new(pausing)));
    assert_eq!(kit.load(held.id()).control, asked(Control::Cancel));
}

fn reasons(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    let reason = "the interpreter died three times".to_owned();
    kit.advance(&mut held, |draft| draft.push(Event::ExecutionPaused { reason }));
    let expected = Some(Failure::new("Paused", "the interpreter died three times"));
    assert_eq!(kit.record(held.id()).failure, expected);
    let failure = Failure::new("OSError", "busy");
    kit.advance(&mut held, |draft| {
        draft.push(Event::CallRetrying { call: 1, attempt: 1, failure, due_ms: NOW_MS })
    });
    assert_eq!(kit.record(held.id()).failure, expected);
    kit.advance(&mut held, |draft| draft.push(Event::ExecutionResumed));
    assert_eq!(kit.record(held.id()).failure, None);
    assert_eq!(kit.record(held.id()).status, Status::Waiting);
}

fn paused_is_claimed(kit: &Kit) {
    let (one, two) = (owner("one"), owner("two"));
    let mut held = kit.waiting(1, &one, vec![timer(1, 5)]);
    let mut pausing =
        held.transition(|draft| draft.push(Event::ExecutionPaused { reason: "x".into() }));
    pausing.release = true;
    held.state = Execution::clone(&pausing.after);
    kit.done(Write::Transition(Box::new(pausing)));
    assert!(kit.claim(&two, NOW_MS + 1_000_000, 10).is_empty());
    assert_eq!(ok(kit.store.next_due_ms(&two, &[])), None);
    request(kit, 1, Control::Resume);
    assert_eq!(ok(kit.store.next_due_ms(&two, &[])), Some(i64::MIN));
    let claimed = kit.claim(&two, NOW_MS, 10);
    assert_eq!(ids(&claimed), [id(1)]);
    assert_eq!(claimed[0].control, asked(Control::Resume));
    assert_eq!(claimed[0].execution, held.state);
}
