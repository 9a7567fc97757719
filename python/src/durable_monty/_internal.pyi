"""The Rust engine as Python sees it. Everything here is private to the package.

All methods release the GIL while they wait. Payloads are JSON text in the mapping of
docs/VALUES.md. Errors are raised as the exceptions of `durable_monty.errors`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

class ExecutionDict(TypedDict):
    execution_id: str
    workflow_id: str
    status: str  # lower case
    inputs: str  # JSON
    output: str | None  # JSON
    error_type: str | None
    error: str | None  # the message; for paused and cancelled the reason
    error_traceback: str | None
    error_call: int | None
    created_at_ms: int
    started_at_ms: int | None
    completed_at_ms: int | None

class CallDict(TypedDict):
    call_id: int
    step_order: int
    resume_group_id: str
    is_timer: bool
    function_name: str
    target: str
    args: str  # JSON
    kwargs: str  # JSON
    line: int
    column: int
    status: str  # lower case
    attempt: int
    due_at_ms: int | None
    job_id: str | None
    result: str | None  # JSON
    error_type: str | None
    error: str | None
    error_traceback: str | None

class EventDict(TypedDict):
    sequence: int
    event_type: str
    payload: str  # JSON
    at_ms: int

class OpenCallDict(TypedDict):
    call_id: int
    name: str
    line: int
    column: int

class AssignmentDict(TypedDict):
    task: int
    depth: int
    function: str
    name: str
    value: str  # JSON

class CheckpointDict(TypedDict):
    number: int
    id: str
    execution_id: str
    at_ms: int
    sequence: int
    waits_for: list[OpenCallDict]
    label: str | None
    set: list[AssignmentDict]

class FrameDict(TypedDict):
    function: str
    line: int
    column: int
    variables: dict[str, str]  # JSON

class InspectedCheckpointDict(CheckpointDict):
    source: str
    stacks: list[list[FrameDict]]

class Task:
    """One attempt of one call, handed to this process to run."""

    execution_id: str
    call_id: int
    attempt: int
    function: str
    step: str  # the program's own name for the call
    args: str  # JSON array
    kwargs: str  # JSON object
    idempotency_key: str
    timeout_ms: int | None

class CheckpointStore:
    """Checkpoints behind a URL; contents are JSON text."""

    place: str
    def __init__(
        self, url: str, max_bytes: int, keep_last: int | None, lease_s: float, keys: str | None
    ) -> None: ...
    def save(self, id: str, content: str) -> tuple[int, int]:  # noqa: A002
        """How many bytes are kept, and how many older checkpoints were removed."""
    def load(self, id: str) -> str | None: ...  # noqa: A002
    def list(self, execution: str) -> list[str]: ...
    def delete(self, id: str) -> bool: ...  # noqa: A002
    def cleanup(self, execution: str, keep_last: int) -> int: ...
    def acquire(self, execution: str) -> None: ...
    def release(self, execution: str) -> None: ...

class Engine:
    """One open store with its engine."""

    @staticmethod
    def open(url: str, isolation: str = "process", synchronous: str = "full") -> Engine:
        """Opens or creates the store behind `sqlite:///path` and migrates its schema."""
    def start(
        self,
        source: str,
        functions: str,  # JSON object: name -> {} or {"target":…, "retry":{…}, "timeout_ms":…}
        inputs: str,  # JSON object
        workflow_id: str | None = None,
        idempotency_key: str | None = None,
        limits: str | None = None,  # JSON object: fields of Limits
        namespace: str | None = None,
        queue: str | None = None,
        tags: Sequence[str] = (),
        language: str = "python",  # or of a step workflow: yaml, toml, json; or session
    ) -> str: ...
    def start_many(self, starts: list[tuple[str, str, str]], language: str = "python") -> list[str]:
        """`(source, functions, inputs)` each; all in as few commits as possible."""
    def validate(
        self, source: str, functions: str, input_names: list[str], language: str = "python"
    ) -> None:
        """Raises `InvalidWorkflow` with every problem found."""
    def execution(self, execution_id: str) -> ExecutionDict | None: ...
    def executions(
        self, statuses: list[str], limit: int = 100, before: str | None = None
    ) -> list[ExecutionDict]:
        """Newest first."""
    def calls(self, execution_id: str) -> list[CallDict]: ...
    def events(self, execution_id: str, after: int = 0, limit: int = 1000) -> list[EventDict]: ...
    def checkpoints(self, execution_id: str) -> list[CheckpointDict]:
        """Oldest first. Raises NotFound."""
    def checkpoint(self, execution_id: str, number: int | None = None) -> InspectedCheckpointDict:
        """Runs the program again up to a checkpoint, by default the newest."""
    def fork(
        self,
        execution_id: str,
        number: int | None = None,
        results: Mapping[int, str] = ...,  # JSON by call
        variables: Mapping[str, str] = ...,  # JSON by name
    ) -> str:
        """The id of a new execution that goes on from a checkpoint, by default the newest."""
    def restore(self, execution_id: str, number: int) -> str:
        """As `fork`; the execution itself is cancelled if it has not ended."""
    def source(self, execution_id: str) -> tuple[str, str] | None:
        """Source text and the functions (JSON) of the program an execution runs."""
    def complete_call(self, execution_id: str, call_id: int, result: str) -> None:
        """Reports a result from outside. Returns when it is durable."""
    def fail_call(
        self,
        execution_id: str,
        call_id: int,
        error_type: str,
        message: str,
        traceback: str | None = None,
    ) -> None: ...
    def advance(self, execution_id: str) -> None:
        """Leases the execution, takes in what has arrived, runs it to its next suspension,
        and gives it back; runs no calls."""
    def wait(self, execution_id: str, timeout_s: float | None) -> ExecutionDict | None:
        """Until it has ended; None when the time is over."""
    def wait_idle(self, timeout_s: float) -> bool:
        """Until no execution of the queues it serves is scheduled, running or waiting (True), or
        the time is over (False)."""
    def cancel(self, execution_id: str, reason: str) -> None: ...
    def pause(self, execution_id: str, reason: str) -> None: ...
    def resume(self, execution_id: str) -> None: ...
    def retry(self, execution_id: str) -> None: ...
    def delete(self, execution_id: str) -> None: ...
    def attach(
        self,
        queues: Sequence[str] = (),
        announcement: tuple[str, list[str], int] | None = None,
    ) -> None:
        """Begins to lease executions of these queues (none for all) and to hand out their calls
        with `next_task`. `announcement` is how it is listed: name, functions, concurrency."""
    def detach(self, timeout_s: float) -> None:
        """Stops leasing, waits for running calls up to the timeout, gives back what is held,
        and lets every `next_task` return None."""
    def next_task(self, timeout_s: float) -> Task | None:
        """The next call to run; None when the time is over or the engine was detached."""
    def finish(self, task: Task, result: str) -> Task | None:
        """Reports a result, and takes the next task if one is there (never waits for one)."""
    def fail(
        self, task: Task, error_type: str, message: str, traceback: str | None = None
    ) -> Task | None: ...
    def note_job(self, task: Task, job_id: str) -> None:
        """Stores the name a remote executor gave to the task."""
    def note_jobs(self, jobs: Sequence[tuple[Task, str]]) -> None:
        """Stores such names soon, without waiting. Passes over tasks that have ended meanwhile."""
    def is_cancelled(self, task: Task) -> bool:
        """Whether nobody waits for the task any more."""
    def pending_tasks(self) -> int:
        """Tasks waiting in `next_task`'s queue."""
    def close(self) -> None: ...

class FeedErrorDict(TypedDict):
    type: str
    message: str
    traceback: str | None
    call_id: int | None

class FeedResultDict(TypedDict):
    number: int
    output: str  # JSON
    repr: str | None
    printed: str
    error: FeedErrorDict | None

class FeedDict(TypedDict):
    number: int
    code: str
    response: str | None  # JSON
    result: FeedResultDict | None

class Session:
    """An execution that is fed code piece by piece."""

    @staticmethod
    def open(engine: Engine, execution_id: str) -> Session:
        """Raises NotFound, and InvalidWorkflow for an execution that is no session."""
    def submit(
        self,
        code: str,
        response: str | None = None,  # JSON
        number: int | None = None,
        timeout_s: float | None = None,
    ) -> int | None:
        """Has code run: the feed's number; None when the session has not begun in time."""
    def result(self, number: int, timeout_s: float | None = None) -> FeedResultDict | None:
        """Waits for what a feed comes to; None when the time is over."""
    def feeds(self) -> list[FeedDict]: ...
    def variables(self) -> dict[str, str]:
        """JSON by name."""
    def fork(self, after: int | None = None) -> str:
        """The id of a new session that goes on from after a feed."""
    def rewind(self, after: int) -> str:
        """As `fork`; this session is cancelled."""
    def close(self) -> None: ...

class SqliteConnection:
    """A connection of the engine's own SQLite library, for `durable_monty.sqlite`.

    Errors are the exceptions of Python's `sqlite3`. After a fork it refuses to work, and closing
    or dropping it does nothing.
    """

    def __init__(self, path: str, timeout_s: float) -> None: ...
    def execute(
        self, sql: str, parameters: Sequence[Any] | dict[str, Any]
    ) -> tuple[list[str] | None, list[tuple[Any, ...]], int, int]:
        """Runs one statement: column names, rows, number of changed rows (-1 for a statement
        that only reads), last row id."""
    @property
    def in_transaction(self) -> bool: ...
    def close(self) -> None: ...

def worker_main() -> int:
    """Body of an interpreter worker process."""

def migrate(url: str) -> tuple[int, int]:
    """Brings the schema up to date; versions before and after."""

def outline(source: str, language: str) -> tuple[str | None, list[str]]:
    """The id of a step workflow and the agents that it names; nothing is checked."""

__version__: str

class HttpApp:
    """The HTTP API on an engine."""

    @staticmethod
    def open(engine: Engine, webhook_secret: str | None = None, tasks: bool = False) -> HttpApp:
        """With `tasks` the engine's calls are handed to workers that claim them over HTTP."""
    def request(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes | None,  # None: it did not arrive in time
        client: str | None,
    ) -> Exchange: ...
    def close(self, grace_s: float) -> None: ...

class Exchange:
    """One request and its answer, which is taken piece by piece."""

    def next(self, done: Callable[[str, Any, Any], None]) -> None:
        """Has `done` called from another thread with `"head", status, headers`, then
        `"body", bytes, None` any number of times, then `"end", None, None`."""
    def cancel(self) -> None: ...
