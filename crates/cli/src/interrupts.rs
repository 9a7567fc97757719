//! Ctrl-C and SIGTERM: the first is told to whoever follows an execution, the second ends the
//! process at once.

use std::sync::mpsc;

use anyhow::{Context as _, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::exit::Exit;

/// Something that whoever follows an execution wants to know at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The process was asked to end.
    Interrupted,
    /// The execution has ended, or may have.
    Ended,
}

/// Where news come in.
pub(crate) struct Inbox {
    pub(crate) sender: mpsc::Sender<News>,
    pub(crate) receiver: mpsc::Receiver<News>,
}

/// Begins to catch signals.
pub(crate) fn watch() -> Result<Inbox> {
    let (sender, receiver) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("can't watch for Ctrl-C")?;
    let to = sender.clone();
    std::thread::Builder::new()
        .name("durable-signals".into())
        .spawn(move || {
            for (count, _) in signals.forever().enumerate() {
                if count > 0 {
                    std::process::exit(Exit::Interrupted as i32);
                }
                // Whoever follows may be through already.
                let _ = to.send(News::Interrupted);
            }
        })
        .context("can't start a thread")?;
    Ok(Inbox { sender, receiver })
}

impl Inbox {
    /// Whether a signal came before anything was followed.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.receiver.try_iter().any(|news| news == News::Interrupted)
    }
}
