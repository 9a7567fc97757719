use std::collections::BTreeMap;

use durable_core::{FunctionOptions, Limits};

use super::{options::Kind, *};

fn definition(language: Language, source: &str) -> Definition {
    let agents = ["summarize", "extract"].map(|name| (name.to_owned(), FunctionOptions::default()));
    Definition {
        language,
        source: source.to_owned(),
        functions: agents.into_iter().collect::<BTreeMap<_, _>>(),
        inputs: Vec::new(),
        limits: Limits::default(),
    }
}

fn refused(source: &str) -> String {
    super::read(&definition(Language::Yaml, source)).unwrap_err().to_string()
}

fn needs(source: &str) -> Vec<Vec<usize>> {
    let workflow = super::read(&definition(Language::Yaml, source)).unwrap();
    workflow.steps.iter().map(|step| step.needs.clone()).collect()
}

#[test]
fn a_step_follows_the_one_before_it_unless_it_says_what_it_needs() {
    let step = |name: &str, needs: &str| format!("  - {{name: {name}, agent: extract{needs}}}\n");
    let steps = [
        step("a", ""),
        step("b", ""),
        step("c", ", needs: []"),
        step("d", ", needs: [a, c]"),
        step("e", ", needs: d"),
        step("f", ""),
    ];
    let source = format!("id: x\nsteps:\n{}", steps.concat());
    assert_eq!(needs(&source), [vec![], vec![0], vec![], vec![0, 2], vec![3], vec![4]]);
}

#[test]
fn everything_of_a_step_is_read_from_all_languages() {
    let yaml = "
id: flow
version: 2
inputs: {text: {type: string}, lang: {default: en}}
steps:
  - name: a
    agent: summarize
    input: {text: '{{ inputs.text }}'}
    retry: {max_attempts: 3, initial_interval_ms: 10}
    timeout: 30s
  - name: b
    agent: extract
    when: steps.a.ok
    foreach: '{{ steps.a.parts }}'
    input: {part: '{{ item }}', number: '{{ index }}'}
    retry: 2
    timeout: 0.5
";
    let toml = "
id = 'flow'
version = 2
[inputs]
text = {type = 'string'}
lang = {default = 'en'}
[[steps]]
name = 'a'
agent = 'summarize'
input = {text = '{{ inputs.text }}'}
retry = {max_attempts = 3, initial_interval_ms = 10}
timeout = '30s'
[[steps]]
name = 'b'
agent = 'extract'
when = 'steps.a.ok'
foreach = '{{ steps.a.parts }}'
input = {part = '{{ item }}', number = '{{ index }}'}
retry = 2
timeout = 0.5
";
    let json = r#"{"id": "flow", "version": 2,
        "inputs": {"text": {"type": "string"}, "lang": {"default": "en"}},
        "steps": [
          {"name": "a", "agent": "summarize", "input": {"text": "{{ inputs.text }}"},
           "retry": {"max_attempts": 3, "initial_interval_ms": 10}, "timeout": "30s"},
          {"name": "b", "agent": "extract", "when": "steps.a.ok",
           "foreach": "{{ steps.a.parts }}", "input": {"part": "{{ item }}", "number": "{{ index }}"},
           "retry": 2, "timeout": 0.5}]}"#;
    let sources = [(Language::Yaml, yaml), (Language::Toml, toml), (Language::Json, json)];
    for (language, source) in sources {
        let workflow = super::read(&definition(language, source)).unwrap();
        let inputs = workflow.inputs.unwrap();
        let declared: Vec<_> = inputs
            .iter()
            .map(|input| (input.name.as_str(), input.kind, input.is_required))
            .collect();
        assert_eq!(declared, [("text", Kind::String, true), ("lang", Kind::Any, false)]);
        assert_eq!(inputs[1].default.as_deref(), Some("\"en\""));
        let [a, b] = &workflow.steps[..] else { panic!("two steps") };
        assert_eq!((a.name.as_str(), a.agent.as_str()), ("a", "summarize"));
        let retry = a.retry.clone().unwrap();
        assert_eq!((retry.max_attempts, retry.initial_interval_ms), (3, 10));
        assert_eq!((a.timeout_ms, b.timeout_ms), (Some(30_000), Some(500)));
        assert_eq!(b.retry.as_ref().unwrap().max_attempts, 2);
        assert!(matches!(b.when, Some(Condition::When(_))));
        assert_eq!(b.expressions().len(), 4);
        let start = source.lines().nth(b.position.line as usize - 1).unwrap();
        let column = b.position.column as usize - 1;
        assert!(start[column..].trim_start_matches(['\'', '"']).starts_with('b'), "{start}");
    }
}

#[test]
fn an_agent_is_named_with_its_version_or_without() {
    let mut definition = definition(
        Language::Yaml,
        "id: x\nsteps:\n  - {name: a, agent: extract@2}\n  - {name: b, agent: extract}\n",
    );
    definition.functions.insert("extract@2".to_owned(), FunctionOptions::default());
    let workflow = super::read(&definition).unwrap();
    let agents: Vec<_> = workflow.steps.iter().map(|step| step.agent.as_str()).collect();
    assert_eq!(agents, ["extract@2", "extract"]);
    assert!(refused("id: x@1\nsteps: []\n").contains("the id has to be a name"));
}

#[test]
fn a_mistake_is_shown_where_it_is() {
    let shown = refused("id: x\nsteps:\n  - name: a\n    agent: sumarize\n");
    assert_eq!(
        shown,
        "workflow.yaml:4:12: there is no agent 'sumarize'\n\
         \x20       agent: sumarize\n\
         \x20              ^^^^^^^^\n\
         \x20 hint: did you mean 'summarize'? Otherwise register 'sumarize'"
    );
    let two = "id: x\nsteps:\n  - {name: first, agent: extract}\n  - {name: b, agent: extract, ";
    for (rest, place, what) in [
        ("needs: [frist]}", "4:39", "there is no step 'frist'\n"),
        ("need: [first]}", "4:31", "a step has no 'need'\n"),
        ("input: {t: 'x{{ steps.frst.y }}'}}", "4:47", "there is no step 'frst'\n"),
        ("needs: [], input: {t: '{{ steps.first }}'}}", "4:57", "the step 'first' need not have"),
        ("input: {t: '{{ item }}'}}", "4:46", "there is no item here\n"),
        ("input: [1]}", "4:38", "input has to be a mapping, not a list\n"),
        ("input: {t: '{{ inputs. }}'}}", "4:46", "this expression is not understood"),
        ("retry: 0}", "4:38", "retry policy: max_attempts is 0"),
        ("retry: {max_attempt: 2}}", "4:39", "retry has no 'max_attempt'\n"),
        ("timeout: fast}", "4:40", "timeout has to be a positive number"),
        ("when: [1]}", "4:37", "when has to be an expression, not a list\n"),
        ("foreach: 3}", "4:40", "foreach has to be a list, not a number\n"),
        ("needs: [b]}", "4:39", "these steps wait for each other: b needs b\n"),
    ] {
        let shown = refused(&format!("{two}{rest}\n"));
        let expected = format!("workflow.yaml:{place}: {what}");
        assert!(shown.starts_with(&expected), "{rest}:\n{shown}");
        assert!(shown.contains('^'), "{shown}");
    }
}

#[test]
fn what_a_workflow_lacks_is_named() {
    for (source, what) in [
        ("", "a workflow has to be a mapping, not nothing"),
        ("id: x\n", "a workflow needs 'steps'"),
        ("id: x\nsteps: []\n", "there are 0 steps"),
        ("id: x\nsteps: {a: 1}\n", "steps has to be a list, not a mapping"),
        ("steps:\n- {name: a, agent: extract}\n", "a workflow needs 'id'"),
        ("id: x\nsteps:\n- {name: a}\n", "a step needs 'agent'"),
        ("id: x\nsteps:\n- {agent: extract}\n", "a step needs 'name'"),
        ("id: x\nsteps:\n- {name: a-b, agent: extract}\n", "this is no name for a step"),
        ("id: x\nstep: 1\nsteps:\n- {name: a, agent: extract}\n", "a workflow has no 'step'"),
        (
            "id: x\nsteps:\n- {name: a, agent: extract}\n- {name: a, agent: extract}\n",
            "there are two steps named 'a'",
        ),
        (
            "id: x\ninputs: [text]\nsteps:\n- {name: a, agent: extract, input: {t: '{{ inputs.txt }}'}}\n",
            "there is no input 'txt'",
        ),
        (
            "id: x\ninputs: {t: {type: str}}\nsteps:\n- {name: a, agent: extract}\n",
            "type has to be",
        ),
        (
            "id: x\nsteps:\n- {name: a, agent: extract, needs: c}\n- {name: b, agent: extract}\n\
             - {name: c, agent: extract}\n",
            "these steps wait for each other: a needs c needs b needs a",
        ),
    ] {
        let shown = refused(source);
        assert!(shown.contains(what), "{source}:\n{shown}");
    }
    let long = format!("id: x\n#{}\n", " ".repeat(2 << 20));
    assert!(refused(&long).contains("max_source_bytes"));
}
