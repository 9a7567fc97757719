//! An example that is killed at random moments, again and again, until it ends by itself.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use durable::{CallStatus, Durable, Engine, Isolation, ListFilter, Status};

use super::example;

const KILLS: u64 = 50;

/// A folder in which an example runs, with its database and the log of its calls.
struct Run<'a> {
    dir: tempfile::TempDir,
    example: &'a str,
    isolation: &'a str,
}

impl Run<'_> {
    fn database(&self) -> PathBuf {
        self.dir.path().join(format!("{}.db", self.example))
    }

    fn url(&self) -> String {
        format!("sqlite:///{}", self.database().display())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(example(self.example));
        command
            .arg(self.url())
            .arg(self.log_file())
            .env("ISOLATION", self.isolation)
            .stdout(Stdio::piped());
        command
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("calls.log")
    }

    /// The keys of the calls that were run, in order.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn engine(&self) -> Engine {
        Durable::builder(&self.url()).isolation(Isolation::Thread).open_engine().unwrap()
    }

    /// The keys of the calls that the store holds as ended. It is in order.
    fn recorded(&self) -> BTreeSet<String> {
        if !self.database().exists() {
            return BTreeSet::new();
        }
        let engine = self.engine();
        let executions = engine.store().list(&ListFilter::default()).unwrap();
        assert!(executions.len() <= 1, "the same key is the same execution");
        let calls = executions.iter().flat_map(|one| {
            let calls = engine.store().calls(one.id).unwrap();
            let ended = |call: &durable::CallRecord| {
                matches!(call.status, CallStatus::Completed | CallStatus::Failed)
            };
            let id = one.id;
            calls.into_iter().filter(ended).map(move |call| format!("{id}:{}", call.id))
        });
        let keys = calls.collect();
        assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
        keys
    }

    fn check_completed(&self) {
        let engine = self.engine();
        let executions = engine.store().list(&ListFilter::default()).unwrap();
        assert_eq!(executions.len(), 1, "the same key is the same execution");
        assert_eq!(executions[0].status, Status::Completed);
        assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
        let connection = rusqlite::Connection::open(self.database()).unwrap();
        let verdict: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
    }
}

/// Small numbers that are the same in every run of the test.
fn pseudo_random(seed: u64) -> u64 {
    let mut bits = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    bits ^= bits >> 29;
    bits.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33
}

/// Kills an example at 50 moments; it then prints `expected`, and no call that was recorded as
/// ended has run again.
pub fn kill_at_random_moments(example: &str, isolation: &str, expected: &str) {
    let (mut interrupted, mut seed) = (0, 0);
    while seed < KILLS {
        let run = Run { dir: tempfile::tempdir().unwrap(), example, isolation };
        let mut ended = BTreeSet::new();
        // Kill and restart the same execution a few times, then let it finish.
        for _ in 0..5 {
            seed += 1;
            let before = run.log().len();
            let mut child = run.command().spawn().unwrap();
            // The moment is what is tested; nothing depends on where exactly it falls.
            std::thread::sleep(Duration::from_micros(pseudo_random(seed) % 60_000));
            child.kill().unwrap();
            child.wait().unwrap();
            assert_none_again(&run.log()[before..], &ended, seed);
            ended = run.recorded();
            interrupted += usize::from(!ended.is_empty());
        }
        let before = run.log().len();
        let output = run.command().output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "seed {seed}");
        assert_none_again(&run.log()[before..], &ended, seed);
        run.check_completed();
    }
    assert!(interrupted > 0, "no kill fell between the first call and the end");
}

fn assert_none_again(calls: &[String], ended: &BTreeSet<String>, seed: u64) {
    let again: Vec<_> = calls.iter().filter(|key| ended.contains(*key)).collect();
    assert!(again.is_empty(), "recorded calls ran again: {again:?} (seed {seed})");
}
