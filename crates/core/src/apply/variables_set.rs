//! An operator gives variables of the waiting program other values.

use super::require;
use crate::{Assignment, Command, Error, Execution, Result, Status};

pub(super) fn apply(execution: &mut Execution, variables: &[Assignment]) -> Result<Vec<Command>> {
    require(execution, &[Status::Waiting], "be given other values")?;
    if variables.is_empty() {
        return Err(Error::conflict(format!("execution {} is given no variable", execution.id)));
    }
    Ok(Vec::new())
}
