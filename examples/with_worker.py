"""A worker beside the program: start executions and wait for their results.

python examples/with_worker.py [DATABASE]
"""

import asyncio
import random
import sys
import threading

from durable_monty import (
    LocalExecutor,
    OrchestratorService,
    RetryPolicy,
    Worker,
    current_call,
    init_db,
    register_function,
)


@register_function("fetch_price", retry=RetryPolicy(max_attempts=5, initial_interval=0.05))
async def fetch_price(item: str) -> float:
    await asyncio.sleep(0.05)
    call = current_call()
    if call is not None and call.attempt == 1 and item == "pear":
        raise ConnectionError("the first attempt fails, the second won't")
    return round(random.Random(item).uniform(1, 5), 2)


@register_function("order")
def order(prices: dict[str, float]) -> str:
    call = current_call()
    # The key is the same in every attempt: a shop that knows it won't deliver twice.
    return f"ordered for {sum(prices.values()):.2f} (key {call.idempotency_key if call else '-'})"


CODE = """
from asyncio import gather

async def price(item):
    return item, await fetch_price(item)

prices = dict(await gather(*[price(item) for item in ["apple", "pear", "plum"]]))
await order(prices)
"""


def main(database: str = ":memory:") -> None:
    service = OrchestratorService(init_db(f"sqlite:///{database}"))
    worker = Worker(service, LocalExecutor())
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        execution_id = service.start_execution(CODE, ["fetch_price", "order"])
        print(service.result(execution_id, timeout=30))
    finally:
        worker.stop()
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
