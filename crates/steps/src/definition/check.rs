//! What steps refer to: the steps they need, circles among them, and results that are not there
//! yet when they are asked for.

use std::{collections::BTreeSet, ops::Range};

use durable_core::report::{Problem, Report, nearest};

use super::Workflow;
use crate::template::{Expression, Root};

/// What a step says that it needs, with the places; nothing if it does not say.
pub(super) type Needs = Option<Vec<(String, Range<usize>)>>;

/// Connects the steps, and checks everything that they refer to.
pub(super) fn connect(workflow: &mut Workflow, needs: &[Needs], report: &mut Report<'_>) {
    let mut is_complete = true;
    for (index, needed) in needs.iter().enumerate() {
        let needed = match needed {
            // It follows the step before it.
            None => index.checked_sub(1).into_iter().collect(),
            Some(named) => {
                let found = named_steps(workflow, named, report);
                is_complete &= found.len() == named.len();
                found
            }
        };
        for &before in &needed {
            workflow.steps[before].dependents.push(index);
        }
        workflow.steps[index].needs = needed.into_iter().collect();
    }
    match order(workflow) {
        Ok(order) if is_complete => refer(workflow, &order, report),
        Ok(_) => {}
        Err(circle) => report.add(no_circles(workflow, needs, &circle)),
    }
}

fn named_steps(
    workflow: &Workflow,
    named: &[(String, Range<usize>)],
    report: &mut Report<'_>,
) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for (name, range) in named {
        match workflow.by_name.get(name) {
            Some(index) => {
                found.insert(*index);
            }
            None => report.add(no_step(workflow, name, range)),
        }
    }
    found
}

fn no_step(workflow: &Workflow, name: &str, range: &Range<usize>) -> Problem {
    let hint = match nearest(name, workflow.by_name.keys().map(String::as_str)) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => String::new(),
    };
    Problem { range: range.clone(), message: format!("there is no step '{name}'"), hint }
}

/// The steps in an order in which they could be run.
///
/// # Errors
/// Some that wait for each other.
fn order(workflow: &Workflow) -> Result<Vec<usize>, Vec<usize>> {
    let steps = &workflow.steps;
    let mut waits: Vec<_> = steps.iter().map(|step| step.needs.len()).collect();
    let mut order: Vec<_> = (0..steps.len()).filter(|&index| waits[index] == 0).collect();
    let mut next = 0;
    while let Some(&done) = order.get(next) {
        next += 1;
        for &dependent in &steps[done].dependents {
            waits[dependent] -= 1;
            if waits[dependent] == 0 {
                order.push(dependent);
            }
        }
    }
    let Some(stuck) = waits.iter().position(|&waits| waits > 0) else { return Ok(order) };
    // Whoever is stuck waits for somebody who is: that leads into a circle.
    let mut path = vec![stuck];
    loop {
        let last = path[path.len() - 1];
        let blocker = steps[last].needs.iter().copied().find(|&need| waits[need] > 0);
        let Some(blocker) = blocker else { return Err(path) };
        if let Some(begin) = path.iter().position(|&step| step == blocker) {
            return Err(path.split_off(begin));
        }
        path.push(blocker);
    }
}

fn no_circles(workflow: &Workflow, needs: &[Needs], circle: &[usize]) -> Problem {
    let name = |index: usize| workflow.steps[index].name.as_str();
    let mut names: Vec<_> = circle.iter().map(|&index| name(index)).collect();
    names.push(names[0]);
    let needed = circle.get(1).copied().unwrap_or(circle[0]);
    let written = needs[circle[0]].as_ref().and_then(|needs| {
        needs.iter().find(|(need, _)| *need == name(needed)).map(|(_, range)| range.clone())
    });
    Problem {
        range: written.unwrap_or_else(|| workflow.steps[circle[0]].range.clone()),
        message: format!("these steps wait for each other: {}", names.join(" needs ")),
        hint: "a step without needs waits for the one before it".to_owned(),
    }
}

/// Checks what the templates of each step refer to.
fn refer(workflow: &mut Workflow, order: &[usize], report: &mut Report<'_>) {
    let words = workflow.steps.len().div_ceil(64);
    let mut upstream = vec![0_u64; words * workflow.steps.len()];
    let mut wanted = Vec::new();
    for &index in order {
        let step = &workflow.steps[index];
        for &need in &step.needs {
            for word in 0..words {
                upstream[index * words + word] |= upstream[need * words + word];
            }
            upstream[index * words + need / 64] |= 1 << (need % 64);
        }
        let is_upstream =
            |other: usize| upstream[index * words + other / 64] >> (other % 64) & 1 == 1;
        for (expression, sees_item) in step.expressions() {
            for root in &expression.roots {
                let problem = match root {
                    Root::Step(name) => refused_step(workflow, name, expression, &is_upstream),
                    Root::Inputs(Some(name)) => match &workflow.inputs {
                        Some(_) => refused_input(workflow, name, expression),
                        None => {
                            if !expression.minds_undefined {
                                wanted.push((name.clone(), expression.range.clone()));
                            }
                            None
                        }
                    },
                    Root::Item if !sees_item => Some(Problem {
                        range: expression.range.clone(),
                        message: "there is no item here".to_owned(),
                        hint: "item and index are for the input of a step with foreach".to_owned(),
                    }),
                    Root::Item | Root::Inputs(None) => None,
                };
                if let Some(problem) = problem {
                    report.add(problem);
                }
            }
        }
    }
    for (name, range) in wanted {
        workflow.wanted.entry(name).or_insert(range);
    }
}

fn refused_step(
    workflow: &Workflow,
    name: &str,
    expression: &Expression,
    is_upstream: &dyn Fn(usize) -> bool,
) -> Option<Problem> {
    let Some(&other) = workflow.by_name.get(name) else {
        return Some(no_step(workflow, name, &expression.range));
    };
    (!is_upstream(other)).then(|| Problem {
        range: expression.range.clone(),
        message: format!("the step '{name}' need not have ended when this is filled in"),
        hint: format!("add {name} to the needs of this step"),
    })
}

fn refused_input(workflow: &Workflow, name: &str, expression: &Expression) -> Option<Problem> {
    let declared = workflow.inputs.as_deref().unwrap_or_default();
    if declared.iter().any(|input| input.name == name) {
        return None;
    }
    let hint = match nearest(name, declared.iter().map(|input| input.name.as_str())) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => "declare it under inputs".to_owned(),
    };
    let message = format!("there is no input '{name}'");
    Some(Problem { range: expression.range.clone(), message, hint })
}
