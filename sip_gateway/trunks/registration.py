"""Keeps one trunk registered (RFC 3261, 10): tells, counts and retries what fails."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from services.common.errors import LandlineError
from sip_gateway import telemetry
from sip_gateway.trunks.next_hop import is_out_of_reach
from sip_gateway.trunks.resolving import UnknownServerError

if TYPE_CHECKING:
    from sip_gateway.admission.admission import Admission
    from sip_gateway.endpoint import Endpoint
    from sip_gateway.events import RegistrationChanged
    from sip_gateway.trunks.next_hop import NextHop
    from sip_gateway.trunks.trunk import Trunk

_log = structlog.get_logger()
_ANSWER_S = 5.0  # PJSIP itself waits 32 s for an answer over UDP
_RETRY_S = (2.0, 5.0, 10.0, 30.0)
_UNREGISTER_S = 2.0
_NOT_FOUND = 0  # no request was sent
EXPLANATIONS = {
    401: "the registrar does not accept the username or password",
    403: "the registrar forbids it: check the username and password",
    404: "the registrar does not know the username",
    407: "the registrar does not accept the username or password",
    408: "the registrar does not answer",
    502: "the registrar cannot be reached",
    503: "the registrar cannot be reached",
}


class Registration:
    """One trunk's registration. The gateway stays up whatever becomes of it."""

    def __init__(
        self, trunk: Trunk, endpoint: Endpoint, admission: Admission, hop: NextHop
    ) -> None:
        self._trunk = trunk
        self._endpoint = endpoint
        self._admission = admission
        self._hop = hop
        self._log = _log.bind(trunk=trunk.name, registrar=str(trunk.registrar))
        self._registered = False
        self._failures = 0
        self._stopping = False
        self._unregistered = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Send the first REGISTER, once the registrar is found; what it brings is told later."""
        telemetry.REGISTERED.labels(self._trunk.name).set(0)
        self._retry()

    def renew(self) -> None:
        """Register again now, for example because the network has changed."""
        if not self._stopping:
            self._cancel_timer()
            self._retry()

    async def stop(self) -> None:
        """Take the registration back and wait a moment for the answer."""
        self._stopping = True
        self._cancel_timer()
        for task in self._tasks:
            task.cancel()
        if not self._registered:
            return
        with contextlib.suppress(LandlineError, TimeoutError):
            await self._set_registration(False)
            await asyncio.wait_for(self._unregistered.wait(), _UNREGISTER_S)

    def on_changed(self, event: RegistrationChanged) -> None:
        self._cancel_timer()
        if event.registered:
            self._on_registered(event)
        elif self._stopping or event.sip_status // 100 == 2:
            self._set_state(False)
            self._unregistered.set()
        else:
            self._on_failed(event.sip_status, event.reason)

    def _on_registered(self, event: RegistrationChanged) -> None:
        if event.registrar_ip:
            self._admission.learn_registrar(self._trunk.name, [event.registrar_ip])
        if not self._registered:
            self._log.info("registered", expires_s=event.expires_s)
        self._failures = 0
        self._set_state(True)

    def _on_failed(self, sip_status: int, reason: str) -> None:
        self._set_state(False)
        delay_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        if is_out_of_reach(sip_status) and self._hop.advance():
            delay_s = 0.0  # another address of the same registrar
        telemetry.REGISTRATION_FAILURES.labels(self._trunk.name, sip_status).inc()
        self._log.error(
            "registration_failed",
            sip_status=sip_status,
            reason=reason if sip_status == _NOT_FOUND else EXPLANATIONS.get(sip_status, reason),
            retry_in_s=delay_s,
        )
        if not self._stopping:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._retry)

    def _retry(self) -> None:
        task = asyncio.create_task(self._register_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _register_again(self) -> None:
        self._cancel_timer()
        try:
            await self._hop.find()
        except UnknownServerError as error:
            self._on_failed(_NOT_FOUND, str(error))
            return
        try:
            await self._set_registration(True)
        except LandlineError as error:
            # PJSIP refuses while the request before is still waiting for its answer.
            self._log.debug("registration_pending", reason=str(error))
        self._expect_answer()

    def _expect_answer(self) -> None:
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(
            _ANSWER_S, self._on_failed, 408, "no answer"
        )

    async def _set_registration(self, renew: bool) -> None:
        await self._endpoint.with_account(
            self._trunk.name, lambda account: account.setRegistration(renew)
        )

    def _set_state(self, registered: bool) -> None:
        self._registered = registered
        telemetry.REGISTERED.labels(self._trunk.name).set(int(registered))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
