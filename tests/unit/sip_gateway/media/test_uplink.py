"""Audio comes out once and in order; the last 30 s can be had again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sip_gateway.media.uplink import CallerAudio, Uplink

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


async def test_audio_comes_once_and_in_order() -> None:
    uplink = Uplink(Bell())
    uplink.push(frame(1))
    uplink.push(frame(2))
    assert uplink.take() == CallerAudio(0, frame(1) + frame(2))
    uplink.push(frame(3))
    assert uplink.take() == CallerAudio(640, frame(3))
    assert uplink.take() is None


async def test_only_a_waiting_reader_is_woken_and_only_once() -> None:
    bell = Bell()
    uplink = Uplink(bell)
    uplink.push(frame(1))
    uplink.push(frame(2))
    await asyncio.wait_for(uplink.wait(), 1)
    uplink.take()
    waiting = asyncio.create_task(uplink.wait())
    await asyncio.sleep(0)
    for number in range(5):
        uplink.push(frame(number))
    await asyncio.wait_for(waiting, 1)
    assert bell.rung == 1
    assert uplink.behind_ms == 100


async def test_a_frame_goes_out_when_it_completes_a_window_of_32_ms() -> None:
    uplink = Uplink(Bell())
    sent: list[int] = []

    async def read() -> None:
        while True:
            await uplink.wait()
            piece = uplink.take()
            if piece is not None:
                sent.append(len(piece.pcm) // 640)

    reader = asyncio.create_task(read())
    for number in range(16):
        uplink.push(frame(number))
        for _ in range(5):
            await asyncio.sleep(0)
        samples_at_reader, samples_here = sum(sent) * 320, (number + 1) * 320
        assert samples_at_reader // 512 == samples_here // 512
    reader.cancel()
    assert sent == [2, 2, 1, 2, 1] * 2


async def test_a_waiting_reader_can_be_woken_before_a_window_is_complete() -> None:
    uplink = Uplink(Bell())
    uplink.push(frame(1))
    waiting = asyncio.create_task(uplink.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    uplink.wake()
    await asyncio.wait_for(waiting, 1)
    assert uplink.take() == CallerAudio(0, frame(1))


async def test_slow_reader_loses_the_oldest_and_it_is_counted() -> None:
    uplink = Uplink(Bell(), ring_frames=10)
    for number in range(14):
        uplink.push(frame(number))
    assert uplink.behind_ms == 200
    assert uplink.take() == CallerAudio(4 * 320, b"".join(frame(number) for number in range(4, 14)))
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
