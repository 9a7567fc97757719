"""Runs code in this process, statement by statement as it arrives, and keeps its names."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import logging
import types as python_types
import typing
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checkpoints import (
    Checkpoint,
    CheckpointManager,
    CheckpointWarning,
    InvalidCheckpoint,
    RecoveryCoordinator,
)
from ..checkpoints.config import DisabledManager
from ..checkpoints.content import Policy
from ..errors import Conflict, NotFound
from .definitions import Before, Definition, Definitions, is_definition, names_read
from .errors import StreamingExecutionError, described, traceback_of
from .loops import Loop, Progress
from .packing import Unpacker, is_reference, pack_namespace
from .program import Compiled, Program
from .record import InFlight, Record, Resumed
from .splitter import Statement, StatementSplitter

__all__ = ["ExecutionResult", "StreamingPythonExecutor"]

_OVER = "for"
"""Under which what a loop goes over is packed beside the variables: none has such a name."""

_MADE = (
    *(
        type,
        python_types.ModuleType,
        typing.TypeVar,
        python_types.GenericAlias,
        python_types.UnionType,
    ),
    *(type(typing.ClassVar[int]), functools.partial, logging.Logger),
)
"""What an assignment may define: `Point = namedtuple("Point", "x y")`, `Ids = list[int]`,
`numbers = import_module("numpy")`."""


@dataclass(frozen=True)
class ExecutionResult:
    """What a response came to."""

    response: int
    """Which response of the execution it was, from 1."""
    statements: int
    """How many of its statements have ended in this process."""
    output: Any
    """The value of its last statement, if that was an expression."""
    printed: str
    """What it printed in this process."""
    executed_code: str
    """Its code that has run without an error."""
    error: StreamingExecutionError | None
    """The error that ended it."""


class _Sorted(typing.NamedTuple):
    """What is in the namespace when it is saved."""

    variables: dict[str, Any]
    defined: list[str]
    given: list[str]
    refused: dict[str, str]
    """What can't be had again, and why."""
    names: dict[int, str]
    """By which names objects can be had again that are no variables, by their ids."""


class _NotSavedError(Exception):
    """The store did not take the checkpoint after a pass of a loop."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class StreamingPythonExecutor:
    """Runs the code of a model's responses in this process, as it arrives.

    It is no sandbox: the code can do all that this process can.

    `manager`: where checkpoints go; with None, or a manager of disabled durability, nowhere.
    `namespace`: the names that the code finds. What of it is no data when it is given (functions,
    clients) has to be given again when it is resumed; data is saved like the code's variables.
    `every`: "await" saves before and after each statement that awaits, and at the end of a
    response; "statement" does so for each statement.
    `on_unsaved`: what happens when a variable can't be saved, "error" or "warn"; the manager's own
    policy unless it is given.
    `program`: a name that a checkpoint has to bear to be resumed here.
    `types`: classes that resuming may make instances of beside those that are imported already.
    `execution_state`: gives what else to save, for an agent around it.

    >>> import asyncio
    >>> from durable_monty import StreamingPythonExecutor
    >>> async def main():
    ...     executor = StreamingPythonExecutor()
    ...     for chunk in ("x = 2", "0\\nx +", " 1"):
    ...         await executor.add_chunk(chunk)
    ...     return (await executor.finalize()).output
    >>> asyncio.run(main())
    21
    """

    def __init__(
        self,
        manager: CheckpointManager | DisabledManager | None = None,
        namespace: Mapping[str, Any] | None = None,
        *,
        every: Literal["await", "statement"] = "await",
        on_unsaved: Policy | None = None,
        program: str = "",
        types: Sequence[type] = (),
        execution_state: Callable[[], dict[str, Any]] | None = None,
        max_response_chars: int = 1_000_000,
        max_statements: int = 10_000,
        max_printed_chars: int = 1_000_000,
    ) -> None:
        if every not in ("await", "statement"):
            raise ValueError(f"every is {every!r}: expected 'await' or 'statement'")
        if on_unsaved not in (None, "error", "warn"):
            raise ValueError(f"on_unsaved is {on_unsaved!r}: expected 'error' or 'warn'")
        self._manager = manager if isinstance(manager, CheckpointManager) else None
        self._given = dict(namespace or {})
        for name in self._given:
            if not name.isidentifier() or name.startswith("__"):
                raise ValueError(f"{name!r} is no name that can be given to code")
        self._every = every
        self._on_unsaved = on_unsaved or (self._manager.on_unsaved if self._manager else "error")
        self._types = types
        self._execution_state = execution_state
        self._max_response_chars = max_response_chars
        self._max_statements = max_statements
        execution_id = None if self._manager is None else self._manager.execution_id
        self._program = Program(execution_id, self._given, max_printed_chars)
        self._program_name = program
        # Decided once and for all: what is data here is not the host's when it is no more.
        data = {} if self._manager is None else self._data(self._given)
        self._by_reference = self._given.keys() - data.keys()
        self.llm_response: str | None = None
        """The text of the model with the code in it, kept with each checkpoint."""
        self.resumed: Resumed | None = None
        """From where it goes on; None when it began at the beginning."""
        self.lost: dict[str, str] = {}
        """The variables that are not there because they could not be saved, and why."""
        self._definitions = Definitions(self._program.name)
        self._statements = 0
        self._last = ""
        self._is_dirty = False
        self._is_blocked = False
        self._running: str | None = None
        self._interrupted: str | None = None
        self._warned: set[str] = set()
        self._response = 1
        self._begin_response()

    def _begin_response(self) -> None:
        self._splitter = StatementSplitter()
        self._queue: deque[Statement] = deque()
        self._loop: Progress | None = None
        self._chunks: list[str] = []
        self._received_chars = 0
        self._finished_chars = 0
        self._line = 1
        self._executed: list[str] = []
        self._failure: StreamingExecutionError | None = None
        self._output: Any = None
        self._first = self._statements
        self._program.output.clear()

    @classmethod
    async def resume(
        cls,
        manager: CheckpointManager | DisabledManager | None,
        namespace: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> StreamingPythonExecutor:
        """An executor that goes on from the newest checkpoint that can be read, or from the
        beginning when there is none; `resumed` tells which. It is the only writer of these
        checkpoints from then on.

        Raises Conflict while another process is, `InvalidCheckpoint` for a checkpoint that is not
        of this program, or needs what is not there, and `durable_monty.Corrupt` when there are
        checkpoints and none can be read.
        """
        executor = cls(manager, namespace, **options)
        if isinstance(manager, CheckpointManager):
            # Before it looks: nobody adds a checkpoint to those that it goes on from.
            await manager.acquire()
            with contextlib.suppress(NotFound):
                await RecoveryCoordinator(manager).recover_execution_state(executor)
        return executor

    @property
    def namespace(self) -> dict[str, Any]:
        """The global names of the code."""
        return self._program.namespace

    @property
    def response(self) -> int:
        """The number of the response that is under way, from 1."""
        return self._response

    @property
    def received(self) -> str:
        """The code of this response that is here already, whether it has run or not. Whoever has
        the whole text goes on with `text[len(executor.received):]`."""
        self._chunks = ["".join(self._chunks)]
        return self._chunks[0]

    @property
    def has_error(self) -> bool:
        """Whether a statement of this response failed."""
        return self._failure is not None

    @property
    def error(self) -> BaseException | None:
        """The exception that ended this response."""
        return None if self._failure is None else self._failure.original_error

    @property
    def error_traceback(self) -> str | None:
        """Where that exception was raised, from the statement on."""
        return None if self._failure is None else self._failure.traceback

    def get_executed_code(self) -> str:
        """The code of this response that has run without an error."""
        return "".join(self._executed)

    async def add_chunk(self, chunk: str) -> None:
        """Takes more code and runs the statements that are complete with it.

        Raises `StreamingExecutionError` when a statement fails, which ends the response: what
        else of it comes is dropped. Errors of the store are raised as they are; what was not run
        for them runs with the next chunk, which may be empty.
        """
        with self._alone("add_chunk"):
            if self._failure is not None:
                return
            self._received_chars += len(chunk)
            if self._received_chars > self._max_response_chars:
                await self._fail(
                    ValueError(
                        f"the code of the response is longer than {self._max_response_chars} "
                        "characters (max_response_chars)"
                    )
                )
            self._chunks.append(chunk)
            self._queue += self._splitter.feed(chunk)
            await self._drain()

    async def finalize(self) -> ExecutionResult:
        """Ends the response: runs what is left of its code, and saves. Other code may follow, as
        the next response; it finds the same names.

        Raises as `add_chunk` does. After a `StreamingExecutionError` it is called again, and its
        result has the error.
        """
        with self._alone("finalize"):
            if self._failure is None:
                self._queue += self._splitter.finish()
                await self._drain()
            result = ExecutionResult(
                self._response,
                self._statements - self._first,
                self._output,
                self._program.output.text(),
                self.get_executed_code(),
                self._failure,
            )
            if not (self._is_blocked and self._failure is not None):
                await self._save_or_fail(closes=True)
            if not any(one.response == self._response for one in self._definitions.made):
                self._program.hide(self._response)
            self._response += 1
            self._begin_response()
            return result

    async def checkpoint(self) -> None:
        """Saves a checkpoint now, between two statements.

        Raises Conflict while a statement runs: resuming runs that again from its beginning, with
        the names as they were then. Raises `InvalidCheckpoint` when there is what can't be saved
        and that is to be an error.
        """
        with self._alone("checkpoint"):
            # A loop that the store stopped between two passes is still under way.
            await self._save(None if self._loop is None else self._in_flight(self._queue[0]))

    def close(self) -> None:
        """Takes the module of the code out of `sys.modules`, which an executor that nobody has any
        more does itself. Only one that its own namespace refers to has to be closed."""
        self._program.close()

    def restore_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Puts this executor, which has run nothing yet, where a checkpoint was saved.

        Definitions run again, in their order; variables are made again from their data. Raises
        `InvalidCheckpoint` when the checkpoint is not of this program, or needs what is not there.
        """
        name = checkpoint["checkpoint_id"]
        if self._statements or self._received_chars or self.resumed is not None:
            raise Conflict(f"{name} has to be restored into an executor that has run nothing")
        record = Record.of(checkpoint)
        if record.program != self._program_name:
            raise InvalidCheckpoint(
                f"{name} is of the program {record.program!r}, and this is {self._program_name!r}"
            )
        missing = [one for one in record.given if one not in self._given]
        if missing:
            raise InvalidCheckpoint(
                f"{name} needs {', '.join(missing)}, which the process that saved it had from its "
                "host: give it in `namespace`"
            )
        self._define_again(record, name)
        self._program.output.clear()
        self._set_variables(record, checkpoint["namespace"], name)
        self._statements = self._first = record.statements
        self._response, self._line = record.response, record.line
        self._chunks, self._received_chars = [record.received], len(record.received)
        self._finished_chars = record.finished_chars
        self._last = checkpoint["metadata"].get("statement") or ""
        self.llm_response = checkpoint["metadata"].get("llm_response")
        self._executed = [record.executed_code] if record.executed_code else []
        self.lost = dict(record.unsaved)
        self._warned = set(record.unsaved)
        self._splitter = StatementSplitter(record.line)
        rest = ""
        if record.failure is not None:
            self._failure = StreamingExecutionError(record.failure, None, record.executed_code)
        else:
            rest = record.received[record.finished_chars :]
            self._queue += self._splitter.feed(rest)
        self._program.show(self._response, 1, record.received)
        self.resumed = Resumed(
            name, record.response, record.statements, record.in_flight, rest, dict(record.unsaved)
        )

    # Running

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if self._running is not None:
            raise Conflict(f"{what} while {self._running} runs: await that first")
        if self._interrupted is not None:
            raise Conflict(
                f"{self._interrupted} was interrupted in the middle: resume from the last "
                "checkpoint"
            )
        self._running = what
        try:
            yield
        finally:
            self._running = None

    async def _drain(self) -> None:
        """Runs the statements that are there, and saves what a checkpoint is due for."""
        while self._queue:
            statement = self._queue[0]
            if statement.source:
                await self._run(statement)
                await asyncio.sleep(0)
            else:
                self._queue.popleft()
                self._pass(statement)
        if self._is_dirty and not self._is_blocked:
            await self._save_or_fail()

    async def _run(self, statement: Statement) -> None:
        if self._statements - self._first >= self._max_statements:
            limit = self._max_statements
            await self._fail(ValueError(f"more than {limit} statements (max_statements)"))
        self._program.show(self._response, statement.line, statement.text)
        try:
            compiled = self._program.compile(statement, self._response)
        except (SyntaxError, ValueError, RecursionError) as error:
            await self._fail(error)
        saves = compiled.awaits or self._every == "statement"
        if (saves or self._is_dirty) and (compiled.awaits or not self._is_blocked):
            await self._save_or_fail(self._in_flight(statement))
        before = Before.of(self.namespace) if self._may_define(compiled) else None
        try:
            self._output = await self._execute(compiled)
        except _NotSavedError as error:
            # Between two passes: the loop goes on from there with the next chunk.
            raise error.reason from None
        except Exception as error:
            self._end(statement)
            await self._fail(error)
        except BaseException:
            self._interrupted = f"statement {self._statements + 1}"
            raise
        if before is not None:
            self._take_definition(compiled, before, self._response)
        self._end(statement)
        self._executed.append(statement.text)
        self._is_dirty = self._is_dirty or saves

    async def _execute(self, compiled: Compiled) -> Any:
        if self._manager is None or not Loop.is_one(compiled):
            return await self._program.run(compiled)
        self._loop = self._loop or Progress()
        loop = Loop(self._program, compiled, self._program.file(self._response))
        return await loop.run(self._loop, lambda: self._save_pass(compiled.statement))

    async def _save_pass(self, statement: Statement) -> None:
        try:
            await self._save(self._in_flight(statement))
        except InvalidCheckpoint:
            self._is_blocked = True
            raise
        except Exception as error:
            raise _NotSavedError(error) from error
        await asyncio.sleep(0)

    def _end(self, statement: Statement) -> None:
        """The first statement of the queue has run."""
        self._queue.popleft()
        self._loop = None
        self._statements += 1
        self._last = statement.source
        self._pass(statement)

    def _pass(self, statement: Statement) -> None:
        self._finished_chars = min(self._finished_chars + len(statement.text), self._received_chars)
        self._line = statement.line + statement.text.count("\n")

    async def _fail(self, error: BaseException) -> typing.NoReturn:
        """Ends the response with an error."""
        message = described(error, self._program.files)
        if isinstance(error, NameError) and error.name in self.lost:
            message += f"\n{error.name!r} was not saved before the crash: {self.lost[error.name]}"
        trace = traceback_of(error, self._program.files)
        self._failure = StreamingExecutionError(message, error, self.get_executed_code(), trace)
        self._queue.clear()
        if not isinstance(error, InvalidCheckpoint):
            try:
                await self._save()
            except InvalidCheckpoint as unsaved:
                self._is_blocked = True
                self._failure.args = (f"{message}\nand there is no checkpoint of it: {unsaved}",)
        raise self._failure from error

    # Definitions

    def _may_define(self, compiled: Compiled) -> bool:
        return not compiled.awaits and all(
            is_definition(one) or isinstance(one, ast.Assign) for one in compiled.nodes
        )

    def _take_definition(self, compiled: Compiled, before: Before, response: int) -> None:
        if not all(is_definition(one) or self._makes(one) for one in compiled.nodes):
            return
        statement = compiled.statement
        self._definitions.take(
            Definition(statement.source, response, statement.source_line),
            compiled.nodes,
            before,
            self.namespace,
            lambda name: self._is_given(name, before.names[name]),
        )

    def _makes(self, node: ast.stmt) -> bool:
        """Whether an assignment has made a class or the like, calling nothing of the program's."""
        if not isinstance(node, ast.Assign) or not all(
            isinstance(target, ast.Name) and isinstance(self.namespace.get(target.id), _MADE)
            for target in node.targets
        ):
            return False
        _, called = names_read(node)
        return isinstance(node.value, (ast.Call, ast.Subscript, ast.BinOp)) and not any(
            getattr(self.namespace.get(name), "__module__", None) == self._program.name
            for name in called
        )

    def _data(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What is data, packed. A function or a class is none, though it may be had by name."""
        packed, _ = pack_namespace(values, {}, self._program.name)
        return {name: tree for name, tree in packed.items() if not is_reference(tree)}

    def _is_given(self, name: str, value: Any) -> bool:
        return name in self._by_reference and value is self._given[name]

    def _define_again(self, record: Record, checkpoint_id: str) -> None:
        for one in record.definitions:
            before = Before.of(self.namespace)
            self._program.show(one.response, one.line, one.source)
            try:
                statement = Statement(one.source + "\n", one.line)
                compiled = self._program.compile(statement, one.response)
                self._program.run_now(compiled)
            except Exception as error:
                told = described(error, self._program.files)
                raise InvalidCheckpoint(
                    f"{checkpoint_id}: a definition can't be run again: {told}"
                ) from error
            self._take_definition(compiled, before, one.response)
        absent = [one for one in record.defined if one not in self.namespace]
        if absent:
            raise InvalidCheckpoint(
                f"{checkpoint_id}: its definitions were run again and did not define {absent[0]!r}"
            )

    # Variables

    def _set_variables(self, record: Record, packed: dict[str, Any], checkpoint_id: str) -> None:
        unpacker = Unpacker({**self._definitions.parts(), **self.namespace}, self._types)
        variables = {}
        if record.loop is not None:
            packed = {**packed, _OVER: record.loop["over"]}
        for name, tree in packed.items():
            try:
                variables[name] = unpacker.unpack(tree)
            except Exception as error:
                raise InvalidCheckpoint(
                    f"{checkpoint_id}: {name} can't be had again: {error}"
                ) from error
        if record.loop is not None:
            over = variables.pop(_OVER)
            self._loop = Progress(record.loop["passes"], over, record.loop["first"])
        kept = {*record.defined, *record.given, *self._program.own_names}
        new = self._given.keys() - set(record.offered)
        for name in self.namespace.keys() - kept - new:
            del self.namespace[name]
        self.namespace.update(variables)

    def _sorted(self) -> _Sorted:
        variables: dict[str, Any] = {}
        defined: list[str] = []
        given: list[str] = []
        refused: dict[str, str] = {}
        by_place: dict[str, Any] = {}
        for name, value in self.namespace.items():
            if name in self._program.own_names:
                continue
            if isinstance(value, type) and not name.isidentifier():
                continue  # `Page[int]`: pydantic puts it there when it is made, and again then
            reason, parts = self._definitions.check(name, value)
            if reason is not None:
                refused[name] = f"{name} {reason}"
            elif self._definitions.defines(name, value):
                defined.append(name)
                by_place |= parts
            elif self._is_given(name, value):
                given.append(name)
            else:
                variables[name] = value
        by_place |= {name: self.namespace[name] for name in (*given, *defined)}
        names = {id(value): place for place, value in by_place.items()}
        return _Sorted(variables, defined, given, refused, names)

    # Saving

    def _in_flight(self, statement: Statement) -> InFlight:
        line = statement.source_line
        passes = 0 if self._loop is None else self._loop.passes
        return InFlight(self._statements + 1, self._response, line, statement.source, passes)

    async def _save_or_fail(self, in_flight: InFlight | None = None, closes: bool = False) -> None:
        try:
            await self._save(in_flight, closes)
        except InvalidCheckpoint as error:
            self._is_blocked = True
            await self._fail(error)

    async def _save(self, in_flight: InFlight | None = None, closes: bool = False) -> None:
        """Saves a checkpoint; with `closes` as it is when this response is over."""
        if self._manager is None:
            return
        variables, defined, given, refused, names = self._sorted()
        loop = self._loop
        if loop is not None and loop.over is not None:
            variables[_OVER] = loop.over
        packed, unsaved = pack_namespace(
            variables, names, self._program.name, self._definitions.modules
        )
        if _OVER in unsaved:
            raise InvalidCheckpoint(f"not saved: what the loop goes over: {unsaved[_OVER]}")
        unsaved.update(refused)
        self._tell(unsaved)
        for name in self.lost.keys() - self.namespace.keys():
            unsaved[name] = self.lost[name]
        self.lost = {name: why for name, why in self.lost.items() if name in unsaved}
        record = Record(
            program=self._program_name,
            response=self._response,
            statements=self._statements,
            in_flight=in_flight,
            definitions=self._definitions.made,
            defined=defined,
            given=given,
            offered=list(self._given),
            unsaved=unsaved,
        )
        if loop is not None and _OVER in packed:
            over = packed.pop(_OVER)
            record.loop = {"passes": loop.passes, "first": loop.first, "over": over}
        if closes:
            record.response += 1
        else:
            record.received, record.line = self.received, self._line
            record.finished_chars = self._finished_chars
            record.executed_code = self.get_executed_code()
            record.failure = None if self._failure is None else str(self._failure)
        state = {} if self._execution_state is None else self._execution_state()
        await self._manager.save_checkpoint(
            self._last,
            packed,
            {**state, **record.to_state()},
            [],
            self.llm_response,
            self.get_executed_code(),
        )
        self._is_dirty = self._is_blocked = False

    def _tell(self, unsaved: dict[str, str]) -> None:
        """By policy an error or a warning, once for each variable."""
        if unsaved and self._on_unsaved == "error":
            raise InvalidCheckpoint("not saved: " + "; ".join(unsaved.values()))
        new = unsaved.keys() - self._warned
        self._warned = set(unsaved)
        if new:
            message = "not saved: " + "; ".join(unsaved[name] for name in sorted(new))
            warnings.warn(message, CheckpointWarning, stacklevel=2)
