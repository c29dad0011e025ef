"""What a node may know of the run that it is part of: `current_run`."""

from __future__ import annotations

from dataclasses import dataclass

from langgraph.config import get_config

__all__ = ["ATTEMPT_KEY", "RUN_KEY", "CurrentRun", "current_run"]

RUN_KEY = "langgraph_ws_run_id"
ATTEMPT_KEY = "langgraph_ws_attempt"
"""Where the config of a run has them, in `configurable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentRun:
    """The run that a node is part of.

    Nodes run at least once: one that was cut off with its process runs again elsewhere. `run_id`
    and `task_id` are the same then, so together they make a key under which a service can tell a
    repeated request from a new one.

    Attributes:
        run_id: The run, as clients know it.
        task_id: The execution of the node.
        attempt: How often the run was begun, this time included.
    """

    run_id: str
    task_id: str
    attempt: int


def current_run() -> CurrentRun:
    """The run of the node that calls it.

    Raises:
        RuntimeError: It is called from elsewhere.
    """
    configurable = get_config().get("configurable", {})
    if RUN_KEY not in configurable:
        raise RuntimeError("current_run() may be called in nodes of graphs that are served only")
    place = str(configurable.get("checkpoint_ns") or "")
    return CurrentRun(
        run_id=str(configurable[RUN_KEY]),
        task_id=place.rpartition(":")[2],
        attempt=int(configurable[ATTEMPT_KEY]),
    )
