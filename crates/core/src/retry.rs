//! When a failed attempt is tried again.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// How often and at what distance a call is attempted. The default is one attempt: no retry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Most attempts in all, the first included; at least 1.
    pub max_attempts: u32,
    /// Wait before the second attempt.
    pub initial_interval_ms: u64,
    /// Each wait is this many times the one before; at least 1.
    pub backoff_coefficient: f64,
    /// Longest wait, before jitter.
    pub max_interval_ms: u64,
    /// Share of the wait that is drawn at random, 0 to 1: a wait `w` becomes `w*(1-jitter) .. w`.
    pub jitter: f64,
    /// Error types that are never retried.
    pub non_retryable: Vec<String>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            initial_interval_ms: 1_000,
            backoff_coefficient: 2.0,
            max_interval_ms: 100_000,
            jitter: 0.1,
            non_retryable: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// Checks the ranges the fields document.
    ///
    /// # Errors
    /// A sentence that names the field, its value and its range.
    pub fn validate(&self) -> crate::Result<()> {
        let invalid = |what: String| Err(crate::Error::invalid(format!("retry policy: {what}")));
        if self.max_attempts < 1 {
            return invalid("max_attempts is 0, it must be at least 1".into());
        }
        if !(self.backoff_coefficient >= 1.0 && self.backoff_coefficient.is_finite()) {
            return invalid(format!(
                "backoff_coefficient is {}, it must be at least 1",
                self.backoff_coefficient
            ));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return invalid(format!("jitter is {}, it must lie between 0 and 1", self.jitter));
        }
        Ok(())
    }

    /// The wait before the attempt after `attempt` (which failed with `failure`), in
    /// milliseconds; `None` when there is no further attempt.
    ///
    /// `random` is drawn by the caller from 0 to 1.
    ///
    /// ```
    /// use durable_core::{Failure, RetryPolicy};
    /// let policy = RetryPolicy { max_attempts: 3, jitter: 0.0, ..RetryPolicy::default() };
    /// let failure = Failure::new("OSError", "busy");
    /// assert_eq!(policy.next_delay_ms(1, &failure, 0.5), Some(1_000));
    /// assert_eq!(policy.next_delay_ms(2, &failure, 0.5), Some(2_000));
    /// assert_eq!(policy.next_delay_ms(3, &failure, 0.5), None);
    /// ```
    pub fn next_delay_ms(&self, attempt: u32, failure: &Failure, random: f64) -> Option<u64> {
        assert!(attempt >= 1, "attempts are counted from 1");
        let refused = self.non_retryable.contains(&failure.error_type);
        if attempt >= self.max_attempts || refused {
            return None;
        }
        let exponent = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
        let wait_ms = (self.initial_interval_ms as f64 * self.backoff_coefficient.powi(exponent))
            .min(self.max_interval_ms as f64);
        Some((wait_ms * (1.0 - self.jitter * random.clamp(0.0, 1.0))) as u64)
    }
}
