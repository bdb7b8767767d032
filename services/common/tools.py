"""What a tool function is given besides its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """The call that a tool runs for.

    `idempotency_key` is the same whenever the same call asks for the same thing; a write that has
    been done under a key is not done again. `data_dir` is where Landline keeps its data.
    """

    call_id: str
    data_dir: Path
    idempotency_key: str
    now_wall_ms: int
