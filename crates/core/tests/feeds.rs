//! The call by which a session asks for its next piece of code.
#![allow(missing_docs, clippy::unwrap_used)]

use durable_core::{
    Call, Command, Event, Execution, ExecutionId, NewCall, Payload, Position, Request, Status,
    apply,
};

fn feed(last: &str) -> Request {
    Request::feed(Payload::trusted(last), 3)
}

fn call(id: u32, request: Request) -> Call {
    let new = NewCall { id, request, position: Position { line: 1, column: 1 } };
    Call { new, order: id + 1, group: 1, attempt: 1, due_ms: None }
}

#[test]
fn nobody_has_to_do_anything_about_it() {
    let mut execution = Execution::scheduled(ExecutionId::new(0, [0; 10]));
    apply(&mut execution, &Event::ExecutionStarted { seed: 1 }).unwrap();
    let commands = apply(&mut execution, &Event::CallRequested(call(0, feed("[null]")))).unwrap();
    assert_eq!((commands, execution.status), (vec![], Status::Waiting));
    assert_eq!((execution.wake_at_ms(), execution.open_commands()), (None, vec![]));
    let timer = call(1, Request::Timer { delay_ms: 5 });
    let timer = Call { due_ms: Some(5), ..timer };
    apply(&mut execution, &Event::TimerStarted(timer)).unwrap();
    assert_eq!(execution.wake_at_ms(), Some(5));
    assert_eq!(execution.open_commands(), [Command::WakeAt { call: 1, due_ms: 5 }]);
}

#[test]
fn a_replay_may_show_other_addresses_and_nothing_else() {
    let one = feed(r#"[{"printed":"<Box object at 0x50> <f at 0x7f>"}]"#);
    assert!(one.is_same(&feed(r#"[{"printed":"<Box object at 0x3a0> <f at 0x1>"}]"#)));
    assert!(!one.is_same(&feed(r#"[{"printed":"<Box object at 0x50> <g at 0x7f>"}]"#)));
    assert!(!one.is_same(&feed(r#"[{"printed":"<Box object at 0x50>"}]"#)));
    let next = Request::feed(Payload::trusted("[null]"), 4);
    assert!(!feed("[null]").is_same(&next));
    assert!(!next.is_same(&Request::Timer { delay_ms: 1 }));
}
