//! Executions that come out of the store: leased, reloaded, or with something in their inbox.

use std::{collections::HashSet, sync::Arc};

use durable_core::{CallId, Error, Execution, ExecutionId, Result, UnixMs};
use durable_store::{Control, Loaded};

use super::active::{Ack, Active, Running};
use super::begin::late;
use super::{Action, Arrival, Came, Cold, Dispatcher, Phase};
use crate::programs::CachedProgram;

impl Dispatcher {
    /// Goes on with an execution that was just leased.
    pub(super) fn take_up(
        &mut self,
        now_ms: UnixMs,
        id_loaded: Loaded,
        program: Arc<CachedProgram>,
        out: &mut Vec<Action>,
    ) {
        let id = id_loaded.execution.id;
        let Some(active) = open(id_loaded, program) else { return };
        self.replace(id, active, out);
        self.resume_commands(now_ms, id, out);
        self.begin(now_ms, id, out);
    }

    /// As [`Self::take_up`], for somebody who waits for one change and runs no calls.
    pub(super) fn visit(
        &mut self,
        now_ms: UnixMs,
        loaded: Loaded,
        program: Arc<CachedProgram>,
        control: Option<(Control, String)>,
        done: Ack,
        out: &mut Vec<Action>,
    ) {
        let id = loaded.execution.id;
        let Some(mut active) = open(loaded, program) else {
            let gone = Error::conflict("the lease was lost");
            return out.push(Action::Answer(done, Err(gone)));
        };
        active.visit = Some(done);
        active.controls.extend(control.map(|(control, reason)| (control, reason, None)));
        self.replace(id, active, out);
        self.begin(now_ms, id, out);
    }

    /// Takes the state that [`Action::Load`] asked for.
    pub(super) fn loaded(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        loaded: Result<Option<Loaded>>,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        match loaded {
            Ok(Some(loaded)) if loaded.lease.as_ref() == Some(&active.lease) => {
                active.take_inbox(inbox_of(&loaded));
                let Loaded { execution, snapshot, tail, .. } = loaded;
                let snapshot = snapshot.map(|(snapshot, _)| snapshot);
                active.cold = Some(Cold { snapshot, tail });
                active.phase = Phase::Idle(execution);
                self.drop_outdated(id, out);
                self.resume_commands(now_ms, id, out);
                self.begin(now_ms, id, out);
            }
            Ok(_) => {
                tracing::warn!(execution = %id, "the lease was lost to another engine");
                self.drop_active(id, out);
            }
            Err(error @ Error::Corrupt(_)) => {
                tracing::error!(execution = %id, %error, "its rows contradict each other");
                self.drop_active(id, out);
            }
            Err(error) => {
                tracing::warn!(execution = %id, %error, "the execution can't be loaded now");
                let (epoch, after_ms) = (active.lease.epoch, self.config.retry_commit_ms);
                out.push(Action::Load { id, epoch, full: false, after_ms });
            }
        }
    }

    /// Takes in what others put into the inbox of an execution that is held here.
    pub(super) fn inbox(&mut self, now_ms: UnixMs, loaded: Loaded, out: &mut Vec<Action>) {
        let id = loaded.execution.id;
        let Some(active) = self.active.get_mut(&id) else { return };
        if loaded.lease.as_ref() != Some(&active.lease) {
            return;
        }
        let is_open = |arrival: &Arrival| {
            active.open_calls().is_none_or(|open_calls| arrival.is_awaited(open_calls))
        };
        let inbox: Vec<_> = inbox_of(&loaded).filter(is_open).collect();
        active.take_inbox(inbox);
        if let Some(control) = loaded.control
            && active.controls.is_empty()
        {
            active.controls.push((control.0, control.1, None));
        }
        self.begin(now_ms, id, out);
    }

    fn replace(&mut self, id: ExecutionId, mut active: Active, out: &mut Vec<Action>) {
        if let Some(old) = self.active.get_mut(&id) {
            // Our own lease had expired and we won it again: what still runs here goes on.
            active.running = std::mem::take(&mut old.running);
            self.drop_active(id, out);
        }
        self.active.insert(id, active);
        self.drop_outdated(id, out);
    }

    /// Forgets what came in, and what runs, of calls that have ended and of earlier attempts.
    fn drop_outdated(&mut self, id: ExecutionId, out: &mut Vec<Action>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let Phase::Idle(Execution { open_calls, .. }) = &active.phase else { return };
        let is_late = |arrival: &mut Arrival| !arrival.is_awaited(open_calls);
        for arrival in active.arrived.extract_if(.., is_late) {
            if let Some(ack) = arrival.ack {
                out.push(Action::Answer(ack, Err(late(arrival.call))));
            }
        }
        let runs_on = |(call, running): &(&CallId, &Running)| {
            open_calls.get(call).is_some_and(|open| open.attempt == running.attempt)
        };
        let ended: Vec<_> =
            active.running.iter().filter(|one| !runs_on(one)).map(|(call, _)| *call).collect();
        for call in ended {
            self.stop(id, call, out);
        }
    }

    /// The commands of everything that is open, as if it had just been asked for.
    fn resume_commands(&mut self, now_ms: UnixMs, id: ExecutionId, out: &mut Vec<Action>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let Phase::Idle(state) = std::mem::replace(&mut active.phase, Phase::Loading) else {
            return;
        };
        let arrived: HashSet<_> = active.arrived.iter().map(|arrival| arrival.call).collect();
        let is_waited_for = |call: &durable_core::Call| !arrived.contains(&call.id());
        if !matches!(state.status, durable_core::Status::Paused) {
            let open = state.open_calls.values().filter(|call| is_waited_for(call));
            let commands = open.filter_map(durable_core::Call::command).collect();
            self.run_commands(now_ms, id, &state, commands, out);
        }
        if let Some(active) = self.active.get_mut(&id) {
            active.phase = Phase::Idle(state);
        }
    }
}

fn open(loaded: Loaded, program: Arc<CachedProgram>) -> Option<Active> {
    let arrived: Vec<_> = inbox_of(&loaded).collect();
    let control = loaded.control;
    let Loaded { execution, inputs, lease, snapshot, tail, .. } = loaded;
    let cold = Cold { snapshot: snapshot.map(|(snapshot, _)| snapshot), tail };
    let mut active = Active::new(lease?, program, inputs, execution, cold);
    active.arrived = arrived;
    active.controls.extend(control.map(|(control, reason)| (control, reason, None)));
    Some(active)
}

fn inbox_of(loaded: &Loaded) -> impl Iterator<Item = Arrival> + '_ {
    loaded.inbox.iter().map(|(call, outcome)| Arrival {
        call: *call,
        came: Came::Inbox(outcome.clone()),
        ack: None,
    })
}
