//! Failed executions that go on: the transition that failed is taken back.

use durable_core::{
    CallStatus, Draft, End, Event, Execution, Failure, Lease, Outcome, Reached, Recorded, Status,
    Transition, replay,
};

use super::{
    Check,
    kit::{
        Held, Kit, NOW_MS, completed, failed, function, ids, json, ok, owner, refused, suspended,
        timer,
    },
};
use crate::Write;

pub(super) const CHECKS: &[Check] = &[
    ("a retry takes the failing transition back", taken_back),
    ("a retried execution goes on, and its whole journal can be read", goes_on),
    ("an execution that failed at once begins anew", begins_anew),
    ("of two retries one wins", only_once),
];

/// The transition that retries an execution.
fn retry(kit: &Kit, held: &Held) -> Transition {
    let (state, event) = ok(replay::retry(held.id(), &kit.journal(held.id())));
    let mut draft = Draft::new(state, held.at_ms);
    ok(draft.push(event));
    draft.finish(Lease { owner: owner("operator"), epoch: 0 }, true).0
}

#[track_caller]
fn commit(kit: &Kit, held: &mut Held, transition: Transition) {
    held.state = Execution::clone(&transition.after);
    held.at_ms += 10;
    kit.done(Write::Transition(Box::new(transition)));
    kit.assert_state(&held.state);
}

/// Fails because call 2 did. Call 1 returned and timer 4 fired in the same transition, which asked
/// for call 6; call 3 was running, and what came of call 5 stood in the inbox.
fn fail(kit: &Kit) -> Held {
    let calls =
        vec![function(1, "a"), function(2, "b"), function(3, "c"), timer(4, 5), function(5, "d")];
    let mut held = kit.waiting(1, &owner("one"), calls);
    kit.advance(&mut held, |draft| {
        let failure = Failure::new("OSError", "busy");
        draft.push(Event::CallRetrying { call: 2, attempt: 1, failure, due_ms: NOW_MS + 20 })
    });
    ok(kit.report(held.id(), 5, completed("5")));
    kit.advance(&mut held, |draft| {
        draft.close_call(1, 1, completed("[1]"))?;
        draft.close_call(2, 2, failed("gone"))?;
        draft.push(Event::TimerFired { call: 4 })?;
        let failure = Failure { cause_call: Some(2), ..Failure::new("ValueError", "gone") };
        let (calls, printed) = (vec![vec![function(6, "e")]], "oh\n".into());
        draft.take_reached(Reached { calls, printed, end: End::Failed(failure) })
    });
    held
}

fn taken_back(kit: &Kit) {
    let mut held = fail(kit);
    let transition = retry(kit, &held);
    commit(kit, &mut held, transition);
    let id = held.id();
    let record = kit.record(id);
    assert_eq!((record.status, record.failure), (Status::Waiting, None));
    assert_eq!((record.completed_at_ms, record.locked_by), (None, None));
    assert_eq!(record.started_at_ms, Some(NOW_MS + 10));
    let standing: Vec<_> = ok(kit.store.calls(id))
        .into_iter()
        .map(|call| (call.id, call.status, call.attempt, call.result, call.failure))
        .collect();
    let pending = |id| (id, CallStatus::Pending, 1, None, None);
    let done = |id, result| (id, CallStatus::Completed, 1, Some(json(result)), None);
    assert_eq!(standing, [done(1, "[1]"), pending(2), pending(3), pending(4), done(5, "5")]);
    for (call, due_ms) in [(2, None), (3, None), (4, Some(NOW_MS + 15))] {
        let call = kit.call(id, call);
        assert_eq!((call.due_at_ms, call.completed_at_ms), (due_ms, None));
    }
    let mut inbox: Vec<_> = kit.load(id).inbox.into_iter().map(|(call, _)| call).collect();
    inbox.sort_unstable();
    assert_eq!(inbox, [1, 5]);
}

fn goes_on(kit: &Kit) {
    let mut held = fail(kit);
    let mut expected = kit.journal(held.id());
    for round in 0..2 {
        let transition = retry(kit, &held);
        expected.extend(transition.recorded());
        commit(kit, &mut held, transition);
        assert_eq!(kit.journal(held.id()), expected);
        let claimed = kit.claim(&owner("two"), NOW_MS + 1_000, 9);
        assert_eq!(ids(&claimed), [held.id()]);
        held = Held::of(&claimed[0], NOW_MS + 1_000 + round);
        let inbox = claimed[0].inbox.clone();
        let take_in = |draft: &mut Draft| -> durable_core::Result<()> {
            for (call, outcome) in &inbox {
                let Outcome::Completed(_) = outcome else { continue };
                draft.close_call(*call, 1, outcome.clone())?;
                draft.inbox_taken.push(*call);
            }
            Ok(())
        };
        let transition = match round {
            // It fails again, and asks for something else before.
            0 => held.transition(|draft| {
                take_in(draft)?;
                draft.close_call(2, 1, failed("still gone"))?;
                let failure = Failure { cause_call: Some(2), ..Failure::new("ValueError", "") };
                let calls = vec![vec![function(6, "other"), timer(7, 9)]];
                let end = End::Failed(failure);
                draft.take_reached(Reached { calls, printed: String::new(), end })
            }),
            _ => held.transition(|draft| {
                take_in(draft)?;
                draft.close_call(2, 1, completed("[2]"))?;
                draft.take_reached(suspended(vec![function(6, "e"), function(8, "f")], Some(b"s")))
            }),
        };
        expected.extend(transition.recorded());
        commit(kit, &mut held, transition);
    }
    kit.advance(&mut held, |draft| draft.push(Event::ExecutionCompleted { output: json("1") }));
    let journal = kit.journal(held.id());
    assert_eq!(journal[..expected.len()], expected);
    // Wherever a page begins or ends, its events are the same.
    for limit in 1..journal.len() {
        let mut pages: Vec<Recorded> = Vec::new();
        while pages.len() < journal.len() {
            pages.extend(ok(kit.store.journal(held.id(), pages.len() as u64, limit)));
        }
        assert_eq!(pages, journal, "pages of {limit}");
    }
    let told: Vec<_> = replay::requested(&journal).map(|call| call.id()).collect();
    assert_eq!(told, [1, 2, 3, 4, 5, 6, 8]);
}

fn begins_anew(kit: &Kit) {
    let mut held = kit.create_held(1, &owner("one"));
    kit.advance(&mut held, |draft| {
        draft.push(Event::ExecutionStarted { seed: 1 })?;
        let end = End::Failed(Failure::new("NameError", "x"));
        let calls = vec![vec![function(1, "a")]];
        draft.take_reached(Reached { calls, printed: "hi".into(), end })
    });
    let transition = retry(kit, &held);
    commit(kit, &mut held, transition);
    let record = kit.record(held.id());
    assert_eq!((record.status, record.started_at_ms), (Status::Scheduled, None));
    assert!(ok(kit.store.calls(held.id())).is_empty());
    let claimed = kit.claim(&owner("two"), NOW_MS + 1_000, 9);
    let mut held = Held::of(&claimed[0], NOW_MS + 1_000);
    kit.advance(&mut held, |draft| {
        draft.push(Event::ExecutionStarted { seed: 2 })?;
        draft.take_reached(suspended(vec![function(1, "b")], None))
    });
    let journal = kit.journal(held.id());
    assert_eq!(replay::started(&journal), Some((2, NOW_MS + 1_000)));
    assert_eq!(kit.record(held.id()).started_at_ms, Some(NOW_MS + 1_000));
}

fn only_once(kit: &Kit) {
    let mut held = fail(kit);
    let (one, other) = (retry(kit, &held), retry(kit, &held));
    commit(kit, &mut held, one);
    let before = (kit.load(held.id()), kit.journal(held.id()));
    refused!(kit.write(Write::Transition(Box::new(other))), Conflict);
    super::kit::assert_same_load(&kit.load(held.id()), &before.0);
    assert_eq!(kit.journal(held.id()), before.1);
    refused!(replay::retry(held.id(), &before.1), Conflict);
}
