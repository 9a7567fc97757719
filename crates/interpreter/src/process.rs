//! A worker process, as the parent sees it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufReader, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use monty_types::OOM_EXIT_CODE;
use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_setfl},
};

use crate::{protocol::read_frame, scheduler::Events};

/// How a worker process is started: an executable that calls
/// [`worker_main`](crate::worker_main).
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment: nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
}

impl WorkerCommand {
    /// An executable without arguments or environment.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new() }
    }
}

/// Why a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Death {
    /// It passed its memory ceiling.
    OutOfMemory,
    /// It ran out of native stack.
    StackOverflow,
    /// It crashed otherwise.
    Crash(String),
    /// Something outside ended it, or the reason is unknown.
    Unknown(String),
}

/// Pipes this large take most requests in one write.
const PIPE_BYTES: usize = 256 << 10;

/// What a dying worker may say on standard error.
const MAX_LAST_WORDS: u64 = 16 << 10;

/// The writing end to a worker process, and the means to kill it.
pub(crate) struct ProcessLink {
    child: Arc<Mutex<Child>>,
    outgoing: Arc<Mutex<Outgoing>>,
}

/// Bytes on their way to a worker.
struct Outgoing {
    stdin: ChildStdin,
    /// What the pipe had no room for, and how much of it has been written.
    queue: Vec<u8>,
    written: usize,
}

impl ProcessLink {
    /// Starts a worker and a thread that reads from it.
    ///
    /// The caller's thread must live as long as the pool: on Linux a worker dies with the
    /// thread that started it.
    ///
    /// # Errors
    /// Those of starting a process.
    pub(crate) fn start(command: &WorkerCommand, events: Events) -> io::Result<Self> {
        let (errors, errors_in) = io::pipe()?;
        // Nobody reads it while the worker lives, so a full pipe must not hold the worker up.
        fcntl_setfl(&errors_in, OFlags::NONBLOCK)?;
        let mut child = Command::new(&command.program)
            .args(&command.args)
            .env_clear()
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors_in)
            // Keys pressed at the parent's terminal are the parent's business.
            .process_group(0)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the worker has no pipes"));
        };
        fcntl_setfl(&stdin, OFlags::NONBLOCK)?;
        grow_pipe(&stdin);
        grow_pipe(&stdout);
        let child = Arc::new(Mutex::new(child));
        let outgoing = Outgoing { stdin, queue: Vec::new(), written: 0 };
        let link = Self { child: Arc::clone(&child), outgoing: Arc::new(Mutex::new(outgoing)) };
        let reading = thread::Builder::new().name("worker replies".to_owned());
        let started = reading.spawn(move || {
            read_replies(stdout, File::from(OwnedFd::from(errors)), &child, &events)
        });
        if let Err(error) = started {
            link.kill();
            return Err(error);
        }
        Ok(link)
    }

    /// Sends frames without ever waiting for the worker: what the pipe has no room for is
    /// written by a thread of its own.
    ///
    /// A failure to write is no error here: the reader finds out that the worker is gone.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut outgoing = self.outgoing.lock();
        if !outgoing.queue.is_empty() {
            outgoing.queue.extend_from_slice(bytes);
            return;
        }
        let written = write_some(&outgoing.stdin, bytes);
        let Ok(written) = written else { return };
        if written == bytes.len() {
            return;
        }
        outgoing.queue.extend_from_slice(&bytes[written..]);
        let shared = Arc::clone(&self.outgoing);
        let flusher = thread::Builder::new().name("worker requests".to_owned());
        if flusher.spawn(move || flush(&shared)).is_err() {
            // Without the rest of the frame the worker can't go on.
            self.kill();
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.lock().id()
    }

    /// Kills the worker, if it still lives.
    pub(crate) fn kill(&self) {
        let _ = self.child.lock().kill();
    }
}

/// Writes as much as the pipe takes now.
fn write_some(mut stdin: &ChildStdin, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stdin.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Writes the queue as the worker makes room, until it is empty or the worker is gone.
fn flush(outgoing: &Mutex<Outgoing>) {
    let Ok(pipe) = outgoing.lock().stdin.as_fd().try_clone_to_owned() else { return };
    loop {
        let mut ready = [PollFd::new(&pipe, PollFlags::OUT)];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let mut outgoing = outgoing.lock();
        let outgoing = &mut *outgoing;
        match write_some(&outgoing.stdin, &outgoing.queue[outgoing.written..]) {
            Ok(count) => outgoing.written += count,
            // Later frames are dropped as well: the reader is about to report the death.
            Err(_) => outgoing.written = outgoing.queue.len(),
        }
        if outgoing.written == outgoing.queue.len() {
            outgoing.queue = Vec::new();
            outgoing.written = 0;
            return;
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn grow_pipe(pipe: impl AsFd) {
    // Best effort: an unprivileged user has a budget for pipes.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn grow_pipe(_pipe: impl AsFd) {
    let _ = PIPE_BYTES;
}

/// Hands on what the worker says until it ends, then how it ended.
fn read_replies(stdout: ChildStdout, errors: File, child: &Mutex<Child>, events: &Events) {
    let mut stdout = BufReader::with_capacity(64 << 10, stdout);
    let mut frame = Vec::new();
    while let Ok(true) = read_frame(&mut stdout, &mut frame) {
        if !events.frame(&frame) {
            break;
        }
        if frame.capacity() > 1 << 20 {
            frame = Vec::new();
        }
    }
    let status = reap(child);
    let mut last_words = Vec::new();
    let _ = errors.take(MAX_LAST_WORDS).read_to_end(&mut last_words);
    events.died(&death(status, &String::from_utf8_lossy(&last_words)));
}

/// Waits for the end of a worker that has closed its output, and makes sure of it.
fn reap(child: &Mutex<Child>) -> Option<ExitStatus> {
    const PATIENCE: u32 = 100;
    for round in 0.. {
        // Not `wait`: the lock must stay free for whoever wants to kill it.
        match child.lock().try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => {}
            Err(_) => return None,
        }
        if round == PATIENCE {
            let _ = child.lock().kill();
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

fn death(status: Option<ExitStatus>, last_words: &str) -> Death {
    let Some(status) = status else {
        return Death::Unknown("the worker is gone".to_owned());
    };
    let ran_out_of_memory = last_words.contains("memory allocation of");
    if status.code() == Some(OOM_EXIT_CODE) || ran_out_of_memory {
        return Death::OutOfMemory;
    }
    if last_words.contains("has overflowed its stack") {
        return Death::StackOverflow;
    }
    let words = last_words.lines().next().unwrap_or("").trim();
    let what = if words.is_empty() { status.to_string() } else { format!("{status}: {words}") };
    const CRASHES: [i32; 6] = [4, 5, 6, 7, 8, 11]; // ILL, TRAP, ABRT, BUS, FPE, SEGV
    match status.signal() {
        Some(signal) if CRASHES.contains(&signal) => Death::Crash(what),
        _ => Death::Unknown(format!("the worker ended ({what})")),
    }
}
