"""Agents: their registry, what is checked at their border, what they are told and can tell."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydantic
import pytest
from conftest import PATIENCE_S, Serve

from durable_monty import (
    FUNCTION_REGISTRY,
    Conflict,
    InvalidWorkflow,
    LocalExecutor,
    OrchestratorService,
    ProcessPoolExecutor,
    RetryPolicy,
    Worker,
    execute_function,
    get_function,
)
from durable_monty.agents import (
    AgentContext,
    EntityAgent,
    SummarizeAgent,
    ainvoke_agent,
    describe_agent,
    invoke_agent,
    list_agents,
    register_agent,
)


class Echo:
    def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        return {"echo": payload}


class Slow:
    async def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"echo": payload}


# The registry


def test_an_agent_is_a_path_a_class_an_instance_or_a_function() -> None:
    register_agent("path", "durable_monty.agents.SummarizeAgent")
    register_agent("class", Echo)
    register_agent("instance", Echo())
    register_agent("function", lambda payload, context: {"echo": payload})
    register_agent("coroutine", Slow)

    @register_agent("decorated")
    def decorated(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        return {"echo": payload}

    names = ["class", "coroutine", "decorated", "function", "instance", "path"]
    assert list_agents() == names
    for name in names[:-1]:
        assert invoke_agent(name, {"a": 1}) == {"echo": {"a": 1}}
        assert execute_function(f"agent:{name}", [{"a": 1}]) == {"echo": {"a": 1}}
    assert invoke_agent("path", {"text": "One."})["summary"] == "One."


def test_a_class_is_made_once() -> None:
    made = []

    class Counted(Echo):
        def __init__(self) -> None:
            made.append(self)

    register_agent("counted", Counted)
    assert not made
    invoke_agent("counted", {})
    invoke_agent("counted", {})
    assert len(made) == 1


def test_a_class_is_made_once_for_all_threads() -> None:
    made = []
    everybody = threading.Barrier(4)
    another = threading.Event()

    class Counted(Echo):
        def __init__(self) -> None:
            made.append(self)
            if len(made) > 1:
                another.set()
            another.wait(0.2)

    register_agent("counted", Counted)

    def invoke() -> None:
        everybody.wait(PATIENCE_S)
        invoke_agent("counted", {})

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(invoke) for _ in range(4)]:
            done.result(PATIENCE_S)
    assert len(made) == 1


def test_versions_stand_side_by_side_and_the_last_one_is_the_default() -> None:
    register_agent("a", lambda payload, context: {"is": 1})
    register_agent("a", lambda payload, context: {"is": 2}, version="2")
    assert [invoke_agent(name, {})["is"] for name in ("a", "a@1", "a@2")] == [2, 1, 2]
    assert list_agents() == ["a"]
    info = describe_agent("a")
    assert (info.version, info.versions) == ("2", ("1", "2"))
    assert describe_agent("a@1").version == "1"


def test_nothing_is_overwritten_silently() -> None:
    register_agent("a", Echo)
    register_agent("a", Echo)
    with pytest.raises(Conflict, match=r"agent 'a' version 1 is registered already, as .*Echo"):
        register_agent("a", Slow)
    assert describe_agent("a").path.endswith("Echo")
    register_agent("a", Slow, replace=True)
    assert describe_agent("a").path.endswith("Slow")


@pytest.mark.parametrize(
    ("name", "agent", "message"),
    [
        ("a b", Echo, "can't be the name"),
        ("", Echo, "can't be the name"),
        ("a.b", Echo, "can't be the name"),
        ("a", "Echo", "has a dot"),
        ("a", object, "has no method run"),
        ("a", 3, "give an object with a method run"),
    ],
)
def test_what_can_be_no_agent_is_refused(name: str, agent: Any, message: str) -> None:
    with pytest.raises(InvalidWorkflow, match=message):
        register_agent(name, agent)
    assert list_agents() == []


def test_a_path_that_leads_nowhere_is_told_when_it_is_needed() -> None:
    register_agent("lost", "durable_monty.agents.NoSuchAgent")
    with pytest.raises(InvalidWorkflow, match=r"agent 'lost' can't be imported from .*NoSuch"):
        invoke_agent("lost", {})


def test_an_unknown_agent_is_told_with_the_nearest_name() -> None:
    with pytest.raises(KeyError, match="no agent is registered in this process"):
        invoke_agent("sumarize", {})
    register_agent("summarize", SummarizeAgent)
    with pytest.raises(KeyError, match="there is no agent 'sumarize': did you mean 'summarize'"):
        invoke_agent("sumarize", {})
    with pytest.raises(KeyError, match="no agent is registered under the name 'x' in this process"):
        get_function("agent:x")


# The border


class Question(pydantic.BaseModel):
    text: str
    most: int = 3


class Answer(pydantic.BaseModel):
    words: list[str]


class Asked:
    input_model = Question
    output_model = Answer

    def run(self, payload: dict[str, Any], context: AgentContext) -> Any:
        context.report_usage(model="m", input_tokens=1)
        words = payload["text"].split()[: payload["most"]]
        return {"words": words} if payload["most"] else {"words": "none"}


def test_models_are_checked_on_both_sides() -> None:
    register_agent("asked", Asked)
    assert invoke_agent("asked", {"text": "a b c d"})["words"] == ["a", "b", "c"]
    assert invoke_agent("asked", {"text": "a b", "most": "1"})["words"] == ["a"]
    missing = "the payload of agent 'asked' does not fit Question: text: Field required; most: "
    with pytest.raises(ValueError, match=missing):
        invoke_agent("asked", {"most": "x"})
    with pytest.raises(ValueError, match=r"the result of agent 'asked' does not fit Answer: words"):
        invoke_agent("asked", {"text": "a", "most": 0})
    info = describe_agent("asked")
    assert info.input_schema is not None
    assert info.input_schema["required"] == ["text"]
    assert info.output_schema is not None


def test_models_may_be_given_and_returned() -> None:
    register_agent(
        "given",
        lambda payload, context: Answer(words=[payload["text"]]),
        input_model=Question,
        output_model=Answer,
    )
    assert invoke_agent("given", {"text": "a"}) == {"words": ["a"]}
    register_agent("bad", Echo, input_model=dict)
    with pytest.raises(InvalidWorkflow, match="not a pydantic model class"):
        invoke_agent("bad", {})


class Renamed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    total: int = pydantic.Field(alias="grandTotal")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.total


def test_an_instance_of_the_model_is_a_result_as_it_is() -> None:
    register_agent("renamed", lambda payload, context: Renamed(grandTotal=3), output_model=Renamed)
    assert invoke_agent("renamed", {}) == {"total": 3, "double": 6}
    register_agent("dict", lambda payload, context: {"grandTotal": "x"}, output_model=Renamed)
    with pytest.raises(ValueError, match="the result of agent 'dict' does not fit Renamed"):
        invoke_agent("dict", {})


@pytest.mark.parametrize(("result", "shown"), [([1], "a list"), (None, "None"), (1, "an int")])
def test_a_result_that_is_no_dict_is_a_clear_failure(result: Any, shown: str) -> None:
    register_agent("bad", lambda payload, context: result)
    with pytest.raises(TypeError, match=f"agent 'bad' returned {shown}, it must return a dict"):
        invoke_agent("bad", {})


def test_a_payload_that_is_no_dict_is_a_clear_failure() -> None:
    register_agent("echo", Echo)
    with pytest.raises(TypeError, match="the payload of agent 'echo' is a list"):
        execute_function("agent:echo", [[1]])


# The context


def test_what_an_agent_reports_stands_in_its_result() -> None:
    def run(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        context.report_usage(model="m-1", input_tokens=3)
        context.report_usage(input_tokens=4, output_tokens=2)
        context.emit("looked_up", {"id": 7})
        context.emit("done")
        return {"a": 1, "agent_metadata": {"agent": "mine"}}

    register_agent("telling", run)
    assert invoke_agent("telling", {}) == {
        "a": 1,
        "agent_metadata": {
            "agent": "mine",
            "model": "m-1",
            "usage": {"input_tokens": 7, "output_tokens": 2},
            "events": [
                {"event": "looked_up", "payload": {"id": 7}},
                {"event": "done", "payload": {}},
            ],
        },
    }


def test_events_are_bounded_and_have_a_json_form() -> None:
    context = AgentContext("a")
    with pytest.raises(TypeError, match=r"the payload of event 'x'\['o'\] is a object"):
        context.emit("x", {"o": object()})
    for _ in range(1000):
        context.emit("x")
    with pytest.raises(ValueError, match="more than 1000 events"):
        context.emit("x")


def test_metadata_that_is_no_dict_is_refused() -> None:
    register_agent("bad", lambda payload, context: {"agent_metadata": 3})
    with pytest.raises(TypeError, match="agent 'bad' returned an int as 'agent_metadata'"):
        invoke_agent("bad", {})


def test_log_lines_say_what_they_are_about(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    AgentContext("a", execution_id="e", step="s", attempt=2).logger.info("hello %s", "there")
    assert caplog.records[-1].name == "durable_monty.agent.a"
    assert caplog.messages[-1] == "[e, s, attempt 2] hello there"


def test_a_coroutine_ends_at_the_deadline() -> None:
    ended = []

    async def run(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        try:
            await asyncio.sleep(payload["s"])
        finally:
            ended.append(True)
        return {}

    register_agent("late", run)
    assert invoke_agent("late", {"s": 0}, AgentContext("late", deadline=time.time() + 60)) == {}
    with pytest.raises(TimeoutError, match="agent 'late' did not return before its deadline"):
        invoke_agent("late", {"s": 600}, AgentContext("late", deadline=time.time() + 0.05))
    assert len(ended) == 2


def test_agents_can_ask_agents() -> None:
    register_agent("inner", Slow)

    async def outer(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        return await ainvoke_agent("inner", payload, context)

    register_agent("outer", outer)
    assert invoke_agent("outer", {"a": 1}) == {"echo": {"a": 1}}


# In workflows and executors


def test_workflows_call_agents(service: OrchestratorService, serve: Serve) -> None:
    seen = []

    def run(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        seen.append(context)
        if context.attempt == 1:
            raise OSError("not now")
        return {"is": payload["n"] + 1}

    retry = RetryPolicy(max_attempts=2, initial_interval=0.001)
    register_agent("add-one", run, retry=retry, timeout=60)
    register_agent("later", Slow)
    code = "[(await add_one({'n': 1}))['is'], (await later({'n': 2}))['echo']['n']]"
    execution = service.start_execution(code, ["agent:add-one", "agent:later@1"])
    with serve():
        assert service.result(execution, PATIENCE_S) == [2, 2]
    first, second = seen
    assert [first.attempt, second.attempt] == [1, 2]
    assert first.execution_id == execution
    assert first.idempotency_key == second.idempotency_key == f"{execution}:0"
    assert first.deadline is not None
    assert 50 < first.deadline - time.time() <= 60
    assert 0 < (first.remaining() or 0) <= 60


AGENTS = """
import os
from durable_monty.agents import register_agent

@register_agent("where")
def where(payload, context):
    return {"pid": os.getpid(), "key": context.idempotency_key, **payload}
"""


def test_other_processes_find_agents_where_they_are_registered(
    service: OrchestratorService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_agents.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("my_agents")
    try:
        execution = service.start_execution("await where({'a': 1})", ["agent:where"])
        Worker(service, ProcessPoolExecutor(1)).run(until_complete=True)
        found = service.get_result(execution)
    finally:
        sys.modules.pop("my_agents", None)
    assert found["a"] == 1
    assert found["key"] == f"{execution}:0"
    assert found["pid"] != __import__("os").getpid()


def test_jobs_run_agents() -> None:
    register_agent("later", Slow)
    executor = LocalExecutor()
    job = executor.submit_call("agent:later", [{"a": 1}])
    deadline = time.monotonic() + PATIENCE_S
    while (found := executor.check_job(job))["status"] not in ("finished", "failed"):
        assert time.monotonic() < deadline
    assert found["result"] == {"echo": {"a": 1}}


# The agents that need no model

TEXT = """Durable systems keep their state. A durable workflow keeps its state in a database, so
that a crash loses nothing. Write to Ada at ada@example.org or see https://example.org/docs (or call
+44 20 7946 0958, or (030) 123-4567). On 2026-11-21 it cost 1,250.50 and on 3 March 2027 15% less.
Cats sleep."""


def test_summarize() -> None:
    register_agent("summarize", SummarizeAgent)
    found = invoke_agent("summarize", {"text": TEXT, "max_sentences": 2})
    assert found == invoke_agent("summarize", {"text": TEXT, "max_sentences": 2})
    assert found["original_length"] == len(TEXT)
    assert found["summary_length"] == len(found["summary"]) < len(TEXT)
    assert found["compression_ratio"] == round(len(found["summary"]) / len(TEXT), 4)
    assert found["agent_metadata"]["agent"] == "SummarizeAgent"
    assert found["summary"].startswith("Durable systems keep their state.")
    assert "Cats" not in found["summary"]
    empty = invoke_agent("summarize", {"text": ""})
    assert (empty["summary"], empty["compression_ratio"]) == ("", 0.0)


def test_entities() -> None:
    register_agent("entity", EntityAgent)
    found = invoke_agent("entity", {"text": TEXT})
    assert found["emails"] == ["ada@example.org"]
    assert found["urls"] == ["https://example.org/docs"]
    assert found["phone_numbers"] == ["+44 20 7946 0958", "(030) 123-4567"]
    assert found["numbers"] == ["1,250.50", "15%"]
    assert found["dates"] == ["2026-11-21", "3 March 2027"]
    assert found["capitalized_words"] == ["Durable", "Write", "Ada", "On", "Cats"]
    kinds = ["emails", "urls", "phone_numbers", "numbers", "capitalized_words", "dates"]
    assert found["entity_counts"] == {kind: len(found[kind]) for kind in kinds}
    assert found["total_entities"] == sum(found["entity_counts"].values()) == 13
    assert found["text_stats"] == {
        "characters": len(TEXT),
        "words": len(TEXT.split()),
        "sentences": 5,
        "lines": 4,
    }


@pytest.mark.parametrize("agent", [SummarizeAgent, EntityAgent])
def test_missing_text_is_told(agent: type[Any]) -> None:
    register_agent("needs", agent)
    with pytest.raises(ValueError, match="agent 'needs' needs 'text' in its payload, which has b"):
        invoke_agent("needs", {"b": 1})
    with pytest.raises(TypeError, match="'text' is a int, it must be a string"):
        invoke_agent("needs", {"text": 1})


@pytest.mark.parametrize("letter", ["a", "A", "1", "a.", "1 ", "(", "@", "-", "http://", "1/"])
def test_long_texts_take_linear_time(letter: str) -> None:
    register_agent("entity", EntityAgent)
    register_agent("summarize", SummarizeAgent)
    began = time.process_time()
    for name in ("entity", "summarize"):
        invoke_agent(name, {"text": letter * 100_000})
    assert time.process_time() - began < 5


def test_agents_are_functions_of_the_registry() -> None:
    register_agent("a", Echo)
    assert {"agent:a", "agent:a@1"} <= set(FUNCTION_REGISTRY)
