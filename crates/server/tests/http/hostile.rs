//! Malformed and hostile requests: none breaks the server, changes anything, or learns anything.

use durable::{ListFilter, Role};
use serde_json::json;

use crate::support::{Ask, Desk};

/// Stands in whatever belongs to the other tenant.
const MARK: &str = "the-other-tenant";

struct Scene {
    desk: Desk,
    admin: String,
    own: String,
    foreign: String,
    session: String,
}

impl Scene {
    fn new() -> Self {
        let desk = Desk::open();
        let [own, foreign] = ["a", MARK].map(|namespace| {
            let admin = desk.token(Role::Admin, Some(namespace));
            let request = json!({
                "source": "await f(x)", "functions": ["f"], "inputs": { "x": namespace },
                "workflow": namespace, "tags": [namespace], "idempotency_key": namespace,
            });
            let started = desk.ask("POST", "/executions").token(&admin).json(&request).send();
            let id = started.json()["execution_id"].as_str().unwrap().to_owned();
            desk.wait_for(&id, "waiting");
            id
        });
        let admin = desk.token(Role::Admin, Some("a"));
        let opened = desk.ask("POST", "/sessions").token(&admin).json(&json!({})).send();
        let session = opened.json()["execution_id"].as_str().unwrap().to_owned();
        desk.wait_for(&session, "waiting");
        Self { desk, admin, own, foreign, session }
    }

    fn ask(&self, method: &str, path: &str) -> Ask {
        self.desk.ask(method, path).token(&self.admin)
    }

    /// Everything that is stored.
    fn state(&self) -> String {
        let store = self.desk.engine().store();
        let executions = store.list(&ListFilter::default()).unwrap();
        let inside: Vec<_> = executions
            .iter()
            .map(|record| {
                (store.calls(record.id).unwrap(), store.journal(record.id, 0, 99).unwrap())
            })
            .collect();
        format!("{executions:?} {inside:?} {:?}", store.tokens().unwrap())
    }

    /// Sends one; it may only be refused.
    fn refused(&self, ask: Ask, what: &str) {
        let answer = ask.send();
        assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
        assert!(!answer.body.contains(MARK), "{what}: {answer:?}");
        // What is no HTTP at all is refused below, without a body.
        if !answer.body.is_empty() {
            answer.is_problem(answer.status);
        }
    }

    /// Sends one that may be answered.
    fn harmless(&self, ask: Ask, what: &str) {
        let answer = ask.send();
        assert!((200..500).contains(&answer.status), "{what}: {answer:?}");
        assert!(!answer.body.contains(MARK), "{what}: {answer:?}");
    }
}

/// Bodies that fit nowhere.
fn bodies() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        "{",
        "}",
        "nul",
        "[]",
        "[{}]",
        "1",
        "-1",
        "\"x\"",
        "true",
        "NaN",
        "{'a': 1}",
        "{\"a\":}",
        "{\"a\": 1e999}",
        "{} {}",
        "{}}",
        "\u{feff}{}",
        "{\"\\u0000\": 1}",
        "{\"a\": \"\\ud800\"}",
        "{\"__proto__\": {\"role\": \"admin\"}}",
        "{\"$where\": \"1\"}",
        "<x/>",
        "a=b&c=d",
        "{\"source\": 1}",
        "{\"source\": \"1\", \"source\": \"2\"}",
        "{\"source\": \"1\", \"program\": \"2\"}",
        "{\"source\": \"\\u0000\"}",
        "{\"action\": \"delete\"}",
        "{\"action\": \"delete\", \"filter\": []}",
        "{\"functions\": {\"f\": 1}, \"worker\": \"w\"}",
        "{\"functions\": [\"f\"], \"max\": 1}",
        "{\"code\": 1}",
        "{\"code\": \"1\", \"number\": 0}",
        "{\"code\": \"1\", \"number\": 9}",
        "{\"code\": \"1\", \"wait_ms\": -1}",
        "{\"after\": -1}",
        "{\"after\": 9}",
        "{\"wait_ms\": 60001}",
        "{\"results\": []}",
        "{\"results\": {\"-1\": 1}}",
        "{\"results\": {\"99\": 1}}",
        "{\"results\": {\"4294967296\": 1}}",
        "{\"name\": \"n\", \"role\": [\"admin\"]}",
        "{\"name\": \"n\", \"role\": \"ADMIN\"}",
        "{\"job_id\": {\"$ne\": null}}",
        "{\"job_id\": \"' OR 1=1 --\"}",
        "{\"reason\": 1}",
        "{\"reason\": \"\"}",
        "{\"type\": 1}",
        "{\"resultat\": 1}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    bodies.push(b"\xff\xfe{}".to_vec());
    bodies.push(b"{\"reason\": \"\xc3\x28\"}".to_vec());
    bodies.push(b"\0\0\0\0".to_vec());
    bodies.push(("[".repeat(100_000) + &"]".repeat(100_000)).into_bytes());
    bodies.push(("{\"a\":".repeat(5_000) + "1" + &"}".repeat(5_000)).into_bytes());
    bodies.push(format!("{{\"result\": {}1{}}}", "[".repeat(121), "]".repeat(121)).into_bytes());
    bodies.push(format!("{{\"reason\": \"{}\"}}", "x".repeat(501)).into_bytes());
    bodies.push(format!("{{\"a\": {}}}", "9".repeat(100_000)).into_bytes());
    bodies
}

fn posts(scene: &Scene) -> Vec<String> {
    let task = format!("{}.0.1.{}", scene.own, "0".repeat(32));
    let (own, session) = (&scene.own, &scene.session);
    [
        "/executions".to_owned(),
        "/executions/bulk".to_owned(),
        format!("/executions/{own}/cancel"),
        format!("/executions/{own}/pause"),
        format!("/executions/{own}/resume"),
        format!("/executions/{own}/retry"),
        format!("/executions/{own}/checkpoints/1/fork"),
        format!("/executions/{own}/checkpoints/1/restore"),
        "/sessions".to_owned(),
        format!("/sessions/{session}/feeds"),
        format!("/sessions/{session}/fork"),
        format!("/sessions/{session}/rewind"),
        format!("/sessions/{session}/close"),
        "/tokens".to_owned(),
        "/tasks/claim".to_owned(),
        format!("/tasks/{task}/heartbeat"),
        format!("/tasks/{task}/complete"),
        format!("/tasks/{task}/fail"),
        "/webhook/complete".to_owned(),
    ]
    .to_vec()
}

#[test]
fn bodies_that_make_no_sense_are_refused() {
    let scene = Scene::new();
    let before = scene.state();
    let bodies = bodies();
    assert!(bodies.len() >= 40);
    for path in posts(&scene) {
        for body in &bodies {
            let what = format!("{path} {:.60}", String::from_utf8_lossy(body));
            let ask = scene.ask("POST", &path).body(body.clone());
            scene.refused(ask.header("Content-Type", "application/json"), &what);
        }
        for media_type in [
            "text/plain",
            "multipart/form-data; boundary=x",
            "application/xml",
            "application/x-www-form-urlencoded",
            "application/jsonp",
            "",
        ] {
            // Nobody cares for the type of what is not read.
            let ask = scene.ask("POST", &path).header("Content-Type", media_type).body("{}");
            scene.refused(ask, &format!("{path} as {media_type}"));
        }
        let large = vec![b' '; (16 << 20) + 1];
        let ask = scene.ask("POST", &path).header("Content-Type", "application/json").body(large);
        scene.refused(ask, &format!("{path}, too large"));
    }
    assert_eq!(scene.state(), before);
}

/// Ids that name nothing, or what is another's.
fn ids(foreign: &str) -> Vec<String> {
    let mut ids: Vec<String> = [
        "x",
        ".",
        "..",
        "...",
        "%2e%2e",
        "..%2f..",
        "%2e%2e%2fetc%2fpasswd",
        "%00",
        "%ff",
        "%c3%28",
        "%",
        "%zz",
        "%0d%0aX-A:b",
        "'%20OR%201=1%20--",
        "%22",
        "*",
        "-1",
        "0",
        "NaN",
        "null",
        "undefined",
        "$%7Bjndi%7D",
        "%F0%9F%98%80",
        "{id}",
        "[]",
        "a;b",
        "a,b",
        "~",
        "%20",
        "+",
        "bulk%2f",
        "1e9",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "urn:uuid:00000000-0000-7000-8000-000000000000",
        "00000000-0000-7000-8000-00000000000g",
    ]
    .map(str::to_owned)
    .to_vec();
    ids.extend(["x".repeat(10_000), foreign.to_owned(), foreign.to_uppercase()]);
    ids.push(foreign[..35].to_owned());
    ids
}

#[test]
fn paths_that_name_nothing_are_refused() {
    let scene = Scene::new();
    let before = scene.state();
    let ids = ids(&scene.foreign);
    assert!(ids.len() >= 40);
    for id in ids {
        for (method, prefix, suffix) in [
            ("GET", "/executions/", ""),
            ("GET", "/executions/", "/calls"),
            ("GET", "/executions/", "/checkpoints"),
            ("GET", "/executions/", "/checkpoints/1"),
            ("GET", "/executions/", "/checkpoints/1/diff"),
            ("POST", "/executions/", "/checkpoints/1/fork"),
            ("POST", "/executions/", "/checkpoints/1/restore"),
            ("GET", "/sessions/", "/feeds"),
            ("GET", "/sessions/", "/feeds/1"),
            ("GET", "/sessions/", "/variables"),
            ("POST", "/sessions/", "/feeds"),
            ("POST", "/sessions/", "/fork"),
            ("POST", "/sessions/", "/rewind"),
            ("POST", "/sessions/", "/close"),
            ("GET", "/executions/", "/events"),
            ("GET", "/executions/", "/result"),
            ("POST", "/executions/", "/cancel"),
            ("POST", "/executions/", "/pause"),
            ("POST", "/executions/", "/resume"),
            ("POST", "/executions/", "/retry"),
            ("DELETE", "/executions/", ""),
            ("DELETE", "/tokens/", ""),
            ("POST", "/tasks/", "/heartbeat"),
            ("POST", "/tasks/", "/complete"),
            ("POST", "/tasks/", "/fail"),
            ("GET", "/", ""),
        ] {
            let path = format!("{prefix}{id}{suffix}");
            let ask = scene.ask(method, &path);
            let body = match suffix {
                "/feeds" if method == "POST" => Some(json!({ "code": "1" })),
                "/rewind" => Some(json!({ "after": 0 })),
                "/complete" => Some(json!({})),
                "/fail" => Some(json!({ "type": "E" })),
                _ => None,
            };
            let ask = match body {
                Some(body) => ask.json(&body),
                None => ask,
            };
            scene.refused(ask, &format!("{method} {path:.100}"));
        }
    }
    assert_eq!(scene.state(), before);
}

/// What is no number of anything, or of what is not there.
const NUMBERS: [&str; 40] = [
    "0",
    "2",
    "3",
    "-1",
    "-0",
    "+1",
    "01",
    "1.0",
    "1e0",
    "1e9",
    "0x1",
    "1_",
    "1%20",
    "%201",
    "1%00",
    "%00",
    "%ff",
    "%",
    "%zz",
    "1;",
    "1,2",
    "1-2",
    "4294967295",
    "4294967296",
    "4294967297",
    "18446744073709551616",
    "99999999999999999999999999",
    "NaN",
    "null",
    "x",
    ".",
    "..",
    "%2e%2e",
    "%2f",
    "*",
    "~",
    "[]",
    "%D9%A1",
    "%EF%BC%91",
    "{number}",
];

#[test]
fn numbers_that_count_nothing_are_refused() {
    let scene = Scene::new();
    let before = scene.state();
    let own = format!("/executions/{}/checkpoints", scene.own);
    for number in NUMBERS {
        for (method, suffix) in [
            ("GET", ""),
            ("GET", "/diff"),
            ("GET", "/diff?to=1"),
            ("POST", "/fork"),
            ("POST", "/restore"),
        ] {
            let path = format!("{own}/{number}{suffix}");
            scene.refused(scene.ask(method, &path), &format!("{method} {path}"));
        }
        let path = format!("/sessions/{}/feeds/{number}", scene.session);
        scene.refused(scene.ask("GET", &path), &path);
    }
    assert_eq!(scene.state(), before);
}

/// Queries that fit nowhere.
const QUERIES: [&str; 47] = [
    "limit=0",
    "limit=-1",
    "limit=%2B1",
    "limit=1001",
    "limit=1e9",
    "limit=",
    "limit=x",
    "limit=1.5",
    "limit=99999999999999999999999",
    "limit=%00",
    "limit=1&limit=2",
    "cursor=x",
    "cursor=",
    "cursor=-1",
    "cursor=%ff",
    "cursor=%00",
    "cursor=99999999999999999999",
    "to=0",
    "to=x",
    "to=-1",
    "to=2",
    "to=4294967296",
    "to=1&to=1",
    "after=-1",
    "after=x",
    "after=18446744073709551615",
    "wait_ms=-1",
    "wait_ms=60001",
    "wait_ms=x",
    "wait_ms=1&wait_ms=1",
    "status=",
    "status=COMPLETED",
    "status=waiting,failed",
    "status[]=waiting",
    "since=x",
    "since=99999999999999999999",
    "until=2026-13-01T00:00:00Z",
    "since=",
    "tag=a%20b",
    "tag=",
    "workflow=",
    "workflow=%00",
    "namespace=*",
    "namespace=b",
    "nonsense=1",
    "=",
    "%ff=%ff",
];

#[test]
fn queries_that_make_no_sense_are_refused() {
    let scene = Scene::new();
    let own = format!("/executions/{}", scene.own);
    let many = "limit=1&".repeat(200);
    let long = format!("workflow={}", "x".repeat(5_000));
    let foreign = format!("cursor={}x", scene.foreign);
    for path in [
        "/executions",
        &own,
        &format!("{own}/calls"),
        &format!("{own}/checkpoints"),
        &format!("{own}/checkpoints/1"),
        &format!("{own}/checkpoints/1/diff"),
        &format!("{own}/events"),
        &format!("{own}/result"),
        &format!("/sessions/{}/feeds", scene.session),
        &format!("/sessions/{}/feeds/1", scene.session),
        &format!("/sessions/{}/variables", scene.session),
        "/workers",
        "/tokens",
    ] {
        for query in QUERIES.into_iter().chain([&*many, &*long, &*foreign]) {
            let ask = scene.ask("GET", &format!("{path}?{query}"));
            scene.refused(ask, &format!("{path}?{query:.60}"));
        }
    }
}

#[test]
fn headers_and_methods_that_make_no_sense_are_refused() {
    let scene = Scene::new();
    let before = scene.state();
    let paths = ["/executions".to_owned(), format!("/executions/{}/events", scene.own)];
    let flood = |mut ask: Ask| {
        for number in 0..500 {
            ask = ask.header(&format!("X-{number}"), "1");
        }
        ask
    };
    for path in &paths {
        scene.refused(flood(scene.ask("GET", path)), "a flood of headers");
        let long = "x".repeat(200_000);
        scene.refused(scene.ask("GET", path).header("X-Long", long), "a long header");
        for method in ["BREW", "TRACE", "CONNECT", "PROPFIND", "get", "G\u{e9}T", "PUT", "PATCH"] {
            scene.refused(scene.ask(method, path), method);
        }
        for version in [" HTTP/9.9", " HTTP/1.1 HTTP/1.1", " \0"] {
            scene.refused(scene.ask("GET", &format!("{path}{version}")), version);
        }
        for (name, value) in [
            ("Accept", &b"text/event-stream; q=0, \xff"[..]),
            ("Accept", b"*/*, image/png"),
            ("Cookie", b"a=b; session=../../x"),
            ("X-Forwarded-For", b"127.0.0.1"),
            ("X-HTTP-Method-Override", b"DELETE"),
            ("Range", b"bytes=0-1"),
            ("If-None-Match", b"*"),
            ("Expect", b"200-maybe"),
            ("Origin", b"https://evil.example"),
        ] {
            scene.harmless(scene.ask("GET", path).header(name, value), name);
        }
    }
    let events = &paths[1];
    for value in ["-1", "x", "", "1.5", "99999999999999999999", "9223372036854775808"] {
        scene.refused(scene.ask("GET", events).header("Last-Event-ID", value), value);
    }
    for value in [&b"\xff"[..], b"", b"a\tb"] {
        let ask = scene.ask("POST", "/executions").header("Idempotency-Key", value);
        scene.refused(ask.json(&json!({ "source": "1" })), "a key");
    }
    let smuggled = scene.ask("POST", "/executions").header("Transfer-Encoding", "chunked");
    scene.refused(smuggled.body("0\r\n\r\nGET /tokens HTTP/1.1\r\n\r\n"), "two lengths");
    assert_eq!(scene.state(), before);
}
