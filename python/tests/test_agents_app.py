"""The application of examples/agents_app: as printed, together, killed, and with what can go
wrong."""

from __future__ import annotations

import ast
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import PATIENCE_S, new_database
from sqlalchemy import Engine, create_engine, make_url, text

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "agents_app"
sys.path.insert(0, str(ROOT / "scripts"))

from write_schema import schema  # noqa: E402

EVENTS = [
    "EXECUTION_STARTED",
    *["STEP_STARTED", "AGENT_INVOKED", "AGENT_RESPONSE", "STEP_COMPLETED"] * 2,
    "EXECUTION_COMPLETED",
]
KILLS = 50


class App:
    """A copy of the application, and a database for it."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder = folder
        self.url = url
        self.environment = {**os.environ, "PYTHONWARNINGS": "error"}
        self.environment.pop("DATABASE_URL", None)
        if url is not None:
            self.environment["DATABASE_URL"] = url

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "runtime/coordinator.py", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> dict[str, Any]:
        return self.finish(self.start(*arguments))

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        shown, errors = process.communicate(timeout=2 * PATIENCE_S)
        assert shown.startswith("Execution result: {"), errors
        result: dict[str, Any] = ast.literal_eval(shown.removeprefix("Execution result: "))
        assert process.returncode == (0 if result["status"] == "SUCCESS" else 1)
        return result

    def engine(self) -> Engine:
        assert self.url is not None
        return create_engine(make_url(self.url).set(drivername="postgresql+psycopg"))

    def rows(self, sql: str) -> list[Any]:
        engine = self.engine()
        with engine.connect() as connection:
            found = connection.execute(text(sql)).all()
        engine.dispose()
        return [tuple(row) for row in found]

    def events(self, execution_id: str) -> list[str]:
        return [
            row[0]
            for row in self.rows(
                "SELECT event_type FROM execution_events "
                f"WHERE execution_id = '{execution_id}' ORDER BY sequence"
            )
        ]

    def write(self, file: str, content: str) -> None:
        path = self.folder / file
        path.write_text(content if file.startswith("workflows/") else path.read_text() + content)


def copy(folder: Path) -> Path:
    return Path(
        shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("*.db*", ".env", "__pycache__"))
    )


@pytest.fixture
def app(tmp_path: Path) -> App:
    """With Postgres."""
    return App(copy(tmp_path / "app"), new_database("postgres", tmp_path))


# As printed

SEED_SQL = """
SELECT id, status, workflow_id, created_at, completed_at FROM executions;
SELECT step_name, status, retry_count, started_at, completed_at FROM execution_steps;
SELECT event_type, timestamp FROM execution_events ORDER BY timestamp;
SELECT state_snapshot FROM execution_state;
SELECT COUNT(*) FROM execution_locks;
SELECT * FROM executions;
SELECT * FROM execution_events ORDER BY timestamp;
SELECT event_type, timestamp, event_payload::text 
FROM execution_events 
ORDER BY timestamp DESC;
SELECT 
  workflow_id,
  status,
  EXTRACT(EPOCH FROM (completed_at - started_at)) as duration_seconds
FROM executions 
WHERE status = 'SUCCESS';
"""  # noqa: W291 (as the document has it)


def test_the_application_does_what_its_document_prints(app: App) -> None:
    result = app.run()
    assert list(result) == ["status", "execution_id", "output"]
    assert result["status"] == "SUCCESS"
    execution_id, output = result["execution_id"], result["output"]
    assert list(output) == ["summarize", "extract_entities"]
    assert output["summarize"]["original_length"] > output["summarize"]["summary_length"] > 0
    assert output["extract_entities"]["emails"] == ["ada@example.org"]
    queries = [app.rows(query) for query in SEED_SQL.split(";") if query.strip()]
    executions, steps, events, states, locks, _, _, shown, durations = queries
    (row,) = executions
    assert row[:3] == (execution_id, "SUCCESS", "summarize_and_extract")
    assert row[3] <= row[4]
    assert [row[:3] for row in steps] == [
        ("summarize", "SUCCESS", 0),
        ("extract_entities", "SUCCESS", 0),
    ]
    assert all(began <= ended for *_, began, ended in steps)
    assert [row[0] for row in events] == EVENTS
    assert len(states) == 1
    assert locks == [(0,)]
    assert sorted(row[0] for row in shown) == sorted(EVENTS)
    assert all(row[2].startswith("{") for row in shown)
    ((workflow_id, status, seconds),) = durations
    assert (workflow_id, status) == ("summarize_and_extract", "SUCCESS")
    assert 0 <= seconds < 60
    assert app.rows("SELECT step_name, step_order FROM execution_steps ORDER BY step_order") == [
        ("summarize", 1),
        ("extract_entities", 2),
    ]
    assert app.rows("SELECT current_step FROM execution_state") == [(2,)]
    payloads = app.rows("SELECT input_payload->>'text', output_payload FROM executions")
    assert payloads[0][0].startswith("Durable workflows")
    assert list(payloads[0][1]) == ["summarize", "extract_entities"]
    responses = app.rows(
        "SELECT event_payload->>'agent', event_payload->'agent_metadata'->>'agent' "
        "FROM execution_events WHERE event_type = 'AGENT_RESPONSE' ORDER BY sequence"
    )
    assert responses == [("summarize", "SummarizeAgent"), ("entity", "EntityAgent")]


def test_without_a_database_url_it_is_sqlite(tmp_path: Path) -> None:
    app = App(copy(tmp_path / "app"), None)
    first = app.run("--key", "a")
    assert first["status"] == "SUCCESS"
    assert (app.folder / "workflow.db").exists()
    assert app.run("--key", "a") == first
    assert app.run()["execution_id"] != first["execution_id"]


def test_the_env_file_says_where_the_database_is(app: App, tmp_path: Path) -> None:
    example = (APP / ".env.example").read_text()
    assert "postgresql://workflow:workflow@localhost:5432/workflow" in example
    (app.folder / ".env").write_text(
        example.replace("postgresql://workflow:workflow@localhost:5432/workflow", str(app.url))
    )
    del app.environment["DATABASE_URL"]
    assert app.run()["status"] == "SUCCESS"
    assert app.rows("SELECT status FROM executions") == [("SUCCESS",)]


def test_it_can_be_imported_and_called(tmp_path: Path) -> None:
    app = App(copy(tmp_path / "app"), None)
    code = (
        "from runtime.coordinator import Coordinator\n"
        "from agents import list_agents\n"
        "from adapters import invoke_agent\n"
        "payload = {'text': 'One. Two.'}\n"
        "result = Coordinator().run_execution('summarize_and_extract', payload)\n"
        "summary = invoke_agent('summarize', payload, None)['summary']\n"
        "print(result['status'], list_agents(), summary)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=app.folder,
        env=app.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert shown.stdout == "SUCCESS ['entity', 'summarize'] One. Two.\n", shown.stderr


# The schema


def apply(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute((APP / "db" / "schema.sql").read_bytes())


def described(url: str) -> list[Any]:
    """Tables with their columns, indexes, triggers and functions."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    queries = [
        "SELECT table_name, column_name, ordinal_position, data_type, column_default "
        "FROM information_schema.columns WHERE table_schema = current_schema()",
        "SELECT replace(indexdef, current_schema(), '') FROM pg_indexes "
        "WHERE schemaname = current_schema()",
        "SELECT trigger_name, event_manipulation FROM information_schema.triggers "
        "WHERE trigger_schema = current_schema()",
        "SELECT routine_name, routine_definition FROM information_schema.routines "
        "WHERE routine_schema = current_schema()",
        "SELECT version FROM durable_versions",
    ]
    with engine.connect() as connection:
        found = [sorted(map(tuple, connection.execute(text(query)))) for query in queries]
    engine.dispose()
    return found


def test_the_schema_is_that_of_the_migrations(tmp_path: Path) -> None:
    told = "run python scripts/write_schema.py"
    assert (APP / "db" / "schema.sql").read_text() == schema(), told
    by_script, by_migration, by_both = (new_database("postgres", tmp_path) for _ in range(3))

    def migrate(url: str) -> None:
        command = [ROOT / "target" / "release" / "durable", "migrate", "--db", url]
        subprocess.run(command, check=True, timeout=PATIENCE_S, capture_output=True)

    migrate(by_migration)
    apply(by_script)
    apply(by_script)
    migrate(by_both)
    apply(by_both)
    expected = described(by_migration)
    assert described(by_script) == expected
    assert described(by_both) == expected
    migrate(by_script)
    assert described(by_script) == expected
    assert App(copy(tmp_path / "app"), by_script).run()["status"] == "SUCCESS"


def test_the_schema_may_be_applied_by_many_at_once(tmp_path: Path) -> None:
    url = new_database("postgres", tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(apply, [url] * 4))
    with_psql = shutil.which("psql")
    if with_psql:
        command = [with_psql, url, "-v", "ON_ERROR_STOP=1", "-f", str(APP / "db" / "schema.sql")]
        subprocess.run(command, check=True, timeout=PATIENCE_S, capture_output=True)


# Together

NOTED = """
import os, time
from durable_monty.agents import EntityAgent as _Entity
from durable_monty.agents import SummarizeAgent as _Summarize


def _note(name, context):
    with open("runs.txt", "a") as file:
        file.write(f"{name} {context.idempotency_key}\\n")


class Summarize(_Summarize):
    def run(self, payload, context):
        result = super().run(payload, context)
        _note("summarize", context)
        time.sleep(float(os.environ.get("AGENT_S", "0")))
        return result


class Entity(_Entity):
    def run(self, payload, context):
        result = super().run(payload, context)
        _note("entity", context)
        time.sleep(float(os.environ.get("AGENT_S", "0")))
        return result


register_agent("summarize", Summarize, replace=True)
register_agent("entity", Entity, replace=True)
"""


def test_two_coordinators_at_once_on_one_execution(app: App) -> None:
    app.write("agents/__init__.py", NOTED)
    app.environment["AGENT_S"] = "0.5"
    results = [app.finish(process) for process in [app.start("--key", "k") for _ in range(2)]]
    assert results[0]["status"] == "SUCCESS"
    assert results[0] == results[1]
    runs = (app.folder / "runs.txt").read_text().splitlines()
    assert [run.split()[0] for run in runs] == ["summarize", "entity"]
    assert app.events(results[0]["execution_id"]) == EVENTS
    assert app.rows("SELECT COUNT(*) FROM execution_locks") == [(0,)]


def test_coordinators_at_once_on_executions_of_their_own(app: App) -> None:
    results = [app.finish(process) for process in [app.start() for _ in range(3)]]
    assert {result["status"] for result in results} == {"SUCCESS"}
    assert len({result["execution_id"] for result in results}) == 3
    assert all(app.events(result["execution_id"]) == EVENTS for result in results)


def test_what_a_killed_coordinator_leaves_is_taken_over_by_one_that_waits(app: App) -> None:
    app.write("agents/__init__.py", NOTED)
    app.environment["AGENT_S"] = "600"
    first = app.start("--key", "k")
    runs = app.folder / "runs.txt"
    until = time.monotonic() + PATIENCE_S
    while not runs.exists() or not runs.read_text():
        assert time.monotonic() < until, first.communicate()
        time.sleep(0.01)
    app.environment["AGENT_S"] = "0"
    second = app.start("--key", "k")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    result = app.finish(second)
    assert result["status"] == "SUCCESS"
    assert app.events(result["execution_id"]) == EVENTS
    names = [run.split()[0] for run in runs.read_text().splitlines()]
    assert names == ["summarize", "summarize", "entity"]


# Killed


READY = """
import sys
import threading
import durable_monty.coordinator
print("ready", file=sys.stderr, flush=True)
"""
FINISH = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from runtime.coordinator import TEXT, Coordinator

coordinator = Coordinator()


def finish(key):
    given = {"text": TEXT}
    return coordinator.run_execution("summarize_and_extract", given, idempotency_key=key)


with ThreadPoolExecutor(8) as pool:
    print(list(pool.map(finish, sys.argv[1:])))
"""


def test_kill_at_fifty_moments(app: App) -> None:
    """Four at a time, on one database: whoever lives takes over what the others leave."""
    app.write("agents/__init__.py", NOTED + READY)
    app.environment["AGENT_S"] = "0.4"
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)

    def live(key: str, moment_s: float) -> float:
        """Lets a coordinator begin its run, and live so long; how long it did."""
        process = app.start("--key", key)
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n", process.stderr.read()
        began = time.monotonic()
        try:
            process.wait(moment_s)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        return time.monotonic() - began

    def kill(key: str, moment_s: float) -> tuple[str, list[str], int]:
        """What was finished, and how many agents had run by then, after a kill."""
        live(key, moment_s)
        finished = app.rows(
            "SELECT s.function FROM execution_steps s JOIN executions e ON e.id = s.execution_id "
            f"WHERE e.idempotency_key = '{key}' AND s.status = 'SUCCESS'"
        )
        return key, [row[0].removeprefix("agent:") for row in finished], len(_runs(app))

    with ThreadPoolExecutor(4) as pool:
        length_s = sorted(pool.map(live, "abcd", [PATIENCE_S] * 4))[1]
        keys = [f"k{number}" for number in range(KILLS)]
        killed = list(pool.map(kill, keys, [moments.uniform(0, length_s) for _ in keys]))
    (expected,) = {
        str(row[0]) for row in app.rows("SELECT output_payload FROM executions") if row[0]
    }
    shown = subprocess.run(
        [sys.executable, "-c", FINISH, *keys],
        cwd=app.folder,
        env=app.environment,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    results = ast.literal_eval(shown.stdout)
    runs = _runs(app)
    for (_, finished, runs_before), result in zip(killed, results, strict=True):
        assert (result["status"], str(result["output"])) == ("SUCCESS", expected)
        execution_id = result["execution_id"]
        assert app.events(execution_id) == EVENTS
        assert not {(agent, execution_id) for agent in finished} & set(runs[runs_before:])
    assert app.rows("SELECT COUNT(*) FROM execution_locks") == [(0,)]
    assert app.rows("SELECT DISTINCT status FROM executions") == [("SUCCESS",)]
    stages = [len(finished) for _, finished, _ in killed]
    print(f"{length_s:.2f} s; finished steps at the kill: {[stages.count(n) for n in range(3)]}")


def _runs(app: App) -> list[tuple[str, str]]:
    """Each time that an agent ran: its name, and the execution."""
    path = app.folder / "runs.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], line.split()[1].partition(":")[0]) for line in lines]


# What goes wrong


def failed(app: App, result: dict[str, Any], step: str | None = None) -> str:
    """What a failed execution leaves behind, and its message."""
    assert list(result) == ["status", "execution_id", "error"]
    assert result["status"] == "FAILED"
    execution_id = result["execution_id"]
    ((status, error),) = app.rows(
        f"SELECT status, error FROM executions WHERE id = '{execution_id}'"
    )
    assert status == "FAILED"
    events = app.events(execution_id)
    assert events[-1] == "EXECUTION_FAILED"
    if step is not None:
        assert "STEP_FAILED" in events
        ((message,),) = app.rows(
            "SELECT error FROM execution_steps WHERE status = 'FAILED' "
            f"AND execution_id = '{execution_id}' AND step_name = '{step}'"
        )
        assert message
        assert message in error
    assert app.rows("SELECT COUNT(*) FROM execution_locks") == [(0,)]
    message = result["error"]
    assert isinstance(message, str)
    return message


BAD = """
@register_agent("raises")
def raises(payload, context):
    raise LookupError("the model has no answer")


@register_agent("lists")
def lists(payload, context):
    return ["no", "dict"]
"""


def test_agents_that_fail(app: App) -> None:
    app.write("agents/__init__.py", BAD)
    for agent in ("raises", "lists"):
        app.write(
            f"workflows/{agent}.yaml",
            f"id: {agent}\nsteps:\n"
            "  - {name: first, agent: summarize, input: {text: '{{ inputs.text }}'}}\n"
            f"  - {{name: second, agent: {agent}}}\n",
        )
    message = failed(app, app.run("--workflow", "raises"), "second")
    assert message == "LookupError: step 'second' (agent 'raises'): the model has no answer"
    message = failed(app, app.run("--workflow", "lists"), "second")
    assert "agent 'lists' returned a list, it must return a dict" in message


def test_an_unknown_agent_is_refused_with_its_place(app: App) -> None:
    app.write("workflows/bad.yaml", "id: bad\nsteps:\n  - name: a\n    agent: sumarize\n")
    result = app.run("--workflow", "bad")
    assert result["execution_id"] is None
    assert re.search(r"workflows/bad\.yaml:4:12: there is no agent 'sumarize'", result["error"])
    assert "did you mean 'summarize'" in result["error"]
    assert app.rows("SELECT COUNT(*) FROM executions") == [(0,)]


def test_an_agent_that_only_the_starter_knows(app: App) -> None:
    """As when a worker has an older version of the application."""
    app.write("agents/__init__.py", BAD)
    app.write("workflows/raises.yaml", "id: raises\nsteps: [{name: a, agent: raises}]\n")
    forget = (
        "\nfrom durable_monty import FUNCTION_REGISTRY as _all\n"
        "import durable_monty.service as _service\n"
        "_start = _service.OrchestratorService.start_workflow\n"
        "def _forgetting(*a, **k):\n"
        "    execution_id = _start(*a, **k)\n"
        "    for name in [name for name in _all if 'raises' in name]:\n"
        "        del _all[name]\n"
        "    return execution_id\n"
        "_service.OrchestratorService.start_workflow = _forgetting\n"
    )
    app.write("agents/__init__.py", forget)
    # The worker may have been quicker; then the agent runs, and raises.
    message = failed(app, app.run("--workflow", "raises"), "a")
    assert "no agent is registered under the name 'raises'" in message or "LookupError" in message


def test_an_unknown_workflow(app: App) -> None:
    result = app.run("--workflow", "summarise_and_extract")
    assert result["status"] == "FAILED"
    assert "did you mean 'summarize_and_extract'?" in result["error"]


@pytest.mark.parametrize("given", ["{}", "{'txt': 'a'}", "{'text': None}"])
def test_missing_input(app: App, given: str) -> None:
    code = (
        "from runtime.coordinator import Coordinator\n"
        f"print(Coordinator().run_execution('summarize_and_extract', {given}))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=app.folder,
        env=app.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    result = ast.literal_eval(shown.stdout)
    assert result["status"] == "FAILED"
    assert "text" in result["error"]
    if result["execution_id"] is not None:
        failed(app, result)


def test_a_database_that_is_down_at_the_start(tmp_path: Path) -> None:
    app = App(copy(tmp_path / "app"), "postgresql://me:secret@127.0.0.1:9/none")
    result = app.run()
    assert result["execution_id"] is None
    assert "the database postgresql://me:***@127.0.0.1:9/none can't be used" in result["error"]
    assert "secret" not in result["error"]


class Gate:
    """A way to a server that can be closed and opened."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._serve()

    def _serve(self) -> None:
        listener = self._listener

        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                    far = socket.create_connection(self._target)
                except OSError:
                    return
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._serve()


def test_a_database_that_is_away_in_the_middle(app: App) -> None:
    app.write("agents/__init__.py", NOTED)
    app.environment["AGENT_S"] = "1"
    url = make_url(str(app.url))
    gate = Gate(str(url.host), int(url.port or 5432))
    through = url.set(host="127.0.0.1", port=gate.port).render_as_string(hide_password=False)
    app.environment["DATABASE_URL"] = through
    process = app.start()
    runs = app.folder / "runs.txt"
    until = time.monotonic() + PATIENCE_S
    while not runs.exists() or not runs.read_text():
        assert time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    gate.close()
    time.sleep(2)  # how long it is away: the agent returns meanwhile
    gate.open()
    result = app.finish(process)
    gate.close()
    assert result["status"] == "SUCCESS"
    assert app.events(result["execution_id"]) == EVENTS
    assert [run.split()[0] for run in runs.read_text().splitlines()] == ["summarize", "entity"]
    assert app.rows("SELECT COUNT(*) FROM execution_locks") == [(0,)]
