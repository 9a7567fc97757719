"""Executors whose calls run behind HTTP, on Lambda, on Modal."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import CATCHING, PATIENCE_S, Serve, wait_for

from durable_monty import (
    HttpExecutor,
    LambdaExecutor,
    ModalExecutor,
    OrchestratorService,
    RetryPolicy,
    Worker,
    current_call,
    register_function,
    webhooks,
)
from durable_monty.executors.aws_lambda import handler

# HTTP


class Receiver:
    """An HTTP server that runs functions, or answers what a test wants."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any] | None] = []
        self.seen: list[dict[str, Any]] = []
        self.held: set[str] = set()
        """The functions that don't end before they may."""
        self.may_answer = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                message = json.loads(body)
                receiver.seen.append(message)
                told = receiver.answers.pop(0) if receiver.answers else (0, None)
                if message["function"] in receiver.held:
                    receiver.may_answer.wait(PATIENCE_S)
                if told is None:
                    # Hangs up without an answer.
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                status, answer = told
                if status == 0:
                    status, answer = webhooks.answer(dict(self.headers), body, "secret")
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                with contextlib.suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/run?x=1"

    def close(self) -> None:
        self.may_answer.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


def test_http(receiver: Receiver, service: OrchestratorService) -> None:
    @register_function("add", timeout=60)
    def add(a: int, b: Any = 0) -> Any:
        call = current_call()
        assert call is not None
        assert call.deadline is not None
        return [a + b, call.idempotency_key]

    code = "from asyncio import gather\nawait gather(*[add(i, b=(i, i)[0]) for i in range(20)])"
    execution_id = service.start_execution(code, ["add"])
    Worker(service, HttpExecutor(receiver.url, secret="secret")).run(until_complete=True)
    expected = [[2 * i, f"{execution_id}:{i}"] for i in range(20)]
    assert service.get_result(execution_id) == expected
    [first] = [message for message in receiver.seen if message["call_id"] == 0]
    assert abs(first.pop("deadline") - time.time() - 60) < 30
    assert first == {
        "function": "add",
        "args": [0],
        "kwargs": {"b": 0},
        "job_id": f"{execution_id}-0-1",
        "execution_id": execution_id,
        "call_id": 0,
        "step": "add",
        "attempt": 1,
        "idempotency_key": f"{execution_id}:0",
    }


def test_http_errors(receiver: Receiver, service: OrchestratorService) -> None:
    cases: list[tuple[int, Any, str]] = [
        (200, {"error": {"type": "ValueError", "message": "no price"}}, "no price"),
        (200, {"error": {"type": "OSError", "message": "caf\udce9"}}, r"caf\udce9"),
        (200, {"result": "caf\udce9"}, "answered 200, but: result holds text that is not Unicode"),
        (200, {"result": {"$bytes": 1}}, "answered 200, but"),
        (200, b"<html>", "answered 200, but"),
        (200, {"found": 1}, 'neither a "result" nor an "error"'),
        (404, b"not here", "answered 404 Not Found: not here"),
        (500, b"", "answered 500"),
        (307, b"", "answered 307"),
    ]
    receiver.answers = [(status, answer) for status, answer, _ in cases]
    code = CATCHING.format(call="f()", kind="Exception")
    with pytest.warns(UserWarning, match="not registered"):
        ids = [service.start_execution(code, ["f"]) for _ in cases]
    for execution_id, (_, _, message) in zip(ids, cases, strict=True):
        only = HttpExecutor(receiver.url, secret="secret", max_concurrency=1)
        Worker(service, only).run(until_complete=True)
        said = service.get_result(execution_id)
        assert any(message in said for _, _, message in cases), said
    said = [service.get_result(one) for one in ids]
    for _, _, message in cases:
        assert any(message in one for one in said), message


def test_http_that_is_busy_or_away_is_tried_again(
    receiver: Receiver, service: OrchestratorService
) -> None:
    receiver.answers = [(503, b""), None, (429, b""), (200, {"result": 7})]
    with pytest.warns(UserWarning, match="not registered"):
        execution_id = service.start_execution("await f()", ["f"])
    Worker(service, HttpExecutor(receiver.url, secret="secret")).run(until_complete=True)
    assert service.get_result(execution_id) == 7
    assert len({message["idempotency_key"] for message in receiver.seen}) == 1
    assert len(receiver.seen) >= 4


def test_many_calls_share_few_threads(receiver: Receiver, service: OrchestratorService) -> None:
    @register_function("f")
    def f(i: int) -> Any:
        # The receiver is in this process.
        names = [thread.name for thread in threading.enumerate()]
        return names.count("durable-monty-HttpExecutor")

    receiver.answers = [(503, b"") for _ in range(12)]
    code = "from asyncio import gather\nawait gather(*[f(i) for i in range(20)])"
    execution_id = service.start_execution(code, ["f"])
    executor = HttpExecutor(receiver.url, secret="secret", max_concurrency=3)
    Worker(service, executor).run(until_complete=True)
    counts = service.get_result(execution_id)
    assert len(counts) == 20
    assert set(counts) <= {1, 2, 3}
    assert len(receiver.seen) == 32


def test_http_retries_of_the_engine(receiver: Receiver, service: OrchestratorService) -> None:
    register_function("f", retry=RetryPolicy(max_attempts=3, initial_interval=0.01))(lambda: 1)
    receiver.answers = [(500, b""), (500, b"")]
    execution_id = service.start_execution("await f()", ["f"])
    Worker(service, HttpExecutor(receiver.url, secret="secret")).run(until_complete=True)
    assert service.get_result(execution_id) == 1
    assert [message["attempt"] for message in receiver.seen] == [1, 2, 3]
    assert len({message["idempotency_key"] for message in receiver.seen}) == 1


def test_http_with_the_result_by_webhook(
    receiver: Receiver, service: OrchestratorService, serve: Serve
) -> None:
    receiver.answers = [(202, b""), (202, b"")]
    executor = HttpExecutor(
        receiver.url,
        secret="secret",
        callback_url="http://127.0.0.1:1/webhook/complete",
        resubmit_after=1.0,
    )
    with pytest.warns(UserWarning, match="not registered"):
        execution_id = service.start_execution("await f()", ["f"])
    with serve(executor):
        # Nothing is reported, so it is posted again.
        wait_for(lambda: len(receiver.seen) == 2)
        message = receiver.seen[1]
        assert message == receiver.seen[0]
        assert message["callback_url"] == "http://127.0.0.1:1/webhook/complete"
        assert message["token"] == webhooks.token(message["job_id"], "secret")
        with service.engine.connect() as connection:
            row = connection.exec_driver_sql("SELECT job_id, status FROM execution_steps").one()
        assert tuple(row) == (message["job_id"], "SUBMITTED")
        service.complete_call(message["execution_id"], message["call_id"], 8)
        assert service.result(execution_id, PATIENCE_S) == 8
    assert executor.get_stats()["finished"] == 0, "it was reported from outside"


def test_http_with_a_function_that_takes_its_time(
    receiver: Receiver, service: OrchestratorService
) -> None:
    register_function("f")(lambda: time.sleep(0.5) or 7)
    execution_id = service.start_execution("await f() + await f()", ["f"])
    Worker(service, HttpExecutor(receiver.url, secret="secret", timeout=0.1)).run(once=True)
    assert service.get_result(execution_id) == 14
    assert len(receiver.seen) == 2


def test_http_hangs_up_when_nobody_waits_any_more(
    receiver: Receiver, service: OrchestratorService, serve: Serve
) -> None:
    register_function("f", timeout=0.1)(lambda: 1)
    register_function("g")(lambda: 2)
    receiver.held = {"f"}
    with serve(HttpExecutor(receiver.url, secret="secret", max_concurrency=1)):
        code = CATCHING.format(call="f()", kind="TimeoutError")
        late = service.start_execution(code, ["f"])
        assert service.result(late, PATIENCE_S) == "the attempt took longer than its 100 ms"
        execution_id = service.start_execution("await g()", ["g"])
        assert service.result(execution_id, PATIENCE_S / 2) == 2, "the only thread still waits"


def answer_while_stopping(
    service: OrchestratorService, monkeypatch: pytest.MonkeyPatch, may_answer: threading.Event
) -> None:
    """Has a function end a little later than its worker is stopped."""
    detach = service.store.detach

    def detaching(grace: float) -> None:
        threading.Timer(0.2, may_answer.set).start()
        detach(grace)

    monkeypatch.setattr(service.store, "detach", detaching)


def test_http_answers_that_come_while_the_worker_stops(
    receiver: Receiver,
    service: OrchestratorService,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register_function("f")(lambda: 7)
    receiver.held = {"f"}
    answer_while_stopping(service, monkeypatch, receiver.may_answer)
    with serve(HttpExecutor(receiver.url, secret="secret"), grace=PATIENCE_S):
        execution_id = service.start_execution("await f()", ["f"])
        wait_for(lambda: receiver.seen)
    assert service.get_result(execution_id) == 7
    assert len(receiver.seen) == 1


NEVER_ANSWERED = """
import socket, sys, threading
from durable_monty import HttpExecutor, LambdaExecutor, OrchestratorService, Worker, init_db
from durable_monty import register_function

begun = threading.Event()

class Client:
    def invoke(self, **event):
        begun.set()
        threading.Event().wait()

class Http(HttpExecutor):
    def perform(self, call):
        begun.set()
        return super().perform(call)

server = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{server.getsockname()[1]}"
executor = {"http": lambda: Http(url), "lambda": lambda: LambdaExecutor("f", client=Client())}
register_function("f")(lambda: 1)
service = OrchestratorService(init_db(sys.argv[2]))
service.start_execution("await f()", ["f"])
worker = Worker(service, executor[sys.argv[1]](), grace=0)
running = threading.Thread(target=worker.run)
running.start()
begun.wait()
worker.stop()
running.join()
"""


@pytest.mark.parametrize("kind", ["http", "lambda"])
def test_a_process_ends_without_the_answers_it_waits_for(kind: str, url: str) -> None:
    command = [sys.executable, "-c", NEVER_ANSWERED, kind, url]
    subprocess.run(command, check=True, timeout=PATIENCE_S)


def test_http_options() -> None:
    with pytest.raises(ValueError, match="no http or https URL"):
        HttpExecutor("ftp://x")
    with pytest.raises(ValueError, match="a callback needs a secret"):
        HttpExecutor("http://x", callback_url="http://y")
    with pytest.raises(ValueError, match="max_concurrency"):
        HttpExecutor("http://x", max_concurrency=0)


def test_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"a": 1}'
    good = webhooks.sign(body, "secret")
    assert webhooks.verify({"x-durable-signature": good}, body, "secret")
    assert webhooks.verify({"X-Durable-Signature": good}, body.decode(), b"secret")
    old = webhooks.sign(body, "secret", int(time.time()) - 301)
    assert not webhooks.verify({"X-Durable-Signature": old}, body, "secret")
    assert webhooks.verify({"X-Durable-Signature": old}, body, "secret", tolerance=600)
    assert not webhooks.verify({"X-Durable-Signature": good}, body + b" ", "secret")
    assert not webhooks.verify({"X-Durable-Signature": good}, body, "other")
    for header in [
        "",
        "t=1",
        "t=,v1=",
        "v1=x",
        f"{good},t=1",
        "t=٣,v1=x",
        good.replace("t=", "t=-"),
    ]:
        assert not webhooks.verify({"X-Durable-Signature": header}, body, "secret")
    assert webhooks.verify({"X-Durable-Signature": f"{good},v1=other"}, body, "secret")
    monkeypatch.delenv("DURABLE_WEBHOOK_SECRET", raising=False)
    with pytest.raises(ValueError, match="DURABLE_WEBHOOK_SECRET"):
        webhooks.verify({}, body)
    monkeypatch.setenv("DURABLE_WEBHOOK_SECRET", "secret")
    assert webhooks.verify({"X-Durable-Signature": good}, body)
    # A fixed example, for receivers in other languages.
    assert webhooks.sign("{}", "secret", 1) == "t=1,v1=" + _hmac(b"1.{}")
    assert webhooks.token("job", "secret") == _hmac(b"webhook:job")


def _hmac(message: bytes) -> str:
    import hashlib
    import hmac

    return hmac.new(b"secret", message, hashlib.sha256).hexdigest()


def test_what_functions_raise_is_answered_but_not_ctrl_c() -> None:
    def asked(name: str) -> tuple[int, dict[str, Any]]:
        body = json.dumps({"function": name})
        headers = {"X-Durable-Signature": webhooks.sign(body, "secret")}
        return webhooks.answer(headers, body, "secret")

    @register_function("interrupted")
    def interrupted() -> None:
        raise KeyboardInterrupt

    register_function("leave")(sys.exit)
    status, answer = asked("leave")
    assert (status, answer["error"]["type"]) == (200, "SystemExit")
    with pytest.raises(KeyboardInterrupt):
        asked("interrupted")


def test_an_unsigned_request_runs_nothing() -> None:
    status, answer = webhooks.answer({}, b"{}", "secret")
    assert (status, answer["error"]["type"]) == (401, "PermissionError")
    for body in ["", "[]", "{}", '{"function": 1}', '{"function": "f", "args": 1}']:
        headers = {"X-Durable-Signature": webhooks.sign(body, "secret")}
        assert webhooks.answer(headers, body, "secret")[0] == 422


# Lambda


def lambda_returns(*returned: Any) -> None:
    """What moto's Lambda returns next: it runs no code without Docker."""
    import requests

    results = [one if isinstance(one, str) else json.dumps(one) for one in returned]
    url = "http://motoapi.amazonaws.com/moto-api/static/lambda-simple/response"
    told = requests.post(url, json={"results": results, "region": "eu-west-1"}, timeout=10)
    assert told.status_code == 201


def test_lambda(aws: Any, service: OrchestratorService) -> None:
    register_function("add")(lambda a, b: a + b)
    events: list[Any] = []
    invoke = aws.invoke

    def invoking(**parameters: Any) -> Any:
        # The handler runs here, what it returns goes through moto.
        events.append(json.loads(parameters["Payload"]))
        lambda_returns(handler(events[-1], None))
        return invoke(**parameters)

    aws.invoke = invoking
    execution_id = service.start_execution("await add(await add(1, 2), 3)", ["add"])
    executor = LambdaExecutor("functions", client=aws)
    Worker(service, executor).run(until_complete=True)
    assert service.get_result(execution_id) == 6
    assert [event["args"] for event in events] == [[1, 2], [3, 3]]
    assert events[0]["function_name"] == "add"
    assert events[0]["idempotency_key"] == f"{execution_id}:0"
    assert executor.get_stats() == {"submitted": 2, "finished": 2, "failed": 0}


class Lambda:
    """Stands in for boto3's client, for what moto can't do: failures."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def invoke(self, **_: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {**answer, "Payload": io.BytesIO(answer["Payload"])}


def test_lambda_that_fails(service: OrchestratorService) -> None:
    from botocore.exceptions import ClientError

    crash = b'{"errorType": "Runtime.ExitError", "errorMessage": "exit status 1"}'
    unknown = ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "Invoke")
    for answer, message in [
        (unknown, "ResourceNotFoundException"),
        ({"FunctionError": "Unhandled", "Payload": crash}, "exit status 1"),
        ({"FunctionError": "Unhandled", "Payload": b"<html>"}, "<html>"),
        ({"Payload": b'{"found": 1}'}, 'neither a "result" nor an "error"'),
    ]:
        code = CATCHING.format(call="f()", kind="Exception")
        with pytest.warns(UserWarning, match="not registered"):
            execution_id = service.start_execution(code, ["f"])
        Worker(service, LambdaExecutor("f", client=Lambda(answer))).run(until_complete=True)
        assert message in service.get_result(execution_id)


def test_lambda_that_takes_longer_than_the_client_waits(service: OrchestratorService) -> None:
    from botocore.exceptions import ReadTimeoutError

    client = Lambda(ReadTimeoutError(endpoint_url="https://lambda"))
    code = CATCHING.format(call="f()", kind="TimeoutError")
    with pytest.warns(UserWarning, match="not registered"):
        execution_id = service.start_execution(code, ["f"])
    Worker(service, LambdaExecutor("f", client=client)).run(until_complete=True)
    assert "did not answer within the read_timeout" in service.get_result(execution_id)


def test_lambda_answers_that_come_while_the_worker_stops(
    service: OrchestratorService, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_answer = threading.Event(), threading.Event()

    class Slow(Lambda):
        def invoke(self, **event: Any) -> Any:
            begun.set()
            may_answer.wait(PATIENCE_S)
            return super().invoke(**event)

    register_function("f")(lambda: 7)
    answer_while_stopping(service, monkeypatch, may_answer)
    client = Slow({"Payload": b'{"result": 7}'})
    with serve(LambdaExecutor("f", client=client), grace=PATIENCE_S):
        execution_id = service.start_execution("await f()", ["f"])
        assert begun.wait(PATIENCE_S)
    assert service.get_result(execution_id) == 7


def test_lambda_that_is_throttled_is_invoked_again(aws: Any, service: OrchestratorService) -> None:
    from botocore.exceptions import ClientError, EndpointConnectionError

    troubles: list[Exception] = [
        ClientError({"Error": {"Code": "TooManyRequestsException"}}, "Invoke"),
        EndpointConnectionError(endpoint_url="https://lambda"),
    ]
    invoke = aws.invoke

    def invoking(**parameters: Any) -> Any:
        if troubles:
            raise troubles.pop()
        lambda_returns({"result": 5})
        return invoke(**parameters)

    aws.invoke = invoking
    with pytest.warns(UserWarning, match="not registered"):
        execution_id = service.start_execution("await f()", ["f"])
    Worker(service, LambdaExecutor("functions", client=aws)).run(until_complete=True)
    assert service.get_result(execution_id) == 5


def test_the_handler_of_lambda() -> None:
    register_function("add")(lambda a, b: a + b)
    assert handler({"function_name": "add", "args": [1], "kwargs": {"b": 2}}, None) == {"result": 3}
    failed = handler({"function_name": "add", "args": [1, "x"]}, None)["error"]
    assert failed["type"] == "TypeError"
    assert "Traceback" in failed["traceback"]
    assert handler({}, None)["error"]["type"] == "ValueError"
    register_function("leave")(sys.exit)
    assert handler({"function": "leave", "args": [3]}, None)["error"]["type"] == "SystemExit"
    assert "DURABLE_FUNCTIONS" in handler({"function": "nowhere"}, None)["error"]["message"]


# Modal


class Spawned:
    """Stands in for modal.FunctionCall."""

    all: dict[str, Spawned] = {}

    def __init__(self, run: Callable[[], Any]) -> None:
        self.object_id = f"fc-{uuid.uuid4()}"
        self.run = run
        self.looks = 0
        self.is_cancelled = False
        self.is_held = False
        Spawned.all[self.object_id] = self

    @staticmethod
    def from_id(object_id: str) -> Spawned:
        return Spawned.all[object_id]

    def get(self, timeout: float | None = None) -> Any:
        self.looks += 1
        if timeout == 0 and (self.looks == 1 or self.is_held):
            raise TimeoutError
        return self.run()

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def modal(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    from durable_monty.executors import modal as ours

    module = types.ModuleType("modal")

    class Function:
        hold = False

        @staticmethod
        def from_name(app: str, name: str) -> Function:
            assert (app, name) == ("durable-monty", "run")
            return Function()

        def spawn(self, message: Any) -> Spawned:
            message = json.loads(json.dumps(message))
            spawned = Spawned(lambda: ours.run(message))
            spawned.is_held = Function.hold
            return spawned

    module.Function, module.FunctionCall = Function, Spawned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modal", module)
    Spawned.all.clear()
    return module


def test_modal(modal: types.ModuleType, service: OrchestratorService) -> None:
    register_function("add")(lambda a, b: a + b)
    code = "try:\n    await add(1, 'x')\nexcept TypeError:\n    r = await add(1, b=2)\nr"
    execution_id = service.start_execution(code, ["add"])
    Worker(service, ModalExecutor()).run(until_complete=True)
    assert service.get_result(execution_id) == 3
    assert [one.looks for one in Spawned.all.values()] == [2, 2]


def test_modal_goes_on_with_what_was_spawned(
    modal: Any, service: OrchestratorService, serve: Serve
) -> None:
    register_function("add")(lambda a, b: a + b)
    modal.Function.hold = True
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    with serve(ModalExecutor()):
        wait_for(
            lambda: [
                c for c in service.get_pending_calls(execution_id) if c["status"] == "submitted"
            ]
        )
    [spawned] = Spawned.all.values()
    spawned.is_held = False
    Worker(service, ModalExecutor()).run(until_complete=True)
    assert service.get_result(execution_id) == 3
    assert len(Spawned.all) == 1


def test_modal_cancels(modal: Any, service: OrchestratorService, serve: Serve) -> None:
    register_function("add")(lambda a, b: a + b)
    modal.Function.hold = True
    execution_id = service.start_execution("await add(1, 2)", ["add"])
    with serve(ModalExecutor()):
        [spawned] = wait_for(lambda: list(Spawned.all.values()))
        service.cancel(execution_id)
        wait_for(lambda: spawned.is_cancelled)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("modal", "boto3"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"durable-monty\[modal\]"):
        ModalExecutor()
    with pytest.raises(ImportError, match=r"durable-monty\[lambda\]"):
        LambdaExecutor("f")
