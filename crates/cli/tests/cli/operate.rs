//! `list`, `show`, `events`, `cancel`, `delete`, `migrate`, `doctor`.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::Desk;

const NOBODY: &str = "01900000-0000-7000-8000-000000000000";

#[test]
fn a_running_execution_is_shown_cancelled_and_deleted() {
    let desk = Desk::gated();
    let child = desk.begin_gated();
    let id = desk.newest();

    let shown = desk.durable(&["show", &id]);
    for part in ["status     waiting", "run by", "CALL  LINE  FUNCTION", "gate", "pending"] {
        assert!(shown.out.contains(part), "{part}: {shown:?}");
    }
    let calls = &desk.show(&id)["calls"];
    assert_eq!((&calls[2]["function"], &calls[2]["line"]), (&"gate".into(), &4.into()));
    assert_eq!((&calls[0]["status"], &calls[0]["result"]), (&"completed".into(), &1.into()));

    let refused = desk.durable(&["delete", &id]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let cancelled = desk.durable(&["cancel", &id, "--reason", "enough"]);
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    let ended = child.ended();
    assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{ended:?}");
    assert!(ended.err.contains("cancelled:"), "{ended:?}");
    assert_eq!(desk.durable(&["cancel", &id]).code, 2);

    assert_eq!(desk.durable(&["delete", &id]).code, 0);
    assert_eq!(desk.durable(&["delete", &id]).code, 3);
    assert!(desk.list().is_empty());
}

#[test]
fn lists_are_filtered_and_events_are_in_order() {
    let desk = Desk::new(&[
        ("good.py", "import asyncio\nawait asyncio.sleep(0.001)\n'done'\n"),
        ("bad.py", "raise ValueError('no')\n"),
    ]);
    assert_eq!(desk.durable(&["run", "good.py"]).code, 0);
    assert_eq!(desk.durable(&["run", "bad.py"]).code, 1);
    let names: Vec<_> = desk.list().iter().map(|row| row["workflow"].clone()).collect();
    assert_eq!(names, ["bad", "good"]);
    let failed = desk.durable(&["list", "--status", "failed"]);
    assert!(failed.out.contains("ValueError: no") && !failed.out.contains("good"), "{failed:?}");
    assert_eq!(desk.durable(&["list", "--status", "lost"]).code, 2);

    let good = desk.list()[1]["id"].as_str().unwrap().to_owned();
    let events = desk.durable(&["events", &good, "--json"]);
    let events: Vec<serde_json::Value> =
        events.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["EXECUTION_STARTED", "TIMER_STARTED", "TIMER_FIRED", "EXECUTION_COMPLETED"]);
    assert_eq!(events[3]["payload"]["output"], "done");
    let plain = desk.durable(&["events", &good]);
    assert!(plain.out.starts_with("   1  ") && plain.out.lines().count() == 4, "{plain:?}");
}

#[test]
fn a_failed_execution_is_retried_and_resumed() {
    let desk = Desk::new(&[
        ("flow.py", "[await count(), await fragile()]\n"),
        (
            "functions.py",
            "import os\n\ndef count():\n    open('count', 'a').write('.')\n    return 1\n\n\
             def fragile():\n    if not os.path.exists('mended'):\n        raise OSError('no')\n    \
             return 2\n",
        ),
    ]);
    let functions = ["--functions", "functions.py"];
    assert_eq!(desk.durable(&["run", "flow.py", functions[0], functions[1]]).code, 1);
    let id = desk.newest();
    desk.write("mended", "");
    let retried = desk.durable(&["retry", &id]);
    assert_eq!(retried.code, 0, "{retried:?}");
    assert_eq!(desk.durable(&["retry", &id]).code, 2);
    let resumed = desk.durable(&["resume", &id, functions[0], functions[1]]);
    assert_eq!((resumed.code, resumed.out.as_str()), (0, "[1,2]\n"), "{resumed:?}");
    assert_eq!(desk.read("count"), ".");
    let events = desk.durable(&["events", &id]);
    assert!(events.out.contains("EXECUTION_RETRIED"), "{events:?}");
    assert_eq!(desk.durable(&["doctor"]).code, 0);
}

#[test]
fn what_is_not_there_is_not_found() {
    let desk = Desk::new(&[]);
    assert_eq!(desk.durable(&["list"]).code, 4);
    assert!(!desk.path("durable.db").exists());
    assert_eq!(desk.durable(&["list", "--db", "oracle://x"]).code, 2);

    assert_eq!(desk.durable(&["migrate"]).code, 0);
    let again = desk.durable(&["migrate"]);
    assert!(again.err.contains("already"), "{again:?}");
    for command in ["show", "events", "cancel", "retry", "delete", "resume"] {
        for id in [NOBODY, "nonsense"] {
            let ended = desk.durable(&[command, id]);
            assert_eq!(ended.code, 3, "{command}: {ended:?}");
        }
    }
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let desk = Desk::new(&[("durable.db", "this is no database, but long enough to be one?")]);
    let ended = desk.durable(&["list"]);
    assert!([2, 4].contains(&ended.code) && !ended.err.is_empty(), "{ended:?}");
    assert_eq!(desk.durable(&["doctor"]).code, 4);
}

#[test]
fn doctor_finds_what_is_wrong() {
    let desk = Desk::new(&[("one.py", "1"), ("functions.py", "def f(): pass\n")]);
    let ended = desk.durable(&["doctor"]);
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.out.contains("problem  database"), "{ended:?}");

    assert_eq!(desk.durable(&["run", "one.py"]).code, 0);
    let ended = desk.durable(&["doctor", "--functions", "functions.py"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!ended.out.contains("problem"), "{ended:?}");

    let key = desk.path("durable.db.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = desk.durable(&["doctor", "--functions", "none.py", "--json"]);
    assert_eq!(ended.code, 4, "{ended:?}");
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let problems: Vec<_> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(problems, ["snapshot key", "python"]);
}
