"""Where calls run: the interface, and the executor that runs them in this process."""

from .executors.base import Executor, JobStatus
from .executors.local import LocalExecutor

__all__ = ["Executor", "JobStatus", "LocalExecutor"]
