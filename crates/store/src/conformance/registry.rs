//! Labels, workers, tokens, jobs.

use super::{
    Check,
    kit::{Kit, LEASE_MS, NOW_MS, function, id, ids, ok, owner, refused},
};
use crate::{Labels, ListFilter, NewExecution, Role, TokenRecord, WorkerRecord, Write, Written};

pub(super) const CHECKS: &[Check] = &[
    ("labels are kept, and found again", labels),
    ("a key is free in another namespace", keys_of_namespaces),
    ("a claim takes from its queues only", queues),
    ("workers are listed with what they hold", workers),
    ("a token is kept until it is revoked for good", tokens),
    ("a call is found by its job", jobs),
];

fn create(kit: &Kit, number: u8, labels: Labels) {
    let created_at_ms = NOW_MS + i64::from(number) * 1_000;
    let workflow_id = format!("flow {}", number % 2);
    let new = kit.new_execution(id(number));
    ok(kit.write(Write::Create(NewExecution { labels, created_at_ms, workflow_id, ..new })));
}

fn of(namespace: &str, queue: &str, tags: &[&str]) -> Labels {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    Labels { namespace: namespace.to_owned(), queue: queue.to_owned(), tags }
}

fn labels(kit: &Kit) {
    create(kit, 1, Labels::default());
    create(kit, 2, of("ten\u{e4}nt", "gpu", &["a", "it's \"b\""]));
    create(kit, 3, of("default", "gpu", &["b"]));
    create(kit, 4, of("default", "default", &["a"]));
    assert_eq!(kit.record(id(2)).labels, of("ten\u{e4}nt", "gpu", &["a", "it's \"b\""]));
    assert_eq!(kit.record(id(1)).labels, Labels::default());
    let list = |filter: ListFilter| -> Vec<_> {
        ok(kit.store.list(&filter)).into_iter().map(|record| record.id).collect()
    };
    let all = ListFilter::default;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(list(ListFilter { namespace: text("ten\u{e4}nt"), ..all() }), [id(2)]);
    assert_eq!(list(ListFilter { namespace: text("default"), ..all() }), [id(4), id(3), id(1)]);
    assert_eq!(list(ListFilter { tag: text("a"), ..all() }), [id(4), id(2)]);
    assert_eq!(list(ListFilter { tag: text("it's \"b\""), ..all() }), [id(2)]);
    assert!(list(ListFilter { tag: text("%"), ..all() }).is_empty());
    assert_eq!(list(ListFilter { workflow_id: text("flow 1"), ..all() }), [id(3), id(1)]);
    let (since_ms, until_ms) = (Some(NOW_MS + 2_000), Some(NOW_MS + 4_000));
    assert_eq!(list(ListFilter { since_ms, ..all() }), [id(4), id(3), id(2)]);
    assert_eq!(list(ListFilter { until_ms, ..all() }), [id(3), id(2), id(1)]);
    let tag = text("b");
    let (namespace, workflow_id) = (text("default"), text("flow 1"));
    let statuses = vec![durable_core::Status::Scheduled];
    let before = Some(id(4));
    let filter =
        ListFilter { namespace, statuses, workflow_id, tag, since_ms, until_ms, before, limit: 9 };
    assert_eq!(list(filter), [id(3)]);
}

fn keys_of_namespaces(kit: &Kit) {
    let start = |number: u8, namespace: &str| {
        let labels = of(namespace, "default", &[]);
        let idempotency_key = Some("key".to_owned());
        let new = NewExecution { labels, idempotency_key, ..kit.new_execution(id(number)) };
        match ok(kit.write(Write::Create(new))) {
            Written::Created { id, .. } => id,
            other => panic!("expected Created, got {other:?}"),
        }
    };
    assert_eq!(start(1, "one"), id(1));
    assert_eq!(start(2, "two"), id(2));
    assert_eq!(start(3, "one"), id(1));
}

fn queues(kit: &Kit) {
    let one = owner("one");
    create(kit, 1, Labels::default());
    create(kit, 2, of("default", "gpu", &[]));
    create(kit, 3, of("default", "big", &[]));
    let queues = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let claim = |now_ms, names: &[&str]| {
        let expires_at_ms = now_ms + LEASE_MS;
        let (owner, queues) = (one.clone(), queues(names));
        let dead = Vec::new();
        match ok(kit.write(Write::Claim { owner, now_ms, expires_at_ms, dead, queues, limit: 9 })) {
            Written::Claimed(claimed) => ids(&claimed),
            other => panic!("expected Claimed, got {other:?}"),
        }
    };
    let far_ms = NOW_MS + 100_000;
    let next = |names: &[&str]| ok(kit.store.next_due_ms(&owner("two"), &queues(names)));
    assert_eq!(next(&["gpu", "big"]), Some(NOW_MS + 2_000));
    assert_eq!(next(&["none"]), None);
    assert!(claim(far_ms, &["none"]).is_empty());
    assert_eq!(claim(far_ms, &["big", "gpu"]), [id(2), id(3)]);
    assert_eq!(next(&["default"]), Some(NOW_MS + 1_000));
    assert_eq!(next(&["gpu"]), Some(far_ms + LEASE_MS));
    // Expired leases, inboxes and requests stay in their queues too.
    assert_eq!(claim(far_ms + LEASE_MS, &["default"]), [id(1)]);
    assert_eq!(claim(far_ms + LEASE_MS, &["gpu"]), [id(2)]);
}

fn worker(name: &str, seen_at_ms: i64) -> WorkerRecord {
    WorkerRecord {
        owner: owner(name),
        host: "host.example".into(),
        pid: 4_000_000_000,
        queues: vec!["gpu".into(), "default".into()],
        functions: vec!["a".into()],
        concurrency: 8,
        version: "0.1.0".into(),
        started_at_ms: NOW_MS,
        seen_at_ms,
        held: 0,
    }
}

fn workers(kit: &Kit) {
    assert!(ok(kit.store.workers()).is_empty());
    kit.create_held(1, &owner("one"));
    kit.create_held(2, &owner("one"));
    kit.create_held(3, &owner("not announced"));
    for announced in [worker("two", NOW_MS), worker("one", NOW_MS), worker("one", NOW_MS + 5)] {
        kit.done(Write::Announce(Box::new(announced)));
    }
    let one = WorkerRecord { held: 2, ..worker("one", NOW_MS + 5) };
    assert_eq!(ok(kit.store.workers()), [one, worker("two", NOW_MS)]);
    for _ in 0..2 {
        kit.done(Write::Withdraw(owner("one")));
    }
    assert_eq!(ok(kit.store.workers()), [worker("two", NOW_MS)]);
    // Its leases are another matter.
    assert_eq!(kit.record(id(1)).locked_by.as_deref(), Some("one"));
}

fn tokens(kit: &Kit) {
    let token = |id: &str, created_at_ms| TokenRecord {
        id: id.to_owned(),
        name: "CI of Zo\u{eb}".to_owned(),
        role: Role::Operator,
        namespace: Some("default".to_owned()),
        secret_hash: [7; 32],
        created_at_ms,
        expires_at_ms: Some(NOW_MS + 9),
        revoked_at_ms: None,
    };
    let (late, early) = (token("a", NOW_MS + 1), token("b", NOW_MS));
    for new in [&late, &early] {
        kit.done(Write::PutToken(Box::new(new.clone())));
    }
    refused!(kit.write(Write::PutToken(Box::new(token("a", NOW_MS)))), Conflict);
    assert_eq!(ok(kit.store.tokens()), [early.clone(), late]);
    for now_ms in [NOW_MS + 3, NOW_MS + 4] {
        kit.done(Write::RevokeToken { id: "a".into(), now_ms });
    }
    let revoked = TokenRecord { revoked_at_ms: Some(NOW_MS + 3), ..token("a", NOW_MS + 1) };
    assert!(early.is_live(NOW_MS + 8) && !early.is_live(NOW_MS + 9));
    assert!(!revoked.is_live(NOW_MS));
    assert_eq!(ok(kit.store.tokens()), [early, revoked]);
    refused!(kit.write(Write::RevokeToken { id: "c".into(), now_ms: NOW_MS }), NotFound);
}

fn jobs(kit: &Kit) {
    let one = owner("one");
    let held = kit.waiting(1, &one, vec![function(1, "a"), function(2, "a")]);
    let (execution, lease) = (held.id(), held.lease);
    assert_eq!(ok(kit.store.call_of_job("job '7'")), None);
    kit.done(Write::NoteJob { execution, lease, call: 2, job_id: "job '7'".into() });
    assert_eq!(ok(kit.store.call_of_job("job '7'")), Some((execution, 2)));
    assert_eq!(ok(kit.store.call_of_job("job")), None);
}
