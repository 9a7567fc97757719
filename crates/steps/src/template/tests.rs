use std::collections::BTreeMap;

use durable_core::Language;
use serde_json::{Value as Json, json};

use super::*;
use crate::source;

/// Steps and inputs as they would be there in an execution.
struct World {
    inputs: (Value, usize),
    steps: BTreeMap<String, (Value, usize)>,
}

fn known(json: &Json) -> (Value, usize) {
    let text = json.to_string();
    (serde_json::from_str(&text).unwrap(), text.len())
}

impl World {
    fn new(inputs: &Json, steps: &Json) -> Self {
        let steps = steps.as_object().unwrap().iter();
        Self {
            inputs: known(inputs),
            steps: steps.map(|(name, output)| (name.clone(), known(output))).collect(),
        }
    }
}

impl Scope for World {
    fn inputs(&self) -> Known<'_> {
        Known { value: &self.inputs.0, bytes: self.inputs.1 }
    }

    fn step(&self, step: &str) -> Option<Known<'_>> {
        self.steps.get(step).map(|(value, bytes)| Known { value, bytes: *bytes })
    }

    fn item(&self) -> Option<(Known<'_>, usize)> {
        None
    }
}

fn read(template: &Json) -> Result<Template, Vec<Fault>> {
    let source = template.to_string();
    let node = source::read(Language::Json, &source).unwrap();
    let mut faults = Vec::new();
    let template = Template::read(&source, &node, &mut faults);
    if faults.is_empty() { Ok(template) } else { Err(faults) }
}

fn filled(template: &Json, world: &World) -> Result<Json, String> {
    let template = read(template).map_err(|faults| faults[0].message.clone())?;
    let mut out = Out::new(1 << 20);
    template.render(world, &mut out).map_err(|fault| fault.message)?;
    if out.is_full {
        return Err("too much".to_owned());
    }
    Ok(serde_json::from_str(&out.text).unwrap())
}

fn world() -> World {
    World::new(
        &json!({ "text": "Abc", "n": 3, "list": [1, 2], "big": 9_007_199_254_740_993_i64 }),
        &json!({ "a": { "z": 1, "b": { "c": [10, 20] }, "none": null }, "b": null }),
    )
}

#[test]
fn an_expression_alone_keeps_its_type() {
    for (template, expected) in [
        (json!("{{ inputs.n }}"), json!(3)),
        (json!(" {{ inputs.list }}\n"), json!([1, 2])),
        (json!("{{ steps.a }}"), json!({ "z": 1, "b": { "c": [10, 20] }, "none": null })),
        (json!("{{ steps.b }}"), json!(null)),
        (json!("{{ inputs.big }}"), json!(9_007_199_254_740_993_i64)),
        (json!("{{ steps.a.b.c[1] + 1 }}"), json!(21)),
        (json!("{{ steps.a['b'].c | length > 1 }}"), json!(true)),
        (json!("{{ {'k': {'v': inputs.n}} }}"), json!({ "k": { "v": 3 } })),
        (json!("{{ inputs.text | upper if inputs.n > 2 else 'no' }}"), json!("ABC")),
        (json!("{{ inputs.lang | default('en') }}"), json!("en")),
        (json!("{{ inputs.list | sum }}"), json!(3)),
        (json!("{{ inputs.list | map('float') | join(', ') }}"), json!("1.0, 2.0")),
        (json!("n={{ inputs.n }}, t={{ inputs.text }}!"), json!("n=3, t=Abc!")),
        (json!("{{ inputs.list }} of {{ steps.b }}"), json!("[1,2] of null")),
        (json!("{{ '{{' }}"), json!("{{")),
        (json!({ "x": ["{{ inputs.n }}", 1, { "y": "z" }] }), json!({ "x": [3, 1, { "y": "z" }] })),
    ] {
        assert_eq!(filled(&template, &world()), Ok(expected), "{template}");
    }
}

#[test]
fn the_names_in_an_object_keep_their_order() {
    let world = World {
        inputs: (serde_json::from_str(r#"{"o": {"b": 1, "a": 2}}"#).unwrap(), 20),
        steps: BTreeMap::new(),
    };
    let mut out = Out::new(100);
    read(&json!("{{ inputs.o }}")).unwrap().render(&world, &mut out).unwrap();
    assert_eq!(out.text, r#"{"b":1,"a":2}"#);
}

#[test]
fn what_is_not_there_is_an_error() {
    for (template, message) in [
        ("{{ inputs.nothing }}", "this is undefined"),
        ("x {{ steps.a.nothing }}", "this is undefined"),
        ("{{ steps.a.nothing.more }}", "something in this is undefined"),
        ("{{ input.n }}", "there is no 'input'"),
        ("{{ steps | length }}", "this does not name a step"),
        ("{{ inputs.n", "this expression has no end"),
        ("{{ inputs.n | uper }}", "there is no filter 'uper'"),
        ("{{ inputs.n ~ 'x' }}", "there is no ~ in expressions"),
        ("{{ 'x' * 1000000 }}", "there is no multiplication in expressions"),
        ("{% for x in y %}", "there are no statements ({%) in templates"),
        ("{{ range(10) }}", "there is no 'range'"),
        ("{{ inputs.n | upper }}", "invalid operation: this filter is for text, not for number"),
    ] {
        assert_eq!(filled(&json!(template), &world()), Err(message.to_owned()), "{template}");
    }
}

#[test]
fn little_does_not_become_much() {
    let long = "x".repeat(100_000);
    let world = World::new(&json!({ "long": long, "list": vec!["x"; 10_000] }), &json!({}));
    let nested = format!("{{{{ {}'\"'{} }}}}", "(".repeat(60), " | tojson)".repeat(60));
    for (template, message) in [
        ("{{ inputs.long | replace('x', inputs.long) }}", "becomes longer"),
        ("{{ inputs.list | join(inputs.long) }}", "becomes longer"),
        (&nested, "becomes longer"),
        (&"{{ inputs.long }}".repeat(20), "too much"),
        (&format!("{{{{ [{}] }}}}", "inputs.long,".repeat(50)), "too much"),
        (&format!("{{{{ inputs.long{} }}}}", " | trim".repeat(500)), "operations on"),
        (&format!("{{{{ {} }}}}", "1+".repeat(5_000)), "longer than"),
        (&format!("{{{{ {}1{} }}}}", "[".repeat(500), "]".repeat(500)), "not understood"),
    ] {
        let error = filled(&json!(template), &world).unwrap_err();
        assert!(error.contains(message), "{:.80}: {error}", template);
    }
}
