//! Learning that others committed something.
//!
//! MySQL tells nobody. So when it is asked, the store looks at what others have written down about
//! themselves: soon while something happens, ever more seldom while nothing does.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mysql_async::Row;
use parking_lot::Mutex;

use super::{
    error::Outcome,
    session::{Connection, get},
};

/// How often the store looks: at first, and when it is idle.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_secs(2);

/// What was seen of others.
pub(super) struct News {
    /// The name of this store among those that write.
    writer: String,
    token: AtomicU64,
    look: Mutex<Look>,
}

struct Look {
    next: Instant,
    pause: Duration,
    /// What was seen last.
    seen: Option<Vec<Option<String>>>,
}

impl News {
    pub(super) fn new(writer: String) -> Self {
        let look = Look { next: Instant::now(), pause: FIRST_LOOK, seen: None };
        Self { writer, token: AtomicU64::new(0), look: Mutex::new(look) }
    }

    pub(super) fn token(&self) -> u64 {
        self.token.load(Ordering::Acquire)
    }

    /// Whether it is time to look; whoever is told so does it.
    pub(super) fn is_due(&self) -> bool {
        let mut look = self.look.lock();
        let is_due = Instant::now() >= look.next;
        if is_due {
            look.next = Instant::now() + look.pause;
            look.pause = (2 * look.pause).min(LONGEST_LOOK);
        }
        is_due
    }

    /// This store is at work: more is to come.
    pub(super) fn stir(&self) {
        let mut look = self.look.lock();
        look.next = look.next.min(Instant::now() + FIRST_LOOK);
        look.pause = FIRST_LOOK;
    }

    /// Looks at what others have written down, and at inboxes, which also plain SQL fills.
    pub(super) async fn look(&self, connection: &mut Connection<'_>) -> Outcome<()> {
        const LOOK: &str = "
            SELECT (SELECT SUM(news) FROM writers WHERE id <> ?), SUM(inbox), COUNT(*)
            FROM executions WHERE inbox > 0";
        let rows = connection.ask(LOOK, &[&self.writer]).await?;
        let read = |row: &Row| (0..3).map(|column| get(row, column)).collect::<Outcome<Vec<_>>>();
        let seen = rows.first().map(read).transpose()?;
        let is_news = {
            let mut look = self.look.lock();
            let before = std::mem::replace(&mut look.seen, seen);
            before.is_some() && before != look.seen
        };
        if is_news {
            self.token.fetch_add(1, Ordering::AcqRel);
            self.stir();
        }
        Ok(())
    }
}
