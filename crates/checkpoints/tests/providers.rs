//! Every provider passes the conformance suite; those of servers where there is one to ask.

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use durable_checkpoints::{Checkpoints, Options, Provider, conformance, connect};
use durable_core::Error;

/// The URL of a test server; `None` where there is none, except on CI.
fn server(name: &str) -> Option<String> {
    let url = std::env::var(name).ok();
    assert!(url.is_some() || std::env::var_os("CI").is_none(), "{name} is not set");
    url
}

#[test]
fn files_conform() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    conformance::run(&|| connect(&url).unwrap());
}

#[test]
fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:///{}/c.db", folder.path().display());
    conformance::run(&|| connect(&url).unwrap());
}

#[test]
fn objects_in_a_folder_conform() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("folder-of-objects:{}", folder.path().display());
    conformance::run(&|| connect(&url).unwrap());
}

#[test]
fn objects_in_memory_conform() {
    let memory = connect("memory:").unwrap();
    conformance::run(&|| memory.clone());
}

#[test]
fn postgres_conforms() {
    let Some(url) = server("DURABLE_TEST_POSTGRES") else { return };
    conformance::run(&|| connect(&url).unwrap());
}

#[test]
fn postgres_behind_a_pooler_conforms() {
    let Some(url) = server("DURABLE_TEST_PGBOUNCER") else { return };
    conformance::run(&|| connect(&url).unwrap());
}

#[test]
fn redis_conforms() {
    let Some(url) = server("DURABLE_TEST_REDIS") else { return };
    conformance::run(&|| connect(&url).unwrap());
}

fn files(folder: &Path) -> Arc<dyn Provider> {
    connect(&format!("file:{}", folder.display())).unwrap()
}

/// The file of a checkpoint of the execution `e`.
fn file(folder: &Path, number: u64) -> std::path::PathBuf {
    folder.join("e").join(format!("{number:012}.ckpt"))
}

#[test]
fn a_damaged_newest_file_falls_back_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(files(folder.path()), Options::default());
    for number in 1..=3 {
        checkpoints
            .save(&format!("e_ckpt_{number}"), format!("state {number}").as_bytes())
            .unwrap();
    }
    let newest = file(folder.path(), 3);
    let good = fs::read(&newest).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let second = fs::read(file(folder.path(), 2)).unwrap();
    for (damaged, word) in [
        (&good[..good.len() - 1], "checksum"),
        (&good[..0], "torn"),
        (&flipped[..], "checksum"),
        (&second[..], "holds e_ckpt_2"),
    ] {
        fs::write(&newest, damaged).unwrap();
        let error = checkpoints.load("e_ckpt_3").unwrap_err().to_string();
        assert!(error.contains("e_ckpt_3") && error.contains(word), "{error}");
        let latest = checkpoints.latest("e").unwrap().unwrap();
        assert_eq!(latest.id.to_string(), "e_ckpt_2");
        assert_eq!(latest.content, b"state 2");
        assert!(latest.skipped[0].contains(word), "{:?}", latest.skipped);
    }
    for number in 1..=2 {
        fs::write(file(folder.path(), number), b"").unwrap();
    }
    let error = checkpoints.latest("e").unwrap_err();
    let named = |number| error.to_string().contains(&format!("e_ckpt_{number}"));
    assert!(matches!(error, Error::Corrupt(_)) && (1..=3).all(named), "{error}");
}

#[test]
fn what_was_half_written_when_the_power_went_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(files(folder.path()), Options::default());
    checkpoints.save("e_ckpt_1", b"state").unwrap();
    fs::write(folder.path().join("e/writing.tmp"), b"half of").unwrap();
    fs::write(folder.path().join("e/7.ckpt"), b"not a name of ours").unwrap();
    assert_eq!(checkpoints.list("e").unwrap(), ["e_ckpt_1"]);
    checkpoints.save("e_ckpt_2", b"state").unwrap();
    assert_eq!(checkpoints.latest("e").unwrap().unwrap().id.number, 2);
}

#[test]
fn names_that_could_lead_astray_are_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(files(&folder.path().join("inner")), Options::default());
    for name in
        ["", "..", "../outer", "a/b", "a\\b", "a\nb", "a\0", "a_ckpt_2", "é", &"x".repeat(201)]
    {
        let id = format!("{name}_ckpt_1");
        assert!(matches!(checkpoints.save(&id, b"state"), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(checkpoints.load(&id), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(checkpoints.list(name), Err(Error::Invalid(_))), "{name:?}");
    }
    let found: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn another_writer_waits_until_the_first_gives_the_lease_back() {
    let folder = tempfile::tempdir().unwrap();
    let first = Checkpoints::new(files(folder.path()), Options::default());
    let second = Checkpoints::new(files(folder.path()), Options::default());
    first.save("e_ckpt_1", b"first").unwrap();
    let refused = second.save("e_ckpt_2", b"second").unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)), "{refused}");
    first.release("e").unwrap();
    second.save("e_ckpt_2", b"second").unwrap();
    assert!(first.save("e_ckpt_3", b"first").is_err());
    drop(second);
    first.acquire("e").unwrap();
    first.save("e_ckpt_3", b"first").unwrap();
}

#[test]
fn whoever_lost_its_lease_is_told_and_writes_no_more_until_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let short = Options { lease: Duration::ZERO, ..Options::default() };
    let first = Checkpoints::new(files(folder.path()), short);
    let second = Checkpoints::new(files(folder.path()), Options::default());
    first.save("e_ckpt_1", b"first").unwrap();
    second.save("e_ckpt_2", b"second").unwrap();
    for _ in 0..2 {
        let lost = first.save("e_ckpt_2", b"first").unwrap_err();
        assert!(matches!(lost, Error::Conflict(_)), "{lost}");
    }
    assert_eq!(second.load("e_ckpt_2").unwrap().as_deref(), Some(&b"second"[..]));
}

/// The writer of [`a_killed_writer_keeps_nobody_out`], which is killed.
#[test]
#[ignore = "started by another test"]
fn writer_that_is_killed() {
    let folder = std::env::var("CHECKPOINTS_OF_WRITER").unwrap();
    let checkpoints = Checkpoints::new(files(folder.as_ref()), Options::default());
    for number in 1.. {
        checkpoints
            .save(&format!("e_ckpt_{number}"), format!("state {number}").as_bytes())
            .unwrap();
    }
}

#[test]
fn a_killed_writer_keeps_nobody_out_and_leaves_nothing_torn() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = 1;
    for _ in 0..10 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "writer_that_is_killed"])
            .env("CHECKPOINTS_OF_WRITER", folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !file(folder.path(), next + 5).exists() {
            std::thread::yield_now();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        let checkpoints = Checkpoints::new(files(folder.path()), Options::default());
        let latest = checkpoints.latest("e").unwrap().unwrap();
        assert_eq!(latest.skipped, [""; 0]);
        assert_eq!(latest.content, format!("state {}", latest.id.number).as_bytes());
        // At once, on the machine where it died.
        checkpoints.save("e_ckpt_999999", b"taken over").unwrap();
        checkpoints.cleanup("e", 0).unwrap();
        next = 1;
    }
}
