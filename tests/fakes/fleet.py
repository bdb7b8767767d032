"""The processes of a gateway that runs several workers behind an edge."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.fakes.sip_peer import SipMessage


def children(pid: int) -> dict[int, str]:
    """Process id -> command line of what a process has started."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            found[int(child)] = command.replace(b"\0", b" ").decode()
    return found


def workers(gateway_pid: int) -> dict[str, int]:
    """Name in the Contact -> process id."""
    named = {
        pid: re.search(r"sip\.worker\.name=(\S+)", command)
        for pid, command in children(gateway_pid).items()
    }
    return {match[1]: pid for pid, match in named.items() if match is not None}


def edge(gateway_pid: int) -> int:
    """Process id of Kamailio's main process."""
    found = [pid for pid, command in children(gateway_pid).items() if "edge.cfg" in command]
    assert len(found) == 1, found
    return found[0]


def worker_of(answer: SipMessage) -> str:
    """The worker whose Contact an answer carries."""
    return answer.header("Contact").partition("sip:")[2].partition("@")[0]


async def until_workers(gateway_pid: int, count: int, *, timeout_s: float = 15.0) -> dict[str, int]:
    """Wait until so many workers run, and name them."""
    async with asyncio.timeout(timeout_s):
        while len(found := workers(gateway_pid)) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found
