"""Keeps the edge running and in step with the workers: seats, registrations, counters."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import structlog

from services.common.errors import LandlineError
from sip_gateway import telemetry
from sip_gateway.edge.process import EdgeProcess
from sip_gateway.edge.rpc import EdgeRpcError
from sip_gateway.trunks.resolving import UnknownServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sip_gateway.edge.plan import EdgePlan, EdgeTrunk, Seat
    from sip_gateway.trunks.resolving import Resolver

_log = structlog.get_logger()
_STEP_S = 2.0
_RESOLVE_S = 60.0
_RESTART_S = (0.0, 0.5, 1.0, 2.0, 5.0)
_STEADY_AFTER_S = 30.0
_UNREGISTER_S = 2.0
_ONLINE = 4  # flag of a registration that holds
# Counters of routes.cfg that are refusals; `malformed` and `tried_again` are not.
_REFUSALS = ("unknown_source", "banned", "flood", "too_fast", "too_large", "full")


class EdgeKeeper:
    """`seats()` tells all seats as they are now; `seat_changed` that one is different."""

    def __init__(self, plan: EdgePlan, seats: Callable[[], list[Seat]], resolver: Resolver) -> None:
        self._plan = plan
        self._resolver = resolver
        self._seats = seats
        self._process = EdgeProcess(plan)
        self._registering = [trunk for trunk in plan.trunks if trunk.registers]
        self._registrars: dict[str, set[str]] = {trunk.key: set() for trunk in self._registering}
        self._registered: dict[str, bool] = {}
        self._counted: dict[str, int] = {}
        self._draining = False
        self._up = False
        self._changed: set[int] = set()
        self._names: dict[int, str] = {}  # seat number -> the name that the edge knows
        self._wake = asyncio.Event()
        self._pushing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """Of the running edge; 0 while there is none."""
        return self._process.pid if self._up else 0

    async def check(self) -> None:
        """ConfigError when Kamailio refuses what was written for it."""
        await self._process.check()

    async def start(self) -> None:
        for trunk in self._registering:
            telemetry.REGISTERED.labels(trunk.name).set(0)
        await self._resolve()
        await self._start_process()
        self._tasks = [
            asyncio.create_task(work()) for work in (self._keep, self._push, self._watch)
        ]
        if self._registering:
            self._tasks.append(asyncio.create_task(self._resolve_again()))

    def seat_changed(self, number: int, _seat: Seat | None) -> None:
        """Tell the edge soon."""
        self._changed.add(number)
        self._wake.set()

    async def drain(self) -> None:
        """No new calls from now on, and no registration."""
        self._draining = True
        with contextlib.suppress(EdgeRpcError):
            await self._process.rpc.call("htable.seti", "state", "draining", 1)
            await self._push_seats({seat.number for seat in self._seats()})
        with contextlib.suppress(EdgeRpcError, TimeoutError):
            async with asyncio.timeout(_UNREGISTER_S):
                await self._unregister()

    async def stop(self) -> None:
        """End it, and leave no file with a secret."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._up = False
        self._resolver.close()
        await self._process.stop()
        self._process.remove_files()

    # -- the process --------------------------------------------------------------------------

    async def _start_process(self) -> None:
        seats = self._seats()
        self._counted = {}
        await self._process.start(seats, self._registrars, draining=self._draining)
        self._names = {seat.number: seat.name for seat in seats}
        self._up = True
        # What changed while it started was not in what it was started with.
        self._changed |= {seat.number for seat in self._seats()}
        self._wake.set()
        _log.info("edge_ready", listen=str(self._plan.outside), pid=self._process.pid)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_s = loop.time()
            status = await self._process.wait()
            self._up = False
            telemetry.EDGE_RESTARTS.inc()
            _log.error("edge_ended", status=status, effect="live calls go on; starting it again")
            if loop.time() - started_s > _STEADY_AFTER_S:
                failures = 0
            while not self._up:
                await asyncio.sleep(_RESTART_S[min(failures, len(_RESTART_S) - 1)])
                try:
                    await self._start_process()
                except (LandlineError, OSError) as error:  # no memory for a process, say
                    _log.error("edge_not_started", reason=str(error))
                failures += 1

    # -- seats --------------------------------------------------------------------------------

    async def _push(self) -> None:
        """Tell the edge of changed seats, and compare all of them from time to time."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _STEP_S)
            self._wake.clear()
            if not self._up:
                continue
            changed, self._changed = self._changed, set()
            try:
                await self._push_seats(changed or await self._astray())
            except EdgeRpcError as error:
                self._changed |= changed
                _log.warning("edge_not_told", reason=str(error))
                await asyncio.sleep(_RESTART_S[1])

    async def _push_seats(self, numbers: set[int]) -> None:
        async with self._pushing:
            await self._push_each(numbers)

    async def _push_each(self, numbers: set[int]) -> None:
        rpc = self._process.rpc
        seats = {seat.number: seat for seat in self._seats()}
        for number in sorted(numbers):
            seat, known = seats.get(number), self._names.get(number)
            if known is not None and (seat is None or seat.name != known):
                await rpc.call("htable.delete", "place", str(number))
                await rpc.call("htable.delete", "worker", known)
                await rpc.call("htable.delete", "load", known)
                del self._names[number]
            if seat is not None:
                await rpc.call("htable.seti", "load", seat.name, seat.load)
                if number not in self._names:
                    await rpc.call("htable.sets", "worker", seat.name, str(seat.address))
                    await rpc.call("htable.sets", "place", str(number), seat.name)
                    self._names[number] = seat.name

    async def _astray(self) -> set[int]:
        """Seats whose load at the edge is not what the worker says.

        The edge counts a call as soon as it places it. One that never became a leg, for example
        because its SDP was refused, is not reported by the worker.
        """
        loads = _table(await self._process.rpc.call("htable.dump", "load"))
        return {seat.number for seat in self._seats() if loads.get(seat.name) != seat.load}

    # -- counters and registrations -----------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_STEP_S)
            if not self._up:
                continue
            try:
                self._count(_table(await self._process.rpc.call("htable.dump", "count")))
                if self._registering and not self._draining:
                    self._see_registrations(await self._process.rpc.call("uac.reg_dump"))
            except EdgeRpcError as error:
                _log.warning("edge_not_asked", reason=str(error))

    def _count(self, counts: dict[str, Any]) -> None:
        for name, value in counts.items():
            new = max(0, int(value) - self._counted.get(name, 0))
            self._counted[name] = int(value)
            if name in _REFUSALS:
                telemetry.REFUSED.labels(name).inc(new)
            elif name == "malformed":
                telemetry.MALFORMED.inc(new)

    def _see_registrations(self, records: list[dict[str, Any]]) -> None:
        online = {str(record["l_uuid"]): bool(int(record["flags"]) & _ONLINE) for record in records}
        for trunk in self._registering:
            registered = online.get(trunk.key, False)
            telemetry.REGISTERED.labels(trunk.name).set(int(registered))
            if registered != self._registered.get(trunk.key, False):
                event = "registered" if registered else "registration_lost"
                _log.info(event, trunk=trunk.name, registrar=str(trunk.registrar))
            self._registered[trunk.key] = registered

    async def register_again(self) -> None:
        """Find every registrar again and register there now: the network has changed."""
        await self._resolve()
        for trunk in self._registering:
            with contextlib.suppress(EdgeRpcError):
                await self._process.rpc.call("uac.reg_enable", "l_uuid", trunk.key)

    async def _unregister(self) -> None:
        for trunk in self._registering:
            await self._process.rpc.call("uac.reg_unregister", "l_uuid", trunk.key)
            telemetry.REGISTERED.labels(trunk.name).set(0)

    # -- registrars' addresses ----------------------------------------------------------------

    async def _resolve_again(self) -> None:
        while True:
            await asyncio.sleep(_RESOLVE_S)
            await self._resolve()

    async def _resolve(self) -> None:
        """Whoever a registrar's name leads to may send calls for its trunk."""
        for trunk in self._registering:
            for ip in await self._addresses(trunk) - self._registrars[trunk.key]:
                self._registrars[trunk.key].add(ip)
                if self._up:
                    with contextlib.suppress(EdgeRpcError):
                        key = f"{trunk.key}::{ip}"
                        await self._process.rpc.call("htable.seti", "registrar", key, 1)

    async def _addresses(self, trunk: EdgeTrunk) -> set[str]:
        if trunk.registrar is None:
            return set()
        try:
            targets = await self._resolver.targets(trunk.registrar, trunk.transport)
        except UnknownServerError as error:
            _log.error("registrar_not_found", trunk=trunk.name, reason=str(error))
            return set()
        return {target.ip for target in targets}


def _table(dump: list[dict[str, Any]]) -> dict[str, Any]:
    """A htable.dump as a dict."""
    return {slot["name"]: slot["value"] for entry in dump for slot in entry["slot"]}
