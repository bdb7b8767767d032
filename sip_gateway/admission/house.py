"""What all calls of a worker share when they are received: limits, rules, the queue, its music."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sip_gateway import telemetry
from sip_gateway.admission.config import LedgerLost, WhenFull
from sip_gateway.admission.ledger import (
    FILE_NAME,
    Booking,
    Ledger,
    LedgerUnavailableError,
    LocalLedger,
)
from sip_gateway.admission.ledger_socket import LedgerClient
from sip_gateway.admission.refusals import RefusalLog
from sip_gateway.events import Refusal
from sip_gateway.media.hold_music import from_file, own_music
from sip_gateway.outbound.dialling import Dialling
from sip_gateway.trunks.limits import Direction

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.clock import Clock
    from sip_gateway.admission.config import AdmissionConfig
    from sip_gateway.admission.ledger import CallLedger
    from sip_gateway.config import SipConfig
    from sip_gateway.outbound.dialling import Verdict
    from sip_gateway.trunks.trunk import Trunk

_LONGEST_RETRY_AFTER_S = 3600


class WaitingRoom:
    """The queued callers of this process, in the order in which they came."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._tickets: list[object] = []

    @property
    def occupied(self) -> bool:
        return bool(self._tickets)

    def enter(self) -> object | None:
        """A ticket, or None when the room is full."""
        if len(self._tickets) >= self._length:
            return None
        ticket = object()
        self._tickets.append(ticket)
        telemetry.QUEUED.set(len(self._tickets))
        return ticket

    def position(self, ticket: object) -> int:
        """1 is who comes next."""
        return self._tickets.index(ticket) + 1

    def leave(self, ticket: object) -> None:
        self._tickets.remove(ticket)
        telemetry.QUEUED.set(len(self._tickets))


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What all calls of a worker share when they are received."""

    config: AdmissionConfig
    ledger: CallLedger
    dialling: Dialling
    refusals: RefusalLog
    waiting: WaitingRoom
    music: bytes
    clock: Clock

    async def book(self, call_id: str, trunk: Trunk, direction: Direction) -> Refusal | None:
        """Count the call against the trunk's limits; None when it may go on.

        `give_back` must follow in either case. While the ledger is away, calls that we place
        are refused, and calls from outside go by `ledger_lost_inbound`.
        """
        booking = Booking(
            call_id=call_id, trunk=trunk.name, direction=direction, limits=trunk.limits
        )
        try:
            denial = await self.ledger.take(booking)
        except LedgerUnavailableError as error:
            telemetry.LEDGER_LOST.labels(direction).inc()
            inbound = direction is Direction.INBOUND
            if inbound and self.config.ledger_lost_inbound is LedgerLost.ACCEPT:
                return None
            return self.unavailable("ledger_lost", missing=str(error))
        if denial is None:
            return None
        wait_s = min(denial.retry_after_s, _LONGEST_RETRY_AFTER_S)
        return Refusal(sip_status=503, why="trunk_limit", retry_after_s=wait_s, missing=denial.why)

    def emergency(self, *dialled: str) -> Verdict | None:
        """The rules' word on the first of these that is an emergency number; None: none is."""
        number = next(filter(self.dialling.is_emergency, dialled), None)
        return None if number is None else self.dialling.check(number)

    def unavailable(self, why: str, *, missing: str) -> Refusal:
        wait_s = self.config.retry_after_s
        return Refusal(sip_status=503, why=why, retry_after_s=wait_s, missing=missing)

    def instead(self, refusal: Refusal) -> Refusal:
        """What the caller gets in place of a 503 where that is configured and needs no line."""
        if self.config.when_full is WhenFull.BUSY:
            return replace(refusal, sip_status=486, retry_after_s=None)
        if self.config.when_full is WhenFull.HUMAN:
            return self.redirect(refusal, self.config.human)
        return refusal

    @staticmethod
    def redirect(refusal: Refusal, uri: str | None) -> Refusal:
        return replace(refusal, sip_status=302, retry_after_s=None, contact=uri)


def open_house(config: SipConfig, *, data_dir: Path, clock: Clock) -> House:
    """As [sip] describes it; ConfigError for hold music that cannot be played."""
    admission = config.admission
    if config.ledger is not None:
        ledger: CallLedger = LedgerClient(config.ledger)
    else:
        ledger = LocalLedger(Ledger(clock=clock, path=data_dir / FILE_NAME))
    music = b""
    if admission.when_full is WhenFull.QUEUE:
        music = from_file(admission.hold_music) if admission.hold_music else own_music()
    return House(
        config=admission,
        ledger=ledger,
        dialling=Dialling(config.dialling, config.country),
        refusals=RefusalLog(clock),
        waiting=WaitingRoom(admission.queue_length),
        music=music,
        clock=clock,
    )
