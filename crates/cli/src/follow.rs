//! Following one execution to its end.

use std::time::Duration;

use anyhow::Result;
use durable::{Engine, ExecutionId, ExecutionRecord, Status};

use crate::{
    interrupts::{Inbox, News},
    progress::{Progress, how},
};

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How long running calls are waited for after an interrupt.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to give back the executions of others, whose calls are not run here.
const GIVE_BACK: Duration = Duration::from_millis(500);

/// Waits until an execution has ended, is paused, or a signal comes; then gives back what the
/// engine holds. Gives the execution as it is then. `is_new` when this command started it.
pub(crate) fn follow(
    engine: &Engine,
    id: ExecutionId,
    is_new: bool,
    inbox: &Inbox,
) -> Result<ExecutionRecord> {
    let mut progress = Progress::new(id, engine.store(), is_new)?;
    let followed = wait(engine, id, inbox, &mut progress);
    let patience = match &followed {
        Ok(Followed::Interrupted) => PATIENCE,
        Ok(Followed::Over) | Err(_) => GIVE_BACK,
    };
    engine.detach(patience);
    followed?;
    // It may have ended while running calls were waited for.
    let record = engine.execution(id)?;
    progress.finish(engine.store(), how(record.status))?;
    Ok(record)
}

enum Followed {
    Over,
    Interrupted,
}

fn wait(
    engine: &Engine,
    id: ExecutionId,
    inbox: &Inbox,
    progress: &mut Progress,
) -> Result<Followed> {
    loop {
        let ended = inbox.sender.clone();
        let _registered = engine.on_ended(id, move || {
            // Whoever follows may be through already.
            let _ = ended.send(News::Ended);
        });
        let status = engine.execution(id)?.status;
        if status.is_terminal() || status == Status::Paused {
            return Ok(Followed::Over);
        }
        progress.update(engine.store())?;
        if inbox.receiver.recv_timeout(TICK) == Ok(News::Interrupted) {
            return Ok(Followed::Interrupted);
        }
    }
}
