//! The quick start: a workflow in plain Python, its functions in Rust.

use durable::{Durable, FunctionError, Workflow};

const WORKFLOW: &str = "
from asyncio import gather
results = await gather(add(1, 2), add(3, 4))
sum(results)
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    durable::run_worker_if_asked();
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".into());
    let durable = Durable::builder(&url)
        .function("add", |(a, b): (i64, i64)| async move { Ok::<_, FunctionError>(a + b) })
        .open()?;
    let id = durable.start(&Workflow::new(WORKFLOW))?;
    println!("{}", durable.result::<i64>(id)?);
    Ok(())
}
