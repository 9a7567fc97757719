"""Where calls run."""

from .base import Executor, JobStatus
from .local import LocalExecutor

__all__ = ["Executor", "JobStatus", "LocalExecutor"]
