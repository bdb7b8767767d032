"""Channels, new calls a minute and calls a day, counted for all workers together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.clock import ManualClock
from services.common.errors import ConfigError
from sip_gateway.admission.ledger import Booking, Ledger, LedgerUnavailableError
from sip_gateway.admission.ledger_socket import LedgerClient, LedgerServer
from sip_gateway.trunks.limits import Direction, DirectionLimits, TrunkLimits

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
FREE = TrunkLimits(outbound=DirectionLimits())
DAY_MS = 86_400_000


def booking(
    call_id: str, *, trunk: str = "lab", direction: Direction = IN, limits: TrunkLimits = FREE
) -> Booking:
    return Booking(call_id=call_id, trunk=trunk, direction=direction, limits=limits)


def denied(ledger: Ledger, item: Booking) -> str:
    denial = ledger.take("worker", item)
    return "" if denial is None else denial.limit


def test_a_call_that_is_booked_again_outlives_the_connection_that_booked_it_first() -> None:
    ledger = Ledger(clock=ManualClock())
    assert ledger.take("worker-1", booking("a")) is None
    ledger.resume("worker-2", booking("a"))  # before the end of the old connection is heard of
    assert ledger.owner_gone("worker-1") == 0
    assert ledger.channels("lab") == 1
    assert ledger.owner_gone("worker-2") == 1


def test_channels_of_both_directions_together() -> None:
    ledger = Ledger(clock=ManualClock())
    limits = TrunkLimits(channels=2)
    assert denied(ledger, booking("a", limits=limits)) == ""
    assert denied(ledger, booking("b", direction=OUT, limits=limits)) == ""
    denial = ledger.take("worker", booking("c", limits=limits))
    assert denial is not None
    assert denial.limit == "channels"
    assert denial.why == "trunk 'lab' has reached its limit of 2 calls at a time"
    assert denied(ledger, booking("d", trunk="other", limits=limits)) == ""
    ledger.give_back("a")
    ledger.give_back("a")
    assert denied(ledger, booking("e", limits=limits)) == ""
    assert denied(ledger, booking("f", limits=limits)) == "channels"


def test_channels_of_one_direction() -> None:
    ledger = Ledger(clock=ManualClock())
    limits = TrunkLimits(outbound=DirectionLimits(channels=1))
    assert denied(ledger, booking("a", direction=OUT, limits=limits)) == ""
    assert denied(ledger, booking("b", direction=OUT, limits=limits)) == "outbound_channels"
    assert denied(ledger, booking("c", limits=limits)) == ""


def test_rate_is_of_any_sixty_seconds() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    limits = TrunkLimits(inbound=DirectionLimits(per_minute=2))
    assert denied(ledger, booking("a", limits=limits)) == ""
    clock.advance(40_000)
    assert denied(ledger, booking("b", limits=limits)) == ""
    ledger.give_back("a")
    denial = ledger.take("worker", booking("c", limits=limits))
    assert denial is not None
    assert (denial.limit, denial.retry_after_s) == ("inbound_per_minute", 21)
    clock.advance(20_000)
    assert denied(ledger, booking("c", limits=limits)) == ""
    assert denied(ledger, booking("d", limits=limits)) == "inbound_per_minute"


def test_a_limit_of_zero_lets_nothing_through() -> None:
    ledger = Ledger(clock=ManualClock())
    for limits in (DirectionLimits(per_minute=0), DirectionLimits(per_day=0)):
        assert denied(ledger, booking("a", limits=TrunkLimits(inbound=limits))) != ""


def test_outbound_is_limited_where_nothing_is_written() -> None:
    ledger = Ledger(clock=ManualClock())
    results = [
        denied(ledger, booking(str(n), direction=OUT, limits=TrunkLimits())) for n in range(31)
    ]
    assert results == [""] * 30 + ["outbound_per_minute"]


def test_booking_the_same_call_twice_counts_once() -> None:
    ledger = Ledger(clock=ManualClock())
    for _ in range(3):
        assert denied(ledger, booking("a")) == ""
    assert ledger.channels("lab") == 1
    assert ledger.today("lab", IN) == 1


class TestDailyTotals:
    limits = TrunkLimits(outbound=DirectionLimits(per_day=3))

    def take(self, ledger: Ledger, count: int) -> list[str]:
        return [
            denied(ledger, booking(uuid.uuid4().hex, direction=OUT, limits=self.limits))
            for _ in range(count)
        ]

    def test_a_restart_does_not_forget_the_day(self, tmp_path: Path) -> None:
        clock, path = ManualClock(), tmp_path / "new" / "ledger.jsonl"
        assert self.take(Ledger(clock=clock, path=path), 2) == ["", ""]
        assert self.take(Ledger(clock=clock, path=path), 2) == ["", "outbound_per_day"]

    def test_a_new_day_begins_at_midnight_and_the_file_does_not_grow(self, tmp_path: Path) -> None:
        clock, path = ManualClock(), tmp_path / "ledger.jsonl"
        ledger = Ledger(clock=clock, path=path)
        for _day in range(5):
            assert self.take(ledger, 4) == ["", "", "", "outbound_per_day"]
            clock.advance(DAY_MS)
        assert len(path.read_bytes().splitlines()) <= 4
        assert self.take(Ledger(clock=clock, path=path), 1) == [""]

    def test_a_clock_set_back_over_midnight_does_not_clear_the_day(self, tmp_path: Path) -> None:
        clock, path = ManualClock(), tmp_path / "ledger.jsonl"
        ledger = Ledger(clock=clock, path=path)
        assert self.take(ledger, 3) == ["", "", ""]
        clock.advance(DAY_MS)
        assert self.take(ledger, 1) == [""]
        clock.advance(-DAY_MS)
        assert self.take(ledger, 1) == ["outbound_per_day"]

    @given(cut=st.integers(min_value=0), rubbish=st.binary(max_size=40))
    def test_a_torn_file_costs_at_most_its_last_line(self, cut: int, rubbish: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            clock, path = ManualClock(), Path(folder) / "ledger.jsonl"
            self.take(Ledger(clock=clock, path=path), 3)
            lines = path.read_bytes().splitlines(keepends=True)
            torn = lines[-1][: cut % len(lines[-1])]
            path.write_bytes(b"".join(lines[:-1]) + torn + b"\n" + rubbish)
            assert Ledger(clock=clock, path=path).today("lab", OUT) >= 2

    def test_a_file_that_cannot_be_written_stops_no_call(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.jsonl"
        path.mkdir()
        ledger = Ledger(clock=ManualClock(), path=path)
        assert self.take(ledger, 4) == ["", "", "", "outbound_per_day"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "give_back", "die"]),
            st.integers(0, 5),
            st.sampled_from(["w1", "w2"]),
        ),
        max_size=60,
    )
)
def test_channels_are_those_taken_and_not_given_back(steps: list[tuple[str, int, str]]) -> None:
    ledger = Ledger(clock=ManualClock())
    held: dict[str, str] = {}
    limits = TrunkLimits(channels=4)
    for what, number, owner in steps:
        call_id = f"c{number}"
        if what == "take":
            fits = call_id in held or len(held) < 4
            assert (ledger.take(owner, booking(call_id, limits=limits)) is None) == fits
            if fits:
                held.setdefault(call_id, owner)
        elif what == "give_back":
            ledger.give_back(call_id)
            held.pop(call_id, None)
        else:
            freed = ledger.owner_gone(owner)
            assert freed == sum(holder == owner for holder in held.values())
            held = {call_id: holder for call_id, holder in held.items() if holder != owner}
        assert ledger.channels("lab") == len(held)


class TestSocket:
    @pytest.fixture
    async def ledger(self) -> Ledger:
        return Ledger(clock=ManualClock())

    @pytest.fixture
    async def server(self, ledger: Ledger, tmp_path: Path) -> AsyncIterator[LedgerServer]:
        server = LedgerServer(tmp_path / "ledger.sock", ledger)
        await server.start()
        yield server
        await server.stop()

    @pytest.fixture
    async def client(self, server: LedgerServer, tmp_path: Path) -> AsyncIterator[LedgerClient]:
        client = LedgerClient(tmp_path / "ledger.sock")
        yield client
        await client.close()

    async def test_two_workers_share_the_limits(
        self, ledger: Ledger, client: LedgerClient, tmp_path: Path
    ) -> None:
        other = LedgerClient(tmp_path / "ledger.sock")
        limits = TrunkLimits(channels=2)
        assert await client.take(booking("a", limits=limits)) is None
        assert await other.take(booking("b", limits=limits)) is None
        denial = await client.take(booking("c", limits=limits))
        assert denial is not None
        assert denial == ledger.take("me", booking("d", limits=limits))
        await client.give_back("a")
        assert await other.take(booking("c", limits=limits)) is None
        await other.close()

    async def test_a_worker_that_dies_frees_its_channels(
        self, ledger: Ledger, client: LedgerClient, tmp_path: Path
    ) -> None:
        dying = LedgerClient(tmp_path / "ledger.sock")
        assert await client.take(booking("a")) is None
        assert await dying.take(booking("b")) is None
        await dying.close()
        async with asyncio.timeout(2):
            while ledger.channels("lab") != 1:  # noqa: ASYNC110 - the server's own doing
                await asyncio.sleep(0.01)

    async def test_no_ledger_is_an_answer_of_its_own(self, tmp_path: Path) -> None:
        client = LedgerClient(tmp_path / "nothing.sock")
        with pytest.raises(LedgerUnavailableError, match=r"nothing\.sock"):
            await client.take(booking("a"))
        await client.give_back("a")
        await client.close()

    async def test_live_calls_are_booked_again_at_a_new_ledger(
        self, server: LedgerServer, client: LedgerClient, tmp_path: Path
    ) -> None:
        limits = TrunkLimits(channels=1)
        assert await client.take(booking("a", limits=limits)) is None
        await server.stop()
        with pytest.raises(LedgerUnavailableError):
            await client.take(booking("b", limits=limits))  # went on all the same
        fresh = Ledger(clock=ManualClock())
        again = LedgerServer(tmp_path / "ledger.sock", fresh)
        await again.start()
        denial = await client.take(booking("c", limits=limits))
        assert denial is not None
        assert denial.limit == "channels"
        assert fresh.channels("lab") == 2
        for call_id in ("a", "b"):
            await client.give_back(call_id)
        assert fresh.channels("lab") == 0
        await again.stop()

    @pytest.mark.parametrize(
        "line",
        [
            b"no json\n",
            b"[]\n",
            b'{"id": 1, "op": "take"}\n',
            b'{"id": 1, "op": "take", "call_id": "x", "trunk": "t", "direction": "up"}\n',
            b'{"id": 1, "op": "steal"}\n',
        ],
    )
    async def test_a_wrong_request_is_refused_and_the_rest_goes_on(
        self, client: LedgerClient, tmp_path: Path, line: bytes
    ) -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "ledger.sock")
        writer.write(line)
        assert "error" in json.loads(await reader.readline())
        writer.write(b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert await client.take(booking("a")) is None

    async def test_the_socket_is_for_this_user_only(
        self, server: LedgerServer, tmp_path: Path
    ) -> None:
        mode = (tmp_path / "ledger.sock").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600

    async def test_a_path_that_is_too_long_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 200)
        with pytest.raises(ConfigError, match="ledger"):
            await LedgerServer(path, Ledger(clock=ManualClock())).start()
