"""Many executions at once, watched by polling.

python examples/poll_all.py [DATABASE]
"""

import sys
import threading
import time

from durable_monty import OrchestratorService, Worker, init_db, register_function


@register_function("work")
def work(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


CODE = """
first = await work(seconds)
second = await work(seconds)
first + second
"""


def main(database: str = ":memory:") -> None:
    service = OrchestratorService(init_db(f"sqlite:///{database}"))
    ids = service.start_executions(
        CODE, ["work"], [{"seconds": 0.05 * number} for number in range(1, 6)]
    )
    worker = Worker(service)
    thread = threading.Thread(target=worker.run, kwargs={"until_complete": True})
    thread.start()
    while thread.is_alive():
        waiting = service.poll()
        print(f"waiting: {len(waiting)}")
        thread.join(0.1)
    for execution_id in ids:
        print(f"{execution_id}: {service.get_result(execution_id):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
