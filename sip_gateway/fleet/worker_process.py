"""One worker as its supervisor sees it: started, watched, started again with growing patience."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING

import structlog

from services.common.addresses import HostPort, parse_host_port
from services.common.errors import ConfigError, LandlineError
from services.common.process import EXIT_CONFIG
from sip_gateway import telemetry
from sip_gateway.fleet.worker_status import WorkerStatus, parse_status

if TYPE_CHECKING:
    from collections.abc import Callable

_READY_S = 30.0
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_STEADY_AFTER_S = 30.0
_log = structlog.get_logger()


class WorkerProcess:
    """Number `number`, from 1. `on_change(worker)` is told whenever what can be read here changes.

    `name` is new with each process, and cannot be guessed: it is the user of our Contact.
    """

    def __init__(
        self,
        number: int,
        command: Callable[[str], tuple[str, ...]],
        on_change: Callable[[WorkerProcess], None],
    ) -> None:
        """`command(name)` are the arguments for the interpreter."""
        self.number = number
        self.name = ""
        self.address: HostPort | None = None
        self.status: WorkerStatus | None = None
        self._command = command
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Future[None] | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and wait until it takes calls. ConfigError when it refuses its configuration."""
        self.name = f"w{self.number}-{secrets.token_hex(6)}"
        self._listening = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._command(self.name),
            stdin=asyncio.subprocess.PIPE,  # closed when we die, however we die
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(self._process, self._listening))
        try:
            await asyncio.wait_for(asyncio.shield(self._listening), _READY_S)
        except TimeoutError:
            await self.kill()
            raise LandlineError(f"worker {self.number} did not come up in time") from None

    async def keep(self, stopping: asyncio.Event) -> None:
        """Start it again whenever it ends, until `stopping`; returns when it has ended then."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_s = loop.time()
            status = await self.wait()
            if stopping.is_set():
                return
            telemetry.WORKER_RESTARTS.inc()
            _log.error(
                "worker_ended", worker=self.number, status=status, effect="its calls are lost"
            )
            failures = 0 if loop.time() - started_s > _STEADY_AFTER_S else failures + 1
            delay_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), delay_s)
                return
            try:
                await self.start()
            except (LandlineError, OSError) as error:  # no memory for a process, say
                _log.error("worker_not_started", worker=self.number, reason=str(error))
            else:
                _log.info("worker_back", worker=self.number)

    async def wait(self) -> int:
        """Until the process has ended; its exit status."""
        if self._process is None or self._reading is None:
            raise LandlineError(f"worker {self.number} was never started")
        await self._reading
        return await self._process.wait()

    def ask(self) -> None:
        """SIGTERM: the first asks to drain, the second to end now."""
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        if self._process is None:
            return
        if self.running:
            _log.warning("worker_killed", worker=self.number)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self.wait()

    async def _read(
        self, process: asyncio.subprocess.Process, listening: asyncio.Future[None]
    ) -> None:
        if process.stdout is None:
            raise LandlineError("a worker without standard output")
        async for raw in process.stdout:
            line = raw.decode(errors="replace").strip()
            if line.startswith("LISTENING "):
                self.address = parse_host_port(line.split()[2])
                if not listening.done():
                    listening.set_result(None)
            elif (status := parse_status(line)) is not None:
                self.status = status
            self._on_change(self)
        code = await process.wait()
        self.address = self.status = None
        if not listening.done():
            listening.set_exception(_not_started(self.number, code))
        self._on_change(self)


def _not_started(number: int, code: int) -> LandlineError:
    text = f"worker {number} ended at its start with status {code}; its reason is in the log above"
    return ConfigError(text) if code == EXIT_CONFIG else LandlineError(text)
