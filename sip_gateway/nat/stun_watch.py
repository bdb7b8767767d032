"""Asks the STUN servers from time to time, and says when none answers.

PJSIP asks them by itself when a transport and each call's media are made, waits two seconds for a
silent one, and then goes on with the private address without a word.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from sip_gateway import telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.common.addresses import HostPort
    from sip_gateway.endpoint import Endpoint

_log = structlog.get_logger()
_EVERY_S = 60.0


class StunWatch:
    """`async with` is not needed: `start` when the endpoint runs, `stop` before it stops."""

    def __init__(self, endpoint: Endpoint, servers: Sequence[HostPort]) -> None:
        self._endpoint = endpoint
        self._servers = tuple(str(server) for server in servers)
        self._answers: bool | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask; nothing when there is no server."""
        if self._servers:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            self._note(await self._endpoint.usable_stun_server(self._servers))
            await asyncio.sleep(_EVERY_S)

    def _note(self, server: str | None) -> None:
        answers = server is not None
        telemetry.STUN_ANSWERS.set(int(answers))
        if answers is self._answers:
            return
        self._answers = answers
        if answers:
            _log.info("stun_answers", server=server)
        else:
            _log.error(
                "stun_silent",
                servers=list(self._servers),
                effect="calls begin two seconds late, and callers outside are told a private "
                "address and are not heard",
                remedy="correct sip.nat.stun, or set sip.nat.public_address instead",
            )
