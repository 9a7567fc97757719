"""Functions that run somewhere else and report by webhook.

python examples/with_webhook.py [PORT] [DATABASE]
"""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

import uvicorn

from durable_monty import (
    Executor,
    OrchestratorService,
    Worker,
    create_app,
    init_db,
    register_function,
)

CODE = """
from asyncio import gather

parts = await gather(render("intro"), render("main"), render("credits"))
" + ".join(parts)
"""


@register_function("render")
def render(scene: str) -> str:
    time.sleep(0.1)
    return f"{scene}.mp4"


class Cloud(Executor):
    """Stands for a service elsewhere: it takes jobs and calls back when they are done."""

    def __init__(self, callback: str) -> None:
        self.callback = callback

    def submit_call(self, function_name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        job_id = str(uuid.uuid4())
        threading.Thread(target=self._run, args=(job_id, args), daemon=True).start()
        return job_id

    def _run(self, job_id: str, args: list[Any]) -> None:
        report = {"job_id": job_id, "result": render(*args), "status": "finished"}
        request = urllib.request.Request(
            self.callback, json.dumps(report).encode(), {"Content-Type": "application/json"}
        )
        while True:
            try:
                urllib.request.urlopen(request).close()
                return
            except urllib.error.HTTPError as error:
                # A quick job may report before the worker has noted its name.
                if error.code != 404:
                    raise
                time.sleep(0.05)


def main(port: str = "8000", database: str = ":memory:") -> None:
    service = OrchestratorService(init_db(f"sqlite:///{database}"))
    execution_id = service.start_execution(CODE, ["render"])

    # In production: uvicorn.run(create_app(service), host="0.0.0.0", port=8000)
    app = create_app(service)
    server = uvicorn.Server(uvicorn.Config(app, port=int(port), log_level="warning"))
    serving = threading.Thread(target=server.run)
    serving.start()

    Worker(service, Cloud(f"http://127.0.0.1:{port}/webhook/complete")).run(until_complete=True)
    print(service.get_result(execution_id))
    server.should_exit = True
    serving.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
