"""Trusted Python that is killed with -9, again and again, until it has come to its end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

CHILD = '''
import asyncio, os, sys
from durable_monty import StreamingPythonExecutor
from durable_monty.checkpoints import CheckpointManager, FilesystemCheckpointProvider

def note(word, n):
    os.write(1, f"{word} {n}\\n".encode())

async def call(n):
    os.read(0, 1)  # waits until it may, or until nobody holds it up any more
    note("begun", n)
    await asyncio.sleep(0)
    note("ended", n)
    return n

CODE = """
total, seen = 0, []
from dataclasses import dataclass
@dataclass
class Box:
    n: int
box = Box(0)
same = [box]
"""
for n in range(0, 200, 10):
    CODE += f"x = await call({n})\\ntotal += x\\nbox.n += 1\\nseen.append(x)\\n"
    CODE += f"for i in range({n + 1}, {n + 10}):\\n"
    CODE += "    total += await call(i)\\n    seen.append(i)\\n"

class Provider(FilesystemCheckpointProvider):
    async def save_checkpoint(self, checkpoint_id, execution_state, namespace, metadata):
        await super().save_checkpoint(checkpoint_id, execution_state, namespace, metadata)
        note("saved", max([namespace.get("x", -1), *namespace.get("seen", [])]))

async def main():
    manager = CheckpointManager("e", Provider(sys.argv[1]))
    executor = await StreamingPythonExecutor.resume(manager, {"call": call, "note": note})
    if executor.response > 1:
        names = executor.namespace
        assert names["total"] == sum(range(200)), names["total"]
        assert names["seen"] == list(range(200))
        assert names["box"].n == 20 and names["same"][0] is names["box"]
        return note("finished", 0)
    if executor.resumed:
        note("resumed", executor.resumed.statements)
    text = CODE[len(executor.received):]
    for at in range(0, len(text), 50):
        await executor.add_chunk(text[at : at + 50])
    await executor.finalize()

asyncio.run(main())
'''


def test_killed_at_fifty_random_moments_nothing_is_lost_and_only_what_was_in_flight_is_repeated(
    tmp_path: Path,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    choose = random.Random(seed)
    kills = 0
    for execution in range(50):
        history: list[list[str]] = []
        command = [sys.executable, "-c", CHILD, str(tmp_path / str(execution))]
        while ["finished", "0"] not in history:
            with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as child:
                assert child.stdin is not None
                assert child.stdout is not None
                if kills < 50:
                    # It may make so many calls; at the last one or soon after it, it is killed.
                    calls = choose.randint(1, 40)
                    child.stdin.write("." * calls)
                    child.stdin.flush()
                    for line in child.stdout:
                        history.append(line.split())
                        calls -= line.startswith("begun")
                        if calls == 0:
                            break
                    moment = time.perf_counter() + choose.uniform(0, 0.02)
                    while time.perf_counter() < moment:
                        pass
                    child.send_signal(signal.SIGKILL)
                child.stdin.close()
                history += [line.split() for line in child.stdout]
                assert child.wait() in (0, -signal.SIGKILL)
                kills += child.returncode == -signal.SIGKILL
        begun = [int(n) for word, n in history if word == "begun"]
        assert sorted(set(begun)) == list(range(200)), "nothing is lost"
        assert begun == sorted(begun), "nothing but the last is repeated"
        saved = -1
        for word, n in history:
            assert word != "begun" or int(n) > saved, "what was saved is not repeated"
            saved = max(saved, int(n)) if word == "saved" else saved
        repeated = [n for n, m in zip(begun[1:], begun, strict=False) if n == m]
        resumes = sum(word == "resumed" for word, _ in history)
        assert len(repeated) <= resumes, "once for each crash at most"
        if kills >= 50:
            break
    assert kills == 50
