"""A telephone at the configured trunk: it registers, calls, is called, and keeps each message."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Self

from services.common.errors import ConfigError, LandlineError
from sip_gateway.doctor.ladder import SipMessage
from sip_gateway.endpoint import LOCAL, REFUSING, Endpoint, LegTerms
from sip_gateway.events import Refusal
from sip_gateway.nat import alg
from sip_gateway.sip.redaction import without_secrets
from sip_gateway.softphone import SoftphoneCall
from sip_gateway.trunks import accounts
from sip_gateway.trunks.trunk import TrunkKind

if TYPE_CHECKING:
    from types import TracebackType

    from services.common.clock import Clock
    from sip_gateway.config import EndpointConfig
    from sip_gateway.events import Invite, RegistrationChanged
    from sip_gateway.leg import Leg
    from sip_gateway.trunks.trunk import Trunk

_MOST_MESSAGES = 2000
_UNREGISTER_S = 2.0
_BUSY = Refusal(sip_status=486, why="busy")


class Line:
    """`async with Line(...) as line:`; ConfigError when the listening address cannot be had."""

    def __init__(self, trunk: Trunk, config: EndpointConfig, clock: Clock) -> None:
        self.trunk = trunk
        self._config = config
        self._clock = clock
        self._started_ms = clock.now_ms()
        self._endpoint: Endpoint | None = None
        self._calls: list[SoftphoneCall] = []
        self._ringing: asyncio.Queue[tuple[Leg, SoftphoneCall]] = asyncio.Queue()
        self._registrations: asyncio.Queue[RegistrationChanged] = asyncio.Queue()
        self._registered = False
        self.expecting = False  # while false, calls that come are refused as busy
        self.messages: deque[SipMessage] = deque(maxlen=_MOST_MESSAGES)
        self.damage: list[alg.AlgFinding] = []
        self._asked: dict[tuple[str, str], str] = {}

    async def __aenter__(self) -> Self:
        self._endpoint = Endpoint(
            self._config,
            screen=lambda _invite, _others: None if self.expecting else _BUSY,
            on_invite=self._on_invite,
            on_refused=lambda _invite, _status, _why: None,
            on_malformed=lambda: None,
            on_message=self._on_message,
            # With the trunk's own media settings, as the gateway takes its calls.
            terms=lambda _invite: LegTerms(account=self.trunk.name),
        )
        try:
            await self._endpoint.start()
        except ConfigError as error:
            raise ConfigError(
                f"{error} If it is Landline itself, stop it for the examination: "
                "two cannot be registered as one"
            ) from None
        await self._endpoint.add_account(LOCAL, accounts.local_account())
        await self._endpoint.add_account(REFUSING, accounts.refusing_account())
        if self.trunk.kind is TrunkKind.PEER:  # else `register` does it
            await self._endpoint.add_account(self.trunk.name, accounts.trunk_account(self.trunk))
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for call in self._calls:
            await call.hang_up()
        if self._registered:
            with contextlib.suppress(LandlineError, TimeoutError):
                await self._running().with_account(
                    self.trunk.name, lambda account: account.setRegistration(False)
                )
                await asyncio.wait_for(self._registrations.get(), _UNREGISTER_S)
        await self._running().stop()

    def now_ms(self) -> float:
        """The time that `messages` are stamped with."""
        return self._clock.now_ms() - self._started_ms

    async def register(self, timeout_s: float) -> RegistrationChanged | None:
        """Register at the trunk's registrar; None when no answer comes."""
        account = accounts.registered_account(self.trunk, self._registrations.put_nowait)
        await self._running().add_account(self.trunk.name, account)
        with contextlib.suppress(TimeoutError):
            change = await asyncio.wait_for(self._registrations.get(), timeout_s)
            self._registered = change.registered
            return change
        return None

    async def place(self, uri: str) -> SoftphoneCall:
        """Send an INVITE; `answered` of the call tells what becomes of it."""
        endpoint = self._running()
        call = SoftphoneCall(endpoint, self._clock)
        self._calls.append(call)
        leg = await endpoint.dial(
            uri, account=self.trunk.name, tap=call.audio, on_event=call.on_event
        )
        call.attach(leg)
        return call

    async def take(self, timeout_s: float) -> SoftphoneCall | None:
        """Answer the call that comes in; None when none does."""
        try:
            leg, call = await asyncio.wait_for(self._ringing.get(), timeout_s)
            await leg.answer(200)
            await asyncio.wait_for(call.answered(), timeout_s)
        except (TimeoutError, LandlineError):
            return None
        return call

    def _on_invite(self, leg: Leg, _invite: Invite) -> None:
        call = SoftphoneCall(self._running(), self._clock)
        call.attach(leg)
        self._calls.append(call)
        self._ringing.put_nowait((leg, call))

    def _on_message(self, sent: bool, peer: str, text: str) -> None:
        """On a thread of PJSIP's. What is secret is not kept longer than its transaction."""
        message = SipMessage(at_ms=self.now_ms(), sent=sent, peer=peer, text=text)
        self._look_for_damage(message)
        self.messages.append(dataclasses.replace(message, text=without_secrets(text)))

    def _look_for_damage(self, message: SipMessage) -> None:
        """Before secrets are taken out, which would change the length of a body."""
        if message.sent and not message.status:
            self._asked[message.transaction] = message.text
        elif not message.sent and message.status:
            request = self._asked.get(message.transaction, "")
            self.damage += alg.examine_answer(message.text, message.peer, request)
            if message.status >= 200:
                self._asked.pop(message.transaction, None)
        elif not message.sent:
            self.damage += alg.examine_received(message.text, message.peer)

    def _running(self) -> Endpoint:
        if self._endpoint is None:
            raise LandlineError('a line is used with "async with"')
        return self._endpoint
