//! Committing a batch, and knowing whether that has happened.
//!
//! Nearly always nobody loses. So a batch is first sent whole, from `START TRANSACTION` to
//! `COMMIT`, in one round trip; its statements end the transaction when a comparison is lost. Only
//! then it is done again with care: halved until those that lose stand alone.
//!
//! Each transaction moves the number of the last batch in this writer's own row of `writers` on by
//! one. When the answer to a commit is lost, that row tells whether it took place. If it did not,
//! the number is moved past the one that is in doubt, and it never will.

use durable_core::{Error, ExecutionId, Lease, Result};

use super::{
    error::{Fault, Outcome},
    explain, plan,
    session::{Connection, Frame, Sessions, get},
    solo,
    statement::{List, Statement, require_rows},
};
use crate::{
    Write, Written,
    batch::{leases, place, releases, success},
    waiting::{PATIENCE, Pauses},
};

/// How often a batch is sent again that other transactions were in the way of.
const MAX_COLLISIONS: u32 = 10;
/// A writer that was not seen for so long is gone, and what it committed in no doubt any more.
const FORGET_AFTER_MS: i64 = 30 * 24 * 3_600_000;

type Answers = Vec<Result<Written>>;

/// Who commits here, and how far it has come.
pub(super) struct Writer {
    id: String,
    /// The number of the last batch; `None` before the row is there.
    batch: Option<i64>,
    /// A batch of which it is not known whether it was committed.
    doubt: Option<Doubt>,
}

/// A commit that was not answered.
struct Doubt {
    /// Its number.
    batch: i64,
    /// What it came to if it took place.
    answers: Answers,
    /// The leases it took if it took place.
    leases: Vec<(ExecutionId, Lease)>,
}

impl Writer {
    pub(super) fn new(id: String) -> Self {
        Self { id, batch: None, doubt: None }
    }

    /// Commits a batch, and writes down whether it is news to others.
    pub(super) async fn commit(
        &mut self,
        sessions: &Sessions,
        batch: &[Write],
        is_news: bool,
    ) -> Outcome<Answers> {
        // What an earlier call could not find out.
        if self.doubt.is_some() {
            let (_, leases) = self.resolve_patiently(sessions).await?;
            give_back(sessions, &leases).await?;
        }
        let mut pauses = Pauses::new(PATIENCE);
        let mut collisions = 0;
        loop {
            let fault = match self.attempt(sessions, batch, is_news).await {
                Ok(answers) => return Ok(answers),
                Err(fault) => fault,
            };
            if self.doubt.is_some()
                && let (Some(answers), _) = self.resolve_patiently(sessions).await?
            {
                return Ok(answers);
            }
            match fault {
                Fault::Again(_) if collisions < MAX_COLLISIONS => collisions += 1,
                Fault::Broken(_) => {
                    tracing::warn!(error = %Error::from(fault), "a batch is committed again");
                    if !pauses.pause().await {
                        return Err(Fault::Broken(Error::unavailable(
                            "MySQL can't be reached: nothing of this batch was stored",
                        )));
                    }
                }
                fault => return Err(fault),
            }
        }
    }

    async fn attempt(
        &mut self,
        sessions: &Sessions,
        batch: &[Write],
        is_news: bool,
    ) -> Outcome<Answers> {
        let mut connection = sessions.connection().await?;
        let last = self.register(&mut connection).await?;
        let number = last + 1;
        if batch.iter().all(|member| place(member).is_some()) {
            let mut statements = vec![self.mark(last, is_news)];
            statements.extend(plan::statements(batch)?);
            match connection.run(Frame::Whole, &statements).await {
                Ok(_) => {
                    self.batch = Some(number);
                    return Ok(batch.iter().map(|member| Ok(success(member))).collect());
                }
                Err(fault) if fault.is_of_one_member() => {}
                Err(fault) => {
                    let answers = batch.iter().map(|member| Ok(success(member))).collect();
                    return Err(self.failed(fault, number, batch, answers));
                }
            }
        }
        self.carefully(&mut connection, batch, is_news, last).await
    }

    /// Commits what can be committed, and finds the words for the rest.
    async fn carefully(
        &mut self,
        connection: &mut Connection<'_>,
        batch: &[Write],
        is_news: bool,
        last: i64,
    ) -> Outcome<Answers> {
        let settled = match connection.run(Frame::Begin, &[self.mark(last, is_news)]).await {
            Ok(_) => settle(connection, batch).await,
            Err(Fault::Lost) => {
                // Its row is gone: it was idle for very long. A new one is made.
                self.batch = None;
                Err(Fault::Again(Error::unavailable("the writer's row was removed")))
            }
            Err(fault) => Err(fault),
        };
        let answers = match settled {
            Ok(answers) => answers,
            Err(fault) => {
                // Not committed, and never will be: no COMMIT was sent.
                connection.roll_back().await;
                return Err(fault);
            }
        };
        match connection.run(Frame::Commit, &[]).await {
            Ok(_) => {
                self.batch = Some(last + 1);
                Ok(answers)
            }
            Err(fault) => {
                connection.roll_back().await;
                Err(self.failed(fault, last + 1, batch, answers))
            }
        }
    }

    /// A transaction was sent with its `COMMIT`, and something went wrong.
    fn failed(&mut self, fault: Fault, batch: i64, members: &[Write], answers: Answers) -> Fault {
        if matches!(fault, Fault::Broken(_)) {
            let leases = leases(members, &answers);
            self.doubt = Some(Doubt { batch, answers, leases });
        }
        fault
    }

    /// Sees to it that this writer has a row. The number of the last batch.
    async fn register(&mut self, connection: &mut Connection<'_>) -> Outcome<i64> {
        const OLD: &str = "SELECT id FROM writers WHERE seen_at < UNIX_TIMESTAMP() * 1000 - ?";
        const REGISTER: &str = "
            INSERT INTO writers (id, batch, seen_at) VALUES (?, 0, UNIX_TIMESTAMP() * 1000)
            ON DUPLICATE KEY UPDATE seen_at = VALUES(seen_at)";
        const LAST: &str = "SELECT batch FROM writers WHERE id = ?";
        if let Some(batch) = self.batch {
            return Ok(batch);
        }
        let old = connection.ask(OLD, &[&FORGET_AFTER_MS]).await?;
        if !old.is_empty() {
            let ids = old.iter().map(|row| get::<String>(row, 0)).collect::<Outcome<_>>()?;
            connection.ask("DELETE FROM writers WHERE id IN ?", &[&List(ids)]).await?;
        }
        connection.ask(REGISTER, &[&self.id]).await?;
        let rows = connection.ask(LAST, &[&self.id]).await?;
        let batch = rows.first().map_or(Ok(0), |row| get(row, 0))?;
        self.batch = Some(batch);
        Ok(batch)
    }

    fn mark(&self, last: i64, is_news: bool) -> Statement {
        const MARK: &str = "
            UPDATE writers SET batch = batch + 1, news = news + ?, seen_at = UNIX_TIMESTAMP() * 1000
            WHERE id = ? AND batch = ?";
        Statement::new(MARK, &[&is_news, &self.id, &last]).and(&require_rows(1))
    }

    /// Finds out whether the batch in doubt was committed: what it came to if it was, and the
    /// leases that it took. Keeps on for a while when the database can't be reached.
    async fn resolve_patiently(
        &mut self,
        sessions: &Sessions,
    ) -> Outcome<(Option<Answers>, Vec<(ExecutionId, Lease)>)> {
        let Some(doubt) = &self.doubt else { return Ok((None, Vec::new())) };
        let number = doubt.batch;
        let mut pauses = Pauses::new(PATIENCE);
        let (committed, last) = loop {
            match resolve(sessions, &self.id, number).await {
                Ok(found) => break found,
                Err(fault) => {
                    tracing::warn!(error = %Error::from(fault), "a commit is in doubt");
                    if !pauses.pause().await {
                        return Err(Fault::Broken(Error::unavailable(
                            "MySQL can't be reached, and did not say whether the last batch was \
                             stored: look before you write again",
                        )));
                    }
                }
            }
        };
        tracing::info!(committed, "what became of a commit without an answer is known");
        self.batch = last;
        let doubt = self.doubt.take().filter(|_| committed);
        Ok(doubt.map_or((None, Vec::new()), |doubt| (Some(doubt.answers), doubt.leases)))
    }
}

/// Gives back what was leased by a batch that the caller took for lost.
async fn give_back(sessions: &Sessions, leases: &[(ExecutionId, Lease)]) -> Outcome<()> {
    if leases.is_empty() {
        return Ok(());
    }
    let mut connection = sessions.connection().await?;
    connection.run(Frame::Whole, &plan::statements(&releases(leases))?).await.map(drop)
}

/// Whether a batch was committed, and the number to go on from; `None` when the row is gone.
async fn resolve(sessions: &Sessions, id: &str, number: i64) -> Outcome<(bool, Option<i64>)> {
    // Waits for the transaction in doubt, if it still runs.
    const LOOK: &str = "SELECT batch FROM writers WHERE id = ? FOR UPDATE";
    const FENCE: &str = "UPDATE writers SET batch = ? WHERE id = ?";
    let mut connection = sessions.connection().await?;
    let rows = connection.run(Frame::Begin, &[Statement::new(LOOK, &[&id])]).await?;
    let found: Option<i64> = rows.iter().flatten().next().map(|row| get(row, 0)).transpose()?;
    let committed = found == Some(number);
    let last = if committed { number } else { number + 1 };
    let mut fence = Vec::new();
    if found.is_some() && !committed {
        fence.push(Statement::new(FENCE, &[&last, &id]));
    }
    connection.run(Frame::Commit, &fence).await?;
    Ok((committed, found.map(|_| last)))
}

/// Writes members one after the other or side by side; those that lose are taken back.
async fn settle(connection: &mut Connection<'_>, batch: &[Write]) -> Outcome<Answers> {
    let savepoint = || Statement::new("SAVEPOINT member", &[]);
    let mut answers = Vec::with_capacity(batch.len());
    let mut open = vec![batch];
    while let Some(members) = open.pop() {
        let in_waves = members.iter().take_while(|member| place(member).is_some()).count();
        // What comes after those that can be written side by side has to wait.
        let (group, rest) = members.split_at(in_waves.max(1).min(members.len()));
        let Some(first) = group.first() else { continue };
        open.extend((!rest.is_empty()).then_some(rest));
        let written = if in_waves > 0 {
            let mut statements = vec![savepoint()];
            statements.extend(plan::statements(group)?);
            let written = connection.run(Frame::Bare, &statements).await;
            written.map(|_| group.iter().map(|member| Ok(success(member))).collect::<Vec<_>>())
        } else {
            connection.run(Frame::Bare, &[savepoint()]).await?;
            solo::write(connection, first).await.map(|written| vec![Ok(written)])
        };
        match written {
            Ok(written) => answers.extend(written),
            Err(fault) if !fault.is_of_one_member() => return Err(fault),
            Err(fault) => {
                connection.ask("ROLLBACK TO SAVEPOINT member", &[]).await?;
                if group.len() > 1 {
                    let (one, other) = group.split_at(group.len() / 2);
                    open.extend([other, one]);
                } else {
                    answers.push(refused(connection, first, fault).await?);
                }
            }
        }
    }
    Ok(answers)
}

/// The answer to a member that was taken back.
async fn refused(
    connection: &mut Connection<'_>,
    member: &Write,
    fault: Fault,
) -> Outcome<Result<Written>> {
    if matches!(fault, Fault::Refused(_)) {
        return Ok(Err(fault.into()));
    }
    match explain::why_lost(connection, member).await {
        Ok(written) => Ok(Ok(written)),
        // Nothing is wrong with it but what the database said.
        Err(Fault::Lost) => Ok(Err(fault.into())),
        Err(reason) if reason.is_of_one_member() => Ok(Err(reason.into())),
        Err(trouble) => Err(trouble),
    }
}
