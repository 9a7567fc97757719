//! Step workflows through the whole engine: rows and events, order, failures, retries, recovery.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use durable::{
    CallStatus, Durable, Error, ExecutionId, FunctionError, Language, Outcome, Payload, PullQueue,
    Start, Status, Workflow,
};
use serde_json::{Value, json};
use support::*;

/// Two steps, as in the first example anybody writes.
const TWO: &str = "
id: text_pipeline
steps:
  - name: summarize
    agent: echo
    input: {text: '{{ inputs.text }}', agent_metadata: {model: m, usage: {input_tokens: 3}}}
  - name: extract
    agent: echo
    input: {of: 'so: {{ steps.summarize.text }}'}
";

const TEN_EVENTS: [&str; 10] = [
    "EXECUTION_STARTED",
    "STEP_STARTED",
    "AGENT_INVOKED",
    "AGENT_RESPONSE",
    "STEP_COMPLETED",
    "STEP_STARTED",
    "AGENT_INVOKED",
    "AGENT_RESPONSE",
    "STEP_COMPLETED",
    "EXECUTION_COMPLETED",
];

/// With the agents `echo`, which returns what it is given; `flaky`, which fails as long as its
/// attempt is below `until`; and `held`, which waits at a gate. All note what they were given.
struct Agents {
    given: Arc<Mutex<Vec<Value>>>,
    gate: Gate,
}

impl Agents {
    fn new() -> Self {
        Self { given: Arc::default(), gate: Gate::closed() }
    }

    fn open(&self, scene: &Scene) -> Durable {
        let (noted, held, gate) = (self.given.clone(), self.given.clone(), self.gate.clone());
        scene
            .builder()
            .function("agent:echo", move |(payload,): (Value,)| {
                noted.lock().unwrap().push(payload.clone());
                async move { Ok::<_, FunctionError>(payload) }
            })
            .function("agent:held", move |(payload,): (Value,)| {
                held.lock().unwrap().push(payload.clone());
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    Ok::<_, FunctionError>(payload)
                }
            })
            .function_raw("agent:flaky", move |call| async move {
                let (payload,): (Value,) = serde_json::from_str(call.args.as_str())?;
                if u64::from(call.attempt) < payload["until"].as_u64().unwrap() {
                    return Err(FunctionError::new("OSError", "not yet"));
                }
                Ok(json!({ "attempt": call.attempt }))
            })
            .open()
            .unwrap()
    }

    fn given(&self) -> Vec<Value> {
        self.given.lock().unwrap().clone()
    }
}

fn yaml(source: &str) -> Workflow {
    Workflow::steps(Language::Yaml, source)
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn metadata(durable: &Durable, id: ExecutionId, number: usize) -> Value {
    let responses = journal(durable.engine(), id).into_iter().filter_map(|recorded| {
        let wire = durable::wire::encode(&recorded.event);
        (wire.event_type == "AGENT_RESPONSE").then_some(wire.payload)
    });
    responses.into_iter().nth(number).unwrap()
}

/// What anybody finds in the database after the run of two steps.
fn two_steps_leave_what_is_documented(scene: &Scene) {
    let agents = Agents::new();
    let durable = agents.open(scene);
    let id = durable.start(&yaml(TWO).input("text", "hello").unwrap()).unwrap();
    let reported = json!({ "model": "m", "usage": { "input_tokens": 3 } });
    assert_eq!(
        output(durable.engine(), id),
        json!({ "summarize": { "text": "hello", "agent_metadata": reported },
                "extract": { "of": "so: hello" } })
        .to_string()
        .replace(
            // The order in which the steps and their inputs are written.
            r#"{"extract":{"of":"so: hello"},"summarize":{"agent_metadata":{"model":"m","usage":{"input_tokens":3}},"text":"hello"}}"#,
            r#"{"summarize":{"agent_metadata":{"model":"m","usage":{"input_tokens":3}},"text":"hello"},"extract":{"of":"so: hello"}}"#
        )
    );
    assert_eq!(events(durable.engine(), id), TEN_EVENTS);
    assert_eq!(
        metadata(&durable, id, 0),
        json!({ "call": 1, "attempt": 1, "agent": "echo", "agent_metadata": reported })
    );
    assert_eq!(metadata(&durable, id, 1), json!({ "call": 2, "attempt": 1, "agent": "echo" }));
    let steps: Vec<_> = calls(durable.engine(), id)
        .iter()
        .map(|call| (call.order, call.name.clone(), call.function.clone(), call.position.line))
        .collect();
    let echo = "agent:echo".to_owned();
    assert_eq!(
        steps,
        [(1, "summarize".to_owned(), echo.clone(), 4), (2, "extract".to_owned(), echo, 7)]
    );
    for (sql, expected) in [
        ("SELECT count(*) FROM execution_steps WHERE kind = 'agent' AND status = 'SUCCESS'", 2),
        ("SELECT count(*) FROM calls", 2),
        ("SELECT count(*) FROM execution_state WHERE current_step = 2", 1),
        ("SELECT count(*) FROM execution_locks", 0),
    ] {
        assert_eq!(scene.count(sql), expected, "{sql}");
    }
    assert_eq!(durable.engine().store().check().unwrap(), Vec::<String>::new());
}

#[test]
fn two_steps_leave_what_is_documented_on_sqlite() {
    two_steps_leave_what_is_documented(&Scene::new());
}

#[test]
fn two_steps_leave_what_is_documented_on_postgres() {
    if let Some(scene) = Scene::on_postgres() {
        two_steps_leave_what_is_documented(&scene);
    }
}

#[test]
fn two_steps_leave_what_is_documented_on_mysql() {
    if let Some(scene) = Scene::on_mysql() {
        two_steps_leave_what_is_documented(&scene);
    }
}

#[test]
fn ready_steps_run_side_by_side_and_are_asked_for_together() {
    let (scene, agents) = (Scene::new(), Agents::new());
    let durable = agents.open(&scene);
    let id = durable
        .start(&yaml(
            "
id: diamond
steps:
  - {name: a, agent: echo, input: {n: 1}}
  - {name: b, agent: held, needs: [a], input: {n: '{{ steps.a.n + 1 }}'}}
  - {name: c, agent: held, needs: [a], input: {n: '{{ steps.a.n + 2 }}'}}
  - {name: d, agent: echo, needs: [b, c], input: {n: '{{ steps.b.n + steps.c.n }}'}}
",
        ))
        .unwrap();
    until("both stand at the gate", || agents.given().len() == 3);
    // Which of the two came first is up to the threads.
    let mut side_by_side = agents.given()[1..].to_vec();
    side_by_side.sort_by_key(|input| input["n"].as_i64());
    assert_eq!(side_by_side, [json!({ "n": 2 }), json!({ "n": 3 })]);
    agents.gate.open_for(2);
    let output = value(&output(durable.engine(), id));
    assert_eq!(output["d"], json!({ "n": 5 }));
    let groups: Vec<_> = calls(durable.engine(), id)
        .iter()
        .map(|call| call.resume_group_id.rsplit_once(':').unwrap().1.to_owned())
        .collect();
    assert_eq!(groups, ["1", "2", "2", "3"]);
}

#[test]
fn a_step_is_run_for_each_item_or_not_at_all() {
    let (scene, agents) = (Scene::new(), Agents::new());
    let durable = agents.open(&scene);
    let source = "
id: items
inputs: {urls: {type: array}, loud: {type: boolean, default: false}}
steps:
  - {name: fetch, agent: echo, foreach: '{{ inputs.urls }}', input: {url: '{{ item }}', i: '{{ index }}'}}
  - {name: shout, agent: echo, when: inputs.loud, input: {n: '{{ steps.fetch | length }}'}}
  - {name: last, agent: echo, input: {n: '{{ steps.fetch | length }}', was: '{{ steps.shout }}'}}
";
    let id = durable.start(&yaml(source).input("urls", ["x", "y"]).unwrap()).unwrap();
    assert_eq!(
        value(&output(durable.engine(), id)),
        json!({ "fetch": [{ "url": "x", "i": 0 }, { "url": "y", "i": 1 }], "shout": null,
                "last": { "n": 2, "was": null } })
    );
    assert!(events(durable.engine(), id).contains(&"PROGRAM_PRINTED".to_owned()));
    let names: Vec<_> = calls(durable.engine(), id).iter().map(|call| call.name.clone()).collect();
    assert_eq!(names, ["fetch", "fetch", "last"]);
    let none: [&str; 0] = [];
    let empty = yaml(source).input("urls", none).unwrap().input("loud", true).unwrap();
    let id = durable.start(&empty).unwrap();
    assert_eq!(
        value(&output(durable.engine(), id)),
        json!({ "fetch": [], "shout": { "n": 0 }, "last": { "n": 0, "was": { "n": 0 } } })
    );
}

#[test]
fn attempts_of_an_agent_are_in_the_journal() {
    let (scene, agents) = (Scene::new(), Agents::new());
    let durable = agents.open(&scene);
    let source = "
id: retried
steps:
  - name: a
    agent: flaky
    input: {until: 3}
    retry: {max_attempts: 3, initial_interval_ms: 1, jitter: 0}
";
    let id = durable.start(&yaml(source)).unwrap();
    assert_eq!(value(&output(durable.engine(), id)), json!({ "a": { "attempt": 3 } }));
    assert_eq!(
        events(durable.engine(), id),
        [
            "EXECUTION_STARTED",
            "STEP_STARTED",
            "AGENT_INVOKED",
            "STEP_RETRYING",
            "AGENT_INVOKED",
            "STEP_RETRYING",
            "AGENT_INVOKED",
            "AGENT_RESPONSE",
            "STEP_COMPLETED",
            "EXECUTION_COMPLETED"
        ]
    );
    assert_eq!(scene.count("SELECT retry_count FROM execution_steps"), 2);
}

#[test]
fn a_step_that_fails_fails_the_execution_and_can_be_made_again() {
    let (scene, agents) = (Scene::new(), Agents::new());
    let durable = agents.open(&scene);
    let source = "
id: failing
steps:
  - {name: a, agent: echo}
  - {name: b, agent: flaky, needs: [a], input: {until: 9}, retry: {max_attempts: 2, initial_interval_ms: 0}}
  - {name: c, agent: held, needs: [a]}
";
    let id = durable.start(&yaml(source)).unwrap();
    let record = ended(durable.engine(), id);
    assert_eq!(record.status, Status::Failed);
    let failure = record.failure.unwrap();
    assert_eq!(failure.to_string(), "OSError: step 'b' (agent 'flaky'): not yet");
    assert_eq!(failure.cause_call, Some(2));
    let traceback = failure.traceback.unwrap();
    assert!(traceback.starts_with("  File \"workflow.yaml\", line 5, column 12, in step 'b'\n"));
    let statuses: Vec<_> = calls(durable.engine(), id).iter().map(|call| call.status).collect();
    assert_eq!(statuses, [CallStatus::Completed, CallStatus::Failed, CallStatus::Cancelled]);
    assert_eq!(scene.count("SELECT count(*) FROM execution_locks"), 0);
    // The failed step is made again from its first attempt; the one that is done is not.
    agents.gate.open_for(9);
    durable.engine().retry(id).unwrap();
    assert_eq!(ended(durable.engine(), id).status, Status::Failed);
    let events = events(durable.engine(), id);
    let retried = events.iter().position(|event| event == "EXECUTION_RETRIED").unwrap();
    assert_eq!(events[retried + 1], "AGENT_INVOKED");
    assert_eq!(durable.engine().store().check().unwrap(), Vec::<String>::new());
}

#[test]
fn what_a_template_lacks_fails_the_execution_where_it_stands() {
    let (scene, agents) = (Scene::new(), Agents::new());
    let durable = agents.open(&scene);
    let source = "
id: lacking
steps:
  - {name: a, agent: echo, input: {n: 1}}
  - {name: b, agent: echo, input: {n: '{{ steps.a.m }}'}}
";
    let id = durable.start(&yaml(source)).unwrap();
    let failure = ended(durable.engine(), id).failure.unwrap();
    assert_eq!(failure.to_string(), "TemplateError: step 'b': this is undefined");
    let shown = failure.traceback.unwrap();
    assert!(shown.contains("line 5, column 43, in step 'b'"), "{shown}");
    assert!(shown.ends_with(&format!("\n    {}^^^^^^^^^", " ".repeat(42))), "{shown}");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_stored() {
    let (scene, agents) = (Scene::new(), Agents::new());
    let durable = agents.open(&scene);
    let declared = "id: x\ninputs: {text: {type: string}, n: {type: integer, default: 1}}\nsteps:\n- {name: a, agent: echo}\n";
    let text = yaml(declared).input("text", "x").unwrap();
    for (workflow, what) in [
        (yaml(TWO), "the input 'text' is missing"),
        (yaml(declared), "the input 'text' is missing"),
        (text.clone().input("txt", 1).unwrap(), "there is no input 'txt': did you mean 'text'?"),
        (text.clone().input("n", "1").unwrap(), "the input 'n' has to be of type integer"),
        (yaml("id: x\nsteps:\n- {name: a, agent: eco}\n"), "workflow.yaml:3:20: there is no agent"),
    ] {
        let error = durable.start(&workflow).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)));
        assert!(error.to_string().contains(what), "{error}");
    }
    assert_eq!(scene.count("SELECT count(*) FROM executions"), 0);
    assert_eq!(scene.count("SELECT count(*) FROM programs"), 0);
    let id = durable.start(&text).unwrap();
    assert_eq!(value(&output(durable.engine(), id)), json!({ "a": { "text": "x", "n": 1 } }));
}

/// Runs a chain of steps by hand, each result by another engine that knows nothing live.
#[test]
fn every_engine_goes_on_where_the_last_one_stopped() {
    for damage in [
        "SELECT 1",
        "UPDATE execution_state SET state_snapshot = x'00'",
        "UPDATE execution_state SET state_snapshot = substr(state_snapshot, 1, 40)",
    ] {
        let scene = Scene::new();
        let steps: Vec<_> = (0..12)
            .map(|n| format!("  - {{name: s{n}, agent: echo, input: {{n: {n}}}}}\n"))
            .collect();
        let source = format!("id: chain\nsteps:\n{}", steps.concat());
        let start: Start = yaml(&source).declare("echo").to_start(&[]);
        let engine = scene.builder().open_engine().unwrap();
        let id = engine.start(start).unwrap();
        drop(engine);
        for n in 0..12 {
            let engine = scene.builder().open_engine().unwrap();
            let queue = Arc::new(PullQueue::default());
            engine.attach(queue.clone()).unwrap();
            let task = queue.next(Duration::from_secs(60)).unwrap();
            assert_eq!(task.function, "agent:echo");
            assert_eq!(task.args.as_str(), format!("[{{\"n\":{n}}}]"));
            queue.report(&task, Outcome::Completed(Payload::trusted(n.to_string())));
            if n < 11 {
                until("the next step", || calls(&engine, id).len() == n + 2);
            } else {
                ended(&engine, id);
            }
            engine.detach(Duration::ZERO);
            scene.sql().execute_batch(&format!("{damage};")).unwrap_or_default();
        }
        let engine = scene.builder().open_engine().unwrap();
        let record = engine.execution(id).unwrap();
        let all: Vec<_> = (0..12).map(|n| format!("\"s{n}\":{n}")).collect();
        assert_eq!(record.output.unwrap().as_str(), format!("{{{}}}", all.join(",")));
        assert_eq!(events(&engine, id).len(), 2 + 12 * 4);
        assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
    }
}
