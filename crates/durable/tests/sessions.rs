//! Sessions: fed from any process, interrupted anywhere, never confused.

mod support;

use std::time::Duration;

use durable::{
    Came, Config, Durable, Error, Feed, FunctionError, Limits, Payload, Session, Status, Workflow,
};
use support::{kills::kill_at_random_moments, *};

fn open(scene: &Scene) -> Durable {
    scene
        .builder()
        .function("add", |(a, b): (i64, i64)| async move { Ok::<_, FunctionError>(a + b) })
        .function("fail", |(why,): (String,)| async move {
            Err::<(), _>(FunctionError::new("ShopClosed", &why))
        })
        .open()
        .unwrap()
}

fn feed(session: &Session<'_>, code: &str) -> Came {
    let came = session.feed(&Feed::new(code), Some(PATIENCE)).unwrap();
    came.unwrap_or_else(|| panic!("it still runs: {:?}", session.feeds()))
}

fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::Conflict(text) => text.into_owned(),
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_session_is_fed_read_and_closed() {
    let scene = Scene::new();
    let durable = open(&scene);
    let workflow = Workflow::session().input("base", 40).unwrap();
    let session = durable.open_session(&workflow).unwrap();
    assert!(message(session.wait(None)).contains("not fed yet"));
    let response = Payload::trusted(r#"{"text":"I add."}"#);
    let with_response = Feed {
        response: Some(response.clone()),
        ..Feed::new("x = await add(base, 2)\nprint(x)\nx")
    };
    let came = session.feed(&with_response, Some(PATIENCE)).unwrap().unwrap();
    assert_eq!((came.number, came.output.as_str(), came.printed.as_str()), (1, "42", "42\n"));
    let failing = feed(&session, "await fail('today')");
    let error = failing.error.unwrap();
    assert_eq!((error.error_type.as_str(), error.message.as_str()), ("ShopClosed", "today"));
    assert!(error.traceback.unwrap().contains("feed 2"));
    assert!(error.call.is_some());
    assert_eq!(feed(&session, "x + 0.1").output.as_str(), "42.1");
    let feeds = session.feeds().unwrap();
    assert_eq!(feeds.len(), 3);
    assert_eq!((&feeds[0].code, &feeds[0].response), (&with_response.code, &Some(response)));
    assert_eq!(feeds[2].came.as_ref().unwrap().output.as_str(), "42.1");
    assert_eq!(session.wait(None).unwrap().unwrap().number, 3);
    session.close(None).unwrap().unwrap();
    session.close(None).unwrap().unwrap();
    let record = ended(durable.engine(), session.id());
    assert_eq!((record.status, record.output.unwrap().as_str()), (Status::Completed, "3"));
    assert!(message(session.feed(&Feed::new("1"), None)).contains("is closed"));
    assert_eq!(session.feeds().unwrap().len(), 3);
}

#[test]
fn a_numbered_feed_runs_once() {
    let scene = Scene::new();
    let durable = open(&scene);
    let session = durable.open_session(&Workflow::session()).unwrap();
    let numbered = |number, code| {
        session.feed(&Feed { number: Some(number), ..Feed::new(code) }, Some(PATIENCE))
    };
    assert_eq!(numbered(1, "n = 1\nn").unwrap().unwrap().output.as_str(), "1");
    assert_eq!(numbered(2, "n += 1\nn").unwrap().unwrap().output.as_str(), "2");
    assert_eq!(numbered(2, "n += 1\nn").unwrap().unwrap().output.as_str(), "2");
    assert_eq!(numbered(1, "n = 1\nn").unwrap().unwrap().output.as_str(), "1");
    assert!(message(numbered(2, "n += 2\nn")).contains("was other code"));
    assert!(message(numbered(4, "n")).contains("but is at feed 3"));
    assert_eq!(feed(&session, "n").output.as_str(), "2");
    session.close(None).unwrap().unwrap();
    assert_eq!(numbered(2, "n += 1\nn").unwrap().unwrap().output.as_str(), "2");
    assert!(message(numbered(4, "n")).contains("is closed"));
}

#[test]
fn a_feed_beside_a_running_one_is_refused_and_the_running_one_is_found_again() {
    let scene = Scene::new();
    let endless = |(_,): (i64,)| std::future::pending::<Result<(), FunctionError>>();
    let durable = scene.builder().function("outside", endless).open().unwrap();
    let session = durable.open_session(&Workflow::session()).unwrap();
    let waits = Feed::new("y = await outside(1)\ny");
    assert_eq!(session.submit(&waits, Some(PATIENCE)).unwrap(), Some(1));
    assert_eq!(session.result(1, Some(Duration::ZERO)).unwrap(), None);
    assert!(message(session.result(2, None)).contains("no feed 2"));
    assert!(message(session.result(0, None)).contains("no feed 0"));
    assert!(message(session.feed(&Feed::new("1"), None)).contains("feed 1 of session"));
    assert!(message(session.close(None)).contains("is running"));
    // Another process on the same store.
    let other = scene.builder().open_engine().unwrap();
    let there = Session::get(&other, session.id()).unwrap();
    assert!(message(there.feed(&Feed::new("1"), None)).contains("feed 1 of session"));
    until("the call is open", || calls(&other, session.id()).len() == 2);
    let call = calls(&other, session.id())[1].id;
    let outcome = durable::Outcome::Completed(Payload::trusted("7"));
    other.complete_call(session.id(), call, outcome).unwrap();
    assert_eq!(there.wait(Some(PATIENCE)).unwrap().unwrap().output.as_str(), "7");
    // It is fed there and run here.
    assert_eq!(feed(&there, "await_me = y + 1\nawait_me").output.as_str(), "8");
    assert_eq!(feed(&session, "await_me").output.as_str(), "8");
}

#[test]
fn an_idle_session_costs_nothing_and_an_end_is_told() {
    let scene = Scene::new();
    let durable = open(&scene);
    let limits = Limits { max_advance_ms: 50, ..Limits::default() };
    let session = durable.open_session(&Workflow::session().limits(limits)).unwrap();
    feed(&session, "import asyncio\nawait asyncio.sleep(0.01)");
    until("the lease is given back", || durable.engine().held() == 0);
    assert!(durable.engine().is_idle().unwrap());
    durable.engine().pause(session.id(), "lunch").unwrap();
    assert!(message(session.feed(&Feed::new("1"), None)).contains("is paused"));
    durable.engine().resume(session.id()).unwrap();
    let told = message(session.feed(&Feed::new("while True:\n    pass"), Some(PATIENCE)));
    assert!(told.contains("TimeLimitExceeded"), "{told}");
    let workflow = durable.start(&Workflow::new("1")).unwrap();
    assert!(matches!(durable.session(workflow), Err(Error::Invalid(_))));
    assert!(matches!(durable.open_session(&Workflow::new("1")), Err(Error::Invalid(_))));
}

#[test]
fn without_its_snapshot_a_session_is_rebuilt_from_its_journal() {
    let scene = Scene::new();
    let durable = open(&scene);
    let session = durable.open_session(&Workflow::session()).unwrap();
    feed(&session, "class Box:\n    pass\nboxes = [await add(i, i) for i in range(3)]");
    feed(&session, "nonsense(");
    feed(&session, "print(Box())\nraise ValueError('kept')");
    let id = session.id();
    durable.close(PATIENCE);
    let sql = scene.sql();
    sql.execute("UPDATE execution_state SET state_snapshot = x'00'", []).unwrap();
    drop(sql);
    let durable = open(&scene);
    let session = durable.session(id).unwrap();
    assert_eq!(feed(&session, "sum(boxes)").output.as_str(), "6");
    let log = events(durable.engine(), id);
    assert!(!log.iter().any(|event| event.contains("PAUSED")), "{log:?}");
}

#[test]
fn a_session_is_looked_into_forked_and_rewound() {
    let scene = Scene::new();
    let durable = open(&scene);
    let limits = Limits { max_advance_ms: 200, ..Limits::default() };
    let workflow = Workflow::session().limits(limits).input("base", 1).unwrap();
    let session = durable.open_session(&workflow).unwrap();
    feed(&session, "x = await add(base, 1)\ndef f():\n    return x\n");
    feed(&session, "x = [x, 'two']\ny = (1, 2)");
    let text = |session: &Session<'_>| {
        let variables = session.variables().unwrap();
        variables.iter().map(|(name, value)| format!("{name}={value:?} ")).collect::<String>()
    };
    let seen = session.variables().unwrap();
    assert_eq!(seen["x"].as_str(), r#"[2,"two"]"#);
    assert_eq!(seen["y"].as_str(), r#"{"$tuple":[1,2]}"#);
    assert!(seen["f"].as_str().contains("$py:repr"), "{}", text(&session));
    assert!(!seen.contains_key("add"));
    let fork = session.fork(None).unwrap();
    assert_eq!(feed(&fork, "x.append(3)\nx").output.as_str(), r#"[2,"two",3]"#);
    assert_eq!(feed(&session, "x").output.as_str(), r#"[2,"two"]"#);
    assert_eq!(feed(&session.fork(Some(1)).unwrap(), "[f(), x]").output.as_str(), "[2,2]");
    let fresh = session.fork(Some(0)).unwrap();
    assert_eq!(feed(&fresh, "x").error.unwrap().error_type, "NameError");
    assert!(matches!(session.fork(Some(9)), Err(Error::NotFound(_))));
    // Back from a feed that never ends.
    let told = message(session.feed(&Feed::new("while True:\n    pass"), Some(PATIENCE)));
    assert!(told.contains("TimeLimitExceeded"), "{told}");
    let back = session.rewind(2).unwrap();
    assert_eq!(feed(&back, "x").output.as_str(), r#"[2,"two"]"#);
    assert_eq!(back.feeds().unwrap().len(), 3);
    let again = back.rewind(1).unwrap();
    assert_eq!(feed(&again, "x").output.as_str(), "2");
    assert_eq!(ended(durable.engine(), back.id()).status, Status::Cancelled);
}

#[test]
fn the_variables_of_a_session_in_a_feed_are_those_at_its_await() {
    let scene = Scene::new();
    let endless = |(_,): (i64,)| std::future::pending::<Result<(), FunctionError>>();
    let durable = scene.builder().function("outside", endless).open().unwrap();
    let session = durable.open_session(&Workflow::session()).unwrap();
    feed(&session, "a = 1\nasync def go(b):\n    return await outside(b)\n");
    session.submit(&Feed::new("c = 3\nd = await go(c)"), Some(PATIENCE)).unwrap();
    until("the call is open", || calls(durable.engine(), session.id()).len() == 3);
    let seen = session.variables().unwrap();
    assert_eq!((seen["a"].as_str(), seen["c"].as_str()), ("1", "3"));
    assert!(!seen.contains_key("d"));
    let all = durable::checkpoints::list(durable.engine(), session.id()).unwrap();
    let stacks = durable::checkpoints::inspect(durable.engine(), &all[2]).unwrap().stacks;
    let inner = stacks[0].last().unwrap();
    assert_eq!((inner.function.as_str(), inner.position.line), ("go", 3));
    assert_eq!(inner.variables["b"].as_str(), "3");
}

#[test]
fn sessions_live_on_servers_too() {
    for scene in [Scene::on_postgres(), Scene::on_mysql()].into_iter().flatten() {
        let durable = open(&scene);
        let session = durable.open_session(&Workflow::session()).unwrap();
        feed(&session, "x = await add(1, 2)");
        // It is told, or hears nothing for an hour.
        let config = Config { sweep_ms: 3_600_000, ..Config::default() };
        let other = scene.builder().config(config).open_engine().unwrap();
        let there = Session::get(&other, session.id()).unwrap();
        assert_eq!(feed(&there, "x").output.as_str(), "3");
        until("the lease is given back", || durable.engine().held() == 0);
        // An idle session is not stranded.
        assert_eq!(other.store().check().unwrap(), Vec::<String>::new());
        there.close(Some(PATIENCE)).unwrap().unwrap();
    }
}

const EXPECTED: &str = r#"1: ["page a","page b","page c"]
2: 4
3: ValueError: no such page
4: "no such page"
5: [7,"no such page"]
"#;

#[test]
fn killed_at_random_moments_with_worker_processes() {
    kill_at_random_moments("session", "process", EXPECTED);
}

#[test]
fn killed_at_random_moments_with_threads() {
    kill_at_random_moments("session", "thread", EXPECTED);
}
