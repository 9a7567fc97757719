"""Durable sessions: code that comes piece by piece."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S

from durable_monty import (
    AsyncOrchestratorService,
    Conflict,
    InvalidWorkflow,
    NotFound,
    OrchestratorService,
    Session,
    Worker,
    init_db,
    register_function,
)
from durable_monty.sessions import Opaque

ROOT = Path(__file__).parents[2]


@register_function("session_add")
def add(a: int, b: int) -> int:
    return a + b


gate = threading.Event()


@register_function("session_wait")
def wait_for_gate() -> str:
    gate.wait(PATIENCE_S)
    return "opened"


@register_function("session_fail")
def fail() -> None:
    raise LookupError("nothing there")


FUNCTIONS = ["session_add", "session_wait", "session_fail"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[OrchestratorService]:
    service = OrchestratorService(init_db(f"sqlite:///{tmp_path}/sessions.db"))
    worker = Worker(service)
    running = threading.Thread(target=worker.run)
    running.start()
    gate.clear()
    yield service
    gate.set()
    worker.stop()
    running.join()


def test_names_outputs_errors_and_history(service: OrchestratorService) -> None:
    with service.open_session(FUNCTIONS, inputs={"base": 40}) as session:
        first = session.feed("x = await session_add(base, 2)\nprint(x)", response={"text": "hm"})
        assert (first.number, first.output, first.printed, first.error) == (1, None, "42\n", None)
        assert session.feed("(x, base)").output == (42, 40)
        failed = session.feed("y = 1\nawait session_fail()").error
        assert failed is not None
        assert failed.traceback is not None
        assert (failed.type, failed.message) == ("LookupError", "nothing there")
        assert '"feed 3", line 2' in failed.traceback
        shown = session.feed("def f():\n    return 1\nf")
        assert shown.output is None
        assert shown.repr is not None
        assert "f" in shown.repr
    history = session.feeds()
    assert [feed.number for feed in history] == [1, 2, 3, 4]
    assert history[0].response == {"text": "hm"}
    assert history[1].response is None
    assert history[1].output == (42, 40)
    assert history[2].error == failed
    assert service.result(session.id, PATIENCE_S) == 4
    with pytest.raises(Conflict, match="is closed"):
        session.feed("1")


def test_one_feed_at_a_time_from_wherever(service: OrchestratorService) -> None:
    session = service.open_session(FUNCTIONS)
    with pytest.raises(Conflict, match="not fed yet"):
        session.wait()
    with pytest.raises(TimeoutError, match="feed 1 of session"):
        session.feed("kept = await session_wait()", timeout=0.2)
    again = service.get_session(session.id)
    with pytest.raises(Conflict, match=r"feed 1 of session .* is running"):
        again.feed("2")
    assert again.feeds()[0].result is None
    gate.set()
    assert again.wait(PATIENCE_S).number == 1
    assert again.feed("kept").output == "opened"
    assert again.feed("kept", number=2).output == "opened"
    with pytest.raises(Conflict, match="was other code"):
        again.feed("other", number=2)
    again.close()


def test_a_session_is_looked_into_forked_and_rewound(service: OrchestratorService) -> None:
    session = service.open_session(FUNCTIONS)
    session.feed("x = (await session_add(1, 1), 'a')\ndef f(): pass")
    session.feed("x = 3")
    seen = session.variables()
    assert seen["x"] == 3
    assert isinstance(seen["f"], Opaque)
    assert "session_add" not in seen
    assert session.fork().feed("x").output == 3
    assert session.fork(after=1).feed("x").output == (2, "a")
    back = session.rewind(1)
    assert back.variables()["x"] == (2, "a")
    assert len(back.feeds()) == 1
    assert service.get_execution(session.id)["status"] == "cancelled"
    with pytest.raises(NotFound, match="feed 7"):
        back.rewind(7)


def test_what_is_no_session_is_refused(service: OrchestratorService) -> None:
    with pytest.raises(NotFound):
        service.get_session("01a1fde1-95a2-7211-97bc-22a3c3fb636b")
    with pytest.raises(NotFound):
        service.get_session("nonsense")
    execution_id = service.start_execution("1")
    with pytest.raises(InvalidWorkflow, match="is no session"):
        service.get_session(execution_id)
    with pytest.raises(TypeError):
        service.open_session().feed("1", response=object())


def test_a_broken_limit_ends_the_session(service: OrchestratorService) -> None:
    session = service.open_session(limits={"max_advance_ms": 50})
    with pytest.raises(Conflict, match="TimeLimitExceeded"):
        session.feed("while True:\n    pass")
    assert service.get_execution(session.id)["status"] == "failed"


def test_an_exception_leaves_the_session_open(service: OrchestratorService) -> None:
    def interrupted(session: Session) -> None:
        with session:
            session.feed("x = 1")
            raise KeyError

    session = service.open_session()
    with pytest.raises(KeyError):
        interrupted(session)
    assert session.feed("x").output == 1


def test_sessions_for_coroutines(service: OrchestratorService) -> None:
    async def talk() -> list[Any]:
        aio = AsyncOrchestratorService(service.engine)
        async with await aio.open_session(FUNCTIONS) as session:
            with pytest.raises(TimeoutError):
                await session.feed("w = await session_wait()", timeout=0.1)
            gate.set()
            waited = await session.wait()
            values = await asyncio.gather(session.feed("await session_add(1, 2)"))
            same = await aio.get_session(session.id)
            values.append(await same.feed("w"))
        assert len(await session.feeds()) == 3
        return [waited.output, *(value.output for value in values)]

    assert asyncio.run(talk()) == [None, 3, "opened"]


def test_the_example_goes_on_after_its_kill() -> None:
    command = [sys.executable, "examples/agent_session.py"]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT, check=True
    ).stdout
    before, _, after = shown.partition("--- the process is gone")
    assert "a new session" in before
    assert "killed while fetching shop" in before
    assert "going on after 3 pieces" in after
    assert "fetching index" not in after
    assert "fetching home" not in after
    assert "4. Let me see the biggest. -> 'shop'" in after
    assert "5. And one that is not there. -> LookupError: no page nowhere" in after


AGENT = """
import os, sys, threading
from durable_monty import OrchestratorService, Worker, current_call, init_db, register_function

@register_function("note")
def note(value):
    with open(sys.argv[2], "a") as log:
        log.write(current_call().idempotency_key + "\\n")
    return value * 2

service = OrchestratorService(init_db(sys.argv[1]))
session = service.open_session(["note"], idempotency_key="agent")
threading.Thread(target=Worker(service).run, daemon=True).start()
pieces = ["total = 0\\nseen = []"]
pieces += [f"for i in range(3):\\n    v = await note(i + {n})\\n    total += v\\n    seen.append(v)"
           for n in range(4)]
for number, piece in enumerate(pieces, 1):
    session.feed(piece, number=number)
print(session.feed("[total, seen]", number=len(pieces) + 1).output, flush=True)
os._exit(0)
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """kill -9, and on: the names are as they should be, and nothing recorded runs again."""
    seen = [2 * (i + n) for n in range(4) for i in range(3)]
    url, log = f"sqlite:///{tmp_path}/agent.db", tmp_path / "calls.log"
    log.touch()
    command = [sys.executable, "-c", AGENT, url, str(log)]
    moments = random.Random(7)
    recorded: set[str] = set()
    for _ in range(8):
        before = len(log.read_text().split())
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            # The moment is what is tested; nothing depends on where exactly it falls.
            time.sleep(moments.uniform(0.2, 0.6))
            child.send_signal(signal.SIGKILL)
        assert not recorded.intersection(log.read_text().split()[before:])
        service = OrchestratorService(init_db(url))
        recorded = {
            f"{execution['execution_id']}:{call['call_id']}"
            for execution in service.list()
            for call in service.store.engine.calls(execution["execution_id"])
            if call["status"] == "completed"
        }
        service.store.close()
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ, check=True
    ).stdout
    assert shown == f"{[sum(seen), seen]}\n"
