"""What the tests share: a fresh database, a registry that forgets, a worker in the background."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from durable_monty import FUNCTION_REGISTRY, OrchestratorService, Worker, functions, init_db

PATIENCE_S = 30.0
"""How long a test waits for what must happen; only a failing test ever waits that long."""


CATCHING = """
try:
    r = await {call}
except {kind} as e:
    r = str(e)
r
"""


def wait_for(condition: Callable[[], Any], what: str = "") -> Any:
    """Looks again and again for something that nothing announces, and gives it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)
    return found


def service_url(name: str) -> str:
    """Where the test service behind an environment variable is. The test is skipped when there is
    none, except on CI."""
    url = os.environ.get(name)
    if url is None:
        reason = f"{name} is not set: scripts/services run, or make test, starts what it needs"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return url


@pytest.fixture(autouse=True)
def _forget_functions() -> Iterator[None]:
    known: list[dict[str, Any]] = [FUNCTION_REGISTRY, functions._options]
    before = [dict(one) for one in known]
    yield
    for one, content in zip(known, before, strict=True):
        one.clear()
        one.update(content)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


def new_database(kind: str, directory: Path) -> str:
    """The URL of an empty database of a kind."""
    if kind == "sqlite":
        return f"sqlite:///{directory}/test.db"
    name = f"t{uuid.uuid4().hex}"
    if kind == "postgres":
        url = make_url(service_url("DURABLE_TEST_POSTGRES"))
        statement = f"CREATE SCHEMA {name}"
        driver, place = (
            "postgresql+psycopg",
            url.update_query_dict({"options": f"-csearch_path={name}"}),
        )
    else:
        url = make_url(service_url("DURABLE_TEST_MYSQL"))
        statement = f"CREATE DATABASE {name}"
        driver, place = "mysql+pymysql", url.set(database=name)
    admin = create_engine(url.set(drivername=driver), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(statement))
    admin.dispose()
    return place.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def every_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind."""
    return new_database(request.param, tmp_path)


class OwnRedis:
    """A Redis that one test may flush and restart."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._services("up")
        self.url = (state / "env").read_text().strip().partition("=")[2]

    def restart(self) -> None:
        self._services("restart")

    def _services(self, action: str) -> None:
        script = Path(__file__).parents[2] / "scripts" / "services"
        command = [sys.executable, str(script), "--state", str(self._state), action]
        subprocess.run([*command, *([] if action == "down" else ["redis"])], check=True)


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    service_url("DURABLE_TEST_REDIS")  # skipped where the others are
    state = tmp_path_factory.mktemp("redis")
    redis = OwnRedis(state)
    try:
        yield redis
    finally:
        redis._services("down")


@pytest.fixture
def service(url: str) -> Iterator[OrchestratorService]:
    service = OrchestratorService(init_db(url))
    yield service
    service.store.close()
    service.engine.dispose()


Serve = Callable[..., AbstractContextManager[Worker]]


@pytest.fixture
def serve(service: OrchestratorService) -> Serve:
    """`with serve(): …` runs a worker beside the block."""

    @contextlib.contextmanager
    def serving(*arguments: Any, **options: Any) -> Iterator[Worker]:
        worker = Worker(service, *arguments, **options)
        failures: list[BaseException] = []

        def body() -> None:
            try:
                worker.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        try:
            yield worker
        finally:
            worker.stop()
            thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the worker did not stop"
        assert not failures, failures

    return serving


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of moto's Lambda, which knows a function called `functions`."""
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws(config={"lambda": {"use_docker": False}}):
        role = boto3.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("tasks.py", "")
        boto3.client("lambda").create_function(
            FunctionName="functions",
            Runtime="python3.12",
            Role=role["Role"]["Arn"],
            Handler="durable_monty.executors.aws_lambda.handler",
            Code={"ZipFile": package.getvalue()},
        )
        yield boto3.client("lambda")
