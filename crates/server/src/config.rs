//! The server's own bounds.

use std::fmt;

/// How a server behaves. Every bound has a default that suits one machine.
#[derive(Clone)]
pub struct Config {
    /// What webhooks are signed with; without it they are taken from this machine only.
    pub webhook_secret: Option<String>,
    /// Whether a name without dots, as test clients send it, is fit for a `Host` header besides
    /// those of this machine.
    pub allow_dotless_hosts: bool,
    /// Largest body of a request.
    pub max_body_bytes: usize,
    /// Most connections at once; the others wait to be accepted.
    pub max_connections: usize,
    /// Most requests that are worked on at once; further ones are told to come again.
    pub max_requests: usize,
    /// Most requests that wait for news at once: long polls and followers.
    pub max_followers: usize,
    /// Most store and engine operations that run at once.
    pub max_blocking: usize,
    /// Most programs that are run again at once to be looked into: interpreters stay free for
    /// executions that go on. Further requests wait.
    pub max_inspections: usize,
    /// How long the body of a request may take to arrive, and each operation on the store.
    pub request_timeout_ms: u64,
    /// How long the head of a request may take to arrive.
    pub head_timeout_ms: u64,
    /// Longest long poll.
    pub max_wait_ms: u64,
    /// How often a follower without news is told that the server is there.
    pub heartbeat_ms: u64,
    /// Requests that one client may make in a second, on average.
    pub rate_per_s: u32,
    /// Requests that one client may make at once.
    pub burst: u32,
    /// How long a token that was revoked elsewhere may go on to work.
    pub token_staleness_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            webhook_secret: None,
            allow_dotless_hosts: false,
            max_body_bytes: 16 << 20,
            max_connections: 1_024,
            max_requests: 256,
            max_followers: 512,
            max_blocking: 32,
            max_inspections: 1,
            request_timeout_ms: 30_000,
            head_timeout_ms: 10_000,
            max_wait_ms: 60_000,
            heartbeat_ms: 15_000,
            rate_per_s: 1_000,
            burst: 2_000,
            token_staleness_ms: 2_000,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the secret: settings get logged.
        f.debug_struct("Config")
            .field("webhook_secret", &self.webhook_secret.as_ref().map(|_| "…"))
            .field("max_body_bytes", &self.max_body_bytes)
            .field("max_requests", &self.max_requests)
            .field("rate_per_s", &self.rate_per_s)
            .finish_non_exhaustive()
    }
}
