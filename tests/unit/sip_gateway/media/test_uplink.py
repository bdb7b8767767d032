"""Frames come out once and in order; the last 30 s can be had again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sip_gateway.media.uplink import Uplink

if TYPE_CHECKING:
    from collections.abc import Callable


class Bell:
    """Counts wake-ups, and does them at once."""

    def __init__(self) -> None:
        self.rung = 0

    def __call__(self, function: Callable[[], None]) -> None:
        self.rung += 1
        function()


def frame(number: int) -> bytes:
    return number.to_bytes(2, "little") * 320


async def test_frames_come_once_and_in_order() -> None:
    uplink = Uplink(Bell())
    uplink.push(frame(1))
    uplink.push(frame(2))
    assert [(item.first_sample, item.pcm) for item in uplink.take()] == [
        (0, frame(1)),
        (320, frame(2)),
    ]
    uplink.push(frame(3))
    assert [item.first_sample for item in uplink.take()] == [640]
    assert uplink.take() == []


async def test_only_a_waiting_reader_is_woken_and_only_once() -> None:
    bell = Bell()
    uplink = Uplink(bell)
    uplink.push(frame(1))
    await uplink.wait()
    uplink.take()
    waiting = asyncio.create_task(uplink.wait())
    await asyncio.sleep(0)
    for number in range(5):
        uplink.push(frame(number))
    await asyncio.wait_for(waiting, 1)
    assert bell.rung == 1
    assert len(uplink.take()) == 5


async def test_slow_reader_loses_the_oldest_and_it_is_counted() -> None:
    uplink = Uplink(Bell(), ring_frames=10)
    for number in range(14):
        uplink.push(frame(number))
    assert uplink.behind_ms == 200
    assert [item.first_sample // 320 for item in uplink.take()] == list(range(4, 14))
    assert uplink.dropped_frames == 4


async def test_replay_gives_what_ends_after_a_sample() -> None:
    uplink = Uplink(Bell(), ring_frames=10)
    for number in range(20):
        uplink.push(frame(number))
    uplink.take()
    assert [item.first_sample for item in uplink.since(17 * 320 + 1)] == [5440, 5760, 6080]
    assert len(uplink.since(0)) == 10


async def test_close_frees_a_waiting_reader() -> None:
    uplink = Uplink(Bell())
    waiting = asyncio.create_task(uplink.wait())
    await asyncio.sleep(0)
    uplink.close()
    await asyncio.wait_for(waiting, 1)
    assert uplink.closed
