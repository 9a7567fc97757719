//! How far an execution is, on standard error: a line that is redrawn on a terminal, else plain
//! lines.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use durable::{ExecutionId, Result, Status};
use durable_core::Event;
use durable_store::Store;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text;

/// How many events are read at a time.
const PAGE: usize = 1_000;

/// Least time between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Follows the journal of an execution: what it adds is read once, however long it gets.
pub(crate) struct Progress {
    id: ExecutionId,
    began: Instant,
    last_sequence: u64,
    counts: Counts,
    display: Display,
}

/// Calls and timers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    asked_for: u64,
    done: u64,
}

enum Display {
    Terminal(ProgressBar),
    Plain { last: Option<(Instant, Counts)> },
}

impl Progress {
    /// Begins to follow. What an earlier run of the command has printed is not printed again, so
    /// what happened before is only counted, unless the execution `is_new`.
    pub(crate) fn new(id: ExecutionId, store: &dyn Store, is_new: bool) -> Result<Self> {
        let display = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            Display::Terminal(bar.with_style(style))
        } else {
            Display::Plain { last: None }
        };
        let (counts, last_sequence) = (Counts::default(), 0);
        let mut progress = Self { id, began: Instant::now(), last_sequence, counts, display };
        progress.read(store, is_new)?;
        Ok(progress)
    }

    /// Looks at what is new, and shows it if it is time to.
    pub(crate) fn update(&mut self, store: &dyn Store) -> Result<()> {
        self.read(store, true)?;
        let line = self.line();
        match &mut self.display {
            Display::Terminal(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            Display::Plain { last } => {
                let is_due = last.is_none_or(|(at, counts)| {
                    at.elapsed() >= PLAIN_INTERVAL && counts != self.counts
                });
                if is_due && self.counts != Counts::default() {
                    text::say(&line);
                    *last = Some((Instant::now(), self.counts));
                }
            }
        }
        Ok(())
    }

    /// Shows how it ended.
    pub(crate) fn finish(mut self, store: &dyn Store, how: &str) -> Result<()> {
        self.read(store, true)?;
        if let Display::Terminal(bar) = &self.display {
            bar.finish_and_clear();
        }
        text::say(&format!("{how}: {}", self.line()));
        Ok(())
    }

    fn line(&self) -> String {
        let Counts { asked_for, done } = self.counts;
        let elapsed_ms = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        format!("{done}/{asked_for} calls, {}", text::duration(elapsed_ms))
    }

    fn read(&mut self, store: &dyn Store, show_printed: bool) -> Result<()> {
        loop {
            let page = store.journal(self.id, self.last_sequence, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            self.last_sequence = last.sequence;
            for recorded in &page {
                match &recorded.event {
                    Event::CallRequested(_) | Event::TimerStarted(_) => self.counts.asked_for += 1,
                    Event::CallCompleted { .. }
                    | Event::CallFailed { .. }
                    | Event::TimerFired { .. } => self.counts.done += 1,
                    Event::Printed { text } if show_printed => self.pass_on(text),
                    Event::ExecutionStarted { .. }
                    | Event::AgentInvoked { .. }
                    | Event::AgentResponded { .. }
                    | Event::CallRetrying { .. }
                    | Event::Printed { .. }
                    | Event::VariablesSet { .. }
                    | Event::ExecutionPaused { .. }
                    | Event::ExecutionResumed
                    | Event::ExecutionCompleted { .. }
                    | Event::ExecutionFailed { .. }
                    | Event::ExecutionCancelled { .. } => {}
                    Event::ExecutionRetried(retried) => {
                        let Counts { asked_for, done } = &mut self.counts;
                        *asked_for = asked_for.saturating_sub(retried.dropped.len() as u64);
                        *done = asked_for.saturating_sub(retried.open.len() as u64);
                    }
                }
            }
        }
    }

    /// What the workflow printed goes where progress goes: standard output is for the result.
    fn pass_on(&self, printed: &str) {
        let printed = printed.trim_end_matches('\n');
        match &self.display {
            Display::Terminal(bar) => bar.suspend(|| text::say(printed)),
            Display::Plain { .. } => text::say(printed),
        }
    }
}

/// What is said of an execution that is not followed any more.
pub(crate) fn how(status: Status) -> &'static str {
    match status {
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Paused => "paused",
        Status::Scheduled | Status::Running | Status::Waiting => "interrupted",
    }
}
