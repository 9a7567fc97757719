"""Agents made with something else: a program, a URL, LangGraph, Strands, pydantic-ai. The
frameworks are the real ones, their models are scripted."""

from __future__ import annotations

import contextlib
import json
import operator
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pydantic
import pytest

from durable_monty.agents import (
    AgentContext,
    CommandAgent,
    HttpAgent,
    invoke_agent,
    register_agent,
)

CONTEXT = {"execution_id": "e", "step": "s", "attempt": 2, "idempotency_key": "e:0"}


def context(**more: Any) -> AgentContext:
    return AgentContext("it", **{**CONTEXT, **more})


# Programs


def program(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(f"import json, os, sys, time, subprocess\n{text}")
    return [sys.executable, str(path)]


def test_a_program_reads_the_payload_and_writes_the_result(tmp_path: Path) -> None:
    text = """
payload = json.load(sys.stdin)
names = ("IDEMPOTENCY_KEY", "EXECUTION", "STEP", "ATTEMPT")
print(json.dumps({"got": payload, "told": [os.environ["DURABLE_" + name] for name in names]}))
"""
    register_agent("it", CommandAgent(program(tmp_path, text)))
    found = invoke_agent("it", {"a": "ü"}, context())
    assert found == {"got": {"a": "ü"}, "told": ["e:0", "e", "s", "2"]}


def test_a_large_payload_passes_through_a_program(tmp_path: Path) -> None:
    text = "sys.stderr.write('x' * 100_000); sys.stdout.write(sys.stdin.read())"
    register_agent("it", CommandAgent(program(tmp_path, text)))
    payload = {"a": "b" * 2_000_000}
    assert invoke_agent("it", payload) == payload


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("sys.exit('no model')", RuntimeError, r"agent 'it': \S+ ended with exit code 1: no model"),
        ("os.kill(os.getpid(), 9)", RuntimeError, r"ended with signal 9 \(SIGKILL\)"),
        ("print('hello')", ValueError, r"agent 'it': \S+ wrote what is no JSON .*: 'hello'"),
        ("print('[1]')", TypeError, r"agent 'it': \S+ wrote a JSON list, it must be an object"),
        ("print('x' * (17 << 20))", RuntimeError, "wrote more than 16777216 bytes"),
    ],
)
def test_programs_that_fail_say_why(
    tmp_path: Path, text: str, kind: type[Exception], message: str
) -> None:
    register_agent("it", CommandAgent(program(tmp_path, text)))
    with pytest.raises(kind, match=message):
        invoke_agent("it", {})


def test_a_program_that_is_not_there() -> None:
    register_agent("it", CommandAgent(["/no/such/program"]))
    with pytest.raises(RuntimeError, match="agent 'it': /no/such/program can't be started"):
        invoke_agent("it", {})


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


@pytest.mark.parametrize("by", ["timeout", "deadline"])
def test_a_program_that_takes_too_long_is_killed_with_what_it_started(
    tmp_path: Path, by: str
) -> None:
    text = f"""
child = subprocess.Popen(["sleep", "600"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print("working on it", file=sys.stderr, flush=True)
time.sleep(600)
"""
    timeout = 1.0 if by == "timeout" else None
    register_agent("it", CommandAgent(program(tmp_path, text), timeout=timeout))
    deadline = None if by == "timeout" else time.time() + 1.0
    with pytest.raises(TimeoutError, match="took longer than it may and was killed: working on"):
        invoke_agent("it", {}, context(deadline=deadline))
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < until


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    text = 'print("{}", flush=True); print(subprocess.Popen(["sleep", "600"]).pid, file=sys.stderr)'
    register_agent("it", CommandAgent(program(tmp_path, text)))
    began = time.monotonic()
    assert invoke_agent("it", {}) == {}
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_what_has_a_session_of_its_own_is_not_waited_for(
    tmp_path: Path, late: bool, noisy: bool
) -> None:
    daemon = "import os, time\nend = time.time() + 60\nwhile time.time() < end: "
    daemon += "os.write(2, bytes(9))" if noisy else "time.sleep(1)"
    text = f"""
child = subprocess.Popen([sys.executable, "-c", {daemon!r}], start_new_session=True)
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print(json.dumps({{"a": 1}}), flush=True)
time.sleep({600 if late else 0})
"""
    register_agent("it", CommandAgent(program(tmp_path, text), timeout=2 if late else None))
    began = time.monotonic()
    try:
        if late:
            with pytest.raises(TimeoutError, match="took longer than it may and was killed"):
                invoke_agent("it", {"a": "b" * 2_000_000})
        else:
            assert invoke_agent("it", {"a": "b" * 2_000_000}) == {"a": 1}
        assert time.monotonic() - began < 30
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


# URLs


class Receiver:
    """What a server was asked, and what it answers."""

    def __init__(self) -> None:
        self.answer = (200, b"{}")
        self.wait_s = 0.0
        self.headers: dict[str, str] = {}
        self.payload: Any = None
        self.url = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.headers = {name.lower(): value for name, value in self.headers.items()}
            found.payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            released.wait(found.wait_s)
            status, body = found.answer
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/agents/it?a=b"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_given_the_payload_and_the_context(receiver: Receiver) -> None:
    register_agent("it", HttpAgent(receiver.url, headers={"Authorization": "Bearer x"}))
    receiver.answer = (200, b'{"b": 2}')
    assert invoke_agent("it", {"a": 1}, context(deadline=time.time() + 60)) == {"b": 2}
    assert receiver.payload == {"a": 1}
    told = ["idempotency-key", "durable-execution", "durable-step", "durable-attempt"]
    assert [receiver.headers[name] for name in told] == ["e:0", "e", "s", "2"]
    assert float(receiver.headers["durable-deadline"]) > time.time()
    assert receiver.headers["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((500, b"no model"), RuntimeError, "agent 'it': http.* answered 500 .*: no model"),
        ((302, b""), RuntimeError, "answered 302"),
        ((200, b"<html>"), ValueError, "answered 200 with what is no JSON"),
        ((200, b"[1]"), TypeError, "answered 200 with a JSON list, it must be an object"),
    ],
)
def test_answers_that_are_none(
    receiver: Receiver, answer: tuple[int, bytes], kind: type[Exception], message: str
) -> None:
    register_agent("it", HttpAgent(receiver.url))
    receiver.answer = answer
    with pytest.raises(kind, match=message):
        invoke_agent("it", {})


def test_a_url_that_is_silent_or_not_there(receiver: Receiver) -> None:
    receiver.wait_s = 60
    register_agent("late", HttpAgent(receiver.url, timeout=0.2))
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.2 s"):
        invoke_agent("late", {})
    register_agent("it", HttpAgent(receiver.url))
    with pytest.raises(TimeoutError, match=r"agent 'it': http.* did not answer within"):
        invoke_agent("it", {}, context(deadline=time.time() + 0.2))
    register_agent("nobody", HttpAgent("http://127.0.0.1:9/"))
    with pytest.raises(ConnectionError, match=r"agent 'nobody': .* can't be reached: Connection"):
        invoke_agent("nobody", {})


def test_payloads_that_plain_json_has_no_word_for() -> None:
    register_agent("http", HttpAgent("http://127.0.0.1:9/"))
    register_agent("command", CommandAgent(["true"]))
    for name in ("http", "command"):
        with pytest.raises(TypeError, match=f"agent '{name}'.*takes plain JSON"):
            invoke_agent(name, {"a": b"bytes"})


def test_what_can_be_no_url_or_command() -> None:
    with pytest.raises(ValueError, match="no http or https URL"):
        HttpAgent("ftp://x")
    with pytest.raises(ValueError, match="is no URL: Port could not be cast"):
        HttpAgent("http://x:eighty/")
    with pytest.raises(ValueError, match="is no URL: Port out of range"):
        HttpAgent("https://x:70000/")
    for url in ("http://x/a b", "http://x/ü", "http://x/?q=ü"):
        with pytest.raises(ValueError, match="are written as in %20"):
            HttpAgent(url)
    with pytest.raises(ValueError, match="it must be a list"):
        CommandAgent("rm -rf")


# Frameworks


def test_langgraph() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
        from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.graph import END, START, StateGraph
        from langgraph.graph.message import add_messages

        from durable_monty.agents import LangGraphAgent

        # Not as a class: the names in its annotations are local ones.
        messages = Annotated[list[AnyMessage], add_messages]
        State = TypedDict("State", {"messages": messages, "rounds": int})  # noqa: UP013

        def scripted() -> Iterator[AIMessage]:
            for text in ("first", "second", "third", "fourth"):
                usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
                yield AIMessage(
                    text, usage_metadata=usage, response_metadata={"model_name": "fake-1"}
                )

        model = GenericFakeChatModel(messages=scripted())

        async def ask(state: Any) -> dict[str, Any]:
            answer = await model.ainvoke(state["messages"])
            return {"messages": [answer], "rounds": state.get("rounds", 0) + 1}

        builder = StateGraph(State)
        builder.add_node("ask", ask)
        builder.add_edge(START, "ask")
        builder.add_conditional_edges("ask", lambda state: END if state["rounds"] > 1 else "ask")
        graph = builder.compile(checkpointer=InMemorySaver())
        register_agent("plain", LangGraphAgent(graph))
        found = invoke_agent("plain", {"messages": [("user", "hello")]}, context())
    assert [message["content"] for message in found["messages"]] == ["hello", "first", "second"]
    assert found["rounds"] == 2
    assert found["agent_metadata"] == {
        "model": "fake-1",
        "usage": {"input_tokens": 10, "output_tokens": 4},
    }
    state = graph.get_state({"configurable": {"thread_id": "e:0"}})
    assert len(state.values["messages"]) == 3, "the thread is the step's"

    def answer(state: Any) -> dict[str, Any]:
        return {"answer": state["messages"][-1].content}

    register_agent(
        "shaped",
        LangGraphAgent(
            graph,
            input=lambda payload: {"messages": [HumanMessage(payload["question"])], "rounds": 0},
            output=answer,
        ),
    )
    found = invoke_agent("shaped", {"question": "?"})
    assert found["answer"] == "fourth"
    with pytest.raises(TypeError, match=r"no compiled graph: call \.compile\(\)"):
        LangGraphAgent(builder)


def test_langgraph_goes_on_and_does_not_stop_halfway() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.graph import END, START, StateGraph
        from langgraph.types import interrupt

        from durable_monty.agents import LangGraphAgent

        State = TypedDict("State", {"log": Annotated[list[str], operator.add]})  # noqa: UP013
        tries: list[str] = []

        def first(state: Any) -> dict[str, Any]:
            tries.append("first")
            return {"log": ["first"]}

        def second(state: Any) -> dict[str, Any]:
            tries.append("second")
            if tries.count("second") == 1:
                raise ValueError("no model")
            return {"log": ["second"]}

        def ask(state: Any) -> dict[str, Any]:
            return {"log": [interrupt("may I?")]}

        builder = StateGraph(State)
        builder.add_sequence([("first", first), ("second", second)])
        builder.add_edge(START, "first")
        register_agent("it", LangGraphAgent(builder.compile(checkpointer=InMemorySaver())))
        with pytest.raises(ValueError, match="no model"):
            invoke_agent("it", {"log": ["in"]}, context(attempt=1))
        assert invoke_agent("it", {"log": ["in"]}, context()) == {"log": ["in", "first", "second"]}
        assert tries == ["first", "second", "second"]

        shared = {"configurable": {"thread_id": "shared"}}
        graph = builder.compile(checkpointer=InMemorySaver())
        register_agent("shared", LangGraphAgent(graph, config=shared))
        tries.clear()
        with pytest.raises(ValueError, match="no model"):
            invoke_agent("shared", {"log": ["in"]}, context())
        found = invoke_agent("shared", {"log": ["new"]}, context(idempotency_key="e:1"))
        assert found["log"][-3:] == ["new", "first", "second"], "it has not the other's input"

        asking = StateGraph(State)
        asking.add_node("ask", ask)
        asking.add_edge(START, "ask")
        asking.add_edge("ask", END)
        for name, graph in (
            ("kept", asking.compile(checkpointer=InMemorySaver())),
            ("alone", asking.compile()),
        ):
            register_agent(name, LangGraphAgent(graph))
            for attempt in (1, 2):
                with pytest.raises(RuntimeError, match=r"stopped at an interrupt \('may I\?'\)"):
                    invoke_agent(name, {"log": []}, context(attempt=attempt))
        for nodes in (["second"], "*"):
            with pytest.raises(ValueError, match="compile it without"):
                LangGraphAgent(builder.compile(interrupt_before=nodes))
            with pytest.raises(ValueError, match="compile it without"):
                LangGraphAgent(builder.compile(interrupt_after=nodes))


def test_strands() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import strands
        from strands.models import Model

        from durable_monty.agents import StrandsAgent

    class Scripted(Model):
        def update_config(self, **_: Any) -> None: ...

        def get_config(self) -> Any:
            return {"model_id": "fake-1"}

        async def structured_output(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError
            yield

        async def stream(self, messages: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:
            said = messages[-1]["content"][0]["text"]
            yield {"messageStart": {"role": "assistant"}}
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": f"{said} ({len(messages)})"}}}
            yield {"contentBlockStop": {}}
            yield {"messageStop": {"stopReason": "end_turn"}}
            usage = {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}
            yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}

    def make() -> strands.Agent:
        return strands.Agent(model=Scripted(), callback_handler=None)

    register_agent("plain", StrandsAgent(make))
    for _ in range(2):  # the second has a conversation of its own
        assert invoke_agent("plain", {"prompt": "hello"}) == {
            "text": "hello (1)",
            "stop_reason": "end_turn",
            "agent_metadata": {"model": "fake-1", "usage": {"input_tokens": 5, "output_tokens": 2}},
        }
    register_agent("shaped", StrandsAgent(make, prompt=lambda payload: payload["q"]))
    assert invoke_agent("shaped", {"q": "why"})["text"] == "why (1)"
    with pytest.raises(ValueError, match="agent 'plain' needs 'prompt' in its payload"):
        invoke_agent("plain", {"text": "a"})
    with pytest.raises(TypeError, match="a conversation of its own"):
        StrandsAgent(make())


def test_pydantic_ai() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pydantic_ai
        from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import AgentInfo, FunctionModel
        from pydantic_ai.usage import RequestUsage

        from durable_monty.agents import PydanticAIAgent

    def scripted(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        usage = RequestUsage(input_tokens=5, output_tokens=2)
        said = messages[-1].parts[-1].content
        if info.output_tools:
            arguments = {"city": said}
            return ModelResponse([ToolCallPart(info.output_tools[0].name, arguments)], usage=usage)
        return ModelResponse([TextPart(f"you said {said}")], usage=usage)

    class City(pydantic.BaseModel):
        city: str

    model = FunctionModel(scripted, model_name="fake-1")
    register_agent("plain", PydanticAIAgent(pydantic_ai.Agent(model)))
    reported = {"model": "fake-1", "usage": {"input_tokens": 5, "output_tokens": 2}}
    assert invoke_agent("plain", {"prompt": "hello"}) == {
        "output": "you said hello",
        "agent_metadata": reported,
    }
    register_agent(
        "shaped",
        PydanticAIAgent(
            pydantic_ai.Agent(model, output_type=City), prompt=lambda payload: payload["where"]
        ),
    )
    assert invoke_agent("shaped", {"where": "Rome"}) == {"city": "Rome", "agent_metadata": reported}
    with pytest.raises(TypeError, match="no pydantic-ai agent"):
        PydanticAIAgent(model)


def test_the_package_needs_no_framework() -> None:
    code = (
        "import sys; import durable_monty.agents as a; a.SummarizeAgent, a.HttpAgent\n"
        "frameworks = 'langgraph langchain_core strands pydantic_ai pydantic'.split()\n"
        "print(set(frameworks) & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.stdout == "set()\n", shown.stderr
