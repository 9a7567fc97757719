//! Random workflows, run in random orders: every step once, never before what it needs, and the
//! same calls again from any part of the journal.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
};

use durable_core::{
    Advance, Advanced, Base, CallId, Definition, End, ExecutionId, FunctionOptions, Group,
    Language, Limits, NewCall, Outcome, Payload, Program, Reached, Request, Runner as _, Snapshot,
    StateToken, seal::SnapshotKey,
};
use durable_steps::Steps;
use proptest::prelude::*;

/// A workflow: what each step needs, among the steps whose rank is lower.
#[derive(Debug, Clone)]
struct Plan {
    needs: Vec<Vec<usize>>,
    /// How many items its `foreach` has; none for a step without.
    items: Vec<Option<usize>>,
    /// Whether it is run at all.
    wanted: Vec<bool>,
}

impl Plan {
    fn program(&self) -> Arc<Program> {
        let mut source = "id: random\nsteps:\n".to_owned();
        for (index, needs) in self.needs.iter().enumerate() {
            let names: Vec<_> = needs.iter().map(|need| format!("s{need}")).collect();
            let seen: Vec<_> =
                needs.iter().map(|need| format!("'{{{{ steps.s{need} }}}}'")).collect();
            let foreach = self.items[index].map_or(String::new(), |items| {
                format!(", foreach: [{}]", vec!["x"; items].join(", "))
            });
            source += &format!(
                "  - {{name: s{index}, agent: a, needs: [{}], when: {}{foreach}, input: {{i: {index}, \
                 seen: [{}]}}}}\n",
                names.join(", "),
                self.wanted[index],
                seen.join(", "),
            );
        }
        Arc::new(Program::new(Definition {
            language: Language::Yaml,
            source,
            functions: BTreeMap::from([("a".to_owned(), FunctionOptions::default())]),
            inputs: Vec::new(),
            limits: Limits::default(),
        }))
    }

    /// How many calls a step makes.
    fn calls(&self, step: usize) -> usize {
        if self.wanted[step] { self.items[step].unwrap_or(1) } else { 0 }
    }
}

fn plans() -> impl Strategy<Value = Plan> {
    let step = |index: usize| {
        let needs = prop::collection::btree_set(0..index.max(1), 0..=index.min(3));
        let items = prop_oneof![4 => Just(None), 1 => (0_usize..4).prop_map(Some)];
        (needs, items, prop::bool::weighted(0.9))
    };
    (1_usize..12).prop_flat_map(move |count| {
        (0..count).map(step).collect::<Vec<_>>().prop_map(|steps| {
            let mut plan = Plan { needs: Vec::new(), items: Vec::new(), wanted: Vec::new() };
            for (index, (needs, items, wanted)) in steps.into_iter().enumerate() {
                let needs: BTreeSet<_> = needs;
                plan.needs.push(needs.into_iter().filter(|need| *need < index).collect());
                plan.items.push(items);
                plan.wanted.push(wanted);
            }
            plan
        })
    })
}

struct Life {
    steps: Steps,
    program: Arc<Program>,
}

impl Life {
    fn advance(&self, base: Base, groups: Vec<Group>, version: u64) -> Reached {
        let (sender, receiver) = mpsc::channel();
        let request = Advance {
            execution: ExecutionId::new(0, [1; 10]),
            program: self.program.clone(),
            dictionary: None,
            base,
            groups,
            next: StateToken { epoch: 1, version },
        };
        self.steps.advance(request, Box::new(move |answer| sender.send(answer).unwrap()));
        match receiver.recv().unwrap() {
            Advanced::Reached(reached) => reached,
            other => panic!("{other:?}"),
        }
    }
}

fn start() -> Base {
    Base::Start { inputs: Payload::trusted("{}"), seed: 1, now_ms: 0 }
}

fn step_of(call: &NewCall) -> usize {
    match &call.request {
        Request::Function { name, .. } => name[1..].parse().unwrap(),
        Request::Timer { .. } => panic!("no timer was asked for"),
    }
}

/// Everything that one run went through.
struct Told {
    groups: Vec<Group>,
    /// What was asked for at the start, and after each group.
    calls: Vec<Vec<NewCall>>,
    /// The snapshots there were, with the number of groups before each.
    snapshots: Vec<(usize, Snapshot)>,
    output: String,
}

/// Runs a plan; `choices` say which of the open calls come back, and which together.
fn run(life: &Life, plan: &Plan, choices: &[usize]) -> Told {
    let mut told = Told {
        groups: Vec::new(),
        calls: Vec::new(),
        snapshots: Vec::new(),
        output: String::new(),
    };
    let mut reached = life.advance(start(), Vec::new(), 1);
    let mut open: BTreeMap<CallId, usize> = BTreeMap::new();
    let mut left: Vec<_> = (0..plan.needs.len()).map(|step| plan.calls(step)).collect();
    let mut choices = choices.iter().cycle();
    loop {
        let new = reached.calls.last().unwrap().clone();
        for call in &new {
            let step = step_of(call);
            for &need in &plan.needs[step] {
                assert_eq!(left[need], 0, "s{step} began before s{need} had ended");
            }
            assert!(open.insert(call.id, step).is_none(), "a call was asked for twice");
        }
        told.calls.push(new);
        match reached.end {
            End::Completed(output) => {
                assert!(open.is_empty());
                assert!(left.iter().all(|left| *left == 0), "a step was not run");
                told.output = output.as_str().to_owned();
                return told;
            }
            End::Suspended { snapshot, .. } => {
                let before = told.groups.len();
                told.snapshots.extend(snapshot.map(|snapshot| (before, snapshot)));
            }
            End::Failed(failure) => panic!("{failure}"),
        }
        let together = 1 + choices.next().unwrap() % open.len().min(3);
        let mut results = Vec::new();
        for _ in 0..together {
            let nth = choices.next().unwrap() % open.len();
            let (&call, &step) = open.iter().nth(nth).unwrap();
            open.remove(&call);
            left[step] -= 1;
            results.push((call, Outcome::Completed(Payload::trusted(format!("{{\"c\":{call}}}")))));
        }
        told.groups.push(Group { results, ..Group::default() });
        let version = told.groups.len() as u64;
        let live = Base::Live(StateToken { epoch: 1, version });
        reached = life.advance(live, told.groups[told.groups.len() - 1..].to_vec(), version + 1);
    }
}

fn end(reached: &Reached) -> Option<&str> {
    match &reached.end {
        End::Completed(output) => Some(output.as_str()),
        End::Suspended { .. } => None,
        End::Failed(failure) => panic!("{failure}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_step_is_run_once_and_replays_ask_for_the_same(
        plan in plans(),
        choices in prop::collection::vec(0_usize..100, 1..40),
    ) {
        let steps = Steps::new(SnapshotKey::new([7; 32])).unwrap();
        let life = Life { steps, program: plan.program() };
        life.steps.validate(&life.program).unwrap();
        let told = run(&life, &plan, &choices);
        let asked: Vec<_> = told.calls.iter().flatten().map(|call| call.id).collect();
        prop_assert!(asked.iter().copied().eq(1..=asked.len() as CallId));
        let output: serde_json::Value = serde_json::from_str(&told.output).unwrap();
        prop_assert_eq!(output.as_object().unwrap().len(), plan.needs.len());
        for until in 0..=told.groups.len() {
            let replayed = life.advance(start(), told.groups[..until].to_vec(), 99);
            prop_assert_eq!(&replayed.calls, &told.calls[..=until]);
            let is_over = until == told.groups.len();
            prop_assert_eq!(end(&replayed), is_over.then_some(told.output.as_str()));
        }
        for (before, snapshot) in &told.snapshots {
            let base = Base::Snapshot { snapshot: snapshot.clone(), version: *before as u64 + 1 };
            let replayed = life.advance(base, told.groups[*before..].to_vec(), 99);
            prop_assert_eq!(&replayed.calls, &told.calls[before + 1..]);
            prop_assert_eq!(end(&replayed), Some(told.output.as_str()));
        }
    }
}

/// What is stored of a long workflow stays in proportion to what its steps return.
#[test]
fn a_long_workflow_stores_little() {
    let count = 1_000;
    let needs = (0..count).map(|step: usize| step.checked_sub(1).into_iter().collect()).collect();
    let plan = Plan { needs, items: vec![None; count], wanted: vec![true; count] };
    let steps = Steps::new(SnapshotKey::new([7; 32])).unwrap();
    let life = Life { steps, program: plan.program() };
    let told = run(&life, &plan, &[0]);
    let stored: usize = told.snapshots.iter().map(|(_, snapshot)| snapshot.0.len()).sum();
    let results = told.groups.iter().flat_map(|group| &group.results);
    let returned: usize = results
        .map(|(_, outcome)| match outcome {
            Outcome::Completed(result) => result.as_str().len(),
            Outcome::Failed(_) => 0,
        })
        .sum();
    assert!(stored < 40 * returned, "{stored} bytes stored of {returned}");
    let (last, _) = told.snapshots.last().unwrap();
    assert!(*last > count / 2, "the last of {} snapshots is {last}", told.snapshots.len());
}
