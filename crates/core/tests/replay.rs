//! Random lives: whatever happens to an execution, folding its journal gives its state.

use durable_core::{
    Assignment, Draft, End, Event, Execution, ExecutionId, Failure, FunctionOptions, Lease,
    NewCall, Outcome, Owner, Payload, Position, Reached, Recorded, Request, RetryPolicy, Status,
    replay,
};
use proptest::prelude::*;

/// What happens next in a random life.
#[derive(Debug, Clone)]
enum Step {
    Close {
        pick: usize,
        fails: bool,
        asks_for: u8,
        ends: bool,
    },
    Retry {
        pick: usize,
    },
    Set,
    Pause,
    Resume,
    Cancel,
    /// The call fails, and the execution with it.
    Fail {
        pick: usize,
        asks_for: u8,
    },
    RetryFailed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<usize>(), any::<bool>(), 0..4_u8, prop::bool::weighted(0.1))
            .prop_map(|(pick, fails, asks_for, ends)| Step::Close { pick, fails, asks_for, ends }),
        2 => any::<usize>().prop_map(|pick| Step::Retry { pick }),
        1 => Just(Step::Set),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => prop::bool::weighted(0.1).prop_map(|_| Step::Cancel),
        1 => (any::<usize>(), 0..4_u8).prop_map(|(pick, asks_for)| Step::Fail { pick, asks_for }),
        4 => Just(Step::RetryFailed),
    ]
}

struct Life {
    state: Execution,
    journal: Vec<Recorded>,
    next_call: u32,
}

impl Life {
    fn reached(&mut self, count: u8, ends: bool) -> Reached {
        let calls = (0..count)
            .map(|index| {
                self.next_call += 1;
                let request = if index % 2 == 0 {
                    Request::Function {
                        name: "f".into(),
                        args: Payload::trusted("[]"),
                        kwargs: Payload::trusted("{}"),
                        options: FunctionOptions::default(),
                    }
                } else {
                    Request::Timer { delay_ms: u64::from(index) }
                };
                let position = Position { line: 1, column: 1 };
                NewCall { id: self.next_call, request, position }
            })
            .collect();
        let end = if ends {
            End::Completed(Payload::null())
        } else {
            End::Suspended { snapshot: None, new_dictionary: None }
        };
        Reached { calls: vec![calls], printed: String::new(), end }
    }

    /// Builds a transition; one that can't be built changes nothing.
    fn transition(&mut self, at_ms: i64, build: impl FnOnce(&mut Self, &mut Draft) -> bool) {
        let mut draft = Draft::new(self.state.clone(), at_ms);
        if !build(self, &mut draft) {
            return;
        }
        let lease = Lease { owner: Owner::new("test"), epoch: 1 };
        let (transition, _) = draft.finish(lease, false);
        self.journal.extend(transition.recorded());
        self.state = (*transition.after).clone();
    }
}

fn pick(state: &Execution, pick: usize) -> Option<u32> {
    let open: Vec<_> = state.open_calls.keys().collect();
    (!open.is_empty()).then(|| *open[pick % open.len()])
}

fn assignment() -> Assignment {
    let (function, name) = ("<module>".into(), "total".into());
    Assignment { task: 0, depth: 0, function, name, value: Payload::trusted("5") }
}

fn live(steps: Vec<Step>) -> Life {
    let state = Execution::scheduled(ExecutionId::new(0, [3; 10]));
    let mut life = Life { state, journal: Vec::new(), next_call: 0 };
    life.transition(0, |life, draft| {
        let reached = life.reached(3, false);
        draft.push(Event::ExecutionStarted { seed: 1 }).is_ok()
            && draft.take_reached(reached).is_ok()
    });
    for (at_ms, step) in (1..).zip(steps) {
        life.transition(at_ms, |life, draft| match step {
            Step::Close { pick: at, fails, asks_for, ends } => {
                let Some(call) = pick(&life.state, at) else { return false };
                let open = life.state.open_calls[&call].clone();
                let closed = if open.is_timer() {
                    draft.push(Event::TimerFired { call })
                } else if fails {
                    let failure = Failure::new("OSError", "busy");
                    draft.close_call(call, open.attempt, Outcome::Failed(failure))
                } else {
                    draft.close_call(call, open.attempt, Outcome::Completed(Payload::null()))
                };
                let reached = life.reached(asks_for, ends);
                closed.is_ok() && draft.take_reached(reached).is_ok()
            }
            Step::Retry { pick: at } => {
                let Some(call) = pick(&life.state, at) else { return false };
                let attempt = life.state.open_calls[&call].attempt;
                let failure = Failure::new("OSError", "busy");
                draft.push(Event::CallRetrying { call, attempt, failure, due_ms: 99 }).is_ok()
            }
            Step::Fail { pick: at, asks_for } => {
                let Some(call) = pick(&life.state, at) else { return false };
                let open = life.state.open_calls[&call].clone();
                let failure = Failure::new("OSError", "busy");
                let is_timer = open.is_timer();
                let closed = match is_timer {
                    true => draft.push(Event::TimerFired { call }),
                    false => draft.close_call(call, open.attempt, Outcome::Failed(failure.clone())),
                };
                let cause_call = (!is_timer).then_some(call);
                let end = End::Failed(Failure { cause_call, ..failure });
                let numbers = life.next_call;
                let reached = Reached { end, ..life.reached(asks_for, false) };
                // The program is given the same numbers when it goes on from before this.
                life.next_call = numbers;
                closed.is_ok() && draft.take_reached(reached).is_ok()
            }
            Step::RetryFailed => match replay::retry(life.state.id, &life.journal) {
                Ok((state, event)) => {
                    assert_eq!(state, life.state);
                    draft.push(event).is_ok()
                }
                Err(_) => false,
            },
            Step::Set => draft.push(Event::VariablesSet { variables: vec![assignment()] }).is_ok(),
            Step::Pause => draft.push(Event::ExecutionPaused { reason: String::new() }).is_ok(),
            Step::Resume => draft.push(Event::ExecutionResumed).is_ok(),
            Step::Cancel => draft.push(Event::ExecutionCancelled { reason: String::new() }).is_ok(),
        });
    }
    life
}

proptest! {
    #[test]
    fn folding_the_journal_gives_the_state(steps in prop::collection::vec(step(), 0..60)) {
        let life = live(steps);
        let folded = replay::fold(life.state.id, &life.journal).unwrap();
        prop_assert_eq!(&folded, &life.state);
        let waiting = matches!(life.state.status, Status::Waiting);
        prop_assert_eq!(waiting && life.state.open_calls.is_empty(), false);
    }

    #[test]
    fn a_journal_with_a_gap_is_refused(
        steps in prop::collection::vec(step(), 1..30), gap in any::<prop::sample::Index>(),
    ) {
        let life = live(steps);
        let mut journal = life.journal;
        let at = gap.index(journal.len());
        if at + 1 < journal.len() {
            journal.remove(at);
            prop_assert!(replay::fold(life.state.id, &journal).is_err());
        }
    }

    #[test]
    fn every_result_is_replayed_once(steps in prop::collection::vec(step(), 0..60)) {
        let life = live(steps);
        let replayed: usize =
            replay::groups(&life.journal).iter().map(|group| group.results.len()).sum();
        // The failing transition counts as long as nobody takes it back.
        prop_assert_eq!(replayed, life.state.closed_calls as usize);
        prop_assert_eq!(
            replay::requested(&life.journal).count(), life.state.requested_calls as usize
        );
    }

    #[test]
    fn a_retry_leads_back_to_where_it_was(
        steps in prop::collection::vec(step(), 0..20), at in any::<usize>(), asks_for in 0..4_u8,
    ) {
        let life = live(steps.clone());
        let failing = steps.into_iter().chain([Step::Fail { pick: at, asks_for }]);
        let failed = live(failing.clone().collect());
        // Some lives have ended or are paused by then.
        if failed.journal.len() == life.journal.len() {
            return Ok(());
        }
        let retried = live(failing.chain([Step::RetryFailed]).collect());
        let mut expected = life.state.clone();
        (expected.version, expected.next_sequence) =
            (retried.state.version, retried.state.next_sequence);
        for call in expected.open_calls.values_mut() {
            if !call.is_timer() {
                call.due_ms = None;
            }
        }
        let mut state = retried.state;
        for (call, open) in &mut state.open_calls {
            // What is made again counts its attempts from the start.
            if open.attempt != expected.open_calls[call].attempt {
                prop_assert_eq!(open.attempt, 1);
                open.attempt = expected.open_calls[call].attempt;
            }
        }
        prop_assert_eq!(state, expected);
        let results = |journal| replay::groups(journal).into_iter().map(|group| group.results);
        prop_assert!(results(&retried.journal).eq(results(&life.journal)));
        let requested = |journal| replay::requested(journal).map(|call| call.id()).collect::<Vec<_>>();
        prop_assert_eq!(requested(&retried.journal), requested(&life.journal));
    }

    #[test]
    fn waits_grow_up_to_their_bound(
        attempt in 1..200_u32, jitter in 0.0..=1.0_f64, random in 0.0..=1.0_f64,
    ) {
        let policy = RetryPolicy { max_attempts: u32::MAX, jitter, ..RetryPolicy::default() };
        policy.validate().unwrap();
        let failure = Failure::new("OSError", "busy");
        let wait_ms = policy.next_delay_ms(attempt, &failure, random).unwrap();
        prop_assert!(wait_ms <= policy.max_interval_ms);
        let least_ms = policy.next_delay_ms(attempt, &failure, 1.0).unwrap();
        let most_ms = policy.next_delay_ms(attempt, &failure, 0.0).unwrap();
        prop_assert!(least_ms <= wait_ms && wait_ms <= most_ms);
    }
}

#[test]
fn a_replay_that_asks_for_something_else_is_shown_with_both_lists() {
    let mut life = live(Vec::new());
    let journaled: Vec<_> = replay::requested(&life.journal).collect();
    let same: Vec<_> = journaled.iter().map(|call| call.new.clone()).collect();
    replay::verify(&journaled, &same).unwrap();
    let mut other = same.clone();
    if let Request::Function { name, .. } = &mut other[0].request {
        "g".clone_into(name);
    }
    let error = replay::verify(&journaled, &other).unwrap_err().to_string();
    assert!(error.contains("#1 f(") && error.contains("#1 g("), "{error}");
    assert!(replay::verify(&journaled, &same[..2]).is_err());
    life.journal.clear();
    assert!(replay::groups(&life.journal).is_empty());
}

#[test]
fn variables_that_were_set_are_told_in_their_place() {
    let mut life = live(Vec::new());
    let close = |call| {
        move |_: &mut Life, draft: &mut Draft| {
            draft.close_call(call, 1, Outcome::Completed(Payload::null())).is_ok()
        }
    };
    life.transition(1, close(1));
    life.transition(2, |_, draft| {
        draft.push(Event::VariablesSet { variables: vec![assignment()] }).is_ok()
    });
    life.transition(3, close(3));
    let groups = replay::groups(&life.journal);
    let told: Vec<_> = groups
        .iter()
        .map(|group| (group.now_ms, group.variables.len(), group.results.len()))
        .collect();
    assert_eq!(told, [(1, 0, 1), (2, 1, 0), (3, 0, 1)]);
    assert_eq!(groups[1].variables, [assignment()]);
}

#[test]
fn an_error_type_can_be_kept_from_being_retried() {
    let policy = RetryPolicy {
        max_attempts: 5,
        non_retryable: vec!["ValueError".into()],
        ..RetryPolicy::default()
    };
    assert_eq!(policy.next_delay_ms(1, &Failure::new("ValueError", ""), 0.0), None);
    assert!(policy.next_delay_ms(1, &Failure::new("OSError", ""), 0.0).is_some());
}

#[test]
fn what_the_program_knew_for_longer_can_not_be_made_good() {
    let mut life = live(Vec::new());
    life.transition(1, |_, draft| {
        draft.close_call(1, 1, Outcome::Failed(Failure::new("OSError", "busy"))).is_ok()
    });
    life.transition(2, |_, draft| {
        let failure = Failure { cause_call: Some(1), ..Failure::new("OSError", "busy") };
        draft.close_call(3, 1, Outcome::Completed(Payload::null())).is_ok()
            && draft.fail(failure).is_ok()
    });
    let error = replay::retry(life.state.id, &life.journal).unwrap_err().to_string();
    assert!(error.contains("call 1") && error.contains("start it anew"), "{error}");
}
