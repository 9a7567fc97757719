"""How the engine starts an interpreter process of its own."""

from __future__ import annotations

import importlib.util
import sys

# Loads the extension by its file: with -I and -S there is no path to find it on, and the package
# around it would only cost start-up time.
_BODY = """
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader("_internal", sys.argv[1])
spec = importlib.util.spec_from_file_location("_internal", sys.argv[1], loader=loader)
module = importlib.util.module_from_spec(spec)
loader.exec_module(module)
sys.exit(module.worker_main())
"""


def _worker_command() -> list[str]:
    """Program and arguments that run `worker_main` in a bare Python process."""
    spec = importlib.util.find_spec("durable_monty._internal")
    if spec is None or spec.origin is None:
        raise ImportError("the compiled module durable_monty._internal is not installed")
    return [sys.executable, "-I", "-S", "-c", _BODY.strip(), spec.origin]
