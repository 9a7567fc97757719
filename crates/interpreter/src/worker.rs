//! The worker's side: answers frames, whether in a process of its own or on a thread.

use std::{
    any::Any,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    dictionary::{Dictionary, Packer},
    live::Live,
    memory::Memory,
    program::LoadedProgram,
    protocol::{
        self, Bytes, ExecutionKey, FromWorker, ProgramKey, ToWorker, WireAdvance, WireAnswer,
        WireBase, WireEnd, WireFailure, WireReached, WireState,
    },
    session::{self, Halt, Turn, Waiting},
    snapshot, validate,
};

/// What a live state is taken to hold where memory isn't counted.
const ASSUMED_LIVE_BYTES: usize = 256 << 10;

/// A worker's state from frame to frame.
pub(crate) struct Worker {
    programs: HashMap<ProgramKey, LoadedProgram>,
    live: Live,
    evicted: Vec<ExecutionKey>,
    packer: Packer,
    memory: Memory,
}

/// The state a run ended in, still to be written down.
enum Written {
    None,
    Raw(Vec<u8>),
    Packed { raw_len: u32, packed: Vec<u8> },
}

impl Worker {
    pub(crate) fn new(memory: Memory) -> Self {
        Self {
            programs: HashMap::new(),
            live: Live::new(0),
            evicted: Vec::new(),
            packer: Packer::new(),
            memory,
        }
    }

    /// The first frame to the parent.
    ///
    /// # Errors
    /// As for [`protocol::encode_frame`].
    pub(crate) fn hello() -> std::io::Result<Vec<u8>> {
        protocol::encode_frame(&FromWorker::Hello { protocol: protocol::PROTOCOL_VERSION })
    }

    /// Handles one frame and returns the answer, if it has one.
    ///
    /// # Errors
    /// When the frame makes no sense: the two sides are out of step, so the worker must end.
    pub(crate) fn handle(&mut self, frame: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        let invalid = |error: String| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        let frame = postcard::from_bytes(frame).map_err(|error| invalid(error.to_string()))?;
        match frame {
            ToWorker::Configure { live } => self.live = Live::new(live as usize),
            ToWorker::Program { key, definition } => {
                let definition =
                    serde_json::from_str(definition).map_err(|error| invalid(error.to_string()))?;
                self.programs.insert(key, LoadedProgram::new(definition));
            }
            ToWorker::DropProgram { key } => {
                self.programs.remove(&key);
            }
            ToWorker::Dictionary { key, bytes, .. } => {
                if let Some(program) = self.programs.get_mut(&key) {
                    // A broken one is as good as none: the snapshot is then refused.
                    program.dictionary = Dictionary::load(bytes.0).ok();
                }
            }
            ToWorker::Forget { execution } => self.live.forget(execution),
            ToWorker::Advance(advance) => return self.advance(&advance).map(Some),
            ToWorker::Validate { key } => {
                let found = self.validate(key);
                return protocol::encode_frame(&FromWorker::Validated(found)).map(Some);
            }
            ToWorker::Inspect(advance) => {
                let seen = self.inspect(&advance);
                return protocol::encode_frame(&FromWorker::Inspected(seen)).map(Some);
            }
        }
        Ok(None)
    }

    fn validate(&mut self, key: ProgramKey) -> Result<(), String> {
        let Some(program) = self.programs.get(&key) else {
            return Err("the program is not known to the worker".to_owned());
        };
        self.memory.begin(0, &program.definition.limits);
        let found = catch_unwind(AssertUnwindSafe(|| validate::check(&program.definition)));
        self.memory.end();
        found.unwrap_or_else(|panic| Err(format!("the program can't be checked: {}", text(panic))))
    }

    fn inspect(&mut self, advance: &WireAdvance<'_>) -> Result<String, String> {
        let Some(mut program) = self.programs.remove(&advance.program) else {
            return Err("the program is unknown".to_owned());
        };
        let limits = &program.definition.limits;
        self.memory.begin(0, limits);
        self.memory.widen(limits);
        let has_limit = self.memory.is_counted();
        let seen = catch_unwind(AssertUnwindSafe(|| {
            match run(&mut program, None, advance, has_limit)?.1.halt {
                Halt::Waiting(waiting) => waiting.inspect(&program),
                Halt::Completed(_) => Err("the program has ended there".to_owned()),
                Halt::Failed(failure) => {
                    Err(format!("the program fails before: {}", failure.message))
                }
            }
        }));
        self.memory.end();
        self.programs.insert(advance.program, program);
        let seen = seen.unwrap_or_else(|panic| Err(text(panic)))?;
        serde_json::to_string(&seen).map_err(|error| error.to_string())
    }

    fn advance(&mut self, advance: &WireAdvance<'_>) -> std::io::Result<Vec<u8>> {
        let Some(mut program) = self.programs.remove(&advance.program) else {
            return self.answer(WireAnswer::BadSnapshot("the program is unknown".to_owned()));
        };
        let frame = self.advance_program(&mut program, advance);
        self.memory.end();
        self.programs.insert(advance.program, program);
        frame
    }

    fn advance_program(
        &mut self,
        program: &mut LoadedProgram,
        advance: &WireAdvance<'_>,
    ) -> std::io::Result<Vec<u8>> {
        let restored = match self.restore(program, advance) {
            Ok(restored) => restored,
            Err(answer) => return self.answer(*answer),
        };
        if advance.groups.iter().any(|group| !group.variables.is_empty()) {
            self.memory.widen(&program.definition.limits);
        }
        let has_limit = self.memory.is_counted();
        let ran = catch_unwind(AssertUnwindSafe(|| run(program, restored, advance, has_limit)));
        let ran = ran.unwrap_or_else(|panic| {
            let what = format!("the interpreter failed on this program: {}", text(panic));
            let halt = Halt::Failed(WireFailure::new("SystemError", what));
            Ok((vec![Vec::new()], Turn { halt, calls: Vec::new(), printed: String::new() }))
        });
        let (calls, last) = match ran {
            Ok(ran) => ran,
            Err(why) => return self.answer(WireAnswer::Lost(why)),
        };
        let printed = last.printed;
        let mut written = Written::None;
        let end = match last.halt {
            Halt::Completed(json) => WireEnd::Completed(json),
            Halt::Failed(failure) => WireEnd::Failed(failure),
            Halt::Waiting(waiting) => {
                let used = self.memory.used().unwrap_or(ASSUMED_LIVE_BYTES);
                match self.write_down(program, &waiting, advance, !last.calls.is_empty()) {
                    Err(failure) => WireEnd::Failed(failure),
                    Ok(state) => {
                        written = state;
                        let (execution, next) = (advance.execution, advance.next);
                        self.live.keep(execution, next, waiting, used, &mut self.evicted);
                        WireEnd::Suspended { state: None }
                    }
                }
            }
        };
        let end = match (end, &written) {
            (WireEnd::Suspended { .. }, Written::Raw(dump)) => {
                WireEnd::Suspended { state: Some(WireState::Raw(Bytes(dump))) }
            }
            (WireEnd::Suspended { .. }, Written::Packed { raw_len, packed }) => {
                let state = WireState::Packed { raw_len: *raw_len, packed: Bytes(packed) };
                WireEnd::Suspended { state: Some(state) }
            }
            (end, _) => end,
        };
        let mut calls = calls;
        calls.push(last.calls);
        // The panic placeholder and the runs that ended early: one list for each advance asked for.
        calls.truncate(expected_lists(advance));
        calls.resize_with(expected_lists(advance), Vec::new);
        self.answer(WireAnswer::Reached(WireReached { calls, printed, end }))
    }

    /// Finds the state to go on from; `None` is the start.
    fn restore<'a>(
        &mut self,
        program: &LoadedProgram,
        advance: &WireAdvance<'a>,
    ) -> Result<Option<Waiting>, Box<WireAnswer<'a>>> {
        let limits = &program.definition.limits;
        if let WireBase::Live(token) = advance.base {
            let (waiting, bytes) =
                self.live.take(advance.execution, token).ok_or(Box::new(WireAnswer::NotLive))?;
            self.memory.begin(bytes, limits);
            return Ok(Some(waiting));
        }
        self.live.forget(advance.execution);
        self.memory.begin(0, limits);
        let WireBase::Snapshot { dictionary, raw_len, packed } = &advance.base else {
            return Ok(None);
        };
        let bad = |why: String| Box::new(WireAnswer::BadSnapshot(why));
        let known = program.dictionary.as_ref().filter(|known| Some(known.id()) == *dictionary);
        let Some(known) = known else {
            return Err(bad("the snapshot was compressed with another dictionary".to_owned()));
        };
        let dump = self
            .packer
            .unpack(packed.0, *raw_len as usize, known)
            .map_err(|error| bad(error.to_string()))?;
        match catch_unwind(AssertUnwindSafe(|| Waiting::load(program, &dump))) {
            Ok(loaded) => loaded.map(Some).map_err(bad),
            Err(panic) => Err(bad(format!("the interpreter can't load it: {}", text(panic)))),
        }
    }

    /// Dumps a state when the program asked for something new, compressed where there is a
    /// dictionary.
    fn write_down(
        &mut self,
        program: &LoadedProgram,
        waiting: &Waiting,
        advance: &WireAdvance<'_>,
        asked: bool,
    ) -> Result<Written, WireFailure> {
        if !asked {
            return Ok(Written::None);
        }
        let limits = &program.definition.limits;
        self.memory.widen(limits);
        let system_error = |what: String| WireFailure::new("SystemError", what);
        let dump = catch_unwind(AssertUnwindSafe(|| waiting.dump()))
            .unwrap_or_else(|panic| Err(format!("the state can't be dumped: {}", text(panic))))
            .map_err(system_error)?;
        let known = program
            .dictionary
            .as_ref()
            .filter(|known| advance.dictionary.is_some_and(|id| id == known.id()));
        let Some(dictionary) = known else {
            return Ok(Written::Raw(dump));
        };
        let packed = self
            .packer
            .pack(&dump, dictionary)
            .map_err(|error| system_error(format!("the state can't be compressed: {error}")))?;
        let size = snapshot::sealed_len(packed.len());
        if size as u64 > limits.max_snapshot_bytes {
            return Err(too_large_snapshot(size, limits.max_snapshot_bytes));
        }
        Ok(Written::Packed { raw_len: dump.len() as u32, packed })
    }

    fn answer(&mut self, answer: WireAnswer<'_>) -> std::io::Result<Vec<u8>> {
        let evicted = std::mem::take(&mut self.evicted);
        protocol::encode_frame(&FromWorker::Advanced { answer, evicted })
    }
}

/// The failure of a program whose state can't be stored.
pub(crate) fn too_large_snapshot(size: usize, limit: u64) -> WireFailure {
    WireFailure::new(
        "SnapshotTooLarge",
        format!(
            "the program's state has {size} bytes, the limit max_snapshot_bytes is {limit}: keep \
             large data outside and pass references to it"
        ),
    )
}

fn expected_lists(advance: &WireAdvance<'_>) -> usize {
    usize::from(matches!(advance.base, WireBase::Start { .. })) + advance.groups.len()
}

/// Runs all that was asked for; returns the calls of all turns but the last, and the last turn.
///
/// # Errors
/// A sentence, when variables can't be set that were.
fn run(
    program: &mut LoadedProgram,
    restored: Option<Waiting>,
    advance: &WireAdvance<'_>,
    has_memory_limit: bool,
) -> Result<(Vec<Vec<protocol::WireCall>>, Turn), String> {
    let mut earlier = Vec::with_capacity(advance.groups.len());
    let mut turn = match (restored, &advance.base) {
        (Some(waiting), _) => {
            // Not a turn of its own: nothing has run yet.
            Turn { halt: Halt::Waiting(waiting), calls: Vec::new(), printed: String::new() }
        }
        (None, WireBase::Start { inputs, seed, now_ms }) => {
            session::start(program, inputs, *seed, *now_ms, has_memory_limit)
        }
        (None, _) => {
            let failure = WireFailure::new("SystemError", "no state to go on from");
            Turn { halt: Halt::Failed(failure), calls: Vec::new(), printed: String::new() }
        }
    };
    let mut has_run = matches!(advance.base, WireBase::Start { .. });
    for group in &advance.groups {
        let waiting = match turn.halt {
            Halt::Waiting(waiting) => waiting,
            ended => return Ok((earlier, Turn { halt: ended, ..turn })),
        };
        if has_run {
            earlier.push(turn.calls);
        }
        let waiting = match group.variables.as_slice() {
            [] => waiting,
            variables => waiting.set(variables)?,
        };
        turn = session::resume(program, waiting, group);
        has_run = true;
    }
    Ok((earlier, turn))
}

fn text(panic: Box<dyn Any + Send>) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic".to_owned())
}
