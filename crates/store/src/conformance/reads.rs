//! Lists, deletion, the change token.

use durable_core::{Event, Status};

use super::{
    Check,
    kit::{Kit, LEASE_MS, NOW_MS, completed, function, id, ok, owner, refused, suspended},
};
use crate::{ListFilter, NewExecution, Write, Written};

pub(super) const CHECKS: &[Check] = &[
    ("executions are listed newest first, in pages", pages),
    ("executions are listed by status", by_status),
    ("deleting removes everything", delete),
    ("what another engine holds is not deleted", delete_held),
    ("reading what is not there finds nothing", nothing),
    ("the change token stands still while nothing happens", change_token),
];

fn list(kit: &Kit, filter: &ListFilter) -> Vec<durable_core::ExecutionId> {
    ok(kit.store.list(filter)).iter().map(|record| record.id).collect()
}

fn pages(kit: &Kit) {
    for number in [2, 5, 1, 4, 3] {
        kit.create(number);
    }
    let page = |before: Option<u8>, limit| {
        list(kit, &ListFilter { before: before.map(id), limit, ..ListFilter::default() })
    };
    assert_eq!(page(None, 2), [id(5), id(4)]);
    assert_eq!(page(Some(4), 2), [id(3), id(2)]);
    assert_eq!(page(Some(2), 2), [id(1)]);
    assert!(page(Some(1), 2).is_empty());
    for number in 10..120 {
        kit.create(number);
    }
    assert_eq!(page(None, 0).len(), 100);
    assert_eq!(page(None, 1_000).len(), 115);
    let records = ok(kit.store.list(&ListFilter { limit: 1, ..ListFilter::default() }));
    assert_eq!(records, [kit.record(id(119))]);
}

fn by_status(kit: &Kit) {
    kit.create(1);
    kit.waiting(2, &owner("one"), vec![function(1, "a")]);
    let mut held = kit.waiting(3, &owner("one"), vec![function(1, "a")]);
    kit.advance(&mut held, |draft| draft.push(Event::ExecutionCancelled { reason: "x".into() }));
    kit.create(4);
    let statuses = |statuses: &[Status]| {
        list(kit, &ListFilter { statuses: statuses.to_vec(), ..ListFilter::default() })
    };
    assert_eq!(statuses(&[Status::Scheduled]), [id(4), id(1)]);
    assert_eq!(statuses(&[Status::Waiting, Status::Cancelled]), [id(3), id(2)]);
    assert!(statuses(&[Status::Failed]).is_empty());
    assert_eq!(statuses(Status::ALL).len(), 4);
    let statuses = vec![Status::Scheduled];
    let filter = ListFilter { statuses, before: Some(id(4)), limit: 1, ..ListFilter::default() };
    assert_eq!(list(kit, &filter), [id(1)]);
}

fn delete(kit: &Kit) {
    let one = owner("one");
    let delete = || Write::Delete { execution: id(1), owner: one.clone(), now_ms: NOW_MS };
    refused!(kit.write(delete()), NotFound);
    let start = || {
        let idempotency_key = Some("key".to_owned());
        let lease = Some((one.clone(), NOW_MS + LEASE_MS));
        let new = NewExecution { idempotency_key, lease, ..kit.new_execution(id(1)) };
        ok(kit.write(Write::Create(new)))
    };
    start();
    kit.waiting(2, &one, vec![function(1, "a")]);
    let lease = durable_core::Lease { owner: one.clone(), epoch: 1 };
    let state = durable_core::Execution::scheduled(id(1));
    let mut held = super::kit::Held { state, lease, at_ms: NOW_MS };
    kit.advance(&mut held, |draft| {
        draft.push(Event::ExecutionStarted { seed: 1 })?;
        draft.take_reached(suspended(vec![function(1, "a"), function(2, "a")], Some(b"s")))
    });
    ok(kit.report(id(1), 2, completed("2")));
    let control = crate::Control::Cancel;
    kit.done(Write::Request { execution: id(1), control, reason: "x".into() });
    kit.done(delete());
    assert!(ok(kit.store.execution(id(1))).is_none());
    assert!(ok(kit.store.load(id(1))).is_none());
    assert!(ok(kit.store.calls(id(1))).is_empty());
    assert!(kit.journal(id(1)).is_empty());
    assert_eq!(list(kit, &ListFilter::default()), [id(2)]);
    assert!(ok(kit.store.inboxes(&one)).is_empty());
    refused!(kit.write(delete()), NotFound);
    assert_eq!(ok(kit.store.calls(id(2))).len(), 1);
    // Its id and its key are free again, and nothing of the old one is left.
    assert!(matches!(start(), Written::Created { existing: false, .. }));
    kit.assert_state(&durable_core::Execution::scheduled(id(1)));
    assert!(kit.load(id(1)).snapshot.is_none());
}

fn delete_held(kit: &Kit) {
    let held = kit.create_held(1, &owner("one"));
    let delete = |name: &str, now_ms| {
        kit.write(Write::Delete { execution: held.id(), owner: owner(name), now_ms })
    };
    refused!(delete("two", NOW_MS + LEASE_MS - 1), Conflict);
    assert!(ok(kit.store.execution(held.id())).is_some());
    ok(delete("two", NOW_MS + LEASE_MS));
}

fn nothing(kit: &Kit) {
    assert!(ok(kit.store.execution(id(1))).is_none());
    assert!(ok(kit.store.load(id(1))).is_none());
    assert!(ok(kit.store.calls(id(1))).is_empty());
    assert!(kit.journal(id(1)).is_empty());
    assert!(ok(kit.store.list(&ListFilter::default())).is_empty());
    assert!(ok(kit.store.check()).is_empty());
}

fn change_token(kit: &Kit) {
    kit.create(1);
    let token = ok(kit.store.change_token());
    ok(kit.store.list(&ListFilter::default()));
    assert_eq!(ok(kit.store.change_token()), token);
}
