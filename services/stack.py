"""The whole of Landline on this machine: starts every process, watches, restarts and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from services.common.addresses import HostPort, parse_host_port
from services.common.errors import ConfigError, LandlineError
from services.common.process import EXIT_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from services.common.config import ConfigFile

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 12.0
_ASKED_S = 1.0
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_STEADY_AFTER_S = 30.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process. `peers` are settings that get the address of a part started before it."""

    name: str
    module: str
    listen: str
    peers: Mapping[str, str] = field(default_factory=dict)


PARTS = (
    Part(name="audit", module="services.audit", listen="audit.listen"),
    Part(name="stt", module="services.stt", listen="stt.listen"),
    Part(name="tts", module="services.tts", listen="tts.listen"),
    Part(name="llm", module="services.llm", listen="llm.listen"),
    Part(
        name="agent",
        module="services.agent",
        listen="agent.listen",
        peers={
            "agent.audit": "audit",
            "agent.stt": "stt",
            "agent.tts": "tts",
            "agent.llm_url": "llm",
        },
    ),
    Part(
        name="gateway",
        module="sip_gateway",
        listen="sip.listen",
        peers={"sip.agent": "agent"},
    ),
)


@dataclass(slots=True)
class Running:
    """A part that has been started; `address` stays the same over restarts."""

    part: Part
    address: HostPort
    process: asyncio.subprocess.Process
    restarts: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid


class Stack:
    """`async with Stack(file) as stack:` runs everything; leaving the block stops everything.

    Logs of each part go to data_dir/logs/NAME.log. `on_change(name, what)` hears of exits and
    restarts. A part that finds its configuration wrong stops the start with ConfigError.
    """

    def __init__(
        self,
        file: ConfigFile,
        overrides: tuple[str, ...] = (),
        on_change: Callable[[str, str], None] = lambda _name, _what: None,
    ) -> None:
        self._file = file
        self._overrides = overrides
        self._on_change = on_change
        self._scheme = "http" if file.tls() is None else "https"
        self.logs: Path = file.shared.data_dir / "logs"
        self._state = state_path(file)
        self.running: dict[str, Running] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False
        self._draining = False  # the gateway is not started again; what it talks to is
        self._state_is_ours = False

    async def __aenter__(self) -> Stack:
        _require_room(self._file)
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            for part in PARTS:
                process, address = await self._start(part, None)
                self.running[part.name] = Running(part, address, process)
                self._on_change(part.name, f"listening on {address}")
        except BaseException:
            await self._stop()
            raise
        self._write_state()
        self._watchers = [asyncio.create_task(self._watch(r)) for r in self.running.values()]
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stop()

    async def drain(self, now: asyncio.Event) -> None:
        """Let the gateway finish its live calls; it sees to sip.drain_limit_s. `now` ends them."""
        self._draining = True
        gateway = self.running["gateway"].process
        _signal(gateway, signal.SIGTERM)
        ended = asyncio.create_task(gateway.wait())
        insisted = asyncio.create_task(now.wait())
        await asyncio.wait((ended, insisted), return_when=asyncio.FIRST_COMPLETED)
        for waiting in (ended, insisted):
            waiting.cancel()

    async def _start(
        self, part: Part, address: HostPort | None
    ) -> tuple[asyncio.subprocess.Process, HostPort]:
        """Start a part and wait until it listens; on its old address when it had one."""
        settings = list(self._overrides)
        if address is not None:
            settings.append(f"{part.listen}={address}")
        settings += [f"{key}={self._peer(key, name)}" for key, name in part.peers.items()]
        command = [sys.executable, "-m", part.module, "--supervised"]
        command += ["--config", str(self._file.path)]
        for setting in settings:
            command += ["--set", setting]
        with (self.logs / f"{part.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            return process, await self._until_listening(part, process)
        except BaseException:
            await _end(process)
            raise

    async def _until_listening(self, part: Part, process: asyncio.subprocess.Process) -> HostPort:
        if process.stdout is None:
            raise LandlineError(f"{part.name}: no standard output")
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while line := await process.stdout.readline():
                    words = line.decode(errors="replace").split()
                    if words[:1] == ["LISTENING"]:
                        return parse_host_port(words[2])
                code = await process.wait()
        except TimeoutError:
            raise LandlineError(
                f"{part.name} did not come up within {_READY_TIMEOUT_S:.0f} s; "
                f"its log: {self.logs / part.name}.log"
            ) from None
        reason = f"{part.name} stopped at its start: {self._last_log_line(part)}"
        raise ConfigError(reason) if code == EXIT_CONFIG else LandlineError(reason)

    def _peer(self, key: str, name: str) -> str:
        address = self.running[name].address
        return f"{self._scheme}://{address}" if key.endswith("_url") else str(address)

    def _last_log_line(self, part: Part) -> str:
        path = self.logs / f"{part.name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it left no log"

    async def _watch(self, running: Running) -> None:
        """Start the part again whenever it exits, more slowly each time it fails soon."""
        part = running.part
        while True:
            started = asyncio.get_running_loop().time()
            code = await running.process.wait()
            if self._stopping or (self._draining and part.name == "gateway"):
                return
            if asyncio.get_running_loop().time() - started > _STEADY_AFTER_S:
                running.restarts = 0
            self._on_change(part.name, f"ended with status {code}; starting it again")
            await asyncio.sleep(_BACKOFF_S[min(running.restarts, len(_BACKOFF_S) - 1)])
            running.restarts += 1
            try:
                running.process, _ = await self._start(part, running.address)
            except (LandlineError, OSError) as error:  # no memory for a process, say
                self._on_change(part.name, str(error))
                continue
            self._write_state()
            self._on_change(part.name, f"listening on {running.address} again")

    def _write_state(self) -> None:
        """Where everything listens, for other commands on this machine."""
        parts = {
            name: {"address": str(running.address), "pid": running.pid}
            for name, running in self.running.items()
        }
        self._state.write_text(json.dumps({"pid": os.getpid(), "parts": parts}), encoding="utf-8")
        self._state_is_ours = True

    async def _stop(self) -> None:
        """The gateway first, so that callers hear a proper end; then the rest."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for running in reversed(list(self.running.values())):
            await _end(running.process)
        self.running.clear()
        if self._state_is_ours:
            self._state.unlink(missing_ok=True)


def _require_room(file: ConfigFile) -> None:
    """ConfigError when the gateway is to take more calls than the parts behind it."""
    from services.agent.config import AgentConfig
    from services.stt.config import SttConfig
    from services.tts.config import TtsConfig

    calls = file.data.get("sip", {}).get("calls")
    if not isinstance(calls, int):
        return  # the gateway says what is wrong with it
    for section, key, room in (
        ("agent", "max_calls", file.section("agent", AgentConfig).max_calls),
        ("stt", "max_streams", file.section("stt", SttConfig).max_streams),
        ("tts", "max_concurrent", file.section("tts", TtsConfig).max_concurrent),
    ):
        if room < calls:
            raise ConfigError(
                f"{file.path}: [sip] calls = {calls}, but [{section}] {key} = {room}: "
                f"raise {section}.{key}"
            )


def state_path(file: ConfigFile) -> Path:
    """The file that says where a running stack listens; a clean stop removes it."""
    return file.shared.data_dir / "stack.json"


def address_of(file: ConfigFile, part: str) -> HostPort:
    """Where a part of the stack that runs from this configuration listens."""
    try:
        state = json.loads(state_path(file).read_text(encoding="utf-8"))
        os.kill(state["pid"], 0)
        return parse_host_port(state["parts"][part]["address"])
    except (OSError, ValueError, KeyError):
        raise LandlineError(f"nothing runs from {file.path}: start it with landline up") from None


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, again for one that would drain, and after some seconds SIGKILL for all of it."""
    for patience_s in (_ASKED_S, _STOP_TIMEOUT_S):
        if process.returncode is not None:
            return
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience_s)
    if process.returncode is None:
        _log.warning("process_killed", pid=process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
