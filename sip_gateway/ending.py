"""How calls end: a result out of a closed list, and a reason that can be counted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CallResult(StrEnum):
    COMPLETED = "completed"
    ABANDONED = "abandoned"
    TRANSFERRED = "transferred"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How and why a call ended; `reason` is a word that can be counted."""

    result: str
    reason: str
