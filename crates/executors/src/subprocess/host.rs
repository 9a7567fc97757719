//! One Python process, and the lines that go to it and come from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use durable_core::{Error, Failure, FunctionOptions, Outcome, Payload, Result};
use durable_engine::CallRequest;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::SubprocessConfig;

/// What the process runs.
const SOURCE: &str = include_str!("../functions_host.py");

/// Reads settings and source from the first line, byte by byte so that nothing after it is lost.
const BOOTSTRAP: &str = "import json
with open(0, 'rb', buffering=0, closefd=False) as lines:
    settings = json.loads(lines.readline())
exec(compile(settings.pop('source'), '<durable functions>', 'exec'))";

/// How long a process may take to end when its input does.
const PATIENCE: Duration = Duration::from_millis(500);

/// A process that takes requests.
pub(super) struct Host {
    lines: mpsc::Sender<String>,
    group: Pid,
    gone: mpsc::Receiver<()>,
}

/// What a process said when it was ready.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) functions: BTreeMap<String, FunctionOptions>,
    pub(super) asyncs: BTreeSet<String>,
}

/// An answer.
pub(super) struct Reply {
    pub(super) number: u64,
    pub(super) outcome: Outcome,
}

/// What a process answers, line by line.
pub(super) struct Lines {
    output: BufReader<ChildStdout>,
    child: Child,
    line: String,
}

/// A line from the process: a handshake or an answer.
#[derive(Deserialize)]
struct WireReply<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Failure>,
    functions: Option<BTreeMap<String, FunctionOptions>>,
    #[serde(default, rename = "async")]
    asyncs: BTreeSet<String>,
    refused: Option<String>,
}

/// A line to the process.
#[derive(serde::Serialize)]
struct WireCall<'a> {
    id: u64,
    function: &'a str,
    step: &'a str,
    args: &'a RawValue,
    kwargs: &'a RawValue,
    execution: String,
    call: u32,
    attempt: u32,
    key: String,
    timeout_ms: Option<u64>,
}

impl Host {
    /// Starts a process and waits until it has imported the module.
    pub(super) fn start(config: &SubprocessConfig) -> Result<(Self, Lines, Ready)> {
        let python = config.python.display();
        let mut child = Command::new(&config.python)
            .args(["-c", BOOTSTRAP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C at the terminal is for the engine, which decides what becomes of calls.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Error::unavailable(format!("can't start Python '{python}': {error}"))
            })?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("the Python process was started without pipes"));
        };
        let group = Pid::from_child(&child);
        let settings = serde_json::json!({
            "source": SOURCE,
            "module": config.module,
            "threads": config.threads.max(1),
            "max_bytes": config.max_result_bytes,
        });
        // A process that ends at once is found out by its silence.
        let _ = writeln!(input, "{settings}");
        let mut lines = Lines { output: BufReader::new(output), child, line: String::new() };
        let ready = match lines.handshake(config) {
            Ok(ready) => ready,
            Err(error) => {
                drop(input);
                lines.kill();
                lines.wait();
                return Err(error);
            }
        };
        let (sender, to_send) = mpsc::channel();
        spawn(move || write_lines(input, &to_send))?;
        let (watching, gone) = mpsc::channel::<()>();
        spawn(move || {
            watch(group);
            // The other end sees that the channel is closed.
            drop(watching);
        })?;
        Ok((Self { lines: sender, group, gone }, lines, ready))
    }

    pub(super) fn call(&self, number: u64, call: &CallRequest) {
        let line = wire_call(number, call).unwrap_or_else(|error| {
            // Arguments were made by a serializer; if they are no JSON the call must still end,
            // which it does because there is no function of this name.
            let name = format!("{} with arguments that can't be read ({error})", call.function);
            serde_json::json!({ "id": number, "function": name }).to_string()
        });
        // A process that is gone is noticed by whoever reads from it.
        let _ = self.lines.send(line);
    }

    pub(super) fn cancel(&self, number: u64) {
        let _ = self.lines.send(format!("{{\"cancel\":{number}}}"));
    }

    /// Ends the process and everything it started.
    pub(super) fn stop(self) {
        let Self { lines, group, gone } = self;
        drop(lines);
        if gone.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            kill(group);
        }
    }
}

fn wire_call(number: u64, call: &CallRequest) -> serde_json::Result<String> {
    let args = one_line(&call.args);
    let kwargs = one_line(&call.kwargs);
    serde_json::to_string(&WireCall {
        id: number,
        function: &call.function,
        step: &call.step,
        args: serde_json::from_str(&args)?,
        kwargs: serde_json::from_str(&kwargs)?,
        execution: call.execution.to_string(),
        call: call.call,
        attempt: call.attempt,
        key: call.idempotency_key(),
        timeout_ms: call.timeout_ms,
    })
}

/// In JSON a line break is only ever white space between tokens.
fn one_line(payload: &Payload) -> String {
    payload.as_str().replace(['\n', '\r'], " ")
}

impl Lines {
    /// The next answer; `None` when the process has closed its output.
    pub(super) fn next(&mut self) -> Option<Result<Reply>> {
        match self.read()? {
            Ok(WireReply { id: Some(number), error: Some(failure), .. }) => {
                Some(Ok(Reply { number, outcome: Outcome::Failed(failure) }))
            }
            Ok(WireReply { id: Some(number), result, .. }) => {
                // The JSON `null` is read as no result.
                let result = result.map_or_else(Payload::null, |json| Payload::trusted(json.get()));
                Some(Ok(Reply { number, outcome: Outcome::Completed(result) }))
            }
            Ok(_) => Some(Err(Error::internal("an answer of the Python process has no number"))),
            Err(error) => Some(Err(error)),
        }
    }

    fn read(&mut self) -> Option<Result<WireReply<'_>>> {
        self.line.clear();
        match self.output.read_line(&mut self.line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&self.line).map_err(|error| {
                Error::internal(format!("an answer of the Python process can't be read: {error}"))
            })),
            Err(error) => Some(Err(Error::internal(format!(
                "the output of the Python process can't be read: {error}"
            )))),
        }
    }

    fn handshake(&mut self, config: &SubprocessConfig) -> Result<Ready> {
        let python = config.python.display();
        match self.read().transpose()? {
            Some(WireReply { functions: Some(functions), asyncs, .. }) => {
                Ok(Ready { functions, asyncs })
            }
            Some(WireReply { refused: Some(traceback), .. }) => Err(Error::invalid(format!(
                "the functions of '{}' can't be loaded by {python}:\n{}",
                config.module,
                traceback.trim_end()
            ))),
            Some(_) => Err(Error::internal("the Python process began with something unknown")),
            None => Err(Error::unavailable(format!(
                "the Python process '{python}' ended while it loaded '{}': it has to be Python \
                 3.9 or later",
                config.module
            ))),
        }
    }

    pub(super) fn kill(&mut self) {
        kill(Pid::from_child(&self.child));
    }

    pub(super) fn wait(&mut self) -> Option<ExitStatus> {
        self.child.wait().ok()
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name("durable-python".into())
        .spawn(body)
        .map(drop)
        .map_err(|error| Error::unavailable(format!("can't start a thread: {error}")))
}

/// Writes what is to be said; ending it closes the input, which ends the process.
fn write_lines(mut input: ChildStdin, lines: &mpsc::Receiver<String>) {
    while let Ok(mut line) = lines.recv() {
        line.push('\n');
        while let Ok(next) = lines.try_recv() {
            line.push_str(&next);
            line.push('\n');
        }
        if input.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

/// Waits for the end of a process, without reaping it, and ends what it left behind: a process
/// that it forked would hold its output open, and its death would go unnoticed.
fn watch(group: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(Errno::INTR) = rustix::process::waitid(WaitId::Pid(group), options) {}
    kill(group);
}

fn kill(group: Pid) {
    // There may be nobody left.
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}
