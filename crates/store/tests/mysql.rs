//! What only the MySQL store promises: a server that may go away in the middle.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use durable_core::{
    Draft, End, Error, Event, Execution, ExecutionId, Failure, FunctionOptions, Lease, NewCall,
    Outcome, Owner, Payload, Position, Reached, Request, UnixMs,
};
use durable_store::{
    ListFilter, MysqlOptions, MysqlStore, NewExecution, Store, Write, Written,
    mysql_schema::{self, SCHEMA_VERSION},
};
use support::{
    NOW_MS, create, function, id,
    mysql::{self, Server, ask, run},
    program,
};

fn open(url: &str) -> MysqlStore {
    MysqlStore::open(&MysqlOptions::parse(url).unwrap()).unwrap()
}

fn written(store: &MysqlStore, write: Write) -> Written {
    store.commit(&[write]).unwrap().remove(0).unwrap()
}

fn refused(store: &MysqlStore, write: Write) -> Error {
    store.commit(&[write]).unwrap().remove(0).unwrap_err()
}

/// The transition that starts execution 1 with these calls.
fn start(calls: Vec<NewCall>) -> (Execution, Write) {
    let mut draft = Draft::new(Execution::scheduled(id(1)), NOW_MS);
    draft.push(Event::ExecutionStarted { seed: 1 }).unwrap();
    let end = End::Suspended { snapshot: None, new_dictionary: None };
    draft.take_reached(Reached { calls: vec![calls], printed: String::new(), end }).unwrap();
    let lease = Lease { owner: Owner::new("one"), epoch: 1 };
    let (transition, _) = draft.finish(lease, false);
    (Execution::clone(&transition.after), Write::Transition(Box::new(transition)))
}

/// A store with one execution, held by "one", that waits for these calls.
fn with_calls(url: &str, calls: Vec<NewCall>) -> (MysqlStore, Execution) {
    let store = open(url);
    written(&store, Write::PutProgram(program()));
    written(&store, create(1, true));
    let (state, write) = start(calls);
    written(&store, write);
    (store, state)
}

#[test]
fn a_schema_is_made_once_and_one_that_was_begun_is_finished() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let options = MysqlOptions::parse(&url).unwrap();
    assert_eq!(mysql_schema::plan(&options).unwrap().0, 0);
    assert_eq!(mysql_schema::migrate(&options).unwrap(), (0, SCHEMA_VERSION));
    assert_eq!(mysql_schema::migrate(&options).unwrap(), (SCHEMA_VERSION, SCHEMA_VERSION));
    // Cut off in the middle: what is missing is made, what is there stays.
    written(&open(&url), Write::PutProgram(program()));
    run(
        &url,
        "DELETE FROM durable_versions; DROP TABLE writers; DROP TABLE tokens;
         DROP TRIGGER execution_steps_report",
    );
    assert_eq!(mysql_schema::migrate(&options).unwrap(), (0, SCHEMA_VERSION));
    assert!(open(&url).program(program().id()).unwrap().is_some());
    let triggers = "SELECT COUNT(*) FROM information_schema.triggers
                    WHERE trigger_schema = DATABASE()";
    assert_eq!(ask(&url, triggers), "2");
}

#[test]
fn a_newer_schema_and_the_tables_of_others_are_left_alone() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    drop(open(&url));
    run(&url, "INSERT INTO durable_versions (version, applied_at) VALUES (99, 0)");
    let error = MysqlStore::open(&MysqlOptions::parse(&url).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(error.to_string().contains("version 99"), "{error}");

    let url = server.new_database();
    run(&url, "CREATE TABLE workers (name text)");
    let error = MysqlStore::open(&MysqlOptions::parse(&url).unwrap()).unwrap_err();
    assert!(error.to_string().contains("'workers' of another application"), "{error}");
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()";
    assert_eq!(ask(&url, tables), "1");
}

#[test]
fn many_open_a_new_database_at_once() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let opened: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            thread::spawn(move || drop(open(&url)))
        })
        .collect();
    for thread in opened {
        thread.join().unwrap();
    }
    assert_eq!(ask(&url, "SELECT COUNT(*) FROM durable_versions"), SCHEMA_VERSION.to_string());
}

#[test]
fn text_comes_back_as_it_was() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let store = open(&url);
    written(&store, Write::PutProgram(program()));
    let inputs = r#"{"b": 1.0, "a": -0.0, "b": "\u0000 \\ ' \" ü 😀", "n": 1e400}"#;
    let flow = "a 'flow' \\ with \0 and 😀 ";
    let with = |number: u8, key: &str| {
        let Write::Create(new) = create(number, false) else { unreachable!() };
        Write::Create(NewExecution {
            inputs: Payload::trusted(inputs),
            workflow_id: flow.into(),
            idempotency_key: Some(key.into()),
            ..new
        })
    };
    // Keys that a collation might take for one.
    for (number, key) in [(1, "key"), (2, "Key"), (3, "kéy"), (4, "key ")] {
        assert!(matches!(
            written(&store, with(number, key)),
            Written::Created { existing: false, .. }
        ));
    }
    assert!(matches!(written(&store, with(9, "key ")), Written::Created { existing: true, .. }));
    let record = store.execution(id(1)).unwrap().unwrap();
    assert_eq!((record.inputs.as_str(), record.workflow_id.as_str()), (inputs, flow));
    let filter = ListFilter { workflow_id: Some(flow.into()), ..ListFilter::default() };
    assert_eq!(store.list(&filter).unwrap().len(), 4);
}

#[test]
fn a_call_that_plain_sql_closes_lands_in_the_inbox() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let (store, _) = with_calls(&url, vec![function(1), function(2)]);
    let token = store.change_token().unwrap();
    run(
        &url,
        "UPDATE execution_steps SET status = 'SUCCESS', result = '42', completed_at = 5
         WHERE call_id = 2",
    );
    assert_eq!(store.inboxes(&Owner::new("one")).unwrap(), [id(1)]);
    let loaded = store.load(id(1)).unwrap().unwrap();
    assert_eq!(loaded.inbox, [(2, Outcome::Completed(Payload::trusted("42")))]);
    // Nobody announces it, but whoever looks hears of it soon.
    until("the change is seen", || store.change_token().unwrap() != token);
}

#[test]
fn what_another_store_commits_is_news_and_a_look_at_it_is_not() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let (first, second) = (open(&url), open(&url));
    let token = first.change_token().unwrap();
    written(&second, Write::PutProgram(program()));
    written(&second, create(1, false));
    until("the change is seen", || first.change_token().unwrap() != token);
    let seen = first.change_token().unwrap();
    // Taking what there is says nothing to others, or they would wake each other for ever.
    let claim = Write::Claim {
        owner: Owner::new("two"),
        now_ms: NOW_MS,
        expires_at_ms: NOW_MS + 1_000,
        dead: Vec::new(),
        queues: Vec::new(),
        limit: 10,
    };
    assert!(matches!(written(&second, claim), Written::Claimed(all) if all.len() == 1));
    let asked_until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < asked_until {
        assert_eq!(first.change_token().unwrap(), seen);
    }
}

#[test]
fn a_value_that_no_packet_holds_is_refused_and_the_batch_goes_on() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let (store, _) = with_calls(&url, vec![function(1), function(2)]);
    let limit: usize = ask(&url, "SELECT CAST(@@max_allowed_packet AS CHAR)").parse().unwrap();
    let report = |call, text: String| {
        let outcome = Outcome::Completed(Payload::trusted(text));
        Write::Report { execution: id(1), call, outcome, now_ms: NOW_MS }
    };
    let half = format!("\"{}\"", "x".repeat(limit / 2));
    let large = format!("\"{}\"", "x".repeat(limit));
    // What fits one by one is sent one by one.
    let batch = [report(1, large), report(2, half.clone()), create(2, false), create(3, false)];
    let mut answers = store.commit(&batch).unwrap().into_iter();
    let error = answers.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");
    assert!(answers.all(|answer| answer.is_ok()));
    let calls = store.calls(id(1)).unwrap();
    assert_eq!(calls[1].result.as_ref().unwrap().as_str(), half);
}

/// Four stores that lease and give back the same executions never stop at a deadlock, and nobody
/// holds what another does.
#[test]
fn stores_that_take_the_same_executions_share_them() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let store = open(&url);
    written(&store, Write::PutProgram(program()));
    let all: Vec<_> = (1..=200).map(|number| create(number, false)).collect();
    assert!(store.commit(&all).unwrap().iter().all(Result::is_ok));
    let taken = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (url, taken) = (url.clone(), taken.clone());
            thread::spawn(move || take_and_end(&open(&url), &format!("w{worker}"), &taken))
        })
        .collect();
    let ended: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    assert_eq!((ended, taken.load(Ordering::Relaxed)), (200, 200));
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

/// Ends what it can lease until all 200 are taken. How many it has ended.
fn take_and_end(store: &MysqlStore, owner: &str, taken: &AtomicUsize) -> usize {
    let mut ended = 0;
    while taken.load(Ordering::Relaxed) < 200 {
        let owner = Owner::new(owner);
        let expires_at_ms = NOW_MS + 60_000;
        let claim = Write::Claim {
            owner: owner.clone(),
            now_ms: NOW_MS + 10,
            expires_at_ms,
            dead: Vec::new(),
            queues: Vec::new(),
            limit: 7,
        };
        let Written::Claimed(claimed) = written(store, claim) else { unreachable!() };
        taken.fetch_add(claimed.len(), Ordering::Relaxed);
        written(store, Write::Renew { owner, expires_at_ms });
        let batch: Vec<_> = claimed
            .into_iter()
            .map(|loaded| {
                let mut draft = Draft::new(loaded.execution, NOW_MS + 20);
                draft.push(Event::ExecutionStarted { seed: 1 }).unwrap();
                draft.push(Event::ExecutionCompleted { output: Payload::null() }).unwrap();
                Write::Transition(Box::new(draft.finish(loaded.lease.unwrap(), true).0))
            })
            .collect();
        ended += store.commit(&batch).unwrap().into_iter().filter(Result::is_ok).count();
    }
    ended
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_out_and_never_done_twice() {
    let Some(server) = mysql::server() else { return };
    let url = server.new_database();
    let proxy = Proxy::before(&url);
    let (store, mut state) = with_calls(&proxy.url(&url), Vec::new());
    let lease = Lease { owner: Owner::new("one"), epoch: 1 };
    for round in 0..20_u8 {
        // The connection ends once before the commit arrives, and once after it was done.
        proxy.cut(if round % 2 == 0 { Cut::Request } else { Cut::Answer });
        let mut draft = Draft::new(state.clone(), NOW_MS + UnixMs::from(round));
        let call = new_call(u32::from(round) + 1);
        let end = End::Suspended { snapshot: None, new_dictionary: None };
        draft
            .take_reached(Reached { calls: vec![vec![call]], printed: String::new(), end })
            .unwrap();
        let (transition, _) = draft.finish(lease.clone(), false);
        state = Execution::clone(&transition.after);
        let batch = [Write::Transition(Box::new(transition)), create(100 + round, true)];
        let answers = store.commit(&batch).unwrap();
        assert!(matches!(answers[0], Ok(Written::Done)), "{answers:?}");
        let new = &answers[1];
        assert!(matches!(new, Ok(Written::Created { existing: false, .. })), "{new:?}");
        assert!(!proxy.is_armed(), "the connection was not cut");
    }
    let direct = open(&url);
    assert_eq!(direct.load(id(1)).unwrap().unwrap().execution, state);
    assert_eq!(direct.list(&ListFilter::default()).unwrap().len(), 21);
    assert_eq!(direct.check().unwrap(), Vec::<String>::new());
}

fn new_call(number: u32) -> NewCall {
    let request = Request::Function {
        name: "a".into(),
        args: Payload::trusted("[]"),
        kwargs: Payload::trusted("{}"),
        options: FunctionOptions::default(),
    };
    NewCall { id: number, request, position: Position { line: 1, column: 1 } }
}

#[test]
fn a_server_that_crashes_in_the_middle_of_writes_loses_nothing_acknowledged() {
    if mysql::server().is_none() {
        return;
    }
    let services = Services::up();
    let url = Server::at(&services.url).new_database();
    let store = open(&url);
    written(&store, Write::PutProgram(program()));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, stop) = (open(&url), stop.clone());
        thread::spawn(move || {
            let mut acknowledged = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = acknowledged.len() as u16;
                let mut random = [0; 10];
                random[..2].copy_from_slice(&number.to_be_bytes());
                let Write::Create(mut new) = create(1, false) else { unreachable!() };
                new.id = ExecutionId::new(NOW_MS + i64::from(number), random);
                let id = new.id;
                let answer = store.commit(&[Write::Create(new)]).unwrap().remove(0).unwrap();
                assert!(matches!(answer, Written::Created { existing: false, .. }), "{answer:?}");
                acknowledged.push(id);
            }
            acknowledged
        })
    };
    let count = || store.list(&ListFilter { limit: 100_000, ..ListFilter::default() }).unwrap();
    for _ in 0..2 {
        let before = count().len();
        until("it writes", || count().len() > before + 20);
        services.call(&["restart", "mysql"]);
        until("it writes again", || count().len() > before + 60);
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.join().unwrap();
    let found: Vec<_> = count().iter().rev().map(|record| record.id).collect();
    assert_eq!(found, acknowledged);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn a_failure_is_kept_with_its_words() {
    let Some(server) = mysql::server() else { return };
    let (store, _) = with_calls(&server.new_database(), vec![function(1)]);
    let failure = Failure { traceback: Some("a\nb".into()), ..Failure::new("E", "it's \\ 😀") };
    let outcome = Outcome::Failed(failure.clone());
    let report =
        || Write::Report { execution: id(1), call: 1, outcome: outcome.clone(), now_ms: 1 };
    written(&store, report());
    assert!(matches!(refused(&store, report()), Error::Conflict(_)));
    assert_eq!(store.calls(id(1)).unwrap()[0].failure, Some(failure));
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up_at, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server of the test's own, to be crashed.
struct Services {
    state: tempfile::TempDir,
    url: String,
}

impl Services {
    fn up() -> Self {
        let mut services = Self { state: tempfile::tempdir().unwrap(), url: String::new() };
        services.call(&["up", "mysql"]);
        let env = std::fs::read_to_string(services.state.path().join("env")).unwrap();
        let line = env.lines().find_map(|line| line.strip_prefix("DURABLE_TEST_MYSQL="));
        services.url = line.unwrap().trim_matches('\'').to_owned();
        services
    }

    fn call(&self, words: &[&str]) {
        let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services");
        let mut command = Command::new(script);
        let done = command.arg("--state").arg(self.state.path()).args(words).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.call(&["down"]);
            return;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services");
        let _ = Command::new(script).arg("--state").arg(self.state.path()).arg("down").output();
    }
}

/// What happens to a commit on its way through a [`Proxy`].
#[derive(Clone, Copy)]
enum Cut {
    /// It does not arrive.
    Request = 1,
    /// It is done, but its answer does not arrive.
    Answer = 2,
}

/// Stands between a store and its server, and ends a connection at the worst moment.
struct Proxy {
    port: u16,
    cut: Arc<AtomicU8>,
}

impl Proxy {
    fn before(url: &str) -> Self {
        let place = url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicU8::new(0));
        let armed = cut.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&place).unwrap();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (asking, losing) = (armed.clone(), Arc::new(AtomicBool::new(false)));
                let lost = losing.clone();
                thread::spawn(move || pass_requests(from, to, &asking, &losing));
                thread::spawn(move || pass_answers(server, client, &lost));
            }
        });
        Self { port, cut }
    }

    /// The same database, through this.
    fn url(&self, url: &str) -> String {
        let (user, rest) = url.rsplit_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Cuts the next commit.
    fn cut(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    fn is_armed(&self) -> bool {
        self.cut.load(Ordering::SeqCst) != 0
    }
}

fn pass_requests(mut from: TcpStream, mut to: TcpStream, cut: &AtomicU8, losing: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        if bytes.ends_with(b"COMMIT") {
            let armed = cut.swap(0, Ordering::SeqCst);
            if armed == Cut::Request as u8 {
                break;
            }
            losing.store(armed == Cut::Answer as u8, Ordering::SeqCst);
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn pass_answers(mut from: TcpStream, mut to: TcpStream, lost: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        // The server answers when it has committed.
        if lost.load(Ordering::SeqCst) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
