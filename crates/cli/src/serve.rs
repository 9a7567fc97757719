//! `durable serve`

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use durable::{
    Announcement, Clock as _, Config, Duty, Engine, Error, Executor, Location, SystemClock,
};
use durable_executors::{Routed, TaskQueue};
use durable_server::Server;

use crate::{
    args, database,
    exit::Exit,
    functions::Functions,
    interrupts::{self, Inbox},
    text, worker,
};

/// How long requests that are under way are given when the server is asked to end.
const GRACE: Duration = Duration::from_secs(10);
/// The environment variable that holds what webhooks are signed with.
const WEBHOOK_SECRET: &str = "DURABLE_WEBHOOK_SECRET";

pub(crate) fn serve(url: &str, command: &args::Serve) -> Result<Exit> {
    if Location::parse(url)? == Location::Memory {
        return Err(Error::invalid("a server needs a database that stays: give --db").into());
    }
    let inbox = interrupts::watch()?;
    let functions = Functions::load_many(&command.host.functions, command.concurrency)?;
    let names: Vec<_> = functions.all().into_keys().collect();
    let works = command.tasks || !names.is_empty();
    let isolation = command.host.isolation.isolation();
    let engine = Arc::new(database::open_to_run(url, isolation, Config::default())?);
    let addresses = addresses(&command.bind)?;
    let is_open = addresses.iter().any(|address| !address.ip().is_loopback());
    if is_open {
        require_token(&engine)?;
    }
    let tasks = command.tasks.then(|| Arc::new(TaskQueue::default()));
    if works {
        let announcement = Announcement {
            host: worker::hostname(),
            functions: names,
            concurrency: command.concurrency,
        };
        let duty = Duty { queues: command.queues.clone(), announcement: Some(announcement) };
        engine.attach_for(executor(&functions, tasks.clone()), duty)?;
        functions.serve_all();
    }
    let config = durable_server::Config {
        webhook_secret: std::env::var(WEBHOOK_SECRET).ok().filter(|secret| !secret.is_empty()),
        rate_per_s: command.rate,
        burst: command.rate.saturating_mul(2),
        ..durable_server::Config::default()
    };
    let listening = listen(Server::new(&engine, tasks, config), &addresses, inbox);
    engine.detach(Duration::from_secs(command.grace.into()));
    listening?;
    text::say("server ended");
    Ok(Exit::Done)
}

fn addresses(bind: &str) -> Result<Vec<SocketAddr>> {
    let found: Vec<_> = bind
        .to_socket_addrs()
        .with_context(|| format!("--bind {bind}: expected an address and a port"))?
        .collect();
    if found.is_empty() {
        return Err(Error::invalid(format!("--bind {bind} names no address")).into());
    }
    Ok(found)
}

/// Other machines are let in only when there are tokens to tell who they are.
fn require_token(engine: &Engine) -> Result<()> {
    let now_ms = SystemClock::default().now_ms();
    if durable_server::is_fit_for_network(engine.store(), now_ms)? {
        return Ok(());
    }
    Err(Error::invalid(
        "--bind names an address that other machines reach, and there is no access token: make \
         one with `durable token create --role admin`, or bind to 127.0.0.1",
    )
    .into())
}

fn executor(functions: &Functions, tasks: Option<Arc<TaskQueue>>) -> Arc<dyn Executor> {
    match tasks {
        None => functions.executor(),
        Some(tasks) => {
            let names = functions.all().into_keys().collect();
            Arc::new(Routed::new(names, functions.executor(), tasks))
        }
    }
}

/// Serves until a signal comes.
fn listen(server: Arc<Server>, addresses: &[SocketAddr], inbox: Inbox) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("durable-http")
        .enable_all()
        .build()
        .context("can't start threads")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(addresses)
            .await
            .context("can't listen; another server may be there already")?;
        text::say(&format!("listening on http://{}", listener.local_addr()?));
        let stop = async {
            // The thread that waits for signals ends with the first one, or with the process.
            let _ = tokio::task::spawn_blocking(move || inbox.receiver.recv()).await;
        };
        durable_server::serve(server, listener, stop, GRACE).await;
        Ok(())
    })
}
