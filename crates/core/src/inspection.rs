//! What can be seen of a program that waits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Payload, Position};

/// The call stacks of a program that waits, one for each of its tasks that has begun to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Each from the outermost frame to the innermost.
    pub stacks: Vec<Vec<Frame>>,
}

/// A function that has been entered and not left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Its name; `<module>` for the program's own text.
    pub function: String,
    /// Where it is.
    pub position: Position,
    /// Its variables that have a value, in the form payloads have. What has no such form is
    /// `{"$py:repr": …}` with a few words.
    pub variables: BTreeMap<String, Payload>,
}

/// A variable that is given another value while its program waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The task it belongs to, as a place in [`Inspection::stacks`].
    pub task: u32,
    /// The frame it belongs to, as a place in the stack of the task, from 0 for the outermost.
    pub depth: u32,
    /// The frame's function: what stands at this place in another state is not meant.
    pub function: String,
    /// Its name.
    pub name: String,
    /// Its new value.
    pub value: Payload,
}
