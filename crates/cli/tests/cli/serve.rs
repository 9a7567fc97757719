//! `durable serve` and `durable token`.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::support::{Desk, in_time};

/// A server process; its address is what it says on standard error.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn begin(desk: &Desk, arguments: &[&str]) -> Self {
        let log = desk.path("server.log");
        let mut command = desk.command(&["serve"]);
        if !arguments.contains(&"--bind") {
            command.args(["--bind", "127.0.0.1:0"]);
        }
        command.args(arguments).env_remove("DURABLE_WEBHOOK_SECRET");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = in_time(move || {
            let address = lines
                .by_ref()
                .map(Result::unwrap)
                .find_map(|line| line.strip_prefix("listening on http://").map(str::to_owned));
            // What else it says is kept, and never blocks it.
            std::thread::spawn(move || {
                let mut log = File::create(log).unwrap();
                for line in lines.map_while(Result::ok) {
                    let _ = writeln!(log, "{line}");
                }
            });
            address.expect("the server does not listen")
        });
        Self { child, address }
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let token =
            token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{token}Connection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = in_time(move || {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Ends it as systemd does, and gives its exit code.
    fn end(mut self) -> i32 {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_runs_what_is_started_over_http() {
    let desk = Desk::new(&[("tasks.py", "def add(a, b):\n    return a + b\n")]);
    let server = Serving::begin(&desk, &["--functions", "tasks.py"]);
    let (status, started) = server.ask(
        "POST",
        "/executions",
        None,
        &json!({ "source": "await add(1, 2)", "functions": ["add"] }),
    );
    assert_eq!(status, 201, "{started}");
    let id = started["execution_id"].as_str().unwrap();
    let path = format!("/executions/{id}/result?wait_ms=60000");
    let (status, result) = server.ask("GET", &path, None, &json!({}));
    assert_eq!((status, &result["output"]), (200, &json!(3)));
    assert_eq!(in_time(move || server.end()), 0);
    assert_eq!(desk.show(id)["status"], "completed");
}

#[test]
fn other_machines_are_let_in_only_with_tokens() {
    let desk = Desk::new(&[]);
    let refused = desk.durable(&["serve", "--bind", "0.0.0.0:0"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("durable token create"), "{}", refused.err);
    let made = desk.durable(&["token", "create", "--role", "operator", "--expires", "90d"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let token = made.out.trim().to_owned();
    let server = Serving::begin(&desk, &["--bind", "0.0.0.0:0"]);
    assert_eq!(server.ask("GET", "/executions", None, &json!({})).0, 401);
    assert_eq!(server.ask("GET", "/executions", Some(&token), &json!({})).0, 200);
    assert_eq!(server.ask("GET", "/tokens", Some(&token), &json!({})).0, 403);
    assert_eq!(server.ask("GET", "/health", None, &json!({})).0, 200);

    let listed = desk.durable(&["token", "list", "--json"]);
    let view: Value = serde_json::from_str(listed.out.trim()).unwrap();
    assert_eq!((&view["role"], &view["is_live"]), (&json!("operator"), &json!(true)));
    assert!(!listed.out.contains(token.rsplit_once('_').unwrap().1));
    let id = view["id"].as_str().unwrap();
    assert_eq!(desk.durable(&["token", "revoke", id]).code, 0);
    assert_eq!(desk.durable(&["token", "revoke", "nobody"]).code, 3);
    assert!(desk.durable(&["token", "list"]).out.contains("revoked"));
    in_time(move || while server.ask("GET", "/executions", Some(&token), &json!({})).0 == 200 {});
    for wrong in [["--role", "king"], ["--expires", "yesterday"], ["--namespace", "a b"]] {
        let mut arguments = vec!["token", "create"];
        if wrong[0] != "--role" {
            arguments.extend(["--role", "viewer"]);
        }
        arguments.extend(wrong);
        assert_eq!(desk.durable(&arguments).code, 2, "{wrong:?}");
    }
}
