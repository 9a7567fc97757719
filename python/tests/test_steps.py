"""Step workflows through Python: what is written, where agents run, what is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Serve, service_url

from durable_monty import (
    ExecutionFailed,
    InvalidWorkflow,
    OrchestratorService,
    ProcessPoolExecutor,
    RetryPolicy,
    Step,
    StepWorkflow,
    Worker,
    load_workflow,
    register_agent,
)
from durable_monty.agents import AgentContext

ROOT = Path(__file__).parents[2]

YAML = """
id: flow
steps:
  - name: first
    agent: double
    input: {n: "{{ inputs.n }}"}
  - name: second
    agent: double
    input: {n: "{{ steps.first.n }}"}
"""
TOML = """
id = "flow"

[[steps]]
name = "first"
agent = "double"
input = {n = "{{ inputs.n }}"}

[[steps]]
name = "second"
agent = "double"
input = {n = "{{ steps.first.n }}"}
"""
PYTHON = StepWorkflow(
    "flow",
    [
        Step("first", "double", {"n": "{{ inputs.n }}"}),
        Step("second", "double", {"n": "{{ steps.first.n }}"}),
    ],
)


def double(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
    return {"n": 2 * payload["n"]}


def event_types(service: OrchestratorService, execution_id: str) -> list[str]:
    return [event["event_type"] for event in service.store.engine.events(execution_id)]


@pytest.mark.parametrize("language", ["yaml", "toml", "json", "python"])
def test_a_workflow_in_every_language(
    language: str, service: OrchestratorService, tmp_path: Path
) -> None:
    register_agent("double", double)
    texts = {"yaml": YAML, "toml": TOML, "json": PYTHON.source}
    workflow: Any = PYTHON
    if language != "python":
        workflow = tmp_path / f"flow.{language}"
        workflow.write_text(texts[language])
    execution = service.start_workflow(workflow, {"n": 5})
    Worker(service).run(until_complete=True)
    assert service.get_result(execution) == {"first": {"n": 10}, "second": {"n": 20}}
    assert service.get_execution(execution)["workflow_id"] == "flow"
    assert event_types(service, execution) == [
        "EXECUTION_STARTED",
        *["STEP_STARTED", "AGENT_INVOKED", "AGENT_RESPONSE", "STEP_COMPLETED"] * 2,
        "EXECUTION_COMPLETED",
    ]


def test_the_same_workflow_is_one_program_whatever_agents_there_are(
    service: OrchestratorService,
) -> None:
    register_agent("double", double)
    service.start_workflow(PYTHON, {"n": 1})
    register_agent("other", double)
    service.start_workflows(PYTHON, [{"n": 2}, {"n": 3}])
    with service.engine.connect() as connection:
        programs = connection.exec_driver_sql("SELECT DISTINCT program_id FROM executions").all()
    assert len(programs) == 1
    Worker(service).run(until_complete=True)
    assert sorted(info["output"]["second"]["n"] for info in service.list()) == [4, 8, 12]


def test_steps_side_by_side_for_each_and_when(service: OrchestratorService, serve: Serve) -> None:
    register_agent("double", double)
    register_agent("sum", lambda payload, context: {"n": sum(i["n"] for i in payload["of"])})
    workflow = StepWorkflow(
        "dag",
        [
            Step("each", "double", {"n": "{{ item }}"}, foreach="{{ inputs.numbers }}"),
            Step("sum", "sum", {"of": "{{ steps.each }}"}, needs=["each"]),
            Step("big", "double", {"n": "{{ steps.sum.n }}"}, when="steps.sum.n > 100"),
            Step("small", "double", {"n": 1}, needs="sum", when="steps.sum.n <= 100"),
        ],
        inputs={"numbers": {"type": "array"}},
        description="numbers",
    )
    execution = service.start_workflow(workflow, {"numbers": [1, 2, 3]})
    with serve():
        assert service.result(execution, PATIENCE_S) == {
            "each": [{"n": 2}, {"n": 4}, {"n": 6}],
            "sum": {"n": 12},
            "big": None,
            "small": {"n": 2},
        }


def test_what_agents_report_stands_in_the_journal_and_the_context_names_the_step(
    service: OrchestratorService, serve: Serve
) -> None:
    seen: list[AgentContext] = []

    def run(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        seen.append(context)
        if context.attempt == 1:
            raise ConnectionError("not now")
        context.report_usage(model="m-1", input_tokens=3, output_tokens=1)
        context.emit("looked_up", {"id": 7})
        return {}

    register_agent("flaky", run)
    retry = RetryPolicy(max_attempts=3, initial_interval=0.001)
    workflow = StepWorkflow("w", [Step("ask", "flaky", retry=retry, timeout=30)])
    execution = service.start_workflow(workflow)
    with serve():
        service.result(execution, PATIENCE_S)
    assert [(context.step, context.attempt) for context in seen] == [("ask", 1), ("ask", 2)]
    assert seen[0].idempotency_key == seen[1].idempotency_key
    assert seen[0].deadline is not None
    assert event_types(service, execution) == [
        "EXECUTION_STARTED",
        "STEP_STARTED",
        "AGENT_INVOKED",
        "STEP_RETRYING",
        "AGENT_INVOKED",
        "AGENT_RESPONSE",
        "STEP_COMPLETED",
        "EXECUTION_COMPLETED",
    ]
    (response,) = [
        json.loads(event["payload"])
        for event in service.store.engine.events(execution)
        if event["event_type"] == "AGENT_RESPONSE"
    ]
    assert (response["agent"], response["attempt"]) == ("flaky", 2)
    assert response["agent_metadata"] == {
        "model": "m-1",
        "usage": {"input_tokens": 3, "output_tokens": 1},
        "events": [{"event": "looked_up", "payload": {"id": 7}}],
    }
    with service.engine.connect() as connection:
        (row,) = connection.exec_driver_sql("SELECT step_name, retry_count FROM execution_steps")
    assert tuple(row) == ("ask", 1)


def test_steps_name_versions_of_agents(service: OrchestratorService) -> None:
    for version in ("1", "2"):
        register_agent("a", lambda payload, context, v=version: {"v": v}, version=version)
    steps = [Step("old", "a@1"), Step("new", "a@2"), Step("any", "a")]
    execution = service.start_workflow(StepWorkflow("versions", steps))
    Worker(service).run(until_complete=True)
    assert service.get_result(execution) == {
        "old": {"v": "1"},
        "new": {"v": "2"},
        "any": {"v": "2"},
    }


def test_a_step_that_fails_fails_the_execution_and_can_be_retried(
    service: OrchestratorService,
) -> None:
    state = {"is_mended": False}

    def fragile(payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        if not state["is_mended"]:
            raise ValueError("no model")
        return {"is": "mended"}

    register_agent("double", double)
    register_agent("fragile", fragile)
    steps = [Step("first", "double", {"n": 1}), Step("second", "fragile")]
    execution = service.start_workflow(StepWorkflow("w", steps))
    Worker(service).run(until_complete=True)
    with pytest.raises(ExecutionFailed, match="no model") as failure:
        service.get_result(execution)
    assert "second" in str(failure.value)
    assert event_types(service, execution)[-2:] == ["STEP_FAILED", "EXECUTION_FAILED"]
    state["is_mended"] = True
    service.retry(execution)
    Worker(service).run(until_complete=True)
    assert service.get_result(execution)["second"] == {"is": "mended"}
    assert event_types(service, execution).count("STEP_STARTED") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id: x\nsteps:\n  - {name: a, agent: doubel}\n",
            r"/flow\.yaml:3:22: .*'doubel'\n.*'double'",
        ),
        (
            "id: x\nsteps:\n  - {name: a, agent: double, input: {n: '{{ steps.b }}'}}\n",
            r"/flow\.yaml:3:",
        ),
        ("id: x\nstep: []\n", r"/flow\.yaml:2:1: a workflow has no 'step'"),
        ("steps: []\n", r"/flow\.yaml:1:1: a workflow needs 'id'"),
        ("id: [\n", r"/flow\.yaml:"),
    ],
)
def test_mistakes_are_told_with_file_and_line(
    text: str, message: str, service: OrchestratorService, tmp_path: Path
) -> None:
    register_agent("double", double)
    path = tmp_path / "flow.yaml"
    path.write_text(text)
    with pytest.raises(InvalidWorkflow, match=f"(?s){message}"):
        service.start_workflow(path)
    assert service.list() == []


def test_inputs_are_checked_before_the_start(service: OrchestratorService) -> None:
    register_agent("double", double)
    with pytest.raises(InvalidWorkflow, match="the input 'n' is missing"):
        service.start_workflow(PYTHON)
    declared = StepWorkflow("w", [Step("a", "double")], inputs={"n": {"type": "integer"}})
    with pytest.raises(InvalidWorkflow, match="the input 'n' has to be of type integer"):
        service.start_workflow(declared, {"n": "x"})
    with pytest.raises(TypeError, match=r"inputs\['n'\]"):
        service.start_workflow(PYTHON, {"n": object()})
    assert service.list() == []


def test_what_can_be_no_workflow(tmp_path: Path) -> None:
    for source, message in [
        ("id: x", "is no file of a workflow"),
        (tmp_path / "no.yaml", "can't be read"),
        (tmp_path / "no.txt", "is no file of a workflow"),
    ]:
        with pytest.raises(InvalidWorkflow, match=message):
            load_workflow(source)
    with pytest.raises(InvalidWorkflow, match="what has no JSON form"):
        StepWorkflow("w", [Step("a", "double", {"n": object()})])
    with pytest.raises(InvalidWorkflow, match="language is 'xml'"):
        load_workflow("<id/>", "xml")  # type: ignore[arg-type]
    assert load_workflow(YAML, "yaml").id == "flow"
    assert load_workflow("{id: 'x', steps: [{name: a, agent: b}]}", "yaml").id == "x"


# Where agents run

AGENTS = """
import os
from durable_monty.agents import register_agent

@register_agent("double")
def double(payload, context):
    return {"n": 2 * payload["n"], "pid": os.getpid(), "step": context.step}
"""


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that registers an agent."""
    name = f"agents_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    __import__(name)
    yield name
    del sys.modules[name]


def check(output: dict[str, Any]) -> None:
    assert [output[step]["n"] for step in ("first", "second")] == [4, 8]
    assert [output[step]["step"] for step in ("first", "second")] == ["first", "second"]
    assert output["first"]["pid"] != os.getpid()


def test_agents_in_a_process_pool(service: OrchestratorService, agents: str) -> None:
    execution = service.start_workflow(PYTHON, {"n": 2})
    Worker(service, ProcessPoolExecutor(1)).run(until_complete=True)
    check(service.get_result(execution))


def test_agents_in_rq_workers(
    service: OrchestratorService, agents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from durable_monty import RQExecutor

    monkeypatch.setenv("REDIS_URL", service_url("DURABLE_TEST_REDIS"))
    queue = f"test-{uuid.uuid4()}"
    environment = {
        **os.environ,
        "DURABLE_FUNCTIONS": agents,
        "RQ_WORKER_CLASS": "durable_monty.executors.rq_worker.Worker",
    }
    import redis

    connection = redis.Redis.from_url(os.environ["REDIS_URL"])
    command = [str(Path(sys.executable).parent / "rq"), "worker", "-u", os.environ["REDIS_URL"]]
    rq_worker = subprocess.Popen([*command, queue], env=environment, stderr=subprocess.DEVNULL)
    try:
        execution = service.start_workflow(PYTHON, {"n": 2})
        Worker(service, RQExecutor(connection, queue)).run(until_complete=True)
    finally:
        rq_worker.kill()
        rq_worker.wait()
        connection.close()
    check(service.get_result(execution))


def test_agents_in_the_process_of_a_durable_worker(
    service: OrchestratorService, agents: str, url: str
) -> None:
    execution = service.start_workflow(PYTHON, {"n": 2})
    durable = ROOT / "target" / "release" / "durable"
    command = [durable, "worker", "--db", url, "--functions", agents, "--python", sys.executable]
    worker = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        check(service.result(execution, PATIENCE_S))
    finally:
        worker.terminate()
        worker.communicate(timeout=PATIENCE_S)
