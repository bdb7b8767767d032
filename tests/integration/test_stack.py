"""All processes of one machine, started for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from services.common import config
from services.common.errors import ConfigError, LandlineError
from services.stack import PARTS, Stack, address_of
from tests.fakes.fleet import children, workers
from tests.fakes.sip_peer import SipPeer


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pids: list[int], timeout_s: float = 10.0) -> bool:
    async with asyncio.timeout(timeout_s):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return True


async def test_everything_starts_and_a_killed_part_comes_back_where_it_was(
    stack_file: config.ConfigFile,
) -> None:
    seen: list[tuple[str, str]] = []
    async with Stack(stack_file, on_change=lambda *what: seen.append(what)) as stack:
        assert set(stack.running) == {part.name for part in PARTS}
        pids = [part.pid for part in stack.running.values()]
        tts = stack.running["tts"]
        before = (tts.pid, tts.address)
        assert address_of(stack_file, "tts") == tts.address
        os.kill(tts.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while ("tts", f"listening on {tts.address} again") not in seen:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert tts.address == before[1]
        assert tts.pid != before[0]
        pids.append(tts.pid)
    assert await gone(pids)
    with pytest.raises(LandlineError, match="nothing runs from"):
        address_of(stack_file, "tts")


async def test_a_wrong_key_stops_the_start_and_leaves_nothing_running(
    stack_config: Path,
) -> None:
    file = config.load(stack_config, ["agent.max_call=3"])
    with pytest.raises(ConfigError, match=r"max_call: unknown key; did you mean 'max_calls'"):
        async with Stack(file, ("agent.max_call=3",)):
            pytest.fail("the stack started")


async def test_a_taken_port_is_named(stack_config: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        override = f"stt.listen=127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="is the port taken"):
            async with Stack(config.load(stack_config, [override]), (override,)):
                pytest.fail("the stack started")


async def test_when_the_supervisor_dies_its_parts_stop(stack_config: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "up", "--json", "--config", str(stack_config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert up.stdout is not None
    async with asyncio.timeout(60):
        state = json.loads(await up.stdout.readline())
    pids = [part["pid"] for part in state["parts"].values()]
    assert all(alive(pid) for pid in pids)
    up.kill()
    await up.wait()
    assert await gone(pids)


async def test_up_stops_cleanly_when_asked(stack_config: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "up", "--json", "--config", str(stack_config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert up.stdout is not None
    async with asyncio.timeout(60):
        state = json.loads(await up.stdout.readline())
    up.terminate()
    async with asyncio.timeout(30):
        assert await up.wait() == 0
    assert not any(alive(part["pid"]) for part in state["parts"].values())


async def test_many_calls_need_room_everywhere(stack_config: Path) -> None:
    file = config.load(stack_config, ["sip.calls=40", "agent.max_calls=20"])
    with pytest.raises(ConfigError, match=r"raise agent\.max_calls"):
        async with Stack(file):
            pytest.fail("the stack started")


async def test_ctrl_c_while_it_starts_leaves_nothing_running(stack_config: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "up", "--config", str(stack_config)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert up.stderr is not None
    async with asyncio.timeout(30):
        assert b"listening" in await up.stderr.readline()  # the first part of several
    pids = list(children(up.pid))
    up.send_signal(signal.SIGINT)
    async with asyncio.timeout(15):
        rest = await up.stderr.read()
        assert await up.wait() == 0
    assert b"stopped while starting" in rest
    assert b"Traceback" not in rest
    assert await gone(pids)


@pytest.mark.parametrize(("calls", "count"), [(4, 2), pytest.param(40, 14, marks=pytest.mark.slow)])
async def test_up_with_many_calls_drains_on_ctrl_c_and_ends_on_the_second(
    stack_config: Path, calls: int, count: int
) -> None:
    """One command: workers, the edge before them, and everything behind them."""
    options = ("--calls", str(calls), "--json", "--config", str(stack_config))
    up = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "up", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert up.stdout is not None
    assert up.stderr is not None
    async with asyncio.timeout(60):
        state = json.loads(await up.stdout.readline())
    gateway = state["parts"]["gateway"]
    assert len(workers(gateway["pid"])) == count
    async with SipPeer() as peer:
        dialog = peer.dialog(f"sip:agent@{gateway['address']}")
        assert (await dialog.invite(peer.sdp())).status == 200
        await asyncio.sleep(0.2)
        up.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            while b"live calls may finish" not in await up.stderr.readline():
                pass
            while (await peer.dialog(dialog.remote_uri).ask("OPTIONS")).status != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not peer.received("BYE")
        up.send_signal(signal.SIGINT)
        await peer.request("BYE")
    async with asyncio.timeout(30):
        assert await up.wait() == 0
    assert not any(alive(part["pid"]) for part in state["parts"].values())
