"""What docs/AGENTS.md and docs/STEPS.md show works as they show it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_S
from test_docs import ROOT, blocks, run

from durable_monty import OrchestratorService, Worker, init_db, load_workflow, register_agent

PAGE = "docs/AGENTS.md"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_python_of_the_page_runs(tmp_path: Path) -> None:
    (tmp_path / "report.yaml").write_text(blocks(PAGE, "yaml")[0])
    coordinator, service, agents, command = blocks(PAGE, "python")
    names = run(coordinator)
    assert names["result"]["status"] == "SUCCESS"
    announced = names["result"]["output"]["announce"]["announced"]
    assert announced == "NEW: IT WORKS. IT IS FAST."
    assert run(service)["output"]["announce"] == {"announced": "NEW: IT WORKS."}
    names = run(agents)
    assert names["found"]["keywords"] == ["dddd", "ccc", "bb"]
    assert names["found"]["agent_metadata"]["events"][0]["payload"] == {"words": 4}
    assert "keywords" in names["known"][0]
    assert names["known"][1] == ["text"]
    assert run(command)["answer"] == {"got": {"a": 1}}


def test_the_larger_workflow_of_the_page_runs(tmp_path: Path) -> None:
    register_agent("research", lambda payload, context: {"text": f"on {payload['topic']}"})
    register_agent(
        "join", lambda payload, context: {"text": ", ".join(p["text"] for p in payload["parts"])}
    )
    register_agent(
        "count",
        lambda payload, context: {"words": sum(len(p["text"].split()) for p in payload["parts"])},
    )
    register_agent("publish", lambda payload, context: {"published": payload["text"]})
    (tmp_path / "review.yaml").write_text(blocks(PAGE, "yaml")[1])
    service = OrchestratorService(init_db("sqlite:///:memory:"))
    execution = service.start_workflow("review.yaml", {"topics": ["bees", "ants"]})
    short = service.start_workflow("review.yaml", {"topics": ["bees"]})
    Worker(service).run(until_complete=True)
    published = service.get_result(execution)["publish"]["published"]
    assert published == "on bees, on ants (4 words)"
    assert service.get_result(short)["publish"] is None


def test_the_page_on_steps_runs(tmp_path: Path) -> None:
    """Its command line, and the same workflow in its other languages."""
    page = "docs/STEPS.md"
    yaml, *others = blocks(page, "yaml")
    (python,), (command,), (shown,) = (blocks(page, kind) for kind in ("python", "sh", "json"))
    (tmp_path / "text_pipeline.yaml").write_text(yaml)
    (tmp_path / "agents.py").write_text(python)
    binary = ROOT / "target" / "release" / "durable"
    done = subprocess.run(
        command.replace("durable ", f"{binary} ", 1).strip() + f" --python {sys.executable}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(shown)
    run(python)
    register_agent("other", lambda payload, context: payload)
    service = OrchestratorService(init_db("sqlite:///:memory:"))
    given = {"text": "One. Two. Three."}
    executions = [
        service.start_workflow(load_workflow(text, language), given)
        for text, language in [(yaml, "yaml"), (blocks(page, "toml")[0], "toml")]
    ]
    Worker(service).run(until_complete=True)
    assert [service.get_result(one) for one in executions] == [json.loads(shown)] * 2
    for text in others:
        for agent in re.findall(r"agent: (\w+)", text):
            register_agent(agent, lambda payload, context: payload, replace=True)
        inputs = {"pages": [1], "text": "a"}
        names = [name for name in inputs if f"  {name}:" in text]
        service.start_workflow(load_workflow(text, "yaml"), {name: inputs[name] for name in names})
