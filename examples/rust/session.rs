//! A durable session: pieces of code, as a model would write them, run one after the other.
//!
//! `session DATABASE_URL [LOG_FILE]`. Kill it at any moment and start it again: it goes on at the
//! `await` it was at, and no call that was recorded is repeated. Every function call appends its
//! idempotency key to the log file. `ISOLATION=thread` runs the code on threads of this process.

use std::{fs::OpenOptions, io::Write as _, time::Duration};

use durable::{CallRequest, Durable, Feed, FunctionError, Isolation, Workflow};

/// What the model answers, turn by turn.
const PIECES: [&str; 5] = [
    "seen = []\nfor page in ('a', 'b', 'c'):\n    seen.append(await fetch(page))\nseen",
    "from asyncio import gather\nmore = await gather(*[fetch(p) for p in 'defg'])\nlen(more)",
    "await fetch('missing')",
    "try:\n    await fetch('missing')\nexcept ValueError as error:\n    why = str(error)\nwhy",
    "total = 0\nfor word in seen + more:\n    total += await fetch(word) != ''\n[total, why]",
];

/// Notes that a call ran, pretends to work, and gives a page.
async fn fetch(call: CallRequest) -> Result<String, FunctionError> {
    if let Some(path) = std::env::args().nth(2) {
        let mut log = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(log, "{}", call.idempotency_key())?;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (name,): (String,) = serde_json::from_str(call.args.as_str())?;
    match name.as_str() {
        "missing" => Err(FunctionError::new("ValueError", "no such page")),
        name => Ok(format!("page {name}")),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    durable::run_worker_if_asked();
    let url = std::env::args().nth(1).ok_or("usage: session DATABASE_URL [LOG_FILE]")?;
    let thread = std::env::var("ISOLATION").as_deref() == Ok("thread");
    let durable = Durable::builder(&url)
        .isolation(if thread { Isolation::Thread } else { Isolation::Process })
        .function_raw("fetch", fetch)
        .open()?;
    // The same key names the same session when the program is started again.
    let session = durable.open_session(&Workflow::session().idempotency_key("research"))?;
    for (number, code) in (1..).zip(PIECES) {
        // With its number, a piece that was fed before the crash is not run again.
        let feed = Feed { number: Some(number), ..Feed::new(code) };
        let came = session.feed(&feed, None)?.ok_or("a wait without an end ended")?;
        match came.error {
            Some(error) => println!("{number}: {}: {}", error.error_type, error.message),
            None => println!("{number}: {}", came.output.as_str()),
        }
    }
    session.close(None)?;
    Ok(())
}
