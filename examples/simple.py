"""By hand, step by step, without a worker: what happens when an execution runs.

python examples/simple.py [DATABASE]
"""

import sys

from durable_monty import OrchestratorService, execute_function, init_db, register_function


@register_function("add")
def add(a: int, b: int) -> int:
    return a + b


CODE = """
from asyncio import gather

results = await gather(add(1, 2), add(3, 4))
sum(results)
"""


def main(database: str = ":memory:") -> None:
    service = OrchestratorService(init_db(f"sqlite:///{database}"))

    execution_id = service.start_execution(CODE, ["add"])
    print("stored:", service.get_execution(execution_id)["status"])

    # To the first await: the state is stored, the calls are there to be made.
    service.process_execution(execution_id)
    print("after one step:", service.get_execution(execution_id)["status"])

    for call in service.get_pending_calls(execution_id):
        print(f"  {call['function_name']}{tuple(call['args'])}")
        result = execute_function(call["function_name"], call["args"], call["kwargs"])
        service.complete_call(execution_id, call["call_id"], result)

    # Everything has been reported: polling goes on with the execution.
    print("at the end:", service.poll(execution_id))


if __name__ == "__main__":
    main(*sys.argv[1:])
