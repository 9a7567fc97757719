"""Trusted Python after a crash: what is saved, what goes on, what runs again, and kill -9."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming_support import Calls, Process, run

from durable_monty import (
    Conflict,
    StreamingExecutionError,
    StreamingPythonExecutor,
    Unavailable,
)
from durable_monty.checkpoints import (
    CheckpointManager,
    CheckpointWarning,
    FilesystemCheckpointProvider,
    InvalidCheckpoint,
    MemoryCheckpointProvider,
    RecoveryCoordinator,
)

# Going on


def test_statements_whose_checkpoint_was_saved_are_not_run_again() -> None:
    async def body() -> None:
        process = Process()
        code = "a = await call(1)\nb = a + 1\nc = [await call(b)]\nd = await call(3)\nd\n"
        await process.crashes_at(3, code)
        executor = await process.executor()
        resumed = executor.resumed
        assert resumed is not None
        assert (resumed.statements, resumed.response) == (3, 1)
        flight = resumed.in_flight
        assert flight is not None
        assert (flight.number, flight.line, flight.source) == (4, 4, "d = await call(3)")
        assert resumed.rest == "d = await call(3)\nd\n"
        assert executor.received == code
        assert executor.namespace["c"] == [2]
        result = await executor.finalize()
        assert (result.output, result.statements) == (3, 2)
        assert process.calls.made == [1, 2, 3]
        assert executor.get_executed_code() == ""
        last = await process.executor()
        assert last.resumed is not None
        assert (last.resumed.in_flight, last.resumed.rest, last.response) == (None, "", 2)
        assert last.resumed.statements == 5

    run(body())


def test_whoever_has_the_whole_text_goes_on_after_what_was_received() -> None:
    async def body() -> None:
        process = Process()
        text = "a = await call(1)\nb = await call(2)\nc = await call(3)\n"
        await process.crashes_at(2, text[:40])
        executor = await process.executor()
        await executor.add_chunk(text[len(executor.received) :])
        result = await executor.finalize()
        assert result.executed_code == text
        assert process.calls.made == [1, 2, 3]

    run(body())


def test_what_does_not_await_runs_again_unless_every_statement_is_saved() -> None:
    async def body(every: str) -> list[Any]:
        process = Process(every=every)
        process.names["note"] = process.calls.made.append
        executor = await process.executor()
        await executor.add_chunk("a = await call(1)\nnote(2)\n")
        # The process is gone before anything else comes.
        again = await process.executor()
        await again.add_chunk("" if again.received.endswith("note(2)\n") else "note(2)\n")
        await again.finalize()
        assert again.namespace["a"] == 1
        return process.calls.made

    assert run(body("await")) == [1, 2, 2]
    assert run(body("statement")) == [1, 2]


def test_a_response_that_failed_stays_failed() -> None:
    async def body() -> None:
        process = Process()
        executor = await process.executor()
        with pytest.raises(StreamingExecutionError):
            await executor.add_chunk("x = await call(1)\nx / 0\nawait call(2)\n")
        again = await process.executor()
        assert again.has_error
        await again.add_chunk("await call(3)\n")
        result = await again.finalize()
        assert "ZeroDivisionError" in str(result.error)
        assert result.executed_code == "x = await call(1)\n"
        assert process.calls.made == [1]

    run(body())


def test_definitions_run_again_and_keep_their_lines() -> None:
    async def body() -> None:
        process = Process()
        executor = await process.executor()
        await executor.add_chunk(
            "import json as j, os.path\nfrom collections import namedtuple, deque\n"
            "from dataclasses import dataclass, field\n"
            "try:\n    import not_there\nexcept ImportError:\n    not_there = None\n"
            "Pair = namedtuple('Pair', 'a b')\n"
            "@dataclass\nclass Tree:\n    name: str\n    kids: list = field(default_factory=list)\n"
            "    def grow(self):\n        return self.kids[len(self.kids)]\n"
            "def leaf(name, kind=Tree):\n    return kind(name)\n"
            "tree = Tree('root', [leaf('a')])\nsame = tree.kids\npair = Pair(tree, deque([1], 2))\n"
            "import functools, typing\nclass Gone(LookupError): pass\ngone = Gone('x', 1)\n"
            "Ids = dict[str, Tree]\nMaybe = typing.Optional[Tree]\n"
            "two = functools.partial(int, base=2)\n"
            "grow = leaf\ntools = {'leaf': leaf, 'dumps': j.dumps, 'kind': Tree}\nawait call(1)\n"
        )
        await executor.finalize()
        again = await process.executor()
        await again.add_chunk(
            "same.append(grow('b'))\n"
            "[t.name for t in pair.a.kids], tools['dumps']([1]), isinstance(tree, tools['kind'])"
        )
        result = await again.finalize()
        assert result.output == (["a", "b"], "[1]", True)
        names = again.namespace
        assert names["pair"].a is names["tree"]
        assert names["grow"] is names["leaf"] is names["tools"]["leaf"]
        assert (names["pair"].b.maxlen, names["not_there"]) == (2, None)
        assert isinstance(names["gone"], names["Gone"])
        assert names["gone"].args == ("x", 1)
        assert names["Ids"] == types.GenericAlias(dict, (str, names["Tree"]))
        assert names["two"]("11") == 3
        with pytest.raises(StreamingExecutionError) as caught:
            await again.add_chunk("tree.grow()\n")
        assert ", response 1>:14:" in str(caught.value)
        assert "return self.kids[len(self.kids)]" in str(caught.value)

    run(body())


@pytest.mark.parametrize(
    ("code", "name", "reason"),
    [
        ("n = 1\ndef f(x=n): return x\nn = 2\n", "f", "with the value of 'n'"),
        ("class A:\n    count = 0\nA.count += 1\n", "A", "another 'count'"),
        ("def f(x=[]): x.append(1)\nf()\n", "f", "another 'default'"),
        ("def f(): f.n = 1\nf()\n", "f", "another 'n'"),
        ("def make():\n    n = 0\n    return lambda: n\nf = make()\n", "f", "give it in"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\np = P(1)\nP = 1\n",
         "p", "still have its name"),
        ("seen = []\ndef note(f):\n    seen.append(f)\n    return f\n@note\ndef f(): pass\n"
         "seen.clear()\n", "f", "with the value of 'seen'"),
        ("import functools\nn = 1\nf = functools.partial(int, n)\n", "f", "with the value of 'n'"),
        ("T = type('T', (), {'n': 0})\nT.n += 1\n", "T", "another 'n'"),
        ("class A:\n    def f(self): pass\nA.f = print\n", "A", "another 'f'"),
        ("class E(Exception):\n    def __init__(self): self.n = 1\ne = E()\n", "e", "its text"),
        ("class Q: pass\nq = [Q()]\n", r"q\[0\]", "make its class a dataclass"),
        ("import socket\ns = {'a': [socket.socket()]}\ns['a'][0].close()\n", r"s\['a'\]\[0\]",
         "inside a function"),
        ("g = (i for i in [1])\n", "g", "make a list of it"),
        ("a = []\na.append(a)\n", r"a\[0\]", "contains itself"),
        ("class L(list): pass\nx = L()\n", "x", "no data"),
        ("__x = 1\n", "__x", "two underscores"),
        ("class A:\n    on = 1\nA.on = True\n", "A", "another 'on'"),
        ("class A:\n    def f(self, to=[]): to.append(1)\nA().f()\n", "A", "another 'f.default'"),
        ("class A: pass\nA.__init__ = lambda self: None\n", "A", "another '__init__'"),
        ("def f(): pass\nf.__doc__ = 'of f'\n", "f", "another 'doc'"),
        ("import enum\nclass E(enum.Enum):\n    X = 1\nE.X.seen = 5\n", "E", "another 'X.seen'"),
        ("def count(f):\n    n = 0\n    def inner():\n        nonlocal n\n        n += 1\n"
         "    return inner\n@count\ndef f(): pass\nf()\n", "f", "another 'n'"),
        ("class Count:\n    def __init__(self, f): self.f, self.n = f, 0\n"
         "    def __call__(self): self.n += 1\n@Count\ndef f(): pass\nf()\n", "f", "another 'n'"),
        ("import itertools\nclass A:\n    ids = itertools.count()\n", "A", "an iterator as 'ids'"),
        ("def steps():\n    yield 1\ndef f(of=steps()): return next(of)\n", "f",
         r"an iterator as 'default\[0\]'"),
        ("import random\nclass A:\n    r = random.Random(1)\nA.r.random()\n", "A", "'r.state'"),
        ("class Q:\n    __slots__ = ('n',)\nclass A:\n    q = Q()\nA.q.n = 1\n", "A", "'q.n'"),
        ("import enum\nclass E(enum.Enum):\n    X = [1]\nE.X.value.append(2)\n", "E",
         "another 'X.value'"),
        ("import numpy as np\nclass A:\n    a = np.zeros(4)\nx = A.a[1:]\n", "x", "view of A.a"),
        ("def load():\n    import this_one as m\n    return m\nm = load()\n", "m",
         "is a module, which is no data: import it with"),
        ("def load():\n    from this_one import Item\n    return Item(1)\ni = load()\n", "i",
         "be imported there"),
        ("def load():\n    import this_one as m\n    return m\n"
         "if False:\n    import this_one\nm = load()\n",
         "m", "import it with"),
        ("def load():\n    from this_one import work\n    return work\nw = load()\n", "w",
         "import it with"),
        ("from dataclasses import dataclass\nclass B:\n    __slots__ = ('h',)\n@dataclass\n"
         "class D(B):\n    a: int\nd = D(1)\nd.h = 5\n", r"d\.h", "no field"),
        ("from collections import Counter\nc = Counter()\nc.x = 1\n", r"c\.x", "no part of a"),
        ("from typing import NamedTuple\nclass P(NamedTuple):\n    a: int\nclass Q(P): pass\n"
         "q = Q(1)\nq.x = 1\n", r"q\.x", "no part of a"),
        ("e = ValueError()\ne.__cause__ = KeyError(call)\ne.f = lambda: 1\n", r"e\.f", "no data"),
        ("import asyncio\nt = asyncio.ensure_future(call(9))\nawait t\n", "t", "no data"),
    ],
)  # fmt: skip
def test_what_can_not_be_saved_is_named(
    code: str, name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this_one.py").write_text(
        "import enum\nclass Item(enum.Enum): X = 1\ndef work(): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "this_one", raising=False)

    async def body() -> None:
        process = Process()
        executor = await process.executor()
        with pytest.raises(StreamingExecutionError, match=f"not saved: {name}.*{reason}") as caught:
            await executor.add_chunk(code + "await call(1)\nawait call(2)\n")
        assert isinstance(caught.value.original_error, InvalidCheckpoint)
        assert not {1, 2} <= set(process.calls.made), "nothing awaits without a checkpoint"
        result = await executor.finalize()
        assert result.error is caught.value
        # The model mends it, and goes on.
        await executor.add_chunk(f"del {name.partition(chr(92))[0]}\nawait call(3)\n")
        await executor.finalize()
        assert process.calls.made[-1] == 3
        again = await process.executor()
        assert again.resumed is not None
        assert again.resumed.response == 3

    run(body())


def test_by_policy_it_is_a_warning_and_the_name_is_lost() -> None:
    async def body() -> None:
        process = Process(on_unsaved="warn")
        executor = await process.executor()
        code = "import os\nf = open(os.devnull)\nn = await call(1)\n"
        with pytest.warns(CheckpointWarning, match=r"not saved: f is a _io\.TextIO") as warned:
            await executor.add_chunk(code)
        assert len(warned) == 1
        # Once for each variable: another warning would be an error here.
        await executor.add_chunk("m = await call(2)\n")
        executor.namespace["f"].close()
        again = await process.executor()
        assert again.namespace["m"] == 2
        assert list(again.lost) == ["f"]
        assert again.resumed is not None
        assert again.resumed.lost == again.lost
        with pytest.raises(StreamingExecutionError, match=r"'f' was not saved before the crash"):
            await again.add_chunk("f.read()\n")
        await again.finalize()
        third = await process.executor()
        assert list(third.lost) == ["f"]
        await third.add_chunk("f = 1\nawait call(f)\n")
        await third.finalize()
        assert third.lost == {}

    run(body())


def test_what_the_host_gave_has_to_be_given_again() -> None:
    async def body() -> None:
        process = Process()
        client = object()
        process.names |= {"client": client, "limit": 3, "unused": [1]}
        executor = await process.executor()
        await executor.add_chunk("mine = client\nlimit += 1\ndel unused\nawait call(1)\n")
        del process.names["client"]
        with pytest.raises(InvalidCheckpoint, match="order-7_ckpt_2 needs client"):
            await process.executor()
        process.names |= {"client": object(), "more": len}
        again = await process.executor()
        assert again.namespace["mine"] is again.namespace["client"] is process.names["client"]
        assert (again.namespace["limit"], again.namespace["more"]) == (4, len)
        assert "unused" not in again.namespace

    run(body())


def test_what_is_no_data_when_it_is_given_is_the_hosts_and_what_is_data_is_saved() -> None:
    @dataclasses.dataclass
    class Agent:
        lock: threading.Lock
        mood: str

    async def body() -> None:
        process = Process()
        tools = {"see": lambda: "seen"}
        process.names |= {"agent": Agent(threading.Lock(), "good"), "tools": tools, "facts": {}}
        executor = await process.executor()
        await executor.add_chunk(
            "agent.mood = 'bad'\nfacts[1] = tools['see']()\nmine = [agent, tools]\nawait call(1)\n"
        )
        process.names |= {"agent": Agent(threading.Lock(), "new"), "facts": {}}
        names = (await process.executor()).namespace
        assert names["facts"] == {1: "seen"}
        assert names["mine"][0] is names["agent"] is process.names["agent"]
        assert names["mine"][1] is names["tools"] is tools
        # What was data and is none any more is not taken for the host's.
        executor = await process.executor()
        with pytest.raises(StreamingExecutionError, match=r"not saved: facts\[2\]"):
            await executor.add_chunk("facts[2] = lambda: 1\nawait call(1)\n")

    run(body())


def test_a_checkpoint_of_something_else_is_refused_by_name() -> None:
    async def body() -> None:
        process = Process(program="billing 1")
        executor = await process.executor()
        await executor.add_chunk("x = await call(1)\n")
        process.options["program"] = "billing 2"
        with pytest.raises(InvalidCheckpoint, match="ckpt_2 is of the program 'billing 1'"):
            await process.executor()
        manager = process.manager()
        latest = await manager.get_latest_checkpoint()
        assert latest is not None
        fresh = StreamingPythonExecutor(program="billing 1", namespace=process.names)
        latest["execution_state"]["streaming"]["format"] = 2
        with pytest.raises(InvalidCheckpoint, match="ckpt_2 has the format 2"):
            fresh.restore_checkpoint(latest)
        await manager.save_checkpoint("n = 1", {"n": 1}, {}, [])
        with pytest.raises(InvalidCheckpoint, match="ckpt_3 was not saved by a Streaming"):
            await process.executor()
        with pytest.raises(Conflict, match="has run nothing"):
            executor.restore_checkpoint(latest)

    run(body())


def test_a_class_that_is_gone_or_has_changed_is_refused_by_name(monkeypatch: Any) -> None:
    async def body() -> None:
        module = type(sys)("shop")
        monkeypatch.setitem(sys.modules, "shop", module)
        exec(
            "from dataclasses import dataclass\n@dataclass\nclass Item:\n    n: int\n", vars(module)
        )
        process = Process()
        process.names["make"] = module.Item
        executor = await process.executor()
        await executor.add_chunk("item = make(1)\nawait call(1)\n")
        item = module.Item
        process.names["make"] = len
        exec("@dataclass\nclass Item:\n    n: int\n    m: int\n", vars(module))
        with pytest.raises(InvalidCheckpoint, match=r"item can't be had again: .*make"):
            await process.executor()
        process.names["make"] = module.Item
        with pytest.raises(InvalidCheckpoint, match=r"Item has other fields .* \(m\)"):
            await process.executor()
        process.names["make"] = item
        assert (await process.executor()).namespace["item"] == item(1)

    run(body())


def test_agents_and_coordinators_find_what_they_know() -> None:
    async def body() -> None:
        process = Process(execution_state=lambda: {"variables": {"$mood": "good"}})
        executor = await process.executor()
        executor.llm_response = "I will call.\n```python ..."
        await executor.add_chunk("x = (await call(1), 'a')\n")
        latest = await process.manager().get_latest_checkpoint()
        assert latest is not None
        assert latest["namespace"] == {"x": (1, "a")}
        assert latest["metadata"]["llm_response"] == executor.llm_response
        assert latest["metadata"]["executed_code"] == "x = (await call(1), 'a')\n"
        coordinator = RecoveryCoordinator(process.manager())
        info = await coordinator.get_recovery_info()
        assert info is not None
        assert info["statement"] == "x = (await call(1), 'a')"
        agent: dict[str, Any] = {}
        await coordinator.recover_execution_state(agent)
        assert agent == {"$mood": "good"}
        again = StreamingPythonExecutor(process.manager(), process.names)
        await coordinator.recover_execution_state(again)
        assert again.namespace["x"] == (1, "a")
        assert again.llm_response == executor.llm_response

    run(body())


def test_a_checkpoint_between_statements_by_hand() -> None:
    async def body() -> None:
        process = Process()
        executor = await process.executor()
        await executor.add_chunk("x = 1\n")
        await executor.checkpoint()
        again = await process.executor()
        assert again.namespace["x"] == 1

        async def save() -> None:
            await third.checkpoint()

        process.names["save"] = save
        third = await process.executor()
        with pytest.raises(StreamingExecutionError, match="while add_chunk runs"):
            await third.add_chunk("await save()\n")

    run(body())


def test_one_process_at_a_time(tmp_path: Path) -> None:
    async def body() -> None:
        calls = Calls()

        def manager() -> CheckpointManager:
            return CheckpointManager("order-7", FilesystemCheckpointProvider(tmp_path))

        async with manager() as first:
            executor = await StreamingPythonExecutor.resume(first, calls.names())
            with pytest.raises(Conflict):
                await StreamingPythonExecutor.resume(manager(), calls.names())
            await executor.add_chunk("x = await call(1)\n")
        async with manager() as second:
            executor = await StreamingPythonExecutor.resume(second, calls.names())
            assert executor.namespace["x"] == 1

    run(body())


def test_of_two_executors_with_one_provider_the_newer_one_writes(tmp_path: Path) -> None:
    async def body() -> None:
        calls = Calls()
        provider = FilesystemCheckpointProvider(tmp_path)

        async def resumed() -> StreamingPythonExecutor:
            manager = CheckpointManager("order-7", provider)
            return await StreamingPythonExecutor.resume(manager, calls.names())

        first = await resumed()
        await first.add_chunk("x = await call(1)\n")
        second = await resumed()
        with pytest.raises(Conflict):
            await first.add_chunk("x = await call(2)\n")
        await second.add_chunk("y = await call(3)\n")
        await second.finalize()
        names = (await resumed()).namespace
        assert (names["x"], names["y"]) == (1, 3)
        assert calls.made[-1] == 3

    run(body())


def test_a_store_that_is_away_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        process = Process()
        executor = await process.executor()
        await executor.add_chunk("ys = []\nx = await call(1)\n")
        save = MemoryCheckpointProvider.save_checkpoint

        async def away(*_: Any) -> None:
            raise Unavailable("the store is away")

        monkeypatch.setattr(MemoryCheckpointProvider, "save_checkpoint", away)
        code = "for i in [2, 3]:\n    ys.append(await call(i))\nawait call(4)\n"
        with pytest.raises(Unavailable):
            await executor.add_chunk(code)
        assert process.calls.made == [1]

        async def away_later(*arguments: Any) -> None:
            if 2 in process.calls.made:
                await away()
            await save(*arguments)

        monkeypatch.setattr(MemoryCheckpointProvider, "save_checkpoint", away_later)
        with pytest.raises(Unavailable):
            await executor.add_chunk("")
        assert process.calls.made == [1, 2]
        monkeypatch.setattr(MemoryCheckpointProvider, "save_checkpoint", save)
        assert (await executor.finalize()).error is None
        assert process.calls.made == [1, 2, 3, 4]
        assert executor.namespace["ys"] == [2, 3]

    run(body())


def test_a_namespace_that_is_too_large_is_refused_by_size(tmp_path: Path) -> None:
    async def body() -> None:
        provider = FilesystemCheckpointProvider(tmp_path, max_size_mb=0.01)
        manager = CheckpointManager("order-7", provider)
        executor = StreamingPythonExecutor(manager, Calls().names())
        with pytest.raises(StreamingExecutionError, match=r"has 0\.02 MB"):
            await executor.add_chunk("x = 'x' * 20_000\nawait call(1)\n")
        await executor.finalize()
        await executor.add_chunk("del x\nawait call(1)\n")
        assert (await executor.finalize()).error is None

    run(body())


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    async def body() -> None:
        calls = Calls()
        provider = FilesystemCheckpointProvider(tmp_path)
        async with CheckpointManager("order-7", provider) as manager:
            executor = StreamingPythonExecutor(manager, calls.names())
            await executor.add_chunk("x = await call(1)\ny = await call(2)\n")
        files = sorted((tmp_path / "order-7").glob("*.ckpt"))
        files[-1].write_bytes(files[-1].read_bytes()[:-1])
        manager = CheckpointManager("order-7", provider)
        with pytest.warns(CheckpointWarning, match="is used instead"):
            executor = await StreamingPythonExecutor.resume(manager, calls.names())
        assert executor.resumed is not None
        assert executor.resumed.in_flight is not None
        assert executor.resumed.in_flight.source == "y = await call(2)"
        await executor.finalize()
        assert calls.made == [1, 2, 2]
        assert executor.namespace["y"] == 2

    run(body())


# Loops

LOOPS = """
for i in [1, 2, 3]:
    out.append(await call(i))
else:
    out.append("else")
---
for i in items:
    await call(i)
    if i < 3: items.append(i + 1)
---
for n, (a, b) in enumerate({1: 2, 3: 4}.items(), start=5):
    out.append((n, a, await call(b)))
---
for c in "abc":
    if await call(c) == "b": break
else:
    out.append("else")
---
for i in range(6):
    if i % 2: continue
    try:
        await call(i)
        if i == 4: break
    finally:
        out.append(i)
---
for i in (await call([1, 2])):
    out.append(await call(i))
---
for i in (j * 2 for j in [1, 2]):
    out.append(await call(i))
else:
    out.append("else")
---
for i in enumerate("ab", 1):
    out.append(await call(i))
---
n = 0
while n < 3:
    n += 1
    if n == 2: continue
    out.append(await call(n))
else:
    out.append(await call("else"))
---
n = 0
while await call(n) < 3:
    n += 1
    if n == 2: break
else:
    out.append("else")
---
for i in []:
    await call(i)
"""


@pytest.mark.parametrize("loop", re.split("^---\n", LOOPS, flags=re.MULTILINE))
def test_a_loop_pass_by_pass_is_the_loop(loop: str) -> None:
    async def result(manager: CheckpointManager | None) -> Any:
        calls = Calls()
        executor = StreamingPythonExecutor(manager, calls.names())
        await executor.add_chunk("out = []\nitems = [1]\n" + loop)
        await executor.finalize()
        names = {name: one for name, one in executor.namespace.items() if name[:2] != "__"}
        del names["call"]
        return names, calls.made

    assert run(result(Process().manager())) == run(result(None))


def test_a_loop_goes_on_at_the_pass_that_had_begun() -> None:
    async def body(code: str) -> None:
        process = Process()
        await process.crashes_at(3, code)
        executor = await process.executor()
        assert executor.resumed is not None
        assert executor.resumed.in_flight is not None
        assert executor.resumed.in_flight.passes == 2
        result = await executor.finalize()
        assert process.calls.made == [1, 2, 3, 4]
        assert result.output == [1, 2, 3, 4]
        assert "for" not in executor.namespace

    for code in (
        "done = []\nitems = [1, 2, 3]\nfor i in items:\n    if i == 3: items.append(4)\n"
        "    done.append(await call(i))\ndone",
        "done = []\nfor n, i in enumerate([1, 2, 3, 4]):\n    assert n == i - 1\n"
        "    done.append(await call(i))\ndone",
        "done = []\nn = 0\nwhile n < 4:\n    done.append(await call(n + 1))\n    n += 1\ndone",
    ):
        run(body(code + "\n"))


def test_an_error_in_a_pass_names_its_line() -> None:
    async def body() -> None:
        executor = await Process().executor()
        code = "for i in [2, 1, 0]:\n    await call(i)\n    j = 1 / i\nelse:\n    j = 0\n\nj = 3\n"
        with pytest.raises(StreamingExecutionError, match=r"response 1>:3:.*\n +j = 1 / i\n"):
            await executor.add_chunk(code)
        result = await executor.finalize()
        assert (executor.namespace["j"], executor.namespace["i"]) == (1, 0)
        assert result.executed_code == ""
        await executor.add_chunk("n = 3\nwhile await call(n):\n    n -= 1\nelse:\n    n.nothing\n")
        with pytest.raises(StreamingExecutionError, match=r"response 2>:5:"):
            await executor.finalize()

    run(body())


def test_a_loop_over_what_is_no_data_is_refused() -> None:
    async def body() -> None:
        executor = await Process().executor()
        with pytest.raises(StreamingExecutionError, match="what the loop goes over: for"):
            await executor.add_chunk("for f in [lambda: 1]:\n    await call(f())\n\nx = 1\n")

    run(body())


# Programs of any kind

STATEMENTS = """
xs = [1]
ys = xs
xs.append(await call(len(xs)))
d = {"xs": xs, 2: [ys]}
ys = list(xs)
z = f(await call(3))
box = Box(xs, await call("b"))
boxes = [box, {"in": box}]; box.label += "!"
xs += [len(xs)]
from dataclasses import dataclass
x = 1 / (len(xs) - 3)
---
@dataclass
class Box:
    items: list
    label: str = ""
---
def f(a, b=2):
    xs.append(a)
    return a + b
---
for x in xs:
    if len(ys) > 6: break
    ys.append(await call(x))
else:
    ys = [await call("else")]
---
n = 0
while n < 3:
    n += await call(1)
    if n == 2: continue
    xs.append(n)
---
if await call(len(xs)) > 2:
    xs = xs[:2]
else:
    xs.insert(0, boxes)
"""


def snippets() -> list[str]:
    lines, *blocks = re.split("^---\n", STATEMENTS.strip("\n") + "\n", flags=re.MULTILINE)
    return lines.splitlines(keepends=True) + blocks


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(snippets()), max_size=12), st.data())
def test_a_program_that_crashes_anywhere_ends_as_one_that_does_not(
    chosen: list[str], data: st.DataObject
) -> None:
    code = "".join(("xs = []\nys = []\nboxes = 0\n", *chosen))

    class Crashing(Calls):
        """Crashes at each place that was chosen, once."""

        def __init__(self, crashes: set[int]) -> None:
            super().__init__()
            self.crashes = crashes

        async def call(self, value: Any) -> Any:
            if len(self.made) in self.crashes:
                self.crashes.remove(len(self.made))
                raise asyncio.CancelledError
            return await super().call(value)

    async def body(crashes: set[int]) -> Any:
        process = Process()
        process.calls = Crashing(crashes)
        process.names = process.calls.names()
        while True:
            executor = await process.executor()
            try:
                await executor.add_chunk(code[len(executor.received) :])
                result = await executor.finalize()
            except asyncio.CancelledError:
                continue
            except StreamingExecutionError:
                result = await executor.finalize()
            shown = {name: repr(value) for name, value in executor.namespace.items()}
            for name in ("__builtins__", "__name__", "call", "f", "Box", "dataclass"):
                shown.pop(name, None)
            ids = [id(executor.namespace.get(name)) for name in ("xs", "ys", "box")]
            same = [a == b for a in ids for b in ids]
            return shown, same, result.executed_code, str(result.error), process.calls.made

    crashes = data.draw(st.sets(st.integers(0, 20), max_size=3))
    assert run(body(crashes)) == run(body(set()))
