//! Two executors as one.

use std::{collections::BTreeSet, sync::Arc};

use durable_core::{CallId, ExecutionId};
use durable_engine::{CallRequest, Executor, Outcomes};

/// Sends calls of certain functions one way and all others another.
pub struct Routed {
    functions: BTreeSet<String>,
    known: Arc<dyn Executor>,
    others: Arc<dyn Executor>,
}

impl Routed {
    /// Calls of `functions` go to `known`, all others to `others`.
    pub fn new(
        functions: BTreeSet<String>,
        known: Arc<dyn Executor>,
        others: Arc<dyn Executor>,
    ) -> Self {
        Self { functions, known, others }
    }
}

impl Executor for Routed {
    fn attach(&self, outcomes: Outcomes) {
        self.known.attach(outcomes.clone());
        self.others.attach(outcomes);
    }

    fn submit(&self, calls: Vec<CallRequest>) {
        let is_known = |call: &CallRequest| self.functions.contains(&call.function);
        let (known, others): (Vec<_>, Vec<_>) = calls.into_iter().partition(is_known);
        for (executor, calls) in [(&self.known, known), (&self.others, others)] {
            if !calls.is_empty() {
                executor.submit(calls);
            }
        }
    }

    fn cancel(&self, execution: ExecutionId, call: CallId, attempt: u32) {
        self.known.cancel(execution, call, attempt);
        self.others.cancel(execution, call, attempt);
    }

    fn recall(&self) -> Vec<CallRequest> {
        let mut calls = self.known.recall();
        calls.extend(self.others.recall());
        calls
    }
}
