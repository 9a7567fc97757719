//! Step workflows on the command line: those of the page on them, and one that is killed.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use crate::support::{Desk, until};

/// The blocks of the page in one language, in order.
fn blocks(language: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/STEPS.md");
    let text = std::fs::read_to_string(page).unwrap();
    let open = format!("```{language}\n");
    let parts = text.split(&open).skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// The block that begins so.
fn block(language: &str, begins: &str) -> String {
    blocks(language).into_iter().find(|block| block.starts_with(begins)).unwrap()
}

/// Agents for the blocks that have none beside them.
const AGENTS: &str = r#"
from durable_monty import register_function

def agent(name):
    return register_function("agent:" + name)

agent("fetch")(lambda payload: {"n": 4, "title": f"t{payload.get('number')}", **payload})
agent("half")(lambda payload: {"n": payload["n"] / 2})
agent("add")(lambda payload: {"n": payload["a"] + payload["b"]})
agent("review")(lambda payload: {"verdict": f"read {payload['titles']}"})
agent("publish")(lambda payload: payload)
agent("echo")(lambda payload: payload)
"#;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_first_workflow_of_the_page_runs_in_each_language() {
    let desk = Desk::new(&[("agents.py", &blocks("python")[0])]);
    let yaml = block("yaml", "id: text_pipeline");
    let toml = block("toml", "id = \"text_pipeline\"");
    desk.write("text_pipeline.yaml", &yaml);
    desk.write("text_pipeline.toml", &toml);
    let command = blocks("sh")[0].trim().to_owned();
    let words: Vec<_> = command.split('\'').collect();
    let expected = blocks("json")[0].clone();
    for file in ["text_pipeline.yaml", "text_pipeline.toml"] {
        let mut arguments: Vec<_> = words[0].split_whitespace().skip(1).collect();
        arguments.push(words[1]);
        arguments[1] = file;
        let ran = desk.durable(&arguments);
        assert_eq!((ran.code, ran.out), (0, expected.clone()), "{}", ran.err);
    }
    let shown = desk.durable(&["show", &desk.newest()]);
    assert!(shown.out.contains("workflow   text_pipeline\n"), "{shown:?}");
    assert!(shown.out.contains("STEP"), "{shown:?}");
    assert!(shown.out.contains("report (write)"), "{shown:?}");
    let calls = desk.show(&desk.newest())["calls"].clone();
    assert_eq!((&calls[1]["function"], &calls[1]["agent"]), (&json!("report"), &json!("write")));
}

#[test]
fn the_other_workflows_of_the_page_run() {
    let desk = Desk::new(&[("agents.py", AGENTS)]);
    let run = |begins: &str, inputs: &[&str]| {
        desk.write("flow.yml", &block("yaml", begins));
        let mut arguments = vec!["run", "flow.yml", "--functions", "agents.py"];
        for input in inputs {
            arguments.extend(["--input", input]);
        }
        let ran = desk.durable(&arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        parsed(&ran.out)
    };
    assert_eq!(run("id: diamond", &[])["both"], json!({ "n": 9.0 }));
    let pages = r#"pages=["a", "b"]"#;
    let loose = run("id: reviews", &[pages]);
    assert_eq!(
        (&loose["check"], &loose["publish"]["verdict"]),
        (&Value::Null, &json!("not checked"))
    );
    let strict = run("id: reviews", &[pages, "strict=true"]);
    assert_eq!(strict["publish"]["verdict"], "read t0, t1");
    assert_eq!(
        run("id: declared", &["text=x"])["only"],
        json!({ "text": "x", "lang": "en", "limit": null })
    );
}

#[test]
fn mistakes_are_shown_before_anything_is_stored() {
    let desk = Desk::new(&[("agents.py", &blocks("python")[0])]);
    desk.write("flow.yaml", "id: x\nsteps:\n  - name: a\n    agent: sumarize\n");
    let refused = desk.durable(&["run", "flow.yaml", "--functions", "agents.py"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains(blocks("text")[0].trim_end()), "{}", refused.err);
    desk.write("flow.yaml", &block("yaml", "id: text_pipeline"));
    let refused = desk.durable(&["start", "flow.yaml", "--functions", "agents.py"]);
    assert!(refused.err.contains("the input 'text' is missing"), "{}", refused.err);
    assert!(desk.list().is_empty());
}

/// Twelve steps, some side by side, some that fail at first. Each attempt is written down.
const DAG: &str = "
id: dag
steps:
  - {name: s0, agent: flaky, input: {n: 0}}
  - {name: s1, agent: flaky, needs: [s0], input: {n: 1}, retry: {max_attempts: 4, initial_interval_ms: 1}}
  - {name: s2, agent: flaky, needs: [s0], input: {n: 2}}
  - {name: s3, agent: flaky, needs: [s0], input: {n: 3}, retry: {max_attempts: 4, initial_interval_ms: 1}}
  - {name: s4, agent: flaky, needs: [s1, s2], input: {n: 4}}
  - {name: s5, agent: flaky, needs: [s3], input: {n: 5}, retry: {max_attempts: 4, initial_interval_ms: 1}}
  - {name: s6, agent: flaky, needs: [s4], input: {n: 6}}
  - {name: s7, agent: flaky, needs: [s5], input: {n: 7}, retry: {max_attempts: 4, initial_interval_ms: 1}}
  - {name: s8, agent: flaky, needs: [s6, s7], input: {n: 8}}
  - {name: s9, agent: flaky, needs: [s8], input: {n: 9}, retry: {max_attempts: 4, initial_interval_ms: 1}}
  - {name: s10, agent: flaky, needs: [s8], input: {n: 10}}
  - {name: s11, agent: flaky, needs: [s9, s10], input: {n: '{{ steps.s9.n + 2 }}'}, retry: {max_attempts: 4, initial_interval_ms: 1}}
";

/// Odd steps fail in their first two attempts. Each attempt writes itself down before it does
/// anything else.
const FLAKY: &str = r#"
import time
from durable_monty import current_call, register_function

@register_function("agent:flaky")
def flaky(payload):
    call, n = current_call(), payload["n"]
    with open("attempts", "a") as file:
        file.write(f"{call.idempotency_key} {n} {call.attempt}\n")
    time.sleep(0.002)
    if n % 2 and call.attempt < 3:
        raise OSError("not yet")
    return {"n": n}
"#;

fn lines(desk: &Desk, file: &str) -> usize {
    std::fs::read_to_string(desk.path(file)).unwrap_or_default().lines().count()
}

/// Kills whoever runs the workflow once so many attempts have begun, a little later each time.
#[test]
fn a_workflow_that_is_killed_at_any_moment_comes_to_its_end() {
    const KILLS: usize = 50;
    const ATTEMPTS: usize = 24;
    let (mut kills, mut round) = (0, 0);
    while kills < KILLS {
        round += 1;
        let desk = Desk::new(&[("agents.py", FLAKY), ("dag.yaml", DAG)]);
        let started = desk.durable(&["start", "dag.yaml", "--functions", "agents.py"]);
        let id = started.out.trim().to_owned();
        assert_eq!(started.code, 0, "{started:?}");
        let arguments = ["resume", &id, "--functions", "agents.py"];
        for kill in 0..5 {
            let before = lines(&desk, "attempts");
            let running = desk.begin(&arguments);
            let until_attempt = before + 1 + (round + kill * 3) % 7;
            until("attempts are made", || {
                lines(&desk, "attempts") >= until_attempt.min(ATTEMPTS)
                    || desk.show(&id)["status"] == "completed"
            });
            // A moment that differs each time: in an agent, between two, in a commit.
            let moment =
                std::time::Duration::from_micros((round * 997 + kill * 331) as u64 % 4_000);
            std::thread::sleep(moment);
            running.kill();
            if desk.show(&id)["status"] == "completed" {
                break;
            }
            kills += 1;
        }
        let ran = desk.durable(&arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        let all: Vec<_> = (0..12).map(|n| format!("\"s{n}\":{{\"n\":{n}}}")).collect();
        assert_eq!(ran.out, format!("{{{}}}\n", all.join(",")));
        check(&desk, &id);
    }
}

/// Exactly the documented events, no step again that had ended, no lock.
fn check(desk: &Desk, id: &str) {
    let told = desk.durable(&["events", id, "--json"]);
    let mut of_step: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut others = Vec::new();
    for line in told.out.lines() {
        let event = parsed(line);
        let word = event["type"].as_str().unwrap().to_owned();
        match event["payload"]["call"].as_u64() {
            Some(call) => of_step.entry(call).or_default().push(word),
            None => others.push(word),
        }
    }
    assert_eq!(others, ["EXECUTION_STARTED", "EXECUTION_COMPLETED"]);
    let shown = desk.show(id);
    for call in shown["calls"].as_array().unwrap() {
        let n = call["args"][0]["n"].as_u64().unwrap();
        let mut expected = vec!["STEP_STARTED", "AGENT_INVOKED"];
        if n % 2 == 1 {
            expected.extend(["STEP_RETRYING", "AGENT_INVOKED"].repeat(2));
        }
        expected.extend(["AGENT_RESPONSE", "STEP_COMPLETED"]);
        assert_eq!(of_step[&call["id"].as_u64().unwrap()], expected, "s{n}");
    }
    assert_eq!(of_step.len(), 12);
    assert_eq!(desk.list()[0]["locked_by"], Value::Null);
    // A step whose result is in the journal was not begun again: nobody asked for it later than
    // for one that needed it.
    let text = desk.read("attempts");
    let begun: Vec<u64> =
        text.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    let last_of = |step: u64| begun.iter().rposition(|n| *n == step);
    let first_of = |step: u64| begun.iter().position(|n| *n == step);
    for (step, needs) in
        [(1, 0), (2, 0), (3, 0), (4, 1), (5, 3), (6, 4), (7, 5), (8, 7), (9, 8), (11, 10)]
    {
        assert!(
            last_of(needs) < first_of(step),
            "s{needs} was run again after s{step} began:\n{text}"
        );
    }
}
