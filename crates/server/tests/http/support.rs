//! A server on a database of its own, and a client that sends what it is told to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use durable::{Clock as _, Durable, Engine, Isolation, Role, SystemClock};
use durable_executors::TaskQueue;
use durable_server::{Config, NewToken, Server, mint};
use durable_store::Write;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Desk {
    pub(crate) directory: Arc<tempfile::TempDir>,
    engine: Option<Arc<Engine>>,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Desk {
    /// A server that hands out tasks.
    pub(crate) fn open() -> Self {
        Self::open_with(Config::default())
    }

    pub(crate) fn open_with(config: Config) -> Self {
        Self::open_in(Arc::new(tempfile::tempdir().unwrap()), config)
    }

    /// On a database that may be there already.
    pub(crate) fn open_in(directory: Arc<tempfile::TempDir>, config: Config) -> Self {
        Self::open_on(directory, config, true)
    }

    pub(crate) fn open_on(
        directory: Arc<tempfile::TempDir>,
        config: Config,
        hands_out_tasks: bool,
    ) -> Self {
        let url = format!("sqlite:///{}", directory.path().join("d.db").display());
        let engine = Durable::builder(&url)
            .isolation(Isolation::Thread)
            .durability(durable::Durability::None)
            .workers(1)
            .open_engine()
            .unwrap();
        let engine = Arc::new(engine);
        let tasks = hands_out_tasks.then(|| Arc::new(TaskQueue::default()));
        if let Some(tasks) = &tasks {
            engine.attach(tasks.clone()).unwrap();
        }
        let server = Server::new(&engine, tasks, config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stop = async {
                    let _ = stopped.await;
                };
                durable_server::serve(server, listener, stop, PATIENCE).await;
            });
        });
        let (stop, thread) = (Some(stop), Some(thread));
        Self { directory, engine: Some(engine), address, stop, thread }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Stops the server as SIGTERM does; gives the database.
    pub(crate) fn close(mut self) -> Arc<tempfile::TempDir> {
        self.end();
        self.directory.clone()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        if let Some(engine) = self.engine.take() {
            engine.detach(Duration::ZERO);
        }
    }

    /// A new token.
    pub(crate) fn token(&self, role: Role, namespace: Option<&str>) -> String {
        let new = NewToken {
            name: "test".into(),
            role,
            namespace: namespace.map(str::to_owned),
            expires_at_ms: None,
        };
        let (text, record) = mint(new, SystemClock::default().now_ms()).unwrap();
        let write = Write::PutToken(Box::new(record));
        self.engine().store().commit(&[write]).unwrap().remove(0).unwrap();
        text
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).send()
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path).json(&body).send()
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask {
        Ask {
            address: self.address,
            head: format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n").into_bytes(),
            host: Some(self.address.to_string()),
            body: Vec::new(),
        }
    }

    /// Starts a workflow and gives its id.
    pub(crate) fn start(&self, source: &str, functions: &[&str]) -> String {
        let request = json!({ "source": source, "functions": functions });
        let started = self.post("/executions", request);
        assert_eq!(started.status, 201, "{started:?}");
        started.json()["execution_id"].as_str().unwrap().to_owned()
    }

    /// Waits until an execution has a status.
    pub(crate) fn wait_for(&self, id: &str, status: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let record = self.engine().execution(id.parse().unwrap()).unwrap();
            if record.status.as_str() == status {
                return json!({ "version": record.version });
            }
            assert!(Instant::now() < until, "{id} is {} and not {status}", record.status);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.end();
    }
}

/// A request that is put together.
#[derive(Clone)]
pub(crate) struct Ask {
    address: SocketAddr,
    head: Vec<u8>,
    host: Option<String>,
    body: Vec<u8>,
}

impl Ask {
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if name.eq_ignore_ascii_case("host") {
            self.host = None;
        }
        self.head.extend_from_slice(name.as_bytes());
        self.head.extend_from_slice(b": ");
        self.head.extend_from_slice(value.as_ref());
        self.head.extend_from_slice(b"\r\n");
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn connect(mut self) -> TcpStream {
        if let Some(host) = self.host.take() {
            self = self.header("Host", host);
        }
        let length = format!("Content-Length: {}\r\n\r\n", self.body.len());
        self.head.extend_from_slice(length.as_bytes());
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&self.head).unwrap();
        // A server may answer before it has read everything, and close.
        let _ = stream.write_all(&self.body);
        stream
    }

    pub(crate) fn send(self) -> Answer {
        let mut bytes = Vec::new();
        let read = self.connect().read_to_end(&mut bytes);
        assert!(read.is_ok() || !bytes.is_empty(), "no answer: {read:?}");
        Answer::parse(&bytes)
    }

    /// Reads events as they come.
    pub(crate) fn follow(self) -> Followed {
        let mut lines = BufReader::new(self.header("Accept", "text/event-stream").connect());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        Followed(lines)
    }
}

/// Events as they come.
pub(crate) struct Followed(BufReader<TcpStream>);

/// One event of a stream.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Followed {
    /// The next line that is no comment; `None` at the end of the stream.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        Some(line.trim_end().to_owned())
    }

    pub(crate) fn next(&mut self) -> Option<Told> {
        let mut told = Told { id: None, name: String::new(), data: Value::Null };
        loop {
            // What is neither of these is a comment or the size of a chunk.
            let line = self.line()?;
            if let Some(id) = line.strip_prefix("id: ") {
                told.id = Some(id.parse().unwrap());
            } else if let Some(name) = line.strip_prefix("event: ") {
                told.name = name.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                told.data = serde_json::from_str(data).unwrap();
                return Some(told);
            }
        }
    }

    /// The names of all events to the end of the stream.
    pub(crate) fn names(mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next().map(|told| told.name)).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no answer: {text}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it is a refusal as RFC 9457 has it.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail", "kind"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }
}
