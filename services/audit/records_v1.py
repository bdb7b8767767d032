"""Records as the first version of the journal wrote them: read and verified, never written.

Their hash is SHA-256 over the canonical JSON without `hash`; `prev` is the record before.
"""

from __future__ import annotations

import hashlib
from typing import Any

from services.audit import canonical


class RecordV1Error(ValueError):
    """A line that is no record of the first version."""


def parse(data: dict[str, Any], line: bytes) -> str:
    """Check a decoded line against its own hash; the hash."""
    claimed = data.get("hash")
    body = {key: value for key, value in data.items() if key != "hash"}
    if not isinstance(claimed, str) or canonical.dumps(data) + b"\n" != line:
        raise RecordV1Error("it is not in canonical form")
    if hashlib.sha256(canonical.dumps(body)).hexdigest() != claimed:
        raise RecordV1Error("its hash does not fit its content")
    return claimed
