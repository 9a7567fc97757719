"""Functions in rq workers: this program needs a Redis (REDIS_URL, else localhost) and starts two
rq workers itself. In production they run wherever you like.

python examples/with_rq.py [DATABASE]
"""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from durable_monty import OrchestratorService, RQExecutor, Worker, init_db, register_function


@register_function("encode_video")
def encode_video(path: str, quality: str = "1080p") -> str:
    time.sleep(0.2)
    return f"{path}-{quality}"


@register_function("publish")
def publish(videos: list[str]) -> str:
    if not videos:
        raise ValueError("nothing to publish")
    return f"published {', '.join(videos)}"


CODE = """
from asyncio import gather

try:
    await publish([])
except ValueError:
    pass  # raised in an rq worker, caught here
videos = await gather(*[encode_video(f, quality="720p") for f in files])
await publish(videos)
"""


def start_rq_worker(queue: str) -> "subprocess.Popen[bytes]":
    # What you would type: rq worker -S json my-queue
    here = str(Path(__file__).parent)
    command = [sys.executable, "-m", "rq.cli", "worker", "-S", "json", "--quiet", queue]
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    environment = {**os.environ, "PYTHONPATH": here, "DURABLE_FUNCTIONS": "with_rq"}
    # rq logs what functions raise, also where the workflow catches it.
    return subprocess.Popen([*command, "--url", url], env=environment, stderr=subprocess.DEVNULL)


def main(database: str = ":memory:") -> None:
    service = OrchestratorService(init_db(f"sqlite:///{database}"))
    queue = f"with-rq-{uuid.uuid4()}"
    inputs = {"files": [f"part{i}" for i in range(4)]}
    execution_id = service.start_execution(CODE, ["encode_video", "publish"], inputs)
    rq_workers = [start_rq_worker(queue) for _ in range(2)]
    try:
        Worker(service, RQExecutor(queue_name=queue)).run(until_complete=True)
        print(service.get_result(execution_id))
    finally:
        for process in rq_workers:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
