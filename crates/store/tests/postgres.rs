//! What only a server can do to a store: restart, lose connections, lose answers.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use durable_core::{
    Draft, End, Event, Execution, Failure, Lease, Outcome, Owner, Payload, Reached, Snapshot,
};
use durable_store::{ListFilter, PostgresOptions, PostgresStore, Store, Write, Written};
use support::{NOW_MS, create, function, id, postgres, program};

fn open(url: &str) -> PostgresStore {
    PostgresStore::open(&PostgresOptions::parse(url).unwrap()).unwrap()
}

/// A store with a program and one execution, held by "one" under epoch 1.
fn with_execution(url: &str) -> PostgresStore {
    let store = open(url);
    for answer in store.commit(&[Write::PutProgram(program()), create(1, true)]).unwrap() {
        answer.unwrap();
    }
    store
}

fn lease() -> Lease {
    Lease { owner: Owner::new("one"), epoch: 1 }
}

/// The first transition: it starts and asks for a call.
fn start(before: Execution) -> Write {
    let mut draft = Draft::new(before, NOW_MS + 10);
    draft.push(Event::ExecutionStarted { seed: 7 }).unwrap();
    let snapshot = Some(Snapshot([1, 2, 3].as_slice().into()));
    let end = End::Suspended { snapshot, new_dictionary: None };
    let calls = vec![vec![function(1)]];
    draft.take_reached(Reached { calls, printed: "a\0b".into(), end }).unwrap();
    Write::Transition(Box::new(draft.finish(lease(), false).0))
}

/// What gets lost.
const NOTHING: u32 = 0;
const THE_ANSWER: u32 = 1;
const THE_REQUEST: u32 = 2;

/// Passes everything on to a server, and loses the next `COMMIT` or its answer when told to.
struct Proxy(Arc<AtomicU32>);

impl Proxy {
    /// A proxy, and the URL of the same place through it.
    fn start(url: &str) -> (Self, String) {
        let (before, rest) = url.split_once('@').unwrap();
        let (address, after) = rest.split_once('/').unwrap();
        let (server, listener) = (address.to_owned(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        let loses = Arc::new(AtomicU32::new(NOTHING));
        let proxy = Self(loses.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                pass_on(&client, &server, &loses);
            }
        });
        (proxy, format!("{before}@127.0.0.1:{port}/{after}&sslmode=disable"))
    }

    fn lose(&self, what: u32) {
        self.0.store(what, Ordering::SeqCst);
    }

    fn has_lost(&self) -> bool {
        self.0.load(Ordering::SeqCst) == NOTHING
    }
}

fn pass_on(client: &TcpStream, server: &TcpStream, loses: &Arc<AtomicU32>) {
    let is_cut = Arc::new(AtomicBool::new(false));
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (loses, cuts) = (loses.clone(), is_cut.clone());
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let commits = bytes[..read].windows(7).any(|text| text == b"COMMIT\0");
            match if commits { loses.swap(NOTHING, Ordering::SeqCst) } else { NOTHING } {
                THE_ANSWER => cuts.store(true, Ordering::SeqCst),
                THE_REQUEST => {
                    let _ = from.shutdown(Shutdown::Both);
                    break;
                }
                _ => {}
            }
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            // The server answers; nobody hears of it.
            if is_cut.load(Ordering::SeqCst) || to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[test]
fn a_commit_without_an_answer_counts_once_whether_it_took_place_or_not() {
    let Some(server) = postgres::server() else { return };
    for lost in [THE_ANSWER, THE_REQUEST] {
        let url = server.new_database();
        drop(with_execution(&url));
        let (proxy, through) = Proxy::start(&url);
        let store = open(&through);
        let before = store.load(id(1)).unwrap().unwrap().execution;
        store.commit(&[start(before)]).unwrap().remove(0).unwrap();
        let before = store.load(id(1)).unwrap().unwrap().execution;
        let mut draft = Draft::new(before, NOW_MS + 20);
        draft.close_call(1, 1, Outcome::Completed(Payload::trusted("-0.0"))).unwrap();
        let output = Payload::trusted(r#"{"b":1,"a":"\u0000"}"#);
        draft.push(Event::ExecutionCompleted { output: output.clone() }).unwrap();
        let end = Write::Transition(Box::new(draft.finish(lease(), false).0));
        proxy.lose(lost);
        let answer = store.commit(&[end]).unwrap().remove(0);
        assert!(matches!(answer, Ok(Written::Done)), "{answer:?}");
        assert!(proxy.has_lost());
        let record = store.execution(id(1)).unwrap().unwrap();
        assert_eq!((record.version, record.output), (2, Some(output)));
        let result = store.calls(id(1)).unwrap().remove(0).result.unwrap();
        assert_eq!(result.as_str(), "-0.0");
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
        // The next batch goes on from there.
        store.commit(&[create(3, false)]).unwrap().remove(0).unwrap();
    }
}

#[test]
fn a_claim_without_an_answer_is_answered_once_the_truth_is_known() {
    let Some(server) = postgres::server() else { return };
    let (proxy, through) = Proxy::start(&server.new_database());
    let store = open(&through);
    for answer in store.commit(&[Write::PutProgram(program()), create(1, false)]).unwrap() {
        answer.unwrap();
    }
    for (lost, epoch) in [(THE_ANSWER, 1), (THE_REQUEST, 2), (NOTHING, 3)] {
        proxy.lose(lost);
        let claim = Write::Claim {
            owner: Owner::new("one"),
            now_ms: NOW_MS + 1,
            expires_at_ms: NOW_MS + 1_000,
            dead: Vec::new(),
            queues: Vec::new(),
            limit: 10,
        };
        let answer = store.commit(&[claim]).unwrap().remove(0).unwrap();
        assert!(proxy.has_lost());
        let Written::Claimed(claimed) = answer else { panic!("{answer:?}") };
        let held = store.load(id(1)).unwrap().unwrap().lease.unwrap();
        assert_eq!((claimed.len(), held.epoch), (1, epoch));
        assert_eq!(claimed[0].lease.as_ref().unwrap(), &held);
        let release = Write::Release { execution: id(1), lease: held, wake_at_ms: Some(0) };
        store.commit(&[release]).unwrap().remove(0).unwrap();
    }
}

#[test]
fn connections_that_the_server_ends_are_replaced() {
    let Some(server) = postgres::server() else { return };
    let name = format!("ended_{}", std::process::id());
    let store = with_execution(&format!("{}&application_name={name}", server.new_database()));
    for number in 10..20 {
        server.run(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = '{name}'"
        ));
        store.commit(&[create(number, false)]).unwrap().remove(0).unwrap();
        assert!(store.execution(id(number)).unwrap().is_some());
    }
    assert_eq!(store.list(&ListFilter::default()).unwrap().len(), 11);
}

#[test]
fn what_another_store_writes_is_heard_and_what_this_one_writes_is_not() {
    let Some(server) = postgres::server() else { return };
    let url = server.new_database();
    let (one, other) = (with_execution(&url), open(&url));
    let (woken, wakes) = mpsc::channel();
    one.subscribe(Box::new(move || woken.send(()).unwrap()));
    let token = one.change_token().unwrap();
    one.commit(&[create(2, false)]).unwrap();
    // Nothing for others: it is leased, and not to an end.
    other.commit(&[create(3, true)]).unwrap();
    other.commit(&[create(4, false)]).unwrap();
    wakes.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(one.change_token().unwrap(), token + 1);
}

#[test]
fn a_member_that_loses_harms_no_other_of_a_large_batch() {
    let Some(server) = postgres::server() else { return };
    let store = with_execution(&server.new_database());
    let mut batch: Vec<_> = (2..102).map(|number| create(number, true)).collect();
    let report = Write::Report {
        execution: id(50),
        call: 9,
        outcome: Outcome::Failed(Failure::new("E", "no\0such")),
        now_ms: NOW_MS,
    };
    batch.insert(60, report);
    batch.insert(30, create(1, true));
    let answers = store.commit(&batch).unwrap();
    let lost: Vec<_> = (0..answers.len()).filter(|index| answers[*index].is_err()).collect();
    assert_eq!(lost, [30, 61]);
    let all = ListFilter { limit: 1_000, ..Default::default() };
    assert_eq!(store.list(&all).unwrap().len(), 101);
}

#[test]
fn two_stores_never_lease_one_execution() {
    let Some(server) = postgres::server() else { return };
    let url = server.new_database();
    let store = with_execution(&url);
    let batch: Vec<_> = (2..42).map(|number| create(number, false)).collect();
    store.commit(&batch).unwrap();
    let barrier = Arc::new(Barrier::new(4));
    let claims = (0..4).map(|number| {
        let (url, barrier) = (url.clone(), barrier.clone());
        thread::spawn(move || {
            let store = open(&url);
            let mut claimed = Vec::new();
            barrier.wait();
            let give_up_at = Instant::now() + Duration::from_secs(20);
            loop {
                let claim = Write::Claim {
                    owner: Owner::new(&format!("w{number}")),
                    now_ms: NOW_MS + 10,
                    expires_at_ms: NOW_MS + 100_000,
                    dead: Vec::new(),
                    queues: Vec::new(),
                    limit: 3,
                };
                match store.commit(&[claim]).unwrap().remove(0).unwrap() {
                    Written::Claimed(more) if !more.is_empty() => claimed.extend(more),
                    _ if store.next_due_ms(&Owner::new("x"), &[]).unwrap() > Some(NOW_MS + 20) => {
                        return claimed;
                    }
                    _ => assert!(Instant::now() < give_up_at),
                }
            }
        })
    });
    let claims: Vec<_> = claims.collect();
    let mut ids: Vec<_> = claims
        .into_iter()
        .flat_map(|claim| claim.join().unwrap())
        .map(|loaded| loaded.execution.id)
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (2..42).map(id).collect::<Vec<_>>());
}

#[test]
fn many_may_open_a_new_database_at_once_and_a_newer_one_is_refused() {
    let Some(server) = postgres::server() else { return };
    let url = server.new_database();
    let opened: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            thread::spawn(move || open(&url).check().unwrap())
        })
        .collect();
    for opened in opened {
        assert_eq!(opened.join().unwrap(), Vec::<String>::new());
    }
    let (_, schema) = url.rsplit_once("%3D").unwrap();
    server.run(&format!("INSERT INTO {schema}.durable_versions (version) VALUES (999)"));
    let error = PostgresStore::open(&PostgresOptions::parse(&url).unwrap()).unwrap_err();
    assert!(
        matches!(&error, durable_core::Error::Invalid(text) if text.contains("999")),
        "{error}"
    );
}

#[test]
fn the_queries_of_people_show_truth() {
    let Some(server) = postgres::server() else { return };
    let url = server.new_database();
    let store = with_execution(&url);
    let before = store.load(id(1)).unwrap().unwrap().execution;
    store.commit(&[start(before)]).unwrap().remove(0).unwrap();
    let mut draft = Draft::new(store.load(id(1)).unwrap().unwrap().execution, NOW_MS + 2_510);
    draft.close_call(1, 1, Outcome::Completed(Payload::trusted("[1]"))).unwrap();
    draft.push(Event::ExecutionCompleted { output: Payload::trusted("1") }).unwrap();
    let end = Write::Transition(Box::new(draft.finish(lease(), false).0));
    store.commit(&[end]).unwrap().remove(0).unwrap();
    support::block_on(async {
        let client = postgres::connect(&url).await;
        let duration = "SELECT workflow_id, status,
              EXTRACT(EPOCH FROM (completed_at - started_at))::float8 AS duration_seconds
            FROM executions WHERE status = 'SUCCESS'";
        let row = client.query_one(duration, &[]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, f64>(2)), ("flow", 2.5));
        let events = "SELECT event_type, timestamp, event_payload::text FROM execution_events
            ORDER BY timestamp DESC";
        assert_eq!(client.query(events, &[]).await.unwrap().len(), 5);
        let call = "SELECT event_payload ->> 'call' FROM execution_events
            WHERE event_type = 'STEP_COMPLETED'";
        assert_eq!(client.query_one(call, &[]).await.unwrap().get::<_, &str>(0), "1");
        let locks = "SELECT COUNT(*) FROM execution_locks";
        assert_eq!(client.query_one(locks, &[]).await.unwrap().get::<_, i64>(0), 0);
        let steps = "SELECT step_name, status, retry_count, started_at, completed_at
            FROM execution_steps";
        assert_eq!(client.query_one(steps, &[]).await.unwrap().get::<_, &str>(1), "SUCCESS");
    });
}
