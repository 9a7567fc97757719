//! What the committer answered, and the commands that leave after it.

use std::sync::Arc;

use durable_core::{
    CallId, Command, Error, Execution, ExecutionId, Language, Request, Result, UnixMs,
};

use super::active::{Active, Commit, Running};
use super::timers::Timer;
use super::{Action, Dispatcher, Phase};
use crate::executor::CallRequest;

impl Dispatcher {
    pub(super) fn committed(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        result: Result<()>,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let Phase::Committing(commit) = std::mem::replace(&mut active.phase, Phase::Loading) else {
            tracing::error!(execution = %id, "the committer answered what nobody asked");
            return self.retreat(id, Vec::new(), false, 0, out);
        };
        match result {
            Ok(()) => self.carry_out(now_ms, id, *commit, out),
            Err(error) => self.commit_failed(now_ms, id, *commit, &error, out),
        }
    }

    fn commit_failed(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        commit: Commit,
        error: &Error,
        out: &mut Vec<Action>,
    ) {
        let wait_ms = match error {
            Error::Conflict(_) => 0,
            _ => self.config.retry_commit_ms,
        };
        tracing::warn!(execution = %id, %error, "a transition was not committed: reloading");
        for ack in commit.controls {
            out.push(Action::Answer(ack, Err(error.clone())));
        }
        let Some(active) = self.active.get_mut(&id) else { return };
        active.failed_commits += 1;
        if active.failed_commits > self.config.max_failed_commits {
            // Trying for ever would only keep the store busy. Whoever takes it later starts from
            // what the store has.
            let wait_ms = self.config.lease_ms;
            tracing::error!(execution = %id, %error, wait_ms, "given up for a while");
            let again_ms = now_ms.saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX));
            let (lease, wake_at_ms) = (active.lease.clone(), Some(again_ms));
            active.arrived.splice(0..0, commit.taken);
            let done = active.visit.take();
            out.push(Action::Release { id, lease, wake_at_ms, done: None });
            out.extend(done.map(|done| Action::Answer(done, Err(error.clone()))));
            return self.drop_active(id, out);
        }
        self.retreat(id, commit.taken, false, wait_ms, out);
    }

    fn carry_out(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        commit: Commit,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        active.live = commit.live;
        active.failed_commits = 0;
        active.cold = commit.cold;
        let acks = commit.taken.into_iter().filter_map(|arrival| arrival.ack);
        out.extend(acks.chain(commit.controls).map(|ack| Action::Answer(ack, Ok(()))));
        let ended = commit.after.status.is_terminal();
        // Whoever fed a session waits until it asks for its next feed.
        let is_session = active.program.definition().language == Language::Session;
        let is_fed = is_session && commit.after.open_feed().is_some();
        let state = Arc::try_unwrap(commit.after).unwrap_or_else(|shared| (*shared).clone());
        if ended || commit.release {
            if let Some(done) = active.visit.take() {
                out.push(Action::Answer(done, Ok(())));
            }
            out.extend(state.wake_at_ms().map(Action::GivenBack));
            active.phase = Phase::Idle(state);
            self.drop_active(id, out);
            if ended || is_fed {
                out.push(Action::News(id));
            }
            return;
        }
        if is_fed {
            out.push(Action::News(id));
        }
        if commit.resumes {
            // What came in while it was paused lies in the inbox, and is not to be done again.
            return self.retreat(id, Vec::new(), false, 0, out);
        }
        self.run_commands(now_ms, id, &state, commit.commands, out);
        if let Some(active) = self.active.get_mut(&id) {
            active.phase = Phase::Idle(state);
        }
        self.begin(now_ms, id, out);
    }

    /// Carries out commands: calls go to the executor together, timers are armed.
    pub(super) fn run_commands(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        state: &Execution,
        commands: Vec<Command>,
        out: &mut Vec<Action>,
    ) {
        for command in &commands {
            if let Command::CancelCall { call } = command {
                self.stop(id, *call, out);
            }
        }
        let Some(active) = self.active.get_mut(&id) else { return };
        let may_run = self.attached && active.visit.is_none();
        let mut submitted = Vec::new();
        let mut armed = Vec::new();
        for command in commands {
            match command {
                Command::RunCall { call, attempt } => {
                    if may_run && let Some(request) = request(now_ms, id, active, state, call) {
                        let deadline = deadline(&request);
                        active.running.insert(call, Running { attempt, deadline });
                        armed.extend(deadline.map(|(_, due_ms)| (due_ms, call, Timer::Deadline)));
                        submitted.push(request);
                    }
                }
                Command::WakeAt { call, due_ms } => armed.push((due_ms, call, Timer::Due)),
                Command::CancelCall { .. } | Command::Finish => {}
            }
        }
        if !submitted.is_empty() {
            out.push(Action::Submit(submitted));
        }
        for (due_ms, call, timer) in armed {
            self.arm(id, call, due_ms, timer, out);
        }
    }
}

fn deadline(request: &CallRequest) -> Option<(u64, UnixMs)> {
    let timeout_ms = request.timeout_ms?;
    let wait_ms = i64::try_from(timeout_ms).unwrap_or(i64::MAX);
    Some((timeout_ms, request.handed_out_at_ms.saturating_add(wait_ms)))
}

/// The next attempt of a call, ready for an executor; `None` for one that runs already.
fn request(
    now_ms: UnixMs,
    id: ExecutionId,
    active: &Active,
    state: &Execution,
    call: CallId,
) -> Option<CallRequest> {
    if active.running.contains_key(&call) {
        return None;
    }
    let open = state.open_calls.get(&call)?;
    let Request::Function { name, args, kwargs, .. } = &open.new.request else { return None };
    let options = active.program.definition().options_of(&open.new.request);
    Some(CallRequest {
        execution: id,
        call,
        attempt: open.attempt,
        function: options.target.unwrap_or_else(|| name.clone()),
        step: name.clone(),
        args: args.clone(),
        kwargs: kwargs.clone(),
        timeout_ms: options.timeout_ms,
        handed_out_at_ms: now_ms,
    })
}
