"""One workflow, many inputs; values of every kind go in and come out.

python examples/with_inputs.py [DATABASE]
"""

import datetime
import decimal
import sys

from durable_monty import OrchestratorService, Worker, init_db, register_function


@register_function("rate_on")
def rate_on(day: datetime.date) -> decimal.Decimal:
    return decimal.Decimal("1.10") if day.year < 2026 else decimal.Decimal("1.20")


CODE = """
rate = await rate_on(day)
{"day": day, "total": sum(amounts) * rate}
"""


def main(database: str = ":memory:") -> None:
    service = OrchestratorService(init_db(f"sqlite:///{database}"))
    amounts = (decimal.Decimal("19.90"), decimal.Decimal("5.10"))
    ids = service.start_executions(
        CODE,
        ["rate_on"],
        [{"day": datetime.date(year, 1, 31), "amounts": amounts} for year in (2025, 2026)],
    )
    Worker(service).run(until_complete=True)
    for execution_id in ids:
        result = service.get_result(execution_id)
        print(f"{result['day']}: {result['total']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
