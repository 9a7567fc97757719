"""Opening databases: one SQLAlchemy engine for reading rows, one Rust engine for running them."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session

from . import sqlite
from ._native import leak, native
from .errors import Conflict, ForkError, InvalidWorkflow

if TYPE_CHECKING:
    from ._internal import Engine as RustEngine

__all__ = ["get_session", "init_db"]

BUSY_TIMEOUT_S = 30

Isolation = Literal["process", "thread"]


def init_db(
    url: str = "sqlite:///durable_functions.db", *, isolation: Isolation = "process"
) -> Engine:
    """Creates the database or brings its schema up to date, and returns a SQLAlchemy engine.

    `sqlite:///relative/path.db` and `sqlite:////absolute/path.db` are files.
    `sqlite:///:memory:` is a private store that every thread of this process shares and that is
    gone when the returned engine is. `postgresql://user:password@host/database` and
    `mysql+pymysql://…` are servers that any number of processes share (extras `postgres` and
    `mysql`).

    Workflow code runs in worker processes with limits on time and memory. `isolation="thread"`
    runs it on threads of this process: somewhat quicker, and only for code you trust, because a
    program that overflows the stack or never ends takes the process with it.

    Raises InvalidWorkflow for another kind of database, a file that is none, or a database that
    this process has open with another isolation; Unavailable when it can't be opened.
    """
    if isolation not in ("process", "thread"):
        raise InvalidWorkflow(f"isolation is {isolation!r}, expected 'process' or 'thread'")
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        store, engine = _open_file(parsed, isolation)
    else:
        store, engine = _open_server(parsed, isolation)
    _stores[engine] = store
    return engine


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # What these say may be a part of a password.
        raise InvalidWorkflow(
            "the database URL can't be read: it looks like sqlite:///file.db or "
            "postgresql://user:password@host:5432/database, where letters such as @ and / of a "
            "password are written as %40 and %2F"
        ) from None


def _open_file(url: URL, isolation: Isolation) -> tuple[Store, Engine]:
    if url.query:
        options = ", ".join(url.query)
        raise InvalidWorkflow(f"the database URL has options that are not supported: {options}")
    scratch = None
    if url.database in (None, "", ":memory:"):
        scratch = _Scratch()
        url = URL.create("sqlite", database=str(scratch.path))
    path = Path(url.database or "").absolute()
    place = URL.create("sqlite", database=str(path))
    store = Store.at(os.path.realpath(path), place, isolation, scratch)
    store.migrate()
    engine = sqlalchemy.create_engine(url, module=sqlite, connect_args={"timeout": BUSY_TIMEOUT_S})
    if scratch is not None:
        event.listen(engine, "connect", _never_sync)
    return store, engine


def _open_server(url: URL, isolation: Isolation) -> tuple[Store, Engine]:
    backend = url.get_backend_name()
    driver = _DRIVERS.get(backend)
    if driver is None:
        raise InvalidWorkflow(
            f"executions are kept in SQLite, Postgres and MySQL or MariaDB, not in {backend}"
        )
    place = url.set(drivername=backend)
    if "+" not in url.drivername:
        url = url.set(drivername=f"{backend}+{driver}")
    try:
        url.get_dialect()
    except NoSuchModuleError:
        raise InvalidWorkflow(
            f"SQLAlchemy has no driver {url.drivername}: leave it out for {backend}+{driver}"
        ) from None
    store = Store.at(place.render_as_string(hide_password=False), place, isolation)
    store.migrate()
    if backend == "postgresql":
        # The models read and write the text of what is JSON.
        engine = sqlalchemy.create_engine(
            url.difference_update_query(["prepare"]),
            json_serializer=_json_as_it_is,
            json_deserializer=_json_as_it_is,
            pool_pre_ping=True,
        )
    else:
        engine = sqlalchemy.create_engine(url, pool_pre_ping=True)
    return store, engine


# What SQLAlchemy speaks to a server through, unless the URL says otherwise.
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}


def _json_as_it_is(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode()


def get_session(engine: Engine) -> Session:
    """A new SQLAlchemy session on the database."""
    return Session(engine)


def store_of(engine: Engine) -> Store:
    """The store behind an engine that `init_db` returned."""
    store = _stores.get(engine)
    if store is None:
        raise InvalidWorkflow(
            f"the engine of {engine.url} does not come from init_db. It has to: SQLAlchemy's own "
            "SQLite must not share a file with that of this package (see durable_monty.sqlite)"
        )
    store.check_process()
    return store


def only_engine() -> Engine:
    """The SQLAlchemy engine of the one database this process has open."""
    pid = os.getpid()
    engines = [engine for engine, store in _stores.items() if store.pid == pid]
    if len(engines) != 1:
        raise InvalidWorkflow(
            f"this process has {len(engines)} databases open: say which with engine=…"
        )
    return engines[0]


class Store:
    """One database and its Rust engine, which is opened when it is first needed."""

    def __init__(self, url: URL, isolation: Isolation, scratch: _Scratch | None) -> None:
        self.isolation = isolation
        self.pid = os.getpid()
        self._url = url
        self._scratch = scratch
        self._lock = threading.RLock()
        self._engine: RustEngine | None = None
        self._attached = 0
        self._queues: tuple[str, ...] = ()

    @staticmethod
    def at(key: str, url: URL, isolation: Isolation, scratch: _Scratch | None = None) -> Store:
        """The process's store for a database; the same one for the same key."""
        with _registry_lock:
            store = _by_key.get(key)
            if store is None:
                store = _by_key[key] = Store(url, isolation, scratch)
            if store.isolation != isolation:
                raise InvalidWorkflow(
                    f"{store.url} is open with isolation={store.isolation!r} in this process"
                )
            return store

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def _secret_url(self) -> str:
        return self._url.render_as_string(hide_password=False)

    @property
    def engine(self) -> RustEngine:
        """The Rust engine. Raises ForkError in a forked child."""
        self.check_process()
        engine = self._engine
        if engine is None:
            with self._lock:
                if self._engine is None:
                    synchronous = "full" if self._scratch is None else "off"
                    self._engine = native().Engine.open(
                        self._secret_url, self.isolation, synchronous
                    )
                engine = self._engine
        return engine

    def migrate(self) -> None:
        with self._lock:
            native().migrate(self._secret_url)

    def check_process(self) -> None:
        """Raises ForkError when another process opened this store."""
        if self.pid != os.getpid():
            raise ForkError(
                f"{self.url} was opened before fork() and can't be used in the child: its engine "
                "has threads there that are not here. Call init_db again in the child"
            )

    def attach(
        self,
        queues: tuple[str, ...] = (),
        announcement: tuple[str, list[str], int] | None = None,
    ) -> None:
        """Lets the engine hand out work as long as one of its workers runs."""
        with self._lock:
            if self._attached == 0:
                self.engine.attach(queues, announcement)
                self._queues = queues
            elif self._queues != queues:
                raise Conflict(
                    f"another worker of this process serves {_named(self._queues)} of {self.url}: "
                    f"run the one that serves {_named(queues)} in a process of its own"
                )
            self._attached += 1

    def detach(self, grace_s: float) -> None:
        """Counterpart of `attach`; the last one waits for running calls."""
        with self._lock:
            self._attached = max(0, self._attached - 1)
            if self._attached == 0 and self._engine is not None:
                self._engine.detach(grace_s)

    def close(self) -> None:
        """Gives back what the engine holds. The store opens again when it is used again."""
        if self.pid != os.getpid():
            return
        with self._lock:
            engine, self._engine = self._engine, None
            self._attached = 0
        if engine is not None:
            engine.close()


def _named(queues: tuple[str, ...]) -> str:
    return f"the queues {', '.join(queues)}" if queues else "all queues"


class _Scratch:
    """A directory for a database that nobody else sees, in memory where the system can."""

    def __init__(self) -> None:
        shared_memory = Path("/dev/shm")
        parent = shared_memory if os.access(shared_memory, os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="durable-monty-", dir=parent))
        self.path = self.directory / "memory.db"
        weakref.finalize(self, _remove_directory, self.directory, os.getpid())


def _remove_directory(directory: Path, owner: int) -> None:
    # A forked child has the same finalizer and must leave its parent's files alone.
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


def _never_sync(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")


_registry_lock = threading.RLock()
_by_key: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_stores: weakref.WeakKeyDictionary[Engine, Store] = weakref.WeakKeyDictionary()


def _forget_parent() -> None:
    # In a forked child. What stands behind these belongs to threads that only the parent has.
    global _registry_lock, _by_key
    for store in list(_by_key.values()):
        leak(store._engine)
    for engine in list(_stores):
        leak(engine.pool)
        engine.dispose(close=False)
    _registry_lock = threading.RLock()
    _by_key = weakref.WeakValueDictionary()


@atexit.register
def _close_all() -> None:
    # Before the interpreter goes down: threads that wait inside the engine must be back by then.
    for store in list(_by_key.values()):
        with contextlib.suppress(Exception):
            store.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
