//! What workflows see of functions that fail, and what people see of workflows that fail.
#![allow(clippy::unwrap_used)]

mod support;

use durable::{CallStatus, Durable, Failure, FunctionError, Isolation, Status, Workflow};
use support::*;

fn open() -> Durable {
    Durable::builder("memory:")
        .isolation(Isolation::Thread)
        .function("fail", |(kind, message): (String, String)| async move {
            Err::<(), _>(FunctionError::new(&kind, message))
        })
        .function(
            "echo",
            |(value,): (serde_json::Value,)| async move { Ok::<_, FunctionError>(value) },
        )
        .function_raw("io", |_call| async move {
            Err::<(), _>(std::io::Error::other("the disk is full").into())
        })
        .function("pair", |(a, b): (i64, i64)| async move { Ok::<_, FunctionError>(a + b) })
        .open()
        .unwrap()
}

fn gives(source: &str) -> serde_json::Value {
    let durable = open();
    let id = durable.start(&Workflow::new(source)).unwrap();
    serde_json::from_str(&output(durable.engine(), id)).unwrap()
}

#[test]
fn an_exception_of_a_function_reaches_try_around_its_await_with_type_and_message() {
    for kind in ["ValueError", "KeyError", "OSError", "TimeoutError", "ZeroDivisionError"] {
        let source = format!(
            "try:\n    await fail('{kind}', 'no price')\n    r = 'nothing'\n\
             except {kind} as e:\n    r = [type(e).__name__, e.args[0]]\nr"
        );
        assert_eq!(gives(&source), serde_json::json!([kind, "no price"]));
    }
}

#[test]
fn an_exception_passes_handlers_of_other_types() {
    let source = "
try:
    try:
        await fail('ValueError', 'inner')
    except KeyError:
        r = 'wrong handler'
    finally:
        last = await echo('finally ran')
except Exception as e:
    r = [str(e), last]
r
";
    assert_eq!(gives(source), serde_json::json!(["inner", "finally ran"]));
}

#[test]
fn a_gather_with_one_failing_branch_raises_and_the_branches_that_ended_count() {
    let source = "
from asyncio import gather
seen = []
async def good(x):
    seen.append(await echo(x))
async def bad():
    await good(1)
    await fail('ValueError', 'branch')
try:
    await gather(good(0), bad())
    r = 'nothing'
except ValueError as e:
    r = str(e)
[r, sorted(seen), await echo('goes on')]
";
    assert_eq!(gives(source), serde_json::json!(["branch", [0, 1], "goes on"]));
}

#[test]
fn types_that_python_does_not_know_arrive_as_runtime_error_with_the_name_in_the_message() {
    for (kind, shown) in [
        ("stripe.CardError", "stripe.CardError: declined"),
        ("NoSuchType", "NoSuchType: declined"),
        // Would slip past `except Exception`, so it is not raised as itself.
        ("KeyboardInterrupt", "KeyboardInterrupt: declined"),
    ] {
        let source = format!(
            "try:\n    await fail('{kind}', 'declined')\n    r = 'nothing'\n\
             except RuntimeError as e:\n    r = str(e)\nr"
        );
        assert_eq!(gives(&source), serde_json::json!(shown));
    }
}

#[test]
fn errors_of_rust_arrive_as_runtime_error_with_their_text() {
    let source = "try:\n    await io()\n    r = 0\nexcept RuntimeError as e:\n    r = str(e)\nr";
    assert_eq!(gives(source), serde_json::json!("the disk is full"));
}

#[test]
fn arguments_that_do_not_fit_are_a_type_error_that_names_the_function() {
    let source = "try:\n    await pair('a')\n    r = ''\nexcept TypeError as e:\n    r = str(e)\nr";
    let message = gives(source);
    assert!(
        message.as_str().unwrap().starts_with("pair() can't take these arguments"),
        "{message}"
    );
}

#[test]
fn an_uncaught_error_fails_the_execution_with_the_workflows_traceback_and_names_the_call() {
    let durable = open();
    let source = "
async def price(item):
    return await fail('ValueError', 'no price for ' + item)
await echo(1)
await price('tea')
";
    let id = durable.start(&Workflow::new(source)).unwrap();
    let record = ended(durable.engine(), id);
    assert_eq!(record.status, Status::Failed);
    assert!(record.output.is_none() && record.completed_at_ms.is_some());
    let failure: Failure = record.failure.unwrap();
    assert_eq!(failure.error_type, "ValueError");
    assert_eq!(failure.message, "no price for tea");
    let traceback = failure.traceback.unwrap();
    for part in [
        "line 5",
        "line 3, in price",
        "return await fail('ValueError', 'no price for ' + item)",
        "~~~",
        "ValueError: no price for tea",
    ] {
        assert!(traceback.contains(part), "{part:?} is not in\n{traceback}");
    }
    let calls = calls(durable.engine(), id);
    let cause = calls.iter().find(|call| Some(call.id) == failure.cause_call).unwrap();
    assert_eq!((cause.name.as_str(), cause.status), ("fail", CallStatus::Failed));
    assert_eq!(cause.position.line, 3);
    let own = cause.failure.as_ref().unwrap();
    assert_eq!(own.to_string(), "ValueError: no price for tea");
    let events = events(durable.engine(), id);
    assert_eq!(events[events.len() - 2..], ["STEP_FAILED", "EXECUTION_FAILED"]);
    let error = durable.result::<i64>(id).unwrap_err().to_string();
    assert!(error.contains("ValueError: no price for tea") && error.contains("line 5"), "{error}");
}

#[test]
fn an_uncaught_error_of_an_unknown_type_keeps_its_name() {
    let durable = open();
    let id = durable.start(&Workflow::new("await fail('stripe.CardError', 'declined')")).unwrap();
    let failure = ended(durable.engine(), id).failure.unwrap();
    assert_eq!(failure.to_string(), "stripe.CardError: declined");
}

#[test]
fn an_error_of_the_workflow_itself_names_no_call() {
    let durable = open();
    let source = "prices = {}\nfirst = await echo(1)\nprices['tea'] + first";
    let id = durable.start(&Workflow::new(source)).unwrap();
    let failure = ended(durable.engine(), id).failure.unwrap();
    assert_eq!((failure.error_type.as_str(), failure.cause_call), ("KeyError", None));
    let traceback = failure.traceback.unwrap();
    assert!(traceback.contains("line 3") && traceback.contains("prices['tea']"), "{traceback}");
}

#[test]
fn an_error_that_was_caught_is_not_the_cause_of_a_later_one() {
    let durable = open();
    let source = "
try:
    await fail('ValueError', 'caught')
except ValueError:
    pass
await echo(1)
raise KeyError('own')
";
    let id = durable.start(&Workflow::new(source)).unwrap();
    let failure = ended(durable.engine(), id).failure.unwrap();
    assert_eq!((failure.error_type.as_str(), failure.cause_call), ("KeyError", None));
}
