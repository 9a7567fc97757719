//! Transitions: the comparison, what wins and what loses.

use durable_core::{
    End, Event, Execution, Failure, Lease, Payload, Reached, Snapshot, Status, Transition,
};

use super::{
    Check,
    kit::{Held, Kit, NOW_MS, completed, function, json, ok, owner, refused, some, suspended},
};
use crate::Write;

pub(super) const CHECKS: &[Check] = &[
    ("a transition carries the state on", a_life),
    ("a failure is kept whole", a_failed_life),
    ("the last snapshot is kept with its place", snapshots),
    ("a writer with another version loses", wrong_version),
    ("a writer without the lease loses", wrong_lease),
    ("an expired lease that nobody took counts", expired_lease),
    ("a loser in a batch loses alone", losers_in_a_batch),
    ("a transition that loses half-way leaves nothing", lost_half_way),
    ("a transition may follow another in its batch", chain_in_a_batch),
    ("a transition of a deleted execution loses", deleted),
    ("releasing gives the lease back and sets the wake time", release),
];

fn ended(end: End) -> Reached {
    Reached { calls: vec![Vec::new()], printed: "so long\n".into(), end }
}

fn a_life(kit: &Kit) {
    let mut held = kit.create_held(1, &owner("one"));
    kit.advance(&mut held, |draft| {
        draft.push(Event::ExecutionStarted { seed: 7 })?;
        draft.take_reached(suspended(vec![function(1, "a"), function(4, "a")], Some(b"s1")))
    });
    assert_eq!(kit.record(held.id()).started_at_ms, Some(NOW_MS + 10));
    kit.advance(&mut held, |draft| draft.close_call(4, 1, completed("[4]")));
    kit.advance(&mut held, |draft| {
        draft.close_call(1, 1, completed("null"))?;
        draft.take_reached(ended(End::Completed(json(r#"{"sum": 1}"#))))
    });
    let record = kit.record(held.id());
    assert_eq!(record.status, Status::Completed);
    assert_eq!(record.output, Some(json(r#"{"sum": 1}"#)));
    assert_eq!((record.failure, record.locked_by), (None, None));
    assert_eq!(record.started_at_ms, Some(NOW_MS + 10));
    assert_eq!(record.completed_at_ms, Some(NOW_MS + 30));
    // The lease is given back with the end.
    assert!(kit.load(held.id()).lease.is_none());
    assert!(ok(kit.store.other_owners(&owner("two"))).is_empty());
}

fn a_failed_life(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    let failure = Failure {
        error_type: "shop.OutOfStock".into(),
        message: "no more 'ü'".into(),
        traceback: Some("Traceback\n  line 3".into()),
        cause_call: Some(1),
    };
    kit.advance(&mut held, |draft| {
        draft.close_call(1, 1, super::kit::failed("gone"))?;
        draft.take_reached(ended(End::Failed(failure.clone())))
    });
    let record = kit.record(held.id());
    assert_eq!((record.status, record.output), (Status::Failed, None));
    assert_eq!(record.failure, Some(failure));
}

fn snapshots(kit: &Kit) {
    let mut held = kit.create_held(1, &owner("one"));
    kit.advance(&mut held, |draft| {
        draft.push(Event::ExecutionStarted { seed: 7 })?;
        draft.take_reached(suspended(vec![function(1, "a"), function(2, "a")], Some(b"one")))
    });
    let snapshot = |bytes: &[u8]| Snapshot(bytes.into());
    let loaded = kit.load(held.id());
    assert_eq!(loaded.snapshot, Some((snapshot(b"one"), 3)));
    assert!(loaded.tail.is_empty());
    // Without a new one the old one stays, and the journal since comes with it.
    kit.advance(&mut held, |draft| draft.close_call(1, 1, completed("1")));
    let loaded = kit.load(held.id());
    assert_eq!(loaded.snapshot, Some((snapshot(b"one"), 3)));
    assert_eq!(loaded.tail, kit.journal(held.id())[3..]);
    kit.advance(&mut held, |draft| {
        draft.close_call(2, 1, completed("2"))?;
        draft.take_reached(suspended(vec![function(3, "a")], Some(b"")))
    });
    let loaded = kit.load(held.id());
    assert_eq!(loaded.snapshot, Some((snapshot(b""), 6)));
    assert!(loaded.tail.is_empty());
    // Without any snapshot the whole journal comes.
    let other = kit.waiting(2, &owner("one"), vec![function(1, "a")]);
    assert_eq!(kit.load(other.id()).tail, kit.journal(other.id()));
}

/// What must not have changed by a write that loses.
fn unchanged(kit: &Kit, held: &Held, write: Write) {
    let before = (kit.load(held.id()), kit.record(held.id()), kit.journal(held.id()));
    refused!(kit.write(write), Conflict);
    let after = (kit.load(held.id()), kit.record(held.id()), kit.journal(held.id()));
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
}

fn wrong_version(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    let stale = held.clone();
    kit.advance(&mut held, |draft| draft.close_call(1, 1, completed("1")));
    unchanged(kit, &held, stale.write(|draft| draft.close_call(2, 1, completed("2"))));
    let mut ahead = held.clone();
    ahead.state.version += 1;
    unchanged(kit, &held, ahead.write(|draft| draft.close_call(2, 1, completed("2"))));
}

fn wrong_lease(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    for lease in [
        Lease { owner: owner("two"), epoch: 1 },
        Lease { owner: owner("one"), epoch: 0 },
        Lease { owner: owner("one"), epoch: 2 },
    ] {
        let other = Held { lease, ..held.clone() };
        unchanged(kit, &held, other.write(|draft| draft.close_call(1, 1, completed("1"))));
    }
    let lease = held.lease.clone();
    kit.done(Write::Release { execution: held.id(), lease, wake_at_ms: None });
    unchanged(kit, &held, held.write(|draft| draft.close_call(1, 1, completed("1"))));
}

fn expired_lease(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    held.at_ms = NOW_MS + 1_000_000_000;
    kit.advance(&mut held, |draft| draft.close_call(1, 1, completed("1")));
}

fn losers_in_a_batch(kit: &Kit) {
    let one = owner("one");
    let first = kit.waiting(1, &one, vec![function(1, "a")]);
    let second = kit.waiting(2, &one, vec![function(1, "a")]);
    let third = kit.waiting(3, &one, vec![function(1, "a"), function(2, "a")]);
    // The third loses only after it has closed call 1: call 2 was closed from outside.
    ok(kit.report(third.id(), 2, completed("2")));
    let close = |held: &Held| held.write(|draft| draft.close_call(1, 1, completed("1")));
    let batch = [
        close(&first),
        close(&Held { lease: Lease { owner: owner("two"), epoch: 9 }, ..second.clone() }),
        third.write(|draft| {
            draft.close_call(1, 1, completed("1"))?;
            draft.close_call(2, 1, completed("2"))
        }),
        close(&second),
        close(&first),
    ];
    let answers = ok(kit.store.commit(&batch));
    let won: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(won, [true, false, false, true, false]);
    for answer in answers.into_iter().filter(Result::is_err) {
        refused!(answer, Conflict);
    }
    assert_eq!(kit.load(first.id()).execution.closed_calls, 1);
    assert_eq!(kit.load(second.id()).execution.closed_calls, 1);
    kit.assert_state(&third.state);
    assert_eq!(kit.load(third.id()).inbox, [(2, completed("2"))]);
}

fn lost_half_way(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    ok(kit.report(held.id(), 2, completed("2")));
    let both = held.write(|draft| {
        draft.close_call(1, 1, completed("1"))?;
        draft.close_call(2, 1, completed("other"))?;
        draft.take_reached(suspended(vec![function(3, "a")], Some(b"snapshot")))
    });
    unchanged(kit, &held, both);
    // Nor may it claim to have taken in what is not there, or is of another kind.
    for (call, outcome) in [(1, completed("1")), (2, super::kit::failed("no"))] {
        let write = held.write(|draft| {
            draft.inbox_taken.push(call);
            draft.close_call(call, 1, outcome)
        });
        unchanged(kit, &held, write);
    }
    // A call number is given once.
    let mut confused = held.clone();
    confused.state.open_calls.remove(&1);
    let again = confused.write(|draft| draft.take_reached(suspended(vec![function(1, "b")], None)));
    unchanged(kit, &held, again);
}

fn chain_in_a_batch(kit: &Kit) {
    let mut held = kit.create_held(1, &owner("one"));
    let mut batch = Vec::new();
    let mut next = |held: &mut Held, transition: Transition| {
        held.state = Execution::clone(&transition.after);
        batch.push(Write::Transition(Box::new(transition)));
    };
    let start = held.transition(|draft| {
        draft.push(Event::ExecutionStarted { seed: 7 })?;
        draft.take_reached(suspended(vec![function(1, "a")], Some(b"one")))
    });
    next(&mut held, start);
    let end = held.transition(|draft| {
        draft.close_call(1, 1, completed("1"))?;
        draft.take_reached(ended(End::Completed(Payload::null())))
    });
    next(&mut held, end);
    for answer in ok(kit.store.commit(&batch)) {
        ok(answer);
    }
    kit.assert_state(&held.state);
    assert_eq!(kit.record(held.id()).output, Some(Payload::null()));
}

fn deleted(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    kit.done(Write::Delete { execution: held.id(), owner: owner("one"), now_ms: NOW_MS });
    let write = held.write(|draft| draft.close_call(1, 1, completed("1")));
    refused!(kit.write(write), Conflict);
    assert!(ok(kit.store.load(held.id())).is_none());
}

fn release(kit: &Kit) {
    let (one, two) = (owner("one"), owner("two"));
    let mut held = kit.waiting(1, &one, vec![super::kit::timer(1, 5_000), function(2, "a")]);
    // While the lease is held nothing is due but the lease itself.
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), None);
    let mut transition = held.transition(|draft| draft.close_call(2, 1, completed("2")));
    transition.release = true;
    held.state = Execution::clone(&transition.after);
    kit.done(Write::Transition(Box::new(transition)));
    kit.assert_state(&held.state);
    assert!(kit.load(held.id()).lease.is_none());
    let due_ms = some(ok(kit.store.next_due_ms(&one, &[])));
    assert_eq!(due_ms, NOW_MS + 10 + 5_000);
    assert!(kit.claim(&two, due_ms - 1, 10).is_empty());
    assert_eq!(kit.claim(&two, due_ms, 10).len(), 1);
}
