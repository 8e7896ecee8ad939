"""Convert many files, or every model of one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.batch.running import Outcome, run, run_one
    from dpnn_bridge.batch.tasks import Task, tasks_for, tasks_for_models

__all__ = ["Outcome", "Task", "run", "run_one", "tasks_for", "tasks_for_models"]

_MODULES = {
    **dict.fromkeys(("Outcome", "run", "run_one"), "batch.running"),
    **dict.fromkeys(("Task", "tasks_for", "tasks_for_models"), "batch.tasks"),
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
