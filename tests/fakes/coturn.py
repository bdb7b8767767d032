"""A real coturn: STUN for everybody, TURN for one user."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tests.fakes.network import Namespace

PORT = 3478
USER, PASSWORD = "landline", "relay password"


class Coturn:
    """Runs in a namespace of its own address; `log` tells what it was asked."""

    def __init__(self, folder: Path, host: Namespace) -> None:
        self._folder = folder
        self._host = host
        self._log = folder / "turn.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def start(self) -> None:
        ip = self._host.ip
        with self._host.entered():
            self._process = await asyncio.create_subprocess_exec(
                *("turnserver", "-n", "-L", ip, "-E", ip, "-p", str(PORT), "-m", "1"),
                *("-a", "-u", f"{USER}:{PASSWORD}", "-r", "test"),
                *("--no-tls", "--no-dtls", "--no-cli", "-v", "--log-binding"),
                *("--min-port", "40000", "--max-port", "40099"),
                *("--simple-log", "--no-stdout-log", "-l", str(self._log)),
                *("--pidfile", str(self._folder / "turn.pid")),
                *("--userdb", str(self._folder / "turn.db")),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=self._folder,
            )
        async with asyncio.timeout(10):
            while not self._answers():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, f"coturn has ended: {self.log[-2000:]}"
        try:
            with self._host.entered():
                socket.create_connection((self._host.ip, PORT), timeout=1).close()
        except OSError:
            return False
        return True
