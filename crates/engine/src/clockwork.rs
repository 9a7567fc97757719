//! The one thread that minds the time: timers, heartbeats of leases, and looking at the store for
//! work that others left or brought.

use std::{sync::Arc, time::Duration};

use durable_core::{Error, Result, UnixMs};
use durable_store::{Write, Written};
use parking_lot::{Condvar, Mutex};

use crate::{committer::Answer, dispatcher::Input, shell::Shell};

/// Wakes the clockwork before its time.
#[derive(Default)]
pub(crate) struct Alarm {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Default)]
struct AlarmState {
    rung: bool,
    look_at_store: bool,
    /// The earliest wake time of an execution that this engine gave back lately.
    given_back_due_ms: Option<UnixMs>,
    stopped: bool,
}

impl Alarm {
    /// An execution was given back, and is due then.
    pub(crate) fn given_back(&self, due_ms: UnixMs) {
        let mut state = self.state.lock();
        let earlier = state.given_back_due_ms.is_none_or(|known_ms| due_ms < known_ms);
        if earlier {
            state.given_back_due_ms = Some(due_ms);
            state.rung = true;
            self.changed.notify_one();
        }
    }

    /// Something is due earlier.
    pub(crate) fn ring(&self) {
        self.state.lock().rung = true;
        self.changed.notify_one();
    }

    /// Somebody of this process wrote something to the store that is to be claimed, or there is
    /// room again for what could not be.
    pub(crate) fn look_at_store(&self) {
        let mut state = self.state.lock();
        state.rung = true;
        state.look_at_store = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_one();
    }

    /// Waits until the alarm rings or the time is over. `None` when the clockwork is to stop,
    /// else whether the store has to be looked at.
    fn wait(&self, at_most: Duration) -> Option<bool> {
        let mut state = self.state.lock();
        if !state.rung && !state.stopped {
            self.changed.wait_for(&mut state, at_most);
        }
        state.rung = false;
        (!state.stopped).then(|| std::mem::take(&mut state.look_at_store))
    }
}

/// What the clockwork remembers between two rounds.
#[derive(Default)]
pub(crate) struct Clockwork {
    change_token: u64,
    /// When the next execution that nobody holds is due, as far as is known.
    next_due_ms: Option<UnixMs>,
    next_poll_ms: UnixMs,
    next_sweep_ms: UnixMs,
    next_renewal_ms: UnixMs,
}

impl Clockwork {
    /// Goes round until the engine is closed.
    pub(crate) fn run(mut self, shell: &Arc<Shell>) {
        let mut look_at_store = true;
        loop {
            if let Err(error) = self.round(shell, look_at_store) {
                tracing::warn!(%error, "the store could not be looked at; trying again");
            }
            let wait_ms = (self.next_round_ms(shell) - shell.clock.now_ms()).max(0);
            match shell.alarm.wait(Duration::from_millis(wait_ms.unsigned_abs())) {
                Some(look) => look_at_store = look,
                None => return,
            }
        }
    }

    /// Does what is due now.
    pub(crate) fn round(&mut self, shell: &Arc<Shell>, look_at_store: bool) -> Result<()> {
        shell.feed(Input::Tick);
        let given_back_ms = shell.alarm.state.lock().given_back_due_ms.take();
        self.next_due_ms = self.next_due_ms.into_iter().chain(given_back_ms).min();
        let now_ms = shell.clock.now_ms();
        let config = &shell.config;
        if now_ms >= self.next_renewal_ms {
            self.next_renewal_ms = now_ms + config.lease_ms as i64 / 3;
            self.renew(shell, now_ms);
            shell.settle();
        }
        let due = self.next_due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if now_ms < self.next_poll_ms && !look_at_store && !due {
            return Ok(());
        }
        self.next_poll_ms = now_ms + config.poll_ms as i64;
        let token = shell.store.change_token()?;
        let sweep = now_ms >= self.next_sweep_ms;
        if token != self.change_token || look_at_store || due || sweep {
            self.change_token = token;
            self.look_at_store(shell, now_ms, sweep)?;
        }
        Ok(())
    }

    /// The heartbeat: renews what this engine holds, and its place among the workers.
    fn renew(&self, shell: &Arc<Shell>, now_ms: UnixMs) {
        let mut writes = Vec::with_capacity(2);
        if shell.dispatcher.lock().held() > 0 {
            let expires_at_ms = now_ms + shell.config.lease_ms as i64;
            writes.push(Write::Renew { owner: shell.owner.clone(), expires_at_ms });
        }
        writes.extend(shell.announcement(now_ms).map(|worker| Write::Announce(Box::new(worker))));
        let answered = |write| -> (Write, Answer) {
            let answer = |answer| {
                if let Err(error) = answer {
                    tracing::warn!(%error, "the heartbeat was not stored");
                }
            };
            (write, Box::new(answer))
        };
        if !writes.is_empty() {
            shell.committer.submit_all(writes.into_iter().map(answered).collect());
        }
    }

    fn look_at_store(&mut self, shell: &Arc<Shell>, now_ms: UnixMs, sweep: bool) -> Result<()> {
        for id in shell.store.inboxes(&shell.owner)? {
            match shell.store.load(id) {
                Ok(Some(loaded)) => shell.feed(Input::Inbox(Box::new(loaded))),
                Ok(None) => {}
                // One bad execution is no reason not to look at the others.
                Err(error) => tracing::error!(execution = %id, %error, "its inbox can't be read"),
            }
        }
        shell.wake_remote_waiters();
        let mut dead = Vec::new();
        if sweep {
            let is_shared = shell.store.clock_ms().is_some();
            self.next_sweep_ms = now_ms.saturating_add(shell.config.sweep_ms(is_shared));
            dead = shell.gone_owners()?;
        }
        self.next_due_ms = shell.store.next_due_ms(&shell.owner, &shell.duty.read().queues)?;
        let due = self.next_due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let limit = shell.dispatcher.lock().room().min(shell.config.max_claim);
        if limit == 0 {
            // The alarm tells when there is room; until then nothing here is due.
            self.next_due_ms = None;
            return Ok(());
        }
        if due || !dead.is_empty() {
            self.claim(shell, now_ms, dead, limit)?;
        }
        Ok(())
    }

    fn claim(
        &mut self,
        shell: &Arc<Shell>,
        now_ms: UnixMs,
        dead: Vec<durable_core::Owner>,
        limit: usize,
    ) -> Result<()> {
        let expires_at_ms = now_ms + shell.config.lease_ms as i64;
        let owner = shell.owner.clone();
        let claiming = shell.claims.write();
        let write = match shell.config.only {
            None => {
                let queues = shell.duty.read().queues.clone();
                Write::Claim { owner, now_ms, expires_at_ms, dead, queues, limit }
            }
            Some(execution) if shell.dispatcher.lock().holds(execution) => return Ok(()),
            Some(execution) => Write::ClaimOne { execution, owner, now_ms, expires_at_ms, dead },
        };
        let written = match shell.write(write) {
            // The one execution that is wanted is held by another engine, has ended or is gone.
            Err(Error::Conflict(_) | Error::NotFound(_)) if shell.config.only.is_some() => {
                self.next_due_ms = None;
                return Ok(());
            }
            written => written?,
        };
        if let Written::Claimed(claimed) = written {
            if claimed.len() == limit {
                shell.alarm.look_at_store();
            }
            let claimed = shell.with_programs(claimed);
            shell.feed(Input::Claimed(claimed));
        }
        drop(claiming);
        self.next_due_ms = shell.store.next_due_ms(&shell.owner, &shell.duty.read().queues)?;
        Ok(())
    }

    fn next_round_ms(&self, shell: &Arc<Shell>) -> UnixMs {
        let first_timer_ms = shell.dispatcher.lock().next_timer_ms();
        [Some(self.next_poll_ms), Some(self.next_renewal_ms), self.next_due_ms, first_timer_ms]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_poll_ms)
    }
}
