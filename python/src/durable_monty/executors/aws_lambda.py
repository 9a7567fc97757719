"""Runs calls on AWS Lambda."""

from __future__ import annotations

import json
from typing import Any

from ..errors import Unavailable
from ..failures import Failure
from .base import CallRequest, Outcome
from .remote import answer_of, message_of, outcome_of
from .threads import DEFAULT_MAX_CONCURRENCY, ThreadedExecutor

__all__ = ["LambdaExecutor", "handler"]

TRY_AGAIN = frozenset(
    {
        "EC2ThrottledException",
        "ENILimitReachedException",
        "RequestLimitExceeded",
        "ResourceConflictException",
        "ResourceNotReadyException",
        "ServiceException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
LONGEST_RUN_S = 15 * 60


class LambdaExecutor(ThreadedExecutor):
    """Runs calls on AWS Lambda, at most `max_concurrency` at once. Extra `lambda`.

    >>> Worker(service, LambdaExecutor("my-functions")).run()

    The deployed function is `durable_monty.executors.aws_lambda.handler`, in a package that has
    the modules listed in its environment variable DURABLE_FUNCTIONS; or any other that takes the
    same event and returns `{"result": …}` or `{"error": {"type", "message"}}`. It needs no
    database. `client` is a boto3 client for Lambda, whose `read_timeout` has to be longer than the
    function takes; by default one is made that waits as long as a Lambda can run.

    A Lambda that is throttled or can't be reached is invoked again, with the same idempotency key.
    """

    def __init__(
        self,
        function_name: str,
        *,
        client: Any = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
    ) -> None:
        super().__init__(max_concurrency)
        self.function_name = function_name
        self.client = client or _default_client(max_concurrency)

    def perform(self, call: CallRequest) -> Outcome:
        """Invokes the Lambda and waits for what it returns."""
        from botocore.exceptions import ClientError, HTTPClientError, ReadTimeoutError
        from botocore.exceptions import ConnectionError as NoConnection

        event = {**message_of(call), "function_name": call.function_name}
        try:
            answer = self.client.invoke(
                FunctionName=self.function_name,
                InvocationType="RequestResponse",
                Payload=json.dumps(event).encode(),
            )
            body = answer["Payload"].read()
        except ReadTimeoutError as error:
            raise TimeoutError(
                f"Lambda {self.function_name} did not answer within the read_timeout of the "
                "client, which has to be longer than the function takes"
            ) from error
        except (HTTPClientError, NoConnection) as error:
            raise Unavailable(f"Lambda {self.function_name}: {error}") from error
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in TRY_AGAIN:
                raise Unavailable(f"Lambda {self.function_name}: {error}") from error
            raise
        if answer.get("FunctionError"):
            return Outcome(None, _crash(body))
        try:
            return outcome_of(json.loads(body))
        except (ValueError, TypeError) as error:
            said = body[:500].decode(errors="replace")
            raise RuntimeError(f"Lambda {self.function_name} returned {said}: {error}") from error


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda: runs the function that the event names."""
    return answer_of(event)


def _crash(body: bytes) -> Failure:
    """An exception that a handler didn't catch, or the end of its process, as Lambda tells it."""
    try:
        told = json.loads(body)
        kind, message = told.get("errorType", "RuntimeError"), told.get("errorMessage", "")
        lines = told.get("stackTrace")
    except (ValueError, AttributeError):
        kind, message, lines = "RuntimeError", body[:500].decode(errors="replace"), None
    shown = "".join(map(str, lines)) if isinstance(lines, list) else None
    return Failure(str(kind), str(message), shown)


def _default_client(max_concurrency: int) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ImportError(
            "LambdaExecutor needs boto3: pip install 'durable-monty[lambda]'"
        ) from error
    # The executor tries again itself, with its own distances.
    config = Config(
        read_timeout=LONGEST_RUN_S + 30,
        max_pool_connections=max_concurrency,
        retries={"max_attempts": 0},
        tcp_keepalive=True,
    )
    return boto3.client("lambda", config=config)
