"""Starts a service as `landline up` does, and says where it listens."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from services.common.addresses import HostPort, parse_host_port

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class RunningService:
    address: HostPort
    process: asyncio.subprocess.Process

    async def stop(self) -> int:
        """SIGTERM, as the supervisor does it; returns the exit status."""
        self.process.terminate()
        async with asyncio.timeout(10):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def running(
    service: str, folder: Path, toml: str = "", *, overrides: tuple[str, ...] = ()
) -> AsyncIterator[RunningService]:
    """`python -m services.NAME` with this landline.toml; killed at the end if it still runs."""
    config = folder / f"{service}.toml"
    config.write_text(toml)
    settings = [part for override in overrides for part in ("--set", override)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{service}", "--config", str(config), *settings,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode().split()
        assert line[:2] == ["LISTENING", service], f"{service} did not start"
        yield RunningService(parse_host_port(line[2]), process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
