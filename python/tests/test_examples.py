"""The examples run as they are, and finish in seconds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from conftest import PATIENCE_S, service_url

ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("simple", "'output': 10, 'pending_calls': []}\n"),
        ("simple_parallel", "Output: 40\n"),
        ("with_worker", ")\n"),
        ("with_inputs", "2026-01-31: 30.0000\n"),
        ("poll_all", ": 0.50\n"),
        ("video_encoding", "'thumbnails': ['ep1-1080p.jpg', 'ep2-1080p.jpg', 'ep3-1080p.jpg']}\n"),
    ],
)
def test_example(name: str, end: str, tmp_path: Path) -> None:
    path = f"examples/{name}.py"
    assert run(path).endswith(end)
    assert run(path, str(tmp_path / "example.db")).endswith(end)


def test_the_webhook_example() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shown = run("examples/with_webhook.py", str(port))
    assert shown == "intro.mp4 + main.mp4 + credits.mp4\n"


def test_the_rq_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", service_url("DURABLE_TEST_REDIS"))
    shown = run("examples/with_rq.py")
    assert shown == "published part0-720p, part1-720p, part2-720p, part3-720p\n"


def test_the_video_example_goes_on_after_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "examples/video_encoding.py", str(tmp_path / "v.db"), "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout is not None
        started = first.stdout.readline().removeprefix("started ")
        for _ in range(4):
            # Three videos, and the first thumbnail: the videos are durable by then.
            last = first.stdout.readline()
        first.send_signal(signal.SIGKILL)
    assert "thumbnail" in last
    second = run(*command[1:])
    assert second.startswith(f"going on with {started}")
    assert "encoded" not in second
    assert "packed 3 videos" in second


def test_the_demo() -> None:
    shown = run("examples/demo.py")
    before, _, after = shown.partition("--- killed with SIGKILL")
    assert before.count("encoded") == 3
    assert "going on with" in after
    assert "  encoded" not in after
    assert "packed 3 videos" in after


def test_the_worker_script(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.py"
    tasks.write_text(
        "from durable_monty import register_function\n"
        'register_function("add")(lambda a, b: a + b)\n'
    )
    url = f"sqlite:///{tmp_path}/app.db"
    start = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from durable_monty import OrchestratorService, init_db\n"
        "service = OrchestratorService(init_db(sys.argv[1]))\n"
    )
    run("-c", start + 'service.start_execution("await add(1, 2)", ["add"])', url)
    run("scripts/run_worker.py", url, str(tasks), "--until-complete")
    assert run("-c", start + 'print(service.list()[0]["output"])', url) == "3\n"


def test_the_worker_script_with_rq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docker-compose.yml starts both."""
    monkeypatch.setenv("REDIS_URL", service_url("DURABLE_TEST_REDIS"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples"))
    url, queue = f"sqlite:///{tmp_path}/app.db", f"test-{uuid.uuid4()}"
    start = (
        "import sys; from durable_monty import OrchestratorService, init_db\n"
        "import with_rq; service = OrchestratorService(init_db(sys.argv[1]))\n"
    )
    code = "service.start_execution(\"await publish(['a', 'b'])\", ['publish'])"
    run("-c", start + code, url)
    environment = {
        **os.environ,
        "DURABLE_FUNCTIONS": "with_rq",
        "RQ_WORKER_CLASS": "durable_monty.executors.rq_worker.Worker",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    rq_worker = subprocess.Popen(
        ["rq", "worker", queue], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        run("scripts/run_worker.py", "--rq", queue, url, "with_rq", "--until-complete")
    finally:
        rq_worker.kill()
        rq_worker.wait()
    shown = run("-c", start + 'print(service.list()[0]["output"])', url)
    assert shown == "published a, b\n"
