//! kill -9 at any moment: the video example completes after restarts, with the right output, and
//! no call that was recorded as complete runs again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use durable::{CallStatus, Durable, Isolation, ListFilter, Status};

const EXPECTED: &str = "package of encoded_ep1.mp4, encoded_ep2.mp4, encoded_ep3.mp4 and \
    thumb_encoded_ep1.mp4, thumb_encoded_ep2.mp4, thumb_encoded_ep3.mp4\n";
const KILLS: u64 = 50;

/// The example, which is built with the tests.
fn video() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let release = tests.parent().unwrap().parent().unwrap();
    release.join("examples/video")
}

fn command(dir: &Path, isolation: &str) -> Command {
    let mut command = Command::new(video());
    command
        .arg(format!("sqlite:///{}", dir.join("video.db").display()))
        .arg(dir.join("calls.log"))
        .env("ISOLATION", isolation)
        .stdout(Stdio::piped());
    command
}

/// The keys of the calls that the store holds as complete.
fn recorded_complete(dir: &Path) -> BTreeSet<String> {
    let database = dir.join("video.db");
    if !database.exists() {
        return BTreeSet::new();
    }
    let engine = Durable::builder(&format!("sqlite:///{}", database.display()))
        .isolation(Isolation::Thread)
        .open_engine()
        .unwrap();
    let mut keys = BTreeSet::new();
    for execution in engine.store().list(&ListFilter::default()).unwrap() {
        for call in engine.store().calls(execution.id).unwrap() {
            if call.status == CallStatus::Completed {
                keys.insert(format!("{}:{}", execution.id, call.id));
            }
        }
    }
    keys
}

fn log(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("calls.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Small numbers that are the same in every run of the test.
fn pseudo_random(seed: u64) -> u64 {
    let mut bits = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    bits ^= bits >> 29;
    bits.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33
}

fn kill_at_random_moments(isolation: &str) {
    let mut interrupted = 0;
    let mut seed = 0;
    while seed < KILLS {
        let dir = tempfile::tempdir().unwrap();
        let mut complete = BTreeSet::new();
        // Kill and restart the same execution a few times, then let it finish.
        for _ in 0..5 {
            seed += 1;
            let before = log(dir.path()).len();
            let mut child = command(dir.path(), isolation).spawn().unwrap();
            // The moment is what is tested; nothing depends on where exactly it falls.
            std::thread::sleep(Duration::from_micros(pseudo_random(seed) % 60_000));
            child.kill().unwrap();
            child.wait().unwrap();
            let calls = log(dir.path());
            let again: Vec<_> =
                calls[before..].iter().filter(|key| complete.contains(*key)).collect();
            assert!(again.is_empty(), "recorded calls ran again: {again:?} (seed {seed})");
            complete = recorded_complete(dir.path());
            interrupted += usize::from(!complete.is_empty());
        }
        let before = log(dir.path()).len();
        let output = command(dir.path(), isolation).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), EXPECTED, "seed {seed}");
        let calls = log(dir.path());
        let again: Vec<_> = calls[before..].iter().filter(|key| complete.contains(*key)).collect();
        assert!(again.is_empty(), "recorded calls ran again: {again:?} (seed {seed})");
        check(dir.path());
    }
    assert!(interrupted > 0, "no kill fell between the first call and the end");
}

fn check(dir: &Path) {
    let database = dir.join("video.db");
    let engine = Durable::builder(&format!("sqlite:///{}", database.display()))
        .isolation(Isolation::Thread)
        .open_engine()
        .unwrap();
    let executions = engine.store().list(&ListFilter::default()).unwrap();
    assert_eq!(executions.len(), 1, "the same key is the same execution");
    assert_eq!(executions[0].status, Status::Completed);
    assert_eq!(engine.store().check().unwrap(), Vec::<String>::new());
    let connection = rusqlite::Connection::open(database).unwrap();
    let verdict: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

#[test]
fn killed_at_random_moments_with_worker_processes() {
    kill_at_random_moments("process");
}

#[test]
fn killed_at_random_moments_with_threads() {
    kill_at_random_moments("thread");
}

#[test]
fn the_quick_start_prints_its_result() {
    let quick_start = video().with_file_name("quick_start");
    let output = Command::new(quick_start).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10\n");
}
