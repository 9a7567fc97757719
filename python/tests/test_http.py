"""The HTTP API: inside ASGI servers, and behind `durable serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from conftest import PATIENCE_S, Serve
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.websockets import WebSocketDisconnect

from durable_monty import (
    AsyncOrchestratorService,
    OrchestratorService,
    create_app,
    register_function,
    webhooks,
)

with warnings.catch_warnings():
    # It would rather have another version of httpx.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

ROOT = Path(__file__).parents[2]
DURABLE = ROOT / "target" / "release" / "durable"
START = {"source": "await add(1, 2)", "functions": ["add"]}


@pytest.fixture(autouse=True)
def _functions() -> None:
    register_function("add")(lambda a, b: a + b)


def client_of(service: Any, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(service, **options))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@contextlib.contextmanager
def listening(app: Any) -> Iterator[str]:
    """`app` under uvicorn, on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def durable_serve(directory: Path, *arguments: str) -> Iterator[str]:
    """`durable serve`, on a free port."""
    command = [str(DURABLE), "serve", "--bind", "127.0.0.1:0", *arguments]
    environment = {**os.environ, "DURABLE_PYTHON": sys.executable}
    environment.pop("DURABLE_WEBHOOK_SECRET", None)
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("listening on "):
                break
        else:
            pytest.fail(said)
        yield line.removeprefix("listening on ").strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_an_execution_over_httpx(service: OrchestratorService, serve: Serve) -> None:
    async def use() -> None:
        async with client_of(service) as client:
            started = await client.post("/executions", json=START)
            assert started.status_code == 201, started.text
            execution = started.json()["execution_id"]
            assert started.headers["location"] == f"/executions/{execution}"
            waited = await client.get(f"/executions/{execution}/result", params={"wait_ms": 30000})
            assert waited.json()["output"] == 3
            shown = await client.get(f"/executions/{execution}")
            assert shown.headers["content-length"] == str(len(shown.content))
            assert (await client.delete(f"/executions/{execution}")).status_code == 204
            missing = await client.get(f"/executions/{execution}")
            assert missing.status_code == 404
            assert missing.headers["content-type"] == "application/problem+json"
            assert (await client.post("/executions", content=b"{" * 9)).status_code == 415
            large = await client.post(
                "/executions",
                content=b" " * (17 << 20),
                headers={"Content-Type": "application/json"},
            )
            assert large.status_code == 413

    with serve():
        asyncio.run(use())


def test_the_async_service_will_do(url: str, service: OrchestratorService) -> None:
    async def use() -> None:
        async with client_of(AsyncOrchestratorService(service.engine)) as client:
            assert (await client.get("/health")).json() == {"status": "ok"}

    asyncio.run(use())


def test_starlette_and_its_test_client(service: OrchestratorService) -> None:
    with TestClient(create_app(service)) as client:
        assert client.get("/ready").json() == {"status": "ok"}
        assert client.get("/executions", params={"limit": "x"}).status_code == 422
    mounted = Starlette(routes=[Mount("/durable", app=create_app(service))])
    with TestClient(mounted) as client:
        assert client.get("/durable/executions").json() == {"items": [], "next_cursor": None}
        assert client.get("/durable/openapi.json").json()["openapi"] == "3.1.0"


def test_events_are_followed_and_a_client_may_leave(
    service: OrchestratorService, serve: Serve
) -> None:
    app = create_app(service)
    with listening(app) as base, httpx.Client(base_url=base, timeout=PATIENCE_S) as client:
        execution = client.post("/executions", json=START).json()["execution_id"]
        headers = {"Accept": "text/event-stream"}
        with client.stream("GET", f"/executions/{execution}/events", headers=headers) as left:
            assert next(left.iter_lines()) == ": the journal follows"
        with client.stream("GET", f"/executions/{execution}/events", headers=headers) as stream:
            lines = stream.iter_lines()
            next(lines)
            with serve():
                names = [line[7:] for line in lines if line.startswith("event: ")]
        assert names == [
            "EXECUTION_STARTED",
            "STEP_STARTED",
            "STEP_COMPLETED",
            "EXECUTION_COMPLETED",
            "end",
        ]


def test_a_server_stops_while_somebody_follows(service: OrchestratorService) -> None:
    app = create_app(service)
    execution = service.start_execution("await add(1, 2)", ["add"])
    with httpx.Client(timeout=PATIENCE_S) as client, contextlib.ExitStack() as stack:
        base = stack.enter_context(listening(app))
        url = f"{base}/executions/{execution}/events"
        headers = {"Accept": "text/event-stream"}
        stream = stack.enter_context(client.stream("GET", url, headers=headers))
        next(stream.iter_lines())
        app.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_an_app_that_was_made_before_a_fork_refuses_to_serve(service: OrchestratorService) -> None:
    """As when a server loads the application and then forks: the child says what to do, and does
    not hang on locks of threads that it does not have."""
    app = create_app(service)
    service.start_execution("await add(1, 2)", ["add"])
    code = [
        lambda: asyncio.run(lifespan_of(app)),
        lambda: asyncio.run(one_request(app)),
    ]
    for use in code:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                said = use()
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        ready, _, _ = select.select([reading], [], [], PATIENCE_S)
        said = os.read(reading, 10_000).decode() if ready else "the child hangs"
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert "Call init_db again in the child" in said


async def lifespan_of(app: Any) -> str:
    """What an application says when its server starts."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    await app({"type": "lifespan"}, receive, send)
    return str(said)


async def one_request(app: Any) -> str:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return (await client.get("/ready")).text


def test_webhooks_are_signed(service: OrchestratorService) -> None:
    execution = service.start_execution("await add(1, 2)", ["add"])
    service.process_execution(execution)
    with TestClient(create_app(service, webhook_secret="s")) as client:
        report = {"execution_id": execution, "call_id": 0, "result": 4}
        assert client.post("/webhook/complete", json=report).status_code == 401
        body = json.dumps(report).encode()
        headers = {
            "Content-Type": "application/json",
            webhooks.SIGNATURE_HEADER: webhooks.sign(body, "s"),
        }
        taken = client.post("/webhook/complete", content=body, headers=headers)
        assert taken.json()["applied"] is True
        report["token"] = webhooks.token(f"{execution}:0", "s")
        assert client.post("/webhook/complete", json=report).json()["applied"] is False
    service.process_execution(execution)
    assert service.get_result(execution) == 4


def test_tasks_are_handed_out(service: OrchestratorService) -> None:
    with TestClient(create_app(service, tasks=True)) as client:
        execution = client.post("/executions", json=START).json()["execution_id"]
        claim = {"functions": ["add"], "worker": "w", "wait_ms": 30000}
        (task,) = client.post("/tasks/claim", json=claim).json()["items"]
        done = client.post(f"/tasks/{task['id']}/complete", json={"result": sum(task["args"])})
        assert done.json() == {"applied": True}
        waited = client.get(f"/executions/{execution}/result", params={"wait_ms": 30000})
        assert waited.json()["output"] == 3


def test_an_app_outlives_the_engine_it_was_opened_on(service: OrchestratorService) -> None:
    with TestClient(create_app(service)) as client:
        assert client.get("/ready").status_code == 200
        service.store.close()
        assert client.get("/ready").status_code == 200


def test_other_protocols_are_turned_away(service: OrchestratorService) -> None:
    with TestClient(create_app(service)) as client, pytest.raises(WebSocketDisconnect):
        client.websocket_connect("/executions").__enter__()


WORKERS = {
    "node": (
        [],
        "worker.ts",
        'await gather(add(1, 2), greet("you"))',
        ["add", "greet"],
        [3, "Hello, you!"],
    ),
    "curl": (["sh", "worker.sh"], "worker.sh", 'await shout("hello")', ["shout"], "HELLO"),
}


def runs_typescript() -> list[str]:
    """What runs TypeScript as it is: Node from 22.6 on, or tsx."""
    if shutil.which("tsx"):
        return ["tsx"]
    if node := shutil.which("node"):
        option = "--experimental-strip-types"
        tried = subprocess.run([node, option, "--version"], capture_output=True)
        if tried.returncode == 0:
            return [node, option]
    pytest.skip("needs Node 22.6 or newer, or tsx, in PATH")


def test_the_typescript_worker_is_well_typed() -> None:
    tsc = shutil.which("tsc")
    types = Path(tsc).resolve().parents[2] / "@types" if tsc else None
    if types is None or not (types / "node").exists():
        pytest.skip("needs tsc in PATH with @types/node: npm install typescript @types/node")
    command = [
        *[str(tsc), "--noEmit", "--strict", "--target", "es2022", "--module", "esnext"],
        *["--moduleResolution", "bundler", "--types", "node", "--typeRoots", str(types)],
        str(ROOT / "examples" / "workers" / "worker.ts"),
    ]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("tool", WORKERS)
def test_the_example_workers(tool: str, tmp_path: Path) -> None:
    command, name, source, functions, expected = WORKERS[tool]
    if tool == "node":
        command = [*runs_typescript(), name]
    elif not all(map(shutil.which, ["curl", "jq"])):
        pytest.skip("needs curl and jq")
    directory = ROOT / "examples" / "workers"
    assert len((directory / name).read_text().splitlines()) <= 60
    with durable_serve(tmp_path, "--tasks") as base:
        environment = {**os.environ, "DURABLE_URL": base}
        worker = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            request = {"source": f"from asyncio import gather\n{source}", "functions": functions}
            execution = httpx.post(f"{base}/executions", json=request).json()["execution_id"]
            result = f"{base}/executions/{execution}/result?wait_ms=30000"
            assert httpx.get(result, timeout=PATIENCE_S * 2).json()["output"] == expected
        finally:
            # tsx runs Node in a process of its own.
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    page = (ROOT / "docs" / "HTTP.md").read_text()
    (tmp_path / "tasks.py").write_text("def add(a, b):\n    return a + b\n")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    start, look, steer, checkpoints, sessions, access = blocks
    assert all(line.startswith("durable serve --db") for line in start.splitlines())

    def run(command: str, **variables: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", command.replace("curl ", "curl --fail-with-body ")],
            env={**os.environ, **variables, "PATH": f"{DURABLE.parent}:{os.environ['PATH']}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    database = ["--db", f"sqlite:///{tmp_path}/app.db"]
    with durable_serve(tmp_path, *database, "--functions", "tasks.py") as base:
        first, rest = look.split("\ncurl", 1)
        execution = json.loads(run(first, URL=base))["execution_id"]
        run(f"curl -s '{base}/executions/{execution}/result?wait_ms=30000'")
        shown = run("curl" + rest, URL=base, ID=execution)
        assert '"output":42' in shown
        assert "event: end" in shown
        request = json.dumps({"source": "import asyncio\nawait asyncio.sleep(600)"})
        head = "-H 'Content-Type: application/json'"
        other = json.loads(run(f"curl -s {base}/executions {head} -d '{request}'"))["execution_id"]
        steering = steer.splitlines()
        until_ended = f"curl -s '{base}/executions/{other}/result?wait_ms=30000'"
        paused = f"until curl -s {base}/executions/{other} | grep -q '\"paused\"'; do :; done"
        script = [steering[0], paused, *steering[1:3], until_ended, *steering[3:]]
        run("\n".join(script), URL=base, ID=other)
        request = json.dumps({"source": "await add(await add(1, 2), 3)", "functions": ["add"]})
        other = json.loads(run(f"curl -s {base}/executions {head} -d '{request}'"))["execution_id"]
        run(f"curl -s '{base}/executions/{other}/result?wait_ms=30000'")
        forks = run(checkpoints, URL=base, ID=other)
        assert '"ended":[{"call_id":0,"result":3' in forks
        fork = re.findall(r'"execution_id":"([^"]*)","status"', forks)[1]
        assert '"output":53' in run(f"curl -s '{base}/executions/{fork}/result?wait_ms=30000'")
        opening, rest = sessions.split("\ncurl", 1)
        session = json.loads(run(opening, URL=base))["execution_id"]
        said = run("curl" + rest, URL=base, ID=session)
        assert '"output":42' in said
        assert '"variables":{"n":42}' in said
        create, listed, revoke, use = access.splitlines()
        token = run(create, DURABLE_DB=database[1]).strip()
        token_id = token.split("_")[1]
        assert token_id in run(listed, DURABLE_DB=database[1])
        assert '"items"' in run(use, URL=base, TOKEN=token)
        run(revoke.replace("ID", token_id), DURABLE_DB=database[1])


def test_the_document_and_the_code_agree(tmp_path: Path) -> None:
    """schemathesis asks everything that the document allows, and much that it does not."""
    with durable_serve(tmp_path, "--tasks", "--rate", "1000000") as base:
        for _ in range(3):
            httpx.post(f"{base}/executions", json=START)
        new = {"name": "schemathesis", "role": "admin"}
        token = httpx.post(f"{base}/tokens", json=new).json()["token"]
        command = [
            *[sys.executable, "-m", "schemathesis.cli", "run", f"{base}/openapi.json"],
            *["--header", f"Authorization: Bearer {token}", "--seed", "1", "--no-color"],
            # What is well-formed may still be no workflow, or name nothing.
            *["--checks", "all", "--exclude-checks", "positive_data_acceptance"],
            *["--phases", "examples,coverage,fuzzing", "--max-examples", "25"],
            *["--generation-database", "none", "--request-timeout", "90"],
            # It would revoke the token it comes with.
            *["--exclude-operation-id", "revoke_token"],
        ]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert "Authentication failed" not in ran.stdout, ran.stdout[-6000:]
