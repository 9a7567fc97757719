//! Hearing of what others committed.
//!
//! One connection listens. Where that can't be had (PgBouncer), or while it is lost, the store
//! claims news now and then, ever more seldom while nothing happens: the engine looks for itself.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use durable_core::UnixMs;
use futures_util::future::join;
use parking_lot::{Condvar, Mutex};
use tokio_postgres::AsyncMessage;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{PostgresOptions, error::Outcome, session::Statement, value::Value};
use crate::{Wake, Write, batch::concerns_others};

/// How often the engine is told to look while nobody listens: first, and when it is idle.
const FIRST_POLL: Duration = Duration::from_millis(100);
const LONGEST_POLL: Duration = Duration::from_secs(5);
/// Between two attempts to listen.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// News that come together wake the engine once.
const COALESCE: Duration = Duration::from_millis(2);
/// What a store tells to hear that it listens; news to nobody.
const HELLO: &str = "hello";
/// How long opening a store waits until it hears.
const OPENING: Duration = Duration::from_secs(2);

/// What is heard.
pub(super) struct News {
    /// The name of this store among those that tell news.
    sender: String,
    channel: String,
    heard: AtomicU64,
    listening: AtomicBool,
    began: (Mutex<()>, Condvar),
    poll: Mutex<Poll>,
    wakes: Mutex<Option<mpsc::SyncSender<()>>>,
}

/// When the engine is told to look although nothing was heard.
struct Poll {
    next: Instant,
    pause: Duration,
}

impl News {
    pub(super) fn new(sender: String, schema: &str) -> Arc<Self> {
        Arc::new(Self {
            sender,
            channel: format!("durable_{schema}"),
            heard: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            began: Default::default(),
            poll: Mutex::new(Poll { next: Instant::now() + FIRST_POLL, pause: FIRST_POLL }),
            wakes: Mutex::new(None),
        })
    }

    /// The statement that tells others of a batch, if somebody else has to look.
    pub(super) fn of(&self, batch: &[Write], now_ms: UnixMs) -> Option<Statement> {
        concerns_others(batch, now_ms).then(|| {
            let values = vec![Value::text(&self.channel), Value::text(&self.sender)];
            Statement::new("SELECT pg_notify($1, $2)", values)
        })
    }

    /// A number that changes with what others committed.
    pub(super) fn token(&self) -> u64 {
        if !self.listening.load(Ordering::Acquire) {
            let mut poll = self.poll.lock();
            if Instant::now() >= poll.next {
                poll.next = Instant::now() + poll.pause;
                poll.pause = (2 * poll.pause).min(LONGEST_POLL);
                self.heard.fetch_add(1, Ordering::AcqRel);
            }
        }
        self.heard.load(Ordering::Acquire)
    }

    /// This store is at work: more is to come.
    pub(super) fn stir(&self) {
        if !self.listening.load(Ordering::Acquire) {
            *self.poll.lock() = Poll { next: Instant::now() + FIRST_POLL, pause: FIRST_POLL };
        }
    }

    /// Has `wake` called by a thread of its own when something is heard.
    pub(super) fn subscribe(self: &Arc<Self>, wake: Wake) {
        let (sender, receiver) = mpsc::sync_channel::<()>(1);
        let mut wakes = self.wakes.lock();
        let earlier = wakes.replace(sender);
        let started = std::thread::Builder::new().name("durable-news".into()).spawn(move || {
            while receiver.recv().is_ok() {
                wake();
                if let Some(earlier) = &earlier {
                    let _ = earlier.try_send(());
                }
                std::thread::sleep(COALESCE);
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for news: the store is polled");
        }
    }

    fn hear(&self, sender: &str) {
        if sender == self.sender || sender == HELLO {
            return;
        }
        self.heard.fetch_add(1, Ordering::AcqRel);
        if let Some(wakes) = &*self.wakes.lock() {
            // When one is waiting already it will see this, too.
            let _ = wakes.try_send(());
        }
    }

    /// Waits until this store hears, or for a while.
    pub(super) fn wait_until_listening(&self) {
        let (lock, began) = &self.began;
        let mut guard = lock.lock();
        if !self.listening.load(Ordering::Acquire) {
            began.wait_for(&mut guard, OPENING);
        }
    }

    /// Listens for ever, through lost connections.
    pub(super) async fn listen(self: Arc<Self>, options: PostgresOptions, tls: MakeRustlsConnect) {
        let mut pause = FIRST_RETRY;
        loop {
            let began = Instant::now();
            if let Err(fault) = self.listen_once(&options, &tls).await {
                let error = durable_core::Error::from(fault);
                tracing::debug!(%error, "not listening; the store is polled meanwhile");
            }
            self.listening.store(false, Ordering::Release);
            self.stir();
            // What was told in between was not heard.
            self.hear("");
            if began.elapsed() > LONGEST_RETRY {
                pause = FIRST_RETRY;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_RETRY);
        }
    }

    async fn listen_once(&self, options: &PostgresOptions, tls: &MakeRustlsConnect) -> Outcome<()> {
        let (client, mut connection) = options.connection(true).connect(tls.clone()).await?;
        let listen = async {
            // It is believed to listen when it has heard anything.
            let channel = self.channel.replace('"', "\"\"");
            let hello = self.channel.replace('\'', "''");
            let sql = format!("LISTEN \"{channel}\"; SELECT pg_notify('{hello}', '{HELLO}')");
            client.batch_execute(&sql).await
        };
        let hear = async {
            loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(note))) => {
                        if !self.listening.load(Ordering::Acquire) {
                            // What was told before was not heard.
                            self.hear("");
                            self.listening.store(true, Ordering::Release);
                            // Not between the look and the wait of whoever opens the store.
                            drop(self.began.0.lock());
                            self.began.1.notify_all();
                        }
                        self.hear(note.payload());
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                }
            }
        };
        // The connection works only while it is asked for messages.
        let (asked, heard) = join(listen, hear).await;
        asked?;
        Ok(heard?)
    }
}
