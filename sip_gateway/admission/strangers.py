"""Who may speak to this worker at all, and how much was kept away."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import TYPE_CHECKING

import structlog

from services.common.errors import LandlineError
from sip_gateway import telemetry
from sip_gateway.admission.admission import resolve_ipv4
from sip_gateway.admission.config import UnknownSources
from sip_gateway.packet_filter import FilterError

if TYPE_CHECKING:
    from sip_gateway.admission.admission import Admission
    from sip_gateway.admission.refusals import RefusalLog
    from sip_gateway.config import SipConfig
    from sip_gateway.endpoint import Endpoint

_LOOK_S = 10.0
_TELL_EACH = 6  # looks
_log = structlog.get_logger()


def only_from(config: SipConfig) -> tuple[ipaddress.IPv4Network, ...] | None:
    """Whose requests may be read: the edge's, or without one those of the trunks; None: all."""
    if config.admission.unknown_sources is UnknownSources.REFUSE:
        return None
    if config.edge_proxy is not None:
        return tuple(map(ipaddress.IPv4Network, resolve_ipv4(config.edge_proxy.host)))
    return tuple(network for trunk in config.trunks for network in trunk.allow)


class StrangerWatch:
    """Keeps the filter as the trunks' addresses become known, and counts what it threw away."""

    def __init__(self, endpoint: Endpoint, admission: Admission, refusals: RefusalLog) -> None:
        self._endpoint = endpoint
        self._admission = admission
        self._refusals = refusals
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._counted = 0
        self._untold = 0

    def start(self) -> None:
        if self._endpoint.config.only_from is not None and self._endpoint.config.edge_proxy is None:
            self._admission.on_sources = self._changed.set
            self._tasks.append(asyncio.create_task(self._follow(), name="strangers"))
        self._tasks.append(asyncio.create_task(self._look(), name="refusals"))

    async def stop(self) -> None:
        """To be called while the endpoint still runs; nothing happens when it never did."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        with contextlib.suppress(LandlineError):
            await self._count()
        self._tell()
        self._refusals.sum_up(everything=True)

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._endpoint.believe(self._admission.networks)
            except (FilterError, LandlineError) as error:
                _log.error("filter_not_changed", reason=str(error))

    async def _look(self) -> None:
        look = 0
        while True:
            await asyncio.sleep(_LOOK_S)
            self._refusals.sum_up()
            await self._count()
            look += 1
            if look % _TELL_EACH == 0:
                self._tell()

    async def _count(self) -> None:
        dropped = await self._endpoint.strangers_dropped()
        fresh, self._counted = max(dropped - self._counted, 0), dropped
        self._untold += fresh
        telemetry.STRANGERS_DROPPED.inc(fresh)

    def _tell(self) -> None:
        if not self._untold:
            return
        _log.warning(
            "strangers_dropped",
            packets=self._untold,
            missing="no trunk names the addresses that they came from",
            what_to_do="if calls of yours are missing, name their address in allow of a "
            '[[sip.trunks]]; [sip.admission] unknown_sources = "refuse" logs the addresses',
        )
        self._untold = 0
