//! `durable rekey`

use std::time::{Duration, Instant};

use anyhow::Result;
use durable::{Rekeyed, Rekeying};

use crate::{args, exit::Exit, text};

/// Least time between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn rekey(url: &str, command: &args::Rekey) -> Result<Exit> {
    let is_dry = command.dry_run;
    let mut said = Instant::now();
    let rekeyed = durable::rekey(url, !is_dry, |rekeying| match rekeying {
        Rekeying::Refused(error) => text::say(&format!("left as it is: {error}")),
        Rekeying::Page(so_far) if said.elapsed() >= INTERVAL => {
            said = Instant::now();
            text::say(&summary(so_far, is_dry));
        }
        Rekeying::Page(_) => {}
    })?;
    text::say(&summary(&rekeyed, is_dry));
    if rekeyed.refused > 0 {
        text::say(&format!(
            "{} rows hold what can't be opened or written: the keys they need are needed still",
            rekeyed.refused
        ));
        return Ok(Exit::Refused);
    }
    if rekeyed.is_settled {
        text::say("no other key than the first is needed any more");
    } else if !is_dry {
        text::say(
            "something still seals under another key: give every process the same \
             DURABLE_ENCRYPTION_KEYS, the new key first, and run this again",
        );
        return Ok(Exit::Refused);
    }
    Ok(Exit::Done)
}

fn summary(rekeyed: &Rekeyed, is_dry: bool) -> String {
    let would = if is_dry { "would be " } else { "" };
    let count: u64 = rekeyed.renewed.values().sum();
    let whence: Vec<_> = rekeyed
        .renewed
        .iter()
        .map(|(key, count)| match key.as_str() {
            "" => format!("{count} were in the clear"),
            key => format!("{count} were under '{key}'"),
        })
        .collect();
    let whence =
        if whence.is_empty() { String::new() } else { format!(" ({})", whence.join(", ")) };
    format!("{} rows looked at, {count} payloads {would}sealed anew{whence}", rekeyed.rows)
}
