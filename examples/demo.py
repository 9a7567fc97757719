"""The video example on SQLite, killed with SIGKILL in the middle and then continued.

python examples/demo.py
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).with_name("video_encoding.py")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, str(EXAMPLE), str(Path(directory) / "demo.db"), "0.5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout is not None
            # Until the first thumbnail: by then the encoded videos are in the database.
            for line in first.stdout:
                print(line, end="", flush=True)
                if "thumbnail" in line:
                    break
            first.send_signal(signal.SIGKILL)
        print("--- killed with SIGKILL; the same program again ---", flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
