"""Where the time of one turn went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class TurnTiming:
    """Moments of one turn on the monotonic clock in milliseconds, set as they come.

    `voice_ended` is when the last voiced sound arrived here, `confirmed` when the turn was taken as
    over. The service's own figures are kept as they report them.
    """

    voice_ended_ms: float
    confirmed_ms: float
    recognised_ms: float
    decode_ms: int = 0
    asked_llm_ms: float | None = None
    first_text_ms: float | None = None
    asked_tts_ms: float | None = None
    first_audio_ms: float | None = None

    def figures(self) -> dict[str, int]:
        """Whole milliseconds for the journal; only what was reached.

        framework_ms is what neither waiting for the end of the turn nor an engine accounts for.
        """
        if self.first_audio_ms is None or self.asked_tts_ms is None:
            return {}
        total_ms = self.first_audio_ms - self.voice_ended_ms
        endpointing_ms = self.confirmed_ms - self.voice_ended_ms
        stt_ms = self.recognised_ms - self.confirmed_ms
        llm_ms = (
            self.first_text_ms - self.asked_llm_ms
            if self.first_text_ms is not None and self.asked_llm_ms is not None
            else 0.0
        )
        tts_ms = self.first_audio_ms - self.asked_tts_ms
        framework_ms = total_ms - endpointing_ms - min(self.decode_ms, stt_ms) - llm_ms - tts_ms
        figures = {
            "total_ms": total_ms,
            "endpointing_ms": endpointing_ms,
            "stt_ms": stt_ms,
            "llm_ms": llm_ms,
            "tts_ms": tts_ms,
            "framework_ms": framework_ms,
        }
        return {name: round(value) for name, value in figures.items()}
