//! What the command line understands.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use durable::{Clock as _, Labels, Role, Status, SystemClock};

use crate::{exit, time};

/// Runs durable workflows, written as plain Python, and looks after them.
///
/// A workflow stores where it is at every `await`. After a crash, or after Ctrl-C, it goes on
/// from there with `durable resume`.
#[derive(Debug, Parser)]
#[command(name = "durable", version, after_help = exit::HELP)]
pub(crate) struct Args {
    /// The database: sqlite:///relative/file.db or sqlite:////absolute/file.db
    #[arg(long, global = true, env = "DURABLE_DB", default_value = "sqlite:///durable.db")]
    pub(crate) db: String,

    /// Log more to standard error; -vv and -vvv still more. RUST_LOG overrides it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a workflow to its end and print its output as JSON
    Run(Run),
    /// Store an execution of a workflow for workers to run, and print its id
    Start(Start),
    /// Run executions and their calls until SIGTERM or Ctrl-C
    Worker(Worker),
    /// List the workers of the database with what they hold
    Workers(Workers),
    /// Serve the HTTP API until SIGTERM or Ctrl-C
    Serve(Serve),
    /// Make, list and revoke the access tokens of the HTTP API
    #[command(subcommand)]
    Token(Token),
    /// Go on with an execution that was interrupted or paused, to its end
    Resume(Resume),
    /// List executions, newest first
    List(List),
    /// Show an execution: its status, its calls, and why it failed
    Show(Show),
    /// Show the journal of an execution
    Events(Events),
    /// Look at the places where an execution has waited, and go on from one of them
    #[command(subcommand)]
    Checkpoints(Checkpoints),
    /// End an execution: no further call of it is run
    Cancel(Cancel),
    /// Stop advancing an execution; `durable resume` lets it go on
    Pause(Pause),
    /// Let a failed execution go on from where it failed, for workers to run
    Retry(Retry),
    /// Remove an execution with everything that is stored about it
    Delete(Delete),
    /// Write an execution with its journal to standard output, as JSON
    Export(Export),
    /// Put an execution that was exported into the database
    Import(Import),
    /// Copy executions to another database
    Copy(Copy),
    /// Create the database, or bring its schema up to date
    Migrate(Migrate),
    /// Seal everything that is stored under the first of DURABLE_ENCRYPTION_KEYS
    Rekey(Rekey),
    /// Check that everything an execution needs is there and in order
    Doctor(Doctor),
}

/// Where the functions come from.
#[derive(Debug, clap::Args)]
pub(crate) struct FunctionsOf {
    /// The Python module or file whose functions the workflow may call
    #[arg(long, value_name = "MODULE_OR_FILE.py")]
    pub(crate) functions: Option<String>,

    /// The Python that runs them [default: python3, or that of the active virtual environment]
    #[arg(long, env = "DURABLE_PYTHON", value_name = "PYTHON")]
    pub(crate) python: Option<PathBuf>,
}

/// Where the functions come from, and where program code runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Host {
    #[command(flatten)]
    pub(crate) functions: FunctionsOf,

    /// Where the workflow's own code runs
    #[arg(long, value_enum, default_value_t = IsolationName::Process)]
    pub(crate) isolation: IsolationName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationName {
    /// In worker processes
    Process,
    /// In this process: for code you trust
    Thread,
}

impl IsolationName {
    pub(crate) fn isolation(self) -> durable::Isolation {
        match self {
            Self::Process => durable::Isolation::Process,
            Self::Thread => durable::Isolation::Thread,
        }
    }
}

/// What is started.
#[derive(Debug, clap::Args)]
pub(crate) struct Workflow {
    /// The workflow: a file of Python source
    #[arg(value_name = "FILE.py")]
    pub(crate) file: PathBuf,

    /// An input, a global variable of the workflow; the value is JSON if it can be read as such,
    /// else a string
    #[arg(long = "input", value_name = "NAME=VALUE")]
    pub(crate) inputs: Vec<String>,

    /// A file with a JSON object of inputs; --input overrides it
    #[arg(long = "inputs", value_name = "FILE.json")]
    pub(crate) inputs_file: Option<PathBuf>,

    /// A name to find the execution by [default: the file's]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Two starts with the same key in one namespace are one execution
    #[arg(long)]
    pub(crate) key: Option<String>,

    /// The queue that workers take it from
    #[arg(long, default_value = Labels::DEFAULT)]
    pub(crate) queue: String,

    /// A word to find the execution by; can be given more than once
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,

    /// The tenant it belongs to
    #[arg(long, default_value = Labels::DEFAULT)]
    pub(crate) namespace: String,
}

impl Workflow {
    pub(crate) fn labels(&self) -> Labels {
        Labels {
            namespace: self.namespace.clone(),
            queue: self.queue.clone(),
            tags: self.tags.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) workflow: Workflow,

    #[command(flatten)]
    pub(crate) host: Host,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) workflow: Workflow,

    #[command(flatten)]
    pub(crate) functions: FunctionsOf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Worker {
    #[command(flatten)]
    pub(crate) host: Host,

    /// Take executions of this queue only; can be given more than once [default: all queues]
    #[arg(long = "queue", value_name = "QUEUE")]
    pub(crate) queues: Vec<String>,

    /// How many calls run at once: of sync functions, and of async ones
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,

    /// How it is shown by `durable workers` [default: the name of this machine]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// How many seconds running calls are given when it is asked to end
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) grace: u32,

    /// End as soon as no execution of its queues is scheduled, running or waiting
    #[arg(long)]
    pub(crate) until_idle: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Workers {
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The execution
    pub(crate) id: String,

    #[command(flatten)]
    pub(crate) host: Host,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only executions of this status; can be given more than once
    #[arg(long, value_name = "STATUS", value_parser = status)]
    pub(crate) status: Vec<Status>,

    /// Only executions started under this name
    #[arg(long, value_name = "NAME")]
    pub(crate) workflow: Option<String>,

    /// Only executions with this tag
    #[arg(long)]
    pub(crate) tag: Option<String>,

    /// Only executions of this tenant
    #[arg(long)]
    pub(crate) namespace: Option<String>,

    /// Only executions started at this time or later: 2026-01-31, 2026-01-31T12:00:00Z, or how
    /// long ago, as 90s, 15m, 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<i64>,

    /// Only executions started before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<i64>,

    /// Most executions to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,

    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The execution
    pub(crate) id: String,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// The execution
    pub(crate) id: String,

    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// The execution
    pub(crate) id: String,

    /// Why, for those who look at it later
    #[arg(long, default_value = "cancelled on the command line")]
    pub(crate) reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    /// The execution
    pub(crate) id: String,

    /// Why, for those who look at it later
    #[arg(long, default_value = "paused on the command line")]
    pub(crate) reason: String,
}

/// Every `await` that asked for something is a checkpoint, also of executions that have ended.
#[derive(Debug, Subcommand)]
pub(crate) enum Checkpoints {
    /// List them, the oldest first
    List {
        /// The execution
        id: String,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show the source, the call stacks and the variables at one of them
    Show {
        /// The execution
        id: String,
        /// Its number; the last one if not given
        #[arg(long, value_name = "N")]
        at: Option<u32>,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what changed between two of them
    Diff {
        /// The execution
        id: String,
        /// The earlier one
        from: u32,
        /// The later one
        to: u32,
    },
    /// Start another execution that goes on from one of them, and print its id
    Fork {
        /// The execution
        id: String,
        /// Its number; the last one if not given
        #[arg(long, value_name = "N")]
        at: Option<u32>,
        /// What a call comes to that is waited for there; repeatable
        #[arg(long, value_name = "CALL=JSON")]
        result: Vec<String>,
        /// A variable and its value there, as in total=5, scale.total=5 (of the function), or
        /// 1.0.total=5 (of the second task's outermost function); repeatable
        #[arg(long, value_name = "NAME=JSON")]
        set: Vec<String>,
    },
    /// Cancel the execution if it has not ended, and go on from one of them with another, whose id
    /// is printed
    Restore {
        /// The execution
        id: String,
        /// Its number
        #[arg(long, value_name = "N")]
        at: u32,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The execution
    pub(crate) id: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// What `durable export` wrote; - for standard input
    #[arg(value_name = "FILE.json")]
    pub(crate) file: PathBuf,
}

/// Nothing is removed from the source. Copied again, what is there is left alone, and what has gone
/// on in the source goes on in the copy.
#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// The database to copy from
    #[arg(long, value_name = "URL")]
    pub(crate) from: String,

    /// The database to copy to; made if it is not there
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,

    /// The executions [default: all of them]
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,

    /// Pause those that have not ended, so that only one of the two databases goes on with them
    #[arg(long)]
    pub(crate) pause_source: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    /// Print the SQL that would be run, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What is sealed under another key, and what was stored in the clear, is sealed anew; then the other
/// keys can be dropped. Workers may run meanwhile. Cut off, it goes on where it was when it is
/// started again.
///
/// First give every process the new key, behind the old one; then put it first everywhere; then run
/// this.
#[derive(Debug, clap::Args)]
pub(crate) struct Rekey {
    /// Count what would be sealed anew, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    /// The execution
    pub(crate) id: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The execution
    pub(crate) id: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) host: Host,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The address and port to listen on. Other machines are let in only when there is an access
    /// token
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) bind: String,

    /// Run executions, and hand the calls of functions that are not in --functions to workers
    /// that claim them over HTTP
    #[arg(long)]
    pub(crate) tasks: bool,

    #[command(flatten)]
    pub(crate) host: Host,

    /// Run executions of this queue only; can be given more than once [default: all queues]
    #[arg(long = "queue", value_name = "QUEUE")]
    pub(crate) queues: Vec<String>,

    /// How many calls of --functions run at once: of sync functions, and of async ones
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,

    /// Requests that one client may make in a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,

    /// How many seconds running calls are given when it is asked to end
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) grace: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, this once
    Create(TokenCreate),
    /// List tokens, also those that are worth nothing any more
    List(TokenList),
    /// Make a token worthless for good
    Revoke(TokenRevoke),
}

#[derive(Debug, clap::Args)]
pub(crate) struct TokenCreate {
    /// What its bearer may do: viewer (look), worker (take tasks), operator (look, start, steer)
    /// or admin (everything)
    #[arg(long, value_parser = role)]
    pub(crate) role: Role,

    /// Whom it is for
    #[arg(long, default_value = "command line")]
    pub(crate) name: String,

    /// Confine its bearer to this namespace
    #[arg(long)]
    pub(crate) namespace: Option<String>,

    /// When it ends by itself: a day, an instant, or how long it lives, such as 90d
    #[arg(long)]
    pub(crate) expires: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TokenList {
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TokenRevoke {
    /// The token: the part between the first and the second underscore
    pub(crate) id: String,
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).map_err(|error| error.to_string())
}

fn status(text: &str) -> Result<Status, String> {
    Status::parse(text).map_err(|error| error.to_string())
}

fn time(text: &str) -> Result<i64, String> {
    time::parse(text, SystemClock::default().now_ms()).ok_or_else(|| {
        "expected 2026-01-31, 2026-01-31T12:00:00Z, or how long ago: 90s, 15m, 2h, 7d".to_owned()
    })
}
