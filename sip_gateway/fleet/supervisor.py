"""Starts, watches, restarts and drains the workers and the edge before them."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from services.common import metrics
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.process import announce
from sip_gateway import telemetry
from sip_gateway.admission.ledger import FILE_NAME, Ledger
from sip_gateway.admission.ledger_socket import LedgerServer
from sip_gateway.edge.keeper import EdgeKeeper
from sip_gateway.edge.plan import CLOSED, EdgePlan, Seat, edge_trunks
from sip_gateway.edge.ports import EVERY_ADDRESS, ReservedPorts, own_address
from sip_gateway.fleet.metrics import FleetMetrics
from sip_gateway.fleet.worker_process import WorkerProcess
from sip_gateway.trunks.resolving import Resolver
from sip_gateway.trunks.trunk import Transport

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.config import ConfigFile
    from services.common.grpc_server import GrpcServer
    from services.common.process import Stop
    from sip_gateway.config import SipConfig
    from sip_gateway.edge.config import EdgeTls
    from sip_gateway.fleet.plan import FleetPlan

_log = structlog.get_logger()
_INSIDE = "127.0.0.1"
_RUN_FOLDER = "run"
_INSIST_EACH_S = 0.5
_INSISTENCE = 16
_GOODBYES_S = 20.0  # what workers need beyond the drain limit
_STARTS_AT_ONCE = 4


async def supervise(file: ConfigFile, config: SipConfig, fleet: FleetPlan, stop: Stop) -> None:
    """Run the fleet until `stop`, and drain it unless `stop.now`."""
    supervisor = Supervisor(file, config, fleet)
    try:
        await supervisor.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, supervisor.renew_trunks)
        announce("sip_gateway", supervisor.address)
        await stop.wait()
        await supervisor.drain(stop.now)
    finally:
        await supervisor.stop()


class Supervisor:
    """The workers of one machine, their edge and their ledger."""

    def __init__(self, file: ConfigFile, config: SipConfig, fleet: FleetPlan) -> None:
        self._file = file
        self._config = config
        self._fleet = fleet
        self._folder = file.shared.data_dir / _RUN_FOLDER
        self._stopping = asyncio.Event()
        self._keeping: list[asyncio.Task[None]] = []
        self._ledger_path = self._folder / "ledger.sock"
        self._ledger = LedgerServer(
            self._ledger_path,
            Ledger(clock=SystemClock(), path=file.shared.data_dir / FILE_NAME),
        )
        self._ports = ReservedPorts()
        self._plan = _edge_plan(file, config, fleet, self._folder, self._ports)
        self.address = self._plan.outside
        self._workers = [
            WorkerProcess(number, self._command(number), self._on_worker)
            for number in range(1, fleet.workers + 1)
        ]
        self._edge = EdgeKeeper(self._plan, self._seats, Resolver(config.nameservers))
        self._dialler: GrpcServer | None = None

    async def start(self) -> None:
        """Everything is up when this returns; ConfigError for what a person has to mend."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._edge.check()
        if self._config.metrics is not None:
            self._serve_metrics(self._config.metrics)
        await self._ledger.start()
        few = asyncio.Semaphore(_STARTS_AT_ONCE)

        async def start_one(worker: WorkerProcess) -> None:
            async with few:
                await worker.start()

        results = await asyncio.gather(
            *(start_one(worker) for worker in self._workers), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._ports.release()
        await self._edge.start()
        if self._config.outbound.listen is not None:
            # Not at the top: gRPC is a quarter of this process's memory.
            from sip_gateway.outbound import server as dial_server

            relay = dial_server.DialRelay(self._with_room, self._diallers, self._file.tls())
            self._dialler = await dial_server.serve(
                self._config.outbound.listen, self._file.tls(), relay
            )
            _log.info("dialler", port=self._dialler.port)
        self._keeping = [
            asyncio.create_task(worker.keep(self._stopping)) for worker in self._workers
        ]
        _log.info(
            "ready",
            listen=str(self.address),
            workers=len(self._workers),
            conversations=len(self._workers) * self._fleet.slots,
        )

    def renew_trunks(self) -> None:
        """Register every trunk again now: the network has changed."""
        self._renewing = asyncio.create_task(self._edge.register_again())

    async def drain(self, now: asyncio.Event) -> None:
        """The edge takes no more calls, then the workers finish theirs. `now` ends them."""
        self._stopping.set()
        _log.info("draining", limit_s=self._config.drain_limit_s)
        await self._edge.drain()
        for worker in self._workers:
            worker.ask()
        ended = asyncio.gather(*self._keeping)
        insisted = asyncio.create_task(now.wait())
        limit_s = self._config.drain_limit_s + _GOODBYES_S
        await asyncio.wait((ended, insisted), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        insisted.cancel()
        for _ in range(_INSISTENCE):
            if ended.done():
                return
            # Two signals at once are one to who gets them, so this is said again and again.
            for worker in self._workers:
                worker.ask()
            await asyncio.wait((ended,), timeout=_INSIST_EACH_S)

    async def stop(self) -> None:
        """Leave nothing running. The edge goes last: goodbyes pass through it."""
        self._stopping.set()
        self._ports.release()
        if self._dialler is not None:
            await self._dialler.stop(0.0)
        for worker in self._workers:
            await worker.kill()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._edge.stop()
        await self._ledger.stop()

    def _seats(self) -> list[Seat]:
        return [seat for worker in self._workers if (seat := self._seat(worker)) is not None]

    def _seat(self, worker: WorkerProcess) -> Seat | None:
        if worker.address is None or worker.status is None:
            return None
        takes_calls = worker.status.open and not self._stopping.is_set()
        load = worker.status.legs if takes_calls else CLOSED
        return Seat(number=worker.number, name=worker.name, address=worker.address, load=load)

    def _on_worker(self, worker: WorkerProcess) -> None:
        telemetry.WORKERS.set(sum(item.address is not None for item in self._workers))
        self._edge.seat_changed(worker.number, self._seat(worker))

    def _command(self, number: int) -> _Command:
        settings: dict[str, object] = {
            "sip.listen": f"{_INSIDE}:0",
            "sip.transports": '["udp", "tcp"]',
            "sip.rtp_ports": self._fleet.rtp_ports[number - 1],
            "sip.edge_proxy": self._plan.inside,
            "sip.ledger": self._ledger_path,
            "sip.worker.media_host": self._config.listen.host,
        }
        if self._config.metrics is not None:
            settings["sip.metrics"] = f"{_INSIDE}:0"
        if self._config.outbound.listen is not None:
            settings["sip.outbound.listen"] = f"{_INSIDE}:0"
        return _Command(self._file, settings, self._plan.advertised)

    def _serve_metrics(self, address: HostPort) -> None:
        registry = CollectorRegistry()
        registry.register(FleetMetrics(metrics.REGISTRY, self._metrics_ports))
        port = telemetry.serve_metrics(address, registry)
        _log.info("metrics", listen=f"{address.host}:{port}")

    def _with_room(self) -> list[HostPort]:
        """The services of the workers that have room for a call, the emptiest first."""
        statuses = [worker.status for worker in self._workers if worker.status is not None]
        able = [
            status
            for status in statuses
            if status.open and status.dial_port and status.legs < status.slots
        ]
        able.sort(key=lambda status: status.legs - status.slots)
        return [HostPort(_INSIDE, status.dial_port) for status in able]

    def _diallers(self) -> list[HostPort]:
        statuses = (worker.status for worker in self._workers if worker.status is not None)
        return [HostPort(_INSIDE, status.dial_port) for status in statuses if status.dial_port]

    def _metrics_ports(self) -> dict[str, int]:
        """For the metrics server's threads."""
        statuses = ((worker.name, worker.status) for worker in self._workers)
        return {name: status.metrics_port for name, status in statuses if status is not None}


class _Command:
    """The arguments that start a worker under a name."""

    def __init__(self, file: ConfigFile, settings: dict[str, object], contact_at: HostPort) -> None:
        self._file = file
        self._settings = settings
        self._contact_at = contact_at

    def __call__(self, name: str) -> tuple[str, ...]:
        contact = f"sip:{name}@{self._contact_at}"
        mine = {"sip.worker.name": name, "sip.worker.contact": contact, **self._settings}
        overrides = (*self._file.overrides, *(f"{key}={value}" for key, value in mine.items()))
        options = (part for override in overrides for part in ("--set", override))
        return (
            *("-m", "sip_gateway", "--supervised", "--config", str(self._file.path)),
            *options,
        )


def _edge_plan(
    file: ConfigFile, config: SipConfig, fleet: FleetPlan, folder: Path, ports: ReservedPorts
) -> EdgePlan:
    transports = tuple(config.transports)
    outside = config.listen._replace(host=config.listen.host.replace("*", EVERY_ADDRESS))
    outside = ports.take("[sip] listen", outside, transports)
    tls = _tls_files(file, config.edge.tls)
    if tls is not None:
        ports.take("[sip.edge.tls] listen", tls.listen, (Transport.TCP,))
    host = own_address() if outside.host == EVERY_ADDRESS else outside.host
    return EdgePlan(
        config=config.edge.model_copy(update={"tls": tls}),
        outside=outside,
        advertised=outside._replace(host=config.nat.public_address or host),
        inside=ports.take(
            "the edge's side towards the workers",
            HostPort(_INSIDE, 0),
            (Transport.UDP, Transport.TCP),
        ),
        transports=transports,
        trunks=edge_trunks(config.trunks),
        workers=fleet.workers,
        slots=fleet.slots,
        folder=folder,
    )


def _tls_files(file: ConfigFile, tls: EdgeTls | None) -> EdgeTls | None:
    """With the paths of files as they are found from here, and fit for use."""
    if tls is None:
        return None
    paths = {"cert_file": tls.cert_file, "key_file": tls.key_file, "ca_file": tls.ca_file}
    found = {key: file.resolve(path) for key, path in paths.items() if path is not None}
    resolved = tls.model_copy(update=found)
    resolved.check()
    return resolved
