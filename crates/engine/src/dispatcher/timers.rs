//! Timers of the executions that are held here: sleeps, due attempts, deadlines of attempts.
//!
//! There is one structure, ordered by time, and one thread that waits for its first entry.
//! Executions that are not held have their wake time in the store instead.

use durable_core::{CallId, ExecutionId, Outcome, UnixMs};

use super::active::{Active, Running};
use super::{Action, Arrival, Came, Dispatcher, Phase, timed_out};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The call's own due time: a sleep ends, or an attempt is to be made.
    Due,
    /// The running attempt has taken too long.
    Deadline,
}

impl Dispatcher {
    pub(super) fn arm(
        &mut self,
        id: ExecutionId,
        call: CallId,
        due_ms: UnixMs,
        timer: Timer,
        out: &mut Vec<Action>,
    ) {
        let first = self.next_timer_ms();
        self.timers.insert((due_ms, id, call, timer));
        if first.is_none_or(|first| due_ms < first) {
            out.push(Action::WakeClockwork);
        }
    }

    /// Forgets the timers of an execution.
    pub(super) fn disarm(&mut self, id: ExecutionId, active: &Active) {
        let open_calls = active.open_calls().into_iter().flatten();
        for (call, due_ms) in open_calls.filter_map(|(call, open)| Some((*call, open.due_ms?))) {
            self.timers.remove(&(due_ms, id, call, Timer::Due));
        }
        let running = active.running.iter();
        for (call, (_, due_ms)) in running.filter_map(|(call, one)| Some((*call, one.deadline?))) {
            self.timers.remove(&(due_ms, id, call, Timer::Deadline));
        }
    }

    /// Handles every timer that is due.
    pub(super) fn fire(&mut self, now_ms: UnixMs, out: &mut Vec<Action>) {
        while let Some(&(due_ms, id, call, timer)) = self.timers.first() {
            if due_ms > now_ms {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Due => self.fire_due(now_ms, id, call, due_ms, out),
                Timer::Deadline => self.fire_deadline(now_ms, id, call, due_ms, out),
            }
        }
    }

    fn fire_due(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        call: CallId,
        due_ms: UnixMs,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        // While the state is being loaded the loading arms the timers again.
        let Some(open) = active.open_calls().and_then(|calls| calls.get(&call)) else { return };
        if open.due_ms.is_none_or(|due_ms| due_ms > now_ms) {
            return;
        }
        if open.is_timer() {
            active.arrived.push(Arrival { call, came: Came::Fired, ack: None });
            return self.begin(now_ms, id, out);
        }
        let attempt = open.attempt;
        let command = durable_core::Command::RunCall { call, attempt };
        match std::mem::replace(&mut active.phase, Phase::Loading) {
            Phase::Idle(state) => {
                self.run_commands(now_ms, id, &state, vec![command], out);
                if let Some(active) = self.active.get_mut(&id) {
                    active.phase = Phase::Idle(state);
                }
            }
            // Something is under way: look again when it is over, which is soon.
            busy => {
                active.phase = busy;
                self.arm(id, call, due_ms.max(now_ms + 1), Timer::Due, out);
            }
        }
    }

    fn fire_deadline(
        &mut self,
        now_ms: UnixMs,
        id: ExecutionId,
        call: CallId,
        due_ms: UnixMs,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let Some(&Running { attempt, deadline }) = active.running.get(&call) else { return };
        // A deadline of an earlier attempt finds another time here, or none.
        let Some((timeout_ms, _)) = deadline.filter(|(_, deadline_ms)| *deadline_ms == due_ms)
        else {
            return;
        };
        let outcome = Outcome::Failed(timed_out(timeout_ms));
        active.arrived.push(Arrival { call, came: Came::Ran { attempt, outcome }, ack: None });
        self.stop(id, call, out);
        self.begin(now_ms, id, out);
    }
}
