"""Parallel calls, and the functions over a SQLAlchemy session.

python examples/simple_parallel.py [DATABASE]
"""

import sys

from sqlalchemy.orm import Session

from durable_monty import (
    Execution,
    OrchestratorService,
    Worker,
    from_json,
    init_db,
    register_function,
    start_execution,
)


@register_function("add")
def add(a: int, b: int) -> int:
    return a + b


@register_function("multiply")
def multiply(a: int, b: int) -> int:
    return a * b


CODE = """
from asyncio import gather

async def workflow():
    results = await gather(
        add(1, 2),
        add(3, 4),
        multiply(5, 6)
    )
    return sum(results)

await workflow()
"""


def main(database: str = ":memory:") -> None:
    engine = init_db(f"sqlite:///{database}")

    with Session(engine) as session:
        execution_id = start_execution(
            session=session, code=CODE, inputs={}, external_functions=["add", "multiply"]
        )
    print(f"Started execution: {execution_id}")

    Worker(OrchestratorService(engine)).run(until_complete=True)

    with Session(engine) as session:
        execution = session.get_one(Execution, execution_id)
        print(f"Status: {execution.status}")
        for call in execution.calls:
            print(f"  {call.function_name}{tuple(from_json(call.args))} = {from_json(call.result)}")
        print(f"Output: {from_json(execution.output)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
