//! `durable export`, `durable import`, `durable copy`, `durable pause` and `durable migrate`.

use crate::support::{Desk, Ended};

const THERE: &str = "sqlite:///there.db";

#[test]
fn an_execution_is_paused_exported_imported_and_resumed_elsewhere() {
    let desk = Desk::gated();
    let child = desk.begin_gated();
    let id = desk.newest();
    let held = desk.durable(&["export", &id]);
    assert_eq!(held.code, 2, "{held:?}");
    assert!(held.err.contains("is held by") && held.out.is_empty(), "{held:?}");
    assert_eq!(desk.durable(&["pause", &id, "--reason", "moving"]).code, 0);
    assert_eq!(child.ended().code, 1);

    let exported = desk.durable(&["export", &id]);
    assert_eq!(exported.code, 0, "{exported:?}");
    desk.write("run.json", &exported.out);
    let imported = desk.durable(&["import", "run.json", "--db", THERE]);
    assert_eq!(imported.code, 0, "{imported:?}");
    assert!(imported.err.contains("it is paused"), "{imported:?}");
    let again = desk.durable(&["import", "run.json", "--db", THERE]);
    assert!(again.err.contains("there already"), "{again:?}");

    let resumed = desk.begin(&["resume", &id, "--functions", "functions.py", "--db", THERE]);
    desk.wait_at_gate();
    let open = desk.open_gate();
    let ended = resumed.ended();
    drop(open);
    assert_eq!(ended.code, 0, "{ended:?}");
    let mut log: Vec<_> = desk.read("log").lines().map(str::to_owned).collect();
    log[..2].sort_unstable();
    assert_eq!(log, ["step 1", "step 2", "gate", "gate", "step 3"]);
    assert_eq!(desk.durable(&["doctor", "--db", THERE]).code, 0);

    for (file, text) in [("torn.json", &exported.out[..100]), ("other.json", "[1]")] {
        desk.write(file, text);
        let refused = desk.durable(&["import", file, "--db", "sqlite:///nothing.db"]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.err.contains("no exported execution"), "{refused:?}");
    }
    assert!(!desk.path("nothing.db").exists());
}

#[test]
fn all_executions_are_copied_and_once_only() {
    let desk = Desk::new(&[
        ("good.py", "import asyncio\nprint('hi')\nawait asyncio.sleep(0.001)\n'done'\n"),
        ("bad.py", "raise ValueError('no')\n"),
    ]);
    desk.durable(&["run", "good.py", "--tag", "x"]);
    desk.durable(&["run", "bad.py"]);
    desk.durable(&["start", "good.py", "--key", "k"]);
    let copy = ["copy", "--from", "sqlite:///durable.db", "--to", THERE];
    let copied = desk.durable(&copy);
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(copied.err.contains("3 copied, 0 continued, 0 there already, 0 refused"), "{copied:?}");
    assert!(copied.err.contains("1 of them have not ended"), "{copied:?}");
    let again = desk.durable(&copy);
    assert!(again.err.contains("0 copied, 0 continued, 3 there already"), "{again:?}");
    let listed = |url: &str| desk.durable(&["list", "--json", "--db", url]).out;
    assert_eq!(listed(THERE), listed("sqlite:///durable.db"));

    let one = desk.list()[1]["id"].as_str().unwrap().to_owned();
    let elsewhere = ["--from", "sqlite:///durable.db", "--to", "sqlite:///one.db"];
    let copied =
        desk.durable(&["copy", &one, elsewhere[0], elsewhere[1], elsewhere[2], elsewhere[3]]);
    assert!(copied.err.contains("1 copied"), "{copied:?}");
    assert_eq!(listed("sqlite:///one.db").lines().count(), 1);
}

#[test]
fn a_dry_run_of_migrate_says_what_it_would_do_and_changes_nothing() {
    let desk = Desk::new(&[]);
    let planned = desk.durable(&["migrate", "--dry-run"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    assert!(planned.err.contains("would be created"), "{planned:?}");
    assert!(planned.out.contains("-- to schema version 1\n"), "{planned:?}");
    assert!(planned.out.contains("CREATE TABLE IF NOT EXISTS executions"), "{planned:?}");
    assert!(!desk.path("durable.db").exists());
    assert_eq!(desk.durable(&["migrate"]).code, 0);
    let bytes = std::fs::read(desk.path("durable.db")).unwrap();
    let planned = desk.durable(&["migrate", "--dry-run"]);
    assert!(planned.err.contains("already") && planned.out.is_empty(), "{planned:?}");
    assert_eq!(std::fs::read(desk.path("durable.db")).unwrap(), bytes);
}

#[test]
fn payloads_are_sealed_with_keys_from_the_environment() {
    const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let desk = Desk::new(&[("flow.py", "import asyncio\nawait asyncio.sleep(0.001)\n'hush'\n")]);
    let with_keys = |arguments: &[&str]| {
        let mut command = desk.command(arguments);
        Ended::of(command.env("DURABLE_ENCRYPTION_KEYS", KEYS).output().unwrap())
    };
    let ended = with_keys(&["run", "flow.py"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "\"hush\"\n"), "{ended:?}");
    let id = desk.newest();
    let shown = with_keys(&["show", &id]);
    assert!(shown.out.contains("hush"), "{shown:?}");
    let refused = desk.durable(&["show", &id]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("'k1'") && refused.out.is_empty(), "{refused:?}");
    assert!(!desk.durable(&["list"]).out.contains("hush"));
    // A file holds what the keys opened; the other database has none.
    desk.write("run.json", &with_keys(&["export", &id]).out);
    assert_eq!(desk.durable(&["import", "run.json", "--db", THERE]).code, 0);
    assert!(desk.durable(&["show", &id, "--db", THERE]).out.contains("hush"));
    let mut command = desk.command(&["list"]);
    let wrong = Ended::of(command.env("DURABLE_ENCRYPTION_KEYS", "k1:short").output().unwrap());
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(!wrong.err.contains("short"), "{wrong:?}");
}
