"""Hold and resume by re-INVITE (RFC 3264, 8.4), and again when both sides asked at once."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Protocol

from services.common.errors import LandlineError

if TYPE_CHECKING:
    from sip_gateway.events import ReinviteRefused

REQUEST_PENDING = 491
_MOST_ATTEMPTS = 5


class HoldsPeer(Protocol):
    async def hold(self, on: bool) -> None: ...


def retry_delay_s(*, we_called: bool, chance: float) -> float:
    """How long to wait after a 491 (RFC 3261, 14.1); `chance` is 0.0 to 1.0.

    Who began the dialog waits longer, so that the two do not collide again.
    """
    low_s, high_s = (2.1, 4.0) if we_called else (0.0, 2.0)
    return low_s + round(chance * (high_s - low_s), 2)


class Hold:
    """Whether we hold the other side: asks, and asks again after a collision."""

    def __init__(self, leg: HoldsPeer, *, we_called: bool, log: Any) -> None:
        self._leg = leg
        self._we_called = we_called
        self._log = log
        self._wanted = False
        self._attempts = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def on(self) -> bool:
        """We hold the other side, or have asked to."""
        return self._wanted

    async def set(self, on: bool) -> None:
        """Hold the other side, or take it back. What becomes of it is told to the log."""
        self._wanted = on
        self._attempts = 0
        self._cancel_timer()
        await self._ask()

    def refused(self, event: ReinviteRefused) -> None:
        """Our re-INVITE was refused: after a collision it is sent again."""
        if self._attempts == 0:
            return  # it was none of ours
        if event.sip_status == REQUEST_PENDING:
            self._try_again()
        else:
            self._log.warning("hold_failed", on=self._wanted, sip_status=event.sip_status)

    def close(self) -> None:
        """The call has ended."""
        self._cancel_timer()
        if self._task is not None:
            self._task.cancel()

    async def _ask(self) -> None:
        self._attempts += 1
        try:
            await self._leg.hold(self._wanted)
        except LandlineError as error:
            # PJSIP itself finds the collision when their re-INVITE is the one under way.
            self._log.info("hold_postponed", on=self._wanted, reason=str(error))
            self._try_again()

    def _try_again(self) -> None:
        if self._attempts >= _MOST_ATTEMPTS:
            self._log.warning("hold_failed", on=self._wanted, sip_status=REQUEST_PENDING)
            return
        # Not for secrets: the two sides must only choose differently.
        delay_s = retry_delay_s(we_called=self._we_called, chance=random.random())
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._ask())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
