"""Runs Kamailio: writes its configuration, has it checked, starts it and reads what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections import deque
from typing import TYPE_CHECKING

import structlog

from services.common.errors import ConfigError, LandlineError
from sip_gateway import telemetry
from sip_gateway.edge import render
from sip_gateway.edge.rpc import EdgeRpc, EdgeRpcError
from sip_gateway.trunks.registration import EXPLANATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sip_gateway.edge.plan import EdgePlan, Seat

_log = structlog.get_logger()
_CHECK_S = 10.0
_READY_S = 10.0
_READY_POLL_S = 0.02
_STOP_S = 3.0
_SHARED_MEMORY_MB = 24
_PRIVATE_MEMORY_MB = 4
_QUIET_LEVEL = -2  # strangers can cause warnings and errors at will
_LONGEST_SOCKET_PATH = 100  # sockaddr_un holds 108
_BANNED = re.compile(r"landline banned (\S+): (.+)")
_NOT_REGISTERED = re.compile(r"got sip response (\d+) while registering \[(.+?)\]")
_WRONG_PASSWORD = re.compile(r"authentication failed for <(.+?)>")
_PREFIX = re.compile(r"^\s*\d+\(\d+\) \w+: (?:<?[\w-]+>? )?(?:\[[^\]]*\]: )?(?:\w+\(\): )?")


class EdgeProcess:
    """One Kamailio at a time, on the sockets and files of a plan."""

    def __init__(self, plan: EdgePlan) -> None:
        self._plan = plan
        self._config = plan.folder / render.CONFIG_FILE
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=20)
        self._starting = False
        self._names = {trunk.key: trunk.name for trunk in plan.trunks}
        self.rpc = EdgeRpc(plan.folder / render.RPC_SOCKET)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def check(self) -> None:
        """Write the configuration and let Kamailio read it; ConfigError for what it dislikes."""
        self._write((), {})
        process = await asyncio.create_subprocess_exec(
            *(self._plan.config.kamailio, "-c", "-f", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_CHECK_S):
                _output, errors = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise LandlineError("kamailio -c did not end") from None
        if process.returncode != 0:
            raise ConfigError(f"kamailio -c refuses {self._config}: {_reason(errors.decode())}")

    async def start(
        self, seats: Iterable[Seat], registrars: Mapping[str, Iterable[str]], *, draining: bool
    ) -> None:
        """Start it and wait until it answers; LandlineError with its own words when it does not."""
        self._write(seats, registrars, draining=draining)
        (self._plan.folder / render.RPC_SOCKET).unlink(missing_ok=True)
        self._said.clear()
        self._starting = True
        self._process = await asyncio.create_subprocess_exec(
            *_dies_with_us(),
            *(self._plan.config.kamailio, "-DD", "-E"),
            *("-m", str(_SHARED_MEMORY_MB), "-M", str(_PRIVATE_MEMORY_MB)),
            *("-f", str(self._config), "-Y", str(self._plan.folder)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._plan.folder,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        self.rpc.open()
        try:
            async with asyncio.timeout(_READY_S):
                while not await self._answers():  # noqa: ASYNC110
                    await asyncio.sleep(_READY_POLL_S)
                await self.rpc.call("corex.debug", _QUIET_LEVEL)
        except (TimeoutError, EdgeRpcError):
            await self.stop()
            raise LandlineError("the edge did not come up in time") from None
        self._starting = False

    async def wait(self) -> int:
        """Until it has ended and nothing of it is left; its exit status."""
        if self._process is None or self._reading is None:
            raise LandlineError("the edge was never started")
        status = await self._process.wait()
        _kill_group(self._process.pid)
        await asyncio.wait((self._reading,))  # whoever gives up waiting does not end the reading
        self.rpc.close()
        return status

    async def stop(self) -> None:
        """SIGTERM, a moment, SIGKILL."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP_S)
        # A child that is left holds our pipe too, and asyncio's own loop waits for its end.
        _kill_group(process.pid)
        await self.wait()

    def remove_files(self) -> None:
        """Nothing with a secret stays behind."""
        for name in render.files(self._plan, (), {}):
            (self._plan.folder / name).unlink(missing_ok=True)

    async def _answers(self) -> bool:
        if self._process is not None and self._process.returncode is not None:
            await self.wait()
            raise LandlineError(f"the edge ended at its start: {_reason(chr(10).join(self._said))}")
        try:
            await self.rpc.call("core.uptime")
        except EdgeRpcError:
            return False
        return True

    def _write(
        self,
        seats: Iterable[Seat],
        registrars: Mapping[str, Iterable[str]],
        *,
        draining: bool = False,
    ) -> None:
        folder = self._plan.folder
        longest = len(str(folder / render.RPC_SOCKET).encode())
        if longest > _LONGEST_SOCKET_PATH:
            raise ConfigError(
                f"[landline] data_dir: {folder} is too long for a Unix socket by "
                f"{longest - _LONGEST_SOCKET_PATH} bytes; choose a shorter path"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            for name, text in render.files(
                self._plan, seats, registrars, draining=draining
            ).items():
                path = folder / name
                path.parent.mkdir(exist_ok=True, mode=0o700)
                path.unlink(missing_ok=True)
                path.touch(mode=0o600)
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            raise LandlineError("the edge has no standard error")
        async for raw in process.stderr:
            self._hear(raw.decode(errors="replace").rstrip())

    def _hear(self, line: str) -> None:
        self._said.append(line)
        if banned := _BANNED.search(line):
            telemetry.BANS.labels(banned[2]).inc()
            _log.warning("source_banned", source=banned[1], reason=banned[2])
        elif refused := _NOT_REGISTERED.search(line):
            self._registration_failed(refused[2], int(refused[1]))
        elif wrong := _WRONG_PASSWORD.search(line):
            self._registration_failed(wrong[1], 401)
        elif not self._starting:
            _log.debug("edge_says", text=_PREFIX.sub("", line)[:200])

    def _registration_failed(self, key: str, sip_status: int) -> None:
        trunk = self._names.get(key, key)
        telemetry.REGISTRATION_FAILURES.labels(trunk, sip_status).inc()
        _log.error(
            "registration_failed",
            trunk=trunk,
            sip_status=sip_status,
            reason=EXPLANATIONS.get(sip_status, "the registrar refuses it"),
            retry_in_s=render.REGISTRATION_RETRY_S,
        )


def _kill_group(pid: int) -> None:
    """Killed, or stopped while it starts, Kamailio leaves children that hold the ports."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _dies_with_us() -> tuple[str, ...]:
    """When we are killed, Kamailio gets SIGTERM: else it would hold the ports for ever."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv is not None else ()


def _reason(errors: str) -> str:
    """What a person can mend, from Kamailio's words."""
    lines = [line for line in errors.splitlines() if "CRITICAL" in line or "ERROR" in line]
    told = (_PREFIX.sub("", line) for line in lines or errors.splitlines()[-2:])
    return "; ".join(told)[:500] or "it did not say why"
