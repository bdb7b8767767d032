"""What a worker tells its supervisor: lines on its standard output."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

_PREFIX = "STATUS "


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """How much room a worker has."""

    slots: int  # conversations that fit
    legs: int  # calls that PJSIP holds, second legs and refusals included
    open: bool  # whether it takes calls at all
    metrics_port: int  # 0: none
    dial_port: int = 0  # of the service that places calls; 0: none

    def line(self) -> str:
        return _PREFIX + json.dumps(dataclasses.asdict(self))


def parse_status(line: str) -> WorkerStatus | None:
    """The status in a line of a worker's output; None when there is none."""
    if not line.startswith(_PREFIX):
        return None
    return WorkerStatus(**json.loads(line.removeprefix(_PREFIX)))
