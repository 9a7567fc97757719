"""Where the application finds things: its own folder, and the environment."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_env() -> None:
    """Takes the variables of `.env` that the environment does not set itself."""
    path = ROOT / ".env"
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith("#"):
            os.environ.setdefault(name.strip(), value.strip().strip("'\""))


def database_url() -> str:
    """DATABASE_URL, or a SQLite file in the application's folder."""
    load_env()
    return os.environ.get("DATABASE_URL") or f"sqlite:///{ROOT / 'workflow.db'}"
