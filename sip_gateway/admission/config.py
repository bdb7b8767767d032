"""[sip.admission]: what happens to a call that cannot be taken."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from pydantic import Field, model_validator

from services.common.config import Section

_SIP_URI = re.compile(r"sips?:[^\s<>?@\"]+@[^\s<>?@\"]+", re.IGNORECASE)


class WhenFull(StrEnum):
    UNAVAILABLE = "unavailable"  # 503 with Retry-After: the trunk may try another way
    BUSY = "busy"  # 486: the caller hears the engaged tone
    QUEUE = "queue"  # answered, and music until there is a place
    HUMAN = "human"  # a person's number


class HandOver(StrEnum):
    """How a caller is sent to the human's number."""

    REDIRECT = "redirect"  # 302 before the call is answered; needs no line of ours
    REFER = "refer"  # answered, then REFER: for trunks that do not follow a 302


class LedgerLost(StrEnum):
    """What a call from outside gets while the limits are not known."""

    ACCEPT = "accept"
    REFUSE = "refuse"


class UnknownSources(StrEnum):
    """What a request from an address that no trunk names gets."""

    DROP = "drop"  # nothing: the kernel throws it away before it is read
    REFUSE = "refuse"  # 403, and a line in the log that names the address


class AdmissionConfig(Section):
    """A call is taken with a line, a pair of RTP ports, and a place in each service."""

    when_full: WhenFull = WhenFull.UNAVAILABLE
    retry_after_s: int = Field(default=10, ge=1, le=3600)
    human: str | None = None  # SIP URI of a person who takes what we cannot
    human_by: HandOver = HandOver.REDIRECT
    queue_length: int = Field(default=2, ge=1, le=100)  # in each process; each holds a line
    queue_max_wait_s: float = Field(default=60.0, ge=1.0, le=3600.0)
    hold_music: Path | None = None  # WAV, 16 bit; None: our own
    unknown_sources: UnknownSources = UnknownSources.DROP
    # Outbound calls are always refused while the ledger is away: they cost money.
    ledger_lost_inbound: LedgerLost = LedgerLost.ACCEPT

    @model_validator(mode="after")
    def _consistent(self) -> AdmissionConfig:
        if self.human is not None and not _SIP_URI.fullmatch(self.human):
            raise ValueError(
                f'human {self.human!r} must be a SIP URI such as "sip:reception@192.0.2.10"'
            )
        if self.when_full is WhenFull.HUMAN and self.human is None:
            raise ValueError('when_full = "human" needs human = "sip:...": whose number is it?')
        return self
