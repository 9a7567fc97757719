//! `durable token`

use anyhow::Result;
use durable::{Clock as _, Engine, Error, SystemClock, TokenRecord};
use durable_server::{NewToken, views::instant};
use durable_store::Write;

use crate::{
    args, database,
    exit::Exit,
    text::{self, short},
    time,
};

pub(crate) fn token(url: &str, command: &args::Token) -> Result<Exit> {
    match command {
        args::Token::Create(command) => create(url, command),
        args::Token::List(command) => list(url, command),
        args::Token::Revoke(command) => revoke(url, command),
    }
}

fn create(url: &str, command: &args::TokenCreate) -> Result<Exit> {
    let engine = database::open(url)?;
    let now_ms = now_ms(&engine);
    let expires_at_ms = command.expires.as_deref().map(|text| end(text, now_ms)).transpose()?;
    let (token, record) = durable_server::mint(
        NewToken {
            name: command.name.clone(),
            role: command.role,
            namespace: command.namespace.clone(),
            expires_at_ms,
        },
        now_ms,
    )?;
    let id = record.id.clone();
    commit(&engine, Write::PutToken(Box::new(record)))?;
    text::say(&format!("token {id}; keep it safe, it is shown this once:"));
    text::print(&format!("{token}\n"))?;
    Ok(Exit::Done)
}

/// Reads when a token ends: an instant, or how long it lives.
fn end(text: &str, now_ms: i64) -> Result<i64> {
    let wrong = || {
        Error::invalid(format!(
            "--expires {text}: expected a day, an instant, or how long it lives, such as 90d"
        ))
    };
    let at_ms = time::parse(text, now_ms).ok_or_else(wrong)?;
    // How long ago something was is read as how long it is until then.
    let is_length = text.ends_with(['s', 'm', 'h', 'd']);
    Ok(if is_length { now_ms + (now_ms - at_ms) } else { at_ms })
}

fn list(url: &str, command: &args::TokenList) -> Result<Exit> {
    let engine = database::open(url)?;
    let now_ms = now_ms(&engine);
    let tokens = engine.store().tokens()?;
    if command.json {
        for token in &tokens {
            let view = durable_server::TokenView::new(token, now_ms);
            text::print(&(serde_json::to_string(&view)? + "\n"))?;
        }
    } else if tokens.is_empty() {
        text::say("no tokens");
    } else {
        let rows: Vec<_> = tokens.iter().map(|token| row(token, now_ms)).collect();
        let headings = ["ID", "NAME", "ROLE", "NAMESPACE", "CREATED", "EXPIRES", ""];
        text::print(&text::table(&headings, &rows))?;
    }
    Ok(Exit::Done)
}

fn row(token: &TokenRecord, now_ms: i64) -> Vec<String> {
    let state = match (token.revoked_at_ms, token.is_live(now_ms)) {
        (Some(at_ms), _) => format!("revoked {}", instant(at_ms)),
        (None, false) => "expired".to_owned(),
        (None, true) => String::new(),
    };
    vec![
        token.id.clone(),
        short(&token.name, 32),
        token.role.as_str().to_owned(),
        token.namespace.clone().unwrap_or_else(|| "all".to_owned()),
        instant(token.created_at_ms),
        token.expires_at_ms.map_or_else(|| "never".to_owned(), instant),
        state,
    ]
}

fn revoke(url: &str, command: &args::TokenRevoke) -> Result<Exit> {
    let engine = database::open(url)?;
    let now_ms = now_ms(&engine);
    commit(&engine, Write::RevokeToken { id: command.id.clone(), now_ms })?;
    text::say(&format!("token {} is worth nothing any more", command.id));
    Ok(Exit::Done)
}

fn now_ms(engine: &Engine) -> i64 {
    engine.store().clock_ms().unwrap_or_else(|| SystemClock::default().now_ms())
}

fn commit(engine: &Engine, write: Write) -> Result<()> {
    for answer in engine.store().commit(&[write])? {
        answer?;
    }
    Ok(())
}
