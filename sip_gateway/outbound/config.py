"""[sip.outbound]: who may have calls placed, and by which trunks."""

from __future__ import annotations

from pydantic import Field

from services.common.addresses import Address
from services.common.config import Section


class OutboundConfig(Section):
    """What may be dialled is in [sip.dialling]; how much, in each trunk's limits."""

    listen: Address | None = None  # of the service that places calls; None: it is not there
    trunks: list[str] = Field(default_factory=list)  # in order; empty: all that have a server
    ring_s: int = Field(default=45, ge=5, le=180)
