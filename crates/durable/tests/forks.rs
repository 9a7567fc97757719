//! Forks that are given other variables: they go on with those, whatever is lost in between.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use durable::{
    Durable, Engine, Error, ExecutionId, Feed, FunctionError, Language, Outcome, Payload, Session,
    Status, Workflow,
    checkpoints::{self, Checkpoint, Edits},
    portable::Portable,
};
use support::*;

const SOURCE: &str = "
import asyncio
async def scale(x):
    factor = 10
    def scaled(y):
        return y * factor
    y = await early(x)
    return scaled(y)
total = await scale(2)
both = await asyncio.gather(scale(3), scale(4))
last = await late(total)
[total, both, last]
";

const EXPECTED: &str = "[20,[30,40],20]";

/// Functions that give back what they are given; `late` passes a gate first.
fn open(scene: &Scene, gate: &Gate) -> Durable {
    let gate = gate.clone();
    scene
        .builder()
        .function("early", |(n,): (i64,)| async move { Ok::<_, FunctionError>(n) })
        .function("agent:writer", |(_,): (serde_json::Value,)| async move {
            Ok::<_, FunctionError>("text")
        })
        .function("late", move |(n,): (i64,)| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                Ok::<_, FunctionError>(n)
            }
        })
        .open()
        .unwrap()
}

fn open_gate() -> Gate {
    let gate = Gate::closed();
    gate.open_for(1_000);
    gate
}

/// A database in which the workflow has run.
fn ran() -> (Scene, Durable, ExecutionId) {
    let scene = Scene::new();
    let durable = open(&scene, &open_gate());
    let id = durable.start(&Workflow::new(SOURCE)).unwrap();
    assert_eq!(output(durable.engine(), id).replace(' ', ""), EXPECTED);
    (scene, durable, id)
}

fn variables(given: &[(&str, &str)]) -> Edits {
    let variables = given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Payload::parse(value, 1_000_000).unwrap()));
    Edits { variables: variables.collect(), ..Edits::default() }
}

fn at(engine: &Engine, id: ExecutionId, number: u32) -> Checkpoint {
    checkpoints::get(engine, id, number).unwrap()
}

fn fork(engine: &Engine, id: ExecutionId, number: u32, given: &[(&str, &str)]) -> ExecutionId {
    checkpoints::fork(engine, &at(engine, id, number), &variables(given)).unwrap()
}

fn refused(engine: &Engine, id: ExecutionId, number: u32, given: &[(&str, &str)]) -> String {
    match checkpoints::fork(engine, &at(engine, id, number), &variables(given)) {
        Err(Error::Invalid(why)) => why.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fork_goes_on_with_other_variables_and_results() {
    let (_scene, durable, id) = ran();
    let engine = durable.engine();
    assert_eq!(output(engine, fork(engine, id, 1, &[("factor", "100")])), "[200,[30,40],200]");
    let last = at(engine, id, 3);
    let edits = Edits {
        results: vec![(last.waits_for[0].id(), Outcome::Completed(Payload::trusted("7")))],
        ..variables(&[("total", r#"["a",{"b":null}]"#), ("both", "1.5")])
    };
    let both = checkpoints::fork(engine, &last, &edits).unwrap();
    assert_eq!(output(engine, both), r#"[["a",{"b":null}],1.5,7]"#);
    // What it was taken from is as it was.
    assert_eq!(output(engine, id).replace(' ', ""), EXPECTED);
    assert!(!events(engine, id).contains(&"VARIABLES_SET".to_owned()));
}

#[test]
fn what_was_set_is_a_checkpoint_of_the_fork() {
    let (_scene, durable, id) = ran();
    let engine = durable.engine();
    let first = fork(engine, id, 1, &[("scale.factor", "100"), ("x", "[7]")]);
    output(engine, first);
    let all = checkpoints::list(engine, first).unwrap();
    let set: Vec<_> = all.iter().map(|checkpoint| checkpoint.set.len()).collect();
    assert_eq!(set, [0, 2, 0, 0]);
    assert_eq!(all[1].waits_for, all[0].waits_for);
    let shown = |number: u32| {
        let seen = checkpoints::inspect(engine, &all[number as usize - 1]).unwrap();
        let frame = &seen.stacks[0][1];
        (frame.variables["factor"].as_str().to_owned(), frame.variables["x"].as_str().to_owned())
    };
    assert_eq!(shown(1), ("10".to_owned(), "2".to_owned()));
    assert_eq!(shown(2), ("100".to_owned(), "[7]".to_owned()));
    // Forks of the fork: with what was set, with that set again, and without.
    assert_eq!(output(engine, fork(engine, first, 2, &[])), "[200,[30,40],200]");
    assert_eq!(output(engine, fork(engine, first, 2, &[("factor", "0")])), "[0,[30,40],0]");
    assert_eq!(output(engine, fork(engine, first, 1, &[])), EXPECTED);
}

#[test]
fn names_that_several_frames_have_are_told_apart() {
    let (_scene, durable, id) = ran();
    let engine = durable.engine();
    let why = refused(engine, id, 2, &[("factor", "1")]);
    for place in ["1.0.factor (scale, line 7)", "2.0.factor (scale, line 7)"] {
        assert!(why.contains(place), "{why}");
    }
    let why = refused(engine, id, 2, &[("scale.factor", "1")]);
    assert!(why.contains("1.0.factor") && why.contains("2.0.factor"), "{why}");
    let given = [("2.0.factor", "1000"), ("<module>.total", "5"), ("1.0.factor", "100")];
    assert_eq!(output(engine, fork(engine, id, 2, &given)), "[5,[300,4000],5]");
}

#[test]
fn what_can_not_be_set_is_refused_and_nothing_is_left() {
    let (scene, durable, id) = ran();
    let engine = durable.engine();
    for (given, why) in [
        (&[("totl", "1")][..], "did you mean 'total'?"),
        (&[("scale.total", "1")], "there is no variable 'scale.total'"),
        (&[("total.x", "1")], "there is no variable 'total.x'"),
        (&[("9.0.total", "1")], "did you mean '0.0.total'?"),
        (&[("q", "1")], "`checkpoints show`"),
        (&[("total", "1"), ("<module>.total", "2")], "given two values"),
        (&[("total", r#"{"$int":1}"#)], "the value of total"),
    ] {
        let refused = refused(engine, id, 3, given);
        assert!(refused.contains(why), "{given:?}: {refused}");
    }
    let many: Vec<_> = (0..501).map(|_| ("total", "1")).collect();
    assert!(refused(engine, id, 3, &many).contains("the limit is 500"));
    assert_eq!(scene.count("SELECT count(*) FROM executions"), 1);
}

/// The snapshot is dropped while the fork waits for the last time; the state is rebuilt.
#[test]
fn a_fork_that_lost_its_snapshot_goes_on_with_what_was_set() {
    let (scene, durable, id) = ran();
    durable.close(Duration::from_secs(10));
    for is_dropped in [false, true] {
        let gate = Gate::closed();
        let durable = open(&scene, &gate);
        let engine = durable.engine();
        let set = fork(engine, id, 1, &[("factor", "100"), ("x", "[1]")]);
        until("the last call waits", || checkpoints::list(engine, set).unwrap().len() == 4);
        durable.close(Duration::ZERO);
        if is_dropped {
            let delete = "DELETE FROM execution_state WHERE execution_id = ?1";
            assert_eq!(scene.sql().execute(delete, [set.to_string()]).unwrap(), 1);
        }
        let durable = open(&scene, &open_gate());
        assert_eq!(output(durable.engine(), set), "[200,[30,40],200]");
        durable.close(Duration::from_secs(10));
    }
}

#[test]
fn a_fork_is_taken_to_another_database_with_what_was_set() {
    let (_scene, durable, id) = ran();
    let set = fork(durable.engine(), id, 1, &[("factor", "100")]);
    output(durable.engine(), set);
    let elsewhere = Scene::new();
    let there = open(&elsewhere, &open_gate());
    let mut file = Vec::new();
    Portable::export(durable.engine(), set).unwrap().write(&mut file).unwrap();
    Portable::read(file.as_slice()).unwrap().import(there.engine()).unwrap();
    assert_eq!(journal(there.engine(), set), journal(durable.engine(), set));
    let seen = checkpoints::inspect(there.engine(), &at(there.engine(), set, 2)).unwrap();
    assert_eq!(seen.stacks[0][1].variables["factor"].as_str(), "100");
    // Nobody writes a transition that sets variables and does something else.
    let text = String::from_utf8(file).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = file["journal"].as_array_mut().unwrap();
    let place = events.iter().position(|event| event["type"] == "VARIABLES_SET").unwrap();
    let (before, event) = (events[place - 1].clone(), &mut events[place]);
    (event["transition"], event["at_ms"]) = (before["transition"].clone(), before["at_ms"].clone());
    for event in &mut events[place + 1..] {
        event["transition"] = (event["transition"].as_u64().unwrap() - 1).into();
    }
    let refused = Portable::read(file.to_string().as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("beside setting variables"), "{refused}");
}

#[test]
fn a_failed_fork_is_retried_with_what_was_set() {
    let (_scene, durable, id) = ran();
    let engine = durable.engine();
    let set = fork(engine, id, 3, &[("total", "{}"), ("both", "null")]);
    assert_eq!(output(engine, set), "[{},null,20]");
    // A call of `early` is made again whose failure nobody catches.
    let first = at(engine, id, 1);
    let failure = durable::Failure::new("ValueError", "no");
    let edits = Edits {
        results: vec![(first.waits_for[0].id(), Outcome::Failed(failure))],
        ..variables(&[("factor", "100")])
    };
    let failed = checkpoints::fork(engine, &first, &edits).unwrap();
    assert_eq!(ended(engine, failed).status, Status::Failed);
    engine.retry(failed).unwrap();
    assert_eq!(output(engine, failed), "[200,[30,40],200]");
}

#[test]
fn a_fork_whose_variables_can_not_be_set_any_more_is_parked_with_the_reason() {
    let (scene, durable, id) = ran();
    durable.close(Duration::from_secs(10));
    // Nobody goes on with it: it has no worker.
    let engine = scene.builder().open_engine().unwrap();
    let set = fork(&engine, id, 1, &[("factor", "100")]);
    drop(engine);
    let tamper =
        "UPDATE execution_events SET event_payload = replace(event_payload, 'factor', 'gone')
                  WHERE execution_id = ?1 AND event_type = 'VARIABLES_SET'";
    assert_eq!(scene.sql().execute(tamper, [set.to_string()]).unwrap(), 1);
    let durable = open(&scene, &open_gate());
    reaches(durable.engine(), set, Status::Paused);
    let reason = durable.engine().execution(set).unwrap().failure.unwrap().message;
    assert!(reason.contains("scale has no variable 0.1.gone"), "{reason}");
}

#[test]
fn variables_of_a_session_are_set_and_those_of_a_step_workflow_are_none() {
    let (_scene, durable, _) = ran();
    let engine = durable.engine();
    let session = durable.open_session(&Workflow::session()).unwrap();
    let feed = |session: &Session<'_>, code: &str| {
        let came = session.feed(&Feed::new(code), Some(PATIENCE)).unwrap().unwrap();
        assert!(came.error.is_none(), "{came:?}");
        came.output.as_str().to_owned()
    };
    feed(&session, "items = [1]\ndef count():\n    return len(items)");
    let number = checkpoints::list(engine, session.id()).unwrap().len() as u32;
    let set = fork(engine, session.id(), number, &[("items", "[1,2,3]")]);
    let forked = durable.session(set).unwrap();
    assert_eq!(forked.variables().unwrap()["items"].as_str(), "[1,2,3]");
    assert_eq!(feed(&forked, "count()"), "3");
    assert_eq!(feed(&session, "count()"), "1");
    // After the same feed, and after what was set then.
    assert_eq!(feed(&forked.fork(Some(1)).unwrap(), "items"), "[1,2,3]");

    let steps = "id: s\nsteps:\n  - {name: a, agent: writer}\n";
    let workflow = Workflow::steps(Language::Yaml, steps);
    let id = durable.start(&workflow).unwrap();
    until("it waits", || !checkpoints::list(engine, id).unwrap().is_empty());
    assert!(refused(engine, id, 1, &[("a", "1")]).contains("step workflow"));
}
