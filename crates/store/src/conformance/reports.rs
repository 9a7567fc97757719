//! Results that come from outside: the inbox.

use durable_core::{CallStatus, Outcome, Payload};

use super::{
    Check,
    kit::{
        Held, Kit, NOW_MS, completed, failed, function, id, ids, ok, owner, refused, suspended,
        timer,
    },
};
use crate::Write;

pub(super) const CHECKS: &[Check] = &[
    ("a report closes the row and waits in the inbox", waits),
    ("reports are kept in order of arrival", order),
    ("a second or late report changes nothing", once),
    ("what nobody asked for is not found", unknown),
    ("taking in empties the inbox", taking_in),
    ("what arrives meanwhile stays in the inbox", meanwhile),
    ("closing what was reported loses", closing_reported),
    ("a call reported before its next attempt keeps its state until it is taken in", due_stays),
    ("a report wakes an execution that nobody holds", wakes),
    ("a report waits for its lessee", inboxes),
];

fn waits(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    ok(kit.report(held.id(), 2, completed("[2]")));
    let call = kit.call(held.id(), 2);
    assert_eq!((call.status, call.completed_at_ms), (CallStatus::Completed, Some(NOW_MS + 500)));
    let loaded = kit.load(held.id());
    assert_eq!(loaded.inbox, [(2, completed("[2]"))]);
    // The call is open until the program was given the result.
    kit.assert_state(&held.state);
    assert_eq!(kit.journal(held.id()).len(), 3);
}

fn order(kit: &Kit) {
    let calls = (1..=4).map(|call| function(call, "a")).collect();
    let held = kit.waiting(1, &owner("one"), calls);
    for (call, at_ms) in [(3, 300), (4, 100), (2, 200), (1, 200)] {
        ok(kit.report_at(held.id(), call, failed("no"), NOW_MS + at_ms));
    }
    let inbox = kit.load(held.id()).inbox;
    assert_eq!(inbox.iter().map(|(call, _)| *call).collect::<Vec<_>>(), [4, 1, 2, 3]);
    assert!(inbox.iter().all(|(_, outcome)| *outcome == failed("no")));
}

fn once(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    ok(kit.report(held.id(), 1, completed("1")));
    refused!(kit.report(held.id(), 1, failed("other")), Conflict);
    assert_eq!(kit.load(held.id()).inbox, [(1, completed("1"))]);
    kit.advance(&mut held, |draft| draft.close_call(2, 1, completed("2")));
    refused!(kit.report(held.id(), 2, failed("late")), Conflict);
    assert_eq!(kit.call(held.id(), 2).result, Some(Payload::trusted("2")));
}

fn unknown(kit: &Kit) {
    refused!(kit.report(id(1), 1, completed("1")), NotFound);
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a"), timer(2, 50)]);
    refused!(kit.report(held.id(), 9, completed("1")), NotFound);
    refused!(kit.report(held.id(), 2, completed("1")), Conflict);
    kit.advance(&mut held, |draft| {
        draft.push(durable_core::Event::ExecutionCancelled { reason: String::new() })
    });
    refused!(kit.report(held.id(), 1, completed("1")), Conflict);
    refused!(kit.report(held.id(), 9, completed("1")), Conflict);
}

fn taking_in(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    ok(kit.report(held.id(), 2, completed("[2]")));
    ok(kit.report(held.id(), 1, failed("no")));
    kit.advance(&mut held, |draft| {
        draft.inbox_taken = vec![2, 1];
        draft.close_call(2, 1, completed("[2]"))?;
        draft.close_call(1, 1, failed("no"))?;
        draft.take_reached(suspended(vec![function(3, "a")], Some(b"s")))
    });
    assert!(kit.load(held.id()).inbox.is_empty());
    assert!(ok(kit.store.inboxes(&owner("one"))).is_empty());
    assert_eq!(kit.call(held.id(), 2).completed_at_ms, Some(NOW_MS + 500));
    // Taken in twice.
    let mut again = held.clone();
    let call =
        durable_core::Call { new: function(2, "a"), order: 2, group: 1, attempt: 1, due_ms: None };
    again.state.open_calls.insert(2, call);
    let write = again.write(|draft| {
        draft.inbox_taken = vec![2];
        draft.close_call(2, 1, completed("[2]"))
    });
    refused!(kit.write(write), Conflict);
    kit.assert_state(&held.state);
}

fn meanwhile(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    ok(kit.report(held.id(), 1, completed("1")));
    let taking = held.transition(|draft| {
        draft.inbox_taken = vec![1];
        draft.close_call(1, 1, completed("1"))
    });
    ok(kit.report(held.id(), 2, completed("2")));
    held.state = durable_core::Execution::clone(&taking.after);
    kit.done(Write::Transition(Box::new(taking)));
    kit.assert_state(&held.state);
    assert_eq!(kit.load(held.id()).inbox, [(2, completed("2"))]);
    assert_eq!(ok(kit.store.inboxes(&owner("one"))), [held.id()]);
}

fn closing_reported(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a"), function(2, "a")]);
    ok(kit.report(held.id(), 1, completed("1")));
    for outcome in [completed("1"), Outcome::Failed(durable_core::Failure::new("E", ""))] {
        let write = held.write(|draft| draft.close_call(1, 1, outcome));
        refused!(kit.write(write), Conflict);
        kit.assert_state(&held.state);
    }
    assert_eq!(kit.load(held.id()).inbox, [(1, completed("1"))]);
}

fn due_stays(kit: &Kit) {
    let mut held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    let failure = durable_core::Failure::new("OSError", "busy");
    kit.advance(&mut held, |draft| {
        let due_ms = NOW_MS + 9_000;
        draft.push(durable_core::Event::CallRetrying { call: 1, attempt: 1, failure, due_ms })
    });
    ok(kit.report(held.id(), 1, completed("1")));
    kit.assert_state(&held.state);
    kit.advance(&mut held, |draft| {
        draft.inbox_taken = vec![1];
        draft.close_call(1, 2, completed("1"))
    });
    let call = kit.call(held.id(), 1);
    assert_eq!((call.attempt, call.due_at_ms, call.failure), (2, None, None));
}

fn wakes(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    let (execution, lease) = (held.id(), held.lease.clone());
    kit.done(Write::Release { execution, lease, wake_at_ms: None });
    let two = owner("two");
    assert!(kit.claim(&two, NOW_MS + 1, 10).is_empty());
    ok(kit.report(held.id(), 1, completed("1")));
    let claimed = kit.claim(&two, NOW_MS + 1, 10);
    assert_eq!(ids(&claimed), [held.id()]);
    let mut held = Held::of(&claimed[0], NOW_MS + 600);
    kit.advance(&mut held, |draft| {
        draft.inbox_taken = vec![1];
        draft.close_call(1, 1, completed("1"))
    });
}

fn inboxes(kit: &Kit) {
    let (one, two) = (owner("one"), owner("two"));
    let first = kit.waiting(1, &one, vec![function(1, "a")]);
    let second = kit.waiting(2, &two, vec![function(1, "a")]);
    kit.waiting(3, &one, vec![function(1, "a")]);
    assert!(ok(kit.store.inboxes(&one)).is_empty());
    ok(kit.report(first.id(), 1, completed("1")));
    ok(kit.report(second.id(), 1, completed("1")));
    assert_eq!(ok(kit.store.inboxes(&one)), [first.id()]);
    assert_eq!(ok(kit.store.inboxes(&two)), [second.id()]);
    assert!(kit.claim(&one, NOW_MS, 10).is_empty());
}
