"""Speaks JSON-RPC to Kamailio over its Unix datagram socket (module jsonrpcs)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from typing import TYPE_CHECKING, Any

from services.common.errors import LandlineError

if TYPE_CHECKING:
    from pathlib import Path

_ANSWER_S = 2.0
_LARGEST_ANSWER = 65_536


class EdgeRpcError(LandlineError):
    """Kamailio did not answer, or refused."""


class EdgeRpc:
    """`await rpc.call("htable.seti", "load", "w1", 2)`. Several calls may be under way."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._own = server.with_name("edge-rpc.sock")
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen for answers."""
        self.close()
        self._own.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self._own))
        self._own.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._own.unlink(missing_ok=True)
        self._socket = None

    async def call(self, method: str, *parameters: str | int) -> Any:
        """The result; EdgeRpcError when there is none."""
        number = next(self._numbers)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            if self._socket is None:
                raise ConnectionError("the edge is not running")
            self._socket.sendto(json.dumps(request).encode(), str(self._server))
            async with asyncio.timeout(_ANSWER_S):
                response = await answer
        except (OSError, TimeoutError) as error:
            raise EdgeRpcError(f"the edge does not answer {method}: {error or 'late'}") from None
        finally:
            del self._waiting[number]
        if "error" in response:
            raise EdgeRpcError(f"the edge refuses {method}: {response['error']['message']}")
        return response.get("result")

    def _read(self) -> None:
        while self._socket is not None:
            try:
                packet = self._socket.recv(_LARGEST_ANSWER)
            except OSError:  # nothing more to read
                return
            with contextlib.suppress(ValueError, AttributeError):  # cut off: the caller times out
                response = json.loads(packet)
                waiting = self._waiting.get(response.get("id"))
                if waiting is not None and not waiting.done():
                    waiting.set_result(response)
