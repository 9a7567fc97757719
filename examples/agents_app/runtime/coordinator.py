"""Runs the application's workflows.

python runtime/coordinator.py                    # summarize a text and find its entities
python runtime/coordinator.py --text-file FILE   # another text
python runtime/coordinator.py --key KEY          # once for each key: run again, it goes on
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import agents  # noqa: F401 (registers them)

import durable_monty
from runtime.settings import ROOT, database_url

TEXT = """\
Durable workflows keep their state in a database. When the process that runs a workflow is killed,
another one goes on at the step it was in. No step that has finished is run again. Ada Lovelace
described the first program in 1843. Questions go to ada@example.org, or to +44 20 7946 0958;
documentation is at https://example.org/docs. The next release is planned for 2026-12-24, and 75% of
its 40 tasks are done.
"""


class Coordinator(durable_monty.Coordinator):
    """`run_execution(workflow_id, input_payload)` for the workflows in `workflows/`."""

    def __init__(self) -> None:
        workflows = sorted((ROOT / "workflows").glob("*.yaml"))
        super().__init__(database_url(), workflows=workflows)


def main() -> int:
    """Runs one execution and prints what came of it."""
    parser = argparse.ArgumentParser(description="Run a workflow.")
    parser.add_argument("--workflow", default="summarize_and_extract", help="its id")
    parser.add_argument("--text-file", type=Path, help="the text, instead of the sample")
    parser.add_argument("--key", help="run once for this key")
    given = parser.parse_args()
    text = given.text_file.read_text() if given.text_file else TEXT
    result = Coordinator().run_execution(given.workflow, {"text": text}, idempotency_key=given.key)
    print(f"Execution result: {result}")
    return 0 if result["status"] == "SUCCESS" else 1


if __name__ == "__main__":
    sys.exit(main())
