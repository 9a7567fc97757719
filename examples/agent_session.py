"""An agent whose code interpreter survives kill -9.

    python examples/agent_session.py [DATABASE]

A scripted model streams pieces of code; each is run in a durable session. In the middle of the
third piece the process is killed. A second process goes on at the `await` that the first was at:
pages that were fetched before are not fetched again, and the names of the session are all there.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

from durable_monty import OrchestratorService, Worker, init_db, register_function

# What the model says, turn by turn. A real agent would show it what each piece came to.
SCRIPT = [
    ("I look at the index first.", "pages = await fetch('index')\nprint(len(pages), 'pages')"),
    ("A helper will be useful.", "async def size(page):\n    return len(await fetch(page))\n"),
    ("Now all the pages, one by one.", "sizes = {p: await size(p) for p in pages}\nsizes"),
    ("Let me see the biggest.", "max(sizes, key=lambda p: sizes[p])"),
    ("And one that is not there.", "await fetch('nowhere')"),
]

PAGES = {"index": ["home", "shop", "blog"], "home": "hello", "shop": "tea and cake", "blog": "why"}

killed_at = None


@register_function("fetch")
def fetch(page: str) -> object:
    if page == killed_at:
        print(f"  killed while fetching {page}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    print(f"  fetching {page}", flush=True)
    if page not in PAGES:
        raise LookupError(f"no page {page}")
    return PAGES[page]


def model() -> Iterator[tuple[str, str]]:
    """The model's turns: what it says, and the code it wrote."""
    for text, code in SCRIPT:
        streamed = ""
        for piece in code.split(" "):  # as it arrives
            streamed += piece + " "
        yield text, streamed.rstrip(" ")


def run_agent(database: str) -> None:
    service = OrchestratorService(init_db(f"sqlite:///{database}"))
    # The key names the same session in every process.
    session = service.open_session(["fetch"], idempotency_key="research")
    done = len(session.feeds())
    print(f"going on after {done} pieces" if done else "a new session", flush=True)

    worker = Worker(service)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        # With its number, a piece that was fed before is not run again: its result is there.
        for number, (text, code) in enumerate(model(), start=1):
            result = session.feed(code, response=text, number=number)
            if result.error is not None:
                shown = f"{result.error.type}: {result.error.message}"
            else:
                shown = f"{result.output!r} {result.printed.strip()}"
            print(f"{number}. {text} -> {shown}", flush=True)
        session.close()
    finally:
        worker.stop()
        running.join()


def main(database: str | None = None) -> None:
    global killed_at
    if database is not None:
        killed_at = os.environ.get("KILLED_AT")
        return run_agent(database)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"{folder}/agent.db"]
        subprocess.run(command, env={**os.environ, "KILLED_AT": "shop"}, check=False)
        print("--- the process is gone; another one goes on")
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
