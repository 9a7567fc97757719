//! Events as they are written.

use std::{io::Read as _, io::Write as _, net::TcpStream, time::Instant};

use durable_server::Config;
use serde_json::json;

use crate::support::{Desk, PATIENCE};

#[test]
fn a_follower_is_told_everything_across_a_restart() {
    let desk = Desk::open();
    let id = desk.start("await f(1)\nawait f(2)", &["f"]);
    let path = format!("/executions/{id}/events");
    let mut followed = desk.ask("GET", &path).follow();
    let mut seen = Vec::new();
    for expected in ["EXECUTION_STARTED", "STEP_STARTED"] {
        let told = followed.next().unwrap();
        assert_eq!(told.name, expected);
        seen.push(told.id.unwrap());
    }
    complete_next(&desk);
    for expected in ["STEP_COMPLETED", "STEP_STARTED"] {
        let told = followed.next().unwrap();
        assert_eq!(told.name, expected);
        assert_eq!(told.data["sequence"], told.id.unwrap());
        seen.push(told.id.unwrap());
    }
    // The server stops: the stream ends without saying that the execution has.
    let directory = desk.close();
    assert!(followed.next().is_none());

    let desk = Desk::open_in(directory, Config::default());
    let last = seen.last().unwrap().to_string();
    let mut followed = desk.ask("GET", &path).header("Last-Event-ID", last).follow();
    complete_next(&desk);
    for expected in ["STEP_COMPLETED", "EXECUTION_COMPLETED"] {
        let told = followed.next().unwrap();
        assert_eq!(told.name, expected);
        seen.push(told.id.unwrap());
    }
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>(), "none is missing, none twice");
    let end = followed.next().unwrap();
    assert_eq!((end.name.as_str(), &end.data), ("end", &json!({ "status": "completed" })));
    assert!(followed.next().is_none());
    let names = desk.ask("GET", &format!("{path}?after=5")).follow().names();
    assert_eq!(names, ["EXECUTION_COMPLETED", "end"]);
}

fn complete_next(desk: &Desk) {
    let claim = json!({ "functions": ["f"], "worker": "w", "wait_ms": 60_000 });
    let claimed = desk.post("/tasks/claim", claim).json();
    let task = claimed["items"][0]["id"].as_str().unwrap();
    let done = desk.post(&format!("/tasks/{task}/complete"), json!({ "result": null }));
    assert_eq!(done.status, 200, "{done:?}");
}

#[test]
fn a_follower_learns_of_a_deletion_and_hears_heartbeats() {
    let desk = Desk::open_with(Config { heartbeat_ms: 100, ..Config::default() });
    let id = desk.start("import asyncio\nawait asyncio.sleep(3600)", &[]);
    let mut followed = desk.ask("GET", &format!("/executions/{id}/events?after=9")).follow();
    while followed.line().unwrap() != ": still here" {}
    let until = Instant::now() + PATIENCE;
    while desk.ask("DELETE", &format!("/executions/{id}")).send().status != 204 {
        assert!(Instant::now() < until);
    }
    assert_eq!(followed.next().unwrap().data, json!({ "status": "deleted" }));
}

#[test]
fn followers_are_bounded_and_give_their_place_back() {
    let desk = Desk::open_with(Config { max_followers: 1, ..Config::default() });
    let id = desk.start("await f()", &["f"]);
    let path = format!("/executions/{id}/events");
    let mut followed = desk.ask("GET", &path).follow();
    followed.next().unwrap();
    let second = desk.ask("GET", &path).header("Accept", "text/event-stream").send();
    second.is_problem(503);
    assert!(second.head.contains("retry-after"));
    drop(followed);
    let until = Instant::now() + PATIENCE;
    while desk.get(&format!("/executions/{id}/result")).status == 503 {
        assert!(Instant::now() < until, "the place is not given back");
    }
}

#[test]
fn whoever_waits_takes_no_place_of_those_who_work() {
    let desk = Desk::open_with(Config { max_requests: 1, ..Config::default() });
    let id = desk.start("await f()", &["f"]);
    let path = format!("/executions/{id}/result?wait_ms=60000");
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| desk.get(&path).status)).collect();
        let mut followed = desk.ask("GET", &format!("/executions/{id}/events")).follow();
        followed.next().unwrap();
        assert_eq!(desk.get("/executions").status, 200);
        complete_next(&desk);
        for waited in waiting {
            assert_eq!(waited.join().unwrap(), 200);
        }
    });
}

#[test]
fn whoever_sends_slowly_is_cut_off() {
    let config = Config { head_timeout_ms: 200, request_timeout_ms: 400, ..Config::default() };
    let desk = Desk::open_with(config);
    let mut slow = Vec::new();
    for start in ["GET /exec", "GET /executions HTTP/1.1\r\nHost: localhost\r\nX-A: "] {
        let mut stream = TcpStream::connect(desk.address).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        slow.push(stream);
    }
    for stream in &mut slow {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        // The connection is closed, with or without a word.
        let _ = stream.read_to_end(&mut answer);
    }
    let mut stream = TcpStream::connect(desk.address).unwrap();
    let head = "POST /executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(desk.get("/executions").status, 200);
}
