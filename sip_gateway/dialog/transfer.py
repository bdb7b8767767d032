"""Transfer by REFER (RFC 3515), blind or attended: what is allowed, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from services.common.errors import LandlineError
from sip_gateway import messages as m
from sip_gateway import telemetry
from sip_gateway.events import LegConfirmed, LegEnded, LegProceeding
from sip_gateway.outbound.dialling import Outcome, leads_elsewhere, names_uri

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from sip_gateway.events import LegEvent, TransferProgressed
    from sip_gateway.leg import Leg
    from sip_gateway.outbound.dialling import Dialling

DEADLINE_S = 40.0  # longer than a desk rings before its own voicemail would answer
_REPLACED_S = 2.0
# A URI as it may be given by a conversation: no headers, no spaces, no brackets.
_URI = re.compile(
    r"(?:sips?:[^\s<>?@\"\x00-\x1f\x7f]+@[^\s<>?@\"\x00-\x1f\x7f]+|tel:[+0-9][0-9*#().-]*)",
    re.IGNORECASE,
)
_TRYING = 100
_ACCEPTED = 202


class Consult(Protocol):
    """Calls the target of an attended transfer on the account of a trunk."""

    async def __call__(
        self, trunk: str, target: str, on_event: Callable[[LegEvent], None]
    ) -> Leg: ...


class TransferState(StrEnum):
    TRYING = "trying"
    ACCEPTED = "accepted"
    FAILED = "failed"


def allowed(target: str, patterns: Iterable[str]) -> bool:
    """True when `target` is a plain SIP or tel URI that one of `patterns` names (`names_uri`)."""
    if _URI.fullmatch(target) is None or leads_elsewhere(target):
        return False
    return any(names_uri(pattern, target) for pattern in patterns)


def state_of(progress: TransferProgressed) -> TransferState:
    """What one report about a REFER means; 202 alone says only that it was understood."""
    if progress.sip_status >= 300:
        return TransferState.FAILED
    if progress.sip_status < 200 or (progress.sip_status == _ACCEPTED and not progress.final):
        return TransferState.TRYING
    return TransferState.ACCEPTED


class Transfers:
    """The transfers of one call: at most one at a time, each told to the agent to its end.

    A blind one sends the caller away at once. An attended one calls the target first; the caller
    hears ringing meanwhile and is handed over by a REFER with Replaces (RFC 5589, 7.3) when the
    target has answered.
    """

    def __init__(
        self,
        leg: Leg,
        allow: Iterable[str],
        *,
        dialling: Dialling,
        consult: Callable[[str, Callable[[LegEvent], None]], Awaitable[Leg]],
        ring_back: Callable[[bool], None],
        tell: Callable[[m.TransferUpdated], None],
        on_accepted: Callable[[], None],
        log: Any,
    ) -> None:
        self._leg = leg
        self._allow = tuple(allow)
        self._dialling = dialling
        self._consult = consult
        self._ring_back = ring_back
        self._tell = tell
        self._on_accepted = on_accepted
        self._log = log
        self._deadline: asyncio.TimerHandle | None = None
        self._referred = False
        self._understood = False
        self._consulted: Leg | None = None
        self._consulted_ended = asyncio.Event()
        self._attempt = object()  # whose events count
        self._tasks: set[asyncio.Task[None]] = set()

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

    async def begin(self, target: str, *, attended: bool) -> None:
        """Begin the transfer that `may_begin` allowed.

        An emergency number is never sent anywhere but to the people who were named for it.
        """
        if self._deadline is None:  # the call has ended meanwhile
            return
        target = self._dialling.check_transfer(target).target
        try:
            if attended:
                self._consulted_ended.clear()
                self._ring_back(True)
                self._attempt = attempt = object()
                self._consulted = await self._consult(target, partial(self._on_consulted, attempt))
                if self._deadline is None:
                    await self._drop_consulted()
            else:
                self._referred = True
                await self._leg.transfer(target)
        except LandlineError as error:
            self._failed(500, str(error))

    def on_progress(self, progress: TransferProgressed) -> None:
        """What the other side says about our REFER."""
        if self._deadline is None or not self._referred:
            return
        state = state_of(progress)
        self._log.info("transfer", state=state, sip_status=progress.sip_status)
        if state is TransferState.FAILED:
            self._failed(progress.sip_status, progress.reason)
            return
        self._understood = True
        self._update(state, progress.sip_status, progress.reason)
        if state is TransferState.ACCEPTED:
            self._accepted()
            self._on_accepted()

    def peer_left(self) -> bool:
        """The other side hung up: True when it was told to call somebody else and left for that."""
        if not self._understood:
            return False
        self._accepted()
        return True

    async def finish(self) -> None:
        """The call has ended: leave no leg behind; a target that was replaced hangs up itself."""
        handed_over = self._consulted is not None and self._referred
        self._forget()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._consulted is None or self._consulted.ended:
            return
        if handed_over:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._consulted_ended.wait(), _REPLACED_S)
        await self._drop_consulted()

    # -- the target of an attended transfer -------------------------------------------------------

    def _on_consulted(self, attempt: object, event: LegEvent) -> None:
        if attempt is not self._attempt:
            return  # a target that was given up takes its time to end
        match event:
            case LegProceeding(sip_status=sip_status) if sip_status > _TRYING:
                self._update(TransferState.TRYING, sip_status, "")
            case LegConfirmed():
                self._begin(self._hand_over())
            case LegEnded(sip_status=sip_status, reason=reason):
                self._consulted_ended.set()
                if self._deadline is not None and not self._referred:
                    self._failed(sip_status, reason)

    async def _hand_over(self) -> None:
        consulted = self._consulted
        if self._deadline is None or consulted is None:
            return
        self._referred = True
        try:
            await self._leg.transfer_to(consulted)
        except LandlineError as error:
            self._failed(500, str(error))

    async def _drop_consulted(self) -> None:
        consulted, self._consulted = self._consulted, None
        if consulted is not None:
            with contextlib.suppress(LandlineError):
                await consulted.hang_up()

    # -- its end ----------------------------------------------------------------------------------

    def _update(self, state: TransferState, sip_status: int, reason: str) -> None:
        self._tell(m.TransferUpdated(state=state, sip_status=sip_status, reason=reason))

    def _accepted(self) -> None:
        telemetry.TRANSFERS.labels("accepted").inc()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        self._understood = False

    def _refused(self, target: str, why: str, *, outcome: str) -> None:
        self._log.warning("transfer_refused", target=target, reason=why)
        self._failed(403, why, outcome=outcome)

    def _failed(self, sip_status: int, reason: str, *, outcome: str = "failed") -> None:
        telemetry.TRANSFERS.labels(outcome).inc()
        if outcome == "failed":
            self._log.warning("transfer_failed", sip_status=sip_status, reason=reason)
            self._forget()
            self._begin(self._drop_consulted())
        self._tell(
            m.TransferUpdated(
                state=TransferState.FAILED,
                sip_status=sip_status,
                reason=reason,
                emergency=outcome == "emergency_refused",
            )
        )

    def _forget(self) -> None:
        self._ring_back(False)
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        self._referred = self._understood = False

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
