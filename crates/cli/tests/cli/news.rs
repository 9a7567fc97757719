//! News that nobody hears: what other processes committed is found all the same, and soon.

use std::{
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use durable::{Engine, Outcome, Payload, Status, Workflow};

use crate::{
    database::{Database, engine},
    support::{Desk, Running, until},
};

/// `hang` never answers: somebody else reports its result.
const FUNCTIONS: &str = r#"
import asyncio
from durable_monty import register_function

@register_function("step")
def step(n):
    return n + 1

@register_function("hang")
async def hang():
    await asyncio.sleep(3600)
"#;

const WORKFLOW: &str = "
a = await step(n)
b = await hang()
a + b
";

/// The call of it, which is the second.
const HANG: u32 = 1;

/// How long a pair of processes that hear nothing may take for one piece of news: they sweep the
/// store every five seconds. The rest is for a loaded machine.
const UNHEARD: Duration = Duration::from_secs(15);
/// What takes its way from one process to the other: the start, the report, the end.
const NEWS: u32 = 3;

fn worker(desk: &Desk, url: &str) -> Running {
    let more = ["--functions", "functions.py", "--concurrency", "64"];
    desk.begin(&[&["worker", "--db", url][..], &more].concat())
}

/// Starts executions here, which run in a worker elsewhere, reports results from here, and waits
/// here for the ends. Returns how long all of it took.
fn run_from_here(engine: &Engine, count: i64) -> Duration {
    let began = Instant::now();
    let start = |n| {
        let workflow = Workflow::new(WORKFLOW).declare("step").declare("hang");
        workflow.input("n", n).unwrap().to_start(&[])
    };
    let ids = engine.start_many((0..count).map(start).collect()).unwrap();
    for id in &ids {
        let is_asked =
            |name| engine.store().calls(*id).unwrap().iter().any(|call| call.name == name);
        until("the call hangs", || is_asked("hang"));
        engine.complete_call(*id, HANG, Outcome::Completed(Payload::trusted("100"))).unwrap();
    }
    for (n, id) in (0..).zip(ids) {
        let record = engine.wait(id, Some(NEWS * UNHEARD)).unwrap().expect("it ends");
        assert_eq!(record.status, Status::Completed, "{record:?}");
        assert_eq!(record.output.unwrap().as_str(), (n + 101).to_string());
    }
    began.elapsed()
}

/// Ends what goes on beside a test, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn listeners_that_are_ended_again_and_again_miss_nothing() {
    let Some(database) = Database::on_postgres() else { return };
    let desk = Desk::new(&[("functions.py", FUNCTIONS)]);
    let engine = database.engine();
    let _worker = worker(&desk, database.url());
    let is_over = AtomicBool::new(false);
    let ended = AtomicU32::new(0);
    let (_, name) = database.url().rsplit_once('=').unwrap();
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = '{name}' AND query LIKE 'LISTEN%'"
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let found = u32::try_from(database.ask(&end).unwrap()).unwrap();
                ended.fetch_add(found, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let _over = Over(&is_over);
        for _ in 0..8 {
            let before = ended.load(Ordering::Relaxed);
            let took = run_from_here(&engine, 3);
            assert!(took < UNHEARD, "it took {took:?}");
            println!("{took:?}, {} listeners ended", ended.load(Ordering::Relaxed) - before);
        }
    });
    assert!(ended.load(Ordering::Relaxed) >= 4, "{ended:?}");
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_told_and_never_heard_is_found_by_looking() {
    let Some(database) = Database::on_postgres() else { return };
    let desk = Desk::new(&[("functions.py", FUNCTIONS)]);
    let dropped = Arc::new(AtomicU32::new(0));
    let deaf = deafened(database.url(), &dropped);
    let engine = engine(&deaf);
    let _worker = worker(&desk, &deaf);
    let took = run_from_here(&engine, 5);
    println!("{took:?}, {dropped:?} notifications dropped");
    assert!(took < NEWS * UNHEARD, "it took {took:?}");
    assert!(dropped.load(Ordering::Relaxed) > 0);
}

/// The URL of the same place through a proxy that passes no notification on, but for the one by
/// which a store hears that it listens.
fn deafened(url: &str, dropped: &Arc<AtomicU32>) -> String {
    let (before, rest) = url.split_once('@').unwrap();
    let (server, after) = rest.split_once('/').unwrap();
    let (server, listener) = (server.to_owned(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let dropped = dropped.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
            let (mut to, dropped) = (server.try_clone().unwrap(), dropped.clone());
            let back = client.try_clone().unwrap();
            thread::spawn(move || {
                let _ = std::io::copy(&mut client, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            thread::spawn(move || pass_back(server, back, &dropped));
        }
    });
    format!("{before}@127.0.0.1:{port}/{after}&sslmode=disable")
}

/// Messages of the server, without notifications.
fn pass_back(mut server: TcpStream, mut client: TcpStream, dropped: &AtomicU32) {
    let mut head = [0; 5];
    while server.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        if server.read_exact(&mut body).is_err() {
            break;
        }
        if head[0] == b'A' && !body.ends_with(b"\0hello\0") {
            dropped.fetch_add(1, Ordering::Relaxed);
        } else if client.write_all(&[&head[..], &body].concat()).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}
