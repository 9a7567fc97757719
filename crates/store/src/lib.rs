//! Where executions are kept: the [`Store`] trait and its implementations.
//!
//! A store is synchronous and batch-oriented: the engine's committer hands it what has queued up,
//! and the store commits it as one durable transaction (group commit). A member of a batch that
//! loses its comparison changes nothing and fails alone. Reads run beside the writer.

mod batch;
mod check;
mod clock;
pub mod conformance;
mod control;
mod memory;
mod mysql;
mod payloads;
mod postgres;
mod query;
mod record;
mod refusal;
mod registry;
mod rows;
mod sealed;
mod sqlite;
mod trust;
mod waiting;

use durable_core::{
    CallId, Dictionary, ExecutionId, Lease, Outcome, Owner, Payload, Program, ProgramId, Recorded,
    Result, Transition, UnixMs,
};
use std::sync::Arc;

pub use memory::MemoryStore;
pub use mysql::{MysqlOptions, MysqlStore, schema as mysql_schema};
pub use payloads::{PayloadChange, PayloadRow, PayloadTable, StoredPayload};
pub use postgres::{PostgresOptions, PostgresStore, schema as postgres_schema};
pub use record::{CallRecord, Control, ExecutionRecord, Labels, ListFilter, Loaded, StoredProgram};
pub use registry::{Role, TokenRecord, WorkerRecord};
pub use sealed::{KeyRing, Rekeyed, Rekeying, SealedStore};
pub use sqlite::{SqliteOptions, SqliteStore, Synchronous, schema};

/// One member of a batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// Stores a program unless it is there. Answer: [`Written::Done`].
    PutProgram(Arc<Program>),
    /// Keeps a program's first dump as its dictionary unless it has one.
    /// Answer: [`Written::Dictionary`], the one that is kept.
    PutDictionary {
        /// Which program.
        program: ProgramId,
        /// The dictionary.
        dictionary: Dictionary,
    },
    /// Stores a new execution in status `scheduled`, due since it was created unless it is leased.
    /// Answer: [`Written::Created`], or `NotFound` when its program is not stored, or `Conflict`
    /// when its id is taken.
    Create(NewExecution),
    /// Commits a transition. Answer: [`Written::Done`], or `Conflict` when the version or the
    /// lease (owner and epoch; an expired lease that nobody took over still counts) is not what
    /// the writer thought, or when a call that it closes was closed from outside in the
    /// meantime without being taken in: reload.
    Transition(Box<Transition>),
    /// Leases up to `limit` executions that need attention and that nobody holds, or whose
    /// lease has expired (whoever held it) or is held by one of `dead`: scheduled, running or
    /// waiting, and either due (`wake_at <= now`), or with a non-empty inbox, or with an expired
    /// or dead lease; and those of which an operator asks something, also while they are paused.
    /// Those due longest first: inboxes and requests, then by `wake_at` or the lease's expiry.
    /// Only executions of the given queues.
    ///
    /// An execution whose rows can't be read is logged and stays leased without being returned,
    /// so that it stops nobody else. Answer: [`Written::Claimed`].
    Claim {
        /// For whom.
        owner: Owner,
        /// Now.
        now_ms: UnixMs,
        /// When the new leases expire.
        expires_at_ms: UnixMs,
        /// Owners that are known to be gone: their leases count as expired.
        dead: Vec<Owner>,
        /// The queues to take from; empty for all.
        queues: Vec<String>,
        /// Most executions to lease.
        limit: usize,
    },
    /// Leases one execution by id, whatever its wake time, unless somebody else holds a live
    /// lease. Answer: [`Written::Claimed`] with one member, or `NotFound`, or `Conflict` (held,
    /// or the execution has ended).
    ClaimOne {
        /// Which execution.
        execution: ExecutionId,
        /// For whom.
        owner: Owner,
        /// Now.
        now_ms: UnixMs,
        /// When the new lease expires.
        expires_at_ms: UnixMs,
        /// Owners that are known to be gone.
        dead: Vec<Owner>,
    },
    /// Moves the expiry of all leases of an owner. Answer: [`Written::Done`].
    Renew {
        /// Whose.
        owner: Owner,
        /// The new expiry.
        expires_at_ms: UnixMs,
    },
    /// Gives one lease back without a transition. Answer: [`Written::Done`], also when the
    /// lease was lost already (nothing changes then).
    Release {
        /// Which execution.
        execution: ExecutionId,
        /// The lease.
        lease: Lease,
        /// When the execution is due for the next claim: its `wake_at`, which is NULL as long as
        /// somebody holds a lease (claims, and transitions that keep the lease, clear it; a
        /// holder that dies is found by its lease).
        wake_at_ms: Option<UnixMs>,
    },
    /// Puts what came of a call into the inbox of its execution, for whoever leases it next.
    /// The call's row is closed; its journal entry follows when the program takes it in.
    /// Answer: [`Written::Done`], `NotFound`, or `Conflict` when the call or the execution has
    /// ended, or when the call is a timer.
    Report {
        /// Which execution.
        execution: ExecutionId,
        /// Which call.
        call: CallId,
        /// What came of it.
        outcome: Outcome,
        /// Now.
        now_ms: UnixMs,
    },
    /// Asks whoever leases the execution to do something. The last request counts, but a
    /// cancel is never replaced; asking for what is so already (to pause what is paused, to
    /// resume what is not) only takes an earlier request back. A transition that makes a request
    /// pointless removes it; otherwise [`Transition::control_taken`] does.
    /// Answer: [`Written::Done`], `NotFound`, or `Conflict` when the execution has ended.
    Request {
        /// Which execution.
        execution: ExecutionId,
        /// What.
        control: Control,
        /// Why.
        reason: String,
    },
    /// Notes the job that an executor made of a call, under the lease: the call is submitted.
    /// Answer: [`Written::Done`], or `Conflict` when the lease is lost or the call is not open.
    NoteJob {
        /// Which execution.
        execution: ExecutionId,
        /// The lease.
        lease: Lease,
        /// Which call.
        call: CallId,
        /// The executor's name for the job.
        job_id: String,
    },
    /// Lists a worker, or renews its entry. Answer: [`Written::Done`].
    Announce(Box<WorkerRecord>),
    /// Takes a worker off the list. Answer: [`Written::Done`], also when it was not on it.
    Withdraw(Owner),
    /// Stores an access token. Answer: [`Written::Done`], or `Conflict` when its id is taken.
    PutToken(Box<TokenRecord>),
    /// Makes a token worthless for good. Answer: [`Written::Done`] or `NotFound`.
    RevokeToken {
        /// Which token.
        id: String,
        /// Now.
        now_ms: UnixMs,
    },
    /// Removes an execution with all its rows. Answer: [`Written::Done`], `NotFound`, or
    /// `Conflict` while another engine holds a live lease on it.
    Delete {
        /// Which execution.
        execution: ExecutionId,
        /// Who asks.
        owner: Owner,
        /// Now.
        now_ms: UnixMs,
    },
}

/// A new execution.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// Its id.
    pub id: ExecutionId,
    /// What it runs; stored earlier, or earlier in the same batch.
    pub program: ProgramId,
    /// A name to find it by: the workflow's.
    pub workflow_id: String,
    /// A JSON object: its inputs.
    pub inputs: Payload,
    /// Where it belongs.
    pub labels: Labels,
    /// Two starts with the same key in one namespace are one.
    pub idempotency_key: Option<String>,
    /// When.
    pub created_at_ms: UnixMs,
    /// The engine that takes it up at once, and when that lease expires (epoch 1).
    pub lease: Option<(Owner, UnixMs)>,
}

/// What a member of a batch came to.
#[derive(Debug)]
pub enum Written {
    /// It is durable.
    Done,
    /// The execution is durable.
    Created {
        /// Its id: another one than asked for when the idempotency key was used before.
        id: ExecutionId,
        /// Whether it was there already.
        existing: bool,
    },
    /// These executions are leased.
    Claimed(Vec<Loaded>),
    /// The dictionary that is kept.
    Dictionary(Dictionary),
}

/// Called by a store, from a thread of its own, when there is news.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// Where executions are kept.
///
/// Every implementation passes [`conformance::run`].
pub trait Store: Send + Sync + 'static {
    /// Commits a batch as one durable transaction and answers each member in order. When the
    /// call returns, everything answered with `Ok` survives a crash and a power loss.
    ///
    /// # Errors
    /// The outer error says that nothing of the batch was committed.
    fn commit(&self, batch: &[Write]) -> Result<Vec<Result<Written>>>;

    /// An execution as it is shown to people.
    fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionRecord>>;

    /// The calls and timers of an execution in the order they were asked for.
    fn calls(&self, id: ExecutionId) -> Result<Vec<CallRecord>>;

    /// Executions, newest first.
    fn list(&self, filter: &ListFilter) -> Result<Vec<ExecutionRecord>>;

    /// The journal of an execution after `after_sequence`, with payloads, at most `limit` events.
    ///
    /// # Errors
    /// `Corrupt` when an event or a row it refers to can't be read.
    fn journal(&self, id: ExecutionId, after_sequence: u64, limit: usize) -> Result<Vec<Recorded>>;

    /// A program with its dictionary.
    fn program(&self, id: &ProgramId) -> Result<Option<StoredProgram>>;

    /// Loads an execution afresh, as [`Write::Claim`] does for what it leases. The lease in
    /// the answer is the one in the store.
    fn load(&self, id: ExecutionId) -> Result<Option<Loaded>>;

    /// Executions leased by `owner` whose inbox is not empty, or of which an operator asks
    /// something.
    fn inboxes(&self, owner: &Owner) -> Result<Vec<ExecutionId>>;

    /// When the next execution of these queues (empty for all) that nobody holds is due, or the
    /// next lease of another owner on one expires; [`UnixMs::MIN`] when an unheld execution has a
    /// non-empty inbox.
    fn next_due_ms(&self, owner: &Owner, queues: &[String]) -> Result<Option<UnixMs>>;

    /// Owners of leases, other than `owner`.
    fn other_owners(&self, owner: &Owner) -> Result<Vec<Owner>>;

    /// A number that changes when somebody else committed to the store. Cheap: it is asked
    /// several times a second.
    fn change_token(&self) -> Result<u64>;

    /// Has `wake` called soon after somebody else committed something that [`Store::change_token`]
    /// would tell. A store that can't say so never calls it, and is asked for its token instead.
    fn subscribe(&self, wake: Wake) {
        drop(wake);
    }

    /// The store's own clock, when several machines share it; `None` when this machine's clock
    /// will do. Cheap, and never waits for the store: an implementation measures now and then how
    /// far the two are apart.
    fn clock_ms(&self) -> Option<UnixMs> {
        None
    }

    /// The call that an executor made this job of: its execution and its number.
    fn call_of_job(&self, job_id: &str) -> Result<Option<(ExecutionId, CallId)>>;

    /// The announced workers by name, with what they hold; also those that stopped announcing.
    fn workers(&self) -> Result<Vec<WorkerRecord>>;

    /// All access tokens, the oldest first; also revoked ones.
    fn tokens(&self) -> Result<Vec<TokenRecord>>;

    /// Payloads as they are stored, row by row in the order of ids and numbers, after that of
    /// `after`. A store that ends with its process has none to show.
    fn payloads(
        &self,
        table: PayloadTable,
        after: &(String, u64),
        limit: usize,
    ) -> Result<Vec<PayloadRow>> {
        let _ = (table, after, limit);
        Ok(Vec::new())
    }

    /// Replaces payloads in one durable transaction, each only if it still is what it was: what
    /// somebody else has written meanwhile stays. No lease is needed, for nothing that an engine
    /// compares or decides by is changed.
    ///
    /// # Errors
    /// Nothing was replaced, or, when the connection was lost, perhaps all: look again.
    fn replace_payloads(&self, table: PayloadTable, changes: &[PayloadChange]) -> Result<()> {
        let _ = (table, changes);
        Ok(())
    }

    /// Looks for damage; the findings, worst first. Empty when all is well.
    fn check(&self) -> Result<Vec<String>>;
}
