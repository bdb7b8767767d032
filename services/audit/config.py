"""[audit]: where the journal's service listens."""

from __future__ import annotations

from services.common.addresses import Address, HostPort
from services.common.config import Section


class AuditConfig(Section):
    """The journal itself lies in data_dir/audit, transcripts in data_dir/transcripts."""

    listen: Address = HostPort("127.0.0.1", 0)
    writer: str = "audit-1"  # this journal's name; one process writes it
    fsync: bool = True  # False only where losing the last moments to a power cut is acceptable
    transcripts: bool = True
    metrics: Address | None = None
