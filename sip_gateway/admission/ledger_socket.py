"""The ledger for several workers: one JSON object a line over a Unix socket.

A request is {"id": 1, "op": "take" | "resume" | "give_back", ...}, its answer {"id": 1, ...}.
A worker's connection is its life: when it breaks, the ledger frees what that worker held.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import structlog

from services.common.errors import ConfigError
from sip_gateway.admission.ledger import Booking, Denial, Ledger, LedgerUnavailableError
from sip_gateway.trunks.limits import Direction, TrunkLimits

if TYPE_CHECKING:
    from pathlib import Path

    Request = dict[str, Any]

_ANSWER_S = 0.5
_RETRY_S = 0.2
_LONGEST_LINE = 65_536
_log = structlog.get_logger()


class LedgerServer:
    """Serves `ledger` on a socket that only this user may open."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = path
        self._ledger = ledger
        self._server: asyncio.Server | None = None
        self._numbers = itertools.count(1)
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen; ConfigError when the socket cannot be made. One left behind is replaced."""
        try:
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(
                self._serve, self._path, limit=_LONGEST_LINE
            )
            self._path.chmod(0o600)
        except OSError as error:
            raise ConfigError(f"cannot serve the ledger on {self._path}: {error}") from None

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for writer in tuple(self._writers):
            writer.close()
        await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        owner = f"worker-{next(self._numbers)}"
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                writer.write(_line(self._answer(owner, line)))
                await writer.drain()
        except (OSError, ValueError) as error:  # ValueError: a line without an end
            _log.warning("ledger_connection_failed", owner=owner, reason=str(error))
        finally:
            self._writers.discard(writer)
            writer.close()
            freed = self._ledger.owner_gone(owner)
            if freed:
                _log.warning("ledger_channels_freed", owner=owner, channels=freed)

    def _answer(self, owner: str, line: bytes) -> Request:
        number: object = None
        try:
            request = json.loads(line)
            number = request["id"]
            return {"id": number, **self._do(owner, request)}
        except (ValueError, KeyError, TypeError) as error:
            _log.error("ledger_request_refused", owner=owner, reason=repr(error))
            return {"id": number, "error": repr(error)}

    def _do(self, owner: str, request: Request) -> Request:
        match request["op"]:
            case "take":
                denial = self._ledger.take(owner, _to_booking(request))
                return {"denial": None if denial is None else _from_denial(denial)}
            case "resume":
                self._ledger.resume(owner, _to_booking(request))
                return {}
            case "give_back":
                self._ledger.give_back(str(request["call_id"]))
                return {}
            case other:
                raise ValueError(f"unknown op {other!r}")


class LedgerClient:
    """A worker's line to the ledger (CallLedger). It connects again by itself.

    After a break it books the calls that live once more, since the server has freed them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Request]] = {}
        self._held: dict[str, Booking] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def take(self, booking: Booking) -> Denial | None:
        try:
            answer = await self._ask({"op": "take", **_from_booking(booking)})
        except LedgerUnavailableError:
            # Who goes on without the ledger's word gives the call back at its end; until then
            # it is booked as soon as there is a ledger again.
            self._held[booking.call_id] = booking
            self._resume(booking)
            raise
        denial = answer.get("denial")
        if denial is not None:
            return Denial(**denial)
        self._held[booking.call_id] = booking
        return None

    async def give_back(self, call_id: str) -> None:
        self._held.pop(call_id, None)
        if self._connected.is_set():  # if not, the ledger has freed it already
            with contextlib.suppress(LedgerUnavailableError):
                await self._ask({"op": "give_back", "call_id": call_id})

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _ask(self, request: Request) -> Request:
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="ledger")
        number = next(self._numbers)
        future: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._connected.wait()
                self._waiting[number] = future
                self._send({"id": number, **request})
                answer = await future
        except (TimeoutError, OSError) as error:
            raise LedgerUnavailableError(
                f"the ledger at {self._path} does not answer: {error or 'too slow'}"
            ) from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise LedgerUnavailableError(f"the ledger refused the request: {answer['error']}")
        return answer

    def _resume(self, booking: Booking) -> None:
        if self._writer is not None:
            self._send({"id": 0, "op": "resume", **_from_booking(booking)})

    def _send(self, request: Request) -> None:
        if self._writer is None:
            raise ConnectionError("the connection is lost")
        self._writer.write(_line(request))

    async def _run(self) -> None:
        """Keep a connection until cancelled."""
        lost = False
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path, limit=_LONGEST_LINE)
            except OSError as error:
                if not lost:
                    _log.error("ledger_unreachable", path=str(self._path), reason=str(error))
                    lost = True
                await asyncio.sleep(_RETRY_S)
                continue
            if lost:
                _log.info("ledger_found_again", path=str(self._path))
            lost = False
            try:
                await self._talk(reader, writer)
            except (OSError, ValueError) as error:
                _log.error("ledger_lost", path=str(self._path), reason=str(error))
                lost = True
            finally:
                self._disconnected(writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        for booking in self._held.values():
            self._resume(booking)
        self._connected.set()
        while line := await reader.readline():
            answer = json.loads(line)
            waiting = self._waiting.get(answer.get("id"))
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        raise ConnectionError("it closed the connection")

    def _disconnected(self, writer: asyncio.StreamWriter) -> None:
        self._writer = None
        self._connected.clear()
        writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the connection is lost"))


def _from_booking(booking: Booking) -> Request:
    return {
        "call_id": booking.call_id,
        "trunk": booking.trunk,
        "direction": booking.direction,
        "limits": booking.limits.model_dump(),
    }


def _to_booking(request: Request) -> Booking:
    return Booking(
        call_id=str(request["call_id"]),
        trunk=str(request["trunk"]),
        direction=Direction(request["direction"]),
        limits=TrunkLimits.model_validate(request["limits"]),
    )


def _from_denial(denial: Denial) -> Request:
    return {"limit": denial.limit, "why": denial.why, "retry_after_s": denial.retry_after_s}


def _line(item: Request) -> bytes:
    return json.dumps(item).encode() + b"\n"
