//! Runs declarative workflows of named steps.
//!
//! [`Steps`] is this crate's [`durable_core::Runner`]. A definition (YAML, TOML or JSON) is read
//! into a tree that knows its places, checked, and run as a plan: when everything a step needs
//! has ended, its input is filled in and its agent is asked for; agents run where all calls run.
//! What is stored of a run is what its steps came to. It is pure code: it has no I/O, no clock and
//! no randomness, so a replay of the journal gives the same calls.
//!
//! | module | what |
//! |---|---|
//! | `source` | YAML, TOML and JSON as trees with places |
//! | `template` | values with expressions in them |
//! | `definition` | what is written down, read and checked |
//! | `run` | one execution: what has ended, and what is next |
//! | `state` | runs as they are stored |
//! | `runner` | the seam to the engine |
//! | `outline` | what can be said of a definition without checking it |

mod definition;
mod outline;
mod run;
mod runner;
mod source;
mod state;
mod template;

pub use outline::Outline;
pub use runner::Steps;
