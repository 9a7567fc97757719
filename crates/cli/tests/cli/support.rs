//! A directory to run `durable` in, and a gate that holds a function until the test opens it.

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::Pid;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A function of which every attempt writes its key down before it does anything else.
pub(crate) const COUNTED: &str = r#"
from durable_monty import current_call, register_function

@register_function("step")
def step(n):
    with open("keys", "a") as file:
        file.write(current_call().idempotency_key + "\n")
    return n + 1
"#;

/// Functions that write down that they were run; `gate` holds its call until the test opens it.
pub(crate) const GATED: &str = r#"
from durable_monty import register_function

def log(line):
    with open("log", "a") as file:
        file.write(line + "\n")

@register_function("step")
def step(n):
    log(f"step {n}")
    return n

@register_function("gate")
def gate():
    log("gate")
    open("begun", "w").close()
    open("opened").close()
    return "through"
"#;

pub(crate) const GATED_WORKFLOW: &str = r"
from asyncio import gather
first = await gather(step(1), step(2))
held = await gate()
[first, held, await step(3)]
";

pub(crate) const GATED_OUTPUT: &str = "[[1,2],\"through\",3]\n";

pub(crate) struct Desk {
    directory: tempfile::TempDir,
    keys: Cell<&'static str>,
}

impl Desk {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap(), keys: Cell::new("") };
        for (name, text) in files {
            desk.write(name, text);
        }
        desk
    }

    /// With the gated workflow and its functions.
    pub(crate) fn gated() -> Self {
        let desk = Self::new(&[("gated.py", GATED_WORKFLOW), ("functions.py", GATED)]);
        for name in ["begun", "opened"] {
            let made = Command::new("mkfifo").arg(desk.path(name)).status().unwrap();
            assert!(made.success());
        }
        desk
    }

    /// Seals, from now on, with these keys.
    pub(crate) fn set_keys(&self, keys: &'static str) {
        self.keys.set(keys);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_durable"));
        command.args(arguments).current_dir(self.directory.path());
        for name in ["DURABLE_DB", "DURABLE_PYTHON", "DURABLE_SNAPSHOT_KEY", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.env("DURABLE_ENCRYPTION_KEYS", self.keys.get());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `durable` to its end.
    pub(crate) fn durable(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments).output().unwrap())
    }

    /// Starts `durable` in a process group of its own, as a shell does.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// Begins the gated workflow and waits until its call stands at the gate.
    pub(crate) fn begin_gated(&self) -> Running {
        let child = self.begin(&["run", "gated.py", "--functions", "functions.py"]);
        self.wait_at_gate();
        child
    }

    /// Waits until a function stands at the gate.
    pub(crate) fn wait_at_gate(&self) {
        let begun = self.path("begun");
        in_time(move || drop(File::open(begun).unwrap()));
    }

    /// Lets everybody through as long as the file is kept.
    pub(crate) fn open_gate(&self) -> File {
        // Opened to read as well, it does not wait for a reader.
        OpenOptions::new().read(true).write(true).open(self.path("opened")).unwrap()
    }

    /// The executions as `list --json` gives them, newest first.
    pub(crate) fn list(&self) -> Vec<serde_json::Value> {
        let listed = self.durable(&["list", "--json"]);
        assert_eq!(listed.code, 0, "{listed:?}");
        listed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The id of the newest execution.
    pub(crate) fn newest(&self) -> String {
        self.list()[0]["id"].as_str().unwrap().to_owned()
    }

    /// An execution as `show --json` gives it.
    pub(crate) fn show(&self, id: &str) -> serde_json::Value {
        let shown = self.durable(&["show", id, "--json"]);
        assert_eq!(shown.code, 0, "{shown:?}");
        serde_json::from_str(&shown.out).unwrap()
    }
}

/// What came of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A process that does not outlive its test.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Starts a command in a process group of its own.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(command.process_group(0).spawn().unwrap()))
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.0.as_ref().unwrap())
    }

    /// As `kill -9` does.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Waits until it has ended.
    pub(crate) fn ended(mut self) -> Ended {
        let child = self.0.take().unwrap();
        in_time(move || Ended::of(child.wait_with_output().unwrap()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Fails the test instead of waiting for ever.
pub(crate) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    wait.recv_timeout(PATIENCE).expect("it takes too long")
}

/// Waits until something holds; fails the test when that takes too long.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + 2 * PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up_at, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A file that stands beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}
