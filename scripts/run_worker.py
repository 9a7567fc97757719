"""Runs a worker until it is stopped.

    python scripts/run_worker.py URL MODULE…

MODULE is what registers the functions: an importable module, or a file. For example

    python scripts/run_worker.py sqlite:///app.db myapp.tasks
"""

import argparse
import importlib
import logging
import runpy
import sys

from durable_monty import (
    FUNCTION_REGISTRY,
    Executor,
    LocalExecutor,
    OrchestratorService,
    Worker,
    init_db,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs a durable-monty worker.")
    parser.add_argument("url", help="database, such as sqlite:///app.db")
    parser.add_argument("modules", nargs="*", help="modules or files that register functions")
    parser.add_argument("--threads", type=int, help="most functions that run at once")
    parser.add_argument("--rq", metavar="QUEUE", help="have rq workers run the functions")
    parser.add_argument(
        "--until-complete", action="store_true", help="end when every execution has ended"
    )
    options = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    sys.path.insert(0, "")
    for module in options.modules:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="tasks")
        else:
            importlib.import_module(module)
    logging.info("functions: %s", ", ".join(sorted(FUNCTION_REGISTRY)) or "none registered")

    service = OrchestratorService(init_db(options.url))
    executor: Executor = LocalExecutor(options.threads)
    if options.rq is not None:
        from durable_monty import RQExecutor

        executor = RQExecutor(queue_name=options.rq)
    Worker(service, executor).run(until_complete=options.until_complete)


if __name__ == "__main__":
    main()
