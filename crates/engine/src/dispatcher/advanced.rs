//! What the runner answered.

use durable_core::{Advanced, Call, End, ExecutionId, NewCall, Reached, Result, replay};

use super::active::Work;
use super::{Action, Dispatcher, Phase};
use crate::programs::Offer;

impl Dispatcher {
    pub(super) fn advanced(&mut self, id: ExecutionId, advanced: Advanced, out: &mut Vec<Action>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let Phase::Advancing(work) = std::mem::replace(&mut active.phase, Phase::Loading) else {
            tracing::error!(execution = %id, "the runner answered what nobody asked");
            return self.retreat(id, Vec::new(), false, 0, out);
        };
        match advanced {
            Advanced::Reached(reached) => self.reached(id, *work, reached, out),
            Advanced::NotLive => {
                active.live = false;
                if active.cold.is_some() {
                    return self.advance(id, *work, out);
                }
                self.retreat(id, work.taken, false, 0, out);
            }
            Advanced::BadSnapshot(reason) => {
                tracing::warn!(execution = %id, reason,
                    "the snapshot can't be used: the state is rebuilt from the journal");
                self.retreat(id, work.taken, true, 0, out);
            }
            Advanced::Lost(reason) => {
                active.lost_advances += 1;
                tracing::warn!(execution = %id, reason, tries = active.lost_advances,
                    "the interpreter was lost while it advanced the execution");
                if active.lost_advances > self.config.max_lost_advances {
                    active.lost_advances = 0;
                    active.park = Some(format!(
                        "the interpreter was lost {} times in a row: {reason}",
                        self.config.max_lost_advances + 1
                    ));
                }
                self.retreat(id, work.taken, false, 0, out);
            }
        }
    }

    fn reached(
        &mut self,
        id: ExecutionId,
        mut work: Work,
        mut reached: Reached,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        active.lost_advances = 0;
        // A program that was stopped from outside asked for nothing that could be compared.
        let was_stopped = reached.calls.is_empty() && matches!(reached.end, End::Failed(_));
        if let Some(journaled) = &work.journaled
            && !was_stopped
            && let Err(error) = verify(journaled, &mut reached)
        {
            // Only the journal is the truth: what disagrees with it may be the snapshot, for one
            // that is intact may still stand at another place than its row says.
            if active.cold.as_ref().is_some_and(|cold| cold.snapshot.is_some()) {
                tracing::warn!(execution = %id, %error,
                    "the snapshot does not fit the journal: the state is rebuilt from the journal");
                return self.retreat(id, work.taken, true, 0, out);
            }
            active.park = Some(error.to_string());
            return self.retreat(id, work.taken, false, 0, out);
        }
        let (dictionary, live) = match &mut reached.end {
            End::Suspended { snapshot, new_dictionary } => {
                let new = new_dictionary.take();
                let offer = new.as_ref().map(|new| active.program.offer_dictionary(new));
                if offer == Some(Offer::Refused) {
                    // Another execution's dump became the dictionary first; a snapshot that
                    // refers to this one could never be read. The journal is enough.
                    *snapshot = None;
                }
                (new.filter(|_| offer == Some(Offer::Taken)), true)
            }
            End::Completed(_) | End::Failed(_) => (None, false),
        };
        if let Err(error) = work.draft.take_reached(reached) {
            active.park = Some(format!("the program's new state can't be taken in: {error}"));
            return self.retreat(id, work.taken, false, 0, out);
        }
        if work.draft.after.open_calls.is_empty() && live {
            // Nothing could ever wake it (invariant 4).
            let stuck = durable_core::Failure::new(
                "RuntimeError",
                "the program waits, but for no call and no timer",
            );
            let failed = work.draft.fail(stuck);
            debug_assert!(failed.is_ok(), "a running execution can fail");
        }
        self.commit(id, work, live, dictionary, Vec::new(), out);
    }
}

/// Compares what a replay asked for with the journal, and leaves in `reached` only what is new.
fn verify(journaled: &[Call], reached: &mut Reached) -> Result<()> {
    let new = reached.calls.pop().unwrap_or_default();
    let mut replayed: Vec<NewCall> =
        std::mem::take(&mut reached.calls).into_iter().flatten().collect();
    let old: Vec<&Call> = journaled.iter().collect();
    let asked_too_much = replayed.len() > old.len();
    if asked_too_much || replayed.len() < old.len() {
        replayed.extend(new.iter().cloned());
    }
    replay::verify(&old, &replayed)?;
    if asked_too_much || replayed.len() > old.len() {
        return Err(durable_core::Error::conflict(format!(
            "replaying the program asks for {} calls where its journal holds {}: the interpreter \
             behaves differently from the one that ran this execution",
            replayed.len(),
            old.len()
        )));
    }
    reached.calls.push(new);
    Ok(())
}
