//! Claiming, renewing, giving back.

use durable_core::{Event, Lease, UnixMs};

use super::{
    Check,
    kit::{
        Held, Kit, LEASE_MS, NOW_MS, assert_same_load, completed, function, id, ids, ok, owner,
        refused, some, suspended, timer,
    },
};
use crate::Write;

pub(super) const CHECKS: &[Check] = &[
    ("new executions are claimed, the oldest first, up to the limit", fresh),
    ("a claim loads what it leases", loads),
    ("what is leased is not claimed", held_is_safe),
    ("an expired lease is claimed", expired),
    ("a dead owner's lease is claimed", dead_owner),
    ("epochs only grow", epochs),
    ("renewing moves the expiry of one owner's leases", renew),
    ("a lease is given back once, by its holder", give_back),
    ("claiming one works whatever its wake time", claim_one),
    ("what ends or pauses is not claimed", not_claimable),
    ("those due longest come first", order),
    ("the next due time is the earliest of all", next_due),
    ("other owners are known", other_owners),
];

fn fresh(kit: &Kit) {
    for number in [3, 1, 2] {
        kit.create(number);
    }
    let one = owner("one");
    assert!(kit.claim(&one, NOW_MS, 0).is_empty());
    assert_eq!(ids(&kit.claim(&one, NOW_MS, 2)), [id(1), id(2)]);
    assert_eq!(ids(&kit.claim(&one, NOW_MS, 2)), [id(3)]);
    assert!(kit.claim(&one, NOW_MS, 2).is_empty());
    assert_eq!(kit.record(id(1)).locked_by.as_deref(), Some("one"));
    // Its status stays as it is until its program begins.
    assert_eq!(kit.record(id(1)).status, durable_core::Status::Scheduled);
}

fn loads(kit: &Kit) {
    let (one, two) = (owner("one"), owner("two"));
    let mut held = kit.create_held(1, &one);
    kit.advance(&mut held, |draft| {
        draft.push(Event::ExecutionStarted { seed: 3 })?;
        draft.take_reached(suspended(vec![function(1, "a"), timer(2, 9)], Some(b"snap")))
    });
    kit.advance(&mut held, |draft| draft.push(Event::TimerFired { call: 2 }));
    ok(kit.report(held.id(), 1, completed("1")));
    let claimed = kit.claim(&two, NOW_MS + LEASE_MS, 10);
    assert_eq!(ids(&claimed), [held.id()]);
    assert_same_load(&claimed[0], &kit.load(held.id()));
    assert_eq!(claimed[0].execution, held.state);
    assert_eq!(claimed[0].lease, Some(Lease { owner: two, epoch: 2 }));
    assert_eq!(claimed[0].inbox, [(1, completed("1"))]);
    assert_eq!(some(claimed[0].snapshot.clone()).1, 3);
    assert_eq!(claimed[0].tail.len(), 1);
}

fn held_is_safe(kit: &Kit) {
    let one = owner("one");
    let held = kit.create_held(1, &one);
    assert!(kit.claim(&owner("two"), NOW_MS + LEASE_MS - 1, 10).is_empty());
    refused!(kit.claim_one(held.id(), &owner("two"), NOW_MS + LEASE_MS - 1, &[]), Conflict);
    // Its own holder may take it again.
    let again = ok(kit.claim_one(held.id(), &one, NOW_MS, &[]));
    assert_eq!(some(again.lease).epoch, 2);
}

fn expired(kit: &Kit) {
    let held = kit.waiting(1, &owner("one"), vec![function(1, "a")]);
    let claimed = kit.claim(&owner("two"), NOW_MS + LEASE_MS, 10);
    assert_eq!(ids(&claimed), [held.id()]);
    let late = held.write(|draft| draft.close_call(1, 1, completed("1")));
    refused!(kit.write(late), Conflict);
    let mut taken = Held::of(&claimed[0], NOW_MS + LEASE_MS);
    kit.advance(&mut taken, |draft| draft.close_call(1, 1, completed("1")));
}

fn dead_owner(kit: &Kit) {
    let (one, two, three) = (owner("one"), owner("two"), owner("three"));
    let first = kit.create_held(1, &one);
    let second = kit.create_held(2, &two);
    let dead = [one.clone(), owner("never seen \"'")];
    assert_eq!(ids(&kit.claim_from_dead(&three, NOW_MS, 10, &dead)), [first.id()]);
    refused!(kit.claim_one(second.id(), &three, NOW_MS, &dead), Conflict);
    let taken = ok(kit.claim_one(second.id(), &three, NOW_MS, &[two]));
    assert_eq!(taken.lease, Some(Lease { owner: three, epoch: 2 }));
}

fn epochs(kit: &Kit) {
    let id = kit.create(1);
    let mut last = 0;
    for round in 0..4 {
        let owner = owner(if round % 2 == 0 { "one" } else { "two" });
        let claimed = kit.claim(&owner, NOW_MS, 1);
        let lease = some(claimed[0].lease.clone());
        assert!(lease.epoch > last, "an epoch comes once");
        last = lease.epoch;
        kit.done(Write::Release { execution: id, lease, wake_at_ms: Some(NOW_MS) });
    }
}

fn renew(kit: &Kit) {
    let (one, two, three) = (owner("one"), owner("two"), owner("three"));
    let first = kit.create_held(1, &one);
    let second = kit.create_held(2, &one);
    let other = kit.create_held(3, &two);
    let now_ms = NOW_MS + LEASE_MS;
    kit.done(Write::Renew { owner: one.clone(), expires_at_ms: now_ms + 1_000 });
    assert_eq!(ids(&kit.claim(&three, now_ms, 10)), [other.id()]);
    assert!(kit.claim(&three, now_ms + 999, 10).is_empty());
    assert_eq!(ids(&kit.claim(&three, now_ms + 1_000, 10)), [first.id(), second.id()]);
    kit.done(Write::Renew { owner: owner("nobody"), expires_at_ms: 0 });
}

fn give_back(kit: &Kit) {
    let one = owner("one");
    let held = kit.create_held(1, &one);
    let release = |lease: &Lease, wake_at_ms: Option<UnixMs>| {
        let (execution, lease) = (held.id(), lease.clone());
        kit.done(Write::Release { execution, lease, wake_at_ms });
    };
    // Somebody else's release changes nothing.
    release(&Lease { owner: owner("two"), epoch: 1 }, Some(0));
    release(&Lease { owner: one.clone(), epoch: 2 }, Some(0));
    assert_eq!(kit.load(held.id()).lease, Some(held.lease.clone()));
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), None);
    release(&held.lease, Some(NOW_MS + 77));
    assert!(kit.load(held.id()).lease.is_none());
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), Some(NOW_MS + 77));
    // Again, after it was lost: nothing.
    release(&held.lease, Some(NOW_MS));
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), Some(NOW_MS + 77));
    let (execution, lease) = (id(50), held.lease.clone());
    kit.done(Write::Release { execution, lease, wake_at_ms: None });
    let again = kit.claim(&one, NOW_MS + 77, 1);
    let lease = some(again[0].lease.clone());
    release(&lease, None);
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), None);
}

fn claim_one(kit: &Kit) {
    let one = owner("one");
    refused!(kit.claim_one(id(1), &one, NOW_MS, &[]), NotFound);
    let held = kit.waiting(1, &one, vec![timer(1, 1_000_000)]);
    let (execution, lease) = (held.id(), held.lease.clone());
    kit.done(Write::Release { execution, lease, wake_at_ms: Some(NOW_MS + 1_000_000) });
    let loaded = ok(kit.claim_one(held.id(), &owner("two"), NOW_MS, &[]));
    assert_eq!(loaded.execution, held.state);
    assert_same_load(&loaded, &kit.load(held.id()));
    let mut held = Held::of(&loaded, NOW_MS + 100);
    kit.advance(&mut held, |draft| draft.push(Event::ExecutionCancelled { reason: "x".into() }));
    refused!(kit.claim_one(held.id(), &one, NOW_MS, &[]), Conflict);
}

fn not_claimable(kit: &Kit) {
    let one = owner("one");
    let far_ms = NOW_MS + 1_000_000_000;
    let mut paused = kit.waiting(1, &one, vec![timer(1, 5), function(2, "a")]);
    kit.advance(&mut paused, |draft| draft.push(Event::ExecutionPaused { reason: "x".into() }));
    ok(kit.report(paused.id(), 2, completed("2")));
    let mut ended = kit.waiting(2, &one, vec![timer(1, 5)]);
    kit.advance(&mut ended, |draft| draft.push(Event::ExecutionCancelled { reason: "x".into() }));
    assert!(kit.claim_from_dead(&owner("two"), far_ms, 10, std::slice::from_ref(&one)).is_empty());
    assert_eq!(ok(kit.store.next_due_ms(&owner("two"), &[])), None);
    // A single one can be claimed while it is paused: to resume it.
    let loaded = ok(kit.claim_one(paused.id(), &owner("two"), far_ms, &[]));
    assert_eq!(loaded.inbox, [(2, completed("2"))]);
    let mut paused = Held::of(&loaded, far_ms);
    kit.advance(&mut paused, |draft| draft.push(Event::ExecutionResumed));
}

fn order(kit: &Kit) {
    let one = owner("one");
    let wake = |number: u8, wake_at_ms: UnixMs| {
        let held = kit.waiting(number, &one, vec![function(1, "a")]);
        let (execution, lease) = (held.id(), held.lease.clone());
        kit.done(Write::Release { execution, lease, wake_at_ms: Some(wake_at_ms) });
    };
    wake(1, NOW_MS + 300);
    wake(2, NOW_MS + 100);
    wake(3, NOW_MS + 200);
    wake(4, NOW_MS + 100);
    let expired = kit.create_held(5, &one);
    kit.done(Write::Renew { owner: one.clone(), expires_at_ms: NOW_MS + 150 });
    wake(6, NOW_MS + 1_000);
    ok(kit.report(id(6), 1, completed("1")));
    let two = owner("two");
    let now_ms = NOW_MS + 900;
    assert_eq!(ids(&kit.claim(&two, now_ms, 3)), [id(6), id(2), id(4)]);
    assert_eq!(ids(&kit.claim(&two, now_ms, 3)), [expired.id(), id(3), id(1)]);
}

fn next_due(kit: &Kit) {
    let (one, two) = (owner("one"), owner("two"));
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), None);
    let held = kit.waiting(1, &one, vec![timer(1, 5_000), function(2, "a")]);
    // One's own leases are one's own business.
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), None);
    assert_eq!(ok(kit.store.next_due_ms(&two, &[])), Some(NOW_MS + LEASE_MS));
    let (execution, lease) = (held.id(), held.lease.clone());
    kit.done(Write::Release { execution, lease, wake_at_ms: held.state.wake_at_ms() });
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), held.state.wake_at_ms());
    let again = ok(kit.claim_one(held.id(), &one, NOW_MS, &[]));
    let (execution, lease) = (held.id(), some(again.lease));
    kit.done(Write::Release { execution, lease, wake_at_ms: Some(NOW_MS + 5_010) });
    kit.create_held(2, &two);
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), Some(NOW_MS + 5_010));
    kit.done(Write::Renew { owner: two, expires_at_ms: NOW_MS + 5_000 });
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), Some(NOW_MS + 5_000));
    ok(kit.report(held.id(), 2, completed("2")));
    assert_eq!(ok(kit.store.next_due_ms(&one, &[])), Some(UnixMs::MIN));
}

fn other_owners(kit: &Kit) {
    for (number, name) in [(1, "one"), (2, "two"), (3, "two"), (4, "three")] {
        kit.create_held(number, &owner(name));
    }
    let mut others = ok(kit.store.other_owners(&owner("one")));
    others.sort();
    assert_eq!(others, [owner("three"), owner("two")]);
}
