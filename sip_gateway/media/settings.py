"""[sip.media]: how much delay a bad line may cost, and when a silent line is given up."""

from __future__ import annotations

from pydantic import Field, model_validator

from services.common.config import Section
from sip_gateway.media.jitter import JitterPolicy


class MediaConfig(Section):
    """The section itself. What a trunk says in its own `media` comes before it."""

    jitter_buffer_start_ms: int = Field(default=20, ge=0, le=500)
    jitter_buffer_max_ms: int = Field(default=200, ge=40, le=1000)
    rtp_timeout_s: float = Field(default=20.0, ge=0, le=3600)  # 0: never
    one_way_after_s: float = Field(default=5.0, ge=1, le=60)

    @model_validator(mode="after")
    def _consistent(self) -> MediaConfig:
        _check(self.jitter_buffer_start_ms, self.jitter_buffer_max_ms)
        return self

    @property
    def jitter(self) -> JitterPolicy:
        return JitterPolicy(start_ms=self.jitter_buffer_start_ms, max_ms=self.jitter_buffer_max_ms)

    def for_trunk(self, own: TrunkMedia) -> MediaConfig:
        """What holds for a trunk; ValueError when its own values contradict the others."""
        changed = {**self.model_dump(), **own.model_dump(exclude_none=True)}
        return MediaConfig.model_validate(changed)


class TrunkMedia(Section):
    """[sip.trunks.media]: what is different for one trunk; the rest is as in [sip.media]."""

    jitter_buffer_start_ms: int | None = Field(default=None, ge=0, le=500)
    jitter_buffer_max_ms: int | None = Field(default=None, ge=40, le=1000)
    rtp_timeout_s: float | None = Field(default=None, ge=0, le=3600)
    one_way_after_s: float | None = Field(default=None, ge=1, le=60)


def _check(start_ms: int, max_ms: int) -> None:
    # PJMEDIA lets the buffer fill to four fifths before speech goes on.
    if start_ms > max_ms * 4 // 5:
        raise ValueError(
            f"jitter_buffer_start_ms {start_ms} is more than four fifths of "
            f"jitter_buffer_max_ms {max_ms}: the buffer would overflow before it is played"
        )
