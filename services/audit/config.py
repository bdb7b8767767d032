"""[audit]: the service that keeps the record."""

from __future__ import annotations

from pydantic import Field

from services.audit.journal import FsyncPolicy
from services.common.addresses import Address, HostPort
from services.common.config import Section


class AuditConfig(Section):
    """[audit]. The journal lies in data_dir/audit, transcripts in data_dir/transcripts."""

    listen: Address = HostPort("127.0.0.1", 0)
    fsync: FsyncPolicy = FsyncPolicy.COMMIT
    max_waiting: int = Field(default=50_000, ge=1)  # events not yet on disk
    metrics: Address | None = None
