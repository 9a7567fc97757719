//! Executions that come out of the store: leased, reloaded, or with something in their inbox.

use std::sync::Arc;

use durable_core::{Error, ExecutionId, Result, UnixMs};
use durable_store::{Control, Loaded};

use super::active::{Ack, Active};
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
                let open_calls = &loaded.execution.open_calls;
                active.running.retain(|call, running| {
                    open_calls.get(call).is_some_and(|open| open.attempt == running.attempt)
                });
                active.arrived.retain(|arrival| !matches!(arrival.came, Came::Inbox(_)));
                active.arrived.extend(inbox_of(&loaded));
                let Loaded { execution, snapshot, tail, .. } = loaded;
                let snapshot = snapshot.map(|(snapshot, _)| snapshot);
                active.cold = Some(Cold { snapshot, tail });
                active.phase = Phase::Idle(execution);
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
                let after_ms = self.config.retry_commit_ms;
                out.push(Action::Load { id, full: false, after_ms });
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
        for arrival in inbox_of(&loaded) {
            let known = active
                .arrived
                .iter()
                .any(|other| other.call == arrival.call && matches!(other.came, Came::Inbox(_)));
            let open = active.open_calls().is_none_or(|open| open.contains_key(&arrival.call));
            if open && !known {
                active.arrived.push(arrival);
            }
        }
        if let Some(control) = loaded.control
            && active.controls.is_empty()
        {
            active.controls.push((control.0, control.1, None));
        }
        self.begin(now_ms, id, out);
    }

    fn replace(&mut self, id: ExecutionId, mut active: Active, out: &mut Vec<Action>) {
        if let Some(mut old) = self.active.remove(&id) {
            // Our own lease had expired and we won it again: what still runs here goes on.
            self.disarm(id, &old);
            active.running = std::mem::take(&mut old.running);
            for arrival in old.arrived {
                arrival.hand_over(id, out);
            }
            if let Some(done) = old.visit {
                let lost = Error::conflict("the lease was lost meanwhile: try again");
                out.push(Action::Answer(done, Err(lost)));
            }
        }
        self.active.insert(id, active);
    }

    /// The commands of everything that is open, as if it had just been asked for.
    fn resume_commands(&mut self, now_ms: UnixMs, id: ExecutionId, out: &mut Vec<Action>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let Phase::Idle(state) = std::mem::replace(&mut active.phase, Phase::Loading) else {
            return;
        };
        let arrived: Vec<_> = active.arrived.iter().map(|arrival| arrival.call).collect();
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
