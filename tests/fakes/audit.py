"""An audit client that keeps what it is given."""

from __future__ import annotations

from typing import Any


class FakeAudit:
    """Stands for services.agent.clients.audit.AuditClient."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def record(self, _call_id: str, type_: str, **fields: Any) -> None:
        self.events.append((type_, fields))

    async def record_now(self, call_id: str, type_: str, **fields: Any) -> None:
        self.record(call_id, type_, **fields)

    def types(self) -> list[str]:
        return [type_ for type_, _ in self.events]
