"""One call's keys: those of the caller, told once each, and ours, sent as the trunk wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.common.errors import LandlineError
from sip_gateway import telemetry
from sip_gateway.dialog.dtmf import DtmfMethod, DtmfMode, Keys, valid_digits
from sip_gateway.events import DtmfPressed

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.common.clock import Clock
    from sip_gateway.leg import Leg
    from sip_gateway.media.call_media import CallMedia


class CallKeys:
    """Everything is for the event loop. `tell` hears of each key that the caller pressed."""

    def __init__(
        self,
        mode: DtmfMode,
        leg: Leg,
        media: CallMedia,
        *,
        tell: Callable[[DtmfPressed], None],
        clock: Clock,
        log: Any,
    ) -> None:
        self._keys = Keys(mode)
        self._leg = leg
        self._media = media
        self._tell = tell
        self._clock = clock
        self._log = log

    def media_changed(self, *, events_negotiated: bool) -> None:
        """A stream has begun; whether both sides speak RFC 4733 in it."""
        self._keys.media_changed(events_negotiated=events_negotiated)
        self._listen_to_tones()

    def pressed(self, event: DtmfPressed) -> None:
        """A key came, in whatever way."""
        now_ms, duration_ms = self._clock.now_ms(), event.duration_ms
        if self._keys.accepts(event.digit, event.method, now_ms, duration_ms=duration_ms):
            self._tell(event)
        else:
            telemetry.DTMF_IGNORED.labels(event.method).inc()
        self._listen_to_tones()

    async def send(self, digits: str) -> None:
        """Press keys; what cannot be sent is told to the log."""
        method = self._keys.sending
        try:
            if method is not DtmfMethod.INBAND:
                await self._leg.send_dtmf(digits, method)
            elif valid_digits(digits):
                self._media.send_keys(digits)
            else:
                raise LandlineError(f"{digits!r} are not telephone keys; use 0-9 * # A-D")
        except LandlineError as error:
            self._log.warning("dtmf_not_sent", reason=str(error))

    def _listen_to_tones(self) -> None:
        self._media.listen_to_tones(self._heard if self._keys.listens_to_tones else None)

    def _heard(self, digit: str, duration_ms: int) -> None:
        self.pressed(DtmfPressed(digit=digit, duration_ms=duration_ms, method=DtmfMethod.INBAND))
