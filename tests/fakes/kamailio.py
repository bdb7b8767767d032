"""A real Kamailio as registrar with digest, configured in a folder of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.network import Namespace

REALM = "127.0.0.1"
_CONFIG = """\
debug=1
log_stderror=yes
fork=no
children=1
listen=udp:{ip}:{port}
listen=tcp:{ip}:{port}
loadmodule "kex.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "xlog.so"
loadmodule "auth.so"
modparam("usrloc", "db_mode", 0)
modparam("registrar", "max_contacts", 1)
request_route {{
    if (!mf_process_maxfwd_header("10")) {{ exit; }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) {{ t_relay(); }} exit; }}
    if (has_totag()) {{ loose_route(); t_relay(); exit; }}
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("$td", "{password}", "0")) {{
            xlog("L_ERR", "REGISTER challenged $aU\\n");
            www_challenge("$td", "0");
            exit;
        }}
        save("location");
        xlog("L_ERR", "REGISTER saved $aU expires $hdr(Expires)\\n");
        exit;
    }}
    record_route();
    if (!lookup("location")) {{ sl_send_reply("404", "Not Found"); exit; }}
    t_relay();
}}
"""


class Kamailio:
    """Registers every username that comes with `password`; routes calls to who is registered."""

    def __init__(self, folder: Path, *, password: str, host: Namespace | None = None) -> None:
        """It runs in `host`, or here on the loopback."""
        self._host = host
        self._ip = host.ip if host else "127.0.0.1"
        self._folder = folder
        self._password = password
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.lines: list[str] = []
        self.port = 0

    def uri(self, user: str) -> str:
        return f"sip:{user}@{self._ip}:{self.port}"

    async def start(self) -> None:
        self.port = 5060 if self._host else free_port()
        config = self._folder / "kamailio.cfg"
        config.write_text(
            _CONFIG.format(ip=self._ip, port=self.port, password=self._password), encoding="utf-8"
        )
        with self._inside():
            self._process = await asyncio.create_subprocess_exec(
                *("kamailio", "-DD", "-E", "-m", "16", "-M", "4", "-f", str(config)),
                *("-Y", str(self._folder)),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                cwd=self._folder,
            )
        self._reading = asyncio.create_task(self._read())
        async with asyncio.timeout(10):
            while not await self._answers():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._process is None or self._reading is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reading

    async def wait_for_line(self, text: str) -> None:
        async with asyncio.timeout(8):
            while not any(text in line for line in self.lines):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.lines.append(line.decode(errors="replace").rstrip())

    async def _answers(self) -> bool:
        if self._process is not None and self._process.returncode is not None:
            raise AssertionError(f"kamailio has ended: {self.lines[-10:]}")
        try:
            with self._inside():
                socket.create_connection((self._ip, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _inside(self) -> contextlib.AbstractContextManager[None]:
        return self._host.entered() if self._host else contextlib.nullcontext()


def free_port() -> int:
    """A port that is free for UDP and TCP on 127.0.0.1."""
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            port = int(udp.getsockname()[1])
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free for both UDP and TCP")
