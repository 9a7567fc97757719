//! Snapshots are a cache: whatever happens to them between two runs of an engine, the executions
//! go on as if nothing had happened. What they can't go on from is parked, with the reason.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use durable::{CallStatus, Config, Durable, Engine, Error, ExecutionId, Program, Status, Workflow};
use rusqlite::Connection;
use support::*;

const EXECUTIONS: usize = 12;

/// Suspended in the midst of it: some calls have ended, others are open.
const SOURCE: &str = "
from asyncio import gather
import random

async def pipeline(n):
    try:
        early_result = await early(n)
        drawn.append(random.random())
        return early_result + await late(early_result)
    except ValueError as e:
        return str(e)

drawn = []
first = await gather(*[early(n) for n in range(start, start + 3)])
rest = await gather(*[pipeline(n) for n in range(start)])
[first, rest, len(set(drawn))]
";

fn expected(start: usize) -> String {
    let first: Vec<_> = (start..start + 3).map(|n| n * 10).collect();
    let rest: Vec<_> = (0..start).map(|n| n * 10 + n * 10 + 1).collect();
    serde_json::json!([first, rest, start]).to_string()
}

fn open(scene: &Scene, calls: &Calls, gate: &Gate) -> Durable {
    let (at_early, at_late, gate) = (calls.clone(), calls.clone(), gate.clone());
    let number = |call: &durable::CallRequest| {
        serde_json::from_str::<(i64,)>(call.args.as_str()).map(|(n,)| n)
    };
    scene
        .builder()
        .config(Config { lease_ms: 1_000, ..Config::default() })
        .function_raw("early", move |call| {
            at_early.note(&call);
            async move { Ok(number(&call)? * 10) }
        })
        .function_raw("late", move |call| {
            let (gate, calls) = (gate.clone(), at_late.clone());
            async move {
                gate.pass().await;
                calls.note(&call);
                Ok(number(&call)? + 1)
            }
        })
        .open()
        .unwrap()
}

/// A database with executions in the midst of their work, and no engine.
struct Midway {
    scene: Scene,
    calls: Calls,
    ids: Vec<ExecutionId>,
}

impl Midway {
    fn new() -> Self {
        let (scene, calls) = (Scene::new(), Calls::default());
        let durable = open(&scene, &calls, &Gate::closed());
        let workflow = |start| Workflow::new(SOURCE).input("start", start).unwrap();
        let ids: Vec<_> =
            (1..=EXECUTIONS).map(|start| durable.start(&workflow(start)).unwrap()).collect();
        let sql = "SELECT count(*) FROM execution_steps
                   WHERE step_name = 'late' AND status IN ('PENDING', 'SUBMITTED')";
        let open_calls = (EXECUTIONS * (EXECUTIONS + 1) / 2) as i64;
        until("all are midway", || scene.count(sql) == open_calls);
        durable.close(Duration::ZERO);
        assert_eq!(scene.count("SELECT count(*) FROM execution_state"), EXECUTIONS as i64);
        Self { scene, calls, ids }
    }

    fn sql(&self) -> Connection {
        self.scene.sql()
    }

    /// Replaces every snapshot.
    fn replace_snapshots(&self, change: impl Fn(usize, Vec<u8>) -> Vec<u8>) {
        let sql = self.sql();
        for (index, id) in self.ids.iter().enumerate() {
            let of = "WHERE execution_id = ?1";
            let blob: Vec<u8> = sql
                .query_row(
                    &format!("SELECT state_snapshot FROM execution_state {of}"),
                    [id.to_string()],
                    |row| row.get(0),
                )
                .unwrap();
            let update = format!("UPDATE execution_state SET state_snapshot = ?2 {of}");
            sql.execute(&update, (id.to_string(), change(index, blob))).unwrap();
        }
    }

    /// Opens an engine again; everything completes, nothing that had completed runs again.
    fn completes(&self) {
        let before: BTreeSet<_> = self.calls.keys().into_iter().collect();
        let gate = Gate::closed();
        gate.open_for(10_000);
        let durable = open(&self.scene, &self.calls, &gate);
        for (index, id) in self.ids.iter().enumerate() {
            let output = output(durable.engine(), *id);
            assert_eq!(output.replace(' ', ""), expected(index + 1));
        }
        assert!(!before.is_empty());
        self.calls.assert_each_ran_once();
        assert_eq!(durable.engine().store().check().unwrap(), Vec::<String>::new());
    }

    fn every_state_was_rebuilt(&self) {
        let log = log();
        for id in &self.ids {
            let id = id.to_string();
            let told = log.lines().any(|line| line.contains(&id) && line.contains("rebuilt"));
            assert!(told, "no word of {id} in\n{log}");
        }
    }

    fn no_state_was_rebuilt(&self) {
        let log = log();
        for id in &self.ids {
            let id = id.to_string();
            assert!(!log.lines().any(|line| line.contains(&id) && line.contains("rebuilt")));
        }
    }
}

/// What the engines of this process log, from the first call on.
fn log() -> String {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    });
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn rebuilt_after(change: impl Fn(usize, Vec<u8>) -> Vec<u8>) {
    log();
    let midway = Midway::new();
    midway.replace_snapshots(change);
    midway.completes();
    midway.every_state_was_rebuilt();
}

#[test]
fn with_their_snapshots_executions_go_on_and_no_state_is_rebuilt() {
    log();
    let midway = Midway::new();
    midway.completes();
    midway.no_state_was_rebuilt();
}

#[test]
fn without_any_snapshot_executions_complete_and_no_completed_call_runs_again() {
    log();
    let midway = Midway::new();
    midway.sql().execute("DELETE FROM execution_state", []).unwrap();
    midway.completes();
    midway.every_state_was_rebuilt();
}

#[test]
fn snapshots_with_a_flipped_bit_are_rebuilt() {
    rebuilt_after(|index, mut blob| {
        // Another place in each: head, content, seal.
        let at = index * (blob.len() - 1) / (EXECUTIONS - 1);
        blob[at] ^= 1 << (index % 8);
        blob
    });
}

#[test]
fn snapshots_that_are_cut_off_are_rebuilt() {
    rebuilt_after(|index, mut blob| {
        blob.truncate(index * (blob.len() - 1) / (EXECUTIONS - 1));
        blob
    });
}

#[test]
fn snapshots_with_something_appended_are_rebuilt() {
    rebuilt_after(|_, mut blob| {
        blob.push(0);
        blob
    });
}

#[test]
fn snapshots_of_random_bytes_are_rebuilt() {
    rebuilt_after(|index, blob| {
        let mut bits = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(index as u64 + 1);
        let mut next = || {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            bits as u8
        };
        blob.iter().map(|_| next()).collect()
    });
}

#[test]
fn snapshots_of_another_execution_are_not_taken_for_ones_own() {
    log();
    let midway = Midway::new();
    let sql = midway.sql();
    for pair in midway.ids.chunks_exact(2) {
        let [a, b] = [pair[0].to_string(), pair[1].to_string()];
        for (from, to) in [(&a, "swap"), (&b, a.as_str()), (&"swap".to_owned(), b.as_str())] {
            let rename = "UPDATE execution_state SET execution_id = ?2 WHERE execution_id = ?1";
            assert_eq!(sql.execute(rename, [from.as_str(), to]).unwrap(), 1);
        }
    }
    midway.completes();
    midway.every_state_was_rebuilt();
}

#[test]
fn intact_snapshots_that_do_not_fit_the_journal_are_rebuilt() {
    log();
    let midway = Midway::new();
    // As if it had been taken before all those calls were asked for.
    midway.sql().execute("UPDATE execution_state SET position = 1", []).unwrap();
    midway.completes();
    midway.every_state_was_rebuilt();
}

#[test]
fn a_snapshot_whose_place_was_changed_by_hand_is_rebuilt() {
    let (scene, calls, gate) = (Scene::new(), Calls::default(), Gate::closed());
    let durable = open(&scene, &calls, &gate);
    let source = "from asyncio import gather\nawait gather(early(1), late(2))";
    let id = durable.start(&Workflow::new(source)).unwrap();
    until("the early call is journaled", || {
        events(durable.engine(), id).iter().any(|event| event == "STEP_COMPLETED")
    });
    durable.close(Duration::ZERO);
    // As if the result were in the snapshot: it would be lost.
    let moved = "UPDATE execution_state SET position = position + 1";
    assert_eq!(scene.sql().execute(moved, []).unwrap(), 1);
    gate.open_for(10);
    let durable = open(&scene, &calls, &gate);
    assert_eq!(output(durable.engine(), id), "[10,3]");
}

#[test]
fn a_lost_key_costs_only_the_snapshots() {
    log();
    let midway = Midway::new();
    std::fs::remove_file(midway.scene.path("durable.db.key")).unwrap();
    midway.completes();
    midway.every_state_was_rebuilt();
    assert!(midway.scene.path("durable.db.key").exists());
}

#[test]
fn a_lost_or_damaged_dictionary_costs_only_the_snapshots() {
    for damage in ["NULL", "zeroblob(length(dictionary))", "zeroblob(0)", "randomblob(3000)"] {
        log();
        let midway = Midway::new();
        let damaged = format!("UPDATE programs SET dictionary = {damage}");
        assert_eq!(midway.sql().execute(&damaged, []).unwrap(), 1);
        midway.completes();
        midway.every_state_was_rebuilt();
    }
}

/// Changes what is stored, without snapshots; gives the reason why the execution is parked.
fn parked_after(change: impl Fn(&Connection, ExecutionId)) -> (Midway, Durable, String) {
    let midway = Midway::new();
    let id = midway.ids[EXECUTIONS - 1];
    let sql = midway.sql();
    sql.execute("DELETE FROM execution_state WHERE execution_id = ?1", [id.to_string()]).unwrap();
    change(&sql, id);
    let gate = Gate::closed();
    gate.open_for(10_000);
    let durable = open(&midway.scene, &midway.calls, &gate);
    reaches(durable.engine(), id, Status::Paused);
    let reason = durable.engine().execution(id).unwrap().failure.unwrap().message;
    (midway, durable, reason)
}

fn holds_both_lists(reason: &str, journal: &str, replay: &str) {
    let (before, after) = reason.split_once("replay:").unwrap_or_else(|| panic!("{reason}"));
    assert!(before.contains("journal:") && before.contains(journal), "{reason}");
    assert!(after.contains(replay), "{reason}");
}

/// The others are none the worse for it.
fn others_complete(midway: &Midway, engine: &Engine) {
    for (index, id) in midway.ids.iter().enumerate().take(EXECUTIONS - 1) {
        assert_eq!(output(engine, *id).replace(' ', ""), expected(index + 1));
    }
}

#[test]
fn a_replay_that_passes_other_arguments_than_the_journal_holds_is_parked() {
    let (midway, durable, reason) = parked_after(|sql, id| {
        let tamper = "UPDATE execution_steps SET args = '[777]'
                      WHERE execution_id = ?1 AND step_order = 2";
        assert_eq!(sql.execute(tamper, [id.to_string()]).unwrap(), 1);
    });
    holds_both_lists(&reason, "early(*[777]", "early(*[13]");
    let id = midway.ids[EXECUTIONS - 1];
    let open = calls(durable.engine(), id);
    assert!(open.iter().all(|call| call.name != "late" || call.status != CallStatus::Failed));
    others_complete(&midway, durable.engine());
}

#[test]
fn a_replay_that_calls_another_function_than_the_journal_holds_is_parked() {
    let (midway, durable, reason) = parked_after(|sql, id| {
        let tamper = "UPDATE execution_steps SET step_name = 'late'
                      WHERE execution_id = ?1 AND step_order = 1";
        assert_eq!(sql.execute(tamper, [id.to_string()]).unwrap(), 1);
    });
    holds_both_lists(&reason, "late(*[12]", "early(*[12]");
    others_complete(&midway, durable.engine());
}

#[test]
fn an_execution_whose_program_was_altered_in_place_is_parked_and_can_be_cancelled() {
    let scene = Scene::new();
    let durable = open(&scene, &Calls::default(), &Gate::closed());
    let id = durable.start(&Workflow::new("await late(await early(1))")).unwrap();
    reaches(durable.engine(), id, Status::Waiting);
    durable.close(Duration::ZERO);
    let alter = "UPDATE programs SET definition = replace(definition, 'early(1)', 'early(2)')";
    assert_eq!(scene.sql().execute(alter, []).unwrap(), 1);
    let durable = open(&scene, &Calls::default(), &Gate::closed());
    let engine = durable.engine();
    reaches(engine, id, Status::Paused);
    let reason = engine.execution(id).unwrap().failure.unwrap().message;
    assert!(reason.contains("was altered"), "{reason}");
    assert_eq!(scene.count("SELECT count(*) FROM execution_locks"), 0);
    assert!(matches!(engine.resume(id), Err(Error::Corrupt(_))));
    assert_eq!(events(engine, id).last().unwrap(), "EXECUTION_PAUSED");
    engine.cancel(id, "its program is gone").unwrap();
    assert_eq!(events(engine, id).last().unwrap(), "EXECUTION_CANCELLED");
    engine.delete(id).unwrap();
}

#[test]
fn an_execution_whose_program_was_exchanged_is_parked_with_both_call_lists() {
    let (midway, durable, reason) = parked_after(|sql, id| {
        let of = "FROM programs WHERE id = (SELECT program_id FROM executions WHERE id = ?1)";
        let definition: String = sql
            .query_row(&format!("SELECT definition {of}"), [id.to_string()], |row| row.get(0))
            .unwrap();
        let other = definition.replace("early(n) for n", "early(n + 1) for n");
        assert_ne!(other, definition);
        let program = Program::new(serde_json::from_str(&other).unwrap());
        let insert = "INSERT INTO programs (id, definition) VALUES (?1, ?2)";
        sql.execute(insert, [program.id().as_str(), &other]).unwrap();
        let exchange = "UPDATE executions SET program_id = ?2 WHERE id = ?1";
        sql.execute(exchange, [&id.to_string(), program.id().as_str()]).unwrap();
    });
    holds_both_lists(&reason, "early(*[12]", "early(*[13]");
    others_complete(&midway, durable.engine());
}
