"""Opening databases; several threads, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from conftest import PATIENCE_S

from durable_monty import (
    DurableError,
    InvalidWorkflow,
    OrchestratorService,
    Unavailable,
    Worker,
    init_db,
    register_function,
)


def run(service: OrchestratorService) -> Any:
    register_function("add")(lambda a, b: a + b)
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    Worker(service).run(until_complete=True)
    return service.get_result(execution_id)


def test_the_default_is_a_file_beside_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = init_db()
    assert isinstance(engine, sqlalchemy.Engine)
    assert (tmp_path / "durable_functions.db").exists()
    assert run(OrchestratorService(engine)) == 3


def test_opening_again_keeps_what_is_there(url: str) -> None:
    service = OrchestratorService(init_db(url))
    execution_id = service.start_execution("1")
    again = OrchestratorService(init_db(url))
    assert again.store is service.store
    assert again.get_execution(execution_id)["status"] == "scheduled"


def test_an_engine_of_ones_own_is_refused(url: str) -> None:
    with pytest.raises(InvalidWorkflow, match="does not come from init_db"):
        OrchestratorService(sqlalchemy.create_engine(url))


def test_memory_is_private_and_shared_by_threads() -> None:
    service = OrchestratorService(init_db("sqlite:///:memory:"))
    other = OrchestratorService(init_db("sqlite:///:memory:"))
    assert run(service) == 3
    assert other.list() == []
    counts = []

    def count() -> None:
        with service.engine.connect() as connection:
            counts.append(connection.exec_driver_sql("SELECT count(*) FROM executions").scalar())

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert counts == [1, 1, 1, 1]


def test_memory_leaves_no_file_behind() -> None:
    program = """
from durable_monty import OrchestratorService, init_db
service = OrchestratorService(init_db("sqlite:///:memory:"))
service.start_execution("1")
print(service.store.url.removeprefix('sqlite:///'))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    file = Path(ran.stdout.strip())
    assert file.is_absolute()
    assert not file.parent.exists()


def test_a_database_that_is_none_of_ours() -> None:
    with pytest.raises(InvalidWorkflow, match="not in oracle"):
        init_db("oracle://user:pass@localhost/dbname")


def test_what_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        init_db(f"sqlite:///{tmp_path}/no/such/directory/x.db")
    (tmp_path / "text.db").write_text("this is no database" * 1000)
    with pytest.raises(InvalidWorkflow, match="no SQLite database"):
        init_db(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(InvalidWorkflow, match="options"):
        init_db(f"sqlite:///{tmp_path}/x.db?mode=ro")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_fork_the_parents_store_is_refused_and_an_own_one_works(url: str) -> None:
    program = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from durable_monty import ForkError, OrchestratorService, Worker, init_db, register_function
register_function("add")(lambda a, b: a + b)
engine = init_db({url!r})
service = OrchestratorService(engine)

def run(service):
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    Worker(service).run(until_complete=True)
    return service.get_result(execution_id)

assert run(service) == 3
child = os.fork()
if child == 0:
    for use in (lambda: service.start_execution("1"), lambda: OrchestratorService(engine)):
        try:
            use()
        except ForkError as error:
            assert "Call init_db again in the child" in str(error)
        else:
            sys.exit(3)
    assert run(OrchestratorService(init_db({url!r}))) == 3
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert run(service) == 3
assert len(service.list()) == 3
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)


def test_two_processes_share_a_database(url: str) -> None:
    program = f"""
from durable_monty import OrchestratorService, Worker, init_db, register_function
register_function("double")(lambda i: 2 * i)
Worker(OrchestratorService(init_db({url!r}))).run(until_complete=True)
"""
    service = OrchestratorService(init_db(url))
    register_function("double")(lambda i: 2 * i)
    ids = service.start_executions("await double(i)", ["double"], [{"i": i} for i in range(200)])
    workers = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [worker.wait(PATIENCE_S) for worker in workers] == [0, 0]
    assert [service.get_result(i) for i in ids] == [2 * i for i in range(200)]
    with service.engine.connect() as connection:
        steps = connection.exec_driver_sql("SELECT count(*) FROM execution_steps").scalar()
    assert steps == 200


def test_workflow_code_that_is_trusted_may_run_on_threads(url: str) -> None:
    register_function("double")(lambda i: 2 * i)
    service = OrchestratorService(init_db(url, isolation="thread"))
    execution_id = service.start_execution("await double(21)", ["double"])
    Worker(service).run(until_complete=True)
    assert service.get_result(execution_id) == 42
    with pytest.raises(InvalidWorkflow, match="isolation='thread'"):
        init_db(url)
    with pytest.raises(InvalidWorkflow, match="expected 'process' or 'thread'"):
        init_db(url, isolation="none")  # type: ignore[arg-type]


def test_errors_are_one_tree() -> None:
    import durable_monty.errors as errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), DurableError)


def test_importing_does_nothing_to_the_world(tmp_path: Path) -> None:
    program = "import durable_monty, threading; print(threading.active_count())"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert (ran.stdout, ran.stderr) == ("1\n", "")
    assert list(tmp_path.iterdir()) == []
