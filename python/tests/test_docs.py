"""What the documents show works as they show it."""

import io
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import OwnRedis, service_url

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "docs"}
    exec(compile(block, "block", "exec"), names)
    return names


def test_the_workflow_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("README.md", "python")
    run(block)
    assert capsys.readouterr().out == "{'videos': ['encoded_a.mp4', 'encoded_b.mp4']}\n"


@pytest.fixture
def executors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The Python of the page on executors, and its `tasks.py`."""
    local, tasks, *others = blocks("docs/EXECUTORS.md", "python")
    (tmp_path / "tasks.py").write_text(tasks)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    yield [local, *others]
    sys.modules.pop("tasks", None)


def block_with(blocks: list[str], text: str) -> str:
    (found,) = [block for block in blocks if text in block]
    return found


def test_the_executors_of_the_page_run(executors: list[str]) -> None:
    names = run(block_with(executors, "LocalExecutor("))
    assert names["receipt"]["charged"] == 42
    assert names["receipt"]["key"].startswith(f"{names['execution']}:")
    for text in ("ProcessPoolExecutor(", "HttpExecutor(", "class PoolExecutor"):
        assert run(block_with(executors, text))["answer"] == 42


def test_the_rq_workers_of_the_page_run(
    executors: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", service_url("DURABLE_TEST_REDIS"))
    commands = [sh for sh in blocks("docs/EXECUTORS.md", "sh") if "rq worker" in sh]
    assert len(commands) == 2
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands:
        script = command.replace("rq worker", "exec rq worker")
        rq_worker = subprocess.Popen(
            ["sh", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert run(block_with(executors, "RQExecutor("))["answer"] == 42
        finally:
            rq_worker.kill()
            rq_worker.wait()


def test_the_celery_worker_of_the_page_runs(
    executors: list[str], own_redis: OwnRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is that of every Celery app, so it has a Redis of its own."""
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    monkeypatch.delitem(sys.modules, "my_app", raising=False)
    (tmp_path / "my_app.py").write_text(block_with(executors, "= Celery("))
    (command,) = [sh for sh in blocks("docs/EXECUTORS.md", "sh") if "celery" in sh]
    celery_worker = subprocess.Popen(
        [sys.executable, "-m", *command.split()], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        assert run(block_with(executors, "CeleryExecutor("))["answer"] == 42
    finally:
        celery_worker.terminate()
        celery_worker.wait()
        sys.modules.pop("my_app", None)


def test_the_lambda_of_the_page_runs(executors: list[str], aws: Any, monkeypatch: Any) -> None:
    import boto3

    from durable_monty.executors.aws_lambda import handler

    class Client:
        def invoke(self, **parameters: Any) -> Any:
            assert parameters["FunctionName"] == "my-functions"
            answer = handler(json.loads(parameters["Payload"]), None)
            return {"Payload": io.BytesIO(json.dumps(answer).encode())}

    monkeypatch.setattr(boto3, "client", lambda *_, **__: Client())
    assert run(block_with(executors, "LambdaExecutor("))["answer"] == 42


def test_the_modal_function_of_the_page_runs(executors: list[str], monkeypatch: Any) -> None:
    class App:
        def __init__(self, name: str) -> None: ...

        def function(self) -> Any:
            return lambda function: function

    modal = types.ModuleType("modal")
    modal.App = App  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modal", modal)
    names = run(block_with(executors, "modal.App("))
    message = {"function": "tasks.double", "args": [21]}
    assert names["run"](message) == {"result": 42}


def test_the_command_line_of_the_readme_runs(tmp_path: Path) -> None:
    binary = ROOT / "target" / "release" / "durable"
    (script,) = [block for block in blocks("README.md", "sh") if "durable run" in block]
    (block,) = blocks("README.md", "python")
    workflow = re.search(r'workflow = """\n(.*?)"""', block, re.DOTALL)
    assert workflow is not None
    (tmp_path / "workflow.py").write_text(workflow[1])
    (tmp_path / "tasks.py").write_text("def encode_video(path):\n    return f'encoded_{path}'\n")
    lines = script.replace("durable ", f"{binary} ", 1).splitlines()
    command = lines[0] + f" --python {sys.executable}"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"videos": ["encoded_a.mp4", "encoded_b.mp4"]}
    listed = subprocess.run(
        [binary, "list", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert json.loads(listed.stdout.splitlines()[0])["status"] == "completed"


@pytest.mark.parametrize("block", blocks("docs/WORKFLOWS.md", "python"))
def test_the_workflows_of_the_page_are_accepted(block: str) -> None:
    from durable_monty import OrchestratorService, init_db

    service = OrchestratorService(init_db("sqlite:///:memory:"))
    functions = ["encode_video", "generate_thumbnail", "fetch_price", "fetch"]
    known = {"files": ["a.mp4"], "item": "pen", "url": "https://example.org"}
    inputs = {name: value for name, value in known.items() if name in block}
    with pytest.warns(UserWarning, match="not registered"):
        service.start_execution(block, functions, inputs=inputs)


def test_the_queries_of_the_database_page_run() -> None:
    from durable_monty import OrchestratorService, Worker, init_db

    engine = init_db("sqlite:///:memory:")
    service = OrchestratorService(engine)
    service.start_execution("import asyncio\nawait asyncio.sleep(0.001)")
    Worker(service).run(until_complete=True)
    (script,) = blocks("docs/DATABASE.md", "sql")
    with engine.connect() as connection:
        found = [
            connection.exec_driver_sql(query).all() for query in script.split(";") if query.strip()
        ]
    assert [len(rows) for rows in found] == [1, 1, 4, 1]
    assert found[3] == [(0,)], "the lease is given back"


def test_the_production_page_runs_as_printed(tmp_path: Path) -> None:
    from durable_monty import init_db

    (tmp_path / "workflow.py").write_text("await fragile(n)\n")
    tasks = "import os\n\ndef fragile(n):\n    assert os.path.exists('mended')\n    return n\n"
    (tmp_path / "tasks.py").write_text(tasks)
    environment = {**os.environ, "DURABLE_DB": "sqlite:///app.db", "DURABLE_PYTHON": sys.executable}

    def run(script: str) -> str:
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    worker, failed, upgrade, moving = blocks("docs/PRODUCTION.md", "sh")
    execution_id = run(worker).split()[0]
    (tmp_path / "mended").touch()
    assert execution_id in run(failed.replace("ID", execution_id))
    run(upgrade)
    later = run("durable start workflow.py --functions tasks.py --input n=2").strip()
    run(moving.replace("ID", later))
    listed = run("durable list --db sqlite:///other.db")
    assert all(word in listed for word in (execution_id, "completed", later, "paused"))
    (queries,) = blocks("docs/PRODUCTION.md", "sql")
    engine = init_db(f"sqlite:///{tmp_path / 'app.db'}")
    with engine.connect() as connection:
        for query in filter(str.strip, queries.split(";")):
            connection.exec_driver_sql(query).all()


def test_the_sessions_of_the_page_run(tmp_path: Path) -> None:
    import asyncio
    import threading

    from durable_monty import OrchestratorService, Worker, init_db

    first, again, ways, coroutines = blocks("docs/SESSIONS.md", "python")
    names = run(first)
    assert [number for number, *_ in names["history"]] == [1, 2, 3]
    assert names["history"][0][2] == "I fetch it."
    engine = init_db(f"sqlite:///{tmp_path}/sessions.db")
    service = OrchestratorService(engine)
    worker = Worker(service)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        turns = [("One.", "x = await fetch('x')"), ("Two.", "x = x.upper()\nx")]
        agent = run(again)["agent"]
        assert agent(service, turns) == [None, "<H1>X</H1>"]
        assert agent(service, turns) == [None, "<H1>X</H1>"]
        assert run(ways)["two_ways"](service) == (2, 11, 1)
        assert asyncio.run(run(coroutines)["talk"](engine)) == "<h1>a</h1>"
    finally:
        worker.stop()
        running.join()
