"""Run a graph as a route does, hearing it by a tap, and keep its frames."""

from __future__ import annotations

from typing import Any

from langgraph_ws.frames import Frame
from langgraph_ws.mapping import ChatMapper, check_mapper
from langgraph_ws.messages import Block
from langgraph_ws.streaming import Execution, prepare_run


class Frames:
    """An outlet that keeps everything."""

    crowded = False

    def __init__(self) -> None:
        self.all: list[Frame] = []

    def put(self, frame: Frame) -> None:
        """Keep it."""
        self.all.append(frame)

    def add_text(self, text: str, block: Block) -> None:
        """Keep it as a delta; nothing waits here, so nothing is merged."""
        self.put(block.delta(text, block.length - len(text)))

    async def room(self) -> None:
        """There always is."""


async def record_tapped(
    graph: Any,
    given: Any,
    config: Any = None,
    *,
    mapper: Any = ChatMapper,
    outlet: Frames | None = None,
    **options: Any,
) -> list[Frame]:
    """What `record` gives, heard by a tap."""
    prepared, run = prepare_run(graph, given, config)
    mapper = check_mapper(mapper)()
    execution = Execution(graph, given, prepared, run=run, mapper=mapper, tapped=True, **options)
    outlet = outlet or Frames()
    outlet.put(run)
    error: Exception | None = None
    try:
        await execution.drive(outlet)
    except Exception as failure:
        error = failure
    return [*outlet.all, *execution.end(error)]
