//! Who may do what.

use durable::Role;
use serde_json::{Value, json};

use crate::support::{Answer, Ask, Desk};

/// Method, path, body, and who may. The path names an execution or a task that is not there, or
/// the body is wrong: whoever may is told so, and nothing happens.
fn operations() -> Vec<(&'static str, String, Option<Value>, &'static [Role])> {
    use Role::{Admin, Operator, Viewer, Worker};
    const LOOK: &[Role] = &[Viewer, Operator, Admin];
    const OPERATE: &[Role] = &[Operator, Admin];
    const WORK: &[Role] = &[Worker, Admin];
    const ADMINISTER: &[Role] = &[Admin];
    let id = "/executions/00000000-0000-7000-8000-000000000000";
    let task = format!("/tasks/00000000-0000-7000-8000-000000000000.0.1.{}", "0".repeat(32));
    let at = |suffix: &str| format!("{id}{suffix}");
    let session = |suffix: &str| format!("/sessions/00000000-0000-7000-8000-000000000000/{suffix}");
    let body = || Some(json!({}));
    vec![
        ("GET", "/executions".into(), None, LOOK),
        ("GET", at(""), None, LOOK),
        ("GET", at("/calls"), None, LOOK),
        ("GET", at("/checkpoints"), None, LOOK),
        ("GET", at("/checkpoints/1"), None, LOOK),
        ("GET", at("/checkpoints/1/diff"), None, LOOK),
        ("GET", at("/events"), None, LOOK),
        ("GET", at("/result"), None, LOOK),
        ("GET", "/workers".into(), None, LOOK),
        ("POST", "/executions".into(), body(), OPERATE),
        ("POST", "/executions/bulk".into(), body(), OPERATE),
        ("POST", at("/cancel"), None, OPERATE),
        ("POST", at("/pause"), None, OPERATE),
        ("POST", at("/resume"), None, OPERATE),
        ("POST", at("/retry"), None, OPERATE),
        ("DELETE", at(""), None, OPERATE),
        ("POST", at("/checkpoints/1/fork"), None, OPERATE),
        ("POST", at("/checkpoints/1/restore"), None, OPERATE),
        ("GET", session("feeds"), None, LOOK),
        ("GET", session("feeds/1"), None, LOOK),
        ("GET", session("variables"), None, LOOK),
        ("POST", "/sessions".into(), Some(json!([])), OPERATE),
        ("POST", session("feeds"), Some(json!({ "code": "1" })), OPERATE),
        ("POST", session("fork"), None, OPERATE),
        ("POST", session("rewind"), Some(json!({ "after": 0 })), OPERATE),
        ("POST", session("close"), None, OPERATE),
        ("POST", "/tasks/claim".into(), body(), WORK),
        ("POST", format!("{task}/heartbeat"), None, WORK),
        ("POST", format!("{task}/complete"), body(), WORK),
        ("POST", format!("{task}/fail"), Some(json!({ "type": "ValueError" })), WORK),
        ("POST", "/webhook/complete".into(), Some(json!({ "job_id": "x" })), WORK),
        ("GET", "/tokens".into(), None, ADMINISTER),
        ("POST", "/tokens".into(), body(), ADMINISTER),
        ("DELETE", "/tokens/none".into(), None, ADMINISTER),
    ]
}

fn ask(desk: &Desk, method: &str, path: &str, body: Option<&Value>) -> Ask {
    let ask = desk.ask(method, path);
    match body {
        Some(body) => ask.json(body),
        None => ask,
    }
}

#[test]
fn each_role_may_do_what_it_is_for_and_nothing_else() {
    let desk = Desk::open();
    let tokens: Vec<_> = Role::ALL.iter().map(|role| (*role, desk.token(*role, None))).collect();
    for (method, path, body, allowed) in operations() {
        for (role, token) in &tokens {
            let answer = ask(&desk, method, &path, body.as_ref()).token(token).send();
            let what = format!("{method} {path} as {role:?}: {answer:?}");
            if allowed.contains(role) {
                assert!(![401, 403].contains(&answer.status), "{what}");
                assert!(answer.status < 500, "{what}");
            } else {
                answer.is_problem(403);
            }
        }
        let bare = ask(&desk, method, &path, body.as_ref());
        let nobody = bare.clone().send();
        nobody.is_problem(401);
        assert!(nobody.head.contains("www-authenticate: bearer"), "{nobody:?}");
        let (_, admin) = &tokens[3];
        let secret = admin.rsplit_once('_').unwrap().1;
        for wrong in [
            format!("Bearer {}", &admin[..admin.len() - 1]),
            format!("Bearer dm_000000000000_{secret}"),
            format!("Basic {admin}"),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {admin} {admin}"),
        ] {
            bare.clone().header("Authorization", wrong).send().is_problem(401);
        }
        let twice = bare.token(admin).token(admin);
        twice.send().is_problem(401);
    }
    for open in ["/health", "/ready", "/openapi.json"] {
        assert_eq!(desk.get(open).status, 200);
    }
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let desk = Desk::open();
    let made = desk.post("/tokens", json!({ "name": "root", "role": "admin" }));
    assert_eq!(made.status, 201, "{made:?}");
    let admin = made.json()["token"].as_str().unwrap().to_owned();
    desk.get("/executions").is_problem(401);
    let as_admin = |method: &str, path: &str| desk.ask(method, path).token(&admin);
    let made = as_admin("POST", "/tokens")
        .json(&json!({ "name": "short", "role": "viewer", "expires_in_s": 60 }))
        .send()
        .json();
    let (id, viewer) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert_eq!(desk.ask("GET", "/executions").token(viewer).send().status, 200);
    let listed = as_admin("GET", "/tokens").send();
    assert_eq!(listed.json()["items"].as_array().unwrap().len(), 2);
    assert!(!listed.body.contains(viewer.rsplit_once('_').unwrap().1), "secrets are shown once");
    assert_eq!(as_admin("DELETE", &format!("/tokens/{id}")).send().status, 204);
    desk.ask("GET", "/executions").token(viewer).send().is_problem(401);
    as_admin("DELETE", "/tokens/none").send().is_problem(404);
    for wrong in [
        json!({ "name": "x", "role": "king" }),
        json!({ "name": "", "role": "admin" }),
        json!({ "name": "x", "role": "admin", "expires_in_s": 0 }),
        json!({ "name": "x", "role": "admin", "expires_in_s": u64::MAX }),
    ] {
        as_admin("POST", "/tokens").json(&wrong).send().is_problem(422);
    }
    // The last token may go: that opens nothing.
    let own = admin.split('_').nth(1).unwrap();
    assert_eq!(as_admin("DELETE", &format!("/tokens/{own}")).send().status, 204);
    desk.get("/executions").is_problem(401);
}

#[test]
fn a_token_that_was_revoked_elsewhere_ends_soon() {
    let config = durable_server::Config { token_staleness_ms: 50, ..Default::default() };
    let desk = Desk::open_with(config);
    let token = desk.token(Role::Viewer, None);
    assert_eq!(desk.ask("GET", "/executions").token(&token).send().status, 200);
    let id = token.split('_').nth(1).unwrap().to_owned();
    let write = durable_store::Write::RevokeToken { id, now_ms: 1 };
    desk.engine().store().commit(&[write]).unwrap().remove(0).unwrap();
    let until = std::time::Instant::now() + crate::support::PATIENCE;
    while desk.ask("GET", "/executions").token(&token).send().status == 200 {
        assert!(std::time::Instant::now() < until);
    }
}

#[test]
fn without_tokens_only_this_machine_gets_in() {
    let desk = Desk::open();
    let port = desk.address.port();
    for host in [format!("localhost:{port}"), "127.0.0.1".into(), format!("[::1]:{port}")] {
        assert_eq!(desk.ask("GET", "/executions").header("Host", host).send().status, 200);
    }
    for (name, value) in [
        ("Host", "evil.example"),
        ("Host", "127.0.0.1.evil.example"),
        ("Host", ""),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
    ] {
        desk.ask("GET", "/executions").header(name, value).send().is_problem(401);
        let start = desk.ask("POST", "/executions").header(name, value);
        start.json(&json!({ "source": "1" })).send().is_problem(401);
    }
    let own = format!("http://localhost:{port}");
    assert_eq!(desk.ask("GET", "/executions").header("Origin", own).send().status, 200);
}

/// What can be asked of one execution.
const OF_ONE_EXECUTION: [(&str, &str); 14] = [
    ("GET", ""),
    ("GET", "/calls"),
    ("GET", "/checkpoints"),
    ("GET", "/checkpoints/1"),
    ("GET", "/checkpoints/1/diff?to=1"),
    ("POST", "/checkpoints/1/fork"),
    ("POST", "/checkpoints/1/restore"),
    ("GET", "/events"),
    ("GET", "/result"),
    ("POST", "/cancel"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/retry"),
    ("DELETE", ""),
];

#[test]
fn tenants_do_not_see_each_other() {
    let desk = Desk::open();
    let mut admins = Vec::new();
    for name in ["a", "b"] {
        let admin = desk.token(Role::Admin, Some(name));
        let start = desk.ask("POST", "/executions").token(&admin);
        let started = start
            .json(&json!({ "source": "await f(x)", "functions": ["f"], "inputs": { "x": name } }))
            .send();
        let id = started.json()["execution_id"].as_str().unwrap().to_owned();
        desk.wait_for(&id, "waiting");
        admins.push((name, admin, id));
    }
    let [(_, first, own), (_, second, foreign)] = &admins[..] else { unreachable!() };
    let as_first = |method: &str, path: &str| desk.ask(method, path).token(first);

    let listed = as_first("GET", "/executions").send().json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["id"], **own);
    assert_eq!(listed["items"][0]["namespace"], "a");
    as_first("GET", "/executions?namespace=b").send().is_problem(403);

    let missing = "00000000-0000-7000-8000-000000000000";
    let same = |foreign: Answer, missing: Answer, id: &str, other: &str| {
        let detail = |answer: Answer| answer.is_problem(404)["detail"].as_str().unwrap().to_owned();
        assert_eq!(detail(foreign).replace(id, ""), detail(missing).replace(other, ""));
    };
    for (method, suffix) in OF_ONE_EXECUTION {
        let at = |id: &str| as_first(method, &format!("/executions/{id}{suffix}")).send();
        same(at(foreign), at(missing), foreign, missing);
    }
    let follow = as_first("GET", &format!("/executions/{foreign}/events"));
    follow.header("Accept", "text/event-stream").send().is_problem(404);

    let start = as_first("POST", "/executions").json(&json!({ "source": "1", "namespace": "b" }));
    start.send().is_problem(403);
    let bulk = as_first("POST", "/executions/bulk");
    let bulk = bulk.json(&json!({ "action": "cancel", "filter": {}, "dry_run": true }));
    assert_eq!(bulk.send().json()["matched"], 1);
    as_first("GET", "/workers").send().is_problem(403);

    // Tokens: each sees its own, and can't make others.
    let tokens = as_first("GET", "/tokens").send().json();
    assert_eq!(tokens["items"].as_array().unwrap().len(), 1);
    let made = as_first("POST", "/tokens").json(&json!({ "name": "n", "role": "viewer" })).send();
    assert_eq!(made.json()["namespace"], "a");
    let wider = json!({ "name": "n", "role": "viewer", "namespace": "b" });
    as_first("POST", "/tokens").json(&wider).send().is_problem(403);
    let other_token = second.split('_').nth(1).unwrap();
    as_first("DELETE", &format!("/tokens/{other_token}")).send().is_problem(404);

    // Tasks: each is handed its own, and can't touch another's.
    let claim = json!({ "functions": ["f"], "worker": "w", "max": 10 });
    let claimed = as_first("POST", "/tasks/claim").json(&claim).send().json();
    assert_eq!(claimed["items"].as_array().unwrap().len(), 1);
    assert_eq!(claimed["items"][0]["args"], json!(["a"]));
    let claimed = desk.ask("POST", "/tasks/claim").token(second).json(&claim).send().json();
    let task = claimed["items"][0]["id"].as_str().unwrap();
    let report = |action: &str, body: Value| {
        as_first("POST", &format!("/tasks/{task}/{action}")).json(&body).send().is_problem(404)
    };
    report("complete", json!({ "result": 1 }));
    report("fail", json!({ "type": "ValueError" }));
    report("heartbeat", json!({}));
    let webhook = json!({ "execution_id": foreign, "call_id": 0, "result": 1 });
    as_first("POST", "/webhook/complete").json(&webhook).send().is_problem(404);
    desk.wait_for(foreign, "waiting");
}
