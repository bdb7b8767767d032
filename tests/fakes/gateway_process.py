"""Starts a real gateway process, and reads what it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
START_S = 15.0


class GatewayProcess:
    """`python -m sip_gateway` with a configuration of its own."""

    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.address = ""
        self.log: list[dict[str, Any]] = []
        self.stray: list[str] = []  # lines on standard error that are no log lines
        self._reading = asyncio.create_task(self._read_log())

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def recordings(self) -> list[Path]:
        return sorted((self.data_dir / "recordings").glob("*.wav"))

    def uri(self, user: str = "agent") -> str:
        return f"sip:{user}@{self.address}"

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("event") == event]

    async def wait_for_log(self, event: str, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """The first log line of that name."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.logged(event):  # noqa: ASYNC110 - the lines come by themselves
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise TimeoutError(f"no {event} in {self.log} {self.stray}") from None
        return self.logged(event)[0]

    async def metric(self, name: str, **labels: str) -> float:
        """A counter or gauge of the running process; 0.0 when it was never touched."""
        port = (await self.wait_for_log("metrics"))["listen"].rpartition(":")[2]
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            plain, _, rest = head.partition("{")
            if plain == name and all(f'{key}="{want}"' in rest for key, want in labels.items()):
                return float(value)
        return 0.0

    async def wait_for_metric(self, name: str, value: float, **labels: str) -> None:
        """Until a metric has that value."""
        seen = None
        try:
            async with asyncio.timeout(8):
                while (seen := await self.metric(name, **labels)) != value:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise TimeoutError(f"{name}{labels} is {seen}, not {value}") from None

    def drain(self) -> None:
        """The first SIGTERM: no more calls, and the live ones may end."""
        self.process.send_signal(signal.SIGTERM)

    async def stop(self) -> int:
        """SIGTERM, and again when calls are live: end now. The exit status."""
        try:
            for patience_s in (1.0, 12.0):
                if self.process.returncode is None:
                    self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), patience_s)
                    break
            status = await asyncio.wait_for(self.process.wait(), 0.1)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise
        await self._reading
        return status

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode(errors="replace").rstrip()
            try:
                self.log.append(json.loads(text))
            except ValueError:
                self.stray.append(text)


def write_config(
    folder: Path, *, agent: str, sip: str = "", trunks: str | None = None, log_level: str = "info"
) -> Path:
    """A landline.toml for one gateway on free ports; `sip` is more TOML for [sip]."""
    default_trunk = '[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'
    path = folder / "landline.toml"
    listen = "" if "listen" in sip else 'listen = "127.0.0.1:0"\n'
    path.write_text(
        f'[landline]\ndata_dir = "var"\nlog_format = "json"\nlog_level = "{log_level}"\n\n'
        f'[sip]\n{listen}agent = "{agent}"\nmetrics = "127.0.0.1:0"\n{sip}\n'
        f"{default_trunk if trunks is None else trunks}",
        encoding="utf-8",
    )
    return path


async def spawn_gateway(config: Path) -> GatewayProcess:
    """Start the process without waiting for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sip_gateway",
        "--config",
        str(config),
        cwd=ROOT,
        env={
            **os.environ,
            "GRPC_VERBOSITY": "ERROR",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto' / 'gen'}",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return GatewayProcess(process, config.parent / "var")


async def start_gateway(config: Path) -> GatewayProcess:
    """Start the process and wait until it takes calls."""
    gateway = await spawn_gateway(config)
    assert gateway.process.stdout is not None
    line = (await asyncio.wait_for(gateway.process.stdout.readline(), START_S)).decode()
    if not line.startswith("LISTENING sip_gateway "):
        await gateway.kill()
        raise AssertionError(f"the gateway said {line!r}: {gateway.log} {gateway.stray}")
    gateway.address = line.split()[2]
    return gateway
