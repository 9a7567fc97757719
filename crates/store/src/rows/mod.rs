//! What stands in the rows of the tables, without SQL: how a transition becomes rows, and how rows
//! become the records and states that a store gives back. Every SQL store goes through here.

mod call;
mod execution;
mod journal;
mod loaded;
mod transition;

pub(crate) use call::{CallRow, StoredCall, TIMER, failure, kind_of};
pub(crate) use execution::{ExecutionRow, parse_id, program, words};
pub(crate) use journal::{ReferredRows, StoredEvent, TakenBacks};
pub(crate) use loaded::{StateRow, longest_due};
pub(crate) use transition::{CallStanding, Closing, End, TransitionRows, refuse_calls};
