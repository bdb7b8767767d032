"""Starts, watches, restarts and drains the workers and the edge before them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from services.common import metrics
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.errors import ConfigError
from services.common.process import announce
from sip_gateway import telemetry
from sip_gateway.edge.keeper import EdgeKeeper
from sip_gateway.edge.plan import CLOSED, EdgePlan, Seat, edge_trunks
from sip_gateway.fleet_metrics import FleetMetrics
from sip_gateway.ledger import FILE_NAME, Ledger
from sip_gateway.ledger_socket import LedgerServer
from sip_gateway.trunk import Transport
from sip_gateway.worker_process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.config import ConfigFile
    from services.common.process import Stop
    from sip_gateway.config import SipConfig
    from sip_gateway.fleet import FleetPlan

_log = structlog.get_logger()
_INSIDE = "127.0.0.1"
_RUN_FOLDER = "run"
_LAST_CALLS_S = 8.0
_PORT_ATTEMPTS = 20
_STARTS_AT_ONCE = 4


async def supervise(file: ConfigFile, config: SipConfig, fleet: FleetPlan, stop: Stop) -> None:
    """Run the fleet until `stop`, and drain it unless `stop.now`."""
    supervisor = Supervisor(file, config, fleet)
    try:
        await supervisor.start()
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
        self._plan = _edge_plan(file, config, fleet, self._folder)
        self.address = self._plan.outside
        self._workers = [
            WorkerProcess(number, self._command(number), self._on_worker)
            for number in range(1, fleet.workers + 1)
        ]
        self._edge = EdgeKeeper(self._plan, self._seats)

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
        await self._edge.start()
        self._keeping = [
            asyncio.create_task(worker.keep(self._stopping)) for worker in self._workers
        ]
        _log.info(
            "ready",
            listen=str(self.address),
            workers=len(self._workers),
            conversations=len(self._workers) * self._fleet.slots,
        )

    async def drain(self, now: asyncio.Event) -> None:
        """The edge takes no more calls, then the workers finish theirs. `now` ends them."""
        self._stopping.set()
        _log.info("draining", limit_s=self._config.drain_limit_s)
        await self._edge.drain()
        for worker in self._workers:
            worker.ask()
        ended = asyncio.gather(*self._keeping)
        insisted = asyncio.create_task(now.wait())
        await asyncio.wait((ended, insisted), return_when=asyncio.FIRST_COMPLETED)
        insisted.cancel()
        if not ended.done():
            for worker in self._workers:
                worker.ask()
            await asyncio.wait((ended,), timeout=_LAST_CALLS_S)

    async def stop(self) -> None:
        """Leave nothing running. The edge goes last: goodbyes pass through it."""
        self._stopping.set()
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
        return _Command(self._file, settings, self._plan.advertised)

    def _serve_metrics(self, address: HostPort) -> None:
        registry = CollectorRegistry()
        registry.register(FleetMetrics(metrics.REGISTRY, self._metrics_ports))
        port = telemetry.serve_metrics(address, registry)
        _log.info("metrics", listen=f"{address.host}:{port}")

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


def _edge_plan(file: ConfigFile, config: SipConfig, fleet: FleetPlan, folder: Path) -> EdgePlan:
    transports = tuple(config.transports)
    outside = _free_address(config.listen, transports)
    if outside.host in ("0.0.0.0", "*"):
        outside = outside._replace(host="0.0.0.0")
        advertised = outside._replace(host=config.nat.public_address or _own_address())
    else:
        advertised = outside._replace(host=config.nat.public_address or outside.host)
    tls = config.edge.tls
    if tls is not None:
        tls = tls.model_copy(
            update={
                "cert_file": file.resolve(tls.cert_file),
                "key_file": file.resolve(tls.key_file),
                "ca_file": file.resolve(tls.ca_file) if tls.ca_file is not None else None,
            }
        )
        tls.check()
    return EdgePlan(
        config=config.edge.model_copy(update={"tls": tls}),
        outside=outside,
        advertised=advertised,
        inside=_free_address(HostPort(_INSIDE, 0), (Transport.UDP, Transport.TCP)),
        transports=transports,
        trunks=edge_trunks(config.trunks),
        workers=fleet.workers,
        slots=fleet.slots,
        folder=folder,
    )


def _free_address(listen: HostPort, transports: tuple[Transport, ...]) -> HostPort:
    """`listen` with a port that is free now; ConfigError when the one it names is not."""
    for attempt in range(_PORT_ATTEMPTS):
        port = listen.port
        with contextlib.ExitStack() as held:
            try:
                for transport in transports:
                    port = _bind(held, listen.host, port, transport)
            except OSError as error:
                if listen.port or attempt == _PORT_ATTEMPTS - 1:
                    raise ConfigError(
                        f"[sip] listen = {listen}: cannot listen there: {error.strerror}; "
                        "is another program using the port?"
                    ) from None
            else:
                return listen._replace(port=port)
    raise AssertionError("unreachable")


def _bind(held: contextlib.ExitStack, host: str, port: int, transport: Transport) -> int:
    kind = socket.SOCK_DGRAM if transport is Transport.UDP else socket.SOCK_STREAM
    opened = held.enter_context(socket.socket(socket.AF_INET, kind))
    if kind is socket.SOCK_STREAM:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind(("" if host in ("0.0.0.0", "*") else host, port))
    if kind is socket.SOCK_STREAM:
        opened.listen(1)
    return int(opened.getsockname()[1])


def _own_address() -> str:
    """The address that others most likely reach this machine at. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise ConfigError(
                "[sip] listen = 0.0.0.0 and this machine has no route to others: write its address"
            ) from None
        return str(probe.getsockname()[0])
