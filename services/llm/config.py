"""[llm]: the chat server."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from services.common.addresses import Address, HostPort
from services.common.config import Section


class EngineName(StrEnum):
    SCRIPTED = "scripted"


class LlmServerConfig(Section):
    """[llm]. Requests beyond `max_requests` at once get 429; larger bodies get 413."""

    listen: Address = HostPort("127.0.0.1", 0)
    engine: EngineName = EngineName.SCRIPTED
    max_requests: int = Field(default=256, ge=1)
    max_body_bytes: int = Field(default=1_048_576, ge=1_024)
    body_timeout_s: float = Field(default=10.0, gt=0)
    metrics: Address | None = None
