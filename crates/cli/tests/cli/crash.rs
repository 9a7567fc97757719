//! Executions outlive the process that runs them.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::support::{Desk, GATED_OUTPUT};

type Send = fn(Pid, Signal) -> rustix::io::Result<()>;

const RESUME: [&str; 2] = ["--functions", "functions.py"];

#[test]
fn after_kill_9_it_goes_on_and_no_completed_call_is_run_again() {
    let desk = Desk::gated();
    let child = desk.begin_gated();
    child.kill();
    let id = desk.newest();
    assert_eq!(desk.show(&id)["status"], "waiting");

    let resumed = desk.begin(&["resume", &id, RESUME[0], RESUME[1]]);
    desk.wait_at_gate();
    let open = desk.open_gate();
    let ended = resumed.ended();
    drop(open);
    assert_eq!((ended.code, ended.out.as_str()), (0, GATED_OUTPUT), "{ended:?}");
    let mut log: Vec<_> = desk.read("log").lines().map(str::to_owned).collect();
    log[..2].sort_unstable();
    assert_eq!(log, ["step 1", "step 2", "gate", "gate", "step 3"]);
}

#[test]
fn an_interrupt_leaves_it_resumable_and_says_how() {
    // A terminal sends Ctrl-C to all processes of the group.
    for (signal, send) in [(Signal::INT, kill_process_group as Send), (Signal::TERM, kill_process)]
    {
        let desk = Desk::gated();
        let child = desk.begin_gated();
        send(child.pid(), signal).unwrap();
        let ended = child.ended();
        let id = desk.newest();
        assert_eq!((ended.code, ended.out.as_str()), (130, ""), "{ended:?}");
        let hint =
            format!("durable resume {id} --db sqlite:///durable.db --functions functions.py");
        assert!(ended.err.contains(&hint), "{ended:?}");
        let shown = desk.show(&id);
        assert_eq!((&shown["status"], &shown["locked_by"]), (&"waiting".into(), &().into()));

        let open = desk.open_gate();
        let resumed = desk.begin(&["resume", &id, RESUME[0], RESUME[1]]);
        desk.wait_at_gate();
        let ended = resumed.ended();
        drop(open);
        assert_eq!((ended.code, ended.out.as_str()), (0, GATED_OUTPUT), "{ended:?}");
    }
}

#[test]
fn what_has_ended_is_told_again_and_functions_are_asked_for() {
    let desk = Desk::gated();
    let child = desk.begin_gated();
    kill_process(child.pid(), Signal::INT).unwrap();
    child.ended();
    let id = desk.newest();

    let ended = desk.durable(&["resume", &id]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.err.contains("calls gate, step: give --functions"), "{ended:?}");
    desk.write("other.py", "def gate(): pass\n");
    let ended = desk.durable(&["resume", &id, "--functions", "other.py"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.err.contains("calls step, which the module"), "{ended:?}");

    assert_eq!(desk.durable(&["cancel", &id]).code, 0);
    let ended = desk.durable(&["resume", &id]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("cancelled already"), "{ended:?}");
}

#[test]
fn other_executions_of_the_database_are_left_alone() {
    let desk = Desk::gated();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let child = desk.begin_gated();
        child.kill();
        ids.push(desk.newest());
    }
    // Another workflow, with another function of the same name.
    desk.write("other_functions.py", "def gate():\n    raise RuntimeError('the wrong gate')\n");
    desk.write("other.py", "try:\n    await gate()\nexcept RuntimeError:\n    r = 'wrong'\nr\n");
    let ended = desk.durable(&["run", "other.py", "--functions", "other_functions.py"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "\"wrong\"\n"), "{ended:?}");

    let left_behind = desk.show(&ids[1])["locked_by"].clone();
    assert!(left_behind.is_string());
    let open = desk.open_gate();
    for (resumed, still_waiting) in [(&ids[0], Some(&ids[1])), (&ids[1], None)] {
        let child = desk.begin(&["resume", resumed, RESUME[0], RESUME[1]]);
        desk.wait_at_gate();
        let ended = child.ended();
        assert_eq!((ended.code, ended.out.as_str()), (0, GATED_OUTPUT), "{ended:?}");
        if let Some(id) = still_waiting {
            // It is not touched at all: the lease of the process that was killed is still there.
            assert_eq!(desk.show(id)["locked_by"], left_behind);
        }
    }
    drop(open);
    let gates = desk.read("log").lines().filter(|line| *line == "gate").count();
    assert_eq!(gates, 4);
}
