"""[audit]: where the journal's service listens, and how it keeps what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from services.common.addresses import Address, HostPort
from services.common.config import Section


def _name(text: str) -> str:
    if not text or not all(c.isalnum() or c in "._-/" for c in text) or not text.isascii():
        raise ValueError("use letters, digits, dot, dash, slash and _")
    return text


Name = Annotated[str, AfterValidator(_name)]


class AuditConfig(Section):
    """The journal itself lies in data_dir/audit, transcripts in data_dir/transcripts."""

    listen: Address = HostPort("127.0.0.1", 0)
    writer: Name = "audit-1"  # this journal's name; one process writes it
    fsync: bool = True  # False: only what decides whether something may happen is synced at once
    transcripts: bool = True
    metrics: Address | None = None
    epoch_s: float = Field(60.0, ge=0.5, le=86_400.0)  # a seal and a checkpoint this often
    segment_mb: float = Field(64.0, gt=0.0, le=4_096.0)  # a file this big is closed
    retention_days: float = Field(0.0, ge=0.0)  # full files older than this are removed; 0: never
    max_mb: int = Field(0, ge=0)  # the journal stops at this size; 0: no limit
    min_free_mb: int = Field(64, ge=0)  # and when the disk has less free than this
    log_name: Name | None = None  # the Merkle log's name; None: landline.local/REGION
    also: list[Path] = Field(default_factory=list)  # audit folders of the region's other writers
