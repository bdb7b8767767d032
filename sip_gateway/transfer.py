"""Blind transfer by REFER (RFC 3515): whether a target is allowed, and what became of it."""

from __future__ import annotations

import asyncio
import re
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from services.common.errors import LandlineError
from sip_gateway import messages as m
from sip_gateway import telemetry
from sip_gateway.dialling import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sip_gateway.dialling import Dialling
    from sip_gateway.events import TransferProgressed
    from sip_gateway.leg import Leg

DEADLINE_S = 40.0  # longer than a desk rings before its own voicemail would answer
# A URI as it may be given by a conversation: no headers, no spaces, no brackets.
_URI = re.compile(r"(?:sips?:[^\s<>?@\"]+@[^\s<>?@\"]+|tel:[+0-9][0-9*#().-]*)", re.IGNORECASE)
_ACCEPTED = 202


class TransferState(StrEnum):
    TRYING = "trying"
    ACCEPTED = "accepted"
    FAILED = "failed"


def allowed(target: str, patterns: Iterable[str]) -> bool:
    """True when `target` is a plain SIP or tel URI that one of `patterns` (fnmatch) names.

    Scheme and host do not care for case (RFC 3261, 19.1.4); the user part does.
    """
    if _URI.fullmatch(target) is None:
        return False
    normal = _normalised(target)
    return any(fnmatchcase(normal, _normalised(pattern)) for pattern in patterns)


def state_of(progress: TransferProgressed) -> TransferState:
    """What one report about a REFER means; 202 alone says only that it was understood."""
    if progress.sip_status >= 300:
        return TransferState.FAILED
    if progress.sip_status < 200 or (progress.sip_status == _ACCEPTED and not progress.final):
        return TransferState.TRYING
    return TransferState.ACCEPTED


def _normalised(uri: str) -> str:
    scheme, _, rest = uri.partition(":")
    user, separator, host = rest.rpartition("@")
    return f"{scheme.lower()}:{user}{separator}{host.lower()}"


class Transfers:
    """The transfers of one call: at most one at a time, each told to the agent to its end."""

    def __init__(
        self,
        leg: Leg,
        allow: Iterable[str],
        *,
        dialling: Dialling,
        tell: Callable[[m.TransferUpdated], None],
        on_accepted: Callable[[], None],
        log: Any,
    ) -> None:
        self._leg = leg
        self._allow = tuple(allow)
        self._dialling = dialling
        self._tell = tell
        self._on_accepted = on_accepted
        self._log = log
        self._deadline: asyncio.TimerHandle | None = None
        self._understood = False

    def may_begin(self, target: str) -> bool:
        """Whether a transfer to `target` begins now; if not, the agent is told why."""
        verdict = self._dialling.check_transfer(target)
        if verdict.outcome is Outcome.EMERGENCY:
            self._log.warning("emergency_transfer", target=target, route=verdict.target)
        elif verdict.outcome is Outcome.EMERGENCY_REFUSED:
            self._refused(target, verdict.why, outcome="emergency_refused")
            return False
        elif not verdict.may_dial:
            self._refused(target, verdict.why, outcome="not_allowed")
            return False
        elif not allowed(target, self._allow):
            self._refused(target, "not in transfer_allow", outcome="not_allowed")
            return False
        if self._deadline is not None:
            self._failed(491, "a transfer is already under way", outcome="busy")
            return False
        self._deadline = asyncio.get_running_loop().call_later(
            DEADLINE_S, self._failed, 408, "no answer in time"
        )
        return True

    async def begin(self, target: str) -> None:
        """Send the REFER of the transfer that `may_begin` let begin.

        An emergency number is never sent anywhere but to the people who were named for it.
        """
        try:
            await self._leg.transfer(self._dialling.check_transfer(target).target)
        except LandlineError as error:
            self._failed(500, str(error))

    def on_progress(self, progress: TransferProgressed) -> None:
        """What the other side says about our REFER."""
        if self._deadline is None:
            return
        state = state_of(progress)
        self._log.info("transfer", state=state, sip_status=progress.sip_status)
        if state is TransferState.FAILED:
            self._failed(progress.sip_status, progress.reason)
            return
        self._understood = True
        self._tell(
            m.TransferUpdated(state=state, sip_status=progress.sip_status, reason=progress.reason)
        )
        if state is TransferState.ACCEPTED:
            self._accepted()
            self._on_accepted()

    def peer_left(self) -> bool:
        """The other side hung up: True when it was told to call somebody else and left for that."""
        if not self._understood:
            return False
        self._accepted()
        return True

    def close(self) -> None:
        """The call ends."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        self._understood = False

    def _accepted(self) -> None:
        self.close()
        telemetry.TRANSFERS.labels("accepted").inc()

    def _refused(self, target: str, why: str, *, outcome: str) -> None:
        self._log.warning("transfer_refused", target=target, reason=why)
        self._failed(403, why, outcome=outcome)

    def _failed(self, sip_status: int, reason: str, *, outcome: str = "failed") -> None:
        telemetry.TRANSFERS.labels(outcome).inc()
        if outcome == "failed":
            self.close()
        self._tell(
            m.TransferUpdated(
                state=TransferState.FAILED,
                sip_status=sip_status,
                reason=reason,
                emergency=outcome == "emergency_refused",
            )
        )
