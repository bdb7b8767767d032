"""[sip.trunks.limits]: how much one trunk may carry, so that a stolen line costs little."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from services.common.config import Section


class Direction(StrEnum):
    """Who has called: they us, or we them."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class DirectionLimits(Section):
    """Of the calls in one direction; None is no limit."""

    channels: int | None = Field(default=None, ge=0)  # at a time
    per_minute: int | None = Field(default=None, ge=0)  # new calls in any 60 s
    per_day: int | None = Field(default=None, ge=0)  # new calls in a day (UTC)


class TrunkLimits(Section):
    """`channels` counts both directions together, as carriers sell them.

    Calls that we place cost money, so they are limited also where nothing is written: to what a
    busy office dials, and a day's damage to what can be paid.
    """

    channels: int | None = Field(default=None, ge=0)
    inbound: DirectionLimits = DirectionLimits()
    outbound: DirectionLimits = DirectionLimits(per_minute=30, per_day=1000)

    def of(self, direction: Direction) -> DirectionLimits:
        return self.inbound if direction is Direction.INBOUND else self.outbound
