"""Runs the functions of one module for an engine.

Requests come in as JSON lines on standard input, answers go out as JSON lines on what was
standard output when the process started; whatever the functions print goes to standard error.
The process ends when its input does, and takes what it started with it.

This file is sent to a bare Python: it uses the standard library only, and runs on 3.9 and later.
`settings` holds `module` (a dotted name or a file), `threads` and `max_bytes`.
"""

import asyncio
import base64
import builtins
import collections
import contextvars
import dataclasses
import datetime as dt
import decimal
import functools
import importlib
import importlib.util
import inspect
import json
import math
import os
import pathlib
import select
import signal
import sys
import threading
import time
import traceback
import types
from concurrent.futures import ThreadPoolExecutor

HOST_FILE = "<durable functions>"
MAX_DEPTH = 120
MAX_INT_DIGITS = 100_000
MAX_TRACEBACK = 32_000


# Values: the tagged mapping of docs/VALUES.md.


def encode(value, path="result", depth=0):
    """A value as plain JSON data. Raises TypeError that names the type and the place."""
    if depth > MAX_DEPTH:
        raise TypeError(f"{path} is nested too deeply: its JSON form may have {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return _encode_int(int(value), path)
    if isinstance(value, float):
        value = float(value)
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list):
        return [encode(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return _encode_dict(value, path, depth)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"$namedtuple": _record(value, zip(value._fields, value), path, depth)}
    for kind, tag in ((tuple, "$tuple"), (set, "$set"), (frozenset, "$frozenset")):
        if isinstance(value, kind):
            items = [encode(item, f"{path}[{i}]", depth + 2) for i, item in enumerate(value)]
            return {tag: items}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {"$dataclass": _record(value, fields, path, depth)}
    for kind, write in _SCALARS:
        if isinstance(value, kind):
            return write(value)
    raise TypeError(
        f"{path} is a {error_type_name(type(value))}, which has no JSON form: "
        "return plain data, or a reference to where it is kept"
    )


def _encode_int(value, path):
    if -(2**63) <= value < 2**63:
        return value
    if value.bit_length() > MAX_INT_DIGITS * 10 // 3:
        raise TypeError(f"{path} is an integer of more than {MAX_INT_DIGITS} digits")
    return {"$int": str(value)}


def _encode_dict(value, path, depth):
    plain = all(isinstance(key, str) for key in value)
    if plain and len(value) == 1:
        (key,) = value
        plain = not (key in _FROM_TAG or key.startswith("$py:"))
    if plain:
        return {
            str.__str__(key): encode(item, f"{path}[{key!r}]", depth + 1)
            for key, item in value.items()
        }
    pairs = [
        [encode(key, f"a key of {path}", depth + 3), encode(item, f"{path}[{key!r}]", depth + 3)]
        for key, item in value.items()
    ]
    return {"$dict": pairs}


def _record(value, fields, path, depth):
    encoded = {name: encode(item, f"{path}.{name}", depth + 3) for name, item in fields}
    return {"name": type(value).__name__, "fields": encoded}


def _zone_name(zone):
    """The name of a fixed zone that was given one; other zones are kept by their offset."""
    if not isinstance(zone, dt.timezone):
        return None
    name = zone.tzname(None)
    return None if name == dt.timezone(zone.utcoffset(None)).tzname(None) else name


def _encode_datetime(value):
    name, text = _zone_name(value.tzinfo), value.isoformat()
    return {"$datetime": text if name is None else [text, name]}


def _encode_time(value):
    name, text = _zone_name(value.tzinfo), value.isoformat()
    return {"$time": text if name is None and not value.fold else [text, name, value.fold]}


def _encode_timezone(value):
    name, seconds = _zone_name(value), int(value.utcoffset(None).total_seconds())
    return {"$timezone": seconds if name is None else [seconds, name]}


def _encode_exception(value):
    message = message_of(value) if value.args else None
    return {"$exception": {"type": error_type_name(type(value)), "message": message}}


_SCALARS = (
    (bytes, lambda value: {"$bytes": base64.b64encode(value).decode("ascii")}),
    (complex, lambda value: {"$complex": [encode(value.real), encode(value.imag)]}),
    (decimal.Decimal, lambda value: {"$decimal": str(value)}),
    (dt.datetime, _encode_datetime),
    (dt.date, lambda value: {"$date": value.isoformat()}),
    (dt.time, _encode_time),
    (dt.timedelta, lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]}),
    (dt.timezone, _encode_timezone),
    (pathlib.PurePath, lambda value: {"$path": str(value)}),
    (BaseException, _encode_exception),
    (type(...), lambda value: {"$ellipsis": None}),
)


def decode(data):
    """The value that JSON data stands for."""
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((tag, content),) = data.items()
        if tag in _FROM_TAG:
            return _FROM_TAG[tag](content)
        if tag.startswith("$py:"):
            raise ValueError(f"the tag {tag} is not known to this version")
    return {key: decode(item) for key, item in data.items()}


def _decode_int(digits):
    # int() refuses long texts on most versions of Python; Decimal does not.
    return int(digits) if len(digits) < 4_000 else int(decimal.Decimal(digits))


def _zone(offset, name):
    return dt.timezone(offset) if name is None else dt.timezone(offset, name)


def _decode_datetime(content):
    if isinstance(content, str):
        return dt.datetime.fromisoformat(content)
    text, name = content
    value = dt.datetime.fromisoformat(text)
    return value.replace(tzinfo=_zone(value.utcoffset(), name))


def _decode_time(content):
    if isinstance(content, str):
        return dt.time.fromisoformat(content)
    text, name, fold = content
    value = dt.time.fromisoformat(text).replace(fold=fold)
    return value if name is None else value.replace(tzinfo=_zone(value.utcoffset(), name))


def _decode_timezone(content):
    offset, name = (content, None) if isinstance(content, int) else content
    return _zone(dt.timedelta(seconds=offset), name)


@functools.lru_cache(maxsize=256)
def _record_type(kind, name, fields):
    if kind == "$namedtuple":
        return collections.namedtuple(name, fields)
    if kind == "$dataclass":
        return dataclasses.make_dataclass(name, fields)
    return type(name, (types.SimpleNamespace,), {})


def _decode_record(kind, content):
    fields = {name: decode(item) for name, item in content["fields"].items()}
    return _record_type(kind, content["name"], tuple(fields))(**fields)


def _decode_exception(content):
    name, message = content["type"], content["message"]
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        try:
            return kind() if message is None else kind(message)
        except TypeError:  # one of the few that want more than a message
            pass
    return RuntimeError(name if message is None else f"{name}: {message}")


_FROM_TAG = {
    "$int": _decode_int,
    "$float": float,
    "$complex": lambda parts: complex(*(decode(part) for part in parts)),
    "$decimal": decimal.Decimal,
    "$bytes": functools.partial(base64.b64decode, validate=True),
    "$tuple": lambda items: tuple(decode(item) for item in items),
    "$set": lambda items: {decode(item) for item in items},
    "$frozenset": lambda items: frozenset(decode(item) for item in items),
    "$dict": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    "$date": dt.date.fromisoformat,
    "$datetime": _decode_datetime,
    "$time": _decode_time,
    "$timedelta": lambda parts: dt.timedelta(*parts),
    "$timezone": _decode_timezone,
    "$path": pathlib.Path,
    "$namedtuple": functools.partial(_decode_record, "$namedtuple"),
    "$dataclass": functools.partial(_decode_record, "$dataclass"),
    "$object": functools.partial(_decode_record, "$object"),
    "$exception": _decode_exception,
    "$ellipsis": lambda content: ...,
}


# Errors.


def error_type_name(kind):
    """How the engine names an exception type: `ValueError`, `myapp.errors.NoPrice`."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def message_of(error):
    # str(KeyError("x")) is the repr of "x".
    if isinstance(error, KeyError) and len(error.args) == 1 and isinstance(error.args[0], str):
        return error.args[0]
    return str(error)


def traceback_of(error):
    """The traceback without the frames of this file and of the import machinery above it."""
    frames = error.__traceback__
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file != HOST_FILE and "importlib" not in file:
            break
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return text if len(text) <= MAX_TRACEBACK else "…\n" + text[-MAX_TRACEBACK:]


def failure_of(error):
    try:
        message, trace = message_of(error), traceback_of(error)
    except Exception as second:  # a __str__ that raises
        message, trace = f"(its message can't be had: {type(second).__name__})", None
    return {"type": error_type_name(type(error)), "message": message, "traceback": trace}


# The module and its functions.


@dataclasses.dataclass(frozen=True)
class CallContext:
    """One attempt of one call."""

    execution_id: str
    call_id: int
    attempt: int
    idempotency_key: str
    deadline: "float | None"


_current = contextvars.ContextVar("durable_call", default=None)


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """As `durable_monty.RetryPolicy`; times are in seconds."""

    max_attempts: int = 3
    initial_interval: float = 1.0
    backoff: float = 2.0
    max_interval: float = 100.0
    jitter: float = 0.1
    non_retryable: tuple = ()

    def _to_wire(self):
        return {
            "max_attempts": self.max_attempts,
            "initial_interval_ms": round(self.initial_interval * 1000),
            "backoff_coefficient": float(self.backoff),
            "max_interval_ms": round(self.max_interval * 1000),
            "jitter": float(self.jitter),
            "non_retryable": [
                error_type_name(error) if isinstance(error, type) else error
                for error in self.non_retryable
            ],
        }


def stand_in():
    """What a module of functions wants of durable_monty, for a Python that does not have it."""
    package = types.ModuleType("durable_monty", "A stand-in for the package durable_monty.")
    registry, options = {}, {}

    def register_function(name, *, retry=None, timeout=None):
        if not isinstance(name, str):
            raise TypeError('register_function needs a name: @register_function("add")')

        def register(function):
            registry[name] = function
            options[name] = {}
            if retry is not None:
                options[name]["retry"] = retry._to_wire()
            if timeout is not None:
                options[name]["timeout_ms"] = max(1, round(timeout * 1000))
            return function

        return register

    package.FUNCTION_REGISTRY, package._options = registry, options
    package.register_function, package.RetryPolicy = register_function, RetryPolicy
    package.current_call, package.CallContext = _current.get, CallContext
    return package


def load(target):
    """Imports a module by its dotted name or its file."""
    if not (target.endswith(".py") or os.sep in target):
        return importlib.import_module(target)
    path = os.path.abspath(target)
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not os.path.isfile(path):
        raise ImportError(f"there is no Python file {target}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def functions_of(target):
    """The functions of a module by name, and what was said about how to run them."""
    if importlib.util.find_spec("durable_monty") is None:
        sys.modules["durable_monty"] = stand_in()
    module = load(target)
    package = sys.modules.get("durable_monty")
    registry = getattr(package, "FUNCTION_REGISTRY", None)
    if registry:
        inner = sys.modules.get("durable_monty.functions", package)
        return dict(registry), getattr(inner, "_options", {})
    public = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    return public, {}


# Running them.


class Host:
    def __init__(self, functions, threads, max_bytes, replies):
        self.functions = functions
        self.max_bytes = max_bytes
        self.replies = replies
        self.writing = threading.Lock()
        self.lock = threading.Lock()
        # Requests that an answer is owed to, with what runs them.
        self.owed = {}
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="function")
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="functions", daemon=True).start()

    def send(self, message):
        # What has no UTF-8 form can only stand in the text of an error here.
        self.send_line(json.dumps(message, ensure_ascii=False).encode(errors="backslashreplace"))

    def send_line(self, line):
        with self.writing:
            self.replies.write(line + b"\n")
            self.replies.flush()

    def settle(self, number):
        """Whether an answer was owed; from now on it is not."""
        with self.lock:
            return self.owed.pop(number, self) is not self

    def submit(self, request):
        function = self.functions.get(request["function"])
        number = request["id"]
        self.owed[number] = None
        if function is None:
            missing = f"the module of functions has no function '{request['function']}'"
            return self.failed(number, LookupError(missing))
        if is_async(function):
            work = self.run_async(function, request)
            running = asyncio.run_coroutine_threadsafe(work, self.loop)
        else:
            running = self.pool.submit(self.run_sync, function, request)
        with self.lock:
            if number in self.owed:
                self.owed[number] = running
        return None

    def cancel(self, number):
        with self.lock:
            running = self.owed.get(number)
        # A thread that runs can't be stopped: it is let run, and its result is refused.
        if running is not None and running.cancel():
            self.failed(number, asyncio.CancelledError())

    def run_sync(self, function, request):
        try:
            result = call(function, request)
            if inspect.isawaitable(result):
                result = asyncio.run_coroutine_threadsafe(awaiting(result), self.loop).result()
        except BaseException as error:
            return self.failed(request["id"], error)
        return self.returned(request, result)

    async def run_async(self, function, request):
        try:
            result = await call(function, request)
        except BaseException as error:
            return self.failed(request["id"], error)
        return self.returned(request, result)

    def returned(self, request, result):
        try:
            data = json.dumps(encode(result), ensure_ascii=False, separators=(",", ":")).encode()
            if len(data) > self.max_bytes:
                raise ValueError(
                    f"the result of {request['function']}() has {len(data)} bytes as JSON, the "
                    f"limit max_payload_bytes is {self.max_bytes}: store large data elsewhere "
                    "and return a reference to it"
                )
        except Exception as error:
            error.__traceback__ = None
            return self.failed(request["id"], error)
        if self.settle(request["id"]):
            self.send_line(b'{"id":%d,"result":%b}' % (request["id"], data))
        return None

    def failed(self, number, error):
        if self.settle(number):
            self.send({"id": number, "error": failure_of(error)})


def is_async(function):
    return inspect.iscoroutinefunction(inspect.unwrap(function))


def call(function, request):
    began, timeout_ms = time.time(), request["timeout_ms"]
    _current.set(
        CallContext(
            execution_id=request["execution"],
            call_id=request["call"],
            attempt=request["attempt"],
            idempotency_key=request["key"],
            deadline=None if timeout_ms is None else began + timeout_ms / 1000,
        )
    )
    context = sys.modules.get("durable_monty.context")
    if context is not None:
        task = types.SimpleNamespace(
            execution_id=request["execution"],
            call_id=request["call"],
            step=request["step"],
            attempt=request["attempt"],
            idempotency_key=request["key"],
            timeout_ms=timeout_ms,
        )
        context.current_task.set((task, began))
    args = [decode(item) for item in request["args"]]
    kwargs = {name: decode(item) for name, item in request["kwargs"].items()}
    return function(*args, **kwargs)


async def awaiting(awaitable):
    return await awaitable


def take_over_streams():
    """Keeps the two pipes of the engine; functions get an empty input and write to the error
    stream."""
    requests = os.fdopen(os.dup(0), "rb", buffering=1 << 16)
    replies = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)
    return requests, replies


def end_with(requests):
    """Ends the process, and what it started, as soon as nobody can send requests any more; also
    while the main thread imports a module."""
    hung_up = select.poll()
    hung_up.register(requests, 0)
    hung_up.poll()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def main(settings):
    requests, replies = take_over_streams()
    threading.Thread(target=end_with, args=(requests,), name="end", daemon=True).start()
    try:
        functions, options = functions_of(settings["module"])
    except BaseException as error:
        replies.write(json.dumps({"refused": traceback_of(error)}).encode() + b"\n")
        replies.flush()
        os._exit(1)
    host = Host(functions, settings["threads"], settings["max_bytes"], replies)
    host.send(
        {
            "functions": {name: options.get(name, {}) for name in functions},
            "async": [name for name, function in functions.items() if is_async(function)],
        }
    )
    for line in requests:
        request = json.loads(line)
        if "cancel" in request:
            host.cancel(request["cancel"])
        else:
            host.submit(request)
    threading.Event().wait()


main(settings)  # noqa: F821: the bootstrap sets it
